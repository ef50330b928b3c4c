// All a device may know of memory: addresses in its own space, identity-mapped or translated by an IOMMU domain, gated by bus
// mastering, logging the pages it dirties. The table behind a space is shared memory, so that a worker thread sees a map, an unmap
// or a cleared bus-master bit without a message; readers announce themselves per turn so that an unmap returns only when no
// thread can still be using what it took away (the role of an IOTLB flush completion).

import { ADDRESS_LIMIT, type ByteViews, GuestMemory, type GuestMemoryShare, type Slab, viewsOf } from './guest-memory.ts';

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

export interface DmaSpaceShare {
  readonly memory: GuestMemoryShare;
  readonly table: SharedArrayBuffer;
  readonly dirty: SharedArrayBuffer;
}

/** A run of device addresses that lies in one slab: `offset = address - start + bias` indexes its views. */
export interface Window {
  readonly start: number;
  readonly end: number;
  /** Add to a device address for the slab's byte offset. */
  readonly bias: number;
  /** Add to a device address for the guest-physical address (what the dirty log counts in). */
  readonly guestBias: number;
  readonly permissions: number;
  readonly slab: Slab;
}

// Table layout, in 32-bit words. Entries are 4 float64: iova, size, address, permissions.
const GENERATION = 0;
const COUNT = 1;
const FLAGS = 2;
const FAULT_COUNT = 3;
const REQUESTER = 4;
const FIRST_READER = 8;
const READERS = 16;
const FIRST_FAULT = 32; // float64 index 16: FAULTS records of 4 float64
const FAULTS = 16;
const HEADER_BYTES = FIRST_FAULT * 4 + FAULTS * 32;
const ENTRY_BYTES = 32;
const FLAG_BUS_MASTER = 1;
const FLAG_TRANSLATED = 2;
const FLAG_LOGGING = 4;
/** Reader word: slot free / registered but between turns. */
const SLOT_FREE = 0;
const SLOT_IDLE = -1;
const INITIAL_ENTRIES = 64;
const MAXIMUM_ENTRIES = 1 << 20;
const PAGE_SHIFT_FACTOR = 4096;
const REVOKE_TIMEOUT_MS = 2000;

const NO_WINDOW: Window = {
  start: 1,
  end: 0,
  bias: 0,
  guestBias: 0,
  permissions: 0,
  slab: { base: 0, size: 0, views: viewsOf(new ArrayBuffer(0)) },
};

/** Bytes of dirty bitmap for a memory: one bit a 4 KiB page, from page 0 to the end of the last slab. */
export function dirtyBitmapBytes(memory: GuestMemory): number {
  const last = memory.slabs[memory.slabs.length - 1] as Slab;
  return Math.ceil((last.base + last.size) / PAGE_SHIFT_FACTOR / 32) * 4;
}

/**
 * A device's view of memory. Create with `DmaSpace.create` on the machine's thread, `DmaSpace.open(space.share())` on a worker.
 * Refused accesses are values (false, null): nothing here throws on a device address.
 */
export class DmaSpace {
  readonly memory: GuestMemory;
  /** Called on this thread for each access this thread's accessors refuse; the record is also in the shared fault ring. */
  onFault: ((fault: DmaFault) => void) | undefined;
  readonly #table: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #dirtyBuffer: SharedArrayBuffer;
  readonly #dirty: Int32Array;
  #generation = -1;
  #windows: Window[] = [];
  #last: Window = NO_WINDOW;
  #logging = false;
  #slot = -1;
  #faultsSeen = 0;

  private constructor(memory: GuestMemory, table: SharedArrayBuffer, dirty: SharedArrayBuffer) {
    this.memory = memory;
    this.#table = table;
    this.#words = new Int32Array(table, 0, HEADER_BYTES / 4);
    this.#dirtyBuffer = dirty;
    this.#dirty = new Int32Array(dirty);
  }

  /** @param dirty bitmap shared by every space over this memory (see dirtyBitmapBytes). */
  static create(memory: GuestMemory, options: { requester?: number; dirty?: SharedArrayBuffer; busMaster?: boolean } = {}): DmaSpace {
    const table = new SharedArrayBuffer(HEADER_BYTES + INITIAL_ENTRIES * ENTRY_BYTES, { maxByteLength: HEADER_BYTES + MAXIMUM_ENTRIES * ENTRY_BYTES });
    const space = new DmaSpace(memory, table, options.dirty ?? new SharedArrayBuffer(dirtyBitmapBytes(memory)));
    space.#words[FLAGS] = (options.busMaster ?? true) ? FLAG_BUS_MASTER : 0;
    space.#words[REQUESTER] = options.requester ?? 0;
    return space;
  }

  static open(share: DmaSpaceShare): DmaSpace {
    return new DmaSpace(GuestMemory.open(share.memory), share.table, share.dirty);
  }

  share(): DmaSpaceShare {
    return { memory: this.memory.share(), table: this.#table, dirty: this.#dirtyBuffer };
  }

  // ---- control side (the machine's thread) ----

  get requester(): number {
    return Atomics.load(this.#words, REQUESTER);
  }

  set requester(id: number) {
    Atomics.store(this.#words, REQUESTER, id);
  }

  get busMaster(): boolean {
    return (Atomics.load(this.#words, FLAGS) & FLAG_BUS_MASTER) !== 0;
  }

  /** PCI Command bit 2. Clearing it returns once no thread is inside a turn that saw it set. */
  set busMaster(on: boolean) {
    this.#setFlag(FLAG_BUS_MASTER, on);
  }

  /** Dirty logging on or off; the bitmap itself is shared by every space over the memory. */
  set logging(on: boolean) {
    this.#setFlag(FLAG_LOGGING, on);
  }

  get logging(): boolean {
    return (Atomics.load(this.#words, FLAGS) & FLAG_LOGGING) !== 0;
  }

  /** Replaces the whole translation: `undefined` is identity; a list is an IOMMU domain's mappings, sorted or not, non-overlapping. */
  translate(mappings: readonly DmaMapping[] | undefined): void {
    if (mappings === undefined) {
      Atomics.store(this.#words, COUNT, 0);
      this.#setFlag(FLAG_TRANSLATED, false);
      return;
    }
    if (mappings.length > MAXIMUM_ENTRIES) throw new RangeError(`an IOMMU domain holds at most ${MAXIMUM_ENTRIES} separate mappings`);
    const sorted = [...mappings].sort((a, b) => a.iova - b.iova);
    const bytes = HEADER_BYTES + sorted.length * ENTRY_BYTES;
    if (this.#table.byteLength < bytes) this.#table.grow(Math.min(this.#table.maxByteLength, 2 * bytes));
    // Odd generation: readers that look now wait for the even one. No reader sees half a table.
    Atomics.add(this.#words, GENERATION, 1);
    const entries = new Float64Array(this.#table, HEADER_BYTES, sorted.length * 4);
    sorted.forEach((m, i) => {
      entries.set([m.iova, m.size, m.address, m.permissions], i * 4);
    });
    Atomics.store(this.#words, COUNT, sorted.length);
    Atomics.or(this.#words, FLAGS, FLAG_TRANSLATED);
    Atomics.add(this.#words, GENERATION, 1);
    this.#awaitReaders();
  }

  #setFlag(flag: number, on: boolean): void {
    if (((Atomics.load(this.#words, FLAGS) & flag) !== 0) === on) return;
    Atomics.add(this.#words, GENERATION, 1);
    if (on) Atomics.or(this.#words, FLAGS, flag);
    else Atomics.and(this.#words, FLAGS, ~flag);
    Atomics.add(this.#words, GENERATION, 1);
    this.#awaitReaders();
  }

  /** Waits, boundedly, until each reader has left its turn or seen the present generation. A reader that died mid-turn is expelled. */
  #awaitReaders(): void {
    const generation = Atomics.load(this.#words, GENERATION);
    for (let slot = 0; slot < READERS; slot++) {
      if (slot === this.#slot) continue;
      const at = FIRST_READER + slot;
      const deadline = Date.now() + REVOKE_TIMEOUT_MS;
      for (let spin = 0; ; spin++) {
        const seen = Atomics.load(this.#words, at);
        if (seen === SLOT_FREE || seen === SLOT_IDLE || seen === readerMark(generation)) break;
        if ((spin & 0xfff) === 0xfff && Date.now() > deadline) {
          Atomics.compareExchange(this.#words, at, seen, SLOT_FREE);
          break;
        }
      }
    }
  }

  /** Faults recorded by any thread since the last call; at most the newest 16 keep their details. */
  takeFaults(): { count: number; records: DmaFault[] } {
    const total = Atomics.load(this.#words, FAULT_COUNT);
    const count = (total - this.#faultsSeen) | 0;
    const ring = new Float64Array(this.#table, FIRST_FAULT * 4, FAULTS * 4);
    const records: DmaFault[] = [];
    for (let n = Math.max(total - FAULTS, this.#faultsSeen); n < total; n++) {
      const at = (n % FAULTS) * 4;
      records.push({ requester: ring[at] as number, address: ring[at + 1] as number, length: ring[at + 2] as number, access: ring[at + 3] as DmaAccess });
    }
    this.#faultsSeen = total;
    return { count, records };
  }

  // ---- data side (any thread) ----

  /**
   * Opens a turn on a worker thread: from here to `leave()` windows stay valid. Returns false when bus mastering is off: touch nothing.
   * @throws Error when more than 16 threads hold readers over one space.
   */
  enter(): boolean {
    if (this.#slot < 0) this.#claimSlot();
    const at = FIRST_READER + this.#slot;
    for (;;) {
      const generation = Atomics.load(this.#words, GENERATION);
      Atomics.store(this.#words, at, readerMark(generation));
      if ((generation & 1) === 0 && Atomics.load(this.#words, GENERATION) === generation) break;
      Atomics.store(this.#words, at, SLOT_IDLE);
    }
    this.sync();
    return (Atomics.load(this.#words, FLAGS) & FLAG_BUS_MASTER) !== 0;
  }

  leave(): void {
    if (this.#slot >= 0) Atomics.store(this.#words, FIRST_READER + this.#slot, SLOT_IDLE);
  }

  /** Gives the reader slot back (the worker is done with this space). */
  close(): void {
    if (this.#slot >= 0) Atomics.store(this.#words, FIRST_READER + this.#slot, SLOT_FREE);
    this.#slot = -1;
  }

  /** This thread's reader slot, or -1: what `expel` takes when the thread is gone. */
  get reader(): number {
    return this.#slot;
  }

  /** Frees the reader slot of a thread known to be dead, so that no unmap waits for it. */
  expel(reader: number): void {
    if (reader >= 0 && reader < READERS && reader !== this.#slot) Atomics.store(this.#words, FIRST_READER + reader, SLOT_FREE);
  }

  #claimSlot(): void {
    for (let slot = 0; slot < READERS; slot++) {
      if (Atomics.compareExchange(this.#words, FIRST_READER + slot, SLOT_FREE, SLOT_IDLE) === SLOT_FREE) {
        this.#slot = slot;
        return;
      }
    }
    throw new Error('more than 16 threads read one DMA space');
  }

  /** Generation of the windows in hand: keep a window only while this stays the same. */
  get generation(): number {
    return this.#generation;
  }

  /** Re-reads the table if it changed. The machine's thread, which is also the only writer, calls this through every accessor. */
  sync(): void {
    const generation = Atomics.load(this.#words, GENERATION);
    if (generation !== this.#generation) this.#rebuild(generation);
  }

  #rebuild(generation: number): void {
    const flags = Atomics.load(this.#words, FLAGS);
    const windows: Window[] = [];
    this.#logging = (flags & FLAG_LOGGING) !== 0;
    if ((flags & FLAG_BUS_MASTER) !== 0) {
      if ((flags & FLAG_TRANSLATED) === 0) {
        for (const slab of this.memory.slabs) pushWindow(windows, slab.base, slab.base, slab.size, DMA_READ | DMA_WRITE, slab);
      } else {
        const count = Atomics.load(this.#words, COUNT);
        const entries = new Float64Array(this.#table, HEADER_BYTES, count * 4);
        for (let i = 0; i < count; i++) {
          let iova = entries[i * 4] as number;
          let size = entries[i * 4 + 1] as number;
          let address = entries[i * 4 + 2] as number;
          const permissions = entries[i * 4 + 3] as number;
          while (size > 0) {
            const slab = this.memory.slabAt(address);
            const run = slab ? Math.min(size, slab.base + slab.size - address) : Math.min(size, PAGE_SHIFT_FACTOR);
            if (slab) pushWindow(windows, iova, address, run, permissions, slab);
            iova += run;
            address += run;
            size -= run;
          }
        }
      }
    }
    this.#windows = windows;
    this.#last = NO_WINDOW;
    this.#generation = generation;
  }

  /**
   * The window that holds all of [address, address + length) with the access allowed, or null: a fault, or a range that needs more
   * than one window (use `read` / `write`, which walk them). No fault is recorded here. `length` 0 asks about the address alone.
   */
  window(address: number, length: number, access: DmaAccess): Window | null {
    const last = this.#last;
    if (address >= last.start && address + length <= last.end && (last.permissions & access) !== 0 && last.slab.views.u8.length !== 0) return last;
    return this.#find(address, length, access);
  }

  #find(address: number, length: number, access: DmaAccess): Window | null {
    const found = this.#at(address);
    if (found === null || address + length > found.end || (found.permissions & access) === 0) return null;
    this.#last = found;
    return found;
  }

  #at(address: number): Window | null {
    if (!(address >= 0 && address < ADDRESS_LIMIT)) return null;
    let low = 0;
    let high = this.#windows.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const candidate = this.#windows[middle] as Window;
      if (address < candidate.start) high = middle - 1;
      else if (address >= candidate.end) low = middle + 1;
      else {
        if (candidate.slab.views.u8.length === 0) this.memory.refresh();
        return candidate.slab.views.u8.length === 0 ? null : candidate;
      }
    }
    return null;
  }

  /** Records a refused access (all threads) and returns false, so that callers can `return dma.fault(...)`. */
  fault(address: number, length: number, access: DmaAccess): false {
    const n = Atomics.add(this.#words, FAULT_COUNT, 1);
    const requester = Atomics.load(this.#words, REQUESTER);
    new Float64Array(this.#table, FIRST_FAULT * 4, FAULTS * 4).set([requester, address, length, access], (n % FAULTS) * 4);
    this.onFault?.({ requester, address, length, access });
    return false;
  }

  /** True when all of [address, address + length) may be accessed, over as many windows as it takes. Records nothing. */
  allows(address: number, length: number, access: DmaAccess): boolean {
    this.sync();
    let at = address;
    const end = address + length;
    if (!(address >= 0 && end <= ADDRESS_LIMIT)) return false;
    do {
      const w = this.#at(at);
      if (w === null || (w.permissions & access) === 0) return false;
      at = w.end;
    } while (at < end);
    return true;
  }

  /** Copies `length` bytes from device address `address` into `into` at `offset`. False (and a fault) leaves `into` undefined. */
  read(address: number, into: Uint8Array, offset = 0, length = into.length - offset): boolean {
    if (!this.allows(address, length, DMA_READ)) return this.fault(address, length, DMA_READ);
    for (let done = 0; done < length; ) {
      const w = this.#at(address + done) as Window;
      const run = Math.min(length - done, w.end - address - done);
      const at = address + done + w.bias;
      into.set(w.slab.views.u8.subarray(at, at + run), offset + done);
      done += run;
    }
    return true;
  }

  /** Copies `from` to device address `address`, marking the pages dirty. False (and a fault) means nothing was written. */
  write(address: number, from: Uint8Array, offset = 0, length = from.length - offset): boolean {
    if (!this.allows(address, length, DMA_WRITE)) return this.fault(address, length, DMA_WRITE);
    for (let done = 0; done < length; ) {
      const w = this.#at(address + done) as Window;
      const run = Math.min(length - done, w.end - address - done);
      w.slab.views.u8.set(from.subarray(offset + done, offset + done + run), address + done + w.bias);
      this.markDirty(w, address + done, run);
      done += run;
    }
    return true;
  }

  /** 16-bit little-endian load, or -1 on a fault. `address` must be even. Acquire: what it guards was written before. */
  load16(address: number): number {
    this.sync();
    const w = (address & 1) === 0 ? this.window(address, 2, DMA_READ) : null;
    if (w === null) {
      this.fault(address, 2, DMA_READ);
      return -1;
    }
    return Atomics.load(w.slab.views.u16, (address + w.bias) / 2);
  }

  /** 16-bit store, release: everything written before is visible to who loads it. */
  store16(address: number, value: number): boolean {
    this.sync();
    const w = (address & 1) === 0 ? this.window(address, 2, DMA_WRITE) : null;
    if (w === null) return this.fault(address, 2, DMA_WRITE);
    Atomics.store(w.slab.views.u16, (address + w.bias) / 2, value);
    this.markDirty(w, address, 2);
    return true;
  }

  /** 32-bit load, or -1 on a fault (values are 0..2^32-1). `address` must be a multiple of 4. */
  load32(address: number): number {
    this.sync();
    const w = (address & 3) === 0 ? this.window(address, 4, DMA_READ) : null;
    if (w === null) {
      this.fault(address, 4, DMA_READ);
      return -1;
    }
    return Atomics.load(w.slab.views.u32, (address + w.bias) / 4);
  }

  store32(address: number, value: number): boolean {
    this.sync();
    const w = (address & 3) === 0 ? this.window(address, 4, DMA_WRITE) : null;
    if (w === null) return this.fault(address, 4, DMA_WRITE);
    Atomics.store(w.slab.views.u32, (address + w.bias) / 4, value >>> 0);
    this.markDirty(w, address, 4);
    return true;
  }

  /** Marks pages dirty for bytes a caller wrote through a window. Call before publishing the index that reveals them. */
  markDirty(w: Window, address: number, length: number): void {
    if (!this.#logging || length <= 0) return;
    const first = Math.floor((address + w.guestBias) / PAGE_SHIFT_FACTOR);
    const last = Math.floor((address + w.guestBias + length - 1) / PAGE_SHIFT_FACTOR);
    for (let page = first; page <= last; page++) {
      const word = page >>> 5;
      const bit = 1 << (page & 31);
      // Read first: a page written again and again costs a load, not a locked operation.
      if (((this.#dirty[word] as number) & bit) === 0) Atomics.or(this.#dirty, word, bit);
    }
  }
}

function readerMark(generation: number): number {
  // Never SLOT_FREE or SLOT_IDLE, whatever the generation has wrapped to.
  return (generation & 0x3fffffff) | 0x40000000;
}

function pushWindow(windows: Window[], iova: number, address: number, size: number, permissions: number, slab: Slab): void {
  const previous = windows[windows.length - 1];
  const guestBias = address - iova;
  if (previous && previous.end === iova && previous.guestBias === guestBias && previous.permissions === permissions && previous.slab === slab) {
    windows[windows.length - 1] = { ...previous, end: iova + size };
    return;
  }
  windows.push({ start: iova, end: iova + size, bias: address - slab.base - iova, guestBias, permissions, slab });
}

/** Takes and clears the dirty pages: returns page numbers in ascending order. */
export function takeDirtyPages(dirty: SharedArrayBuffer): number[] {
  const words = new Int32Array(dirty);
  const pages: number[] = [];
  for (let word = 0; word < words.length; word++) {
    if (words[word] === 0) continue;
    const bits = Atomics.exchange(words, word, 0);
    for (let bit = 0; bit < 32; bit++) if ((bits & (1 << bit)) !== 0) pages.push(word * 32 + bit);
  }
  return pages;
}

export type { ByteViews };
