// Queue pairs of an 82576 function, NAPI style: an interrupt, which masks itself, schedules polling; a ring that is empty lets it come again. The same for physical and virtual functions, with a vector for each pair or one
// interrupt for all.

import { AdvancedReceiveQueue } from './advanced-receive.ts';
import { AdvancedTransmitQueue } from './advanced-transmit.ts';
import type { GuestArena } from './arena.ts';
import type { AdvancedQueueOptions } from './igb-options.ts';
import { IgbError } from './igb-registers.ts';
import type { RegisterBlock } from './intel-registers.ts';
import type { Msix } from './msix.ts';
import type { FrameSink } from './net-receive.ts';

const POLL_BUDGET = 64;
/** A transmitter that got nothing done from one look to the next, so many times in a row, hangs: six seconds, as operating systems give it. */
const HANG_LOOKS = 3;

export interface AdvancedPairsParts {
  readonly arena: GuestArena;
  readonly registers: RegisterBlock;
  readonly options: AdvancedQueueOptions;
  readonly drop: boolean;
  /** Register blocks of each pair's queues. */
  readonly blocks: readonly { readonly receive: number; readonly transmit: number }[];
  /** MSI-X entry, and bit of the extended interrupt registers, of the first pair; the others follow. */
  readonly vector: number;
  /** A pair's ring is empty: its interrupt may come again. */
  readonly arm: (pair: number) => void;
}

export class AdvancedPairs {
  readonly receive: readonly AdvancedReceiveQueue[];
  readonly transmit: readonly AdvancedTransmitQueue[];
  interrupts = 0;
  readonly #arm: (pair: number) => void;
  readonly #busyPolls: number;
  readonly #vector: number;
  /** Pairs to be polled, and how often each was found empty in a row. */
  readonly #scheduled: Uint8Array;
  readonly #idle: Int32Array;
  /** By transmit queue: descriptors done when the watchdog looked last and some were under way, and looks without progress since. */
  readonly #done: Float64Array;
  readonly #stuck: Int32Array;

  constructor(parts: AdvancedPairsParts) {
    const { arena, registers, options, blocks, drop } = parts;
    const { ringSize: size = 256, splitHeaders = false, headWriteBack = false, busyPolls = 0 } = options;
    this.#arm = parts.arm;
    this.#busyPolls = busyPolls;
    this.#vector = parts.vector;
    this.receive = blocks.map(({ receive: block }, index) => new AdvancedReceiveQueue({ arena, registers, block, index, size, splitHeaders, drop }));
    this.transmit = blocks.map(({ transmit: block }, index) => new AdvancedTransmitQueue({ arena, registers, block, index, size, headWriteBack }));
    this.#scheduled = new Uint8Array(blocks.length);
    this.#idle = new Int32Array(blocks.length);
    this.#done = new Float64Array(blocks.length).fill(-1);
    this.#stuck = new Int32Array(blocks.length);
  }

  /** Bits of the pairs' vectors in the extended interrupt registers. */
  get vectors(): number {
    return ((1 << this.receive.length) - 1) << this.#vector;
  }

  /** @throws IgbError when the platform is out of vectors, or the function has too few */
  route(msix: Msix): void {
    for (let i = 0; i < this.receive.length; i++)
      if (!msix.route(this.#vector + i, () => this.#onInterrupt(i)))
        throw new IgbError('ERR_IGB_VECTORS', `there is no MSI-X vector ${this.#vector + i} for queue pair ${i}`);
  }

  #onInterrupt(pair: number): void {
    this.interrupts++;
    this.transmit[pair]?.reclaim();
    this.#schedule(pair);
  }

  /** The interrupt all pairs share came. With `frames` for what queues did; polling follows in any case. */
  onShared(frames: boolean): void {
    if (frames) {
      this.interrupts++;
      for (const queue of this.transmit) queue.reclaim();
    }
    for (let pair = 0; pair < this.receive.length; pair++) this.#schedule(pair);
  }

  /** Some pair is being polled. */
  get scheduled(): boolean {
    return this.#scheduled.includes(1);
  }

  #schedule(pair: number): void {
    this.#idle[pair] = 0;
    this.#scheduled[pair] = 1;
  }

  /** Everything is polled once for what came before interrupts are on. */
  scheduleAll(): void {
    this.#scheduled.fill(1);
    this.#idle.fill(0);
  }

  /** One round over the scheduled pairs. True when there may be more to do right away. */
  poll(sink: FrameSink): boolean {
    let more = false;
    for (let i = 0; i < this.#scheduled.length; i++) {
      if (this.#scheduled[i] === 0) continue;
      const queue = this.receive[i] as AdvancedReceiveQueue;
      const taken = queue.poll(POLL_BUDGET, sink);
      this.#idle[i] = taken > 0 ? 0 : (this.#idle[i] as number) + 1;
      if (taken === POLL_BUDGET || (this.#idle[i] as number) <= this.#busyPolls) {
        more = true;
        continue;
      }
      this.#scheduled[i] = 0;
      this.#arm(i);
      // The re-check that closes the window between the last poll and turning interrupts on.
      if (queue.pending) {
        this.#schedule(i);
        more = true;
      }
    }
    return more;
  }

  /** The device is being reset: nothing more is sent or polled. */
  hold(): void {
    for (const queue of this.transmit) queue.held = true;
    this.#scheduled.fill(0);
  }

  /** Why a queue is no longer believed, or ''. */
  get broken(): string {
    for (const queue of this.receive) if (queue.broken !== '') return queue.broken;
    for (const queue of this.transmit) if (queue.broken !== '') return queue.broken;
    return '';
  }

  /** Looks for transmitters that hang while the link is up. Returns what to say of one, or ''. */
  watch(): string {
    for (const [i, queue] of this.transmit.entries()) {
      queue.reclaim();
      const done = queue.descriptors - queue.outstanding;
      this.#stuck[i] = queue.outstanding > 0 && done === this.#done[i] ? (this.#stuck[i] as number) + 1 : 0;
      this.#done[i] = queue.outstanding > 0 ? done : -1;
      if ((this.#stuck[i] as number) >= HANG_LOOKS) return `transmit queue ${i} hangs with ${queue.outstanding} descriptors`;
    }
    return '';
  }

  /** Writes of tails. */
  get kicks(): number {
    let total = 0;
    for (const queue of this.receive) total += queue.kicks;
    for (const queue of this.transmit) total += queue.kicks;
    return total;
  }

  /** Only after the device or the queues were reset. */
  dispose(): void {
    for (const queue of this.receive) queue.dispose();
    for (const queue of this.transmit) queue.dispose();
  }
}
