// A frame into one queue's descriptors (82576 7.1.4 to 7.1.6, 7.1.10): how much goes to the header buffer, how much to packet buffers; the bytes; then the report, as a legacy or an advanced descriptor has it.

import { viewsOf } from '#core/guest-memory';
import { copyOut } from '#devices/intel/copy-out';
import { packetChecksum } from '#devices/intel/receive-checksum';
import { assembleFrame, copyAssembled, copyFrame, FCS } from '#devices/intel/receive-copy';
import { sumBytes, sumSegments } from '#net/checksum';
import type { FrameBatch } from '#net/port';
import { ERROR_IPE, ERROR_L4E, type PacketInfo, STATUS_IPCS, STATUS_L4CS, TYPE_ETQF } from './packet-info.ts';
import { bufferBytes, type ReceiveQueue } from './receive-queue.ts';
import { AT, QUEUES } from './registers.ts';
import type { Steering } from './steering.ts';

const { PSRTYPE, RXCSUM, SRRCTL } = AT;

const SHORTEST = 60;
const TAG = 4;
const LONGEST = 16 * 1024;

/** SRRCTL.DESCTYPE (8.10.2). */
const LEGACY = 0;
const SPLIT = 2;
const REPLICATE = 3;
const REPLICATE_LARGE = 4;
const SPLIT_ALWAYS = 5;

const STATUS_DD = 1 << 0;
const STATUS_EOP = 1 << 1;
/** Both. */
export const STATUS_WHOLE = STATUS_DD | STATUS_EOP;
const STATUS_IXSM = 1 << 2;
const STATUS_VP = 1 << 3;
export const STATUS_PIF = 1 << 7;
const STATUS_VEXT = 1 << 9;
const STATUS_LLINT = 1 << 11;
const STATUS_TS = 1 << 16;
export const STATUS_LB = 1 << 18;
const ERROR_HBO = 1 << 23;
const ERROR_RXE = 1 << 31;
const SPLIT_HEADER = 1 << 31;
const HEADER_LENGTH_SHIFT = 21;
const MOST_HEADER = 0x3ff;

const PCSD = 1 << 13;
const IPPCSE = 1 << 12;

/** What is known of the frame, beside its headers. */
export interface StoredFrame {
  bad: boolean;
  /** It was shorter than frames are, and is not padded. */
  short: boolean;
  /** It counts as a good packet. */
  good: boolean;
  inexact: boolean;
  /** From another pool. */
  local: boolean;
  stamped: boolean;
  immediate: boolean;
  /** Where its tag is, -1: none (or not one to strip). */
  tagAt: number;
  tag: number;
  /** It has an outer tag in front. */
  outer: boolean;
}

export class ReceiveStore {
  readonly #words: Uint32Array;
  readonly #info: PacketInfo;
  readonly #steering: Steering;
  readonly #linear = viewsOf(new ArrayBuffer(LONGEST + 64));
  // The plan for each queue.
  readonly #stored = new Int32Array(QUEUES);
  readonly #each = new Int32Array(QUEUES);
  /** Bytes in the header buffer, and whether they are in the packet buffer too. */
  readonly #inHeader = new Int32Array(QUEUES);
  readonly #replicates = new Uint8Array(QUEUES);
  /** HDR_LEN, SPH, as in the first word; HBO as in the status. */
  readonly #headerWord = new Int32Array(QUEUES);
  readonly #headerError = new Int32Array(QUEUES);
  readonly #strips = new Uint8Array(QUEUES);
  readonly #keepsFcs = new Uint8Array(QUEUES);

  constructor(words: Uint32Array, info: PacketInfo, steering: Steering) {
    this.#words = words;
    this.#info = info;
    this.#steering = steering;
  }

  /** Finds room: as `ReceiveQueue.reserve`. The queue was looked at. */
  plan(queue: ReceiveQueue, length: number, frame: StoredFrame, strips: boolean, keepsFcs: boolean): number {
    const q = queue.index;
    const control = this.#words[SRRCTL + q] as number;
    const stripped = strips && frame.tagAt >= 0 ? TAG : 0;
    const stored = (frame.short ? length : Math.max(length, SHORTEST)) - stripped + (keepsFcs ? FCS : 0);
    const each = bufferBytes(this.#words, q);
    this.#stored[q] = stored;
    this.#each[q] = each;
    this.#strips[q] = stripped;
    this.#keepsFcs[q] = keepsFcs ? 1 : 0;
    this.#planHeader(q, (control >>> 25) & 7, ((control >>> 8) & 0x3f) * 64, stripped);
    const inPackets = this.#replicates[q] !== 0 ? stored : stored - (this.#inHeader[q] as number);
    return queue.reserve(inPackets, each);
  }

  /** How much of it the header buffer gets (7.1.5, header splitting and replication). */
  #planHeader(q: number, type: number, room: number, stripped: number): void {
    const stored = this.#stored[q] as number;
    this.#inHeader[q] = 0;
    this.#replicates[q] = 0;
    this.#headerWord[q] = 0;
    this.#headerError[q] = 0;
    if (type < SPLIT || type > SPLIT_ALWAYS || room === 0) return;
    const found = this.#info.headerLength(this.#words[PSRTYPE + (q & 7)] as number);
    const header = found === 0 ? 0 : Math.min(found - stripped, stored);
    const fits = header > 0 && header <= room;
    const replicates = type === REPLICATE || type === REPLICATE_LARGE;
    this.#replicates[q] = replicates ? 1 : 0;
    // In the packet's own words: SPH says that HDR_LEN is the length of the headers, HBO that the header buffer was too small for them.
    if (header > 0) {
      this.#headerWord[q] = SPLIT_HEADER | (Math.min(header, MOST_HEADER) << HEADER_LENGTH_SHIFT);
      if (!fits) this.#headerError[q] = ERROR_HBO;
    }
    if (replicates) {
      if (type === REPLICATE || stored > room) this.#inHeader[q] = Math.min(room, stored);
    } else if (type === SPLIT_ALWAYS && (!fits || stored <= room)) {
      const taken = Math.min(room, stored);
      this.#inHeader[q] = taken;
      // A packet that fits in whole is there in whole, and not split.
      if (header === 0 || stored <= room) this.#headerWord[q] = Math.min(taken, MOST_HEADER) << HEADER_LENGTH_SHIFT;
      if (stored <= room) this.#headerError[q] = 0;
    } else if (fits) this.#inHeader[q] = header;
  }

  /** Stores the frame as planned. */
  write(queue: ReceiveQueue, batch: FrameBatch, f: number, frame: StoredFrame): void {
    const q = queue.index;
    const type = ((this.#words[SRRCTL + q] as number) >>> 25) & 7;
    const sum = this.#copy(queue, batch, f, frame);
    const stripped = this.#strips[q] !== 0;
    const checks = frame.bad ? ERROR_RXE : this.#info.checksums(batch, f);
    const last = STATUS_EOP | (frame.inexact ? STATUS_PIF : 0) | (stripped ? STATUS_VP : 0);
    if (type === LEGACY) this.#reportLegacy(queue, packetChecksum(sum), STATUS_DD | last | legacyChecks(checks) | (stripped ? frame.tag << 16 : 0));
    else {
      const more =
        (frame.outer ? STATUS_VEXT : 0) |
        (frame.immediate ? STATUS_LLINT : 0) |
        (frame.stamped ? STATUS_TS : 0) |
        (frame.local ? STATUS_LB : 0) |
        this.#info.udpValid;
      this.#reportAdvanced(queue, this.#secondWord(batch, f, sum), STATUS_DD | last | more | checks, stripped ? frame.tag : 0);
    }
    queue.advance();
  }

  /** 7.1.6.2: the receive hash with PCSD; without it a sum: of a fragment with IPPCSE, else of the packet from PCSS on. */
  #secondWord(batch: FrameBatch, f: number, sum: number): number {
    const control = this.#words[RXCSUM] as number;
    if ((control & PCSD) !== 0) return this.#steering.hash;
    return (control & IPPCSE) !== 0 ? this.#info.fragmentWord(batch, f) : packetChecksum(sum) << 16;
  }

  #reportLegacy(queue: ReceiveQueue, checksum: number, status: number): void {
    const q = queue.index;
    const each = this.#each[q] as number;
    for (let n = queue.buffers - 1; n >= 0; n--) {
      const last = n === queue.buffers - 1;
      queue.completeLegacy(n, last ? (this.#stored[q] as number) - n * each : each, n === 0 ? checksum : 0, last ? status : STATUS_DD);
    }
  }

  #reportAdvanced(queue: ReceiveQueue, second: number, status: number, tag: number): void {
    const q = queue.index;
    const each = this.#each[q] as number;
    const steering = this.#steering;
    const inPackets = (this.#stored[q] as number) - (this.#replicates[q] !== 0 ? 0 : (this.#inHeader[q] as number));
    const kind = steering.etherType >= 0 ? TYPE_ETQF | (steering.etherType << 4) : this.#info.type;
    const rss = ((this.#words[RXCSUM] as number) & PCSD) !== 0 ? steering.rssType : 0;
    for (let n = queue.buffers - 1; n >= 0; n--) {
      const last = n === queue.buffers - 1;
      const first = n === 0;
      const info = (last ? kind | rss : 0) | (first ? (this.#headerWord[q] as number) : 0);
      const bits = (last ? status : STATUS_DD) | (first ? (this.#headerError[q] as number) : 0);
      queue.completeAdvanced(n, info, last ? second : 0, bits, (last ? inPackets - n * each : each) | (last ? tag << 16 : 0));
    }
  }

  // ---- bytes ----

  /** Copies the frame to its buffers. Returns the sum for the packet checksum, 0 where nobody asks for it. */
  #copy(queue: ReceiveQueue, batch: FrameBatch, f: number, frame: StoredFrame): number {
    const q = queue.index;
    const length = batch.length[f] as number;
    const stored = this.#stored[q] as number;
    const control = this.#words[RXCSUM] as number;
    const wanted = (control & (PCSD | IPPCSE)) === 0 || ((this.#words[SRRCTL + q] as number) & 0x0e00_0000) === 0;
    const start = control & 0xff;
    if (stored === length && this.#strips[q] === 0 && this.#keepsFcs[q] === 0 && this.#inHeader[q] === 0) {
      copyFrame(queue.dma, queue.address, this.#each[q] as number, batch, f, length);
      if (!wanted || start >= length) return 0;
      return sumSegments(batch.segments, batch.firstSegment[f] as number, start, length - start);
    }
    const linear = this.#linear;
    const padded = frame.short ? length : Math.max(length, SHORTEST);
    const begin = assembleFrame(linear, batch, f, length, padded, this.#strips[q] !== 0 ? frame.tagAt : -1, this.#keepsFcs[q] !== 0, frame.bad);
    const inHeader = this.#inHeader[q] as number;
    if (inHeader > 0 && queue.headerAddress !== 0) copyOut(queue.dma, queue.headerAddress, linear, begin, inHeader);
    copyAssembled(queue.dma, queue.address, this.#each[q] as number, linear, begin, this.#replicates[q] !== 0 ? 0 : inHeader, stored);
    return wanted && start < stored ? sumBytes(linear, begin + start, stored - start) : 0;
  }
}

/** A legacy descriptor's status and errors (7.1.4), of the bits an advanced one has. */
function legacyChecks(checks: number): number {
  const status = checks & 0xff;
  const errors = ((checks & ERROR_L4E) !== 0 ? 1 << 13 : 0) | ((checks & ERROR_IPE) !== 0 ? 1 << 14 : 0) | ((checks & ERROR_RXE) !== 0 ? 1 << 15 : 0);
  return status | errors | ((checks & (STATUS_IPCS | STATUS_L4CS)) === 0 ? STATUS_IXSM : 0);
}
