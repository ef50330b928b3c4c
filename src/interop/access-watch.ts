// Watching what another process's driver does with a function: its accesses, and the memory it gives to the function.

import type { GuestMemory } from '#core/guest-memory';
import type { IommuDomain } from '#core/iommu';
import type { AccessSize, Region } from '#core/region';

/** Told of a driver's accesses in order, of loads when they were answered, of stores before they take effect. It must not throw. */
export interface AccessWatch {
  configRead(offset: number, size: AccessSize, value: number): void;
  configWrite(offset: number, size: AccessSize, value: number): void;
  barRead(bar: number, offset: number, size: AccessSize, value: number): void;
  barWrite(bar: number, offset: number, size: AccessSize, value: number): void;
  /** The guest is gone, or its machine was reset: what comes next has nothing to do with what was. */
  gone(): void;
  /** The function's state is now another machine's: what its driver did to come to it was not seen here. */
  moved(): void;
}

/** The guest's memory in the addresses it gives to the function; undefined where it has none. */
export type GuestBytes = (address: number, length: number) => Uint8Array | undefined;

/** What a function reaches by a domain's mappings. */
export function bytesThrough(domain: IommuDomain, memory: GuestMemory): GuestBytes {
  return (address, length) => {
    const found = domain.mappings.find(({ iova, size }) => address >= iova && address + length <= iova + size);
    if (found === undefined) return undefined;
    const at = found.address + address - found.iova;
    const slab = memory.slabAt(at);
    if (slab === undefined || at + length > slab.base + slab.size) return undefined;
    return slab.views.u8.subarray(at - slab.base, at - slab.base + length);
  };
}

/** The same registers, whose accesses are told. */
export function watchedRegion(region: Region, told: { read: AccessWatch['configRead']; write: AccessWatch['configWrite'] }): Region {
  return {
    size: region.size,
    read(offset, size) {
      const value = region.read(offset, size);
      told.read(offset, size, value);
      return value;
    },
    write(offset, size, value) {
      told.write(offset, size, value);
      region.write(offset, size, value);
    },
  };
}
