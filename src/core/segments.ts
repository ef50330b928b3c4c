// A list of pieces of memory, as parallel arrays that are reused: what a descriptor chain resolves to and what a frame consists of.
// No object is made per packet: a piece is an index into the arrays.

import type { Window } from './dma-space.ts';
import type { ByteViews } from './guest-memory.ts';

export class SegmentList {
  count = 0;
  readonly capacity: number;
  /** The bytes each segment lies in. */
  readonly views: ByteViews[];
  /** Byte offset into those views. */
  readonly offset: Int32Array;
  /** Length in bytes, at least 1. */
  readonly length: Int32Array;
  /** Device address, for the dirty log; meaningful where `window` is set. */
  readonly address: Float64Array;
  /** The DMA window the segment was resolved through, or null for host memory. */
  readonly window: (Window | null)[];

  constructor(capacity: number, filler: ByteViews) {
    this.capacity = capacity;
    this.views = new Array<ByteViews>(capacity).fill(filler);
    this.offset = new Int32Array(capacity);
    this.length = new Int32Array(capacity);
    this.address = new Float64Array(capacity);
    this.window = new Array<Window | null>(capacity).fill(null);
  }

  /** Appends a segment of host memory. The caller has checked the capacity. */
  addHost(views: ByteViews, offset: number, length: number): void {
    const i = this.count++;
    this.views[i] = views;
    this.offset[i] = offset;
    this.length[i] = length;
    this.window[i] = null;
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

  /** Forgets segments from `count` on. */
  truncate(count: number): void {
    this.count = count;
  }
}
