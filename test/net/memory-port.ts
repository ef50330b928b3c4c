// A port over plain memory for tests: an outbox whose frames lie in pieces, an inbox of so many places. It keeps the rules of NetPort and checks its caller's.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { PortCounters } from '#net/counters';
import type { FrameBatch, NetPort } from '#net/port';

export interface Frame {
  readonly bytes: Uint8Array;
  readonly flags?: number;
  readonly gsoType?: number;
  readonly gsoSize?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
  readonly headerLength?: number;
  readonly outerTransport?: number;
  readonly innerNetwork?: number;
  /** Lengths of the first pieces; the rest is one. */
  readonly pieces?: readonly number[];
  /** Where in memory it starts, modulo 8. */
  readonly misaligned?: number;
}

export class MemoryPort implements NetPort {
  readonly name: string;
  linkUp = true;
  accepts = 0;
  readonly counters = new PortCounters();
  readonly outbox: Frame[] = [];
  readonly inbox: Required<Omit<Frame, 'pieces' | 'misaligned'>>[] = [];
  /** Frames the inbox takes before it refuses. */
  room = Infinity;
  /** Frames delivered and flushed. */
  visible = 0;
  flushes = 0;
  collects = 0;
  turns = 0;
  #collected = 0;
  #completed = 0;
  #open = false;
  #refusedAt = -1;

  constructor(name: string) {
    this.name = name;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    if (this.#open) throw new Error(`${this.name}: collected again before complete`);
    this.collects++;
    let taken = 0;
    let size = 0;
    // As a guest's: all frames of a batch lie in one memory.
    const arena = arenaFor(this.outbox.slice(0, frames));
    for (const frame of this.outbox) {
      if (taken >= frames || (taken > 0 && size >= bytes) || batch.count >= batch.capacity) break;
      appendFrame(batch, frame, this.#completed + taken, arena);
      size += frame.bytes.length;
      taken++;
    }
    this.#collected = taken;
    this.#open = taken > 0;
    if (taken > 0) this.turns++;
    return taken;
  }

  complete(batch: FrameBatch, done: number): void {
    if (!this.#open) throw new Error(`${this.name}: complete without collect`);
    if (done < 0 || done > this.#collected) throw new Error(`${this.name}: completed ${done} of ${this.#collected}`);
    let bytes = 0;
    for (let i = 0; i < done; i++) bytes += batch.length[i] as number;
    this.counters.transmitted(done, bytes);
    this.outbox.splice(0, done);
    this.#completed += done;
    this.#open = false;
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    for (let i = from; i < to; i++) {
      if (this.inbox.length >= this.room) {
        this.#refusedAt = this.room;
        return i - from;
      }
      this.inbox.push({
        bytes: frameBytes(batch, i),
        flags: batch.flags[i] as number,
        gsoType: batch.gsoType[i] as number,
        gsoSize: batch.gsoSize[i] as number,
        csumStart: batch.csumStart[i] as number,
        csumOffset: batch.csumOffset[i] as number,
        headerLength: batch.headerLength[i] as number,
        outerTransport: batch.outerTransport[i] as number,
        innerNetwork: batch.innerNetwork[i] as number,
      });
      this.counters.received(1, batch.length[i] as number);
    }
    return to - from;
  }

  flush(): void {
    this.flushes++;
    this.visible = this.inbox.length;
  }

  get hasRoom(): boolean {
    return this.room > this.#refusedAt;
  }

  awaitFrames(): boolean {
    return this.outbox.length > 0;
  }

  awaitRoom(): boolean {
    return this.hasRoom;
  }
}

/** Memory that frames are put into one after the other. */
interface Arena {
  readonly views: ByteViews;
  used: number;
}

const roomFor = ({ bytes, misaligned = 0, pieces = [] }: Frame): number => Math.ceil((misaligned + bytes.length + pieces.length + 1) / 8) * 8;

function arenaFor(frames: readonly Frame[]): Arena {
  const size = frames.reduce((sum, frame) => sum + roomFor(frame), 8);
  return { views: viewsOf(new Uint8Array(size).fill(0xee).buffer), used: 0 };
}

/** Appends a frame to a batch, its pieces apart from each other in memory with a guard byte between them. */
export function appendFrame(batch: FrameBatch, frame: Frame, token = 0, arena = arenaFor([frame])): void {
  const { bytes } = frame;
  const { views } = arena;
  const start = arena.used + (frame.misaligned ?? 0);
  arena.used += roomFor(frame);
  const pieces: number[] = [];
  let left = bytes.length;
  for (const piece of frame.pieces ?? []) {
    const length = Math.min(piece, left);
    if (length > 0) pieces.push(length);
    left -= length;
  }
  if (left > 0) pieces.push(left);
  const i = batch.count++;
  batch.firstSegment[i] = batch.segments.count;
  let from = 0;
  let at = start;
  for (const length of pieces) {
    views.u8.set(bytes.subarray(from, from + length), at);
    batch.segments.addHost(views, at, length);
    from += length;
    at += length + 1;
  }
  batch.segmentCount[i] = pieces.length;
  batch.length[i] = bytes.length;
  batch.flags[i] = frame.flags ?? 0;
  batch.gsoType[i] = frame.gsoType ?? 0;
  batch.gsoSize[i] = frame.gsoSize ?? 0;
  batch.headerLength[i] = frame.headerLength ?? 0;
  batch.csumStart[i] = frame.csumStart ?? 0;
  batch.csumOffset[i] = frame.csumOffset ?? 0;
  batch.outerTransport[i] = frame.outerTransport ?? 0;
  batch.innerNetwork[i] = frame.innerNetwork ?? 0;
  batch.token[i] = token;
}

export function frameBytes(batch: FrameBatch, i: number): Uint8Array {
  const bytes = new Uint8Array(batch.length[i] as number);
  let at = 0;
  for (let s = 0; s < (batch.segmentCount[i] as number); s++) {
    const segment = (batch.firstSegment[i] as number) + s;
    const offset = batch.segments.offset[segment] as number;
    const length = batch.segments.length[segment] as number;
    bytes.set((batch.segments.views[segment] as ByteViews).u8.subarray(offset, offset + length), at);
    at += length;
  }
  if (at !== bytes.length) throw new Error(`frame ${i}: its segments hold ${at} bytes, its length says ${bytes.length}`);
  return bytes;
}
