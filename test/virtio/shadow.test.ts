// The parts of a shadow virtqueue: device addresses for memory, and the ring of the host's own, served by the device's side of a queue that keeps to the rules, and by one that does not.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { FeatureSet, VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { IovaTree } from '#virtio/iova-tree';
import { openQueue } from '#virtio/open-queue';
import { ShadowRing } from '#virtio/shadow-ring';
import { QUEUE_BROKEN, QUEUE_EMPTY, type VirtQueue } from '#virtio/virtqueue';

const PAGE = 4096;

describe('device addresses', () => {
  it('are as a plain list of pages has them, whatever is allocated and freed', () => {
    const step = fc.record({ address: fc.integer({ min: 0, max: 40 }), pages: fc.integer({ min: 1, max: 6 }), free: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.integer({ min: 0, max: 3 }), (steps, first) => {
        const limit = 48;
        const tree = new IovaTree({ first: first * PAGE + 1, last: limit * PAGE - 1 });
        const low = first + 1;
        // By device page: the page of memory, or undefined.
        const model = new Array<number | undefined>(limit).fill(undefined);
        for (const { address, pages, free } of steps) {
          const taken = Array.from({ length: pages }, (_, i) => model.includes(address + i)).some(Boolean);
          let at = -1;
          for (let page = low; page + pages <= limit && at < 0; page++) if (model.slice(page, page + pages).every((p) => p === undefined)) at = page;
          if (taken || at < 0) expect(() => tree.allocate(address * PAGE, pages * PAGE)).toThrow(RangeError);
          else {
            expect(tree.allocate(address * PAGE, pages * PAGE)).toEqual({ iova: at * PAGE, address: address * PAGE, size: pages * PAGE });
            for (let i = 0; i < pages; i++) model[at + i] = address + i;
          }
          const some = tree.ranges[address % Math.max(1, tree.ranges.length)];
          if (free && some !== undefined) {
            tree.free(some);
            model.fill(undefined, some.iova / PAGE, (some.iova + some.size) / PAGE);
          }
          for (let page = 0; page < limit; page++) {
            const memory = model[page];
            expect(tree.addressOf(page * PAGE + 5, 1)).toBe(memory === undefined ? -1 : memory * PAGE + 5);
            if (memory !== undefined) expect(tree.iovaOf(memory * PAGE + 7, PAGE - 7)).toBe(page * PAGE + 7);
          }
          const [range] = tree.ranges;
          if (range !== undefined) expect(tree.iovaOf(range.address, range.size + 1)).toBe(-1);
        }
      }),
      { numRuns: 200 },
    );
  });
});

const RAM = 64 * PAGE;
const RINGS = 2 ** 40;

/** A shadow ring and the device's side of it, over memory as the device would be given it. */
function world(size: number, inOrder: boolean): { ring: ShadowRing; queue: VirtQueue; memory: GuestMemory; buffer: SharedArrayBuffer } {
  const buffer = new SharedArrayBuffer(ShadowRing.bytes(size));
  const ram = new SharedArrayBuffer(RAM);
  const memory = new GuestMemory([
    { base: 0, size: RAM, source: ram },
    { base: RINGS, size: buffer.byteLength, source: buffer },
  ]);
  const dma = DmaSpace.create(memory);
  // The guest's RAM from 2^33 on, so that addresses have more than 32 bits.
  dma.translate([{ iova: 2 ** 33, address: 0, size: RAM, permissions: 3 }, ...ShadowRing.mappings(size, 2 ** 34, RINGS)]);
  const ring = new ShadowRing({ size, buffer, offset: 0, iova: 2 ** 34, inOrder });
  const features = FeatureSet.of(VIRTIO_F_VERSION_1, ...(inOrder ? [VIRTIO_F_IN_ORDER] : []));
  const queue = openQueue(ring.setup, { available: 0, used: 0 }, features, dma);
  if (typeof queue === 'string') throw new Error(queue);
  return { ring, queue, memory, buffer };
}

describe.each([
  ['any order', false],
  ['in order', true],
])("a ring of the host's own, %s", (_name, inOrder) => {
  it('shows the device every chain as it was added, and brings each back once with what was written, whatever the order', () => {
    const chain = fc.record({ readable: fc.integer({ min: 0, max: 3 }), writable: fc.integer({ min: 0, max: 3 }) });
    const round = fc.record({ add: fc.array(chain, { maxLength: 6 }), back: fc.integer({ min: 0, max: 8 }), pick: fc.integer({ min: 0, max: 7 }) });
    fc.assert(
      fc.property(fc.array(round, { maxLength: 60 }), (rounds) => {
        const { ring, queue, memory } = world(16, inOrder);
        memory.dirty.start();
        const segments = new SegmentList(64, (memory.slabs[0] as never as { views: SegmentList['views'][number] }).views);
        const expected: { token: number; lengths: number[]; writable: number; page: number }[] = [];
        const popped: { head: number; token: number; writable: number; page: number }[] = [];
        const returned: { token: number; written: number; page: number }[] = [];
        let next = 0;
        for (const { add, back, pick } of rounds) {
          for (const { readable, writable } of add) {
            const buffers = Math.max(1, readable + writable);
            if (buffers > ring.room) continue;
            const token = 1000 + next;
            const page = (next++ * 7) % 60;
            ring.begin(token);
            const lengths: number[] = [];
            for (let i = 0; i < readable + writable; i++) {
              lengths.push(10 + i);
              ring.add(2 ** 33 + page * PAGE + 100 * i, page * PAGE + 100 * i, 10 + i, i >= readable);
            }
            if (lengths.length === 0) ring.add(2 ** 34, -1, 0, true);
            ring.end();
            expected.push({ token, lengths, writable: lengths.slice(readable).reduce((a, b) => a + b, 0), page });
          }
          ring.expose();
          for (;;) {
            segments.truncate(0);
            const head = queue.pop(segments);
            if (head < 0) break;
            const due = expected.shift();
            expect([...segments.length.subarray(0, segments.count)]).toEqual(due?.lengths);
            expect(queue.writableBytes).toBe(due?.writable);
            popped.push({ head, token: due?.token as number, writable: due?.writable as number, page: due?.page as number });
          }
          expect(queue.broken).toBeUndefined();
          for (let i = 0; i < back && popped.length > 0; i++) {
            const [one] = popped.splice(inOrder ? 0 : pick % popped.length, 1) as [(typeof popped)[number]];
            queue.push(one.head, one.writable);
            returned.push({ token: one.token, written: one.writable, page: one.page });
          }
          queue.publish();
          memory.dirty.take();
          const written = new Set<number>();
          for (;;) {
            const head = ring.take(memory.dirty);
            if (head < 0) {
              expect(head).toBe(QUEUE_EMPTY);
              break;
            }
            const due = returned.shift();
            expect([ring.token, ring.written]).toEqual([due?.token, due?.written]);
            if ((due?.written ?? 0) > 0) written.add((due?.page as number) * PAGE);
          }
          expect(returned).toEqual([]);
          expect(memory.dirty.take()).toEqual([...written].sort((a, b) => a - b));
        }
        expect(ring.outstanding).toBe(popped.length + expected.length);
        expect(ring.untaken(queue.available)).toBe(expected.length);
      }),
      { numRuns: 100 },
    );
  });

  it.each([
    ['an index that jumped', [0, 3]],
    ['a buffer it never had', [0, 1, 9]],
    ['an id beyond the ring', [0, 1, 0, 0x8000]],
  ])('is broken, and no more, by a device that returns %s', (_what, used) => {
    const { ring, buffer } = world(16, inOrder);
    ring.begin(1);
    ring.add(2 ** 33, 0, 100, true);
    ring.end();
    ring.expose();
    new Uint16Array(buffer, ring.setup.deviceArea - 2 ** 34).set(used);
    expect(ring.take(undefined)).toBe(QUEUE_BROKEN);
    expect(ring.outstanding).toBe(1);
  });

  it('takes no more bytes for written than could be', () => {
    const { ring, buffer, memory } = world(16, inOrder);
    memory.dirty.start();
    ring.begin(1);
    ring.add(2 ** 33, 0, 100, false);
    ring.add(2 ** 33 + 3 * PAGE, 3 * PAGE, 100, true);
    ring.end();
    ring.expose();
    const used = new Uint32Array(buffer, ring.setup.deviceArea - 2 ** 34);
    used[2] = 0xffff_ffff;
    used[0] = 1 << 16;
    expect(ring.take(memory.dirty)).toBe(0);
    expect(ring.written).toBe(100);
    expect(memory.dirty.take()).toEqual([3 * PAGE]);
  });
});

it("IN_ORDER: a chain that another's entry stands for counts as written as a whole", () => {
  const { ring, buffer } = world(16, true);
  for (const token of [1, 2, 3]) {
    ring.begin(token);
    ring.add(2 ** 33, 0, 100 * token, true);
    ring.end();
  }
  ring.expose();
  const used = new Uint32Array(buffer, ring.setup.deviceArea - 2 ** 34);
  // One entry, at the place of the first, for all three; it names the last.
  used[1] = 2;
  used[2] = 7;
  used[0] = 3 << 16;
  const seen: number[][] = [];
  while (ring.take(undefined) >= 0) seen.push([ring.token, ring.written]);
  expect(seen).toEqual([
    [1, 100],
    [2, 200],
    [3, 7],
  ]);
});
