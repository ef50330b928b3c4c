// Echo, which sends every frame back to where it came from, and ping, which measures the round trip to it one request at a time.

import type { Nanos, TimeSource } from '#core/clock';
import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import { Histogram } from './histogram.ts';
import { LinearFrame } from './linear.ts';
import type { ReceivedFrame } from './net-receive.ts';
import type { Nic } from './nic.ts';
import { buildFrame, readSequence, SHORTEST_FRAME, stampSequence, UDP_PAYLOAD } from './test-frame.ts';
import { Tallied, type Workload, type WorkloadResult } from './workload.ts';

export interface EchoJob {
  readonly kind: 'echo';
  /** Done after this many frames; without it echo runs until it is stopped. */
  readonly count?: number;
}

export interface PingJob {
  readonly kind: 'ping';
  readonly count: number;
  readonly size?: number;
  readonly destination?: readonly number[];
  /** How long an answer may take before it counts as missing, and the next request goes out. Default a second. */
  readonly patience?: Nanos;
}

export class Echo extends Tallied implements Workload {
  readonly #count: number;
  readonly #arena: GuestArena;
  readonly #net: Nic;
  #refused = 0;
  #pending = false;
  readonly nextDue = Infinity;

  constructor(job: EchoJob, arena: GuestArena, net: Nic) {
    super();
    this.#count = job.count ?? Infinity;
    this.#arena = arena;
    this.#net = net;
  }

  get done(): boolean {
    return this.tally.framesReceived >= this.#count && !this.#pending;
  }
  step(net: Nic): boolean {
    if (!this.#pending) return false;
    this.#pending = false;
    for (const queue of net.transmit) queue.flush();
    return true;
  }

  receive(frame: ReceivedFrame): void {
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
    const queue = this.#net.transmit[frame.queue] ?? this.#net.transmit[0];
    if (!queue) return;
    const at = frame.length <= queue.frameRoom ? queue.reserve() : -1;
    if (at < 0) {
      // No room to answer in: an echo service drops, it does not hold the receiver up.
      this.#refused++;
      return;
    }
    const { views } = this.#arena;
    let to = at;
    for (let i = 0; i < frame.segmentCount; i++) {
      copyBytes(views, to, frame.views, frame.offsets[i] as number, frame.lengths[i] as number);
      to += frame.lengths[i] as number;
    }
    const { u8 } = views;
    swap(u8, at, at + 6, 6);
    // Swapping addresses and ports leaves every checksum as it is.
    if (u8[at + 12] === 8 && u8[at + 13] === 0 && frame.length >= UDP_PAYLOAD) {
      swap(u8, at + 26, at + 30, 4);
      swap(u8, at + 34, at + 36, 2);
    }
    queue.send(frame.length);
    this.#pending = true;
    this.tally.framesSent++;
    this.tally.bytesSent += frame.length;
  }

  result(): WorkloadResult {
    return this.tally.result('echo', this.done, { refused: this.#refused });
  }
}

function swap(u8: Uint8Array, a: number, b: number, length: number): void {
  for (let i = 0; i < length; i++) {
    const byte = u8[a + i] as number;
    u8[a + i] = u8[b + i] as number;
    u8[b + i] = byte;
  }
}

const PATIENCE: Nanos = 1e9;
const LONGEST_PING = 1514;

export class Ping extends Tallied implements Workload {
  readonly #job: PingJob;
  readonly #arena: GuestArena;
  readonly #now: () => Nanos;
  readonly roundTrips = new Histogram();
  readonly #linear = new LinearFrame();
  #template: ByteViews | undefined;
  readonly #patience: Nanos;
  #waiting = -1;
  #sequence = 0;
  #sentAt = 0;
  nextDue = Infinity;

  /** @param now the guest's time: round trips are told in it. */
  constructor(job: PingJob, arena: GuestArena, now: () => Nanos) {
    super();
    if (!(Number.isInteger(job.size ?? SHORTEST_FRAME) && (job.size ?? SHORTEST_FRAME) >= SHORTEST_FRAME && (job.size ?? 0) <= LONGEST_PING))
      throw new RangeError(`ping size ${job.size} is not in ${SHORTEST_FRAME}..${LONGEST_PING}`);
    this.#job = job;
    this.#patience = job.patience ?? PATIENCE;
    this.#arena = arena;
    this.#now = now;
  }

  get done(): boolean {
    return this.#waiting < 0 && this.#sequence >= this.#job.count;
  }
  step(net: Nic, time: TimeSource): boolean {
    const now = time.now();
    if (this.#waiting >= 0) {
      if (now - this.#sentAt < this.#patience) return false;
      this.tally.fail(() => `no answer to request ${this.#waiting} within ${this.#patience / 1e9} s`);
      this.#waiting = -1;
    }
    const queue = net.transmit[0];
    if (this.done || !queue) return false;
    const at = queue.reserve();
    if (at < 0) return queue.awaitRoom();
    const size = this.#job.size ?? SHORTEST_FRAME;
    if (this.#template === undefined) {
      this.#template = viewsOf(new SharedArrayBuffer(Math.ceil(size / 8) * 8));
      const destination = Uint8Array.from(this.#job.destination ?? [255, 255, 255, 255, 255, 255]);
      buildFrame(this.#template.u8, 0, { size, tcp: false, flow: 0, source: net.configuration.mac, destination, unfilled: false });
    }
    copyBytes(this.#arena.views, at, this.#template, 0, size);
    stampSequence(this.#arena.views, at, UDP_PAYLOAD, this.#sequence);
    this.#waiting = this.#sequence++;
    this.nextDue = now + this.#patience;
    this.tally.framesSent++;
    this.tally.bytesSent += size;
    queue.send(size);
    this.#sentAt = this.#now();
    queue.flush();
    return true;
  }

  receive(frame: ReceivedFrame): void {
    if (this.#waiting < 0 || frame.length < SHORTEST_FRAME || !this.#linear.load(frame)) return;
    if (readSequence(this.#linear.views, this.#linear.offset + UDP_PAYLOAD) !== this.#waiting) return;
    this.roundTrips.add(this.#now() - this.#sentAt);
    this.#waiting = -1;
    this.nextDue = Infinity;
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
  }

  result(): WorkloadResult {
    const h = this.roundTrips;
    return this.tally.result('ping', this.done, { p50: h.quantile(0.5), p99: h.quantile(0.99), max: h.max });
  }
}
