// Every rule whose breach breaks the queue (reference/hostile-inputs.md 8.2: virtqueue core and the virtio_error list): pop says QUEUE_BROKEN from then on, the
// reason names the rule, and not a byte of memory has changed.

import { describe, expect, test } from 'vitest';
import { QUEUE_BROKEN, QUEUE_EMPTY } from '#virtio/virtqueue';
import { DATA, DESC, DRIVER, RAM_BYTES, TABLES, World, type WorldOptions } from './ring-world.ts';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

interface Breach {
  readonly name: string;
  readonly options?: WorldOptions;
  readonly arrange: (world: World) => void;
  readonly reason: RegExp;
}

function descriptor(world: World, at: number, address: number, length: number, flags: number, last = 0): void {
  world.split.writeDescriptor(at, 0, { address, length }, flags, last);
}

function available(world: World, heads: readonly number[], index = heads.length): void {
  heads.forEach((head, i) => {
    world.view.setUint16(DRIVER + 4 + 2 * i, head, true);
  });
  world.view.setUint16(DRIVER + 2, index, true);
}

const SPLIT: readonly Breach[] = [
  {
    name: 'available index jumps by more than the size',
    arrange: (w) => available(w, [0], 9),
    reason: /index moved/,
  },
  { name: 'available index jumps back', arrange: (w) => available(w, [], 65535), reason: /index moved/ },
  {
    name: 'available index goes back behind what was taken',
    arrange: (w) => {
      for (let i = 0; i < 3; i++) descriptor(w, DESC + 16 * i, DATA, 4, 0);
      available(w, [0, 1, 2]);
      for (let i = 0; i < 3; i++) expect(w.pop()).toBe(i);
      available(w, [0, 1, 2], 2);
    },
    reason: /index moved/,
  },
  // The window of the buffer before is remembered: its bounds must hold for the next one too.
  ...(
    [
      ['runs out of RAM', RAM_BYTES - 8, 9],
      ['starts outside RAM', RAM_BYTES, 1],
      ['has another high word', 2 ** 32 + DATA, 16],
      ['is 2 GiB long', DATA, 2 ** 31],
      ['is 2^32 - 1 long', DATA, 2 ** 32 - 1],
      ['starts 2 GiB up', 2 ** 31 + DATA, 16],
      ['starts below 4 GiB and ends above', 2 ** 32 - 8, 16],
    ] as const
  ).flatMap(([name, address, length]) => [
    {
      name: `a good buffer, then one that ${name}`,
      arrange: (w: World) => {
        descriptor(w, DESC, DATA, 4, 0);
        descriptor(w, DESC + 16, address, length, 0);
        available(w, [0, 1]);
        expect(w.pop()).toBe(0);
      },
      reason: /not readable memory/,
    },
    {
      name: `a good buffer, then in the same chain one that ${name}`,
      arrange: (w: World) => {
        descriptor(w, DESC, DATA, 4, NEXT, 1);
        descriptor(w, DESC + 16, address, length, WRITE);
        available(w, [0]);
      },
      reason: /not writable memory/,
    },
  ]),
  { name: 'head at the size', arrange: (w) => available(w, [8]), reason: /names descriptor 8 of 8/ },
  { name: 'head 65535', arrange: (w) => available(w, [65535]), reason: /names descriptor 65535/ },
  {
    name: 'next at the size',
    arrange: (w) => {
      descriptor(w, DESC, DATA, 4, NEXT, 8);
      available(w, [0]);
    },
    reason: /descriptor 8 of 8 is next/,
  },
  {
    name: 'a loop of two',
    arrange: (w) => {
      descriptor(w, DESC, DATA, 4, NEXT, 1);
      descriptor(w, DESC + 16, DATA, 4, NEXT, 0);
      available(w, [0]);
    },
    reason: /looped/,
  },
  {
    name: 'a loop of zero-length descriptors (CVE-2016-6490)',
    arrange: (w) => {
      descriptor(w, DESC, DATA, 0, NEXT, 0);
      available(w, [0]);
    },
    reason: /looped/,
  },
  {
    name: 'readable after writable',
    arrange: (w) => {
      descriptor(w, DESC, DATA, 4, NEXT | WRITE, 1);
      descriptor(w, DESC + 16, DATA, 4, 0);
      available(w, [0]);
    },
    reason: /device-readable descriptor follows/,
  },
  {
    name: 'readable after an empty writable',
    arrange: (w) => {
      descriptor(w, DESC, DATA, 0, NEXT | WRITE, 1);
      descriptor(w, DESC + 16, DATA, 0, 0);
      available(w, [0]);
    },
    reason: /device-readable descriptor follows/,
  },
  {
    name: 'buffer outside RAM',
    arrange: (w) => {
      descriptor(w, DESC, RAM_BYTES, 1, 0);
      available(w, [0]);
    },
    reason: /not readable memory/,
  },
  {
    name: 'buffer that runs out of RAM',
    arrange: (w) => {
      descriptor(w, DESC, RAM_BYTES - 8, 9, WRITE);
      available(w, [0]);
    },
    reason: /not writable memory/,
  },
  {
    name: 'buffer whose end wraps 2^64',
    arrange: (w) => {
      descriptor(w, DESC, 0xffffffff * 2 ** 32 + 0xfffff000, 0x2000, 0);
      available(w, [0]);
    },
    reason: /not readable memory/,
  },
  {
    name: 'buffer at 2^52 plus a good address',
    arrange: (w) => {
      descriptor(w, DESC, 2 ** 52 + DATA, 16, 0);
      available(w, [0]);
    },
    reason: /not readable memory/,
  },
  {
    name: 'length 2^32 - 1',
    arrange: (w) => {
      descriptor(w, DESC, DATA, 0xffffffff, 0);
      available(w, [0]);
    },
    reason: /not readable memory/,
  },
  {
    name: 'indirect that was not negotiated',
    options: { indirect: false },
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 16, INDIRECT);
      available(w, [0]);
    },
    reason: /not negotiated/,
  },
  {
    name: 'indirect with NEXT',
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 16, INDIRECT | NEXT, 1);
      available(w, [0]);
    },
    reason: /both INDIRECT and NEXT/,
  },
  ...[0, 8, 17, 0xffffffff].map((length) => ({
    name: `indirect table of ${length} bytes`,
    arrange: (w: World) => {
      descriptor(w, DESC, TABLES, length, INDIRECT);
      available(w, [0]);
    },
    reason: /indirect table of \d+ bytes/,
  })),
  {
    name: 'indirect table outside RAM',
    arrange: (w) => {
      descriptor(w, DESC, RAM_BYTES, 16, INDIRECT);
      available(w, [0]);
    },
    reason: /indirect table .*not readable/,
  },
  {
    name: 'indirect table above 2^52',
    arrange: (w) => {
      descriptor(w, DESC, 2 ** 60, 16, INDIRECT);
      available(w, [0]);
    },
    reason: /indirect table .*not memory/,
  },
  {
    name: 'nested indirect',
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 16, INDIRECT);
      descriptor(w, TABLES, TABLES, 16, INDIRECT);
      available(w, [0]);
    },
    reason: /inside an indirect table/,
  },
  {
    name: 'next past the end of the indirect table, though below the queue size',
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 32, INDIRECT);
      descriptor(w, TABLES, DATA, 4, NEXT, 2);
      available(w, [0]);
    },
    reason: /entry 2 of 2/,
  },
  {
    name: 'loop inside an indirect table',
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 32, INDIRECT);
      descriptor(w, TABLES, DATA, 4, NEXT, 1);
      descriptor(w, TABLES + 16, DATA, 4, NEXT, 0);
      available(w, [0]);
    },
    reason: /looped or overlong/,
  },
  {
    name: 'next past the queue size in a direct chain after a large indirect one (stale limit, bbc1c327d7)',
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 16 * 64, INDIRECT);
      for (let i = 0; i < 64; i++) descriptor(w, TABLES + 16 * i, DATA, 4, i < 63 ? NEXT : 0, i + 1);
      descriptor(w, DESC + 16, DATA, 4, NEXT, 20);
      available(w, [0, 1]);
      expect(w.pop()).toBe(0);
    },
    reason: /descriptor 20 of 8 is next/,
  },
  {
    name: 'more than 2^32 bytes in a chain (CVE-2018-17963 and rust-vmm 27740a5)',
    options: { size: 2048 },
    arrange: (w) => {
      descriptor(w, DESC, TABLES, 16 * 1024, INDIRECT);
      // 1024 buffers of the whole RAM (4 MiB) are 2^32 bytes exactly; two bytes in front are too many.
      descriptor(w, DESC + 16, DATA, 2, NEXT, 0);
      for (let i = 0; i < 1023; i++) descriptor(w, TABLES + 16 * i, 0, RAM_BYTES, i < 1022 ? NEXT : 0, i + 1);
      descriptor(w, DESC + 32, 0, RAM_BYTES, NEXT, 1);
      available(w, [2]);
    },
    reason: /more than 2\^32 bytes/,
  },
];

const PACKED_AVAIL = 0x80;

function packedDescriptor(world: World, slot: number, address: number, length: number, flags: number, id = 0): void {
  world.packed.writeDescriptor(DESC + 16 * slot, { address, length }, id, flags | PACKED_AVAIL);
}

const PACKED: readonly Breach[] = [
  {
    name: 'a list that never ends',
    arrange: (w) => {
      for (let i = 0; i < 8; i++) packedDescriptor(w, i, DATA, 4, NEXT);
    },
    reason: /looped list/,
  },
  {
    name: 'a never-ending list of zero-length descriptors',
    arrange: (w) => {
      for (let i = 0; i < 8; i++) packedDescriptor(w, i, DATA, 0, NEXT);
    },
    reason: /looped list/,
  },
  {
    name: 'a list over descriptors that were not given back',
    arrange: (w) => {
      for (let i = 0; i < 6; i++) packedDescriptor(w, i, DATA, 4, 0);
      for (let i = 0; i < 6; i++) expect(w.pop()).toBeGreaterThanOrEqual(0);
      packedDescriptor(w, 6, DATA, 4, NEXT);
      packedDescriptor(w, 7, DATA, 4, NEXT);
    },
    reason: /in flight/,
  },
  {
    name: 'readable after writable',
    arrange: (w) => {
      packedDescriptor(w, 0, DATA, 4, NEXT | WRITE);
      packedDescriptor(w, 1, DATA, 4, 0);
    },
    reason: /device-readable descriptor follows/,
  },
  { name: 'buffer outside RAM', arrange: (w) => packedDescriptor(w, 0, RAM_BYTES - 4, 8, WRITE), reason: /not writable memory/ },
  {
    name: 'a good buffer, then one that runs out of RAM',
    arrange: (w) => {
      packedDescriptor(w, 0, DATA, 8, WRITE);
      expect(w.pop()).toBe(0);
      packedDescriptor(w, 1, RAM_BYTES - 4, 8, WRITE);
    },
    reason: /not writable memory/,
  },
  { name: 'buffer above 2^52', arrange: (w) => packedDescriptor(w, 0, 2 ** 53, 8, 0), reason: /not readable memory/ },
  {
    name: 'indirect that was not negotiated',
    options: { indirect: false },
    arrange: (w) => packedDescriptor(w, 0, TABLES, 16, INDIRECT),
    reason: /not negotiated/,
  },
  { name: 'indirect with NEXT', arrange: (w) => packedDescriptor(w, 0, TABLES, 16, INDIRECT | NEXT), reason: /indirect descriptor in a list/ },
  {
    name: 'indirect at the end of a list',
    arrange: (w) => {
      packedDescriptor(w, 0, DATA, 4, NEXT);
      packedDescriptor(w, 1, TABLES, 16, INDIRECT);
    },
    reason: /indirect descriptor in a list/,
  },
  ...[0, 15, 24].map((length) => ({
    name: `indirect table of ${length} bytes (6dbdc271f5)`,
    arrange: (w: World) => packedDescriptor(w, 0, TABLES, length, INDIRECT),
    reason: /indirect table of \d+ bytes/,
  })),
  { name: 'indirect table of 2^28 entries', arrange: (w) => packedDescriptor(w, 0, TABLES, 0xfffffff0, INDIRECT), reason: /indirect table of \d+ entries/ },
  { name: 'indirect table half outside RAM', arrange: (w) => packedDescriptor(w, 0, RAM_BYTES - 16, 32, INDIRECT), reason: /not readable memory/ },
];

describe.each([['split', SPLIT, false] as const, ['packed', PACKED, true] as const])('%s', (_, breaches, packed) => {
  test.each(breaches.map((b) => [b.name, b] as const))('%s', (_name, breach) => {
    const world = new World({ packed, ...breach.options });
    breach.arrange(world);
    const before = world.u8.slice();
    expect(world.pop()).toBe(QUEUE_BROKEN);
    expect(world.queue.broken).toMatch(breach.reason);
    expect(world.list.count).toBe(0);
    // A drain loop ends (CVE-2026-16457), whatever else is called.
    for (let i = 0; i < 3; i++) expect(world.pop()).toBe(QUEUE_BROKEN);
    world.queue.push(0, 4);
    expect(world.queue.publish()).toBe(false);
    world.queue.suppressKicks();
    expect(world.queue.awaitKick()).toBe(false);
    expect(world.queue.ready).toBe(false);
    expect(world.queue.resync()).toBe(false);
    world.queue.unpop(1);
    expect(world.pop()).toBe(QUEUE_BROKEN);
    expect(Buffer.compare(world.u8, before), 'bytes of RAM that differ').toBe(0);
  });
});

describe('what is not a breach', () => {
  test('one chain published again and again, never completed, ends at the queue size (CVE-2016-5403)', () => {
    const world = new World();
    descriptor(world, DESC, DATA, 4, 0);
    for (let i = 1; i <= 8; i++) {
      available(world, [0, 0, 0, 0, 0, 0, 0, 0], i);
      expect(world.pop()).toBe(0);
    }
    available(world, [0, 0, 0, 0, 0, 0, 0, 0], 9);
    expect(world.pop()).toBe(QUEUE_BROKEN);
  });

  test.each([false, true])('zero-length buffers are skipped; a chain of nothing else is empty, and is completed as any (packed %s)', (packed) => {
    const world = new World({ packed });
    world.driver.add(1, [
      { address: DATA, length: 0 },
      { address: DATA, length: 5 },
      { address: 2 ** 40, length: 0, write: true },
    ]);
    world.driver.add(2, [{ address: 0, length: 0 }]);
    world.driver.expose();
    const tokens = [world.pop()];
    expect([world.queue.segments, world.queue.readableSegments, world.queue.readableBytes, world.queue.writableBytes]).toEqual([1, 1, 5, 0]);
    tokens.push(world.pop());
    expect([world.queue.segments, world.queue.readableBytes]).toEqual([0, 0]);
    for (const token of tokens) world.queue.push(token, 0);
    world.queue.publish();
    expect(world.driver.reap().map((c) => c.cookie)).toEqual([1, 2]);
  });

  test('WRITE on the descriptor that names an indirect table means nothing', () => {
    const split = new World();
    descriptor(split, DESC, TABLES, 16, INDIRECT | WRITE);
    descriptor(split, TABLES, DATA, 7, 0);
    available(split, [0]);
    expect(split.pop()).toBe(0);
    expect([split.queue.readableBytes, split.queue.writableBytes]).toEqual([7, 0]);

    const packed = new World({ packed: true });
    packedDescriptor(packed, 0, TABLES, 16, INDIRECT | WRITE, 3);
    // Of an entry's flags only WRITE counts: NEXT, INDIRECT and the lap bits are rubbish here.
    packed.packed.writeDescriptor(TABLES, { address: DATA, length: 7 }, 0xffff, 0xffff & ~WRITE);
    expect(packed.pop()).toBe(3);
    expect([packed.queue.readableBytes, packed.queue.writableBytes]).toEqual([7, 0]);
  });

  test('a table longer than a small queue is taken: drivers put a packet in one table however small the ring is', () => {
    const world = new World({ size: 2 });
    world.driver.add(
      1,
      Array.from({ length: 19 }, (_, i) => ({ address: DATA + 64 * i, length: 64 })),
      TABLES,
    );
    world.driver.expose();
    expect(world.pop()).toBe(0);
    expect(world.queue.readableBytes).toBe(19 * 64);
  });

  test('packed: buffer ids are the driver’s own, whatever their value', () => {
    const world = new World({ packed: true });
    packedDescriptor(world, 0, DATA, 16, WRITE, 0xfffe);
    const token = world.pop();
    expect(token).toBeGreaterThanOrEqual(0);
    world.queue.push(token, 9);
    world.queue.publish();
    expect([world.view.getUint32(DESC + 8, true), world.view.getUint16(DESC + 12, true), world.view.getUint16(DESC + 14, true)]).toEqual([9, 0xfffe, 0x8082]);
  });

  test.each([false, true])('a chain that does not fit what room is left waits; one that never fits breaks the queue (packed %s)', (packed) => {
    const world = new World({ packed });
    const two = [
      { address: DATA, length: 4 },
      { address: DATA + 8, length: 4 },
    ];
    world.driver.add(1, two);
    world.driver.add(2, [...two, ...two]);
    world.driver.expose();
    const list = new (world.list.constructor as new (n: number, v: unknown) => typeof world.list)(3, world.list.views[0]);
    expect(world.queue.pop(list)).toBeGreaterThanOrEqual(0);
    expect(world.queue.pop(list)).toBe(QUEUE_EMPTY);
    expect(list.count).toBe(2);
    list.truncate(0);
    expect(world.queue.pop(list)).toBe(QUEUE_BROKEN);
    expect(world.queue.broken).toMatch(/more than the 3 segments/);
  });
});
