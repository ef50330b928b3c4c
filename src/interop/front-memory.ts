// The front end's memory as it described it: regions of guest-physical addresses, each with the address it has in the front end's own process (ring addresses are
// given as those) and a descriptor to map. Every number is the peer's, so every number is checked before it is used.

import type { AddressLog } from '#core/dirty-log';
import { DMA_READ, DMA_WRITE, type DmaAccess, DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, GuestMemory, type RamRange } from '#core/guest-memory';
import { Iotlb, MOST_TRANSLATIONS } from './iotlb.ts';
import { type AddressSource, MappedRegion, MappingError } from './mapped-memory.ts';
import type { Native } from './native.ts';
import { ProtocolError, type RegionDescription } from './vhost-user-protocol.ts';

interface Region {
  readonly description: RegionDescription;
  readonly mapped: MappedRegion;
}

const PAGE = 4096;
/** All regions of one front end together: address space is not free, and a memory file costs its owner nothing. */
const MOST_BYTES = 64 * 2 ** 30;
/** Enough for 32 TiB of guest addresses. */
const MOST_LOG_BYTES = 2 ** 30;

export class FrontMemory {
  readonly #native: Native;
  readonly #source: AddressSource | undefined;
  #regions: Region[] = [];
  /** Taken away, but perhaps still in use until `settle`. */
  #retired: MappedRegion[] = [];
  #space: DmaSpace | undefined;
  #log: { readonly mapped: MappedRegion; readonly place: AddressLog } | undefined;
  #logging = false;
  #translated = false;
  /** What the front end told of its IOMMU; forgotten when its memory changes. */
  readonly iotlb = new Iotlb();
  /** A ring waits for a translation. */
  onMiss: (() => void) | undefined;

  /** @param source where regions are mapped, if not anywhere */
  constructor(native: Native, source?: AddressSource) {
    this.#native = native;
    this.#source = source;
  }

  /** Of all regions, or undefined while there are none. A new object after every change. */
  get space(): DmaSpace | undefined {
    return this.#space;
  }

  get regions(): readonly RegionDescription[] {
    return this.#regions.map((r) => r.description);
  }

  /** Whether device addresses are translated, by what the front end tells when asked. With every ring at rest. */
  get translated(): boolean {
    return this.#translated;
  }
  set translated(on: boolean) {
    if (on === this.#translated) return;
    this.#translated = on;
    this.#take(this.#regions);
  }

  /** What the IOTLB says holds for every turn that begins, and no turn is left that uses anything else. */
  retranslate(): void {
    if (this.#translated) this.#space?.translate(this.iotlb.mappings);
  }

  /** Whether all of it can be reached; asks for what is missing. */
  reaches(address: number, bytes: number, access: number): boolean {
    const space = this.#space;
    if (space === undefined) return false;
    const both = [DMA_READ, DMA_WRITE].every((one) => (access & one) === 0 || space.allows(address, bytes, one as DmaAccess));
    if (!both) space.miss(address, bytes, access);
    return both;
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

  /** One more region. @throws ProtocolError */
  add(description: RegionDescription, fd: number): void {
    check([...this.regions, description]);
    const region = this.#map(description, fd);
    try {
      this.#take([...this.#regions, region]);
    } catch (error) {
      region.mapped.unmap();
      throw error;
    }
  }

  /** One less: the one with this guest address, user address and size. It stays mapped until `settle`. @throws ProtocolError */
  remove({ guestAddress, size, userAddress }: RegionDescription): void {
    const kept = this.#regions.filter(({ description: d }) => d.guestAddress !== guestAddress || d.size !== size || d.userAddress !== userAddress);
    if (kept.length === this.#regions.length) throw new ProtocolError(`there is no region of ${size} bytes at 0x${guestAddress.toString(16)}`);
    this.#take(kept);
  }

  /** Where pages that devices write are logged for the front end while `logging`. The former place stays mapped until `settle`. @throws ProtocolError */
  setLog(fd: number, offset: number, bytes: number): void {
    if (bytes < 8 || bytes > MOST_LOG_BYTES || bytes % 8 !== 0) throw new ProtocolError(`a log of ${bytes} bytes`);
    const mapped = this.#mapOr('log', fd, offset, bytes);
    const part = mapped.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
    if (this.#log !== undefined) this.#retired.push(this.#log.mapped);
    this.#log = { mapped, place: { buffer: part.buffer, byteOffset: part.byteOffset, byteLength: bytes } };
    this.#take(this.#regions);
  }

  /** Whether what devices write is logged. Takes effect under running rings. */
  set logging(on: boolean) {
    this.#logging = on;
    if (this.#space !== undefined) this.#space.logging = on && this.#log !== undefined;
  }

  /** Marks pages the data plane may just have written once more: what it logged before the last store to them, a reader may have taken before that store. */
  markDirty(guestAddress: number, bytes: number): void {
    const space = this.#space;
    if (!space?.logging) return;
    space.sync();
    for (let at = guestAddress; at < guestAddress + bytes; ) {
      const window = space.window(at, 1, DMA_WRITE);
      if (window === null) return;
      const run = Math.min(guestAddress + bytes, window.end) - at;
      space.markDirty(window, at, run);
      at += run;
    }
  }

  #map(description: RegionDescription, fd: number): Region {
    return { description, mapped: this.#mapOr(`region at 0x${description.guestAddress.toString(16)}`, fd, description.fileOffset, description.size) };
  }

  #mapOr(what: string, fd: number, offset: number, bytes: number): MappedRegion {
    try {
      return new MappedRegion(this.#native, fd, offset, bytes, this.#source);
    } catch (error) {
      if (error instanceof MappingError) throw new ProtocolError(`${what}: ${error.message}`);
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
    const mappings = this.#translated ? MOST_TRANSLATIONS : 1;
    const space = ranges.length === 0 ? undefined : DmaSpace.create(new GuestMemory(ranges, undefined, this.#log?.place), { mappings });
    this.iotlb.clear();
    if (space !== undefined) {
      space.logging = this.#logging && this.#log !== undefined;
      space.onMiss = () => this.onMiss?.();
      if (this.#translated) {
        space.translate([]);
        space.onDemand = true;
      }
    }
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
    if (this.#log !== undefined) this.#retired.push(this.#log.mapped);
    this.#log = undefined;
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
