// The usual packet of a pool whose packets are judged (82576 7.10.3.4): one descriptor that asks for nothing, its frame in one piece of memory. As much of it as any judgement needs, or all, is copied once; the copy is judged, and
// the copy is sent, whatever memory says by then. Where nobody judges, frames go out as they lie (`TransmitQueue.collectPlain`).

import { copyBytes } from '#core/copy';
import type { Window } from '#core/dma-space';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { FrameBatch } from '#net/port';
import { appendPlain, SHORTEST, type TransmitQueue } from './transmit-queue.ts';

/** A frame up to here is copied whole: it stays in one piece. */
const COPIED = 256;
/** Frames of one turn. */
const SLOTS = 256;

export class PlainTransmit {
  readonly copies: ByteViews = viewsOf(new ArrayBuffer(SLOTS * COPIED));
  /** TCTL.PSP. */
  pads = false;
  // Of the frame in hand: where its copy begins, bytes of it in all, and of the copy.
  at = 0;
  length = 0;
  #copied = 0;
  // Where the rest lies.
  #window: Window | null = null;
  #address = 0;

  /** Takes the frame of the descriptor `position` after the head into a slot. False: it is not that simple. */
  stage(queue: TransmitQueue, position: number, slot: number, tags: boolean): boolean {
    const length = queue.plain(position, tags);
    const { window } = queue;
    if (length === 0 || window === null || (length < SHORTEST && !this.pads)) return false;
    const copied = Math.min(length, COPIED);
    this.at = slot * COPIED;
    copyBytes(this.copies, this.at, window.slab.views, queue.address + window.bias, copied);
    if (length < SHORTEST) this.copies.u8.fill(0, this.at + length, this.at + SHORTEST);
    this.length = Math.max(length, SHORTEST);
    this.#copied = Math.min(this.length, COPIED);
    this.#window = window;
    this.#address = queue.address;
    return true;
  }

  /** Appends it. The caller has checked that there is room for two segments. */
  append(batch: FrameBatch): void {
    const frame = appendPlain(batch, this.length);
    const { segments } = batch;
    segments.addHost(this.copies, this.at, this.#copied);
    const window = this.#window as Window;
    if (this.length <= COPIED) return;
    const address = this.#address + COPIED;
    segments.addGuestAt(window, window.slab.views, address + window.bias, address, this.length - COPIED);
    batch.segmentCount[frame] = 2;
  }
}
