// The capture-compare sink: every byte received against the capture that was replayed, in order. A frame longer than the MTU may arrive whole (this
// guest accepts segmentation offload) or cut up (it does not): then each piece has to be the right stretch of it with sound headers and checksums.

import type { TimeSource } from '#core/clock';
import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { LinearFrame } from './linear.ts';
import { CHECKSUM_PARTIAL, type ReceivedFrame } from './net-receive.ts';
import type { Nic } from './nic.ts';
import {
  checksumsHold,
  checksumUnfilled,
  fold,
  get16,
  get32,
  Headers,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  pseudoHeaderSum,
  set16,
  transportChecksum,
} from './packets.ts';
import { type PackedFrames, Tallied, type Workload, type WorkloadResult } from './workload.ts';

/** Where received frames are written, for a capture file: filled from the start, `count` frames. Memory is the caller's. */
export interface FrameStore {
  readonly bytes: SharedArrayBuffer;
  /** Uint32: offsets[0] is 0, offsets[i + 1] is where frame i ends. */
  readonly offsets: SharedArrayBuffer;
  /** Float64 nanoseconds of the guest's clock. */
  readonly times: SharedArrayBuffer;
  /** Int32: frames stored. */
  readonly count: SharedArrayBuffer;
}

export interface CompareJob {
  readonly kind: 'compare';
  readonly frames: PackedFrames;
  readonly repeat?: number;
  readonly store?: FrameStore;
}

export class Compare extends Tallied implements Workload {
  readonly #job: CompareJob;
  readonly #expected: ByteViews;
  readonly #repeat: number;
  readonly #linear = new LinearFrame();
  readonly #want = new Headers();
  readonly #got = new Headers();
  readonly #store: { views: ByteViews; offsets: Uint32Array; times: Float64Array; count: Int32Array } | undefined;
  #index = 0;
  #round = 0;
  /** Payload bytes of the expected frame that arrived in pieces so far. */
  #pieces = 0;
  #whole = 0;
  #segmented = 0;
  #now = 0;
  readonly nextDue = Infinity;

  constructor(job: CompareJob) {
    super();
    this.#job = job;
    this.#expected = viewsOf(job.frames.buffer);
    this.#repeat = job.frames.count === 0 ? 0 : (job.repeat ?? 1);
    const { store } = job;
    this.#store = store && {
      views: viewsOf(store.bytes),
      offsets: new Uint32Array(store.offsets),
      times: new Float64Array(store.times),
      count: new Int32Array(store.count),
    };
  }

  get done(): boolean {
    return this.#round >= this.#repeat;
  }
  step(_net: Nic, time: TimeSource): boolean {
    this.#now = time.now();
    return false;
  }

  receive(frame: ReceivedFrame): void {
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
    if (this.done) {
      this.tally.fail(() => `a frame of ${frame.length} bytes after the last one expected`);
      return;
    }
    const partial = frame.checksum === CHECKSUM_PARTIAL;
    if (!this.#linear.load(frame, partial)) {
      this.tally.fail(() => `a frame of ${frame.length} bytes`);
      return;
    }
    const start = this.#job.frames.offset[this.#index] as number;
    const length = this.#job.frames.length[this.#index] as number;
    const { u8 } = this.#linear.views;
    const at = this.#linear.offset;
    if (frame.length < length && this.#pieceOf(u8, at, frame, start, length)) {
      this.#keep(frame.length);
      return;
    }
    if (this.#pieces !== 0) {
      this.tally.fail(() => `frame ${this.#index}: ${this.#pieces} payload bytes came in pieces, then something else`);
      this.#pieces = 0;
    }
    this.#compareWhole(u8, at, frame, start, length);
    this.#keep(frame.length);
    this.#advance();
  }

  #compareWhole(u8: Uint8Array, at: number, frame: ReceivedFrame, start: number, length: number): void {
    const want = this.#expected.u8;
    // An unfilled checksum: the sender's stack may have recorded it unfilled as well. Otherwise finish it here, as this guest's stack would.
    if (frame.checksum === CHECKSUM_PARTIAL) {
      const field = frame.csumStart + frame.csumOffset;
      if (field + 2 <= length && get16(u8, at + field) !== get16(want, start + field) && this.#got.parse(u8, at, frame.length)) {
        const seeded = fold(pseudoHeaderSum(u8, at, this.#got, this.#got.end - this.#got.transport));
        if (seeded !== get16(u8, at + field)) this.tally.fail(() => `frame ${this.#index}: its unfilled checksum is not the pseudo header's sum`);
        set16(u8, at + field, transportChecksum(u8, at, this.#got));
      }
    }
    // Ethernet padding of short frames may have been added on the way; nothing else may differ in length.
    const same = frame.length === length || (length < 60 && frame.length === 60);
    if (!same) {
      this.tally.fail(() => `frame ${this.#index}: ${frame.length} bytes in place of ${length}`);
      return;
    }
    // Recorded unfilled, arrived filled: right when the whole frame now sums up.
    const w = this.#want;
    let field = -1;
    if (w.parse(want, start, length) && checksumUnfilled(want, start, w) && w.checksumOffset >= 0) {
      field = w.transport + w.checksumOffset;
      if (get16(u8, at + field) === get16(want, start + field)) field = -1;
      else if (!this.#got.parse(u8, at, frame.length) || !checksumsHold(u8, at, this.#got))
        this.tally.fail(() => `frame ${this.#index}: its checksum was filled in wrongly`);
    }
    for (let i = this.#equalWords(at, start, length); i < length; i++) {
      if (u8[at + i] === want[start + i] || (field >= 0 && (i === field || i === field + 1))) continue;
      this.tally.fail(() => `frame ${this.#index}: byte ${i} is ${u8[at + i]} in place of ${want[start + i]}`);
      return;
    }
    this.#whole++;
  }

  /** Bytes that are equal from the start, looked at four at a time: at least the whole words before the first difference. 0 where the two do not line up. */
  #equalWords(at: number, start: number, length: number): number {
    if (((at | start) & 3) !== 0) return 0;
    const got = this.#linear.views.i32;
    const want = this.#expected.i32;
    const g = at >> 2;
    const w = start >> 2;
    const words = length >> 2;
    let i = 0;
    while (i < words && got[g + i] === want[w + i]) i++;
    return i << 2;
  }

  /** True when this frame is the next stretch of the expected one's payload (wrong bytes in it are counted as errors). */
  #pieceOf(u8: Uint8Array, at: number, frame: ReceivedFrame, start: number, length: number): boolean {
    const want = this.#expected.u8;
    const w = this.#want;
    const g = this.#got;
    const tcp = w.parse(want, start, length) && w.protocol === PROTOCOL_TCP;
    if ((!tcp && w.protocol !== PROTOCOL_UDP) || w.transport === 0) return false;
    if (!g.parse(u8, at, frame.length) || g.protocol !== w.protocol || g.payload !== w.payload) return false;
    if (tcp && get32(u8, at + g.transport + 4) !== (get32(want, start + w.transport + 4) + this.#pieces) >>> 0) return false;
    const part = g.end - g.payload;
    const total = w.end - w.payload;
    if (part === 0 || this.#pieces + part > total) return false;
    // MAC addresses, tags, IP addresses and ports.
    for (let i = 0; i < w.network; i++) if (u8[at + i] !== want[start + i]) return false;
    const addresses = w.version === 4 ? 12 : 8;
    for (let i = w.network + addresses; i < w.transport + 4; i++) if (u8[at + i] !== want[start + i]) return false;
    if (frame.checksum === CHECKSUM_PARTIAL) set16(u8, at + g.transport + g.checksumOffset, transportChecksum(u8, at, g));
    if (!checksumsHold(u8, at, g)) this.tally.fail(() => `frame ${this.#index}: a segment at ${this.#pieces} has a wrong checksum`);
    const from = start + w.payload + this.#pieces;
    for (let i = 0; i < part; i++) {
      if (u8[at + g.payload + i] === want[from + i]) continue;
      this.tally.fail(() => `frame ${this.#index}: payload byte ${this.#pieces + i} is wrong in a segment`);
      break;
    }
    this.#pieces += part;
    this.#segmented++;
    if (this.#pieces === total) {
      this.#pieces = 0;
      this.#advance();
    }
    return true;
  }

  #advance(): void {
    if (++this.#index < this.#job.frames.count) return;
    this.#index = 0;
    this.#round++;
  }

  #keep(length: number): void {
    const store = this.#store;
    if (!store) return;
    const n = store.count[0] as number;
    const end = (store.offsets[n] as number) + length;
    if (n >= store.times.length || n + 1 >= store.offsets.length || end > store.views.u8.length) return;
    copyBytes(store.views, store.offsets[n] as number, this.#linear.views, this.#linear.offset, length);
    store.offsets[n + 1] = end;
    store.times[n] = this.#now;
    Atomics.store(store.count, 0, n + 1);
  }

  result(): WorkloadResult {
    return this.tally.result('compare', this.done, { whole: this.#whole, segments: this.#segmented, expected: this.#job.frames.count * this.#repeat });
  }
}
