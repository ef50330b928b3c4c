// Storm control (82576 7.10.3.9): broadcast and multicast traffic from the network is counted in pieces of 64 octets, window by window. Above a threshold, what is more in this window is dropped (BDICW,
// MDICW), or all of it in the window after (BDIPW, MDIPW).
//
// The window: SCCRL.INTERVAL times 500 us, the unit at 1 Gb/s. How the two status pairs lie in SCSTS, and the unit, could not be checked against the datasheet's text (docs/igb.md).

import type { Nanos } from '#core/clock';
import { AT } from '../registers.ts';

const { BSCCNT, BSCTRH, MSCCNT, MSCTRH, SCCRL, SCSTS } = AT;

const MDIPW = 1;
const MDICW = 2;
const BDIPW = 4;
const BDICW = 8;
const UNIT: Nanos = 500e3;
const PIECE = 64;
const FCS = 4;
const COUNT = 0x1ff_ffff;

const SCSTS_BSCA = 1;
const SCSTS_BSCAP = 2;
const SCSTS_MSCA = 4;
const SCSTS_MSCAP = 8;

export class StormControl {
  readonly #words: Uint32Array;
  /** Some rule is in force. */
  on = false;
  #control = 0;
  #window: Nanos = 0;
  #began: Nanos = 0;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** A storm is on at this moment: SCSTS.BSCA, MSCA. */
  get active(): number {
    return (this.#words[SCSTS] as number) & (SCSTS_BSCA | SCSTS_MSCA);
  }

  rebuild(now: Nanos): void {
    const control = this.#words[SCCRL] as number;
    const window = ((control >>> 8) & 0x3ff) * UNIT;
    const on = (control & (MDIPW | MDICW | BDIPW | BDICW)) !== 0 && window > 0;
    if (on && (!this.on || window !== this.#window)) this.#begin(now);
    if (!on) this.#clear();
    this.on = on;
    this.#control = control;
    this.#window = window;
  }

  #begin(now: Nanos): void {
    this.#began = now;
    this.#clear();
  }

  #clear(): void {
    this.#words[SCSTS] = 0;
    this.#words[BSCCNT] = 0;
    this.#words[MSCCNT] = 0;
  }

  /** Moves on to the window `now` is in. */
  advance(now: Nanos): void {
    if (!this.on) return;
    const passed = Math.floor((now - this.#began) / this.#window);
    if (passed < 1) return;
    const words = this.#words;
    this.#began += passed * this.#window;
    const status = words[SCSTS] as number;
    // What was so in the window before this one: after a quiet one nothing.
    words[SCSTS] = passed === 1 ? ((status & SCSTS_BSCA) !== 0 ? SCSTS_BSCAP : 0) | ((status & SCSTS_MSCA) !== 0 ? SCSTS_MSCAP : 0) : 0;
    words[BSCCNT] = 0;
    words[MSCCNT] = 0;
  }

  /** Counts a group frame from the network; false: it is dropped. `length` without FCS. */
  admits(broadcast: boolean, length: number, now: Nanos): boolean {
    this.advance(now);
    const words = this.#words;
    const at = broadcast ? BSCCNT : MSCCNT;
    const active = broadcast ? SCSTS_BSCA : SCSTS_MSCA;
    const count = Math.min(COUNT, (words[at] as number) + Math.ceil((length + FCS) / PIECE));
    words[at] = count;
    if (count > (words[broadcast ? BSCTRH : MSCTRH] as number)) words[SCSTS] = (words[SCSTS] as number) | active;
    const status = words[SCSTS] as number;
    const current = (this.#control & (broadcast ? BDICW : MDICW)) !== 0 && (status & active) !== 0;
    const before = (this.#control & (broadcast ? BDIPW : MDIPW)) !== 0 && (status & (active << 1)) !== 0;
    return !current && !before;
  }

  save(): Nanos {
    return this.#began;
  }

  /** After the registers were restored. */
  restore(began: Nanos): void {
    const control = this.#words[SCCRL] as number;
    this.#window = ((control >>> 8) & 0x3ff) * UNIT;
    this.#control = control;
    this.on = (control & (MDIPW | MDICW | BDIPW | BDICW)) !== 0 && this.#window > 0;
    this.#began = began;
  }
}
