// Guest RAM that other processes can map: a memory file (memfd) mapped over SharedArrayBuffers, and which descriptor stands behind which RAM. What a vhost-user front
// end sends its back end as the memory table.

import { GuestMemory, type RamRange } from '#core/guest-memory';
import type { QueueSetup } from '#virtio/virtqueue';
import { errorName, InteropError } from './interop-error.ts';
import { MappedRegion } from './mapped-memory.ts';
import { openNative } from './native.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
/** RAM from here on lies above the device range, from 4 GiB, as in GuestMemory.pc. */
const LOW_LIMIT = 2 * GIB;
const HIGH_BASE = 4 * GIB;

/** A run of guest-physical addresses and where it lies in a file. */
export interface SharedRegion {
  readonly guestAddress: number;
  readonly size: number;
  readonly fd: number;
  readonly fileOffset: number;
}

interface Backing {
  readonly fd: number;
  /** File offset of the buffer's first byte (of the first mapped one less its place). */
  readonly fileOffset: number;
}

const backings = new WeakMap<ArrayBufferLike, Backing>();

/** RAM of `size` bytes, zeroed, laid out as in a PC. Hand `memory` to a Machine, and `close` when neither it nor any back end uses it any more. */
export class MemoryFile {
  readonly memory: GuestMemory;
  readonly #fd: number;
  readonly #region: MappedRegion;
  #open = true;

  /** @throws InteropError, RangeError, MappingError */
  constructor(size: number) {
    if (!Number.isSafeInteger(size) || size <= 0 || size % PAGE !== 0) throw new RangeError(`guest RAM of ${size} bytes: give a multiple of ${PAGE}`);
    const native = openNative();
    this.#fd = native.memory.memfd('nicbox-ram', size);
    if (this.#fd < 0) throw new InteropError('NICBOX_NATIVE_CALL', `cannot make a memory file of ${size} bytes: ${errorName(this.#fd)}`);
    try {
      this.#region = new MappedRegion(native, this.#fd, 0, size);
    } catch (error) {
      native.close(this.#fd);
      throw error;
    }
    const ranges: RamRange[] = [];
    let done = 0;
    for (const part of this.#region.parts) {
      backings.set(part.buffer, { fd: this.#fd, fileOffset: done - part.byteOffset });
      ranges.push({ base: done < LOW_LIMIT ? done : HIGH_BASE + done - LOW_LIMIT, size: part.size, source: part.buffer, sourceOffset: part.byteOffset });
      done += part.size;
    }
    this.memory = new GuestMemory(ranges);
  }

  /** Unmaps it: its bytes are then zeroes of nobody. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const { buffer } of this.#region.parts) backings.delete(buffer);
    this.#region.unmap();
    openNative().close(this.#fd);
  }
}

/** What to tell a back end of this RAM: as few regions as there are. @throws InteropError when some of it lies in no memory file, or there are more than `most`. */
export function sharedRegions(memory: GuestMemory, most: number): readonly SharedRegion[] {
  const regions: SharedRegion[] = [];
  for (const { base, views } of memory.slabs) {
    const { buffer, byteOffset, length: size } = views.u8;
    const backing = backings.get(buffer);
    if (backing === undefined)
      throw new InteropError(
        'NICBOX_RAM_NOT_SHAREABLE',
        `the RAM at 0x${base.toString(16)} lies in no memory file, so that no other process can map it: make it with 'new MemoryFile(size)' and give the machine its 'memory'`,
      );
    const fileOffset = backing.fileOffset + byteOffset;
    const last = regions.at(-1);
    if (last !== undefined && last.fd === backing.fd && last.guestAddress + last.size === base && last.fileOffset + last.size === fileOffset)
      regions[regions.length - 1] = { ...last, size: last.size + size };
    else regions.push({ guestAddress: base, size, fd: backing.fd, fileOffset });
  }
  if (regions.length > most)
    throw new InteropError('NICBOX_RAM_NOT_SHAREABLE', `RAM in ${regions.length} pieces: a back end takes ${most}, so make it from fewer files`);
  return regions;
}

/** A ring's areas lie in RAM, each inside one region: whoever maps regions one by one cannot cross from one to the next. */
export function placed(regions: readonly SharedRegion[], { size, descriptorArea, driverArea, deviceArea }: QueueSetup, packed: boolean): boolean {
  const areas = [
    [descriptorArea, 16 * size],
    [driverArea, packed ? 4 : 6 + 2 * size],
    [deviceArea, packed ? 4 : 6 + 8 * size],
  ] as const;
  return size > 0 && areas.every(([at, bytes]) => regions.some((r) => at >= r.guestAddress && at + bytes <= r.guestAddress + r.size));
}
