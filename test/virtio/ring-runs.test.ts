// The fast path for plain chains says and does what pop and push do: two devices over two copies of one ring, one going chain by chain, the other by runs.

import { describe, expect, it } from 'vitest';
import { DmaSpace } from '#core/dma-space';
import { GuestMemory, viewsOf } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { FeatureSet, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { initialPosition, openQueue } from '#virtio/open-queue';
import type { VirtQueue } from '#virtio/virtqueue';
import { PackedDriver } from './driver-packed.ts';
import { type Buffer as RingBuffer, SplitDriver } from './driver-split.ts';

const SIZE = 32;
const RAM = 1 << 20;

class World {
  readonly bytes = new SharedArrayBuffer(RAM);
  readonly driver: SplitDriver;
  readonly queue: VirtQueue;
  readonly list = new SegmentList(256, viewsOf(new ArrayBuffer(8)));

  constructor(features: FeatureSet) {
    const packed = features.has(VIRTIO_F_RING_PACKED);
    const options = { inOrder: features.has(VIRTIO_F_IN_ORDER) };
    this.driver = packed
      ? (new PackedDriver(this.bytes, { size: SIZE, ring: 0, driver: 0x4000, device: 0x4040 }, options) as unknown as SplitDriver)
      : new SplitDriver(this.bytes, { size: SIZE, desc: 0, avail: 0x4000, used: 0x8000 }, options);
    const dma = DmaSpace.create(new GuestMemory([{ base: 0, size: RAM, source: this.bytes }]));
    const setup = { size: SIZE, descriptorArea: 0, driverArea: 0x4000, deviceArea: packed ? 0x4040 : 0x8000 };
    const queue = openQueue(setup, initialPosition(features), features, dma);
    if (typeof queue === 'string') throw new Error(queue);
    this.queue = queue;
  }

  segments(from: number): number[][] {
    const out: number[][] = [];
    for (let s = from; s < this.list.count; s++) out.push([this.list.offset[s] as number, this.list.length[s] as number, this.list.address[s] as number]);
    return out;
  }
}

function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe.each([
  ['split', []],
  ['split, in order', [VIRTIO_F_IN_ORDER]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
] as [string, number[]][])('runs, %s', (_name, bits) => {
  it('take and return what pop and push do', () => {
    const features = FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, ...bits);
    const next = random(bits.length * 7 + 3);
    const one = new World(features);
    const run = new World(features);
    const tokens = new Int32Array(64);
    const written = new Int32Array(64);
    let byRuns = 0;
    let cookie = 0;
    for (let round = 0; round < 400; round++) {
      const writable = next(2) === 1;
      for (let i = next(12); i > 0; i--) {
        const shape = next(6);
        const count = shape === 0 ? 2 + next(3) : 1;
        const write = shape === 1 ? !writable : writable;
        const buffers: RingBuffer[] = Array.from({ length: count }, () => ({ address: 0x20000 + next(0x10000), length: 1 + next(3000), write }));
        const table = shape === 2 ? 0x80000 + 256 * (cookie % 512) : undefined;
        for (const world of [one, run]) world.driver.add(cookie, buffers, table);
        cookie++;
      }
      for (const world of [one, run]) {
        world.driver.expose();
        world.list.truncate(0);
      }
      const taken: number[] = [];
      for (let token = one.queue.pop(one.list); token >= 0; token = one.queue.pop(one.list)) taken.push(token);
      let got = 0;
      for (;;) {
        const n = run.queue.popRun(run.list, tokens, got, 1 + next(8), next(4) === 0 ? 1500 : 1e9, writable);
        byRuns += n;
        got += n;
        if (n > 0 && next(4) === 0) {
          // Gives some back and takes them again.
          const back = 1 + next(n);
          run.queue.unpop(back);
          run.list.truncate(run.list.count - back);
          got -= back;
          continue;
        }
        if (n > 0) continue;
        const token = run.queue.pop(run.list);
        if (token < 0) break;
        tokens[got++] = token;
      }
      expect([...tokens.subarray(0, got)]).toEqual(taken);
      expect(run.segments(0)).toEqual(one.segments(0));
      expect(run.queue.available).toBe(one.queue.available);
      // Returned in parts, some of it later.
      for (let i = 0; i < got; i++) {
        written[i] = writable ? 1 + next(100) : 0;
        one.queue.push(taken[i] as number, written[i] as number);
      }
      const cut = next(got + 1);
      run.queue.pushRun(tokens, 0, cut, writable ? written : null);
      run.queue.pushRun(tokens, cut, got, writable ? written : null);
      expect(run.queue.used).toBe(one.queue.used);
      expect(run.queue.publish()).toBe(one.queue.publish());
      expect(run.driver.reap()).toEqual(one.driver.reap());
      expect(run.queue.position).toEqual(one.queue.position);
    }
    expect(one.queue.broken).toBeUndefined();
    // Most of these are plain.
    expect(byRuns).toBeGreaterThan(500);
  });
});

it.each([
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
])('a run takes what was added since the last one as well (%s)', (_, bits) => {
  const { driver, queue, list } = new World(FeatureSet.of(VIRTIO_F_VERSION_1, ...bits));
  const tokens = new Int32Array(SIZE);
  const add = (count: number): void => {
    for (let i = 0; i < count; i++) driver.add(i, [{ address: 0x20000 + 0x100 * i, length: 0x100, write: true }]);
    driver.expose();
  };
  add(4);
  // The first goes the long way: no window is known yet.
  tokens[0] = queue.pop(list);
  expect(queue.popRun(list, tokens, 1, 2, 1e9, true)).toBe(2);
  add(5);
  expect(queue.popRun(list, tokens, 3, SIZE, 1e9, true)).toBe(6);
  expect(queue.popRun(list, tokens, 9, SIZE, 1e9, true)).toBe(0);
  expect(queue.broken).toBeUndefined();
});
