// A frame that the port takes, into queues (82576 7.1.1.4 to 7.1.10): which queue in each pool, whether all of them have room, then into their descriptors. A frame that finds no buffers where its queue does not drop is held at
// its source; nothing of it is written before every queue that gets a copy has said yes. Usual frames' descriptors show, and they are counted, a run at a time.

import type { ByteViews } from '#core/guest-memory';
import { count, isBroadcast } from '#devices/intel/statistics';
import { DROP_BROKEN, DROP_NOT_READY, DROP_RING_FULL } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { PacketInfo } from './packet-info.ts';
import { FLAG_LOOPBACK, FLAG_LOSSY } from './port-state.ts';
import type { ReceiveHost } from './receive.ts';
import type { ReceiveCounts } from './receive-counts.ts';
import { PlainReceive } from './receive-plain.ts';
import type { ReceiveQueue } from './receive-queue.ts';
import { ReceiveStore, STATUS_WHOLE, type StoredFrame } from './receive-store.ts';
import { AT, CTRL_VME, ICR_RXDMT0, ICR_RXMISS, POOLS, QUEUES, RCTL_SECRC } from './registers.ts';
import { COUNT } from './statistics.ts';
import { Steering } from './steering.ts';

const { CTRL, RCTL, RDT, RQDPC, RXCSUM, SRRCTL } = AT;

const SHORTEST = 60;
const FCS = 4;
const DROP_EN = 1 << 31;
const MOST_DROPS = 0xfff;

export class Distribution {
  // Since the last end of a turn: queues that got frames, those that may not wait, causes of ICR.
  received = 0;
  urgent = 0;
  causes = 0;
  /** What is known of the frame in hand. */
  readonly frame: StoredFrame = {
    bad: false,
    short: false,
    good: true,
    inexact: false,
    local: false,
    stamped: false,
    immediate: false,
    tagAt: -1,
    tag: 0,
    outer: false,
  };
  readonly plain: PlainReceive;
  readonly #host: ReceiveHost;
  readonly #words: Uint32Array;
  readonly #counts: ReceiveCounts;
  readonly #info = new PacketInfo();
  readonly #steering: Steering;
  readonly #store: ReceiveStore;
  #turn = 0;
  /** Frames of this run may be usual ones. */
  #usual = false;
  /** Queues with frames that do not show yet, and whether those are from the network. */
  #unsettled = 0;
  #fromWire = false;
  // Of the registers.
  #strips = false;
  #keepsFcs = false;
  // Of the frame in hand.
  #reason = 0;
  readonly #targets = new Int32Array(QUEUES);
  // Queues that a frame is held for.
  #starved = 0;
  #starvedGeneration = 0;

  constructor(host: ReceiveHost, counts: ReceiveCounts) {
    this.#host = host;
    this.#words = host.state.registers;
    this.#counts = counts;
    this.#steering = new Steering(this.#words);
    this.#store = new ReceiveStore(this.#words, this.#info, this.#steering);
    this.plain = new PlainReceive(this.#words);
  }

  /** The control plane changed something. */
  configure(): void {
    const words = this.#words;
    this.#strips = ((words[CTRL] as number) & CTRL_VME) !== 0;
    this.#keepsFcs = ((words[RCTL] as number) & RCTL_SECRC) === 0;
    this.#info.control = words[RXCSUM] as number;
    this.#steering.configure();
    this.plain.configure(this.#steering.filters);
  }

  /** A turn begins: queues' registers may have changed since the last one. */
  begin(): void {
    this.#turn = (this.#turn + 1) | 0;
  }

  /** A run of frames from the network, or of our own in loopback. At its end: `settle`. */
  beginWire(batch: FrameBatch, from: number, to: number): void {
    const { state, time } = this.#host;
    this.#usual = this.plain.usable && (state.flags & FLAG_LOOPBACK) === 0 && !time.awaitsReceived;
    this.#fromWire = true;
    this.#steering.hashAll(batch, from, to);
  }

  /** One of frames that pools sent to pools. */
  beginLocal(): void {
    this.#usual = this.plain.usable;
    this.#fromWire = false;
  }

  /** The frame may be a usual one: `plain` has looked at its header. */
  takes(batch: FrameBatch, f: number): boolean {
    return this.#usual && this.plain.takes(batch, f);
  }

  /** What was received shows to drivers, and is counted. */
  settle(): void {
    for (let left = this.#unsettled; left !== 0; left &= left - 1) this.#settle(this.#host.queues[31 - Math.clz32(left & -left)] as ReceiveQueue);
    this.#unsettled = 0;
    this.#counts.flush();
  }

  #settle(queue: ReceiveQueue): void {
    queue.publish();
    this.#threshold(queue, queue.before);
    if (this.#host.pools?.on === true) this.#counts.settle(queue, this.#fromWire);
    queue.shown = 0;
    queue.octets = 0;
    queue.group = 0;
  }

  /** Queues that a frame is held for may have room by now. */
  get hasRoom(): boolean {
    if (this.#starved === 0) return true;
    let room = this.#host.state.generation !== this.#starvedGeneration;
    for (let index = 0; index < QUEUES; index++) {
      if ((this.#starved & (1 << index)) === 0) continue;
      const queue = this.#host.queues[index] as ReceiveQueue;
      if (queue.starvedAt !== (this.#words[RDT + index] as number)) room = true;
    }
    if (room) this.#starved = 0;
    return room;
  }

  reset(): void {
    this.#starved = 0;
    this.#unsettled = 0;
    this.received = 0;
    this.urgent = 0;
    this.causes = 0;
  }

  close(): void {
    this.#steering.close();
  }

  /** A usual frame, if each queue it is for has a buffer that holds it. False: nothing was done. @param bits of the descriptor's status, beside what is found out here */
  storeUsual(batch: FrameBatch, f: number, pools: number, bits: number): boolean {
    const { plain } = this;
    const length = batch.length[f] as number;
    if (!plain.read(batch, f)) return false;
    this.#steering.lookUsual(batch, f);
    const all = this.#choose(pools);
    let kept = 0;
    for (let i = 0; i < all; i++) {
      const index = this.#targets[i] as number;
      const queue = this.#host.queues[index] as ReceiveQueue;
      queue.look(this.#turn);
      if (!queue.live) continue;
      if ((pools !== 0 ? this.#host.pools?.stripsCrc(index % POOLS) !== true : this.#keepsFcs) || !queue.hasBuffer(length)) return false;
      this.#targets[kept++] = index;
    }
    if (kept === 0) return false;
    const { u8 } = plain.views as ByteViews;
    const group = ((u8[plain.at] as number) & 1) !== 0;
    for (let i = 0; i < kept; i++) {
      const queue = this.#host.queues[this.#targets[i] as number] as ReceiveQueue;
      plain.store(queue, batch, f);
      queue.put(plain.type | this.#steering.rssType, this.#steering.hash, STATUS_WHOLE | plain.checks | bits, length);
      queue.octets += length + FCS;
      if (group && !isBroadcast(u8, plain.at)) queue.group++;
      this.#unsettled |= 1 << queue.index;
    }
    this.received |= this.#unsettled;
    this.#counts.stored(length, kept);
    if (this.#fromWire) this.#counts.usual(length, u8, plain.at);
    return true;
  }

  /** Chooses the queues, finds room in all of them, stores. @param pools 0: there are none. False: held */
  store(batch: FrameBatch, f: number, pools: number): boolean {
    const { counters, queues, time } = this.#host;
    const { frame } = this;
    const length = batch.length[f] as number;
    const wire = !frame.local;
    // In order: what came before shows before.
    if (this.#unsettled !== 0) this.settle();
    this.#info.read(batch, f);
    this.#steering.look(batch, f, this.#info, frame.tagAt >= 0 ? frame.tag : -1, pools);
    frame.immediate = this.#steering.immediate;
    const all = this.#choose(pools);
    const storing = this.#reserve(all, length);
    if (storing < 0) return false;
    const onWire = Math.max(length, frame.short ? 0 : SHORTEST) + FCS;
    if (storing === 0) {
      if (wire) this.#counts.arrived(onWire);
      counters.receiveDropped(this.#reason, 1);
      return true;
    }
    const { u8 } = this.#info.copied;
    const group = ((u8[0] as number) & 1) !== 0 && !isBroadcast(u8, 0);
    frame.stamped = wire && time.received(this.#info, this.#steering);
    for (let i = 0; i < storing; i++) {
      const queue = queues[this.#targets[i] as number] as ReceiveQueue;
      const before = queue.available;
      this.#store.write(queue, batch, f, frame);
      this.received |= 1 << queue.index;
      if (frame.immediate) this.urgent |= 1 << queue.index;
      this.#threshold(queue, before);
      if (this.#host.pools?.on === true) this.#counts.pool(queue.index, 1, length + FCS, group ? 1 : 0, wire);
    }
    this.#counts.stored(length, storing);
    if (!wire) return true;
    if (frame.good) this.#counts.good(onWire, u8, 0);
    else this.#counts.arrived(onWire);
    return true;
  }

  #choose(pools: number): number {
    const steering = this.#steering;
    if (pools === 0) {
      this.#targets[0] = steering.queueOf();
      return 1;
    }
    const { pools: pool } = this.#host;
    let all = 0;
    for (let left = pools; left !== 0; left &= left - 1) {
      const p = 31 - Math.clz32(left & -left);
      this.#targets[all++] = steering.queueIn(p, pool?.rssIn(p) === true);
    }
    return all;
  }

  /** Leaves in `#targets` the queues that have room for it; returns how many, or -1: it is held for want of room. */
  #reserve(all: number, length: number): number {
    const { queues, counters, state, pools } = this.#host;
    const { frame } = this;
    let kept = 0;
    this.#reason = DROP_NOT_READY;
    for (let i = 0; i < all; i++) {
      const index = this.#targets[i] as number;
      const queue = queues[index] as ReceiveQueue;
      queue.look(this.#turn);
      // Its owner may not reach memory: it is as if it were not there.
      if (!queue.live) continue;
      const inPool = pools?.on === true;
      const strips = inPool ? pools.stripsVlan(index % POOLS) : this.#strips;
      const keepsFcs = inPool ? !pools.stripsCrc(index % POOLS) : this.#keepsFcs;
      const found = this.#store.plan(queue, length, frame, strips, keepsFcs);
      if (found > 0) {
        this.#targets[kept++] = index;
        continue;
      }
      if (found < 0) {
        this.#reason = DROP_BROKEN;
        continue;
      }
      const drops = ((this.#words[SRRCTL + index] as number) & DROP_EN) !== 0 || (inPool && pools.dropsWhenFull(index));
      if (!drops && (state.flags & (FLAG_LOSSY | FLAG_LOOPBACK)) !== FLAG_LOSSY) {
        if (queue.starvedAt !== queue.tail || (this.#starved & (1 << index)) === 0) count(state.statistics, COUNT.RNBC);
        this.#starved |= 1 << index;
        this.#starvedGeneration = state.generation;
        queue.starvedAt = queue.tail;
        return -1;
      }
      this.#lose(index, drops);
      if (kept > 0 || i < all - 1) counters.receiveDropped(DROP_RING_FULL, 1);
      this.#reason = DROP_RING_FULL;
    }
    return kept;
  }

  /** No buffers (8.10.13): a queue that drops counts it itself. */
  #lose(index: number, drops: boolean): void {
    if (drops) this.#words[RQDPC + index] = Math.min(MOST_DROPS, (this.#words[RQDPC + index] as number) + 1);
    else {
      count(this.#host.state.statistics, COUNT.MPC);
      this.causes |= ICR_RXMISS;
    }
  }

  /** SRRCTL.RDMTS, in units of 16 descriptors (7.1.10.1). */
  #threshold(queue: ReceiveQueue, before: number): void {
    const least = 16 * (((this.#words[SRRCTL + queue.index] as number) >>> 20) & 31);
    if (least === 0 || before <= least || queue.available > least) return;
    this.causes |= ICR_RXDMT0;
    count(this.#host.state.statistics, COUNT.RXDMTC);
  }
}
