// Rings of one port that had too few buffers for a frame. Who sent it is held back until one of them has more: looked for while polling, told by a kick before sleeping.

import type { SegmentList } from '#core/segments';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import type { Vring } from './vring.ts';

export class ReceiveRoom {
  /** By pair, and how many buffers there were, too few. */
  readonly #starved: (Vring | undefined)[] = new Array<Vring | undefined>(MAX_QUEUE_PAIRS).fill(undefined);
  readonly #starvedWith = new Int32Array(MAX_QUEUE_PAIRS);
  #count = 0;
  readonly #scratch: SegmentList;

  /** @param scratch for chains that are looked at and put back */
  constructor(scratch: SegmentList) {
    this.#scratch = scratch;
  }

  clear(): void {
    this.#starved.fill(undefined);
    this.#count = 0;
  }

  starve(ring: Vring, buffers: number): void {
    const pair = ring.index >>> 1;
    if (this.#starved[pair] === undefined) this.#count++;
    this.#starved[pair] = ring;
    this.#starvedWith[pair] = buffers;
  }

  /**
   * Whether trying again makes sense. True once for each ring that was waited for: who waits for another is refused again.
   * @param rings those in use: one that is not any more is not waited for
   * @param runs some ring takes frames, or they would be dropped
   * @param arm asks drivers to say when they add buffers
   */
  look(rings: readonly (Vring | undefined)[], runs: boolean, arm: boolean): boolean {
    if (this.#count === 0) return runs;
    let room = false;
    for (let pair = 0; pair < MAX_QUEUE_PAIRS; pair++) {
      const ring = this.#starved[pair];
      if (ring === undefined) continue;
      const there = rings.includes(ring);
      if (there && !this.#pastStarved(ring, this.#starvedWith[pair] as number, arm)) continue;
      this.#starved[pair] = undefined;
      this.#count--;
      if (there || runs) room = true;
    }
    return room;
  }

  /**
   * Whether there are more buffers than were too few: looks, or asks for a kick, behind those. In front of them the answer would be yes for ever, and the event
   * index one the driver has passed already.
   */
  #pastStarved(ring: Vring, starvedWith: number, arm: boolean): boolean {
    const { queue } = ring;
    let popped = 0;
    for (; popped < starvedWith; popped++) {
      this.#scratch.count = 0;
      if (queue.pop(this.#scratch) < 0) break;
    }
    // Fewer than there were: the queue is broken or paused, and trying again says so.
    const ready = popped < starvedWith || (arm ? ring.arm() : queue.ready);
    queue.unpop(popped);
    return ready;
  }
}
