// The e1000's receive ring (3.2): one buffer a descriptor, for good. What arrives is described by one reused frame; a device that breaks the rules breaks the queue.

import type { GuestArena } from './arena.ts';
import { DESCRIPTOR_BYTES, REG, RX_DD, RX_EOP, RX_FRAME_ERRORS, RX_IPCS, RX_IPE, RX_IXSM, RX_TCPCS, RX_TCPE, RX_VP } from './e1000-constants.ts';
import type { SharedBlock } from './e1000-csb.ts';
import type { E1000Registers } from './e1000-registers.ts';
import { programRing } from './intel-registers.ts';
import { CHECKSUM_UNKNOWN, CHECKSUM_VALID, type FrameSink, ReceivedFrame } from './net-receive.ts';

const RECEIVE_BUFFER = 2048;
/** As in e1000-transmit.ts. */
const STRIDE = RECEIVE_BUFFER + 64;

/** A received frame with what only this device says of it. */
export class E1000Frame extends ReceivedFrame {
  /** The tag the device took out, or -1. */
  vlan = -1;
  /** The packet checksum field (3.2.4): over all bytes from RXCSUM.PCSS on. */
  packetChecksum = 0;
  /** The IP header's checksum was looked at and is wrong. */
  badIpChecksum = false;
  badChecksum = false;
}

export interface E1000ReceiveParts {
  readonly arena: GuestArena;
  readonly registers: E1000Registers;
  readonly size: number;
  readonly csb: SharedBlock | undefined;
}

export class E1000ReceiveQueue {
  readonly frame: E1000Frame;
  frames = 0;
  bytes = 0;
  /** Frames the device marked as damaged. */
  malformed = 0;
  broken = '';
  /** Writes of the tail; announcements that needed none. */
  kicks = 0;
  announced = 0;
  readonly #parts: E1000ReceiveParts;
  readonly #i32: Int32Array;
  readonly #ring: number;
  readonly #pool: number;
  /** Next descriptor the device will fill. */
  #next = 0;
  #tail: number;

  constructor(parts: E1000ReceiveParts) {
    const { arena, size } = parts;
    this.#parts = parts;
    this.#i32 = arena.i32;
    this.#ring = arena.allocate(size * DESCRIPTOR_BYTES, 128);
    this.#pool = arena.allocate(size * STRIDE, 64);
    this.#tail = size - 1;
    this.frame = new E1000Frame(arena.views, size);
    for (let d = 0; d < size; d++) {
      const address = arena.address(this.#pool + d * STRIDE);
      const at = (this.#ring + d * DESCRIPTOR_BYTES) >>> 2;
      this.#i32[at] = address | 0;
      this.#i32[at + 1] = (address / 2 ** 32) | 0;
    }
  }

  /** Ring registers (14.4); the receiver is off. */
  program(): void {
    const { registers, arena, size } = this.#parts;
    programRing(registers, REG.RDBAL, arena.address(this.#ring), size * DESCRIPTOR_BYTES);
  }

  /** Gives the device all descriptors but one: head and tail equal means none (3.2.6). After the receiver was turned on. */
  stock(): void {
    this.#parts.csb?.announceReceive(0, this.#tail, this.#parts.size);
    this.#parts.registers.write(REG.RDT, this.#tail);
    this.kicks++;
  }

  /** Something has arrived that was not taken yet. */
  get pending(): boolean {
    return (Atomics.load(this.#i32, (this.#ring + this.#next * DESCRIPTOR_BYTES + 12) >>> 2) & RX_DD) !== 0;
  }

  /** Hands up to `budget` frames to `sink` and gives their buffers back. Returns how many were taken. */
  poll(budget: number, sink: FrameSink): number {
    let taken = 0;
    while (taken < budget && this.broken === '') {
      const descriptors = this.#gather();
      if (descriptors === 0) break;
      taken++;
      if (this.#judge(descriptors)) {
        this.frames++;
        this.bytes += this.frame.length;
        sink.receive(this.frame);
      } else this.malformed++;
      this.#giveBack(descriptors);
    }
    if (taken > 0) this.#announce();
    return taken;
  }

  /** Descriptors of the next frame, described in `frame`; 0 while it is not there as a whole. */
  #gather(): number {
    const { size } = this.#parts;
    const { frame } = this;
    frame.length = 0;
    let count = 0;
    for (let d = this.#next; ; d = d + 1 === size ? 0 : d + 1) {
      const at = (this.#ring + d * DESCRIPTOR_BYTES) >>> 2;
      // The device writes DD last: what else the descriptor says is read after it.
      const status = Atomics.load(this.#i32, at + 3);
      if ((status & RX_DD) === 0) return 0;
      const length = (this.#i32[at + 2] as number) & 0xffff;
      if (length > RECEIVE_BUFFER) {
        this.broken = `receive: descriptor ${d} came back with ${length} bytes in a buffer of ${RECEIVE_BUFFER}`;
        return 0;
      }
      frame.offsets[count] = this.#pool + d * STRIDE;
      frame.lengths[count++] = length;
      frame.length += length;
      if ((status & RX_EOP) !== 0) break;
      if (count === size) {
        this.broken = 'receive: the whole ring came back without the end of a frame';
        return 0;
      }
    }
    frame.segmentCount = count;
    return count;
  }

  /** Reads the last descriptor's verdict. False: a frame not to be believed. */
  #judge(descriptors: number): boolean {
    const { frame } = this;
    const { size } = this.#parts;
    const last = (this.#next + descriptors - 1) % size;
    const at = (this.#ring + last * DESCRIPTOR_BYTES) >>> 2;
    const word = this.#i32[at + 3] as number;
    const errors = (word >>> 8) & 0xff;
    frame.packetChecksum = (this.#i32[at + 2] as number) >>> 16;
    frame.vlan = (word & RX_VP) !== 0 ? word >>> 16 : -1;
    frame.checksum = CHECKSUM_UNKNOWN;
    frame.badChecksum = false;
    frame.badIpChecksum = false;
    // 3.2.3.1: with IXSM nothing was looked at.
    if ((word & RX_IXSM) === 0) {
      frame.badIpChecksum = (word & RX_IPCS) !== 0 && (errors & RX_IPE) !== 0;
      frame.badChecksum = (word & RX_TCPCS) !== 0 && (errors & RX_TCPE) !== 0;
      if ((word & RX_TCPCS) !== 0 && !frame.badChecksum && !frame.badIpChecksum) frame.checksum = CHECKSUM_VALID;
    }
    return (errors & RX_FRAME_ERRORS) === 0 && frame.length >= 14;
  }

  #giveBack(descriptors: number): void {
    const { size } = this.#parts;
    for (let i = 0; i < descriptors; i++) {
      this.#i32[(this.#ring + this.#next * DESCRIPTOR_BYTES + 12) >>> 2] = 0;
      if (++this.#next === size) this.#next = 0;
    }
  }

  #announce(): void {
    const { csb, registers, size } = this.#parts;
    const before = this.#tail;
    this.#tail = (this.#next + size - 1) % size;
    if (csb && !csb.announceReceive(before, this.#tail, size)) {
      this.announced++;
      return;
    }
    this.kicks++;
    registers.write(REG.RDT, this.#tail);
  }

  dispose(): void {
    this.#parts.arena.free(this.#ring);
    this.#parts.arena.free(this.#pool);
  }
}
