// A range of memory addresses, reserved once, into which pieces of other processes' memory files are mapped and out of which they are taken again, while data planes run:
// to nicbox it is one GuestMemory that never changes, so no thread has to be told of anything. What is mapped nowhere is zeroes of nobody and costs nothing.
// Which of it a device may reach, and under which addresses, is an IOMMU's to say.

import { GuestMemory } from '#core/guest-memory';
import { type AddressSource, MappingError, type Reservation, reserve } from './mapped-memory.ts';
import { type Native, openNative } from './native.ts';

/** Pieces begin on the largest page that is common, so that files of such pages need no room for alignment. */
const LARGEST_PAGE = 2 ** 21;
const WASM_PAGE = 65_536;
/** What of one WebAssembly memory (4 GiB, and the engine keeps twice that in addresses) is left when its beginning is aligned. */
const PIECE = 2 ** 32 - LARGEST_PAGE;
const MOST_PIECES = 64;
/** Away from everything a machine has: devices, and RAM as PCs have it. */
export const ARENA_BASE = 2 ** 44;

interface Hole {
  from: number;
  to: number;
}

interface Piece {
  readonly whole: Reservation;
  readonly base: number;
  readonly size: number;
  /** By place, none next to another. Offsets from the aligned beginning. */
  readonly holes: Hole[];
  /** Where the aligned part begins in the buffer. */
  readonly byteOffset: number;
}

export class MemoryArena implements AddressSource {
  readonly memory: GuestMemory;
  readonly requireSeals: boolean;
  readonly #pieces: readonly Piece[];

  /**
   * @param bytes of all guests at a time: address space, which costs nothing until it is mapped. There may be less, when this process may not have so much.
   * @param requireSeals see AddressSource
   * @throws InteropError, RangeError, MappingError when it may have none
   */
  constructor(bytes: number = PIECE, requireSeals = false) {
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes > MOST_PIECES * PIECE || bytes % WASM_PAGE !== 0)
      throw new RangeError(`memory of ${bytes} bytes for guests: give a multiple of ${WASM_PAGE} up to ${MOST_PIECES * PIECE}`);
    const native = openNative();
    const pieces: Piece[] = [];
    try {
      for (let done = 0; done < bytes; done += PIECE) {
        const size = Math.min(PIECE, bytes - done);
        const whole = reserve(native, size + LARGEST_PAGE);
        const byteOffset = Math.ceil(whole.address / LARGEST_PAGE) * LARGEST_PAGE - whole.address;
        pieces.push({ whole, base: ARENA_BASE + done, size, holes: [{ from: 0, to: size }], byteOffset });
      }
    } catch (error) {
      // Less will do for most guests; none will not.
      if (pieces.length === 0) throw error;
    }
    this.#pieces = pieces;
    this.requireSeals = requireSeals;
    this.memory = new GuestMemory(pieces.map(({ whole, base, size, byteOffset }) => ({ base, size, source: whole.memory.buffer, sourceOffset: byteOffset })));
  }

  /** Bytes there is room for. */
  get size(): number {
    return this.#pieces.reduce((sum, { size }) => sum + size, 0);
  }

  /** The memory's address of a byte of a mapped part. */
  addressOf(buffer: ArrayBufferLike, byteOffset: number): number | undefined {
    const piece = this.#pieces.find(({ whole }) => whole.memory.buffer === buffer);
    return piece && piece.base + byteOffset - piece.byteOffset;
  }

  /** The first place it fits. */
  reserve(_native: Native, bytes: number): Reservation {
    for (const { whole, holes, byteOffset } of this.#pieces) {
      const at = holes.findIndex(({ from, to }) => to - from >= bytes);
      const hole = holes[at];
      if (hole === undefined) continue;
      const place = byteOffset + hole.from;
      hole.from += bytes;
      if (hole.from === hole.to) holes.splice(at, 1);
      return { memory: whole.memory, bytes, address: whole.address + place, byteOffset: place };
    }
    throw new MappingError(`no room for ${bytes} bytes: at most ${this.size} of guests' memory are served`);
  }

  release({ memory, bytes, byteOffset }: Reservation): void {
    const piece = this.#pieces.find(({ whole }) => whole.memory === memory);
    if (piece === undefined) return;
    const { holes } = piece;
    const from = byteOffset - piece.byteOffset;
    const to = from + bytes;
    const at = firstFrom(holes, from);
    const [before, after] = [holes[at - 1], holes[at]];
    if (before?.to === from && after?.from === to) {
      before.to = after.to;
      holes.splice(at, 1);
    } else if (before?.to === from) before.to = to;
    else if (after?.from === to) after.from = from;
    else holes.splice(at, 0, { from, to });
  }
}

/** Index of the first hole from there on. */
function firstFrom(holes: readonly Hole[], from: number): number {
  let low = 0;
  let high = holes.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((holes[middle] as Hole).from < from) low = middle + 1;
    else high = middle;
  }
  return low;
}
