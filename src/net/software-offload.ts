// Offloads done in software for a receiver that does not take them: the checksum filled in, a GSO frame cut into frames of its segment size (TCP over
// IPv4 and IPv6, UDP_L4, the same inside a UDP tunnel), a UDP datagram into IP fragments (fragmentation.ts). Headers are made in private scratch; payload stays where it lies and is referenced, so the only copy is the one into the receive ring.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { fold, pseudoHeaderSum, storeChecksum, storeSum, sumBytes, sumSegments, swap16 } from './checksum.ts';
import { type Fragment, fragmentIdentification, writeFragmentHeader } from './fragmentation.ts';
import { FrameHeaders, gatherHeader, HEADER_LIMIT, PROTOCOL_UDP, TUNNEL_HEADER_LIMIT } from './headers.ts';
import { gsoNeeds, headerLimit, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET } from './offload-request.ts';
import { ACCEPTS_CSUM, FRAME_MALFORMED, FRAME_NEEDS_CSUM, FRAME_UDP_TUNNEL_CSUM, FrameBatch, GSO_UDP, GSO_UDP_TUNNEL } from './port.ts';

/** Frames made at a time. */
const OUTPUT_FRAMES = 64;
/** A frame has at most as many payload slices as its source has segments; the largest source batch plus a header each fits. */
const OUTPUT_SEGMENTS = 8192;
/** Room for the headers of one output frame: those of a tunnel, or a plain frame's and a fragment header. */
const SLOT = TUNNEL_HEADER_LIMIT;
const TCP_FIN_PSH = 0x09;
const TCP_CWR = 0x80;
const ZERO_IS_NONE = { zeroIsNone: true } as const;
const ZERO_IS_ZERO = { zeroIsNone: false } as const;

export class SoftwareOffload {
  /** Frames the last `convert` made. */
  readonly output: FrameBatch;
  /** How many frames the last converted frame becomes in all; 0: it is malformed. */
  total = 0;
  /** Their bytes in all. */
  bytes = 0;
  /** Sum over the headers of the last GSO frame converted, to know it again by. */
  headerSum = 0;
  readonly #scratch: ByteViews;
  /** The source frame's headers: one slot after the output frames' own. */
  readonly #template = OUTPUT_FRAMES * SLOT;
  readonly #templateBytes: Uint8Array;
  readonly #headers = new FrameHeaders();
  /** Around a tunnel's inner ones. */
  readonly #outer = new FrameHeaders();
  readonly #piece: Fragment = { offset: 0, size: 0, more: false, inserted: false, identification: 0 };
  // Where the source's payload goes on: a segment, how far into it, and the end of the frame's segments.
  #segmentAt = 0;
  #ahead = 0;
  #segmentEnd = 0;

  constructor() {
    this.#scratch = viewsOf(new ArrayBuffer((OUTPUT_FRAMES + 1) * SLOT));
    this.#templateBytes = this.#scratch.u8.subarray(this.#template);
    this.output = new FrameBatch(this.#scratch, OUTPUT_FRAMES, OUTPUT_SEGMENTS);
  }

  /**
   * Converts one frame (whose needs go beyond `accepts`) for a receiver, leaving out the first `skip` of the frames it becomes. The result is in `output`, as many as
   * fit; `total` says how many there are in all. The output refers to the source's memory: deliver it before the source completes.
   */
  convert(batch: FrameBatch, frame: number, accepts: number, skip: number): void {
    this.output.clear();
    if (batch.gsoType[frame] === 0) this.#fillChecksum(batch, frame);
    else this.#segment(batch, frame, accepts, skip);
  }

  /** virtio 1.4 5.1.9.2: the ones' complement sum from csum_start to the end goes to csum_start + csum_offset; the field's contents (the pseudo header's sum) count. */
  #fillChecksum(batch: FrameBatch, frame: number): void {
    const length = batch.length[frame] as number;
    const start = batch.csumStart[frame] as number;
    const field = start + (batch.csumOffset[frame] as number);
    this.total = 0;
    if (field + 2 > length || (batch.segmentCount[frame] as number) + 2 > OUTPUT_SEGMENTS) return;
    const first = batch.firstSegment[frame] as number;
    const sum = sumSegments(batch.segments, first, start, length - start);
    // Frames up to the field are copied when they are short, as they always are; a field further in is spliced between slices.
    const copied = field + 2 <= HEADER_LIMIT ? gatherHeader(batch, frame, this.#scratch.u8, 0, field + 2) : 0;
    const { segments } = this.output;
    // csum_offset 6 is UDP: its 0 would mean "none".
    const options = batch.csumOffset[frame] === UDP_CHECKSUM_OFFSET ? ZERO_IS_NONE : ZERO_IS_ZERO;
    if (copied > 0) {
      storeChecksum(this.#scratch.u8, field, sum, options);
      segments.addHost(this.#scratch, 0, field + 2);
    } else {
      segments.addSlice(batch.segments, first, 0, field);
      storeChecksum(this.#scratch.u8, 0, sum, options);
      segments.addHost(this.#scratch, 0, 2);
    }
    segments.addSlice(batch.segments, first, field + 2, length - field - 2);
    this.output.flags[0] = 0;
    this.#finishFrame(batch, frame, 0, length);
    this.total = 1;
  }

  #segment(batch: FrameBatch, frame: number, accepts: number, skip: number): void {
    const bytes = this.#templateBytes;
    const headers = this.#headers;
    this.total = 0;
    const type = batch.gsoType[frame] as number;
    // Read again after the inspection: what is checked here is this copy.
    const available = gatherHeader(batch, frame, bytes, 0, headerLimit(type));
    if (gsoNeeds(batch, frame, bytes, available, headers, this.#outer) === FRAME_MALFORMED) return;
    this.headerSum = sumBytes(this.#scratch, this.#template, headers.payload);
    if (type === GSO_UDP) {
      this.#fragment(batch, frame, skip);
      return;
    }
    const length = batch.length[frame] as number;
    const mss = batch.gsoSize[frame] as number;
    const total = Math.max(1, Math.ceil((length - headers.payload) / mss));
    this.bytes = length + (total - 1) * headers.payload;
    const { output } = this;
    let at = headers.payload + skip * mss;
    this.#seek(batch, frame, at);
    const pseudo = pseudoHeaderSum(this.#scratch, this.#template + headers.network, headers.version, headers.protocol);
    const tunnel = (type & GSO_UDP_TUNNEL) !== 0;
    for (let n = skip; n < total && output.count < OUTPUT_FRAMES; n++) {
      const size = Math.min(mss, length - at);
      const first = output.segments.count;
      if (first + 1 + this.#segmentEnd - this.#segmentAt > OUTPUT_SEGMENTS) break;
      const header = output.count * SLOT;
      output.segments.addHost(this.#scratch, header, headers.payload);
      this.#take(batch, size);
      at += size;
      this.#makeHeader(header, batch, frame, n, total, size);
      const outerChecksum = tunnel && this.#makeOuterHeader(header, batch, frame, n, size);
      this.#makeChecksum(header, first, size, pseudo, outerChecksum ? 0 : accepts);
      if (outerChecksum) this.#makeOuterChecksum(header, first, size);
      this.#finishFrame(batch, frame, first, headers.payload + size);
    }
    // Nothing fitted: a frame of more pieces than any batch holds.
    this.total = output.count === 0 && skip < total ? 0 : total;
  }

  /** UFO: the datagram with its checksum, in IP fragments. */
  #fragment(batch: FrameBatch, frame: number, skip: number): void {
    const headers = this.#headers;
    const { version, transport, payload } = headers;
    const length = batch.length[frame] as number;
    const from = headers.fragmentable;
    const unit = (batch.gsoSize[frame] as number) & ~7;
    const total = Math.max(1, Math.ceil((length - from) / unit));
    const inserted = version === 6 && total > 1 ? 8 : 0;
    this.bytes = length + (total - 1) * from + total * inserted;
    const template = this.#templateBytes;
    write16(template, transport + 4, length - transport);
    const first = batch.firstSegment[frame] as number;
    if (skip === 0) {
      storeSum(template, transport + UDP_CHECKSUM_OFFSET, 0);
      const seed = pseudoHeaderSum(this.#scratch, this.#template + headers.network, version, headers.protocol) + swap16(length - transport);
      const sum = sumBytes(this.#scratch, this.#template + transport, payload - transport) + sumSegments(batch.segments, first, payload, length - payload);
      storeChecksum(template, transport + UDP_CHECKSUM_OFFSET, seed + sum, ZERO_IS_NONE);
    }
    const piece = this.#piece;
    piece.inserted = inserted > 0;
    piece.identification = inserted > 0 ? fragmentIdentification(batch.segments, first, from, length - from, this.headerSum) : 0;
    const { output } = this;
    // The first fragment has the headers up to the payload from the template.
    this.#seek(batch, frame, skip === 0 ? payload : from + skip * unit);
    for (let n = skip; n < total && output.count < OUTPUT_FRAMES; n++) {
      const offset = n * unit;
      const size = Math.min(unit, length - from - offset);
      const segment = output.segments.count;
      if (segment + 1 + this.#segmentEnd - this.#segmentAt > OUTPUT_SEGMENTS) break;
      const header = output.count * SLOT;
      const kept = n === 0 ? payload - from : 0;
      const { u8 } = this.#scratch;
      for (let i = 0; i < from; i++) u8[header + i] = template[i] as number;
      for (let i = 0; i < kept; i++) u8[header + from + inserted + i] = template[from + i] as number;
      piece.offset = offset;
      piece.size = size;
      piece.more = n < total - 1;
      writeFragmentHeader(this.#scratch, header, headers, piece);
      output.segments.addHost(this.#scratch, header, from + inserted + kept);
      this.#take(batch, size - kept);
      output.flags[output.count] = 0;
      this.#finishFrame(batch, frame, segment, from + inserted + size);
      // A fragment hashes by its addresses alone.
      output.hashedBy[output.count - 1] = 0;
    }
    this.total = output.count === 0 && skip < total ? 0 : total;
  }

  /** Goes to byte `at` of the source frame. */
  #seek(batch: FrameBatch, frame: number, at: number): void {
    this.#segmentAt = batch.firstSegment[frame] as number;
    this.#segmentEnd = this.#segmentAt + (batch.segmentCount[frame] as number);
    this.#ahead = at;
  }

  /** Appends the next `size` bytes of the source frame to the output's segments. */
  #take(batch: FrameBatch, size: number): void {
    const { segments } = batch;
    let left = size;
    while (left > 0 && this.#segmentAt < this.#segmentEnd) {
      const s = this.#segmentAt;
      const there = segments.length[s] as number;
      const run = Math.min(there - this.#ahead, left);
      if (run > 0) {
        this.output.segments.addHost(segments.views[s] as ByteViews, (segments.offset[s] as number) + this.#ahead, run);
        left -= run;
        this.#ahead += run;
      }
      if (left === 0) return;
      this.#ahead -= there;
      this.#segmentAt++;
    }
  }

  /** Headers of segment `n`: copied from the template, with lengths, sequence, IP id and TCP flags of its own. */
  #makeHeader(header: number, batch: FrameBatch, frame: number, n: number, total: number, size: number): void {
    const headers = this.#headers;
    const { u8, u32 } = this.#scratch;
    const from = this.#template >>> 2;
    const to = header >>> 2;
    const words = (headers.payload + 3) >>> 2;
    for (let i = 0; i < words; i++) u32[to + i] = u32[from + i] as number;
    const transport = header + headers.transport;
    this.#makeIp(header, headers, n, headers.payload + size);
    if (headers.protocol === PROTOCOL_UDP) {
      write16(u8, transport + 4, 8 + size);
      return;
    }
    const sequence = read16(u8, transport + 4) * 0x10000 + read16(u8, transport + 6) + n * (batch.gsoSize[frame] as number);
    write16(u8, transport + 4, sequence / 0x10000);
    write16(u8, transport + 6, sequence);
    // FIN and PSH belong to the last bytes; CWR answers one congestion signal once (RFC 3168 6.1.2).
    if (n < total - 1) u8[transport + 13] = (u8[transport + 13] as number) & ~TCP_FIN_PSH;
    if (n > 0) u8[transport + 13] = (u8[transport + 13] as number) & ~TCP_CWR;
  }

  /** The IP header of piece `n`, of a frame of `length` bytes. */
  #makeIp(header: number, { network, transport, version }: FrameHeaders, n: number, length: number): void {
    const { u8 } = this.#scratch;
    const ip = header + network;
    if (version === 4) {
      write16(u8, ip + 2, length - network);
      write16(u8, ip + 4, read16(u8, ip + 4) + n);
      storeSum(u8, ip + 10, 0);
      storeChecksum(u8, ip + 10, sumBytes(this.#scratch, ip, transport - network), ZERO_IS_ZERO);
    } else write16(u8, ip + 4, length - network - 40);
  }

  /** Outer IP and UDP of a tunnel's segment. Returns whether the outer UDP has a checksum: one to be filled in, or the sender's own, which it made for whole segments. */
  #makeOuterHeader(header: number, batch: FrameBatch, frame: number, n: number, size: number): boolean {
    const outer = this.#outer;
    const length = this.#headers.payload + size;
    this.#makeIp(header, outer, n, length);
    const { u8 } = this.#scratch;
    const udp = header + outer.transport;
    write16(u8, udp + 4, length - outer.transport);
    return ((batch.flags[frame] as number) & FRAME_UDP_TUNNEL_CSUM) !== 0 || read16(u8, udp + UDP_CHECKSUM_OFFSET) !== 0;
  }

  /** After the inner one, which it covers. */
  #makeOuterChecksum(header: number, first: number, size: number): void {
    const { network, transport, version, protocol } = this.#outer;
    const covered = this.#headers.payload - transport;
    const { u8 } = this.#scratch;
    storeSum(u8, header + transport + UDP_CHECKSUM_OFFSET, 0);
    const payload = sumSegments(this.output.segments, first + 1, 0, size);
    const sum = sumBytes(this.#scratch, header + transport, covered) + ((covered & 1) === 0 ? payload : swap16(payload));
    const seed = pseudoHeaderSum(this.#scratch, this.#template + network, version, protocol) + swap16(covered + size);
    storeChecksum(u8, header + transport + UDP_CHECKSUM_OFFSET, sum + seed, ZERO_IS_NONE);
  }

  #makeChecksum(header: number, first: number, size: number, pseudo: number, accepts: number): void {
    const headers = this.#headers;
    const { output } = this;
    const { u8 } = this.#scratch;
    const udp = headers.protocol === PROTOCOL_UDP;
    const offset = udp ? UDP_CHECKSUM_OFFSET : TCP_CHECKSUM_OFFSET;
    const field = header + headers.transport + offset;
    const transportHeader = headers.payload - headers.transport;
    const seed = fold(pseudo + swap16(transportHeader + size));
    const frame = output.count;
    if ((accepts & ACCEPTS_CSUM) !== 0) {
      // The receiver can finish it: then the payload need not be read here at all.
      storeSum(u8, field, seed);
      output.flags[frame] = FRAME_NEEDS_CSUM;
      output.csumStart[frame] = headers.transport;
      output.csumOffset[frame] = offset;
      return;
    }
    storeSum(u8, field, 0);
    const sum = sumBytes(this.#scratch, header + headers.transport, transportHeader) + sumSegments(output.segments, first + 1, 0, size);
    storeChecksum(u8, field, sum + seed, udp ? ZERO_IS_NONE : ZERO_IS_ZERO);
    output.flags[frame] = 0;
    output.csumStart[frame] = 0;
    output.csumOffset[frame] = 0;
  }

  #finishFrame(batch: FrameBatch, source: number, first: number, length: number): void {
    const { output } = this;
    const frame = output.count++;
    output.firstSegment[frame] = first;
    output.segmentCount[frame] = output.segments.count - first;
    output.length[frame] = length;
    // Addresses and ports are the source frame's: so is their hash.
    output.hash[frame] = batch.hash[source] as number;
    output.hashReport[frame] = batch.hashReport[source] as number;
    output.hashedBy[frame] = batch.hashedBy[source] as number;
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
