// A range of memory addresses, reserved once, into which pieces of other processes' memory files are mapped and out of which they are taken again, while data planes run:
// to nicbox it is one GuestMemory that never changes, so no thread has to be told of anything. What is mapped nowhere is zeroes of nobody and costs nothing.
// Which of it a device may reach, and under which addresses, is an IOMMU's to say.

import { fstatSync } from 'node:fs';
import { GuestMemory } from '#core/guest-memory';
import { MappingError } from './mapped-memory.ts';
import { errorName, type Native } from './native.ts';

const PAGE = 4096;
/** Places are aligned to the largest page a file may have here. */
const LARGEST_PAGE = 2 ** 21;
const WASM_PAGE = 65_536;
const WASM_PAGES = 65_536;
/** What of one WebAssembly memory (4 GiB) is left when its beginning is aligned. */
const PIECE = WASM_PAGES * WASM_PAGE - LARGEST_PAGE;
const PIECES = 16;
/** Away from everything a machine has: devices, and RAM as PCs have it. */
export const ARENA_BASE = 2 ** 44;

declare const WebAssembly: { readonly Memory: new (size: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } };

interface Piece {
  readonly buffer: SharedArrayBuffer;
  /** Where the aligned part begins: in this process, and in the buffer. */
  readonly address: number;
  readonly byteOffset: number;
}

/** What was mapped: `size` bytes at `address` of the arena's memory. */
export interface ArenaPlace {
  readonly address: number;
  readonly size: number;
  /** In units of the file's pages: what has to be taken back. */
  readonly from: number;
  readonly length: number;
}

export class MemoryArena {
  readonly memory: GuestMemory;
  readonly #native: Native;
  readonly #pieces: readonly Piece[];
  /** By ascending place. */
  #places: ArenaPlace[] = [];

  /** @throws MappingError when this process may not have so much address space. */
  constructor(native: Native) {
    this.#native = native;
    const pieces: Piece[] = [];
    try {
      for (let i = 0; i < PIECES; i++) {
        const { buffer } = new WebAssembly.Memory({ initial: WASM_PAGES, maximum: WASM_PAGES, shared: true });
        const start = native.addressOf(new Uint8Array(buffer));
        const address = Math.ceil(start / LARGEST_PAGE) * LARGEST_PAGE;
        pieces.push({ buffer, address, byteOffset: address - start });
      }
    } catch (error) {
      // Less will do for most guests; none will not.
      if (pieces.length === 0) throw new MappingError(`no address space for guests' memory: ${(error as Error).message}`);
    }
    this.#pieces = pieces;
    this.memory = new GuestMemory(
      pieces.map(({ buffer, byteOffset }, i) => ({ base: ARENA_BASE + i * PIECE, size: PIECE, source: buffer, sourceOffset: byteOffset })),
    );
  }

  /** Bytes there is room for. */
  get size(): number {
    return this.#pieces.length * PIECE;
  }

  /** How much is mapped. */
  get used(): number {
    return this.#places.reduce((sum, { size }) => sum + size, 0);
  }

  /**
   * Maps `size` bytes from `offset` on, both whole pages; the descriptor may be closed afterwards.
   * @throws MappingError when the descriptor is no memory file, is too short, or there is no room.
   */
  map(fd: number, offset: number, size: number): ArenaPlace {
    // Before anybody looks at its size: it must not shrink afterwards.
    this.#native.sealShrink(fd);
    const file = fstatSync(fd);
    if (!file.isFile()) throw new MappingError('memory descriptor is not a memory file');
    // Beyond the end of the file every access would be a bus error, which ends this process.
    if (offset + size > file.size) throw new MappingError(`memory file of ${file.size} bytes is too short for ${size} bytes at ${offset}`);
    const large = file.blksize > WASM_PAGE && file.size % file.blksize === 0;
    if (large && file.blksize > LARGEST_PAGE) throw new MappingError(`memory file with pages of ${file.blksize} bytes: at most ${LARGEST_PAGE} are served`);
    const page = large ? file.blksize : PAGE;
    const fileFrom = Math.floor(offset / page) * page;
    const length = Math.ceil((offset + size) / page) * page - fileFrom;
    const from = this.#room(length, page);
    const place: ArenaPlace = { address: ARENA_BASE + from + (offset - fileFrom), size, from, length };
    this.#insert(place);
    let done = 0;
    const error = this.#each(place, (address, bytes) => {
      const result = this.#native.mapAt(address, bytes, fd, fileFrom + done);
      done += bytes;
      return result;
    });
    if (error === 0) return place;
    this.unmap(place);
    throw new MappingError(`cannot map ${size} bytes: ${errorName(error)}`);
  }

  /** Nobody uses it any more. */
  unmap(place: ArenaPlace): void {
    const error = this.#each(place, (address, bytes) => this.#native.unmapAt(address, bytes));
    // A range that could not be taken back must not be handed out again.
    if (error === 0) this.#places.splice(this.#places.indexOf(place), 1);
  }

  /** The place that holds an address of the arena's memory. */
  placeAt(address: number): ArenaPlace | undefined {
    const place = this.#places[this.#firstEndingAfter(address - ARENA_BASE)];
    return place !== undefined && address >= place.address && address < place.address + place.size ? place : undefined;
  }

  #firstEndingAfter(offset: number): number {
    let low = 0;
    let high = this.#places.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { from, length } = this.#places[middle] as ArenaPlace;
      if (from + length > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #insert(place: ArenaPlace): void {
    this.#places.splice(this.#firstEndingAfter(place.from), 0, place);
  }

  /** The first gap that is large enough. */
  #room(length: number, page: number): number {
    let at = 0;
    for (const place of this.#places) {
      if (place.from - at >= length) break;
      at = Math.ceil((place.from + place.length) / page) * page;
    }
    if (at + length > this.size)
      throw new MappingError(`no room for ${length} bytes: at most ${this.size} of guests' memory are served, ${this.used} are in use`);
    return at;
  }

  /** Does something with each run of a place that lies in one piece, until it fails. */
  #each(place: ArenaPlace, act: (address: number, bytes: number) => number): number {
    for (let done = 0; done < place.length; ) {
      const at = place.from + done;
      const piece = this.#pieces[Math.floor(at / PIECE)] as Piece;
      const bytes = Math.min(place.length - done, PIECE - (at % PIECE));
      const result = act(piece.address + (at % PIECE), bytes);
      if (result < 0) return result;
      done += bytes;
    }
    return 0;
  }
}
