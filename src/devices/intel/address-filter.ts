// Which frames a receiver takes by their addresses (8254x 3.2.1, 13.5): exact addresses, the multicast hash table, promiscuous modes, broadcast; then the VLAN filter. Works on the
// registers' words where they lie; `rebuild` after any of them changed.

/** Where the registers are in the words. */
export interface FilterLayout {
  readonly RCTL: number;
  readonly RAL: number;
  readonly RAH: number;
  readonly MTA: number;
  readonly VFTA: number;
  /** More exact addresses, where the part has them. */
  readonly RAL2?: number;
  readonly RAH2?: number;
}

const UPE = 1 << 3;
const MPE = 1 << 4;
const BAM = 1 << 15;
const VFE = 1 << 18;
const CFIEN = 1 << 19;

const ADDRESSES = 16;
const MORE_ADDRESSES = 8;
const ADDRESS_VALID = 0x8000_0000;
const BY_SOURCE = 1;
/** Bits of the address that choose one of the 4096 hash bits, by RCTL.MO: 47:36, 46:35, 45:34, 43:32. */
const HASH_SHIFT = [4, 3, 2, 0] as const;

export const FILTER_DROP = 0;
/** Known to be for this station. */
export const FILTER_EXACT = 1;
/** Only an inexact filter let it through: software must look (RDESC.PIF). */
export const FILTER_INEXACT = 2;

export class AddressFilter {
  readonly #words: Uint32Array;
  readonly #at: FilterLayout;
  // Valid exact entries: bytes 0-3 and 4-5 of the address, which of the frame's addresses they are compared with.
  readonly #low = new Int32Array(ADDRESSES + MORE_ADDRESSES);
  readonly #high = new Int32Array(ADDRESSES + MORE_ADDRESSES);
  readonly #source = new Uint8Array(ADDRESSES + MORE_ADDRESSES);
  #count = 0;
  #control = 0;

  constructor(words: Uint32Array, at: FilterLayout) {
    this.#words = words;
    this.#at = at;
  }

  rebuild(): void {
    const words = this.#words;
    const { RCTL, RAL, RAH, RAL2, RAH2 } = this.#at;
    this.#control = words[RCTL] as number;
    this.#count = 0;
    this.#take(RAL, RAH, ADDRESSES);
    if (RAL2 !== undefined && RAH2 !== undefined) this.#take(RAL2, RAH2, MORE_ADDRESSES);
  }

  #take(lows: number, highs: number, count: number): void {
    const words = this.#words;
    for (let i = 0; i < count; i++) {
      const high = words[highs + i] as number;
      // AS: 00 destination, 01 source, the others are reserved and match nothing.
      const select = (high >>> 16) & 3;
      if ((high & ADDRESS_VALID) === 0 || select > BY_SOURCE) continue;
      this.#low[this.#count] = words[lows + i] as number;
      this.#high[this.#count] = high & 0xffff;
      this.#source[this.#count++] = select;
    }
  }

  /** True when the first exact entry, the station's own, is this address. */
  isStation(low: number, high: number): boolean {
    const { RAL, RAH } = this.#at;
    return (
      (this.#words[RAL] as number) === low >>> 0 && ((this.#words[RAH] as number) & 0xffff) === high && ((this.#words[RAH] as number) & ADDRESS_VALID) !== 0
    );
  }

  /** Judges a frame whose header is at `offset` of `bytes`; FILTER_*. */
  judge(bytes: Uint8Array, offset: number): number {
    const b0 = bytes[offset] as number;
    const low = b0 | ((bytes[offset + 1] as number) << 8) | ((bytes[offset + 2] as number) << 16) | ((bytes[offset + 3] as number) << 24);
    const high = (bytes[offset + 4] as number) | ((bytes[offset + 5] as number) << 8);
    if (this.#exact(bytes, offset, low, high)) return FILTER_EXACT;
    const control = this.#control;
    if ((b0 & 1) === 0) return (control & UPE) !== 0 ? FILTER_INEXACT : FILTER_DROP;
    if ((control & MPE) !== 0) return FILTER_EXACT;
    if (low === -1 && high === 0xffff && (control & BAM) !== 0) return FILTER_EXACT;
    // The hash table is for group addresses only.
    const hash = (high >>> (HASH_SHIFT[(control >>> 12) & 3] as number)) & 0xfff;
    return (((this.#words[this.#at.MTA + (hash >>> 5)] as number) >>> (hash & 31)) & 1) !== 0 ? FILTER_INEXACT : FILTER_DROP;
  }

  #exact(bytes: Uint8Array, offset: number, low: number, high: number): boolean {
    for (let i = 0; i < this.#count; i++) {
      if (this.#source[i] === 0) {
        if (this.#low[i] === low && this.#high[i] === high) return true;
      } else {
        const from = offset + 6;
        const sourceLow =
          (bytes[from] as number) | ((bytes[from + 1] as number) << 8) | ((bytes[from + 2] as number) << 16) | ((bytes[from + 3] as number) << 24);
        const sourceHigh = (bytes[from + 4] as number) | ((bytes[from + 5] as number) << 8);
        if (this.#low[i] === sourceLow && this.#high[i] === sourceHigh) return true;
      }
    }
    return false;
  }

  /** 8254x 9.3: a tagged frame passes when the filter is off, or its id is in the table and its CFI bit is as wanted. */
  passesVlan(tag: number): boolean {
    const control = this.#control;
    if ((control & VFE) === 0) return true;
    if ((control & CFIEN) !== 0 && ((tag >>> 12) & 1) !== ((control >>> 20) & 1)) return false;
    const id = tag & 0xfff;
    return (((this.#words[this.#at.VFTA + (id >>> 5)] as number) >>> (id & 31)) & 1) !== 0;
  }
}
