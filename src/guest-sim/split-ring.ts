// The driver's side of a split virtqueue (virtio 1.4 2.7): descriptor table, available ring, used ring, with indirect tables, event indices and
// in-order use. Descriptors are freed first-in first-out, so that an in-order device sees them cycle through the table as 2.7.9 wants.

import type { GuestArena } from './arena.ts';
import { type DriverRing, IndirectTables, type RingAddresses, type RingOptions } from './ring.ts';
import { AVAIL_NO_INTERRUPT, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, QUEUE_SIZE_LIMIT, USED_NO_NOTIFY } from './virtio-constants.ts';

const LEGACY_PAGE = 4096;

export class SplitRing implements DriverRing {
  readonly size: number;
  readonly addresses: RingAddresses;
  broken = '';
  readonly #arena: GuestArena;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #mask: number;
  readonly #eventIdx: boolean;
  readonly #inOrder: boolean;
  readonly #legacy: boolean;
  readonly #tables: IndirectTables | null;
  /** Arena offsets of the three parts. */
  readonly #parts: readonly number[];
  /** Indices into the 16- and 32-bit views. */
  readonly #desc: number;
  readonly #availFlags: number;
  readonly #availIdx: number;
  readonly #availRing: number;
  readonly #usedEvent: number;
  readonly #usedFlags: number;
  readonly #usedIdx: number;
  readonly #usedRing: number;
  readonly #availEvent: number;
  readonly #baseLow: number;
  readonly #baseHigh: number;
  /** Free descriptors, a FIFO; and what the driver remembers of each chain by its head, so that shared memory is never believed. */
  readonly #free: Uint16Array;
  #freeHead = 0;
  #freeCount: number;
  readonly #next: Uint16Array;
  readonly #count: Uint16Array;
  readonly #writable: Int32Array;
  readonly #token: Int32Array;
  /** Heads in the order they were made available (in-order use only reads it). */
  readonly #order: Uint16Array;
  #added = 0;
  #published = 0;
  #checked = 0;
  #used = 0;
  #batchLeft = 0;
  #batchLength = 0;
  outstanding = 0;

  constructor(options: RingOptions) {
    const { arena, size } = options;
    if (!(size >= 1 && size <= QUEUE_SIZE_LIMIT && (size & (size - 1)) === 0))
      throw new RangeError(`split ring size ${size} is not a power of two up to 32768`);
    this.#arena = arena;
    this.size = size;
    this.#mask = size - 1;
    this.#eventIdx = options.eventIdx;
    this.#inOrder = options.inOrder;
    this.#legacy = options.legacy ?? false;
    this.#u16 = arena.u16;
    this.#u32 = arena.u32;
    this.#baseLow = arena.base % 2 ** 32;
    this.#baseHigh = Math.floor(arena.base / 2 ** 32);
    // virtio 1.4 2.7 (driver MUST): 16, 2 and 4 byte boundaries; cache lines of their own keep the two sides apart. Zeroed by the arena.
    const behind = Math.ceil((16 * size + 6 + 2 * size) / LEGACY_PAGE) * LEGACY_PAGE;
    const desc = this.#legacy ? arena.allocate(behind + 6 + 8 * size, LEGACY_PAGE) : arena.allocate(16 * size, 64);
    const avail = this.#legacy ? desc + 16 * size : arena.allocate(6 + 2 * size, 64);
    const used = this.#legacy ? desc + behind : arena.allocate(6 + 8 * size, 64);
    this.#parts = this.#legacy ? [desc] : [desc, avail, used];
    this.addresses = { desc: arena.address(desc), driver: arena.address(avail), device: arena.address(used) };
    this.#desc = desc >>> 2;
    this.#availFlags = avail >>> 1;
    this.#availIdx = (avail + 2) >>> 1;
    this.#availRing = (avail + 4) >>> 1;
    this.#usedEvent = (avail + 4 + 2 * size) >>> 1;
    this.#usedFlags = used >>> 1;
    this.#usedIdx = (used + 2) >>> 1;
    this.#usedRing = (used + 4) >>> 2;
    this.#availEvent = (used + 4 + 8 * size) >>> 1;
    this.#free = Uint16Array.from({ length: size }, (_, i) => i);
    this.#freeCount = size;
    this.#next = new Uint16Array(size);
    this.#count = new Uint16Array(size);
    this.#writable = new Int32Array(size);
    this.#token = new Int32Array(size);
    this.#order = new Uint16Array(size);
    this.#tables = options.indirect && options.maxSegments > 1 ? new IndirectTables(arena, size, options.maxSegments) : null;
  }

  fits(segments: number): boolean {
    if (this.broken !== '') return false;
    const indirect = segments > 1 && this.#tables !== null && segments <= this.#tables.maxSegments;
    return this.#freeCount >= (indirect ? 1 : segments);
  }

  addOne(offset: number, length: number, writable: boolean, token: number): boolean {
    if (this.#freeCount === 0 || this.broken !== '') return false;
    const mask = this.#mask;
    const head = this.#free[this.#freeHead & mask] as number;
    this.#freeHead = (this.#freeHead + 1) & 0xffff;
    this.#freeCount--;
    const u32 = this.#u32;
    const at = this.#desc + (head << 2);
    const low = this.#baseLow + offset;
    u32[at] = low;
    u32[at + 1] = low > 0xffffffff ? this.#baseHigh + 1 : this.#baseHigh;
    u32[at + 2] = length;
    u32[at + 3] = writable ? DESC_WRITE : 0;
    this.#count[head] = 1;
    this.#writable[head] = writable ? length : 0;
    this.#expose(head, token);
    return true;
  }

  addList(offsets: Int32Array, lengths: Int32Array, readable: number, writable: number, token: number): boolean {
    const segments = readable + writable;
    if (segments < 1 || segments > this.size || !this.fits(segments)) return false;
    if (segments === 1) return this.addOne(offsets[0] as number, lengths[0] as number, writable === 1, token);
    const mask = this.#mask;
    const head = this.#free[this.#freeHead & mask] as number;
    let bytes = 0;
    for (let i = readable; i < segments; i++) bytes += lengths[i] as number;
    const tables = this.#tables;
    if (tables !== null && segments <= tables.maxSegments) {
      const table = tables.offset + head * tables.stride;
      // In the table `next` counts 1, 2, ... whether or not in-order use asks for it (2.7.5.3.1).
      for (let i = 0; i < segments; i++)
        this.#write(
          (table >>> 2) + (i << 2),
          offsets[i] as number,
          lengths[i] as number,
          (i >= readable ? DESC_WRITE : 0) | (i + 1 < segments ? DESC_NEXT | ((i + 1) << 16) : 0),
        );
      this.#write(this.#desc + (head << 2), table, segments * 16, DESC_INDIRECT);
      this.#freeHead = (this.#freeHead + 1) & 0xffff;
      this.#freeCount--;
      this.#count[head] = 1;
    } else {
      let at = head;
      for (let i = 0; i < segments; i++) {
        this.#freeHead = (this.#freeHead + 1) & 0xffff;
        const next = this.#free[this.#freeHead & mask] as number;
        const last = i + 1 === segments;
        this.#write(
          this.#desc + (at << 2),
          offsets[i] as number,
          lengths[i] as number,
          (i >= readable ? DESC_WRITE : 0) | (last ? 0 : DESC_NEXT | (next << 16)),
        );
        this.#next[at] = next;
        at = next;
      }
      this.#freeCount -= segments;
      this.#count[head] = segments;
    }
    this.#writable[head] = bytes;
    this.#expose(head, token);
    return true;
  }

  #write(at: number, offset: number, length: number, flagsAndNext: number): void {
    const u32 = this.#u32;
    const low = this.#baseLow + offset;
    u32[at] = low;
    u32[at + 1] = low > 0xffffffff ? this.#baseHigh + 1 : this.#baseHigh;
    u32[at + 2] = length;
    u32[at + 3] = flagsAndNext;
  }

  #expose(head: number, token: number): void {
    this.#token[head] = token;
    const slot = this.#added & this.#mask;
    this.#u16[this.#availRing + slot] = head;
    this.#order[slot] = head;
    this.#added = (this.#added + 1) & 0xffff;
    this.outstanding++;
  }

  publish(): boolean {
    if (this.#added === this.#published || this.broken !== '') return false;
    const u16 = this.#u16;
    const now = this.#added;
    // Index last: the device polls it. Atomics order it after the entries, and before the reads of the suppression state below.
    Atomics.store(u16, this.#availIdx, now);
    this.#published = now;
    const before = this.#checked;
    this.#checked = now;
    if (!this.#eventIdx) return (Atomics.load(u16, this.#usedFlags) & USED_NO_NOTIFY) === 0;
    // virtio 1.4 2.7.10.1 (driver MUST): a kick when the entry numbered avail_event was among those just filled.
    const event = Atomics.load(u16, this.#availEvent);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  get notificationData(): number {
    return this.#published;
  }

  get hasUsed(): boolean {
    return this.#batchLeft > 0 || (this.broken === '' && Atomics.load(this.#u16, this.#usedIdx) !== this.#used);
  }

  harvest(tokens: Int32Array, lengths: Int32Array, max: number, at = 0): number {
    if (this.broken !== '') return 0;
    const pending = (Atomics.load(this.#u16, this.#usedIdx) - this.#used) & 0xffff;
    if (pending === 0) return 0;
    // Only what was published can be used; a wild index would otherwise have us read stale elements for 65535 turns.
    if (pending > this.outstanding) return this.#break(`used index is ${pending} ahead with ${this.outstanding} buffers outstanding`);
    const n = pending < max ? pending : max;
    if (this.#inOrder) return this.#harvestInOrder(tokens, lengths, n, pending, at);
    const u32 = this.#u32;
    const count = this.#count;
    const mask = this.#mask;
    let used = this.#used;
    for (let i = 0; i < n; i++) {
      const element = this.#usedRing + ((used & mask) << 1);
      const id = u32[element] as number;
      let length = u32[element + 1] as number;
      if (id > mask || count[id] === 0) {
        this.#used = used;
        this.#break(`used id ${id} is not a buffer the device holds`);
        return i;
      }
      if (this.#legacy && length > (this.#writable[id] as number)) length = this.#writable[id] as number;
      if (length > (this.#writable[id] as number)) {
        this.#used = used;
        this.#break(`used length ${length} exceeds the ${this.#writable[id]} writable bytes of buffer ${id}`);
        return i;
      }
      used = (used + 1) & 0xffff;
      tokens[at + i] = this.#token[id] as number;
      lengths[at + i] = length;
      this.#release(id);
    }
    this.#used = used;
    return n;
  }

  /** 2.7.9: one element may stand for a batch; it lies in the slot of the batch's first buffer and names the last. */
  #harvestInOrder(tokens: Int32Array, lengths: Int32Array, n: number, pending: number, into: number): number {
    const mask = this.#mask;
    for (let i = 0; i < n; i++) {
      const slot = this.#used & mask;
      if (this.#batchLeft === 0) {
        const at = this.#usedRing + (slot << 1);
        const id = this.#u32[at] as number;
        this.#batchLength = this.#u32[at + 1] as number;
        let k = 0;
        while (k < pending - i && this.#order[(slot + k) & mask] !== id) k++;
        if (k === pending - i) {
          this.#break(`used id ${id} is not among the next ${pending - i} buffers in order`);
          return i;
        }
        this.#batchLeft = k + 1;
        if (this.#batchLength > (this.#writable[id] as number)) {
          this.#break(`used length ${this.#batchLength} exceeds the ${this.#writable[id]} writable bytes of buffer ${id}`);
          return i;
        }
      }
      const head = this.#order[slot] as number;
      this.#batchLeft--;
      tokens[into + i] = this.#token[head] as number;
      // A skipped buffer counts as written in full.
      lengths[into + i] = this.#batchLeft === 0 ? this.#batchLength : (this.#writable[head] as number);
      this.#used = (this.#used + 1) & 0xffff;
      this.#release(head);
    }
    return n;
  }

  #release(head: number): void {
    const mask = this.#mask;
    let left = this.#count[head] as number;
    this.#count[head] = 0;
    this.outstanding--;
    let at = head;
    for (; left > 0; left--) {
      this.#free[(this.#freeHead + this.#freeCount) & mask] = at;
      this.#freeCount++;
      at = this.#next[at] as number;
    }
  }

  #break(why: string): 0 {
    this.broken = why;
    this.#batchLeft = 0;
    return 0;
  }

  disableCalls(): void {
    // virtio 1.4 2.7.7.1 (driver MUST): with EVENT_IDX flags stays 0; an event just behind us will not be crossed for another 65535 buffers.
    if (this.#eventIdx) Atomics.store(this.#u16, this.#usedEvent, (this.#used - 1) & 0xffff);
    else Atomics.store(this.#u16, this.#availFlags, AVAIL_NO_INTERRUPT);
  }

  enableCalls(after = 1): boolean {
    if (this.#eventIdx) Atomics.store(this.#u16, this.#usedEvent, (this.#used + after - 1) & 0xffff);
    else Atomics.store(this.#u16, this.#availFlags, 0);
    const waiting = (Atomics.load(this.#u16, this.#usedIdx) - this.#used) & 0xffff;
    return this.broken === '' && waiting >= (this.#eventIdx ? after : 1);
  }

  dispose(): void {
    for (const part of this.#parts) this.#arena.free(part);
    this.#tables?.dispose();
  }
}
