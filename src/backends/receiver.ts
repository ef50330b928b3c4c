// From frames to receive rings: picks the ring, filters, has the frame written (frame-writer.ts), and knows where the driver has too few buffers. Nothing is visible
// to the driver before `flush`.

import type { DmaSpace } from '#core/dma-space';
import { DROP_BROKEN, DROP_FILTERED, DROP_MALFORMED, DROP_NOT_READY, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import type { NetPolicy } from '#virtio/net-policy';
import * as count from '#virtio/net-statistics';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import { FrameWriter, HEADER_BYTES, WRITE_BROKEN, WRITE_HELD, WRITE_TOO_LONG } from './frame-writer.ts';
import { accountReceived } from './queue-accounts.ts';
import { passesAll, passesFilter, pastOwn } from './receive-filter.ts';
import { ReceiveRoom } from './receive-room.ts';
import { PAIR_DROP, PAIR_LATER, ReceiveSteering, type SteeringSettings } from './receive-steering.ts';
import type { PortSession } from './ring-port.ts';
import type { FlowTable } from './steering.ts';
import type { Vring } from './vring.ts';

const MINIMUM_FRAME = 14;
const NO_LIMIT = 0x7fffffff;
/** In place of a frame's pair: this minus the pair that would have got it, had it not been refused. */
const REFUSED = -16;
/** Frames looked at together. */
const WINDOW = 256;
const NO_FRAMES = new Uint16Array(0);
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
  #passesAll = false;
  #maximumFrame = NO_LIMIT;
  readonly #room = new ReceiveRoom(this.#writer.chain);
  // What was delivered since the last flush, by pair.
  readonly #pushed = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #delivered = new Int32Array(MAX_QUEUE_PAIRS);
  #touched = false;
  // Of the deliver in progress.
  #frames = 0;
  #bytes = 0;
  /** Of the batch in hand: the pair of each frame; REFUSED minus the pair of one that is turned away, PAIR_* of one without. */
  #pairs = new Int8Array(0);
  // Of the frames looked at together: the rings they are for, and for each of those its frames in `#order`, the first buffer taken for it (one more says where the last's end), the next to
  // fill, and the bytes filled.
  #usedRings = 0;
  readonly #used = new Uint8Array(MAX_QUEUE_PAIRS);
  #order = NO_FRAMES;
  readonly #from = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #to = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #first = new Int32Array(MAX_QUEUE_PAIRS + 1);
  readonly #next = new Int32Array(MAX_QUEUE_PAIRS);
  readonly #filledBytes = new Int32Array(MAX_QUEUE_PAIRS);
  /** Some are refused, or not plain. */
  #odd = false;
  /** Frames by pair, WINDOW for each, and how many. Made for the first that are to be spread. */
  #sorted = NO_FRAMES;
  readonly #counts = new Int32Array(MAX_QUEUE_PAIRS);
  /** Every frame in its order. */
  #inLine = NO_FRAMES;

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
    this.#room.clear();
    this.broken = false;
  }

  configure(flags: number, accepts: number, headerLength: number, maximumFrame: number, steering: SteeringSettings): void {
    this.#flags = flags;
    this.#passesAll = passesAll(flags);
    this.steering.configure(steering, headerLength > HEADER_BYTES);
    this.#writer.configure(headerLength, accepts, this.steering.reported);
    this.#maximumFrame = maximumFrame === 0 ? NO_LIMIT : maximumFrame;
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const rings = this.#rings;
    const { steering } = this;
    steering.hash(batch, from, to);
    if (batch.capacity > this.#pairs.length) this.#widen(batch.capacity);
    let inLine = rings.length === 1 && !steering.filters;
    if (!inLine) steering.choose(batch, from, to, this.#pairs);
    else if (rings[0] === undefined) return this.#deliverNowhere(to - from);
    else this.#pairs.fill(0, from, to);
    if (!this.#passesAll && this.#filter(batch, from, to)) inLine = false;
    this.#frames = 0;
    this.#bytes = 0;
    let ahead = WINDOW;
    let f = from;
    while (f < to) {
      this.#odd = false;
      const end = Math.min(to, f + ahead);
      const sorted = inLine ? this.#line(f, end) : this.#sort(f, end);
      f = this.#fill(batch, f, sorted);
      if (f === end) {
        ahead = Math.min(WINDOW, 2 * ahead);
        continue;
      }
      // Its ring has no plain buffer, or the frame does not go into one. Take fewer ahead while that goes on: what is taken in vain is given back.
      ahead = 1;
      const pair = this.#pairs[f] as number;
      if (pair === PAIR_LATER || !this.#one(this.#rings[pair] as Vring, batch, f)) break;
      f++;
      // The driver broke it: what was for it goes elsewhere, or nowhere.
      if (this.#rings !== rings) break;
    }
    if (this.#frames > 0) this.#counters.received(this.#frames, this.#bytes);
    return f - from + (f < to && this.#rings !== rings ? this.deliver(batch, f, to) : 0);
  }

  /** Frames up to this length need nothing but to be copied. */
  get #short(): number {
    return (this.#dma as DmaSpace).logging ? 0 : Math.min(SHORT_FRAME, this.#maximumFrame);
  }

  #widen(frames: number): void {
    this.#pairs = new Int8Array(frames);
    this.#inLine = Uint16Array.from(this.#pairs, (_, f) => f);
  }

  /** Turns away what the driver's filter does not let through. Returns whether there was any. */
  #filter(batch: FrameBatch, from: number, to: number): boolean {
    const flags = this.#flags;
    const pairs = this.#pairs;
    const policy = this.#policy as NetPolicy;
    let any = false;
    for (let f = pastOwn(policy, flags, batch, from, to); f < to; f++) {
      const pair = pairs[f] as number;
      if (pair < 0 || (batch.length[f] as number) < MINIMUM_FRAME || passesFilter(policy, flags, batch, f)) continue;
      pairs[f] = REFUSED - pair;
      any = true;
    }
    return any;
  }

  /** Lists frames `f` .. `to - 1` by ring. Returns where that ends: at a frame that waits for its ring. */
  #sort(f: number, to: number): number {
    const pairs = this.#pairs;
    if (this.#sorted.length === 0) this.#sorted = new Uint16Array(MAX_QUEUE_PAIRS * WINDOW);
    const sorted = this.#sorted;
    const counts = this.#counts;
    const used = this.#used;
    let usedRings = 0;
    let end = f;
    for (; end < to; end++) {
      const pair = pairs[end] as number;
      if (pair < 0) {
        if (pair === PAIR_LATER) break;
        this.#odd = true;
        continue;
      }
      const before = counts[pair] as number;
      if (before === 0) used[usedRings++] = pair;
      sorted[pair * WINDOW + before] = end;
      counts[pair] = before + 1;
    }
    this.#usedRings = usedRings;
    this.#order = sorted;
    for (let i = 0; i < usedRings; i++) {
      const pair = used[i] as number;
      this.#from[i] = pair * WINDOW;
      this.#to[i] = pair * WINDOW + (counts[pair] as number);
      counts[pair] = 0;
    }
    return end;
  }

  /** The same where all of them are for the one ring there is. */
  #line(f: number, to: number): number {
    this.#usedRings = 1;
    this.#used[0] = 0;
    this.#order = this.#inLine;
    this.#from[0] = f;
    this.#to[0] = to;
    return to;
  }

  /**
   * Takes plain buffers from every ring, as many as its frames need if each goes into one, and fills them ring by ring. Returns the first frame that finds none or does not go into it as a whole:
   * what comes before it is delivered, what was filled beyond is given back.
   */
  #fill(batch: FrameBatch, f: number, end: number): number {
    const writer = this.#writer;
    const { chain, tokens } = writer;
    const rings = this.#usedRings;
    const order = this.#order;
    let limit = end;
    let slot = 0;
    chain.count = 0;
    for (let i = 0; i < rings; i++) {
      const ring = this.#rings[this.#used[i] as number] as Vring;
      if (ring.armed) ring.disarm();
      const from = this.#from[i] as number;
      const wanted = (this.#to[i] as number) - from;
      const run = ring.queue.popRun(chain, tokens, slot, wanted, NO_LIMIT, true);
      if (run < wanted) limit = Math.min(limit, order[from + run] as number);
      this.#first[i] = slot;
      slot += run;
    }
    this.#first[rings] = slot;
    for (let i = 0; i < rings; i++) limit = this.#fillRing(batch, i, limit);
    for (let i = 0; i < rings; i++) this.#settle(i, limit);
    if (this.#odd) this.#settleOdd(batch, f, limit);
    return limit;
  }

  /** Frames of the `i`th ring below `limit` into its buffers. Returns the first that does not go into one as a whole, or `limit`. */
  #fillRing(batch: FrameBatch, i: number, limit: number): number {
    const writer = this.#writer;
    const order = this.#order;
    const short = this.#short;
    const end = this.#first[i + 1] as number;
    let at = this.#from[i] as number;
    let to = this.#to[i] as number;
    while (to > at && (order[to - 1] as number) >= limit) to--;
    let slot = this.#first[i] as number;
    writer.bytes = 0;
    writer.asked = false;
    while (at < to) {
      const filled = writer.fillShort(batch, order, at, to, slot, end, short);
      at += filled;
      slot += filled;
      if (at === to) break;
      const f = order[at] as number;
      const length = batch.length[f] as number;
      this.#odd = true;
      if (this.#refuses(batch, f, length) >= 0) this.#pairs[f] = REFUSED - (this.#used[i] as number);
      else if (slot < end && writer.fillOne(batch, f, length, slot)) slot++;
      else {
        limit = f;
        break;
      }
      at++;
    }
    // Their queue counts them apart.
    if (writer.asked) this.#odd = true;
    this.#to[i] = at;
    this.#next[i] = slot;
    this.#filledBytes[i] = writer.bytes;
    return limit;
  }

  /** Pushes what was filled with frames below `limit`, and gives back what was taken beyond. */
  #settle(i: number, limit: number): void {
    const { tokens, written, headerLength } = this.#writer;
    const order = this.#order;
    const pair = this.#used[i] as number;
    const { queue } = this.#rings[pair] as Vring;
    const from = this.#from[i] as number;
    const first = this.#first[i] as number;
    let next = this.#next[i] as number;
    let bytes = this.#filledBytes[i] as number;
    for (let at = (this.#to[i] as number) - 1; at >= from && (order[at] as number) >= limit; at--) {
      if ((this.#pairs[order[at] as number] as number) < 0) continue;
      next--;
      bytes -= (written[next] as number) - headerLength;
    }
    if (next > first) {
      queue.pushRun(tokens, first, next, written);
      this.#count(pair, next - first, next - first, bytes);
    }
    const left = (this.#first[i + 1] as number) - next;
    if (left > 0) queue.unpop(left);
  }

  /** Frames `f` .. `to - 1` were dealt with, of which some are refused or not plain. */
  #settleOdd(batch: FrameBatch, f: number, to: number): void {
    const pairs = this.#pairs;
    while (f < to) {
      const pair = pairs[f] as number;
      const from = f++;
      if (pair >= 0) {
        while (f < to && pairs[f] === pair) f++;
        accountReceived((this.#rings[pair] as Vring).counters, batch, from, f, this.#writer.accepts);
      } else this.#drop(pair <= REFUSED ? this.#rings[REFUSED - pair] : undefined, this.#whyNot(batch, from, batch.length[from] as number, pair));
    }
  }

  #whyNot(batch: FrameBatch, f: number, length: number, pair: number): number {
    const reason = this.#refuses(batch, f, length);
    if (pair === PAIR_DROP || pair <= REFUSED || reason >= 0) return reason < 0 ? DROP_FILTERED : reason;
    // virtio 1.4 5.1.9.5.7.3 (device MUST): its queue is under reset.
    return this.broken ? DROP_BROKEN : DROP_NOT_READY;
  }

  /** So many frames went to a pair's ring, in so many chains. */
  #count(pair: number, chains: number, frames: number, bytes: number): void {
    this.#pushed[pair] = (this.#pushed[pair] as number) + chains;
    this.#delivered[pair] = (this.#delivered[pair] as number) + frames;
    this.#touched = true;
    this.#frames += frames;
    this.#bytes += bytes;
    const { counters } = this.#rings[pair] as Vring;
    counters.add(count.COUNT_FRAMES, frames);
    counters.add(count.COUNT_BYTES, bytes);
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
        this.#room.starve(ring, this.#writer.tooFew);
        return false;
      }
      if (result === WRITE_BROKEN) {
        this.#broke(ring);
        reason = DROP_BROKEN;
      } else if (result === WRITE_TOO_LONG) reason = DROP_TOO_LONG;
      else {
        this.#count(ring.index >>> 1, ~result, 1, length);
        accountReceived(ring.counters, batch, f, f + 1, this.#writer.accepts);
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

  /** batch[from] .. batch[to - 1] did not fit and were dropped. */
  overrun(batch: FrameBatch, from: number, to: number): void {
    const single = this.#rings.length === 1;
    if (!single) {
      if (batch.capacity > this.#pairs.length) this.#widen(batch.capacity);
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

  /** After a refusal: whether trying again makes sense. */
  get hasRoom(): boolean {
    return this.#room.look(this.#rings, this.steering.ready, false);
  }

  /** After a refusal: asks the driver to say when it adds buffers. */
  arm(): boolean {
    return this.#room.look(this.#rings, this.steering.ready, true);
  }
}
