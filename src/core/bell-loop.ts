// Serves what rings a bell on a thread that has an event loop: exits of guest threads, relayed interrupts, workers' events. It looks at its sources,
// goes on looking for a moment (the next exit is rarely far), then sleeps in the event loop until rung.

import { Bell, Doorbell } from './doorbell.ts';

/** Looks for work and does it; says whether there was any. Must not throw: what it throws ends the loop and rejects `done`. */
export type BellSource = () => boolean;

export interface BellLoopOptions {
  /** How long to look on after the last work before sleeping, in milliseconds. */
  readonly poll?: number;
  /** How long to serve without a pause before letting the event loop run, in milliseconds. */
  readonly turn?: number;
}

const immediate: ((callback: () => void) => void) | undefined = (globalThis as { setImmediate?: (callback: () => void) => void }).setImmediate;

/** Lets timers and messages be handled: setImmediate where it exists, else a message to itself (browsers delay nested timeouts by 4 ms). */
function breathe(): Promise<void> {
  return new Promise((resolve) => {
    if (immediate !== undefined) {
      immediate(resolve);
      return;
    }
    const { port1, port2 } = new MessageChannel();
    (port1 as { onmessage?: () => void }).onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/**
 * One bell and the sources behind it. Runs from construction to `close()`; sources may come and go meanwhile. It keeps no process alive.
 */
export class BellLoop {
  readonly bell = new Bell();
  /** Settles after `close()`; rejects with what a source threw. */
  readonly done: Promise<void>;
  #sources: BellSource[] = [];
  #closed = false;
  readonly #poll: number;
  readonly #turn: number;

  constructor(options: BellLoopOptions = {}) {
    this.#poll = options.poll ?? 0.03;
    this.#turn = options.turn ?? 2;
    this.done = this.#run();
  }

  /** Adds a source; returns a function that removes it. It is looked at at least once. */
  add(source: BellSource): () => void {
    this.#sources = [...this.#sources, source];
    this.bell.ring();
    return () => {
      this.#sources = this.#sources.filter((s) => s !== source);
    };
  }

  /** A doorbell of this loop: `handle` runs on this thread, with the rung value, after any thread rang it. */
  doorbell(handle: (value: number) => void): { readonly doorbell: Doorbell; readonly remove: () => void } {
    const doorbell = new Doorbell(this.bell);
    const remove = this.add(() => {
      const value = doorbell.take();
      if (value === 0) return false;
      handle(value);
      return true;
    });
    return { doorbell, remove };
  }

  /** Serves what is there now, on the caller's stack: for a thread that waits synchronously for something a source brings. */
  runOnce(): boolean {
    let worked = false;
    for (const source of this.#sources) if (source()) worked = true;
    return worked;
  }

  close(): void {
    this.#closed = true;
    this.#sources = [];
    this.bell.ring();
  }

  async #run(): Promise<void> {
    // First turn: whoever made the loop adds its sources before anything is looked at.
    await Promise.resolve();
    let rested = performance.now();
    while (!this.#closed) {
      const ticket = this.bell.ticket;
      const more = this.#serve();
      if (this.#closed) return;
      // Also when each look found the work done but the bell rung again: a wait that does not wait gives timers no turn.
      if (more || performance.now() - rested > this.#turn) {
        await breathe();
        rested = performance.now();
      }
      if (more || this.bell.ticket !== ticket) continue;
      await this.bell.waitAsync(ticket);
      rested = performance.now();
    }
  }

  /** Serves until idle for the poll time (false) or until the turn is over (true). */
  #serve(): boolean {
    if (!this.runOnce()) return false;
    const start = performance.now();
    let idleSince = start;
    for (;;) {
      // Several looks a clock reading: the clock costs as much as a dozen looks.
      let worked = false;
      for (let look = 0; look < 16; look++) if (this.runOnce()) worked = true;
      const now = performance.now();
      if (worked) idleSince = now;
      if (this.#closed || now - idleSince > this.#poll) return false;
      if (now - start > this.#turn) return true;
    }
  }
}
