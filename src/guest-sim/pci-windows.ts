// Address allocation over the tree: each bus packs what lies on it, each bridge asks its parent for windows that hold its bus, the root hands out
// the platform's ranges. Only 64-bit prefetchable BARs use prefetchable windows; everything else lies below 4 GiB, as firmware does it.

import type { Resource, ResourceKind } from './pci-bars.ts';
import type { ConfigAccess } from './pci-config.ts';
import { CFG } from './pci-constants.ts';

export const RESOURCE_KINDS: readonly ResourceKind[] = ['io', 'memory', 'prefetchable'];
const GRANULE: Record<ResourceKind, number> = { io: 4096, memory: 2 ** 20, prefetchable: 2 ** 20 };

export type ResourceLists = Record<ResourceKind, Resource[]>;

export function emptyLists(): ResourceLists {
  return { io: [], memory: [], prefetchable: [] };
}

function alignUp(n: number, alignment: number): number {
  return Math.ceil(n / alignment) * alignment;
}

/** Biggest alignment first leaves the smallest holes; then each item just follows the one before it. */
function packingOrder(resources: readonly Resource[]): Resource[] {
  return [...resources].sort((a, b) => b.alignment - a.alignment || b.size - a.size);
}

/** One window that holds `resources`; undefined when there are none. */
export function windowOver(kind: ResourceKind, resources: readonly Resource[], open: (base: number, size: number) => void): Resource | undefined {
  if (resources.length === 0) return undefined;
  const order = packingOrder(resources);
  let end = 0;
  const offsets = order.map((r) => {
    const at = alignUp(end, r.alignment);
    end = at + r.size;
    return at;
  });
  const size = alignUp(end, GRANULE[kind]);
  return {
    size,
    alignment: Math.max(GRANULE[kind], (order[0] as Resource).alignment),
    place(address) {
      open(address, size);
      for (const [i, r] of order.entries()) r.place(address + (offsets[i] as number));
    },
  };
}

/** Places what fits of `resources` into a range of the platform; the rest stays without an address. Returns how many did not fit. */
export function placeAll(resources: readonly Resource[], base: number, size: number): number {
  let at = base;
  let left = 0;
  for (const resource of packingOrder(resources)) {
    const address = alignUp(at, resource.alignment);
    if (address + resource.size > base + size) left++;
    else {
      resource.place(address);
      at = address + resource.size;
    }
  }
  return left;
}

/** Which windows a bridge has: a prefetchable one counts only when it reaches above 4 GiB. */
export interface BridgeWindows {
  readonly io: boolean;
  readonly prefetchable: boolean;
}

/** Closes all windows of a bridge (base above limit) and finds out which it has. */
export function closeWindows(config: ConfigAccess, rid: number): BridgeWindows {
  config.write(rid, CFG.IO_BASE, 2, 0x00f0);
  config.write(rid, CFG.IO_BASE_UPPER, 4, 0);
  config.write(rid, CFG.MEMORY_BASE, 4, 0x0000fff0);
  config.write(rid, CFG.PREFETCH_BASE, 4, 0x0000fff0);
  config.write(rid, CFG.PREFETCH_BASE_UPPER, 4, 0);
  config.write(rid, CFG.PREFETCH_LIMIT_UPPER, 4, 0);
  return { io: (config.read(rid, CFG.IO_BASE, 1) & 0xf0) !== 0, prefetchable: (config.read(rid, CFG.PREFETCH_BASE, 2) & 0xffff) === 0xfff1 };
}

/** Programs one window of a bridge (PCI-to-PCI Bridge 1.2 3.2.5). */
export function openWindow(config: ConfigAccess, rid: number, kind: ResourceKind, base: number, size: number): void {
  const last = base + size - 1;
  if (kind === 'io') {
    config.write(rid, CFG.IO_BASE_UPPER, 2, Math.floor(base / 65536));
    config.write(rid, CFG.IO_LIMIT_UPPER, 2, Math.floor(last / 65536));
    config.write(rid, CFG.IO_BASE, 1, (base >>> 8) & 0xf0);
    config.write(rid, CFG.IO_LIMIT, 1, (last >>> 8) & 0xf0);
    return;
  }
  // 1 MiB granules: address bits 31..20 lie in bits 15..4.
  const baseField = Math.floor((base % 2 ** 32) / 2 ** 16) & 0xfff0;
  const limitField = Math.floor((last % 2 ** 32) / 2 ** 16) & 0xfff0;
  if (kind === 'memory') {
    config.write(rid, CFG.MEMORY_BASE, 2, baseField);
    config.write(rid, CFG.MEMORY_LIMIT, 2, limitField);
    return;
  }
  // Upper halves first: with base still above limit nothing is decoded in between.
  config.write(rid, CFG.PREFETCH_BASE_UPPER, 4, Math.floor(base / 2 ** 32));
  config.write(rid, CFG.PREFETCH_LIMIT_UPPER, 4, Math.floor(last / 2 ** 32));
  config.write(rid, CFG.PREFETCH_BASE, 2, baseField);
  config.write(rid, CFG.PREFETCH_LIMIT, 2, limitField);
}
