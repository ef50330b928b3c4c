// The TCP timer (82576 8.8.16, TCPTIMER): an interrupt every so many milliseconds, or once. Pausing keeps what is left.

import type { Clock, Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';
import { AT } from './registers.ts';

const { TCPTIMER } = AT;

const KICK_START = 1 << 8;
const ENABLE = 1 << 9;
const FINISH = 1 << 10;
const LOOP = 1 << 11;
const MILLISECOND: Nanos = 1e6;
const LONGEST: Nanos = 0xff * MILLISECOND;

export class TcpTimer {
  readonly #words: Uint32Array;
  readonly #clock: Clock;
  readonly #timer: Timer;
  readonly #expire: () => void;
  /** While it does not run: what is left of the count. */
  #left: Nanos = 0;

  constructor(words: Uint32Array, clock: Clock, expire: () => void) {
    this.#words = words;
    this.#clock = clock;
    this.#expire = expire;
    this.#timer = clock.timer(() => this.#end());
  }

  get #control(): number {
    return this.#words[TCPTIMER] as number;
  }

  get #duration(): Nanos {
    return (this.#control & 0xff) * MILLISECOND;
  }

  /** The register was stored; `written` has its commands. */
  wrote(written: number): void {
    const { deadline } = this.#timer;
    if (deadline !== undefined) this.#left = Math.max(0, deadline - this.#clock.now());
    this.#timer.cancel();
    if ((written & KICK_START) !== 0) this.#left = this.#duration;
    if ((written & FINISH) !== 0) {
      this.#left = (this.#control & LOOP) !== 0 ? this.#duration : 0;
      this.#run();
      this.#expire();
      return;
    }
    this.#run();
  }

  #run(): void {
    if ((this.#control & ENABLE) !== 0 && this.#left > 0) this.#timer.arm(this.#clock.now() + this.#left);
  }

  #end(): void {
    this.#left = (this.#control & LOOP) !== 0 ? this.#duration : 0;
    this.#run();
    this.#expire();
  }

  reset(): void {
    this.#timer.cancel();
    this.#left = 0;
  }

  /** What is left while paused, and when it ends while running (-1: it does not run). */
  save(): readonly [left: Nanos, ends: Nanos] {
    return [this.#left, this.#timer.deadline ?? -1];
  }

  /** @throws RestoreError, having changed nothing */
  static check(saved: unknown): void {
    const [left, ends] = (saved ?? []) as number[];
    const fits = Number.isFinite(left) && (left as number) >= 0 && (left as number) <= LONGEST && Number.isFinite(ends) && (ends as number) >= -1;
    if (!fits) throw new RestoreError('saved TCP timer is malformed');
  }

  /** However far its end is, the count has eight bits of milliseconds. */
  restore([left, ends]: readonly [Nanos, Nanos]): void {
    this.#timer.cancel();
    this.#left = left;
    if (ends >= 0) this.#timer.arm(Math.min(ends, this.#clock.now() + LONGEST));
  }
}
