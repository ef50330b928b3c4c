// From frames to queues (82576 7.1): MAC control, size and errors, whom it is for, which queue, then into that queue's descriptors. A frame that finds no buffers where its queue does not drop is held at its source; nothing of
// it is written before every queue that gets a copy has said yes.

import type { ByteViews } from '#core/guest-memory';
import { AddressFilter, FILTER_DROP, FILTER_INEXACT } from '#devices/intel/address-filter';
import { countSize } from '#devices/intel/statistics';
import { DROP_BROKEN, DROP_FILTERED, DROP_MALFORMED, DROP_NOT_READY, DROP_RING_FULL, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import { gatherHeader } from '#net/headers';
import { FRAME_MALFORMED, type FrameBatch } from '#net/port';
import { PacketInfo } from './packet-info.ts';
import { type PoolSwitch, WIRE } from './pools.ts';
import { FLAG_LOOPBACK, FLAG_LOSSY, type PortState } from './port-state.ts';
import type { ReceiveQueue } from './receive-queue.ts';
import { ReceiveStore, type StoredFrame } from './receive-store.ts';
import {
  AT,
  CTRL_EXT_EXT_VLAN,
  CTRL_RFCE,
  CTRL_VME,
  ICR_RXDMT0,
  ICR_RXMISS,
  QUEUES,
  RCTL_DPF,
  RCTL_LPE,
  RCTL_PMCF,
  RCTL_RXEN,
  RCTL_SBP,
  RCTL_SECRC,
} from './registers.ts';
import { COUNT, count } from './statistics.ts';
import { Steering } from './steering.ts';
import type { TimeSync } from './time-sync.ts';

const { CTRL, CTRL_EXT, FCAH, FCAL, FCT, RAH, RAL, RCTL, RLPML, RQDPC, RXCSUM, SRRCTL, VET } = AT;

const SHORTEST = 60;
const FCS = 4;
const TAG = 4;
/** With the FCS, untagged; 8.10.1 RCTL.LPE. */
const LONGEST = 1518;
const LONGEST_STORED = 16 * 1024 - 1;
const HEADER = 18;
const OPCODE_PAUSE = 1;
const DROP_EN = 1 << 31;
const MOST_DROPS = 0xfff;

export interface ReceiveHost {
  readonly state: PortState;
  readonly queues: readonly ReceiveQueue[];
  readonly counters: PortCounters;
  readonly pools: PoolSwitch | undefined;
  readonly time: TimeSync;
  /** A PAUSE frame came. */
  paused(): void;
}

export class Receive {
  // Since the last flush: queues that got frames, those that may not wait, causes of ICR.
  received = 0;
  urgent = 0;
  causes = 0;
  readonly #host: ReceiveHost;
  readonly #words: Uint32Array;
  readonly #filter: AddressFilter;
  readonly #steering: Steering;
  readonly #info = new PacketInfo();
  readonly #store: ReceiveStore;
  readonly #header = new Uint8Array(32);
  #turn = 0;
  // Frames and bytes since the last flush that are not counted yet.
  #frames = 0;
  #bytes = 0;
  // Of the registers.
  #control = 0;
  #enabled = false;
  #strips = false;
  #double = false;
  #tagType = 0x8100;
  #outerType = 0x8100;
  #controlType = 0;
  #pausable = false;
  // Of the frame in hand.
  readonly #frame: StoredFrame = { bad: false, short: false, inexact: false, local: false, stamped: false, immediate: false, tagAt: -1, tag: 0, outer: false };
  #reason = 0;
  readonly #targets = new Int32Array(QUEUES);
  #starved = 0;
  #starvedGeneration = 0;

  constructor(host: ReceiveHost) {
    this.#host = host;
    this.#words = host.state.registers;
    this.#filter = new AddressFilter(this.#words, AT);
    this.#steering = new Steering(this.#words);
    this.#store = new ReceiveStore(this.#words, this.#info, this.#steering);
  }

  /** The control plane changed something. */
  configure(): void {
    const words = this.#words;
    const control = words[RCTL] as number;
    this.#control = control;
    this.#enabled = (control & RCTL_RXEN) !== 0;
    this.#strips = ((words[CTRL] as number) & CTRL_VME) !== 0;
    this.#pausable = ((words[CTRL] as number) & CTRL_RFCE) !== 0;
    this.#double = ((words[CTRL_EXT] as number) & CTRL_EXT_EXT_VLAN) !== 0;
    this.#tagType = (words[VET] as number) & 0xffff;
    this.#outerType = (words[VET] as number) >>> 16;
    this.#controlType = words[FCT] as number;
    this.#info.control = words[RXCSUM] as number;
    this.#filter.rebuild();
    this.#steering.configure();
    this.#host.pools?.rebuild();
  }

  /** A turn begins: registers may have changed since the last one. */
  begin(): void {
    this.#turn = (this.#turn + 1) | 0;
  }

  /** It ends. */
  end(): void {
    if (this.#frames > 0) this.#host.counters.received(this.#frames, this.#bytes);
    this.#frames = 0;
    this.#bytes = 0;
  }

  /** Frames from the network, or those this port sent itself in loopback. Returns how many were dealt with. */
  deliver(batch: FrameBatch, from: number, to: number): number {
    if (!this.#enabled) {
      this.#host.counters.receiveDropped(DROP_NOT_READY, to - from);
      return to - from;
    }
    let f = from;
    for (; f < to; f++) if (!this.#arrive(batch, f)) break;
    return f - from;
  }

  /** A frame that a pool sent, to these pools. False: it is held. */
  deliverLocal(batch: FrameBatch, f: number, pools: number): boolean {
    const length = batch.length[f] as number;
    if (!this.#enabled || length < 14) return true;
    const frame = this.#frame;
    frame.bad = false;
    frame.short = false;
    frame.inexact = false;
    frame.local = true;
    this.#tags(batch, f);
    return this.#distribute(batch, f, length, pools, false);
  }

  get hasRoom(): boolean {
    if (this.#starved === 0) return true;
    let room = !this.#enabled || this.#host.state.generation !== this.#starvedGeneration;
    for (let index = 0; index < QUEUES; index++) {
      if ((this.#starved & (1 << index)) === 0) continue;
      const queue = this.#host.queues[index] as ReceiveQueue;
      if (queue.starvedAt !== (this.#words[AT.RDT + index] as number)) room = true;
    }
    if (room) this.#starved = 0;
    return room;
  }

  reset(): void {
    this.#starved = 0;
    this.received = 0;
    this.urgent = 0;
    this.causes = 0;
  }

  close(): void {
    this.#steering.close();
  }

  // ---- from the network ----

  /** False: held. */
  #arrive(batch: FrameBatch, f: number): boolean {
    const { counters, state, pools } = this.#host;
    const length = batch.length[f] as number;
    const frame = this.#frame;
    if (length < 14) {
      counters.receiveDropped(DROP_MALFORMED, 1);
      return true;
    }
    const loopback = (state.flags & FLAG_LOOPBACK) !== 0;
    frame.local = false;
    frame.short = length < SHORTEST && loopback;
    frame.bad = loopback && (batch.needs[f] as number) === FRAME_MALFORMED;
    const bytes = this.#tags(batch, f);
    const at = this.#headerAt;
    const onWire = (frame.short ? length : Math.max(length, SHORTEST)) + FCS;
    const type = ((bytes[at + 12] as number) << 8) | (bytes[at + 13] as number);
    let control = false;
    if (type === this.#controlType && this.#isControl(bytes, at)) {
      if (this.#controlFrame(bytes, at, onWire)) return this.#refuse(onWire, DROP_FILTERED);
      control = (this.#control & RCTL_PMCF) !== 0;
    }
    if (pools?.on === true) {
      const mask = frame.bad || frame.short ? 0 : pools.receive(bytes, at, length, WIRE);
      if (mask === 0) {
        if (frame.bad || frame.short || pools.reason === DROP_TOO_LONG) this.#countBad(!frame.bad && !frame.short);
        return this.#refuse(onWire, frame.bad || frame.short ? DROP_MALFORMED : pools.reason);
      }
      frame.inexact = false;
      return this.#distribute(batch, f, length, mask, true);
    }
    let verdict = this.#filter.judge(bytes, at);
    if (verdict === FILTER_DROP && control) verdict = FILTER_INEXACT;
    if (verdict === FILTER_DROP || (frame.tagAt >= 0 && !this.#filter.passesVlan(frame.tag))) return this.#refuse(onWire, DROP_FILTERED);
    frame.inexact = verdict === FILTER_INEXACT;
    const long = onWire > this.#longest;
    if (frame.short || long || frame.bad) {
      this.#countBad(long);
      if ((this.#control & RCTL_SBP) === 0 || onWire > LONGEST_STORED) return this.#refuse(onWire, long ? DROP_TOO_LONG : DROP_MALFORMED);
    }
    return this.#distribute(batch, f, length, 0, true);
  }

  get #longest(): number {
    if ((this.#control & RCTL_LPE) !== 0) return Math.min(this.#words[RLPML] as number, LONGEST_STORED);
    return LONGEST + (this.#frame.tagAt >= 0 ? TAG : 0) + (this.#frame.outer ? TAG : 0);
  }

  #headerAt = 0;

  /** Finds the frame's first bytes (at `#headerAt` of what is returned), and its tags. */
  #tags(batch: FrameBatch, f: number): Uint8Array {
    const segment = batch.firstSegment[f] as number;
    let bytes = (batch.segments.views[segment] as ByteViews).u8;
    let at = batch.segments.offset[segment] as number;
    if ((batch.segments.length[segment] as number) < HEADER + TAG) {
      this.#header.fill(0);
      gatherHeader(batch, f, this.#header, 0, HEADER + TAG);
      bytes = this.#header;
      at = 0;
    }
    this.#headerAt = at;
    const frame = this.#frame;
    frame.outer = this.#double && read16(bytes, at + 12) === this.#outerType;
    const place = frame.outer ? 16 : 12;
    // 7.4.5: in double mode a single tag is the outer one.
    const tagged = this.#double === frame.outer && read16(bytes, at + place) === this.#tagType;
    frame.tagAt = tagged ? place : -1;
    frame.tag = tagged ? read16(bytes, at + place + 2) : 0;
    return bytes;
  }

  #countBad(long: boolean): void {
    const { statistics } = this.#host.state;
    const { bad, short } = this.#frame;
    if (short || long) count(statistics, COUNT.RLEC);
    if (short) count(statistics, bad ? COUNT.RFC : COUNT.RUC);
    else if (long) count(statistics, bad ? COUNT.RJC : COUNT.ROC);
    if (bad) count(statistics, COUNT.CRCERRS);
  }

  #refuse(onWire: number, reason: number): true {
    this.#countArrival(onWire);
    this.#host.counters.receiveDropped(reason, 1);
    return true;
  }

  #countArrival(onWire: number): void {
    const { statistics } = this.#host.state;
    count(statistics, COUNT.TPR);
    count(statistics, COUNT.TOR, onWire);
  }

  /** Addressed to MAC control: the flow control address, or the station's own (IEEE 802.3 31B). */
  #isControl(bytes: Uint8Array, at: number): boolean {
    const words = this.#words;
    const low = ((bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
    const high = (bytes[at + 4] as number) | ((bytes[at + 5] as number) << 8);
    return (words[FCAL] === low && words[FCAH] === high) || (words[RAL] === low && ((words[RAH] as number) & 0x8000_ffff) >>> 0 === (0x8000_0000 | high) >>> 0);
  }

  /** A MAC control frame. True: it goes no further. */
  #controlFrame(bytes: Uint8Array, at: number, onWire: number): boolean {
    const { state } = this.#host;
    const opcode = read16(bytes, at + 14);
    if (opcode !== OPCODE_PAUSE || onWire < SHORTEST + FCS) {
      count(state.statistics, COUNT.FCRUC);
      return (this.#control & RCTL_PMCF) === 0;
    }
    if (!this.#pausable) return (this.#control & RCTL_DPF) !== 0;
    state.pauseQuanta = read16(bytes, at + 16);
    count(state.statistics, state.pauseQuanta === 0 ? COUNT.XONRXC : COUNT.XOFFRXC);
    this.#host.paused();
    return (this.#control & RCTL_DPF) !== 0;
  }

  // ---- to queues ----

  /** Chooses the queues, finds room in all of them, stores. @param pools 0: there are none. False: held */
  #distribute(batch: FrameBatch, f: number, length: number, pools: number, wire: boolean): boolean {
    const { counters, queues, time } = this.#host;
    const frame = this.#frame;
    this.#info.read(batch, f);
    this.#steering.look(batch, f, this.#info, frame.tagAt >= 0 ? frame.tag : -1, pools);
    frame.immediate = this.#steering.immediate;
    const all = this.#choose(pools);
    const storing = this.#reserve(all, length);
    if (storing < 0) return false;
    const onWire = Math.max(length, frame.short ? 0 : SHORTEST) + FCS;
    if (storing === 0) {
      if (wire) this.#countArrival(onWire);
      counters.receiveDropped(this.#reason, 1);
      return true;
    }
    frame.stamped = wire && time.received(this.#info, this.#steering);
    for (let i = 0; i < storing; i++) {
      const queue = queues[this.#targets[i] as number] as ReceiveQueue;
      const before = queue.available;
      this.#store.write(queue, batch, f, frame);
      this.received |= 1 << queue.index;
      if (frame.immediate) this.urgent |= 1 << queue.index;
      this.#threshold(queue, before);
      this.#countPool(queue, length, wire);
    }
    this.#frames++;
    this.#bytes += length;
    this.#countHost(length, storing);
    if (wire) this.#countGood(onWire);
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
    for (let p = 0; p < 8; p++) if ((pools & (1 << p)) !== 0) this.#targets[all++] = steering.queueIn(p, pool?.rssIn(p) === true);
    return all;
  }

  /** Leaves in `#targets` the queues that have room for it; returns how many, or -1: it is held for want of room. */
  #reserve(all: number, length: number): number {
    const { queues, counters, state, pools } = this.#host;
    const frame = this.#frame;
    let kept = 0;
    this.#reason = DROP_NOT_READY;
    for (let i = 0; i < all; i++) {
      const index = this.#targets[i] as number;
      const queue = queues[index] as ReceiveQueue;
      if (!queue.enabled || !queue.dma.busMaster) continue;
      const inPool = pools?.on === true;
      const strips = inPool ? pools.stripsVlan(index & 7) : this.#strips;
      const keepsFcs = inPool ? !pools.stripsCrc(index & 7) : (this.#control & RCTL_SECRC) === 0;
      queue.look(this.#turn);
      // Its owner may not reach memory: it is as if it were not there.
      if (!queue.master) continue;
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

  // ---- counts ----

  #countGood(onWire: number): void {
    const { statistics } = this.#host.state;
    const { bad, short } = this.#frame;
    this.#countArrival(onWire);
    if (bad || short || (this.#host.pools?.on !== true && onWire > this.#longest)) return;
    countSize(statistics, COUNT.PRC64, onWire);
    count(statistics, COUNT.GPRC);
    count(statistics, COUNT.GORC, onWire);
    const { u8 } = this.#info.copied;
    if (((u8[0] as number) & 1) !== 0) count(statistics, isBroadcast(u8) ? COUNT.BPRC : COUNT.MPRC);
  }

  #countHost(length: number, copies: number): void {
    const { statistics } = this.#host.state;
    count(statistics, COUNT.RPTHC, copies);
    count(statistics, COUNT.HGORC, copies * (length + FCS));
  }

  /** 8.18: what each pool got; these are not cleared by reading. */
  #countPool(queue: ReceiveQueue, length: number, wire: boolean): void {
    if (this.#host.pools?.on !== true) return;
    const words = this.#words;
    const pool = queue.index & 7;
    const packets = (wire ? AT.PVFGPRC : AT.PVFGPRLBC) + pool;
    const octets = (wire ? AT.PVFGORC : AT.PVFGORLBC) + pool;
    words[packets] = (words[packets] as number) + 1;
    words[octets] = (words[octets] as number) + length + FCS;
    const { u8 } = this.#info.copied;
    if (wire && ((u8[0] as number) & 1) !== 0 && !isBroadcast(u8)) words[AT.PVFMPRC + pool] = (words[AT.PVFMPRC + pool] as number) + 1;
  }
}

function isBroadcast(bytes: Uint8Array): boolean {
  for (let i = 0; i < 6; i++) if (bytes[i] !== 0xff) return false;
  return true;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
