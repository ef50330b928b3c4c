// From frames to receive rings: picks the ring, filters, has the frame written (frame-writer.ts), and knows where the driver has too few buffers. Nothing is visible
// to the driver before `flush`.

import type { DmaSpace } from '#core/dma-space';
import { DROP_BROKEN, DROP_FILTERED, DROP_MALFORMED, DROP_NOT_READY, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import { FRAME_DATA_VALID, FRAME_NEEDS_CSUM, FRAME_RSC_INFO, type FrameBatch } from '#net/port';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import { type NetPolicy, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import * as count from '#virtio/net-statistics';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import { CHAINS, FrameWriter, WRITE_BROKEN, WRITE_HELD, WRITE_TOO_LONG } from './frame-writer.ts';
import { passesFilter } from './receive-filter.ts';
import { PAIR_DROP, PAIR_LATER, ReceiveSteering, type SteeringSettings } from './receive-steering.ts';
import type { PortSession } from './ring-port.ts';
import type { FlowTable } from './steering.ts';
import type { Vring } from './vring.ts';

const MINIMUM_FRAME = 14;
const NO_LIMIT = 0x7fffffff;
/** In place of a frame's pair: this minus the pair that would have got it, had it not been refused. */
const REFUSED = -16;
/** Frames up to this length are copied word by word in the loop itself (measured: bench/inline-cost.ts). */
const SHORT_FRAME = 2047;

export class Receiver {
  readonly steering: ReceiveSteering;
  /** A ring of this port has broken: frames for a missing ring are dropped, not held. */
  broken = false;
  readonly #counters: PortCounters;
  readonly #broke: (ring: Vring) => void;
  #rings: readonly (Vring | undefined)[] = [];
  readonly #writer = new FrameWriter();
  #dma: DmaSpace | undefined;
  #policy: NetPolicy | undefined;
  #flags = 0;
  #maximumFrame = NO_LIMIT;
  /** Where the driver had too few buffers since it last had more, by pair, and how many it had. */
  readonly #starved: (Vring | undefined)[] = new Array<Vring | undefined>(MAX_QUEUE_PAIRS).fill(undefined);
  readonly #starvedWith = new Int32Array(MAX_QUEUE_PAIRS);
  #starvedPairs = 0;
  // What was delivered since the last flush, by pair.
  readonly #pushed = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #delivered = new Int32Array(MAX_QUEUE_PAIRS);
  #touched = false;
  // Of the deliver in progress.
  #frames = 0;
  #bytes = 0;
  /** Of a batch that goes to several rings: the pair of each frame. */
  #pairs = new Int8Array(0);
  // By pair: the first buffer taken for it, the next to fill, the last's end, and which pairs have any.
  readonly #first = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #next = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #end = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #wanted = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #used = new Uint8Array(MAX_QUEUE_PAIRS);
  #usedPairs = 0;

  constructor(counters: PortCounters, flows: FlowTable, broke: (ring: Vring) => void) {
    this.#counters = counters;
    this.steering = new ReceiveSteering(flows);
    this.#broke = broke;
  }

  /** By pair that frames may go to; undefined: that ring is not running. */
  set rings(rings: readonly (Vring | undefined)[]) {
    this.#rings = rings;
    this.steering.arrange(rings, this.broken);
  }

  open(session: PortSession): void {
    this.#dma = session.memory;
    this.#policy = session.policy;
    this.steering.open(session.policy);
    this.#writer.open(session.memory, session.features.has(VIRTIO_NET_F_MRG_RXBUF));
    this.#starved.fill(undefined);
    this.#starvedPairs = 0;
    this.broken = false;
  }

  configure(flags: number, accepts: number, headerLength: number, maximumFrame: number, steering: SteeringSettings): void {
    this.#flags = flags;
    this.steering.configure(steering);
    this.#writer.configure(headerLength, accepts, this.steering.reported);
    this.#maximumFrame = maximumFrame === 0 ? NO_LIMIT : maximumFrame;
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const rings = this.#rings;
    this.steering.hash(batch, from, to);
    if (rings.length === 1 && !this.steering.filters) return this.#deliverTo(rings[0], batch, from, to);
    return this.#spread(batch, from, to);
  }

  // ---- over several rings ----

  /**
   * Frames for several rings, each in its order: plain buffers are taken ahead from all of them, as many as they are to fill, and one loop over the frames fills them wherever
   * they are. So what was delivered is always the first so many frames.
   */
  #spread(batch: FrameBatch, from: number, to: number): number {
    this.#widen(batch);
    this.steering.choose(batch, from, to, this.#pairs);
    this.#frames = 0;
    this.#bytes = 0;
    let ahead = CHAINS;
    let f = from;
    while (f < to) {
      const end = this.#reserve(batch, f, Math.min(to, f + ahead));
      const next = this.#fillNext(batch, f, end);
      this.#settle();
      const whole = next === end && end > f;
      f = next;
      ahead = whole ? Math.min(CHAINS, 2 * ahead) : 1;
      if (whole || f === to) continue;
      // Its ring has no plain buffer, or the frame does not go into one.
      const pair = this.#pairs[f] as number;
      if (pair === PAIR_LATER) break;
      const ring = this.#rings[pair] as Vring;
      if (!this.#one(ring, batch, f)) break;
      f++;
      // The driver broke it: what was for it goes elsewhere, or nowhere.
      if (this.#rings[pair] !== ring) this.steering.choose(batch, f, to, this.#pairs);
    }
    if (this.#frames > 0) this.#counters.received(this.#frames, this.#bytes);
    return f - from;
  }

  #widen(batch: FrameBatch): void {
    if (batch.capacity > this.#pairs.length) this.#pairs = new Int8Array(batch.capacity);
  }

  /** Takes buffers ahead for frames `f` .. `to - 1`, as many as they need if each goes into one. Returns where that ends: at a frame that waits for its ring. */
  #reserve(batch: FrameBatch, f: number, to: number): number {
    const { chain, tokens } = this.#writer;
    const pairs = this.#pairs;
    const wanted = this.#wanted;
    const used = this.#used;
    const lengths = batch.length;
    // Frames of these lengths are let through unlooked at.
    const longest = (this.#flags & POLICY_PROMISCUOUS) !== 0 ? this.#maximumFrame : 0;
    chain.count = 0;
    let usedPairs = 0;
    let end = f;
    for (; end < to; end++) {
      const pair = pairs[end] as number;
      const length = lengths[end] as number;
      if (pair === PAIR_LATER) break;
      if (pair < 0) continue;
      if ((length < MINIMUM_FRAME || length > longest) && this.#refuses(batch, end, length) >= 0) {
        pairs[end] = REFUSED - pair;
        continue;
      }
      const before = wanted[pair] as number;
      if (before === 0) used[usedPairs++] = pair;
      wanted[pair] = before + 1;
    }
    this.#usedPairs = usedPairs;
    for (let i = 0; i < usedPairs; i++) {
      const pair = used[i] as number;
      const ring = this.#rings[pair] as Vring;
      if (ring.armed) ring.disarm();
      const first = chain.count;
      this.#first[pair] = first;
      this.#next[pair] = first;
      this.#end[pair] = first + ring.queue.popRun(chain, tokens, first, wanted[pair] as number, NO_LIMIT, true);
      wanted[pair] = 0;
    }
    return end;
  }

  /** Frames `f` .. `to - 1` into the buffers taken. Returns the first that does not go into one as a whole. */
  #fillNext(batch: FrameBatch, f: number, to: number): number {
    const writer = this.#writer;
    const pairs = this.#pairs;
    const next = this.#next;
    const short = this.#short;
    while (f < to) {
      const length = batch.length[f] as number;
      const pair = pairs[f] as number;
      if (pair < 0) this.#drop(pair <= REFUSED ? this.#rings[REFUSED - pair] : undefined, this.#whyNot(batch, f, length));
      else {
        if (length <= short) {
          const after = writer.fillShort(batch, f, to, pairs, next, this.#end, short);
          if (after !== f) {
            f = after;
            continue;
          }
        }
        const n = next[pair] as number;
        if (n === this.#end[pair] || !writer.fillOne(batch, f, length, n)) break;
        next[pair] = n + 1;
        this.#account(this.#rings[pair] as Vring, batch, f, length);
      }
      f++;
    }
    return f;
  }

  #whyNot(batch: FrameBatch, f: number, length: number): number {
    const reason = this.#refuses(batch, f, length);
    const pair = this.#pairs[f] as number;
    // Too short, filtered, or dropped by a flow rule.
    if (pair === PAIR_DROP || pair <= REFUSED || reason >= 0) return reason < 0 ? DROP_FILTERED : reason;
    // virtio 1.4 5.1.9.5.7.3 (device MUST): its queue is under reset.
    return this.broken ? DROP_BROKEN : DROP_NOT_READY;
  }

  /** Pushes what was filled, and gives back what was taken beyond. */
  #settle(): void {
    const { tokens, written, headerLength } = this.#writer;
    for (let i = 0; i < this.#usedPairs; i++) {
      const pair = this.#used[i] as number;
      const { queue } = this.#rings[pair] as Vring;
      const filled = this.#next[pair] as number;
      const first = this.#first[pair] as number;
      if (filled > first) queue.pushRun(tokens, first, filled, written);
      queue.unpop((this.#end[pair] as number) - filled);
      const frames = filled - first;
      let bytes = -frames * headerLength;
      for (let n = first; n < filled; n++) bytes += written[n] as number;
      this.#count(pair, frames, frames, bytes);
    }
    this.#writer.bytes = 0;
  }

  /** So many frames went to a pair's ring, in so many chains. */
  #count(pair: number, chains: number, frames: number, bytes: number): void {
    if (chains === 0) return;
    this.#pushed[pair] = (this.#pushed[pair] as number) + chains;
    this.#delivered[pair] = (this.#delivered[pair] as number) + frames;
    this.#touched = true;
    this.#frames += frames;
    this.#bytes += bytes;
    const { counters } = this.#rings[pair] as Vring;
    counters.add(count.COUNT_FRAMES, frames);
    counters.add(count.COUNT_BYTES, bytes);
  }

  // ---- into one ring ----

  /** Takes runs of plain buffers ahead and fills them in one loop; whatever is not plain goes one by one. */
  #deliverTo(ring: Vring | undefined, batch: FrameBatch, from: number, to: number): number {
    if (ring === undefined) return this.#deliverNowhere(to - from);
    if (ring.armed) ring.disarm();
    const { queue } = ring;
    const writer = this.#writer;
    this.#frames = 0;
    this.#bytes = 0;
    const pair = ring.index >>> 1;
    let ahead = to - from;
    let f = from;
    while (f < to) {
      const run = writer.takeRun(queue, Math.min(ahead, to - f));
      if (run > 0) {
        f = this.#fill(ring, batch, f, to, run);
        const { filled } = writer;
        queue.pushRun(writer.tokens, 0, filled, writer.written);
        this.#count(pair, filled, filled, writer.bytes);
        if (filled === run) {
          ahead = 2 * ahead;
          continue;
        }
        queue.unpop(run - filled);
        if (f === to) break;
      }
      // Frame f or the next chain is not of the plain kind. Take fewer ahead while that goes on: what is taken in vain is given back.
      ahead = 1;
      if (!this.#one(ring, batch, f)) break;
      f++;
    }
    if (this.#frames > 0) this.#counters.received(this.#frames, this.#bytes);
    return f - from;
  }

  /** Frames up to this length need nothing but to be copied. */
  get #short(): number {
    const plain = (this.#flags & POLICY_PROMISCUOUS) !== 0 && !(this.#dma as DmaSpace).logging;
    return plain ? Math.min(SHORT_FRAME, this.#maximumFrame) : 0;
  }

  /** Puts frames from `f` on into the `run` plain buffers in hand, until either ends or a frame needs more than one of them. Returns the next frame. */
  #fill(ring: Vring, batch: FrameBatch, f: number, to: number, run: number): number {
    const writer = this.#writer;
    const short = this.#short;
    while (f < to && writer.filled < run) {
      const length = batch.length[f] as number;
      if (length <= short) {
        const next = writer.fillRun(batch, f, to, run, short);
        if (next !== f) {
          f = next;
          continue;
        }
      }
      const reason = this.#refuses(batch, f, length);
      if (reason >= 0) this.#drop(ring, reason);
      else if (writer.fillOne(batch, f, length, writer.filled)) {
        writer.filled++;
        this.#account(ring, batch, f, length);
      } else break;
      f++;
    }
    return f;
  }

  /** Why the driver does not get frame `f`, or -1. */
  #refuses(batch: FrameBatch, f: number, length: number): number {
    if (length < MINIMUM_FRAME) return DROP_MALFORMED;
    if (!passesFilter(this.#policy as NetPolicy, this.#flags, batch, f)) return DROP_FILTERED;
    return length > this.#maximumFrame && batch.gsoType[f] === 0 ? DROP_TOO_LONG : -1;
  }

  /** One frame, whatever its shape and its buffers'. False when it is held: neither delivered nor dropped. */
  #one(ring: Vring, batch: FrameBatch, f: number): boolean {
    const length = batch.length[f] as number;
    let reason = this.#refuses(batch, f, length);
    if (reason < 0) {
      const result = this.#writer.write(ring.queue, batch, f, length);
      if (result === WRITE_HELD) {
        this.#starve(ring, this.#writer.tooFew);
        return false;
      }
      if (result === WRITE_BROKEN) {
        this.#broke(ring);
        reason = DROP_BROKEN;
      } else if (result === WRITE_TOO_LONG) reason = DROP_TOO_LONG;
      else {
        this.#count(ring.index >>> 1, ~result, 1, length);
        this.#account(ring, batch, f, length);
        return true;
      }
    }
    this.#drop(ring, reason);
    return true;
  }

  /** @param ring it was for, if there is one */
  #drop(ring: Vring | undefined, reason: number): void {
    this.#counters.receiveDropped(reason, 1);
    ring?.counters.add(count.COUNT_DROPS, 1);
  }

  /** What a driver may ask of a frame it got that is not plain. */
  #account({ counters }: Vring, batch: FrameBatch, f: number, length: number): void {
    const flags = batch.flags[f] as number;
    const gso = batch.gsoType[f] !== 0;
    if (flags === 0 && !gso) return;
    if ((flags & FRAME_NEEDS_CSUM) !== 0) counters.add(count.COUNT_NEEDS_CSUM, 1);
    else if ((flags & FRAME_DATA_VALID) !== 0 && this.#writer.accepts !== 0) counters.add(count.COUNT_DATA_VALID, 1);
    if (!gso) return;
    counters.add(count.COUNT_GSO_FRAMES, 1);
    counters.add(count.COUNT_GSO_BYTES, length);
    if ((flags & FRAME_RSC_INFO) === 0) return;
    counters.add(count.COUNT_CHANGED_FRAMES, 1);
    counters.add(count.COUNT_CHANGED_BYTES, length);
  }

  /** batch[from] .. batch[to - 1] did not fit and were dropped. */
  overrun(batch: FrameBatch, from: number, to: number): void {
    const single = this.#rings.length === 1;
    if (!single) {
      this.#widen(batch);
      this.steering.choose(batch, from, to, this.#pairs);
    }
    for (let f = from; f < to; f++) {
      const ring = this.#rings[single ? 0 : (this.#pairs[f] as number)];
      ring?.counters.add(count.COUNT_DROPS, 1);
      ring?.counters.add(count.COUNT_SPECIAL_DROPS, 1);
    }
  }

  /**
   * The ring does not run. A driver that broke one gets nothing more, nor does a queue that it has not got or is resetting (virtio 1.4 5.1.9.5.6.2, device MUST); one that is being moved is
   * waited for.
   */
  #deliverNowhere(frames: number): number {
    if (!this.steering.ready) return 0;
    this.#counters.receiveDropped(this.broken ? DROP_BROKEN : DROP_NOT_READY, frames);
    return frames;
  }

  flush(): void {
    this.#writer.work = 0;
    if (!this.#touched) return;
    this.#touched = false;
    for (let pair = 0; pair < this.#rings.length; pair++) {
      const pushed = this.#pushed[pair] as number;
      if (pushed === 0) continue;
      this.#pushed[pair] = 0;
      this.#rings[pair]?.stage(pushed, this.#delivered[pair] as number);
      this.#delivered[pair] = 0;
    }
  }

  #starve(ring: Vring, buffers: number): void {
    const pair = ring.index >>> 1;
    if (this.#starved[pair] === undefined) this.#starvedPairs++;
    this.#starved[pair] = ring;
    this.#starvedWith[pair] = buffers;
  }

  /** After a refusal: whether trying again makes sense. True once for each ring that was waited for: who waits for another is refused again. */
  get hasRoom(): boolean {
    return this.#room(false);
  }

  /** After a refusal: asks the driver to say when it adds buffers. */
  arm(): boolean {
    return this.#room(true);
  }

  #room(arm: boolean): boolean {
    const runs = this.steering.ready;
    if (this.#starvedPairs === 0) return runs;
    let room = false;
    for (let pair = 0; pair < MAX_QUEUE_PAIRS; pair++) {
      const ring = this.#starved[pair];
      if (ring === undefined) continue;
      const there = this.#rings.includes(ring);
      if (there && !this.#pastStarved(ring, this.#starvedWith[pair] as number, arm)) continue;
      this.#starved[pair] = undefined;
      this.#starvedPairs--;
      if (there || runs) room = true;
    }
    return room;
  }

  /**
   * Whether there are more buffers than were too few: looks, or asks for a kick, behind those. In front of them the answer would be yes for ever, and the event
   * index one the driver has passed already.
   */
  #pastStarved(ring: Vring, starvedWith: number, arm: boolean): boolean {
    const { queue } = ring;
    let popped = 0;
    for (; popped < starvedWith; popped++) {
      this.#writer.chain.count = 0;
      if (queue.pop(this.#writer.chain) < 0) break;
    }
    // Fewer than there were: the queue is broken or paused, and trying again says so.
    const ready = popped < starvedWith || (arm ? ring.arm() : queue.ready);
    queue.unpop(popped);
    return ready;
  }
}
