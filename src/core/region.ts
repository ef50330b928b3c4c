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

/** True when [offset, offset + size) lies inside: offsets that are no whole numbers do not. */
function inside(region: Region, offset: number, size: number): boolean {
  return Number.isInteger(offset) && offset >= 0 && offset + size <= region.size;
}

/** The widest naturally aligned access that `left` bytes at `offset` can go on with. */
export function widestPiece(offset: number, left: number): AccessSize {
  if ((offset & 3) === 0 && left >= 4) return 4;
  return (offset & 1) === 0 && left >= 2 ? 2 : 1;
}

/** The widest aligned piece inside the region an access of `left` bytes at `offset` can go on with; a byte outside it. */
function pieceAt(region: Region, offset: number, left: number): AccessSize {
  if ((offset & 3) === 0 && left >= 4 && inside(region, offset, 4)) return 4;
  if ((offset & 1) === 0 && left >= 2 && inside(region, offset, 2)) return 2;
  return 1;
}

/**
 * A load of any alignment. Aligned and inside: one `read`. Unaligned: the aligned pieces it consists of, lowest address first. Bytes outside the region are all
 * ones. A load of 8 bytes is two of 4, low half first, at `offset` and `offset + 4`.
 */
export function readRegion(region: Region, offset: number, size: AccessSize): number {
  if ((offset & (size - 1)) === 0 && inside(region, offset, size)) return region.read(offset, size) >>> 0;
  if (!Number.isInteger(offset)) return allOnes(size);
  let value = 0;
  for (let done = 0; done < size; ) {
    const piece = pieceAt(region, offset + done, size - done);
    const bits = inside(region, offset + done, piece) ? region.read(offset + done, piece) & allOnes(piece) : allOnes(piece);
    value |= bits << (8 * done);
    done += piece;
  }
  return value >>> 0;
}

/** A store of any alignment, split as `readRegion` splits loads. Bytes outside the region are dropped. */
export function writeRegion(region: Region, offset: number, size: AccessSize, value: number): void {
  if ((offset & (size - 1)) === 0 && inside(region, offset, size)) {
    region.write(offset, size, (value & allOnes(size)) >>> 0);
    return;
  }
  if (!Number.isInteger(offset)) return;
  for (let done = 0; done < size; ) {
    const piece = pieceAt(region, offset + done, size - done);
    if (inside(region, offset + done, piece)) region.write(offset + done, piece, ((value >>> (8 * done)) & allOnes(piece)) >>> 0);
    done += piece;
  }
}
