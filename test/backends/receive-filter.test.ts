// Frames that need not be looked at one by one, by the flags or by their address: whatever is said of them is what looking at each would say.

import { expect, it } from 'vitest';
import { passesAll, passesFilter, pastOwn } from '#backends/receive-filter';
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

it('frames that are passed as the driver’s own are those that pass by themselves', () => {
  const own = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
  const group = [1, ...own.slice(1)];
  // The driver's address and one bit beside it, a group's, tagged with a VLAN that it has and one that it has not, and one that ends within a tag.
  const addresses = [own, group, ...Array.from({ length: 48 }, (_, bit) => own.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte)))];
  const bodies = [
    [8, 0, 0x45, 0],
    [0x81, 0, 0, 7],
    [0x81, 0, 0, 8],
    [8, 0],
    [0x81, 0],
  ];
  const frames = addresses.flatMap((address) => bodies.map((body) => Uint8Array.from([...address, ...body, ...new Array(body.length === 4 ? 8 : 0).fill(0)])));
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)), frames.length);
  for (const [f, bytes] of frames.entries()) {
    const memory = new Uint8Array(24);
    memory.set(bytes);
    batch.firstSegment[f] = f;
    batch.segmentCount[f] = 1;
    batch.length[f] = bytes.length;
    batch.segments.addHost(viewsOf(memory.buffer), 0, bytes.length);
    batch.count++;
  }
  for (const mac of [own, group]) {
    const words = new policy.NetPolicy();
    words.setMac(Uint8Array.from(mac.slice(0, 6)));
    words.setVlan(7, true);
    let passed = 0;
    for (let flags = 0; flags < 2 * policy.POLICY_ACTIVE; flags++)
      for (let f = 0; f < frames.length; f++) {
        if (pastOwn(words, flags, batch, f, f + 1) === f) continue;
        expect(passesFilter(words, flags, batch, f), `flags ${flags}, frame ${frames[f]}`).toBe(true);
        passed++;
      }
    if (mac === own) expect(passed).toBeGreaterThan(0);
  }
  // The type lies elsewhere, and what comes behind the addresses is not it.
  const parted = new Uint8Array(40);
  parted.set([...own, 8, 0]);
  parted.set([0x81, 0, 0, 8], 24);
  const last = frames.length;
  batch.firstSegment[last - 1] = batch.segments.count;
  batch.segmentCount[last - 1] = 2;
  batch.length[last - 1] = 16;
  batch.segments.addHost(viewsOf(parted.buffer), 0, 12);
  batch.segments.addHost(viewsOf(parted.buffer), 24, 4);
  // As far as they go, and no further.
  const words = new policy.NetPolicy();
  words.setMac(Uint8Array.from(own.slice(0, 6)));
  expect(pastOwn(words, policy.POLICY_VLAN_FILTER, batch, last - 1, last)).toBe(last - 1);
  expect([pastOwn(words, 0, batch, 0, 1), pastOwn(words, 0, batch, 0, frames.length), pastOwn(words, 0, batch, 1, 1)]).toEqual([1, 1, 1]);
});
