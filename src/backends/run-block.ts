// What a worker's host and its run share: one block per worker. The host asks for attention; the worker counts what it does.
//
// Layout: int32 words 0 attention (moves with every change the worker has to look at), 1 stop, 2 the attention it last rested at, then from byte 64 float64 counters: turns, sleeps, polls that
// found nothing, nanoseconds the poll budget stands at.

/** Live numbers of one worker. */
export interface WorkerStatistics {
  /** Rounds over its segments. */
  readonly turns: number;
  /** Times it slept, to be woken by a kick. */
  readonly sleeps: number;
  /** Rounds that found nothing to do. */
  readonly emptyTurns: number;
  /** How long it polls at present before it sleeps, in nanoseconds. */
  readonly pollBudget: number;
}

const ATTENTION = 0;
const STOP = 1;
const RESTED = 2;
const COUNTERS_AT = 64;
const TURNS = 0;
const SLEEPS = 1;
const EMPTY = 2;
const BUDGET = 3;

export class RunBlock {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #counters: Float64Array;

  constructor(buffer = new SharedArrayBuffer(COUNTERS_AT + 64)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
    this.#counters = new Float64Array(buffer, COUNTERS_AT);
  }

  get attention(): number {
    return Atomics.load(this.#words, ATTENTION);
  }

  /** Makes the worker look at its messages, the wanted states and the policies. Ring its bell afterwards. Returns the new attention. */
  callAttention(): number {
    return (Atomics.add(this.#words, ATTENTION, 1) + 1) | 0;
  }

  /** The worker found nothing to do after it had acted on this attention, and on what was rung before it. */
  rested(attention: number): void {
    if (Atomics.load(this.#words, RESTED) === attention) return;
    Atomics.store(this.#words, RESTED, attention);
    Atomics.notify(this.#words, RESTED);
  }

  /** Until the worker has rested at this attention or a later one. */
  async rest(attention: number): Promise<void> {
    for (;;) {
      const rested = Atomics.load(this.#words, RESTED);
      if (((rested - attention) | 0) >= 0) return;
      const wait = Atomics.waitAsync(this.#words, RESTED, rested);
      if (wait.async) await wait.value;
    }
  }

  get stop(): boolean {
    return Atomics.load(this.#words, STOP) !== 0;
  }
  set stop(on: boolean) {
    Atomics.store(this.#words, STOP, on ? 1 : 0);
  }

  counted(turns: number, sleeps: number, emptyTurns: number, pollBudget: number): void {
    const c = this.#counters;
    c[TURNS] = turns;
    c[SLEEPS] = sleeps;
    c[EMPTY] = emptyTurns;
    c[BUDGET] = pollBudget;
  }

  get statistics(): WorkerStatistics {
    const c = this.#counters;
    return { turns: c[TURNS] as number, sleeps: c[SLEEPS] as number, emptyTurns: c[EMPTY] as number, pollBudget: c[BUDGET] as number };
  }
}
