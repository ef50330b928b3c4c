// The transmit context of Intel's parts (8254x 3.3.6): where in the coming frames the checksums go, and how a large frame is cut. Kept as numbers in one array so that a ring engine can remember
// many of them without making objects.

import type { ByteViews } from '#core/guest-memory';

/** A context as it lies in its descriptor: four words. */
export const CONTEXT_WORDS = 4;

export const TCP_FIN_PSH = 0x09;
export const TCP_CWR = 0x80;

/** Unpacked; one object is filled again and again. */
export class ChecksumContext {
  ipStart = 0;
  ipOffset = 0;
  /** Last byte summed; 0: to the end of the frame. */
  ipEnd = 0;
  start = 0;
  offset = 0;
  end = 0;
  /** Octets after the headers, over all segments. */
  payload = 0;
  tcp = false;
  sctp = false;
  ipv4 = false;
  /** What of the TCP flags (12 bits) passes in the first, the middle and the last of several segments. */
  firstFlags = 0xfff & ~TCP_FIN_PSH;
  middleFlags = 0xfff & ~TCP_FIN_PSH;
  lastFlags = 0xfff;
  headerLength = 0;
  segmentSize = 0;

  /** From the four words of a context descriptor. */
  load(words: Uint32Array, at: number): void {
    const w0 = words[at] as number;
    const w1 = words[at + 1] as number;
    const w2 = words[at + 2] as number;
    const w3 = words[at + 3] as number;
    this.ipStart = w0 & 0xff;
    this.ipOffset = (w0 >>> 8) & 0xff;
    this.ipEnd = w0 >>> 16;
    this.start = w1 & 0xff;
    this.offset = (w1 >>> 8) & 0xff;
    this.end = w1 >>> 16;
    this.payload = w2 & 0xfffff;
    this.tcp = ((w2 >>> 24) & 1) !== 0;
    this.ipv4 = ((w2 >>> 24) & 2) !== 0;
    this.headerLength = (w3 >>> 8) & 0xff;
    this.segmentSize = w3 >>> 16;
  }
}

export function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

/**
 * Makes the headers of segment `n` of `total`, with `size` octets of payload, out of the copied prototype header at `at` (8254x 3.5.4 to 3.5.7): lengths, IP identification, TCP sequence number and flags.
 * Checksum fields are left as they are: the prototype's partial sums. Offsets outside the header change nothing.
 */
export function makeSegmentHeader(views: ByteViews, at: number, context: ChecksumContext, n: number, total: number, size: number): void {
  const { u8 } = views;
  const { ipStart, start, headerLength } = context;
  if (context.ipv4) {
    if (ipStart + 6 <= headerLength) {
      write16(u8, at + ipStart + 2, headerLength - ipStart + size);
      write16(u8, at + ipStart + 4, read16(u8, at + ipStart + 4) + n);
    }
  } else if (ipStart + 6 <= headerLength) write16(u8, at + ipStart + 4, headerLength - ipStart - 40 + size);
  if (!context.tcp) {
    if (start + 6 <= headerLength) write16(u8, at + start + 4, headerLength - start + size);
    return;
  }
  if (start + 14 > headerLength) return;
  const sequence = read16(u8, at + start + 4) * 0x10000 + read16(u8, at + start + 6) + n * context.segmentSize;
  write16(u8, at + start + 4, sequence / 0x10000);
  write16(u8, at + start + 6, sequence);
  if (total === 1) return;
  const passes = n === 0 ? context.firstFlags : n < total - 1 ? context.middleFlags : context.lastFlags;
  u8[at + start + 12] = (u8[at + start + 12] as number) & (0xf0 | (passes >>> 8));
  u8[at + start + 13] = (u8[at + start + 13] as number) & passes;
}
