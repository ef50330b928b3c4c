// The translations a front end has told so far: a cache of its IOMMU's. Whatever is forgotten here is asked for again, so entries go whole and early rather than in parts and late.

import { DMA_READ, DMA_WRITE, type DmaMapping } from '#core/dma-space';
import { ADDRESS_LIMIT } from '#core/guest-memory';

const PAGE = 4096;
export const MOST_TRANSLATIONS = 2048;

export class Iotlb {
  /** Disjoint, oldest first. */
  #entries: DmaMapping[] = [];

  get mappings(): readonly DmaMapping[] {
    return this.#entries;
  }

  /** Puts a translation in place of those it overlaps; the oldest goes when there are too many. False: it is not of whole pages in range. */
  update(entry: DmaMapping): boolean {
    const { iova, size, address, permissions } = entry;
    const whole = iova % PAGE === 0 && size % PAGE === 0 && address % PAGE === 0 && size > 0;
    if (!whole || iova + size > ADDRESS_LIMIT || address + size > ADDRESS_LIMIT || permissions === 0 || (permissions & ~(DMA_READ | DMA_WRITE)) !== 0)
      return false;
    this.invalidate(iova, size);
    if (this.#entries.length === MOST_TRANSLATIONS) this.#entries.shift();
    this.#entries.push(entry);
    return true;
  }

  /** Forgets every translation that touches [iova, iova + size). */
  invalidate(iova: number, size: number): void {
    this.#entries = this.#entries.filter((entry) => entry.iova >= iova + size || entry.iova + entry.size <= iova);
  }

  clear(): void {
    this.#entries = [];
  }

  /** How a page may be accessed; 0: not at all. */
  permissions(page: number): number {
    return this.#entries.find(({ iova, size }) => page >= iova && page < iova + size)?.permissions ?? 0;
  }
}
