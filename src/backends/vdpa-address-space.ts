// One address space of a vDPA device: the translations it was given, and the DMA space through which its rings reach memory. A change made in a batch is in force at
// the batch's end, all of it at once.

import { DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, type GuestMemory } from '#core/guest-memory';
import { IommuDomain } from '#core/iommu';

export class VdpaAddressSpace {
  readonly space: DmaSpace;
  readonly #mappings: IommuDomain;
  #held = false;
  #stale = false;

  constructor(memory: GuestMemory) {
    this.space = DmaSpace.create(memory);
    this.space.translate([]);
    this.#mappings = new IommuDomain(() => {
      if (this.#held) this.#stale = true;
      else this.space.translate(this.#mappings.mappings);
    });
  }

  map(iova: number, address: number, size: number, permissions: number): void {
    this.#mappings.map(iova, address, size, permissions);
  }

  unmap(iova: number, size: number): number {
    return this.#mappings.unmap(iova, size);
  }

  /** Goes on with the translations it has. */
  hold(): void {
    this.#held = true;
  }

  /** Maps nothing, and no batch is under way. */
  clear(): void {
    this.release();
    this.unmap(0, ADDRESS_LIMIT);
  }

  release(): void {
    this.#held = false;
    if (!this.#stale) return;
    this.#stale = false;
    this.space.translate(this.#mappings.mappings);
  }
}
