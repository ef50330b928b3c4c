// From causes to interrupts (82576 7.3, 8.8): ICR and its masks, the extended causes that IVAR makes of queues and timers, a moderation counter for each vector. With GPIE.Multiple_MSIX (and always for an
// enabled VF's vectors) each extended cause is an MSI-X message of its own; without, everything together is one level, moderated by EITR0. One message a rise of cause and mask; the end of a counter
// sends what waits, if it is still wanted, and nothing else.

import type { Clock } from '#core/clock';
import { RestoreError } from '#core/saved';
import { Moderation, type SavedModeration } from './moderation.ts';
import type { ExtendedName } from './pools.ts';
import {
  AT,
  GPIE_EIAME,
  GPIE_MULTIPLE_MSIX,
  GPIE_NSICR,
  GPIE_PBA_SUPPORT,
  ICR_INT_ASSERTED,
  ICR_RXDW,
  ICR_TCP_TIMER,
  ICR_TXDW,
  QUEUES,
  VECTORS,
} from './registers.ts';

const { EIAC, EIAM, EICR, EIMS, GPIE, IAM, ICR, IMS, IVAR, IVAR_MISC } = AT;

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
  /** Messages of these vectors that wait behind a mask of their table's (MSI-X pending bits) are not wanted any more. */
  retract(vectors: number): void;
  /** Vectors of enabled VFs. */
  readonly virtualVectors: number;
  /** A counter ended that these queues kept reports back for. */
  quiet(queues: number): void;
  /** An interrupt was asserted (IAC). */
  counted(): void;
}

export interface SavedInterrupts {
  readonly moderation: SavedModeration;
  /** Vectors that wait for their counter. */
  readonly waiting: number;
  readonly line: boolean;
}

export class Interrupts {
  readonly #host: InterruptHost;
  readonly #words: Uint32Array;
  readonly #moderation: Moderation;
  #waiting = 0;
  #line = false;

  constructor(host: InterruptHost, words: Uint32Array) {
    this.#host = host;
    this.#words = words;
    this.#moderation = new Moderation(host.clock, words, (vector) => this.#expired(vector));
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
    const moderation = this.#moderation;
    if (moderation.isFree(vector) || (immediate && moderation.takesCredit(vector))) this.#fire(vector);
    else {
      this.#waiting |= 1 << vector;
      moderation.await(vector);
    }
  }

  #fire(vector: number): void {
    const words = this.#words;
    const bit = 1 << vector;
    this.#waiting &= ~bit;
    this.#moderation.start(vector);
    words[EICR] = this.#at(EICR) & ~(bit & this.#at(EIAC));
    if ((this.#at(GPIE) & GPIE_EIAME) !== 0) words[EIMS] = this.#at(EIMS) & ~(bit & this.#at(EIAM));
    this.#host.counted();
    // Last: it may run the guest.
    this.#host.send(vector);
  }

  #expired(vector: number): void {
    let queues = 0;
    for (let queue = 0; queue < QUEUES; queue++) if (this.#counterOf(queue) === vector) queues |= 1 << queue;
    if (queues !== 0) this.#host.quiet(queues);
    const bit = 1 << vector;
    const wanted = (this.#waiting & bit) !== 0 && (this.#at(EICR) & this.#at(EIMS) & bit & this.#messages) !== 0;
    this.#waiting &= ~bit;
    if (wanted) this.#fire(vector);
    if (vector === 0) this.update();
  }

  /** Whose counter a transmit queue's reports wait for: its own vector's, or that of the level, EITR0, where it has none or all are one. */
  #counterOf(queue: number): number {
    const bit = this.vectorOf(queue, true) & this.#messages;
    return bit !== 0 ? 31 - Math.clz32(bit) : 0;
  }

  /** Nothing need be kept back for the interrupt of this transmit queue. */
  isQuiet(queue: number): boolean {
    return this.#moderation.isFree(this.#counterOf(queue));
  }

  /** The level of everything that is no message, held back by the counter of EITR0. */
  update(): void {
    const combined = !this.#multiple && ((this.#at(ICR) & this.#at(IMS)) !== 0 || (this.#at(EICR) & this.#at(EIMS) & COMBINED & ~this.#messages) !== 0);
    if (!combined) {
      this.#drive(false);
      return;
    }
    if (this.#line) return;
    if (!this.#moderation.isFree(0)) {
      this.#moderation.await(0);
      return;
    }
    this.#moderation.start(0);
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
        // 8.8.8, GPIE.PBA_support: a driver that is ready for a vector has dealt with what waits behind the table's mask.
        if ((this.#at(GPIE) & GPIE_PBA_SUPPORT) !== 0) this.#host.retract(bits & this.#messages);
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

  readThrottle(vector: number): number {
    return this.#moderation.read(vector);
  }

  writeThrottle(vector: number, value: number): void {
    this.#moderation.write(vector, value);
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
    this.#moderation.reset();
    this.#waiting = 0;
    this.update();
  }

  save(): SavedInterrupts {
    return { moderation: this.#moderation.save(), waiting: this.#waiting >>> 0, line: this.#line };
  }

  /** @throws RestoreError, having changed nothing */
  static check(saved: Partial<SavedInterrupts> | undefined): asserts saved is SavedInterrupts {
    const { moderation, waiting, line } = saved ?? {};
    Moderation.check(moderation);
    if (!Number.isInteger(waiting) || ((waiting as number) & ~MESSAGES) !== 0 || typeof line !== 'boolean')
      throw new RestoreError('saved interrupts are malformed');
  }

  restore(saved: SavedInterrupts): void {
    this.#moderation.restore(saved.moderation);
    this.#waiting = saved.waiting;
    for (let vector = 0; vector < VECTORS; vector++) if (((saved.waiting >>> vector) & 1) !== 0) this.#moderation.await(vector);
    this.#line = saved.line;
    this.#host.restoreLine(saved.line);
  }
}
