// The device-writable part of a control command as a run of bytes, however its descriptors slice it (virtio 1.4 2.7.4.1): the ack, and what some commands answer behind it.

import type { DmaSpace } from '#core/dma-space';
import type { SegmentList } from '#core/segments';

export class ChainWriter {
  readonly #list: SegmentList;
  readonly #memory: Pick<DmaSpace, 'markDirty'>;
  #segment = 0;
  #at = 0;
  #remaining = 0;
  #written = 0;

  constructor(list: SegmentList, memory: Pick<DmaSpace, 'markDirty'>) {
    this.#list = list;
    this.#memory = memory;
  }

  /** Starts over at segment `first` of the list, `bytes` bytes. */
  begin(first: number, bytes: number): void {
    this.#segment = first;
    this.#at = 0;
    this.#remaining = bytes;
    this.#written = 0;
  }

  /** Room left, in bytes. */
  get remaining(): number {
    return this.#remaining;
  }

  /** Bytes written since `begin`: the chain's used length. */
  get written(): number {
    return this.#written;
  }

  /** Passes over one byte that another writes. */
  skipOne(): void {
    if (this.#remaining > 0) this.#remaining--;
    this.#at++;
  }

  /** What goes past the end is not written. */
  u8(value: number): void {
    const list = this.#list;
    if (this.#remaining <= 0) return;
    while (this.#at >= (list.length[this.#segment] as number)) {
      if (++this.#segment >= list.count) return;
      this.#at = 0;
    }
    const views = list.views[this.#segment];
    if (views === undefined) return;
    views.u8[(list.offset[this.#segment] as number) + this.#at] = value;
    const window = list.window[this.#segment];
    if (window) this.#memory.markDirty(window, (list.address[this.#segment] as number) + this.#at, 1);
    this.#at++;
    this.#remaining--;
    this.#written++;
  }

  u16(value: number): void {
    this.#little(value, 2);
  }

  u32(value: number): void {
    this.#little(value, 4);
  }

  /** Little-endian, of a safe integer. */
  u64(value: number): void {
    this.#little(value, 8);
  }

  #little(value: number, size: number): void {
    for (let i = 0, rest = value; i < size; i++, rest = Math.floor(rest / 256)) this.u8(rest % 256);
  }
}
