// A software bridge in a guest: its containers share the guest's one NIC through it, and the guest's CPU moves every frame. Containers share no memory: a frame is copied once, from its sender's
// to its receiver's. A receiver that is full holds its sender up, or the NIC: no frame behind one for it is taken off the NIC's ring before there is room. Copies of a flooded frame are lost where there is none.

import { copyBytes } from '#core/copy';
import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import { FrameRing, SLOT_BYTES } from './frame-ring.ts';
import { CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN, CHECKSUM_VALID, type FrameSink, ReceivedFrame } from './net-receive.ts';
import { TransmitOffload } from './net-transmit.ts';
import type { Nic, NicTransmitQueue } from './nic.ts';
import { StationTable } from './station-table.ts';
import { NET_GSO_ECN, NET_HDR_F_DATA_VALID, NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_F } from './virtio-constants.ts';

const BUDGET = 64;
const HEADER = 14;
/** What containers may leave to others: to the NIC when a frame leaves the guest, to nobody when it does not. */
const CARRIED: readonly number[] = [VIRTIO_NET_F.CSUM, VIRTIO_NET_F.HOST_TSO4, VIRTIO_NET_F.HOST_TSO6];
const HOLD = -2;
const FLOOD = -1;

class BridgedTransmit implements NicTransmitQueue {
  readonly index = 0;
  readonly frameRoom = SLOT_BYTES;
  readonly longestFrame: number;
  readonly ring: FrameRing;
  readonly #views: ByteViews;

  constructor(arena: GuestArena, slots: number, longest: number) {
    this.ring = new FrameRing(arena, slots);
    this.#views = arena.views;
    this.longestFrame = Math.min(longest, slots * SLOT_BYTES);
  }

  get buffers(): number {
    return this.ring.slots;
  }
  get outstanding(): number {
    return this.ring.frames;
  }
  get reservedBuffer(): number {
    return this.ring.reserved;
  }

  reserve(): number {
    return this.ring.reserve(SLOT_BYTES);
  }

  send(length: number, offload?: TransmitOffload): void {
    this.ring.add(length, offload);
  }

  copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    if (length > this.longestFrame) throw new RangeError(`a frame of ${length} bytes is longer than the ${this.longestFrame} this queue can send`);
    const at = this.ring.reserve(length);
    if (at < 0) return false;
    copyBytes(this.#views, at, from, start, length);
    this.ring.add(length, offload);
    return true;
  }

  /** The bridge looks by itself, and takes buffers back as it does. */
  flush(): void {}
  reclaim(): number {
    return 0;
  }
  awaitRoom(): boolean {
    return false;
  }
}

/** A container's end. */
export class BridgedNic implements Nic {
  readonly configuration: Nic['configuration'];
  readonly transmit: readonly [BridgedTransmit];
  readonly receive = [{ malformed: 0 }] as const;
  readonly steering = undefined;
  readonly usesIntx = false;
  readonly kicks = 0;
  readonly interrupts = 0;
  readonly broken = '';
  readonly arrived: FrameRing;
  readonly #uplink: Nic;
  readonly #frame: ReceivedFrame;
  readonly #offload = new TransmitOffload();
  /** The address, in two words. */
  readonly #low: number;
  readonly #high: number;

  constructor(arena: GuestArena, uplink: Nic, slots: number, mac: Uint8Array) {
    this.#uplink = uplink;
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = mac;
    this.#low = (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
    this.#high = e | (f << 8);
    this.configuration = { mac, mtu: uplink.configuration.mtu, linkUp: true };
    this.transmit = [new BridgedTransmit(arena, slots, uplink.transmit[0]?.longestFrame ?? SLOT_BYTES)];
    this.arrived = new FrameRing(arena, slots);
    this.#frame = new ReceivedFrame(arena.views, 1);
  }

  has(feature: number): boolean {
    return CARRIED.includes(feature) && this.#uplink.has(feature);
  }

  poll(sink: FrameSink): boolean {
    const { arrived } = this;
    const frame = this.#frame;
    const offload = this.#offload;
    let taken = 0;
    for (; taken < BUDGET && arrived.frames > 0; taken++) {
      if (!this.#isOurs(arrived.firstOffset)) {
        arrived.drop();
        continue;
      }
      arrived.firstOffload(offload);
      frame.length = arrived.firstLength;
      frame.segmentCount = 1;
      frame.offsets[0] = arrived.firstOffset;
      frame.lengths[0] = frame.length;
      const partial = (offload.flags & NET_HDR_F_NEEDS_CSUM) !== 0;
      frame.checksum = partial ? CHECKSUM_PARTIAL : (offload.flags & NET_HDR_F_DATA_VALID) !== 0 ? CHECKSUM_VALID : CHECKSUM_UNKNOWN;
      frame.csumStart = offload.csumStart;
      frame.csumOffset = offload.csumOffset;
      frame.gsoType = offload.gsoType & ~NET_GSO_ECN;
      frame.gsoEcn = (offload.gsoType & NET_GSO_ECN) !== 0;
      frame.gsoSize = offload.gsoSize;
      frame.headerLength = offload.headerLength;
      sink.receive(frame);
      arrived.drop();
    }
    return taken > 0;
  }

  /** What was flooded may be somebody else's: a container's stack does not listen to that. */
  #isOurs(at: number): boolean {
    const { u8, u16, u32 } = this.#frame.views;
    return ((u8[at] as number) & 1) !== 0 || (u32[at >>> 2] === this.#low && u16[(at + 4) >>> 1] === this.#high);
  }

  onIntx(): void {}
  shutDown(): void {}
}

export class Bridge implements FrameSink {
  readonly ports: readonly BridgedNic[];
  /** Copies that found no room, and frames that no container or NIC could be given. */
  lost = 0;
  /** Frames that were dealt with: of containers, and of the NIC; and given to the NIC. */
  forwarded = 0;
  arrived = 0;
  departed = 0;
  readonly #uplink: Nic;
  readonly #views: ByteViews;
  readonly #stations = new StationTable();
  readonly #offload = new TransmitOffload();
  readonly #arriving = new TransmitOffload();

  /** @param slots a power of two: of 2 KiB, in each direction of each container */
  constructor(arena: GuestArena, uplink: Nic, macs: readonly Uint8Array[], slots: number) {
    this.#uplink = uplink;
    this.#views = arena.views;
    this.ports = macs.map((mac) => new BridgedNic(arena, uplink, slots, mac));
  }

  /** Forwards what the containers have sent. True when any got anywhere. */
  step(): boolean {
    let moved = false;
    for (let i = 0; i < this.ports.length; i++) if (this.#drain(i)) moved = true;
    if (moved) this.#uplink.transmit[0]?.flush();
    return moved;
  }

  /** The same for one container. */
  stepPort(port: number): boolean {
    const moved = this.#drain(port);
    if (moved) this.#uplink.transmit[0]?.flush();
    return moved;
  }

  #drain(source: number): boolean {
    const { ring } = (this.ports[source] as BridgedNic).transmit[0];
    let moved = 0;
    for (; moved < BUDGET && ring.frames > 0; moved++) {
      if (!this.#forward(ring, source)) break;
      ring.drop();
    }
    this.forwarded += moved;
    return moved > 0;
  }

  /** From the NIC: false while the container that it is for has no room. */
  takes(frame: ReceivedFrame): boolean {
    const first = frame.offsets[0] as number;
    const to = this.#isFrame(frame) ? this.#destination(frame.views.u8, first) : FLOOD;
    if (to < 0 || to === this.ports.length) return true;
    const { arrived } = this.ports[to] as BridgedNic;
    return arrived.reserve(frame.length) >= 0 || arrived.frames === 0;
  }

  #isFrame(frame: ReceivedFrame): boolean {
    return frame.length >= HEADER && (frame.lengths[0] as number) >= HEADER && frame.tunnel === 0;
  }

  /** From the NIC. */
  receive(frame: ReceivedFrame): void {
    const first = frame.offsets[0] as number;
    this.arrived++;
    if (!this.#isFrame(frame)) {
      this.lost++;
      return;
    }
    const { u8 } = frame.views;
    this.#stations.learn(u8, first + 6, this.ports.length);
    const offload = this.#arriving;
    const partial = frame.checksum === CHECKSUM_PARTIAL;
    offload.flags = partial ? NET_HDR_F_NEEDS_CSUM : frame.checksum === CHECKSUM_VALID ? NET_HDR_F_DATA_VALID : 0;
    offload.csumStart = partial ? frame.csumStart : 0;
    offload.csumOffset = partial ? frame.csumOffset : 0;
    offload.gsoType = frame.gsoType | (frame.gsoEcn ? NET_GSO_ECN : 0);
    offload.gsoSize = frame.gsoSize;
    offload.headerLength = frame.headerLength;
    const to = this.#destination(u8, first);
    if (to === this.ports.length) return;
    if (to >= 0) this.#gather(frame, this.ports[to] as BridgedNic, offload);
    else for (const port of this.ports) this.#gather(frame, port, offload);
  }

  #gather(frame: ReceivedFrame, port: BridgedNic, offload: TransmitOffload): void {
    const at = frame.length <= port.arrived.slots * SLOT_BYTES ? port.arrived.reserve(frame.length) : -1;
    if (at < 0) {
      this.lost++;
      return;
    }
    let to = at;
    for (let i = 0; i < frame.segmentCount; i++) {
      copyBytes(this.#views, to, frame.views, frame.offsets[i] as number, frame.lengths[i] as number);
      to += frame.lengths[i] as number;
    }
    port.arrived.add(frame.length, offload);
  }

  #destination(u8: Uint8Array, at: number): number {
    return ((u8[at] as number) & 1) !== 0 ? FLOOD : this.#stations.find(u8, at);
  }

  /** The oldest frame of container `source`. False: it has to wait. */
  #forward(ring: FrameRing, source: number): boolean {
    const at = ring.firstOffset;
    const length = ring.firstLength;
    if (length < HEADER) {
      this.lost++;
      return true;
    }
    const { u8 } = this.#views;
    this.#stations.learn(u8, at + 6, source);
    ring.firstOffload(this.#offload);
    const to = this.#destination(u8, at);
    if (to === source) return true;
    if (to >= 0) return this.#give(to, at, length) !== HOLD;
    for (let port = 0; port <= this.ports.length; port++) if (port !== source && this.#give(port, at, length) === HOLD) this.lost++;
    return true;
  }

  /** To a container, or the NIC, whose number is the one after theirs. */
  #give(port: number, at: number, length: number): number {
    if (port === this.ports.length) return this.#leave(at, length);
    const { arrived } = this.ports[port] as BridgedNic;
    const to = arrived.reserve(length);
    if (to < 0) return HOLD;
    copyBytes(this.#views, to, this.#views, at, length);
    arrived.add(length, this.#offload);
    return port;
  }

  #leave(at: number, length: number): number {
    const queue = this.#uplink.transmit[0];
    if (queue === undefined || length > queue.longestFrame) {
      this.lost++;
      return FLOOD;
    }
    // What came back while it asked for word of it is room that no interrupt will tell of.
    if (!queue.copy(this.#views, at, length, this.#offload) && !(queue.awaitRoom() && queue.copy(this.#views, at, length, this.#offload))) return HOLD;
    this.departed++;
    return this.ports.length;
  }
}
