// Frames in the switch's hands: the headers of each are copied once into private memory, looked at there, changed there and sent on from there, so that no sender can change what has been checked. The
// rest of a frame stays where its sender has it. A frame that goes to one port as it is and to another changed takes two places.

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { gatherHeader } from '../headers.ts';
import { FrameBatch } from '../port.ts';

/** Frames of a run, and room for what a frame becomes on its way to several ports. Few enough that they stay in the nearer caches (measured: bench/embedded-switch.ts). */
export const WORK_FRAMES = 104;
/** Room before a frame for tags and tunnel headers that are put in front. */
export const HEADROOM = 192;
/** Bytes that are copied of every frame: Ethernet, two tags, IPv6, TCP. */
export const FIRST_LOOK = 128;
/** A frame that is not much longer is copied whole: one piece in place of two. */
export const WHOLE = 192;
/** Bytes that are ever copied: tunnel headers with the longest Geneve options and a whole frame's headers inside. */
const MOST_GATHERED = 512;
/** Nothing is written past a frame's gathered bytes; 8 for the alignment of the sender's memory. */
export const SLOT = HEADROOM + MOST_GATHERED + 8;
/** A frame has as many pieces as its sender gave it and one more. */
const PIECES = 16384;

export class WorkFrames {
  readonly output: FrameBatch;
  readonly memory: ByteViews;
  readonly bytes: Uint8Array;
  /** Of each place: where its headers begin and end in `memory`, and how many of the sender's bytes they stand for. */
  readonly start = new Int32Array(WORK_FRAMES);
  readonly end = new Int32Array(WORK_FRAMES);
  readonly consumed = new Int32Array(WORK_FRAMES);
  /** What a segment has found that it asks for; the batch's `needs` once it is assembled. */
  readonly needs = new Int32Array(WORK_FRAMES);

  constructor() {
    this.memory = viewsOf(new ArrayBuffer(WORK_FRAMES * SLOT));
    this.bytes = this.memory.u8;
    this.output = new FrameBatch(this.memory, WORK_FRAMES, PIECES);
  }

  /** Takes the first bytes of batch[frame], and what describes it. */
  load(batch: FrameBatch, frame: number, place: number, needs: number): void {
    const { output } = this;
    const length = batch.length[frame] as number;
    const first = batch.firstSegment[frame] as number;
    const { segments } = batch;
    const offset = segments.offset[first] as number;
    const wanted = length <= WHOLE ? length : FIRST_LOOK;
    const at = place * SLOT + HEADROOM + (offset & 7);
    if ((segments.length[first] as number) >= wanted) copyBytes(this.memory, at, segments.views[first] as ByteViews, offset, wanted);
    else gatherHeader(batch, frame, this.bytes, at, wanted);
    this.start[place] = at;
    this.end[place] = at + wanted;
    this.consumed[place] = wanted;
    this.needs[place] = needs;
    output.length[place] = length;
    output.flags[place] = batch.flags[frame] as number;
    output.csumStart[place] = batch.csumStart[frame] as number;
    output.csumOffset[place] = batch.csumOffset[frame] as number;
    const type = batch.gsoType[frame] as number;
    output.gsoType[place] = type;
    if (type !== 0) {
      output.headerLength[place] = batch.headerLength[frame] as number;
      output.gsoSize[place] = batch.gsoSize[frame] as number;
      output.outerTransport[place] = batch.outerTransport[frame] as number;
      output.innerNetwork[place] = batch.innerNetwork[frame] as number;
    }
    output.hash[place] = batch.hash[frame] as number;
    output.hashReport[place] = batch.hashReport[frame] as number;
    output.hashedBy[place] = batch.hashedBy[frame] as number;
    output.token[place] = batch.token[frame] as number;
  }

  /** Takes more of a frame's first bytes, each of the sender's once. False when all that is ever taken is there. */
  extend(batch: FrameBatch, frame: number, place: number): boolean {
    const from = this.consumed[place] as number;
    const upTo = Math.min(batch.length[frame] as number, MOST_GATHERED);
    if (from >= upTo) return false;
    let segment = batch.firstSegment[frame] as number;
    const last = segment + (batch.segmentCount[frame] as number);
    let skip = from;
    let to = this.end[place] as number;
    let left = upTo - from;
    for (; segment < last && left > 0; segment++) {
      const there = batch.segments.length[segment] as number;
      if (skip >= there) {
        skip -= there;
        continue;
      }
      const run = Math.min(there - skip, left);
      const { u8 } = batch.segments.views[segment] as ByteViews;
      const offset = (batch.segments.offset[segment] as number) + skip;
      for (let i = 0; i < run; i++) this.bytes[to + i] = u8[offset + i] as number;
      to += run;
      left -= run;
      skip = 0;
    }
    this.end[place] = to;
    this.consumed[place] = upTo - left;
    return true;
  }

  /** A second copy of a frame, to go on with while the first stays as it is. */
  clone(from: number, to: number): void {
    const { output } = this;
    const shift = (to - from) * SLOT;
    const start = this.start[from] as number;
    const end = this.end[from] as number;
    copyBytes(this.memory, start + shift, this.memory, start, end - start);
    this.start[to] = start + shift;
    this.end[to] = end + shift;
    this.consumed[to] = this.consumed[from] as number;
    this.needs[to] = this.needs[from] as number;
    output.length[to] = output.length[from] as number;
    output.flags[to] = output.flags[from] as number;
    output.gsoType[to] = output.gsoType[from] as number;
    output.headerLength[to] = output.headerLength[from] as number;
    output.gsoSize[to] = output.gsoSize[from] as number;
    output.csumStart[to] = output.csumStart[from] as number;
    output.csumOffset[to] = output.csumOffset[from] as number;
    output.outerTransport[to] = output.outerTransport[from] as number;
    output.innerNetwork[to] = output.innerNetwork[from] as number;
    output.hash[to] = output.hash[from] as number;
    output.hashReport[to] = output.hashReport[from] as number;
    output.hashedBy[to] = output.hashedBy[from] as number;
    output.token[to] = output.token[from] as number;
  }

  /** Bytes in front of a frame that headers can be put into. */
  headroom(place: number): number {
    return (this.start[place] as number) - place * SLOT;
  }

  /** The frame as a receiver gets it: its headers, then the sender's bytes that they do not stand for. */
  assemble(batch: FrameBatch, frame: number, place: number): void {
    const { output } = this;
    const to = output.segments;
    const { segments } = batch;
    const first = to.count;
    const start = this.start[place] as number;
    to.addHost(this.memory, start, (this.end[place] as number) - start);
    let skip = this.consumed[place] as number;
    let segment = batch.firstSegment[frame] as number;
    // Of a frame that was taken whole nothing is left.
    const last = skip === batch.length[frame] ? segment : segment + (batch.segmentCount[frame] as number);
    for (; segment < last; segment++) {
      const length = segments.length[segment] as number;
      if (skip >= length) skip -= length;
      else if (skip === 0) to.addFrom(segments, segment);
      else {
        to.addHost(segments.views[segment] as ByteViews, (segments.offset[segment] as number) + skip, length - skip);
        skip = 0;
      }
    }
    output.firstSegment[place] = first;
    output.segmentCount[place] = to.count - first;
    output.needs[place] = this.needs[place] as number;
  }

  /** Whether another frame of so many pieces still finds room. */
  hasRoom(pieces: number): boolean {
    return this.output.segments.count + pieces + 1 <= PIECES;
  }

  reset(): void {
    this.output.segments.truncate(0);
    this.output.judged = false;
  }
}
