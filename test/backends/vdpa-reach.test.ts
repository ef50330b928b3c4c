import { expect, it } from 'vitest';
import { reachable, rights } from '#backends/vdpa-reach';
import { DMA_READ, DMA_WRITE, type DmaMapping, DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';

const PAGE = 4096;
const BOTH = DMA_READ | DMA_WRITE;

it('what several mappings allow on the same pages is put together, whatever their order', () => {
  let seed = 7;
  const random = (n: number): number => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff;
    return (seed >>> 8) % n;
  };
  for (let round = 0; round < 200; round++) {
    const pages = 24;
    const mappings: DmaMapping[] = Array.from({ length: random(12) }, (_, i) => ({
      iova: i * 2 ** 30,
      address: random(pages) * PAGE,
      size: (1 + random(8)) * PAGE,
      permissions: 1 + random(3),
    }));
    const [from, to] = [4 * PAGE, 20 * PAGE];
    const expected = Array.from({ length: pages }, (_, page) =>
      page * PAGE < from || page * PAGE >= to
        ? 0
        : mappings.reduce((all, m) => all | (m.address <= page * PAGE && page * PAGE < m.address + m.size ? m.permissions : 0), 0),
    );
    const runs = rights(mappings, from, to);
    const found = new Array<number>(pages).fill(0);
    let end = -1;
    let before = 0;
    for (const { address, size, permissions } of runs) {
      // Ascending, and as few as there can be.
      expect(address > end || (address === end && permissions !== before)).toBe(true);
      end = address + size;
      before = permissions;
      for (let at = address; at < end; at += PAGE) found[at / PAGE] = permissions;
    }
    expect(found).toEqual(expected);
  }
});

it('of tens of thousands that all overlap the last counts as the first does', () => {
  const mappings = Array.from({ length: 30_000 }, (_, i) => ({
    iova: i * 2 ** 30,
    address: i * PAGE,
    size: 2 ** 31,
    permissions: i % 2 === 0 ? DMA_READ : BOTH,
  }));
  expect(rights(mappings, 0, 2 ** 40)).toEqual([
    { address: 0, size: PAGE, permissions: DMA_READ },
    { address: PAGE, size: 29_998 * PAGE + 2 ** 31, permissions: BOTH },
  ]);
});

it('a translation to where the guest has no RAM leads nowhere, one that runs over the end is cut', () => {
  const memory = new GuestMemory([
    { base: 0, size: 4 * PAGE },
    { base: 8 * PAGE, size: 4 * PAGE },
  ]);
  const space = DmaSpace.create(memory);
  expect(reachable(space).map(({ iova, size }) => [iova, size])).toEqual([
    [0, 4 * PAGE],
    [8 * PAGE, 4 * PAGE],
  ]);
  space.translate([
    { iova: 2 ** 32, address: 2 * PAGE, size: 8 * PAGE, permissions: BOTH },
    { iova: 2 ** 33, address: 12 * PAGE, size: PAGE, permissions: BOTH },
  ]);
  expect(reachable(space)).toEqual([
    { iova: 2 ** 32, address: 2 * PAGE, size: 2 * PAGE, permissions: BOTH },
    { iova: 2 ** 32 + 6 * PAGE, address: 8 * PAGE, size: 2 * PAGE, permissions: BOTH },
  ]);
});
