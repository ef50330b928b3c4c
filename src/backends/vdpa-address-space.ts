// The address spaces of a vDPA device: the translations each was given, the DMA space through which rings reach memory, and which group of rings has which. A change made in a batch is
// in force at the batch's end, all of it at once.

import { type DmaFault, type DmaMapping, DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, type GuestMemory } from '#core/guest-memory';
import { IommuDomain } from '#core/iommu';

class AddressSpace {
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

export const DATA_GROUP = 0;
export const CONTROL_GROUP = 1;
const GROUPS = 2;
const ADDRESS_SPACES = 2;

export class VdpaAddressSpaces {
  readonly groups = GROUPS;
  readonly count = ADDRESS_SPACES;
  readonly #device: string;
  readonly #range: { readonly first: number; readonly last: number };
  #spaces: AddressSpace[] = [];
  /** A guest may reset its device as often as it likes, and a process has room for some ten thousand of these (dma-table.ts). */
  readonly #spacesOf = new WeakMap<GuestMemory, AddressSpace[]>();
  readonly #groupSpaces: number[] = new Array<number>(GROUPS).fill(0);
  #batches = 0;

  constructor(device: string, range: { readonly first: number; readonly last: number }) {
    this.#device = device;
    this.#range = range;
  }

  /** For a new owner: over its memory, with nothing mapped. */
  bind(memory: GuestMemory): void {
    this.#spaces = this.#spacesOf.get(memory) ?? Array.from({ length: ADDRESS_SPACES }, () => new AddressSpace(memory));
    this.#spacesOf.set(memory, this.#spaces);
    for (const space of this.#spaces) space.clear();
    this.#batches = 0;
    this.reset();
  }

  /** Every group has space 0; mappings stay. */
  reset(): void {
    this.#groupSpaces.fill(0);
    for (const { space } of this.#spaces) space.busMaster = true;
  }

  groupSpace(group: number): number {
    const space = this.#groupSpaces[group];
    if (space === undefined) throw new RangeError(`${this.#device} has ${GROUPS} groups of rings: no group ${group}`);
    return space;
  }

  setGroupSpace(group: number, addressSpace: number): void {
    this.groupSpace(group);
    this.#space(addressSpace);
    this.#groupSpaces[group] = addressSpace;
  }

  /** What the rings of a group reach memory through; undefined before there is an owner. */
  memoryOf(group: number): DmaSpace | undefined {
    return this.#spaces[this.groupSpace(group)]?.space;
  }

  #space(addressSpace: number): AddressSpace {
    const space = this.#spaces[addressSpace];
    if (space === undefined)
      throw new RangeError(
        `${this.#device} has ${this.#spaces.length} address spaces${this.#spaces.length > 0 ? '' : ' without an owner'}: no address space ${addressSpace}`,
      );
    return space;
  }

  map(addressSpace: number, { iova, address, size, permissions }: DmaMapping): void {
    const { first, last } = this.#range;
    if (!(iova >= first && iova + size - 1 <= last)) throw new RangeError(`${this.#device}: ${size} bytes at 0x${iova.toString(16)} are outside its range`);
    this.#space(addressSpace).map(iova, address, size, permissions);
  }

  unmap(addressSpace: number, iova: number, size: number): number {
    return this.#space(addressSpace).unmap(iova, size);
  }

  beginBatch(): void {
    if (this.#batches++ === 0) for (const space of this.#spaces) space.hold();
  }

  endBatch(): void {
    if (this.#batches === 0) throw new TypeError(`${this.#device}: no batch was begun`);
    if (--this.#batches === 0) for (const space of this.#spaces) space.release();
  }

  /** Of every space with faults since the last call. */
  takeFaults(tell: (addressSpace: number, count: number, faults: readonly DmaFault[]) => void): void {
    this.#spaces.forEach(({ space }, addressSpace) => {
      const { count, records } = space.takeFaults();
      if (count > 0) tell(addressSpace, count, records);
    });
  }
}
