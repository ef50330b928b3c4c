// Waking a system that sleeps (8254x 6.3, 82576 5.6): what a frame must look like, by WUFC and its tables, or by the magic packet of APM; and the registers by which it is asked for, two bits of which are those of the power
// management capability. Looks at frames while the function is not in D0; nothing reaches memory.

import type { AddressFilter } from '#devices/intel/address-filter';
import { FILTER_EXACT } from '#devices/intel/address-filter';
import { gatherHeader, HEADER_LIMIT } from '#net/headers';
import type { FrameBatch } from '#net/port';
import { EFFECT_NONE } from '#pci/capability';
import type { PciFunction } from '#pci/function';
import type { PowerManagement } from '#pci/pm';

const WUC_APME = 1 << 0;
const WUC_PME_EN = 1 << 1;
const WUC_PME_STATUS = 1 << 2;
const WUC_APMPME = 1 << 3;
const PMCSR = 4;
const PMCSR_PME_ENABLE = 0x100;
const PMCSR_PME_STATUS = 0x8000;
const LNKC = 1 << 0;
const MAG = 1 << 1;
const EX = 1 << 2;
const MC = 1 << 3;
const BC = 1 << 4;
const ARP = 1 << 5;
const IPV4 = 1 << 6;
const IPV6 = 1 << 7;
/** WUFC and WUS, the first of the flexible filters' bits. */
export const WUFC_FLX = 16;
/** What WUPM keeps of the frame. */
const KEPT = 128;

/** Where the registers are in the words. */
export interface WakeUpLayout {
  readonly WUC: number;
  readonly WUFC: number;
  readonly WUS: number;
  readonly IPAV: number;
  readonly IP4AT: number;
  readonly IP6AT: number;
  readonly WUPL: number;
  readonly WUPM: number;
  readonly RAL: number;
  readonly RAH: number;
}

/** The part's flexible filters: bits of WUFC of those a frame passes. */
export type FlexibleFilters = (bytes: Uint8Array, length: number) => number;

/** What a frame does: bits of WUS, and whether it is the magic packet where APM is on. */
export interface Wakening {
  readonly status: number;
  readonly magic: boolean;
}

export class WakeUpFilter {
  readonly #words: Uint32Array;
  readonly #at: WakeUpLayout;
  readonly #filter: AddressFilter;
  readonly #flexible: FlexibleFilters;
  readonly #bytes = new Uint8Array(Math.max(HEADER_LIMIT, 1518));

  constructor(words: Uint32Array, at: WakeUpLayout, filter: AddressFilter, flexible: FlexibleFilters) {
    this.#words = words;
    this.#at = at;
    this.#filter = filter;
    this.#flexible = flexible;
  }

  /** Judges one frame; keeps its first bytes in WUPM when it wakes by WUFC. */
  examine(batch: FrameBatch, frame: number): Wakening {
    const words = this.#words;
    const bytes = this.#bytes;
    const length = gatherHeader(batch, frame, bytes, 0, bytes.length);
    const control = words[this.#at.WUC] as number;
    const wanted = words[this.#at.WUFC] as number;
    if (length < 14) return { status: 0, magic: false };
    const found = wanted & this.#kinds(length);
    if (found !== 0) this.#keep(length);
    return { status: found, magic: (control & WUC_APME) !== 0 && this.#isMagic(length) };
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
    return kinds | this.#flexible(bytes, length);
  }

  /** Six times ff and then sixteen times the station's address, anywhere. */
  #isMagic(length: number): boolean {
    const bytes = this.#bytes;
    const words = this.#words;
    const mac = Array.from(
      { length: 6 },
      (_, i) => (i < 4 ? (words[this.#at.RAL] as number) >>> (8 * i) : (words[this.#at.RAH] as number) >>> (8 * (i - 4))) & 0xff,
    );
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
    for (let n = 0; n < 4; n++) if (((this.#words[this.#at.IPAV] as number) & (1 << n)) !== 0 && this.#words[this.#at.IP4AT + n] === address) return true;
    return false;
  }

  #isOurs6(at: number): boolean {
    if (((this.#words[this.#at.IPAV] as number) & 0x1_0000) === 0) return false;
    const view = new DataView(this.#bytes.buffer);
    for (let n = 0; n < 4; n++) if (this.#words[this.#at.IP6AT + n] !== view.getUint32(at + 4 * n, true)) return false;
    return true;
  }

  #keep(length: number): void {
    const words = this.#words;
    words[this.#at.WUPL] = Math.min(length, 0xfff);
    const kept = Math.min(length, KEPT);
    for (let i = 0; i < KEPT / 4; i++) {
      let word = 0;
      for (let byte = 0; byte < 4 && 4 * i + byte < kept; byte++) word |= (this.#bytes[4 * i + byte] as number) << (8 * byte);
      words[this.#at.WUPM + i] = word;
    }
  }
}

export interface WakeUpHost {
  readonly words: Uint32Array;
  readonly at: WakeUpLayout;
  readonly pm: PowerManagement;
  readonly fn: PciFunction;
}

/** The registers' side. */
export class WakeUp {
  readonly #host: WakeUpHost;

  constructor(host: WakeUpHost) {
    this.#host = host;
  }

  get #pmcsr(): number {
    const { fn, pm } = this.#host;
    return fn.offsetOf(pm) + PMCSR;
  }

  /** WUC is read: PME_En and PME_Status are those of the power management capability. */
  readControl(): number {
    const { words, at, fn } = this.#host;
    const control = fn.config.get16(this.#pmcsr);
    const own = (words[at.WUC] as number) & ~(WUC_PME_EN | WUC_PME_STATUS);
    return own | ((control & PMCSR_PME_ENABLE) !== 0 ? WUC_PME_EN : 0) | ((control & PMCSR_PME_STATUS) !== 0 ? WUC_PME_STATUS : 0);
  }

  /** WUC was stored; `written` has the bits that were written. */
  wroteControl(written: number): void {
    const { words, at, fn } = this.#host;
    const state = fn.config.get16(this.#pmcsr) & 3;
    const enabled = ((words[at.WUC] as number) & WUC_PME_EN) !== 0;
    const control = state | (enabled ? PMCSR_PME_ENABLE : 0) | ((written & WUC_PME_STATUS) !== 0 ? PMCSR_PME_STATUS : 0);
    const effects = fn.configWrite(this.#pmcsr, 2, control);
    if (effects !== EFFECT_NONE) fn.report(effects);
  }

  /** Frames came while the function slept. Without PME_En, or where WUFC names none of them, a magic packet still wakes by WUC.APMPME. */
  woken({ status, magic }: Wakening): void {
    const { words, at, pm } = this.#host;
    if (pm.powerState === 0) return;
    const enabled = (this.readControl() & WUC_PME_EN) !== 0;
    if (enabled && status !== 0) this.#wakeBy(status);
    else if (magic && (enabled || ((words[at.WUC] as number) & WUC_APMPME) !== 0)) pm.assertPme();
  }

  linkChanged(): void {
    const { words, at, pm } = this.#host;
    if (pm.powerState === 0 || ((words[at.WUFC] as number) & LNKC) === 0) return;
    if ((this.readControl() & WUC_PME_EN) !== 0) this.#wakeBy(LNKC);
  }

  #wakeBy(status: number): void {
    const { words, at, pm } = this.#host;
    words[at.WUS] = (words[at.WUS] as number) | status;
    pm.assertPme();
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
