// The fastest plain drivers a benchmark can have, split and packed: buffers and descriptors are laid out once, each frame carries a sequence number that
// the receiving side checks. They poll; interrupts are off.

import type { Clock } from '#core/clock';
import { DmaSpace } from '#core/dma-space';
import { Bell, Doorbell } from '#core/doorbell';
import { GuestMemory } from '#core/guest-memory';
import { Call, type PendingVectors } from '#core/interrupts';
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { NetPolicy, POLICY_ACTIVE, POLICY_LINK_UP, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import { initialPosition } from '#virtio/open-queue';
import type { VhostBackend } from '#virtio/vhost';
import type { QueueSetup } from '#virtio/virtqueue';

export const HEADER = 12;
const PAGE = 4096;
const LINE = 64;

export interface BenchGuestOptions {
  readonly packed: boolean;
  readonly size: number;
  /** Of the transmit ring, where it differs. */
  readonly transmitSize?: number;
  /** Bytes of a frame on transmit. */
  readonly frame: number;
  /** Bytes of a receive buffer. */
  readonly buffer: number;
  readonly features?: readonly number[];
  /** What every transmitted frame begins with, virtio_net_hdr included; or by transmit slot. */
  readonly header?: Uint8Array | ((slot: number) => Uint8Array);
  readonly accepts?: number;
  /** Receive rings (default 1), of `size` buffers each. */
  readonly receivers?: number;
  /** Wants interrupts for what it receives (split rings). Default: it polls. */
  readonly interrupts?: boolean;
}

/** One guest: receive rings and a transmit ring. */
export class BenchGuest {
  readonly dma: DmaSpace;
  readonly policy = new NetPolicy();
  readonly features: FeatureSet;
  readonly receivers: readonly RingDriver[];
  readonly receiver: RingDriver;
  readonly transmitter: RingDriver;
  readonly #relay = new Doorbell(new Bell());
  readonly #setups = new Map<number, QueueSetup>();
  backend: VhostBackend | undefined;

  constructor(options: BenchGuestOptions) {
    const { packed, size } = options;
    const pairs = options.receivers ?? 1;
    const transmitSize = options.transmitSize ?? size;
    const receiveStride = (options.buffer + 63) & ~63;
    const transmitStride = (options.frame + HEADER + 63) & ~63;
    // Each ring in pages of its own, its areas behind one another on cache lines, as Linux lays them out. Rings a power of two apart would compete for the same places in the caches, which
    // says something of that choice and nothing of the device.
    const areas = (entries: number): number => Math.ceil((16 * entries + LINE + 2 * entries + LINE + 8 * entries + LINE) / PAGE) * PAGE;
    const ringBytes = areas(Math.max(size, transmitSize));
    const firstReceive = 2 * pairs * ringBytes;
    const firstTransmit = firstReceive + pairs * size * receiveStride;
    const total = Math.ceil((firstTransmit + transmitSize * transmitStride) / 4096) * 4096;
    const ram = new SharedArrayBuffer(total);
    this.dma = DmaSpace.create(new GuestMemory([{ base: 0, size: total, source: ram }]));
    this.features = FeatureSet.of(VIRTIO_F_VERSION_1, ...(packed ? [VIRTIO_F_RING_PACKED] : []), ...(options.features ?? []));
    const make = (index: number, ring: { size: number; buffers: number; stride: number; bytes: number; write: boolean }): RingDriver => {
      const base = index * ringBytes;
      const driverArea = base + Math.ceil((16 * ring.size) / LINE) * LINE;
      const deviceArea = driverArea + (packed ? LINE : Math.ceil((6 + 2 * ring.size) / LINE) * LINE);
      this.#setups.set(index, { size: ring.size, descriptorArea: base, driverArea, deviceArea });
      const kick = (): void => {
        const doorbell = this.backend?.kickDoorbell(index);
        if (doorbell === undefined) this.backend?.kick(index);
        else doorbell.ring();
      };
      const interrupts = ring.write && options.interrupts === true;
      const parts: RingParts = { ram, interrupts, base, driver: driverArea, device: deviceArea, kick, ...ring };
      return packed ? new PackedRing(parts) : new SplitRing(parts);
    };
    this.receivers = Array.from({ length: pairs }, (_, pair) =>
      make(2 * pair, { size, buffers: firstReceive + pair * size * receiveStride, stride: receiveStride, bytes: options.buffer, write: true }),
    );
    this.receiver = this.receivers[0] as RingDriver;
    this.transmitter = make(1, { size: transmitSize, buffers: firstTransmit, stride: transmitStride, bytes: options.frame + HEADER, write: false });
    const { header } = options;
    if (header !== undefined)
      for (let i = 0; i < transmitSize; i++) new Uint8Array(ram).set(typeof header === 'function' ? header(i) : header, firstTransmit + i * transmitStride);
    this.policy.update((p) => {
      p.flags = POLICY_ACTIVE | POLICY_LINK_UP | POLICY_PROMISCUOUS;
      p.headerLength = HEADER;
      p.activePairs = 1;
      p.accepts = options.accepts ?? 0;
    });
  }

  /** `vectors`: where interrupts go, 0x40 and the ring's number; default: nowhere. `clock`: the device's, for a backend on this thread. */
  attach(backend: VhostBackend, { vectors, clock }: { readonly vectors?: PendingVectors; readonly clock?: Clock } = {}): void {
    this.backend = backend;
    backend.onEvent = (event) => {
      throw new Error(`backend: ${JSON.stringify(event)}`);
    };
    backend.open({ features: this.features, memory: this.dma, policy: this.policy, clock });
    this.#setups.forEach((setup, index) => {
      const call = new Call(this.#relay, vectors ?? null);
      if (vectors !== undefined) call.routeDirect(0x40 + index);
      backend.startVring(index, setup, initialPosition(this.features), call);
    });
  }
}

interface RingParts {
  readonly ram: SharedArrayBuffer;
  readonly interrupts: boolean;
  readonly base: number;
  readonly driver: number;
  readonly device: number;
  readonly size: number;
  readonly buffers: number;
  readonly stride: number;
  readonly bytes: number;
  readonly write: boolean;
  readonly kick: () => void;
}

export interface RingDriver {
  /** Transmit: takes completions back and sends up to `count` frames; returns how many. */
  send(count: number): number;
  /** Receive: takes what arrived, checks each frame's sequence number, and posts the buffers again; returns how many frames. */
  receive(): number;
  /** Receive: posts every buffer. */
  fill(): void;
  /** Frames of several buffers end with a short one; used to count frames of merged buffers. */
  frames: number;
  bytes: number;
  /** Adds up `len` instead of checking sequence numbers (frames cut or merged on the way). */
  loose: boolean;
}

const SEQUENCE_AT = HEADER + 16;

class SplitRing implements RingDriver {
  frames = 0;
  bytes = 0;
  loose = false;
  readonly #p: RingParts;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #mask: number;
  readonly #availIdx: number;
  readonly #availRing: number;
  readonly #usedIdx: number;
  readonly #usedRing: number;
  #available = 0;
  #used = 0;
  #sequence = 0;

  constructor(p: RingParts) {
    this.#p = p;
    this.#u16 = new Uint16Array(p.ram);
    this.#u32 = new Uint32Array(p.ram);
    this.#mask = p.size - 1;
    this.#availIdx = (p.driver + 2) >>> 1;
    this.#availRing = (p.driver + 4) >>> 1;
    this.#usedIdx = (p.device + 2) >>> 1;
    this.#usedRing = (p.device + 4) >>> 2;
    for (let i = 0; i < p.size; i++) {
      const at = (p.base + 16 * i) >>> 2;
      this.#u32[at] = p.buffers + i * p.stride;
      this.#u32[at + 2] = p.bytes;
      this.#u32[at + 3] = p.write ? 2 : 0;
      this.#u16[this.#availRing + i] = i;
    }
    this.#u16[p.driver >>> 1] = p.interrupts ? 0 : 1; // 1: no interrupts, this driver polls
  }

  #show(): void {
    Atomics.store(this.#u16, this.#availIdx, this.#available & 0xffff);
    if ((Atomics.load(this.#u16, this.#p.device >>> 1) & 1) === 0) this.#p.kick();
  }

  fill(): void {
    this.#available += this.#p.size;
    this.#show();
  }

  send(count: number): number {
    const used = Atomics.load(this.#u16, this.#usedIdx);
    this.#used += (used - this.#used) & 0xffff;
    const n = Math.min(count, this.#p.size - (this.#available - this.#used));
    if (n === 0) return 0;
    const { buffers, stride } = this.#p;
    const u32 = this.#u32;
    let available = this.#available;
    let sequence = this.#sequence;
    for (let i = 0; i < n; i++) {
      u32[(buffers + (available++ & this.#mask) * stride + SEQUENCE_AT) >>> 2] = sequence++;
    }
    this.#sequence = sequence | 0;
    this.#available = available;
    this.#show();
    return n;
  }

  receive(): number {
    const n = (Atomics.load(this.#u16, this.#usedIdx) - this.#used) & 0xffff;
    if (n === 0) return 0;
    const { buffers, stride } = this.#p;
    const u32 = this.#u32;
    const u16 = this.#u16;
    let sequence = this.#sequence;
    for (let i = 0; i < n; i++) {
      const at = this.#usedRing + 2 * (this.#used++ & this.#mask);
      const id = u32[at] as number;
      this.bytes += u32[at + 1] as number;
      const frame = buffers + id * stride;
      if (this.loose) {
        const merged = u16[(frame + 10) >>> 1] as number;
        if ((u32[at + 1] as number) > 0 && sequence === 0) {
          sequence = merged - 1;
          this.frames++;
        } else sequence--;
      } else {
        if (u32[(frame + SEQUENCE_AT) >>> 2] !== sequence >>> 0) throw new Error(`frame ${u32[(frame + SEQUENCE_AT) >>> 2]} where ${sequence} was due`);
        sequence = (sequence + 1) | 0;
        this.frames++;
      }
      u16[this.#availRing + (this.#available++ & this.#mask)] = id;
    }
    this.#sequence = sequence;
    this.#show();
    return n;
  }
}

class PackedRing implements RingDriver {
  frames = 0;
  bytes = 0;
  loose = false;
  readonly #p: RingParts;
  readonly #u32: Uint32Array;
  readonly #u16: Uint16Array;
  readonly #i32: Int32Array;
  #next = 0;
  #nextBits = 0x80;
  #used = 0;
  #usedWrap = 1;
  #free: number;
  #sequence = 0;

  constructor(p: RingParts) {
    this.#p = p;
    this.#u32 = new Uint32Array(p.ram);
    this.#u16 = new Uint16Array(p.ram);
    this.#i32 = new Int32Array(p.ram);
    this.#free = p.size;
    for (let i = 0; i < p.size; i++) {
      const at = (p.base + 16 * i) >>> 2;
      this.#u32[at] = p.buffers + i * p.stride;
      this.#u32[at + 2] = p.bytes;
      this.#u32[at + 3] = i;
    }
    this.#u32[p.driver >>> 2] = 1 << 16; // no interrupts: this driver polls
  }

  /** Makes the next descriptor available, its first word of the batch held back by the caller. */
  #word(id: number): number {
    return id | ((this.#nextBits | (this.#p.write ? 2 : 0)) << 16);
  }

  #advance(): void {
    if (++this.#next === this.#p.size) {
      this.#next = 0;
      this.#nextBits ^= 0x8080;
    }
  }

  #kick(): void {
    if ((Atomics.load(this.#i32, this.#p.device >>> 2) & (3 << 16)) !== 1 << 16) this.#p.kick();
  }

  fill(): void {
    for (let i = 0; i < this.#p.size; i++) {
      const at = (this.#p.base + 16 * this.#next + 12) >>> 2;
      Atomics.store(this.#i32, at, this.#word(i));
      this.#advance();
    }
    this.#free = 0;
    this.#kick();
  }

  #isUsed(word: number): boolean {
    return ((word >>> 23) & 1) === this.#usedWrap && word >>> 31 === this.#usedWrap;
  }

  send(count: number): number {
    const { base, size, buffers, stride } = this.#p;
    const i32 = this.#i32;
    while (this.#free < size && this.#isUsed(Atomics.load(i32, (base + 16 * this.#used + 12) >>> 2))) {
      this.#free++;
      if (++this.#used === size) {
        this.#used = 0;
        this.#usedWrap ^= 1;
      }
    }
    const n = Math.min(count, this.#free);
    if (n === 0) return 0;
    this.#free -= n;
    const first = (base + 16 * this.#next + 12) >>> 2;
    let firstWord = 0;
    for (let i = 0; i < n; i++) {
      const id = this.#next;
      const at = (base + 16 * id) >>> 2;
      i32[(buffers + id * stride + SEQUENCE_AT) >>> 2] = this.#sequence;
      this.#sequence = (this.#sequence + 1) | 0;
      i32[at + 2] = this.#p.bytes;
      const word = this.#word(id);
      if (i === 0) firstWord = word;
      else i32[at + 3] = word;
      this.#advance();
    }
    Atomics.store(i32, first, firstWord);
    this.#kick();
    return n;
  }

  receive(): number {
    const { base, size, buffers, stride } = this.#p;
    const i32 = this.#i32;
    let n = 0;
    let first = 0;
    let firstWord = 0;
    for (; n < size; n++) {
      const at = (base + 16 * this.#used) >>> 2;
      const word = n === 0 ? Atomics.load(i32, at + 3) : (i32[at + 3] as number);
      if (!this.#isUsed(word)) break;
      const id = word & 0xffff;
      const length = i32[at + 2] as number;
      this.bytes += length;
      const frame = buffers + id * stride;
      if (this.loose) {
        if (this.#sequence === 0) {
          this.#sequence = (this.#u16[(frame + 10) >>> 1] as number) - 1;
          this.frames++;
        } else this.#sequence--;
      } else {
        if (i32[(frame + SEQUENCE_AT) >>> 2] !== this.#sequence) throw new Error(`frame ${i32[(frame + SEQUENCE_AT) >>> 2]} where ${this.#sequence} was due`);
        this.#sequence = (this.#sequence + 1) | 0;
        this.frames++;
      }
      // Posted again in the same slot: used and next run over the same ring.
      const to = (base + 16 * this.#next) >>> 2;
      i32[to] = frame;
      i32[to + 2] = this.#p.bytes;
      if (n === 0) {
        first = to + 3;
        firstWord = this.#word(id);
      } else i32[to + 3] = this.#word(id);
      this.#advance();
      if (++this.#used === size) {
        this.#used = 0;
        this.#usedWrap ^= 1;
      }
    }
    if (n > 0) {
      Atomics.store(i32, first, firstWord);
      this.#kick();
    }
    return n;
  }
}
