import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DMA_READ, DMA_WRITE, DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, GuestMemory } from '#core/guest-memory';
import { wasmMemory } from './wasm-memory.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const READ_WRITE = DMA_READ | DMA_WRITE;

/** Two pages at 0, a hole, two pages at 0x10000. */
function twoRanges(): DmaSpace {
  return DmaSpace.create(
    new GuestMemory([
      { base: 0, size: 2 * PAGE },
      { base: 0x10000, size: 2 * PAGE },
    ]),
  );
}

const bytes = (length: number, first = 1) => Uint8Array.from({ length }, (_, i) => (first + i) & 0xff);

describe('identity', () => {
  it('reads back what it wrote, and finds windows only inside RAM', () => {
    const dma = twoRanges();
    expect(dma.write(0x10ff0, bytes(32))).toBe(true);
    const back = new Uint8Array(32);
    expect(dma.read(0x10ff0, back)).toBe(true);
    expect(back).toEqual(bytes(32));
    expect(dma.window(0x1ff8, 8, DMA_READ)).not.toBeNull();
    expect(dma.window(0x1ff8, 9, DMA_READ)).toBeNull();
    expect(dma.window(0x2000, 1, DMA_READ)).toBeNull();
    expect(dma.window(0xffff, 2, DMA_READ)).toBeNull();
  });

  it('refuses what runs into a hole, writing none of it', () => {
    const dma = twoRanges();
    expect(dma.write(0x1ffc, bytes(8))).toBe(false);
    expect(dma.load32(0x1ffc)).toBe(0);
    expect(dma.takeFaults()).toEqual({ count: 1, records: [{ requester: 0, address: 0x1ffc, length: 8, access: DMA_WRITE }] });
  });

  it('crosses the boundary of two slabs of one range in read and write, where one window cannot', () => {
    const dma = DmaSpace.create(new GuestMemory([{ base: 0, size: GIB + PAGE }]));
    expect(dma.write(GIB - 5, bytes(10))).toBe(true);
    const back = new Uint8Array(10);
    expect(dma.read(GIB - 5, back)).toBe(true);
    expect(back).toEqual(bytes(10));
    expect(dma.window(GIB - 5, 10, DMA_READ)).toBeNull();
    expect(dma.window(GIB - 5, 5, DMA_READ)).not.toBeNull();
  });

  it.each([
    ['NaN', Number.NaN, 4],
    ['a negative address', -4, 4],
    ['an address at 2^52', ADDRESS_LIMIT, 4],
    ['an address above 2^53', 2 ** 60, 4],
    ['infinity', Infinity, 4],
    ['a NaN length', 0, Number.NaN],
    ['a negative length', 8, -4],
    ['a length past every range', 0, 2 ** 52],
  ])('refuses %s without throwing', (_, address, length) => {
    const dma = twoRanges();
    dma.sync();
    expect(dma.window(0, 4, DMA_READ)).not.toBeNull();
    expect(dma.window(address, length, DMA_READ)).toBeNull();
    expect(dma.allows(address, length, DMA_READ)).toBe(false);
    expect(dma.read(address, new Uint8Array(16), 0, length)).toBe(false);
    if (length === 4) {
      expect(dma.load32(address)).toBe(-1);
      expect(dma.load16(address)).toBe(-1);
      expect(dma.store16(address, 1)).toBe(false);
      expect(dma.store32(address, 1)).toBe(false);
    }
  });

  it('treats length 0 as a question about the address alone', () => {
    const dma = twoRanges();
    dma.sync();
    expect(dma.window(0, 4, DMA_READ)).not.toBeNull();
    expect(dma.window(0x2000, 0, DMA_READ)).toBeNull();
    expect(dma.window(0x1fff, 0, DMA_READ)).not.toBeNull();
    expect(dma.allows(0x2000, 0, DMA_WRITE)).toBe(false);
    expect(dma.write(0x1000, new Uint8Array(0))).toBe(true);
  });

  it('loads and stores indices unsigned and only aligned', () => {
    const dma = twoRanges();
    expect(dma.store32(0x10, -1)).toBe(true);
    expect(dma.load32(0x10)).toBe(0xffffffff);
    expect(dma.store16(0x20, 0x1_2345)).toBe(true);
    expect(dma.load16(0x20)).toBe(0x2345);
    expect(dma.load16(0x21)).toBe(-1);
    expect(dma.load32(0x22)).toBe(-1);
    expect(dma.store32(0x13, 1)).toBe(false);
    expect(dma.load32(0x10)).toBe(0xffffffff);
  });

  it('reaches the last bytes below 2^52, and marks them dirty', () => {
    const memory = new GuestMemory([
      { base: 0, size: PAGE },
      { base: ADDRESS_LIMIT - PAGE, size: PAGE },
    ]);
    const dma = DmaSpace.create(memory);
    memory.dirty.start();
    expect(dma.store32(ADDRESS_LIMIT - 4, 7)).toBe(true);
    expect(dma.load32(ADDRESS_LIMIT - 4)).toBe(7);
    expect(dma.write(ADDRESS_LIMIT - 2, bytes(4))).toBe(false);
    expect(memory.dirty.take()).toEqual([ADDRESS_LIMIT - PAGE]);
  });
});

describe('bus mastering', () => {
  it('off: nothing is reached, every access faults; on again: as before', () => {
    const dma = twoRanges();
    dma.store32(0, 5);
    dma.busMaster = false;
    expect(dma.load32(0)).toBe(-1);
    expect(dma.enter()).toBe(false);
    expect(dma.window(0, 4, DMA_READ)).toBeNull();
    dma.leave();
    dma.busMaster = true;
    expect(dma.load32(0)).toBe(5);
  });
});

describe('translation', () => {
  it('reaches what is mapped with the rights it is mapped with', () => {
    const dma = twoRanges();
    dma.translate([
      { iova: 0x40000, size: PAGE, address: 0x10000, permissions: DMA_READ },
      { iova: 0x20000, size: PAGE, address: PAGE, permissions: READ_WRITE },
    ]);
    expect(dma.store32(0x20008, 77)).toBe(true);
    expect(dma.load32(0x40000)).toBe(0);
    expect(dma.store32(0x40000, 1)).toBe(false);
    expect(dma.load32(0)).toBe(-1);
    dma.translate(undefined);
    expect(dma.load32(PAGE + 8)).toBe(77);
  });

  it('crosses from one mapping into the next where addresses continue, whatever lies behind', () => {
    const dma = twoRanges();
    dma.translate([
      { iova: 0, size: PAGE, address: 0x11000, permissions: READ_WRITE },
      { iova: PAGE, size: PAGE, address: 0, permissions: READ_WRITE },
    ]);
    expect(dma.write(PAGE - 3, bytes(6))).toBe(true);
    dma.translate(undefined);
    const back = new Uint8Array(3);
    dma.read(0x11ffd, back);
    expect(back).toEqual(bytes(3));
    dma.read(0, back);
    expect(back).toEqual(bytes(3, 4));
  });

  it('has no window where a mapping leads to no RAM, however large the mapping', () => {
    const dma = twoRanges();
    dma.translate([{ iova: 0, size: 2 ** 50, address: PAGE, permissions: READ_WRITE }]);
    expect(dma.load32(0)).toBe(0);
    expect(dma.load32(PAGE)).toBe(-1);
    expect(dma.store32(0xf000, 3)).toBe(true);
    expect(dma.load32(2 ** 49)).toBe(-1);
  });

  it.each([
    [
      'overlap',
      [
        { iova: 0, size: 2 * PAGE, address: 0, permissions: 3 },
        { iova: PAGE, size: PAGE, address: 0, permissions: 3 },
      ],
    ],
    ['unaligned', [{ iova: 1, size: PAGE, address: 0, permissions: 3 }]],
    ['empty', [{ iova: 0, size: 0, address: 0, permissions: 3 }]],
    ['infinite', [{ iova: 0, size: Infinity, address: 0, permissions: 3 }]],
  ])('refuses mappings that are %s and keeps what it had', (_, mappings) => {
    const dma = twoRanges();
    expect(() => dma.translate(mappings)).toThrow(RangeError);
    expect(dma.load32(0)).toBe(0);
  });

  it('grows its table for thousands of mappings, and a copy opened before sees them', () => {
    const dma = twoRanges();
    const other = DmaSpace.open(dma.share());
    dma.translate(Array.from({ length: 5000 }, (_, i) => ({ iova: i * 2 * PAGE, size: PAGE, address: (i & 1) * PAGE, permissions: READ_WRITE })));
    dma.store32(9998 * PAGE, 1);
    expect(other.load32(2 * 4999 * PAGE)).toBe(1);
    expect(other.load32(PAGE)).toBe(-1);
  });

  it('agrees with a page-by-page model (property)', () => {
    const page = fc.integer({ min: 0, max: 15 });
    const mapping = fc.record({ iova: page, pages: fc.integer({ min: 1, max: 4 }), address: page, permissions: fc.constantFrom(1, 2, 3) });
    fc.assert(
      fc.property(
        fc.array(mapping, { maxLength: 6 }),
        fc.integer({ min: 0, max: 20 * PAGE }),
        fc.integer({ min: 0, max: 3 * PAGE }),
        fc.constantFrom(DMA_READ, DMA_WRITE),
        (list, address, length, access) => {
          const dma = twoRanges();
          const model = new Map<number, { target: number; permissions: number }>();
          const mappings = [];
          for (const m of list) {
            if (Array.from({ length: m.pages }, (_, i) => m.iova + i).some((p) => model.has(p))) continue;
            for (let i = 0; i < m.pages; i++) model.set(m.iova + i, { target: m.address + i, permissions: m.permissions });
            mappings.push({ iova: m.iova * PAGE, size: m.pages * PAGE, address: m.address * PAGE, permissions: m.permissions });
          }
          dma.translate(mappings);
          const inRam = (p: number) => p < 2 || p === 16 || p === 17;
          let expected = true;
          for (let p = Math.floor(address / PAGE); p <= Math.floor((address + Math.max(length, 1) - 1) / PAGE); p++) {
            const entry = model.get(p);
            if (entry === undefined || !inRam(entry.target) || (entry.permissions & access) === 0) expected = false;
          }
          expect(dma.allows(address, length, access)).toBe(expected);
          expect(access === DMA_READ ? dma.read(address, new Uint8Array(length)) : dma.write(address, new Uint8Array(length))).toBe(expected);
        },
      ),
    );
  });
});

describe('a host that replaces its memory', () => {
  it('goes on in the new buffer, also through the window it used last', () => {
    const wasm = wasmMemory(1, 4);
    const dma = DmaSpace.create(new GuestMemory([{ base: 0, size: 65536, source: () => wasm.buffer }]));
    dma.store32(16, 99);
    wasm.grow(1);
    expect(dma.load32(16)).toBe(99);
    wasm.grow(1);
    expect(dma.write(20, bytes(4))).toBe(true);
    expect(new Uint8Array(wasm.buffer, 20, 4)).toEqual(bytes(4));
  });

  it('faults while there is no buffer', () => {
    let buffer = new ArrayBuffer(PAGE);
    const dma = DmaSpace.create(new GuestMemory([{ base: 0, size: PAGE, source: () => buffer }]));
    dma.store32(0, 1);
    structuredClone(buffer, { transfer: [buffer] });
    buffer = new ArrayBuffer(0);
    expect(dma.load32(0)).toBe(-1);
    expect(dma.read(0, new Uint8Array(4))).toBe(false);
  });
});

describe('dirty pages', () => {
  it('are logged only while the log is on, once each, over holes and whole writes', () => {
    const dma = twoRanges();
    const log = dma.memory.dirty;
    dma.write(0, bytes(4));
    log.start();
    expect(log.take()).toEqual([]);
    dma.write(PAGE - 2, bytes(4));
    dma.store16(0x11ffe, 1);
    dma.store32(0x11ff8, 1);
    expect(log.take()).toEqual([0, PAGE, 0x11000]);
    expect(log.take()).toEqual([]);
    log.stop();
    dma.write(0, bytes(4));
    expect(log.take()).toEqual([]);
  });

  it('counts in guest-physical pages, not device addresses', () => {
    const dma = twoRanges();
    dma.translate([{ iova: 0x800000, size: PAGE, address: 0x11000, permissions: READ_WRITE }]);
    dma.memory.dirty.start();
    dma.store32(0x800004, 1);
    expect(dma.memory.dirty.take()).toEqual([0x11000]);
  });

  it('ignores empty writes, reads and refused ones', () => {
    const dma = twoRanges();
    dma.memory.dirty.start();
    dma.write(0, new Uint8Array(0));
    dma.read(0, new Uint8Array(64));
    dma.write(0x1ffc, bytes(16));
    const window = dma.window(0, 4, DMA_WRITE);
    if (window) dma.markDirty(window, 0, 0);
    expect(dma.memory.dirty.take()).toEqual([]);
  });

  it('reaches spaces made while it is on, and spaces of one memory share it', () => {
    const memory = new GuestMemory([{ base: 0, size: 4 * PAGE }]);
    const first = DmaSpace.create(memory);
    memory.dirty.start();
    const second = DmaSpace.create(memory);
    const opened = DmaSpace.open(first.share());
    first.store32(0, 1);
    second.store32(PAGE, 1);
    opened.store32(2 * PAGE, 1);
    expect(memory.dirty.take()).toEqual([0, PAGE, 2 * PAGE]);
  });
});

describe('faults', () => {
  it('keeps the newest 16, counts all, and goes on after 2^31', () => {
    const dma = twoRanges();
    const heard: number[] = [];
    dma.onFault = (fault) => heard.push(fault.address);
    dma.requester = 0x1234;
    for (let i = 0; i < 20; i++) dma.load32(0x100000 + 4 * i);
    const { count, records } = dma.takeFaults();
    expect(count).toBe(20);
    expect(records.map((r) => r.address)).toEqual(heard.slice(4));
    expect(records[0]).toEqual({ requester: 0x1234, address: 0x100010, length: 4, access: DMA_READ });
    expect(dma.takeFaults()).toEqual({ count: 0, records: [] });

    new Int32Array(dma.share().table)[3] = 0x7fffffff;
    dma.takeFaults();
    dma.load32(0x200000);
    dma.load32(0x200004);
    expect(dma.takeFaults().records.map((r) => r.address)).toEqual([0x200000, 0x200004]);
  });
});

describe('a turn that begins while a change waits for it', () => {
  it('reads the table as it stands, though the generation is odd already', () => {
    const memory = new GuestMemory([{ base: 0, size: 0x10000 }]);
    const space = DmaSpace.create(memory);
    const reader = DmaSpace.open(space.share());
    const words = new Int32Array(space.share().table);
    // The writer's first step, at the worst moment: after the reader's turn was announced and confirmed, before it looks at the table for the first time.
    const load = Atomics.load;
    let looks = 0;
    Atomics.load = ((view: Int32Array, index: number) => {
      if (index === 0 && view.buffer === words.buffer && ++looks === 3) Atomics.add(words, 0, 1);
      return load(view, index);
    }) as typeof Atomics.load;
    try {
      expect(reader.enter()).toBe(true);
    } finally {
      Atomics.load = load;
    }
    expect(looks).toBeGreaterThanOrEqual(3);
    expect((words[0] as number) & 1).toBe(1);
    expect(reader.window(0x1000, 16, DMA_READ)).not.toBeNull();
    reader.leave();
    Atomics.add(words, 0, 1);
    reader.close();
  });
});
