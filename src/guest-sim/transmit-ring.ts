// What the transmit rings of Intel's parts have in common, legacy (8254x 3.3) and advanced (82576 7.2.2) alike: descriptors of 16 bytes with the command in the third word and
// DD in the fourth, and buffers that go round in order. Completed ones are taken back in batches, by the DD bit of descriptors that asked for it (RS) or by a head the device wrote.

import { copyBytes } from '#core/copy';
import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import { programRing, type RegisterBlock } from './intel-registers.ts';

const DESCRIPTOR_BYTES = 16;
const EOP = 1 << 24;
const RS = 1 << 27;
const DD = 1 << 0;
/** At most this many descriptors go unreported. */
const REPORT_EVERY = 32;
/** TSO of up to 64 KiB of payload; a frame of that many buffers and its context always fit half a ring. */
const MOST_BUFFERS = 33;

/** Bytes a transmit buffer holds. */
export const TRANSMIT_BUFFER = 2048;
/** A line more from one to the next: the first lines of buffers 2 KiB apart fall in the same few sets of a cache, and drive each other out (measured). */
const STRIDE = TRANSMIT_BUFFER + 64;

export class TransmitRing {
  readonly size: number;
  readonly longestFrame: number;
  /** Next descriptor and buffer to use. */
  next = 0;
  buffer = 0;
  /** Descriptors the device still holds. */
  outstanding = 0;
  /** Descriptors added in all. */
  added = 0;
  broken = '';
  readonly #arena: GuestArena;
  readonly #i32: Int32Array;
  readonly #ring: number;
  readonly #pool: number;
  /** Buffers that each descriptor gives back. */
  readonly #returns: Uint8Array;
  /** Oldest descriptor not taken back, and buffers in use. */
  #oldest = 0;
  #used = 0;
  #sinceReport = 0;
  /** Descriptor that was the last to ask for a report. */
  #reported = -1;

  /** As many buffers as descriptors. */
  constructor(arena: GuestArena, size: number) {
    this.#arena = arena;
    this.size = size;
    this.#i32 = arena.i32;
    this.#ring = arena.allocate(size * DESCRIPTOR_BYTES, 128);
    this.#pool = arena.allocate(size * STRIDE, 64);
    this.longestFrame = Math.min(MOST_BUFFERS, (size >>> 1) - 1) * TRANSMIT_BUFFER;
    this.#returns = new Uint8Array(size);
  }

  program(registers: RegisterBlock, block: number): void {
    programRing(registers, block, this.#arena.address(this.#ring), this.size * DESCRIPTOR_BYTES);
  }

  /** Where the next frame goes: an offset in the arena's views. */
  get offset(): number {
    return this.#pool + this.buffer * STRIDE;
  }

  get oldest(): number {
    return this.#oldest;
  }

  /** The last descriptor added. */
  get last(): number {
    return (this.next + this.size - 1) % this.size;
  }

  /** A frame of so many buffers fits, with a context before it. Head and tail equal means empty, so one descriptor always stays free. */
  fits(buffers: number): boolean {
    return this.outstanding + buffers + 1 < this.size && this.#used + buffers <= this.size;
  }

  /** Copies `length` bytes into buffers from the next one on; `addFrame` takes them from there. */
  fill(from: ByteViews, start: number, length: number): void {
    let buffer = this.buffer;
    for (let done = 0; done < length; done += TRANSMIT_BUFFER) {
      copyBytes(this.#arena.views, this.#pool + buffer * STRIDE, from, start + done, Math.min(TRANSMIT_BUFFER, length - done));
      if (++buffer === this.size) buffer = 0;
    }
  }

  /** Data descriptors for the `length` bytes that lie in the next buffers; each gets `command` and `options`. */
  addFrame(length: number, command: number, options: number): void {
    const i32 = this.#i32;
    for (let left = length; left > 0; left -= TRANSMIT_BUFFER) {
      const last = left <= TRANSMIT_BUFFER;
      const address = this.#arena.address(this.#pool + this.buffer * STRIDE);
      const at = (this.#ring + this.next * DESCRIPTOR_BYTES) >>> 2;
      i32[at] = address | 0;
      i32[at + 1] = (address / 2 ** 32) | 0;
      i32[at + 2] = (last ? left : TRANSMIT_BUFFER) | command | (last ? EOP : 0);
      i32[at + 3] = options;
      if (++this.buffer === this.size) this.buffer = 0;
      this.#used++;
      this.#take(1);
      if (last && this.#sinceReport >= REPORT_EVERY) this.report();
    }
  }

  /** A descriptor without a buffer. */
  addContext(word0: number, word1: number, word2: number, word3: number): void {
    const at = (this.#ring + this.next * DESCRIPTOR_BYTES) >>> 2;
    const i32 = this.#i32;
    i32[at] = word0;
    i32[at + 1] = word1;
    i32[at + 2] = word2;
    i32[at + 3] = word3;
    this.#take(0);
  }

  #take(buffers: number): void {
    this.#returns[this.next] = buffers;
    if (++this.next === this.size) this.next = 0;
    this.outstanding++;
    this.added++;
    this.#sinceReport++;
  }

  /** Has the last descriptor added tell when it is done. Before the tail is written: someone has to say when all are. */
  report(): void {
    const { last } = this;
    if (this.#reported === last && this.#sinceReport === 0) return;
    const at = (this.#ring + last * DESCRIPTOR_BYTES + 8) >>> 2;
    this.#i32[at] = (this.#i32[at] as number) | RS;
    this.#reported = last;
    this.#sinceReport = 0;
  }

  /** Takes back what descriptors report as done. Returns how many. */
  reclaim(): number {
    // Up to the last descriptor that is done and said so; those before it are done as well, as all are done in order.
    let end = -1;
    for (let d = this.#oldest, left = this.outstanding; left > 0; left--, d = d + 1 === this.size ? 0 : d + 1) {
      const at = (this.#ring + d * DESCRIPTOR_BYTES + 8) >>> 2;
      if (((this.#i32[at] as number) & RS) === 0) continue;
      if ((Atomics.load(this.#i32, at + 1) & DD) === 0) break;
      end = d + 1 === this.size ? 0 : d + 1;
    }
    return end >= 0 ? this.reclaimTo(end) : 0;
  }

  /** Takes back everything before the head the device told. Returns how many. */
  reclaimTo(head: number): number {
    const done = (head - this.#oldest + this.size) % this.size;
    if (head >= this.size || done > this.outstanding) {
      this.broken = `transmit: the device's head ${head} is not between ${this.#oldest} and ${this.next}`;
      return 0;
    }
    for (let i = 0; i < done; i++) {
      this.#used -= this.#returns[this.#oldest] as number;
      if (++this.#oldest === this.size) this.#oldest = 0;
    }
    this.outstanding -= done;
    return done;
  }

  /** Frees ring and buffers. Only after the device was reset. */
  dispose(): void {
    this.#arena.free(this.#ring);
    this.#arena.free(this.#pool);
  }
}
