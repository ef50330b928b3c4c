// The transmit rate limiter of each queue (82576 RTTDQSEL, RTTBCNRC): a queue with RS_ENA sends at link speed divided by the rate factor, 10 bits and 14 behind the point. A frame takes its time
// on the wire times the factor; a queue that was idle may catch up by RTTBCNRM.MMW_SIZE KiB.

import type { Nanos } from '#core/clock';
import { AT, QUEUES } from '../registers.ts';

const { RTTBCNRC, RTTBCNRM, RTTDQSEL } = AT;

const RS_ENA = 0x8000_0000;
/** Preamble with its delimiter, gap: what a frame takes of the wire besides itself and its FCS. */
const OVERHEAD = 8 + 12;
const SHORTEST = 64;
/** Nanoseconds an octet takes, by STATUS.SPEED (10, 100, 1000, 1000 Mb/s). */
const OCTET: readonly Nanos[] = [800, 80, 8, 8];

export class RateLimiter {
  readonly #words: Uint32Array;
  readonly #speed: () => number;
  /** RTTBCNRC of each queue: the register shows that of the queue in RTTDQSEL. */
  readonly banks = new Uint32Array(QUEUES);
  /** When what a queue has sent will have been sent at its rate. */
  readonly #paid = new Float64Array(QUEUES);
  /** Of the last refusal. */
  nextAllowed: Nanos = Infinity;

  /** @param speed STATUS.SPEED */
  constructor(words: Uint32Array, speed: () => number) {
    this.#words = words;
    this.#speed = speed;
  }

  /** RTTBCNRC is read. */
  shown(): number {
    return this.banks[(this.#words[RTTDQSEL] as number) & 15] as number;
  }

  /** RTTBCNRC is written: a queue that becomes limited starts owing nothing. */
  program(value: number, now: Nanos): void {
    const queue = (this.#words[RTTDQSEL] as number) & 15;
    this.banks[queue] = value & 0x80ff_ffff;
    this.#words[RTTBCNRC] = this.banks[queue] as number;
    this.#paid[queue] = now;
  }

  reset(): void {
    this.banks.fill(0);
    this.#paid.fill(0);
  }

  limits(queue: number): boolean {
    return ((this.banks[queue] as number) & RS_ENA) !== 0 && this.#factor(queue) > 1;
  }

  #factor(queue: number): number {
    const bank = this.banks[queue] as number;
    return ((bank >>> 14) & 0x3ff) + (bank & 0x3fff) / 0x4000;
  }

  /** May it send at `now`; if not, `nextAllowed`. */
  allowance(queue: number, now: Nanos): boolean {
    if (!this.limits(queue) || (this.#paid[queue] as number) <= now) return true;
    this.nextAllowed = this.#paid[queue] as number;
    return false;
  }

  /** It has sent a frame of `bytes`, FCS included, at `now`. */
  spent(queue: number, bytes: number, now: Nanos): void {
    if (!this.limits(queue)) return;
    const factor = this.#factor(queue) * (OCTET[this.#speed() & 3] as Nanos);
    const window = ((this.#words[RTTBCNRM] as number) & 0x3ff) * 1024 * factor;
    const from = Math.max(this.#paid[queue] as number, now - window);
    this.#paid[queue] = from + (Math.max(bytes, SHORTEST) + OVERHEAD) * factor;
  }

  save(): { readonly banks: Uint32Array; readonly paid: Float64Array } {
    return { banks: this.banks.slice(), paid: this.#paid.slice() };
  }

  restore(banks: Uint32Array, paid: Float64Array): void {
    this.banks.set(banks);
    this.#paid.set(paid);
  }
}
