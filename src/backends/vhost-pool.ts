// The threads that data planes run on: a piscina pool with one thread per worker, each taken by one long task.

import { Piscina } from 'piscina';
import type { ToldTime } from '#core/clock';
import { VhostWorker } from './vhost-worker.ts';
import type { PollOptions, RunResult } from './worker-job.ts';

export interface VhostPoolOptions {
  /** Threads, and so workers that can run at a time. Default 1. */
  readonly threads?: number;
  readonly poll?: PollOptions;
  /** The time the workers go by, set by somebody who rings them when it moves (`VhostWorker.callAttention`, `quiesce`). Default: real time. */
  readonly time?: ToldTime;
  /** The module the threads run, for data planes that need more set up in their thread. Its default export is that of data-plane-worker. */
  readonly entry?: URL;
}

/** At most this long, in nanoseconds, is work looked for before sleeping. */
const DEFAULT_POLL: PollOptions = { maximum: 50_000 };

export class VhostPool {
  readonly #pool: Piscina;
  readonly #poll: PollOptions;
  readonly #time: ToldTime | undefined;
  readonly #threads: number;
  readonly #workers: VhostWorker[] = [];

  constructor(options: VhostPoolOptions = {}) {
    this.#threads = options.threads ?? 1;
    this.#poll = options.poll ?? DEFAULT_POLL;
    this.#time = options.time;
    if (!(Number.isInteger(this.#threads) && this.#threads >= 1)) throw new RangeError(`threads ${this.#threads}: at least 1`);
    this.#pool = new Piscina({
      filename: (options.entry ?? new URL('../data-plane-worker.js', import.meta.url)).href,
      minThreads: this.#threads,
      maxThreads: this.#threads,
      concurrentTasksPerWorker: 1,
    });
  }

  /**
   * Starts a worker on a free thread. @throws RangeError when every thread has one.
   * @param journal a TurnJournal's memory that outlives this process, so that another can finish a turn
   */
  worker(journal?: SharedArrayBuffer): VhostWorker {
    if (this.#workers.length === this.#threads) throw new RangeError(`the pool's ${this.#threads} threads all have a worker: make a larger pool`);
    const worker = new VhostWorker((job, transfer) => this.#pool.run(job, { transferList: transfer as never }) as Promise<RunResult>, this.#poll, {
      journal,
      time: this.#time?.buffer,
    });
    this.#workers.push(worker);
    return worker;
  }

  /** Kills the threads, as a crash would: for tests of survival. Workers recover and go on on new ones. */
  async kill(): Promise<void> {
    await Promise.all(this.#pool.threads.map((thread) => thread.terminate()));
  }

  /** Stops every worker, then the threads. */
  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.stop()));
    await this.#pool.destroy();
  }
}
