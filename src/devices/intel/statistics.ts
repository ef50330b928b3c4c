// Statistics that clear when they are read (8254x 13.7), without a race between who counts and who reads: the data plane only ever adds to a running count, the register shows what has been added
// since it was last read. Counts stick at all ones; the octet counters are 64 bits wide and clear when their high half is read.

import { RestoreError } from '#core/saved';

/** What a data plane counts, and in which word. */
export const COUNT = {
  CRCERRS: 0,
  MPC: 1,
  RLEC: 2,
  XONRXC: 3,
  XONTXC: 4,
  XOFFRXC: 5,
  XOFFTXC: 6,
  FCRUC: 7,
  PRC64: 8,
  PRC127: 9,
  PRC255: 10,
  PRC511: 11,
  PRC1023: 12,
  PRC1522: 13,
  GPRC: 14,
  BPRC: 15,
  MPRC: 16,
  GPTC: 17,
  GORC: 18,
  GOTC: 19,
  RNBC: 20,
  RUC: 21,
  RFC: 22,
  RJC: 23,
  ROC: 24,
  TOR: 25,
  TOT: 26,
  TPR: 27,
  TPT: 28,
  PTC64: 29,
  PTC127: 30,
  PTC255: 31,
  PTC511: 32,
  PTC1023: 33,
  PTC1522: 34,
  MPTC: 35,
  BPTC: 36,
  TSCTC: 37,
  TSCTFC: 38,
} as const;

export const COUNTED = Object.keys(COUNT) as readonly (keyof typeof COUNT)[];

const LIMIT_32 = 0xffff_ffff;
const LIMIT_64 = 2 ** 53;

export class Statistics {
  /** Running counts, perhaps shared with the thread that adds to them. */
  readonly running: Float64Array;
  readonly #taken: Float64Array;

  constructor(running: Float64Array) {
    this.running = running;
    this.#taken = new Float64Array(running.length);
  }

  /** Counted since the register was last cleared. */
  value(count: number): number {
    return (this.running[count] as number) - (this.#taken[count] as number);
  }

  /** As a 32-bit register shows it. */
  register(count: number): number {
    return Math.min(this.value(count), LIMIT_32);
  }

  low(count: number): number {
    return this.value(count) % 2 ** 32;
  }

  high(count: number): number {
    return Math.floor(Math.min(this.value(count), LIMIT_64) / 2 ** 32);
  }

  /** After a read: what was shown is gone. Counts that came in since it was shown stay only where nothing else runs; a register is a moment's picture. */
  clear(count: number): void {
    this.#taken[count] = this.running[count] as number;
  }

  clearAll(): void {
    this.#taken.set(this.running);
  }

  save(): number[] {
    return Array.from(this.running, (_, i) => this.value(i));
  }

  /** @throws RestoreError, having changed nothing */
  check(saved: unknown): asserts saved is number[] {
    const fits = Array.isArray(saved) && saved.length === this.running.length && saved.every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!fits) throw new RestoreError(`saved statistics need ${this.running.length} counts`);
  }

  restore(saved: readonly number[]): void {
    saved.forEach((count, i) => {
      this.#taken[i] = (this.running[i] as number) - count;
    });
  }
}

/** Adds one frame of `length` octets, FCS included, to the six size counters from `first` on. */
export function countSize(running: Float64Array, first: number, length: number, frames = 1): void {
  const size = length <= 64 ? 0 : length < 128 ? 1 : length < 256 ? 2 : length < 512 ? 3 : length < 1024 ? 4 : 5;
  running[first + size] = (running[first + size] as number) + frames;
}

export function count(running: Float64Array, which: number, by = 1): void {
  running[which] = (running[which] as number) + by;
}

/** The destination, at `at`. */
export function isBroadcast(bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < 6; i++) if (bytes[at + i] !== 0xff) return false;
  return true;
}
