// What of the guest's RAM the function in front of a vDPA device may reach: what the device is given of it.

import { DMA_READ, DMA_WRITE, type DmaMapping, type DmaSpace } from '#core/dma-space';

/**
 * What a function may reach, by pieces of RAM: its own translations, or all of RAM as it is. A translation to where the guest has none leads nowhere: in the device's memory, the host's own would be there.
 */
export function reachable(memory: DmaSpace): DmaMapping[] {
  const { slabs } = memory.memory;
  const { mappings } = memory;
  if (mappings === undefined) return slabs.map(({ base, size }) => ({ iova: base, address: base, size, permissions: DMA_READ | DMA_WRITE }));
  return mappings.flatMap(({ iova, address, size, permissions }) =>
    slabs.flatMap(({ base, size: bytes }) => {
      const from = Math.max(address, base);
      const to = Math.min(address + size, base + bytes);
      return from < to ? [{ iova: iova + from - address, address: from, size: to - from, permissions }] : [];
    }),
  );
}

/** What the mappings allow on RAM [from, to): disjoint runs, by address. A page that several lead to may be used as any of them allows. */
export function rights(mappings: readonly DmaMapping[], from: number, to: number): { address: number; size: number; permissions: number }[] {
  // Where a mapping begins (1) and ends (-1); between two such places nothing changes.
  const edges: { address: number; permissions: number; step: number }[] = [];
  for (const { address, size, permissions } of mappings) {
    const [first, end] = [Math.max(address, from), Math.min(address + size, to)];
    if (first < end) edges.push({ address: first, permissions, step: 1 }, { address: end, permissions, step: -1 });
  }
  edges.sort((a, b) => a.address - b.address);
  const runs: { address: number; size: number; permissions: number }[] = [];
  let [reads, writes, start] = [0, 0, from];
  for (const { address, permissions, step } of edges) {
    const allowed = (reads > 0 ? DMA_READ : 0) | (writes > 0 ? DMA_WRITE : 0);
    if (allowed !== 0 && address > start) {
      const last = runs.at(-1);
      if (last !== undefined && last.address + last.size === start && last.permissions === allowed)
        runs[runs.length - 1] = { ...last, size: last.size + address - start };
      else runs.push({ address: start, size: address - start, permissions: allowed });
    }
    start = address;
    if ((permissions & DMA_READ) !== 0) reads += step;
    if ((permissions & DMA_WRITE) !== 0) writes += step;
  }
  return runs;
}
