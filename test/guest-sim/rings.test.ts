import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '#core/guest-memory';
import { GuestArena } from '#guest-sim/arena';
import { PackedRing } from '#guest-sim/packed-ring';
import type { DriverRing, RingOptions } from '#guest-sim/ring';
import { SplitRing } from '#guest-sim/split-ring';
import { type ModelChain, type ModelRing, PackedModel, SplitModel } from './ring-model.ts';

function setUp(
  format: 'split' | 'packed',
  flags: { eventIdx: boolean; indirect: boolean; inOrder: boolean },
  size: number,
): { ring: DriverRing; model: ModelRing; options: RingOptions } {
  const memory = new GuestMemory([{ base: 0x1_0000_0000 - 0x8000, size: 0x1_0000 }]);
  const options: RingOptions = { arena: new GuestArena(memory), size, maxSegments: 5, ...flags };
  const ring = format === 'split' ? new SplitRing(options) : new PackedRing(options);
  return { ring, model: format === 'split' ? new SplitModel(ring, options) : new PackedModel(ring, options), options };
}

const variants = (['split', 'packed'] as const).flatMap((format) =>
  [false, true].flatMap((eventIdx) =>
    [false, true].flatMap((indirect) => [false, true].map((inOrder) => ({ format, eventIdx, indirect, inOrder, size: format === 'split' ? 16 : 13 }))),
  ),
);

describe.each(variants)('$format ring, event index $eventIdx, indirect $indirect, in order $inOrder', ({ format, size, ...flags }) => {
  it('carries lists of any shape, in any order of use, over many laps', () => {
    const step = fc.record({
      adds: fc.array(fc.record({ readable: fc.nat(3), writable: fc.nat(3) }), { maxLength: 6 }),
      uses: fc.nat(8),
      pick: fc.nat(1000),
      batch: fc.boolean(),
      await: fc.oneof(fc.constant(undefined), fc.nat(4)),
      calls: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 120 }), (steps) => {
        const { ring, model } = setUp(format, flags, size);
        const held: { chain: ModelChain; token: number; writable: number }[] = [];
        const expected: { token: number; length: number }[] = [];
        const tokens = new Int32Array(64);
        const lengths = new Int32Array(64);
        let next = 1;
        const offsets = new Int32Array(6);
        const sizes = new Int32Array(6);
        for (const s of steps) {
          const sent: { token: number; segments: { length: number; offset: number; writable: boolean }[]; slots: number }[] = [];
          for (const add of s.adds) {
            const segments = add.readable + add.writable;
            if (segments === 0) continue;
            for (let i = 0; i < segments; i++) {
              offsets[i] = 0x100 * next + 8 * i;
              sizes[i] = 1 + ((next + i) % 100);
            }
            const shape = Array.from({ length: segments }, (_, i) => ({
              offset: offsets[i] as number,
              length: sizes[i] as number,
              writable: i >= add.readable,
            }));
            const fits = ring.fits(segments);
            const added = ring.addList(offsets, sizes, add.readable, add.writable, next);
            expect(added).toBe(fits);
            if (added) sent.push({ token: next++, segments: shape, slots: segments });
          }
          // What the device asked for before it was published decides the kick, exactly.
          model.await(s.await);
          const kick = ring.publish();
          const chains: ModelChain[] = [];
          for (const one of sent) {
            const chain = model.take();
            expect(chain?.segments).toEqual(one.segments);
            chains.push(chain as ModelChain);
            held.push({ chain: chain as ModelChain, token: one.token, writable: one.segments.reduce((n, x) => n + (x.writable ? x.length : 0), 0) });
          }
          expect(model.take()).toBeUndefined();
          const units = format === 'packed' ? chains.reduce((n, c) => n + c.slots, 0) : chains.length;
          const due = units > 0 && s.await !== undefined && (!flags.eventIdx || s.await < units);
          expect(kick).toBe(due);
          // Suppression both ways, then some buffers come back.
          if (s.calls) expect(ring.enableCalls()).toBe(false);
          else ring.disableCalls();
          const uses = Math.min(s.uses, held.length);
          const batch: typeof held = [];
          for (let i = 0; i < uses; i++) {
            const [one] = held.splice(flags.inOrder ? 0 : s.pick % held.length, 1) as [(typeof held)[number]];
            batch.push(one);
          }
          if (flags.inOrder && s.batch && batch.length > 0) {
            const last = batch.at(-1) as (typeof held)[number];
            const length = Math.min(last.writable, s.pick);
            model.useBatch(
              batch.map((b) => b.chain),
              length,
            );
            for (const b of batch) expected.push({ token: b.token, length: b === last ? length : b.writable });
          } else
            for (const b of batch) {
              const length = Math.min(b.writable, s.pick);
              model.use(b.chain, length);
              expected.push({ token: b.token, length });
            }
          expect(model.callDue()).toBe(s.calls && batch.length > 0);
          expect(ring.hasUsed).toBe(batch.length > 0);
          let got = 0;
          while (ring.hasUsed) {
            const n = ring.harvest(tokens, lengths, 3, 2);
            expect(n).toBeGreaterThan(0);
            for (let i = 0; i < n; i++) expect({ token: tokens[2 + i], length: lengths[2 + i] }).toEqual(expected.shift());
            got += n;
          }
          expect(got).toBe(batch.length);
          expect(ring.outstanding).toBe(held.length);
          expect(ring.broken).toBe('');
        }
      }),
      { numRuns: 30 },
    );
  });

  it('survives a device that writes anything anywhere in what it may write', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ adds: fc.nat(6), at: fc.nat(), value: fc.nat(0xffffffff), mask: fc.constantFrom(0x1f, 0xffff, 0xffffffff) }), {
          minLength: 1,
          maxLength: 40,
        }),
        (steps) => {
          const { ring, options } = setUp(format, flags, size);
          const { arena } = options;
          const { device, desc } = ring.addresses;
          // Split: the used ring. Packed: the descriptor ring and the device's event area.
          const writableAt = format === 'split' ? device - arena.base : desc - arena.base;
          const writableSize = format === 'split' ? 6 + 8 * size : 16 * size;
          const out = new Set<number>();
          const tokens = new Int32Array(64);
          const lengths = new Int32Array(64);
          let next = 0;
          for (const s of steps) {
            for (let i = 0; i < s.adds; i++) {
              if (!ring.addOne(0x1000, 100, true, next)) break;
              out.add(next++);
            }
            ring.publish();
            arena.u32[(writableAt >>> 2) + (s.at % (writableSize >>> 2))] = (s.value & s.mask) >>> 0;
            if (format === 'split' && s.value % 3 === 0) arena.u16[(writableAt + 2) >>> 1] = s.value & 0x1f;
            if (format === 'packed') arena.u32[(device - arena.base) >>> 2] = s.value;
            const before = arena.bytesInUse;
            const n = ring.harvest(tokens, lengths, 32);
            expect(n).toBeLessThanOrEqual(size);
            for (let i = 0; i < n; i++) {
              expect(out.delete(tokens[i] as number)).toBe(true);
              expect(lengths[i]).toBeLessThanOrEqual(100);
            }
            expect(ring.outstanding).toBe(out.size);
            ring.enableCalls();
            ring.disableCalls();
            expect(arena.bytesInUse).toBe(before);
            if (ring.broken !== '') {
              expect(ring.addOne(0x1000, 1, true, 1)).toBe(false);
              expect(ring.harvest(tokens, lengths, 32)).toBe(0);
              expect(ring.hasUsed).toBe(false);
            }
          }
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe('notification data', () => {
  it('is the available index of a split ring', () => {
    const { ring } = setUp('split', { eventIdx: false, indirect: false, inOrder: false }, 4);
    for (let i = 0; i < 3; i++) ring.addOne(0, 1, true, i);
    ring.publish();
    expect(ring.notificationData).toBe(3);
  });

  it('is the next slot and the wrap counter of a packed ring', () => {
    const { ring, model } = setUp('packed', { eventIdx: false, indirect: false, inOrder: false }, 3);
    expect(ring.notificationData).toBe(0x8000);
    for (let i = 0; i < 3; i++) ring.addOne(0, 1, true, i);
    ring.publish();
    expect(ring.notificationData).toBe(0);
    for (let i = 0; i < 3; i++) model.use(model.take() as ModelChain, 0);
    ring.harvest(new Int32Array(4), new Int32Array(4), 4);
    ring.addOne(0, 1, true, 1);
    ring.publish();
    expect(ring.notificationData).toBe(1);
  });
});

describe('ring addresses', () => {
  it('carry into the upper half of a descriptor where a slab crosses 4 GiB', () => {
    const memory = new GuestMemory([{ base: 0xffff_f000, size: 0x10_0000 }]);
    const arena = new GuestArena(memory);
    const options = { arena, size: 2, maxSegments: 1, eventIdx: false, indirect: false, inOrder: false };
    const ring = new SplitRing(options);
    ring.addOne(0x1800, 4, false, 0);
    const at = (ring.addresses.desc - arena.base) >>> 2;
    expect([arena.u32[at], arena.u32[at + 1]]).toEqual([0x800, 1]);
  });

  it('are refused for sizes the format does not allow', () => {
    const arena = new GuestArena(new GuestMemory([{ base: 0, size: 0x20_0000 }]));
    const options = { arena, maxSegments: 1, eventIdx: false, indirect: false, inOrder: false };
    for (const size of [0, 3, 65536]) expect(() => new SplitRing({ ...options, size })).toThrow(RangeError);
    for (const size of [0, 32769]) expect(() => new PackedRing({ ...options, size })).toThrow(RangeError);
    expect(new PackedRing({ ...options, size: 1 }).size).toBe(1);
  });
});

describe('the guest arena', () => {
  it('hands out aligned, zeroed, disjoint blocks and joins them again when they are freed', () => {
    const arena = new GuestArena(new GuestMemory([{ base: 0, size: 0x20_0000 }]));
    const whole = 0x10_0000;
    const blocks = [100, 4096, 1, 300].map((size) => arena.allocate(size, 256));
    for (const at of blocks) expect(arena.address(at) % 256).toBe(0);
    arena.u8.fill(0xff, blocks[1] as number, (blocks[1] as number) + 4096);
    for (const i of [1, 3, 0, 2]) arena.free(blocks[i] as number);
    const all = arena.allocate(whole, 4096);
    expect(arena.u8.subarray(all, all + whole).every((b) => b === 0)).toBe(true);
    expect(() => arena.allocate(1)).toThrow(/largest free block has 0/);
    arena.free(all);
    expect(() => arena.free(all)).toThrow(RangeError);
  });
});
