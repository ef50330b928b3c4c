// Property: whatever bytes a driver leaves in memory, a queue neither throws nor goes on for ever, resolves only to RAM it may use, and writes only where a
// device may: the used ring or descriptors, and the suppression words.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DMA_READ, DMA_WRITE } from '#core/dma-space';
import { openQueue } from '#virtio/open-queue';
import { QUEUE_BROKEN, QUEUE_EMPTY } from '#virtio/virtqueue';
import { DATA, DESC, DEVICE, DRIVER, featuresOf, RAM_BYTES, TABLES, World } from './ring-world.ts';

const RUNS = 250;

/** Addresses that matter: around the ends of RAM, rings, tables, 4 GiB, 2^52 and 2^64. */
const address = fc.oneof(
  fc.integer({ min: 0, max: RAM_BYTES }).map((a) => a),
  fc.constantFrom(0, DESC, DRIVER, DEVICE, TABLES, DATA, RAM_BYTES - 1, RAM_BYTES, 2 ** 32 - 16, 2 ** 32, 2 ** 52 - 1, 2 ** 52, 2 ** 63, 2 ** 64 - 4096),
);
const length = fc.oneof(fc.constantFrom(0, 1, 15, 16, 32, 64, 160, 4096, RAM_BYTES, 2 ** 31, 2 ** 32 - 1), fc.integer({ min: 0, max: 300 }));
const flags = fc.oneof(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 0xffff }));
const next = fc.oneof(fc.integer({ min: 0, max: 17 }), fc.integer({ min: 0, max: 0xffff }));
const wild = fc.record({ address, length, flags, next });
/** Sound more often than not, or nothing gets past the first check. */
const sound = fc.record({
  address: fc.oneof(fc.integer({ min: DATA, max: RAM_BYTES - 4096 }), fc.constant(RAM_BYTES - 4096), fc.constant(TABLES)),
  length: fc.constantFrom(0, 16, 32, 48, 1500, 4096, 4200),
  flags: fc.constantFrom(0, 0, 1, 2, 3, 4),
  next: fc.integer({ min: 0, max: 3 }),
});
const descriptor = fc.oneof({ arbitrary: sound, weight: 6 }, { arbitrary: wild, weight: 1 });
const options = fc.record({
  packed: fc.boolean(),
  eventIdx: fc.boolean(),
  indirect: fc.boolean(),
  inOrder: fc.boolean(),
  size: fc.constantFrom(1, 2, 4, 16),
});
const step = fc.record({
  descriptors: fc.array(fc.tuple(fc.nat(15), descriptor), { maxLength: 16 }),
  table: fc.array(descriptor, { maxLength: 12 }),
  heads: fc.array(fc.oneof({ arbitrary: fc.integer({ min: 0, max: 15 }), weight: 30 }, { arbitrary: fc.integer({ min: 0, max: 0xffff }), weight: 1 }), {
    maxLength: 16,
  }),
  advance: fc.oneof({ arbitrary: fc.integer({ min: 0, max: 4 }), weight: 6 }, { arbitrary: fc.integer({ min: 0, max: 0xffff }), weight: 1 }),
  event: fc.integer({ min: 0, max: 0xffffffff }),
  pushes: fc.integer({ min: 0, max: 20 }),
  written: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  unpops: fc.integer({ min: 0, max: 3 }),
  keepLap: fc.boolean(),
});

function put(world: World, at: number, d: { address: number; length: number; flags: number; next: number }, packed: boolean): void {
  world.view.setUint32(at, d.address % 2 ** 32, true);
  world.view.setUint32(at + 4, Math.floor(d.address / 2 ** 32) >>> 0, true);
  world.view.setUint32(at + 8, d.length, true);
  world.view.setUint16(at + 12, packed ? d.next : d.flags, true);
  world.view.setUint16(at + 14, packed ? d.flags : d.next, true);
}

test('random rings', () => {
  let popped = 0;
  let broke = 0;
  fc.assert(
    fc.property(options, fc.array(step, { minLength: 1, maxLength: 6 }), (o, steps) => {
      const world = new World(o);
      const { queue } = world;
      const { packed } = o;
      const tokens: number[] = [];
      let index = 0;
      let lap = 0x80;
      for (const s of steps) {
        for (const [slot, d] of s.descriptors) {
          // Half of the packed descriptors are made available on purpose, so that pops see them.
          const bits = s.keepLap ? (d.flags & ~0x8080) | lap : d.flags;
          put(world, DESC + 16 * (slot % o.size), { ...d, flags: packed ? bits : d.flags }, packed);
        }
        s.table.forEach((d, i) => {
          put(world, TABLES + 16 * i, d, packed);
        });
        if (packed) world.view.setUint32(DRIVER, s.event, true);
        else {
          s.heads.forEach((head, i) => {
            world.view.setUint16(DRIVER + 4 + 2 * (i % o.size), head < 16 ? head % o.size : head, true);
          });
          index = (index + s.advance) & 0xffff;
          world.view.setUint16(DRIVER + 2, index, true);
          world.view.setUint16(DRIVER + 4 + 2 * o.size, s.event & 0xffff, true);
        }
        lap ^= 0x8080;
        const usedFrom = packed ? DESC : DEVICE;
        const usedTo = usedFrom + (packed ? 16 * o.size : 4 + 8 * o.size + 2);
        // RAM outside what the device may write.
        const others = (packed ? [0, usedFrom, usedTo, DEVICE, DEVICE + 4, RAM_BYTES] : [0, usedFrom, usedTo, RAM_BYTES]) as [number, number, ...number[]];
        const before = Buffer.from(world.u8);
        queue.resync();
        world.list.truncate(0);
        for (let pops = 0; ; pops++) {
          // A driver can have no more than `size` chains in flight, so no more than that come out in a turn.
          expect(pops).toBeLessThanOrEqual(o.size);
          const from = world.list.count;
          const token = queue.pop(world.list);
          if (token < 0) {
            expect([QUEUE_EMPTY, QUEUE_BROKEN]).toContain(token);
            expect(token === QUEUE_BROKEN).toBe(queue.broken !== undefined);
            expect(world.list.count).toBe(from);
            break;
          }
          tokens.push(token);
          popped++;
          expect(world.list.count - from).toBe(queue.segments);
          for (let i = from; i < world.list.count; i++) {
            const at = world.list.offset[i] as number;
            const bytes = world.list.length[i] as number;
            expect(bytes).toBeGreaterThan(0);
            expect(at).toBeGreaterThanOrEqual(0);
            expect(at + bytes).toBeLessThanOrEqual(RAM_BYTES);
            expect(world.dma.window(world.list.address[i] as number, bytes, i - from < queue.readableSegments ? DMA_READ : DMA_WRITE)).toBe(
              world.list.window[i],
            );
          }
        }
        const unpops = Math.min(s.unpops, tokens.length);
        queue.unpop(unpops);
        tokens.splice(tokens.length - unpops);
        for (const token of tokens.splice(0, s.pushes)) queue.push(token, s.written);
        queue.publish();
        queue.suppressKicks();
        queue.awaitKick();
        for (let i = 0; i < others.length; i += 2) {
          const [from, to] = others.slice(i) as [number, number];
          const same = before.compare(world.u8, from, to, from, to) === 0;
          expect(same, `RAM from 0x${from.toString(16)} to 0x${to.toString(16)} is as it was`).toBe(true);
        }
        if (queue.broken !== undefined) broke++;
        else {
          // A position taken anywhere opens a queue that stands there.
          const again = openQueue(world.setup, queue.position, world.features, world.dma);
          expect(typeof again === 'string' ? again : again.position).toEqual(queue.position);
        }
      }
    }),
    { numRuns: RUNS },
  );
  // The generator is worth something: plenty of both.
  expect(popped).toBeGreaterThan(RUNS / 4);
  expect(broke).toBeGreaterThan(RUNS / 4);
}, 60_000);

describe('random set-ups', () => {
  test('are opened or refused, never thrown on', () => {
    const world = new World();
    const number = fc.oneof(address, fc.double(), fc.integer(), fc.constantFrom(Number.NaN, -1, 0.5, 2 ** 53));
    fc.assert(
      fc.property(
        fc.record({
          size: fc.oneof(number, fc.constantFrom(1, 2, 256)),
          descriptorArea: fc.oneof(number, fc.constant(DESC)),
          driverArea: fc.oneof(number, fc.constant(DRIVER)),
          deviceArea: fc.oneof(number, fc.constant(DEVICE)),
        }),
        fc.record({ available: fc.oneof(number, fc.constant(0), fc.constant(0x8000)), used: fc.oneof(number, fc.constant(0), fc.constant(0x8000)) }),
        options,
        (setup, position, o) => {
          const queue = openQueue(setup, position, featuresOf(o), world.dma);
          if (typeof queue !== 'string') world.queue = queue;
          world.list.truncate(0);
          for (let i = 0; i < 3; i++) if (typeof queue !== 'string') expect(queue.pop(world.list)).toBeLessThan(2 ** 31);
        },
      ),
      { numRuns: 3000 },
    );
  });
});
