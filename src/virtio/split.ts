// The split virtqueue, device side (virtio 1.4 2.7): a descriptor table and an available ring that the driver writes, a used ring that the device writes.
// Indices run free modulo 2^16. The driver is not trusted: every word of the ring is read once into a local, checked, then used. A broken rule breaks the
// queue: nothing more is taken from it or written to it. Ring indices go through Atomics, everything they guard is read or written plainly.

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
import { RingArea } from './ring-area.ts';
import { QUEUE_BROKEN, QUEUE_EMPTY, type QueueSetup, type RingFeatures, type VirtQueue, type VringPosition } from './virtqueue.ts';

// Available ring: flags, idx, ring[size], used_event. Used ring: flags, idx, ring[size] of {id, len}, avail_event.
const FLAGS = 0;
const INDEX = 2;
const RING = 4;
const AVAIL_F_NO_INTERRUPT = 1;
const USED_F_NO_NOTIFY = 1;
// The JIT folds constants of the module at hand, not those of another: our own names for what the hot path tests (measured).
const NEXT = DESC_F_NEXT;
const INDIRECT = DESC_F_INDIRECT;
const WRITE = DESC_F_WRITE;
const OK = CHAIN_OK;
const EMPTY = QUEUE_EMPTY;
const BROKEN = QUEUE_BROKEN;
const DESCRIPTOR = DESCRIPTOR_BYTES;
const USED_ENTRY_BYTES = 8;
const NO_WORDS = new Int32Array(0);
const NO_HALVES = new Uint16Array(0);

export class SplitQueue implements VirtQueue {
  // Fields of the hot path start as a value of their final kind, not undefined, so that the JIT knows what they hold (measured: bench/virtqueue.ts).
  readonly size: number = 0;
  readonly #mask: number = 0;
  readonly #eventIdx: boolean = false;
  readonly #indirect: boolean = false;
  readonly #inOrder: boolean = false;
  /** Views of the three areas, and the index in them of: descriptor 0, available entry 0, used entry 0. In scattered areas those of the page last sought. */
  #tableWords: Int32Array = NO_WORDS;
  #tableBase = 0;
  #driverHalves: Uint16Array = NO_HALVES;
  #driverBase = 0;
  #deviceWords: Int32Array = NO_WORDS;
  #deviceBase = 0;
  #scattered = 0;
  readonly #dma: DmaSpace;
  readonly #table: RingArea;
  readonly #driver: RingArea;
  readonly #device: RingArea;
  readonly #chain: Chain;
  readonly #indirectTable: IndirectTable;
  #broken: string | undefined;
  /** Paused or broken: nothing is read or written. */
  #stopped = 1;
  #generation = -1;
  /** The available index whose chain waits for a translation that was asked for; -1: none does. */
  #waitsAt = -1;
  /** Next available entry to pop, and the driver's index as last read: the entries between are known to be there. */
  #available = 0;
  #seen = 0;
  /** Next used entry to write, and the used index the driver has been shown. */
  #used = 0;
  #published = 0;
  #shown = 0;
  /** Whether used.flags asks for silence; undefined until this device has written it. */
  #suppressed: boolean | undefined;
  /** IN_ORDER: read-only chains pushed since the last used entry, to be covered by one entry that names the last of them. */
  #batched = 0;
  #batchedToken = 0;
  /** IN_ORDER: whether a chain has writable bytes, by available index (and so by used index). 1 for chains a previous owner took. */
  readonly #writable: Uint8Array;

  /** The setup has been checked by `openQueue`. */
  constructor(setup: QueueSetup, position: VringPosition, features: RingFeatures, dma: DmaSpace, scratch: SegmentList) {
    const { size } = setup;
    const event = features.eventIdx ? 2 : 0;
    this.size = size;
    this.#mask = size - 1;
    this.#eventIdx = features.eventIdx;
    this.#indirect = features.indirect;
    this.#inOrder = features.inOrder;
    this.#dma = dma;
    this.#table = new RingArea(dma, setup.descriptorArea, DESCRIPTOR * size, 'read');
    this.#driver = new RingArea(dma, setup.driverArea, RING + 2 * size + event, 'read');
    this.#device = new RingArea(dma, setup.deviceArea, RING + USED_ENTRY_BYTES * size + event, 'write');
    this.#chain = new Chain(dma, scratch);
    this.#indirectTable = new IndirectTable(dma);
    this.#writable = new Uint8Array(features.inOrder ? size : 0).fill(1);
    this.#available = position.available;
    this.#seen = position.available;
    this.#used = position.used;
    this.#published = position.used;
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
    return this.#available;
  }

  get used(): number {
    return (this.#used + this.#batched) & 0xffff;
  }

  get published(): number {
    return this.#published;
  }

  get position(): VringPosition {
    return { available: this.#available, used: this.#published };
  }

  resync(): boolean {
    if (this.#broken !== undefined) return false;
    this.#chain.forget();
    const generation = this.#dma.generation;
    const table = this.#table;
    const driver = this.#driver;
    const device = this.#device;
    if (generation === this.#generation && this.#stopped === 0 && table.current && driver.current && device.current) return true;
    this.#generation = generation;
    this.#waitsAt = -1;
    this.#stopped = 1;
    // Forget what is known to be available: an emptied fast path leads pop to the check of #stopped.
    this.#seen = this.#available;
    if (!this.#dma.busMaster) return false;
    if (!table.resolve()) return this.#lost('descriptor table', table);
    if (!driver.resolve()) return this.#lost('available ring', driver);
    if (!device.resolve()) return this.#lost('used ring', device);
    this.#scattered = table.scattered || driver.scattered || device.scattered ? 1 : 0;
    this.#seekTable(0);
    this.#seekDriver(0);
    this.#seekDevice(0);
    this.#stopped = 0;
    return true;
  }

  #seekTable(index: number): void {
    this.#table.seek(DESCRIPTOR * index);
    this.#tableWords = this.#table.words;
    this.#tableBase = this.#table.bias >> 2;
  }

  #seekDriver(slot: number): void {
    this.#driver.seek(RING + 2 * slot);
    this.#driverHalves = this.#driver.halves;
    this.#driverBase = (this.#driver.bias + RING) >> 1;
  }

  /** By word: the ring is aligned to 4, so an entry's two may lie in two pages. */
  #seekDevice(word: number): void {
    this.#device.seek(RING + 4 * word);
    this.#deviceWords = this.#device.words;
    this.#deviceBase = (this.#device.bias + RING) >> 2;
  }

  pop(into: SegmentList): number {
    const available = this.#available;
    if (available === this.#seen && !this.#refill()) return this.#broken === undefined ? EMPTY : BROKEN;
    const slot = available & this.#mask;
    if (this.#scattered !== 0) this.#seekDriver(slot);
    const head = this.#driverHalves[(this.#driverBase + slot) | 0] as number;
    if (head > this.#mask) return this.#break(`the available ring names descriptor ${head} of ${this.size}`);
    if (this.#scattered !== 0) this.#seekTable(head);
    const words = this.#tableWords;
    const at = (this.#tableBase + (head << 2)) | 0;
    const low = words[at] as number;
    const high = words[(at + 1) | 0] as number;
    const length = words[(at + 2) | 0] as number;
    const rest = words[(at + 3) | 0] as number;
    const chain = this.#chain;
    const first = into.count;
    const result = (rest & (NEXT | INDIRECT)) === 0 ? chain.single(into, low, high, length, rest) : this.#walk(into, low, high, length, rest);
    if (result !== OK) return this.#refuse(into, first, result);
    if (this.#inOrder) this.#writable[available & this.#mask] = chain.writableBytes > 0 ? 1 : 0;
    this.#available = (available + 1) & 0xffff;
    return head;
  }

  popRun(into: SegmentList, tokens: Int32Array, at: number, limit: number, bytes: number, writable: boolean): number {
    // A scattered ring moves its views: it goes the long way.
    if (this.#scattered !== 0) return 0;
    const available = this.#available;
    // Also when some are known of: who wants more would take the rest one by one (measured: bench/steering.ts).
    if (((this.#seen - available) & 0xffff) < limit && !this.#refill()) return 0;
    const chain = this.#chain;
    const { window, windowViews, windowHigh, windowLow, windowStart, windowSize, windowOffset } = chain;
    const write = writable ? 1 : 0;
    if (window === null || (chain.windowPermissions & (1 << write)) === 0) return 0;
    const wanted = write << 1;
    const first = into.count;
    const count = Math.min(limit, (this.#seen - available) & 0xffff, into.capacity - first);
    const { views, window: windows, offset: offsets, length: lengths, address: addresses } = into;
    const mask = this.#mask;
    const halves = this.#driverHalves;
    const driverBase = this.#driverBase;
    const words = this.#tableWords;
    const tableBase = this.#tableBase;
    let left = bytes;
    let n = 0;
    // No call inside: the JIT then keeps all of the above in registers (measured: bench/inline-cost.ts).
    while (n < count && left > 0) {
      const head = halves[(driverBase + ((available + n) & mask)) | 0] as number;
      if (head > mask) break;
      const d = (tableBase + (head << 2)) | 0;
      const from = ((words[d] as number) - windowLow) | 0;
      const length = words[(d + 2) | 0] as number;
      if (((words[(d + 3) | 0] as number) & (NEXT | INDIRECT | WRITE)) !== wanted || words[(d + 1) | 0] !== windowHigh) break;
      if (from < 0 || length <= 0 || length > ((windowSize - from) | 0)) break;
      const s = (first + n) | 0;
      if (windows[s] !== window || views[s] !== windowViews) {
        windows[s] = window;
        views[s] = windowViews;
      }
      offsets[s] = (windowOffset + from) | 0;
      lengths[s] = length;
      addresses[s] = windowStart + from;
      tokens[(at + n) | 0] = head;
      left = (left - length) | 0;
      n = (n + 1) | 0;
    }
    into.count = first + n;
    if (this.#inOrder) for (let i = 0; i < n; i++) this.#writable[(available + i) & mask] = write;
    this.#available = (available + n) & 0xffff;
    return n;
  }

  unpop(chains: number): void {
    this.#available = (this.#available - chains) & 0xffff;
    if (this.#stopped !== 0) this.#seen = this.#available;
  }

  push(token: number, written: number): void {
    if (this.#stopped !== 0) return;
    if (this.#inOrder) {
      if (this.#batch(token, written)) return;
    }
    this.#writeUsed(this.#used, token, written);
    this.#used = (this.#used + 1) & 0xffff;
  }

  pushRun(tokens: Int32Array, from: number, to: number, written: Int32Array | null): void {
    if (this.#stopped !== 0) return;
    if (this.#inOrder) {
      if (written === null) from = this.#batchRun(tokens, from, to);
      if (from === to) return;
      if (this.#batched > 0) this.#flushBatch();
    }
    if (this.#scattered !== 0) {
      for (let i = from; i < to; i++) this.push(tokens[i] as number, written === null ? 0 : (written[i] as number));
      return;
    }
    const words = this.#deviceWords;
    const base = this.#deviceBase;
    const mask = this.#mask;
    let used = this.#used;
    for (let i = from; i < to; i++) {
      const at = (base + ((used & mask) << 1)) | 0;
      words[at] = tokens[i] as number;
      words[(at + 1) | 0] = written === null ? 0 : (written[i] as number);
      used = (used + 1) | 0;
    }
    this.#used = used & 0xffff;
  }

  seal(): void {
    if (this.#batched > 0) this.#flushBatch();
  }

  publish(): boolean {
    if (this.#batched > 0) this.#flushBatch();
    const before = this.#published;
    const used = this.#used;
    const count = (used - before) & 0xffff;
    if (count === 0 || this.#stopped !== 0) return false;
    const device = this.#device;
    // virtio 1.4 2.7.8.2 (device MUST): used entries before the index. This store releases them.
    device.store16(INDEX, used);
    this.#published = used;
    this.#shown = (this.#shown + count) | 0;
    // After the store: whoever takes the log in between would copy the page without it and never look again.
    if (this.#dma.logging) this.#markUsed(before, count);
    // The store above and the loads below are both sequentially consistent: the full barrier that keeps a late driver from missing its interrupt.
    return this.#wanted(count);
  }

  #wanted(count: number): boolean {
    if (this.#eventIdx) {
      // virtio 1.4 2.7.7.2 (device MUST): notify when the batch wrote the entry numbered used_event.
      const event = this.#driver.load16(RING + 2 * this.size);
      return ((this.#published - event - 1) & 0xffff) < count;
    }
    return (this.#driver.load16(FLAGS) & AVAIL_F_NO_INTERRUPT) === 0;
  }

  get shown(): number {
    return this.#shown;
  }

  stillWanted(since: number): boolean {
    // A driver with entries of more than one lap to come has seen those of the laps before.
    return this.#stopped !== 0 || this.#wanted(Math.min((this.#shown - since) >>> 0, this.size));
  }

  suppressKicks(): void {
    // With EVENT_IDX used.flags stays 0 and an avail_event left behind is suppression enough.
    if (this.#eventIdx || this.#suppressed === true || this.#stopped !== 0) return;
    this.#suppressed = true;
    this.#storeUsedHalf(FLAGS, USED_F_NO_NOTIFY);
  }

  awaitKick(): boolean {
    if (this.#stopped !== 0 || this.#waitsAt === this.#available) return false;
    if (this.#eventIdx) this.#storeUsedHalf(RING + USED_ENTRY_BYTES * this.size, this.#available);
    else if (this.#suppressed !== false) {
      this.#suppressed = false;
      this.#storeUsedHalf(FLAGS, 0);
    }
    return this.#driver.load16(INDEX) !== this.#available;
  }

  get ready(): boolean {
    if (this.#available !== this.#seen) return true;
    return this.#stopped === 0 && this.#waitsAt !== this.#available && this.#driver.load16(INDEX) !== this.#available;
  }

  /** Reads the driver's index. False when nothing is available, or the queue is paused or broken. */
  #refill(): boolean {
    if (this.#stopped !== 0 || this.#waitsAt === this.#available) return false;
    const index = this.#driver.load16(INDEX);
    if (index === this.#available) return false;
    // A driver has at most `size` chains out, each from when it is available until it is shown as used: so an index that jumps, one that goes back, and a
    // chain made available again and again without waiting for it (CVE-2016-5403) all end here.
    const outstanding = (index - this.#published) & 0xffff;
    const taken = (this.#available - this.#published) & 0xffff;
    if (outstanding > this.size || outstanding < taken) {
      this.#break(`available index moved from ${this.#available} to ${index} with ${taken} of ${this.size} chains in flight`);
      return false;
    }
    this.#seen = index;
    return true;
  }

  /** A chain of more than one descriptor, or one in an indirect table. The words are those of its head. */
  #walk(into: SegmentList, low: number, high: number, length: number, rest: number): ChainResult {
    const chain = this.#chain;
    chain.begin(into);
    for (let descriptors = 1; ; descriptors++) {
      if ((rest & INDIRECT) !== 0) return this.#walkIndirect(low, high, length, rest, descriptors - 1);
      const result = chain.add(low, high, length, rest);
      if (result !== OK) return result;
      if ((rest & NEXT) === 0) return chain.end();
      if (descriptors === this.size) return chain.bad(`looped chain: more than ${this.size} descriptors`);
      const next = rest >>> 16;
      if (next >= this.size) return chain.bad(`descriptor ${next} of ${this.size} is next in a chain`);
      if (this.#scattered !== 0) this.#seekTable(next);
      const words = this.#tableWords;
      const at = (this.#tableBase + (next << 2)) | 0;
      low = words[at] as number;
      high = words[(at + 1) | 0] as number;
      length = words[(at + 2) | 0] as number;
      rest = words[(at + 3) | 0] as number;
    }
  }

  /** virtio 1.4 2.7.5.3: a table is the rest of the chain; WRITE on the descriptor that names it means nothing. */
  #walkIndirect(low: number, high: number, length: number, rest: number, before: number): ChainResult {
    const chain = this.#chain;
    const table = this.#indirectTable;
    if (!this.#indirect) return chain.bad('an indirect descriptor, which was not negotiated');
    if ((rest & NEXT) !== 0) return chain.bad('a descriptor with both INDIRECT and NEXT');
    const reason = table.open(low, high, length);
    if (reason !== undefined) return chain.bad(reason);
    const limit = Math.max(this.size, INDIRECT_LIMIT) - before;
    let next = 0;
    for (let descriptors = 1; ; descriptors++) {
      if (!table.load(next)) return table.unreadable(chain);
      const { words, at } = table;
      const flagsNext = words[(at + 3) | 0] as number;
      if ((flagsNext & INDIRECT) !== 0) return chain.bad('an indirect descriptor inside an indirect table');
      const result = chain.add(words[at] as number, words[(at + 1) | 0] as number, words[(at + 2) | 0] as number, flagsNext);
      if (result !== OK) return result;
      if ((flagsNext & NEXT) === 0) return chain.end();
      if (descriptors === table.entries || descriptors >= limit) return chain.bad(`looped or overlong chain in an indirect table of ${table.entries}`);
      next = flagsNext >>> 16;
      if (next >= table.entries) return chain.bad(`entry ${next} of ${table.entries} is next in an indirect table`);
    }
  }

  #writeUsed(used: number, token: number, written: number): void {
    const word = (used & this.#mask) << 1;
    if (this.#scattered !== 0) this.#seekDevice(word);
    this.#deviceWords[(this.#deviceBase + word) | 0] = token;
    if (this.#scattered !== 0) this.#seekDevice(word + 1);
    this.#deviceWords[(this.#deviceBase + word + 1) | 0] = written;
  }

  /**
   * virtio 1.4 2.7.9: under IN_ORDER one used entry may stand for a run of chains, which then count as fully written. That is true of chains with nothing
   * to write, so those wait for the next entry or the publish; a chain with writable bytes always gets its own entry and length.
   */
  #batch(token: number, written: number): boolean {
    const nextUsed = (this.#used + this.#batched) & this.#mask;
    if (written === 0 && this.#writable[nextUsed] === 0) {
      this.#batched++;
      this.#batchedToken = token;
      return true;
    }
    if (this.#batched > 0) this.#flushBatch();
    return false;
  }

  /** The same for chains of a run that nothing was written to, while they have no writable bytes. Returns where that ends. */
  #batchRun(tokens: Int32Array, from: number, to: number): number {
    const mask = this.#mask;
    const slot = this.#used + this.#batched;
    let n = from;
    while (n < to && this.#writable[(slot + n - from) & mask] === 0) n++;
    if (n > from) this.#batchedToken = tokens[n - 1] as number;
    this.#batched += n - from;
    return n;
  }

  /** The entry lies at the slot of the first chain of the run and names the last. */
  #flushBatch(): void {
    this.#writeUsed(this.#used, this.#batchedToken, 0);
    this.#used = (this.#used + this.#batched) & 0xffff;
    this.#batched = 0;
  }

  #markUsed(from: number, count: number): void {
    const device = this.#device;
    const slot = from & this.#mask;
    const run = Math.min(count, this.size - slot);
    device.markDirty(RING + USED_ENTRY_BYTES * slot, USED_ENTRY_BYTES * run);
    if (run < count) device.markDirty(RING, USED_ENTRY_BYTES * (count - run));
    device.markDirty(INDEX, 2);
  }

  #storeUsedHalf(offset: number, value: number): void {
    this.#device.store16(offset, value);
    if (this.#dma.logging) this.#device.markDirty(offset, 2);
  }

  #refuse(into: SegmentList, first: number, result: ChainResult): number {
    into.truncate(first);
    if (result === CHAIN_BAD) return this.#break(this.#chain.reason);
    if (result === CHAIN_FULL && first > 0) return EMPTY;
    if (result === CHAIN_WAIT) {
      this.#waitsAt = this.#available;
      this.#seen = this.#available;
      return EMPTY;
    }
    return this.#break(`a chain of more than the ${into.capacity} segments this device takes`);
  }

  #break(reason: string): number {
    this.#broken = reason;
    this.#stopped = 1;
    this.#seen = this.#available;
    return BROKEN;
  }

  #lost(what: string, area: RingArea): false {
    // Paused, until translations move.
    if (this.#dma.miss(area.missing, area.address + area.length - area.missing, area.access)) return false;
    this.#break(`${what} at 0x${area.address.toString(16)} is not memory the device may use`);
    return false;
  }
}

/** Shows the driver the used entries between two used indices, as the thread that wrote them was about to. False when that ring is not memory any more. */
export function replaySplit(setup: QueueSetup, dma: DmaSpace, to: number): boolean {
  const device = new RingArea(dma, setup.deviceArea, RING + USED_ENTRY_BYTES * setup.size, 'write');
  dma.sync();
  if (!device.resolve()) return false;
  device.store16(INDEX, to);
  device.markDirty(0, device.length);
  return true;
}
