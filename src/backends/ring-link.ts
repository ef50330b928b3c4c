// A frame ring between two threads: how a port that lives on one thread (a capture, a generator on the machine's thread) takes part in a segment served by another.
// Each direction is one producer, one consumer, bytes in a ring: a 24-byte record header, then the frame, rounded up to 8. A record never wraps: a header
// with length -1 says "go on at the start". Both ends are NetPorts; a full ring holds the sender back.
//
// Words of a direction: 0 head (bytes produced, free-running), 16 tail (bytes consumed), 32 consumer waits, 48 producer waits; a cache line apart.

import { copyBytes } from '#core/copy';
import { type Bell, Doorbell, type DoorbellShare } from '#core/doorbell';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { DROP_TOO_LONG, PortCounters } from '#net/counters';
import { ACCEPTS_EVERYTHING, type FrameBatch, type NetPort } from '#net/port';
import type { TurnJournal, TurnParticipant } from './turn-journal.ts';

const HEAD = 0;
const TAIL = 16;
const CONSUMER_WAITS = 32;
const PRODUCER_WAITS = 48;
const CONTROL_BYTES = 256;
/** Five words of what the sender asks for, and one to keep the frame at a multiple of 8. */
const RECORD_BYTES = 24;
const WRAP = -1;
const DEFAULT_BYTES = 1 << 20;

interface DirectionShare {
  readonly buffer: SharedArrayBuffer;
  /** Rung when frames were added for a consumer that waits, when room was made for a producer that waits. */
  readonly consumer: DoorbellShare;
  readonly producer: DoorbellShare;
}

export interface RingLinkShare {
  readonly out: DirectionShare;
  readonly in: DirectionShare;
  readonly accepts: number;
}

/** One direction as either of its ends sees it. */
class Direction implements TurnParticipant {
  readonly control: Int32Array;
  readonly data: ByteViews;
  readonly size: number;
  readonly consumer: Doorbell;
  readonly producer: Doorbell;
  readonly slot: number;
  readonly #isProducer: boolean;
  readonly #journal: TurnJournal | undefined;
  /** Where this end stands, ahead of the shared word until applied. */
  position: number;
  #staged = false;

  constructor(share: DirectionShare, isProducer: boolean, slot: number, journal: TurnJournal | undefined) {
    this.control = new Int32Array(share.buffer, 0, CONTROL_BYTES / 4);
    this.size = share.buffer.byteLength - CONTROL_BYTES;
    this.data = viewsOf(share.buffer, CONTROL_BYTES, this.size);
    this.consumer = Doorbell.open(share.consumer);
    this.producer = Doorbell.open(share.producer);
    this.slot = slot;
    this.#isProducer = isProducer;
    this.#journal = journal;
    this.position = Atomics.load(this.control, isProducer ? HEAD : TAIL);
  }

  get nextAvailable(): number {
    return this.position;
  }
  get usedFrom(): number {
    return 0;
  }
  get nextUsed(): number {
    return this.position;
  }

  stage(): void {
    if (this.#staged) return;
    if (this.#journal === undefined) {
      this.apply();
      return;
    }
    this.#staged = true;
    this.#journal.stage(this);
  }

  apply(): void {
    this.#staged = false;
    publish(this.control, this.#isProducer, this.position, this.#isProducer ? this.consumer : this.producer);
  }

  /** The other end's position. */
  peer(): number {
    return Atomics.load(this.control, this.#isProducer ? TAIL : HEAD);
  }

  /** Says whether this end wants to be rung when the other one moves. */
  wait(on: boolean): void {
    const at = this.#isProducer ? PRODUCER_WAITS : CONSUMER_WAITS;
    if (on || this.control[at] !== 0) Atomics.store(this.control, at, on ? 1 : 0);
  }
}

function publish(control: Int32Array, isProducer: boolean, position: number, other: Doorbell): void {
  Atomics.store(control, isProducer ? HEAD : TAIL, position);
  const waits = isProducer ? CONSUMER_WAITS : PRODUCER_WAITS;
  if (Atomics.load(control, waits) !== 0 && Atomics.exchange(control, waits, 0) !== 0) other.ring();
}

/** Moves a dead thread's end to where its last turn had committed it, and wakes the other end. */
export function recoverRingLink(share: RingLinkShare, which: 'out' | 'in', position: number): void {
  const direction = share[which];
  const control = new Int32Array(direction.buffer, 0, CONTROL_BYTES / 4);
  const isProducer = which === 'out';
  Atomics.store(control, isProducer ? HEAD : TAIL, position);
  Doorbell.open(isProducer ? direction.consumer : direction.producer).ring();
}

export interface RingLinkOptions {
  /** Bytes of each direction. A power of two, at least 128 KiB. */
  readonly bytes?: number;
  /** ACCEPTS_* bits of the port behind: what it takes unconverted. Default: everything. */
  readonly accepts?: number;
}

/** The two shares of a new link: `near` for the thread that creates it, `far` for the other; each names the bells its side sleeps on. */
export function createRingLink(near: Bell, far: Bell, options: RingLinkOptions = {}): { near: RingLinkShare; far: RingLinkShare } {
  const bytes = options.bytes ?? DEFAULT_BYTES;
  if (!(Number.isInteger(bytes) && bytes >= 1 << 17 && bytes <= 1 << 28 && (bytes & (bytes - 1)) === 0))
    throw new RangeError(`a frame ring of ${bytes} bytes: a power of two, 128 KiB to 256 MiB`);
  const accepts = options.accepts ?? ACCEPTS_EVERYTHING;
  const direction = (producer: Bell, consumer: Bell): DirectionShare => ({
    buffer: new SharedArrayBuffer(CONTROL_BYTES + bytes),
    consumer: new Doorbell(consumer).share(),
    producer: new Doorbell(producer).share(),
  });
  const outward = direction(near, far);
  const inward = direction(far, near);
  return { near: { out: outward, in: inward, accepts }, far: { out: inward, in: outward, accepts } };
}

/** One end of a link. What is delivered to it comes out of `collect` at the other end. */
export class RingLink implements NetPort {
  readonly name: string;
  readonly counters: PortCounters;
  readonly linkUp = true;
  readonly accepts: number;
  readonly #out: Direction;
  readonly #in: Direction;
  readonly #journal: TurnJournal | undefined;
  #touched = false;
  /** Bytes that the frame refused last needs, with what it would skip at the end of the ring. */
  #refused = 0;
  /** Position behind each collected frame. */
  readonly #ends = new Int32Array(1024);
  #collected = 0;

  /** @param firstSlot of two journal slots: out, in. */
  constructor(name: string, share: RingLinkShare, options: { journal?: TurnJournal; firstSlot?: number; counters?: PortCounters } = {}) {
    this.name = name;
    this.accepts = share.accepts;
    this.counters = options.counters ?? new PortCounters();
    this.#journal = options.journal;
    const slot = options.firstSlot ?? 0;
    this.#out = new Direction(share.out, true, slot, options.journal);
    this.#in = new Direction(share.in, false, slot + 1, options.journal);
  }

  /** Doorbells this end is rung by: frames arrived, room was made. */
  get doorbells(): readonly Doorbell[] {
    return [this.#in.consumer, this.#out.producer];
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const out = this.#out;
    const { size, data } = out;
    const mask = size - 1;
    const tail = out.peer();
    let frames = 0;
    let bytes = 0;
    let f = from;
    for (; f < to; f++) {
      const length = batch.length[f] as number;
      const need = RECORD_BYTES + ((length + 7) & ~7);
      if (need > size >>> 1) {
        this.counters.receiveDropped(DROP_TOO_LONG, 1);
        continue;
      }
      let at = out.position & mask;
      const toEnd = size - at;
      const skip = toEnd < need ? toEnd : 0;
      if (((out.position + skip + need - tail) | 0) > size) {
        this.#refused = skip + need;
        break;
      }
      if (skip > 0) {
        data.i32[at >>> 2] = WRAP;
        out.position = (out.position + skip) | 0;
        at = 0;
      }
      const w = at >>> 2;
      const words = data.i32;
      words[w] = length;
      words[w + 1] = (batch.flags[f] as number) | ((batch.gsoType[f] as number) << 8) | ((batch.headerLength[f] as number) << 16);
      words[w + 2] = (batch.gsoSize[f] as number) | ((batch.csumStart[f] as number) << 16);
      words[w + 3] = batch.csumOffset[f] as number;
      words[w + 4] = (batch.outerTransport[f] as number) | ((batch.innerNetwork[f] as number) << 16);
      let target = at + RECORD_BYTES;
      const { segments } = batch;
      const first = batch.firstSegment[f] as number;
      const end = first + (batch.segmentCount[f] as number);
      for (let s = first; s < end; s++) {
        const run = segments.length[s] as number;
        copyBytes(data, target, segments.views[s] as ByteViews, segments.offset[s] as number, run);
        target += run;
      }
      out.position = (out.position + need) | 0;
      frames++;
      bytes += length;
    }
    if (frames > 0) {
      this.#touched = true;
      this.counters.received(frames, bytes);
    }
    return f - from;
  }

  flush(): void {
    if (!this.#touched) return;
    this.#touched = false;
    this.#out.stage();
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    const from = this.#in;
    from.wait(false);
    const { size, data } = from;
    const mask = size - 1;
    const head = from.peer();
    const before = batch.count;
    let room = Math.min(frames, batch.capacity - before, this.#ends.length, batch.segments.capacity - batch.segments.count);
    let left = bytes;
    let position = from.position;
    this.#collected = 0;
    while (room > 0 && left > 0 && position !== head) {
      let at = position & mask;
      const words = data.i32;
      if (words[at >>> 2] === WRAP) {
        position = (position + size - at) | 0;
        at = 0;
      }
      const w = at >>> 2;
      const length = words[w] as number;
      const f = batch.count++;
      batch.firstSegment[f] = batch.segments.count;
      batch.segmentCount[f] = 1;
      batch.segments.addHost(data, at + RECORD_BYTES, length);
      batch.length[f] = length;
      const flags = words[w + 1] as number;
      batch.flags[f] = flags;
      batch.gsoType[f] = flags >>> 8;
      batch.headerLength[f] = flags >>> 16;
      batch.gsoSize[f] = words[w + 2] as number;
      batch.csumStart[f] = (words[w + 2] as number) >>> 16;
      batch.csumOffset[f] = words[w + 3] as number;
      batch.outerTransport[f] = words[w + 4] as number;
      batch.innerNetwork[f] = (words[w + 4] as number) >>> 16;
      batch.token[f] = position;
      position = (position + RECORD_BYTES + ((length + 7) & ~7)) | 0;
      this.#ends[this.#collected++] = position;
      left -= length;
      room--;
    }
    return batch.count - before;
  }

  complete(batch: FrameBatch, done: number): void {
    if (done > 0) {
      let bytes = 0;
      for (let f = 0; f < done; f++) bytes += batch.length[f] as number;
      this.counters.transmitted(done, bytes);
      this.#in.position = this.#ends[done - 1] as number;
      this.#in.stage();
    }
    this.#journal?.commit();
  }

  get hasRoom(): boolean {
    const out = this.#out;
    const used = (out.position - out.peer()) | 0;
    // Half of it free, so as not to be asked again for each frame taken out; and enough, or the answer would be yes and no for ever.
    return used <= out.size >>> 1 && used + this.#refused <= out.size;
  }

  awaitFrames(): boolean {
    this.#in.consumer.take();
    this.#in.wait(true);
    return this.#in.peer() !== this.#in.position;
  }

  awaitRoom(): boolean {
    this.#out.producer.take();
    this.#out.wait(true);
    return this.hasRoom;
  }
}
