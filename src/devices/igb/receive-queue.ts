// A receive descriptor ring (82576 7.1.5 to 7.1.9, 8.10): buffers for a frame are found before anything of it is written. Legacy and advanced descriptors have the address of the packet buffer in the same place; advanced ones
// add a header buffer's. A descriptor is complete in memory before its DD shows; a frame's first descriptor is written last.

import { DMA_READ, DMA_WRITE, type DmaSpace } from '#core/dma-space';
import { AT } from './registers.ts';

const { RDBAH, RDBAL, RDH, RDLEN, RDT, RXDCTL } = AT;

const DESCRIPTOR_BYTES = 16;
/** Buffers of one frame: 16 KiB in buffers of 1 KiB, and a header buffer; or of 256 by RCTL. */
const MOST_BUFFERS = 68;
/** Descriptors that are looked at for one frame: those without an address are passed over, but not a whole large ring of them for each frame that comes. */
const MOST_LOOKED_AT = 256;
const ENABLE = 1 << 25;
const STATUS_DD = 1;
const LEGACY = 0;
const ADVANCED = 1;

export class ReceiveQueue {
  readonly index: number;
  head = 0;
  tail = 0;
  size = 0;
  /** Descriptors the driver has added from the head on. */
  available = 0;
  /** The turn in which the registers were looked at last. */
  turn = -1;
  /** Whoever has the queue may reach memory. */
  master = false;
  /** Whose memory. */
  dma: DmaSpace;
  /** A frame was refused for want of buffers while the tail stood here; -1: none. */
  starvedAt = -1;
  // What `reserve` found: descriptors it takes, and those of them that have a buffer.
  descriptors = 0;
  buffers = 0;
  readonly address = new Float64Array(MOST_BUFFERS);
  /** Of the first descriptor. */
  headerAddress = 0;
  readonly #distance = new Int32Array(MOST_BUFFERS);
  readonly #words: Uint32Array;
  #base = 0;

  constructor(index: number, words: Uint32Array, dma: DmaSpace) {
    this.index = index;
    this.#words = words;
    this.dma = dma;
  }

  get enabled(): boolean {
    return ((this.#words[RXDCTL + this.index] as number) & ENABLE) !== 0;
  }

  /** Looks at the registers, once a turn. An index outside the ring makes it an empty one (CVE-2016-1981). */
  look(turn: number): void {
    if (this.turn === turn) return;
    this.turn = turn;
    const words = this.#words;
    const { index } = this;
    this.dma.sync();
    this.size = (words[RDLEN + index] as number) >>> 4;
    this.#base = (words[RDBAH + index] as number) * 2 ** 32 + (words[RDBAL + index] as number);
    this.head = words[RDH + index] as number;
    this.tail = words[RDT + index] as number;
    const { head, tail, size } = this;
    this.master = this.dma.busMaster;
    this.available = head >= size || tail >= size || !this.master ? 0 : (tail - head + size) % size;
  }

  #place(distance: number): number {
    const index = this.head + distance;
    return this.#base + (index < this.size ? index : index - this.size) * DESCRIPTOR_BYTES;
  }

  /**
   * Finds buffers of `each` bytes for `length` bytes, and one descriptor at least. 1: found; 0: the driver has too few; -1: the ring cannot be read. Descriptors without a packet buffer are passed over (CVE-2020-28916).
   */
  reserve(length: number, each: number): number {
    let distance = 0;
    let left = Math.max(1, length);
    this.buffers = 0;
    while (left > 0) {
      if (distance >= this.available || distance >= MOST_LOOKED_AT) return 0;
      if (this.buffers === MOST_BUFFERS) return -1;
      const place = this.#place(distance);
      const window = this.dma.window(place, DESCRIPTOR_BYTES, DMA_READ);
      if (window === null) {
        this.dma.fault(place, DESCRIPTOR_BYTES, DMA_READ);
        return -1;
      }
      const { u32 } = window.slab.views;
      const at = (place + window.bias) >>> 2;
      const address = (u32[at + 1] as number) * 2 ** 32 + (u32[at] as number);
      if (address !== 0) {
        if (this.buffers === 0) {
          const low = u32[at + 2] as number;
          this.headerAddress = (u32[at + 3] as number) * 2 ** 32 + low - (low & 1);
        }
        this.address[this.buffers] = address;
        this.#distance[this.buffers++] = distance;
        left -= each;
      }
      distance++;
    }
    this.descriptors = distance;
    return 1;
  }

  /** Writes back buffer `n`'s legacy descriptor, then those in front of it that have none: the last buffer first. @param status with errors and tag, as the last word */
  completeLegacy(n: number, length: number, checksum: number, status: number): void {
    for (let distance = this.#distance[n] as number; distance >= this.#first(n); distance--) {
      const own = distance === this.#distance[n];
      this.#write(distance, own ? length | (checksum << 16) : 0, own ? status : STATUS_DD, LEGACY, 0, 0);
    }
  }

  /** The same for an advanced one, word by word; DD is in `status`. */
  completeAdvanced(n: number, info: number, hash: number, status: number, length: number): void {
    for (let distance = this.#distance[n] as number; distance >= this.#first(n); distance--) {
      const own = distance === this.#distance[n];
      this.#write(distance, own ? length : 0, own ? status : STATUS_DD, ADVANCED, own ? info : 0, own ? hash : 0);
    }
  }

  /** The first descriptor that goes with buffer `n`. */
  #first(n: number): number {
    return n === 0 ? 0 : (this.#distance[n - 1] as number) + 1;
  }

  #write(distance: number, length: number, status: number, kind: number, info: number, hash: number): void {
    const place = this.#place(distance);
    const window = this.dma.window(place, DESCRIPTOR_BYTES, DMA_WRITE);
    if (window === null) {
      this.dma.fault(place, DESCRIPTOR_BYTES, DMA_WRITE);
      return;
    }
    const { u32 } = window.slab.views;
    const at = (place + window.bias) >>> 2;
    this.dma.markDirty(window, place, DESCRIPTOR_BYTES);
    if (kind === ADVANCED) {
      u32[at] = info;
      u32[at + 1] = hash;
    }
    // The word with DD last: a driver polls it.
    u32[at + (kind === ADVANCED ? 3 : 2)] = length;
    Atomics.store(u32, at + (kind === ADVANCED ? 2 : 3), status);
  }

  /** The frame's descriptors are the driver's again. */
  advance(): void {
    const next = this.head + this.descriptors;
    this.head = next < this.size ? next : next - this.size;
    this.available -= this.descriptors;
    this.#words[RDH + this.index] = this.head;
  }

  reset(): void {
    this.turn = -1;
    this.starvedAt = -1;
  }
}
