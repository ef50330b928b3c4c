// Copying bytes between views without making a view: word loops for short runs, the engine's own copy for long ones. The thresholds are measured (bench/copy.ts): a subarray for `set` costs about 30 ns and garbage, copyWithin 20 ns, an eight-byte word
// 0.07 ns hot. Between places that do not lie alike within eight bytes the engine copies shared memory byte by byte, at 0.35 ns each: there a loop of words takes half of that where they lie alike within four, and no more than that elsewhere, at any length.

import type { ByteViews } from './guest-memory.ts';

/** From here on the engine's memmove wins, by how the two sides are aligned to each other: within one view, and between two. */
const WITHIN_ALIGNED_8 = 448;
const BETWEEN_ALIGNED_8 = 2048; // a frame of an Ethernet's length makes no garbage
/** And where they do not lie alike; of memory that is not shared. */
const WITHIN_ALIGNED_4 = 128;
const BETWEEN_ALIGNED_4 = 256;
const WITHIN_UNALIGNED = 48;
const BETWEEN_UNALIGNED = 96;

/** Copies `length` bytes from `from` at byte `source` to `to` at byte `target`. The caller has checked both ranges; they do not overlap. */
export function copyBytes(to: ByteViews, target: number, from: ByteViews, source: number, length: number): void {
  const skew = (target ^ source) & 7;
  const within = to.u8 === from.u8;
  if (skew === 0) {
    if (length >= (within ? WITHIN_ALIGNED_8 : BETWEEN_ALIGNED_8)) copyLong(to, target, from, source, length, within);
    else copyWords8(to, target, from, source, length);
    return;
  }
  const shared = to.shared || from.shared;
  if (skew === 4) {
    if (!shared && length >= (within ? WITHIN_ALIGNED_4 : BETWEEN_ALIGNED_4)) copyLong(to, target, from, source, length, within);
    else copyWords4(to, target, from, source, length);
  } else if (!shared && length >= (within ? WITHIN_UNALIGNED : BETWEEN_UNALIGNED)) copyLong(to, target, from, source, length, within);
  else copyShifted(to, target, from, source, length);
}

function copyLong(to: ByteViews, target: number, from: ByteViews, source: number, length: number, within: boolean): void {
  if (within) to.u8.copyWithin(target, source, source + length);
  else to.u8.set(from.u8.subarray(source, source + length), target);
}

function copyShort(to: ByteViews, target: number, from: ByteViews, source: number, length: number): void {
  const d = to.u8;
  const s = from.u8;
  for (let i = 0; i < length; i++) d[target + i] = s[source + i] as number;
}

/** Both sides have the same offset within eight bytes. */
function copyWords8(to: ByteViews, target: number, from: ByteViews, source: number, length: number): void {
  const d = to.f64;
  const s = from.f64;
  if ((target & 7) !== 0) {
    // A frame behind a 12-byte header starts on four: one word, not four bytes.
    if ((target & 3) === 0 && length >= 4) {
      to.i32[target >>> 2] = from.i32[source >>> 2] as number;
      target += 4;
      source += 4;
      length -= 4;
    } else {
      const head = Math.min(length, 8 - (target & 7));
      copyShort(to, target, from, source, head);
      target += head;
      source += head;
      length -= head;
    }
  }
  let a = target >>> 3;
  let b = source >>> 3;
  const end = b + (length >>> 3);
  for (; ((b + 8) | 0) <= end; b = (b + 8) | 0, a = (a + 8) | 0) {
    const w0 = s[b] as number;
    const w1 = s[(b + 1) | 0] as number;
    const w2 = s[(b + 2) | 0] as number;
    const w3 = s[(b + 3) | 0] as number;
    const w4 = s[(b + 4) | 0] as number;
    const w5 = s[(b + 5) | 0] as number;
    const w6 = s[(b + 6) | 0] as number;
    const w7 = s[(b + 7) | 0] as number;
    d[a] = w0;
    d[(a + 1) | 0] = w1;
    d[(a + 2) | 0] = w2;
    d[(a + 3) | 0] = w3;
    d[(a + 4) | 0] = w4;
    d[(a + 5) | 0] = w5;
    d[(a + 6) | 0] = w6;
    d[(a + 7) | 0] = w7;
  }
  for (; b < end; b++, a++) d[a] = s[b] as number;
  let rest = length & 7;
  if (rest === 0) return;
  let tail = length - rest;
  if (rest >= 4) {
    to.i32[(target + tail) >>> 2] = from.i32[(source + tail) >>> 2] as number;
    tail += 4;
    rest -= 4;
  }
  if (rest !== 0) copyShort(to, target + tail, from, source + tail, rest);
}

/** Both sides have the same offset within four bytes. */
function copyWords4(to: ByteViews, target: number, from: ByteViews, source: number, length: number): void {
  const d = to.i32;
  const s = from.i32;
  const head = Math.min(length, -target & 3);
  if (head !== 0) copyShort(to, target, from, source, head);
  let a = (target + head) >>> 2;
  let b = (source + head) >>> 2;
  const words = (length - head) >>> 2;
  const end = b + words;
  for (; b + 4 <= end; b += 4, a += 4) {
    const w0 = s[b] as number;
    const w1 = s[b + 1] as number;
    const w2 = s[b + 2] as number;
    const w3 = s[b + 3] as number;
    d[a] = w0;
    d[a + 1] = w1;
    d[a + 2] = w2;
    d[a + 3] = w3;
  }
  for (; b < end; b++, a++) d[a] = s[b] as number;
  const done = head + words * 4;
  if (done !== length) copyShort(to, target + done, from, source + done, length - done);
}

/** Any offsets: whole words to the target, each put together from two of the source. */
function copyShifted(to: ByteViews, target: number, from: ByteViews, source: number, length: number): void {
  const head = Math.min(length, -target & 3);
  if (head !== 0) copyShort(to, target, from, source, head);
  const words = (length - head) >>> 2;
  if (words !== 0) {
    const d = to.i32;
    const s = from.i32;
    const right = ((source + head) & 3) << 3; // 8, 16 or 24: never 0 here
    const left = 32 - right;
    let a = (target + head) >>> 2;
    let b = (source + head) >>> 2;
    let low = s[b] as number;
    for (let i = 0; i < words; i++) {
      const high = s[++b] as number;
      d[a++] = (low >>> right) | (high << left);
      low = high;
    }
  }
  const done = head + words * 4;
  if (done !== length) copyShort(to, target + done, from, source + done, length - done);
}
