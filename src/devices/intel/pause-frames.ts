// PAUSE frames that a device sends (IEEE 802.3 31B, 8254x 8.7): to the flow control address, with the time in FCTTV or zero.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { FrameBatch } from '#net/port';

const LENGTH = 60;
const OPCODE_PAUSE = 1;

/** Where the registers are in the words. */
export interface PauseLayout {
  readonly FCAL: number;
  readonly FCAH: number;
  readonly FCT: number;
  readonly RAL: number;
  readonly RAH: number;
}

export class PauseFrames {
  readonly #words: Uint32Array;
  readonly #at: PauseLayout;
  readonly #bytes: ByteViews = viewsOf(new ArrayBuffer(64));

  constructor(words: Uint32Array, at: PauseLayout) {
    this.#words = words;
    this.#at = at;
  }

  /** Appends one frame. */
  append(batch: FrameBatch, quanta: number): void {
    const words = this.#words;
    const at = this.#at;
    const { u8 } = this.#bytes;
    storeAddress(u8, 0, words[at.FCAL] as number, words[at.FCAH] as number);
    storeAddress(u8, 6, words[at.RAL] as number, words[at.RAH] as number);
    const type = words[at.FCT] as number;
    u8[12] = type >>> 8;
    u8[13] = type;
    u8[14] = OPCODE_PAUSE >>> 8;
    u8[15] = OPCODE_PAUSE;
    u8[16] = quanta >>> 8;
    u8[17] = quanta;
    const frame = batch.count++;
    batch.firstSegment[frame] = batch.segments.count;
    batch.segments.addHost(this.#bytes, 0, LENGTH);
    batch.segmentCount[frame] = 1;
    batch.length[frame] = LENGTH;
    batch.flags[frame] = 0;
    batch.gsoType[frame] = 0;
    batch.hashReport[frame] = 0;
    batch.needs[frame] = 0;
  }
}

function storeAddress(bytes: Uint8Array, at: number, low: number, high: number): void {
  for (let i = 0; i < 4; i++) bytes[at + i] = low >>> (8 * i);
  bytes[at + 4] = high;
  bytes[at + 5] = high >>> 8;
}
