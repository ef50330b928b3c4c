// RAM of guests that are other processes, for a Machine: they come and go, and their memory with them, but what the machine's devices and workers have opened stays. One range of
// shared address space, in which regions are mapped as guests describe them, and an IOMMU through which each function reaches those of its own guest and nothing else.

import { GuestMemory } from '#core/guest-memory';
import { Iommu } from '#core/iommu';
import { type AddressSource, MappingError, type Reservation, reserve } from './mapped-memory.ts';
import { type Native, openNative } from './native.ts';

const GIB = 2 ** 30;
const WASM_PAGE = 65536;
/** Where a machine sees it: above 4 GiB, where no device is. No guest sees these addresses. */
const BASE = 4 * GIB;
const MOST_BYTES = 512 * GIB;

interface Hole {
  from: number;
  to: number;
}

/** One WebAssembly memory and what of it is free. */
interface Part {
  readonly whole: Reservation;
  readonly base: number;
  holes: Hole[];
}

const known = new WeakMap<GuestMemory, RemoteMemory>();

/** Give `memory` and `iommu` to a Machine whose functions other processes drive (`serveUmlPci`). */
export class RemoteMemory implements AddressSource {
  readonly memory: GuestMemory;
  readonly iommu = new Iommu();
  readonly #parts: Part[] = [];

  /** @param bytes of all guests at a time, a multiple of 64 KiB: address space, which costs nothing until it is mapped. Default 4 GiB. @throws InteropError, RangeError, MappingError */
  constructor(bytes = 4 * GIB) {
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes > MOST_BYTES || bytes % WASM_PAGE !== 0)
      throw new RangeError(`remote memory of ${bytes} bytes: give a multiple of ${WASM_PAGE} up to ${MOST_BYTES}`);
    const native = openNative();
    for (let done = 0; done < bytes; done += GIB) {
      const whole = reserve(native, Math.min(GIB, bytes - done));
      this.#parts.push({ whole, base: BASE + done, holes: [{ from: 0, to: whole.bytes }] });
    }
    this.memory = new GuestMemory(this.#parts.map(({ whole, base }) => ({ base, size: whole.bytes, source: whole.memory.buffer })));
    known.set(this.memory, this);
  }

  static of(memory: GuestMemory): RemoteMemory | undefined {
    return known.get(memory);
  }

  /** The machine's address of a byte of a mapped part. */
  addressOf(buffer: ArrayBufferLike, byteOffset: number): number | undefined {
    const part = this.#parts.find(({ whole }) => whole.memory.buffer === buffer);
    return part && part.base + byteOffset;
  }

  /** The first place it fits. */
  reserve(_native: Native, bytes: number): Reservation {
    for (const { whole, holes } of this.#parts) {
      const at = holes.findIndex(({ from, to }) => to - from >= bytes);
      const hole = holes[at];
      if (hole === undefined) continue;
      const { from } = hole;
      hole.from += bytes;
      if (hole.from === hole.to) holes.splice(at, 1);
      return { memory: whole.memory, bytes, address: whole.address + from, byteOffset: from };
    }
    throw new MappingError(`no room for ${bytes} bytes of guest memory: make the RemoteMemory larger`);
  }

  release({ memory, bytes, byteOffset }: Reservation): void {
    const part = this.#parts.find(({ whole }) => whole.memory === memory);
    if (part === undefined) return;
    const merged: Hole[] = [];
    for (const hole of [...part.holes, { from: byteOffset, to: byteOffset + bytes }].sort((a, b) => a.from - b.from)) {
      const last = merged.at(-1);
      if (last?.to === hole.from) last.to = hole.to;
      else merged.push({ ...hole });
    }
    part.holes = merged;
  }
}
