// A received frame's bytes on their way to its buffers: as they came, or put together first, without the tag that is stripped, padded, with the FCS. A frame has as many buffers of one size as
// it takes, and nothing here looks whether they are there.

import { copyBytes } from '#core/copy';
import type { DmaSpace } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';
import { crc32 } from '#net/frame-check';
import type { FrameBatch } from '#net/port';
import { copyOut } from './copy-out.ts';

const TAG = 4;
export const FCS = 4;
/** Where an assembled frame begins: room in front, so that a stripped one lies aligned like any other. */
const BEGIN = 8;

/** The frame as it is, into buffers of `each` bytes. */
export function copyFrame(dma: DmaSpace, buffers: Float64Array, each: number, batch: FrameBatch, f: number, length: number): void {
  const { segments } = batch;
  let segment = batch.firstSegment[f] as number;
  let ahead = 0;
  for (let n = 0, done = 0; done < length; n++) {
    const wanted = Math.min(each, length - done);
    const address = buffers[n] as number;
    for (let filled = 0; filled < wanted; ) {
      const size = segments.length[segment] as number;
      const run = Math.min(size - ahead, wanted - filled);
      copyOut(dma, address + filled, segments.views[segment] as ByteViews, (segments.offset[segment] as number) + ahead, run);
      filled += run;
      ahead += run;
      if (ahead === size) {
        segment++;
        ahead = 0;
      }
    }
    done += wanted;
  }
}

/**
 * Puts a frame together in `linear`, as long as the longest and 16 bytes more; returns where it begins.
 * @param padded its length with padding @param tagAt where the tag is that is left out, or -1 @param bad its FCS was not right
 */
export function assembleFrame(
  linear: ByteViews,
  batch: FrameBatch,
  f: number,
  length: number,
  padded: number,
  tagAt: number,
  keepsFcs: boolean,
  bad: boolean,
): number {
  const { u8 } = linear;
  const { segments } = batch;
  const first = batch.firstSegment[f] as number;
  let begin = BEGIN;
  let done = 0;
  for (let s = first; s < first + (batch.segmentCount[f] as number); s++) {
    const run = segments.length[s] as number;
    copyBytes(linear, begin + done, segments.views[s] as ByteViews, segments.offset[s] as number, run);
    done += run;
  }
  if (padded > length) u8.fill(0, begin + length, begin + padded);
  // 8254x 3.2.1: what came over the wire, so it covers the tag that is stripped. A bad one is stored as bad.
  const crc = keepsFcs ? crc32(u8, begin, padded) : 0;
  let size = padded;
  if (tagAt >= 0) {
    u8.copyWithin(begin + TAG, begin, begin + tagAt);
    begin += TAG;
    size -= TAG;
  }
  if (keepsFcs) for (let i = 0; i < FCS; i++) u8[begin + size + i] = (bad ? ~crc : crc) >>> (8 * i);
  return begin;
}

/** Bytes `from` to `to` of what `assembleFrame` put together, into buffers of `each` bytes. */
export function copyAssembled(dma: DmaSpace, buffers: Float64Array, each: number, linear: ByteViews, begin: number, from: number, to: number): void {
  for (let done = from, n = 0; done < to; n++) {
    const run = Math.min(each, to - done);
    copyOut(dma, buffers[n] as number, linear, begin + done, run);
    done += run;
  }
}
