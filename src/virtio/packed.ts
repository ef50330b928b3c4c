// The packed virtqueue, device side (virtio 1.4 2.8): one ring of descriptors that driver and device both write, each lap told from the last by a wrap
// counter, and two event suppression words. Sizes need not be powers of two. The driver is not trusted: every word is read once into a local, checked, then
// used; flags go through Atomics (as one word with the id), the rest plainly. Buffer ids are the driver's own: any 16 bits, handed back as they came.

import type { DmaSpace } from '#core/dma-space';
import type { SegmentList } from '#core/segments';
import {
  CHAIN_BAD,
  CHAIN_FULL,
  CHAIN_OK,
  CHAIN_WAIT,
  Chain,
  type ChainResult,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  DESCRIPTOR_BYTES,
  INDIRECT_LIMIT,
  IndirectTable,
} from './chain.ts';
import { markUsed, writeStaged } from './packed-used.ts';
import { RingArea } from './ring-area.ts';
import { QUEUE_BROKEN, QUEUE_EMPTY, type QueueSetup, type RingFeatures, type VirtQueue, type VringPosition } from './virtqueue.ts';

// The JIT folds constants of the module at hand, not those of another: our own names for what the hot path tests (measured).
const NEXT = DESC_F_NEXT;
const INDIRECT = DESC_F_INDIRECT;
const OK = CHAIN_OK;
const EMPTY = QUEUE_EMPTY;
const BROKEN = QUEUE_BROKEN;
const WRITE = DESC_F_WRITE;
const DESCRIPTOR = DESCRIPTOR_BYTES;
const NO_WORDS = new Int32Array(0);
const NO_HALVES = new Uint16Array(0);

// The last word of a descriptor: id in the low half, flags in the high half.
const AVAIL = 1 << 23;
const USED = 1 << 31;
const LAP_BITS = AVAIL | USED;

// Event suppression word: offset and wrap in the low half, mode in the high half.
const EVENT_ENABLE = 0;
const EVENT_DISABLE = 1 << 16;
const EVENT_DESC = 2 << 16;
const EVENT_MODE = 3 << 16;

/** x86 keeps loads in order, so one load that the compiler may not move is acquire enough for all before it. On ARM each descriptor's flags need their own. */
const LOADS_IN_ORDER = /^(x64|ia32)$/.test((globalThis as { process?: { arch?: string } }).process?.arch ?? '');

const WRAP = 0x8000;
const WORD3 = 12;

export class PackedQueue implements VirtQueue {
  // Fields of the hot path start as a value of their final kind, not undefined, so that the JIT knows what they hold (measured: bench/virtqueue.ts).
  readonly size: number = 0;
  readonly #eventIdx: boolean = false;
  readonly #indirect: boolean = false;
  readonly #inOrder: boolean = false;
  /** Views of the ring and the index in them of descriptor 0; in a scattered ring those of the page last sought. */
  #words: Int32Array = NO_WORDS;
  #base = 0;
  #scattered = 0;
  /** Paused or broken: one test for the hot path. */
  #stopped = 1;
  /** The position, as in VringPosition, whose chain waits for a translation that was asked for; -1: none does. */
  #waitsAt = -1;
  readonly #dma: DmaSpace;
  readonly #ring: RingArea;
  readonly #driver: RingArea;
  readonly #device: RingArea;
  readonly #chain: Chain;
  readonly #indirectTable: IndirectTable;
  #broken: string | undefined;
  #generation = -1;
  /** Next descriptor to take; what its lap bits are when the driver has made it available. */
  #available = 0;
  #availableBits = 0;
  /** Next slot to write a used entry to; the lap bits that make it used. */
  #used = 0;
  #usedBits = 0;
  /** Descriptors taken and not shown as used. */
  #inFlight = 0;
  /**
   * Used entries pushed since the last publish, two words each: id and descriptors - 1, bytes written. They go into the ring at publish only, because they overwrite
   * descriptors that would be taken again if this device stopped before. May lie in shared memory, for `replayPublish`.
   */
  readonly #staged: Int32Array = NO_WORDS;
  #pending = 0;
  #pendingDescriptors = 0;
  #shown = 0;
  #firstSlot = 0;
  #firstBits = 0;
  /** What this device last wrote to its event suppression word; -1 before that. */
  #event = -1;
  /** Descriptors of each chain taken, by the slot of its last one: for unpop. */
  readonly #taken: Uint16Array = NO_HALVES;
  /** IN_ORDER: whether a chain has writable bytes, by the slot of its first descriptor (where its own used entry goes). 1 for chains a previous owner took. */
  readonly #writable: Uint8Array;
  /** IN_ORDER: read-only chains pushed since the last used entry: their count, their descriptors, the id of the last. */
  #batched = 0;
  #batchedDescriptors = 0;
  #batchedId = 0;
  /** Descriptors and id of the chain being popped. */
  #descriptors = 0;
  #id = 0;

  /** The setup has been checked by `openQueue`. */
  constructor(setup: QueueSetup, position: VringPosition, features: RingFeatures, dma: DmaSpace, scratch: SegmentList, staging?: Int32Array) {
    const { size } = setup;
    this.size = size;
    this.#eventIdx = features.eventIdx;
    this.#indirect = features.indirect;
    this.#inOrder = features.inOrder;
    this.#dma = dma;
    this.#staged = staging ?? new Int32Array(2 * size);
    this.#ring = new RingArea(dma, setup.descriptorArea, DESCRIPTOR * size, 'both');
    this.#driver = new RingArea(dma, setup.driverArea, 4, 'read');
    this.#device = new RingArea(dma, setup.deviceArea, 4, 'write');
    this.#chain = new Chain(dma, scratch);
    this.#indirectTable = new IndirectTable(dma);
    this.#taken = new Uint16Array(size);
    this.#writable = new Uint8Array(features.inOrder ? size : 0).fill(1);
    this.#available = position.available & 0x7fff;
    this.#availableBits = (position.available & WRAP) !== 0 ? AVAIL : USED;
    this.#used = position.used & 0x7fff;
    this.#usedBits = (position.used & WRAP) !== 0 ? LAP_BITS : 0;
    this.#inFlight = this.#available - this.#used + ((position.available ^ position.used) & WRAP ? size : 0);
    this.#firstSlot = this.#used;
    this.#firstBits = this.#usedBits;
    this.resync();
  }

  get broken(): string | undefined {
    return this.#broken;
  }

  get readableSegments(): number {
    return this.#chain.readableSegments;
  }

  get buffers(): number {
    return this.#chain.buffers;
  }

  get segments(): number {
    return this.#chain.segments;
  }

  get readableBytes(): number {
    return this.#chain.readableBytes;
  }

  get writableBytes(): number {
    return this.#chain.writableBytes;
  }

  get available(): number {
    return this.#available | (this.#availableBits === AVAIL ? WRAP : 0);
  }

  /** Counts a run not sealed yet as one entry per chain would. */
  get used(): number {
    let slot = this.#used + this.#batchedDescriptors;
    let wrap = this.#usedBits !== 0 ? WRAP : 0;
    if (slot >= this.size) {
      slot -= this.size;
      wrap ^= WRAP;
    }
    return slot | wrap;
  }

  get published(): number {
    return this.#firstSlot | (this.#firstBits !== 0 ? WRAP : 0);
  }

  get position(): VringPosition {
    return { available: this.available, used: this.published };
  }

  resync(): boolean {
    if (this.#broken !== undefined) return false;
    this.#chain.forget();
    const generation = this.#dma.generation;
    if (generation === this.#generation && this.#stopped === 0 && this.#ring.current && this.#driver.current && this.#device.current) return true;
    this.#generation = generation;
    this.#waitsAt = -1;
    this.#stopped = 1;
    if (!this.#dma.busMaster) return false;
    if (!this.#ring.resolve()) return this.#lost('descriptor ring', this.#ring);
    if (!this.#driver.resolve()) return this.#lost('driver event area', this.#driver);
    if (!this.#device.resolve()) return this.#lost('device event area', this.#device);
    this.#scattered = this.#ring.scattered ? 1 : 0;
    this.#seek(0);
    this.#stopped = 0;
    return true;
  }

  #seek(slot: number): void {
    this.#ring.seek(DESCRIPTOR * slot);
    this.#words = this.#ring.words;
    this.#base = this.#ring.bias >> 2;
  }

  pop(into: SegmentList): number {
    if (this.#stopped !== 0) return this.#broken === undefined ? EMPTY : BROKEN;
    if (this.#waitsAt >= 0 && this.#waitsAt === this.available) return EMPTY;
    const available = this.#available;
    if (this.#scattered !== 0) this.#seek(available);
    const words = this.#words;
    const at = (this.#base + (available << 2)) | 0;
    // Acquire: the rest of the descriptor, and of its list, was written before these flags.
    const rest = Atomics.load(words, (at + 3) | 0);
    if ((rest & LAP_BITS) !== this.#availableBits) return EMPTY;
    const low = words[at] as number;
    const high = words[(at + 1) | 0] as number;
    const length = words[(at + 2) | 0] as number;
    const chain = this.#chain;
    const first = into.count;
    let result: ChainResult;
    if ((rest & ((NEXT | INDIRECT) << 16)) === 0) {
      this.#descriptors = 1;
      this.#id = rest & 0xffff;
      result = chain.single(into, low, high, length, rest >>> 16);
    } else result = this.#walk(into, low, high, length, rest);
    const descriptors = this.#descriptors;
    // A driver that makes a list available over descriptors it has not been given back.
    if (result === OK && this.#inFlight + descriptors > this.size) result = chain.bad(`more than ${this.size} descriptors in flight`);
    if (result !== OK) return this.#refuse(into, first, result);
    this.#inFlight += descriptors;
    if (this.#inOrder) this.#writable[available] = chain.writableBytes > 0 ? 1 : 0;
    this.#advanceAvailable(descriptors);
    this.#taken[(this.#available === 0 ? this.size : this.#available) - 1] = descriptors;
    return ((descriptors - 1) << 16) | this.#id;
  }

  popRun(into: SegmentList, tokens: Int32Array, at: number, limit: number, bytes: number, writable: boolean): number {
    // A scattered ring moves its views: it goes the long way.
    if (this.#stopped !== 0 || this.#scattered !== 0) return 0;
    const words = this.#words;
    const base = this.#base;
    const { size } = this;
    const first = this.#available;
    const begin = into.count;
    const count = Math.min(limit, size - this.#inFlight, into.capacity - begin);
    const tested = LAP_BITS | ((NEXT | INDIRECT | WRITE) << 16);
    const write = writable ? 1 : 0;
    const kind = write << 17;
    const chain = this.#chain;
    const { window, windowViews, windowHigh, windowLow, windowStart, windowSize, windowOffset } = chain;
    if (window === null || (chain.windowPermissions & (1 << write)) === 0) return 0;
    let bits = this.#availableBits;
    // Flags first, of as many as are there.
    let slot = first;
    let there = 0;
    while (there < count) {
      if (((words[(base + (slot << 2) + 3) | 0] as number) & tested) !== (bits | kind)) break;
      there = (there + 1) | 0;
      slot = (slot + 1) | 0;
      if (slot === size) {
        slot = 0;
        bits ^= LAP_BITS;
      }
    }
    if (there === 0) return 0;
    // Acquire: everything else of these descriptors was written before their flags, and is read after this. The driver may have shown each by itself.
    if (LOADS_IN_ORDER) Atomics.load(words, (base + (first << 2) + 3) | 0);
    else for (let n = 0, at = first; n < there; n++, at = at + 1 === size ? 0 : at + 1) Atomics.load(words, (base + (at << 2) + 3) | 0);
    const { views, window: windows, offset: offsets, length: lengths, address: addresses } = into;
    const taken = this.#taken;
    let left = bytes;
    let n = 0;
    slot = first;
    // No call inside: the JIT then keeps all of the above in registers (measured: bench/inline-cost.ts).
    while (n < there && left > 0) {
      const d = (base + (slot << 2)) | 0;
      const from = ((words[d] as number) - windowLow) | 0;
      const length = words[(d + 2) | 0] as number;
      if (words[(d + 1) | 0] !== windowHigh || from < 0 || length <= 0 || length > ((windowSize - from) | 0)) break;
      const s = (begin + n) | 0;
      if (windows[s] !== window || views[s] !== windowViews) {
        windows[s] = window;
        views[s] = windowViews;
      }
      offsets[s] = (windowOffset + from) | 0;
      lengths[s] = length;
      addresses[s] = windowStart + from;
      tokens[(at + n) | 0] = (words[(d + 3) | 0] as number) & 0xffff;
      taken[slot] = 1;
      left = (left - length) | 0;
      n = (n + 1) | 0;
      slot = (slot + 1) | 0;
      if (slot === size) slot = 0;
    }
    into.count = begin + n;
    if (this.#inOrder) for (let i = 0, at = first; i < n; i++, at = at + 1 === size ? 0 : at + 1) this.#writable[at] = write;
    this.#inFlight += n;
    this.#advanceAvailable(n);
    return n;
  }

  unpop(chains: number): void {
    for (let i = 0; i < chains; i++) {
      const descriptors = this.#taken[(this.#available === 0 ? this.size : this.#available) - 1] as number;
      this.#inFlight -= descriptors;
      this.#available -= descriptors;
      if (this.#available < 0) {
        this.#available += this.size;
        this.#availableBits ^= LAP_BITS;
      }
    }
  }

  push(token: number, written: number): void {
    const id = token & 0xffff;
    const descriptors = (token >>> 16) + 1;
    // virtio 1.4 2.8.8: one used entry may stand for a run of chains under IN_ORDER. It says nothing of what was written to all but the last, so only chains
    // without writable bytes are run together.
    if (this.#inOrder && written === 0 && this.#writable[this.used & 0x7fff] === 0) {
      this.#batched++;
      this.#batchedDescriptors += descriptors;
      this.#batchedId = id;
      return;
    }
    if (this.#batched > 0) this.#flushBatch();
    this.#stageUsed(id, descriptors, written);
  }

  pushRun(tokens: Int32Array, from: number, to: number, written: Int32Array | null): void {
    if (this.#inOrder) {
      if (written === null) from = this.#batchRun(tokens, from, to);
      if (from === to) return;
      if (this.#batched > 0) this.#flushBatch();
    }
    const staged = this.#staged;
    let at = 2 * this.#pending;
    let descriptors = 0;
    for (let i = from; i < to; i++) {
      const token = tokens[i] as number;
      staged[at] = token;
      staged[(at + 1) | 0] = written === null ? 0 : (written[i] as number);
      at = (at + 2) | 0;
      descriptors = (descriptors + (token >>> 16) + 1) | 0;
    }
    this.#pending += to - from;
    this.#pendingDescriptors += descriptors;
    this.#used += descriptors;
    if (this.#used >= this.size) {
      this.#used -= this.size;
      this.#usedBits ^= LAP_BITS;
    }
  }

  /** Chains of a run that nothing was written to, while they have no writable bytes: they go into one used entry. Returns where that ends. */
  #batchRun(tokens: Int32Array, from: number, to: number): number {
    const { size } = this;
    let slot = this.used & 0x7fff;
    let descriptors = 0;
    let n = from;
    for (; n < to && this.#writable[slot] === 0; n++) {
      const step = ((tokens[n] as number) >>> 16) + 1;
      descriptors += step;
      slot += step;
      if (slot >= size) slot -= size;
    }
    if (n > from) this.#batchedId = (tokens[n - 1] as number) & 0xffff;
    this.#batched += n - from;
    this.#batchedDescriptors += descriptors;
    return n;
  }

  seal(): void {
    if (this.#batched > 0) this.#flushBatch();
  }

  publish(): boolean {
    if (this.#batched > 0) this.#flushBatch();
    if (this.#pending === 0 || this.#stopped !== 0) return false;
    const from = this.#firstSlot;
    const bits = this.#firstBits;
    writeStaged(this.#ring, this.size, from, bits, this.#staged, this.#pending);
    // After the stores: whoever takes the log in between would copy the page without them and never look again.
    if (this.#dma.logging) markUsed(this.#ring, this.size, from, this.#used, bits === this.#usedBits);
    this.#pending = 0;
    this.#inFlight -= this.#pendingDescriptors;
    const count = this.#pendingDescriptors;
    this.#shown = (this.#shown + count) | 0;
    this.#pendingDescriptors = 0;
    this.#firstSlot = this.#used;
    this.#firstBits = this.#usedBits;
    // Sequentially consistent after the store above: the full barrier between showing used entries and reading what the driver wants of them.
    return this.#wanted(count);
  }

  /** Whether the driver wants to be notified of the last `count` descriptors' worth of used entries. */
  #wanted(count: number): boolean {
    const event = this.#driver.load32(0);
    const mode = event & EVENT_MODE;
    if (mode === EVENT_DISABLE) return false;
    if (mode !== EVENT_DESC || !this.#eventIdx) return true;
    // Positions relative to the lap the device is now in: the batch covers [start, end), the driver asked for one offset on this lap or the one before.
    const end = this.#firstSlot;
    const sameLap = ((event & WRAP) !== 0) === (this.#firstBits !== 0);
    const wanted = (event & 0x7fff) - (sameLap ? 0 : this.size);
    return end - count <= wanted && wanted < end;
  }

  get shown(): number {
    return this.#shown;
  }

  stillWanted(since: number): boolean {
    // A driver with entries of more than one lap to come has seen those of the laps before.
    return this.#stopped !== 0 || this.#wanted(Math.min((this.#shown - since) >>> 0, this.size));
  }

  suppressKicks(): void {
    this.#storeEvent(EVENT_DISABLE);
  }

  awaitKick(): boolean {
    if (this.#waitsAt === this.available) return false;
    this.#storeEvent(this.#eventIdx ? EVENT_DESC | this.available : EVENT_ENABLE);
    return this.ready;
  }

  get ready(): boolean {
    if (this.#stopped !== 0 || this.#waitsAt === this.available) return false;
    return (this.#ring.load32(DESCRIPTOR * this.#available + WORD3) & LAP_BITS) === this.#availableBits;
  }

  /**
   * A list of more than one descriptor, or an indirect table; the words are those of its head. Sets #descriptors and #id (the id is in the last of a list).
   * Only the head's lap bits count: the driver writes them last.
   */
  #walk(into: SegmentList, low: number, high: number, length: number, rest: number): ChainResult {
    const chain = this.#chain;
    chain.begin(into);
    let slot = this.#available;
    for (let descriptors = 1; ; descriptors++) {
      const flags = rest >>> 16;
      this.#descriptors = descriptors;
      this.#id = rest & 0xffff;
      if ((flags & INDIRECT) !== 0) {
        // virtio 1.4 2.8.19 (driver MUST NOT): an indirect descriptor is alone, never part of a list.
        if (descriptors > 1 || (flags & NEXT) !== 0) return chain.bad('an indirect descriptor in a list');
        return this.#walkIndirect(low, high, length);
      }
      const result = chain.add(low, high, length, flags);
      if (result !== OK) return result;
      if ((flags & NEXT) === 0) return chain.end();
      if (descriptors === this.size) return chain.bad(`looped list: more than ${this.size} descriptors`);
      slot = slot + 1 === this.size ? 0 : slot + 1;
      if (this.#scattered !== 0) this.#seek(slot);
      const words = this.#words;
      const at = (this.#base + (slot << 2)) | 0;
      low = words[at] as number;
      high = words[(at + 1) | 0] as number;
      length = words[(at + 2) | 0] as number;
      rest = words[(at + 3) | 0] as number;
    }
  }

  /** virtio 1.4 2.8.7: the entries in sequence, all of them; of their flags only WRITE counts. WRITE on the descriptor that names the table means nothing. */
  #walkIndirect(low: number, high: number, length: number): ChainResult {
    const chain = this.#chain;
    const table = this.#indirectTable;
    if (!this.#indirect) return chain.bad('an indirect descriptor, which was not negotiated');
    const reason = table.open(low, high, length);
    if (reason !== undefined) return chain.bad(reason);
    if (table.entries > Math.max(this.size, INDIRECT_LIMIT)) return chain.bad(`an indirect table of ${table.entries} entries`);
    for (let i = 0; i < table.entries; i++) {
      if (!table.load(i)) return table.unreadable(chain);
      const { words, at } = table;
      const flags = (words[(at + 3) | 0] as number) >>> 16;
      const result = chain.add(words[at] as number, words[(at + 1) | 0] as number, words[(at + 2) | 0] as number, flags & DESC_F_WRITE);
      if (result !== OK) return result;
    }
    return chain.end();
  }

  /** Stages a used entry for the next slot, and skips as many slots as the chain had. */
  #stageUsed(id: number, descriptors: number, written: number): void {
    const at = 2 * this.#pending;
    this.#staged[at] = ((descriptors - 1) << 16) | id;
    this.#staged[at + 1] = written;
    this.#pending++;
    this.#pendingDescriptors += descriptors;
    this.#used += descriptors;
    if (this.#used >= this.size) {
      this.#used -= this.size;
      this.#usedBits ^= LAP_BITS;
    }
  }

  #flushBatch(): void {
    const descriptors = this.#batchedDescriptors;
    this.#batched = 0;
    this.#batchedDescriptors = 0;
    this.#stageUsed(this.#batchedId, descriptors, 0);
  }

  #storeEvent(event: number): void {
    if (this.#event === event || this.#stopped !== 0) return;
    this.#event = event;
    this.#device.store32(0, event);
    if (this.#dma.logging) this.#device.markDirty(0, 4);
  }

  #advanceAvailable(descriptors: number): void {
    this.#available += descriptors;
    if (this.#available >= this.size) {
      this.#available -= this.size;
      this.#availableBits ^= LAP_BITS;
    }
  }

  #refuse(into: SegmentList, first: number, result: ChainResult): number {
    into.truncate(first);
    if (result === CHAIN_BAD) return this.#break(this.#chain.reason);
    if (result === CHAIN_FULL && first > 0) return EMPTY;
    if (result === CHAIN_WAIT) {
      this.#waitsAt = this.available;
      return EMPTY;
    }
    return this.#break(`a chain of more than the ${into.capacity} segments this device takes`);
  }

  #break(reason: string): number {
    this.#broken = reason;
    this.#stopped = 1;
    return BROKEN;
  }

  #lost(what: string, area: RingArea): false {
    // Paused, until translations move.
    if (this.#dma.miss(area.missing, area.address + area.length - area.missing, area.access)) return false;
    this.#break(`${what} at 0x${area.address.toString(16)} is not memory the device may use`);
    return false;
  }
}
