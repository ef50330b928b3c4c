// IP fragments of a datagram (RFC 791 3.2, RFC 8200 4.5): the headers of each. What is cut, and into what, is software-offload.ts's.

import type { ByteViews } from '#core/guest-memory';
import type { SegmentList } from '#core/segments';
import { storeChecksum, storeSum, sumBytes } from './checksum.ts';
import type { FrameHeaders } from './headers.ts';

const MORE_FRAGMENTS = 0x2000;
const PROTOCOL_FRAGMENT = 44;
/** RFC 791 3.1: end of the option list, no operation, and the flag that an option goes into every fragment. */
const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_COPIED = 0x80;
const ZERO_IS_ZERO = { zeroIsNone: false } as const;

/** One object is filled in again and again. */
export interface Fragment {
  /** Bytes of the datagram before it, a multiple of 8, and in it. */
  offset: number;
  size: number;
  /** It is not the last. */
  more: boolean;
  /** IPv6: room for a fragment header was left where the fragmentable part starts. */
  inserted: boolean;
  identification: number;
}

/** Makes the IP header of a fragment of the copy of the datagram's at `header`. IPv4: the identification is the datagram's own. */
export function writeFragmentHeader(views: ByteViews, header: number, headers: FrameHeaders, fragment: Fragment): void {
  const { u8 } = views;
  const ip = header + headers.network;
  const { offset, size, more } = fragment;
  if (headers.version === 4) {
    const length = headers.fragmentable - headers.network;
    write16(u8, ip + 2, length + size);
    write16(u8, ip + 6, (offset >>> 3) | (more ? MORE_FRAGMENTS : 0));
    if (offset > 0) blankOptions(u8, ip + 20, ip + length);
    storeSum(u8, ip + 10, 0);
    storeChecksum(u8, ip + 10, sumBytes(views, ip, length), ZERO_IS_ZERO);
    return;
  }
  write16(u8, ip + 4, headers.fragmentable - headers.network - 40 + (fragment.inserted ? 8 : 0) + size);
  if (!fragment.inserted) return;
  const at = header + headers.fragmentable;
  u8[at] = u8[header + headers.nextHeader] as number;
  u8[header + headers.nextHeader] = PROTOCOL_FRAGMENT;
  u8[at + 1] = 0;
  write16(u8, at + 2, offset | (more ? 1 : 0));
  write16(u8, at + 4, fragment.identification >>> 16);
  write16(u8, at + 6, fragment.identification);
}

/** Options that go into the first fragment alone become no operation in the others, so that all have one length. */
function blankOptions(bytes: Uint8Array, from: number, to: number): void {
  for (let at = from; at < to; ) {
    const kind = bytes[at] as number;
    if (kind === OPTION_END) return;
    const length = kind === OPTION_NOP || at + 1 >= to ? 1 : Math.min(Math.max(2, bytes[at + 1] as number), to - at);
    if ((kind & OPTION_COPIED) === 0) bytes.fill(OPTION_NOP, at, at + length);
    at += length;
  }
}

/**
 * An identification for an IPv6 datagram that has none: a hash of all of it, so that it is the same when the rest of a datagram is cut later, and another for another
 * datagram (FNV-1a; equal datagrams may share one, as their fragments fit each other).
 */
export function fragmentIdentification(segments: SegmentList, first: number, skip: number, length: number, seed: number): number {
  let hash = 0x811c9dc5 ^ seed;
  let ahead = skip;
  let left = length;
  for (let s = first; left > 0 && s < segments.count; s++) {
    const there = segments.length[s] as number;
    if (ahead >= there) {
      ahead -= there;
      continue;
    }
    const { u8 } = segments.views[s] as ByteViews;
    const from = (segments.offset[s] as number) + ahead;
    const run = Math.min(there - ahead, left);
    for (let i = 0; i < run; i++) hash = Math.imul(hash ^ (u8[from + i] as number), 0x01000193);
    left -= run;
    ahead = 0;
  }
  return hash >>> 0;
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
