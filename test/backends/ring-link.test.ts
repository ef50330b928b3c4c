// A frame ring by itself, both ends on this thread.

import { expect, it } from 'vitest';
import { createRingLink, RingLink } from '#backends/ring-link';
import { Bell } from '#core/doorbell';
import { viewsOf } from '#core/guest-memory';
import { FrameBatch } from '#net/port';

const bytes = viewsOf(new ArrayBuffer(65536));

function batchOf(...lengths: number[]): FrameBatch {
  const batch = new FrameBatch(bytes);
  for (const length of lengths) {
    batch.firstSegment[batch.count] = batch.segments.count;
    batch.segmentCount[batch.count] = 1;
    batch.length[batch.count++] = length;
    batch.segments.addHost(bytes, 0, length);
  }
  return batch;
}

it('says there is room only when the frame that was refused fits, counting what it skips at the end of the ring', () => {
  const shares = createRingLink(new Bell(), new Bell(), { bytes: 1 << 17 });
  const near = new RingLink('near', shares.near);
  const far = new RingLink('far', shares.far);
  const take = () => {
    const batch = new FrameBatch(bytes);
    expect(far.collect(batch, 1, 1e6)).toBe(1);
    far.complete(batch, 1);
    return batch.length[0];
  };
  expect(near.deliver(batchOf(50_000, 62_000, 62_000), 0, 3)).toBe(2);
  near.flush();
  expect(near.hasRoom).toBe(false);
  expect(take()).toBe(50_000);
  // More than half is free, but not in one piece.
  expect(near.deliver(batchOf(62_000), 0, 1)).toBe(0);
  expect(near.hasRoom).toBe(false);
  expect(near.awaitRoom()).toBe(false);
  expect(take()).toBe(62_000);
  expect(near.hasRoom).toBe(true);
  expect(near.deliver(batchOf(62_000), 0, 1)).toBe(1);
  near.flush();
  expect(take()).toBe(62_000);
});

it('never says there is room when a frame was just refused, whatever the sizes', () => {
  const shares = createRingLink(new Bell(), new Bell(), { bytes: 1 << 17 });
  const near = new RingLink('near', shares.near);
  const far = new RingLink('far', shares.far);
  let seed = 1;
  let refusals = 0;
  for (let i = 0; i < 1_000; i++) {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    const length = 14 + ((seed >>> 8) % 65_000);
    while (near.deliver(batchOf(length), 0, 1) === 0) {
      expect(near.hasRoom).toBe(false);
      refusals++;
      const batch = new FrameBatch(bytes);
      expect(far.collect(batch, 1, 1e6)).toBe(1);
      far.complete(batch, 1);
    }
    near.flush();
  }
  expect(refusals).toBeGreaterThan(100);
});

it('carries all that a sender asks for, and every byte', () => {
  const shares = createRingLink(new Bell(), new Bell());
  const near = new RingLink('near', shares.near);
  const far = new RingLink('far', shares.far);
  const columns = ['flags', 'gsoType', 'headerLength', 'gsoSize', 'csumStart', 'csumOffset', 'outerTransport', 'innerNetwork'] as const;
  for (let i = 0; i < 65536; i++) bytes.u8[i] = i * 7;
  const sent = batchOf(60, 61, 1514);
  for (let f = 0; f < 3; f++) for (const [c, name] of columns.entries()) sent[name][f] = 17 * f + 31 * c + 3;
  expect(near.deliver(sent, 0, 3)).toBe(3);
  near.flush();
  const got = new FrameBatch(bytes);
  expect(far.collect(got, 3, 1e6)).toBe(3);
  for (let f = 0; f < 3; f++) {
    for (const name of columns) expect(`${name} ${got[name][f]}`).toBe(`${name} ${sent[name][f]}`);
    const { views, offset, length } = got.segments;
    const at = offset[f] as number;
    expect(views[f]?.u8.subarray(at, at + (length[f] as number))).toEqual(bytes.u8.subarray(0, sent.length[f]));
  }
  far.complete(got, 3);
});
