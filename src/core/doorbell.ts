// A doorbell: a word of shared memory to ring and to wait on, the job an eventfd does between a guest, a VMM and vhost. Several
// doorbells share one *bell*, the word a thread sleeps on, so that a worker serving many queues waits in one place.

import { allocateQuietWord, allocateWords, LINE_WORDS, type SharedWords } from './word-arena.ts';

/** The word one thread sleeps on. Layout: [rings, sleepers, pending words of its first doorbells]. Any thread may ring; one thread waits. */
export interface BellShare {
  readonly buffer: SharedArrayBuffer;
  readonly index: number;
}

export class Bell {
  readonly words: Int32Array;
  readonly index: number;
  /** Words of the line given out. Who opened the bell from a share gives out none. */
  #used: number;

  /** A new bell, or one opened from another thread's share. */
  constructor(share?: BellShare) {
    const { buffer, index } = share ?? allocateWords();
    this.words = new Int32Array(buffer);
    this.index = index;
    this.#used = share === undefined ? 2 : LINE_WORDS;
  }

  /** A word for what is written right before `ring`: in the bell's own line while there is room, as each line that a polling thread has to give up costs the ringer some 50 ns. */
  allocateWord(): SharedWords {
    if (this.#used === LINE_WORDS) return allocateWords();
    return { buffer: this.words.buffer as SharedArrayBuffer, index: this.index + this.#used++ };
  }

  share(): BellShare {
    return { buffer: this.words.buffer as SharedArrayBuffer, index: this.index };
  }

  /** Wakes the waiter if it sleeps. Returns true when a sleeper had to be woken (the expensive case, worth counting). */
  ring(): boolean {
    Atomics.add(this.words, this.index, 1);
    if (Atomics.load(this.words, this.index + 1) === 0) return false;
    return Atomics.notify(this.words, this.index) > 0;
  }

  /** The thread that slept here is dead: it will not take its mark away itself. */
  forgetSleepers(): void {
    Atomics.store(this.words, this.index + 1, 0);
  }

  /** The ticket to wait with: read it, look for work once more, then wait. A ring in between makes the wait return at once. */
  get ticket(): number {
    return Atomics.load(this.words, this.index);
  }

  /** Sleeps until rung past `ticket` or `timeout` milliseconds. Not on a thread that must not block: use waitAsync there. */
  wait(ticket: number, timeout = Infinity): void {
    Atomics.add(this.words, this.index + 1, 1);
    Atomics.wait(this.words, this.index, ticket, timeout);
    Atomics.sub(this.words, this.index + 1, 1);
  }

  /**
   * The same for a thread with an event loop. A pending wait does not keep a process alive by itself. Prefer no timeout in a loop: an engine keeps each timed
   * wait's timer until it expires, woken or not.
   */
  async waitAsync(ticket: number, timeout = Infinity): Promise<void> {
    Atomics.add(this.words, this.index + 1, 1);
    const result = Atomics.waitAsync(this.words, this.index, ticket, timeout);
    if (result.async) await result.value;
    Atomics.sub(this.words, this.index + 1, 1);
  }
}

/** A doorbell as another thread gets it: its words and the bell it rings. */
export interface DoorbellShare {
  readonly pending: SharedWords;
  readonly revocations: SharedWords;
  readonly bell: BellShare;
}

/** One source of work on a bell: ringing sets its pending word, then the bell. How often it was revoked is elsewhere: whoever rings looks at that first, and does not wait for it. */
export class Doorbell {
  readonly bell: Bell;
  readonly #words: Int32Array;
  readonly #index: number;
  readonly #revoked: Int32Array;
  readonly #revocations: number;

  constructor(bell: Bell, share?: Omit<DoorbellShare, 'bell'>) {
    const pending = share?.pending ?? bell.allocateWord();
    const revocations = share?.revocations ?? allocateQuietWord();
    this.bell = bell;
    this.#words = new Int32Array(pending.buffer);
    this.#index = pending.index;
    this.#revoked = new Int32Array(revocations.buffer);
    this.#revocations = revocations.index;
  }

  static open(share: DoorbellShare): Doorbell {
    return new Doorbell(new Bell(share.bell), share);
  }

  share(): DoorbellShare {
    return {
      pending: { buffer: this.#words.buffer as SharedArrayBuffer, index: this.#index },
      revocations: { buffer: this.#revoked.buffer as SharedArrayBuffer, index: this.#revocations },
      bell: this.bell.share(),
    };
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

  /** Moves with every `revoke`. */
  get revocations(): number {
    return Atomics.load(this.#revoked, this.#revocations);
  }

  /**
   * Tells guest threads that ring this doorbell in place of a register write (fast kicks) to stop and go through the register again. Whoever
   * gives the queue behind it to somebody else calls this *before* the new owner looks at the queue for the first time: then a kick is
   * either seen by that look or made again through the register.
   */
  revoke(): void {
    Atomics.add(this.#revoked, this.#revocations, 1);
  }
}
