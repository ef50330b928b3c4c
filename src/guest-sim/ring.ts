// What a driver does with a virtqueue, whatever its format: add buffers, publish a batch, kick when the device wants it, harvest what was used,
// and switch interrupts off and on. Everything read back from the device is checked: a lie breaks the ring, never the driver.

import type { GuestArena } from './arena.ts';

export interface RingOptions {
  readonly arena: GuestArena;
  /** Descriptors. Split: a power of two. Packed: anything up to 32768. */
  readonly size: number;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inOrder: boolean;
  /** Longest buffer list the caller will add; sizes the indirect tables. */
  readonly maxSegments: number;
  /** Legacy interface: the parts lie one behind the other on pages, and used lengths beyond what there is to write do not count (virtio 1.4 2.7.2, 2.7.8.2). */
  readonly legacy?: boolean;
}

/** Where the three parts lie, as guest-physical addresses: what goes into queue_desc, queue_driver and queue_device. */
export interface RingAddresses {
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

export interface DriverRing {
  readonly size: number;
  readonly addresses: RingAddresses;
  /** Buffers the device holds. */
  readonly outstanding: number;
  /** Why the ring is no longer used, or '' while it is fine. A broken ring takes and gives nothing more. */
  readonly broken: string;
  /** Adds one buffer of one segment at arena offset `offset`. False when the ring is full. `token` (>= 0) comes back from `harvest`. */
  addOne(offset: number, length: number, writable: boolean, token: number): boolean;
  /** Adds one buffer of several segments: `readable` first, then `writable` ones. False when it does not fit now. */
  addList(offsets: Int32Array, lengths: Int32Array, readable: number, writable: number, token: number): boolean;
  /** True when a list of `segments` fits now. */
  fits(segments: number): boolean;
  /** Makes everything added since visible at once. True when the device asked to be notified of it. */
  publish(): boolean;
  /** The upper half of a notification carrying data: next_off and next_wrap. */
  readonly notificationData: number;
  /** Takes up to `max` used buffers: their tokens and the bytes the device wrote, into the arrays from index `at` (default 0). Returns how many. */
  harvest(tokens: Int32Array, lengths: Int32Array, max: number, at?: number): number;
  /** A used buffer waits. */
  readonly hasUsed: boolean;
  disableCalls(): void;
  /** Asks for an interrupt once `after` more buffers are used. True when used buffers already wait: then poll on instead of sleeping. */
  enableCalls(after?: number): boolean;
  /** Frees the ring's memory. Only after the device or the queue was reset. */
  dispose(): void;
}

/** Per-head indirect tables, all in one block, so that adding a list allocates nothing. */
export class IndirectTables {
  readonly offset: number;
  readonly stride: number;
  readonly maxSegments: number;
  readonly #arena: GuestArena;

  constructor(arena: GuestArena, heads: number, maxSegments: number) {
    this.maxSegments = maxSegments;
    this.stride = maxSegments * 16;
    this.#arena = arena;
    this.offset = arena.allocate(heads * this.stride, 64);
  }

  dispose(): void {
    this.#arena.free(this.offset);
  }
}

/** @internal Smallest power of two not below `n`. */
export function powerOfTwoCeiling(n: number): number {
  return n <= 1 ? 1 : 2 ** (32 - Math.clz32(n - 1));
}
