// The control virtqueue (virtio 1.4 5.1.6.5), served on the machine's thread inside the notification: pops a command, runs it, writes the ack, returns the buffer. A notification serves a
// bounded number of commands; a driver that keeps adding gets the rest served from the clock, so that it cannot hold the thread.

import type { Timer } from '#core/clock';
import { SegmentList } from '#core/segments';
import type { VirtioHost } from '#virtio/device';
import { initialPosition, openQueue } from '#virtio/open-queue';
import { QUEUE_BROKEN, QUEUE_EMPTY, type VirtQueue, type VringPosition } from '#virtio/virtqueue';
import { ChainReader } from './chain-reader.ts';
import { ChainWriter } from './chain-writer.ts';

const COMMANDS_PER_TURN = 64;
const VIRTIO_NET_OK = 0;
const VIRTIO_NET_ERR = 1;

export class ControlQueue {
  readonly #host: VirtioHost;
  readonly #run: (reader: ChainReader, reply: ChainWriter) => boolean;
  readonly #segments: SegmentList;
  readonly #reader: ChainReader;
  readonly #ack: ChainWriter;
  readonly #reply: ChainWriter;
  readonly #again: Timer;
  #index = 0;
  #queue: VirtQueue | undefined;

  /** @param run executes a command whose effect is in force when it returns, and writes what it answers behind the ack; false is answered ERR, and nothing else. */
  constructor(host: VirtioHost, maxSize: number, run: (reader: ChainReader, reply: ChainWriter) => boolean) {
    this.#host = host;
    this.#run = run;
    const filler = (host.memory.memory.slabs[0] as { views: SegmentList['views'][number] }).views;
    // Room for the longest chain a driver may make, each buffer in a few pieces where it crosses RAM ranges.
    this.#segments = new SegmentList(4 * maxSize, filler);
    this.#reader = new ChainReader(this.#segments);
    this.#ack = new ChainWriter(this.#segments, host.memory);
    this.#reply = new ChainWriter(this.#segments, host.memory);
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
    this.#ack.begin(queue.readableSegments, queue.writableBytes);
    // virtio 1.4 5.1.6.5: the ack is the first byte, whatever a command answers comes behind it.
    this.#reply.begin(queue.readableSegments, queue.writableBytes);
    this.#reply.skipOne();
    const ok = this.#run(this.#reader, this.#reply);
    if (!ok) this.#host.log.guestError('control command refused');
    this.#ack.u8(ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
    return ok ? 1 + this.#reply.written : 1;
  }

  #broken(reason: string): void {
    this.close();
    this.#host.needsReset(`control queue: ${reason}`);
  }
}
