// Receive segment coalescing (VIRTIO_NET_F_RSC_EXT, virtio 1.4 5.1.9.4): TCP segments that follow each other in a batch become one GSO frame, if cutting it again would give
// the same segments back: one flow, one acknowledgement, window, set of options, TTL and DSCP/ECN, sequence numbers that join, all of one size but the last, which PSH, FIN or
// being short makes the last. Pure acknowledgements of the same number behind them are counted in place of delivered. Headers are made here, payload stays where it lies.
//
// A segment that is not vouched for (NEEDS_CSUM, DATA_VALID) has its checksum looked at first: what is coalesced counts as valid.

import { viewsOf } from '#core/guest-memory';
import { fold, pseudoHeaderSum, storeChecksum, storeSum, sumBytes, sumSegments, swap16 } from './checksum.ts';
import { FrameHeaders, gatherHeader, PROTOCOL_TCP, parseHeaders } from './headers.ts';
import { TCP_CHECKSUM_OFFSET } from './offload-request.ts';
import {
  ACCEPTS_CSUM,
  ACCEPTS_RSC,
  ACCEPTS_TSO4,
  ACCEPTS_TSO6,
  FRAME_DATA_VALID,
  FRAME_NEEDS_CSUM,
  FRAME_RSC_INFO,
  FrameBatch,
  GSO_TCPV4,
  GSO_TCPV6,
} from './port.ts';

/** Ethernet with two tags, IP without options or extensions, TCP with all of its options. */
const HEADER_BYTES = 144;
const SEGMENTS = 4352;
const LONGEST_PACKET = 0xffff;
const MOST_DUPLICATES = 255;
const FIN = 1;
const PSH = 8;
const ACK = 16;
const ECE = 64;
const DONT_FRAGMENT = 0x40;
const ZERO_IS_ZERO = { zeroIsNone: false } as const;

/** A segment looked at: its first bytes, its headers, and where its IP packet ends (a short frame is padded behind that). */
class Candidate {
  readonly views = viewsOf(new ArrayBuffer(HEADER_BYTES));
  readonly headers = new FrameHeaders();
  end = 0;
}

export class ReceiveCoalescer {
  /** The one frame `gather` made. */
  readonly output: FrameBatch;
  readonly #header = viewsOf(new ArrayBuffer(HEADER_BYTES));
  readonly #first = new Candidate();
  readonly #next = new Candidate();
  /** Of the frame being made. */
  readonly #made = { size: 0, total: 0, segments: 0, duplicates: 0, flags: 0 };

  constructor() {
    this.output = new FrameBatch(this.#header, 1, SEGMENTS);
  }

  /** Makes one frame of frame `f` and those behind it, before `to`. Returns of how many; below 2: there is nothing to coalesce. */
  gather(batch: FrameBatch, f: number, to: number, accepts: number): number {
    if (f + 1 >= to || batch.gsoType[f] !== 0 || batch.gsoType[f + 1] !== 0 || (accepts & ACCEPTS_RSC) === 0 || (accepts & ACCEPTS_CSUM) === 0) return 0;
    const first = this.#first;
    if (!look(batch, f, accepts, first)) return 0;
    const { headers } = first;
    const flags = first.views.u8[headers.transport + 13] as number;
    const size = first.end - headers.payload;
    if (size === 0 || (flags & (PSH | FIN)) !== 0) return 0;
    let last = flags;
    let total = first.end;
    let segments = 1;
    let duplicates = 0;
    let open = true;
    let n = 1;
    for (; f + n < to && duplicates < MOST_DUPLICATES; n++) {
      const next = this.#next;
      if (batch.gsoType[f + n] !== 0 || !look(batch, f + n, accepts, next)) break;
      const more = next.end - next.headers.payload;
      const duplicate = more === 0;
      if (duplicate ? ((next.views.u8[headers.transport + 13] as number) & (PSH | FIN)) !== 0 || last !== flags : !open || duplicates > 0) break;
      if (more > size || total + more - headers.network > LONGEST_PACKET + (headers.version === 6 ? 40 : 0)) break;
      if (!follows(first, next, total - headers.payload, n)) break;
      if (n === 1 && !valid(batch, f, first)) return 0;
      if (!valid(batch, f + n, next)) break;
      if (n === 1) this.#begin(batch, f, first);
      if (duplicate) duplicates++;
      else {
        last = next.views.u8[headers.transport + 13] as number;
        this.#append(batch, f + n, next);
        total += more;
        segments++;
        open = more === size && (last & (PSH | FIN)) === 0;
      }
    }
    if (n < 2) return 0;
    const made = this.#made;
    made.size = size;
    made.total = total;
    made.segments = segments;
    made.duplicates = duplicates;
    made.flags = flags | last;
    this.#finish(batch, f, first);
    return n;
  }

  #begin(batch: FrameBatch, f: number, first: Candidate): void {
    this.output.clear();
    this.#header.u8.set(first.views.u8);
    this.output.segments.addHost(this.#header, 0, first.headers.payload);
    this.#append(batch, f, first);
  }

  /** The payload of a segment, where it lies. */
  #append(batch: FrameBatch, f: number, { headers, end }: Candidate): void {
    this.output.segments.addSlice(batch.segments, batch.firstSegment[f] as number, headers.payload, end - headers.payload);
  }

  #finish(batch: FrameBatch, f: number, { headers }: Candidate): void {
    const made = this.#made;
    const { network, transport, payload, version } = headers;
    const { u8 } = this.#header;
    if (version === 4) {
      write16(u8, network + 2, made.total - network);
      storeSum(u8, network + 10, 0);
      storeChecksum(u8, network + 10, sumBytes(this.#header, network, transport - network), ZERO_IS_ZERO);
    } else write16(u8, network + 4, made.total - network - 40);
    u8[transport + 13] = made.flags;
    storeSum(u8, transport + TCP_CHECKSUM_OFFSET, fold(pseudoHeaderSum(this.#header, network, version, PROTOCOL_TCP) + swap16(made.total - transport)));
    const { output } = this;
    output.count = 1;
    output.firstSegment[0] = 0;
    output.segmentCount[0] = output.segments.count;
    output.length[0] = made.total;
    output.flags[0] = FRAME_NEEDS_CSUM | FRAME_RSC_INFO;
    output.gsoType[0] = version === 4 ? GSO_TCPV4 : GSO_TCPV6;
    output.headerLength[0] = payload;
    output.gsoSize[0] = made.size;
    output.csumStart[0] = made.segments;
    output.csumOffset[0] = made.duplicates;
    output.hash[0] = batch.hash[f] as number;
    output.hashReport[0] = batch.hashReport[f] as number;
    output.hashedBy[0] = batch.hashedBy[f] as number;
  }
}

/** Reads frame `f`. False when it is nothing that may be coalesced. */
function look(batch: FrameBatch, f: number, accepts: number, into: Candidate): boolean {
  const { views, headers } = into;
  const { u8 } = views;
  const available = gatherHeader(batch, f, u8, 0, HEADER_BYTES);
  if (!parseHeaders(u8, available, headers) || headers.protocol !== PROTOCOL_TCP || headers.fragment || headers.payload === 0) return false;
  const { network, transport, version } = headers;
  if ((accepts & (version === 4 ? ACCEPTS_TSO4 : ACCEPTS_TSO6)) === 0) return false;
  // IP options and extensions may mean something for each packet.
  if (transport !== network + (version === 4 ? 20 : 40)) return false;
  into.end = version === 4 ? network + read16(u8, network + 2) : network + 40 + read16(u8, network + 4);
  if (into.end < headers.payload || into.end > (batch.length[f] as number)) return false;
  const flags = u8[transport + 13] as number;
  // An acknowledgement and perhaps data, nothing else: no SYN, RST, URG, and no CWR, which is said once (RFC 3168 6.1.2).
  return (flags & ACK) !== 0 && (flags & ~(ACK | PSH | FIN | ECE)) === 0;
}

/** Whether `next` could be the next segment of a frame that begins with `first` and has `payload` bytes so far, from `n` packets. */
function follows({ views, headers }: Candidate, next: Candidate, payload: number, n: number): boolean {
  const a = views.u8;
  const b = next.views.u8;
  const { network, transport, version } = headers;
  const other = next.headers;
  if (other.network !== network || other.transport !== transport || other.payload !== headers.payload || other.version !== version) return false;
  // Addresses, tags and EtherType.
  if (!same(a, b, 0, network)) return false;
  if (version === 4) {
    // All but the length, the identification and the checksum.
    if (!same(a, b, network, network + 2) || !same(a, b, network + 6, network + 10) || !same(a, b, network + 12, network + 20)) return false;
    // RFC 6864 4: the identification means nothing where nobody may fragment; elsewhere cutting counts it up.
    const atomic = ((a[network + 6] as number) & DONT_FRAGMENT) !== 0;
    if (!atomic && read16(b, network + 4) !== ((read16(a, network + 4) + n) & 0xffff)) return false;
  } else if (!same(a, b, network, network + 4) || !same(a, b, network + 6, transport)) return false;
  const sequence = (read32(a, transport + 4) + payload) | 0;
  if (read32(b, transport + 4) !== sequence) return false;
  // Ports; acknowledgement and header length; window; urgent pointer and options.
  if (!same(a, b, transport, transport + 4) || !same(a, b, transport + 8, transport + 13) || !same(a, b, transport + 14, transport + 16)) return false;
  const differ = ((a[transport + 13] as number) ^ (b[transport + 13] as number)) & ~(PSH | FIN);
  return differ === 0 && same(a, b, transport + 18, headers.payload);
}

function valid(batch: FrameBatch, f: number, { views, headers, end }: Candidate): boolean {
  const { network, transport, version } = headers;
  if (version === 4 && sumBytes(views, network, transport - network) !== 0xffff) return false;
  const flags = batch.flags[f] as number;
  if ((flags & FRAME_NEEDS_CSUM) !== 0) return batch.csumStart[f] === transport && batch.csumOffset[f] === TCP_CHECKSUM_OFFSET;
  if ((flags & FRAME_DATA_VALID) !== 0) return true;
  const first = batch.firstSegment[f] as number;
  const sum = sumSegments(batch.segments, first, transport, end - transport);
  return fold(pseudoHeaderSum(views, network, version, PROTOCOL_TCP) + swap16(end - transport) + sum) === 0xffff;
}

function same(a: Uint8Array, b: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (a[i] !== b[i]) return false;
  return true;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function read32(bytes: Uint8Array, at: number): number {
  return (read16(bytes, at) << 16) | read16(bytes, at + 2);
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
