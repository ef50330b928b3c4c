// A control command as a run of bytes, however its descriptors slice it (virtio 1.4 2.7.4.1, device MUST NOT assume a framing). Every byte is read from guest memory
// once at most: what was checked is what is used.

import type { SegmentList } from '#core/segments';

export class ChainReader {
  readonly #list: SegmentList;
  #segment = 0;
  #segments = 0;
  #at = 0;
  #remaining = 0;

  constructor(list: SegmentList) {
    this.#list = list;
  }

  /** Starts over at the list's first segment; the first `segments` of them, `bytes` bytes, are to be read. */
  begin(segments: number, bytes: number): void {
    this.#segment = 0;
    this.#segments = segments;
    this.#at = 0;
    this.#remaining = bytes;
  }

  get remaining(): number {
    return this.#remaining;
  }

  /** -1 past the end. */
  u8(): number {
    const list = this.#list;
    while (this.#segment < this.#segments && this.#at >= (list.length[this.#segment] as number)) {
      this.#segment++;
      this.#at = 0;
    }
    if (this.#segment >= this.#segments || this.#remaining <= 0) return -1;
    this.#remaining--;
    const byte = list.views[this.#segment]?.u8[(list.offset[this.#segment] as number) + this.#at++];
    return byte ?? 0;
  }

  u16(): number {
    return this.#little(2);
  }

  u32(): number {
    return this.#little(4);
  }

  #little(size: number): number {
    if (this.#remaining < size) {
      this.skip(size);
      return -1;
    }
    let value = 0;
    for (let i = 0; i < size; i++) value += this.u8() * 2 ** (8 * i);
    return value;
  }

  /** A copy of `count` bytes, or undefined when there are fewer. */
  bytes(count: number): Uint8Array | undefined {
    if (this.#remaining < count) return undefined;
    const copy = new Uint8Array(count);
    for (let i = 0; i < count; i++) copy[i] = this.u8();
    return copy;
  }

  /** Passes over bytes segment by segment: the work is bounded by the chain, not by the count. */
  skip(count: number): void {
    let left = Math.min(count, this.#remaining);
    this.#remaining -= left;
    while (left > 0 && this.#segment < this.#segments) {
      const run = Math.min(left, (this.#list.length[this.#segment] as number) - this.#at);
      this.#at += run;
      left -= run;
      if (left > 0) {
        this.#segment++;
        this.#at = 0;
      }
    }
  }
}
