// Reading a packet (82576 7.2.2): its descriptors, legacy or advanced, go into a stage, where its context says what becomes of it; then it is one frame, several, or a large one as it is.

import { DMA_READ } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';
import { HEAD, TransmitOffload } from '#devices/intel/transmit-offload';
import { DROP_MALFORMED } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { TO_WIRE } from './pools.ts';
import { FLAG_LOOPBACK } from './port-state.ts';
import { AT, CTRL_EXT_EXT_VLAN, CTRL_VME, POOLS, TCTL_PSP } from './registers.ts';
import type { TransmitHost } from './transmit.ts';
import { ContextLog, loadContext } from './transmit-context.ts';
import { CMD_DEXT, CMD_EOP, CMD_IC, CMD_IFCS, CMD_TSE, CMD_VLE, CONTEXT_WORDS, LONGEST_PACKET, type TransmitQueue, TYPE_DATA } from './transmit-queue.ts';

const { CTRL, CTRL_EXT, DTXTCPFLGH, DTXTCPFLGL, TCTL, VET } = AT;

/** Descriptors looked at in one turn, and of one packet. */
export const SCAN = 4096;
/** Frames of a turn for the network. */
export const WIRE_FRAMES = 256;
/** Headers and 256 KiB of payload (7.2.4.1, PAYLEN). */
const LONGEST_SEGMENTED = 0x4_0000 + 256;
const TYPE_CONTEXT = 2;
const POPTS_IXSM = 1;
const POPTS_TXSM = 2;
const MAC_TSTAMP = 1 << 19;

/** Results of `stage`, beside SPOOFED: nothing until the driver does something; its end is still to be looked for, or contexts in hand are to be given back first; descriptors without a packet; a packet that makes no sense; a packet. */
export const STALLED = -5;
export const MORE = -4;
export const NOTHING = -3;
export const DROPPED = -2;
export const PACKET = 0;

export class PacketReader {
  readonly offload = new TransmitOffload();
  readonly log = new ContextLog();
  /** Of what was staged last: the descriptor behind it; whether its time is to be kept. */
  next = 0;
  stamped = false;
  /** It was read, and judged, in an earlier turn. */
  known = false;
  /** CTRL.VME: descriptors may ask for a tag. */
  tagging = false;
  readonly #host: TransmitHost;
  readonly #words: Uint32Array;
  readonly #head = new Uint8Array(HEAD + 4);
  #double = false;
  #context = 0;

  constructor(host: TransmitHost) {
    this.#host = host;
    this.#words = host.state.registers;
  }

  configure(): void {
    const words = this.#words;
    const { context, packet } = this.offload;
    this.tagging = ((words[CTRL] as number) & CTRL_VME) !== 0;
    this.#double = ((words[CTRL_EXT] as number) & CTRL_EXT_EXT_VLAN) !== 0;
    this.offload.tagType = (words[VET] as number) & 0xffff;
    packet.pads = ((words[TCTL] as number) & TCTL_PSP) !== 0;
    context.firstFlags = (words[DTXTCPFLGL] as number) & 0xfff;
    context.middleFlags = ((words[DTXTCPFLGL] as number) >>> 16) & 0xfff;
    context.lastFlags = (words[DTXTCPFLGH] as number) & 0xfff;
  }

  /** Reads the packet that begins `from` after the head. */
  stage(queue: TransmitQueue, from: number): number {
    const { packet } = this.offload;
    packet.clear();
    this.stamped = false;
    // A ring that cannot be read: nothing more happens until the driver sets it up anew.
    if (!queue.fetch(from)) return STALLED;
    if (isOther(queue.word2)) {
      if (isContext(queue.word2) && !this.log.keep(from, queue)) return MORE;
      this.next = from + 1;
      return NOTHING;
    }
    let end = from + 1;
    if (((queue.word2 >>> 24) & CMD_EOP) === 0) {
      end = queue.findEnd(from, SCAN);
      if (end <= 0) return end < 0 ? STALLED : this.#endless(queue, from);
    }
    // No driver needs so many, most of which hold nothing.
    if (end - from > SCAN) return this.#drop(end);
    return this.#read(queue, from, end);
  }

  #read(queue: TransmitQueue, from: number, end: number): number {
    for (let at = from; at < end; at++) {
      if (!queue.fetch(at)) return STALLED;
      const { word2 } = queue;
      if (isOther(word2)) {
        if (at === from) return this.#drop(end);
        // As many contexts as are kept in one turn: what is before this packet goes first. More in one packet make no sense.
        if (isContext(word2) && !this.log.keep(at, queue)) return from > 0 ? MORE : this.#drop(end);
        continue;
      }
      const command = word2 >>> 24;
      const advanced = (command & CMD_DEXT) !== 0;
      if (at === from) this.#begin(queue, command, advanced);
      this.#fragment(queue, command, advanced);
      if ((command & CMD_EOP) !== 0) {
        this.next = at + 1;
        return PACKET;
      }
    }
    // It had an end when that was looked for: a driver that changes descriptors it has given away.
    return this.#drop(end);
  }

  /** No end in sight. With every descriptor of the ring in it, it never comes: the packet is dropped, so that the ring goes on. */
  #endless(queue: TransmitQueue, from: number): number {
    if (!queue.searched) return MORE;
    return queue.available < queue.size - 1 || from > 0 ? STALLED : this.#drop(queue.available);
  }

  #drop(next: number): number {
    this.next = next;
    return DROPPED;
  }

  /** The driver's mistake: dropped, and in a pool told of. */
  malformed(queue: TransmitQueue): void {
    if (this.known) return;
    this.#host.counters.transmitDropped(DROP_MALFORMED, 1);
    if (this.#host.pools?.on === true) this.#host.pools.misbehaved(queue.index);
  }

  /** What the packet's first descriptor says for all of it. */
  #begin(queue: TransmitQueue, command: number, advanced: boolean): void {
    const { packet } = this.offload;
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
    this.stamped = (word2 & MAC_TSTAMP) !== 0;
  }

  #fragment(queue: TransmitQueue, command: number, advanced: boolean): void {
    const { packet } = this.offload;
    const length = queue.word2 & 0xffff;
    if ((command & CMD_IFCS) !== 0) packet.insertsFcs = true;
    if (!advanced && (command & CMD_IC) !== 0) packet.legacyChecksum = true;
    if ((command & CMD_VLE) !== 0 && !packet.tagged) {
      packet.tagged = true;
      packet.tag = advanced ? (this.log.words[this.#context] as number) >>> 16 : queue.word3 >>> 16;
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

  /** Where the staged packet goes: pools and TO_WIRE, or SPOOFED; and whether it gets a tag. */
  where(queue: TransmitQueue): number {
    const { pools, state } = this.#host;
    const { packet } = this.offload;
    const pooled = pools?.on === true;
    if (!pooled) packet.tagged = packet.tagged && this.tagging;
    else {
      const tag = pools.tagFor(queue.index % POOLS, packet.tagged && this.tagging, packet.tag);
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
      bytes[packet.tagPlace] = this.offload.tagType >>> 8;
      bytes[packet.tagPlace + 1] = this.offload.tagType;
      bytes[packet.tagPlace + 2] = packet.tag >>> 8;
      bytes[packet.tagPlace + 3] = packet.tag;
      length += 4;
    }
    if (packet.segmented) {
      loadContext(this.offload.context, this.log.words, this.#context);
      length = Math.min(length, this.offload.context.headerLength + this.offload.context.segmentSize + (packet.tagged ? 4 : 0));
    }
    return pools.transmit(bytes, 0, length, queue.index);
  }

  /** The packet's first bytes, read once: by them it is decided where it goes, and they go there. */
  #readHead(): void {
    const { packet } = this.offload;
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

  /** Appends what the staged packet becomes on the wire, of one that is cut from piece `sent` on, until the batch has so many frames. False: more pieces of it are to come. */
  emit(queue: TransmitQueue, batch: FrameBatch, frames: number, sent: number): boolean {
    this.offload.firstSlot = 0;
    return this.#emit(queue, batch, frames, sent, false);
  }

  /** The same for this port's own receivers. */
  emitLocal(queue: TransmitQueue, batch: FrameBatch, frames: number): boolean {
    this.offload.firstSlot = WIRE_FRAMES;
    return this.#emit(queue, batch, frames, queue.localPieces, true);
  }

  /** @param whole nothing is left to others */
  #emit(queue: TransmitQueue, batch: FrameBatch, frames: number, sent: number, whole: boolean): boolean {
    const { offload } = this;
    const { packet, context } = offload;
    if (packet.length === 0) return true;
    const longest = packet.segmented ? LONGEST_SEGMENTED : LONGEST_PACKET;
    if (!packet.broken && packet.length <= longest) {
      loadContext(context, this.log.words, this.#context);
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
    this.malformed(queue);
    return true;
  }
}

/** An advanced descriptor that is no data. */
function isOther(word2: number): boolean {
  return ((word2 >>> 24) & CMD_DEXT) !== 0 && ((word2 >>> 20) & 15) !== TYPE_DATA;
}

function isContext(word2: number): boolean {
  return ((word2 >>> 20) & 15) === TYPE_CONTEXT;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
