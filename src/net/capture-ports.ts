// Captures as ports of a segment: a source that sends a capture's frames as fast as they are taken, and a sink that keeps what it is sent until
// somebody drains it, holding the sender back when it is full.

import { type Clock, type Nanos, WallClock } from '#core/clock';
import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { CaptureFrames } from './capture-frames.ts';
import { DROP_FILTERED, DROP_TOO_LONG, PortCounters } from './counters.ts';
import type { FrameBatch, NetPort } from './port.ts';

/** Sends the frames of a capture in order, once or several times over. Takes nothing: what is sent to it is dropped as filtered. */
export class CaptureSource implements NetPort {
  readonly name: string;
  readonly linkUp = true;
  readonly accepts = 0xffff;
  readonly counters = new PortCounters();
  readonly hasRoom = true;
  readonly #frames: CaptureFrames;
  readonly #views: ByteViews;
  readonly #total: number;
  #next = 0;

  /** @param rounds how many times the capture is sent. */
  constructor(name: string, frames: CaptureFrames, rounds = 1) {
    if (!(Number.isSafeInteger(rounds) && rounds >= 1)) throw new RangeError(`rounds ${rounds}: 1 or more`);
    this.name = name;
    this.#frames = frames;
    this.#views = viewsOf(frames.buffer);
    this.#total = frames.count * rounds;
  }

  /** Frames not sent yet. */
  get left(): number {
    return this.#total - this.#next;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    const source = this.#frames;
    const limit = Math.min(frames, this.#total - this.#next, batch.capacity - batch.count);
    let taken = 0;
    let size = 0;
    while (taken < limit && (taken === 0 || size < bytes) && batch.segments.count < batch.segments.capacity) {
      const from = (this.#next + taken) % source.count;
      const length = source.length[from] as number;
      const i = batch.count++;
      batch.firstSegment[i] = batch.segments.count;
      batch.segmentCount[i] = 1;
      batch.segments.addHost(this.#views, source.offset[from] as number, length);
      batch.length[i] = length;
      batch.flags[i] = source.flags[from] as number;
      batch.gsoType[i] = source.gsoType[from] as number;
      batch.gsoSize[i] = source.gsoSize[from] as number;
      batch.headerLength[i] = source.headerLength[from] as number;
      batch.csumStart[i] = source.csumStart[from] as number;
      batch.csumOffset[i] = source.csumOffset[from] as number;
      batch.token[i] = from;
      size += length;
      taken++;
    }
    return taken;
  }

  complete(batch: FrameBatch, done: number): void {
    let bytes = 0;
    for (let i = 0; i < done; i++) bytes += batch.length[i] as number;
    this.counters.transmitted(done, bytes);
    this.#next += done;
  }

  deliver(_batch: FrameBatch, from: number, to: number): number {
    this.counters.receiveDropped(DROP_FILTERED, to - from);
    return to - from;
  }

  flush(): void {}

  awaitFrames(): boolean {
    return this.left > 0;
  }

  awaitRoom(): boolean {
    return true;
  }
}

export interface CaptureSinkOptions {
  readonly clock?: Clock;
  /** Wall time, in whole seconds since 1970, at which the clock read zero. Default: 0. */
  readonly epoch?: number;
  /** Bytes kept between two drains. Default 16 MiB. */
  readonly capacity?: number;
  /** Offloads to keep as they come (ACCEPTS_* bits); what is not here is done before the frame is kept. Default: none, so every frame is as on a wire. */
  readonly accepts?: number;
}

const DEFAULT_CAPACITY = 16 * 1024 * 1024;
/** Frames kept: as many as the capacity holds when they are this small. */
const SMALL_FRAME = 64;

/** Keeps frames with the time they came. */
export class CaptureSink implements NetPort {
  readonly name: string;
  readonly linkUp = true;
  readonly accepts: number;
  readonly counters = new PortCounters();
  readonly #clock: Clock;
  readonly #epoch: number;
  readonly #memory: ByteViews;
  readonly #capacity: number;
  readonly #start: Int32Array;
  readonly #length: Int32Array;
  readonly #time: Float64Array;
  #count = 0;
  #used = 0;
  #full = false;

  constructor(name: string, { clock = new WallClock(), epoch = 0, capacity = DEFAULT_CAPACITY, accepts = 0 }: CaptureSinkOptions = {}) {
    if (!(Number.isSafeInteger(capacity) && capacity >= 65536 && capacity <= 2 ** 30)) throw new RangeError(`capacity ${capacity}: 64 KiB to 1 GiB`);
    this.name = name;
    this.accepts = accepts;
    this.#clock = clock;
    this.#epoch = epoch;
    this.#capacity = capacity;
    this.#memory = viewsOf(new ArrayBuffer(capacity));
    const frames = Math.ceil(capacity / SMALL_FRAME);
    this.#start = new Int32Array(frames);
    this.#length = new Int32Array(frames);
    this.#time = new Float64Array(frames);
  }

  collect(): number {
    return 0;
  }

  complete(): void {}

  deliver(batch: FrameBatch, from: number, to: number): number {
    const now: Nanos = this.#clock.now();
    let bytes = 0;
    let kept = 0;
    let i = from;
    for (; i < to; i++) {
      const length = batch.length[i] as number;
      if (length > this.#capacity) {
        this.counters.receiveDropped(DROP_TOO_LONG, 1);
        continue;
      }
      if (this.#used + length > this.#capacity || this.#count >= this.#start.length) {
        this.#full = true;
        break;
      }
      this.#copy(batch, i);
      this.#start[this.#count] = this.#used;
      this.#length[this.#count] = length;
      this.#time[this.#count++] = now;
      this.#used = Math.min(this.#capacity, (this.#used + length + 7) & ~7);
      bytes += length;
      kept++;
    }
    this.counters.received(kept, bytes);
    return i - from;
  }

  #copy(batch: FrameBatch, frame: number): void {
    const { segments } = batch;
    const first = batch.firstSegment[frame] as number;
    const end = first + (batch.segmentCount[frame] as number);
    let at = this.#used;
    for (let s = first; s < end; s++) {
      const length = segments.length[s] as number;
      copyBytes(this.#memory, at, segments.views[s] as ByteViews, segments.offset[s] as number, length);
      at += length;
    }
  }

  flush(): void {}

  /** Frames kept. */
  get kept(): number {
    return this.#count;
  }

  /**
   * Hands out what was kept, in order, and makes room; returns how many. `bytes` is a view that is reused after the call. Wake the port's segment afterwards: a
   * sender may be waiting.
   */
  drain(each: (bytes: Uint8Array, seconds: number, nanoseconds: number) => void): number {
    const count = this.#count;
    for (let i = 0; i < count; i++) {
      const start = this.#start[i] as number;
      const time = this.#time[i] as number;
      const seconds = Math.floor(time / 1e9);
      each(this.#memory.u8.subarray(start, start + (this.#length[i] as number)), this.#epoch + seconds, Math.floor(time - seconds * 1e9));
    }
    this.#count = 0;
    this.#used = 0;
    this.#full = false;
    return count;
  }

  get hasRoom(): boolean {
    return !this.#full;
  }

  awaitFrames(): boolean {
    return false;
  }

  awaitRoom(): boolean {
    return !this.#full;
  }
}
