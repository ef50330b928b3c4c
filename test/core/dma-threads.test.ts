import { afterEach, expect, it } from 'vitest';
import { DMA_READ, DMA_WRITE, DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { Iommu } from '#core/iommu';
import { Thread } from './thread.ts';

const PAGE = 4096;
const IOVA = 0x100000;
const threads: Thread[] = [];

function start(task: string, data: Record<string, unknown>): Thread {
  const thread = new Thread(task, data);
  threads.push(thread);
  return thread;
}

afterEach(async () => {
  for (const thread of threads.splice(0)) {
    thread.release(1000);
    await thread.end();
  }
});

function memory(): GuestMemory {
  return new GuestMemory([{ base: 0, size: 64 * PAGE }]);
}

/** How far a writing worker's counter moves by itself after `change` returned. */
function writesAfter(dma: DmaSpace, thread: Thread, counter: Int32Array, change: () => void): number {
  change();
  const seen = Atomics.load(counter, 0);
  const turns = Atomics.load(thread.words, 2);
  const deadline = performance.now() + 10_000;
  while (Atomics.load(thread.words, 2) < turns + 20) if (performance.now() > deadline) throw new Error('waited 10 s for the worker to take 20 turns');
  expect(dma.takeFaults().count).toBe(0);
  return Atomics.load(counter, 0) - seen;
}

it('unmap, detach and bus master off return only when a worker has stopped using what they took away', () => {
  const ram = memory();
  const dma = DmaSpace.create(ram, { requester: 0x100 });
  const iommu = new Iommu();
  const domain = iommu.domain();
  iommu.attach(0x100, domain);
  iommu.connect(dma);
  domain.map(IOVA, 0, PAGE);
  const counter = ram.slabs[0]?.views.i32 as Int32Array;
  const thread = start('writer', { share: dma.share(), address: IOVA });
  thread.reached(1);

  for (let round = 0; round < 20; round++) {
    expect(writesAfter(dma, thread, counter, () => domain.unmap(IOVA, PAGE))).toBe(0);
    expect(writesAfter(dma, thread, counter, () => domain.map(IOVA, 0, PAGE))).toBeGreaterThan(0);
    expect(writesAfter(dma, thread, counter, () => iommu.detach(0x100))).toBe(0);
    expect(writesAfter(dma, thread, counter, () => iommu.attach(0x100, domain))).toBeGreaterThan(0);
    expect(
      writesAfter(dma, thread, counter, () => {
        dma.busMaster = false;
      }),
    ).toBe(0);
    dma.busMaster = true;
  }
  thread.release(2);
  thread.reached(2);
});

it('a translation changed under a worker is seen whole or not at all', () => {
  const ram = memory();
  const dma = DmaSpace.create(ram);
  // Two tables of 60 pages: iova i -> page i, or iova i -> page 63 - i. A mixture would write to a page of neither.
  const low = [{ iova: IOVA, size: PAGE, address: PAGE, permissions: DMA_READ | DMA_WRITE }];
  const far = [
    { iova: 0, size: PAGE, address: 0, permissions: DMA_READ },
    { iova: IOVA, size: PAGE, address: 2 * PAGE, permissions: DMA_READ | DMA_WRITE },
  ];
  dma.translate(low);
  const thread = start('writer', { share: dma.share(), address: IOVA });
  thread.reached(1);
  for (let round = 0; round < 3000; round++) dma.translate(round % 2 === 0 ? far : low);
  thread.release(2);
  thread.reached(2);
  const words = ram.slabs[0]?.views.i32 as Int32Array;
  const written = Array.from({ length: 64 }, (_, page) => words[(page * PAGE) / 4] as number);
  expect(written[0]).toBe(0);
  expect(written[1]).toBeGreaterThan(0);
  expect(written[1]).toSatisfy((n: number) => n % 50 === 0);
  expect(written[2]).toSatisfy((n: number) => n % 50 === 0);
  expect(written.slice(3).every((n) => n === 0)).toBe(true);
});

it('once dirty logging started, no write of a worker is missed, and the page is marked before it is seen', () => {
  const ram = memory();
  const dma = DmaSpace.create(ram);
  const counter = ram.slabs[0]?.views.i32 as Int32Array;
  const thread = start('writer', { share: dma.share(), address: 5 * PAGE });
  thread.reached(1);
  const at = (5 * PAGE) / 4;
  for (let round = 0; round < 200; round++) {
    ram.dirty.start();
    const before = Atomics.load(counter, at);
    const deadline = performance.now() + 10_000;
    while (Atomics.load(counter, at) < before + 200) if (performance.now() > deadline) throw new Error('waited 10 s for writes');
    expect(ram.dirty.take()).toEqual([5 * PAGE]);
    ram.dirty.stop();
  }
  thread.release(2);
  thread.reached(2);
});

it('a thread that died inside a turn delays a change once, and none after it was expelled', async () => {
  const dma = DmaSpace.create(memory());
  const thread = start('stuck', { share: dma.share() });
  thread.reached(1);
  const reader = Atomics.load(thread.words, 2);
  await thread.end();
  dma.expel(reader);
  const before = performance.now();
  dma.busMaster = false;
  dma.busMaster = true;
  const expelled = performance.now() - before;

  const second = start('stuck', { share: dma.share() });
  second.reached(1);
  await second.end();
  const start2 = performance.now();
  dma.busMaster = false;
  const waited = performance.now() - start2;
  dma.busMaster = true;
  // The bound is two seconds; an expelled reader is not waited for at all.
  expect(expelled).toBeLessThan(waited / 2);
});

it('sixteen readers at a time, as many as one likes one after the other', () => {
  const dma = DmaSpace.create(memory());
  const share = dma.share();
  const readers = Array.from({ length: 16 }, () => DmaSpace.open(share));
  for (const reader of readers) {
    expect(reader.enter()).toBe(true);
    reader.leave();
  }
  const another = DmaSpace.open(share);
  expect(() => another.enter()).toThrow(/more than 16/);
  readers[3]?.close();
  expect(another.enter()).toBe(true);
  another.leave();
  for (let i = 0; i < 100; i++) {
    another.close();
    another.enter();
    another.leave();
  }
});

it.each<[string, (late: DmaSpace, dma: DmaSpace, reader: number) => void]>([
  ['leaves and closes', (late) => [late.leave(), late.close()]],
  ['begins another turn', (late) => [late.enter(), late.close()]],
  ['is expelled once more', (_late, dma, reader) => dma.expel(reader)],
])('a reader taken for dead that %s takes nothing from the one that has its slot now', (_what, comesBack) => {
  const dma = DmaSpace.create(memory());
  const share = dma.share();
  const late = DmaSpace.open(share);
  late.enter();
  const { reader } = late;
  dma.expel(reader);
  const heir = DmaSpace.open(share);
  heir.enter();
  comesBack(late, dma, reader);
  for (let i = 0; i < 15; i++) DmaSpace.open(share).enter();
  expect(() => DmaSpace.open(share).enter()).toThrow(/more than 16/);
  heir.leave();
  heir.close();
  expect(DmaSpace.open(share).enter()).toBe(true);
});

it('a change that throws leaves the space usable', () => {
  const dma = DmaSpace.create(memory());
  const write = () => {
    throw new Error('ours');
  };
  expect(() => dma.betweenTurns(write)).toThrow('ours');
  dma.busMaster = false;
  const thread = start('fault', { share: dma.share(), address: 2 ** 40 });
  thread.reached(1);
  expect(dma.load16(0)).toBe(-1);
});

it('a fault on a worker is recorded for the machine', () => {
  const dma = DmaSpace.create(memory(), { requester: 0x0208 });
  start('fault', { share: dma.share(), address: 2 ** 40 }).reached(1);
  expect(dma.takeFaults()).toEqual({ count: 1, records: [{ requester: 0x0208, address: 2 ** 40, length: 8, access: DMA_WRITE }] });
});
