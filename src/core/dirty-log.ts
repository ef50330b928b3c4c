// Which pages of guest RAM devices have written since somebody last asked: one bit a 4 KiB page, RAM ranges packed one after the other (holes cost nothing), in
// shared memory that every thread's DMA spaces write. One log a GuestMemory.

const DIRTY_PAGE = 4096;

/** A run of RAM in the log: pages of [base, base + size) are bits from `firstPage` on. */
export interface LoggedRange {
  readonly base: number;
  readonly size: number;
}

/**
 * A log that another process reads: one bit a page of guest-physical address space, from address 0 on, in its memory. Pages beyond its end are not logged.
 */
export interface AddressLog {
  readonly buffer: SharedArrayBuffer;
  /** A multiple of 4, as `byteLength` is. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** A part that logs while told to. */
export interface DirtyWriter {
  logging: boolean;
  /** Marks what is only in a log of the part's own (a device's) so far. Called before the pages are taken, while the log is on. */
  collect?(): void;
}

export class DirtyLog {
  readonly buffer: SharedArrayBuffer;
  /**
   * Called for each logged write of this thread's DMA spaces, with guest-physical addresses: for an emulator that must drop code it compiled from there. Writes of other
   * threads are only in the log.
   */
  onWrite: ((address: number, length: number) => void) | undefined;
  /** Where pages are logged in place of here, if another process wants to know. */
  readonly byAddress: AddressLog | undefined;
  readonly #words: Int32Array;
  readonly #addressWords: Int32Array | undefined;
  readonly #ranges: readonly LoggedRange[];
  #writers: WeakRef<DirtyWriter>[] = [];
  #prune = 64;
  #on = false;

  constructor(ranges: readonly LoggedRange[], buffer?: SharedArrayBuffer, byAddress?: AddressLog) {
    this.byAddress = byAddress;
    this.#addressWords = byAddress && new Int32Array(byAddress.buffer, byAddress.byteOffset, byAddress.byteLength >>> 2);
    const pages = ranges.reduce((sum, r) => sum + r.size / DIRTY_PAGE, 0);
    this.buffer = buffer ?? new SharedArrayBuffer(Math.ceil(pages / 32) * 4);
    this.#words = new Int32Array(this.buffer);
    this.#ranges = ranges;
  }

  /** Ties a DMA space to this log, on the thread that starts and stops it: it logs whenever the log is on. Does not keep it alive. */
  join(writer: DirtyWriter): void {
    if (this.#writers.length >= this.#prune) {
      this.#writers = this.#writers.filter((ref) => ref.deref() !== undefined);
      this.#prune = Math.max(64, 2 * this.#writers.length);
    }
    this.#writers.push(new WeakRef(writer));
    if (this.#on) writer.logging = true;
  }

  get on(): boolean {
    return this.#on;
  }

  /** Starts with no page dirty. On return every later device write is logged, on all threads. */
  start(): void {
    this.take();
    this.#set(true);
  }

  stop(): void {
    this.#set(false);
  }

  #set(on: boolean): void {
    this.#on = on;
    for (const ref of this.#writers) {
      const writer = ref.deref();
      if (writer !== undefined) writer.logging = on;
    }
  }

  /** Marks the pages of `length` (above 0) packed bytes from `offset` on, which are at guest-physical `address`. Any thread. */
  mark(offset: number, length: number, address: number): void {
    this.onWrite?.(address, length);
    const from = this.#addressWords === undefined ? offset : address;
    const words = this.#addressWords ?? this.#words;
    const first = Math.floor(from / DIRTY_PAGE);
    const last = Math.floor((from + length - 1) / DIRTY_PAGE);
    for (let page = first; page <= last; page++) {
      const word = Math.floor(page / 32);
      if (word >= words.length) return;
      const bit = 1 << (page & 31);
      // Read first: a page written again and again costs a load, not a locked operation.
      if ((Atomics.load(words, word) & bit) === 0) Atomics.or(words, word, bit);
    }
  }

  /** Marks pages of RAM by guest-physical address: what holes are in the range is left out. */
  markAddress(address: number, length: number): void {
    let before = 0;
    for (const { base, size } of this.#ranges) {
      const from = Math.max(address, base);
      const to = Math.min(address + length, base + size);
      if (from < to) this.mark(from - base + before, to - from, from);
      before += size;
    }
  }

  /** Takes and clears the dirty pages: their guest-physical addresses, ascending. */
  take(): number[] {
    if (this.#on) for (const ref of this.#writers) ref.deref()?.collect?.();
    const addresses: number[] = [];
    let range = 0;
    let firstPage = 0;
    for (let word = 0; word < this.#words.length; word++) {
      if (this.#words[word] === 0) continue;
      const bits = Atomics.exchange(this.#words, word, 0);
      for (let bit = 0; bit < 32; bit++) {
        if ((bits & (1 << bit)) === 0) continue;
        const page = word * 32 + bit;
        while (page >= firstPage + (this.#ranges[range] as LoggedRange).size / DIRTY_PAGE)
          firstPage += (this.#ranges[range++] as LoggedRange).size / DIRTY_PAGE;
        addresses.push((this.#ranges[range] as LoggedRange).base + (page - firstPage) * DIRTY_PAGE);
      }
    }
    return addresses;
  }
}
