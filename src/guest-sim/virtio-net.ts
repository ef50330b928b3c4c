// The guest's virtio-net driver (virtio 1.4 5.1, 3.1): brings a device up in the spec's step order, then moves frames NAPI style: an interrupt turns
// the queue's interrupts off and schedules it, polls work it down within a budget, and only an empty queue turns them on again.

import type { GuestBus } from '#core/guest-bus';
import { AdminQueue } from './admin-queue.ts';
import type { GuestArena } from './arena.ts';
import { chooseFeatures, DRIVER_FEATURES, featureMask, hasFeature, LEGACY_FEATURES } from './features.ts';
import { LegacyPci } from './legacy-pci.ts';
import { Msix, type VectorSpace } from './msix.ts';
import { announcements } from './net-announce.ts';
import { ControlQueue } from './net-control.ts';
import { AdaptiveModeration } from './net-moderation.ts';
import { type NetConfiguration, NO_CONFIGURATION, readNetConfiguration, type VirtioNetOptions } from './net-options.ts';
import { QueueMaker } from './net-queues.ts';
import type { FrameSink, ReceiveQueue } from './net-receive.ts';
import { NetSteering } from './net-steering.ts';
import type { TransmitQueue } from './net-transmit.ts';
import { NetVectors } from './net-vectors.ts';
import type { ConfigAccess } from './pci-config.ts';
import type { PciDevice } from './pci-enumerate.ts';
import { VIRTIO_F, VIRTIO_NET_DEVICE, VIRTIO_NET_F, VIRTIO_NET_TRANSITIONAL_DEVICE, VIRTIO_STATUS, VIRTIO_VENDOR } from './virtio-constants.ts';
import { VirtioError, VirtioPci, type VirtioTransport } from './virtio-pci.ts';

const POLL_BUDGET = 64;

/** True for a virtio network device, physical or virtual function, modern or transitional. */
export function isVirtioNet(device: PciDevice): boolean {
  return device.vendor === VIRTIO_VENDOR && (device.device === VIRTIO_NET_DEVICE || device.device === VIRTIO_NET_TRANSITIONAL_DEVICE);
}

export class VirtioNet {
  readonly transport: VirtioTransport;
  features = 0n;
  configuration: NetConfiguration;
  receive: ReceiveQueue[] = [];
  transmit: TransmitQueue[] = [];
  control: ControlQueue | undefined;
  /** The first administration queue, with VIRTIO_F_ADMIN_VQ. */
  admin: AdminQueue | undefined;
  /** Pairs in use. */
  pairs = 1;
  /** Taken for queues; changes of the configuration are not counted. */
  interrupts = 0;
  /** Why the driver gave the device up, or ''. */
  broken = '';
  /** The device asked for a reset; `recover` gives it one. */
  needsReset = false;
  /** How received frames are spread over queues, and transmitted ones. */
  steering: NetSteering;
  /** Suspended by `suspend`. */
  suspended = false;
  /** Chooses interrupt moderation by load, when the guest asked for that and the device can. */
  moderation: AdaptiveModeration | undefined;
  readonly #has = new Uint8Array(128);
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
    const way = this.#options.legacy ? LegacyPci : VirtioPci;
    this.transport = way.open(parts.bus, parts.config, parts.device);
    this.configuration = NO_CONFIGURATION;
    this.steering = new NetSteering(undefined, NO_CONFIGURATION, () => false, 1);
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
      // The first notification comes only now, for the receive buffers stocked before, and only if the device wants one (virtio 1.4 2.7.10.1, driver SHOULD NOT).
      for (const queue of this.receive) queue.flush();
      this.steering = new NetSteering(this.control, this.configuration, (feature) => this.has(feature), this.pairs);
      this.steering.enable(this.#options);
      this.#startModeration();
      if (this.#options.promiscuous) this.control?.setReceiveMode('promiscuous', true);
      for (let i = 0; i < this.receive.length; i++) if (this.#rearm(i)) this.#scheduled[i] = 1;
    } catch (error) {
      transport.addStatus(VIRTIO_STATUS.FAILED);
      throw error;
    }
  }

  #negotiate(): void {
    const { ring, without = [], require = [], sriov = false, legacy = false, rss, hashReport } = this.#options;
    const offered = this.transport.offeredFeatures;
    const wanted = new Set([...(legacy ? LEGACY_FEATURES : DRIVER_FEATURES), ...(this.#options.with ?? []), ...require]);
    // virtio 1.4 6.1 (driver MUST NOT): not of a device without the capability, whatever it offers.
    if (sriov && this.#device.sriov) wanted.add(VIRTIO_F.SR_IOV);
    if (rss) wanted.add(VIRTIO_NET_F.RSS);
    if (hashReport) wanted.add(VIRTIO_NET_F.HASH_REPORT);
    if ((rss?.tunnels ?? hashReport?.tunnels ?? 0) !== 0) wanted.add(VIRTIO_NET_F.HASH_TUNNEL);
    if (ring === 'split') wanted.delete(VIRTIO_F.RING_PACKED);
    for (const bit of without) wanted.delete(bit);
    // 5.1.9.8 wants the header in a descriptor of its own without ANY_LAYOUT, and merged buffers have it with the frame.
    if (legacy && !(hasFeature(offered, VIRTIO_F.ANY_LAYOUT) && wanted.has(VIRTIO_F.ANY_LAYOUT))) wanted.delete(VIRTIO_NET_F.MRG_RXBUF);
    this.features = chooseFeatures(offered, featureMask(wanted));
    for (let bit = 0; bit < this.#has.length; bit++) this.#has[bit] = hasFeature(this.features, bit) ? 1 : 0;
    const needed = [...(legacy ? [] : [VIRTIO_F.VERSION_1]), ...(ring === 'packed' ? [VIRTIO_F.RING_PACKED] : []), ...require];
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
    if (this.has(VIRTIO_F.ADMIN_VQ)) this.#setUpAdmin(queues);
    if (!withControl) return;
    const ring = queues.ring(controlIndex, 4, 64);
    this.control = new ControlQueue(this.#arena, ring, this.features, queues.separateHeaders);
    this.control.kick = queues.enable(controlIndex, ring);
    ring.disableCalls();
  }

  #startModeration(): void {
    const { control } = this;
    const adaptive = this.#options.moderation === 'adaptive' && this.has(VIRTIO_NET_F.VQ_NOTF_COAL) && control !== undefined;
    if (!adaptive) this.moderation = undefined;
    else
      this.moderation = new AdaptiveModeration(this.pairs, (queue, value) => {
        try {
          return control.setQueueCoalescing(2 * queue, value);
        } catch (error) {
          this.#giveUp(error instanceof Error ? error.message : String(error));
          return false;
        }
      });
  }

  /** Stops the device where it is (VIRTIO_F_SUSPEND): queues keep what they hold, and nothing is sent, posted or commanded until `resume`. @throws VirtioError */
  suspend(): void {
    if (!this.has(VIRTIO_F.SUSPEND)) throw new VirtioError('ERR_VIRTIO_FEATURES', 'VIRTIO_F_SUSPEND was not negotiated');
    if (this.suspended) return;
    this.#hold(true);
    try {
      this.transport.suspend();
    } catch (error) {
      this.#giveUp(error instanceof Error ? error.message : String(error));
      throw error;
    }
  }

  /** Lets it run on, then makes available and announces what had to wait. @throws VirtioError */
  resume(): void {
    if (!this.suspended) return;
    try {
      this.transport.resume();
    } catch (error) {
      this.#giveUp(error instanceof Error ? error.message : String(error));
      throw error;
    }
    this.#hold(false);
    for (const queue of this.transmit) queue.flush();
    for (const queue of this.receive) queue.flush();
  }

  #hold(held: boolean): void {
    this.suspended = held;
    for (const queue of this.transmit) queue.held = held;
    for (const queue of this.receive) queue.held = held;
    if (this.control) this.control.held = held;
    if (this.admin) this.admin.held = held;
  }

  #setUpAdmin(queues: QueueMaker): void {
    const where = this.transport.adminQueues;
    // virtio 1.4 4.1.4.3.2 (device MUST): at least one, beyond num_queues.
    if (!where || where.count === 0) throw new VirtioError('ERR_VIRTIO_QUEUE', 'the device offers VIRTIO_F_ADMIN_VQ and has no administration queue');
    const ring = queues.ring(where.first, 2, 64);
    this.admin = new AdminQueue(this.#arena, ring, this.#options.objectOpcodes);
    this.admin.kick = queues.enable(where.first, ring);
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
    this.moderation?.interrupted(index);
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
      this.moderation?.interrupted(i);
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
    if (this.#configChanged && !this.suspended) this.#refreshConfiguration();
    if (this.broken !== '') return false;
    const busyPolls = this.#options.busyPolls ?? 0;
    let more = false;
    for (let i = 0; i < this.receive.length; i++) {
      if (this.#scheduled[i] === 0) continue;
      const queue = this.receive[i] as ReceiveQueue;
      const taken = queue.poll(POLL_BUDGET, sink);
      if (this.moderation !== undefined && !this.suspended) this.moderation.polled(i, taken, this.#bus.now());
      if (queue.broken !== '') {
        this.#giveUp(queue.broken);
        return false;
      }
      const idle = taken > 0 ? 1 : (this.#idle[i] as number) + 1;
      this.#idle[i] = idle;
      if (taken === POLL_BUDGET || queue.refused || idle <= busyPolls) more = true;
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

  #announce(): void {
    const queue = this.transmit[0];
    if (!queue) return;
    for (const frame of announcements(this.configuration.mac, this.#options.addresses ?? {})) {
      const at = queue.reserve();
      if (at < 0) break;
      this.#arena.u8.set(frame, at);
      queue.send(frame.length);
    }
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
  resetPair(index: number, size?: number): void {
    this.resetReceive(index, size);
    this.resetTransmit(index, size);
  }

  /** Resets one receive queue and sets it up afresh, with another size if one is given. @throws VirtioError */
  resetReceive(index: number, size?: number): void {
    const queues = this.#resettable(index);
    this.transport.resetQueue(2 * index);
    this.receive[index]?.dispose();
    // virtio 1.4 2.6.1.2 (driver MUST): everything is set up again, vectors included.
    const receive = queues.receive(index, size);
    this.receive[index] = receive;
    this.#mapping?.remap(2 * index);
    receive.kick = queues.enable(2 * index, receive.ring);
    receive.stock();
    receive.flush();
    // 5.1.9.5.10 (device MUST): the queue's own moderation went with it.
    this.moderation?.forget(index);
    if (this.#rearm(index)) this.#schedule(index);
  }

  /** The same for a transmit queue. Callers that kept the old `TransmitQueue` object have to take the new one. @throws VirtioError */
  resetTransmit(index: number, size?: number): void {
    const queues = this.#resettable(index);
    this.transport.resetQueue(2 * index + 1);
    this.transmit[index]?.dispose();
    const transmit = queues.transmit(index, size);
    this.transmit[index] = transmit;
    this.#mapping?.remap(2 * index + 1);
    transmit.kick = queues.enable(2 * index + 1, transmit.ring);
    transmit.ring.disableCalls();
  }

  #resettable(index: number): QueueMaker {
    if (!this.has(VIRTIO_F.RING_RESET)) throw new VirtioError('ERR_VIRTIO_FEATURES', 'VIRTIO_F_RING_RESET was not negotiated');
    if (this.suspended) throw new VirtioError('ERR_VIRTIO_SUSPENDED', 'a suspended device resets no queue: resume it first');
    if (!this.#queues || index >= this.receive.length) throw new VirtioError('ERR_VIRTIO_QUEUE', `there is no queue pair ${index}`);
    return this.#queues;
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
    this.admin?.dispose();
    this.receive = [];
    this.transmit = [];
    this.control = undefined;
    this.admin = undefined;
    this.suspended = false;
    this.#scheduled.fill(0);
  }
}
