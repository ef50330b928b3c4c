// Interrupts between threads: the guest's pending vectors (a local APIC's IRR, 256 bits in shared memory) and the call, which is what a data plane
// signals (an irqfd): straight into the pending vectors when the route allows it, otherwise through the machine's thread.

import { Bell, type BellShare, Doorbell, type DoorbellShare } from './doorbell.ts';
import { allocateWords } from './word-arena.ts';

export interface PendingVectorsShare {
  readonly buffer: SharedArrayBuffer;
  readonly index: number;
  readonly bell: BellShare;
}

const VECTOR_WORDS = 8;

/** 256 pending interrupt vectors of one guest CPU. Posting is idempotent until taken, as in an APIC. */
export class PendingVectors {
  readonly bell: Bell;
  readonly words: Int32Array;
  readonly index: number;

  constructor(bell: Bell = new Bell(), share?: { buffer: SharedArrayBuffer; index: number }) {
    this.bell = bell;
    const { buffer, index } = share ?? allocateWords();
    this.words = new Int32Array(buffer);
    this.index = index;
  }

  static open(share: PendingVectorsShare): PendingVectors {
    return new PendingVectors(new Bell(share.bell), share);
  }

  share(): PendingVectorsShare {
    return { buffer: this.words.buffer as SharedArrayBuffer, index: this.index, bell: this.bell.share() };
  }

  /** Marks `vector` pending. Returns true when the CPU slept and had to be woken. */
  post(vector: number): boolean {
    const word = this.index + ((vector & 0xff) >>> 5);
    const bit = 1 << (vector & 31);
    if ((Atomics.or(this.words, word, bit) & bit) !== 0) return false;
    return this.bell.ring();
  }

  /** Takes the highest pending vector, or -1. */
  take(): number {
    for (let i = VECTOR_WORDS - 1; i >= 0; i--) {
      const bits = Atomics.load(this.words, this.index + i);
      if (bits === 0) continue;
      const bit = 31 - Math.clz32(bits);
      Atomics.and(this.words, this.index + i, ~(1 << bit));
      return i * 32 + bit;
    }
    return -1;
  }

  /** The pending bits, as eight words. */
  save(): number[] {
    return Array.from({ length: VECTOR_WORDS }, (_, i) => Atomics.load(this.words, this.index + i) >>> 0);
  }

  /** Replaces the pending bits; the CPU looks again if it sleeps. */
  load(words: readonly number[]): void {
    for (let i = 0; i < VECTOR_WORDS; i++) Atomics.store(this.words, this.index + i, words[i] ?? 0);
    this.bell.ring();
  }

  get any(): boolean {
    for (let i = 0; i < VECTOR_WORDS; i++) if (Atomics.load(this.words, this.index + i) !== 0) return true;
    return false;
  }
}

/** The levels of the root's four legacy interrupts, bits of one word, readable by any thread. A rising line makes its vector pending; a level has no other memory. */
export class IntxLines {
  readonly buffer: SharedArrayBuffer;
  readonly #levels: Int32Array;

  constructor(buffer = new SharedArrayBuffer(4)) {
    this.buffer = buffer;
    this.#levels = new Int32Array(buffer);
  }

  /** The platform's wire changed. Idempotent; returns true when it rose just now. */
  set(line: number, asserted: boolean): boolean {
    const bit = 1 << (line & 3);
    if (!asserted) {
      Atomics.and(this.#levels, 0, ~bit);
      return false;
    }
    return (Atomics.or(this.#levels, 0, bit) & bit) === 0;
  }

  /** A level-triggered interrupt is due as long as this is true: look again after serving it. */
  asserted(line: number): boolean {
    return (Atomics.load(this.#levels, 0) & (1 << (line & 3))) !== 0;
  }

  /** One of the four is. */
  get any(): boolean {
    return Atomics.load(this.#levels, 0) !== 0;
  }
}

const CALL_OFF = 0;
const CALL_DIRECT = 1;
const CALL_RELAY = 2;
const CALL_EVENT = 3;

let writeEvent: (descriptor: number) => void = () => {};

/** What this thread signals a Call by that is routed to an event descriptor of the operating system (an eventfd). Without one such signals are lost. */
export function setEventWriter(write: (descriptor: number) => void): void {
  writeEvent = write;
}

export interface CallShare {
  readonly state: SharedArrayBuffer;
  readonly relay: DoorbellShare;
  readonly target: PendingVectorsShare | null;
}

/**
 * A virtqueue's interrupt as a data plane sees it. The machine's thread routes it as the guest programs and masks MSI-X; any thread signals it.
 * Words: [mode, vector or descriptor, signals, wakes].
 */
export class Call {
  readonly #state: Int32Array;
  readonly #relay: Doorbell;
  readonly #target: PendingVectors | null;

  /** @param relay rung when the machine's thread has to deliver it. @param target where direct signals go, if the platform has such a place. */
  constructor(relay: Doorbell, target: PendingVectors | null, state = new SharedArrayBuffer(16)) {
    this.#state = new Int32Array(state);
    this.#relay = relay;
    this.#target = target;
  }

  static open(share: CallShare): Call {
    return new Call(Doorbell.open(share.relay), share.target && PendingVectors.open(share.target), share.state);
  }

  share(): CallShare {
    return { state: this.#state.buffer as SharedArrayBuffer, relay: this.#relay.share(), target: this.#target?.share() ?? null };
  }

  /** No interrupt is wanted (no vector assigned). */
  routeOff(): void {
    Atomics.store(this.#state, 0, CALL_OFF);
  }

  /** Signals become `vector` pending at the target. Falls back to the relay when there is no target. */
  routeDirect(vector: number): void {
    if (this.#target === null) {
      this.routeRelay();
      return;
    }
    Atomics.store(this.#state, 1, vector);
    Atomics.store(this.#state, 0, CALL_DIRECT);
  }

  /** Signals ring the machine's thread, which raises what the function's present mode says (INTx, a masked vector's pending bit). */
  routeRelay(): void {
    Atomics.store(this.#state, 0, CALL_RELAY);
  }

  /** Signals are written to an event descriptor that a foreign program waits on. Whoever closes it routes the call elsewhere first, between two turns of who signals. */
  routeEvent(descriptor: number): void {
    Atomics.store(this.#state, 1, descriptor);
    Atomics.store(this.#state, 0, CALL_EVENT);
  }

  /** Interrupts the guest (any thread). */
  signal(): void {
    const mode = Atomics.load(this.#state, 0);
    if (mode === CALL_OFF) return;
    Atomics.add(this.#state, 2, 1);
    if (mode === CALL_EVENT) {
      writeEvent(Atomics.load(this.#state, 1));
      return;
    }
    const woke = mode === CALL_DIRECT ? (this.#target as PendingVectors).post(Atomics.load(this.#state, 1)) : this.#relay.ring();
    if (woke) Atomics.add(this.#state, 3, 1);
  }

  /** Signals on behalf of a thread that died, perhaps between marking the interrupt pending and waking who takes it: wakes in any case. */
  repeat(): void {
    this.signal();
    if (this.#target !== null) this.#target.bell.ring();
    this.#relay.bell.ring();
  }

  /** Signals sent, and how many of them had to wake a sleeping thread. */
  get counts(): { signals: number; wakes: number } {
    return { signals: Atomics.load(this.#state, 2), wakes: Atomics.load(this.#state, 3) };
  }
}
