// The driver's side of a packed virtqueue (virtio 1.4 2.8): one descriptor ring both sides write, two event suppression areas, wrap counters,
// with indirect tables, event offsets and in-order use. A batch is exposed by the flags of its first descriptor, written last.

import type { GuestArena } from './arena.ts';
import { type DriverRing, IndirectTables, powerOfTwoCeiling, type RingAddresses, type RingOptions } from './ring.ts';
import {
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_WRITE,
  PACKED_AVAIL,
  PACKED_EVENT_DESC,
  PACKED_EVENT_DISABLE,
  PACKED_EVENT_ENABLE,
  PACKED_USED,
  QUEUE_SIZE_LIMIT,
} from './virtio-constants.ts';

const BOTH = PACKED_AVAIL | PACKED_USED;

export class PackedRing implements DriverRing {
  readonly size: number;
  readonly addresses: RingAddresses;
  broken = '';
  readonly #arena: GuestArena;
  readonly #u32: Uint32Array;
  readonly #i32: Int32Array;
  readonly #eventIdx: boolean;
  readonly #inOrder: boolean;
  readonly #tables: IndirectTables | null;
  readonly #parts: readonly [number, number, number];
  readonly #desc: number;
  readonly #driverEvent: number;
  readonly #deviceEvent: number;
  readonly #baseLow: number;
  readonly #baseHigh: number;
  /** Free buffer ids, a FIFO in a power-of-two ring; what is remembered of each outstanding buffer by id. */
  readonly #idMask: number;
  readonly #freeIds: Uint16Array;
  #freeHead = 0;
  #freeTail: number;
  readonly #count: Uint16Array;
  readonly #writable: Int32Array;
  readonly #token: Int32Array;
  readonly #order: Uint16Array;
  #orderHead = 0;
  #orderTail = 0;
  #freeSlots: number;
  #nextSlot = 0;
  /** What AVAIL and USED hold in descriptors made available in this lap, and in descriptors used in the device's present lap. */
  #availBits: number = PACKED_AVAIL;
  #usedSlot = 0;
  #usedBits: number = BOTH;
  /** The head of the batch not yet exposed: index of its last word, -1 for none. */
  #headAt = -1;
  #headWord = 0;
  #addedSlots = 0;
  #batchLeft = 0;
  #batchLength = 0;
  outstanding = 0;

  constructor(options: RingOptions) {
    const { arena, size } = options;
    if (!(Number.isInteger(size) && size >= 1 && size <= QUEUE_SIZE_LIMIT)) throw new RangeError(`packed ring size ${size} is not in 1..32768`);
    this.#arena = arena;
    this.size = size;
    this.#eventIdx = options.eventIdx;
    this.#inOrder = options.inOrder;
    this.#u32 = arena.u32;
    this.#i32 = arena.i32;
    this.#baseLow = arena.base % 2 ** 32;
    this.#baseHigh = Math.floor(arena.base / 2 ** 32);
    // virtio 1.4 2.8 (driver MUST): ring on 16 bytes, event areas on 4; each event area on its own cache line.
    const desc = arena.allocate(16 * size, 64);
    const driver = arena.allocate(4, 64);
    const device = arena.allocate(4, 64);
    this.#parts = [desc, driver, device];
    this.addresses = { desc: arena.address(desc), driver: arena.address(driver), device: arena.address(device) };
    this.#desc = desc >>> 2;
    this.#driverEvent = driver >>> 2;
    this.#deviceEvent = device >>> 2;
    const ids = powerOfTwoCeiling(size);
    this.#idMask = ids - 1;
    this.#freeIds = Uint16Array.from({ length: ids }, (_, i) => i);
    this.#freeTail = size;
    this.#freeSlots = size;
    this.#count = new Uint16Array(size);
    this.#writable = new Int32Array(size);
    this.#token = new Int32Array(size);
    this.#order = new Uint16Array(ids);
    this.#tables = options.indirect && options.maxSegments > 1 ? new IndirectTables(arena, size, options.maxSegments) : null;
  }

  fits(segments: number): boolean {
    if (this.broken !== '') return false;
    const indirect = segments > 1 && this.#tables !== null && segments <= this.#tables.maxSegments;
    return this.#freeSlots >= (indirect ? 1 : segments);
  }

  addOne(offset: number, length: number, writable: boolean, token: number): boolean {
    if (this.#freeSlots === 0 || this.broken !== '') return false;
    const id = this.#takeId(1, writable ? length : 0, token);
    this.#slot(offset, length, id, writable ? DESC_WRITE : 0, true);
    return true;
  }

  addList(offsets: Int32Array, lengths: Int32Array, readable: number, writable: number, token: number): boolean {
    const segments = readable + writable;
    if (segments < 1 || segments > this.size || !this.fits(segments)) return false;
    if (segments === 1) return this.addOne(offsets[0] as number, lengths[0] as number, writable === 1, token);
    let bytes = 0;
    for (let i = readable; i < segments; i++) bytes += lengths[i] as number;
    const tables = this.#tables;
    if (tables !== null && segments <= tables.maxSegments) {
      const id = this.#takeId(1, bytes, token);
      const table = tables.offset + id * tables.stride;
      // virtio 1.4 2.8.19 (driver MUST NOT): entries carry no flag but WRITE; they follow one another, so none is linked.
      for (let i = 0; i < segments; i++) {
        const at = (table >>> 2) + (i << 2);
        this.#address(at, offsets[i] as number, lengths[i] as number);
        this.#u32[at + 3] = i >= readable ? DESC_WRITE << 16 : 0;
      }
      this.#slot(table, segments * 16, id, DESC_INDIRECT, true);
      return true;
    }
    const id = this.#takeId(segments, bytes, token);
    // virtio 1.4 2.8.17 (driver MUST NOT): the head is exposed after the rest of its list; #slot holds back the first of a batch, and of each list
    // a later one's head may go out at once, since the device reaches it only through the first.
    for (let i = 0; i < segments; i++)
      this.#slot(offsets[i] as number, lengths[i] as number, id, (i >= readable ? DESC_WRITE : 0) | (i + 1 < segments ? DESC_NEXT : 0), i === 0);
    return true;
  }

  #takeId(slots: number, writableBytes: number, token: number): number {
    const id = this.#freeIds[this.#freeHead & this.#idMask] as number;
    this.#freeHead = (this.#freeHead + 1) & 0xffff;
    this.#count[id] = slots;
    this.#writable[id] = writableBytes;
    this.#token[id] = token;
    if (this.#inOrder) {
      this.#order[this.#orderTail & this.#idMask] = id;
      this.#orderTail = (this.#orderTail + 1) & 0xffff;
    }
    this.outstanding++;
    return id;
  }

  #address(at: number, offset: number, length: number): void {
    const u32 = this.#u32;
    const low = this.#baseLow + offset;
    u32[at] = low;
    u32[at + 1] = low > 0xffffffff ? this.#baseHigh + 1 : this.#baseHigh;
    u32[at + 2] = length;
  }

  #slot(offset: number, length: number, id: number, flags: number, head: boolean): void {
    const at = this.#desc + (this.#nextSlot << 2);
    this.#address(at, offset, length);
    const word = id | ((flags | this.#availBits) << 16);
    if (head && this.#headAt < 0) {
      this.#headAt = at + 3;
      this.#headWord = word;
    } else this.#i32[at + 3] = word;
    this.#freeSlots--;
    this.#addedSlots++;
    if (++this.#nextSlot === this.size) {
      this.#nextSlot = 0;
      this.#availBits ^= BOTH;
    }
  }

  publish(): boolean {
    if (this.#headAt < 0 || this.broken !== '') return false;
    // Flags (and id, in the same word) last: they are what the device polls.
    Atomics.store(this.#i32, this.#headAt, this.#headWord);
    this.#headAt = -1;
    const added = this.#addedSlots;
    this.#addedSlots = 0;
    const event = Atomics.load(this.#i32, this.#deviceEvent);
    const mode = (event >>> 16) & 3;
    if (mode === PACKED_EVENT_DISABLE) return false;
    // Anything else but a negotiated DESC counts as enabled: a kick too many is harmless, one too few hangs.
    if (mode !== PACKED_EVENT_DESC || !this.#eventIdx) return true;
    const slot = event & 0x7fff;
    const sameLap = ((event & 0x8000) !== 0) === (this.#availBits === PACKED_AVAIL);
    // How far back from the next slot the device's event lies: within what was just added, it was crossed.
    const back = sameLap ? this.#nextSlot - slot : this.#nextSlot + this.size - slot;
    return back >= 1 && back <= added;
  }

  get notificationData(): number {
    return this.#nextSlot | (this.#availBits === PACKED_AVAIL ? 0x8000 : 0);
  }

  get hasUsed(): boolean {
    if (this.#batchLeft > 0) return true;
    return this.broken === '' && this.outstanding > 0 && ((Atomics.load(this.#i32, this.#desc + (this.#usedSlot << 2) + 3) >>> 16) & BOTH) === this.#usedBits;
  }

  harvest(tokens: Int32Array, lengths: Int32Array, max: number, at = 0): number {
    if (this.broken !== '') return 0;
    const limit = this.outstanding < max ? this.outstanding : max;
    if (this.#inOrder) return this.#harvestInOrder(tokens, lengths, limit, at);
    const { size } = this;
    const i32 = this.#i32;
    const u32 = this.#u32;
    const count = this.#count;
    const freeIds = this.#freeIds;
    const idMask = this.#idMask;
    let freeTail = this.#freeTail;
    let slot = this.#usedSlot;
    let bits = this.#usedBits;
    let freed = 0;
    let n = 0;
    while (n < limit) {
      const desc = this.#desc + (slot << 2);
      const word = Atomics.load(i32, desc + 3);
      if (((word >>> 16) & BOTH) !== bits) break;
      const id = word & 0xffff;
      // The length is meaningful only when WRITE is set (2.8.5).
      const length = ((word >>> 16) & DESC_WRITE) !== 0 ? (u32[desc + 2] as number) : 0;
      if (!this.#believable(id, length)) break;
      const slots = count[id] as number;
      count[id] = 0;
      freeIds[freeTail & idMask] = id;
      freeTail = (freeTail + 1) & 0xffff;
      freed += slots;
      tokens[at + n] = this.#token[id] as number;
      lengths[at + n++] = length;
      slot += slots;
      if (slot >= size) {
        slot -= size;
        bits ^= BOTH;
      }
    }
    this.#freeTail = freeTail;
    this.#usedSlot = slot;
    this.#usedBits = bits;
    this.#freeSlots += freed;
    this.outstanding -= n;
    return n;
  }

  /** A used descriptor names a buffer the device holds, and no more bytes than it has. Otherwise the ring is broken. */
  #believable(id: number, length: number): boolean {
    if (id >= this.size || this.#count[id] === 0) this.broken = `used id ${id} is not a buffer the device holds`;
    else if (length > (this.#writable[id] as number)) this.broken = `used length ${length} exceeds the ${this.#writable[id]} writable bytes of buffer ${id}`;
    else return true;
    return false;
  }

  /** 2.8.10: one used descriptor may stand for a batch and carries the id of its last buffer; those before it count as written in full. */
  #harvestInOrder(tokens: Int32Array, lengths: Int32Array, limit: number, at: number): number {
    const order = this.#order;
    const idMask = this.#idMask;
    let n = 0;
    for (; n < limit; n++) {
      if (this.#batchLeft === 0) {
        const desc = this.#desc + (this.#usedSlot << 2);
        const word = Atomics.load(this.#i32, desc + 3);
        if (((word >>> 16) & BOTH) !== this.#usedBits) break;
        const last = word & 0xffff;
        const length = ((word >>> 16) & DESC_WRITE) !== 0 ? (this.#u32[desc + 2] as number) : 0;
        if (!this.#believable(last, length)) break;
        let k = 1;
        while (order[(this.#orderHead + k - 1) & idMask] !== last) k++; // it is outstanding, so it is found
        this.#batchLeft = k;
        this.#batchLength = length;
      }
      const id = order[this.#orderHead & idMask] as number;
      this.#orderHead = (this.#orderHead + 1) & 0xffff;
      const slots = this.#count[id] as number;
      this.#count[id] = 0;
      this.#freeIds[this.#freeTail & idMask] = id;
      this.#freeTail = (this.#freeTail + 1) & 0xffff;
      this.#freeSlots += slots;
      this.outstanding--;
      tokens[at + n] = this.#token[id] as number;
      lengths[at + n] = --this.#batchLeft === 0 ? this.#batchLength : (this.#writable[id] as number);
      this.#usedSlot += slots;
      if (this.#usedSlot >= this.size) {
        this.#usedSlot -= this.size;
        this.#usedBits ^= BOTH;
      }
    }
    return n;
  }

  disableCalls(): void {
    Atomics.store(this.#i32, this.#driverEvent, PACKED_EVENT_DISABLE << 16);
  }

  enableCalls(after = 1): boolean {
    if (!this.#eventIdx) Atomics.store(this.#i32, this.#driverEvent, PACKED_EVENT_ENABLE << 16);
    else {
      // Every buffer takes at least a slot, so an event `after` - 1 slots on is never later than asked for.
      let slot = this.#usedSlot + after - 1;
      let wrap = this.#usedBits === BOTH;
      if (slot >= this.size) {
        slot -= this.size;
        wrap = !wrap;
      }
      Atomics.store(this.#i32, this.#driverEvent, (PACKED_EVENT_DESC << 16) | (wrap ? 0x8000 : 0) | slot);
    }
    // With `after` > 1 only the first used descriptor can be tested; that errs towards polling once more.
    return this.hasUsed;
  }

  dispose(): void {
    for (const part of this.#parts) this.#arena.free(part);
    this.#tables?.dispose();
  }
}
