// The guest's own memory allocator: contiguous blocks from one slab of guest RAM, which is all a bare-metal driver wants for rings and buffers.
// Offsets index the slab's views; `address` turns one into what a device is told. First fit, neighbours joined on free; a control-path tool.

import type { ByteViews, GuestMemory } from '#core/guest-memory';

/** A guest ran out of the memory it was given. */
export class GuestOutOfMemoryError extends Error {
  readonly code = 'ERR_GUEST_OUT_OF_MEMORY';

  constructor(wanted: number, largest: number) {
    super(`the guest needs ${wanted} contiguous bytes and its largest free block has ${largest}: give the guest more RAM or smaller rings`);
    this.name = 'GuestOutOfMemoryError';
  }
}

interface Block {
  offset: number;
  size: number;
}

/** Low memory a PC leaves to firmware: nothing is allocated there, so that no buffer ever has a null-like address. */
const RESERVED_LOW = 2 ** 20;

export class GuestArena {
  readonly views: ByteViews;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  /** Guest-physical address of view offset 0. */
  readonly base: number;
  readonly #free: Block[];
  readonly #used = new Map<number, number>();

  /** Takes the largest slab below 4 GiB (everything but its first MiB when it starts at 0), or `range` (offsets in that slab). */
  constructor(memory: GuestMemory, range?: { start: number; size: number }) {
    let slab = memory.slabs[0];
    for (const candidate of memory.slabs) if (slab && candidate.size > slab.size && candidate.base < 2 ** 32) slab = candidate;
    if (!slab) throw new RangeError('guest memory has no RAM');
    const { u8, u16, u32, i32 } = slab.views;
    this.views = slab.views;
    this.u8 = u8;
    this.u16 = u16;
    this.u32 = u32;
    this.i32 = i32;
    this.base = slab.base;
    const start = range?.start ?? (slab.base === 0 ? Math.min(RESERVED_LOW, slab.size >>> 1) : 0);
    const size = range?.size ?? slab.size - start;
    if (start < 0 || size <= 0 || start + size > slab.size) throw new RangeError(`arena [${start}, +${size}) does not lie in a slab of ${slab.size} bytes`);
    this.#free = [{ offset: start, size }];
  }

  /** A zeroed block. `alignment` is a power of two. @throws GuestOutOfMemoryError */
  allocate(size: number, alignment = 64): number {
    for (let i = 0; i < this.#free.length; i++) {
      const block = this.#free[i] as Block;
      // Align the guest-physical address, not the offset: that is what a device checks (slab bases are page aligned, so large alignments differ).
      const skew = (this.base + block.offset) % alignment;
      const pad = skew === 0 ? 0 : alignment - skew;
      if (block.size < pad + size) continue;
      const offset = block.offset + pad;
      const after = block.size - pad - size;
      const parts: Block[] = [];
      if (pad > 0) parts.push({ offset: block.offset, size: pad });
      if (after > 0) parts.push({ offset: offset + size, size: after });
      this.#free.splice(i, 1, ...parts);
      this.#used.set(offset, size);
      this.u8.fill(0, offset, offset + size);
      return offset;
    }
    throw new GuestOutOfMemoryError(size, Math.max(0, ...this.#free.map((b) => b.size)));
  }

  /** Gives a block back. @throws RangeError when `offset` is not an allocated block: the caller's bug. */
  free(offset: number): void {
    const size = this.#used.get(offset);
    if (size === undefined) throw new RangeError(`offset ${offset} is not an allocated block`);
    this.#used.delete(offset);
    let at = this.#free.findIndex((b) => b.offset > offset);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { offset, size });
    for (const i of [at, at - 1]) {
      const here = this.#free[i];
      const next = this.#free[i + 1];
      if (here && next && here.offset + here.size === next.offset) {
        here.size += next.size;
        this.#free.splice(i + 1, 1);
      }
    }
  }

  /** The guest-physical address of an offset. */
  address(offset: number): number {
    return this.base + offset;
  }

  get bytesInUse(): number {
    let total = 0;
    for (const size of this.#used.values()) total += size;
    return total;
  }
}
