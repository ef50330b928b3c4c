// A virtio-net driver for backend tests: RAM, rings laid out with the plain ring drivers of test/virtio, and just enough of a driver to send and receive.
// It talks to a VhostBackend as a device would; there is no control plane.

import type { Clock } from '#core/clock';
import { DmaSpace } from '#core/dma-space';
import { Bell, Doorbell } from '#core/doorbell';
import { GuestMemory } from '#core/guest-memory';
import { Call, PendingVectors } from '#core/interrupts';
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { NetPolicy, POLICY_ACTIVE, POLICY_LINK_UP, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import { initialPosition } from '#virtio/open-queue';
import type { RssLimits } from '#virtio/rss-policy';
import type { VhostBackend, VhostEvent } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { type Buffer as RingBuffer, SplitDriver } from '../virtio/driver-split.ts';

export const HEADER = 12;

export interface GuestOptions {
  readonly name?: string;
  readonly features?: readonly number[];
  readonly size?: number;
  readonly pairs?: number;
  /** Bytes of each receive buffer. */
  readonly bufferSize?: number;
  readonly policyFlags?: number;
  readonly accepts?: number;
  /** Room for hash and RSS settings. */
  readonly rss?: RssLimits;
  /** Of the device, for backends on the machine's thread. Default: wall time. */
  readonly clock?: Clock;
  readonly headerLength?: number;
}

export interface Received {
  readonly ring: number;
  /** The virtio_net_hdr. */
  readonly header: Uint8Array;
  readonly frame: Uint8Array;
  readonly buffers: number;
}

const RING_BYTES = 0x20000;

export class TestGuest {
  readonly name: string;
  readonly memory: GuestMemory;
  readonly bytes: Uint8Array;
  readonly dma: DmaSpace;
  readonly policy: NetPolicy;
  readonly statistics: NetStatistics;
  readonly clock: Clock | undefined;
  readonly features: FeatureSet;
  /** Bytes of virtio_net_hdr. */
  readonly header: number;
  readonly size: number;
  readonly pairs: number;
  readonly bufferSize: number;
  readonly vectors = new PendingVectors();
  readonly relay = new Doorbell(new Bell());
  readonly setups: QueueSetup[] = [];
  readonly drivers: (SplitDriver | PackedDriver)[] = [];
  readonly calls: Call[] = [];
  readonly events: VhostEvent[] = [];
  readonly #slotBytes: number;
  readonly #free: number[][] = [];
  backend: VhostBackend | undefined;

  constructor(options: GuestOptions = {}) {
    this.name = options.name ?? 'guest';
    this.policy = new NetPolicy(options.rss);
    this.size = options.size ?? 64;
    this.pairs = options.pairs ?? 1;
    this.bufferSize = options.bufferSize ?? 2048;
    this.features = FeatureSet.of(VIRTIO_F_VERSION_1, ...(options.features ?? []));
    this.header = options.headerLength ?? (this.features.has(57) ? 20 : HEADER);
    this.#slotBytes = Math.max(this.bufferSize, 2048);
    const rings = 2 * this.pairs;
    this.statistics = new NetStatistics(rings);
    this.clock = options.clock;
    const perRing = RING_BYTES + this.size * this.#slotBytes;
    const ram = Math.ceil((rings * perRing + 0x10000) / 4096) * 4096;
    const buffer = new SharedArrayBuffer(ram);
    this.bytes = new Uint8Array(buffer);
    this.memory = new GuestMemory([{ base: 0, size: ram, source: buffer }]);
    this.dma = DmaSpace.create(this.memory);
    const packed = this.features.has(VIRTIO_F_RING_PACKED);
    for (let i = 0; i < rings; i++) {
      const base = 0x10000 + i * perRing;
      const layout = packed
        ? { size: this.size, ring: base, driver: base + 0x10000, device: base + 0x10004 }
        : { size: this.size, desc: base, avail: base + 0x10000, used: base + 0x14000 };
      const driverOptions = { eventIdx: this.features.has(VIRTIO_F_EVENT_IDX), inOrder: this.features.has(VIRTIO_F_IN_ORDER) };
      this.drivers.push(packed ? new PackedDriver(buffer, layout as never, driverOptions) : new SplitDriver(buffer, layout as never, driverOptions));
      this.setups.push({
        size: this.size,
        descriptorArea: base,
        driverArea: base + 0x10000,
        deviceArea: packed ? base + 0x10004 : base + 0x14000,
      });
      const call = new Call(this.relay, this.vectors);
      call.routeDirect(0x40 + i);
      this.calls.push(call);
      this.#free.push(Array.from({ length: this.size }, (_, slot) => base + RING_BYTES + slot * this.#slotBytes));
    }
    this.policy.update((p) => {
      p.flags = POLICY_ACTIVE | POLICY_LINK_UP | (options.policyFlags ?? POLICY_PROMISCUOUS);
      p.headerLength = this.header;
      p.activePairs = this.pairs;
      p.accepts = options.accepts ?? 0;
    });
  }

  /** Opens the backend and starts every ring, from the beginning or from given positions. */
  attach(backend: VhostBackend, positions?: readonly VringPosition[]): void {
    this.backend = backend;
    backend.onEvent = (event) => this.events.push(event);
    backend.open({ features: this.features, memory: this.dma, policy: this.policy, clock: this.clock, statistics: this.statistics });
    this.start(positions);
  }

  start(positions?: readonly VringPosition[]): void {
    for (let i = 0; i < this.setups.length; i++)
      this.backend?.startVring(i, this.setups[i] as QueueSetup, positions?.[i] ?? initialPosition(this.features), this.calls[i] as Call);
  }

  /** Gives receive ring `pair` as many buffers as it has room for (at most `count`). */
  post(count = this.size, pair = 0): void {
    const ring = 2 * pair;
    const driver = this.drivers[ring] as SplitDriver;
    const free = this.#free[ring] as number[];
    let posted = 0;
    while (posted < count && free.length > 0) {
      const address = free[free.length - 1] as number;
      if (!driver.add(address, [{ address, length: this.bufferSize, write: true }])) break;
      free.pop();
      posted++;
    }
    if (posted > 0 && driver.expose()) this.kick(ring);
  }

  /** Puts a frame on transmit ring `pair`, not shown yet. False when the ring is full. `header`: the virtio_net_hdr, zero by default. */
  queue(frame: Uint8Array, pair = 0, header: Uint8Array = new Uint8Array(this.header)): boolean {
    const ring = 2 * pair + 1;
    const free = this.#free[ring] as number[];
    const address = free[free.length - 1];
    if (address === undefined) return false;
    this.bytes.set(header, address);
    this.bytes.set(frame, address + header.length);
    return this.#add(ring, address, [{ address, length: header.length + frame.length }]);
  }

  /** A transmit chain of any layout; the buffers' contents are the caller's. */
  queueChain(buffers: readonly RingBuffer[], pair = 0): boolean {
    const ring = 2 * pair + 1;
    const address = (this.#free[ring] as number[]).at(-1);
    return address !== undefined && this.#add(ring, address, buffers);
  }

  #add(ring: number, cookie: number, buffers: readonly RingBuffer[]): boolean {
    if (!(this.drivers[ring] as SplitDriver).add(cookie, buffers)) return false;
    (this.#free[ring] as number[]).pop();
    return true;
  }

  /** Shows what was queued and kicks when the device wants it. Returns whether it kicked. */
  show(pair = 0): boolean {
    const kicked = (this.drivers[2 * pair + 1] as SplitDriver).expose();
    if (kicked) this.kick(2 * pair + 1);
    return kicked;
  }

  send(...frames: Uint8Array[]): boolean {
    for (const frame of frames) if (!this.queue(frame)) return false;
    this.show();
    return true;
  }

  kick(ring: number): void {
    const doorbell = this.backend?.kickDoorbell(ring);
    if (doorbell !== undefined) doorbell.ring();
    else this.backend?.kick(ring);
  }

  /** Transmit completions since the last call. */
  reap(pair = 0): number {
    const done = (this.drivers[2 * pair + 1] as SplitDriver).reap();
    for (const { cookie } of done) (this.#free[2 * pair + 1] as number[]).push(cookie);
    return done.length;
  }

  /** Frames received since the last call, merged buffers put together; the buffers are not posted again. */
  receive(pair = 0): Received[] {
    const ring = 2 * pair;
    const done = (this.drivers[ring] as SplitDriver).reap();
    const frames: Received[] = [];
    for (let i = 0; i < done.length; ) {
      const first = done[i] as { cookie: number; length: number };
      const buffers = (this.bytes[first.cookie + 10] as number) | ((this.bytes[first.cookie + 11] as number) << 8);
      const parts: Uint8Array[] = [];
      for (let k = 0; k < buffers; k++) {
        const part = done[i + k];
        if (part === undefined) throw new Error(`frame of ${buffers} buffers, of which ${k} were shown`);
        parts.push(Uint8Array.from(this.bytes.subarray(part.cookie, part.cookie + part.length)));
        (this.#free[ring] as number[]).push(part.cookie);
      }
      const whole = parts.length === 1 ? (parts[0] as Uint8Array) : Uint8Array.from(parts.flatMap((p) => [...p]));
      frames.push({ ring, header: whole.subarray(0, this.header), frame: whole.subarray(this.header), buffers });
      i += Math.max(1, buffers);
    }
    return frames;
  }

  positions(): VringPosition[] {
    return this.setups.map((_, i) => (this.backend as VhostBackend).vringPosition(i));
  }

  states(): string[] {
    return this.setups.map((_, i) => (this.backend as VhostBackend).vringState(i));
  }

  /** Asks every ring to stop. */
  stop(): void {
    for (let i = 0; i < this.setups.length; i++) this.backend?.stopVring(i);
  }
}

/** The driver asks to be told of what comes next, in the way its ring has. */
export function listen(guest: TestGuest, ring: number): void {
  const driver = guest.drivers[ring];
  const event = guest.features.has(VIRTIO_F_EVENT_IDX);
  if (driver instanceof PackedDriver) driver.setEvent(event ? 2 : 0, event ? driver.used : 0, event ? driver.usedWrap : 0);
  else if (event) driver?.setUsedEvent(driver.usedIdx);
  else driver?.setInterruptFlag(false);
}

/** An Ethernet frame of `length` bytes whose payload is a function of `seed`. */
export function frameOf(length: number, seed: number): Uint8Array {
  const frame = new Uint8Array(length);
  for (let i = 0; i < length; i++) frame[i] = (seed * 31 + i * 7) & 0xff;
  if (length >= 14) {
    frame.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5]);
    if (length >= 18) new DataView(frame.buffer).setUint32(14, seed);
  }
  return frame;
}

export const sequenceOf = (frame: Uint8Array): number => new DataView(frame.buffer, frame.byteOffset).getUint32(14);
