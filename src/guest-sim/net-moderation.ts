// The driver's own choice of interrupt moderation: it measures how fast frames come to each receive queue and how many an interrupt brings, and moves one
// rung at a time on a ladder from "at once" to "many in one". A rung has to disagree with two samples in a row before it is left.

import type { Coalescing } from './net-control.ts';

/** Rungs, each about three times as patient as the one before; the frames it waits for arrive in its time at the rate that makes it worth while. */
const LADDER: readonly Coalescing[] = [
  { maxPackets: 0, maxUsecs: 0 },
  { maxPackets: 8, maxUsecs: 8 },
  { maxPackets: 32, maxUsecs: 32 },
  { maxPackets: 64, maxUsecs: 96 },
  { maxPackets: 128, maxUsecs: 256 },
];

/** A sample ends after this long; the time over which a rung is judged. */
const SAMPLE_NANOS = 1_000_000;
/** More interrupts a second than this are too many; and this few frames for each are too few to have waited for. */
const MANY_INTERRUPTS = 20_000;
const FEW_FRAMES = 2;
const AGREED = 2;

export class AdaptiveModeration {
  readonly #apply: (queue: number, value: Coalescing) => boolean;
  readonly #rung: Uint8Array;
  readonly #interrupts: Int32Array;
  readonly #frames: Int32Array;
  readonly #since: Float64Array;
  /** How many samples in a row wanted up (positive) or down (negative). */
  readonly #pull: Int8Array;

  /** `apply` tells the device; false when it refused, which leaves the queue where it was. */
  constructor(queues: number, apply: (queue: number, value: Coalescing) => boolean) {
    this.#apply = apply;
    this.#rung = new Uint8Array(queues);
    this.#interrupts = new Int32Array(queues);
    this.#frames = new Int32Array(queues);
    this.#since = new Float64Array(queues).fill(-1);
    this.#pull = new Int8Array(queues);
  }

  /** What is in force for a receive queue. */
  current(queue: number): Coalescing {
    return LADDER[this.#rung[queue] as number] as Coalescing;
  }

  /** An interrupt for `queue`. */
  interrupted(queue: number): void {
    this.#interrupts[queue] = (this.#interrupts[queue] as number) + 1;
  }

  /** A poll of `queue` that took `frames` at `now` (nanoseconds). */
  polled(queue: number, frames: number, now: number): void {
    if ((this.#since[queue] as number) < 0) this.#since[queue] = now;
    this.#frames[queue] = (this.#frames[queue] as number) + frames;
    const elapsed = now - (this.#since[queue] as number);
    if (elapsed >= SAMPLE_NANOS) this.#judge(queue, elapsed, now);
  }

  #judge(queue: number, elapsed: number, now: number): void {
    const interrupts = this.#interrupts[queue] as number;
    const frames = this.#frames[queue] as number;
    this.#since[queue] = now;
    this.#interrupts[queue] = 0;
    this.#frames[queue] = 0;
    const rung = this.#rung[queue] as number;
    const rate = (interrupts * 1e9) / elapsed;
    const perInterrupt = interrupts === 0 ? frames : frames / interrupts;
    let pull = this.#pull[queue] as number;
    // Up while interrupts come thick, down when waiting brings hardly more than one frame: then it only costs latency.
    if (rate > MANY_INTERRUPTS && rung < LADDER.length - 1) pull = pull < 0 ? 1 : pull + 1;
    else if (perInterrupt < FEW_FRAMES && rung > 0 && rate < MANY_INTERRUPTS) pull = pull > 0 ? -1 : pull - 1;
    else pull = 0;
    if (pull >= AGREED || pull <= -AGREED) {
      const next = rung + Math.sign(pull);
      if (this.#apply(queue, LADDER[next] as Coalescing)) this.#rung[queue] = next;
      pull = 0;
    }
    this.#pull[queue] = pull;
  }

  /** The device forgot what `queue` was told: a queue reset. */
  forget(queue: number): void {
    this.#rung[queue] = 0;
    this.#pull[queue] = 0;
    this.#interrupts[queue] = 0;
    this.#frames[queue] = 0;
    this.#since[queue] = -1;
  }
}
