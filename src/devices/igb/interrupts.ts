// From causes to interrupts (82576 7.3, 8.8): ICR and its masks, the extended causes that IVAR makes of queues and timers, a moderation counter for each vector. With GPIE.Multiple_MSIX (and always for an
// enabled VF's vectors) each extended cause is an MSI-X message of its own; without, everything together is one level, moderated by EITR0. One message a rise of cause and mask; the end of a counter
// sends what waits, if it is still wanted, and nothing else.

import type { Clock, Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';
import type { ExtendedName } from './pools.ts';
import { AT, GPIE_EIAME, GPIE_MULTIPLE_MSIX, GPIE_NSICR, ICR_INT_ASSERTED, ICR_RXDW, ICR_TCP_TIMER, ICR_TXDW, QUEUES, VECTORS } from './registers.ts';

const { EIAC, EIAM, EICR, EIMS, EITR, GPIE, IAM, ICR, IMS, IVAR, IVAR_MISC } = AT;

/** Of EITR's interval, 8.8.12, and of its counter, which shows the ten most significant of 13 bits. */
const MICROSECOND: Nanos = 1000;
const COUNTER_STEP: Nanos = 8000;
const INTERVAL_SHIFT = 2;
const COUNTER_SHIFT = 21;
const CREDIT_SHIFT = 16;
const MOST_CREDITS = 31;
const COUNTER_IGNORED = 1 << 31;
const LLI_EN = 1 << 15;
/** Interval and LLI_EN: what EITR stores; counter and credits are kept as times and counts. */
const STORED = 0x0000_fffc;
/** Of GPIE.LL_INTERVAL. */
const CREDIT_UNIT: Nanos = 4000;

const VALID = 0x80;
const MESSAGES = 0x01ff_ffff;
/** Extended causes where there is one interrupt for all: sixteen of queues, the TCP timer, all others. */
const COMBINED = 0xc000_ffff;
const TCP_TIMER = 1 << 30;
const OTHER = 1 << 31;
/** What software may set through ICS and enable: every cause there is, and the reserved ones a driver's interrupt test knows (8.8.9). */
export const ICR_ALL = 0x77ff_ffff;

export interface InterruptHost {
  readonly clock: Clock;
  /** The one level of all causes changed: INTx, or a rise as an MSI or as MSI-X vector 0. */
  setLine(asserted: boolean): void;
  /** The level is where a saved state had it: nothing happened. */
  restoreLine(asserted: boolean): void;
  /** MSI-X message `vector` of the physical function, or of an enabled VF that has it. */
  send(vector: number): void;
  /** Vectors of enabled VFs. */
  readonly virtualVectors: number;
  /** The counter of `vector` ended: what queues of that vector kept for it is written back. */
  quiet(vector: number): void;
  /** An interrupt was asserted (IAC). */
  counted(): void;
}

export interface SavedInterrupts {
  /** When each vector's counter ends, and when its credits were counted last. */
  readonly free: readonly Nanos[];
  readonly counted: readonly Nanos[];
  readonly credits: readonly number[];
  /** Vectors that wait for their counter. */
  readonly waiting: number;
  readonly line: boolean;
}

export class Interrupts {
  readonly #host: InterruptHost;
  readonly #words: Uint32Array;
  readonly #timers: readonly Timer[];
  readonly #free = new Float64Array(VECTORS);
  readonly #counted = new Float64Array(VECTORS);
  readonly #credits = new Uint8Array(VECTORS);
  #waiting = 0;
  #line = false;

  constructor(host: InterruptHost, words: Uint32Array) {
    this.#host = host;
    this.#words = words;
    this.#timers = Array.from({ length: VECTORS }, (_, vector) => host.clock.timer(() => this.#expired(vector)));
  }

  get line(): boolean {
    return this.#line;
  }

  #at(word: number): number {
    return this.#words[word] as number;
  }

  get #multiple(): boolean {
    return (this.#at(GPIE) & GPIE_MULTIPLE_MSIX) !== 0;
  }

  /** Extended causes that are messages by themselves. */
  get #messages(): number {
    return this.#multiple ? MESSAGES : this.#host.virtualVectors;
  }

  /** Extended causes there are. */
  get #extended(): number {
    return this.#multiple ? MESSAGES : COMBINED | this.#host.virtualVectors;
  }

  // ---- causes ----

  /** Causes of ICR arise. */
  raise(causes: number): void {
    if (causes !== 0) this.#arise(causes, 0, 0);
  }

  /** Extended causes arise. */
  raiseExtended(vectors: number): void {
    this.#arise(0, vectors & this.#extended, 0);
  }

  /** The TCP timer (8.8.16) has a vector of its own. */
  tcpTimer(): void {
    const entry = this.#at(IVAR_MISC) & 0xff;
    const vector = this.#multiple ? ((entry & VALID) !== 0 ? 1 << (entry & 31) : 0) : TCP_TIMER;
    this.#arise(ICR_TCP_TIMER, vector & this.#extended, 0);
  }

  /** Frames are in memory and descriptors reported: masks of queues, those of receiving queues that may not wait, and causes besides. */
  queues(received: number, sent: number, urgent: number, causes: number): void {
    let vectors = 0;
    let immediate = 0;
    for (let queue = 0; queue < QUEUES; queue++) {
      const bit = 1 << queue;
      if (((received | sent) & bit) === 0) continue;
      if ((received & bit) !== 0) {
        const vector = this.vectorOf(queue, false);
        vectors |= vector;
        if ((urgent & bit) !== 0) immediate |= vector;
      }
      if ((sent & bit) !== 0) vectors |= this.vectorOf(queue, true);
    }
    this.#arise((received !== 0 ? ICR_RXDW : 0) | (sent !== 0 ? ICR_TXDW : 0) | causes, vectors, immediate);
  }

  /** The extended cause of a queue as a bit, 0: none (8.8.13). Queue q is in IVAR[q mod 8], in the upper half from 8 on. */
  vectorOf(queue: number, transmit: boolean): number {
    const shift = (queue >= 8 ? 16 : 0) + (transmit ? 8 : 0);
    const entry = (this.#at(IVAR + (queue & 7)) >>> shift) & 0xff;
    if ((entry & VALID) === 0) return 0;
    return (1 << (entry & 31)) & (this.#multiple ? MESSAGES : 0xffff | this.#host.virtualVectors);
  }

  #arise(causes: number, vectors: number, immediate: number): void {
    const words = this.#words;
    const before = this.#at(ICR) & this.#at(IMS);
    words[ICR] = this.#at(ICR) | (causes & ICR_ALL);
    this.#set(vectors | this.#other(before), immediate);
  }

  /** The extended cause "other", when causes of ICR have risen above the mask. The TCP timer is not among them. */
  #other(before: number): number {
    const risen = this.#at(ICR) & this.#at(IMS) & ~before & ~ICR_TCP_TIMER;
    if (risen === 0) return 0;
    if (!this.#multiple) return OTHER;
    const entry = (this.#at(IVAR_MISC) >>> 8) & 0xff;
    return (entry & VALID) !== 0 ? (1 << (entry & 31)) & MESSAGES : 0;
  }

  #set(vectors: number, immediate: number): void {
    const words = this.#words;
    const before = this.#at(EICR) & this.#at(EIMS);
    words[EICR] = this.#at(EICR) | vectors;
    this.#risen(before, immediate);
  }

  /** Acts on extended causes above their mask that were not so before; and on the level. */
  #risen(before: number, immediate: number): void {
    const pending = this.#at(EICR) & this.#at(EIMS);
    const messages = this.#messages;
    let due = pending & messages & (~before | (immediate & this.#waiting));
    for (let vector = 0; due !== 0; vector++, due >>>= 1) {
      const bit = 1 << vector;
      // A message before may have run the guest, and that have changed its mind.
      if ((due & 1) !== 0 && (this.#at(EICR) & this.#at(EIMS) & bit) !== 0) this.#due(vector, (immediate & bit) !== 0);
    }
    this.update();
  }

  #due(vector: number, immediate: boolean): void {
    const free = this.#free[vector] as number;
    if (this.#host.clock.now() >= free || (immediate && this.#takesCredit(vector))) this.#fire(vector);
    else {
      this.#waiting |= 1 << vector;
      (this.#timers[vector] as Timer).arm(free);
    }
  }

  /** 7.3.3.1.3: an immediate interrupt is bound by credits, of which one comes every LL_INTERVAL, where EITR.LLI_EN says so. */
  #takesCredit(vector: number): boolean {
    const interval = ((this.#at(GPIE) >>> 7) & 31) * CREDIT_UNIT;
    if (interval === 0 || (this.#at(EITR + vector) & LLI_EN) === 0) return true;
    this.#earn(vector, interval);
    const credits = this.#credits[vector] as number;
    if (credits === 0) return false;
    this.#credits[vector] = credits - 1;
    return true;
  }

  #earn(vector: number, interval: Nanos): void {
    const since = this.#host.clock.now() - (this.#counted[vector] as number);
    const earned = Math.floor(since / interval);
    if (earned <= 0) return;
    this.#credits[vector] = Math.min(MOST_CREDITS, (this.#credits[vector] as number) + earned);
    this.#counted[vector] = (this.#counted[vector] as number) + earned * interval;
  }

  #fire(vector: number): void {
    const words = this.#words;
    const bit = 1 << vector;
    this.#waiting &= ~bit;
    this.#startCounter(vector);
    words[EICR] = this.#at(EICR) & ~(bit & this.#at(EIAC));
    if ((this.#at(GPIE) & GPIE_EIAME) !== 0) words[EIMS] = this.#at(EIMS) & ~(bit & this.#at(EIAM));
    this.#host.counted();
    // Last: it may run the guest.
    this.#host.send(vector);
  }

  #startCounter(vector: number): void {
    const interval = ((this.#at(EITR + vector) >>> INTERVAL_SHIFT) & 0x1fff) * MICROSECOND;
    this.#free[vector] = this.#host.clock.now() + interval;
    // What is kept back for this counter is written at its end, whether or not a cause waits.
    if (interval > 0) (this.#timers[vector] as Timer).arm(this.#free[vector] as number);
    else (this.#timers[vector] as Timer).cancel();
  }

  #expired(vector: number): void {
    this.#host.quiet(vector);
    const bit = 1 << vector;
    const wanted = (this.#waiting & bit) !== 0 && (this.#at(EICR) & this.#at(EIMS) & bit & this.#messages) !== 0;
    this.#waiting &= ~bit;
    if (wanted) this.#fire(vector);
    if (vector === 0) this.update();
  }

  /** The counter of a queue's vector stands at zero: nothing need be kept back for it. */
  isQuiet(queue: number, transmit: boolean): boolean {
    const bit = this.vectorOf(queue, transmit);
    const vector = (bit & this.#messages) !== 0 ? 31 - Math.clz32(bit) : 0;
    return this.#host.clock.now() >= (this.#free[vector] as number);
  }

  /** The level of everything that is no message, held back by the counter of EITR0. */
  update(): void {
    const combined = !this.#multiple && ((this.#at(ICR) & this.#at(IMS)) !== 0 || (this.#at(EICR) & this.#at(EIMS) & COMBINED & ~this.#messages) !== 0);
    if (!combined) {
      this.#drive(false);
      return;
    }
    if (this.#line) return;
    const free = this.#free[0] as number;
    if (this.#host.clock.now() < free) {
      (this.#timers[0] as Timer).arm(free);
      return;
    }
    this.#startCounter(0);
    this.#host.counted();
    this.#drive(true);
  }

  #drive(asserted: boolean): void {
    if (this.#line === asserted) return;
    this.#line = asserted;
    this.#host.setLine(asserted);
  }

  // ---- registers ----

  /** ICR as it reads: with INT_ASSERTED while a cause is above the mask. */
  readCauses(): number {
    return this.#at(ICR) | (this.#asserted ? ICR_INT_ASSERTED : 0);
  }

  get #asserted(): boolean {
    return (this.#at(ICR) & this.#at(IMS)) !== 0;
  }

  /** ICR was read (8.8.9, GPIE.NSICR 8.8.8): cleared if that is not selective, if nothing is enabled, or if there was an interrupt. */
  causesRead(): void {
    const always = (this.#at(GPIE) & GPIE_NSICR) !== 0;
    const asserted = this.#asserted;
    if (always || asserted) this.#words[IMS] = this.#at(IMS) & ~this.#at(IAM);
    if (always || asserted || this.#at(IMS) === 0) this.#words[ICR] = 0;
    this.update();
  }

  /** Ones written to ICR; IAM is applied then too (8.8.14). */
  clearCauses(causes: number): void {
    this.#words[ICR] = this.#at(ICR) & ~causes;
    this.#words[IMS] = this.#at(IMS) & ~this.#at(IAM);
    this.update();
  }

  mask(bits: number, on: boolean): void {
    const old = this.#at(IMS);
    const before = this.#at(ICR) & old;
    this.#words[IMS] = on ? old | (bits & ICR_ALL) : old & ~bits;
    const other = this.#other(before);
    if (other !== 0) this.#set(other, 0);
    else this.update();
  }

  readExtended(name: ExtendedName): number {
    if (name === 'EIAC' || name === 'EIAM') return this.#at(AT[name]);
    return this.#at(name === 'EICR' || name === 'EICS' ? EICR : EIMS);
  }

  /** @param lanes the bits that are written; the others stay */
  writeExtended(name: ExtendedName, lanes: number, value: number): void {
    const words = this.#words;
    const bits = value & lanes & this.#extended;
    const before = this.#at(EICR) & this.#at(EIMS);
    switch (name) {
      case 'EICS':
        this.raiseExtended(bits);
        return;
      case 'EIMS':
        words[EIMS] = this.#at(EIMS) | bits;
        this.#risen(before, 0);
        return;
      case 'EIMC':
        words[EIMS] = this.#at(EIMS) & ~bits;
        break;
      case 'EICR':
        words[EICR] = this.#at(EICR) & ~bits;
        this.#acknowledged(lanes);
        break;
      case 'EIAC':
        words[EIAC] = (this.#at(EIAC) & ~lanes) | (value & lanes & MESSAGES);
        return;
      case 'EIAM':
        words[EIAM] = (this.#at(EIAM) & ~lanes) | (value & lanes & (MESSAGES | COMBINED));
        return;
    }
    this.update();
  }

  /** Reading EICR clears it (7.3.4.3), which no driver does that has many vectors; what is a VF's stays. */
  extendedRead(): void {
    this.#words[EICR] = this.#at(EICR) & this.#host.virtualVectors;
    this.#acknowledged(~0);
    this.update();
  }

  /** 8.8.7: without EIAME the automatic mask works on accesses of EICR. */
  #acknowledged(lanes: number): void {
    if ((this.#at(GPIE) & GPIE_EIAME) === 0) this.#words[EIMS] = this.#at(EIMS) & ~(this.#at(EIAM) & lanes);
  }

  /** EITR with its counter and credits as they are now. */
  readThrottle(vector: number): number {
    const left = Math.max(0, (this.#free[vector] as number) - this.#host.clock.now());
    const counter = Math.min(0x3ff, Math.floor(left / COUNTER_STEP));
    const interval = ((this.#at(GPIE) >>> 7) & 31) * CREDIT_UNIT;
    if (interval > 0) this.#earn(vector, interval);
    return (this.#at(EITR + vector) & STORED) | ((this.#credits[vector] as number) << CREDIT_SHIFT) | (counter << COUNTER_SHIFT);
  }

  writeThrottle(vector: number, value: number): void {
    this.#words[EITR + vector] = value & STORED;
    if ((value & COUNTER_IGNORED) !== 0) return;
    const now = this.#host.clock.now();
    this.#credits[vector] = (value >>> CREDIT_SHIFT) & MOST_CREDITS;
    this.#counted[vector] = now;
    this.#free[vector] = now + ((value >>> COUNTER_SHIFT) & 0x3ff) * COUNTER_STEP;
    (this.#timers[vector] as Timer).arm(this.#free[vector] as number);
  }

  /** GPIE was written: other causes are messages now, or others make the level. */
  modeChanged(): void {
    this.#words[EICR] = this.#at(EICR) & this.#extended;
    this.#words[EIMS] = this.#at(EIMS) & this.#extended;
    this.update();
  }

  // ---- life ----

  /** A reset, registers included: EITR may have outlived it, and so does what runs by it not. */
  reset(): void {
    for (const timer of this.#timers) timer.cancel();
    this.#free.fill(0);
    this.#credits.fill(0);
    this.#counted.fill(this.#host.clock.now());
    this.#waiting = 0;
    this.update();
  }

  save(): SavedInterrupts {
    const { line } = this;
    return { free: Array.from(this.#free), counted: Array.from(this.#counted), credits: Array.from(this.#credits), waiting: this.#waiting >>> 0, line };
  }

  /** @throws RestoreError, having changed nothing */
  static check(saved: Partial<SavedInterrupts> | undefined): asserts saved is SavedInterrupts {
    const { free, counted, credits, waiting, line } = saved ?? {};
    const times = (list: unknown): boolean => Array.isArray(list) && list.length === VECTORS && list.every((n) => Number.isFinite(n) && n >= 0);
    const creditsFit = Array.isArray(credits) && credits.length === VECTORS && credits.every((n) => Number.isInteger(n) && n >= 0 && n <= MOST_CREDITS);
    if (!times(free) || !times(counted) || !creditsFit || !Number.isInteger(waiting) || ((waiting as number) & ~MESSAGES) !== 0 || typeof line !== 'boolean')
      throw new RestoreError('saved interrupt moderation is malformed');
  }

  restore(saved: SavedInterrupts): void {
    const now = this.#host.clock.now();
    this.#free.set(saved.free);
    this.#counted.set(saved.counted);
    this.#credits.set(saved.credits);
    this.#waiting = saved.waiting;
    this.#timers.forEach((timer, vector) => {
      timer.cancel();
      if ((this.#free[vector] as number) > now) timer.arm(this.#free[vector] as number);
    });
    this.#line = saved.line;
    this.#host.restoreLine(saved.line);
  }
}
