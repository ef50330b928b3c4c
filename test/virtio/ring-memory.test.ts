// Where rings and buffers may lie: scattered over pages behind an IOMMU, across slabs, above 4 GiB; translations and buffers that change between turns; and
// the dirty log.

import { describe, expect, test } from 'vitest';
import { DMA_READ, DMA_WRITE, type DmaMapping, DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { initialPosition, openQueue, replayPublish, stagingBytes } from '#virtio/open-queue';
import { QUEUE_BROKEN, QUEUE_EMPTY } from '#virtio/virtqueue';
import { DATA, DESC, DEVICE, DRIVER, featuresOf, mustOpen, newDriver, RAM_BYTES, setupOf, World, type WorldOptions } from './ring-world.ts';

const PAGE = 4096;
const IOVA = 2 ** 33;
const BOTH = DMA_READ | DMA_WRITE;

/** Every page of RAM mapped backwards: no two neighbouring pages of the device are neighbours in RAM. */
const BACKWARDS: readonly DmaMapping[] = Array.from({ length: RAM_BYTES / PAGE }, (_, page) => ({
  iova: IOVA + PAGE * page,
  size: PAGE,
  address: RAM_BYTES - PAGE * (page + 1),
  permissions: BOTH,
}));

function backwards(address: number): number {
  const offset = address - IOVA;
  return RAM_BYTES - PAGE * (Math.floor(offset / PAGE) + 1) + (offset % PAGE);
}

describe.each([
  { packed: false, size: 1024 },
  { packed: false, size: 1024, eventIdx: true },
  { packed: true, size: 1000 },
  { packed: true, size: 1000, eventIdx: true, inOrder: true },
] as WorldOptions[])('%o', (options) => {
  test('a ring scattered page by page carries chains like any other, tables and buffers crossing pages too', () => {
    const world = new World({
      ...options,
      // The first used entry starts 4 bytes before a page boundary: entries straddle pages.
      setup: { descriptorArea: IOVA + 0x10ff0, driverArea: IOVA + 0x30ffc, deviceArea: IOVA + 0x50ff8 },
      at: backwards,
      prepare: (dma) => dma.translate(BACKWARDS),
    });
    let cookie = 0;
    const size = options.size as number;
    for (let round = 0; round < 12; round++) {
      const buffers = [
        { address: IOVA + 0x200ff0 + 16 * round, length: 40 },
        { address: IOVA + 0x210000 - 8, length: PAGE + 16, write: true },
      ];
      const first = cookie;
      while (world.driver.room > 4) {
        const table = cookie % 3 === 0 ? IOVA + 0x300000 + 0xff8 + 64 * (cookie % size) : undefined;
        world.driver.add(cookie++, buffers, table);
      }
      world.driver.expose();
      for (let n = first; n < cookie; n++) {
        const token = world.pop();
        expect(token, world.queue.broken).toBeGreaterThanOrEqual(0);
        expect([world.queue.readableBytes, world.queue.writableBytes]).toEqual([40, PAGE + 16]);
        // Readable: one page, or two; writable: three.
        expect(world.queue.segments).toBeGreaterThanOrEqual(4);
        world.queue.push(token, n & 0xfff);
      }
      expect(world.pop()).toBe(QUEUE_EMPTY);
      world.queue.publish();
      const done = world.driver.reap();
      expect(done.length).toBe(cookie - first);
      expect(done.every((c) => c.length === (c.cookie & 0xfff))).toBe(true);
      expect(world.queue.awaitKick()).toBe(false);
    }
  });
});

test('used entries staged in memory that another process may write are bounded by the ring when they are shown, or shown again', () => {
  const world = new World({
    packed: true,
    size: 1000,
    setup: { descriptorArea: IOVA + 0x10ff0, driverArea: IOVA + 0x30ffc, deviceArea: IOVA + 0x50ff8 },
    at: backwards,
    prepare: (dma) => dma.translate(BACKWARDS),
  });
  const { setup, features, dma } = world;
  const staging = new Int32Array(new SharedArrayBuffer(stagingBytes(setup.size, features)));
  world.queue = mustOpen(openQueue(setup, world.queue.position, features, dma, staging));
  for (let i = 0; i < 8; i++) world.driver.add(i, [{ address: IOVA + 0x200000, length: 8, write: true }]);
  world.driver.expose();
  const from = world.queue.published;
  for (let i = 0; i < 8; i++) world.queue.push(world.pop(), 8);
  const to = world.queue.used;
  staging.fill(-1);
  expect(replayPublish(setup, features, dma, from, to, staging)).toBe(false);
  world.queue.publish();
  expect(world.queue.published).toBe(to);
});

describe('buffers', () => {
  test('one that crosses RAM regions becomes a segment for each (CVE-2019-18960); one that leaves RAM breaks the queue', () => {
    const memory = new GuestMemory([
      { base: 0, size: 2 ** 20 },
      { base: 2 ** 20, size: 2 ** 20 },
    ]);
    const dma = DmaSpace.create(memory);
    const options: WorldOptions = { setup: { descriptorArea: 0x1000, driverArea: 0x2000, deviceArea: 0x3000 } };
    const setup = setupOf(options);
    const ram = (memory.slabs[0] as (typeof memory.slabs)[0]).views.u8.buffer as SharedArrayBuffer;
    const driver = newDriver(ram, setup, options);
    const queue = mustOpen(openQueue(setup, initialPosition(featuresOf(options)), featuresOf(options), dma));
    const list = new SegmentList(16, (memory.slabs[0] as (typeof memory.slabs)[0]).views);
    driver.add(1, [{ address: 2 ** 20 - 100, length: 300 }]);
    driver.add(2, [{ address: 2 ** 21 - 100, length: 101 }]);
    driver.expose();
    expect(queue.pop(list)).toBe(0);
    expect([...list.length.slice(0, 2)]).toEqual([100, 200]);
    expect([...list.address.slice(0, 2)]).toEqual([2 ** 20 - 100, 2 ** 20]);
    expect(list.views[0]).not.toBe(list.views[1]);
    expect(queue.pop(list)).toBe(QUEUE_BROKEN);
    expect(list.count).toBe(2);
    expect(dma.takeFaults().records).toMatchObject([{ address: 2 ** 21 - 100, length: 101, access: DMA_READ }]);
  });

  test('permissions count: a device-writable buffer in memory mapped for reading breaks the queue, with a fault recorded', () => {
    const world = new World({
      prepare: (dma) =>
        dma.translate([
          { iova: 0, size: DATA, address: 0, permissions: BOTH },
          { iova: DATA, size: PAGE, address: DATA, permissions: DMA_READ },
        ]),
    });
    world.driver.add(1, [{ address: DATA, length: 8 }]);
    world.driver.add(2, [{ address: DATA, length: 8, write: true }]);
    world.driver.expose();
    expect(world.pop()).toBe(0);
    expect(world.pop()).toBe(QUEUE_BROKEN);
    expect(world.dma.takeFaults().records).toMatchObject([{ address: DATA, length: 8, access: DMA_WRITE }]);
  });

  test.each([false, true])('RAM above 4 GiB is reached through both words of the address (packed %s)', (packed) => {
    const base = 5 * 2 ** 32 + 2 ** 31;
    const world = new World({
      packed,
      setup: { descriptorArea: base + DESC, driverArea: base + DRIVER, deviceArea: base + DEVICE },
      at: (a) => a - base,
      prepare: (dma) => dma.translate([{ iova: base, size: RAM_BYTES, address: 0, permissions: BOTH }]),
    });
    for (let i = 0; i < 4; i++) world.driver.add(i, [{ address: base + DATA + 4096 * i, length: 100 + i }]);
    world.driver.expose();
    for (let i = 0; i < 4; i++) {
      expect(world.pop()).toBeGreaterThanOrEqual(0);
      expect([world.list.address[0], world.list.offset[0], world.list.length[0]]).toEqual([base + DATA + 4096 * i, DATA + 4096 * i, 100 + i]);
    }
  });
});

describe.each([false, true])('between turns (packed %s)', (packed) => {
  const BUFFER = [{ address: DATA, length: 8 }];

  test('bus mastering off pauses, on again goes on', () => {
    const world = new World({ packed });
    world.driver.add(1, BUFFER);
    world.driver.expose();
    world.dma.busMaster = false;
    world.dma.sync();
    expect(world.queue.resync()).toBe(false);
    expect([world.pop(), world.queue.ready, world.queue.awaitKick(), world.queue.publish()]).toEqual([QUEUE_EMPTY, false, false, false]);
    expect(world.queue.broken).toBeUndefined();
    world.dma.busMaster = true;
    world.dma.sync();
    expect(world.queue.resync()).toBe(true);
    expect(world.pop()).toBeGreaterThanOrEqual(0);
  });

  test('a queue opened while bus mastering is off waits for it', () => {
    const world = new World({ packed });
    world.dma.busMaster = false;
    const queue = mustOpen(openQueue(world.setup, world.queue.position, world.features, world.dma));
    expect(queue.ready).toBe(false);
    world.dma.busMaster = true;
    world.dma.sync();
    expect(queue.resync()).toBe(true);
    world.driver.add(1, BUFFER);
    world.driver.expose();
    expect(queue.ready).toBe(true);
  });

  test('translations that move are followed; one that takes the ring away breaks the queue', () => {
    const world = new World({ packed, prepare: (dma) => dma.translate([{ iova: 0, size: RAM_BYTES, address: 0, permissions: BOTH }]) });
    world.driver.add(1, BUFFER);
    world.driver.expose();
    // The data page moves; what is popped must point at the new place.
    world.dma.translate([
      { iova: 0, size: DATA, address: 0, permissions: BOTH },
      { iova: DATA, size: PAGE, address: DATA + 8 * PAGE, permissions: BOTH },
    ]);
    world.dma.sync();
    expect(world.queue.resync()).toBe(true);
    expect(world.pop()).toBeGreaterThanOrEqual(0);
    expect(world.list.offset[0]).toBe(DATA + 8 * PAGE);
    world.dma.translate([{ iova: 0, size: DEVICE, address: 0, permissions: BOTH }]);
    world.dma.sync();
    expect(world.queue.resync()).toBe(false);
    expect(world.queue.broken).toMatch(/not memory the device may use/);
    expect(world.pop()).toBe(QUEUE_BROKEN);
  });

  test('a buffer the embedder replaced is seen through its new views', () => {
    let ram = new ArrayBuffer(RAM_BYTES);
    const memory = new GuestMemory([{ base: 0, size: RAM_BYTES, source: () => ram }]);
    const dma = DmaSpace.create(memory);
    const options = { packed };
    const setup = setupOf(options);
    const queue = mustOpen(openQueue(setup, initialPosition(featuresOf(options)), featuresOf(options), dma));
    const list = new SegmentList(16, (memory.slabs[0] as (typeof memory.slabs)[0]).views);
    const driver = newDriver(ram as unknown as SharedArrayBuffer, setup, options);
    driver.add(1, BUFFER);
    driver.expose();
    expect(queue.pop(list)).toBeGreaterThanOrEqual(0);
    queue.unpop(1);
    // As a WebAssembly memory does when it grows: the same bytes elsewhere, the old buffer detached.
    ram = structuredClone(ram, { transfer: [ram] });
    memory.refresh();
    dma.sync();
    expect(queue.resync()).toBe(true);
    list.truncate(0);
    const token = queue.pop(list);
    expect(token).toBeGreaterThanOrEqual(0);
    expect(list.views[0]?.u8.buffer).toBe(ram);
    queue.push(token, 0);
    queue.publish();
    const view = new DataView(ram);
    expect(packed ? view.getUint16(DESC + 14, true) & 0x8080 : view.getUint16(DEVICE + 2, true)).toBe(packed ? 0x8080 : 1);
  });
});

describe('dirty log', () => {
  function logged(options: WorldOptions): { world: World; take: () => number[] } {
    const world = new World(options);
    world.memory.dirty.start();
    world.dma.sync();
    world.queue.resync();
    return { world, take: () => world.memory.dirty.take().map((address) => address / PAGE) };
  }
  const BUFFER = [{ address: DATA, length: 8 }];

  test('split: exactly the pages of the used entries written and of the index, wrapping with the ring', () => {
    // 1024 entries of 8 bytes: three pages.
    const { world, take } = logged({ size: 1024, start: 1000 });
    for (let i = 0; i < 48; i++) world.driver.add(i, BUFFER);
    world.driver.expose();
    for (let i = 0; i < 48; i++) world.queue.push(world.pop(), 0);
    expect(take()).toEqual([]);
    world.queue.publish();
    // Slots 1000..1023 lie in the second page and the first word of the third; 0..23 and the index in the first.
    expect(take()).toEqual([DEVICE / PAGE, DEVICE / PAGE + 1, DEVICE / PAGE + 2]);
    world.queue.suppressKicks();
    expect(take()).toEqual([DEVICE / PAGE]);
    world.queue.awaitKick();
    expect(take()).toEqual([DEVICE / PAGE]);
  });

  test('packed: the pages of the descriptors overwritten, and of the event word', () => {
    const { world, take } = logged({ packed: true, size: 512 });
    for (let i = 0; i < 300; i++) world.driver.add(i, BUFFER);
    world.driver.expose();
    for (let i = 0; i < 300; i++) world.queue.push(world.pop(), 0);
    world.queue.publish();
    expect(take()).toEqual([DESC / PAGE, DESC / PAGE + 1]);
    world.queue.suppressKicks();
    expect(take()).toEqual([DEVICE / PAGE]);
  });

  test.each([false, true])('behind an IOMMU guest pages are logged, not device addresses (packed %s)', (packed) => {
    const { world, take } = logged({
      packed,
      setup: { descriptorArea: IOVA + DESC, driverArea: IOVA + DRIVER, deviceArea: IOVA + DEVICE },
      at: backwards,
      prepare: (dma) => dma.translate(BACKWARDS),
    });
    world.driver.add(1, [{ address: IOVA + DATA, length: 8 }]);
    world.driver.expose();
    world.queue.push(world.pop(), 0);
    world.queue.publish();
    expect(take()).toEqual([Math.floor(backwards(IOVA + (packed ? DESC : DEVICE)) / PAGE)]);
  });

  test.each([false, true])('zero-length descriptors mark nothing and run over nothing (CVE-2019-14835; packed %s)', (packed) => {
    const { world, take } = logged({ packed, size: 8 });
    for (let lap = 0; lap < 50; lap++) {
      for (let i = 0; i < 4; i++) {
        world.driver.add(i, [
          { address: 0, length: 0, write: true },
          { address: 2 ** 50, length: 0, write: true },
        ]);
      }
      world.driver.expose();
      for (let i = 0; i < 4; i++) {
        world.queue.push(world.pop(), 0);
        expect(world.list.count).toBe(0);
      }
      world.queue.publish();
      expect(world.driver.reap().length).toBe(4);
    }
    expect(take()).toEqual([(packed ? DESC : DEVICE) / PAGE]);
  });
});
