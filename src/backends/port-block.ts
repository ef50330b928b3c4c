// What the host and the thread that serves a port share about its rings: one block of shared words per port. The host writes what it wants of each ring, the
// serving thread what has become of it; positions are written only where both sides of a ring agree (between turns), so a dead thread leaves them true.
//
// Layout: a port header of 16 words, then one record of 32 words a ring.
//   header: 0 DMA reader + 1 of the serving thread, 1 whether a driver is expected to come back
//   record: 0 wanted (0: stopped, else the number of the start), 1 taken up (number of the start last looked at), 2 state, 3 available, 4 used,
//           then float64 counters from word 8: kicks, calls, chains, sleeps

import type { VringPosition } from '#virtio/virtqueue';

export const RING_STOPPED = 0;
export const RING_RUNNING = 1;
export const RING_BROKEN = 2;

const HEADER_WORDS = 16;
const READER = 0;
const EXPECTED = 1;
const RECORD_WORDS = 32;
const WANTED = 0;
const TAKEN = 1;
const STATE = 2;
const AVAILABLE = 3;
const USED = 4;
const COUNTERS = 8;
const KICKS = 0;
const CALLS = 1;
const CHAINS = 2;
const ARMS = 3;

/** Live numbers of one ring. */
export interface RingStatistics {
  /** Notifications from the driver that reached the data plane. */
  readonly kicks: number;
  /** Interrupts asked for. */
  readonly calls: number;
  /** Chains returned to the driver. */
  readonly chains: number;
  /** Times the data plane asked for kicks because it ran out of work here. */
  readonly arms: number;
}

/** One ring's record. The serving thread and the host each open their own. */
export class RingRecord {
  readonly #words: Int32Array;
  readonly #counters: Float64Array;
  readonly #base: number;

  constructor(buffer: SharedArrayBuffer, index: number) {
    this.#base = HEADER_WORDS + index * RECORD_WORDS;
    this.#words = new Int32Array(buffer);
    this.#counters = new Float64Array(buffer, (this.#base + COUNTERS) * 4, (RECORD_WORDS - COUNTERS) / 2);
  }

  /** Number of the start the host wants served; 0: the ring is to be stopped. */
  get wanted(): number {
    return Atomics.load(this.#words, this.#base + WANTED);
  }
  set wanted(start: number) {
    Atomics.store(this.#words, this.#base + WANTED, start);
  }

  /** Number of the newest start the serving thread has looked at: with state not running, that start is over. */
  get taken(): number {
    return Atomics.load(this.#words, this.#base + TAKEN);
  }
  set taken(start: number) {
    Atomics.store(this.#words, this.#base + TAKEN, start);
  }

  get state(): number {
    return Atomics.load(this.#words, this.#base + STATE);
  }
  set state(state: number) {
    Atomics.store(this.#words, this.#base + STATE, state);
  }

  get available(): number {
    return this.#words[this.#base + AVAILABLE] as number;
  }

  get used(): number {
    return this.#words[this.#base + USED] as number;
  }

  get position(): VringPosition {
    return { available: Atomics.load(this.#words, this.#base + AVAILABLE), used: Atomics.load(this.#words, this.#base + USED) };
  }

  setPosition(available: number, used: number): void {
    this.#words[this.#base + AVAILABLE] = available;
    this.#words[this.#base + USED] = used;
  }

  addKick(): void {
    this.#add(KICKS, 1);
  }

  addCall(): void {
    this.#add(CALLS, 1);
  }

  addChains(count: number): void {
    this.#add(CHAINS, count);
  }

  addArm(): void {
    this.#add(ARMS, 1);
  }

  get statistics(): RingStatistics {
    const c = this.#counters;
    return { kicks: c[KICKS] as number, calls: c[CALLS] as number, chains: c[CHAINS] as number, arms: c[ARMS] as number };
  }

  #add(counter: number, amount: number): void {
    this.#counters[counter] = (this.#counters[counter] as number) + amount;
  }
}

/** The block of one port of `rings` rings. */
export class PortBlock {
  readonly buffer: SharedArrayBuffer;
  readonly rings: number;
  readonly records: readonly RingRecord[];
  readonly #words: Int32Array;

  constructor(rings: number, buffer = new SharedArrayBuffer((HEADER_WORDS + rings * RECORD_WORDS) * 4)) {
    this.buffer = buffer;
    this.rings = rings;
    this.#words = new Int32Array(buffer);
    this.records = Array.from({ length: rings }, (_, index) => new RingRecord(buffer, index));
  }

  /** The driver is away for a moment: what is sent to it is held, not dropped. */
  get expected(): boolean {
    return Atomics.load(this.#words, EXPECTED) !== 0;
  }
  set expected(expected: boolean) {
    Atomics.store(this.#words, EXPECTED, expected ? 1 : 0);
  }

  /** What the serving thread is as a DMA reader, or -1: what to expel when it dies. */
  get reader(): number {
    return Atomics.load(this.#words, READER) - 1;
  }
  set reader(reader: number) {
    Atomics.store(this.#words, READER, reader + 1);
  }
}
