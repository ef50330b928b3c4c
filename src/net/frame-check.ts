// The Ethernet frame check sequence (IEEE 802.3 3.2.9): CRC-32, reflected, eight bits at a time in four tables. Links carry frames without it; devices that show it to a guest, or are given one by it, compute it.

import type { ByteViews } from '#core/guest-memory';
import type { SegmentList } from '#core/segments';

const POLYNOMIAL = 0xedb8_8320;
const TABLES = new Int32Array(4 * 256);
for (let byte = 0; byte < 256; byte++) {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) !== 0 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  TABLES[byte] = value;
}
for (let i = 256; i < TABLES.length; i++) {
  const before = TABLES[i - 256] as number;
  TABLES[i] = (before >>> 8) ^ (TABLES[before & 0xff] as number);
}

/** Goes on with a CRC over `length` bytes at `offset`. Begin with 0; the result needs no further step. */
export function crc32(bytes: Uint8Array, offset: number, length: number, crc = 0): number {
  let value = ~crc;
  let at = offset;
  const end = offset + length;
  for (; at + 4 <= end; at += 4) {
    value ^= (bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24);
    value =
      (TABLES[768 + (value & 0xff)] as number) ^
      (TABLES[512 + ((value >>> 8) & 0xff)] as number) ^
      (TABLES[256 + ((value >>> 16) & 0xff)] as number) ^
      (TABLES[value >>> 24] as number);
  }
  for (; at < end; at++) value = (value >>> 8) ^ (TABLES[(value ^ (bytes[at] as number)) & 0xff] as number);
  return ~value >>> 0;
}

/** The same over the first `length` bytes of the segments from `first` on; they hold at least that much. */
export function crcSegments(list: SegmentList, first: number, length: number): number {
  let crc = 0;
  let left = length;
  for (let segment = first; left > 0 && segment < list.count; segment++) {
    const run = Math.min(list.length[segment] as number, left);
    crc = crc32((list.views[segment] as ByteViews).u8, list.offset[segment] as number, run, crc);
    left -= run;
  }
  return crc;
}
