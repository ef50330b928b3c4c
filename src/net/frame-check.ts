// The Ethernet frame check sequence (IEEE 802.3 3.2.9): CRC-32, reflected, eight bits at a time in four tables; and SCTP's CRC-32c (RFC 9260 6.8) in the same way. Links carry frames without it; devices that show it to a guest, or are given one by it, compute it.

import type { ByteViews } from '#core/guest-memory';
import type { SegmentList } from '#core/segments';

const POLYNOMIAL = 0xedb8_8320;
const CASTAGNOLI = 0x82f6_3b78;
const TABLES = tables(POLYNOMIAL);
const CASTAGNOLI_TABLES = tables(CASTAGNOLI);

function tables(polynomial: number): Int32Array {
  const made = new Int32Array(4 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = (value & 1) !== 0 ? (value >>> 1) ^ polynomial : value >>> 1;
    made[byte] = value;
  }
  for (let i = 256; i < made.length; i++) {
    const before = made[i - 256] as number;
    made[i] = (before >>> 8) ^ (made[before & 0xff] as number);
  }
  return made;
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

/** The same with SCTP's polynomial. */
export function crc32c(bytes: Uint8Array, offset: number, length: number, crc = 0): number {
  let value = ~crc;
  for (let at = offset; at < offset + length; at++) value = (value >>> 8) ^ (CASTAGNOLI_TABLES[(value ^ (bytes[at] as number)) & 0xff] as number);
  return ~value >>> 0;
}

const FROM_START = { from: 0, crc: 0, over: crc32 } as const;

/** The same over `length` bytes of the segments from `first` on, `from` bytes in; they hold at least that much. */
export function crcSegments(
  list: SegmentList,
  first: number,
  length: number,
  { from, crc: begun, over }: { from: number; crc: number; over: typeof crc32 } = FROM_START,
): number {
  let crc = begun;
  let left = length;
  let ahead = from;
  for (let segment = first; left > 0 && segment < list.count; segment++) {
    const size = list.length[segment] as number;
    if (ahead >= size) {
      ahead -= size;
      continue;
    }
    const run = Math.min(size - ahead, left);
    crc = over((list.views[segment] as ByteViews).u8, (list.offset[segment] as number) + ahead, run, crc);
    left -= run;
    ahead = 0;
  }
  return crc;
}
