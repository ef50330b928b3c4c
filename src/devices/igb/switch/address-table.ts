// The exact addresses of RA and RA2 with the pools each is for (82576 8.10.16, 8.10.17), and the two hash tables: MTA for group addresses, UTA for single ones. 82576 7.1.1.1.

import { AT, POOLS } from '../registers.ts';
import type { FrameHeader } from './frame-header.ts';

const { MTA, RAH, RAH2, RAL, RAL2, RCTL, UTA } = AT;

const FIRST = 16;
const SECOND = 8;
const VALID = 0x8000_0000;
const BY_DESTINATION = 0;
const BY_SOURCE = 1;
/** Lowest of the twelve address bits that RCTL.MO chooses, counted from bit 32. */
const HASH_SHIFT = [4, 3, 2, 0] as const;

export class AddressTable {
  readonly #words: Uint32Array;
  readonly #low = new Int32Array(FIRST + SECOND);
  readonly #high = new Int32Array(FIRST + SECOND);
  readonly #pools = new Uint8Array(FIRST + SECOND);
  readonly #bySource = new Uint8Array(FIRST + SECOND);
  #count = 0;
  #shift = 4;
  /** Of the last `match`: some entry had the address, whatever its pools. */
  matched = false;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  rebuild(): void {
    this.#count = 0;
    this.#shift = HASH_SHIFT[((this.#words[RCTL] as number) >>> 12) & 3] as number;
    this.#add(RAL, RAH, FIRST);
    this.#add(RAL2, RAH2, SECOND);
  }

  #add(low: number, high: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const upper = this.#words[high + i] as number;
      // ASEL: 00 the destination, 01 the source, the others are reserved and match nothing.
      const select = (upper >>> 16) & 3;
      if ((upper & VALID) === 0 || select > BY_SOURCE) continue;
      this.#low[this.#count] = this.#words[low + i] as number;
      this.#high[this.#count] = upper & 0xffff;
      this.#pools[this.#count] = (upper >>> 18) & ((1 << POOLS) - 1);
      this.#bySource[this.#count++] = select;
    }
  }

  /** Pools of all entries with the frame's address. */
  match(header: FrameHeader): number {
    let pools = 0;
    this.matched = false;
    for (let i = 0; i < this.#count; i++) {
      const bySource = this.#bySource[i] === BY_SOURCE;
      if (this.#low[i] !== (bySource ? header.sourceLow : header.low) || this.#high[i] !== (bySource ? header.sourceHigh : header.high)) continue;
      this.matched = true;
      pools |= this.#pools[i] as number;
    }
    return pools;
  }

  /** Pools that the frame's source is an address of. */
  ownersOfSource(header: FrameHeader): number {
    let pools = 0;
    for (let i = 0; i < this.#count; i++)
      if (this.#low[i] === header.sourceLow && this.#high[i] === header.sourceHigh && this.#bySource[i] === BY_DESTINATION) pools |= this.#pools[i] as number;
    return pools;
  }

  inMulticastHash(header: FrameHeader): boolean {
    return this.#inHash(MTA, header.high);
  }

  inUnicastHash(header: FrameHeader): boolean {
    return this.#inHash(UTA, header.high);
  }

  #inHash(table: number, high: number): boolean {
    const hash = (high >>> this.#shift) & 0xfff;
    return (((this.#words[table + (hash >>> 5)] as number) >>> (hash & 31)) & 1) !== 0;
  }
}
