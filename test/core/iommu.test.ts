import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DMA_READ, DMA_WRITE, DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { Iommu, PAGE_2M, PAGE_4K } from '#core/iommu';

const ram = () => new GuestMemory([{ base: 0, size: 4 * PAGE_2M }]);

describe('requesters and domains', () => {
  it('share a domain, leave it, and are told apart by requester id', () => {
    const memory = ram();
    const iommu = new Iommu();
    const [a, b, c] = [0x100, 0x101, 0x200].map((requester) => DmaSpace.create(memory, { requester })) as [DmaSpace, DmaSpace, DmaSpace];
    for (const space of [a, b, c]) iommu.connect(space);
    const domain = iommu.domain();
    iommu.attach(0x100, domain);
    iommu.attach(0x101, domain);
    domain.map(0x7000_0000, 0x1000, PAGE_4K);
    expect(a.store32(0x7000_0000, 5)).toBe(true);
    expect(b.load32(0x7000_0000)).toBe(5);
    expect(c.load32(0x7000_0000)).toBe(-1);
    iommu.detach(0x100);
    expect(a.load32(0x7000_0000)).toBe(-1);
    expect(b.load32(0x7000_0000)).toBe(5);
    expect(iommu.domainOf(0x101)).toBe(domain);
  });

  it('a requester of no domain reaches nothing, or everything, as asked', () => {
    for (const [unattached, expected] of [
      ['blocked', -1],
      ['identity', 0],
    ] as const) {
      const iommu = new Iommu({ unattached });
      const space = DmaSpace.create(ram());
      iommu.connect(space);
      expect(space.load32(0)).toBe(expected);
    }
  });

  it('a space attached before it existed, renumbered, then gone', () => {
    const iommu = new Iommu();
    const domain = iommu.domain();
    domain.map(0, 0, PAGE_4K);
    iommu.attach(0x300, domain);
    const space = DmaSpace.create(ram(), { requester: 0x300 });
    iommu.connect(space);
    expect(space.load32(0)).toBe(0);
    space.requester = 0x400;
    iommu.requestersChanged();
    expect(space.load32(0)).toBe(-1);
    space.requester = 0x300;
    iommu.requestersChanged();
    expect(space.load32(0)).toBe(0);
    iommu.disconnect(space);
    expect(space.load32(0)).toBe(-1);
    domain.map(PAGE_4K, 0, PAGE_4K);
    expect(space.load32(PAGE_4K)).toBe(-1);
  });
});

describe('mappings', () => {
  it('take 2 MiB pages where both sides are aligned, 4 KiB ones elsewhere', () => {
    const domain = new Iommu().domain();
    domain.map(PAGE_2M - PAGE_4K, PAGE_2M - PAGE_4K, 2 * PAGE_2M);
    expect(domain.pages).toEqual({ large: 1, small: 512 });
    domain.map(8 * PAGE_2M, PAGE_4K, PAGE_2M);
    expect(domain.pages).toEqual({ large: 1, small: 1024 });
    domain.map(16 * PAGE_2M, PAGE_2M, 2 * PAGE_2M);
    expect(domain.pages).toEqual({ large: 3, small: 1024 });
  });

  it('unmap in part at page edges, and not inside a 2 MiB page', () => {
    const memory = ram();
    const iommu = new Iommu();
    const space = DmaSpace.create(memory, { requester: 1 });
    iommu.connect(space);
    const domain = iommu.domain();
    iommu.attach(1, domain);
    domain.map(0, 0, 2 * PAGE_2M);
    expect(() => domain.unmap(PAGE_4K, PAGE_4K)).toThrow(/2 MiB/);
    expect(domain.unmap(0, PAGE_2M)).toBe(PAGE_2M);
    expect(space.load32(PAGE_2M - 4)).toBe(-1);
    expect(space.load32(PAGE_2M)).toBe(0);

    domain.map(0x1000_0000, PAGE_4K, 8 * PAGE_4K);
    expect(domain.unmap(0x1000_0000 + 2 * PAGE_4K, 3 * PAGE_4K)).toBe(3 * PAGE_4K);
    expect(domain.mappings.slice(1)).toEqual([
      { iova: 0x1000_0000, size: 2 * PAGE_4K, address: PAGE_4K, permissions: 3 },
      { iova: 0x1000_0000 + 5 * PAGE_4K, size: 3 * PAGE_4K, address: 6 * PAGE_4K, permissions: 3 },
    ]);
    expect(domain.unmap(0x2000_0000, PAGE_4K)).toBe(0);
    expect(domain.unmap(0, 2 ** 40)).toBe(PAGE_2M + 5 * PAGE_4K);
    expect(domain.mappings).toEqual([]);
  });

  it.each([
    ['unaligned iova', [1, 0, PAGE_4K]],
    ['unaligned address', [0, 12, PAGE_4K]],
    ['size 0', [0, 0, 0]],
    ['NaN', [Number.NaN, 0, PAGE_4K]],
    ['negative', [-PAGE_4K, 0, PAGE_4K]],
    ['past 2^52', [2 ** 52, 0, PAGE_4K]],
    ['no permission', [0, 0, PAGE_4K, 0]],
    ['an overlap', [0x10_0000, 0, PAGE_4K]],
    ['an overlap from below', [0xf_f000, 0, 2 * PAGE_4K]],
  ] as [string, [number, number, number, number?]][])('refuse %s', (_, args) => {
    const domain = new Iommu().domain();
    domain.map(0x10_0000, 0, PAGE_4K);
    expect(() => domain.map(...args)).toThrow(RangeError);
    expect(domain.mappings.length).toBe(1);
  });

  it('agree with a set of pages (property)', () => {
    const step = fc.record({
      map: fc.boolean(),
      page: fc.integer({ min: 0, max: 20 }),
      count: fc.integer({ min: 1, max: 6 }),
      address: fc.integer({ min: 0, max: 1000 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const domain = new Iommu().domain();
        const model = new Map<number, number>();
        for (const { map, page, count, address } of steps) {
          const pages = Array.from({ length: count }, (_, i) => page + i);
          if (map) {
            if (pages.some((p) => model.has(p))) expect(() => domain.map(page * PAGE_4K, address * PAGE_4K, count * PAGE_4K)).toThrow(RangeError);
            else {
              domain.map(page * PAGE_4K, address * PAGE_4K, count * PAGE_4K);
              for (const p of pages) model.set(p, address + p - page);
            }
          } else {
            const taken = domain.unmap(page * PAGE_4K, count * PAGE_4K);
            expect(taken).toBe(pages.filter((p) => model.delete(p)).length * PAGE_4K);
          }
        }
        const flat = domain.mappings.flatMap((m) => Array.from({ length: m.size / PAGE_4K }, (_, i) => [m.iova / PAGE_4K + i, m.address / PAGE_4K + i]));
        expect(flat).toEqual([...model].sort((a, b) => a[0] - b[0]));
      }),
    );
  });
});

it('faults say who, where, and whether a right or a mapping was missing', () => {
  const iommu = new Iommu();
  const space = DmaSpace.create(ram(), { requester: 0x0308 });
  iommu.connect(space);
  const domain = iommu.domain();
  iommu.attach(0x0308, domain);
  domain.map(0, 0, PAGE_4K, DMA_READ);
  space.store32(8, 1);
  space.load32(PAGE_4K);
  space.read(PAGE_4K - 4, new Uint8Array(8));
  expect(iommu.takeFaults()).toEqual({
    lost: 0,
    records: [
      { requester: 0x0308, address: 8, length: 4, access: DMA_WRITE, reason: 'permission' },
      { requester: 0x0308, address: PAGE_4K, length: 4, access: DMA_READ, reason: 'unmapped' },
      { requester: 0x0308, address: PAGE_4K - 4, length: 8, access: DMA_READ, reason: 'unmapped' },
    ],
  });
  for (let i = 0; i < 40; i++) space.load32(2 * PAGE_4K);
  expect(iommu.takeFaults()).toMatchObject({ lost: 24, records: { length: 16 } });
});
