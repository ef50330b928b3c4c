// A region: something of a known size that answers loads and stores, such as a BAR, an MSI-X table or a configuration window.

import type { Doorbell } from './doorbell.ts';

export type AccessSize = 1 | 2 | 4;

/**
 * A decoded range. Offsets are relative to the region and inside it, naturally aligned accesses of 1, 2 or 4 bytes; values are unsigned. `read` and
 * `write` never throw, whatever a guest sends. Wider or crossing accesses are split by `readRegion` / `writeRegion`, low half first, in one place.
 */
export interface Region {
  readonly size: number;
  read(offset: number, size: AccessSize): number;
  write(offset: number, size: AccessSize, value: number): void;
  /** The doorbell that a guest thread may ring in place of this very write, if there is one now (a virtqueue notification served by a worker). */
  doorbell?(offset: number, size: AccessSize, value: number): FastDoorbell | undefined;
}

/** A doorbell that stands for a register write, until `doorbell.revoke()` or a change of decoding. */
export interface FastDoorbell {
  readonly doorbell: Doorbell;
  /** address: any value of that size written to this address. value: this value only (several queues behind one address). */
  readonly match: 'address' | 'value';
}

/** All ones of a size: what nobody answering looks like. */
export function allOnes(size: number): number {
  return size >= 4 ? 0xffffffff : 2 ** (8 * size) - 1;
}
