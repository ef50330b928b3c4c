// The usual frame on its way to a receive descriptor: in one piece, addressed to this station, without a tag, of a length that one buffer holds. Runs of such frames are stored here with what receive.ts does for
// any frame, less everything that they cannot need; the first frame that is otherwise ends the run, and whatever is doubtful counts as otherwise. A short frame is summed while it is copied, and the one
// sum serves both the Packet Checksum and the TCP or UDP checksum (8254x 3.2.9).

import { copyBytes } from '#core/copy';
import { DMA_WRITE, type DmaSpace } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';
import { packetChecksum, RXCSUM_IPOFL, RXCSUM_TUOFL, STATUS_CHECKED_IP, STATUS_CHECKED_TRANSPORT, STATUS_IXSM } from '#devices/intel/receive-checksum';
import { COUNT, countSize } from '#devices/intel/statistics';
import { fold, sumBytes, swap16 } from '#net/checksum';
import { PROTOCOL_TCP, PROTOCOL_UDP } from '#net/headers';
import type { FrameBatch } from '#net/port';
import { type EngineState, FLAG_LOOPBACK } from './engine-state.ts';
import type { ReceiveRing } from './receive-ring.ts';
import { AT } from './registers.ts';

const { FCT, RAH, RAL, RDH, RSRPD, RXCSUM, VET } = AT;

const SHORTEST = 60;
const LONGEST = 1518;
const LONGEST_RUN = 256;
const FCS = 4;
const ADDRESS_VALID = 0x8000_0000;
/** DD and EOP. */
const STATUS_WHOLE = 3;
/** From here on two passes, by loops made for one thing each, are faster than one (measured). */
const SUMMED_WHILE_COPIED = 256;
const ALL_ONES = 0xffff;
const IPV4_LOADED = 0x0008;
/** Version 4 and five words of header; more fragments or an offset; as a little-endian 16-bit load has them. */
const PLAIN_IPV4 = 0x45;
const FRAGMENT_LOADED = 0xff3f;
/** Offsets in a frame, in 16-bit words. */
const TYPE = 6;
const IP = 7;
const TRANSPORT = 17;

export class PlainReceive {
  /** Of the frames of the last run. */
  bytes = 0;
  readonly #state: EngineState;
  readonly #dma: DmaSpace;
  readonly #ring: ReceiveRing;
  /** Frames of up to so many bytes; 0: none is plain. */
  #longest = 0;
  // The station's address as three 16-bit words, types that are not plain, RXCSUM.
  #word0 = 0;
  #word1 = 0;
  #word2 = 0;
  #tagType = 0;
  #controlType = 0;
  #checks = 0;
  #start = 0;
  /** Last words of the run's descriptors. */
  readonly #words = new Int32Array(LONGEST_RUN);

  constructor(state: EngineState, dma: DmaSpace, ring: ReceiveRing) {
    this.#state = state;
    this.#dma = dma;
    this.#ring = ring;
  }

  /** The control plane changed something. @param bufferBytes of a receive buffer; 0: frames are changed before they are stored */
  configure(bufferBytes: number): void {
    const words = this.#state.registers;
    const low = words[RAL] as number;
    const high = words[RAH] as number;
    this.#word0 = low & 0xffff;
    this.#word1 = low >>> 16;
    this.#word2 = high & 0xffff;
    // Valid, compared with destinations (AS 00), and no group's: those have statistics of their own.
    const station = (high & ADDRESS_VALID) !== 0 && (high & 0x3_0000) === 0 && (low & 1) === 0;
    this.#longest = station ? Math.min(bufferBytes, LONGEST) : 0;
    this.#tagType = swap16((words[VET] as number) & 0xffff);
    this.#controlType = swap16((words[FCT] as number) & 0xffff);
    this.#checks = words[RXCSUM] as number;
    this.#start = this.#checks & 0xff;
  }

  /** Stores frames from `from` on, up to the first that is not plain or finds no buffer. Returns how many; the ring was looked at. @param flags of the state */
  run(batch: FrameBatch, from: number, to: number, flags: number): number {
    const ring = this.#ring;
    const { whole } = ring;
    const { registers, statistics } = this.#state;
    if (whole === null || this.#longest === 0 || (flags & FLAG_LOOPBACK) !== 0 || registers[RSRPD] !== 0 || (this.#start & 1) !== 0) return 0;
    const dma = this.#dma;
    const { u32 } = whole.slab.views;
    const { size, first } = ring;
    const { segments } = batch;
    const most = Math.min(to - from, ring.available, LONGEST_RUN);
    const words = this.#words;
    let index = ring.head;
    let bytes = 0;
    let onWire = 0;
    let sized = 0;
    let n = 0;
    for (; n < most; n++) {
      const length = batch.length[from + n] as number;
      const segment = batch.firstSegment[from + n] as number;
      const source = segments.offset[segment] as number;
      if (batch.segmentCount[from + n] !== 1 || length < SHORTEST || length > this.#longest || (source & 1) !== 0) break;
      const views = segments.views[segment] as ByteViews;
      const { u16 } = views;
      const half = source >>> 1;
      const type = u16[half + TYPE] as number;
      if (u16[half] !== this.#word0 || u16[half + 1] !== this.#word1 || u16[half + 2] !== this.#word2) break;
      if (type === this.#tagType || type === this.#controlType) break;
      const at = first + index * 4;
      const address = (u32[at + 1] as number) * 2 ** 32 + (u32[at] as number);
      const window = address === 0 ? null : dma.window(address, length, DMA_WRITE);
      if (window === null) break;
      const target = address + window.bias;
      const to8 = window.slab.views;
      let sum: number;
      if (((source | target) & 3) === 0 && length <= SUMMED_WHILE_COPIED) sum = copyAndSum(to8, target, views, source, length);
      else {
        copyBytes(to8, target, views, source, length);
        sum = sumBytes(views, source, length);
      }
      const status = this.#status(u16, half, length, sum, type);
      if (status < 0) break;
      dma.markDirty(window, address, length);
      u32[at + 2] = length | (packetChecksum(this.#sumFrom(views, source, length, sum)) << 16);
      dma.markDirty(whole, ring.base + index * 16, 16);
      words[n] = STATUS_WHOLE | status;
      if (++index === size) index = 0;
      bytes += length;
      if (length + FCS !== onWire) {
        if (sized > 0) countSize(statistics, COUNT.PRC64, onWire, sized);
        onWire = length + FCS;
        sized = 0;
      }
      sized++;
    }
    this.bytes = bytes;
    if (n === 0) return 0;
    // DD last, as a driver polls it; and of all at a time: one that follows on the heels would have each line of descriptors go to and fro for every one of them (measured). The head goes with it.
    index = ring.head;
    for (let i = 0; i < n; i++) {
      Atomics.store(u32, first + index * 4 + 3, words[i] as number);
      if (++index === size) index = 0;
      registers[RDH] = index;
    }
    ring.advanceBy(n);
    const octets = bytes + n * FCS;
    countSize(statistics, COUNT.PRC64, onWire, sized);
    statistics[COUNT.TPR] = (statistics[COUNT.TPR] as number) + n;
    statistics[COUNT.TOR] = (statistics[COUNT.TOR] as number) + octets;
    statistics[COUNT.GPRC] = (statistics[COUNT.GPRC] as number) + n;
    statistics[COUNT.GORC] = (statistics[COUNT.GORC] as number) + octets;
    return n;
  }

  /** The sum from RXCSUM.PCSS on, given that of all. */
  #sumFrom(views: ByteViews, source: number, length: number, sum: number): number {
    const start = this.#start;
    if (start === 0) return sum;
    if (start >= length) return 0;
    let before = 0;
    if (start > SHORTEST) return sumBytes(views, source + start, length - start);
    for (let i = source >>> 1, end = i + (start >>> 1); i < end; i++) before += views.u16[i] as number;
    const rest = fold(sum + ALL_ONES - fold(before));
    // Which of its two zeros ones' complement means here, only a sum can tell.
    return rest === ALL_ONES ? sumBytes(views, source + start, length - start) : rest;
  }

  /** Checksum bits of the descriptor; -1: headers that this does not know. */
  #status(u16: Uint16Array, half: number, length: number, sum: number, type: number): number {
    const checks = this.#checks & (RXCSUM_IPOFL | RXCSUM_TUOFL);
    if (checks === 0) return STATUS_IXSM;
    if (checks !== (RXCSUM_IPOFL | RXCSUM_TUOFL) || type !== IPV4_LOADED) return -1;
    const ip = half + IP;
    const word0 = u16[ip] as number;
    const total = swap16(u16[ip + 1] as number);
    const protocol = (u16[ip + 4] as number) >>> 8;
    if ((word0 & 0xff) !== PLAIN_IPV4 || total !== length - 2 * IP || ((u16[ip + 3] as number) & FRAGMENT_LOADED) !== 0) return -1;
    const addresses = (u16[ip + 6] as number) + (u16[ip + 7] as number) + (u16[ip + 8] as number) + (u16[ip + 9] as number);
    const header =
      word0 + (u16[ip + 1] as number) + (u16[ip + 2] as number) + (u16[ip + 3] as number) + (u16[ip + 4] as number) + (u16[ip + 5] as number) + addresses;
    let ethernet = type;
    for (let i = 0; i < TYPE; i++) ethernet += u16[half + i] as number;
    let status = fold(header) === ALL_ONES ? STATUS_CHECKED_IP.good : STATUS_CHECKED_IP.bad;
    const transport = half + TRANSPORT;
    if (protocol === PROTOCOL_UDP) {
      // RFC 768: none was made.
      if (u16[transport + 3] === 0) return status;
    } else if (protocol !== PROTOCOL_TCP) return -1;
    else {
      const octets = ((u16[transport + 6] as number) & 0xf0) >>> 2;
      if (octets < 20 || octets > length - 2 * TRANSPORT) return -1;
    }
    // What is left of the frame's sum without its other headers, and the pseudo header: both zeros of ones' complement are a right checksum, as the protocol keeps it from being made of nothing.
    const rest = sum + (ALL_ONES - fold(ethernet)) + (ALL_ONES - fold(header)) + addresses + (protocol << 8) + swap16(length - 2 * TRANSPORT);
    status |= fold(rest) === ALL_ONES ? STATUS_CHECKED_TRANSPORT.good : STATUS_CHECKED_TRANSPORT.bad;
    return status;
  }
}

/** Copies, both sides aligned to words, and returns the folded sum. */
function copyAndSum(to: ByteViews, target: number, from: ByteViews, source: number, length: number): number {
  const d = to.i32;
  const s = from.i32;
  let a = target >>> 2;
  let b = source >>> 2;
  const end = b + (length >>> 2);
  let even = 0;
  let odd = 0;
  for (; b + 4 <= end; b += 4, a += 4) {
    const w0 = s[b] as number;
    const w1 = s[b + 1] as number;
    const w2 = s[b + 2] as number;
    const w3 = s[b + 3] as number;
    d[a] = w0;
    d[a + 1] = w1;
    d[a + 2] = w2;
    d[a + 3] = w3;
    even = (even + (w0 & 0xffff) + (w1 & 0xffff) + (w2 & 0xffff) + (w3 & 0xffff)) | 0;
    odd = (odd + (w0 >>> 16) + (w1 >>> 16) + (w2 >>> 16) + (w3 >>> 16)) | 0;
  }
  for (; b < end; b++, a++) {
    const word = s[b] as number;
    d[a] = word;
    even = (even + (word & 0xffff) + (word >>> 16)) | 0;
  }
  for (let i = length & ~3; i < length; i++) {
    const byte = from.u8[source + i] as number;
    to.u8[target + i] = byte;
    even += (i & 1) === 0 ? byte : byte << 8;
  }
  return fold(even + odd);
}
