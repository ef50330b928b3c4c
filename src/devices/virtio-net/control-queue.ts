// The control virtqueue (virtio 1.4 5.1.6.5), served on the machine's thread inside the notification: pops a command, runs it, writes the ack, returns the buffer. A notification serves a
// bounded number of commands; a driver that keeps adding gets the rest served from the clock, so that it cannot hold the thread.

import type { Timer } from '#core/clock';
import { SegmentList } from '#core/segments';
import type { VirtioHost } from '#virtio/device';
import { initialPosition, openQueue } from '#virtio/open-queue';
import { QUEUE_BROKEN, QUEUE_EMPTY, type VirtQueue, type VringPosition } from '#virtio/virtqueue';
import { ChainReader } from './chain-reader.ts';

const COMMANDS_PER_TURN = 64;
const VIRTIO_NET_OK = 0;
const VIRTIO_NET_ERR = 1;

export class ControlQueue {
  readonly #host: VirtioHost;
  readonly #run: (reader: ChainReader) => boolean;
  readonly #segments: SegmentList;
  readonly #reader: ChainReader;
  readonly #again: Timer;
  #index = 0;
  #queue: VirtQueue | undefined;

  /** @param run executes a command whose effect is in force when it returns; false is answered ERR. */
  constructor(host: VirtioHost, maxSize: number, run: (reader: ChainReader) => boolean) {
    this.#host = host;
    this.#run = run;
    const filler = (host.memory.memory.slabs[0] as { views: SegmentList['views'][number] }).views;
    // Room for the longest chain a driver may make, each buffer in a few pieces where it crosses RAM ranges.
    this.#segments = new SegmentList(4 * maxSize, filler);
    this.#reader = new ChainReader(this.#segments);
    this.#again = host.clock.timer(() => this.serve());
  }

  open(index: number, position: VringPosition = initialPosition(this.#host.features)): void {
    const queue = openQueue(this.#host.queueSetup(index), position, this.#host.features, this.#host.memory);
    if (typeof queue === 'string') {
      this.#host.needsReset(`control queue: ${queue}`);
      return;
    }
    this.#index = index;
    this.#queue = queue;
  }

  close(): void {
    this.#again.cancel();
    this.#queue = undefined;
  }

  get position(): VringPosition | undefined {
    return this.#queue?.position;
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
        this.#segments.truncate(0);
        const token = queue.pop(this.#segments);
        if (token === QUEUE_EMPTY) break;
        if (token === QUEUE_BROKEN) {
          this.#broken(queue.broken ?? 'broken');
          return;
        }
        queue.push(token, this.#answer(queue));
        notify = queue.publish() || notify;
        // A command may have ended in a reset of the device.
        if (this.#queue !== queue) return;
      }
      if (left === 0) {
        this.#again.arm(this.#host.clock.now());
        break;
      }
    } while (queue.awaitKick());
    if (notify) this.#host.call(this.#index).signal();
  }

  /** Runs the command and writes its ack; returns the bytes written. */
  #answer(queue: VirtQueue): number {
    this.#reader.begin(queue.readableSegments, queue.readableBytes);
    if (queue.writableBytes < 1) {
      // Nothing to say it in: an unanswerable command is not run.
      this.#host.log.guestError('control command without room for its ack');
      return 0;
    }
    const ok = this.#run(this.#reader);
    if (!ok) this.#host.log.guestError('control command refused');
    const at = queue.readableSegments;
    const list = this.#segments;
    const views = list.views[at];
    if (views === undefined) return 0;
    views.u8[list.offset[at] as number] = ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    const window = list.window[at];
    if (window) this.#host.memory.markDirty(window, list.address[at] as number, 1);
    return 1;
  }

  #broken(reason: string): void {
    this.close();
    this.#host.needsReset(`control queue: ${reason}`);
  }
}
