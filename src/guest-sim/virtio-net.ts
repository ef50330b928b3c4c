// The guest's virtio-net driver (virtio 1.4 5.1, 3.1): brings a device up in the spec's step order, then moves frames NAPI style: an interrupt turns
// the queue's interrupts off and schedules it, polls work it down within a budget, and only an empty queue turns them on again.

import type { GuestBus } from '#core/guest-bus';
import type { GuestArena } from './arena.ts';
import { chooseFeatures, DRIVER_FEATURES, featureMask, hasFeature } from './features.ts';
import { Msix, type VectorSpace } from './msix.ts';
import { ControlQueue } from './net-control.ts';
import { type FrameSink, ReceiveQueue } from './net-receive.ts';
import { TransmitQueue } from './net-transmit.ts';
import { PackedRing } from './packed-ring.ts';
import type { ConfigAccess } from './pci-config.ts';
import type { PciDevice } from './pci-enumerate.ts';
import type { DriverRing } from './ring.ts';
import { SplitRing } from './split-ring.ts';
import {
  NET_CFG,
  NET_GSO_TCPV4,
  NET_GSO_TCPV6,
  NET_GSO_UDP_L4,
  NET_HEADER_SIZE,
  NET_STATUS_ANNOUNCE,
  NET_STATUS_LINK_UP,
  VIRTIO_F,
  VIRTIO_NET_DEVICE,
  VIRTIO_NET_F,
  VIRTIO_NET_TRANSITIONAL_DEVICE,
  VIRTIO_STATUS,
  VIRTIO_VENDOR,
} from './virtio-constants.ts';
import { type QueueKick, VirtioError, VirtioPci } from './virtio-pci.ts';

/** How the guest drives its device. Plain cloneable data. */
export interface VirtioNetOptions {
  /** Ring format; packed needs the device to offer it. Default: packed if offered. */
  readonly ring?: 'split' | 'packed';
  /** Wanted queue size; a device with smaller queues wins. Default 256. */
  readonly queueSize?: number;
  /** Queue pairs to use, at most what the device has. Default 1. */
  readonly pairs?: number;
  /** Feature bits not to accept although the driver knows them. */
  readonly without?: readonly number[];
  /** Feature bits without which to give up. */
  readonly require?: readonly number[];
  /** A vector per queue, one for all, or the legacy line. A device short of vectors gets what it has. Default 'per-queue'. */
  readonly interrupts?: 'per-queue' | 'shared' | 'intx';
  /** Empty polls of a scheduled queue before its interrupts are turned on again: 0 is an interrupt per burst, more trades CPU for latency. Default 0. */
  readonly busyPolls?: number;
  /** Bytes of a mergeable receive buffer. Default 2048. */
  readonly receiveBuffer?: number;
  /** The header of a transmitted frame in a descriptor of its own. */
  readonly separateHeader?: boolean;
  /** Turn promiscuous mode on, for guests that are to see frames addressed to others, as in a replayed capture. */
  readonly promiscuous?: boolean;
  /** Accept VIRTIO_F_SR_IOV, which has to precede enabling virtual functions. */
  readonly sriov?: boolean;
}

/** Entry 0 is the configuration's; queue q has entry 1 + q, all queues have entry 1, or everything has entry 0. */
type VectorPlan = 'per-queue' | 'shared' | 'one';

export interface NetConfiguration {
  readonly mac: Uint8Array;
  readonly linkUp: boolean;
  readonly announce: boolean;
  readonly maxPairs: number;
  /** 0: the device has no opinion. */
  readonly mtu: number;
  /** Mbit/s, or undefined when unknown. */
  readonly speed: number | undefined;
  readonly fullDuplex: boolean | undefined;
}

const TRANSMIT_BUFFER = 2048;
const PIECE = 4096;
/** virtio 1.4 5.1.6.3.1 (driver SHOULD): what a buffer has to hold without MRG_RXBUF, with and without receive segmentation offloads. */
const BIG_BUFFER = 65_601;
const PLAIN_BUFFER = 1526;
const BIG_BUFFERS = 64;
const DEFAULT_MTU = 1500;
/** virtio 1.4 5.1.4.1 (device MUST): no smaller one is valid. */
const SMALLEST_MTU = 68;
const LONGEST_GSO_FRAME = 65_550;
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
  interrupts = 0;
  /** Why the driver gave the device up, or ''. */
  broken = '';
  /** The device asked for a reset; `recover` gives it one. */
  needsReset = false;
  readonly #bus: GuestBus;
  readonly #config: ConfigAccess;
  readonly #device: PciDevice;
  readonly #arena: GuestArena;
  readonly #vectors: VectorSpace;
  readonly #options: VirtioNetOptions;
  #msix: Msix | undefined;
  #intx = false;
  /** How queues map to MSI-X entries. */
  #plan: VectorPlan = 'shared';
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

  has(feature: number): boolean {
    return hasFeature(this.features, feature);
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
      this.configuration = this.#readConfiguration();
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
    const needed = [VIRTIO_F.VERSION_1, ...(ring === 'packed' ? [VIRTIO_F.RING_PACKED] : []), ...require];
    const missing = needed.filter((bit) => !this.has(bit));
    if (missing.length > 0)
      throw new VirtioError('ERR_VIRTIO_FEATURES', `the device does not offer feature bits ${missing.join(', ')}, which this guest was told to use`);
    this.transport.acceptFeatures(this.features);
  }

  #readConfiguration(): NetConfiguration {
    return this.transport.readConfig((at) => {
      const mac = new Uint8Array(6);
      // virtio 1.4 5.1.4.2 (driver): the address in config, or a locally administered one.
      if (this.has(VIRTIO_NET_F.MAC)) for (let i = 0; i < 6; i++) mac[i] = at(NET_CFG.mac + i, 1);
      else mac.set([0x02, 0x6e, 0x62, 0x00, this.transport.rid >> 8, this.transport.rid & 0xff]);
      const status = this.has(VIRTIO_NET_F.STATUS) ? at(NET_CFG.status, 2) : NET_STATUS_LINK_UP;
      const speed = this.has(VIRTIO_NET_F.SPEED_DUPLEX) ? at(NET_CFG.speed, 4) : 0xffffffff;
      const mtu = this.has(VIRTIO_NET_F.MTU) ? at(NET_CFG.mtu, 2) : 0;
      const duplex = this.has(VIRTIO_NET_F.SPEED_DUPLEX) ? at(NET_CFG.duplex, 1) : 0xff;
      return {
        mac,
        linkUp: (status & NET_STATUS_LINK_UP) !== 0,
        announce: this.has(VIRTIO_NET_F.GUEST_ANNOUNCE) && (status & NET_STATUS_ANNOUNCE) !== 0,
        maxPairs: this.has(VIRTIO_NET_F.MQ) ? at(NET_CFG.max_virtqueue_pairs, 2) : 1,
        mtu: mtu >= SMALLEST_MTU ? mtu : 0,
        // Values out of range mean unknown.
        speed: speed <= 0x7fffffff ? speed : undefined,
        fullDuplex: duplex <= 1 ? duplex === 1 : undefined,
      };
    });
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
    this.receive = [];
    this.transmit = [];
    for (let i = 0; i < this.pairs; i++) {
      const receive = this.#receiveQueue(i);
      this.receive.push(receive);
      receive.kick = this.#enable(2 * i, receive.ring);
      receive.stock();
      const transmit = this.#transmitQueue(i);
      this.transmit.push(transmit);
      transmit.kick = this.#enable(2 * i + 1, transmit.ring);
      transmit.ring.disableCalls();
    }
    if (!withControl) return;
    const ring = this.#ring(controlIndex, 2, 64);
    this.control = new ControlQueue(this.#arena, ring, this.features);
    this.control.kick = this.#enable(controlIndex, ring);
    ring.disableCalls();
  }

  #ring(queue: number, maxSegments: number, wanted = this.#options.queueSize ?? 256): DriverRing {
    const most = this.transport.queueSize(queue);
    if (most === 0 || most > 32768) throw new VirtioError('ERR_VIRTIO_QUEUE', `queue ${queue} has size ${most}`);
    let size = Math.max(1, Math.min(most, wanted));
    // virtio 1.4 4.1.4.3.2 (driver MUST NOT): no other than powers of two for split rings.
    if (!this.packed) size = 2 ** (31 - Math.clz32(size));
    const options = {
      arena: this.#arena,
      size,
      eventIdx: this.has(VIRTIO_F.EVENT_IDX),
      indirect: this.has(VIRTIO_F.INDIRECT_DESC),
      inOrder: this.has(VIRTIO_F.IN_ORDER),
      maxSegments: Math.min(maxSegments, size),
    };
    return this.packed ? new PackedRing(options) : new SplitRing(options);
  }

  #enable(queue: number, ring: DriverRing): QueueKick {
    return this.transport.enableQueue(queue, ring.size, ring.addresses, {
      notificationData: this.has(VIRTIO_F.NOTIFICATION_DATA),
      notifyConfigData: this.has(VIRTIO_F.NOTIF_CONFIG_DATA),
    });
  }

  #receiveQueue(index: number): ReceiveQueue {
    const F = VIRTIO_NET_F;
    const mergeable = this.has(F.MRG_RXBUF);
    let gsoTypes = 0;
    if (this.has(F.GUEST_TSO4)) gsoTypes |= 1 << NET_GSO_TCPV4;
    if (this.has(F.GUEST_TSO6)) gsoTypes |= 1 << NET_GSO_TCPV6;
    if (this.has(F.GUEST_USO4) || this.has(F.GUEST_USO6)) gsoTypes |= 1 << NET_GSO_UDP_L4;
    // One frame of the MTU with an Ethernet header and a VLAN tag: a little more than the spec asks for.
    const plain = Math.max(PLAIN_BUFFER, NET_HEADER_SIZE + 18 + (this.configuration.mtu || DEFAULT_MTU));
    const bufferSize = mergeable ? Math.max(64, this.#options.receiveBuffer ?? 2048) : gsoTypes !== 0 ? BIG_BUFFER : plain;
    const pieces = mergeable ? 1 : Math.ceil(bufferSize / PIECE);
    const ring = this.#ring(2 * index, pieces);
    const indirect = this.has(VIRTIO_F.INDIRECT_DESC) && pieces <= ring.size;
    const pieceSize = pieces <= ring.size ? PIECE : bufferSize;
    const fit = pieces === 1 || indirect || pieceSize === bufferSize ? ring.size : Math.floor(ring.size / pieces);
    return new ReceiveQueue({
      arena: this.#arena,
      ring,
      index,
      mergeable,
      bufferSize,
      pieceSize,
      buffers: pieces > 1 ? Math.min(fit, BIG_BUFFERS) : fit,
      gsoTypes,
      checksum: this.has(F.GUEST_CSUM),
      ecn: this.has(F.GUEST_ECN),
    });
  }

  #transmitQueue(index: number): TransmitQueue {
    const separateHeader = this.#options.separateHeader ?? false;
    const segments = Math.ceil((LONGEST_GSO_FRAME + NET_HEADER_SIZE) / TRANSMIT_BUFFER) + (separateHeader ? 2 : 1);
    const ring = this.#ring(2 * index + 1, segments);
    return new TransmitQueue({
      arena: this.#arena,
      ring,
      index,
      bufferSize: TRANSMIT_BUFFER,
      buffers: ring.size,
      maxSegments: Math.min(segments, ring.size),
      separateHeader,
    });
  }

  /** MSI-X with as many vectors as the device and the CPU give, down to one for everything; else the line. */
  #setUpInterrupts(): void {
    this.#intx = true;
    const style = this.#options.interrupts ?? 'per-queue';
    const msix = style === 'intx' ? undefined : (this.#msix ?? Msix.find(this.#bus, this.#config, this.#device, this.#vectors));
    if (!msix) return;
    this.#msix = msix;
    if (style === 'per-queue' && msix.entries > 2 * this.pairs && this.#mapVectors(msix, 'per-queue')) return;
    if (msix.entries >= 2 && this.#mapVectors(msix, 'shared')) return;
    if (this.#mapVectors(msix, 'one')) return;
    this.#msix = undefined;
  }

  #mapVectors(msix: Msix, plan: VectorPlan): boolean {
    const { transport, pairs } = this;
    msix.begin();
    const everything = (): void => {
      this.#onAnyQueue();
      if (plan === 'one') this.#configChanged = true;
    };
    let ok = msix.route(0, plan === 'one' ? everything : () => this.#onConfig()) && transport.setConfigVector(0);
    if (ok && plan === 'shared') ok = msix.route(1, everything);
    for (let q = 0; ok && q < 2 * pairs; q++) {
      if (plan === 'per-queue')
        ok = msix.route(1 + q, q % 2 === 0 ? () => this.#onReceive(q >>> 1) : () => this.#onTransmit(q >>> 1)) && transport.setQueueVector(q, 1 + q);
      else ok = transport.setQueueVector(q, plan === 'shared' ? 1 : 0);
    }
    if (!ok) {
      msix.disable();
      return false;
    }
    msix.finish();
    this.#plan = plan;
    this.#intx = false;
    return true;
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
    this.interrupts++;
    this.#configChanged = true;
  }

  /** The legacy line rose or is still up. The line may be another function's: then the ISR reads 0. */
  onIntx(): void {
    if (!this.#intx || this.broken !== '') return;
    const isr = this.transport.readIsr();
    if ((isr & 1) !== 0) this.#onAnyQueue();
    if ((isr & 2) !== 0) this.#configChanged = true;
  }

  /** Uses the legacy line. */
  get usesIntx(): boolean {
    return this.#intx;
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
      this.configuration = this.#readConfiguration();
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
    this.transport.resetQueue(2 * index);
    this.transport.resetQueue(2 * index + 1);
    this.receive[index]?.dispose();
    this.transmit[index]?.dispose();
    // virtio 1.4 2.6.1.2 (driver MUST): everything is set up again, vectors included.
    const receive = this.#receiveQueue(index);
    const transmit = this.#transmitQueue(index);
    this.receive[index] = receive;
    this.transmit[index] = transmit;
    if (!this.#intx) this.#remapPair(index);
    receive.kick = this.#enable(2 * index, receive.ring);
    transmit.kick = this.#enable(2 * index + 1, transmit.ring);
    transmit.ring.disableCalls();
    receive.stock();
    receive.kick.ring(receive.ring.notificationData);
    if (this.#rearm(index)) this.#schedule(index);
  }

  #remapPair(index: number): void {
    for (const q of [2 * index, 2 * index + 1]) {
      const vector = this.#plan === 'per-queue' ? 1 + q : this.#plan === 'shared' ? 1 : 0;
      if (!this.transport.setQueueVector(q, vector)) throw new VirtioError('ERR_VIRTIO_VECTOR', `queue ${q} lost its vector in a queue reset`);
    }
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
    this.#msix?.disable();
    for (const queue of this.receive) queue.dispose();
    for (const queue of this.transmit) queue.dispose();
    this.control?.dispose();
    this.receive = [];
    this.transmit = [];
    this.control = undefined;
    this.#scheduled.fill(0);
  }
}
