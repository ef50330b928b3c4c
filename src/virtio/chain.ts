// A descriptor chain being resolved: what split and packed rings share. Descriptors come in as words already read once from the ring; here they are checked
// and become segments. Also the reader of indirect tables, which both rings lay out alike.

import { DMA_READ, DMA_WRITE, type DmaAccess, type DmaSpace } from '#core/dma-space';
import type { SegmentList } from '#core/segments';

export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;
export const DESCRIPTOR_BYTES = 16;

/** Longest chain accepted through an indirect table when the queue is shorter: drivers put a whole packet into one table however small the ring is. */
export const INDIRECT_LIMIT = 1024;

/** What became of a descriptor or a chain: taken, no room left in the caller's list, or against the rules (`reason` says which). */
export const CHAIN_OK = 0;
export const CHAIN_FULL = 1;
export const CHAIN_BAD = 2;
export type ChainResult = typeof CHAIN_OK | typeof CHAIN_FULL | typeof CHAIN_BAD;

/** High words from here on are addresses of 2^52 and above. */
const HIGH_LIMIT = 2 ** 20;
const CHAIN_BYTES_LIMIT = 2 ** 32;

export class Chain {
  reason = '';
  readableSegments = 0;
  segments = 0;
  readableBytes = 0;
  writableBytes = 0;
  readonly #dma: DmaSpace;
  #into: SegmentList;
  #sawWritable = false;

  constructor(dma: DmaSpace, into: SegmentList) {
    this.#dma = dma;
    this.#into = into;
  }

  begin(into: SegmentList): void {
    this.#into = into;
    this.#sawWritable = false;
    this.readableSegments = 0;
    this.segments = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
  }

  /** Refuses the chain. Kept apart so that messages are built only when something is wrong. */
  bad(reason: string): ChainResult {
    this.reason = reason;
    return CHAIN_BAD;
  }

  /**
   * Adds one buffer. A buffer of length 0 is legal and adds no segment (nothing in virtio 1.4 forbids it; CVE-2016-6490 is a device that looped on one).
   * A buffer that lies in several windows becomes several segments.
   */
  add(low: number, high: number, length: number, flags: number): ChainResult {
    if ((flags & DESC_F_WRITE) !== 0) {
      this.#sawWritable = true;
      if (length === 0) return CHAIN_OK;
      this.writableBytes += length;
      return this.#place(low, high, length, DMA_WRITE);
    }
    // virtio 1.4 2.7.4.2, 2.8.? (driver MUST): device-readable elements come first.
    if (this.#sawWritable) return this.bad('a device-readable descriptor follows a device-writable one');
    if (length === 0) return CHAIN_OK;
    this.readableBytes += length;
    const result = this.#place(low, high, length, DMA_READ);
    this.readableSegments = this.segments;
    return result;
  }

  /** virtio 1.4 2.7.5.2 (driver MUST NOT): more than 2^32 bytes in a chain. */
  end(): ChainResult {
    return this.readableBytes + this.writableBytes > CHAIN_BYTES_LIMIT ? this.bad('a chain of more than 2^32 bytes') : CHAIN_OK;
  }

  #place(low: number, high: number, length: number, access: DmaAccess): ChainResult {
    if (high >= HIGH_LIMIT) return this.#unreachable(high * 2 ** 32 + low, length, access);
    const address = high * 2 ** 32 + low;
    const window = this.#dma.window(address, length, access);
    if (window === null) return this.#placePieces(address, length, access);
    const into = this.#into;
    if (into.count === into.capacity) return CHAIN_FULL;
    into.addGuest(window, address, length);
    this.segments++;
    return CHAIN_OK;
  }

  /** Bounded by the room in the list: every step takes a segment of it. */
  #placePieces(address: number, length: number, access: DmaAccess): ChainResult {
    const into = this.#into;
    const end = address + length;
    for (let at = address; at < end; ) {
      const window = this.#dma.window(at, 1, access);
      if (window === null) return this.#unreachable(address, length, access);
      if (into.count === into.capacity) return CHAIN_FULL;
      const run = Math.min(end, window.end) - at;
      into.addGuest(window, at, run);
      this.segments++;
      at += run;
    }
    return CHAIN_OK;
  }

  #unreachable(address: number, length: number, access: DmaAccess): ChainResult {
    this.#dma.fault(address, length, access);
    return this.bad(`buffer of ${length} bytes at 0x${address.toString(16)} is not ${access === DMA_WRITE ? 'writable' : 'readable'} memory`);
  }
}

/** Reads entries of an indirect table: in place when the table lies in one window and is aligned as words are, else through a 16-byte copy. */
export class IndirectTable {
  /** After `load(i)`: entry i is words[at] .. words[at + 3]. Each word is to be read once. */
  words: Uint32Array;
  at = 0;
  entries = 0;
  readonly #dma: DmaSpace;
  readonly #copy = new Uint8Array(DESCRIPTOR_BYTES);
  readonly #copyWords = new Uint32Array(this.#copy.buffer);
  #address = 0;
  #inPlace = false;
  #base = 0;

  constructor(dma: DmaSpace) {
    this.#dma = dma;
    this.words = this.#copyWords;
  }

  /** Returns why the table is not one, or undefined. */
  open(low: number, high: number, length: number): string | undefined {
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
      this.words = window.slab.views.u32;
      this.#base = (address + window.bias) >>> 2;
    } else this.words = this.#copyWords;
    return undefined;
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
      if (window === null) return this.#dma.fault(address, DESCRIPTOR_BYTES, DMA_READ);
      this.#copy[i] = window.slab.views.u8[address + i + window.bias] as number;
    }
    return true;
  }
}
