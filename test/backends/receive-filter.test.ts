// Flags by which frames need not be looked at: whatever they say is what looking at each would say.

import { expect, it } from 'vitest';
import { passesAll, passesFilter } from '#backends/receive-filter';
import { viewsOf } from '#core/guest-memory';
import { FrameBatch } from '#net/port';
import * as policy from '#virtio/net-policy';

const ADDRESSES = [
  [255, 255, 255, 255, 255, 255],
  [1, 0, 0x5e, 0, 0, 1],
  [2, 0, 0, 0, 0, 1],
];
const TYPES = [
  [8, 0],
  [0x81, 0],
];

it('flags that let all frames through are those by which each passes', () => {
  const frames = ADDRESSES.flatMap((address) => TYPES.map((type) => Uint8Array.from([...address, 2, 0, 0, 0, 0, 9, ...type, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0])));
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  for (const [f, bytes] of frames.entries()) {
    batch.firstSegment[f] = f;
    batch.segmentCount[f] = 1;
    batch.length[f] = bytes.length;
    batch.segments.addHost(viewsOf(bytes.buffer as ArrayBuffer), 0, bytes.length);
    batch.count++;
  }
  const words = new policy.NetPolicy();
  let all = 0;
  for (let flags = 0; flags < 2 * policy.POLICY_ACTIVE; flags++) {
    const each = frames.every((_, f) => passesFilter(words, flags, batch, f));
    expect([flags, passesAll(flags)]).toEqual([flags, each]);
    if (each) all++;
  }
  // What a driver without CTRL_RX has, and promiscuous mode.
  expect(passesAll(policy.POLICY_ALL_UNICAST | policy.POLICY_ALL_MULTICAST | policy.POLICY_ACTIVE)).toBe(true);
  expect(all).toBeGreaterThan(policy.POLICY_ACTIVE);
});
