// The shared record behind a DMA space: flags, translations, reader slots, faults, in one growable SharedArrayBuffer. One thread writes it (the machine's), any
// thread reads. The generation is even at rest. A change makes it odd, which turns away readers that want to begin, waits until those inside a
// turn have left, writes, and makes it even: nobody sees half a change, and nobody uses what a finished change took away.

import { ADDRESS_LIMIT } from './guest-memory.ts';

export const DMA_READ = 1;
export const DMA_WRITE = 2;
/** What a device asks of memory: DMA_READ, DMA_WRITE. */
export type DmaAccess = typeof DMA_READ | typeof DMA_WRITE;

/** One translation: `size` bytes at `iova` reach guest-physical `address`; `permissions` is DMA_READ | DMA_WRITE bits. */
export interface DmaMapping {
  readonly iova: number;
  readonly size: number;
  readonly address: number;
  readonly permissions: number;
}

/** A refused access, as an IOMMU records it. */
export interface DmaFault {
  readonly requester: number;
  readonly address: number;
  readonly length: number;
  readonly access: DmaAccess;
}

// Layout, in 32-bit words; then faults and entries as 4 float64 each (requester, address, length, access; iova, size, address, permissions).
const GENERATION = 0;
const COUNT = 1;
const FLAGS = 2;
const FAULT_COUNT = 3;
const REQUESTER = 4;
const TICKETS = 5;
const FIRST_READER = 8;
const READERS = 16;
const HEADER_WORDS = 32;
const FAULTS = 16;
const HEADER_BYTES = HEADER_WORDS * 4 + FAULTS * 32;
const ENTRY_BYTES = 32;
export const FLAG_BUS_MASTER = 1;
export const FLAG_TRANSLATED = 2;
export const FLAG_LOGGING = 4;
export const FLAG_ON_DEMAND = 8;
/**
 * Reader word: free, else the ticket of the reader that has the slot: positive inside a turn, negative between turns. Every claim draws a ticket of its own, so that
 * a reader that was taken for dead and comes back cannot touch the slot of the one that got it since.
 */
const SLOT_FREE = 0;
const INITIAL_ENTRIES = 64;
export const MAXIMUM_ENTRIES = 1 << 20;
const PAGE = 4096;
const REVOKE_TIMEOUT_MS = 2000;

/**
 * The record for at most `entries` translations. One that can grow reserves 32 MiB of address space, of which a process has room for some ten thousand before the
 * engine gives up without collecting them; so a table that needs no more than the first few does not grow.
 */
export function makeBuffer(entries: number): SharedArrayBuffer {
  const initial = HEADER_BYTES + INITIAL_ENTRIES * ENTRY_BYTES;
  return entries <= INITIAL_ENTRIES ? new SharedArrayBuffer(initial) : new SharedArrayBuffer(initial, { maxByteLength: HEADER_BYTES + entries * ENTRY_BYTES });
}

export class DmaTable {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #faults: Float64Array;
  /** This thread's reader slot and what it drew for it, or -1. */
  #slot = -1;
  #ticket = -1;
  #faultsTaken = 0;
  /** Inside `change`. */
  #changing = false;

  constructor(buffer = makeBuffer(MAXIMUM_ENTRIES)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer, 0, HEADER_WORDS);
    this.#faults = new Float64Array(buffer, HEADER_WORDS * 4, FAULTS * 4);
  }

  get generation(): number {
    return Atomics.load(this.#words, GENERATION);
  }

  /** FLAG_* bits. */
  get flags(): number {
    return Atomics.load(this.#words, FLAGS);
  }

  get requester(): number {
    return Atomics.load(this.#words, REQUESTER);
  }

  set requester(id: number) {
    Atomics.store(this.#words, REQUESTER, id);
  }

  /** The present translations as (iova, size, address, permissions) runs. Read it inside a turn, or on the writing thread. */
  get entries(): Float64Array {
    return new Float64Array(this.buffer, HEADER_BYTES, Atomics.load(this.#words, COUNT) * 4);
  }

  // ---- the writing thread ----

  setFlag(flag: number, on: boolean): void {
    const flags = this.flags;
    if (((flags & flag) !== 0) === on) return;
    this.change(() => Atomics.store(this.#words, FLAGS, on ? flags | flag : flags & ~flag));
  }

  /** Replaces every translation; `undefined` is identity. @throws RangeError when mappings overlap, are not page aligned or are too many. */
  setMappings(mappings: readonly DmaMapping[] | undefined): void {
    if (mappings === undefined) {
      this.setFlag(FLAG_TRANSLATED, false);
      return;
    }
    const most = (this.buffer.maxByteLength - HEADER_BYTES) / ENTRY_BYTES;
    if (mappings.length > most) throw new RangeError(`this DMA space holds at most ${most} separate mappings`);
    const sorted = [...mappings].sort((a, b) => a.iova - b.iova);
    checkMappings(sorted);
    const bytes = HEADER_BYTES + sorted.length * ENTRY_BYTES;
    if (this.buffer.byteLength < bytes) this.buffer.grow(Math.min(this.buffer.maxByteLength, 2 * bytes));
    this.change(() => {
      Atomics.store(this.#words, COUNT, sorted.length);
      const { entries } = this;
      sorted.forEach((m, i) => {
        entries.set([m.iova, m.size, m.address, m.permissions], i * 4);
      });
      Atomics.or(this.#words, FLAGS, FLAG_TRANSLATED);
    });
  }

  /** Runs `write` while no other thread is inside a turn. A change made by it is part of it. */
  change(write: () => void): void {
    if (this.#changing) {
      write();
      return;
    }
    this.#changing = true;
    Atomics.add(this.#words, GENERATION, 1);
    try {
      this.#awaitReaders();
      write();
    } finally {
      this.#changing = false;
      // Odd for good would keep every worker from ever beginning a turn.
      Atomics.add(this.#words, GENERATION, 1);
    }
  }

  /** Waits, boundedly, until no other reader is inside a turn. One that does not leave in time counts as dead and loses its slot. */
  #awaitReaders(): void {
    for (let slot = 0; slot < READERS; slot++) {
      const at = FIRST_READER + slot;
      let deadline = 0;
      for (let look = 1; ; look++) {
        const seen = Atomics.load(this.#words, at);
        if (seen <= SLOT_FREE || seen === this.#ticket) break;
        if (look % 1024 !== 0) continue;
        const now = performance.now();
        if (deadline === 0) deadline = now + REVOKE_TIMEOUT_MS;
        if (now > deadline) {
          Atomics.compareExchange(this.#words, at, seen, SLOT_FREE);
          break;
        }
        nap(this.#words, at, seen);
      }
    }
  }

  /** Faults recorded by any thread since the last call; at most the newest 16 keep their details. */
  takeFaults(): { count: number; records: DmaFault[] } {
    const total = Atomics.load(this.#words, FAULT_COUNT);
    const count = (total - this.#faultsTaken) >>> 0;
    const records: DmaFault[] = [];
    for (let back = Math.min(count, FAULTS); back > 0; back--) {
      const at = ((total - back) & (FAULTS - 1)) * 4;
      const ring = this.#faults;
      records.push({ requester: ring[at] as number, address: ring[at + 1] as number, length: ring[at + 2] as number, access: ring[at + 3] as DmaAccess });
    }
    this.#faultsTaken = total;
    return { count, records };
  }

  // ---- any thread ----

  recordFault(address: number, length: number, access: DmaAccess): void {
    const at = (Atomics.add(this.#words, FAULT_COUNT, 1) & (FAULTS - 1)) * 4;
    this.#faults[at] = this.requester;
    this.#faults[at + 1] = address;
    this.#faults[at + 2] = length;
    this.#faults[at + 3] = access;
  }

  /** What this thread drew for its reader slot, or -1: names it to `expel`. */
  get reader(): number {
    return this.#ticket;
  }

  /** Whether this thread is inside a turn: the table stays as it is. */
  get inTurn(): boolean {
    return this.#slot >= 0 && Atomics.load(this.#words, FIRST_READER + this.#slot) === this.#ticket;
  }

  /** Begins a turn of this thread: the table stays as it is until `leave`. @throws Error when more than 16 threads hold readers over one space. */
  enter(): void {
    if (this.#slot < 0) this.#claim();
    for (;;) {
      const generation = Atomics.load(this.#words, GENERATION);
      if ((generation & 1) !== 0) continue;
      const before = Atomics.compareExchange(this.#words, FIRST_READER + this.#slot, -this.#ticket, this.#ticket);
      if (before !== -this.#ticket && before !== this.#ticket) {
        // Taken for dead and expelled (a thread stopped for seconds): the slot is somebody else's or nobody's.
        this.#claim();
        continue;
      }
      if (Atomics.load(this.#words, GENERATION) === generation) return;
      this.leave();
    }
  }

  leave(): void {
    if (this.#slot >= 0) Atomics.compareExchange(this.#words, FIRST_READER + this.#slot, this.#ticket, -this.#ticket);
  }

  /** Gives the reader slot back. */
  close(): void {
    if (this.#slot >= 0) this.#free(this.#slot, this.#ticket);
    this.#slot = -1;
    this.#ticket = -1;
  }

  /** Frees the slot of a thread known to be dead. */
  expel(reader: number): void {
    if (reader > 0 && reader !== this.#ticket) for (let slot = 0; slot < READERS; slot++) this.#free(slot, reader);
  }

  #free(slot: number, ticket: number): void {
    Atomics.compareExchange(this.#words, FIRST_READER + slot, ticket, SLOT_FREE);
    Atomics.compareExchange(this.#words, FIRST_READER + slot, -ticket, SLOT_FREE);
  }

  #claim(): void {
    const ticket = (Atomics.add(this.#words, TICKETS, 1) & 0x3fffffff) + 1;
    for (let slot = 0; slot < READERS; slot++) {
      if (Atomics.compareExchange(this.#words, FIRST_READER + slot, SLOT_FREE, -ticket) === SLOT_FREE) {
        this.#slot = slot;
        this.#ticket = ticket;
        return;
      }
    }
    this.#slot = -1;
    this.#ticket = -1;
    throw new Error(`more than ${READERS} threads read one DMA space: close() those that are done`);
  }
}

/** Gives the processor away for a moment, where this thread may block at all (a page's main thread may not, and spins). */
function nap(words: Int32Array, index: number, value: number): void {
  try {
    Atomics.wait(words, index, value, 0.05);
  } catch {
    // Not allowed to block here.
  }
}

function checkMappings(sorted: readonly DmaMapping[]): void {
  let end = 0;
  for (const { iova, size, address, permissions } of sorted) {
    const aligned = [iova, size, address].every((n) => Number.isSafeInteger(n) && n >= 0 && n % PAGE === 0);
    if (!aligned || size === 0 || iova + size > ADDRESS_LIMIT || address + size > ADDRESS_LIMIT)
      throw new RangeError(`mapping of ${size} bytes at ${iova} to ${address}: all must be multiples of ${PAGE}, size above 0, ends at most 2^52`);
    if ((permissions & ~(DMA_READ | DMA_WRITE)) !== 0) throw new RangeError(`mapping at ${iova}: permissions ${permissions} are not DMA_READ | DMA_WRITE bits`);
    if (iova < end) throw new RangeError(`mapping at 0x${iova.toString(16)} overlaps the one that ends at 0x${end.toString(16)}`);
    end = iova + size;
  }
}
