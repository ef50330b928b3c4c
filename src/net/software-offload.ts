// Offloads done in software for a receiver that does not take them: the checksum filled in, a GSO frame cut into frames of its segment size (TCP over
// IPv4 and IPv6, UDP_L4). Headers are made in private scratch; payload stays where it lies and is referenced, so the only copy is the one into the receive ring.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { fold, pseudoHeaderSum, storeChecksum, storeSum, sumBytes, sumSegments, swap16 } from './checksum.ts';
import { FrameHeaders, gatherHeader, HEADER_LIMIT, PROTOCOL_UDP } from './headers.ts';
import { gsoNeeds, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET } from './offload-request.ts';
import { ACCEPTS_CSUM, FRAME_MALFORMED, FRAME_NEEDS_CSUM, FrameBatch } from './port.ts';

/** Frames made at a time. */
const OUTPUT_FRAMES = 64;
/** A frame has at most as many payload slices as its source has segments; the largest source batch plus a header each fits. */
const OUTPUT_SEGMENTS = 8192;
const TCP_FIN_PSH = 0x09;
const TCP_CWR = 0x80;
const ZERO_IS_NONE = { zeroIsNone: true } as const;
const ZERO_IS_ZERO = { zeroIsNone: false } as const;

export class SoftwareOffload {
  /** Frames the last `convert` made. */
  readonly output: FrameBatch;
  /** How many frames the last converted frame becomes in all; 0: it is malformed. */
  total = 0;
  /** Sum over the headers of the last GSO frame converted, to know it again by. */
  headerSum = 0;
  readonly #scratch: ByteViews;
  /** The source frame's headers: one slot after the output frames' own. */
  readonly #template = OUTPUT_FRAMES * HEADER_LIMIT;
  readonly #templateBytes: Uint8Array;
  readonly #headers = new FrameHeaders();

  constructor() {
    this.#scratch = viewsOf(new ArrayBuffer((OUTPUT_FRAMES + 1) * HEADER_LIMIT));
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

  /** virtio 1.4 5.1.6.2: the ones' complement sum from csum_start to the end goes to csum_start + csum_offset; the field's contents (the pseudo header's sum) count. */
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
      this.#slice(batch, first, 0, field);
      storeChecksum(this.#scratch.u8, 0, sum, options);
      segments.addHost(this.#scratch, 0, 2);
    }
    this.#slice(batch, first, field + 2, length - field - 2);
    this.output.flags[0] = 0;
    this.#finishFrame(batch, frame, 0, length);
    this.total = 1;
  }

  #segment(batch: FrameBatch, frame: number, accepts: number, skip: number): void {
    const bytes = this.#templateBytes;
    const headers = this.#headers;
    this.total = 0;
    // Read again after the inspection: what is checked here is this copy.
    const available = gatherHeader(batch, frame, bytes, 0, HEADER_LIMIT);
    if (gsoNeeds(batch, frame, bytes, available, headers) === FRAME_MALFORMED) return;
    const length = batch.length[frame] as number;
    const mss = batch.gsoSize[frame] as number;
    const total = Math.max(1, Math.ceil((length - headers.payload) / mss));
    this.headerSum = sumBytes(this.#scratch, this.#template, headers.payload);
    const { output } = this;
    let segment = batch.firstSegment[frame] as number;
    const end = segment + (batch.segmentCount[frame] as number);
    let ahead = headers.payload + skip * mss;
    let at = ahead;
    const pseudo = pseudoHeaderSum(this.#scratch, this.#template + headers.network, headers.version, headers.protocol);
    for (let n = skip; n < total && output.count < OUTPUT_FRAMES; n++) {
      const size = Math.min(mss, length - at);
      const first = output.segments.count;
      if (first + 1 + end - segment > OUTPUT_SEGMENTS) break;
      const header = output.count * HEADER_LIMIT;
      output.segments.addHost(this.#scratch, header, headers.payload);
      let left = size;
      while (segment < end) {
        const run = Math.min((batch.segments.length[segment] as number) - ahead, left);
        if (run > 0) {
          output.segments.addHost(batch.segments.views[segment] as ByteViews, (batch.segments.offset[segment] as number) + ahead, run);
          left -= run;
          ahead += run;
        }
        if (left === 0) break;
        ahead -= batch.segments.length[segment] as number;
        segment++;
      }
      at += size;
      this.#makeHeader(header, batch, frame, n, total, size);
      this.#makeChecksum(header, first, size, pseudo, accepts);
      this.#finishFrame(batch, frame, first, headers.payload + size);
    }
    // Nothing fitted: a frame of more pieces than any batch holds.
    this.total = output.count === 0 && skip < total ? 0 : total;
  }

  /** Headers of segment `n`: copied from the template, with lengths, sequence, IP id and TCP flags of its own. */
  #makeHeader(header: number, batch: FrameBatch, frame: number, n: number, total: number, size: number): void {
    const headers = this.#headers;
    const { u8, u32 } = this.#scratch;
    const from = this.#template >>> 2;
    const to = header >>> 2;
    const words = (headers.payload + 3) >>> 2;
    for (let i = 0; i < words; i++) u32[to + i] = u32[from + i] as number;
    const ip = header + headers.network;
    const transport = header + headers.transport;
    if (headers.version === 4) {
      write16(u8, ip + 2, headers.payload - headers.network + size);
      write16(u8, ip + 4, read16(u8, ip + 4) + n);
      storeSum(u8, ip + 10, 0);
      storeChecksum(u8, ip + 10, sumBytes(this.#scratch, ip, headers.transport - headers.network), ZERO_IS_ZERO);
    } else {
      write16(u8, ip + 4, headers.payload - headers.network - 40 + size);
    }
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

  /** Appends `length` bytes that start `skip` bytes into the source's segments from `first` on. */
  #slice(batch: FrameBatch, first: number, skip: number, length: number): void {
    const { segments } = batch;
    let ahead = skip;
    let left = length;
    for (let segment = first; left > 0 && segment < segments.count; segment++) {
      const size = segments.length[segment] as number;
      if (ahead >= size) {
        ahead -= size;
        continue;
      }
      const run = Math.min(size - ahead, left);
      this.output.segments.addHost(segments.views[segment] as ByteViews, (segments.offset[segment] as number) + ahead, run);
      left -= run;
      ahead = 0;
    }
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
