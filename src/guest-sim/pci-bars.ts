// Base address registers: finding out how big they are (PCI 3.0 6.2.5.1) and giving them addresses. A BAR of any kind becomes a `Resource` that the
// allocator in pci-windows.ts places.

import type { ConfigAccess } from './pci-config.ts';

export type ResourceKind = 'io' | 'memory' | 'prefetchable';

export interface Bar {
  readonly index: number;
  readonly io: boolean;
  readonly wide: boolean;
  readonly prefetchable: boolean;
  /** Bytes; for VF BARs the size of one virtual function's. */
  readonly size: number;
  /** Guest-physical address (or port); undefined while no place was found for it. */
  address: number | undefined;
}

/** Something that wants addresses: `place` is told where it went. */
export interface Resource {
  readonly size: number;
  readonly alignment: number;
  place(address: number): void;
}

/** Sizes `count` BAR registers from `first`. The function's decoding must be off (or, for VF BARs, VF Memory Space Enable). */
export function sizeBars(config: ConfigAccess, rid: number, first: number, count: number): Bar[] {
  const bars: Bar[] = [];
  for (let index = 0; index < count; index++) {
    const at = first + 4 * index;
    const low = probe(config, rid, at);
    if (low === 0 || low === 0xffffffff) continue;
    const original = low & 0xf;
    if ((original & 1) === 1) {
      const mask = low & ~3;
      // A BAR with 16 address lines leaves the upper half zero.
      const size = ((~mask >>> 0) & (low > 0xffff ? 0xffffffff : 0xffff)) + 1;
      if (isPowerOfTwo(size)) bars.push({ index, io: true, wide: false, prefetchable: false, size, address: undefined });
      continue;
    }
    const wide = (original & 6) === 4;
    const prefetchable = (original & 8) !== 0;
    const mask = (low & ~15) >>> 0;
    let size: number;
    if (wide) {
      if (index + 1 >= count) continue; // a 64-bit BAR needs a second register
      const high = probe(config, rid, at + 4);
      size = mask !== 0 ? (~mask >>> 0) + 1 : high !== 0 ? ((~high >>> 0) + 1) * 2 ** 32 : 0;
    } else size = mask === 0 ? 0 : (~mask >>> 0) + 1;
    if (size > 0 && isPowerOfTwo(size)) bars.push({ index, io: false, wide, prefetchable, size, address: undefined });
    if (wide) index++;
  }
  return bars;
}

function probe(config: ConfigAccess, rid: number, at: number): number {
  const before = config.read(rid, at, 4);
  config.write(rid, at, 4, 0xffffffff);
  const mask = config.read(rid, at, 4);
  config.write(rid, at, 4, before);
  return mask;
}

function isPowerOfTwo(n: number): boolean {
  return n > 0 && Number.isInteger(Math.log2(n));
}

/** Writes a BAR's address into its register(s) and remembers it. */
export function placeBar(config: ConfigAccess, rid: number, first: number, bar: Bar, address: number): void {
  const at = first + 4 * bar.index;
  config.write(rid, at, 4, address % 2 ** 32);
  if (bar.wide) config.write(rid, at + 4, 4, Math.floor(address / 2 ** 32));
  bar.address = address;
}
