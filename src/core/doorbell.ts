// A doorbell: a word of shared memory to ring and to wait on, the job an eventfd does between a guest, a VMM and vhost. Several
// doorbells share one *bell*, the word a thread sleeps on, so that a worker serving many queues waits in one place.

/** The word one thread sleeps on. Layout: [rings, sleepers]. Any thread may ring; one thread waits. */
export interface BellShare {
  readonly buffer: SharedArrayBuffer;
  readonly index: number;
}

export class Bell {
  readonly words: Int32Array;
  readonly index: number;

  constructor(share: BellShare = { buffer: new SharedArrayBuffer(8), index: 0 }) {
    this.words = new Int32Array(share.buffer);
    this.index = share.index;
  }

  share(): BellShare {
    return { buffer: this.words.buffer as SharedArrayBuffer, index: this.index };
  }

  /** Wakes the waiter if it sleeps. Returns true when a sleeper had to be woken (the expensive case, worth counting). */
  ring(): boolean {
    Atomics.add(this.words, this.index, 1);
    if (Atomics.load(this.words, this.index + 1) === 0) return false;
    Atomics.notify(this.words, this.index);
    return true;
  }

  /** The ticket to wait with: read it, look for work once more, then wait. A ring in between makes the wait return at once. */
  get ticket(): number {
    return Atomics.load(this.words, this.index);
  }

  /** Sleeps until rung past `ticket` or `timeout` milliseconds. Not on a thread that must not block: use waitAsync there. */
  wait(ticket: number, timeout: number): void {
    Atomics.add(this.words, this.index + 1, 1);
    Atomics.wait(this.words, this.index, ticket, timeout);
    Atomics.sub(this.words, this.index + 1, 1);
  }

  /** The same for a thread with an event loop. A pending wait does not keep a process alive by itself. */
  async waitAsync(ticket: number, timeout: number): Promise<void> {
    Atomics.add(this.words, this.index + 1, 1);
    const result = Atomics.waitAsync(this.words, this.index, ticket, timeout);
    if (result.async) await result.value;
    Atomics.sub(this.words, this.index + 1, 1);
  }
}

/** A doorbell as another thread gets it: its pending word and the bell it rings. */
export interface DoorbellShare {
  readonly buffer: SharedArrayBuffer;
  readonly index: number;
  readonly bell: BellShare;
}

/** One source of work on a bell: ringing sets its pending word, then the bell. */
export class Doorbell {
  readonly bell: Bell;
  readonly #words: Int32Array;
  readonly #index: number;

  constructor(bell: Bell, share?: { buffer: SharedArrayBuffer; index: number }) {
    this.bell = bell;
    this.#words = new Int32Array(share?.buffer ?? new SharedArrayBuffer(4));
    this.#index = share?.index ?? 0;
  }

  static open(share: DoorbellShare): Doorbell {
    return new Doorbell(new Bell(share.bell), share);
  }

  share(): DoorbellShare {
    return { buffer: this.#words.buffer as SharedArrayBuffer, index: this.#index, bell: this.bell.share() };
  }

  /** Returns true when a sleeping thread had to be woken. `value` (not 0) is what `take` returns: the newest one wins. */
  ring(value = 1): boolean {
    // Already pending: the waiter has not looked yet, and will see this ring's work when it does.
    if (Atomics.exchange(this.#words, this.#index, value) !== 0) return false;
    return this.bell.ring();
  }

  get pending(): boolean {
    return Atomics.load(this.#words, this.#index) !== 0;
  }

  /** Clears and returns what was rung (0: nothing). Take first, then look for work: a ring after the take is a new ring. */
  take(): number {
    if (Atomics.load(this.#words, this.#index) === 0) return 0;
    return Atomics.exchange(this.#words, this.#index, 0);
  }
}
