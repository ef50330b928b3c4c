// Statistics that clear when they are read (8254x 13.7), without a race between who counts and who reads: the data plane only ever adds to a running count, the register shows what has been added
// since it was last read. Counts stick at all ones; the octet counters are 64 bits wide and clear when their high half is read.

import { RestoreError } from '#core/saved';

/** What a data plane counts; the order is that of the words. */
export const COUNTED = [
  'CRCERRS',
  'MPC',
  'RLEC',
  'XONRXC',
  'XONTXC',
  'XOFFRXC',
  'XOFFTXC',
  'FCRUC',
  'PRC64',
  'PRC127',
  'PRC255',
  'PRC511',
  'PRC1023',
  'PRC1522',
  'GPRC',
  'BPRC',
  'MPRC',
  'GPTC',
  'GORC',
  'GOTC',
  'RNBC',
  'RUC',
  'RFC',
  'RJC',
  'ROC',
  'TOR',
  'TOT',
  'TPR',
  'TPT',
  'PTC64',
  'PTC127',
  'PTC255',
  'PTC511',
  'PTC1023',
  'PTC1522',
  'MPTC',
  'BPTC',
  'TSCTC',
  'TSCTFC',
] as const;
type Counted = (typeof COUNTED)[number];

/** Index of each count. */
export const COUNT = Object.fromEntries(COUNTED.map((name, i) => [name, i])) as Readonly<Record<Counted, number>>;

const LIMIT_32 = 0xffff_ffff;
const LIMIT_64 = 2 ** 53;

export class Statistics {
  /** Running counts, perhaps shared with the thread that adds to them. */
  readonly running: Float64Array;
  readonly #taken = new Float64Array(COUNTED.length);

  constructor(running: Float64Array) {
    this.running = running;
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
    const fits = Array.isArray(saved) && saved.length === COUNTED.length && saved.every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!fits) throw new RestoreError(`saved statistics need ${COUNTED.length} counts`);
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
