// From transmit rings to frames: pops chains, round robin over the active rings, reads each header once and fills a batch; afterwards returns the chains
// in the order they were popped, or puts back those that were refused.

import type { ByteViews } from '#core/guest-memory';
import { DROP_MALFORMED, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import { ACCEPTS_CSUM, ACCEPTS_UDP_TUNNEL_CSUM, FRAME_DATA_VALID, FRAME_NEEDS_CSUM, FRAME_UDP_TUNNEL_CSUM, type FrameBatch, GSO_UDP_TUNNEL } from '#net/port';
import * as count from '#virtio/net-statistics';
import { QUEUE_BROKEN } from '#virtio/virtqueue';
import { gsoAllowed, transmitOffloads } from './net-header.ts';
import { accountSent } from './queue-accounts.ts';
import type { PortSession } from './ring-port.ts';
import type { FlowTable } from './steering.ts';
import type { Vring } from './vring.ts';

/** A legacy driver's header without MRG_RXBUF, the shortest there is. */
const LEGACY_HEADER_BYTES = 10;
/** The Ethernet header: less is no frame (CVE-2024-41090). */
const MINIMUM_FRAME = 14;
/** Ethernet header, two VLAN tags, IPv6 header and its longest payload. */
const MAXIMUM_FRAME = 14 + 8 + 40 + 65535;
/** Chains a batch holds, frames or not. */
const CHAINS = 1024;
/** Buffers looked at in one turn, beside plain ones: a driver may send chains of a thousand buffers of no length. */
const WORK_LIMIT = 8192;
/** What #frame returns when it is not a drop reason. */
const IS_FRAME = -1;
/** Of the header: outer_th_offset and inner_nh_offset. */
const TUNNEL_WORD = 5;

export class Transmitter {
  /** Running rings of active pairs. */
  rings: Vring[] = [];
  /** More than one pair is active: learn which flow leaves where. */
  steering = false;
  readonly #counters: PortCounters;
  readonly #flows: FlowTable;
  readonly #broke: (ring: Vring) => void;
  #offloads = 0;
  #headerLength = 12;
  /** Ring the next collect begins with. */
  #turn = 0;
  /** Index in the batch of the first frame collected. */
  #first = 0;
  // The chains in hand, oldest first, and which of them came from which ring: runs in order, each up to the chain numbered `end`.
  #count = 0;
  readonly #token = new Int32Array(CHAINS);
  readonly #runRing: Vring[] = [];
  readonly #runEnd = new Int32Array(CHAINS);
  #runs = 0;
  /** Those that are no frames, in order: their number and why. */
  #drops = 0;
  readonly #dropAt = new Int32Array(CHAINS);
  readonly #dropReason = new Uint8Array(CHAINS);
  /** Rings of what was put back and how many chains of each, to be taken again in this order before anything else. */
  readonly #again: Vring[] = [];
  readonly #againCount = new Int32Array(CHAINS);
  #agains = 0;
  readonly #scratch = new Uint8Array(32);
  readonly #scratchWords = new Int32Array(this.#scratch.buffer);
  #bytes = 0;
  #work = 0;
  /** A frame of the batch asked for something. */
  #asked = false;

  constructor(counters: PortCounters, flows: FlowTable, broke: (ring: Vring) => void) {
    this.#counters = counters;
    this.#flows = flows;
    this.#broke = broke;
  }

  open(session: PortSession): void {
    this.#offloads = transmitOffloads(session.features);
    this.#agains = 0;
  }

  configure(headerLength: number): void {
    this.#headerLength = Math.min(Math.max(headerLength, LEGACY_HEADER_BYTES), 32);
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    const before = batch.count;
    let room = Math.min(frames, batch.capacity - before, CHAINS);
    this.#count = 0;
    this.#runs = 0;
    this.#drops = 0;
    this.#first = before;
    this.#bytes = bytes;
    this.#work = 0;
    this.#asked = false;
    const { rings } = this;
    if (this.#agains > 0) room -= this.#retake(batch, room);
    const count = rings.length;
    if (++this.#turn >= count) this.#turn = 0;
    for (let n = 0; n < count && room > 0 && this.#bytes > 0; n++) {
      const at = this.#turn + n;
      const ring = rings[at < count ? at : at - count] as Vring;
      if (ring.armed) ring.disarm();
      room -= this.#take(ring, batch, room);
    }
    const collected = batch.count - before;
    // Nothing but malformed chains: they go back now, since no `complete` follows.
    if (collected === 0 && this.#count > 0) this.complete(batch, 0);
    return collected;
  }

  /** Pops up to `limit` chains of a ring. Returns how many. */
  #take(ring: Vring, batch: FrameBatch, limit: number): number {
    const { queue } = ring;
    const { segments } = batch;
    const tokens = this.#token;
    const headerLength = this.#headerLength;
    const from = this.#count;
    const end = from + limit;
    let n = from;
    while (n < end && this.#bytes > 0 && this.#work < WORK_LIMIT) {
      const first = segments.count;
      const run = queue.popRun(segments, tokens, n, end - n, this.#bytes, false);
      if (run > 0) {
        this.#frames(ring, batch, first, n, run);
        n += run;
        continue;
      }
      const token = queue.pop(segments);
      if (token < 0) {
        if (token === QUEUE_BROKEN) this.#broke(ring);
        break;
      }
      tokens[n] = token;
      this.#work += queue.buffers;
      const length = queue.readableBytes - headerLength;
      const result = this.#frame(batch, first, queue.readableSegments, length);
      if (result !== IS_FRAME) segments.truncate(first);
      this.#add(ring, batch, n, token, length, result);
      n++;
    }
    this.#count = n;
    if (n > from) {
      this.#runRing[this.#runs] = ring;
      this.#runEnd[this.#runs++] = n;
    }
    return n - from;
  }

  /** Chain `n` has been looked at: its frame is added, or it is noted as a drop. */
  #add(ring: Vring, batch: FrameBatch, n: number, token: number, length: number, result: number): void {
    if (result !== IS_FRAME) {
      this.#dropAt[this.#drops] = n;
      this.#dropReason[this.#drops++] = result;
      return;
    }
    const f = batch.count++;
    batch.length[f] = length;
    batch.token[f] = token;
    this.#bytes -= length;
    if (this.steering) this.#flows.learn(batch, f, f + 1, ring.index >>> 1);
  }

  /** Chains `n` .. `n + run - 1`, each of the one segment from `first` on: plain frames in a loop without calls, the others one by one. */
  #frames(ring: Vring, batch: FrameBatch, first: number, n: number, run: number): void {
    const { segments } = batch;
    const tokens = this.#token;
    for (let i = 0; i < run; ) {
      i = this.#plain(ring, batch, first, n, i, run);
      if (i === run) break;
      const length = (segments.length[first + i] as number) - this.#headerLength;
      this.#add(ring, batch, n + i, tokens[n + i] as number, length, this.#frame(batch, first + i, 1, length));
      i++;
    }
  }

  /** From chain `i` of the run on: frames whose header asks for nothing, or for a checksum and no more. Returns where that ends. */
  #plain(ring: Vring, batch: FrameBatch, first: number, n: number, i: number, run: number): number {
    const { segments, firstSegment, segmentCount, length: lengths, flags, gsoType, csumStart, csumOffset, token: frameTokens } = batch;
    const { offset: offsets, length: sizes, views } = segments;
    const tokens = this.#token;
    const headerLength = this.#headerLength;
    const shortest = headerLength + MINIMUM_FRAME;
    const checksum = (this.#offloads & ACCEPTS_CSUM) !== 0 ? FRAME_NEEDS_CSUM : 0;
    const where = views[first + i] as ByteViews;
    const words = where.i32;
    const before = batch.count;
    let bytes = 0;
    let asked = 0;
    let f = before;
    // No call inside: the JIT then keeps all of the above in registers (measured: bench/inline-cost.ts).
    while (i < run) {
      const s = (first + i) | 0;
      const at = offsets[s] as number;
      const size = sizes[s] as number;
      if (size < shortest || size > MAXIMUM_FRAME || (at & 3) !== 0 || views[s] !== where) break;
      // The header, read once: flags and gso_type.
      const request = (words[at >> 2] as number) & 0xffff;
      if (request !== 0) {
        if (request !== checksum) break;
        csumStart[f] = (words[((at >> 2) + 1) | 0] as number) >>> 16;
        csumOffset[f] = words[((at >> 2) + 2) | 0] as number;
        asked = request;
      }
      const length = (size - headerLength) | 0;
      offsets[s] = (at + headerLength) | 0;
      sizes[s] = length;
      firstSegment[f] = s;
      segmentCount[f] = 1;
      lengths[f] = length;
      flags[f] = request;
      gsoType[f] = 0;
      frameTokens[f] = tokens[(n + i) | 0] as number;
      bytes = (bytes + length) | 0;
      f = (f + 1) | 0;
      i = (i + 1) | 0;
    }
    batch.count = f;
    if (asked !== 0) this.#asked = true;
    this.#bytes -= bytes;
    if (this.steering) this.#flows.learn(batch, before, f, ring.index >>> 1);
    return i;
  }

  /** Fills in frame batch.count from the readable segments at `first`; returns IS_FRAME or a drop reason. */
  #frame(batch: FrameBatch, first: number, readable: number, length: number): number {
    if (length < MINIMUM_FRAME) return DROP_MALFORMED;
    if (length > MAXIMUM_FRAME) return DROP_TOO_LONG;
    const { segments } = batch;
    const headerLength = this.#headerLength;
    const f = batch.count;
    const at = segments.offset[first] as number;
    const run = segments.length[first] as number;
    let low: number;
    let middle: number;
    let high: number;
    let tunnel = 0;
    let start = first;
    if (run >= headerLength && (at & 3) === 0) {
      const words = (segments.views[first] as ByteViews).i32;
      const word = at >>> 2;
      low = words[word] as number;
      middle = words[word + 1] as number;
      high = words[word + 2] as number;
      if (headerLength > TUNNEL_WORD * 4) tunnel = words[word + TUNNEL_WORD] as number;
      skip(segments.offset, segments.length, first, headerLength);
      if (run === headerLength) start++;
    } else {
      start = this.#gather(batch, first, headerLength);
      low = this.#scratchWords[0] as number;
      middle = this.#scratchWords[1] as number;
      high = this.#scratchWords[2] as number;
      if (headerLength > TUNNEL_WORD * 4) tunnel = this.#scratchWords[TUNNEL_WORD] as number;
    }
    batch.firstSegment[f] = start;
    batch.segmentCount[f] = first + readable - start;
    // Nothing asked: the common case.
    if ((low & 0xffff) === 0) {
      batch.flags[f] = 0;
      batch.gsoType[f] = 0;
      return IS_FRAME;
    }
    return this.#request(batch, f, low, middle, high, tunnel);
  }

  /** virtio 1.4 5.1.9.2.2 (device MUST): flag bits it does not know are disregarded; checksum fields mean nothing without NEEDS_CSUM. */
  #request(batch: FrameBatch, f: number, low: number, middle: number, high: number, tunnel: number): number {
    let flags = (low & FRAME_NEEDS_CSUM) !== 0 && (this.#offloads & ACCEPTS_CSUM) !== 0 ? FRAME_NEEDS_CSUM : 0;
    const gsoType = (low >>> 8) & 0xff;
    if (gsoType !== 0 && !gsoAllowed(gsoType, this.#offloads)) return DROP_MALFORMED;
    if ((low & FRAME_UDP_TUNNEL_CSUM) !== 0 && (this.#offloads & ACCEPTS_UDP_TUNNEL_CSUM) !== 0) flags |= FRAME_UDP_TUNNEL_CSUM;
    if ((gsoType & GSO_UDP_TUNNEL) !== 0) {
      // virtio 1.4 5.1.9.2.2 (device MUST NOT accept).
      if ((low & FRAME_DATA_VALID) !== 0) return DROP_MALFORMED;
      batch.outerTransport[f] = tunnel;
      batch.innerNetwork[f] = tunnel >>> 16;
    } else if ((flags & FRAME_UDP_TUNNEL_CSUM) !== 0) return DROP_MALFORMED;
    this.#asked = true;
    batch.flags[f] = flags;
    batch.gsoType[f] = gsoType;
    batch.headerLength[f] = low >>> 16;
    batch.gsoSize[f] = middle;
    batch.csumStart[f] = middle >>> 16;
    batch.csumOffset[f] = high;
    return IS_FRAME;
  }

  /** A header in any layout: gathers its bytes, cuts them off the segments, and returns the first segment with frame bytes. The chain is longer than the header. */
  #gather(batch: FrameBatch, first: number, headerLength: number): number {
    const { segments } = batch;
    let s = first;
    for (let done = 0; done < headerLength; ) {
      const run = Math.min(headerLength - done, segments.length[s] as number);
      const bytes = (segments.views[s] as ByteViews).u8;
      const from = segments.offset[s] as number;
      for (let i = 0; i < run; i++) this.#scratch[done + i] = bytes[from + i] as number;
      done += run;
      if (run === segments.length[s]) s++;
      else skip(segments.offset, segments.length, s, run);
    }
    return s;
  }

  /** Takes what was put back, in the order it had. Returns how many chains. */
  #retake(batch: FrameBatch, limit: number): number {
    const count = this.#agains;
    this.#agains = 0;
    let taken = 0;
    for (let i = 0; i < count && taken < limit; i++) {
      const ring = this.#again[i] as Vring;
      if (this.rings.includes(ring)) taken += this.#take(ring, batch, Math.min(this.#againCount[i] as number, limit - taken));
    }
    return taken;
  }

  /** The first `done` frames, and the malformed chains before the next, go back to their rings; the rest is put back. */
  complete(batch: FrameBatch, done: number): void {
    const end = this.#drops === 0 ? Math.min(done, this.#count) : this.#endOf(done);
    let n = 0;
    let run = 0;
    for (; run < this.#runs && n < end; run++) {
      const ring = this.#runRing[run] as Vring;
      const to = Math.min(this.#runEnd[run] as number, end);
      const { queue } = ring;
      const tokens = this.#token;
      const from = n;
      queue.pushRun(tokens, from, to, null);
      n = to;
      ring.stage(to - from, to - from);
    }
    if (end > 0) this.#account(batch, end);
    if (n < this.#count) this.#putBack(n);
    this.#count = 0;
  }

  /** Counts the first `end` chains, for the port and for the queues they came from. */
  #account(batch: FrameBatch, end: number): void {
    let f = this.#first;
    let n = 0;
    let drop = 0;
    let all = 0;
    const lengths = batch.length;
    for (let run = 0; n < end; run++) {
      const to = Math.min(this.#runEnd[run] as number, end);
      const { counters } = this.#runRing[run] as Vring;
      const before = drop;
      while (drop < this.#drops && (this.#dropAt[drop] as number) < to) {
        if (this.#dropReason[drop++] === DROP_MALFORMED) counters.add(count.COUNT_SPECIAL_DROPS, 1);
      }
      const malformed = drop - before;
      if (malformed > 0) counters.add(count.COUNT_DROPS, malformed);
      const last = f + to - n - malformed;
      n = to;
      let bytes = 0;
      const from = f;
      for (; f < last; f++) bytes += lengths[f] as number;
      all += bytes;
      counters.add(count.COUNT_FRAMES, last - from);
      counters.add(count.COUNT_BYTES, bytes);
      if (this.#asked || batch.judged) accountSent(counters, batch, from, last);
    }
    if (f > this.#first) this.#counters.transmitted(f - this.#first, all);
  }

  /** Where the chains of the first `done` frames end, with the malformed ones up to the next frame, which are counted here. */
  #endOf(done: number): number {
    let end = done;
    let drop = 0;
    for (; drop < this.#drops && (this.#dropAt[drop] as number) <= end; drop++) {
      end++;
      this.#counters.transmitDropped(this.#dropReason[drop] as number, 1);
    }
    return end;
  }

  /** Chains from `from` on were refused: newest first, each ring gets its own back. */
  #putBack(from: number): void {
    let first = 0;
    while ((this.#runEnd[first] as number) <= from) first++;
    this.#agains = 0;
    for (let run = first; run < this.#runs; run++) {
      const begin = run === 0 ? 0 : (this.#runEnd[run - 1] as number);
      this.#again[this.#agains] = this.#runRing[run] as Vring;
      this.#againCount[this.#agains++] = (this.#runEnd[run] as number) - Math.max(begin, from);
    }
    for (let i = this.#agains - 1; i >= 0; i--) (this.#again[i] as Vring).queue.unpop(this.#againCount[i] as number);
  }

  /** Asks for kicks on every ring. True when a chain is there already. */
  arm(): boolean {
    const { rings } = this;
    let ready = false;
    for (let i = 0; i < rings.length; i++) if ((rings[i] as Vring).arm()) ready = true;
    return ready;
  }
}

/** Cuts bytes off a segment's front. Its device address is left: that is for the dirty log, and transmit segments are only read. */
function skip(offset: Int32Array, length: Int32Array, s: number, bytes: number): void {
  offset[s] = (offset[s] as number) + bytes;
  length[s] = (length[s] as number) - bytes;
}
