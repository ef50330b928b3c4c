// Starts test/core/worker.mjs and waits, boundedly, for how far it is.
import { Worker } from 'node:worker_threads';

export class Thread {
  readonly words = new Int32Array(new SharedArrayBuffer(64));
  readonly worker: Worker;

  constructor(task: string, data: Record<string, unknown>) {
    this.worker = new Worker(new URL('./worker.mjs', import.meta.url), { workerData: { task, words: this.words.buffer, ...data } });
  }

  /** Blocks this thread until the other has reached `step`. */
  reached(step: number): void {
    const deadline = performance.now() + 10_000;
    for (;;) {
      const now = Atomics.load(this.words, 0);
      if (now >= step) return;
      if (performance.now() > deadline) throw new Error(`waited 10 s for the worker to reach step ${step}; it is at ${now}`);
      Atomics.wait(this.words, 0, now, 1000);
    }
  }

  /** Lets the other thread go on to `step`. */
  release(step: number): void {
    Atomics.store(this.words, 1, step);
    Atomics.notify(this.words, 1);
  }

  async message<T>(milliseconds = 25_000): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`waited ${milliseconds} ms for a message of the worker`)), milliseconds);
      this.worker.once('message', (m: T) => {
        clearTimeout(timer);
        resolve(m);
      });
      this.worker.once('error', reject);
    });
  }

  async end(): Promise<void> {
    await this.worker.terminate();
  }
}
