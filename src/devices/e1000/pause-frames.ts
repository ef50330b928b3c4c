// PAUSE frames that this device sends (IEEE 802.3 31B, 8254x 8.7): to the flow control address, with the time in FCTTV or zero.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { FrameBatch } from '#net/port';
import { AT } from './registers.ts';

const LENGTH = 60;
const OPCODE_PAUSE = 1;

export class PauseFrames {
  readonly #words: Uint32Array;
  readonly #bytes: ByteViews = viewsOf(new ArrayBuffer(64));

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** Appends one frame. */
  append(batch: FrameBatch, quanta: number): void {
    const words = this.#words;
    const { u8 } = this.#bytes;
    storeAddress(u8, 0, words[AT.FCAL] as number, words[AT.FCAH] as number);
    storeAddress(u8, 6, words[AT.RAL] as number, words[AT.RAH] as number);
    const type = words[AT.FCT] as number;
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
