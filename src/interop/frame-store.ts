// Frames on their way between a socket and a segment: whole frames in a byte ring, oldest first. A frame's place is reserved before its bytes arrive and the
// frame exists once committed; it never wraps, starts on eight bytes (so copies go by words) and stays where it is until it is released.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { type FrameBatch, GSO_NONE } from '#net/port';

const FRAMES = 4096;
const DEFAULT_BYTES = 1 << 20;

export class FrameStore {
  readonly views: ByteViews;
  readonly #size: number;
  readonly #offset = new Int32Array(FRAMES);
  readonly #length = new Int32Array(FRAMES);
  /** Position behind each frame. Positions are free-running; their low bits are byte offsets. */
  readonly #end = new Int32Array(FRAMES);
  #tail = 0;
  #head = 0;
  #reserved = 0;
  /** Sequence number of the oldest frame. */
  #first = 0;
  #count = 0;

  /** @param bytes a power of two; the longest frame that always fits in the end is half of it. */
  constructor(bytes = DEFAULT_BYTES) {
    if (!(Number.isInteger(bytes) && bytes >= 1 << 18 && bytes <= 1 << 28 && (bytes & (bytes - 1)) === 0))
      throw new RangeError(`a frame store of ${bytes} bytes: a power of two, 256 KiB to 256 MiB`);
    this.#size = bytes;
    this.views = viewsOf(new ArrayBuffer(bytes));
  }

  /** Committed frames not released yet. */
  get count(): number {
    return this.#count;
  }

  /** At most half full, in bytes and in frames: time to tell who was refused. */
  get hasRoom(): boolean {
    return this.#count <= FRAMES / 2 && ((this.#head - this.#tail) | 0) <= this.#size / 2;
  }

  /** Makes a place for a frame of `length` bytes, at least 1; returns its byte offset, or -1 when there is no room now. A new reservation replaces the last one. */
  reserve(length: number): number {
    if (this.#count === FRAMES) return -1;
    const need = (length + 7) & ~7;
    const toEnd = this.#size - (this.#head & (this.#size - 1));
    const at = toEnd < need ? (this.#head + toEnd) | 0 : this.#head;
    if (((at + need - this.#tail) | 0) > this.#size) return -1;
    this.#reserved = at;
    return at & (this.#size - 1);
  }

  /** The reserved place now holds a frame. */
  commit(length: number): void {
    const i = (this.#first + this.#count++) & (FRAMES - 1);
    this.#offset[i] = this.#reserved & (this.#size - 1);
    this.#length[i] = length;
    this.#head = (this.#reserved + ((length + 7) & ~7)) | 0;
    this.#end[i] = this.#head;
  }

  /** Of the frame `index` places behind the oldest one. */
  offsetOf(index: number): number {
    return this.#offset[(this.#first + index) & (FRAMES - 1)] as number;
  }

  lengthOf(index: number): number {
    return this.#length[(this.#first + index) & (FRAMES - 1)] as number;
  }

  /** The oldest frames' places are free again. */
  release(frames: number): void {
    if (frames === 0) return;
    this.#tail = this.#end[(this.#first + frames - 1) & (FRAMES - 1)] as number;
    this.#first = (this.#first + frames) | 0;
    this.#count -= frames;
  }

  /** Appends frames to a batch as NetPort.collect wants it, without releasing them; returns how many. They carry no offload request: a socket's frames are as on a wire. */
  append(batch: FrameBatch, frames: number, bytes: number): number {
    const limit = Math.min(frames, this.#count, batch.capacity - batch.count, batch.segments.capacity - batch.segments.count);
    let size = 0;
    let taken = 0;
    for (; taken < limit && (taken === 0 || size < bytes); taken++) {
      const length = this.lengthOf(taken);
      const f = batch.count++;
      batch.firstSegment[f] = batch.segments.count;
      batch.segmentCount[f] = 1;
      batch.segments.addHost(this.views, this.offsetOf(taken), length);
      batch.length[f] = length;
      batch.flags[f] = 0;
      batch.gsoType[f] = GSO_NONE;
      batch.headerLength[f] = 0;
      batch.gsoSize[f] = 0;
      batch.csumStart[f] = 0;
      batch.csumOffset[f] = 0;
      batch.token[f] = (this.#first + taken) | 0;
      size += length;
    }
    return taken;
  }
}
