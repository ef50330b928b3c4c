// The Internet checksum (RFC 1071) over memory in place. Sums here are 16-bit ones' complement sums of little-endian words, as the bytes lie: the sum does not
// depend on byte order except for a final swap, and storing the low byte first undoes it. A range counts as starting at an even position of its stream;
// `swap16` moves a range's sum to an odd one.

import type { ByteViews } from '#core/guest-memory';
import type { SegmentList } from '#core/segments';

/** 4-byte words summed before the 32-bit accumulator is folded: each adds less than 2^17. */
const WORDS_PER_FOLD = 8192;

/** Adds the carries back in: any non-negative 32-bit sum to 16 bits. */
export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

export function swap16(value: number): number {
  return ((value & 0xff) << 8) | ((value >>> 8) & 0xff);
}

/** Folded sum of `length` bytes at `offset`. */
export function sumBytes(views: ByteViews, offset: number, length: number): number {
  if (length <= 0) return 0;
  if ((offset & 1) === 0) return sumAligned(views, offset, length);
  return fold((views.u8[offset] as number) + swap16(sumAligned(views, offset + 1, length - 1)));
}

function sumAligned(views: ByteViews, offset: number, length: number): number {
  let sum = 0;
  let at = offset;
  let left = length;
  if ((at & 2) !== 0 && left >= 2) {
    sum = views.u16[at >>> 1] as number;
    at += 2;
    left -= 2;
  }
  if (left >= 4) {
    const words = views.i32;
    let word = at >>> 2;
    const end = word + (left >>> 2);
    while (word < end) {
      const stop = Math.min(end, word + WORDS_PER_FOLD);
      let even = 0;
      let odd = 0;
      // Two chains of additions, four words a step: the adds of one wait for nothing of the other.
      for (; word + 4 <= stop; word += 4) {
        const a = words[word] as number;
        const b = words[word + 1] as number;
        const c = words[word + 2] as number;
        const d = words[word + 3] as number;
        even = (even + (a & 0xffff) + (b & 0xffff) + (c & 0xffff) + (d & 0xffff)) | 0;
        odd = (odd + (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16)) | 0;
      }
      for (; word < stop; word++) {
        const a = words[word] as number;
        even = (even + (a & 0xffff) + (a >>> 16)) | 0;
      }
      sum = fold(sum + fold(even) + fold(odd));
    }
    at += left & ~3;
    left &= 3;
  }
  if (left >= 2) {
    sum += views.u16[at >>> 1] as number;
    at += 2;
    left -= 2;
  }
  if (left > 0) sum += views.u8[at] as number;
  return fold(sum);
}

/**
 * Folded sum of `length` bytes that start `skip` bytes into the segments from `first` on. The segments hold at least that much.
 */
export function sumSegments(list: SegmentList, first: number, skip: number, length: number): number {
  let sum = 0;
  let segment = first;
  let ahead = skip;
  let done = 0;
  while (done < length && segment < list.count) {
    const size = list.length[segment] as number;
    if (ahead >= size) {
      ahead -= size;
    } else {
      const run = Math.min(size - ahead, length - done);
      const part = sumBytes(list.views[segment] as ByteViews, (list.offset[segment] as number) + ahead, run);
      sum = fold(sum + ((done & 1) === 0 ? part : swap16(part)));
      done += run;
      ahead = 0;
    }
    segment++;
  }
  return sum;
}

/**
 * Folded sum of the TCP/UDP pseudo header (RFC 9293 3.1, RFC 8200 8.1) of the IP header at `ip`, without the length: add `swap16(bytes of the TCP or UDP header and payload)`.
 * Only the addresses and the protocol go in, so one sum serves every segment of a packet.
 */
export function pseudoHeaderSum(views: ByteViews, ip: number, version: number, protocol: number): number {
  const addresses = version === 4 ? sumBytes(views, ip + 12, 8) : sumBytes(views, ip + 8, 32);
  return fold(addresses + swap16(protocol));
}

/** Stores the checksum that completes `sum`. `zeroIsNone`: UDP sends 0xffff for 0, which would mean no checksum (RFC 768). */
export function storeChecksum(bytes: Uint8Array, at: number, sum: number, options: { readonly zeroIsNone: boolean }): void {
  const value = ~fold(sum) & 0xffff;
  storeSum(bytes, at, value === 0 && options.zeroIsNone ? 0xffff : value);
}

/** Stores a sum as it is, the seed a NEEDS_CSUM frame carries in its checksum field. */
export function storeSum(bytes: Uint8Array, at: number, sum: number): void {
  bytes[at] = sum & 0xff;
  bytes[at + 1] = sum >>> 8;
}
