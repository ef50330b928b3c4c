// Traffic through both rings against the plain driver, over every combination of ring features: long enough to wrap rings and indices many times.

import { describe, expect, test } from 'vitest';
import { QUEUE_EMPTY } from '#virtio/virtqueue';
import { type Buffer, SplitDriver } from './driver-split.ts';
import { DATA, TABLES, World, type WorldOptions } from './ring-world.ts';

const FLAGS = [false, true];
const KINDS: WorldOptions[] = FLAGS.flatMap((packed) =>
  FLAGS.flatMap((eventIdx) => FLAGS.flatMap((inOrder) => (packed ? [1, 7, 16] : [1, 8, 16]).map((size) => ({ packed, eventIdx, inOrder, size })))),
);

/** A small generator of our own: the run is the same each time. */
function generator(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function title(o: WorldOptions): string {
  return `${o.packed ? 'packed' : 'split'} ${o.size}${o.eventIdx ? ' EVENT_IDX' : ''}${o.inOrder ? ' IN_ORDER' : ''}`;
}

/** A split chain may begin with plain descriptors and end in a table; a packed one is all table. */
function addIndirect(world: World, cookie: number, buffers: Buffer[], table: number, direct: number): boolean {
  return world.driver instanceof SplitDriver ? world.driver.add(cookie, buffers, table, direct) : world.driver.add(cookie, buffers, table);
}

describe.each(KINDS.map((k) => [title(k), k] as const))('%s', (_, options) => {
  test('chains of every shape come out as they went in and come back once, with their lengths', () => {
    // Split indices wrap early in the run.
    const world = new World(options.packed ? options : { ...options, start: 65500 });
    const random = generator(options.size ?? 1);
    const expected = new Map<number, { buffers: Buffer[]; length: number }>();
    const held: { token: number; cookie: number; length: number }[] = [];
    const returned: number[] = [];
    const sent: number[] = [];
    let cookie = 0;
    let popped = 0;
    let reopened = 0;
    const order: number[] = [];
    for (let round = 0; round < 1500; round++) {
      for (let n = random(4); n > 0; n--) {
        const readable = random(3);
        const writable = random(3) + (readable === 0 ? 1 : 0);
        const buffers: Buffer[] = [];
        for (let i = 0; i < readable + writable; i++) buffers.push({ address: DATA + 64 * random(1000), length: random(8) * 100, write: i >= readable });
        const indirect = random(3) === 0;
        const table = TABLES + 512 * (cookie % 64) + 8 * random(2);
        const direct = Math.min(random(2), buffers.length - 1);
        const added = indirect ? addIndirect(world, cookie, buffers, table, direct) : world.driver.add(cookie, buffers);
        if (!added) break;
        expected.set(cookie, { buffers, length: 0 });
        order.push(cookie++);
      }
      world.driver.expose();
      for (let n = random(5); n > 0; n--) {
        const token = world.pop();
        if (token === QUEUE_EMPTY) break;
        expect(token, world.queue.broken).toBeGreaterThanOrEqual(0);
        const mine = order[popped++] as number;
        const { buffers } = expected.get(mine) as { buffers: Buffer[] };
        const kept = buffers.filter((b) => b.length > 0);
        const list = world.list;
        expect(Array.from({ length: list.count }, (_, i) => [list.address[i], list.length[i]])).toEqual(kept.map((b) => [b.address, b.length]));
        expect(world.queue.readableSegments).toBe(kept.filter((b) => !b.write).length);
        expect(world.queue.segments).toBe(kept.length);
        const total = (write: boolean): number => kept.filter((b) => (b.write ?? false) === write).reduce((s, b) => s + b.length, 0);
        expect([world.queue.readableBytes, world.queue.writableBytes]).toEqual([total(false), total(true)]);
        // Now and then one is given back to be popped again.
        if (random(7) === 0) {
          world.queue.unpop(1);
          popped--;
          continue;
        }
        held.push({ token, cookie: mine, length: world.queue.writableBytes === 0 ? 0 : random(world.queue.writableBytes + 1) });
      }
      while (held.length > 0 && random(3) > 0) {
        const [one] = held.splice(options.inOrder ? 0 : random(held.length), 1) as [(typeof held)[0]];
        world.queue.push(one.token, one.length);
        (expected.get(one.cookie) as { length: number }).length = one.length;
        sent.push(one.cookie);
      }
      world.queue.publish();
      for (const done of world.driver.reap()) {
        expect(done.length).toBe((expected.get(done.cookie) as { length: number }).length);
        returned.push(done.cookie);
        expected.delete(done.cookie);
      }
      // Live hand-over, with whatever is in flight: tokens go on to the next owner.
      if (random(10) === 0) {
        world.reopen();
        reopened++;
      }
    }
    expect(returned).toEqual(sent);
    expect(returned.length).toBeGreaterThan(200);
    expect(reopened).toBeGreaterThan(80);
  });
});
