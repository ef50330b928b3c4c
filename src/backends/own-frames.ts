// Frames that a device sends in its driver's place: the announcement after a live migration. They leave before the driver's next ones, and are held back like those.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { PortCounters } from '#net/counters';
import { type FrameBatch, GSO_NONE } from '#net/port';

/** An announcement is worth nothing behind many others. */
const MOST = 16;

export class OwnFrames {
  readonly #counters: PortCounters;
  readonly #frames: { readonly views: ByteViews; readonly length: number }[] = [];

  constructor(counters: PortCounters) {
    this.#counters = counters;
  }

  get waiting(): boolean {
    return this.#frames.length > 0;
  }

  /** Takes one to be sent; when too many wait, the oldest goes. @param bytes a whole Ethernet frame, copied */
  add(bytes: Uint8Array): void {
    if (this.#frames.length === MOST) this.#frames.shift();
    // Longer by some, so that copies may go by words.
    const views = viewsOf(new ArrayBuffer((bytes.length + 15) & ~7));
    views.u8.set(bytes);
    this.#frames.push({ views, length: bytes.length });
  }

  clear(): void {
    this.#frames.length = 0;
  }

  /** As NetPort.collect. */
  collect(batch: FrameBatch, frames: number): number {
    const count = Math.min(frames, this.#frames.length, batch.capacity - batch.count);
    for (let i = 0; i < count; i++) {
      const { views, length } = this.#frames[i] as { views: ByteViews; length: number };
      const f = batch.count++;
      batch.firstSegment[f] = batch.segments.count;
      batch.segmentCount[f] = 1;
      batch.segments.addHost(views, 0, length);
      batch.length[f] = length;
      batch.flags[f] = 0;
      batch.gsoType[f] = GSO_NONE;
      batch.headerLength[f] = 0;
      batch.gsoSize[f] = 0;
      batch.csumStart[f] = 0;
      batch.csumOffset[f] = 0;
      batch.hash[f] = 0;
      batch.hashReport[f] = 0;
      batch.token[f] = 0;
    }
    return count;
  }

  /** As NetPort.complete, of a batch that this filled. */
  complete(batch: FrameBatch, done: number): void {
    let bytes = 0;
    for (let f = 0; f < done; f++) bytes += batch.length[f] as number;
    this.#counters.transmitted(done, bytes);
    this.#frames.splice(0, done);
  }
}
