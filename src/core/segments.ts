// A list of pieces of memory, as parallel arrays that are reused: what a descriptor chain resolves to and what a frame consists of.
// No object is made per packet: a piece is an index into the arrays.

import type { Window } from './dma-space.ts';
import { type ByteViews, viewsOf } from './guest-memory.ts';

// Every field starts as a value of its final kind, never undefined, so that the JIT knows what it holds and need not check it (measured: bench/virtqueue.ts).
const NO_INTS = new Int32Array(0);
const NO_FLOATS = new Float64Array(0);

export class SegmentList {
  count = 0;
  readonly capacity: number = 0;
  /** The bytes each segment lies in. */
  readonly views: ByteViews[] = filled<ByteViews>(1, viewsOf(new ArrayBuffer(0)));
  /** Byte offset into those views. */
  readonly offset: Int32Array = NO_INTS;
  /** Length in bytes, at least 1. */
  readonly length: Int32Array = NO_INTS;
  /** Device address, for the dirty log; meaningful where `window` is set. */
  readonly address: Float64Array = NO_FLOATS;
  /** The DMA window the segment was resolved through, or null for host memory. */
  readonly window: (Window | null)[] = filled<Window | null>(1, null);

  constructor(capacity: number, filler: ByteViews) {
    this.capacity = capacity;
    this.views = filled(capacity, filler);
    this.offset = new Int32Array(capacity);
    this.length = new Int32Array(capacity);
    this.address = new Float64Array(capacity);
    this.window = filled<Window | null>(capacity, null);
  }

  /** Appends a segment of host memory. The caller has checked the capacity. */
  addHost(views: ByteViews, offset: number, length: number): void {
    const i = this.count++;
    // As addGuestAt.
    if (this.window[i] !== null || this.views[i] !== views) {
      this.views[i] = views;
      this.window[i] = null;
    }
    this.offset[i] = offset;
    this.length[i] = length;
  }

  /** Appends a segment of guest memory reached through `window`. The caller has checked the capacity. */
  addGuest(window: Window, address: number, length: number): void {
    const i = this.count++;
    this.views[i] = window.slab.views;
    this.offset[i] = address + window.bias;
    this.length[i] = length;
    this.address[i] = address;
    this.window[i] = window;
  }

  /** The same, where the caller has the window's views and the offset in them at hand. */
  addGuestAt(window: Window, views: ByteViews, offset: number, address: number, length: number): void {
    const i = this.count;
    this.count = i + 1;
    // A store of an object tells the garbage collector; a slot nearly always holds the same one already (measured: bench/inline-cost.ts).
    if (this.window[i] !== window || this.views[i] !== views) {
      this.views[i] = views;
      this.window[i] = window;
    }
    this.offset[i] = offset;
    this.length[i] = length;
    this.address[i] = address;
  }

  /** Appends segment `i` of another list. The caller has checked the capacity. */
  addFrom(list: SegmentList, i: number): void {
    const at = this.count++;
    this.views[at] = list.views[i] as ByteViews;
    this.offset[at] = list.offset[i] as number;
    this.length[at] = list.length[i] as number;
    this.address[at] = list.address[i] as number;
    this.window[at] = list.window[i] as Window | null;
  }

  /** Appends `length` bytes of another list that begin `skip` bytes into its segments from `first` on, as host memory. The caller has checked the capacity. */
  addSlice(list: SegmentList, first: number, skip: number, length: number): void {
    let ahead = skip;
    let left = length;
    for (let i = first; left > 0 && i < list.count; i++) {
      const size = list.length[i] as number;
      if (ahead >= size) {
        ahead -= size;
        continue;
      }
      const run = Math.min(size - ahead, left);
      this.addHost(list.views[i] as ByteViews, (list.offset[i] as number) + ahead, run);
      left -= run;
      ahead = 0;
    }
  }

  /** Forgets segments from `count` on. */
  truncate(count: number): void {
    this.count = count;
  }
}

function filled<T>(length: number, value: T): T[] {
  return new Array<T>(length).fill(value);
}
