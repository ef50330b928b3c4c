// From descriptors to frames (82576 7.2): the queues take turns; a packet's descriptors, legacy or advanced, are read into a stage, where its context says what becomes of it; then it goes to the network, to pools of this port,
// or to both. One queue's frames are in a batch at a time. What goes to pools is done at once, in order, while nothing of the queue is out; what a refusal leaves comes first next time.

import { DMA_READ } from '#core/dma-space';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { countSize } from '#devices/intel/statistics';
import { HEAD, TransmitOffload } from '#devices/intel/transmit-offload';
import { DROP_FILTERED, DROP_MALFORMED, type PortCounters } from '#net/counters';
import { FrameBatch } from '#net/port';
import { type PoolSwitch, SPOOFED, TO_WIRE } from './pools.ts';
import { FLAG_LOOPBACK, FLAG_PAUSED, type PortState } from './port-state.ts';
import type { Receive } from './receive.ts';
import { AT, CTRL_EXT_EXT_VLAN, CTRL_VME, POOLS, QUEUES, TCTL_EN, TCTL_PSP } from './registers.ts';
import { COUNT, count } from './statistics.ts';
import type { TimeSync } from './time-sync.ts';
import { ContextLog, loadContext } from './transmit-context.ts';
import { CMD_DEXT, CMD_EOP, CMD_IC, CMD_IFCS, CMD_TSE, CMD_VLE, CONTEXT_WORDS, type TransmitQueue } from './transmit-queue.ts';

const { CTRL, CTRL_EXT, DTXTCPFLGH, DTXTCPFLGL, TCTL, VET } = AT;

const FCS = 4;
/** Descriptors looked at in one turn. */
const SCAN = 4096;
const LONGEST_PACKET = 0x3fff;
/** Headers and 256 KiB of payload (7.2.4.1, PAYLEN). */
const LONGEST_SEGMENTED = 0x4_0000 + 256;
const TYPE_CONTEXT = 2;
const TYPE_DATA = 3;
const POPTS_IXSM = 1;
const POPTS_TXSM = 2;
const MAC_TSTAMP = 1 << 19;
/** Frames of one round in loopback or to pools. */
const LOCAL_FRAMES = 64;

const MORE = 0;
const NOTHING = 1;
const PACKET = 2;

export interface TransmitHost {
  readonly state: PortState;
  readonly queues: readonly TransmitQueue[];
  readonly counters: PortCounters;
  readonly receive: Receive;
  readonly time: TimeSync;
  readonly pools: PoolSwitch | undefined;
  /** VFTE: who has the queue may send. */
  mayTransmit(queue: number): boolean;
  /** The counter of the queue's vector stands at zero. */
  isQuiet(queue: number): boolean;
  now(): number;
  /** Look again then: the rate limiter holds a queue. */
  awaitTime(when: number): void;
}

export class Transmit {
  /** Queues that reported since this was last taken. */
  sent = 0;
  readonly #host: TransmitHost;
  readonly #words: Uint32Array;
  readonly #offload = new TransmitOffload();
  readonly #local = new FrameBatch(viewsOf(new ArrayBuffer(8)), LOCAL_FRAMES);
  readonly #log = new ContextLog();
  readonly #head = new Uint8Array(HEAD + 4);
  // Of the frames in the batch in hand, all of one queue: descriptors up to and with each, pieces of the last packet with it (0: all of it), whether one that was cut here ends.
  readonly #descriptors = new Int32Array(256);
  readonly #piecesSent = new Int32Array(256);
  readonly #endsCut = new Uint8Array(256);
  readonly #stamps = new Uint8Array(256);
  #current: TransmitQueue | undefined;
  #collected = 0;
  #scanned = 0;
  #turn = 0;
  // Queues whose local receivers have no room.
  #blocked = 0;
  // Of the registers.
  #on = false;
  #tagging = false;
  #double = false;
  // Of the packet in the stage.
  #next = 0;
  #stamped = false;
  #context = 0;

  constructor(host: TransmitHost) {
    this.#host = host;
    this.#words = host.state.registers;
  }

  configure(): void {
    const words = this.#words;
    const { context, packet } = this.#offload;
    this.#on = ((words[TCTL] as number) & TCTL_EN) !== 0;
    this.#tagging = ((words[CTRL] as number) & CTRL_VME) !== 0;
    this.#double = ((words[CTRL_EXT] as number) & CTRL_EXT_EXT_VLAN) !== 0;
    this.#offload.tagType = (words[VET] as number) & 0xffff;
    packet.pads = ((words[TCTL] as number) & TCTL_PSP) !== 0;
    context.firstFlags = (words[DTXTCPFLGL] as number) & 0xfff;
    context.middleFlags = ((words[DTXTCPFLGL] as number) >>> 16) & 0xfff;
    context.lastFlags = (words[DTXTCPFLGH] as number) & 0xfff;
  }

  /** Queues may be able to do what they were not. */
  queuesChanged(): void {
    this.#blocked = 0;
    for (const queue of this.#host.queues) queue.stalledAt = -1;
  }

  reset(): void {
    for (const queue of this.#host.queues) queue.reset();
    this.#blocked = 0;
    this.sent = 0;
    this.#current = undefined;
  }

  /** There may be frames to collect. */
  get ready(): boolean {
    if (!this.#on || (this.#host.state.flags & FLAG_PAUSED) !== 0) return false;
    for (const queue of this.#host.queues) if (this.#mayServe(queue)) return true;
    return false;
  }

  #mayServe(queue: TransmitQueue): boolean {
    if (!queue.look() || !this.#host.mayTransmit(queue.index)) return false;
    if ((this.#blocked & (1 << queue.index)) !== 0) {
      if (!this.#host.receive.hasRoom) return false;
      this.#blocked = 0;
    }
    return queue.stalledAt !== queue.available && (queue.prepaid > 0 || this.#host.pools?.on !== true || !this.#held(queue, this.#host.now()));
  }

  /** The rate limiter holds what the queue has not sent yet: looked at again when its time has come. */
  #held(queue: TransmitQueue, now: number): boolean {
    const { pools } = this.#host;
    if (pools?.on !== true || pools.allowance(queue.index, now)) return false;
    this.#host.awaitTime(pools.nextAllowed);
    return true;
  }

  /** Appends frames for the network; what is for pools of this port is delivered meanwhile. Returns how many. */
  collect(batch: FrameBatch, frames: number, bytes: number): number {
    this.#current = undefined;
    this.#collected = 0;
    if (!this.#on || (this.#host.state.flags & FLAG_PAUSED) !== 0) return 0;
    for (let i = 0; i < QUEUES; i++) {
      const queue = this.#host.queues[(this.#turn + i) % QUEUES] as TransmitQueue;
      if (!this.#mayServe(queue)) continue;
      const collected = this.#collect(queue, batch, frames, bytes);
      if (collected === 0) continue;
      this.#current = queue;
      this.#turn = queue.index;
      return collected;
    }
    // Everyone had a chance; next time another one is the first.
    this.#turn = (this.#turn + 1) % QUEUES;
    return 0;
  }

  #collect(queue: TransmitQueue, batch: FrameBatch, frames: number, bytes: number): number {
    const { pools } = this.#host;
    const now = this.#host.now();
    const log = this.#log;
    log.begin(queue.contexts);
    this.#collected = 0;
    const base = batch.count;
    const limit = Math.min(frames, batch.capacity - base, 256 - base);
    let position = 0;
    let size = 0;
    let scanned = 0;
    let local = 0;
    let { pieces } = queue;
    while (this.#collected < limit && (this.#collected === 0 || size < bytes) && position < queue.available && scanned < SCAN && local < LOCAL_FRAMES) {
      if (this.#collected >= queue.prepaid && this.#held(queue, now)) break;
      const result = this.#stage(queue, position);
      if (result === MORE) break;
      scanned += this.#next - position;
      if (result === NOTHING) {
        position = this.#giveBack(queue, this.#next);
        continue;
      }
      const where = this.#where(queue);
      if (where === SPOOFED) {
        this.#spoofed();
        position = this.#giveBack(queue, this.#next);
        continue;
      }
      const inside = where & ~TO_WIRE;
      // What is remembered of an earlier turn is of the packet at the head.
      if (inside !== 0 && !(position === 0 && queue.locallyDone)) {
        // In order: not before what is out on the network, and may come back.
        if (this.#collected > 0) break;
        local++;
        if (!this.#deliverLocally(queue, inside)) break;
      }
      if ((where & TO_WIRE) === 0) {
        this.#countInside(queue);
        position = this.#giveBack(queue, this.#next);
        continue;
      }
      const { packet } = this.#offload;
      if (batch.segments.count + 2 * packet.fragments.count + 4 > batch.segments.capacity) break;
      const before = batch.count;
      const done = this.#emit(queue, batch, base + limit, false, pieces);
      const token = (queue.index << 16) | ((queue.head + position) % queue.size);
      for (let f = before; f < batch.count; f++, this.#collected++) {
        size += batch.length[f] as number;
        // The same when the packet is read again: a large frame that was cut half way goes on there.
        batch.token[f] = token;
        this.#descriptors[this.#collected] = position;
        this.#piecesSent[this.#collected] = pieces + f + 1 - before;
        this.#endsCut[this.#collected] = 0;
        this.#stamps[this.#collected] = 0;
        if (pools?.on === true && this.#collected >= queue.prepaid) pools.spent(queue.index, (batch.length[f] as number) + FCS);
      }
      if (!done) break;
      if (batch.count === before) {
        position = this.#giveBack(queue, this.#next);
        pieces = 0;
        continue;
      }
      position = this.#next;
      pieces = 0;
      const last = this.#collected - 1;
      this.#descriptors[last] = position;
      this.#piecesSent[last] = 0;
      this.#endsCut[last] = packet.segmented && batch.gsoType[batch.count - 1] === 0 ? 1 : 0;
      this.#stamps[last] = this.#stamped ? 1 : 0;
    }
    this.#scanned = position;
    queue.stalledAt =
      this.#collected === 0 && position === 0 && (this.#blocked & (1 << queue.index)) === 0 && scanned === 0 && !this.#held(queue, now) ? queue.available : -1;
    return this.#collected;
  }

  /** Descriptors up to `next` are done with. While nothing of the queue is out they are given back at once. Returns the position behind them. */
  #giveBack(queue: TransmitQueue, next: number): number {
    if (this.#collected > 0) return next;
    this.#retire(queue, next);
    this.#log.begin(queue.contexts);
    return 0;
  }

  #retire(queue: TransmitQueue, descriptors: number): void {
    this.#log.apply(queue.contexts, descriptors);
    if (queue.retire(descriptors, this.#host.isQuiet(queue.index))) this.sent |= 1 << queue.index;
  }

  /** The oldest `done` frames of the batch, from `first` on, were dealt with. */
  complete(batch: FrameBatch, first: number, done: number): void {
    const queue = this.#current;
    this.#current = undefined;
    if (queue === undefined || !queue.unchanged) return;
    if (done > 0) {
      this.#count(queue, batch, first, done);
      const pieces = this.#piecesSent[done - 1] as number;
      // What stands behind the last frame without one of its own is done too.
      const descriptors = pieces === 0 && done === this.#collected ? this.#scanned : (this.#descriptors[done - 1] as number);
      const { locallyDone } = queue;
      if (descriptors > 0) this.#retire(queue, descriptors);
      else queue.locallyDone = locallyDone;
      queue.pieces = pieces;
    }
    // Refused: this queue goes on; otherwise it is the next one's turn.
    queue.prepaid = Math.max(0, this.#collected - done);
    if (done === this.#collected) this.#turn = (queue.index + 1) % QUEUES;
  }

  /** Reports that wait for the counter of their vector. */
  quiet(queues: number): void {
    for (const queue of this.#host.queues) if ((queues & (1 << queue.index)) !== 0 && queue.waiting > 0 && queue.flush()) this.sent |= 1 << queue.index;
  }

  // ---- from descriptors to the stage ----

  #stage(queue: TransmitQueue, from: number): number {
    const { packet } = this.#offload;
    const log = this.#log;
    packet.clear();
    this.#stamped = false;
    let begun = false;
    for (let at = from; at < queue.available; at++) {
      // A ring that cannot be read: nothing more happens until the driver sets it up anew.
      if (!queue.fetch(at)) return MORE;
      const { word2 } = queue;
      const command = word2 >>> 24;
      const advanced = (command & CMD_DEXT) !== 0;
      const type = (word2 >>> 20) & 15;
      if (advanced && type !== TYPE_DATA) {
        if (type === TYPE_CONTEXT && !log.keep(at, queue)) return MORE;
        if (begun) continue;
        return this.#nothing(at + 1);
      }
      if (!begun) this.#begin(queue, command, advanced);
      begun = true;
      this.#fragment(queue, command, advanced);
      if ((command & CMD_EOP) !== 0) {
        this.#next = at + 1;
        return PACKET;
      }
    }
    // No end in sight. With every descriptor of the ring in it, it never comes: the packet is dropped, so that the ring goes on.
    if (queue.available < queue.size - 1 || from > 0) return MORE;
    this.#malformed(queue);
    return this.#nothing(queue.available);
  }

  /** The driver's mistake: dropped, and in a pool told of. */
  #malformed(queue: TransmitQueue): void {
    this.#host.counters.transmitDropped(DROP_MALFORMED, 1);
    if (this.#host.pools?.on === true) this.#host.pools.misbehaved(queue.index);
  }

  #nothing(next: number): number {
    this.#next = next;
    return NOTHING;
  }

  /** What the packet's first descriptor says for all of it. */
  #begin(queue: TransmitQueue, command: number, advanced: boolean): void {
    const { packet } = this.#offload;
    const { word2, word3 } = queue;
    if (!advanced) {
      packet.legacyOffset = (word2 >>> 16) & 0xff;
      packet.legacyStart = (word3 >>> 8) & 0xff;
      return;
    }
    const options = (word3 >>> 8) & 0x3f;
    packet.ipChecksum = (options & POPTS_IXSM) !== 0;
    packet.checksum = (options & POPTS_TXSM) !== 0;
    packet.segmented = (command & CMD_TSE) !== 0;
    // IDX: the 82576 has two contexts for each queue.
    this.#context = ((word3 >>> 4) & 1) * CONTEXT_WORDS;
    this.#stamped = (word2 & MAC_TSTAMP) !== 0;
  }

  #fragment(queue: TransmitQueue, command: number, advanced: boolean): void {
    const { packet } = this.#offload;
    const length = queue.word2 & 0xffff;
    if ((command & CMD_IFCS) !== 0) packet.insertsFcs = true;
    if (!advanced && (command & CMD_IC) !== 0) packet.legacyChecksum = true;
    if ((command & CMD_VLE) !== 0 && !packet.tagged) {
      packet.tagged = true;
      packet.tag = advanced ? (this.#log.words[this.#context] as number) >>> 16 : queue.word3 >>> 16;
    }
    packet.length += length;
    if (length === 0 || packet.broken) return;
    const { dma } = queue;
    let address = queue.word1 * 2 ** 32 + queue.word0;
    for (let left = length; left > 0; ) {
      const window = dma.window(address, 0, DMA_READ);
      if (window === null || packet.fragments.count === packet.fragments.capacity) {
        if (window === null) dma.fault(address, left, DMA_READ);
        packet.broken = true;
        return;
      }
      const run = Math.min(left, window.end - address);
      packet.fragments.addGuestAt(window, window.slab.views, address + window.bias, address, run);
      address += run;
      left -= run;
    }
  }

  // ---- from the stage to where it goes ----

  /** Pools and TO_WIRE, or SPOOFED; and whether the frame gets a tag. */
  #where(queue: TransmitQueue): number {
    const { pools, state } = this.#host;
    const { packet } = this.#offload;
    const pooled = pools?.on === true;
    if (!pooled) packet.tagged = packet.tagged && this.#tagging;
    else {
      const tag = pools.tagFor(queue.index % POOLS, packet.tagged && this.#tagging, packet.tag);
      packet.tagged = tag >= 0;
      packet.tag = tag & 0xffff;
    }
    if ((this.#double || pooled) && packet.fragments.count > 0) this.#readHead();
    // 7.4.5: behind the outer tag the driver has put there.
    if (this.#double && packet.tagged && read16(packet.head, 12) === (this.#words[VET] as number) >>> 16) packet.tagPlace = 16;
    if ((state.flags & FLAG_LOOPBACK) !== 0) return packet.broken ? TO_WIRE : 0xff;
    if (!pooled || packet.broken || packet.length < 14) return TO_WIRE;
    let bytes = packet.head;
    let { length } = packet;
    if (packet.tagged) {
      bytes = this.#head;
      bytes.set(packet.head);
      bytes.copyWithin(packet.tagPlace + 4, packet.tagPlace, HEAD);
      bytes[packet.tagPlace] = this.#offload.tagType >>> 8;
      bytes[packet.tagPlace + 1] = this.#offload.tagType;
      bytes[packet.tagPlace + 2] = packet.tag >>> 8;
      bytes[packet.tagPlace + 3] = packet.tag;
      length += 4;
    }
    if (packet.segmented) {
      loadContext(this.#offload.context, this.#log.words, this.#context);
      length = Math.min(length, this.#offload.context.headerLength + this.#offload.context.segmentSize + (packet.tagged ? 4 : 0));
    }
    return pools.transmit(bytes, 0, length, queue.index);
  }

  /** The packet's first bytes, read once: by them it is decided where it goes, and they go there. */
  #readHead(): void {
    const { packet } = this.#offload;
    const { fragments, head } = packet;
    let done = 0;
    for (let s = 0; s < fragments.count && done < HEAD; s++) {
      const { u8 } = fragments.views[s] as ByteViews;
      const from = fragments.offset[s] as number;
      const run = Math.min(fragments.length[s] as number, HEAD - done);
      for (let i = 0; i < run; i++) head[done + i] = u8[from + i] as number;
      done += run;
    }
    head.fill(0, done);
    packet.judged = done;
  }

  #spoofed(): void {
    count(this.#host.state.statistics, COUNT.SSVPC);
    this.#host.counters.transmitDropped(DROP_FILTERED, 1);
  }

  /** Appends what the staged packet becomes. False: more pieces of it are to come. @param whole nothing is left to others */
  #emit(queue: TransmitQueue, batch: FrameBatch, frames: number, whole: boolean, sent: number): boolean {
    const offload = this.#offload;
    const { packet, context } = offload;
    if (packet.length === 0) return true;
    const longest = packet.segmented ? LONGEST_SEGMENTED : LONGEST_PACKET;
    if (!packet.broken && packet.length <= longest) {
      loadContext(context, this.#log.words, this.#context);
      if (!packet.segmented) {
        if (offload.single(batch, whole)) return true;
      } else {
        // Pieces that were begun go on as pieces.
        if (!whole && sent === 0 && offload.large(batch)) return true;
        const total = offload.pieces;
        if (total > 0) {
          const made = offload.cut(batch, sent, frames);
          if (made > sent || made >= total) return made >= total;
          return false;
        }
      }
    }
    this.#malformed(queue);
    return true;
  }

  /** To pools of this port, or in loopback to itself. True: they have all of it. False: they have no room, or it is more than one round may take of a large one's pieces: the queue goes on in its next turn. */
  #deliverLocally(queue: TransmitQueue, pools: number): boolean {
    const { receive, state } = this.#host;
    const local = this.#local;
    const loopback = (state.flags & FLAG_LOOPBACK) !== 0;
    local.clear();
    receive.distribution.beginLocal();
    const done = this.#emit(queue, local, LOCAL_FRAMES, true, queue.localPieces);
    for (let f = 0; f < local.count; f++) {
      if (!(loopback ? receive.deliver(local, f, f + 1) === 1 : receive.deliverLocal(local, f, pools))) {
        this.#blocked |= 1 << queue.index;
        receive.distribution.settle();
        return false;
      }
      if (!loopback) this.#countPool(queue, local.length[f] as number, 1, false);
      else this.#countFrame(local, f);
      queue.localPieces++;
    }
    receive.distribution.settle();
    if (!done && local.count > 0) return false;
    queue.locallyDone = true;
    if (loopback && this.#stamped) this.#host.time.sent();
    return true;
  }

  #countInside(queue: TransmitQueue): void {
    this.#host.counters.transmitted(1, this.#offload.packet.length);
    this.#host.pools?.spent(queue.index, this.#offload.packet.length + FCS);
  }

  // ---- counts ----

  /** 8.18: what went out, by the frames it is on the wire. */
  #count(queue: TransmitQueue, batch: FrameBatch, first: number, done: number): void {
    const { statistics } = this.#host.state;
    let bytes = 0;
    for (let f = first; f < first + done; f++) {
      bytes += batch.length[f] as number;
      this.#countFrame(batch, f);
      // The last piece of what was cut here stands for all of it.
      if (this.#endsCut[f - first] !== 0) count(statistics, COUNT.TSCTC);
      if (this.#stamps[f - first] !== 0) this.#host.time.sent();
      const frames = framesOf(batch, f);
      this.#countPool(queue, (batch.length[f] as number) + (frames - 1) * ((batch.headerLength[f] as number) + FCS), frames, true);
    }
    this.#host.counters.transmitted(done, bytes);
  }

  #countFrame(batch: FrameBatch, f: number): void {
    const { statistics } = this.#host.state;
    const length = batch.length[f] as number;
    const frames = framesOf(batch, f);
    let onWire = length + FCS;
    if ((batch.gsoType[f] as number) !== 0) {
      const header = batch.headerLength[f] as number;
      const payload = batch.gsoSize[f] as number;
      onWire = length + (frames - 1) * header + frames * FCS;
      countSize(statistics, COUNT.PTC64, header + payload + FCS, frames - 1);
      countSize(statistics, COUNT.PTC64, length - (frames - 1) * payload + FCS);
      count(statistics, COUNT.TSCTC);
    } else countSize(statistics, COUNT.PTC64, onWire);
    count(statistics, COUNT.GPTC, frames);
    count(statistics, COUNT.TPT, frames);
    count(statistics, COUNT.HGPTC, frames);
    count(statistics, COUNT.GOTC, onWire);
    count(statistics, COUNT.TOT, onWire);
    count(statistics, COUNT.HGOTC, onWire);
    const segment = batch.firstSegment[f] as number;
    const { u8 } = batch.segments.views[segment] as ByteViews;
    const at = batch.segments.offset[segment] as number;
    if (((u8[at] as number) & 1) === 0 || (batch.segments.length[segment] as number) < 6) return;
    let everybody = true;
    for (let i = 0; i < 6; i++) if (u8[at + i] !== 0xff) everybody = false;
    count(statistics, everybody ? COUNT.BPTC : COUNT.MPTC, frames);
  }

  /** Counters of the pool the queue is in; not cleared by reading. */
  #countPool(queue: TransmitQueue, length: number, frames: number, wire: boolean): void {
    if (this.#host.pools?.on !== true) return;
    const words = this.#words;
    const pool = queue.index % POOLS;
    const packets = (wire ? AT.PVFGPTC : AT.PVFGPTLBC) + pool;
    const octets = (wire ? AT.PVFGOTC : AT.PVFGOTLBC) + pool;
    words[packets] = (words[packets] as number) + frames;
    words[octets] = (words[octets] as number) + length + FCS;
  }
}

function framesOf(batch: FrameBatch, f: number): number {
  if ((batch.gsoType[f] as number) === 0) return 1;
  return Math.ceil(((batch.length[f] as number) - (batch.headerLength[f] as number)) / (batch.gsoSize[f] as number));
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
