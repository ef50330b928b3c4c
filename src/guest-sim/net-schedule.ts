// Which receive queues are to be polled, in the style of Linux's NAPI: an interrupt turns its queue's interrupts off and schedules it, polls work it down within a budget, and only a queue that
// was found empty turns them on again.

import type { AdaptiveModeration } from './net-moderation.ts';
import type { FrameSink, ReceiveQueue } from './net-receive.ts';

const POLL_BUDGET = 64;

export class ReceiveSchedule {
  readonly #queues: readonly ReceiveQueue[];
  readonly #busyPolls: number;
  readonly #scheduled: Uint8Array;
  /** How often each was found empty in a row. */
  readonly #idle: Int32Array;

  /** @param queues of `pairs` pairs; one that was reset is another object in its place @param busyPolls empty polls before interrupts are turned on again */
  constructor(queues: readonly ReceiveQueue[], pairs: number, busyPolls: number) {
    this.#queues = queues;
    this.#busyPolls = busyPolls;
    this.#scheduled = new Uint8Array(pairs);
    this.#idle = new Int32Array(pairs);
  }

  /** It interrupted, or may have frames. */
  schedule(index: number): void {
    const queue = this.#queues[index];
    if (!queue) return;
    queue.ring.disableCalls();
    this.#scheduled[index] = 1;
    this.#idle[index] = 0;
  }

  /** Turns its interrupts on; false: frames came before that, so it is scheduled instead. */
  arm(index: number): boolean {
    this.#scheduled[index] = 0;
    if (!(this.#queues[index] as ReceiveQueue).ring.enableCalls()) return true;
    this.schedule(index);
    return false;
  }

  /** Polls each once, into `sink`, up to one that turns out broken. True: there may be more to do right away. */
  poll(sink: FrameSink, moderation: AdaptiveModeration | undefined, now: () => number): boolean {
    let more = false;
    for (let i = 0; i < this.#queues.length; i++) {
      if (this.#scheduled[i] === 0) continue;
      const queue = this.#queues[i] as ReceiveQueue;
      const taken = queue.poll(POLL_BUDGET, sink);
      moderation?.polled(i, taken, now());
      if (queue.broken !== '') return false;
      const idle = taken > 0 ? 1 : (this.#idle[i] as number) + 1;
      this.#idle[i] = idle;
      if (taken === POLL_BUDGET || queue.refused || idle <= this.#busyPolls) more = true;
      // The re-check in there closes the window between the last poll and turning interrupts on.
      else if (!this.arm(i)) more = true;
    }
    return more;
  }
}
