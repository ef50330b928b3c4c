// What a queue sends to pools of this port (82576 7.10.3.4), or in loopback to itself: done at once, in order, as much of it in a turn as is fair to the others who use the port. What is not usual becomes frames here, with
// nothing left to others.

import { viewsOf } from '#core/guest-memory';
import { FrameBatch } from '#net/port';
import { FLAG_LOOPBACK } from './port-state.ts';
import type { TransmitHost } from './transmit.ts';
import type { TransmitCounts } from './transmit-counts.ts';
import type { PacketReader } from './transmit-packet.ts';
import type { PlainTransmit } from './transmit-plain.ts';
import type { TransmitQueue } from './transmit-queue.ts';

const FCS = 4;
/** What one queue may have copied in a turn: a broadcast counts as often as there are pools for it. */
export const LOCAL_COPIES = 64;
const LOCAL_BYTES = 0x2_0000;

/** Results: the pools have it; they have no room, and the queue waits; the turn's share is used up, and the queue goes on in its next one; it makes no sense, which is counted. */
export const DONE = 0;
export const BLOCKED = 1;
const SPENT = 2;
export const WRONG = 3;

export class LocalDelivery {
  readonly #host: TransmitHost;
  readonly #reader: PacketReader;
  readonly #plain: PlainTransmit;
  readonly #counts: TransmitCounts;
  readonly #batch = new FrameBatch(viewsOf(new ArrayBuffer(8)), LOCAL_COPIES);
  // Of this turn.
  #copies = 0;
  #copied = 0;
  #loopback = false;
  // Frames that pools got and that are not counted yet, and those packets that go nowhere else.
  #frames = 0;
  #octets = 0;
  #packets = 0;
  #bytes = 0;

  constructor(host: TransmitHost, parts: { readonly reader: PacketReader; readonly plain: PlainTransmit; readonly counts: TransmitCounts }) {
    this.#host = host;
    this.#reader = parts.reader;
    this.#plain = parts.plain;
    this.#counts = parts.counts;
  }

  /** A queue's turn begins. */
  begin(): void {
    const { receive, state } = this.#host;
    this.#copies = 0;
    this.#copied = 0;
    this.#loopback = (state.flags & FLAG_LOOPBACK) !== 0;
    receive.distribution.beginLocal();
  }

  /** There is something left of the turn's share. */
  get open(): boolean {
    return this.#copies < LOCAL_COPIES && this.#copied < LOCAL_BYTES;
  }

  /** The frame that `plain` holds, to these pools. */
  plain(pools: number): number {
    const batch = this.#batch;
    // All of `clear` that one frame needs.
    batch.count = 0;
    batch.segments.truncate(0);
    batch.hashedBy[0] = 0;
    this.#plain.append(batch);
    return this.#give(0, pools) ? DONE : BLOCKED;
  }

  /** The staged packet, from the piece on that pools do not have yet. */
  packet(queue: TransmitQueue, pools: number): number {
    const batch = this.#batch;
    batch.clear();
    const frames = Math.max(1, Math.floor((LOCAL_COPIES - this.#copies) / copiesTo(this.#loopback ? 1 : pools)));
    const done = this.#reader.emitLocal(queue, batch, frames);
    if (done && batch.count === 0 && queue.localPieces === 0) return WRONG;
    for (let f = 0; f < batch.count; f++) {
      if (!this.#give(f, pools)) return BLOCKED;
      queue.localPieces++;
    }
    if (!done && batch.count > 0) return SPENT;
    queue.localPieces = 0;
    if (this.#loopback && this.#reader.stamped) this.#host.time.sent();
    return DONE;
  }

  #give(f: number, pools: number): boolean {
    const { receive } = this.#host;
    const batch = this.#batch;
    const length = batch.length[f] as number;
    if (!(this.#loopback ? receive.deliver(batch, f, f + 1) === 1 : receive.deliverLocal(batch, f, pools))) return false;
    const copies = this.#loopback ? 1 : copiesTo(pools);
    this.#copies += copies;
    this.#copied += copies * length;
    if (this.#loopback) this.#counts.sent(batch, f, f + 1);
    else {
      this.#frames++;
      this.#octets += length + FCS;
    }
    return true;
  }

  /** A packet of `length` bytes goes no further than this. */
  stays(queue: TransmitQueue, length: number): void {
    this.#packets++;
    this.#bytes += length;
    this.#host.pools?.spent(queue.index, length + FCS);
  }

  /** The turn ends: what was delivered shows to its receivers, and is counted. */
  end(queue: TransmitQueue): void {
    const { receive, counters } = this.#host;
    receive.distribution.settle();
    if (this.#frames > 0) this.#counts.pool(queue.index, this.#frames, this.#octets, false);
    if (this.#packets > 0) counters.transmitted(this.#packets, this.#bytes);
    this.#frames = 0;
    this.#octets = 0;
    this.#packets = 0;
    this.#bytes = 0;
  }
}

function copiesTo(pools: number): number {
  let copies = 0;
  for (let left = pools; left !== 0; left &= left - 1) copies++;
  return copies;
}
