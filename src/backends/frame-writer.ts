// Frames into receive buffers: the virtio_net_hdr and the bytes, over one chain or (MRG_RXBUF) as many as it takes. Three ways, from common to general: short plain
// frames into plain buffers in one loop, a long frame over a run of plain buffers, any frame over any chains.

import { copyBytes } from '#core/copy';
import type { DmaSpace, Window } from '#core/dma-space';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import {
  ACCEPTS_CSUM,
  ACCEPTS_RSC,
  FRAME_DATA_VALID,
  FRAME_NEEDS_CSUM,
  FRAME_RSC_INFO,
  FRAME_UDP_TUNNEL_CSUM,
  type FrameBatch,
  GSO_UDP_TUNNEL,
} from '#net/port';
import { QUEUE_BROKEN, type VirtQueue } from '#virtio/virtqueue';

const MINIMUM_FRAME = 14;
const HEADER_WORDS = 8;
/** The header with no hash or tunnel fields. */
export const HEADER_BYTES = 12;
/** A legacy driver's without MRG_RXBUF (virtio 1.4 5.1.9.1): it ends before num_buffers. */
const LEGACY_HEADER_BYTES = 10;
const HASH_HEADER_BYTES = 20;
const ONE_BUFFER = 1 << 16;
const CHECKSUM_FLAGS = FRAME_NEEDS_CSUM | FRAME_DATA_VALID;
/** outer_th_offset and inner_nh_offset: there whenever a tunnel frame can be. */
const TUNNEL_WORD = 5;
/** Room for the chains of a run, and for the segments of one chain. */
const CHAINS = 1280;

/**
 * Buffers looked at for one frame, and for all of a turn before the next frame has to wait: a driver may post chains of a thousand buffers of no length, and would
 * keep the thread from everybody else for seconds. Far more than any frame needs.
 */
const WORK_LIMIT = 8192;

/** What `write` returns besides the (complement of the) number of chains used. */
export const WRITE_HELD = -0x40000000;
export const WRITE_BROKEN = -0x40000001;
export const WRITE_TOO_LONG = 0;

export class FrameWriter {
  /** Chains taken and not pushed yet: their segments (of a run, one each), tokens, and bytes written. */
  readonly chain = new SegmentList(CHAINS, viewsOf(new ArrayBuffer(8)));
  tokens = new Int32Array(CHAINS);
  written = new Int32Array(CHAINS);
  /** Bytes of the frames `fill` has written. */
  bytes = 0;
  /** After WRITE_HELD: how many chains there were, too few. */
  tooFew = 0;
  /** Buffers looked at by `write` since the last flush, which sets it to 0. */
  work = 0;
  /** `fillShort` met a frame with a checksum to be told of. */
  asked = false;
  headerLength = HEADER_BYTES;
  /** What the driver takes: ACCEPTS_* bits. */
  accepts = 0;
  /** Whose hashes (FrameBatch.hashedBy) a header with room for one reports. */
  reported = -1;
  #dma: DmaSpace | undefined;
  #mergeable = false;
  /** The header of a frame that does not go into one piece of memory. */
  readonly #header = viewsOf(new ArrayBuffer(HEADER_WORDS * 4));
  // Where the frame being written goes on: the header, then its segments up to #end.
  #from: ByteViews = this.#header;
  #source = 0;
  #left = 0;
  #segment = 0;
  #end = 0;

  open(dma: DmaSpace, mergeable: boolean): void {
    this.#dma = dma;
    this.#mergeable = mergeable;
  }

  configure(headerLength: number, accepts: number, reported: number): void {
    this.reported = reported;
    if (headerLength === LEGACY_HEADER_BYTES) this.headerLength = headerLength;
    else this.headerLength = headerLength <= HEADER_BYTES ? HEADER_BYTES : Math.min(Math.max(headerLength, HASH_HEADER_BYTES), HEADER_WORDS * 4) & ~3;
    this.accepts = accepts;
  }

  /**
   * Frames order[at] .. order[to - 1] into the buffers `slot` .. `end - 1` of the run in hand, one each, while they are of up to `longest` bytes in one piece or two, ask for a checksum at most, and their first
   * piece lies like its buffer within eight bytes. Returns how many; `asked` says whether any asked.
   */
  fillShort(batch: FrameBatch, order: Uint16Array, at: number, to: number, slot: number, end: number, longest: number): number {
    const { headerLength, reported } = this;
    // Behind a legacy header a frame lies on no word.
    if (at === to || slot === end || (headerLength & 3) !== 0) return 0;
    const { offset: offsets, length: rooms, views: chainViews } = this.chain;
    const { segments, length: lengths, segmentCount, firstSegment, flags, gsoType, csumStart, csumOffset, hash, hashReport, hashedBy } = batch;
    const told = (this.accepts & ACCEPTS_CSUM) === 0 ? 0 : CHECKSUM_FLAGS;
    const { views: sourceViews, offset: sources, length: sizes } = segments;
    const { written } = this;
    const target = chainViews[slot] as ByteViews;
    const source = sourceViews[firstSegment[order[at] as number] as number] as ByteViews;
    const to32 = target.i32;
    const to64 = target.f64;
    const from32 = source.i32;
    const from64 = source.f64;
    const last = Math.min(to - at, end - slot);
    let k = 0;
    let bytes = 0;
    let asked = 0;
    let halves = 0;
    // No call inside: the JIT then keeps all of the above in registers (measured: bench/inline-cost.ts).
    while (k < last) {
      const f = order[(at + k) | 0] as number;
      const n = (slot + k) | 0;
      const length = lengths[f] as number;
      const s = firstSegment[f] as number;
      let t = offsets[n] as number;
      let c = sources[s] as number;
      const flag = flags[f] as number;
      if (length > longest || length < MINIMUM_FRAME || ((flag & ~CHECKSUM_FLAGS) | (gsoType[f] as number)) !== 0) break;
      let left = length;
      if (segmentCount[f] !== 1) {
        left = sizes[s] as number;
        if (segmentCount[f] !== 2 || left < MINIMUM_FRAME || left + (sizes[(s + 1) | 0] as number) !== length) break;
        halves = 1;
      }
      if ((rooms[n] as number) < ((length + headerLength) | 0) || (t & 3) !== 0 || ((t + headerLength - c) & 7) !== 0) break;
      if (chainViews[n] !== target || sourceViews[s] !== source) break;
      // The virtio_net_hdr: nothing asked, or as #writeRequest says it; one buffer.
      asked |= flag;
      const partial = flag & told & FRAME_NEEDS_CSUM;
      to32[t >> 2] = flag & told;
      to32[((t >> 2) + 1) | 0] = partial !== 0 ? (csumStart[f] as number) << 16 : 0;
      to32[((t >> 2) + 2) | 0] = partial !== 0 ? (csumOffset[f] as number) | ONE_BUFFER : ONE_BUFFER;
      if (headerLength !== HEADER_BYTES) {
        const known = hashedBy[f] === reported;
        to32[((t >> 2) + 3) | 0] = known ? (hash[f] as number) : 0;
        to32[((t >> 2) + 4) | 0] = known ? (hashReport[f] as number) : 0;
        for (let w = 5; w < headerLength >> 2; w++) to32[((t >> 2) + w) | 0] = 0;
      }
      t = (t + headerLength) | 0;
      if ((t & 4) !== 0) {
        to32[t >> 2] = from32[c >> 2] as number;
        t = (t + 4) | 0;
        c = (c + 4) | 0;
        left = (left - 4) | 0;
      }
      let a = t >> 3;
      let b = c >> 3;
      const end = (a + (left >> 3)) | 0;
      for (; ((a + 8) | 0) <= end; a = (a + 8) | 0, b = (b + 8) | 0) {
        const w0 = from64[b] as number;
        const w1 = from64[(b + 1) | 0] as number;
        const w2 = from64[(b + 2) | 0] as number;
        const w3 = from64[(b + 3) | 0] as number;
        const w4 = from64[(b + 4) | 0] as number;
        const w5 = from64[(b + 5) | 0] as number;
        const w6 = from64[(b + 6) | 0] as number;
        const w7 = from64[(b + 7) | 0] as number;
        to64[a] = w0;
        to64[(a + 1) | 0] = w1;
        to64[(a + 2) | 0] = w2;
        to64[(a + 3) | 0] = w3;
        to64[(a + 4) | 0] = w4;
        to64[(a + 5) | 0] = w5;
        to64[(a + 6) | 0] = w6;
        to64[(a + 7) | 0] = w7;
      }
      for (; a < end; a = (a + 1) | 0, b = (b + 1) | 0) to64[a] = from64[b] as number;
      if ((left & 4) !== 0) to32[a << 1] = from32[b << 1] as number;
      if ((left & 3) !== 0) {
        // The last bytes of a length that is no multiple of four.
        const rest = left & 3;
        const last = (t + left - rest) | 0;
        const lastSource = (c + left - rest) | 0;
        for (let i = 0; i < rest; i++) target.u8[(last + i) | 0] = source.u8[(lastSource + i) | 0] as number;
      }
      written[n] = (length + headerLength) | 0;
      bytes = (bytes + length) | 0;
      k = (k + 1) | 0;
    }
    this.bytes += bytes;
    if (asked !== 0) this.asked = true;
    if (halves !== 0) this.#fillRests(batch, order, at, slot, k);
    return k;
  }

  /** The second pieces of `frames` frames from order[at] on, whose first ones are in the buffers from `slot` on: a switch that has looked at its headers sends a frame in two. */
  #fillRests(batch: FrameBatch, order: Uint16Array, at: number, slot: number, frames: number): void {
    const { offset: offsets, views: chainViews } = this.chain;
    const { segments, firstSegment, segmentCount } = batch;
    const target = chainViews[slot] as ByteViews;
    for (let k = 0; k < frames; k++) {
      const f = order[at + k] as number;
      if (segmentCount[f] === 1) continue;
      const s = firstSegment[f] as number;
      const to = (offsets[slot + k] as number) + this.headerLength + (segments.length[s] as number);
      copyBytes(target, to, segments.views[s + 1] as ByteViews, segments.offset[s + 1] as number, segments.length[s + 1] as number);
    }
  }

  /** Puts frame `f` of `length` bytes into buffer `n` of the run. False when it does not go there as a whole. */
  fillOne(batch: FrameBatch, f: number, length: number, n: number): boolean {
    const { chain, headerLength } = this;
    const at = chain.offset[n] as number;
    const total = length + headerLength;
    if ((chain.length[n] as number) < total || (at & 3) !== 0) return false;
    const views = chain.views[n] as ByteViews;
    this.#writeHeader(views.i32, at >>> 2, batch, f);
    const { segments } = batch;
    let to = at + headerLength;
    // A switch that has looked at its headers sends a frame in two pieces.
    const first = batch.firstSegment[f] as number;
    const last = first + (batch.segmentCount[f] as number);
    for (let s = first; s < last && to < at + total; s++) {
      const piece = Math.min(segments.length[s] as number, at + total - to);
      copyBytes(views, to, segments.views[s] as ByteViews, segments.offset[s] as number, piece);
      to += piece;
    }
    (this.#dma as DmaSpace).markDirty(chain.window[n] as Window, chain.address[n] as number, total);
    this.written[n] = total;
    this.bytes += length;
    return true;
  }

  /** The virtio_net_hdr of frame `f`, num_buffers 1 (virtio 1.4 5.1.9.4.1, also without MRG_RXBUF). */
  #writeHeader(words: Int32Array, at: number, batch: FrameBatch, f: number): void {
    const end = this.headerLength >>> 2;
    if (end > 3) {
      // virtio 1.4 5.1.9.4.5: the hash and its type, or HASH_REPORT_NONE.
      const known = batch.hashedBy[f] === this.reported;
      words[at + 3] = known ? (batch.hash[f] as number) : 0;
      words[at + 4] = known ? (batch.hashReport[f] as number) : 0;
      for (let i = 5; i < end; i++) words[at + i] = 0;
    }
    const asked = ((batch.flags[f] as number) & (FRAME_NEEDS_CSUM | FRAME_DATA_VALID)) | ((batch.gsoType[f] as number) << 8);
    if (asked === 0) {
      words[at] = 0;
      words[at + 1] = 0;
      words[at + 2] = ONE_BUFFER;
    } else this.#writeRequest(words, at, batch, f);
  }

  /** virtio 1.4 5.1.9.4.1 (device MUST): without GUEST_CSUM flags are zero. What the driver does not take was converted before. */
  #writeRequest(words: Int32Array, at: number, batch: FrameBatch, f: number): void {
    const gsoType = batch.gsoType[f] as number;
    let flags = (this.accepts & ACCEPTS_CSUM) === 0 ? 0 : (batch.flags[f] as number) & (FRAME_NEEDS_CSUM | FRAME_DATA_VALID);
    let start = (flags & FRAME_NEEDS_CSUM) !== 0 ? (batch.csumStart[f] as number) : 0;
    let offset = (flags & FRAME_NEEDS_CSUM) !== 0 ? (batch.csumOffset[f] as number) : 0;
    if ((gsoType & GSO_UDP_TUNNEL) !== 0) {
      // virtio 1.4 5.1.9.4.1 (device MUST NOT): DATA_VALID with a tunnel.
      flags = (flags & FRAME_NEEDS_CSUM) | ((batch.flags[f] as number) & FRAME_UDP_TUNNEL_CSUM);
      words[at + TUNNEL_WORD] = (batch.outerTransport[f] as number) | ((batch.innerNetwork[f] as number) << 16);
    }
    if (gsoType !== 0 && (this.accepts & ACCEPTS_RSC) !== 0) {
      // virtio 1.4 5.1.9.4.1 (device MUST): then the checksum fields count segments and duplicate acknowledgements, of frames that came as they are as well.
      if (((batch.flags[f] as number) & FRAME_RSC_INFO) === 0) {
        start = Math.ceil(((batch.length[f] as number) - (batch.headerLength[f] as number)) / (batch.gsoSize[f] as number));
        offset = 0;
      }
      flags |= FRAME_RSC_INFO;
    }
    words[at] = flags | (gsoType << 8) | (gsoType === 0 ? 0 : (batch.headerLength[f] as number) << 16);
    words[at + 1] = (gsoType === 0 ? 0 : (batch.gsoSize[f] as number)) | (start << 16);
    words[at + 2] = offset | ONE_BUFFER;
  }

  /**
   * Any shape of frame and chain; with MRG_RXBUF over several chains, each filled to capacity but the last (virtio 1.4 5.1.9.4.1). Returns the complement of the
   * number of chains used (below 0), WRITE_HELD (too few buffers: none is used), WRITE_BROKEN, or WRITE_TOO_LONG.
   */
  write(queue: VirtQueue, batch: FrameBatch, f: number, length: number): number {
    const total = this.headerLength + length;
    if (this.work >= WORK_LIMIT) {
      this.tooFew = 0;
      return WRITE_HELD;
    }
    if (this.#mergeable) {
      const chains = this.#writeRun(queue, batch, f, total);
      if (chains > 0) return ~chains;
    }
    return this.#writeChains(queue, batch, f, total);
  }

  #begin(batch: FrameBatch, f: number): void {
    this.#writeHeader(this.#header.i32, 0, batch, f);
    this.#from = this.#header;
    this.#source = 0;
    this.#left = this.headerLength;
    this.#segment = (batch.firstSegment[f] as number) - 1;
    this.#end = this.#segment + 1 + (batch.segmentCount[f] as number);
  }

  /** Copies the next `space` bytes of the frame to `target`. */
  #put(batch: FrameBatch, to: ByteViews, target: number, space: number): void {
    const { segments } = batch;
    for (let filled = 0; filled < space; ) {
      if (this.#left === 0) {
        if (++this.#segment === this.#end) return;
        this.#from = segments.views[this.#segment] as ByteViews;
        this.#source = segments.offset[this.#segment] as number;
        this.#left = segments.length[this.#segment] as number;
      }
      const run = Math.min(space - filled, this.#left);
      copyBytes(to, target + filled, this.#from, this.#source, run);
      filled += run;
      this.#source += run;
      this.#left -= run;
    }
  }

  /** Over a run of plain buffers, the first of which holds the header. Returns how many, 0 when the next chains are not such a run: nothing is taken then. */
  #writeRun(queue: VirtQueue, batch: FrameBatch, f: number, total: number): number {
    const { chain, tokens, written } = this;
    chain.count = 0;
    const run = queue.popRun(chain, tokens, 0, CHAINS, total, true);
    this.work += run;
    let room = 0;
    for (let n = 0; n < run; n++) room += chain.length[n] as number;
    if (run === 0 || room < total || (chain.length[0] as number) < this.headerLength) {
      queue.unpop(run);
      return 0;
    }
    this.#begin(batch, f);
    const dma = this.#dma as DmaSpace;
    let left = total;
    for (let n = 0; n < run; n++) {
      const space = Math.min(left, chain.length[n] as number);
      this.#put(batch, chain.views[n] as ByteViews, chain.offset[n] as number, space);
      dma.markDirty(chain.window[n] as Window, chain.address[n] as number, space);
      written[n] = space;
      left -= space;
    }
    const bytes = (chain.views[0] as ByteViews).u8;
    const at = (chain.offset[0] as number) + 10;
    bytes[at] = run;
    bytes[at + 1] = run >>> 8;
    // Written after its page was marked: a page must be marked after the last write to it.
    dma.markDirty(chain.window[0] as Window, (chain.address[0] as number) + 10, 2);
    queue.pushRun(tokens, 0, run, written);
    return run;
  }

  #writeChains(queue: VirtQueue, batch: FrameBatch, f: number, total: number): number {
    const { chain } = this;
    const dma = this.#dma as DmaSpace;
    this.#begin(batch, f);
    // Where num_buffers ended up: one place a byte, the header may be split between them.
    let lowViews = this.#header;
    let lowAt = 10;
    let lowWindow: Window | null = null;
    let lowAddress = 0;
    let highViews = this.#header;
    let highAt = 11;
    let highWindow: Window | null = null;
    let highAddress = 0;
    const counted = this.headerLength >= HEADER_BYTES;
    let done = 0;
    let chains = 0;
    const before = this.work;
    while (done < total) {
      if (this.work - before > WORK_LIMIT) {
        queue.unpop(chains);
        return WRITE_TOO_LONG;
      }
      chain.count = 0;
      const token = queue.pop(chain);
      if (token < 0) {
        queue.unpop(chains);
        if (token === QUEUE_BROKEN) return WRITE_BROKEN;
        // Too few buffers. When the ring cannot hold more, there will never be enough.
        this.tooFew = chains;
        return chains >= queue.size || chains >= 0xffff ? WRITE_TOO_LONG : WRITE_HELD;
      }
      this.work += queue.buffers;
      const room = Math.min(queue.writableBytes, total - done);
      if (!this.#mergeable && room < total) {
        queue.unpop(1);
        return WRITE_TOO_LONG;
      }
      let written = 0;
      for (let w = queue.readableSegments; written < room; w++) {
        const to = chain.views[w] as ByteViews;
        const target = chain.offset[w] as number;
        const space = Math.min(chain.length[w] as number, room - written);
        this.#put(batch, to, target, space);
        if (counted && done <= 10 && done + space > 10) {
          lowViews = to;
          lowAt = target + 10 - done;
          lowWindow = chain.window[w] as Window;
          lowAddress = (chain.address[w] as number) + 10 - done;
        }
        if (counted && done <= 11 && done + space > 11) {
          highViews = to;
          highAt = target + 11 - done;
          highWindow = chain.window[w] as Window;
          highAddress = (chain.address[w] as number) + 11 - done;
        }
        dma.markDirty(chain.window[w] as Window, chain.address[w] as number, space);
        written += space;
        done += space;
      }
      if (chains === this.tokens.length) this.#grow();
      this.tokens[chains] = token;
      this.written[chains++] = written;
    }
    // virtio 1.4 5.1.9.4.1 (device MUST): the number of buffers used for the frame, in the header of the first.
    lowViews.u8[lowAt] = chains;
    highViews.u8[highAt] = chains >>> 8;
    // Written after their pages were marked: a page must be marked after the last write to it.
    if (lowWindow !== null) dma.markDirty(lowWindow, lowAddress, 1);
    if (highWindow !== null) dma.markDirty(highWindow, highAddress, 1);
    queue.pushRun(this.tokens, 0, chains, this.written);
    return ~chains;
  }

  #grow(): void {
    const tokens = new Int32Array(2 * this.tokens.length);
    const written = new Int32Array(tokens.length);
    tokens.set(this.tokens);
    written.set(this.written);
    this.tokens = tokens;
    this.written = written;
  }
}
