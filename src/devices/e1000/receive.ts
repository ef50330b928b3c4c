// From frames to receive descriptors (8254x 3.2): what is for this station, MAC control, size and errors, then buffers, tag, check sequence, checksums, causes. A frame that finds too few buffers is held at its
// source (or lost, where the embedder wants a wire that loses); nothing of it is written before all of its buffers are there.

import type { DmaSpace } from '#core/dma-space';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { AddressFilter, FILTER_DROP, FILTER_INEXACT } from '#devices/intel/address-filter';
import { MacControl } from '#devices/intel/mac-control';
import { packetChecksum, ReceiveChecksum, STATUS_IXSM } from '#devices/intel/receive-checksum';
import { assembleFrame, copyAssembled, copyFrame, FCS } from '#devices/intel/receive-copy';
import { COUNT, count, countSize, isBroadcast } from '#devices/intel/statistics';
import { sumBytes, sumSegments } from '#net/checksum';
import { DROP_BROKEN, DROP_FILTERED, DROP_MALFORMED, DROP_NOT_READY, DROP_RING_FULL, DROP_TOO_LONG, type PortCounters } from '#net/counters';
import { gatherHeader } from '#net/headers';
import { FRAME_MALFORMED, type FrameBatch } from '#net/port';
import { type EngineState, EVENT_PAUSE, EVENT_RECEIVED, FLAG_LOOPBACK, FLAG_LOSSY, FLAG_RUNTS } from './engine-state.ts';
import { PlainReceive } from './receive-plain.ts';
import { ReceiveRing } from './receive-ring.ts';
import { AT, CTRL_VME, ICR_RXDMT0, ICR_RXO, ICR_SRPD, RCTL_BSEX, RCTL_EN, RCTL_LPE, RCTL_SBP, RCTL_SECRC } from './registers.ts';

const { CTRL, FCT, RCTL, RDT, RSRPD, RXCSUM, VET } = AT;

const SHORTEST = 60;
/** With the FCS: 8254x 13.7.11 (RLEC). */
const LONGEST = 1522;
const LONGEST_LPE = 16384;
const HEADER = 18;
const TAG_AT = 12;

const STATUS_DD = 1 << 0;
const STATUS_EOP = 1 << 1;
const STATUS_VP = 1 << 3;
const STATUS_PIF = 1 << 7;
const ERROR_CE = 1 << 8;

const VERDICT_DROP = 0;
const VERDICT_TAKE = 1;

export class Receive {
  readonly filter: AddressFilter;
  readonly ring: ReceiveRing;
  /** Where the driver's descriptors end: RDT, or the shared block. */
  tail: () => number;
  /** Causes and events since the last flush. */
  events = 0;
  /** Frames were refused for want of buffers, and no room has been made since. */
  starved = false;
  readonly #state: EngineState;
  readonly #dma: DmaSpace;
  readonly #counters: PortCounters;
  readonly #checksum = new ReceiveChecksum();
  readonly #macControl: MacControl;
  readonly #plain: PlainReceive;
  readonly #linear = viewsOf(new ArrayBuffer(LONGEST_LPE + 16));
  readonly #header = new Uint8Array(32);
  #starvedTail = 0;
  #starvedGeneration = 0;
  // Of the registers, and of the state.
  #flags = 0;
  #controlType = 0;
  #control = 0;
  #enabled = false;
  #bufferBytes = 2048;
  #strips = false;
  #keepsFcs = false;
  #tagType = 0x8100;
  #checksumStart = 0;
  // Of the frame being judged.
  #inexact = false;
  #bad = false;
  #tagged = false;
  #tag = 0;
  #reason = 0;
  #touched = false;
  // Good frames of the batch in hand that are not counted yet, and those of them that were of one size in a row.
  #goodFrames = 0;
  #goodOctets = 0;
  #size = 0;
  #sized = 0;

  constructor(state: EngineState, dma: DmaSpace, counters: PortCounters) {
    this.#state = state;
    this.#dma = dma;
    this.#counters = counters;
    this.filter = new AddressFilter(state.registers, AT);
    this.#macControl = new MacControl(state, AT, this.filter, () => {
      this.events |= EVENT_PAUSE;
      this.#touched = true;
    });
    this.ring = new ReceiveRing(state, dma);
    this.#plain = new PlainReceive(state, dma, this.ring);
    this.tail = () => Atomics.load(state.registers, RDT);
  }

  /** The control plane changed something. */
  configure(): void {
    const words = this.#state.registers;
    const control = words[RCTL] as number;
    this.#control = control;
    this.#enabled = (control & RCTL_EN) !== 0;
    const size = (control >>> 16) & 3;
    this.#bufferBytes = (control & RCTL_BSEX) !== 0 && size > 0 ? 32768 >>> size : 2048 >>> size;
    this.#strips = ((words[CTRL] as number) & CTRL_VME) !== 0;
    this.#keepsFcs = (control & RCTL_SECRC) === 0;
    this.#tagType = (words[VET] as number) & 0xffff;
    this.#controlType = words[FCT] as number;
    this.#checksum.control = words[RXCSUM] as number;
    this.#checksumStart = (words[RXCSUM] as number) & 0xff;
    this.filter.rebuild();
    this.#macControl.configure();
    this.#plain.configure(this.#keepsFcs ? 0 : this.#bufferBytes);
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    if (!this.#enabled) {
      this.#counters.receiveDropped(DROP_NOT_READY, to - from);
      return to - from;
    }
    const { ring } = this;
    this.#flags = this.#state.flags;
    ring.look(this.tail());
    const before = ring.available;
    let frames = 0;
    let bytes = 0;
    let f = from;
    for (; f < to; f++) {
      const run = this.#plain.run(batch, f, to, this.#flags);
      if (run > 0) {
        frames += run;
        bytes += this.#plain.bytes;
        f += run - 1;
        continue;
      }
      const length = batch.length[f] as number;
      if (this.#judge(batch, f, length) === VERDICT_DROP) {
        this.#counters.receiveDropped(this.#reason, 1);
        continue;
      }
      const found = this.#store(batch, f, length);
      if (found > 0) {
        frames++;
        bytes += length;
      } else if (found < 0) this.#counters.receiveDropped(DROP_BROKEN, 1);
      else if (!this.#lose(length)) break;
    }
    if (frames > 0) {
      this.#countGood();
      this.#counters.received(frames, bytes);
      this.events |= EVENT_RECEIVED;
      this.#touched = true;
      this.#threshold(before);
      ring.publish();
    }
    return f - from;
  }

  /** 8254x 3.2.7.3: the cause comes when the free descriptors get down to the threshold. */
  #threshold(before: number): void {
    const least = this.ring.size >>> (1 + Math.min(2, (this.#control >>> 8) & 3));
    if (before > least && this.ring.available <= least) this.events |= ICR_RXDMT0;
  }

  /** No buffers. False: the frame is held. */
  #lose(length: number): boolean {
    const { statistics, flags, generation } = this.#state;
    if (!this.starved || this.#starvedTail !== this.ring.tail) statistics[COUNT.RNBC] = (statistics[COUNT.RNBC] as number) + 1;
    this.starved = true;
    this.#starvedTail = this.ring.tail;
    this.#starvedGeneration = generation;
    if ((flags & (FLAG_LOSSY | FLAG_LOOPBACK)) !== FLAG_LOSSY) return false;
    statistics[COUNT.MPC] = (statistics[COUNT.MPC] as number) + 1;
    this.#countArrival(Math.max(length, SHORTEST) + FCS);
    this.events |= ICR_RXO;
    this.#touched = true;
    this.#counters.receiveDropped(DROP_RING_FULL, 1);
    return true;
  }

  /** After a refusal: buffers were added, or frames would be dropped now. */
  get hasRoom(): boolean {
    if (!this.starved) return true;
    if (this.#enabled && this.tail() === this.#starvedTail && this.#state.generation === this.#starvedGeneration) return false;
    this.starved = false;
    return true;
  }

  /** What happened since the last flush. */
  flush(): number {
    const { events } = this;
    this.events = 0;
    this.#touched = false;
    return events;
  }

  get touched(): boolean {
    return this.#touched;
  }

  // ---- what to do with a frame ----

  #judge(batch: FrameBatch, f: number, length: number): number {
    this.#reason = DROP_MALFORMED;
    if (length < 14) return VERDICT_DROP;
    const segment = batch.firstSegment[f] as number;
    let bytes = (batch.segments.views[segment] as ByteViews).u8;
    let at = batch.segments.offset[segment] as number;
    if ((batch.segments.length[segment] as number) < HEADER) {
      this.#header.fill(0);
      gatherHeader(batch, f, this.#header, 0, HEADER);
      bytes = this.#header;
      at = 0;
    }
    const flags = this.#flags;
    const short = length < SHORTEST && (flags & (FLAG_RUNTS | FLAG_LOOPBACK)) !== 0;
    const onWire = (short ? length : Math.max(length, SHORTEST)) + FCS;
    this.#bad = (flags & FLAG_LOOPBACK) !== 0 && (batch.needs[f] as number) === FRAME_MALFORMED;
    const type = ((bytes[at + 12] as number) << 8) | (bytes[at + 13] as number);
    this.#tagged = type === this.#tagType;
    this.#tag = this.#tagged ? ((bytes[at + 14] as number) << 8) | (bytes[at + 15] as number) : 0;
    let verdict = this.filter.judge(bytes, at);
    if (type === this.#controlType && this.#macControl.addressed(bytes, at)) {
      if (this.#macControl.take(bytes, at, onWire)) return this.#refuse(onWire, DROP_FILTERED);
      if (verdict === FILTER_DROP && this.#macControl.passes) verdict = FILTER_INEXACT;
    }
    if (verdict === FILTER_DROP || (this.#tagged && !this.filter.passesVlan(this.#tag))) return this.#refuse(onWire, DROP_FILTERED);
    this.#inexact = verdict === FILTER_INEXACT;
    const long = onWire > ((this.#control & RCTL_LPE) !== 0 ? LONGEST_LPE : LONGEST);
    if (!short && !long && !this.#bad) return VERDICT_TAKE;
    // Where bad packets are stored they must fit what the chip can hold.
    if ((this.#control & RCTL_SBP) !== 0 && onWire <= LONGEST_LPE) return VERDICT_TAKE;
    this.#countBad(short, long);
    return this.#refuse(onWire, long ? DROP_TOO_LONG : DROP_MALFORMED);
  }

  #countBad(short: boolean, long: boolean): void {
    const { statistics } = this.#state;
    if (short || long) count(statistics, COUNT.RLEC);
    if (short) count(statistics, this.#bad ? COUNT.RFC : COUNT.RUC);
    else if (long) count(statistics, this.#bad ? COUNT.RJC : COUNT.ROC);
    if (this.#bad) count(statistics, COUNT.CRCERRS);
  }

  #refuse(onWire: number, reason: number): number {
    this.#countArrival(onWire);
    this.#reason = reason;
    return VERDICT_DROP;
  }

  /** 8254x 13.7.44, 13.7.42: everything that came along, for us or not. */
  #countArrival(onWire: number): void {
    const { statistics } = this.#state;
    statistics[COUNT.TPR] = (statistics[COUNT.TPR] as number) + 1;
    statistics[COUNT.TOR] = (statistics[COUNT.TOR] as number) + onWire;
  }

  // ---- into memory ----

  /** 1: stored; 0: no buffers; -1: the ring cannot be read. */
  #store(batch: FrameBatch, f: number, length: number): number {
    const { ring } = this;
    const strips = this.#tagged && this.#strips;
    const short = length < SHORTEST && (this.#flags & (FLAG_RUNTS | FLAG_LOOPBACK)) !== 0;
    const padded = short ? length : Math.max(length, SHORTEST);
    const stored = padded - (strips ? 4 : 0) + (this.#keepsFcs ? FCS : 0);
    const found = ring.reserve(stored, this.#bufferBytes);
    if (found <= 0) return found;
    let status = STATUS_DD | STATUS_EOP | (this.#inexact ? STATUS_PIF : 0) | (strips ? STATUS_VP | (this.#tag << 16) : 0);
    // A frame that is wrong as a whole has nothing to say about its checksums.
    status |= this.#bad ? ERROR_CE | STATUS_IXSM : this.#checksum.status(batch, f);
    let sum: number;
    if (!strips && !this.#keepsFcs && padded === length) sum = this.#copyPlain(batch, f, length);
    else sum = this.#copyChanged(batch, f, length, padded, strips, stored);
    const checksum = packetChecksum(sum);
    const { buffers } = ring;
    const each = this.#bufferBytes;
    for (let n = buffers - 1; n >= 0; n--) {
      const last = n === buffers - 1;
      ring.complete(n, last ? stored - n * each : each, n === 0 ? checksum : 0, last ? status : STATUS_DD);
    }
    ring.advance();
    this.#countStored(batch, f, padded + FCS, stored, short);
    return 1;
  }

  #countStored(batch: FrameBatch, f: number, onWire: number, stored: number, short: boolean): void {
    const { statistics, registers } = this.#state;
    const small = registers[RSRPD] as number;
    if (small !== 0 && stored <= small) this.events |= ICR_SRPD;
    const long = onWire > ((this.#control & RCTL_LPE) !== 0 ? LONGEST_LPE : LONGEST);
    if (this.#bad || short || long) {
      this.#countArrival(onWire);
      this.#countBad(short, long);
      return;
    }
    if (onWire !== this.#size) this.#countSizes(onWire);
    this.#sized++;
    this.#goodFrames++;
    this.#goodOctets += onWire;
    const segment = batch.firstSegment[f] as number;
    const { u8 } = batch.segments.views[segment] as ByteViews;
    const at = batch.segments.offset[segment] as number;
    if (((u8[at] as number) & 1) === 0) return;
    if ((batch.segments.length[segment] as number) < 6) gatherHeader(batch, f, this.#header, 0, 6);
    else for (let i = 0; i < 6; i++) this.#header[i] = u8[at + i] as number;
    const kind = isBroadcast(this.#header, 0) ? COUNT.BPRC : COUNT.MPRC;
    statistics[kind] = (statistics[kind] as number) + 1;
  }

  #countSizes(next: number): void {
    if (this.#sized > 0) countSize(this.#state.statistics, COUNT.PRC64, this.#size, this.#sized);
    this.#size = next;
    this.#sized = 0;
  }

  #countGood(): void {
    if (this.#goodFrames === 0) return;
    const { statistics } = this.#state;
    this.#countSizes(this.#size);
    statistics[COUNT.TPR] = (statistics[COUNT.TPR] as number) + this.#goodFrames;
    statistics[COUNT.TOR] = (statistics[COUNT.TOR] as number) + this.#goodOctets;
    statistics[COUNT.GPRC] = (statistics[COUNT.GPRC] as number) + this.#goodFrames;
    statistics[COUNT.GORC] = (statistics[COUNT.GORC] as number) + this.#goodOctets;
    this.#goodFrames = 0;
    this.#goodOctets = 0;
  }

  /** The frame as it is. Returns the sum for Packet Checksum. */
  #copyPlain(batch: FrameBatch, f: number, length: number): number {
    const start = this.#checksumStart;
    const sum = start < length ? sumSegments(batch.segments, batch.firstSegment[f] as number, start, length - start) : 0;
    copyFrame(this.#dma, this.ring.address, this.#bufferBytes, batch, f, length);
    return sum;
  }

  /** The frame without its tag, padded, with its FCS. */
  #copyChanged(batch: FrameBatch, f: number, length: number, padded: number, strips: boolean, stored: number): number {
    const linear = this.#linear;
    const begin = assembleFrame(linear, batch, f, length, padded, strips ? TAG_AT : -1, this.#keepsFcs, this.#bad);
    copyAssembled(this.#dma, this.ring.address, this.#bufferBytes, linear, begin, 0, stored);
    const start = this.#checksumStart;
    return start < stored ? sumBytes(linear, begin + start, stored - start) : 0;
  }
}
