// The transmit queues' turns (82576 7.2): pools, or without pools queues, take turns, each with a share of its own; what is for pools of this port is done at once (transmit-local.ts), what is for the network goes into a batch,
// one queue's at a time. What the network refuses comes first next time, and what pools have of it by then they do not get again.

import { DROP_FILTERED, type PortCounters } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { type PoolSwitch, SPOOFED, TO_WIRE } from './pools.ts';
import { FLAG_LOOPBACK, FLAG_PAUSED, type PortState } from './port-state.ts';
import type { Receive } from './receive.ts';
import { AT, POOLS, QUEUES, TCTL_EN, TCTL_PSP } from './registers.ts';
import type { TimeSync } from './time-sync.ts';
import { TransmitCounts } from './transmit-counts.ts';
import { BLOCKED, DONE, LocalDelivery, WRONG } from './transmit-local.ts';
import { DROPPED, MORE, NOTHING, PACKET, PacketReader, SCAN, STALLED, WIRE_FRAMES } from './transmit-packet.ts';
import { PlainTransmit } from './transmit-plain.ts';
import type { PlainLimit, TransmitQueue } from './transmit-queue.ts';

const FCS = 4;

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
  readonly #reader: PacketReader;
  readonly #plain = new PlainTransmit();
  readonly #counts: TransmitCounts;
  readonly #local: LocalDelivery;
  readonly #limit: PlainLimit = { frames: 0, bytes: 0, taken: 0, tags: false };
  // Of the frames in the batch in hand, all of one queue: descriptors and packets up to and with each, pieces of the last packet with it (0: all of it), whether one that was cut here ends, whether its time is kept.
  readonly #descriptors = new Int32Array(WIRE_FRAMES);
  readonly #packets = new Int32Array(WIRE_FRAMES);
  readonly #piecesSent = new Int32Array(WIRE_FRAMES);
  readonly #endsCut = new Uint8Array(WIRE_FRAMES);
  readonly #stamps = new Uint8Array(WIRE_FRAMES);
  #current: TransmitQueue | undefined;
  #collected = 0;
  // Descriptors and packets read in this turn that are done with, but for what the network refuses; packets of which pools have theirs.
  #position = 0;
  #read = 0;
  #passed = 0;
  /** Whose turn it is: a pool, or a queue where there are no pools. */
  #turn = 0;
  /** Pools whose second queue is next. */
  #second = 0;
  // Queues whose local receivers have no room.
  #blocked = 0;
  #on = false;
  // Of the packet in hand: the descriptor behind it, its bytes, whether it is a usual one and lies in `#plain`.
  #next = 0;
  #length = 0;
  #usual = false;
  /** Something is marked in `#endsCut` or `#stamps`. */
  #marked = false;

  constructor(host: TransmitHost) {
    this.#host = host;
    this.#reader = new PacketReader(host);
    this.#counts = new TransmitCounts(host.state);
    this.#local = new LocalDelivery(host, { reader: this.#reader, plain: this.#plain, counts: this.#counts });
  }

  configure(): void {
    const control = this.#host.state.registers[AT.TCTL] as number;
    this.#on = (control & TCTL_EN) !== 0;
    this.#plain.pads = (control & TCTL_PSP) !== 0;
    this.#reader.configure();
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

  // ---- whose turn it is ----

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

  /** A pool's turn is one of its two queues'; which, alternates. */
  #pick(lane: number, pooled: boolean): TransmitQueue | undefined {
    const { queues } = this.#host;
    const ahead = pooled && (this.#second & (1 << lane)) !== 0 ? POOLS : 0;
    const first = queues[lane + ahead] as TransmitQueue;
    if (this.#mayServe(first)) return first;
    if (!pooled) return undefined;
    const other = queues[lane + POOLS - ahead] as TransmitQueue;
    return this.#mayServe(other) ? other : undefined;
  }

  /** The queue has had its turn: the next is the pool's other one's. */
  #served({ index }: TransmitQueue): void {
    const bit = 1 << (index % POOLS);
    this.#second = index < POOLS ? this.#second | bit : this.#second & ~bit;
  }

  /** Appends frames for the network; what is for pools of this port is delivered meanwhile. Returns how many. */
  collect(batch: FrameBatch, frames: number, bytes: number): number {
    this.#current = undefined;
    this.#collected = 0;
    if (!this.#on || (this.#host.state.flags & FLAG_PAUSED) !== 0) return 0;
    const pooled = this.#host.pools?.on === true;
    const lanes = pooled ? POOLS : QUEUES;
    for (let i = 0; i < lanes; i++) {
      const lane = (this.#turn + i) % lanes;
      const queue = this.#pick(lane, pooled);
      if (queue === undefined) continue;
      const collected = this.#collect(queue, batch, frames, bytes);
      if (collected === 0) {
        this.#served(queue);
        continue;
      }
      this.#current = queue;
      this.#turn = lane;
      return collected;
    }
    // Everyone had a chance; next time another one is the first.
    this.#turn = (this.#turn + 1) % lanes;
    return 0;
  }

  // ---- a queue's turn ----

  #collect(queue: TransmitQueue, batch: FrameBatch, frames: number, bytes: number): number {
    const pools = this.#host.pools?.on === true ? this.#host.pools : undefined;
    const loopback = (this.#host.state.flags & FLAG_LOOPBACK) !== 0;
    const pool = queue.index % POOLS;
    const judges = pools?.judges(pool) === true;
    const tagged = pools !== undefined && pools.tagFor(pool, false, 0) >= 0;
    const limited = pools?.limits(queue.index) === true;
    const now = limited ? this.#host.now() : 0;
    // Usual frames: which nobody looks at; which are judged.
    const asTheyLie = !loopback && !tagged && !limited && !judges;
    const judged = !loopback && !tagged && judges ? pools : undefined;
    const base = batch.count;
    const limit = Math.min(frames, batch.capacity - base, WIRE_FRAMES - base);
    const skip = queue.locallyDone;
    let { pieces } = queue;
    let size = 0;
    let result = MORE;
    this.#begin(queue);
    while (this.#collected < limit && (this.#collected === 0 || size < bytes) && this.#position < queue.available && this.#shares()) {
      if (asTheyLie && pieces === 0) {
        const taken = this.#collectPlain(queue, batch, limit - this.#collected, Math.max(1, bytes - size));
        size += taken;
        if (taken > 0) continue;
      }
      // Read before, and given back by the network: counted then, and pools have theirs.
      const known = this.#read < skip;
      this.#reader.known = known;
      if (limited && !known && this.#collected >= queue.prepaid && this.#held(queue, now)) break;
      result = this.#stage(queue, judged);
      if (result === STALLED || result === MORE) break;
      if (result === NOTHING) {
        this.#position = this.#next;
        continue;
      }
      if (result === SPOOFED || result === DROPPED) {
        if (result === DROPPED) this.#reader.malformed(queue);
        else if (!known) this.#spoofed();
        this.#pass();
        continue;
      }
      const targets = result & ~TO_WIRE;
      if (targets !== 0 && !known) {
        const given = this.#usual ? this.#local.plain(targets) : this.#local.packet(queue, targets);
        if (given === BLOCKED) this.#blocked |= 1 << queue.index;
        if (given === WRONG) {
          this.#pass();
          continue;
        }
        if (given !== DONE) break;
        this.#passed = this.#read + 1;
      }
      if ((result & TO_WIRE) === 0) {
        if (!known) this.#local.stays(queue, this.#length);
        this.#pass();
        continue;
      }
      const { fragments } = this.#reader.offload.packet;
      if (batch.segments.count + (this.#usual ? 2 : 2 * fragments.count + 4) > batch.segments.capacity) break;
      const before = batch.count;
      const done = this.#append(queue, batch, base + limit, pieces);
      for (let f = before; f < batch.count; f++) {
        size += batch.length[f] as number;
        if (limited && this.#collected - batch.count + f >= queue.prepaid) pools?.spent(queue.index, (batch.length[f] as number) + FCS);
      }
      if (!done) break;
      pieces = 0;
    }
    this.#local.end(queue);
    queue.stalledAt = result === STALLED && this.#collected === 0 && this.#position === 0 ? queue.available : -1;
    if (this.#collected === 0) this.#settle(queue, this.#position, this.#read);
    return this.#collected;
  }

  #begin(queue: TransmitQueue): void {
    this.#reader.log.begin(queue.contexts);
    this.#local.begin();
    this.#collected = 0;
    this.#position = 0;
    this.#read = 0;
    this.#passed = queue.locallyDone;
    if (!this.#marked) return;
    this.#endsCut.fill(0);
    this.#stamps.fill(0);
    this.#marked = false;
  }

  /** The queue's share of the turn is not used up, whatever becomes of its packets. */
  #shares(): boolean {
    return this.#read < WIRE_FRAMES && this.#position < SCAN && this.#local.open;
  }

  /** A run of usual frames as they lie. Returns their bytes. */
  #collectPlain(queue: TransmitQueue, batch: FrameBatch, frames: number, bytes: number): number {
    const limit = this.#limit;
    limit.frames = frames;
    limit.bytes = bytes;
    limit.tags = this.#reader.tagging;
    const run = queue.collectPlain(batch, this.#position, limit);
    for (let i = 0; i < run; i++) {
      this.#position++;
      this.#pass(this.#position);
      this.#note(this.#position, this.#read, 0);
    }
    return limit.taken;
  }

  /** Reads the next packet. Where it goes; or SPOOFED; or a result of `PacketReader.stage`. */
  #stage(queue: TransmitQueue, judged: PoolSwitch | undefined): number {
    const reader = this.#reader;
    const plain = this.#plain;
    this.#usual = judged !== undefined && plain.stage(queue, this.#position, this.#collected, reader.tagging);
    if (judged !== undefined && this.#usual) {
      this.#next = this.#position + 1;
      this.#length = plain.length;
      return judged.transmit(plain.copies.u8, plain.at, plain.length, queue.index);
    }
    const result = reader.stage(queue, this.#position);
    this.#next = reader.next;
    this.#length = reader.offload.packet.length;
    return result === PACKET ? reader.where(queue) : result;
  }

  #spoofed(): void {
    this.#counts.spoofed();
    this.#host.counters.transmitDropped(DROP_FILTERED, 1);
  }

  /** The packet in hand is done with, but for what the network refuses. */
  #pass(next = this.#next): void {
    this.#position = next;
    this.#read++;
    this.#passed = Math.max(this.#passed, this.#read);
  }

  /** Appends what the packet in hand becomes for the network, of one that is cut from piece `pieces` on. False: more pieces of it are to come. */
  #append(queue: TransmitQueue, batch: FrameBatch, frames: number, pieces: number): boolean {
    const before = batch.count;
    const token = (queue.index << 16) | ((queue.head + this.#position) % queue.size);
    let done = true;
    if (this.#usual) this.#plain.append(batch);
    else done = this.#reader.emit(queue, batch, frames, pieces);
    for (let f = before; f < batch.count; f++) {
      // The same when the packet is read again: a large frame that was cut half way goes on there.
      batch.token[f] = token;
      this.#note(this.#position, this.#read, pieces + f + 1 - before);
    }
    if (!done) return false;
    this.#pass();
    if (batch.count === before) return true;
    this.#collected--;
    this.#note(this.#position, this.#read, 0);
    if (this.#usual) return true;
    const { stamped, offload } = this.#reader;
    const cut = offload.packet.segmented && batch.gsoType[batch.count - 1] === 0;
    if (!stamped && !cut) return true;
    this.#marked = true;
    this.#endsCut[this.#collected - 1] = cut ? 1 : 0;
    this.#stamps[this.#collected - 1] = stamped ? 1 : 0;
    return true;
  }

  /** Of the frame appended last. */
  #note(descriptors: number, packets: number, pieces: number): void {
    const i = this.#collected++;
    this.#descriptors[i] = descriptors;
    this.#packets[i] = packets;
    this.#piecesSent[i] = pieces;
  }

  // ---- its end ----

  /** The oldest `descriptors`, so many packets, are done with. */
  #settle(queue: TransmitQueue, descriptors: number, packets: number): void {
    if (descriptors > 0) {
      this.#reader.log.apply(queue.contexts, descriptors);
      if (queue.retire(descriptors, this.#host.isQuiet(queue.index))) this.sent |= 1 << queue.index;
    }
    queue.locallyDone = this.#passed - packets;
  }

  /** The oldest `done` frames of the batch, from `first` on, were dealt with. */
  complete(batch: FrameBatch, first: number, done: number): void {
    const queue = this.#current;
    this.#current = undefined;
    if (queue === undefined || !queue.unchanged) return;
    const collected = this.#collected;
    if (done === 0) this.#settle(queue, 0, 0);
    else {
      this.#count(queue, batch, first, done);
      const pieces = this.#piecesSent[done - 1] as number;
      // What stands behind the last frame without one of its own is done too.
      if (pieces === 0 && done === collected) this.#settle(queue, this.#position, this.#read);
      else this.#settle(queue, this.#descriptors[done - 1] as number, this.#packets[done - 1] as number);
      queue.pieces = pieces;
    }
    // Refused: this queue goes on; otherwise it is another one's turn.
    queue.prepaid = Math.max(0, collected - done);
    if (done < collected) return;
    this.#served(queue);
    this.#turn = this.#host.pools?.on === true ? (queue.index + 1) % POOLS : (queue.index + 1) % QUEUES;
  }

  #count(queue: TransmitQueue, batch: FrameBatch, first: number, done: number): void {
    const counts = this.#counts;
    this.#host.counters.transmitted(done, counts.sent(batch, first, first + done));
    if (this.#host.pools?.on === true) counts.sentBy(queue.index);
    if (!this.#marked) return;
    for (let i = 0; i < done; i++) {
      if (this.#endsCut[i] !== 0) counts.cut();
      if (this.#stamps[i] !== 0) this.#host.time.sent();
    }
  }

  /** Reports that wait for the counter of their vector. */
  quiet(queues: number): void {
    for (const queue of this.#host.queues) if ((queues & (1 << queue.index)) !== 0 && queue.waiting > 0 && queue.flush()) this.sent |= 1 << queue.index;
  }
}
