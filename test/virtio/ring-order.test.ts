// What the used ring looks like, word by word: one batch appears at once, IN_ORDER merges only what loses no length, and unpop and replay leave no trace.

import { expect, test } from 'vitest';
import { openQueue, replayPublish, stagingBytes } from '#virtio/open-queue';
import { QUEUE_EMPTY } from '#virtio/virtqueue';
import { DATA, DESC, DEVICE, mustOpen, World } from './ring-world.ts';

const READ = [{ address: DATA, length: 16 }];
const WRITE = [{ address: DATA, length: 64, write: true }];

function usedEntry(world: World, slot: number): [number, number] {
  return [world.view.getUint32(DEVICE + 4 + 8 * slot, true), world.view.getUint32(DEVICE + 8 + 8 * slot, true)];
}

test('split: nothing shows before publish, then all of it', () => {
  const world = new World();
  for (let i = 0; i < 3; i++) world.driver.add(i, WRITE);
  world.driver.expose();
  for (let i = 0; i < 3; i++) {
    world.queue.push(world.pop(), 10 + i);
    expect(world.driver.reap()).toEqual([]);
  }
  world.queue.publish();
  expect(world.driver.reap()).toEqual([0, 1, 2].map((cookie) => ({ cookie, length: 10 + cookie })));
});

test('packed: until publish descriptors keep what the driver wrote, then the whole batch shows, skipping as many slots as each chain had', () => {
  const world = new World({ packed: true });
  world.driver.add(0, [...READ, ...WRITE]);
  world.driver.add(1, WRITE);
  world.driver.add(2, [...READ, ...READ, ...WRITE]);
  world.driver.expose();
  const ring = world.u8.slice(DESC, DESC + 128);
  for (let i = 0; i < 3; i++) world.queue.push(world.pop(), 20 + i);
  expect(world.u8.slice(DESC, DESC + 128)).toEqual(ring);
  world.queue.publish();
  expect(world.driver.reap()).toEqual([0, 1, 2].map((cookie) => ({ cookie, length: 20 + cookie })));
  // Slots 1, 4 and 5 are inside chains: not written.
  for (const slot of [1, 4, 5]) expect(world.u8.slice(DESC + 16 * slot, DESC + 16 * slot + 16)).toEqual(ring.slice(16 * slot, 16 * slot + 16));
});

test('split, IN_ORDER: a run of read-only chains is one entry at the slot of its first, naming its last (virtio 1.4 2.7.9)', () => {
  const world = new World({ inOrder: true });
  for (let i = 0; i < 5; i++) world.driver.add(i, READ);
  world.driver.expose();
  for (let i = 0; i < 5; i++) world.queue.push(world.pop(), 0);
  world.queue.publish();
  expect(usedEntry(world, 0)).toEqual([4, 0]);
  expect(usedEntry(world, 1)).toEqual([0, 0]);
  expect(world.view.getUint16(DEVICE + 2, true)).toBe(5);
  expect(world.driver.reap().map((c) => c.cookie)).toEqual([0, 1, 2, 3, 4]);
});

test.each([false, true])('IN_ORDER: chains with writable bytes keep their own entry and length, even 0 (packed %s)', (packed) => {
  const world = new World({ inOrder: true, packed });
  [READ, WRITE, READ, WRITE, READ, WRITE, READ].forEach((buffers, i) => {
    world.driver.add(i, buffers);
  });
  world.driver.expose();
  [0, 40, 0, 0, 0, 64, 0].forEach((written) => {
    world.queue.push(world.pop(), written);
  });
  world.queue.publish();
  expect(world.driver.reap().map((c) => c.length)).toEqual([0, 40, 0, 0, 0, 64, 0]);
});

test('packed, IN_ORDER: a run of read-only chains is one used entry with the last id; the next goes to the slot after the run', () => {
  const world = new World({ inOrder: true, packed: true });
  for (let i = 0; i < 3; i++) world.driver.add(i, [...READ, ...READ]);
  world.driver.add(3, WRITE);
  world.driver.expose();
  const before = world.u8.slice(DESC, DESC + 128);
  for (let i = 0; i < 4; i++) world.queue.push(world.pop(), i === 3 ? 7 : 0);
  world.queue.publish();
  expect(world.view.getUint16(DESC + 12, true)).toBe(2);
  for (let slot = 1; slot < 6; slot++) expect(world.u8.slice(DESC + 16 * slot, DESC + 16 * slot + 16)).toEqual(before.slice(16 * slot, 16 * slot + 16));
  expect(world.driver.reap().map((c) => c.length)).toEqual([0, 0, 0, 7]);
});

test.each([false, true])('unpop gives chains back newest first; position goes back with them (packed %s)', (packed) => {
  const world = new World({ packed, size: 7 + (packed ? 0 : 1) });
  for (let lap = 0; lap < 20; lap++) {
    world.driver.add(3 * lap, [...READ, ...WRITE]);
    world.driver.add(3 * lap + 1, WRITE);
    world.driver.add(3 * lap + 2, [...READ, ...READ]);
    world.driver.expose();
    const start = world.queue.position;
    const first = world.pop();
    const between = world.queue.position;
    const rest = [world.pop(), world.pop()];
    world.queue.unpop(2);
    expect(world.queue.position).toEqual(between);
    expect([world.pop(), world.pop()]).toEqual(rest);
    world.queue.unpop(3);
    expect(world.queue.position).toEqual(start);
    expect([world.pop(), world.pop(), world.pop()]).toEqual([first, ...rest]);
    expect(world.pop()).toBe(QUEUE_EMPTY);
    for (const token of [first, ...rest]) world.queue.push(token, 0);
    world.queue.publish();
    expect(world.driver.reap().map((c) => c.cookie)).toEqual([3 * lap, 3 * lap + 1, 3 * lap + 2]);
  }
});

test.each([false, true])('a publish that another thread carries out shows the same as our own, however far we got (packed %s)', (packed) => {
  for (const stoppedAfter of ['before', 'after'] as const) {
    const world = new World({ packed });
    const staging = packed ? new Int32Array(new SharedArrayBuffer(stagingBytes(world.setup.size, world.features))) : undefined;
    world.queue = mustOpen(openQueue(world.setup, world.queue.position, world.features, world.dma, staging));
    world.driver.add(0, [...READ, ...WRITE]);
    world.driver.add(1, WRITE);
    world.driver.expose();
    const from = world.queue.published;
    for (let i = 0; i < 2; i++) world.queue.push(world.pop(), 30 + i);
    world.queue.seal();
    const to = world.queue.used;
    if (stoppedAfter === 'after') world.queue.publish();
    expect(replayPublish(world.setup, world.features, world.dma, from, to, staging)).toBe(true);
    expect(world.driver.reap()).toEqual([
      { cookie: 0, length: 30 },
      { cookie: 1, length: 31 },
    ]);
  }
});

test.each([false, true])('a publish that happened is not shown again over what a running driver has put in its place (packed %s)', (packed) => {
  // Each lap of the ring once, so that both values of the wrap counter are met.
  const world = new World({ packed, size: 8 });
  const staging = packed ? new Int32Array(new SharedArrayBuffer(stagingBytes(world.setup.size, world.features))) : undefined;
  world.queue = mustOpen(openQueue(world.setup, world.queue.position, world.features, world.dma, staging));
  for (let lap = 0; lap < 4; lap++) {
    for (let i = 0; i < 8; i++) world.driver.add(100 * lap + i, WRITE);
    world.driver.expose();
    const from = world.queue.published;
    for (let i = 0; i < 8; i++) world.queue.push(world.pop(), 30 + i);
    const to = world.queue.used;
    world.queue.publish();
    expect(world.driver.reap().length).toBe(8);
    for (let i = 0; i < 8; i++) world.driver.add(100 * lap + 50 + i, WRITE);
    world.driver.expose();
    // The thread dies here; another finds its record.
    expect(replayPublish(world.setup, world.features, world.dma, from, to, staging)).toBe(true);
    world.queue = mustOpen(openQueue(world.setup, { available: to, used: to }, world.features, world.dma, staging));
    for (let i = 0; i < 8; i++) world.queue.push(world.pop(), 1);
    world.queue.publish();
    expect(world.driver.reap().map((c) => c.cookie)).toEqual(Array.from({ length: 8 }, (_, i) => 100 * lap + 50 + i));
  }
});
