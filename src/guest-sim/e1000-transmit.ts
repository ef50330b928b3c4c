// The e1000's transmit queue (3.3, 3.4): legacy descriptors for plain frames, a context and data descriptors for offloads. What is done is told by descriptors (RS, DD) or by
// the shared block's head.

import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import { CSB, REG, TX_DATA, TX_DEXT, TX_IDE, TX_IFCS, TX_IP, TX_IXSM, TX_TCP, TX_TSE, TX_TXSM, TX_VLE } from './e1000-constants.ts';
import type { SharedBlock } from './e1000-csb.ts';
import type { E1000Registers } from './e1000-registers.ts';
import type { TransmitOffload } from './net-transmit.ts';
import type { NicTransmitQueue } from './nic.ts';
import { Headers } from './packets.ts';
import { seedSegmentation } from './segmentation-seed.ts';
import { TRANSMIT_BUFFER, TransmitRing } from './transmit-ring.ts';
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

export class E1000TransmitQueue implements NicTransmitQueue {
  readonly index = 0;
  readonly frameRoom = TRANSMIT_BUFFER;
  readonly buffers: number;
  frames = 0;
  bytes = 0;
  /** Tail writes to the device; announcements that needed none; tails left to the next interrupt. */
  kicks = 0;
  announced = 0;
  combined = 0;
  /** The VLAN tag the device inserts into what is sent, or -1. */
  vlan = -1;
  readonly #parts: E1000TransmitParts;
  readonly #ring: TransmitRing;
  readonly #headers = new Headers();
  /** The tail the device knows, and whether it differs from what was sent. */
  #tail = 0;
  #unannounced = 0;
  /** The context the device has: the three words that make one. */
  #context0 = -1;
  #context1 = -1;
  #context3 = -1;
  /** Send combining: an interrupt will come; the tail was left to it. */
  #interruptDue = false;
  #tailDue = false;
  /** In vain, since something came back. */
  #looks = 0;

  constructor(parts: E1000TransmitParts) {
    this.#parts = parts;
    this.buffers = parts.size;
    this.#ring = new TransmitRing(parts.arena, parts.size);
  }

  /** Ring registers (14.5); the transmitter is off. */
  program(): void {
    this.#ring.program(this.#parts.registers, REG.TDBAL);
  }

  get longestFrame(): number {
    return this.#ring.longestFrame;
  }

  get broken(): string {
    return this.#ring.broken;
  }

  get outstanding(): number {
    return this.#ring.outstanding;
  }

  #hasRoom(buffers: number): boolean {
    if (this.#ring.fits(buffers)) return true;
    this.reclaim();
    return this.#ring.fits(buffers);
  }

  /** Where to write the next frame (an offset in the arena's views, `frameRoom` bytes), or -1 when the ring is full. */
  reserve(): number {
    return this.#hasRoom(1) ? this.#ring.offset : -1;
  }

  /** Number of the buffer `reserve` points into. */
  get reservedBuffer(): number {
    return this.#ring.buffer;
  }

  /** Adds the frame just written at `reserve()`; the device sees it at the next `flush`. */
  send(length: number, offload?: TransmitOffload): void {
    this.#add(length, offload);
  }

  /** Copies a frame of any length up to `longestFrame` out of `from`. False when there is no room now. @throws RangeError when it never fits. */
  copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    if (length > this.longestFrame) throw new RangeError(`a frame of ${length} bytes is longer than the ${this.longestFrame} this queue can send`);
    if (!this.#hasRoom(Math.ceil(length / TRANSMIT_BUFFER))) return false;
    this.#ring.fill(from, start, length);
    this.#add(length, offload);
    return true;
  }

  #add(length: number, offload: TransmitOffload | undefined): void {
    let command = TX_IFCS | (this.#parts.delayed ? TX_IDE : 0);
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
    this.#ring.addFrame(length, command, options);
    this.frames++;
    this.bytes += length;
    this.#unannounced++;
  }

  /** A context descriptor, unless the device has that one already (3.3.6: it stays in force until the next). */
  #setContext(word0: number, word1: number, word2: number, word3: number): void {
    if (word2 === 0 && word0 === this.#context0 && word1 === this.#context1 && word3 === this.#context3) return;
    this.#ring.addContext(word0, word1, word2 | TX_DEXT | (this.#parts.delayed ? TX_IDE : 0), word3);
    this.#context0 = word2 === 0 ? word0 : -1;
    this.#context1 = word1;
    this.#context3 = word3;
  }

  /** TCP segmentation (3.5): the context says where the headers are. Returns the packet options. */
  #segmentation(length: number, offload: TransmitOffload): number {
    const { u8 } = this.#parts.arena;
    const at = this.#ring.offset;
    const h = this.#headers;
    const ipBytes = seedSegmentation(u8, at, length, offload, h);
    const v4 = h.version === 4;
    const checksum = offload.csumStart + offload.csumOffset;
    const header = offload.csumStart + ((u8[at + offload.csumStart + 12] as number) >> 4) * 4;
    const word0 = h.network | ((v4 ? h.network + 10 : 0) << 8) | ((h.network + ipBytes - 1) << 16);
    const word1 = offload.csumStart | (checksum << 8);
    this.#setContext(word0, word1, TX_TSE | TX_TCP | (v4 ? TX_IP : 0) | (length - header), (header << 8) | (offload.gsoSize << 16));
    return v4 ? TX_IXSM : 0;
  }

  /** Makes what was sent since visible: by the shared block, or by a write of the tail, now or by the next interrupt. */
  flush(): void {
    if (this.#unannounced === 0) return;
    const { csb, combining } = this.#parts;
    this.#ring.report();
    this.#unannounced = 0;
    this.#tail = this.#ring.next;
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
    } else if (this.outstanding === 0) this.#interruptDue = false;
  }

  /** Takes completed buffers back. Returns the frames' descriptors completed. */
  reclaim(): number {
    const { csb } = this.#parts;
    return csb ? this.#ring.reclaimTo(csb.get(CSB.host_tdh)) : this.#ring.reclaim();
  }

  /** Full, or waiting for the end. True when buffers came back already, or it is worth looking again; otherwise an interrupt will say when. */
  awaitRoom(): boolean {
    const { csb, size, busyPolls } = this.#parts;
    if (this.reclaim() > 0) {
      this.#looks = 0;
      return true;
    }
    if (!csb || this.outstanding === 0) return false;
    if (this.#looks < busyPolls) {
      this.#looks++;
      return true;
    }
    const half = Math.max(1, this.outstanding >>> 1);
    csb.set(CSB.guest_txkick_at, (this.#ring.oldest + half - 1) % size);
    csb.set(CSB.guest_need_txkick, 1);
    // The re-check that closes the window between the last look and asking.
    if (this.reclaim() === 0) return false;
    csb.set(CSB.guest_need_txkick, 0);
    return true;
  }

  /** Frees ring and buffers. Only after the device was reset. */
  dispose(): void {
    this.#ring.dispose();
  }
}
