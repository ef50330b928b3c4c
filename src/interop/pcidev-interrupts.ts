// A function's interrupts on their way to user-mode Linux: messages and the level of a pin, as far as the guest has given buffers for them on the queue of interrupts; the rest waits.

import type { Clock, Timer } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';
import type { Call } from '#core/interrupts';
import type { Log } from '#core/log';
import { SegmentList } from '#core/segments';
import { ChainWriter } from '#virtio/net-control/chain-writer';
import { QUEUE_BROKEN, QUEUE_EMPTY, type VirtQueue } from '#virtio/virtqueue';
import { HEADER_BYTES, INT, MSI, MSI_DATA_BYTES } from './pcidev-messages.ts';

/** Of a buffer for an interrupt. */
const MOST_SEGMENTS = 256;
/** A level that still stands is said again so often, in nanoseconds: the messages are edges. */
const LEVEL_AGAIN = 1_000_000;
/** Interrupts kept while the guest has given no buffers for them: more than any function has vectors. */
const MOST_PENDING = 4096;

export class PcidevInterrupts {
  /** INTx messages sent, and message-signalled ones. */
  pins = 0;
  messages = 0;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #broken: (reason: string) => void;
  readonly #segments: SegmentList;
  readonly #timer: Timer;
  #queue: VirtQueue | undefined;
  #call: Call | undefined;
  #writer: ChainWriter | undefined;
  /** Message data that wait for a buffer, oldest first: the same twice is one interrupt, as at any interrupt controller. */
  readonly #pending = new Set<number>();
  /** INTA..INTD, or 0: none is asserted. */
  #pin = 0;
  #pinDue = false;

  /** @param views any of the guest's memory @param broken the queue cannot be used further: stop it */
  constructor(clock: Clock, log: Log, views: ByteViews, broken: (reason: string) => void) {
    this.#clock = clock;
    this.#log = log;
    this.#broken = broken;
    this.#segments = new SegmentList(MOST_SEGMENTS, views);
    this.#timer = clock.timer(() => this.#sayAgain());
  }

  /** Buffers come by `queue`; what waits goes out with the next `flush`. */
  start(queue: VirtQueue, call: Call, memory: DmaSpace): void {
    this.#queue = queue;
    this.#call = call;
    this.#writer = new ChainWriter(this.#segments, memory);
  }

  stop(): void {
    this.#queue = undefined;
  }

  /** The guest is gone: nothing waits for it. */
  forget(): void {
    this.#pending.clear();
    this.#timer.cancel();
  }

  message(data: number): void {
    if (this.#pending.size < MOST_PENDING) this.#pending.add(data);
    this.flush();
  }

  /** The level of a pin (1..4). */
  setPin(pin: number, asserted: boolean): void {
    this.#pin = asserted ? pin : 0;
    this.#pinDue = asserted;
    if (asserted) this.flush();
    else this.#timer.cancel();
  }

  #sayAgain(): void {
    if (this.#pin === 0) return;
    this.#pinDue = true;
    this.flush();
  }

  /** Sends what the guest has buffers for. */
  flush(): void {
    const queue = this.#queue;
    if (queue === undefined || (this.#pending.size === 0 && !this.#pinDue)) return;
    if (!queue.resync()) {
      if (queue.broken !== undefined) this.#broken(queue.broken);
      return;
    }
    let sent = false;
    do {
      while (this.#pending.size > 0 || this.#pinDue) {
        const taken = this.#sendOne(queue);
        if (taken === QUEUE_EMPTY) break;
        if (taken === QUEUE_BROKEN) {
          this.#broken(queue.broken ?? 'broken');
          return;
        }
        sent = true;
      }
    } while ((this.#pending.size > 0 || this.#pinDue) && queue.awaitKick());
    if (sent && queue.publish()) this.#call?.signal();
  }

  #sendOne(queue: VirtQueue): number {
    this.#segments.truncate(0);
    const token = queue.pop(this.#segments);
    if (token === QUEUE_EMPTY || token === QUEUE_BROKEN) return token;
    const writer = this.#writer as ChainWriter;
    writer.begin(queue.readableSegments, queue.writableBytes);
    const header = (op: number, size: number, address: number): void => {
      writer.u8(op);
      writer.u8(0);
      writer.u16(0);
      writer.u32(size);
      writer.u64(address);
    };
    if (queue.writableBytes < HEADER_BYTES + MSI_DATA_BYTES) this.#log.guestError(`a buffer of ${queue.writableBytes} bytes for interrupts`);
    else if (this.#pinDue) {
      this.#pinDue = false;
      this.pins++;
      header(INT, 0, this.#pin);
      this.#timer.arm(this.#clock.now() + LEVEL_AGAIN);
    } else {
      const [data] = this.#pending as unknown as [number];
      this.#pending.delete(data);
      this.messages++;
      header(MSI, MSI_DATA_BYTES, 0);
      writer.u32(data);
    }
    queue.push(token, writer.written);
    return token;
  }
}
