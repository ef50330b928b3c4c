// The receive descriptor ring (8254x 3.2.3 to 3.2.6): finding buffers for a frame before anything of it is written, and write-back. A descriptor is complete in memory before its DD shows: length and checksum
// first, then status, errors and tag in one store. A frame's first descriptor is written last, and the head moves with it: a thread that dies leaves whole frames, and the head behind the last of them.

import { DMA_READ, DMA_WRITE, type DmaSpace, type Window } from '#core/dma-space';
import type { EngineState } from './engine-state.ts';
import { AT } from './registers.ts';

const { RDBAH, RDBAL, RDH, RDLEN } = AT;

const DESCRIPTOR_BYTES = 16;
/** Buffers of one frame: 16388 octets in buffers of 256. */
const MOST_BUFFERS = 66;
const STATUS_DD = 1;

export class ReceiveRing {
  head = 0;
  tail = 0;
  size = 0;
  /** Descriptors with buffers the driver has added from the head on. */
  available = 0;
  // What `reserve` found for a frame: descriptors it takes, and those of them that have a buffer.
  descriptors = 0;
  buffers = 0;
  readonly address = new Float64Array(MOST_BUFFERS);
  /** The whole ring, where it lies in one piece of memory: that piece, and its ring's first word in it. */
  whole: Window | null = null;
  first = 0;
  base = 0;
  readonly #distance = new Int32Array(MOST_BUFFERS);
  readonly #words: Uint32Array;
  readonly #dma: DmaSpace;

  constructor(state: EngineState, dma: DmaSpace) {
    this.#words = state.registers;
    this.#dma = dma;
  }

  /** Looks at the registers. An index outside the ring makes it an empty one. */
  look(tail: number): void {
    const words = this.#words;
    this.size = (words[RDLEN] as number) >>> 4;
    this.base = (words[RDBAH] as number) * 2 ** 32 + (words[RDBAL] as number);
    this.head = words[RDH] as number;
    this.tail = tail;
    this.available = this.head >= this.size || tail >= this.size ? 0 : (tail - this.head + this.size) % this.size;
    const bytes = this.size * DESCRIPTOR_BYTES;
    const window = this.available > 0 ? this.#dma.window(this.base, bytes, DMA_WRITE) : null;
    this.whole = window !== null && this.#dma.window(this.base, bytes, DMA_READ) === window ? window : null;
    if (this.whole !== null) this.first = (this.base + this.whole.bias) >>> 2;
  }

  #place(distance: number): number {
    const index = this.head + distance;
    return this.base + (index < this.size ? index : index - this.size) * DESCRIPTOR_BYTES;
  }

  /** Finds buffers of `each` bytes for `length` bytes. 1: found; 0: the driver has too few; -1: the ring cannot be read. Descriptors without an address are passed over (CVE-2020-28916). */
  reserve(length: number, each: number): number {
    let distance = 0;
    let left = length;
    this.buffers = 0;
    while (left > 0) {
      if (distance >= this.available) return 0;
      const place = this.#place(distance);
      const window = this.#dma.window(place, DESCRIPTOR_BYTES, DMA_READ);
      if (window === null) {
        this.#dma.fault(place, DESCRIPTOR_BYTES, DMA_READ);
        return -1;
      }
      const { u32 } = window.slab.views;
      const at = (place + window.bias) >>> 2;
      const address = (u32[at + 1] as number) * 2 ** 32 + (u32[at] as number);
      if (address !== 0) {
        this.address[this.buffers] = address;
        this.#distance[this.buffers++] = distance;
        left -= each;
      }
      distance++;
    }
    this.descriptors = distance;
    return 1;
  }

  /** Writes back buffer `n`'s descriptor, then those in front of it that have none: the last buffer first. @param status with errors and tag, as the descriptor's last word */
  complete(n: number, length: number, checksum: number, status: number): void {
    const own = this.#distance[n] as number;
    const first = n === 0 ? 0 : (this.#distance[n - 1] as number) + 1;
    this.#write(own, length | (checksum << 16), status);
    for (let skipped = own - 1; skipped >= first; skipped--) this.#write(skipped, 0, STATUS_DD);
  }

  #write(distance: number, word2: number, word3: number): void {
    const place = this.#place(distance);
    const window = this.#dma.window(place, DESCRIPTOR_BYTES, DMA_WRITE);
    if (window === null) {
      this.#dma.fault(place, DESCRIPTOR_BYTES, DMA_WRITE);
      return;
    }
    const { u32 } = window.slab.views;
    const at = (place + window.bias) >>> 2;
    u32[at + 2] = word2;
    this.#dma.markDirty(window, place, DESCRIPTOR_BYTES);
    // DD last: a driver polls it.
    Atomics.store(u32, at + 3, word3);
    if (distance !== 0) return;
    const next = this.head + this.descriptors;
    this.#words[RDH] = next < this.size ? next : next - this.size;
  }

  /** The descriptors of a run of frames that somebody else wrote back, one each, are the driver's again. */
  advanceBy(count: number): void {
    const next = this.head + count;
    this.head = next < this.size ? next : next - this.size;
    this.available -= count;
  }

  /** The frame's descriptors are the driver's again. */
  advance(): void {
    this.advanceBy(this.descriptors);
  }

  /** Shows how far it came; not over a head that was set meanwhile. */
  publish(): void {
    Atomics.store(this.#words, RDH, this.head);
  }
}
