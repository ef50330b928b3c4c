// A vfio-user client's memory: DMA regions with a descriptor, mapped, so that data planes use them as any RAM, and those without, which are asked for by message. Also the
// log of pages the device wrote, by the client's addresses. Every number is the peer's, so every number is checked before it is used.

import { DMA_READ, DMA_WRITE, type DmaAccess, type RemoteMemory } from '#core/dma-space';
import { ADDRESS_LIMIT } from '#core/guest-memory';
import type { IommuDomain } from '#core/iommu';
import { MappedRegion, MappingError } from './mapped-memory.ts';
import type { MemoryArena } from './memory-arena.ts';
import type { Native } from './native.ts';
import { EEXIST, EINVAL, ENOENT, ENOSPC, MOST_BITMAP, MOST_MAPS, Refusal } from './vfio-user-protocol.ts';

const PAGE = 4096;
const LARGEST_REPORT_PAGE = 2 ** 30;
/** All of the memory that is reached by message: what a log of it takes, and what looking through that takes, is bounded by it. (What is mapped is bounded by the arena.) */
const MOST_BY_MESSAGE = 2 ** 40;

interface DmaRegion {
  readonly iova: number;
  readonly size: number;
  /** DMA_READ | DMA_WRITE. */
  readonly permissions: number;
  /** Absent: by message. */
  readonly mapped: MappedRegion | undefined;
  /** A bit a page, while pages are logged. */
  dirty: Uint32Array | undefined;
}

/** A part of a region in the arena's memory: `size` bytes at `address`, which are the region's from `offset` on. */
interface Place {
  readonly address: number;
  readonly size: number;
  readonly region: DmaRegion;
  readonly offset: number;
}

/** How memory without a descriptor is reached. */
export interface DmaMessages {
  read(address: number, into: Uint8Array, offset: number, length: number): boolean;
  write(address: number, from: Uint8Array, offset: number, length: number): boolean;
}

export class VfioUserMemory implements RemoteMemory {
  readonly #native: Native;
  readonly #arena: MemoryArena;
  readonly #domain: IommuDomain;
  readonly #messages: DmaMessages;
  /** By ascending address. */
  #regions: DmaRegion[] = [];
  /** By ascending address. */
  readonly #places: Place[] = [];
  #mapped = 0;
  #logging = false;
  #byMessage = 0;

  constructor(native: Native, arena: MemoryArena, domain: IommuDomain, messages: DmaMessages) {
    this.#native = native;
    this.#arena = arena;
    this.#domain = domain;
    this.#messages = messages;
  }

  get mapped(): number {
    return this.#mapped;
  }

  get everything(): boolean {
    return this.#mapped === 0 && this.#regions.length > 0;
  }

  /** Regions that are reached by message. */
  get unmapped(): number {
    return this.#regions.length - this.#mapped;
  }

  // ---- DMA_MAP, DMA_UNMAP ----

  /** @throws Refusal */
  map(iova: number, size: number, flags: number, fd: number | undefined, offset: number): void {
    const where = `DMA region of ${size} bytes at 0x${iova.toString(16)}`;
    if (flags === 0 || (flags & ~(DMA_READ | DMA_WRITE)) !== 0) throw new Refusal(EINVAL, `${where}: flags 0x${flags.toString(16)}`);
    if (size === 0 || iova % PAGE !== 0 || size % PAGE !== 0) throw new Refusal(EINVAL, `${where}: not whole pages`);
    if (iova + size > ADDRESS_LIMIT) throw new Refusal(EINVAL, `${where}: it ends above 2^52`);
    const at = this.#firstEndingAfter(iova);
    const next = this.#regions[at];
    if (next !== undefined && next.iova < iova + size) throw new Refusal(EEXIST, `${where}: overlaps the one at 0x${next.iova.toString(16)}`);
    if (this.#regions.length === MOST_MAPS) throw new Refusal(ENOSPC, `${where}: there are ${MOST_MAPS} already`);
    let mapped: MappedRegion | undefined;
    if (fd !== undefined) {
      if (offset % PAGE !== 0 || !Number.isSafeInteger(offset + size)) throw new Refusal(EINVAL, `${where}: file offset ${offset}`);
      mapped = this.#map(where, fd, offset, size);
    } else {
      if (this.#byMessage + size > MOST_BY_MESSAGE) throw new Refusal(ENOSPC, `${where}: more than ${MOST_BY_MESSAGE} bytes without a descriptor`);
      this.#byMessage += size;
    }
    const region: DmaRegion = { iova, size, permissions: flags, mapped, dirty: this.#logging ? makeBitmap(size) : undefined };
    this.#regions.splice(at, 0, region);
    if (mapped !== undefined) this.#reach(region, mapped);
  }

  #map(where: string, fd: number, offset: number, size: number): MappedRegion {
    try {
      return new MappedRegion(this.#native, fd, offset, size, this.#arena);
    } catch (error) {
      if (error instanceof MappingError) throw new Refusal(EINVAL, `${where}: ${error.message}`);
      throw error;
    }
  }

  #reach(region: DmaRegion, mapped: MappedRegion): void {
    this.#mapped++;
    let offset = 0;
    for (const { buffer, byteOffset, size } of mapped.parts) {
      const address = this.#arena.addressOf(buffer, byteOffset) as number;
      this.#domain.map(region.iova + offset, address, size, region.permissions);
      this.#places.splice(firstEndingAfter(this.#places, address), 0, { address, size, region, offset });
      offset += size;
    }
  }

  /** No device uses any of it once this has returned, with its dirty pages if asked for. @throws Refusal unless exactly this was mapped. */
  unmap(iova: number, size: number, unit?: number): Uint8Array | undefined {
    const at = this.#firstEndingAfter(iova);
    const region = this.#regions[at];
    if (region === undefined || region.iova !== iova || region.size !== size)
      throw new Refusal(ENOENT, `no DMA region of ${size} bytes at 0x${iova.toString(16)} was mapped`);
    let bitmap: Uint8Array | undefined;
    if (unit !== undefined) {
      this.reportBytes(iova, size, unit);
      if (region.mapped !== undefined) this.#domain.unmap(iova, size);
      bitmap = this.report(iova, size, unit);
    }
    this.#remove(at);
    return bitmap;
  }

  unmapAll(): void {
    while (this.#regions.length > 0) this.#remove(this.#regions.length - 1);
  }

  #remove(at: number): void {
    const region = this.#regions[at] as DmaRegion;
    const { iova, size, mapped } = region;
    this.#regions.splice(at, 1);
    if (mapped === undefined) {
      this.#byMessage -= size;
      return;
    }
    this.#domain.unmap(iova, size);
    // Its log, too, before somebody else gets the place.
    this.#collect();
    for (const { buffer, byteOffset } of mapped.parts)
      this.#places.splice(firstEndingAfter(this.#places, this.#arena.addressOf(buffer, byteOffset) as number), 1);
    this.#mapped--;
    mapped.unmap();
  }

  #firstEndingAfter(iova: number): number {
    return firstEndingAfter(this.#regions, iova);
  }

  // ---- RemoteMemory ----

  run(address: number, length: number, access: DmaAccess): number {
    const region = this.#regions[this.#firstEndingAfter(address)];
    if (region === undefined || region.mapped !== undefined || address < region.iova || (region.permissions & access) === 0) return 0;
    return Math.min(length, region.iova + region.size - address);
  }

  read(address: number, into: Uint8Array, offset: number, length: number): boolean {
    return this.#messages.read(address, into, offset, length);
  }

  write(address: number, from: Uint8Array, offset: number, length: number): boolean {
    const written = this.#messages.write(address, from, offset, length);
    // The region may have gone meanwhile.
    const region = this.#regions[this.#firstEndingAfter(address)];
    if (region?.dirty === undefined || address < region.iova) return written;
    const last = Math.floor((Math.min(address + length, region.iova + region.size) - 1 - region.iova) / PAGE);
    for (let page = Math.floor((address - region.iova) / PAGE); page <= last; page++) setBit(region.dirty, page);
    return written;
  }

  // ---- dirty pages ----

  get logging(): boolean {
    return this.#logging;
  }

  /** Starts with no page dirty. */
  startLogging(): void {
    this.#logging = true;
    for (const region of this.#regions) region.dirty = makeBitmap(region.size);
    this.#arena.memory.dirty.start();
  }

  stopLogging(): void {
    this.#logging = false;
    this.#arena.memory.dirty.stop();
    for (const region of this.#regions) region.dirty = undefined;
  }

  /** What all threads logged, sorted by region. */
  #collect(): void {
    if (!this.#logging) return;
    for (const address of this.#arena.memory.dirty.take()) {
      const place = this.#places[firstEndingAfter(this.#places, address)];
      if (place === undefined || address < place.address || place.region.dirty === undefined) continue;
      setBit(place.region.dirty, (place.offset + address - place.address) / PAGE);
    }
  }

  /** Bytes that a report has, a bit for each `unit` bytes. @throws Refusal when there is none of such a range */
  reportBytes(iova: number, length: number, unit: number): number {
    if (!this.#logging) throw new Refusal(EINVAL, 'dirty pages are not logged');
    if (length === 0 || iova % PAGE !== 0 || length % PAGE !== 0 || iova + length > ADDRESS_LIMIT)
      throw new Refusal(EINVAL, `dirty pages of ${length} bytes at 0x${iova.toString(16)}`);
    if (unit < 512 || unit > LARGEST_REPORT_PAGE || !Number.isInteger(Math.log2(unit))) throw new Refusal(EINVAL, `dirty pages of ${unit} bytes`);
    const bytes = Math.ceil(length / unit / 64) * 8;
    if (bytes > MOST_BITMAP) throw new Refusal(EINVAL, `a dirty bitmap of ${bytes} bytes, at most ${MOST_BITMAP} are given`);
    return bytes;
  }

  /** Takes the dirty pages of a range, as a bitmap: they are forgotten here. @throws Refusal as `reportBytes` */
  report(iova: number, length: number, unit: number): Uint8Array {
    const bytes = this.reportBytes(iova, length, unit);
    this.#collect();
    const bitmap = new Uint8Array(bytes);
    for (let at = this.#firstEndingAfter(iova); at < this.#regions.length; at++) {
      const region = this.#regions[at] as DmaRegion;
      if (region.iova >= iova + length) break;
      takeBits(region, iova, length, unit, bitmap);
    }
    return bitmap;
  }
}

/** Index of the first run that ends after `address`, in a list by ascending address. */
function firstEndingAfter(runs: readonly (DmaRegion | Place)[], address: number): number {
  let low = 0;
  let high = runs.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const run = runs[middle] as DmaRegion | Place;
    if (('iova' in run ? run.iova : run.address) + run.size > address) high = middle;
    else low = middle + 1;
  }
  return low;
}

function makeBitmap(size: number): Uint32Array {
  return new Uint32Array(Math.ceil(size / PAGE / 32));
}

function setBit(bits: Uint32Array, index: number): void {
  bits[index >>> 5] = (bits[index >>> 5] as number) | (1 << (index & 31));
}

/** Moves a region's bits inside [iova, iova + length) to `bitmap`. */
function takeBits(region: DmaRegion, iova: number, length: number, unit: number, bitmap: Uint8Array): void {
  const { dirty } = region;
  if (dirty === undefined) return;
  const first = Math.max(0, iova - region.iova) / PAGE;
  const end = Math.min(region.size, iova + length - region.iova) / PAGE;
  for (let page = first; page < end; page++) {
    const word = dirty[page >>> 5] as number;
    if (word === 0) {
      page |= 31;
      continue;
    }
    const bit = 1 << (page & 31);
    if ((word & bit) === 0) continue;
    dirty[page >>> 5] = word & ~bit;
    const from = region.iova + page * PAGE - iova;
    for (let n = Math.floor(from / unit); n <= Math.floor((from + PAGE - 1) / unit); n++) bitmap[n >>> 3] = (bitmap[n >>> 3] as number) | (1 << (n & 7));
  }
}
