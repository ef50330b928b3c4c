// A virtqueue of commands (control, administration), served on the machine's thread inside the notification: pops a command, has it answered, returns the buffer. A notification
// serves a bounded number of commands; a driver that keeps adding gets the rest served from the clock, so that it cannot hold the thread. Parked (the embedder's pause, the
// driver's suspend) it keeps its position and touches nothing.

import type { Nanos, Timer } from '#core/clock';
import { SegmentList } from '#core/segments';
import type { VirtioHost } from '#virtio/device';
import { initialPosition, openQueue } from '#virtio/open-queue';
import { QUEUE_BROKEN, QUEUE_EMPTY, type VirtQueue, type VringPosition } from '#virtio/virtqueue';

const COMMANDS_PER_TURN = 64;
/** What `answer` returns of a command that waits for something else: it stays first in the ring, and is asked for again soon. */
export const COMMAND_WAITS = -1;
const WAIT: Nanos = 50_000;

export class CommandQueue {
  readonly name: string;
  readonly #host: VirtioHost;
  readonly #answer: (queue: VirtQueue) => number;
  readonly segments: SegmentList;
  readonly #again: Timer;
  /** The first command in the ring has been asked for before. */
  waiting = false;
  #index = 0;
  #queue: VirtQueue | undefined;
  /** Where it stood when it was parked. */
  #parked: VringPosition | undefined;

  /** @param answer executes the command popped into `segments` and writes what there is to say; returns the bytes written, or COMMAND_WAITS. Effects are in force when it returns. */
  constructor(name: string, host: VirtioHost, maxSize: number, answer: (queue: VirtQueue) => number) {
    this.name = name;
    this.#host = host;
    this.#answer = answer;
    const filler = (host.memory.memory.slabs[0] as { views: SegmentList['views'][number] }).views;
    // Room for the longest chain a driver may make, each buffer in a few pieces where it crosses RAM ranges.
    this.segments = new SegmentList(4 * maxSize, filler);
    this.#again = host.clock.timer(() => this.serve());
  }

  open(index: number, position: VringPosition = initialPosition(this.#host.features)): void {
    this.#parked = undefined;
    const queue = openQueue(this.#host.queueSetup(index), position, this.#host.features, this.#host.memory);
    if (typeof queue === 'string') {
      this.#host.needsReset(`${this.name} queue: ${queue}`);
      return;
    }
    this.#index = index;
    this.#queue = queue;
  }

  /** Reset: its position is forgotten. */
  close(): void {
    this.#again.cancel();
    this.waiting = false;
    this.#queue = undefined;
    this.#parked = undefined;
  }

  /** Stops where it is. */
  park(): void {
    const position = this.#queue?.position ?? this.#parked;
    this.close();
    this.#parked = position;
  }

  /** Parked at `position`, as saved. */
  restore(position: VringPosition | undefined): void {
    this.close();
    this.#parked = position;
  }

  /** Goes on where it was parked, or from the beginning if it never ran. */
  unpark(index: number): void {
    if (this.#queue !== undefined) return;
    this.open(index, this.#parked);
    this.serve();
  }

  get position(): VringPosition | undefined {
    return this.#queue?.position ?? this.#parked;
  }

  serve(): void {
    const queue = this.#queue;
    if (queue === undefined) return;
    if (!queue.resync()) {
      if (queue.broken !== undefined) this.#broken(queue.broken);
      return;
    }
    queue.suppressKicks();
    let left = COMMANDS_PER_TURN;
    let notify = false;
    do {
      for (; left > 0; left--) {
        this.segments.truncate(0);
        const token = queue.pop(this.segments);
        if (token === QUEUE_EMPTY) break;
        if (token === QUEUE_BROKEN) {
          this.#broken(queue.broken ?? 'broken');
          return;
        }
        const written = this.#answer(queue);
        // A command may have ended in a reset of the device.
        const still = this.#queue === queue;
        this.waiting = still && written === COMMAND_WAITS;
        if (this.waiting) {
          queue.unpop(1);
          this.#again.arm(this.#host.clock.now() + WAIT);
          if (notify) this.#host.call(this.#index).signal();
          return;
        }
        queue.push(token, Math.max(0, written));
        notify = queue.publish() || notify;
        if (!still) return;
      }
      if (left === 0) {
        this.#again.arm(this.#host.clock.now());
        break;
      }
    } while (queue.awaitKick());
    if (notify) this.#host.call(this.#index).signal();
  }

  #broken(reason: string): void {
    this.close();
    this.#host.needsReset(`${this.name} queue: ${reason}`);
  }
}
