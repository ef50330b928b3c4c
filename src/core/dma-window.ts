// What a device's addresses are in this thread's views of memory: a table of windows, made from mappings (or from none: identity). A window never crosses slabs, so that an offset in one is
// a small integer.

import { DMA_READ, DMA_WRITE } from './dma-table.ts';
import { ADDRESS_LIMIT, type GuestMemory, type Slab, viewsOf } from './guest-memory.ts';

/** A run of device addresses that lies in one slab: `offset = address - start + bias` indexes its views. */
export interface Window {
  readonly start: number;
  readonly end: number;
  /** Add to a device address for the slab's byte offset. */
  readonly bias: number;
  /** Add to a device address for the guest-physical address. */
  readonly guestBias: number;
  /** Add to a device address for the place in the dirty log. */
  readonly dirtyBias: number;
  readonly permissions: number;
  readonly slab: Slab;
}

/** Holds no address. */
export const NO_WINDOW: Window = {
  start: 1,
  end: 0,
  bias: 0,
  guestBias: 0,
  dirtyBias: 0,
  permissions: 0,
  slab: { base: 0, size: 0, dirtyOffset: 0, views: viewsOf(new ArrayBuffer(0)) },
};

/** By ascending address. @param entries iova, size, address and permissions of each mapping, by ascending iova; undefined: identity */
export function windowsOf(memory: GuestMemory, entries: Float64Array | undefined): Window[] {
  const windows: Window[] = [];
  if (entries === undefined) pushMapping(windows, memory, 0, ADDRESS_LIMIT, 0, DMA_READ | DMA_WRITE);
  else
    for (let i = 0; i < entries.length; i += 4)
      pushMapping(windows, memory, entries[i] as number, entries[i + 1] as number, entries[i + 2] as number, entries[i + 3] as number);
  return windows;
}

/** Appends the windows of one mapping: a mapping over several slabs needs several, and where no RAM is there is none. */
function pushMapping(windows: Window[], memory: GuestMemory, iova: number, size: number, address: number, permissions: number): void {
  const guestBias = address - iova;
  for (const slab of memory.slabs) {
    const from = Math.max(address, slab.base);
    const to = Math.min(address + size, slab.base + slab.size);
    if (from >= to) continue;
    const previous = windows[windows.length - 1];
    if (previous && previous.end === from - guestBias && previous.guestBias === guestBias && previous.permissions === permissions && previous.slab === slab) {
      windows[windows.length - 1] = { ...previous, end: to - guestBias };
      continue;
    }
    const bias = guestBias - slab.base;
    windows.push({ start: from - guestBias, end: to - guestBias, bias, guestBias, dirtyBias: bias + slab.dirtyOffset, permissions, slab });
  }
}
