// From frames to what this port takes of them (82576 7.1.1): MAC control, size and errors, tags, whom a frame is for; distribution.ts has it from there. Usual frames (receive-plain.ts) take a short way through the same steps.

import type { ByteViews } from '#core/guest-memory';
import { AddressFilter, FILTER_DROP, FILTER_INEXACT } from '#devices/intel/address-filter';
import { MacControl } from '#devices/intel/mac-control';
import { DROP_FILTERED, DROP_MALFORMED, DROP_NOT_READY, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import { gatherHeader } from '#net/headers';
import { FRAME_MALFORMED, type FrameBatch } from '#net/port';
import { Distribution } from './distribution.ts';
import { type PoolSwitch, WIRE } from './pools.ts';
import { FLAG_LOOPBACK, type PortState } from './port-state.ts';
import { ReceiveCounts } from './receive-counts.ts';
import type { ReceiveQueue } from './receive-queue.ts';
import { STATUS_LB, STATUS_PIF } from './receive-store.ts';
import { AT, CTRL_EXT_EXT_VLAN, RCTL_LPE, RCTL_RXEN, RCTL_SBP } from './registers.ts';
import type { TimeSync } from './time-sync.ts';

const { CTRL_EXT, FCT, RCTL, RLPML, VET } = AT;

const SHORTEST = 60;
const FCS = 4;
const TAG = 4;
/** With the FCS, untagged; 8.10.1 RCTL.LPE. */
const LONGEST = 1518;
const LONGEST_STORED = 16 * 1024 - 1;
const HEADER = 18;

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
  readonly distribution: Distribution;
  readonly #host: ReceiveHost;
  readonly #words: Uint32Array;
  readonly #filter: AddressFilter;
  readonly #control: MacControl;
  readonly #counts: ReceiveCounts;
  readonly #header = new Uint8Array(32);
  // Of the registers.
  #modes = 0;
  #enabled = false;
  #double = false;
  #tagType = 0x8100;
  #outerType = 0x8100;
  #controlType = 0;
  #longestUntagged = LONGEST;
  /** Where the header of the frame in hand begins. */
  #headerAt = 0;

  constructor(host: ReceiveHost) {
    this.#host = host;
    this.#words = host.state.registers;
    this.#filter = new AddressFilter(this.#words, AT);
    this.#control = new MacControl(host.state, AT, this.#filter, () => host.paused());
    this.#counts = new ReceiveCounts(host.state, host.counters);
    this.distribution = new Distribution(host, this.#counts);
  }

  /** The control plane changed something. */
  configure(): void {
    const words = this.#words;
    this.#modes = words[RCTL] as number;
    this.#enabled = (this.#modes & RCTL_RXEN) !== 0;
    this.#double = ((words[CTRL_EXT] as number) & CTRL_EXT_EXT_VLAN) !== 0;
    this.#tagType = (words[VET] as number) & 0xffff;
    this.#outerType = (words[VET] as number) >>> 16;
    this.#controlType = words[FCT] as number;
    this.#longestUntagged = (this.#modes & RCTL_LPE) !== 0 ? Math.min(words[RLPML] as number, LONGEST_STORED) : LONGEST;
    this.#filter.rebuild();
    this.#control.configure();
    this.distribution.configure();
    this.#host.pools?.rebuild();
  }

  /** Frames from the network, or those this port sent itself in loopback. Returns how many were dealt with. */
  deliver(batch: FrameBatch, from: number, to: number): number {
    if (!this.#enabled) {
      this.#host.counters.receiveDropped(DROP_NOT_READY, to - from);
      return to - from;
    }
    const { pools, state } = this.#host;
    const { distribution } = this;
    const loopback = (state.flags & FLAG_LOOPBACK) !== 0;
    const pooled = pools?.on === true ? pools : undefined;
    distribution.beginWire(batch, from, to);
    let f = from;
    for (; f < to; f++) if (!(distribution.takes(batch, f) ? this.#arriveUsual(batch, f, pooled) : this.#arrive(batch, f, loopback))) break;
    distribution.settle();
    return f - from;
  }

  /** A frame that a pool sent, to these pools, in a run of such. False: it is held. */
  deliverLocal(batch: FrameBatch, f: number, pools: number): boolean {
    const { distribution } = this;
    if (!this.#enabled || (batch.length[f] as number) < 14) return true;
    const usual = distribution.takes(batch, f);
    if (usual && distribution.storeUsual(batch, f, pools, STATUS_LB)) return true;
    const { frame } = distribution;
    frame.bad = false;
    frame.short = false;
    frame.inexact = false;
    frame.local = true;
    frame.good = false;
    if (usual) this.#untagged();
    else this.#tags(batch, f);
    return distribution.store(batch, f, pools);
  }

  get hasRoom(): boolean {
    return !this.#enabled || this.distribution.hasRoom;
  }

  // ---- from the network ----

  /** A usual frame. False: held. */
  #arriveUsual(batch: FrameBatch, f: number, pools: PoolSwitch | undefined): boolean {
    const { distribution } = this;
    const length = batch.length[f] as number;
    const { plain } = distribution;
    const { u8 } = plain.views as ByteViews;
    let mask = 0;
    let inexact = false;
    if (pools !== undefined) {
      mask = pools.receive(u8, plain.at, length, WIRE);
      if (mask === 0) {
        if (pools.reason === DROP_TOO_LONG) this.#counts.bad(false, false, true);
        return this.#refuse(length + FCS, pools.reason);
      }
    } else {
      const verdict = this.#filter.judge(u8, plain.at);
      if (verdict === FILTER_DROP) return this.#refuse(length + FCS, DROP_FILTERED);
      inexact = verdict === FILTER_INEXACT;
      if (length + FCS > this.#longestUntagged) return this.#arrive(batch, f, false);
    }
    if (distribution.storeUsual(batch, f, mask, inexact ? STATUS_PIF : 0)) return true;
    const { frame } = distribution;
    frame.bad = false;
    frame.short = false;
    frame.inexact = inexact;
    frame.local = false;
    frame.good = true;
    this.#untagged();
    return distribution.store(batch, f, mask);
  }

  #untagged(): void {
    const { frame } = this.distribution;
    frame.outer = false;
    frame.tagAt = -1;
    frame.tag = 0;
  }

  /** False: held. */
  #arrive(batch: FrameBatch, f: number, loopback: boolean): boolean {
    const { counters, pools } = this.#host;
    const length = batch.length[f] as number;
    const { frame } = this.distribution;
    if (length < 14) {
      counters.receiveDropped(DROP_MALFORMED, 1);
      return true;
    }
    frame.local = false;
    frame.short = length < SHORTEST && loopback;
    frame.bad = loopback && (batch.needs[f] as number) === FRAME_MALFORMED;
    const bytes = this.#tags(batch, f);
    const at = this.#headerAt;
    const onWire = (frame.short ? length : Math.max(length, SHORTEST)) + FCS;
    let control = false;
    if (read16(bytes, at + 12) === this.#controlType && this.#control.addressed(bytes, at)) {
      if (this.#control.take(bytes, at, onWire)) return this.#refuse(onWire, DROP_FILTERED);
      control = this.#control.passes;
    }
    if (pools?.on === true) {
      const mask = frame.bad || frame.short ? 0 : pools.receive(bytes, at, length, WIRE);
      if (mask === 0) {
        if (frame.bad || frame.short || pools.reason === DROP_TOO_LONG) this.#counts.bad(frame.bad, frame.short, !frame.bad && !frame.short);
        return this.#refuse(onWire, frame.bad || frame.short ? DROP_MALFORMED : pools.reason);
      }
      frame.inexact = false;
      frame.good = true;
      return this.distribution.store(batch, f, mask);
    }
    let verdict = this.#filter.judge(bytes, at);
    if (verdict === FILTER_DROP && control) verdict = FILTER_INEXACT;
    if (verdict === FILTER_DROP || (frame.tagAt >= 0 && !this.#filter.passesVlan(frame.tag))) return this.#refuse(onWire, DROP_FILTERED);
    frame.inexact = verdict === FILTER_INEXACT;
    const long = onWire > this.#longest;
    if (frame.short || long || frame.bad) {
      this.#counts.bad(frame.bad, frame.short, long);
      if ((this.#modes & RCTL_SBP) === 0 || onWire > LONGEST_STORED) return this.#refuse(onWire, long ? DROP_TOO_LONG : DROP_MALFORMED);
    }
    frame.good = !frame.short && !long && !frame.bad;
    return this.distribution.store(batch, f, 0);
  }

  /** The longest frame that is taken, with its FCS. */
  get #longest(): number {
    if ((this.#modes & RCTL_LPE) !== 0) return this.#longestUntagged;
    const { frame } = this.distribution;
    return this.#longestUntagged + (frame.tagAt >= 0 ? TAG : 0) + (frame.outer ? TAG : 0);
  }

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
    const { frame } = this.distribution;
    frame.outer = this.#double && read16(bytes, at + 12) === this.#outerType;
    const place = frame.outer ? 16 : 12;
    // 7.4.5: in double mode a single tag is the outer one.
    const tagged = this.#double === frame.outer && read16(bytes, at + place) === this.#tagType;
    frame.tagAt = tagged ? place : -1;
    frame.tag = tagged ? read16(bytes, at + place + 2) : 0;
    return bytes;
  }

  #refuse(onWire: number, reason: number): true {
    this.#counts.arrived(onWire);
    this.#host.counters.receiveDropped(reason, 1);
    return true;
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
