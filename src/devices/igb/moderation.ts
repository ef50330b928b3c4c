// The moderation counter of each vector (82576 7.3.3, 8.8.12): EITR says how many microseconds pass between two interrupts, and how many immediate ones there may be meanwhile. When a counter ends whoever waits for it is told.

import type { Clock, Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';
import { AT, VECTORS } from './registers.ts';

const { EITR, GPIE } = AT;

/** Of EITR's interval, 8.8.12, and of its counter, which shows the ten most significant of 13 bits. */
const MICROSECOND: Nanos = 1000;
const COUNTER_STEP: Nanos = 8000;
const INTERVAL_SHIFT = 2;
const INTERVAL_MASK = 0x1fff;
const COUNTER_SHIFT = 21;
const CREDIT_SHIFT = 16;
const MOST_CREDITS = 31;
const COUNTER_IGNORED = 1 << 31;
const LLI_EN = 1 << 15;
/** Interval and LLI_EN: what EITR stores; counter and credits are kept as times and counts. */
const STORED = 0x0000_fffc;
/** Of GPIE.LL_INTERVAL. */
const CREDIT_UNIT: Nanos = 4000;
const LONGEST: Nanos = INTERVAL_MASK * MICROSECOND;

export interface SavedModeration {
  /** When each vector's counter ends, and when its credits were counted last. */
  readonly free: readonly Nanos[];
  readonly counted: readonly Nanos[];
  readonly credits: readonly number[];
}

export class Moderation {
  readonly #clock: Clock;
  readonly #words: Uint32Array;
  readonly #timers: readonly Timer[];
  readonly #free = new Float64Array(VECTORS);
  readonly #counted = new Float64Array(VECTORS);
  readonly #credits = new Uint8Array(VECTORS);

  /** @param ended a counter came to zero */
  constructor(clock: Clock, words: Uint32Array, ended: (vector: number) => void) {
    this.#clock = clock;
    this.#words = words;
    this.#timers = Array.from({ length: VECTORS }, (_, vector) => clock.timer(() => ended(vector)));
  }

  /** The counter stands at zero. */
  isFree(vector: number): boolean {
    return this.#clock.now() >= (this.#free[vector] as number);
  }

  /** `ended` is to be called when the counter has come to zero. */
  await(vector: number): void {
    (this.#timers[vector] as Timer).arm(this.#free[vector] as number);
  }

  /** An interrupt goes: the counter starts anew. What is kept back for it is written at its end, whether or not a cause waits. */
  start(vector: number): void {
    const interval = (((this.#words[EITR + vector] as number) >>> INTERVAL_SHIFT) & INTERVAL_MASK) * MICROSECOND;
    this.#free[vector] = this.#clock.now() + interval;
    if (interval > 0) this.await(vector);
    else (this.#timers[vector] as Timer).cancel();
  }

  /** 7.3.3.1.3: an immediate interrupt is bound by credits, of which one comes every LL_INTERVAL, where EITR.LLI_EN says so. */
  takesCredit(vector: number): boolean {
    const interval = this.#creditInterval;
    if (interval === 0 || ((this.#words[EITR + vector] as number) & LLI_EN) === 0) return true;
    this.#earn(vector, interval);
    const credits = this.#credits[vector] as number;
    if (credits === 0) return false;
    this.#credits[vector] = credits - 1;
    return true;
  }

  get #creditInterval(): Nanos {
    return (((this.#words[GPIE] as number) >>> 7) & 31) * CREDIT_UNIT;
  }

  #earn(vector: number, interval: Nanos): void {
    const since = this.#clock.now() - (this.#counted[vector] as number);
    const earned = Math.floor(since / interval);
    if (earned <= 0) return;
    this.#credits[vector] = Math.min(MOST_CREDITS, (this.#credits[vector] as number) + earned);
    this.#counted[vector] = (this.#counted[vector] as number) + earned * interval;
  }

  /** EITR with its counter and credits as they are now. */
  read(vector: number): number {
    const left = Math.max(0, (this.#free[vector] as number) - this.#clock.now());
    const counter = Math.min(0x3ff, Math.floor(left / COUNTER_STEP));
    const interval = this.#creditInterval;
    if (interval > 0) this.#earn(vector, interval);
    return ((this.#words[EITR + vector] as number) & STORED) | ((this.#credits[vector] as number) << CREDIT_SHIFT) | (counter << COUNTER_SHIFT);
  }

  write(vector: number, value: number): void {
    this.#words[EITR + vector] = value & STORED;
    if ((value & COUNTER_IGNORED) !== 0) return;
    const now = this.#clock.now();
    this.#credits[vector] = (value >>> CREDIT_SHIFT) & MOST_CREDITS;
    this.#counted[vector] = now;
    this.#free[vector] = now + ((value >>> COUNTER_SHIFT) & 0x3ff) * COUNTER_STEP;
    this.await(vector);
  }

  reset(): void {
    for (const timer of this.#timers) timer.cancel();
    this.#free.fill(0);
    this.#credits.fill(0);
    this.#counted.fill(this.#clock.now());
  }

  save(): SavedModeration {
    return { free: Array.from(this.#free), counted: Array.from(this.#counted), credits: Array.from(this.#credits) };
  }

  /** @throws RestoreError, having changed nothing */
  static check(saved: Partial<SavedModeration> | undefined): asserts saved is SavedModeration {
    const { free, counted, credits } = saved ?? {};
    const times = (list: unknown): boolean => Array.isArray(list) && list.length === VECTORS && list.every((n) => Number.isFinite(n) && n >= 0);
    const creditsFit = Array.isArray(credits) && credits.length === VECTORS && credits.every((n) => Number.isInteger(n) && n >= 0 && n <= MOST_CREDITS);
    if (!times(free) || !times(counted) || !creditsFit) throw new RestoreError('saved interrupt moderation is malformed');
  }

  /** No counter has further to go than 13 bits of microseconds, and no credit was counted in the future: a record made by another clock, or to silence a vector, is brought within that. */
  restore(saved: SavedModeration): void {
    const now = this.#clock.now();
    for (let vector = 0; vector < VECTORS; vector++) {
      this.#free[vector] = Math.min(saved.free[vector] as Nanos, now + LONGEST);
      this.#counted[vector] = Math.min(saved.counted[vector] as Nanos, now);
      this.#credits[vector] = saved.credits[vector] as number;
      (this.#timers[vector] as Timer).cancel();
      if ((this.#free[vector] as number) > now) this.await(vector);
    }
  }
}
