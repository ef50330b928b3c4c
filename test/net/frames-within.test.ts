// How many frames of a batch fit a turn, by what they become when they are cut.

import { expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { framesWithin } from '#net/offload-request';
import { FrameBatch, GSO_TCPV4, GSO_UDP } from '#net/port';

function batchOf(gsoType: number, gsoSize: number, lengths: readonly number[]): FrameBatch {
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  for (const length of lengths) {
    batch.gsoType[batch.count] = gsoType;
    batch.gsoSize[batch.count] = gsoSize;
    batch.length[batch.count++] = length;
  }
  return batch;
}

it('counts segments by their size', () => {
  expect(framesWithin(batchOf(GSO_TCPV4, 100, [1000, 1000, 1000]), 20)).toBe(2);
});

it('counts fragments as they are cut, at multiples of eight bytes', () => {
  // 15 bytes asked for are 8 in each fragment: 125 of them a frame.
  expect(framesWithin(batchOf(GSO_UDP, 15, [1000, 1000, 1000]), 134)).toBe(1);
  expect(framesWithin(batchOf(GSO_UDP, 16, [1000, 1000, 1000]), 134)).toBe(2);
});
