// The control virtqueue (virtio 1.4 5.1.9.5): a command queue whose answer is an ack, and what some commands say behind it.

import type { VirtioHost } from '#virtio/device';
import { ChainReader } from '#virtio/net-control/chain-reader';
import { ChainWriter } from '#virtio/net-control/chain-writer';
import { VIRTIO_NET_ERR, VIRTIO_NET_OK } from '#virtio/net-control/wire';
import type { VirtQueue } from '#virtio/virtqueue';
import { CommandQueue } from './command-queue.ts';

export class ControlQueue extends CommandQueue {
  readonly #log: VirtioHost['log'];
  readonly #run: (reader: ChainReader, reply: ChainWriter) => boolean;
  readonly #reader: ChainReader;
  readonly #ack: ChainWriter;
  readonly #reply: ChainWriter;

  /** @param run executes a command whose effect is in force when it returns, and writes what it answers behind the ack; false is answered ERR, and nothing else. */
  constructor(host: VirtioHost, maxSize: number, run: (reader: ChainReader, reply: ChainWriter) => boolean) {
    super('control', host, maxSize, (queue) => this.#answer(queue));
    this.#log = host.log;
    this.#run = run;
    this.#reader = new ChainReader(this.segments);
    this.#ack = new ChainWriter(this.segments, host.memory);
    this.#reply = new ChainWriter(this.segments, host.memory);
  }

  /** Runs the command and writes its ack; returns the bytes written. */
  #answer(queue: VirtQueue): number {
    this.#reader.begin(queue.readableSegments, queue.readableBytes);
    if (queue.writableBytes < 1) {
      // Nothing to say it in: an unanswerable command is not run.
      this.#log.guestError('control command without room for its ack');
      return 0;
    }
    this.#ack.begin(queue.readableSegments, queue.writableBytes);
    // virtio 1.4 5.1.9.5: the ack is the first byte, whatever a command answers comes behind it.
    this.#reply.begin(queue.readableSegments, queue.writableBytes);
    this.#reply.skipOne();
    const ok = this.#run(this.#reader, this.#reply);
    if (!ok) this.#log.guestError('control command refused');
    this.#ack.u8(ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
    return ok ? 1 + this.#reply.written : 1;
  }
}
