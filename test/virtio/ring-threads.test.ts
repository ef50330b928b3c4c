// A driver on a real thread of its own. First traffic with both sides going to sleep whenever they run out: a lost notification, a torn entry or data that shows
// before it was written stops it or is counted as wrong. Then a driver that changes descriptors while they are read (DPDK CVE-2020-14375).

import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { DMA_READ, DMA_WRITE } from '#core/dma-space';
import { initialPosition, openQueue } from '#virtio/open-queue';
import { QUEUE_BROKEN, QUEUE_EMPTY } from '#virtio/virtqueue';
import { DATA, DESC, DEVICE, DRIVER, mustOpen, RAM_BYTES, World, type WorldOptions } from './ring-world.ts';

const KICK = 0;
const CALL = 1;
const BACK = 2;
const WRONG = 3;
const STOP = 4;
const SLEEPS = 5;
const CHAINS = 40_000;
const WRONGS = ['nothing', 'a used entry with the wrong id or length', 'data that is not what the device wrote', 'no call within 10 s'];

function start(world: World, task: string): { words: Int32Array; ended: Promise<void> } {
  const words = new Int32Array(new SharedArrayBuffer(64));
  const { size = 8, packed = false, eventIdx = false } = world.options;
  const workerData = {
    task,
    ram: world.ram,
    words: words.buffer,
    desc: DESC,
    driver: DRIVER,
    device: DEVICE,
    data: DATA,
    size,
    packed,
    eventIdx,
    count: CHAINS,
  };
  const worker = new Worker(new URL('./ring-thread.mjs', import.meta.url), { workerData });
  const ended = new Promise<void>((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', () => resolve());
  });
  return { words, ended };
}

/** Serves until the driver has everything back; returns how often it slept. */
function serve(world: World, words: Int32Array): number {
  let sleeps = 0;
  let expected = 0;
  let turn = 0;
  const list = world.list;
  while (Atomics.load(words, BACK) >= 0 && Atomics.load(words, BACK) < CHAINS) {
    const seen = Atomics.load(words, KICK);
    const { queue } = world;
    list.truncate(0);
    let served = 0;
    for (let token = queue.pop(list); token >= 0 && served < 16; token = queue.pop(list), served++) {
      const words32 = list.views[0]?.i32 as Int32Array;
      const from = (list.offset[list.count - 2] as number) / 4;
      const to = (list.offset[list.count - 1] as number) / 4;
      for (let i = 0; i < 4; i++) {
        if (words32[from + i] !== (expected ^ (i * 0x01010101))) throw new Error(`chain ${expected}, word ${i}: ${words32[from + i]}`);
        words32[to + i] = ~(expected + i);
      }
      expected++;
      queue.push(token, 16);
    }
    // The seventeenth was popped and not dealt with.
    if (served === 16 && queue.broken === undefined && list.count > 32) queue.unpop(1);
    if (queue.broken !== undefined) throw new Error(queue.broken);
    if (queue.publish()) {
      Atomics.add(words, CALL, 1);
      Atomics.notify(words, CALL);
    }
    // Hand-overs under way, too.
    if (turn++ % 64 === 63) world.reopen();
    else if (served > 0) world.queue.suppressKicks();
    if (served > 0 || world.queue.awaitKick()) continue;
    sleeps++;
    if (Atomics.wait(words, KICK, seen, 10_000) === 'timed-out') throw new Error(`waited 10 s for a kick after ${expected} chains`);
  }
  return sleeps;
}

const KINDS: readonly WorldOptions[] = [false, true].flatMap((packed) =>
  [false, true].flatMap((eventIdx) => [false, true].map((inOrder) => ({ packed, eventIdx, inOrder, size: packed ? 62 : 64 }))),
);

describe.each(KINDS)('%o', (options) => {
  test('numbered buffers go through and come back, with both threads sleeping in between', async () => {
    const world = new World(options);
    const { words, ended } = start(world, 'traffic');
    const sleeps = serve(world, words);
    await ended;
    expect(WRONGS[Atomics.load(words, WRONG)]).toBe('nothing');
    expect(Atomics.load(words, BACK)).toBe(CHAINS);
    expect(sleeps + Atomics.load(words, SLEEPS)).toBeGreaterThan(0);
  });
});

test.each([false, true])('descriptors that change while they are read never lead outside RAM (packed %s)', async (packed) => {
  const world = new World({ packed });
  const { words, ended } = start(world, 'flip');
  const deadline = performance.now() + 10_000;
  while (Atomics.load(words, BACK) === 0) if (performance.now() > deadline) throw new Error('waited 10 s for the writer to start');
  world.view.setUint16(DRIVER + 2, 1, true);
  let popped = 0;
  let broke = 0;
  for (const end = performance.now() + 400; performance.now() < end; ) {
    const queue = mustOpen(openQueue(world.setup, initialPosition(world.features), world.features, world.dma));
    world.list.truncate(0);
    const token = queue.pop(world.list);
    if (token === QUEUE_BROKEN) broke++;
    if (token === QUEUE_BROKEN || token === QUEUE_EMPTY) continue;
    popped++;
    let bytes = 0;
    for (let i = 0; i < world.list.count; i++) {
      const [address, length] = [world.list.address[i] as number, world.list.length[i] as number];
      bytes += length;
      const inside = length > 0 && address + length <= RAM_BYTES && world.list.offset[i] === address;
      if (!inside) throw new Error(`segment of ${length} at ${address}`);
      if (world.dma.window(address, length, i < queue.readableSegments ? DMA_READ : DMA_WRITE) === null) throw new Error('not accessible');
    }
    if (bytes !== queue.readableBytes + queue.writableBytes) throw new Error('byte counts come from another reading than the segments');
  }
  Atomics.store(words, STOP, 1);
  await ended;
  // Both outcomes were seen, so the writer did hit.
  expect(popped).toBeGreaterThan(0);
  expect(broke).toBeGreaterThan(0);
});
