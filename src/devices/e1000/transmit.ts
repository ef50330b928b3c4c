// From transmit descriptors to frames (8254x 3.3, 3.4). A packet is its data descriptors up to EOP; context descriptors before it say what to do with it, one kind for single frames and one for segmentation. A
// turn collects frames that point at guest memory, and gives back the descriptors of those that were dealt with; the others are read again next time, from the same state.

import { DMA_READ, type DmaSpace } from '#core/dma-space';
import { CONTEXT_WORDS } from '#devices/intel/checksum-context';
import { SentCounts } from '#devices/intel/sent-counts';
import { type StagedPacket, TransmitOffload } from '#devices/intel/transmit-offload';
import { DROP_MALFORMED, type PortCounters } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { type EngineState, FLAG_PAUSED, MOST_CONTEXTS } from './engine-state.ts';
import { AT, CTRL_VME, TCTL_EN, TCTL_PSP } from './registers.ts';
import { CMD_DEXT, CMD_EOP, CMD_IC, CMD_IFCS, CMD_TSE, CMD_VLE, LONGEST_PACKET, type PlainLimit, SHORTEST_FRAME, TransmitRing } from './transmit-ring.ts';

const { CTRL, TCTL, TDT, VET } = AT;

/** 8254x 3.3: the most that a context's PAYLEN and headers can say. */
const LONGEST_SEGMENTED = 0xfffff + 255;
/** Descriptors looked at in one turn; what is left goes on in the next. */
const SCAN = 4096;
const POPTS_IXSM = 1;
const POPTS_TXSM = 2;

const PACKET_DONE = 0;
const PACKET_MORE = 1;
const PACKET_NOTHING = 2;

export class Transmit {
  readonly ring: TransmitRing;
  /** Where the driver's descriptors end: TDT, or the shared block. */
  tail: () => number;
  readonly #state: EngineState;
  readonly #dma: DmaSpace;
  readonly #counters: PortCounters;
  readonly #sent: SentCounts;
  readonly #offload = new TransmitOffload();
  readonly #contexts: Uint32Array;
  readonly #contextAt = new Int32Array(MOST_CONTEXTS);
  #contextCount = 0;
  /** Which of them apply where the scan is. */
  #single = 0;
  #segmenting = 1;
  // Of the packet read last.
  #next = 0;
  // By frame of the batch: descriptors done with it, pieces of the packet at the head sent with it.
  readonly #descriptors = new Int32Array(256);
  readonly #piecesSent = new Int32Array(256);
  /** Last piece of a packet that was cut here. */
  readonly #endsCut = new Uint8Array(256);
  readonly #limit: PlainLimit = { frames: 0, bytes: 0, taken: 0 };
  #collected = 0;
  #scanned = 0;
  #control = 0;
  #tagging = false;
  /** Descriptors at the head that are no whole packet yet: how many, when they were looked at last. */
  #stalledAt = -1;
  /** Events of the last collect that found no frame. */
  events = 0;

  constructor(state: EngineState, dma: DmaSpace, counters: PortCounters, options: { readonly hasLow: boolean }) {
    this.#state = state;
    this.#dma = dma;
    this.#counters = counters;
    this.#sent = new SentCounts(state.statistics);
    this.#contexts = state.contexts;
    this.ring = new TransmitRing(state, dma, options.hasLow);
    this.tail = () => Atomics.load(state.registers, TDT);
  }

  /** The control plane changed something. */
  configure(): void {
    const words = this.#state.registers;
    this.#control = words[TCTL] as number;
    this.#tagging = ((words[CTRL] as number) & CTRL_VME) !== 0;
    this.#offload.tagType = (words[VET] as number) & 0xffff;
    this.#offload.packet.pads = (this.#control & TCTL_PSP) !== 0;
    this.#stalledAt = -1;
  }

  /** A reset: nothing that was read from descriptors applies any more. */
  reset(): void {
    this.#contexts.fill(0);
    this.#state.forgetTransmit();
  }

  /** There may be frames to collect. */
  get ready(): boolean {
    if ((this.#control & TCTL_EN) === 0 || (this.#state.flags & FLAG_PAUSED) !== 0) return false;
    return this.ring.look(this.tail()) && this.ring.available > 0 && !(this.#stalledAt === this.ring.available && this.ring.unchanged);
  }

  /** @param whole frames must be complete, with nothing asked of who takes them. Returns how many were appended; `events` has what came of descriptors without a frame. */
  collect(batch: FrameBatch, frames: number, bytes: number, whole: boolean): number {
    this.events = 0;
    this.#collected = 0;
    this.#scanned = 0;
    if ((this.#control & TCTL_EN) === 0 || (this.#state.flags & FLAG_PAUSED) !== 0) return 0;
    const { ring } = this;
    if (!ring.look(this.tail()) || ring.available === 0) return 0;
    this.#contextCount = 0;
    this.#single = 0;
    this.#segmenting = CONTEXT_WORDS;
    const base = batch.count;
    let position = 0;
    let size = 0;
    let { pieces } = this.#state;
    const limit = Math.min(frames, batch.capacity - base, 256 - base);
    while (this.#collected < limit && (this.#collected === 0 || size < bytes) && position < ring.available && position < SCAN) {
      this.#limit.frames = limit - this.#collected;
      this.#limit.bytes = Math.max(1, bytes - size);
      const run = ring.collectPlain(batch, position, this.#limit, this.#tagging);
      if (run > 0) {
        for (let i = 0; i < run; i++) {
          this.#descriptors[this.#collected] = ++position;
          this.#piecesSent[this.#collected] = 0;
          this.#endsCut[this.#collected++] = 0;
        }
        size += this.#limit.taken;
        pieces = 0;
        continue;
      }
      const result = this.#packet(position);
      if (result === PACKET_MORE) break;
      if (result === PACKET_NOTHING) {
        // No room for another context: what is in hand goes first.
        if (this.#next === position) break;
        position = this.#next;
        continue;
      }
      if (batch.segments.count + 2 * this.#offload.packet.fragments.count + 4 > batch.segments.capacity) break;
      const before = batch.count;
      const done = this.#emit(batch, base + limit, whole, pieces);
      const first = (ring.head + position) % ring.size;
      for (let f = before; f < batch.count; f++) {
        size += batch.length[f] as number;
        // The same when the packet is read again: a large frame that was cut half way goes on there.
        batch.token[f] = first;
      }
      // All but the last piece leave the packet at the head.
      for (let f = before; f < batch.count; f++, this.#collected++) {
        this.#descriptors[this.#collected] = position;
        this.#piecesSent[this.#collected] = pieces + f + 1 - before;
        this.#endsCut[this.#collected] = 0;
      }
      if (!done) break;
      position = this.#next;
      pieces = 0;
      if (this.#collected > 0 && batch.count > before) {
        this.#descriptors[this.#collected - 1] = position;
        this.#piecesSent[this.#collected - 1] = 0;
        this.#endsCut[this.#collected - 1] = this.#offload.packet.segmented && batch.gsoType[batch.count - 1] === 0 ? 1 : 0;
      }
    }
    this.#scanned = position;
    this.#stalledAt = this.#collected === 0 && position === 0 ? ring.available : -1;
    if (this.#collected > 0) return this.#collected;
    this.events = this.#retire(position, position > 0 ? 0 : pieces);
    return 0;
  }

  /** The oldest `done` frames of the batch, from `first` on, were dealt with. Returns events. */
  complete(batch: FrameBatch, first: number, done: number): number {
    if (done === 0 || !this.ring.unchanged) return 0;
    this.#count(batch, first, done);
    const pieces = this.#piecesSent[done - 1] as number;
    const descriptors = this.#descriptors[done - 1] as number;
    // Contexts behind the last frame are done too.
    return this.#retire(pieces === 0 && done === this.#collected ? this.#scanned : descriptors, pieces);
  }

  #retire(descriptors: number, pieces: number): number {
    for (let i = 0; i < this.#contextCount && (this.#contextAt[i] as number) < descriptors; i++) {
      const from = (2 + i) * CONTEXT_WORDS;
      const segments = (((this.#contexts[from + 2] as number) >>> 24) & CMD_TSE) !== 0;
      this.#contexts.copyWithin(segments ? CONTEXT_WORDS : 0, from, from + CONTEXT_WORDS);
    }
    return this.ring.retire(descriptors, pieces);
  }

  /** Reads the packet whose first descriptor is `from` after the head into the stage; `#next` is behind it. */
  #packet(from: number): number {
    const { ring } = this;
    const { packet } = this.#offload;
    packet.clear();
    let begun = false;
    for (let at = from; at < ring.available; at++) {
      if (!ring.fetch(at)) {
        // A ring that cannot be read: nothing more happens until the driver sets it up anew.
        return PACKET_MORE;
      }
      const command = ring.word2 >>> 24;
      const extended = (command & CMD_DEXT) !== 0;
      const type = (ring.word2 >>> 20) & 15;
      if (extended && type !== 1) {
        if (type === 0 && !this.#keepContext(at)) return begun ? PACKET_MORE : this.#nothing(at);
        if (begun) continue;
        // A context by itself is nothing to send.
        return this.#nothing(at + 1);
      }
      if (!begun) this.#begin(command, extended);
      begun = true;
      this.#fragment(command, extended ? ring.word2 & 0xfffff : ring.word2 & 0xffff);
      if ((command & CMD_EOP) !== 0) {
        this.#next = at + 1;
        return PACKET_DONE;
      }
    }
    // No end in sight. With every descriptor of the ring in it, it never comes: the packet is dropped, so that the ring goes on.
    if (ring.available < ring.size - 1 || from > 0) return PACKET_MORE;
    this.#counters.transmitDropped(DROP_MALFORMED, 1);
    return this.#nothing(ring.available);
  }

  #nothing(next: number): number {
    this.#next = next;
    return PACKET_NOTHING;
  }

  /** Remembers the context descriptor at `at`. False: too many in one turn. */
  #keepContext(at: number): boolean {
    if (this.#contextCount === MOST_CONTEXTS) return false;
    const { ring } = this;
    const to = (2 + this.#contextCount) * CONTEXT_WORDS;
    this.#contextAt[this.#contextCount++] = at;
    this.#contexts[to] = ring.word0;
    this.#contexts[to + 1] = ring.word1;
    this.#contexts[to + 2] = ring.word2;
    this.#contexts[to + 3] = ring.word3;
    if (((ring.word2 >>> 24) & CMD_TSE) !== 0) this.#segmenting = to;
    else this.#single = to;
    return true;
  }

  /** What the packet's first descriptor says for all of it. */
  #begin(command: number, extended: boolean): void {
    const { ring } = this;
    const { packet } = this.#offload;
    if (extended) {
      const options = (ring.word3 >>> 8) & 0xff;
      packet.ipChecksum = (options & POPTS_IXSM) !== 0;
      packet.checksum = (options & POPTS_TXSM) !== 0;
      packet.segmented = (command & CMD_TSE) !== 0;
      return;
    }
    packet.legacyOffset = (ring.word2 >>> 16) & 0xff;
    packet.legacyStart = (ring.word3 >>> 8) & 0xff;
  }

  #fragment(command: number, length: number): void {
    const { ring } = this;
    const { packet } = this.#offload;
    const legacy = (command & CMD_DEXT) === 0;
    // 8254x 3.3.3.1: of the first descriptor, or of the one with EOP, by the part; a driver sets them alike.
    if ((command & CMD_IFCS) !== 0) packet.insertsFcs = true;
    if (legacy && (command & CMD_IC) !== 0 && !packet.segmented) packet.legacyChecksum = true;
    if (this.#tagging && (command & CMD_VLE) !== 0) {
      packet.tagged = true;
      packet.tag = ring.word3 >>> 16;
    }
    packet.length += length;
    if (length === 0 || packet.broken) return;
    let address = ring.word1 * 2 ** 32 + ring.word0;
    for (let left = length; left > 0; ) {
      const window = this.#dma.window(address, 0, DMA_READ);
      if (window === null || packet.fragments.count === packet.fragments.capacity) {
        if (window === null) this.#dma.fault(address, left, DMA_READ);
        packet.broken = true;
        return;
      }
      const run = Math.min(left, window.end - address);
      packet.fragments.addGuestAt(window, window.slab.views, address + window.bias, address, run);
      address += run;
      left -= run;
    }
  }

  /** Appends what the staged packet becomes. False: more pieces of it are to come. */
  #emit(batch: FrameBatch, frames: number, whole: boolean, sent: number): boolean {
    const offload = this.#offload;
    const { packet, context } = offload;
    if (packet.length === 0) return true;
    const longest = packet.segmented ? LONGEST_SEGMENTED : LONGEST_PACKET;
    if (!packet.broken && packet.length <= longest) {
      context.load(this.#contexts, packet.segmented ? this.#segmenting : this.#single);
      if (!packet.segmented) {
        if (this.#plain(batch, packet) || offload.single(batch, whole)) return true;
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
    this.#counters.transmitDropped(DROP_MALFORMED, 1);
    return true;
  }

  /** A frame that goes out as it lies in one piece of memory, the usual case. */
  #plain(batch: FrameBatch, packet: StagedPacket): boolean {
    const { fragments } = packet;
    if (fragments.count !== 1 || packet.length < SHORTEST_FRAME || !packet.insertsFcs) return false;
    if (packet.tagged || packet.legacyChecksum || packet.ipChecksum || packet.checksum) return false;
    const { segments } = batch;
    const frame = batch.count++;
    const first = segments.count;
    segments.count = first + 1;
    const window = fragments.window[0] as (typeof fragments.window)[number];
    const views = fragments.views[0] as (typeof fragments.views)[number];
    if (segments.window[first] !== window || segments.views[first] !== views) {
      segments.window[first] = window;
      segments.views[first] = views;
    }
    segments.offset[first] = fragments.offset[0] as number;
    segments.length[first] = packet.length;
    segments.address[first] = fragments.address[0] as number;
    batch.firstSegment[frame] = first;
    batch.segmentCount[frame] = 1;
    batch.length[frame] = packet.length;
    batch.flags[frame] = 0;
    batch.gsoType[frame] = 0;
    batch.hashReport[frame] = 0;
    batch.needs[frame] = 0;
    return true;
  }

  #count(batch: FrameBatch, first: number, done: number): void {
    this.#sent.sent(batch, first, first + done);
    for (let i = 0; i < done; i++) if (this.#endsCut[i] !== 0) this.#sent.cut();
    this.#counters.transmitted(done, this.#sent.bytes);
  }

  /** Contexts in force and pieces sent of the packet at the head. */
  save(): { readonly contexts: number[]; readonly pieces: number; readonly waiting: readonly [number, number] } {
    const { contexts, pieces, waitingFrom, waiting } = this.#state;
    return { contexts: Array.from(contexts.subarray(0, 2 * CONTEXT_WORDS)), pieces, waiting: [waitingFrom, waiting] };
  }

  restore(saved: ReturnType<Transmit['save']>): void {
    this.#contexts.set(saved.contexts);
    this.#state.pieces = saved.pieces;
    this.#state.setWaiting(...saved.waiting);
  }
}
