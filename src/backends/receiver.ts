// From frames to receive rings: picks the ring, filters, has the frame written (frame-writer.ts), and knows where the driver has too few buffers. Nothing is visible
// to the driver before `flush`.

import type { DmaSpace } from '#core/dma-space';
import { DROP_BROKEN, DROP_FILTERED, DROP_MALFORMED, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { FLOW_DROP, FLOW_NONE } from '#virtio/flow-rules';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import { type NetPolicy, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import { FlowMatcher } from './flow-matcher.ts';
import { FrameWriter, WRITE_BROKEN, WRITE_HELD, WRITE_TOO_LONG } from './frame-writer.ts';
import { passesFilter } from './receive-filter.ts';
import type { PortSession } from './ring-port.ts';
import type { FlowTable } from './steering.ts';
import type { Vring } from './vring.ts';

const MINIMUM_FRAME = 14;
const NO_LIMIT = 0x7fffffff;
/** Frames up to this length are copied word by word in the loop itself (measured: bench/inline-cost.ts). */
const SHORT_FRAME = 2047;

export class Receiver {
  /** By active pair; undefined: that ring is not running. */
  rings: (Vring | undefined)[] = [];
  /** A ring of this port has broken: frames for a missing ring are dropped, not held. */
  broken = false;
  readonly #counters: PortCounters;
  readonly #flows: FlowTable;
  readonly #broke: (ring: Vring) => void;
  readonly #writer = new FrameWriter();
  readonly #rules = new FlowMatcher();
  /** There are flow filter rules. */
  #filtering = false;
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
  #touched = false;
  // Of the deliver in progress.
  #frames = 0;
  #bytes = 0;

  constructor(counters: PortCounters, flows: FlowTable, broke: (ring: Vring) => void) {
    this.#counters = counters;
    this.#flows = flows;
    this.#broke = broke;
  }

  open(session: PortSession): void {
    this.#dma = session.memory;
    this.#policy = session.policy;
    this.#rules.open(session.policy);
    this.#writer.open(session.memory, session.features.has(VIRTIO_NET_F_MRG_RXBUF));
    this.#starved.fill(undefined);
    this.#starvedPairs = 0;
    this.broken = false;
  }

  configure(flags: number, accepts: number, headerLength: number, maximumFrame: number): void {
    this.#flags = flags;
    this.#filtering = this.#rules.active;
    this.#writer.configure(headerLength, accepts);
    this.#maximumFrame = maximumFrame === 0 ? NO_LIMIT : maximumFrame;
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const { rings } = this;
    if (rings.length === 1 && !this.#filtering) return this.#deliverTo(rings[0], batch, from, to);
    let f = from;
    while (f < to) {
      const ring = this.#steer(batch, f);
      let end = f + 1;
      while (end < to && this.#steer(batch, end) === ring) end++;
      const dealt = ring === null ? this.#deliverNobody(end - f) : this.#deliverTo(ring, batch, f, end);
      f += dealt;
      if (f < end) break;
    }
    return f - from;
  }

  /** The ring for frame `f`; undefined: it is not running; null: a rule drops the frame. */
  #steer(batch: FrameBatch, f: number): Vring | undefined | null {
    const { rings } = this;
    if ((batch.length[f] as number) < MINIMUM_FRAME) return this.#anyRing();
    // virtio 1.4 5.1.9.6.4 (device MUST): rules come before steering. What the filters of the control queue refuse is refused whichever ring it is for.
    if (this.#filtering) {
      const pair = this.#rules.match(batch, f);
      if (pair !== FLOW_NONE) return pair === FLOW_DROP ? null : rings[pair];
    }
    return rings[this.#flows.pair(batch, f, rings.length)] ?? this.#anyRing();
  }

  /** Takes runs of plain buffers ahead and fills them in one loop; whatever is not plain goes one by one. */
  #deliverTo(ring: Vring | undefined, batch: FrameBatch, from: number, to: number): number {
    if (ring === undefined) return this.#deliverNowhere(to - from);
    if (ring.armed) ring.disarm();
    const { queue } = ring;
    const writer = this.#writer;
    this.#frames = 0;
    this.#bytes = 0;
    let chains = 0;
    let ahead = to - from;
    let f = from;
    while (f < to) {
      const run = writer.takeRun(queue, Math.min(ahead, to - f));
      if (run > 0) {
        f = this.#fill(batch, f, to, run);
        const { filled } = writer;
        queue.pushRun(writer.tokens, 0, filled, writer.written);
        chains += filled;
        this.#frames += filled;
        this.#bytes += writer.bytes;
        if (filled === run) {
          ahead = 2 * ahead;
          continue;
        }
        queue.unpop(run - filled);
        if (f === to) break;
      }
      // Frame f or the next chain is not of the plain kind. Take fewer ahead while that goes on: what is taken in vain is given back.
      ahead = 1;
      const used = this.#one(ring, batch, f);
      if (used < 0) break;
      chains += used;
      f++;
    }
    if (this.#frames > 0) {
      this.#pushed[ring.index >>> 1] = (this.#pushed[ring.index >>> 1] as number) + chains;
      this.#touched = true;
      this.#counters.received(this.#frames, this.#bytes);
    }
    return f - from;
  }

  /** Puts frames from `f` on into the `run` plain buffers in hand, until either ends or a frame needs more than one of them. Returns the next frame. */
  #fill(batch: FrameBatch, f: number, to: number, run: number): number {
    const writer = this.#writer;
    const plain = (this.#flags & POLICY_PROMISCUOUS) !== 0 && !(this.#dma as DmaSpace).logging;
    const short = plain ? Math.min(SHORT_FRAME, this.#maximumFrame) : 0;
    while (f < to && writer.filled < run) {
      const length = batch.length[f] as number;
      if (length <= short) {
        const next = writer.fillShort(batch, f, to, run, short);
        if (next !== f) {
          f = next;
          continue;
        }
      }
      const reason = this.#refuses(batch, f, length);
      if (reason >= 0) this.#counters.receiveDropped(reason, 1);
      else if (!writer.fillOne(batch, f, length)) break;
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

  /** One frame, whatever its shape and its buffers'. Returns the chains it took, 0 when it was dropped, -1 when it is held. */
  #one(ring: Vring, batch: FrameBatch, f: number): number {
    const length = batch.length[f] as number;
    let reason = this.#refuses(batch, f, length);
    if (reason < 0) {
      const result = this.#writer.write(ring.queue, batch, f, length);
      if (result === WRITE_HELD) {
        this.#starve(ring, this.#writer.tooFew);
        return -1;
      }
      if (result === WRITE_BROKEN) {
        this.#broke(ring);
        reason = DROP_BROKEN;
      } else if (result === WRITE_TOO_LONG) reason = DROP_TOO_LONG;
      else {
        this.#frames++;
        this.#bytes += length;
        return ~result;
      }
    }
    this.#counters.receiveDropped(reason, 1);
    return 0;
  }

  #deliverNobody(frames: number): number {
    this.#counters.receiveDropped(DROP_FILTERED, frames);
    return frames;
  }

  /** No ring runs: a driver that broke one gets nothing more; one that is being moved is waited for. */
  #deliverNowhere(frames: number): number {
    if (!this.broken) return 0;
    this.#counters.receiveDropped(DROP_BROKEN, frames);
    return frames;
  }

  #anyRing(): Vring | undefined {
    for (const ring of this.rings) if (ring !== undefined) return ring;
    return undefined;
  }

  flush(): void {
    this.#writer.work = 0;
    if (!this.#touched) return;
    this.#touched = false;
    for (let pair = 0; pair < this.rings.length; pair++) {
      const pushed = this.#pushed[pair] as number;
      if (pushed === 0) continue;
      this.#pushed[pair] = 0;
      this.rings[pair]?.stage(pushed);
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
    const runs = this.broken || this.#anyRing() !== undefined;
    if (this.#starvedPairs === 0) return runs;
    let room = false;
    for (let pair = 0; pair < MAX_QUEUE_PAIRS; pair++) {
      const ring = this.#starved[pair];
      if (ring === undefined) continue;
      const there = this.rings.includes(ring);
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
