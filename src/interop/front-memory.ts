// The front end's memory as it described it: regions of guest-physical addresses, each with the address it has in the front end's own process (ring addresses are
// given as those) and a descriptor to map. Every number is the peer's, so every number is checked before it is used.

import { DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, GuestMemory, type RamRange } from '#core/guest-memory';
import { MappedRegion, MappingError } from './mapped-memory.ts';
import type { Native } from './native.ts';
import { ProtocolError, type RegionDescription } from './vhost-user-protocol.ts';

interface Region {
  readonly description: RegionDescription;
  readonly mapped: MappedRegion;
}

const PAGE = 4096;
/** All regions of one front end together: address space is not free, and a memory file costs its owner nothing. */
const MOST_BYTES = 64 * 2 ** 30;

export class FrontMemory {
  readonly #native: Native;
  #regions: Region[] = [];
  /** Taken away, but perhaps still in use until `settle`. */
  #retired: MappedRegion[] = [];
  #space: DmaSpace | undefined;

  constructor(native: Native) {
    this.#native = native;
  }

  /** Of all regions, or undefined while there are none. A new object after every change. */
  get space(): DmaSpace | undefined {
    return this.#space;
  }

  get regions(): readonly RegionDescription[] {
    return this.#regions.map((r) => r.description);
  }

  /** The whole table at once. The old regions stay mapped until `settle`. @throws ProtocolError, with the old table still in force. */
  replace(descriptions: readonly RegionDescription[], fds: readonly number[]): void {
    check(descriptions);
    const regions: Region[] = [];
    try {
      descriptions.forEach((description, i) => {
        regions.push(this.#map(description, fds[i] as number));
      });
      this.#take(regions);
    } catch (error) {
      for (const { mapped } of regions) mapped.unmap();
      throw error;
    }
  }

  #map(description: RegionDescription, fd: number): Region {
    try {
      return { description, mapped: new MappedRegion(this.#native, fd, description.fileOffset, description.size) };
    } catch (error) {
      if (error instanceof MappingError) throw new ProtocolError(`region at 0x${description.guestAddress.toString(16)}: ${error.message}`);
      throw error;
    }
  }

  #take(regions: Region[]): void {
    const ranges: RamRange[] = [];
    for (const { description, mapped } of regions) {
      let base = description.guestAddress;
      for (const { buffer, byteOffset, size } of mapped.parts) {
        ranges.push({ base, size, source: buffer, sourceOffset: byteOffset });
        base += size;
      }
    }
    const space = ranges.length === 0 ? undefined : DmaSpace.create(new GuestMemory(ranges), { mappings: 1 });
    this.#retired.push(...this.#regions.filter((old) => !regions.includes(old)).map((old) => old.mapped));
    this.#regions = regions;
    this.#space = space;
  }

  /** Nobody uses what was replaced or removed any more: unmaps it. */
  settle(): void {
    for (const mapped of this.#retired) mapped.unmap();
    this.#retired = [];
  }

  /** Nobody uses any of it any more. */
  close(): void {
    this.#take([]);
    this.settle();
  }

  /** The guest-physical address of `bytes` bytes at an address of the front end's process, or undefined. */
  guestAddress(userAddress: number, bytes: number): number | undefined {
    for (const { description } of this.#regions) {
      const at = userAddress - description.userAddress;
      if (at >= 0 && at + bytes <= description.size) return description.guestAddress + at;
    }
    return undefined;
  }
}

/** @throws ProtocolError */
function check(descriptions: readonly RegionDescription[]): void {
  let total = 0;
  for (const { guestAddress, size, userAddress, fileOffset } of descriptions) {
    const where = `region at 0x${guestAddress.toString(16)}`;
    if (size === 0 || size % PAGE !== 0 || guestAddress % PAGE !== 0 || fileOffset % PAGE !== 0)
      throw new ProtocolError(`${where}: size ${size} and mmap offset ${fileOffset} are not whole pages`);
    if (guestAddress + size > ADDRESS_LIMIT || !Number.isSafeInteger(userAddress + size) || !Number.isSafeInteger(fileOffset + size))
      throw new ProtocolError(`${where}: its ${size} bytes wrap around`);
    total += size;
  }
  if (total > MOST_BYTES) throw new ProtocolError(`${total} bytes of memory, at most ${MOST_BYTES} are served`);
  for (const key of ['guestAddress', 'userAddress'] as const) {
    const sorted = [...descriptions].sort((a, b) => a[key] - b[key]);
    sorted.forEach((region, i) => {
      const previous = sorted[i - 1];
      if (previous !== undefined && previous[key] + previous.size > region[key])
        throw new ProtocolError(`regions overlap at ${key === 'guestAddress' ? 'guest' : 'user'} address 0x${region[key].toString(16)}`);
    });
  }
}
