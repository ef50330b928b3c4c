// An IOMMU: domains of translations, attached per requester id, over the DMA spaces of a fabric's functions. Many requesters may share a domain. Every change takes
// effect on all threads before the call returns: an unmap returns only when no device can still be using what it took away.

import type { DmaFault, DmaMapping, DmaSpace } from './dma-space.ts';
import { DMA_READ, DMA_WRITE } from './dma-table.ts';
import { ADDRESS_LIMIT } from './guest-memory.ts';

export const PAGE_4K = 4096;
export const PAGE_2M = 2 ** 21;

/** What a requester of no domain may do: reach memory untranslated, or nothing. */
export type UnattachedPolicy = 'identity' | 'blocked';

/** A refused access, and why: no mapping (or no RAM behind it) or one without the right. */
export interface IommuFault extends DmaFault {
  readonly reason: 'unmapped' | 'permission';
}

/** One set of translations. Made by Iommu.domain(). */
export class IommuDomain {
  /** Disjoint, by ascending iova, as mapped: never merged, so that each one's page sizes stay known. */
  #runs: DmaMapping[] = [];
  readonly #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** The mappings, by ascending iova. */
  get mappings(): readonly DmaMapping[] {
    return this.#runs;
  }

  /** How many page table leaves of each size the mappings take: 2 MiB where both addresses are aligned to it, else 4 KiB. */
  get pages(): { readonly small: number; readonly large: number } {
    let large = 0;
    let bytes = 0;
    for (const run of this.#runs) {
      bytes += run.size;
      if ((run.address - run.iova) % PAGE_2M !== 0) continue;
      const first = Math.ceil(run.iova / PAGE_2M);
      const last = Math.floor((run.iova + run.size) / PAGE_2M);
      large += Math.max(0, last - first);
    }
    return { small: (bytes - large * PAGE_2M) / PAGE_4K, large };
  }

  /**
   * Makes `size` bytes at `iova` reach guest-physical `address`. @throws RangeError when something is not 4 KiB aligned, is out of range, or overlaps a mapping (unmap
   * it first).
   */
  map(iova: number, address: number, size: number, permissions: number = DMA_READ | DMA_WRITE): void {
    for (const [what, n] of Object.entries({ iova, address, size }))
      if (!(Number.isSafeInteger(n) && n >= 0 && n % PAGE_4K === 0)) throw new RangeError(`map: ${what} ${n} is not a multiple of ${PAGE_4K}`);
    if (size === 0 || iova + size > ADDRESS_LIMIT || address + size > ADDRESS_LIMIT)
      throw new RangeError(`map: ${size} bytes at ${iova} to ${address} is out of range`);
    if (permissions === 0 || (permissions & ~(DMA_READ | DMA_WRITE)) !== 0)
      throw new RangeError(`map: permissions ${permissions} are not of DMA_READ | DMA_WRITE`);
    const at = this.#firstEndingAfter(iova);
    const next = this.#runs[at];
    if (next !== undefined && next.iova < iova + size)
      throw new RangeError(`map: 0x${iova.toString(16)} + 0x${size.toString(16)} overlaps the mapping at 0x${next.iova.toString(16)}: unmap that first`);
    this.#runs.splice(at, 0, { iova, size, address, permissions });
    this.#changed();
  }

  /**
   * Takes away every mapping, or part of one, inside [iova, iova + size); returns how many bytes were mapped there. @throws RangeError when an end is not 4 KiB aligned
   * or falls inside a 2 MiB page: a leaf goes as a whole.
   */
  unmap(iova: number, size: number): number {
    const end = iova + size;
    for (const n of [iova, size])
      if (!(Number.isSafeInteger(n) && n >= 0 && n % PAGE_4K === 0) || end > ADDRESS_LIMIT)
        throw new RangeError(`unmap: ${n} is not a multiple of ${PAGE_4K} in range`);
    for (const edge of [iova, end]) {
      const run = this.#runs[this.#firstEndingAfter(edge)];
      if (run !== undefined && insideLargePage(run, edge))
        throw new RangeError(`unmap: 0x${edge.toString(16)} is inside a 2 MiB page: unmap it whole, or map 4 KiB pages`);
    }
    const from = this.#firstEndingAfter(iova);
    let to = from;
    let taken = 0;
    const left: DmaMapping[] = [];
    for (; to < this.#runs.length; to++) {
      const run = this.#runs[to] as DmaMapping;
      if (run.iova >= end) break;
      const runEnd = run.iova + run.size;
      if (run.iova < iova) left.push({ ...run, size: iova - run.iova });
      if (runEnd > end) left.push({ ...run, iova: end, size: runEnd - end, address: run.address + (end - run.iova) });
      taken += Math.min(runEnd, end) - Math.max(run.iova, iova);
    }
    if (taken === 0) return 0;
    this.#runs.splice(from, to - from, ...left);
    this.#changed();
    return taken;
  }

  /** Index of the first run that ends after `iova`. */
  #firstEndingAfter(iova: number): number {
    let low = 0;
    let high = this.#runs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const run = this.#runs[middle] as DmaMapping;
      if (run.iova + run.size > iova) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

function insideLargePage(run: DmaMapping, edge: number): boolean {
  if (edge <= run.iova || (run.address - run.iova) % PAGE_2M !== 0 || edge % PAGE_2M === 0) return false;
  const page = Math.floor(edge / PAGE_2M) * PAGE_2M;
  return page >= run.iova && page + PAGE_2M <= run.iova + run.size;
}

/** Neighbours that continue each other in both address spaces, as one: what a DMA space has to search. */
function merge(runs: readonly DmaMapping[]): DmaMapping[] {
  const merged: DmaMapping[] = [];
  for (const run of runs) {
    const last = merged[merged.length - 1];
    if (last !== undefined && last.iova + last.size === run.iova && last.address + last.size === run.address && last.permissions === run.permissions)
      merged[merged.length - 1] = { ...last, size: last.size + run.size };
    else merged.push(run);
  }
  return merged;
}

/** Mapped nowhere: what a blocked requester sees. */
const NOTHING: readonly DmaMapping[] = [];

export class Iommu {
  readonly #unattached: UnattachedPolicy;
  readonly #domains = new Map<number, IommuDomain>();
  readonly #spaces = new Map<DmaSpace, number>();

  constructor(options: { readonly unattached?: UnattachedPolicy } = {}) {
    this.#unattached = options.unattached ?? 'blocked';
  }

  /** A new, empty domain. */
  domain(): IommuDomain {
    const domain: IommuDomain = new IommuDomain(() => this.#apply((requester) => this.#domains.get(requester) === domain));
    return domain;
  }

  /** Puts a requester (16-bit BDF) into a domain, out of the one it was in. It need not exist yet. */
  attach(requester: number, domain: IommuDomain): void {
    this.#domains.set(requester, domain);
    this.#apply((id) => id === requester);
  }

  detach(requester: number): void {
    if (this.#domains.delete(requester)) this.#apply((id) => id === requester);
  }

  domainOf(requester: number): IommuDomain | undefined {
    return this.#domains.get(requester);
  }

  /** Takes a function's DMA space under this IOMMU: whoever makes functions calls it for each. */
  connect(space: DmaSpace): void {
    this.#spaces.set(space, space.requester);
    this.#program(space);
  }

  /** The function is gone: its space reaches nothing any more. */
  disconnect(space: DmaSpace): void {
    if (this.#spaces.delete(space)) space.translate(NOTHING);
  }

  /** Looks again at whom each space belongs to: after bus numbers changed. */
  requestersChanged(): void {
    for (const [space, requester] of this.#spaces) {
      if (space.requester === requester) continue;
      this.#spaces.set(space, space.requester);
      this.#program(space);
    }
  }

  #apply(concerns: (requester: number) => boolean): void {
    for (const space of this.#spaces.keys()) if (concerns(space.requester)) this.#program(space);
  }

  #program(space: DmaSpace): void {
    const domain = this.#domains.get(space.requester);
    if (domain !== undefined) space.translate(merge(domain.mappings));
    else space.translate(this.#unattached === 'identity' ? undefined : NOTHING);
  }

  /** Faults of all connected spaces since the last call; each space keeps details of its newest 16, `lost` counts the others. */
  takeFaults(): { readonly records: readonly IommuFault[]; readonly lost: number } {
    const records: IommuFault[] = [];
    let lost = 0;
    for (const space of this.#spaces.keys()) {
      const faults = space.takeFaults();
      lost += faults.count - faults.records.length;
      for (const fault of faults.records) records.push({ ...fault, reason: this.#reason(fault) });
    }
    return { records, lost };
  }

  #reason(fault: DmaFault): IommuFault['reason'] {
    const runs = this.#domains.get(fault.requester)?.mappings ?? NOTHING;
    const refused = (run: DmaMapping): boolean =>
      fault.address < run.iova + run.size && fault.address + fault.length > run.iova && (run.permissions & fault.access) === 0;
    return runs.some(refused) ? 'permission' : 'unmapped';
  }
}
