// Memory of another process as SharedArrayBuffers: a file descriptor mapped over the address range of a shared WebAssembly.Memory, whose buffer worker threads and the JIT
// treat like any other. Ranges are kept for the next mapping: the engine gives one back only when it collects garbage, and ten thousand connections must not wait for that.

import { fstatSync } from 'node:fs';
import { errorName } from './interop-error.ts';
import type { Native } from './native.ts';

const PAGE = 4096;
const WASM_PAGE = 65536;
/** One buffer maps at most so much: no larger than a slab of GuestMemory, so that every one of those lies in one buffer. */
const PART = 2 ** 30;
/** The alignment that every WebAssembly memory has; larger pages need a place sought inside. */
const NATURAL = WASM_PAGE;
const LARGEST_PAGE = 2 ** 30;
/** Idle address ranges kept. They hold no memory. */
const MOST_IDLE = 32;

/** Why a region cannot be mapped: the other side's mistake, or the host's refusal. */
export class MappingError extends Error {}

interface SharedMemory {
  readonly buffer: SharedArrayBuffer;
}

/** The part of it that is used; the type comes with browsers' types only. */
declare const WebAssembly: { readonly Memory: new (size: { initial: number; maximum: number; shared: true }) => SharedMemory };

/** A run of address space to map over, inside the buffer of a shared WebAssembly memory. */
export interface Reservation {
  readonly memory: SharedMemory;
  readonly bytes: number;
  readonly address: number;
  /** Where in the buffer it starts. */
  readonly byteOffset: number;
}

/** Where address space comes from, and where it goes when nothing is mapped there any more. */
export interface AddressSource {
  /** Nothing is mapped that another process could cut short (and end this one by a bus error): files have to be sealed against that, or let us do it. */
  readonly requireSeals?: boolean;
  /** @param bytes a multiple of 64 KiB, at most 1 GiB and its alignment. @throws MappingError */
  reserve(native: Native, bytes: number): Reservation;
  release(reservation: Reservation): void;
}

/** A run of mapped bytes: `size` of them from `byteOffset` on in `buffer`. */
export interface MappedPart {
  readonly buffer: SharedArrayBuffer;
  readonly byteOffset: number;
  readonly size: number;
}

const idle: Reservation[] = [];

/** A whole WebAssembly memory. @param bytes a multiple of 64 KiB. @throws MappingError */
export function reserve(native: Native, bytes: number): Reservation {
  const pages = bytes / WASM_PAGE;
  let memory: SharedMemory;
  try {
    memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (error) {
    throw new MappingError(`no address space for ${bytes} bytes: ${(error as Error).message}`);
  }
  return { memory, bytes, address: native.addressOf(new Uint8Array(memory.buffer)), byteOffset: 0 };
}

/** A memory for each region. */
const SEPARATE: AddressSource = {
  reserve(native, bytes) {
    const at = idle.findIndex((r) => r.bytes === bytes);
    return at >= 0 ? (idle.splice(at, 1)[0] as Reservation) : reserve(native, bytes);
  },
  release(reservation) {
    if (idle.length < MOST_IDLE) idle.push(reservation);
  },
};

/** The same for sealed files alone. */
export const SEALED: AddressSource = { ...SEPARATE, requireSeals: true };

function up(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** A mapped region of a file, in parts of at most 1 GiB. `unmap` when nobody uses the parts any more: their bytes are then zeroes of nobody. */
export class MappedRegion {
  readonly parts: readonly MappedPart[];
  readonly #native: Native;
  readonly #source: AddressSource;
  readonly #reservations: readonly Reservation[];
  #mapped = true;

  /**
   * Maps `size` bytes from `offset` on, which is a multiple of 4096; the descriptor may be closed afterwards.
   * @throws MappingError when the descriptor is no memory file, is too short, or the host refuses.
   */
  constructor(native: Native, fd: number, offset: number, size: number, source: AddressSource = SEPARATE) {
    this.#native = native;
    this.#source = source;
    // Before anybody looks at its size: it must not shrink afterwards.
    if (!native.memory.sealShrink(fd) && source.requireSeals === true)
      throw new MappingError('its memory file cannot be sealed against being made shorter (a memfd with F_SEAL_SHRINK or with sealing allowed can)');
    const file = fstatSync(fd);
    if (!file.isFile()) throw new MappingError('memory descriptor is not a memory file');
    if (offset % PAGE !== 0 || size <= 0 || offset < 0) throw new MappingError(`memory of ${size} bytes at file offset ${offset}: not whole pages`);
    // Beyond the end of the file every access would be a bus error, which ends this process.
    if (offset + size > file.size) throw new MappingError(`memory file of ${file.size} bytes is too short for ${size} bytes at ${offset}`);
    const page = file.blksize > NATURAL && file.blksize <= LARGEST_PAGE && file.size % file.blksize === 0 ? file.blksize : PAGE;
    const parts: MappedPart[] = [];
    const reservations: Reservation[] = [];
    this.parts = parts;
    this.#reservations = reservations;
    try {
      for (let done = 0; done < size; done += PART) {
        const bytes = Math.min(PART, size - done);
        const from = Math.floor((offset + done) / page) * page;
        const before = offset + done - from;
        const length = up(before + bytes, page);
        const reservation = source.reserve(native, up(page > NATURAL ? length + page : length, WASM_PAGE));
        reservations.push(reservation);
        const at = page > NATURAL ? up(reservation.address, page) : reservation.address;
        const result = native.memory.mapAt(at, length, fd, from);
        if (result < 0) throw new MappingError(`cannot map ${length} bytes: ${errorName(result)}`);
        parts.push({ buffer: reservation.memory.buffer, byteOffset: reservation.byteOffset + at - reservation.address + before, size: bytes });
      }
    } catch (error) {
      this.unmap();
      throw error;
    }
  }

  unmap(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    for (const reservation of this.#reservations) {
      const result = this.#native.memory.unmapAt(reservation.address, reservation.bytes);
      // A range that could not be taken back must not be handed out again.
      if (result >= 0) this.#source.release(reservation);
    }
  }
}
