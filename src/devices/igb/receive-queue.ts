// A receive descriptor ring (82576 7.1.5 to 7.1.9, 8.10): buffers for a frame are found before anything of it is written. Legacy and advanced descriptors have the address of the packet buffer in the same place; advanced ones
// add a header buffer's. A descriptor is complete in memory before its DD shows, and the length beside it: Linux's igb takes a length that is not 0 for the sign. A frame's first descriptor is written last. Frames of one buffer, the usual ones, go the short way: `hasBuffer`, `put`, and `publish` for all of a run.

import { DMA_READ, DMA_WRITE, type DmaSpace, type Window } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';
import { AT } from './registers.ts';

const { RCTL, RDBAH, RDBAL, RDH, RDLEN, RDT, RXDCTL, SRRCTL } = AT;

const DESCRIPTOR_BYTES = 16;
/** Buffers of one frame: 16 KiB in buffers of 1 KiB, and a header buffer; or of 256 by RCTL. */
const MOST_BUFFERS = 68;
/** Descriptors that are looked at for one frame: those without an address are passed over, but not a whole large ring of them for each frame that comes. */
const MOST_LOOKED_AT = 256;
const ENABLE = 1 << 25;
const STATUS_DD = 1;
/** SRRCTL.DESCTYPE: advanced, one buffer. */
const DESCTYPE = 7 << 25;
const ONE_BUFFER = 1 << 25;
const LEGACY = 0;
const ADVANCED = 1;
/** Descriptors that are complete but for DD. */
const LONGEST_RUN = 256;

/** Two words that show at once: they are one store. */
const PAIR = new Float64Array(1);
const PAIR_WORDS = new Uint32Array(PAIR.buffer);

/** What was written before shows before whatever is written from here on. @param at a word that is ours */
function fence(u32: Uint32Array, at: number): void {
  Atomics.store(u32, at, u32[at] as number);
  Atomics.load(u32, at);
}

/** @param at even */
function storePair(views: ByteViews, at: number, low: number, high: number): void {
  PAIR_WORDS[0] = low;
  PAIR_WORDS[1] = high;
  views.f64[at >>> 1] = PAIR[0] as number;
}

/** Bytes of a packet buffer (8.10.2, SRRCTL.BSIZEPACKET; 0: as RCTL says, 8.10.1). */
export function bufferBytes(words: Uint32Array, queue: number): number {
  const packetBytes = ((words[SRRCTL + queue] as number) & 0x7f) * 1024;
  return packetBytes === 0 ? 2048 >>> (((words[RCTL] as number) >>> 16) & 3) : packetBytes;
}

export class ReceiveQueue {
  readonly index: number;
  head = 0;
  tail = 0;
  size = 0;
  /** Descriptors the driver has added from the head on. */
  available = 0;
  /** The turn in which the registers were looked at last. */
  turn = -1;
  /** Whoever has the queue may reach memory. */
  master = false;
  /** Whose memory. */
  dma: DmaSpace;
  /** It is enabled, and whoever has it may reach memory: otherwise it is as if it were not there. */
  live = false;
  /** A frame was refused for want of buffers while the tail stood here; -1: none. */
  starvedAt = -1;
  /** What `hasBuffer` found. */
  buffer: Window | null = null;
  // Of the frames that were `put`, until who counts them has taken these: how many, their octets with FCS, those for a group but not for all.
  shown = 0;
  octets = 0;
  group = 0;
  /** Descriptors there were before them. */
  before = 0;
  // What `reserve` found: descriptors it takes, and those of them that have a buffer.
  descriptors = 0;
  buffers = 0;
  readonly address = new Float64Array(MOST_BUFFERS);
  /** Of the first descriptor. */
  headerAddress = 0;
  readonly #distance = new Int32Array(MOST_BUFFERS);
  readonly #words: Uint32Array;
  readonly #statuses = new Int32Array(LONGEST_RUN);
  readonly #lengths = new Int32Array(LONGEST_RUN);
  #base = 0;
  // The whole ring, where it lies in one piece of memory and its descriptors are advanced ones of one buffer (null otherwise), its first word there, bytes of a buffer.
  #whole: Window | null = null;
  #firstWord = 0;
  #each = 0;
  #unshown = 0;
  /** Where the tail stood when descriptors were there and not one had a buffer; -1: not so. */
  #barren = -1;

  constructor(index: number, words: Uint32Array, dma: DmaSpace) {
    this.index = index;
    this.#words = words;
    this.dma = dma;
  }

  get enabled(): boolean {
    return ((this.#words[RXDCTL + this.index] as number) & ENABLE) !== 0;
  }

  /** Looks at the registers, once a turn. An index outside the ring makes it an empty one (CVE-2016-1981). */
  look(turn: number): void {
    if (this.turn === turn) return;
    this.turn = turn;
    const words = this.#words;
    const { index } = this;
    this.dma.sync();
    const entries = (words[RDLEN + index] as number) >>> 4;
    const base = (words[RDBAH + index] as number) * 2 ** 32 + (words[RDBAL + index] as number);
    if (entries !== this.size || base !== this.#base || words[RDT + index] !== this.#barren) this.#barren = -1;
    this.size = entries;
    this.#base = base;
    this.head = words[RDH + index] as number;
    this.tail = words[RDT + index] as number;
    const { head, tail, size } = this;
    this.master = this.dma.busMaster;
    this.live = this.master && this.enabled;
    this.available = head >= size || tail >= size || !this.master ? 0 : (tail - head + size) % size;
    this.#whole = this.available > 0 && ((words[SRRCTL + index] as number) & DESCTYPE) === ONE_BUFFER ? this.#ring() : null;
    if (this.#whole === null) return;
    this.#firstWord = (this.#base + this.#whole.bias) >>> 2;
    this.#each = bufferBytes(words, index);
  }

  #ring(): Window | null {
    const bytes = this.size * DESCRIPTOR_BYTES;
    const window = this.dma.window(this.#base, bytes, DMA_WRITE);
    return window !== null && this.dma.window(this.#base, bytes, DMA_READ) === window ? window : null;
  }

  // ---- one buffer a frame ----

  /** The next descriptor has a buffer for all of `length` bytes: `buffer`, from `address[0]` on. False: there is none, or it is not that simple. */
  hasBuffer(length: number): boolean {
    const whole = this.#whole;
    if (whole === null || this.available === 0 || length > this.#each) return false;
    const { u32 } = whole.slab.views;
    const at = this.#firstWord + this.head * 4;
    const address = (u32[at + 1] as number) * 2 ** 32 + (u32[at] as number);
    if (address === 0) return false;
    const window = this.dma.window(address, length, DMA_WRITE);
    this.address[0] = address;
    if (this.buffer !== window) this.buffer = window;
    return window !== null;
  }

  /** The frame is in that buffer: its descriptor is complete, but for the words with DD and the length. */
  put(info: number, hash: number, status: number, length: number): void {
    const whole = this.#whole as Window;
    const { u32 } = whole.slab.views;
    const { head } = this;
    const at = this.#firstWord + head * 4;
    u32[at] = info;
    u32[at + 1] = hash;
    this.dma.markDirty(whole, this.#base + head * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES);
    if (this.shown++ === 0) this.before = this.available;
    this.#lengths[this.#unshown] = length;
    this.#statuses[this.#unshown++] = status;
    this.head = head + 1 === this.size ? 0 : head + 1;
    this.available--;
    if (this.#unshown === LONGEST_RUN) this.publish();
  }

  /** Shows what was `put`, all of a run at a time: a driver that polls has its lines of descriptors to itself until then. */
  publish(): void {
    const count = this.#unshown;
    if (count === 0) return;
    const { views } = (this.#whole as Window).slab;
    let index = this.head - count;
    if (index < 0) index += this.size;
    fence(views.u32, this.#firstWord + index * 4);
    for (let i = 0; i < count; i++) {
      storePair(views, this.#firstWord + index * 4 + 2, this.#statuses[i] as number, this.#lengths[i] as number);
      if (++index === this.size) index = 0;
    }
    this.#unshown = 0;
    this.#words[RDH + this.index] = this.head;
  }

  // ---- any frame ----

  #place(distance: number): number {
    const index = this.head + distance;
    return this.#base + (index < this.size ? index : index - this.size) * DESCRIPTOR_BYTES;
  }

  /**
   * Finds buffers of `each` bytes for `length` bytes, and one descriptor at least. 1: found; 0: the driver has too few; -1: the ring cannot be read. Descriptors without a packet buffer are passed over (CVE-2020-28916).
   */
  reserve(length: number, each: number): number {
    let distance = 0;
    let left = Math.max(1, length);
    this.buffers = 0;
    // Known since the tail came here: not to be found out anew for every frame.
    if (this.#barren >= 0) return 0;
    while (left > 0) {
      if (distance >= this.available || distance >= MOST_LOOKED_AT) {
        if (this.buffers === 0 && distance > 0) this.#barren = this.tail;
        return 0;
      }
      if (this.buffers === MOST_BUFFERS) return -1;
      const place = this.#place(distance);
      const window = this.dma.window(place, DESCRIPTOR_BYTES, DMA_READ);
      if (window === null) {
        this.dma.fault(place, DESCRIPTOR_BYTES, DMA_READ);
        return -1;
      }
      const { u32 } = window.slab.views;
      const at = (place + window.bias) >>> 2;
      const address = (u32[at + 1] as number) * 2 ** 32 + (u32[at] as number);
      if (address !== 0) {
        if (this.buffers === 0) {
          const low = u32[at + 2] as number;
          this.headerAddress = (u32[at + 3] as number) * 2 ** 32 + low - (low & 1);
        }
        this.address[this.buffers] = address;
        this.#distance[this.buffers++] = distance;
        left -= each;
      }
      distance++;
    }
    this.descriptors = distance;
    return 1;
  }

  /** Writes back buffer `n`'s legacy descriptor, then those in front of it that have none: the last buffer first. @param status with errors and tag, as the last word */
  completeLegacy(n: number, length: number, checksum: number, status: number): void {
    for (let distance = this.#distance[n] as number; distance >= this.#first(n); distance--) {
      const own = distance === this.#distance[n];
      this.#write(distance, own ? length | (checksum << 16) : 0, own ? status : STATUS_DD, LEGACY, 0, 0);
    }
  }

  /** The same for an advanced one, word by word; DD is in `status`. */
  completeAdvanced(n: number, info: number, hash: number, status: number, length: number): void {
    for (let distance = this.#distance[n] as number; distance >= this.#first(n); distance--) {
      const own = distance === this.#distance[n];
      this.#write(distance, own ? length : 0, own ? status : STATUS_DD, ADVANCED, own ? info : 0, own ? hash : 0);
    }
  }

  /** The first descriptor that goes with buffer `n`. */
  #first(n: number): number {
    return n === 0 ? 0 : (this.#distance[n - 1] as number) + 1;
  }

  #write(distance: number, length: number, status: number, kind: number, info: number, hash: number): void {
    const place = this.#place(distance);
    const window = this.dma.window(place, DESCRIPTOR_BYTES, DMA_WRITE);
    if (window === null) {
      this.dma.fault(place, DESCRIPTOR_BYTES, DMA_WRITE);
      return;
    }
    const { views } = window.slab;
    const { u32 } = views;
    const at = (place + window.bias) >>> 2;
    this.dma.markDirty(window, place, DESCRIPTOR_BYTES);
    if (kind === ADVANCED) {
      u32[at] = info;
      u32[at + 1] = hash;
    }
    fence(u32, at);
    storePair(views, at + 2, kind === ADVANCED ? status : length, kind === ADVANCED ? length : status);
  }

  /** The frame's descriptors are the driver's again. */
  advance(): void {
    const next = this.head + this.descriptors;
    this.head = next < this.size ? next : next - this.size;
    this.available -= this.descriptors;
    this.#words[RDH + this.index] = this.head;
  }

  reset(): void {
    this.turn = -1;
    this.starvedAt = -1;
    this.#unshown = 0;
    this.#barren = -1;
    this.shown = 0;
    this.octets = 0;
    this.group = 0;
  }
}
