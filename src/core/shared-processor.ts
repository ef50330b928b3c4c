// Whether a thread that polls has its processor to itself. One that has not does harm by polling in vain: what it waits for may be the thread that it keeps from running, until the scheduler takes the processor
// away milliseconds later. No interface says so, but the thread's own time does: between two looks at it that are microseconds apart, milliseconds have passed.

import type { Nanos } from './clock.ts';

/** Less than a scheduler's slice, more than anything that a thread does between two looks in vain. */
const GAP: Nanos = 1e6;
/** For so long what was seen last holds. */
const HOLDS: Nanos = 100e6;

/** Milliseconds of a nap: the processor goes to who is ready to run. */
export const NAP = 0.05;

export class SharedProcessor {
  #looked: Nanos = 0;
  #until: Nanos = -1;

  /** The thread begins to wait: time up to here went into work. */
  begin(now: Nanos): void {
    this.#looked = now;
  }

  /** One more look in vain, or the end of a nap. True: somebody else has been running here, so the thread should nap before the next one. */
  inVain(now: Nanos): boolean {
    if (now - this.#looked >= GAP) this.#until = now + HOLDS;
    this.#looked = now;
    return now < this.#until;
  }
}
