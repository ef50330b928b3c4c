// The 82576's receive queue (7.1), of a physical or a virtual function: advanced descriptors, one buffer each, or two where headers are split off. A descriptor comes back with
// what was found in place of its addresses. What arrives is described by one reused frame; a device that breaks the rules breaks the queue.

import type { GuestArena } from './arena.ts';
import * as k from './igb-constants.ts';
import { IgbError } from './igb-registers.ts';
import { lookFor, programRing, type RegisterBlock } from './intel-registers.ts';
import { CHECKSUM_UNKNOWN, CHECKSUM_VALID, type FrameSink, ReceivedFrame } from './net-receive.ts';
import { NET_HASH_REPORT_NONE } from './virtio-constants.ts';

const PACKET_BUFFER = 2048;
const HEADER_BUFFER = 256;
const PTHRESH = 8;
const HTHRESH = 8;
/** Write back at once: with more than 1 a lone frame waits for the throttle's timer (7.1.4.2). */
const WTHRESH = 1;

/** The hash kinds of a frame's header (virtio's numbers) by the device's RSS type (7.1.2.8.1): TCP4, IP4, TCP6, IP6 ext., IP6, TCP6 ext., UDP4, UDP6, UDP6 ext. */
const REPORTS = [NET_HASH_REPORT_NONE, 2, 1, 5, 7, 4, 8, 3, 6, 9] as const;

/** A received frame with what only this device says of it. */
export class AdvancedFrame extends ReceivedFrame {
  /** The tag the device took out, or -1. */
  vlan = -1;
  /** 7.1.5.2.2: IPv4 1, its options 2, IPv6 4, its extensions 8, TCP 16, UDP 32, SCTP 64, NFS 128; with 2048 it is the ETQF entry. */
  packetType = 0;
  /** The IP header's checksum was looked at and is wrong; the same of TCP's, UDP's or SCTP's. */
  badIpChecksum = false;
  badChecksum = false;
  /** Bytes that lie in a header buffer, the frame's first segment then. */
  splitHeader = 0;
}

export interface AdvancedReceiveParts {
  readonly arena: GuestArena;
  readonly registers: RegisterBlock;
  /** Offset of the queue's registers. */
  readonly block: number;
  readonly index: number;
  readonly size: number;
  readonly splitHeaders: boolean;
  /** Frames for a ring without descriptors are dropped rather than held back in the packet buffer, where they would be in the way of other queues'. */
  readonly drop: boolean;
}

export class AdvancedReceiveQueue {
  readonly index: number;
  readonly frame: AdvancedFrame;
  frames = 0;
  bytes = 0;
  /** Frames the device marked as damaged. */
  malformed = 0;
  broken = '';
  /** Writes of the tail. */
  kicks = 0;
  readonly #parts: AdvancedReceiveParts;
  readonly #i32: Int32Array;
  readonly #ring: number;
  readonly #pool: number;
  /** Header buffers, or -1. */
  readonly #headers: number;
  /** Next descriptor the device will fill. */
  #next = 0;

  constructor(parts: AdvancedReceiveParts) {
    const { arena, size } = parts;
    this.#parts = parts;
    this.index = parts.index;
    this.#i32 = arena.i32;
    this.#ring = arena.allocate(size * k.DESCRIPTOR_BYTES, 128);
    this.#pool = arena.allocate(size * PACKET_BUFFER, 64);
    this.#headers = parts.splitHeaders ? arena.allocate(size * HEADER_BUFFER, 64) : -1;
    this.frame = new AdvancedFrame(arena.views, size + 1);
    this.frame.queue = parts.index;
    for (let d = 0; d < size; d++) this.#arm(d);
  }

  /** The descriptor as the device is to read it. Bit 0 of the third word, DD once written back, is clear as addresses are even. */
  #arm(descriptor: number): void {
    const { arena } = this.#parts;
    const i32 = this.#i32;
    const at = (this.#ring + descriptor * k.DESCRIPTOR_BYTES) >>> 2;
    const packet = arena.address(this.#pool + descriptor * PACKET_BUFFER);
    const header = this.#headers < 0 ? 0 : arena.address(this.#headers + descriptor * HEADER_BUFFER);
    i32[at] = packet | 0;
    i32[at + 1] = (packet / 2 ** 32) | 0;
    i32[at + 2] = header | 0;
    i32[at + 3] = (header / 2 ** 32) | 0;
  }

  /** 4.5.9: ring registers and buffer sizes, then the queue on. @throws IgbError */
  start(): void {
    const { registers, block, arena, size, drop } = this.#parts;
    programRing(registers, block, arena.address(this.#ring), size * k.DESCRIPTOR_BYTES);
    const split = this.#headers < 0 ? k.SRRCTL_ADVANCED : k.SRRCTL_SPLIT | ((HEADER_BUFFER / 64) << k.SRRCTL_HEADER_SHIFT);
    registers.write(block + k.SRRCTL, (PACKET_BUFFER / 1024) | split | (drop ? k.SRRCTL_DROP_EN : 0));
    const thresholds = (PTHRESH << k.DCTL_PTHRESH_SHIFT) | (HTHRESH << k.DCTL_HTHRESH_SHIFT) | (WTHRESH << k.DCTL_WTHRESH_SHIFT);
    registers.write(block + k.RING.DCTL, thresholds | k.DCTL_ENABLE);
    if (!lookFor(registers, block + k.RING.DCTL, k.DCTL_ENABLE, k.DCTL_ENABLE))
      throw new IgbError('ERR_IGB_QUEUE', `receive queue ${this.index} does not turn on (RXDCTL.ENABLE)`);
  }

  /** Gives the device all descriptors but one: head and tail equal means none (7.1.4.4). After the queue and the receiver were turned on. */
  stock(): void {
    this.#announce();
  }

  #announce(): void {
    const { registers, block, size } = this.#parts;
    this.kicks++;
    registers.write(block + k.RING.TAIL, (this.#next + size - 1) % size);
  }

  /** Something has arrived that was not taken yet. */
  get pending(): boolean {
    return (Atomics.load(this.#i32, (this.#ring + this.#next * k.DESCRIPTOR_BYTES + 8) >>> 2) & k.RX_DD) !== 0;
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
      for (let i = 0; i < descriptors; i++) {
        this.#arm(this.#next);
        if (++this.#next === this.#parts.size) this.#next = 0;
      }
    }
    if (taken > 0) this.#announce();
    return taken;
  }

  /** Descriptors of the next frame, described in `frame`; 0 while it is not there as a whole. */
  #gather(): number {
    const { size } = this.#parts;
    const { frame } = this;
    frame.length = 0;
    frame.splitHeader = 0;
    let segments = 0;
    let count = 0;
    for (let d = this.#next; ; d = d + 1 === size ? 0 : d + 1) {
      const at = (this.#ring + d * k.DESCRIPTOR_BYTES) >>> 2;
      // DD is in the word the device writes last: what else the descriptor says is read after it.
      const status = Atomics.load(this.#i32, at + 2);
      if ((status & k.RX_DD) === 0) return 0;
      const length = (this.#i32[at + 3] as number) & 0xffff;
      if (length > PACKET_BUFFER) {
        this.broken = `receive: descriptor ${d} came back with ${length} bytes in a buffer of ${PACKET_BUFFER}`;
        return 0;
      }
      if (count === 0 && this.#headers >= 0) {
        const word = this.#i32[at] as number;
        // A header longer than its buffer (HBO) stays with the rest.
        if ((word & k.RX_SPH) !== 0 && (status & k.RX_HBO) === 0) {
          const header = (word >>> k.RX_HEADER_LENGTH_SHIFT) & k.RX_HEADER_LENGTH;
          if (header > HEADER_BUFFER) {
            this.broken = `receive: descriptor ${d} came back with a header of ${header} bytes in a buffer of ${HEADER_BUFFER}`;
            return 0;
          }
          frame.splitHeader = header;
          frame.offsets[segments] = this.#headers + d * HEADER_BUFFER;
          frame.lengths[segments++] = header;
          frame.length = header;
        }
      }
      if (length > 0 || segments === 0) {
        frame.offsets[segments] = this.#pool + d * PACKET_BUFFER;
        frame.lengths[segments++] = length;
        frame.length += length;
      }
      count++;
      if ((status & k.RX_EOP) !== 0) break;
      if (count === size) {
        this.broken = 'receive: the whole ring came back without the end of a frame';
        return 0;
      }
    }
    frame.segmentCount = segments;
    return count;
  }

  /** Reads the last descriptor's verdict. False: a frame not to be believed. */
  #judge(descriptors: number): boolean {
    const { frame } = this;
    const { size } = this.#parts;
    const at = (this.#ring + ((this.#next + descriptors - 1) % size) * k.DESCRIPTOR_BYTES) >>> 2;
    const kind = this.#i32[at] as number;
    const status = this.#i32[at + 2] as number;
    frame.packetType = (kind >>> k.RX_PACKET_TYPE_SHIFT) & k.RX_PACKET_TYPE;
    frame.hashReport = REPORTS[kind & k.RX_RSS_TYPE] ?? NET_HASH_REPORT_NONE;
    // With no RSS type the word holds the IP identification and a fragment's checksum (RXCSUM.PCSD).
    frame.hashValue = frame.hashReport === NET_HASH_REPORT_NONE ? 0 : (this.#i32[at + 1] as number) >>> 0;
    frame.vlan = (status & k.RX_VP) !== 0 ? (this.#i32[at + 3] as number) >>> 16 : -1;
    frame.badIpChecksum = (status & k.RX_IPCS) !== 0 && (status & k.RX_IPE) !== 0;
    frame.badChecksum = (status & k.RX_L4I) !== 0 && (status & k.RX_L4E) !== 0;
    const sound = (status & k.RX_L4I) !== 0 && !frame.badChecksum && !frame.badIpChecksum;
    frame.checksum = sound ? CHECKSUM_VALID : CHECKSUM_UNKNOWN;
    return (status & k.RX_RXE) === 0 && frame.length >= 14;
  }

  /** Frees ring and buffers. Only after the device or the queue was reset. */
  dispose(): void {
    this.#parts.arena.free(this.#ring);
    this.#parts.arena.free(this.#pool);
    if (this.#headers >= 0) this.#parts.arena.free(this.#headers);
  }
}
