// The e1000's transmit ring (3.3, 3.4): legacy descriptors for plain frames, a context and data descriptors for offloads, buffers that go round in order. Completed
// ones are taken back in batches, by the DD bit of descriptors that asked for it (RS) or by the shared block's head.

import { copyBytes } from '#core/copy';
import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import {
  CSB,
  DESCRIPTOR_BYTES,
  REG,
  TX_DATA,
  TX_DD,
  TX_DEXT,
  TX_EOP,
  TX_IDE,
  TX_IFCS,
  TX_IP,
  TX_IXSM,
  TX_RS,
  TX_TCP,
  TX_TSE,
  TX_TXSM,
  TX_VLE,
} from './e1000-constants.ts';
import type { SharedBlock } from './e1000-csb.ts';
import type { E1000Registers } from './e1000-registers.ts';
import type { TransmitOffload } from './net-transmit.ts';
import type { NicTransmitQueue } from './nic.ts';
import { ETHERTYPE_IPV4, fold, Headers, PROTOCOL_TCP, pseudoHeaderSum, set16 } from './packets.ts';
import { NET_GSO_ECN, NET_GSO_NONE, NET_HDR_F_NEEDS_CSUM } from './virtio-constants.ts';

export interface E1000TransmitParts {
  readonly arena: GuestArena;
  readonly registers: E1000Registers;
  readonly size: number;
  readonly csb: SharedBlock | undefined;
  readonly combining: boolean;
  /** Frames let the device wait with their interrupt (IDE). */
  readonly delayed: boolean;
  /** Looks for room before an interrupt is asked for. */
  readonly busyPolls: number;
}

const BUFFER = 2048;
/** A line more from one to the next: the first lines of buffers 2 KiB apart fall in the same few sets of a cache, and drive each other out (measured). */
const STRIDE = BUFFER + 64;
/** TSO of up to 64 KiB of payload; a frame of that many buffers and its context always fit half a ring. */
const MOST_BUFFERS = 33;
/** At most this many descriptors go unreported. */
const REPORT_EVERY = 32;

export class E1000TransmitQueue implements NicTransmitQueue {
  readonly index = 0;
  readonly frameRoom = BUFFER;
  readonly longestFrame: number;
  readonly buffers: number;
  frames = 0;
  bytes = 0;
  broken = '';
  /** Tail writes to the device; announcements that needed none; tails left to the next interrupt. */
  kicks = 0;
  announced = 0;
  combined = 0;
  /** The VLAN tag the device inserts into what is sent, or -1. */
  vlan = -1;
  readonly #parts: E1000TransmitParts;
  readonly #i32: Int32Array;
  readonly #ring: number;
  readonly #pool: number;
  /** Buffers that each descriptor gives back. */
  readonly #returns: Uint8Array;
  readonly #headers = new Headers();
  /** Next descriptor and buffer to use, oldest descriptor not taken back, buffers in use, descriptors in use. */
  #next = 0;
  #buffer = 0;
  #oldest = 0;
  #used = 0;
  #outstanding = 0;
  /** The tail the device knows, and whether it differs from what was sent. */
  #tail = 0;
  #unannounced = 0;
  #sinceReport = 0;
  /** Descriptor that was the last to ask for a report. */
  #reported = -1;
  /** The context the device has: the three words that make one. */
  #context0 = -1;
  #context1 = -1;
  #context3 = -1;
  /** Send combining: an interrupt will come; the tail was left to it. */
  #interruptDue = false;
  /** In vain, since something came back. */
  #looks = 0;
  #tailDue = false;

  constructor(parts: E1000TransmitParts) {
    const { arena, size } = parts;
    this.#parts = parts;
    this.#i32 = arena.i32;
    this.#ring = arena.allocate(size * DESCRIPTOR_BYTES, 128);
    this.buffers = size;
    this.#pool = arena.allocate(size * STRIDE, 64);
    this.longestFrame = Math.min(MOST_BUFFERS, (size >>> 1) - 1) * BUFFER;
    this.#returns = new Uint8Array(size);
  }

  /** Ring registers (14.5); the transmitter is off. */
  program(): void {
    const { registers, arena, size } = this.#parts;
    const address = arena.address(this.#ring);
    registers.write(REG.TDBAL, address % 2 ** 32);
    registers.write(REG.TDBAH, Math.floor(address / 2 ** 32));
    registers.write(REG.TDLEN, size * DESCRIPTOR_BYTES);
    registers.write(REG.TDH, 0);
    registers.write(REG.TDT, 0);
  }

  get outstanding(): number {
    return this.#outstanding;
  }

  /** A frame of one buffer fits, with a context before it; completed ones are taken back first if it does not. */
  get hasRoom(): boolean {
    if (this.#fits(1)) return true;
    this.reclaim();
    return this.#fits(1);
  }

  /** 3.4: head and tail equal means empty, so one descriptor always stays free. */
  #fits(buffers: number): boolean {
    return this.#outstanding + buffers + 1 < this.#parts.size && this.#used + buffers <= this.buffers;
  }

  /** Where to write the next frame (an offset in the arena's views, `frameRoom` bytes), or -1 when the ring is full. */
  reserve(): number {
    return this.hasRoom ? this.#pool + this.#buffer * STRIDE : -1;
  }

  /** Number of the buffer `reserve` points into. */
  get reservedBuffer(): number {
    return this.#buffer;
  }

  /** Adds the frame just written at `reserve()`; the device sees it at the next `flush`. */
  send(length: number, offload?: TransmitOffload): void {
    this.#add(length, offload);
  }

  /** Copies a frame of any length up to `longestFrame` out of `from`. False when there is no room now. @throws RangeError when it never fits. */
  copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    if (length > this.longestFrame) throw new RangeError(`a frame of ${length} bytes is longer than the ${this.longestFrame} this queue can send`);
    const buffers = Math.ceil(length / BUFFER);
    if (!this.#fits(buffers)) {
      this.reclaim();
      if (!this.#fits(buffers)) return false;
    }
    let buffer = this.#buffer;
    for (let done = 0; done < length; done += BUFFER) {
      copyBytes(this.#parts.arena.views, this.#pool + buffer * STRIDE, from, start + done, Math.min(BUFFER, length - done));
      if (++buffer === this.buffers) buffer = 0;
    }
    this.#add(length, offload);
    return true;
  }

  #add(length: number, offload: TransmitOffload | undefined): void {
    const { size, delayed } = this.#parts;
    let command = TX_IFCS | (delayed ? TX_IDE : 0);
    let options = 0;
    if (offload !== undefined && (offload.flags & NET_HDR_F_NEEDS_CSUM) !== 0) {
      command |= TX_DEXT | TX_DATA;
      options = TX_TXSM;
      if ((offload.gsoType & ~NET_GSO_ECN) !== NET_GSO_NONE) {
        command |= TX_TSE;
        options |= this.#segmentation(length, offload);
      } else this.#setContext(0, offload.csumStart | ((offload.csumStart + offload.csumOffset) << 8), 0, 0);
    }
    if (this.vlan >= 0) {
      command |= TX_VLE;
      options |= this.vlan << 16;
    }
    const i32 = this.#i32;
    for (let left = length; left > 0; left -= BUFFER) {
      const last = left <= BUFFER;
      const address = this.#parts.arena.address(this.#pool + this.#buffer * STRIDE);
      const at = (this.#ring + this.#next * DESCRIPTOR_BYTES) >>> 2;
      i32[at] = address | 0;
      i32[at + 1] = (address / 2 ** 32) | 0;
      i32[at + 2] = (last ? left : BUFFER) | command | (last ? TX_EOP : 0);
      i32[at + 3] = options;
      this.#returns[this.#next] = 1;
      if (++this.#buffer === this.buffers) this.#buffer = 0;
      this.#used++;
      this.#outstanding++;
      this.#sinceReport++;
      if (last && this.#sinceReport >= REPORT_EVERY) this.#report(this.#next);
      if (++this.#next === size) this.#next = 0;
    }
    this.frames++;
    this.bytes += length;
    this.#unannounced++;
  }

  #report(descriptor: number): void {
    const at = (this.#ring + descriptor * DESCRIPTOR_BYTES + 8) >>> 2;
    this.#i32[at] = (this.#i32[at] as number) | TX_RS;
    this.#reported = descriptor;
    this.#sinceReport = 0;
  }

  /** A context descriptor, unless the device has that one already (3.3.6: it stays in force until the next). */
  #setContext(word0: number, word1: number, word2: number, word3: number): void {
    if (word2 === 0 && word0 === this.#context0 && word1 === this.#context1 && word3 === this.#context3) return;
    const { size, delayed } = this.#parts;
    const at = (this.#ring + this.#next * DESCRIPTOR_BYTES) >>> 2;
    const i32 = this.#i32;
    i32[at] = word0;
    i32[at + 1] = word1;
    i32[at + 2] = word2 | TX_DEXT | (delayed ? TX_IDE : 0);
    i32[at + 3] = word3;
    this.#returns[this.#next] = 0;
    this.#outstanding++;
    this.#sinceReport++;
    if (++this.#next === size) this.#next = 0;
    this.#context0 = word2 === 0 ? word0 : -1;
    this.#context1 = word1;
    this.#context3 = word3;
  }

  /**
   * TCP segmentation (3.5): the context says where the headers are. The driver leaves the IP length out, and the TCP checksum field as the pseudo header's sum without it, as
   * each segment has its own. Returns the packet options.
   */
  #segmentation(length: number, offload: TransmitOffload): number {
    const { u8 } = this.#parts.arena;
    const at = this.#pool + this.#buffer * STRIDE;
    const h = this.#headers;
    // The whole frame may lie in several buffers; its headers are all in the first.
    h.parse(u8, at, length);
    const ip = at + h.network;
    const v4 = h.etherType === ETHERTYPE_IPV4;
    // Also when the lengths in it are not the frame's: they are taken out anyway.
    h.version = v4 ? 4 : 6;
    h.protocol = PROTOCOL_TCP;
    const ipBytes = v4 ? ((u8[ip] as number) & 15) * 4 : 40;
    set16(u8, ip + (v4 ? 2 : 4), 0);
    if (v4) set16(u8, ip + 10, 0);
    const checksum = offload.csumStart + offload.csumOffset;
    set16(u8, at + checksum, fold(pseudoHeaderSum(u8, at, h, 0)));
    const header = offload.csumStart + ((u8[at + offload.csumStart + 12] as number) >> 4) * 4;
    const word0 = h.network | ((v4 ? h.network + 10 : 0) << 8) | ((h.network + ipBytes - 1) << 16);
    const word1 = offload.csumStart | (checksum << 8);
    this.#setContext(word0, word1, TX_TSE | TX_TCP | (v4 ? TX_IP : 0) | (length - header), (header << 8) | (offload.gsoSize << 16));
    return v4 ? TX_IXSM : 0;
  }

  /** Makes what was sent since visible: by the shared block, or by a write of the tail, now or by the next interrupt. */
  flush(): void {
    if (this.#unannounced === 0) return;
    const { csb, combining, size } = this.#parts;
    // Someone has to say when the last one is done.
    const last = (this.#next + size - 1) % size;
    if (this.#reported !== last) this.#report(last);
    this.#unannounced = 0;
    this.#tail = this.#next;
    if (csb) {
      if (csb.announceTransmit(this.#tail)) this.#writeTail();
      else this.announced++;
    } else if (combining && this.#interruptDue) {
      this.#tailDue = true;
      this.combined++;
    } else {
      this.#interruptDue = combining;
      this.#writeTail();
    }
  }

  #writeTail(): void {
    this.kicks++;
    this.#parts.registers.write(REG.TDT, this.#tail);
  }

  /** A transmit interrupt: takes buffers back and writes the tail that waited for it. */
  onInterrupt(): void {
    this.reclaim();
    if (!this.#interruptDue) return;
    if (this.#tailDue) {
      this.#tailDue = false;
      this.#writeTail();
    } else if (this.#outstanding === 0) this.#interruptDue = false;
  }

  /** Takes completed buffers back. Returns the frames' descriptors completed. */
  reclaim(): number {
    const { csb, size } = this.#parts;
    if (csb) return this.#reclaimTo(csb.get(CSB.host_tdh));
    let total = 0;
    // Up to the last descriptor that is done and said so; those before it are done as well (3.3.3: in order).
    let end = -1;
    for (let d = this.#oldest, left = this.#outstanding; left > 0; left--, d = d + 1 === size ? 0 : d + 1) {
      const at = (this.#ring + d * DESCRIPTOR_BYTES + 8) >>> 2;
      if (((this.#i32[at] as number) & TX_RS) === 0) continue;
      if ((Atomics.load(this.#i32, at + 1) & TX_DD) === 0) break;
      end = d + 1 === size ? 0 : d + 1;
    }
    if (end >= 0) total = this.#reclaimTo(end);
    return total;
  }

  #reclaimTo(head: number): number {
    const { size } = this.#parts;
    const done = (head - this.#oldest + size) % size;
    if (head >= size || done > this.#outstanding) {
      this.broken = `transmit: the device's head ${head} is not between ${this.#oldest} and ${this.#next}`;
      return 0;
    }
    for (let i = 0; i < done; i++) {
      this.#used -= this.#returns[this.#oldest] as number;
      if (++this.#oldest === size) this.#oldest = 0;
    }
    this.#outstanding -= done;
    return done;
  }

  /** Full, or waiting for the end. True when buffers came back already, or it is worth looking again; otherwise an interrupt will say when. */
  awaitRoom(): boolean {
    const { csb, size, busyPolls } = this.#parts;
    if (this.reclaim() > 0) {
      this.#looks = 0;
      return true;
    }
    if (!csb || this.#outstanding === 0) return false;
    if (this.#looks < busyPolls) {
      this.#looks++;
      return true;
    }
    const half = Math.max(1, this.#outstanding >>> 1);
    csb.set(CSB.guest_txkick_at, (this.#oldest + half - 1) % size);
    csb.set(CSB.guest_need_txkick, 1);
    // The re-check that closes the window between the last look and asking.
    if (this.reclaim() === 0) return false;
    csb.set(CSB.guest_need_txkick, 0);
    return true;
  }

  /** Frees ring and buffers. Only after the device was reset. */
  dispose(): void {
    this.#parts.arena.free(this.#ring);
    this.#parts.arena.free(this.#pool);
  }
}
