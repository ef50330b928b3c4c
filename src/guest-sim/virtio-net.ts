// The guest's virtio-net driver (virtio 1.4 5.1, 3.1): brings a device up in the spec's step order, then moves frames NAPI style: an interrupt turns
// the queue's interrupts off and schedules it, polls work it down within a budget, and only an empty queue turns them on again.

import type { GuestBus } from '#core/guest-bus';
import type { GuestArena } from './arena.ts';
import { chooseFeatures, DRIVER_FEATURES, featureMask, hasFeature } from './features.ts';
import { Msix, type VectorSpace } from './msix.ts';
import { ControlQueue } from './net-control.ts';
import { type NetConfiguration, readNetConfiguration, type VirtioNetOptions } from './net-options.ts';
import { QueueMaker } from './net-queues.ts';
import type { FrameSink, ReceiveQueue } from './net-receive.ts';
import type { TransmitQueue } from './net-transmit.ts';
import { NetVectors } from './net-vectors.ts';
import type { ConfigAccess } from './pci-config.ts';
import type { PciDevice } from './pci-enumerate.ts';
import { VIRTIO_F, VIRTIO_NET_DEVICE, VIRTIO_NET_F, VIRTIO_NET_TRANSITIONAL_DEVICE, VIRTIO_STATUS, VIRTIO_VENDOR } from './virtio-constants.ts';
import { VirtioError, VirtioPci } from './virtio-pci.ts';

const POLL_BUDGET = 64;

/** True for a virtio network device, physical or virtual function, modern or transitional. */
export function isVirtioNet(device: PciDevice): boolean {
  return device.vendor === VIRTIO_VENDOR && (device.device === VIRTIO_NET_DEVICE || device.device === VIRTIO_NET_TRANSITIONAL_DEVICE);
}

export class VirtioNet {
  readonly transport: VirtioPci;
  features = 0n;
  configuration: NetConfiguration;
  receive: ReceiveQueue[] = [];
  transmit: TransmitQueue[] = [];
  control: ControlQueue | undefined;
  /** Pairs in use. */
  pairs = 1;
  /** Taken for queues; changes of the configuration are not counted. */
  interrupts = 0;
  /** Why the driver gave the device up, or ''. */
  broken = '';
  /** The device asked for a reset; `recover` gives it one. */
  needsReset = false;
  readonly #has = new Uint8Array(64);
  readonly #bus: GuestBus;
  readonly #config: ConfigAccess;
  readonly #device: PciDevice;
  readonly #arena: GuestArena;
  readonly #vectors: VectorSpace;
  readonly #options: VirtioNetOptions;
  #queues: QueueMaker | undefined;
  /** MSI-X in use; without it the legacy line is. */
  #mapping: NetVectors | undefined;
  #configChanged = false;
  /** Receive queues to be polled, and how often each was found empty in a row. */
  #scheduled = new Uint8Array(1);
  #idle = new Int32Array(1);

  /** Opens the device and brings it up to DRIVER_OK. @throws VirtioError after setting FAILED. */
  constructor(parts: {
    readonly bus: GuestBus;
    readonly config: ConfigAccess;
    readonly device: PciDevice;
    readonly arena: GuestArena;
    readonly vectors: VectorSpace;
    readonly options?: VirtioNetOptions;
  }) {
    this.#bus = parts.bus;
    this.#config = parts.config;
    this.#device = parts.device;
    this.#arena = parts.arena;
    this.#vectors = parts.vectors;
    this.#options = parts.options ?? {};
    this.transport = VirtioPci.open(parts.bus, parts.config, parts.device);
    this.configuration = { mac: new Uint8Array(6), linkUp: true, announce: false, maxPairs: 1, mtu: 0, speed: undefined, fullDuplex: undefined };
    this.#bringUp();
  }

  /** Asked per frame, so it is a table, not arithmetic on a bigint. */
  has(feature: number): boolean {
    return this.#has[feature] === 1;
  }

  get packed(): boolean {
    return this.has(VIRTIO_F.RING_PACKED);
  }

  #bringUp(): void {
    const { transport } = this;
    try {
      // virtio 1.4 3.1.1 (driver MUST): these steps, in this order.
      transport.reset();
      transport.addStatus(VIRTIO_STATUS.ACKNOWLEDGE);
      transport.addStatus(VIRTIO_STATUS.DRIVER);
      this.#negotiate();
      this.configuration = readNetConfiguration(this.transport, this.features);
      this.#setUpQueues();
      transport.addStatus(VIRTIO_STATUS.DRIVER_OK);
      // The first notification comes only now, for the receive buffers stocked before.
      for (const queue of this.receive) queue.kick?.ring(queue.ring.notificationData);
      if (this.pairs > 1 && this.control && !this.control.setQueuePairs(this.pairs))
        throw new VirtioError('ERR_VIRTIO_CONTROL', `the device refused ${this.pairs} queue pairs`);
      if (this.#options.promiscuous) this.control?.setReceiveMode('promiscuous', true);
      for (let i = 0; i < this.receive.length; i++) if (this.#rearm(i)) this.#scheduled[i] = 1;
    } catch (error) {
      transport.addStatus(VIRTIO_STATUS.FAILED);
      throw error;
    }
  }

  #negotiate(): void {
    const { ring, without = [], require = [], sriov = false } = this.#options;
    const offered = this.transport.offeredFeatures;
    const wanted = new Set(DRIVER_FEATURES);
    if (sriov) wanted.add(VIRTIO_F.SR_IOV);
    if (ring === 'split') wanted.delete(VIRTIO_F.RING_PACKED);
    for (const bit of without) wanted.delete(bit);
    this.features = chooseFeatures(offered, featureMask(wanted));
    for (let bit = 0; bit < 64; bit++) this.#has[bit] = hasFeature(this.features, bit) ? 1 : 0;
    const needed = [VIRTIO_F.VERSION_1, ...(ring === 'packed' ? [VIRTIO_F.RING_PACKED] : []), ...require];
    const missing = needed.filter((bit) => !this.has(bit));
    if (missing.length > 0)
      throw new VirtioError('ERR_VIRTIO_FEATURES', `the device does not offer feature bits ${missing.join(', ')}, which this guest was told to use`);
    this.transport.acceptFeatures(this.features);
  }

  #setUpQueues(): void {
    const { maxPairs } = this.configuration;
    if (maxPairs < 1 || maxPairs > 0x8000) throw new VirtioError('ERR_VIRTIO_CONFIG', `max_virtqueue_pairs reads ${maxPairs}`);
    this.pairs = Math.max(1, Math.min(this.#options.pairs ?? 1, maxPairs));
    const withControl = this.has(VIRTIO_NET_F.CTRL_VQ);
    const controlIndex = 2 * maxPairs;
    if (this.transport.queueCount < 2 * this.pairs)
      throw new VirtioError('ERR_VIRTIO_QUEUE', `the device has ${this.transport.queueCount} queues, fewer than ${this.pairs} pairs need`);
    this.#scheduled = new Uint8Array(this.pairs);
    this.#idle = new Int32Array(this.pairs);
    this.#setUpInterrupts();
    const queues = new QueueMaker(this.transport, this.#arena, this.features, this.#options, this.configuration.mtu);
    this.#queues = queues;
    this.receive = [];
    this.transmit = [];
    for (let i = 0; i < this.pairs; i++) {
      const receive = queues.receive(i);
      this.receive.push(receive);
      receive.kick = queues.enable(2 * i, receive.ring);
      receive.stock();
      const transmit = queues.transmit(i);
      this.transmit.push(transmit);
      transmit.kick = queues.enable(2 * i + 1, transmit.ring);
      transmit.ring.disableCalls();
    }
    if (!withControl) return;
    const ring = queues.ring(controlIndex, 2, 64);
    this.control = new ControlQueue(this.#arena, ring, this.features);
    this.control.kick = queues.enable(controlIndex, ring);
    ring.disableCalls();
  }

  #setUpInterrupts(): void {
    const style = this.#options.interrupts ?? 'per-queue';
    const msix = style === 'intx' ? undefined : Msix.find(this.#bus, this.#config, this.#device, this.#vectors);
    const mapping =
      msix &&
      new NetVectors(this.transport, msix, {
        receive: (pair) => this.#onReceive(pair),
        transmit: (pair) => this.#onTransmit(pair),
        anyQueue: () => this.#onAnyQueue(),
        configuration: () => this.#onConfig(),
      });
    this.#mapping = mapping?.map(this.pairs, style === 'per-queue') ? mapping : undefined;
  }

  #onReceive(index: number): void {
    this.interrupts++;
    this.#schedule(index);
  }

  #schedule(index: number): void {
    const queue = this.receive[index];
    if (!queue) return;
    queue.ring.disableCalls();
    this.#scheduled[index] = 1;
    this.#idle[index] = 0;
  }

  #onTransmit(index: number): void {
    this.interrupts++;
    this.#completeTransmit(index);
  }

  #completeTransmit(index: number): void {
    const queue = this.transmit[index];
    if (!queue) return;
    queue.ring.disableCalls();
    queue.reclaim();
  }

  #onAnyQueue(): void {
    this.interrupts++;
    for (let i = 0; i < this.pairs; i++) {
      this.#schedule(i);
      this.#completeTransmit(i);
    }
  }

  #onConfig(): void {
    this.#configChanged = true;
  }

  /** The legacy line rose or is still up. The line may be another function's: then the ISR reads 0. */
  onIntx(): void {
    if (!this.usesIntx || this.broken !== '') return;
    const isr = this.transport.readIsr();
    if ((isr & 1) !== 0) this.#onAnyQueue();
    if ((isr & 2) !== 0) this.#configChanged = true;
  }

  /** Uses the legacy line. */
  get usesIntx(): boolean {
    return this.#mapping === undefined;
  }

  /**
   * One round of polling over the scheduled receive queues: up to a budget each into `sink`. True when there may be more to do right away; false: wait for
   * an interrupt. Never throws for what a device did: it marks the driver broken.
   */
  poll(sink: FrameSink): boolean {
    if (this.#configChanged) this.#refreshConfiguration();
    if (this.broken !== '') return false;
    const busyPolls = this.#options.busyPolls ?? 0;
    let more = false;
    for (let i = 0; i < this.receive.length; i++) {
      if (this.#scheduled[i] === 0) continue;
      const queue = this.receive[i] as ReceiveQueue;
      const taken = queue.poll(POLL_BUDGET, sink);
      if (queue.broken !== '') {
        this.#giveUp(queue.broken);
        return false;
      }
      const idle = taken > 0 ? 1 : (this.#idle[i] as number) + 1;
      this.#idle[i] = idle;
      if (taken === POLL_BUDGET || idle <= busyPolls) more = true;
      else {
        this.#scheduled[i] = 0;
        // The re-check that closes the window between the last poll and turning interrupts on.
        if (this.#rearm(i)) {
          this.#schedule(i);
          more = true;
        }
      }
    }
    for (let i = 0; i < this.transmit.length; i++) {
      const queue = this.transmit[i] as TransmitQueue;
      if (queue.broken !== '') this.#giveUp(queue.broken);
    }
    return more;
  }

  #rearm(index: number): boolean {
    return (this.receive[index] as ReceiveQueue).ring.enableCalls();
  }

  #refreshConfiguration(): void {
    this.#configChanged = false;
    try {
      if ((this.transport.status & VIRTIO_STATUS.NEEDS_RESET) !== 0) {
        this.needsReset = true;
        this.#giveUp('the device set DEVICE_NEEDS_RESET');
        return;
      }
      this.configuration = readNetConfiguration(this.transport, this.features);
      if (this.configuration.announce) {
        this.#announce();
        this.control?.acknowledgeAnnouncement();
      }
    } catch (error) {
      this.#giveUp(error instanceof Error ? error.message : String(error));
    }
  }

  /** Tells switches where this address now is (virtio 1.4 5.1.6.5.4.1, driver SHOULD): a reverse ARP request, which needs no IP address. */
  #announce(): void {
    const queue = this.transmit[0];
    const at = queue?.reserve() ?? -1;
    if (!queue || at < 0) return;
    const { u8 } = this.#arena;
    const { mac } = this.configuration;
    u8.fill(0xff, at, at + 6);
    u8.fill(0, at + 6, at + 60);
    u8.set(mac, at + 6);
    // Ethertype 0x8035; hardware Ethernet, protocol IPv4, lengths 6 and 4, operation 3; both hardware addresses are ours.
    u8.set([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], at + 12);
    u8.set(mac, at + 22);
    u8.set(mac, at + 32);
    queue.send(60);
    queue.flush();
  }

  #giveUp(why: string): void {
    if (this.broken !== '') return;
    this.broken = why;
    this.transport.addStatus(VIRTIO_STATUS.FAILED);
  }

  /** Frames the device still holds on transmit queues. */
  get transmitOutstanding(): number {
    let total = 0;
    for (const queue of this.transmit) total += queue.ring.outstanding;
    return total;
  }

  get kicks(): number {
    let total = this.control?.kick?.kicks ?? 0;
    for (const queue of this.receive) total += queue.kick?.kicks ?? 0;
    for (const queue of this.transmit) total += queue.kick?.kicks ?? 0;
    return total;
  }

  /** Resets one pair's queues and sets them up afresh (VIRTIO_F_RING_RESET); what was in flight on them is gone. @throws VirtioError */
  resetPair(index: number): void {
    if (!this.has(VIRTIO_F.RING_RESET)) throw new VirtioError('ERR_VIRTIO_FEATURES', 'VIRTIO_F_RING_RESET was not negotiated');
    const queues = this.#queues;
    if (!queues || index >= this.receive.length) throw new VirtioError('ERR_VIRTIO_QUEUE', `there is no queue pair ${index}`);
    this.transport.resetQueue(2 * index);
    this.transport.resetQueue(2 * index + 1);
    this.receive[index]?.dispose();
    this.transmit[index]?.dispose();
    // virtio 1.4 2.6.1.2 (driver MUST): everything is set up again, vectors included.
    const receive = queues.receive(index);
    const transmit = queues.transmit(index);
    this.receive[index] = receive;
    this.transmit[index] = transmit;
    this.#mapping?.remap(index);
    receive.kick = queues.enable(2 * index, receive.ring);
    transmit.kick = queues.enable(2 * index + 1, transmit.ring);
    transmit.ring.disableCalls();
    receive.stock();
    receive.kick.ring(receive.ring.notificationData);
    if (this.#rearm(index)) this.#schedule(index);
  }

  /** Resets the device and brings it up again: after DEVICE_NEEDS_RESET, or a device caught lying. Frames in flight are lost. @throws VirtioError */
  recover(): void {
    this.shutDown();
    this.broken = '';
    this.needsReset = false;
    this.#bringUp();
  }

  /** Resets the device, then takes all memory back (virtio 1.4 3.3: in that order). */
  shutDown(): void {
    this.transport.reset();
    this.#mapping?.disable();
    this.#mapping = undefined;
    for (const queue of this.receive) queue.dispose();
    for (const queue of this.transmit) queue.dispose();
    this.control?.dispose();
    this.receive = [];
    this.transmit = [];
    this.control = undefined;
    this.#scheduled.fill(0);
  }
}
