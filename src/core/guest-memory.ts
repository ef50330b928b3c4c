// Guest RAM: one or more ranges of guest-physical addresses backed by SharedArrayBuffers (or by buffers the embedder hands
// in and may replace). The only owner of views over RAM. Devices never see this class: they see a DmaSpace.

import { type AddressLog, DirtyLog } from './dirty-log.ts';

/** Bytes with the views the data path reads them through. All views cover the same bytes, from the same start. */
export interface ByteViews {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  /** For copying eight bytes at a time: bit patterns, NaNs too, go through unchanged. */
  readonly f64: Float64Array;
  /** Over shared memory, which the engine copies in another way. */
  readonly shared: boolean;
}

export function viewsOf(buffer: ArrayBufferLike, byteOffset = 0, byteLength = buffer.byteLength - byteOffset): ByteViews {
  return {
    u8: new Uint8Array(buffer, byteOffset, byteLength),
    u16: new Uint16Array(buffer, byteOffset, byteLength >>> 1),
    u32: new Uint32Array(buffer, byteOffset, byteLength >>> 2),
    i32: new Int32Array(buffer, byteOffset, byteLength >>> 2),
    f64: new Float64Array(buffer, byteOffset, byteLength >>> 3),
    shared: buffer instanceof SharedArrayBuffer,
  };
}

/** Where a RAM range's bytes live. A function is called again whenever the host may have replaced the buffer (a grown WebAssembly memory). */
export type MemorySource = ArrayBufferLike | (() => ArrayBufferLike);

/** One range of RAM as the embedder describes it: `base` and `size` in bytes, both multiples of 4096. */
export interface RamRange {
  readonly base: number;
  readonly size: number;
  /** Backing bytes; without it a zeroed SharedArrayBuffer is allocated. */
  readonly source?: MemorySource;
  /** Where in the source the range starts (bytes, multiple of 8). */
  readonly sourceOffset?: number;
}

/** What a worker thread needs to open the same RAM: structured-cloneable, shares the bytes. */
export interface GuestMemoryShare {
  readonly ranges: readonly { base: number; size: number; buffer: ArrayBufferLike; byteOffset: number }[];
  readonly dirty: SharedArrayBuffer;
  readonly byAddress: AddressLog | undefined;
}

/** A part of one range, at most 1 GiB, so that every offset stays a small integer in the JIT. */
export interface Slab {
  readonly base: number;
  readonly size: number;
  /** Bytes of RAM in the slabs before this one: where the dirty log has its pages. */
  readonly dirtyOffset: number;
  views: ByteViews;
}

interface Backing {
  readonly base: number;
  readonly size: number;
  readonly source: MemorySource;
  readonly sourceOffset: number;
}

const PAGE = 4096;
const SLAB_SIZE = 2 ** 30;
/** Guest-physical addresses stay below 2^52 (the x86 limit), well inside exact integers. */
export const ADDRESS_LIMIT = 2 ** 52;

function resolve(source: MemorySource): ArrayBufferLike {
  return typeof source === 'function' ? source() : source;
}

/** The guest's RAM. @throws RangeError when ranges overlap, are not page aligned or do not fit their source. */
export class GuestMemory {
  readonly slabs: readonly Slab[];
  readonly size: number;
  /** Pages that devices wrote, while it is on. */
  readonly dirty: DirtyLog;
  readonly #backings: readonly Backing[];

  /** @param byAddress where written pages are logged for another process, in place of `dirty` */
  constructor(ranges: readonly RamRange[], dirty?: SharedArrayBuffer, byAddress?: AddressLog) {
    const sorted = [...ranges].sort((a, b) => a.base - b.base);
    if (sorted.length === 0) throw new RangeError('guest memory needs at least one RAM range');
    const slabs: Slab[] = [];
    const backings: Backing[] = [];
    let end = 0;
    let total = 0;
    for (const range of sorted) {
      const { base, size } = range;
      if (
        !(
          Number.isSafeInteger(base) &&
          base >= 0 &&
          base % PAGE === 0 &&
          Number.isSafeInteger(size) &&
          size > 0 &&
          size % PAGE === 0 &&
          base + size <= ADDRESS_LIMIT
        )
      )
        throw new RangeError(`RAM range base ${base} size ${size}: both must be multiples of ${PAGE}, size above 0, end at most 2^52`);
      if (base < end) throw new RangeError(`RAM range at 0x${base.toString(16)} overlaps the one that ends at 0x${end.toString(16)}`);
      end = base + size;
      const sourceOffset = range.sourceOffset ?? 0;
      if (!(Number.isSafeInteger(sourceOffset) && sourceOffset >= 0 && sourceOffset % 8 === 0))
        throw new RangeError(`sourceOffset ${sourceOffset} must be a non-negative multiple of 8`);
      for (let at = 0; at < size; at += SLAB_SIZE) {
        const part = Math.min(SLAB_SIZE, size - at);
        const source = range.source ?? new SharedArrayBuffer(part);
        const offset = range.source === undefined ? 0 : sourceOffset + at;
        const buffer = resolve(source);
        if (offset + part > buffer.byteLength)
          throw new RangeError(`RAM range at 0x${base.toString(16)} needs ${offset + part} bytes of its source, which has ${buffer.byteLength}`);
        backings.push({ base: base + at, size: part, source, sourceOffset: offset });
        slabs.push({ base: base + at, size: part, dirtyOffset: total, views: viewsOf(buffer, offset, part) });
        total += part;
      }
    }
    this.slabs = slabs;
    this.#backings = backings;
    this.size = total;
    this.dirty = new DirtyLog(slabs, dirty, byAddress);
  }

  /** PC-like RAM: up to 2 GiB from address 0, the rest from 4 GiB, leaving the hole for MMIO as q35 does. */
  static pc(size: number): GuestMemory {
    const low = Math.min(size, 2 ** 31);
    const ranges: RamRange[] = [{ base: 0, size: low }];
    if (size > low) ranges.push({ base: 2 ** 32, size: size - low });
    return new GuestMemory(ranges);
  }

  /** Opens RAM shared by another thread. */
  static open(share: GuestMemoryShare): GuestMemory {
    return new GuestMemory(
      share.ranges.map((r) => ({ base: r.base, size: r.size, source: r.buffer, sourceOffset: r.byteOffset })),
      share.dirty,
      share.byAddress,
    );
  }

  /** For postMessage. @throws TypeError when the RAM is not shared memory (worker backends then cannot serve it). */
  share(): GuestMemoryShare {
    return {
      ranges: this.#backings.map(({ base, size, source, sourceOffset }) => {
        const buffer = resolve(source);
        if (!(buffer instanceof SharedArrayBuffer))
          throw new TypeError('guest RAM is a plain ArrayBuffer, which worker threads cannot see: use the inline backend, or hand in a SharedArrayBuffer');
        return { base, size, buffer, byteOffset: sourceOffset };
      }),
      dirty: this.dirty.buffer,
      byAddress: this.dirty.byAddress,
    };
  }

  /** True when every range is shared memory, so worker threads can serve it. */
  get shared(): boolean {
    return this.#backings.every((b) => resolve(b.source) instanceof SharedArrayBuffer);
  }

  /**
   * Re-reads every source the embedder may have replaced; returns whether any view changed. A detached view has length 0, so a stale
   * one fails its bounds check and lands here instead of reading freed bytes.
   */
  refresh(): boolean {
    let changed = false;
    this.#backings.forEach((backing, i) => {
      const slab = this.slabs[i] as Slab;
      const buffer = resolve(backing.source);
      if (slab.views.u8.buffer === buffer && slab.views.u8.length === backing.size) return;
      if (backing.sourceOffset + backing.size > buffer.byteLength) return;
      slab.views = viewsOf(buffer, backing.sourceOffset, backing.size);
      changed = true;
    });
    return changed;
  }

  /** The slab that holds `address`, or undefined for a hole. */
  slabAt(address: number): Slab | undefined {
    if (Number.isNaN(address)) return undefined;
    let low = 0;
    let high = this.slabs.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const slab = this.slabs[middle] as Slab;
      if (address < slab.base) high = middle - 1;
      else if (address >= slab.base + slab.size) low = middle + 1;
      else return slab;
    }
    return undefined;
  }
}
