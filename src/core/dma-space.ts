// All a device may know of memory: addresses in its own space, identity-mapped or translated by an IOMMU domain, gated by bus
// mastering, logging the pages it dirties. The table behind a space is shared memory, so that a worker thread sees a map, an unmap
// or a cleared bus-master bit without a message; readers announce themselves per turn so that an unmap returns only when no
// thread can still be using what it took away (the role of an IOTLB flush completion).

import type { DirtyLog } from './dirty-log.ts';
import {
  DMA_READ,
  DMA_WRITE,
  type DmaAccess,
  type DmaFault,
  type DmaMapping,
  DmaTable,
  FLAG_BUS_MASTER,
  FLAG_LOGGING,
  FLAG_ON_DEMAND,
  FLAG_TRANSLATED,
  MAXIMUM_ENTRIES,
  makeBuffer,
} from './dma-table.ts';
import { NO_WINDOW, type Window, windowsOf } from './dma-window.ts';
import { ADDRESS_LIMIT, GuestMemory, type GuestMemoryShare } from './guest-memory.ts';
import { RemoteAccess, type RemoteMemory } from './remote-memory.ts';

export { DMA_READ, DMA_WRITE, type DmaAccess, type DmaFault, type DmaMapping, type RemoteMemory, type Window };

export interface DmaSpaceShare {
  readonly memory: GuestMemoryShare;
  readonly table: SharedArrayBuffer;
}

/**
 * Whoever else reaches memory in this device's name and goes by its space: a data plane with translations of its own (a vDPA device's IOTLB). Called on the machine's thread,
 * inside the change.
 */
export interface DmaFollower {
  /** Bus mastering is about to be cleared: the last time to write through the space. */
  leaving?(): void;
  /** Mappings or bus mastering of the space are others: on return nobody uses what was taken away. */
  moved(): void;
  /** Runs `write` while no turn of the follower's is under way. */
  betweenTurns(write: () => void): void;
}

/**
 * A device's view of memory. Create with `DmaSpace.create` on the machine's thread, `DmaSpace.open(space.share())` on a worker.
 * Refused accesses are values (false, null): nothing here throws on a device address.
 */
export class DmaSpace {
  readonly memory: GuestMemory;
  /** Called on this thread for each access this thread's accessors refuse; the record is also in the shared fault ring. */
  onFault: ((fault: DmaFault) => void) | undefined;
  /** Called on this thread for each `miss` of it; what was asked for is in the shared fault ring. */
  onMiss: (() => void) | undefined;
  /** Not shared with other threads. */
  readonly followers = new Set<DmaFollower>();
  readonly #table: DmaTable;
  readonly #dirty: DirtyLog;
  #generation = -1;
  #windows: Window[] = [];
  #last: Window = NO_WINDOW;
  #logging = false;
  #onDemand = false;
  #remote: RemoteAccess | undefined;

  private constructor(memory: GuestMemory, table: DmaTable) {
    this.memory = memory;
    this.#table = table;
    this.#dirty = memory.dirty;
  }

  /** `mappings`: the most that `translate` will be given (default 2^20); up to 64 the space is much lighter on the process, see dma-table.ts. */
  static create(memory: GuestMemory, options: { requester?: number; busMaster?: boolean; mappings?: number } = {}): DmaSpace {
    const space = new DmaSpace(memory, new DmaTable(makeBuffer(options.mappings ?? MAXIMUM_ENTRIES)));
    space.busMaster = options.busMaster ?? true;
    space.requester = options.requester ?? 0;
    memory.dirty.join(space);
    return space;
  }

  static open(share: DmaSpaceShare): DmaSpace {
    return new DmaSpace(GuestMemory.open(share.memory), new DmaTable(share.table));
  }

  /** @throws TypeError when the RAM is not shared memory. */
  share(): DmaSpaceShare {
    return { memory: this.memory.share(), table: this.#table.buffer };
  }

  // ---- control side (the machine's thread) ----

  get requester(): number {
    return this.#table.requester;
  }

  set requester(id: number) {
    this.#table.requester = id;
  }

  get busMaster(): boolean {
    return (this.#table.flags & FLAG_BUS_MASTER) !== 0;
  }

  /** PCI Command bit 2. Clearing it returns once no thread is inside a turn that saw it set. */
  set busMaster(on: boolean) {
    if (!on && this.busMaster) for (const follower of this.followers) follower.leaving?.();
    this.#table.setFlag(FLAG_BUS_MASTER, on);
    for (const follower of this.followers) follower.moved();
  }

  get logging(): boolean {
    return (this.#table.flags & FLAG_LOGGING) !== 0;
  }

  /** Whether writes mark pages in the memory's dirty log. The log sets it (DirtyLog.start), for every space over the memory. */
  set logging(on: boolean) {
    this.#table.setFlag(FLAG_LOGGING, on);
  }

  /** Whether translations come when they are asked for (an IOTLB): then one that is missing is a `miss`, to wait for, and no fault. */
  set onDemand(on: boolean) {
    this.#table.setFlag(FLAG_ON_DEMAND, on);
  }

  /**
   * Replaces the whole translation: `undefined` is identity; a list is an IOMMU domain's mappings, in any order. Returns once no thread can still be
   * using the old one. @throws RangeError when they overlap or are not page aligned.
   */
  translate(mappings: readonly DmaMapping[] | undefined): void {
    this.#table.setMappings(mappings);
    for (const follower of this.followers) follower.moved();
  }

  /** The translation as it is now, by ascending iova; undefined: identity. */
  get mappings(): DmaMapping[] | undefined {
    if ((this.#table.flags & FLAG_TRANSLATED) === 0) return undefined;
    const { entries } = this.#table;
    return Array.from({ length: entries.length / 4 }, (_, i) => {
      const [iova, size, address, permissions] = entries.subarray(4 * i, 4 * i + 4) as unknown as [number, number, number, number];
      return { iova, size, address, permissions };
    });
  }

  /**
   * Runs `write` while no other thread is inside a turn over this space: shared state that it changes is the same for all of every turn, and in force for every
   * turn that begins once this has returned.
   */
  betweenTurns(write: () => void): void {
    let all = write;
    for (const follower of this.followers) {
      const inner = all;
      all = () => follower.betweenTurns(inner);
    }
    this.#table.change(all);
  }

  /** Where addresses lead that no window covers. Not shared with other threads. */
  get remote(): RemoteMemory | undefined {
    return this.#remote?.memory;
  }

  set remote(memory: RemoteMemory | undefined) {
    this.#remote = memory && new RemoteAccess(this, memory);
  }

  /** Faults recorded by any thread since the last call; at most the newest 16 keep their details. */
  takeFaults(): { count: number; records: DmaFault[] } {
    return this.#table.takeFaults();
  }

  // ---- data side (any thread) ----

  /**
   * Opens a turn on a worker thread: from here to `leave()` windows stay valid. Returns false when bus mastering is off: touch nothing.
   * @throws Error when more than 16 threads hold readers over one space.
   */
  enter(): boolean {
    this.#table.enter();
    this.sync();
    return (this.#table.flags & FLAG_BUS_MASTER) !== 0;
  }

  leave(): void {
    this.#table.leave();
  }

  /** Gives the reader slot back (the worker is done with this space). */
  close(): void {
    this.#table.close();
  }

  /** Names this thread as a reader, or -1: what `expel` takes when the thread is gone. */
  get reader(): number {
    return this.#table.reader;
  }

  /** Frees the reader slot of a thread known to be dead, so that no unmap waits for it. */
  expel(reader: number): void {
    this.#table.expel(reader);
  }

  /** Generation of the windows in hand: keep a window only while this stays the same. */
  get generation(): number {
    return this.#generation;
  }

  /** Re-reads the table if it changed: a thread inside a turn need not, the machine's thread does through every accessor but `window`. */
  sync(): void {
    const table = this.#table;
    let { generation } = table;
    if (generation === this.#generation) return;
    if ((generation & 1) !== 0) {
      // Odd: somebody waits for this thread's turn to end, and nothing has changed yet. What this thread has may be older than that, or nothing at all.
      const before = (generation - 1) | 0;
      if (before !== this.#generation && table.inTurn) this.#rebuild(before);
      return;
    }
    for (;;) {
      this.#rebuild(generation);
      // Outside a turn (taken for dead inside one, or never in one) the table may have changed while it was read.
      if (table.generation === generation || table.inTurn) return;
      do generation = table.generation;
      while ((generation & 1) !== 0);
    }
  }

  #rebuild(generation: number): void {
    const { flags } = this.#table;
    this.#logging = (flags & FLAG_LOGGING) !== 0;
    this.#onDemand = (flags & FLAG_ON_DEMAND) !== 0;
    if ((flags & FLAG_BUS_MASTER) === 0) this.#windows = [];
    else this.#windows = windowsOf(this.memory, (flags & FLAG_TRANSLATED) === 0 ? undefined : this.#table.entries);
    this.#last = NO_WINDOW;
    this.#generation = generation;
  }

  /**
   * The window that holds all of [address, address + length) with the access allowed, or null: a fault, or a range that needs more
   * than one window (use `read` / `write`, which walk them). No fault is recorded here. `length` 0 asks about the address alone. The fast one: call it inside a
   * turn, or after `sync`.
   */
  window(address: number, length: number, access: DmaAccess): Window | null {
    const last = this.#last;
    if (
      address >= last.start &&
      address < last.end &&
      length >= 0 &&
      address + length <= last.end &&
      (last.permissions & access) !== 0 &&
      last.slab.views.u8.length !== 0
    )
      return last;
    return this.#find(address, length, access);
  }

  #find(address: number, length: number, access: DmaAccess): Window | null {
    const found = this.#at(address);
    if (found === null || !(length >= 0 && address + length <= found.end) || (found.permissions & access) === 0) return null;
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
    this.#table.recordFault(address, length, access);
    this.onFault?.({ requester: this.requester, address, length, access });
    return false;
  }

  /**
   * No window was found. True when that may change: the translation was asked for, and whoever needs it waits until `generation` moves. False: refuse the access.
   * @param access DMA_READ, DMA_WRITE or both
   */
  miss(address: number, length: number, access: number): boolean {
    if (!this.#onDemand) return false;
    this.#table.recordFault(address, length, access as DmaAccess);
    this.onMiss?.();
    return true;
  }

  /** True when all of [address, address + length) may be accessed, over as many windows as it takes. Records nothing. */
  allows(address: number, length: number, access: DmaAccess): boolean {
    return this.#mapped(address, length, access) || this.#remote?.reaches(address, length, access) === true;
  }

  #mapped(address: number, length: number, access: DmaAccess): boolean {
    this.sync();
    let at = address;
    const end = address + length;
    if (!(address >= 0 && length >= 0 && end <= ADDRESS_LIMIT)) return false;
    do {
      const w = this.#at(at);
      if (w === null || (w.permissions & access) === 0) return false;
      at = w.end;
    } while (at < end);
    return true;
  }

  /** Copies `length` bytes from device address `address` into `into` at `offset`. False (and a fault) leaves `into` undefined. */
  read(address: number, into: Uint8Array, offset = 0, length = into.length - offset): boolean {
    if (!this.#mapped(address, length, DMA_READ))
      return this.#remote?.exchange(address, into, offset, length, DMA_READ) ?? this.fault(address, length, DMA_READ);
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
    if (!this.#mapped(address, length, DMA_WRITE))
      return this.#remote?.exchange(address, from, offset, length, DMA_WRITE) ?? this.fault(address, length, DMA_WRITE);
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
    if (w === null) return this.#remote?.load(address, 2) ?? this.#refuseLoad(address, 2);
    return Atomics.load(w.slab.views.u16, (address + w.bias) / 2);
  }

  #refuseLoad(address: number, size: number): number {
    this.fault(address, size, DMA_READ);
    return -1;
  }

  /** 16-bit store, release: everything written before is visible to who loads it. */
  store16(address: number, value: number): boolean {
    this.sync();
    const w = (address & 1) === 0 ? this.window(address, 2, DMA_WRITE) : null;
    if (w === null) return this.#remote?.store(address, 2, value) ?? this.fault(address, 2, DMA_WRITE);
    Atomics.store(w.slab.views.u16, (address + w.bias) / 2, value);
    this.markDirty(w, address, 2);
    return true;
  }

  /** 32-bit load, or -1 on a fault (values are 0..2^32-1). `address` must be a multiple of 4. */
  load32(address: number): number {
    this.sync();
    const w = (address & 3) === 0 ? this.window(address, 4, DMA_READ) : null;
    if (w === null) return this.#remote?.load(address, 4) ?? this.#refuseLoad(address, 4);
    return Atomics.load(w.slab.views.u32, (address + w.bias) / 4);
  }

  store32(address: number, value: number): boolean {
    this.sync();
    const w = (address & 3) === 0 ? this.window(address, 4, DMA_WRITE) : null;
    if (w === null) return this.#remote?.store(address, 4, value) ?? this.fault(address, 4, DMA_WRITE);
    Atomics.store(w.slab.views.u32, (address + w.bias) / 4, value >>> 0);
    this.markDirty(w, address, 4);
    return true;
  }

  /** Marks pages dirty for bytes a caller wrote through a window. Call after writing them and before publishing the index that reveals them. */
  markDirty(w: Window, address: number, length: number): void {
    if (this.#logging && length > 0) this.#dirty.mark(address + w.dirtyBias, length, address + w.guestBias);
  }
}
