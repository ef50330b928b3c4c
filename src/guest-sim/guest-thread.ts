// A guest on a thread of its own, as seen by whoever started it: give it jobs, read its progress, end it. Everything that crosses is plain data.

import { Worker } from 'node:worker_threads';
import { Bell } from '#core/doorbell';
import type { GuestBusShare } from '#core/exit-channel';
import type { GuestOptions, GuestReport } from './guest.ts';
import {
  type FromGuest,
  type GuestStart,
  type GuestSummary,
  PROGRESS_JOBS,
  PROGRESS_RECEIVED,
  PROGRESS_SENT,
  PROGRESS_STOP,
  PROGRESS_WORDS,
  type ToGuest,
} from './guest-protocol.ts';
import type { Job } from './workload.ts';

/** The guest could not start, could not do a job, or its thread ended. `code` is the guest's own error code where there is one. */
export class GuestThreadError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'GuestThreadError';
    this.code = code;
  }
}

export interface GuestThreadOptions extends GuestOptions {
  /** Rounds without work before the guest sleeps: more is quicker to react and uses more CPU. Default 50. */
  readonly idleSteps?: number;
}

interface Waiter<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

export class GuestThread {
  readonly summary: GuestSummary;
  readonly #worker: Worker;
  readonly #progress: Int32Array;
  readonly #bell: Bell;
  #waiter: Waiter<GuestReport> | undefined;
  #ended: GuestThreadError | undefined;
  readonly #exited: Promise<void>;

  private constructor(worker: Worker, progress: Int32Array, bell: Bell, summary: GuestSummary) {
    this.#worker = worker;
    this.#progress = progress;
    this.#bell = bell;
    this.summary = summary;
    worker.on('message', (message: FromGuest) => this.#onMessage(message));
    worker.on('error', (error) => this.#end(new GuestThreadError('ERR_GUEST', error.message)));
    this.#exited = new Promise((resolve) => {
      worker.on('exit', (code) => {
        this.#end(new GuestThreadError('ERR_GUEST_GONE', `the guest's thread ended with code ${code}`));
        resolve();
      });
    });
  }

  /** Starts the thread; resolves when the guest has its device up. The machine must be serving exits meanwhile. @throws GuestThreadError (as a rejection) */
  static async start(bus: GuestBusShare, options: GuestThreadOptions = {}): Promise<GuestThread> {
    const { idleSteps = 50, ...guest } = options;
    const progress = new Int32Array(new SharedArrayBuffer(PROGRESS_WORDS * 4));
    const data: GuestStart = { bus, options: guest, progress: progress.buffer as SharedArrayBuffer, idleSteps };
    const worker = new Worker(new URL('./guest-worker.js', import.meta.url), { workerData: data, name: 'guest' });
    const summary = await new Promise<GuestSummary>((resolve, reject) => {
      worker.once('message', (message: FromGuest) => {
        if (message.kind === 'ready') resolve(message.summary);
        else
          reject(
            message.kind === 'failed'
              ? new GuestThreadError(message.code, message.message)
              : new GuestThreadError('ERR_GUEST', 'the guest reported before it was ready'),
          );
      });
      worker.once('error', (error) => reject(new GuestThreadError('ERR_GUEST', error.message)));
      worker.once('exit', (code) => reject(new GuestThreadError('ERR_GUEST_GONE', `the guest's thread ended with code ${code} before it was ready`)));
    }).catch(async (error: unknown) => {
      await worker.terminate();
      throw error;
    });
    return new GuestThread(worker, progress, new Bell(bus.vectors.bell), summary);
  }

  /** Runs one job to its end, or to `stop`. One at a time. @throws GuestThreadError (as a rejection) */
  run(job: Job): Promise<GuestReport> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.#waiter) return Promise.reject(new GuestThreadError('ERR_GUEST_BUSY', 'the guest is running a job: stop it or wait for it'));
    for (const word of [PROGRESS_SENT, PROGRESS_RECEIVED, PROGRESS_STOP]) Atomics.store(this.#progress, word, 0);
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
      this.#worker.postMessage({ kind: 'run', job } satisfies ToGuest);
    });
  }

  /** Ends the running job early: its `run` resolves with what was done by then. */
  stop(): void {
    Atomics.store(this.#progress, PROGRESS_STOP, 1);
    this.#bell.ring();
  }

  /** Of the running job; any time, at no cost to the guest. */
  get framesSent(): number {
    return (this.#progress[PROGRESS_SENT] as number) >>> 0;
  }

  get framesReceived(): number {
    return (this.#progress[PROGRESS_RECEIVED] as number) >>> 0;
  }

  get jobsDone(): number {
    return Atomics.load(this.#progress, PROGRESS_JOBS);
  }

  /** Resets the device and ends the thread. The machine must still be serving exits; when it does not, the thread is terminated after `patience` ms. */
  async close(patience = 5000): Promise<void> {
    if (this.#ended) return;
    this.stop();
    this.#worker.postMessage({ kind: 'close' } satisfies ToGuest);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), patience);
    });
    if ((await Promise.race([this.#exited, late])) === 'late') await this.#worker.terminate();
    clearTimeout(timer);
  }

  #onMessage(message: FromGuest): void {
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (message.kind === 'report') waiter?.resolve(message.report);
    else if (message.kind === 'failed') waiter?.reject(new GuestThreadError(message.code, message.message));
  }

  #end(error: GuestThreadError): void {
    this.#ended ??= error;
    this.#waiter?.reject(this.#ended);
    this.#waiter = undefined;
  }
}
