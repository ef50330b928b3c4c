// A descriptor chain being resolved: what split and packed rings share. Descriptors come in as words already read once from the ring; here they are checked
// and become segments. Also the reader of indirect tables, which both rings lay out alike.

import { DMA_READ, DMA_WRITE, type DmaAccess, type DmaSpace, type Window } from '#core/dma-space';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { SegmentList } from '#core/segments';

export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;
export const DESCRIPTOR_BYTES = 16;

/** Longest chain accepted through an indirect table when the queue is shorter: drivers put a whole packet into one table however small the ring is. */
export const INDIRECT_LIMIT = 1024;

// The JIT folds constants of the module at hand, not those of another: each file keeps its own names for what its hot path tests (measured).
const WRITE = DESC_F_WRITE;
const READ_ACCESS = DMA_READ;
const WRITE_ACCESS = DMA_WRITE;
const OK = 0;

/**
 * What became of a descriptor or a chain: taken, no room left in the caller's list, against the rules (`reason` says which), or not to be told before a translation
 * arrives that was asked for.
 */
export const CHAIN_OK = 0;
export const CHAIN_FULL = 1;
export const CHAIN_BAD = 2;
export const CHAIN_WAIT = 3;
export type ChainResult = typeof CHAIN_OK | typeof CHAIN_FULL | typeof CHAIN_BAD | typeof CHAIN_WAIT;

/** High words from here on are addresses of 2^52 and above. */
const HIGH_LIMIT = 2 ** 20;
const CHAIN_BYTES_LIMIT = 2 ** 32;

const NO_BYTES = viewsOf(new ArrayBuffer(0));

export class Chain {
  reason = '';
  readableSegments = 0;
  segments = 0;
  readableBytes = 0;
  writableBytes = 0;
  /** Buffers looked at, those of length 0 too: what the chain cost. */
  buffers = 0;
  readonly #dma: DmaSpace;
  #into: SegmentList;
  #sawWritable = false;
  // The window last used, in words: buffers of one guest mostly lie in one, and 32-bit arithmetic is what the JIT does best (measured: bench/virtqueue.ts).
  #window: Window | null = null;
  #windowViews: ByteViews = NO_BYTES;
  #windowHigh = -1;
  #windowLow = 0;
  #windowStart = 0.5;
  #windowSize = 0;
  #windowOffset = 0;
  #windowPermissions = 0;

  constructor(dma: DmaSpace, into: SegmentList) {
    this.#dma = dma;
    this.#into = into;
  }

  /** A new turn: windows may have moved. */
  forget(): void {
    this.#window = null;
    this.#windowViews = NO_BYTES;
    this.#windowHigh = -1;
  }

  /** A chain of one descriptor: `begin`, `add` and `end` in one. Words come as signed integers. */
  single(into: SegmentList, low: number, high: number, length: number, flags: number): ChainResult {
    const from = (low - this.#windowLow) | 0;
    const write = (flags & WRITE) >> 1;
    // Windows are at most 1 GiB (a slab), so a negative difference or length is outside as well. DMA_READ << 1 is DMA_WRITE.
    if (
      high === this.#windowHigh &&
      from >= 0 &&
      length > 0 &&
      length <= ((this.#windowSize - from) | 0) &&
      (this.#windowPermissions & (1 << write)) !== 0 &&
      into.count !== into.capacity
    ) {
      into.addGuestAt(this.#window as Window, this.#windowViews, (this.#windowOffset + from) | 0, this.#windowStart + from, length);
      const writable = -write & length;
      this.segments = 1;
      this.buffers = 1;
      this.readableSegments = 1 - write;
      this.readableBytes = length - writable;
      this.writableBytes = writable;
      return OK;
    }
    this.begin(into);
    return this.add(low, high, length, flags);
  }

  /** The window last used, for loops that keep it in locals (`popRun`); null: there is none in this turn. */
  get window(): Window | null {
    return this.#window;
  }
  get windowViews(): ByteViews {
    return this.#windowViews;
  }
  get windowHigh(): number {
    return this.#windowHigh;
  }
  get windowLow(): number {
    return this.#windowLow;
  }
  get windowStart(): number {
    return this.#windowStart;
  }
  get windowSize(): number {
    return this.#windowSize;
  }
  get windowOffset(): number {
    return this.#windowOffset;
  }
  get windowPermissions(): number {
    return this.#windowPermissions;
  }

  begin(into: SegmentList): void {
    this.#into = into;
    this.#sawWritable = false;
    this.readableSegments = 0;
    this.segments = 0;
    this.buffers = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
  }

  /** Refuses the chain. Kept apart so that messages are built only when something is wrong. */
  bad(reason: string): ChainResult {
    this.reason = reason;
    return CHAIN_BAD;
  }

  /**
   * Adds one buffer, its words as signed integers. A buffer of length 0 is legal and adds no segment (nothing in virtio 1.4 forbids it; CVE-2016-6490 is a
   * device that looped on one). A buffer that lies in several windows becomes several segments.
   */
  add(low: number, high: number, length: number, flags: number): ChainResult {
    this.buffers++;
    if ((flags & WRITE) !== 0) {
      this.#sawWritable = true;
      if (length === 0) return OK;
      this.writableBytes += length >>> 0;
      return this.#place(low, high, length, WRITE_ACCESS);
    }
    // virtio 1.4 2.7.4.2 (driver MUST): device-readable elements come first.
    if (this.#sawWritable) return this.bad('a device-readable descriptor follows a device-writable one');
    if (length === 0) return OK;
    this.readableBytes += length >>> 0;
    const result = this.#place(low, high, length, READ_ACCESS);
    this.readableSegments = this.segments;
    return result;
  }

  /** virtio 1.4 2.7.5.2 (driver MUST NOT): more than 2^32 bytes in a chain. */
  end(): ChainResult {
    return this.readableBytes + this.writableBytes > CHAIN_BYTES_LIMIT ? this.bad('a chain of more than 2^32 bytes') : OK;
  }

  #place(low: number, high: number, length: number, access: DmaAccess): ChainResult {
    const from = (low - this.#windowLow) | 0;
    const into = this.#into;
    if (
      high !== this.#windowHigh ||
      from < 0 ||
      length < 0 ||
      length > ((this.#windowSize - from) | 0) ||
      (this.#windowPermissions & access) === 0 ||
      into.count === into.capacity
    ) {
      return this.#placeElsewhere(low >>> 0, high >>> 0, length >>> 0, access);
    }
    into.addGuestAt(this.#window as Window, this.#windowViews, (this.#windowOffset + from) | 0, this.#windowStart + from, length);
    this.segments++;
    return OK;
  }

  #placeElsewhere(low: number, high: number, length: number, access: DmaAccess): ChainResult {
    const address = high * 2 ** 32 + low;
    if (high >= HIGH_LIMIT) return this.#unreachable(address, length, access);
    const window = this.#dma.window(address, length, access);
    if (window === null) return this.#placePieces(address, length, access);
    this.#remember(window, high);
    const into = this.#into;
    if (into.count === into.capacity) return CHAIN_FULL;
    into.addGuest(window, address, length);
    this.segments++;
    return OK;
  }

  /** Keeps the part of the window whose addresses have this high word. */
  #remember(window: Window, high: number): void {
    const base = high * 2 ** 32;
    const start = Math.max(window.start, base);
    const end = Math.min(window.end, base + 2 ** 32);
    this.#window = window;
    this.#windowViews = window.slab.views;
    this.#windowHigh = high;
    this.#windowLow = (start - base) | 0;
    this.#windowStart = start;
    this.#windowSize = end - start;
    this.#windowOffset = start + window.bias;
    this.#windowPermissions = window.permissions;
  }

  /** Bounded by the room in the list: every step takes a segment of it. */
  #placePieces(address: number, length: number, access: DmaAccess): ChainResult {
    const into = this.#into;
    const end = address + length;
    for (let at = address; at < end; ) {
      const window = this.#dma.window(at, 1, access);
      if (window === null) return this.#dma.miss(at, end - at, access) ? CHAIN_WAIT : this.#unreachable(address, length, access);
      if (into.count === into.capacity) return CHAIN_FULL;
      const run = Math.min(end, window.end) - at;
      into.addGuest(window, at, run);
      this.segments++;
      at += run;
    }
    return OK;
  }

  #unreachable(address: number, length: number, access: DmaAccess): ChainResult {
    this.#dma.fault(address, length, access);
    return this.bad(`buffer of ${length} bytes at 0x${address.toString(16)} is not ${access === DMA_WRITE ? 'writable' : 'readable'} memory`);
  }
}

/** Reads entries of an indirect table: in place when the table lies in one window and is aligned as words are, else through a 16-byte copy. */
export class IndirectTable {
  /** After `load(i)`: entry i is words[at] .. words[at + 3]. Signed words, each to be read once. */
  words: Int32Array;
  at = 0;
  entries = 0;
  readonly #dma: DmaSpace;
  readonly #copy = new Uint8Array(DESCRIPTOR_BYTES);
  readonly #copyWords = new Int32Array(this.#copy.buffer);
  #address = 0;
  #inPlace = false;
  #base = 0;
  #missing = 0;

  constructor(dma: DmaSpace) {
    this.#dma = dma;
    this.words = this.#copyWords;
  }

  /** Returns why the table is not one, or undefined. */
  open(lowWord: number, highWord: number, lengthWord: number): string | undefined {
    const low = lowWord >>> 0;
    const high = highWord >>> 0;
    const length = lengthWord >>> 0;
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0) return `indirect table of ${length} bytes: not a multiple of 16 above 0`;
    const address = high * 2 ** 32 + low;
    if (high >= HIGH_LIMIT) {
      this.#dma.fault(address, length, DMA_READ);
      return `indirect table at 0x${address.toString(16)} is not memory`;
    }
    this.entries = length / DESCRIPTOR_BYTES;
    this.#address = address;
    const window = this.#dma.window(address, length, DMA_READ);
    this.#inPlace = window !== null && ((address + window.bias) & 3) === 0;
    if (window !== null && this.#inPlace) {
      this.words = window.slab.views.i32;
      this.#base = (address + window.bias) >>> 2;
    } else this.words = this.#copyWords;
    return undefined;
  }

  /** What became of an entry that `load` could not read. */
  unreadable(chain: Chain): ChainResult {
    if (this.#dma.miss(this.#missing, DESCRIPTOR_BYTES, DMA_READ)) return CHAIN_WAIT;
    this.#dma.fault(this.#missing, DESCRIPTOR_BYTES, DMA_READ);
    return chain.bad('an indirect table that is not readable memory');
  }

  /** False when the entry cannot be read. `index` is below `entries`. */
  load(index: number): boolean {
    if (this.#inPlace) {
      this.at = this.#base + index * (DESCRIPTOR_BYTES / 4);
      return true;
    }
    this.at = 0;
    const address = this.#address + index * DESCRIPTOR_BYTES;
    for (let i = 0; i < DESCRIPTOR_BYTES; i++) {
      const window = this.#dma.window(address + i, 1, DMA_READ);
      if (window === null) {
        this.#missing = address + i;
        return false;
      }
      this.#copy[i] = window.slab.views.u8[address + i + window.bias] as number;
    }
    return true;
  }
}
