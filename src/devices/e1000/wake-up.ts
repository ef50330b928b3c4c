// Waking a system that sleeps (8254x 6.3): what a frame must look like, by WUFC and its tables, or by the magic packet of APM. Looks at frames while the function is not in D0; nothing reaches memory.

import type { AddressFilter } from '#devices/intel/address-filter';
import { FILTER_EXACT } from '#devices/intel/address-filter';
import { gatherHeader, HEADER_LIMIT } from '#net/headers';
import type { FrameBatch } from '#net/port';
import { AT } from './registers.ts';

const APME = 1;
export const WUC_PME_EN = 2;
const MAG = 1 << 1;
const EX = 1 << 2;
const MC = 1 << 3;
const BC = 1 << 4;
const ARP = 1 << 5;
const IPV4 = 1 << 6;
const IPV6 = 1 << 7;
const FLX = 16;
const FLEX_FILTERS = 4;
const FLEX_BYTES = 128;
/** What WUPM keeps of the frame. */
const KEPT = 128;

/** The result: bits of WUS, and whether the magic packet woke by APM alone. */
export interface WakeUp {
  readonly status: number;
  readonly magic: boolean;
}

export class WakeUpFilter {
  readonly #words: Uint32Array;
  readonly #filter: AddressFilter;
  readonly #bytes = new Uint8Array(Math.max(HEADER_LIMIT, 1518));

  constructor(words: Uint32Array, filter: AddressFilter) {
    this.#words = words;
    this.#filter = filter;
  }

  /** Judges one frame; keeps its first bytes in WUPM when it wakes by WUFC. */
  examine(batch: FrameBatch, frame: number): WakeUp {
    const words = this.#words;
    const bytes = this.#bytes;
    const length = gatherHeader(batch, frame, bytes, 0, bytes.length);
    const control = words[AT.WUC] as number;
    const wanted = words[AT.WUFC] as number;
    if (length < 14) return { status: 0, magic: false };
    const found = wanted & this.#kinds(length);
    if (found !== 0) this.#keep(length);
    return { status: found, magic: (control & APME) !== 0 && this.#isMagic(length) };
  }

  #kinds(length: number): number {
    const bytes = this.#bytes;
    const group = ((bytes[0] as number) & 1) !== 0;
    const everybody = bytes.subarray(0, 6).every((byte) => byte === 0xff);
    const type = read16(bytes, 12) === 0x8100 ? 16 : 12;
    const ether = read16(bytes, type);
    const body = type + 2;
    let kinds = this.#isMagic(length) ? MAG : 0;
    if (everybody) kinds |= BC;
    else if (group) kinds |= this.#filter.judge(bytes, 0) !== 0 ? MC : 0;
    else if (this.#filter.judge(bytes, 0) === FILTER_EXACT) kinds |= EX;
    if (everybody && ether === 0x0806 && read16(bytes, body + 6) === 1 && this.#isOurs4(body + 24)) kinds |= ARP;
    if (this.#filter.judge(bytes, 0) === FILTER_EXACT) {
      if (ether === 0x0800 && this.#isOurs4(body + 16)) kinds |= IPV4;
      if (ether === 0x86dd && this.#isOurs6(body + 24)) kinds |= IPV6;
    }
    for (let n = 0; n < FLEX_FILTERS; n++) if (this.#matchesFlex(n, length)) kinds |= 1 << (FLX + n);
    return kinds;
  }

  /** Six times ff and then sixteen times the station's address, anywhere. */
  #isMagic(length: number): boolean {
    const bytes = this.#bytes;
    const words = this.#words;
    const mac = Array.from({ length: 6 }, (_, i) => (i < 4 ? (words[AT.RAL] as number) >>> (8 * i) : (words[AT.RAH] as number) >>> (8 * (i - 4))) & 0xff);
    for (let at = 14; at + 102 <= length; at++) {
      let run = 0;
      while (run < 102 && bytes[at + run] === (run < 6 ? 0xff : mac[run % 6])) run++;
      if (run === 102) return true;
    }
    return false;
  }

  /** IP4AT entries that IPAV says are valid. */
  #isOurs4(at: number): boolean {
    const address = new DataView(this.#bytes.buffer).getUint32(at, true);
    for (let n = 0; n < 4; n++) if (((this.#words[AT.IPAV] as number) & (1 << n)) !== 0 && this.#words[AT.IP4AT + n] === address) return true;
    return false;
  }

  #isOurs6(at: number): boolean {
    if (((this.#words[AT.IPAV] as number) & 0x1_0000) === 0) return false;
    const view = new DataView(this.#bytes.buffer);
    for (let n = 0; n < 4; n++) if (this.#words[AT.IP6AT + n] !== view.getUint32(at + 4 * n, true)) return false;
    return true;
  }

  /** FFLT says how many bytes, FFMT which of them count, FFVT what they are. */
  #matchesFlex(n: number, length: number): boolean {
    const words = this.#words;
    if (((words[AT.WUFC] as number) & (1 << (FLX + n))) === 0) return false;
    const compared = Math.min(words[AT.FFLT + n] as number, FLEX_BYTES);
    if (compared === 0 || compared > length) return false;
    for (let i = 0; i < compared; i++) {
      if ((((words[AT.FFMT + i] as number) >>> n) & 1) === 0) continue;
      if (this.#bytes[i] !== (((words[AT.FFVT + i] as number) >>> (8 * n)) & 0xff)) return false;
    }
    return true;
  }

  #keep(length: number): void {
    const words = this.#words;
    words[AT.WUPL] = Math.min(length, 0xfff);
    const kept = Math.min(length, KEPT);
    for (let i = 0; i < KEPT / 4; i++) {
      let word = 0;
      for (let byte = 0; byte < 4 && 4 * i + byte < kept; byte++) word |= (this.#bytes[4 * i + byte] as number) << (8 * byte);
      words[AT.WUPM + i] = word;
    }
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
