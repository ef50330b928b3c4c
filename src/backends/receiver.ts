// From frames to receive rings: picks the ring, filters, writes the header and copies the frame, over one chain or (MRG_RXBUF) as many as it takes. Nothing is
// visible to the driver before `flush`.

import { copyBytes } from '#core/copy';
import type { DmaSpace, Window } from '#core/dma-space';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { DROP_BROKEN, DROP_FILTERED, DROP_MALFORMED, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import { ACCEPTS_CSUM, FRAME_DATA_VALID, FRAME_NEEDS_CSUM, type FrameBatch } from '#net/port';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import { type NetPolicy, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import { QUEUE_BROKEN } from '#virtio/virtqueue';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import { passesFilter } from './receive-filter.ts';
import type { PortSession } from './ring-port.ts';
import type { FlowTable } from './steering.ts';
import type { Vring } from './vring.ts';

const MINIMUM_FRAME = 14;
const HEADER_WORDS = 8;
/** The header with no hash or tunnel fields: what the fast path writes. */
const HEADER_BYTES = 12;
const NO_LIMIT = 0x7fffffff;
/** Frames up to this length are copied word by word in the loop itself (measured: bench/inline-cost.ts). */
const SHORT_FRAME = 2047;
/**
 * Buffers looked at for one frame, and for all of a turn before the next frame has to wait: a driver may post chains of a thousand buffers of no length, and would
 * keep the thread from everybody else for seconds. Far more than any frame needs.
 */
const WORK_LIMIT = 8192;
/** Segments of one receive chain. */
const CHAIN_SEGMENTS = 1280;
/** Too few buffers for now: one of what #spread returns. */
const PUT_HELD = -0x40000000;
const ONE_BUFFER = 1 << 16;

export class Receiver {
  /** By active pair; undefined: that ring is not running. */
  rings: (Vring | undefined)[] = [];
  /** A ring of this port has broken: frames for a missing ring are dropped, not held. */
  broken = false;
  readonly #counters: PortCounters;
  readonly #flows: FlowTable;
  readonly #broke: (ring: Vring) => void;
  readonly #chain = new SegmentList(CHAIN_SEGMENTS, viewsOf(new ArrayBuffer(8)));
  /** The header of a frame that does not go into one piece of memory. */
  readonly #header = viewsOf(new ArrayBuffer(HEADER_WORDS * 4));
  #dma: DmaSpace | undefined;
  #policy: NetPolicy | undefined;
  #mergeable = false;
  #flags = 0;
  #accepts = 0;
  #headerLength = 12;
  #maximumFrame = NO_LIMIT;
  /** Where the driver had too few buffers, and how many it had; undefined: nowhere, or the ring was not running. */
  #starved: Vring | undefined;
  #starvedWith = 0;
  // What was delivered since the last flush, by pair.
  readonly #pushed = new Int32Array(MAX_QUEUE_PAIRS);
  #touched = false;
  /** Buffers looked at since the last flush by way of `#one`. */
  #work = 0;
  // Of the deliver in progress.
  #frames = 0;
  #bytes = 0;
  #chains = 0;
  #filled = 0;
  // Chains taken and not pushed yet: a run, or those a frame is being spread over.
  #tokens = new Int32Array(CHAIN_SEGMENTS);
  #written = new Int32Array(CHAIN_SEGMENTS);

  constructor(counters: PortCounters, flows: FlowTable, broke: (ring: Vring) => void) {
    this.#counters = counters;
    this.#flows = flows;
    this.#broke = broke;
  }

  open(session: PortSession): void {
    this.#dma = session.memory;
    this.#policy = session.policy;
    this.#mergeable = session.features.has(VIRTIO_NET_F_MRG_RXBUF);
    this.#starved = undefined;
    this.broken = false;
  }

  configure(flags: number, accepts: number, headerLength: number, maximumFrame: number): void {
    this.#flags = flags;
    this.#accepts = accepts;
    this.#headerLength = Math.min(Math.max(headerLength, 12), HEADER_WORDS * 4) & ~3;
    this.#maximumFrame = maximumFrame === 0 ? NO_LIMIT : maximumFrame;
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const { rings } = this;
    if (rings.length > 1) {
      let f = from;
      while (f < to && this.#deliverTo(rings[this.#flows.pair(batch, f, rings.length)] ?? this.#anyRing(), batch, f, f + 1) === 1) f++;
      return f - from;
    }
    return this.#deliverTo(rings[0], batch, from, to);
  }

  /** Takes runs of plain buffers ahead and fills them in one loop; whatever is not plain goes one by one. */
  #deliverTo(ring: Vring | undefined, batch: FrameBatch, from: number, to: number): number {
    if (ring === undefined) return this.#deliverNowhere(to - from);
    if (ring.armed) ring.disarm();
    const { queue } = ring;
    this.#frames = 0;
    this.#bytes = 0;
    this.#chains = 0;
    let ahead = to - from;
    let f = from;
    while (f < to) {
      this.#chain.count = 0;
      const run = this.#headerLength === HEADER_BYTES ? queue.popRun(this.#chain, this.#tokens, 0, Math.min(ahead, to - f), 0x7fffffff, true) : 0;
      if (run > 0) {
        f = this.#fill(batch, f, to, run);
        const filled = this.#filled;
        queue.pushRun(this.#tokens, 0, filled, this.#written);
        this.#chains += filled;
        if (filled === run) {
          ahead = Math.min(2 * ahead, CHAIN_SEGMENTS);
          continue;
        }
        queue.unpop(run - filled);
        if (f === to) break;
      }
      // Frame f or the next chain is not of the plain kind. Take fewer ahead while that goes on: what is taken in vain is given back.
      ahead = 1;
      if (!this.#one(ring, batch, f)) {
        this.#starved = ring;
        break;
      }
      f++;
    }
    if (this.#frames > 0) {
      this.#pushed[ring.index >>> 1] = (this.#pushed[ring.index >>> 1] as number) + this.#chains;
      this.#touched = true;
      this.#counters.received(this.#frames, this.#bytes);
    }
    return f - from;
  }

  /** Puts frames from `f` on into the `run` plain buffers in hand, until either ends or a frame needs more than that. Returns the next frame; `#filled` buffers are full. */
  #fill(batch: FrameBatch, f: number, to: number, run: number): number {
    const chain = this.#chain;
    const { segments } = batch;
    const dma = this.#dma as DmaSpace;
    const { logging } = dma;
    const short = (this.#flags & POLICY_PROMISCUOUS) !== 0 && !logging ? Math.min(SHORT_FRAME, this.#maximumFrame) : 0;
    this.#filled = 0;
    while (f < to && this.#filled < run) {
      if ((batch.length[f] as number) <= short) {
        const next = this.#fillShort(batch, f, to, run, short);
        if (next !== f) {
          f = next;
          continue;
        }
      }
      const length = batch.length[f] as number;
      const reason = this.#refuses(batch, f, length);
      if (reason >= 0) {
        this.#counters.receiveDropped(reason, 1);
        f++;
        continue;
      }
      const n = this.#filled;
      const at = chain.offset[n] as number;
      const total = length + HEADER_BYTES;
      if ((chain.length[n] as number) < total || batch.segmentCount[f] !== 1 || (at & 3) !== 0) break;
      const views = chain.views[n] as ByteViews;
      this.#writeHeader(views.i32, at >>> 2, batch, f);
      const s = batch.firstSegment[f] as number;
      copyBytes(views, at + HEADER_BYTES, segments.views[s] as ByteViews, segments.offset[s] as number, length);
      if (logging) dma.markDirty(chain.window[n] as Window, chain.address[n] as number, total);
      this.#written[n] = total;
      this.#filled = n + 1;
      this.#frames++;
      this.#bytes += length;
      f++;
    }
    return f;
  }

  /** Frames of up to `longest` bytes that ask for nothing and lie like their buffers within eight bytes. Returns where that ends. */
  #fillShort(batch: FrameBatch, f: number, to: number, run: number, longest: number): number {
    const { offset: offsets, length: rooms, views: chainViews } = this.#chain;
    const { segments, length: lengths, segmentCount, firstSegment, flags, gsoType } = batch;
    const { views: sourceViews, offset: sources } = segments;
    const written = this.#written;
    const target = chainViews[this.#filled] as ByteViews;
    const source = sourceViews[firstSegment[f] as number] as ByteViews;
    const to32 = target.i32;
    const to64 = target.f64;
    const from32 = source.i32;
    const from64 = source.f64;
    const first = this.#filled;
    let n = first;
    let bytes = 0;
    // No call inside: the JIT then keeps all of the above in registers (measured: bench/inline-cost.ts).
    while (f < to && n < run) {
      const length = lengths[f] as number;
      const s = firstSegment[f] as number;
      let t = offsets[n] as number;
      let c = sources[s] as number;
      if (length > longest || length < MINIMUM_FRAME || ((flags[f] as number) | (gsoType[f] as number)) !== 0 || segmentCount[f] !== 1) break;
      if ((rooms[n] as number) < ((length + HEADER_BYTES) | 0) || (t & 3) !== 0 || ((t + HEADER_BYTES - c) & 7) !== 0) break;
      if (chainViews[n] !== target || sourceViews[s] !== source) break;
      // The virtio_net_hdr: nothing asked, one buffer.
      to32[t >> 2] = 0;
      to32[((t >> 2) + 1) | 0] = 0;
      to32[((t >> 2) + 2) | 0] = ONE_BUFFER;
      t = (t + HEADER_BYTES) | 0;
      let left = length;
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
      written[n] = (length + HEADER_BYTES) | 0;
      bytes = (bytes + length) | 0;
      n = (n + 1) | 0;
      f = (f + 1) | 0;
    }
    this.#filled = n;
    this.#frames += n - first;
    this.#bytes += bytes;
    return f;
  }

  /** Why the driver does not get frame `f`, or -1. */
  #refuses(batch: FrameBatch, f: number, length: number): number {
    if (length < MINIMUM_FRAME) return DROP_MALFORMED;
    if (!passesFilter(this.#policy as NetPolicy, this.#flags, batch, f)) return DROP_FILTERED;
    return length > this.#maximumFrame && batch.gsoType[f] === 0 ? DROP_TOO_LONG : -1;
  }

  /** One frame, whatever its shape and its buffers'. False: it is held. */
  #one(ring: Vring, batch: FrameBatch, f: number): boolean {
    const { queue } = ring;
    const length = batch.length[f] as number;
    let result = this.#refuses(batch, f, length);
    if (result < 0) {
      if (this.#work >= WORK_LIMIT) {
        this.#starvedWith = 0;
        return false;
      }
      const chain = this.#chain;
      chain.count = 0;
      const token = queue.pop(chain);
      result = token < 0 ? this.#noChain(ring, token, 0) : this.#spread(ring, token, batch, f, this.#headerLength + length);
    }
    if (result === PUT_HELD) return false;
    if (result >= 0) this.#counters.receiveDropped(result, 1);
    else {
      this.#frames++;
      this.#bytes += length;
      this.#chains += ~result;
    }
    return true;
  }

  /** No ring runs: a driver that broke one gets nothing more; one that is being moved is waited for. */
  #deliverNowhere(frames: number): number {
    this.#starved = undefined;
    if (!this.broken) return 0;
    this.#counters.receiveDropped(DROP_BROKEN, frames);
    return frames;
  }

  #anyRing(): Vring | undefined {
    for (const ring of this.rings) if (ring !== undefined) return ring;
    return undefined;
  }

  #noChain(ring: Vring, token: number, chains: number): number {
    if (token !== QUEUE_BROKEN) {
      this.#starvedWith = chains;
      return PUT_HELD;
    }
    this.#broke(ring);
    return DROP_BROKEN;
  }

  /** The virtio_net_hdr of frame `f`, num_buffers 1 (virtio 1.4 5.1.6.4.1, also without MRG_RXBUF). */
  #writeHeader(words: Int32Array, at: number, batch: FrameBatch, f: number): void {
    const asked = ((batch.flags[f] as number) & (FRAME_NEEDS_CSUM | FRAME_DATA_VALID)) | ((batch.gsoType[f] as number) << 8);
    if (asked === 0) {
      words[at] = 0;
      words[at + 1] = 0;
      words[at + 2] = ONE_BUFFER;
    } else this.#writeRequest(words, at, batch, f);
    for (let i = 3; i < this.#headerLength >>> 2; i++) words[at + i] = 0;
  }

  /** virtio 1.4 5.1.6.4.1 (device MUST): without GUEST_CSUM flags are zero. What the driver does not take was converted before. */
  #writeRequest(words: Int32Array, at: number, batch: FrameBatch, f: number): void {
    const flags = (this.#accepts & ACCEPTS_CSUM) === 0 ? 0 : (batch.flags[f] as number) & (FRAME_NEEDS_CSUM | FRAME_DATA_VALID);
    const gsoType = batch.gsoType[f] as number;
    const needs = (flags & FRAME_NEEDS_CSUM) !== 0;
    words[at] = flags | (gsoType << 8) | (gsoType === 0 ? 0 : (batch.headerLength[f] as number) << 16);
    words[at + 1] = (gsoType === 0 ? 0 : (batch.gsoSize[f] as number)) | (needs ? (batch.csumStart[f] as number) << 16 : 0);
    words[at + 2] = (needs ? (batch.csumOffset[f] as number) : 0) | ONE_BUFFER;
  }

  /**
   * Any shape of frame and chain; with MRG_RXBUF over several chains, each filled to capacity but the last (virtio 1.4 5.1.6.4.1).
   * Returns ~chains (below 0), PUT_HELD, or a drop reason.
   */
  #spread(ring: Vring, firstToken: number, batch: FrameBatch, f: number, total: number): number {
    const { queue } = ring;
    const chain = this.#chain;
    const header = this.#header;
    this.#writeHeader(header.i32, 0, batch, f);
    const { segments } = batch;
    const endSegment = (batch.firstSegment[f] as number) + (batch.segmentCount[f] as number);
    // Source: the header, then the frame's segments.
    let from: ByteViews = header;
    let source = 0;
    let left = this.#headerLength;
    let s = (batch.firstSegment[f] as number) - 1;
    // Where num_buffers ended up: one place a byte, the header may be split between them.
    let lowViews = header;
    let lowAt = 10;
    let lowPiece: Window | null = null;
    let lowAddress = 0;
    let highViews = header;
    let highAt = 11;
    let highPiece: Window | null = null;
    let highAddress = 0;
    let done = 0;
    let chains = 0;
    let token = firstToken;
    const work = this.#work;
    for (;;) {
      this.#work += queue.buffers;
      if (chains === this.#tokens.length) this.#grow();
      this.#tokens[chains] = token;
      const room = Math.min(queue.writableBytes, total - done);
      if (!this.#mergeable && room < total) {
        queue.unpop(1);
        return DROP_TOO_LONG;
      }
      let written = 0;
      for (let w = queue.readableSegments; written < room; w++) {
        const to = chain.views[w] as ByteViews;
        const target = chain.offset[w] as number;
        const space = Math.min(chain.length[w] as number, room - written);
        for (let filled = 0; filled < space; ) {
          if (left === 0) {
            s++;
            if (s === endSegment) break;
            from = segments.views[s] as ByteViews;
            source = segments.offset[s] as number;
            left = segments.length[s] as number;
          }
          const run = Math.min(space - filled, left);
          copyBytes(to, target + filled, from, source, run);
          if (done <= 10 && done + run > 10) {
            lowViews = to;
            lowAt = target + filled + 10 - done;
            lowPiece = chain.window[w] as Window | null;
            lowAddress = (chain.address[w] as number) + filled + 10 - done;
          }
          if (done <= 11 && done + run > 11) {
            highViews = to;
            highAt = target + filled + 11 - done;
            highPiece = chain.window[w] as Window | null;
            highAddress = (chain.address[w] as number) + filled + 11 - done;
          }
          filled += run;
          source += run;
          left -= run;
          done += run;
        }
        const window = chain.window[w];
        if (window !== null && window !== undefined) (this.#dma as DmaSpace).markDirty(window, chain.address[w] as number, space);
        written += space;
      }
      this.#written[chains++] = written;
      if (done >= total) break;
      if (this.#work - work > WORK_LIMIT) {
        queue.unpop(chains);
        return DROP_TOO_LONG;
      }
      chain.count = 0;
      token = queue.pop(chain);
      if (token < 0) {
        // Too few buffers: none is used. When the ring cannot hold more, there will never be enough.
        queue.unpop(chains);
        return chains >= queue.size || chains >= 0xffff ? DROP_TOO_LONG : this.#noChain(ring, token, chains);
      }
    }
    // virtio 1.4 5.1.6.4.1 (device MUST): the number of buffers used for the frame, in the header of the first.
    lowViews.u8[lowAt] = chains;
    highViews.u8[highAt] = chains >>> 8;
    if (chains > 1) {
      // Written since its page was logged.
      if (lowPiece !== null) (this.#dma as DmaSpace).markDirty(lowPiece, lowAddress, 1);
      if (highPiece !== null) (this.#dma as DmaSpace).markDirty(highPiece, highAddress, 1);
    }
    for (let i = 0; i < chains; i++) queue.push(this.#tokens[i] as number, this.#written[i] as number);
    return ~chains;
  }

  #grow(): void {
    const tokens = new Int32Array(2 * this.#tokens.length);
    const written = new Int32Array(tokens.length);
    tokens.set(this.#tokens);
    written.set(this.#written);
    this.#tokens = tokens;
    this.#written = written;
  }

  flush(): void {
    this.#work = 0;
    if (!this.#touched) return;
    this.#touched = false;
    for (let pair = 0; pair < this.rings.length; pair++) {
      const pushed = this.#pushed[pair] as number;
      if (pushed === 0) continue;
      this.#pushed[pair] = 0;
      this.rings[pair]?.stage(pushed);
    }
  }

  /** After a refusal: whether trying again makes sense. */
  get hasRoom(): boolean {
    const ring = this.#starved;
    if (ring === undefined || !this.rings.includes(ring)) return this.broken || this.#anyRing() !== undefined;
    return this.#pastStarved(ring, false);
  }

  /** After a refusal: asks the driver to say when it adds buffers. */
  arm(): boolean {
    const ring = this.#starved;
    if (ring === undefined || !this.rings.includes(ring)) return this.broken || this.#anyRing() !== undefined;
    return this.#pastStarved(ring, true);
  }

  /**
   * Whether there are more buffers than were too few: looks, or asks for a kick, behind those. In front of them the answer would be yes for ever, and the event
   * index one the driver has passed already.
   */
  #pastStarved(ring: Vring, arm: boolean): boolean {
    const { queue } = ring;
    let popped = 0;
    for (; popped < this.#starvedWith; popped++) {
      this.#chain.count = 0;
      if (queue.pop(this.#chain) < 0) break;
    }
    // Fewer than there were: the queue is broken or paused, and trying again says so.
    const ready = popped < this.#starvedWith || (arm ? ring.arm() : queue.ready);
    queue.unpop(popped);
    return ready;
  }
}
