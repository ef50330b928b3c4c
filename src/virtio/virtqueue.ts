// The device's side of a virtqueue. One interface, two rings: split (virtio 1.4 2.7) and packed (2.8).

import type { SegmentList } from '#core/segments';

/** `pop` results below zero. */
export const QUEUE_EMPTY = -1;
export const QUEUE_BROKEN = -2;

/**
 * Where a device stands in a ring, enough to go on from there: what VHOST_GET_VRING_BASE returns.
 * Split: free-running 16-bit indices. Packed: ring offsets with the wrap counter in bit 15.
 */
export interface VringPosition {
  /** Next available entry to pop. */
  readonly available: number;
  /** Next used entry to write. */
  readonly used: number;
}

/** A queue as the driver described it: untrusted until `openQueue` has checked it. Addresses are device addresses. */
export interface QueueSetup {
  readonly size: number;
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
}

/** The feature bits that change how a ring works. */
export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
}

/**
 * A live queue (made by `openQueue`). One thread uses it. A turn: `dma.enter()` (or, on the machine's thread, `dma.sync()`), `resync()`, then pops and pushes,
 * `publish()`, `dma.leave()`. Segments hold DMA windows and are good until the turn ends.
 */
export interface VirtQueue {
  readonly size: number;
  /**
   * Call first in a turn: finds the ring's areas in memory again if translations moved or the embedder replaced a buffer. True when the queue can be used. False
   * when it is broken (an area is gone from the device's address space: `broken` says so) or paused, because the function may not master the bus: touch nothing then.
   */
  resync(): boolean;
  /** Why the queue takes no part any more (the driver broke a rule), or undefined. Once broken, pop returns QUEUE_BROKEN. */
  readonly broken: string | undefined;
  /**
   * Takes the next available chain: appends its segments to `into`, device-readable ones first, and returns its token (0 or above),
   * QUEUE_EMPTY or QUEUE_BROKEN. `into` is left as it was when nothing is returned. A chain that would not fit the room left in `into` counts as not there yet
   * (QUEUE_EMPTY) unless `into` was empty, when it breaks the queue.
   */
  pop(into: SegmentList): number;
  /** Of the chain popped last: how many of its segments are device-readable, how many in all, and the bytes of each kind. */
  readonly readableSegments: number;
  readonly segments: number;
  /** Of the chain `pop` saw last: the buffers it had to look at, those of length 0 too. What it cost, for who keeps within a budget. */
  readonly buffers: number;
  readonly readableBytes: number;
  readonly writableBytes: number;
  /**
   * Takes chains while each is one plain buffer, all device-writable or all device-readable: up to `limit` of them, or until their lengths reach `bytes`. Appends
   * one segment each and puts their tokens into `tokens` from `at` on. Returns how many; 0 says no more than that `pop` has to decide. A fast path: what `pop`
   * says of a chain popped does not change.
   */
  popRun(into: SegmentList, tokens: Int32Array, at: number, limit: number, bytes: number, writable: boolean): number;
  /** Gives back the last `chains` popped and not pushed, as if never popped (newest first). */
  unpop(chains: number): void;
  /**
   * Returns a chain with `written` bytes written to it. Not visible to the driver before `publish`, and nothing the device would have to read again if it stopped
   * before `publish` is overwritten (packed: descriptors keep their contents until then), so that a lost thread's batch can be taken again from the ring.
   */
  push(token: number, written: number): void;
  /** `push` of tokens[from] .. tokens[to - 1], with the same places of `written`, or 0. */
  pushRun(tokens: Int32Array, from: number, to: number, written: Int32Array | null): void;
  /** Ends the run of chains that IN_ORDER would merge into one used entry: everything `publish` will show now lies in memory (`replayPublish` can show it). */
  seal(): void;
  /** Makes what was pushed visible, all at once, and says whether the driver wants to be notified of it. */
  publish(): boolean;
  /** Used places shown to the driver so far (split: entries, packed: descriptors), free-running modulo 2^32. */
  readonly shown: number;
  /** For a notification that was put off: whether the driver still wants one for what was shown since `shown` was `since`. A driver that has looked meanwhile need not. */
  stillWanted(since: number): boolean;
  /** Asks the driver not to kick. */
  suppressKicks(): void;
  /** Asks for kicks again, and says whether work slipped in meanwhile (then go on instead of sleeping). */
  awaitKick(): boolean;
  /** True when a chain is available (or the driver's index says so: whether it is sound, pop tells). */
  readonly ready: boolean;
  /** The next available entry to pop, and the next used entry to write with what `push` has taken counted in, encoded as in VringPosition. */
  readonly available: number;
  readonly used: number;
  /** The used position as last published. */
  readonly published: number;
  /** Where the driver has been brought to: chains popped and not yet published count as in flight. Publish first for a final position. */
  readonly position: VringPosition;
}
