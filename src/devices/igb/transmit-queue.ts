// A transmit descriptor ring (82576 7.2.2): reading descriptors once; giving them back by DD or by the head's write-back, at once or when the threshold or the vector's counter says so. What is kept between turns: two
// contexts, how much was sent already of what is not done with, which reports wait, how far an end was looked for. Packets of one descriptor that asks for nothing, the usual ones, go a short way (`plain`, `collectPlain`).

import { DMA_READ, DMA_WRITE, type DmaSpace, type Window } from '#core/dma-space';
import type { FrameBatch } from '#net/port';
import { AT } from './registers.ts';

const { TDBAH, TDBAL, TDH, TDLEN, TDT, TDWBAH, TDWBAL, TXDCTL } = AT;

/** Command bits, as in the top byte of a descriptor's third word. */
export const CMD_EOP = 0x01;
export const CMD_IFCS = 0x02;
export const CMD_IC = 0x04;
const CMD_RS = 0x08;
export const CMD_DEXT = 0x20;
export const CMD_VLE = 0x40;
export const CMD_TSE = 0x80;
export const TYPE_DATA = 3;
export const LONGEST_PACKET = 0x3fff;
/** Frames are padded to this. */
export const SHORTEST = 60;
const SHORTEST_HEADER = 14;

// Of a usual descriptor's third word what has to be so, and what it then is: one piece, with the FCS inserted, no tag, offload or time stamp; an advanced one, or a legacy one. VLE only matters where tags are inserted.
const ADVANCED_MASK = (((CMD_DEXT | CMD_EOP | CMD_IFCS | CMD_TSE) << 24) | (15 << 20) | (1 << 19)) >>> 0;
const ADVANCED_PLAIN = (((CMD_DEXT | CMD_EOP | CMD_IFCS) << 24) | (TYPE_DATA << 20)) >>> 0;
const LEGACY_MASK = ((CMD_DEXT | CMD_EOP | CMD_IFCS | CMD_IC) << 24) >>> 0;
const LEGACY_PLAIN = ((CMD_EOP | CMD_IFCS) << 24) >>> 0;
/** POPTS: checksums. */
const OFFLOADS = 3 << 8;

const DESCRIPTOR_BYTES = 16;
const STATUS_BYTE = 12;
const STATUS_DD = 1;
const MOST_DESCRIPTORS = 0x1_0000;
const ENABLE = 1 << 25;
const HEAD_WB_EN = 1;
/** Words of a context, and contexts of a queue (7.2.2.2, IDX). */
export const CONTEXT_WORDS = 4;
export const CONTEXTS = 2;

/** What a run of usual frames may take, and what it took. */
export interface PlainLimit {
  frames: number;
  bytes: number;
  taken: number;
  /** VLE is no plain request. */
  tags: boolean;
}

/** Command bytes of descriptors in hand, by their distance from the head; a port's queues share one, as one at a time is worked on. */
export function commandBytes(): Uint8Array {
  return new Uint8Array(MOST_DESCRIPTORS);
}

export interface SavedTransmitQueue {
  readonly contexts: readonly number[];
  readonly pieces: number;
  readonly localPieces: number;
  readonly locallyDone: number;
  readonly waitingFrom: number;
  readonly waiting: number;
}

export class TransmitQueue {
  readonly index: number;
  head = 0;
  size = 0;
  /** Descriptors the driver has added from the head on. */
  available = 0;
  dma: DmaSpace;
  readonly contexts = new Uint32Array(CONTEXTS * CONTEXT_WORDS);
  /** Pieces of the packet at the head that are out on the network. */
  pieces = 0;
  /** Packets from the head on of which local pools have all that they are to have: not to be delivered again when they are read again. */
  locallyDone = 0;
  /** Pieces that they have of the packet behind those. */
  localPieces = 0;
  /** Descriptors at the head that are no whole packet, when looked at last; -1: none. */
  stalledAt = -1;
  /** Reports that wait, from this descriptor on. */
  waiting = 0;
  waitingFrom = 0;
  word0 = 0;
  word1 = 0;
  word2 = 0;
  word3 = 0;
  /** Where the frame of the descriptor looked at by `plain` lies. */
  window: Window | null = null;
  address = 0;
  /** All descriptors were looked through by `findEnd`. */
  searched = false;
  /** Frames that a refusal gave back and that the rate limiter has counted already. */
  prepaid = 0;
  readonly #words: Uint32Array;
  readonly #commands: Uint8Array;
  #base = 0;
  /** Moves with every reset, and where it stood at the last look: a ring that was set up anew at the same place is another ring. */
  #resets = 0;
  #lookedAt = 0;
  /** The ring's first word, where it lies in one piece of memory. */
  #whole: Window | null = null;
  #first = 0;
  // A packet without an end so far: where it begins in the ring (-1: there is none), and how many of its descriptors were looked at.
  #openAt = -1;
  #open = 0;

  constructor(index: number, words: Uint32Array, dma: DmaSpace, commands: Uint8Array) {
    this.index = index;
    this.#words = words;
    this.#commands = commands;
    this.dma = dma;
  }

  get enabled(): boolean {
    return ((this.#words[TXDCTL + this.index] as number) & ENABLE) !== 0;
  }

  /** Looks at the registers. False: there is nothing to serve. Indices outside the ring would never meet (CVE-2016-1981). */
  look(): boolean {
    const words = this.#words;
    const { index } = this;
    this.available = 0;
    this.#lookedAt = this.#resets;
    if (((words[TXDCTL + index] as number) & ENABLE) === 0) return false;
    const entries = (words[TDLEN + index] as number) >>> 4;
    const base = (words[TDBAH + index] as number) * 2 ** 32 + (words[TDBAL + index] as number);
    if (entries !== this.size || base !== this.#base) this.#openAt = -1;
    this.size = entries;
    this.#base = base;
    this.head = words[TDH + index] as number;
    const tail = words[TDT + index] as number;
    const { head, size } = this;
    this.#whole = null;
    if (head >= size || tail >= size || head === tail) return false;
    this.dma.sync();
    if (!this.dma.busMaster) return false;
    this.available = (tail - head + size) % size;
    this.#whole = this.dma.window(base, size * DESCRIPTOR_BYTES, DMA_READ);
    if (this.#whole !== null) this.#first = (base + this.#whole.bias) >>> 2;
    return true;
  }

  /** Bytes of the frame that the descriptor `distance` after the head is all of, as it lies at `address` in one piece (`window`). 0: it is not that simple. @param tags VLE asks for something */
  plain(distance: number, tags: boolean): number {
    const whole = this.#whole;
    if (whole === null) return 0;
    const { u32 } = whole.slab.views;
    const index = this.head + distance;
    const at = this.#first + (index < this.size ? index : index - this.size) * 4;
    const word2 = u32[at + 2] as number;
    const advanced = (word2 & ADVANCED_MASK) >>> 0 === ADVANCED_PLAIN;
    if (advanced ? ((u32[at + 3] as number) & OFFLOADS) !== 0 : (word2 & LEGACY_MASK) >>> 0 !== LEGACY_PLAIN) return 0;
    const length = word2 & 0xffff;
    if ((tags && (word2 & (CMD_VLE << 24)) !== 0) || length < SHORTEST_HEADER || length > LONGEST_PACKET) return 0;
    const address = (u32[at + 1] as number) * 2 ** 32 + (u32[at] as number);
    const window = this.dma.window(address, length, DMA_READ);
    if (window === null) return 0;
    if (this.window !== window) this.window = window;
    this.address = address;
    this.#commands[distance] = word2 >>> 24;
    return length;
  }

  /** Appends such frames as they lie, from the descriptor `from` after the head on up to the first that is otherwise, or too short, until there are so many frames or bytes. Returns how many. */
  collectPlain(batch: FrameBatch, from: number, limit: PlainLimit): number {
    const { segments } = batch;
    const { tags } = limit;
    const frames = Math.min(limit.frames, this.available - from, segments.capacity - segments.count);
    let index = this.head + from < this.size ? this.head + from : this.head + from - this.size;
    let count = 0;
    let bytes = 0;
    for (; count < frames && bytes < limit.bytes; count++) {
      const length = this.plain(from + count, tags);
      if (length < SHORTEST) break;
      const window = this.window as Window;
      batch.token[appendPlain(batch, length)] = (this.index << 16) | index;
      segments.addGuestAt(window, window.slab.views, this.address + window.bias, this.address, length);
      bytes += length;
      if (++index === this.size) index = 0;
    }
    limit.taken = bytes;
    return count;
  }

  /**
   * How many descriptors the packet has that begins `from` after the head, counted from the head: the place behind its EOP. 0: none was found among `most`, or among all there are (`searched`); the search goes on from there
   * the next time, as a driver may add to such a packet one by one. -1: the ring cannot be read.
   */
  findEnd(from: number, most: number): number {
    const start = (this.head + from) % this.size;
    if (this.#openAt !== start) this.#open = 0;
    this.#openAt = start;
    const begin = from + this.#open;
    const end = Math.min(this.available, begin + most);
    for (let at = begin; at < end; at++) {
      if (!this.fetch(at)) return -1;
      const command = this.word2 >>> 24;
      const data = (command & CMD_DEXT) === 0 || ((this.word2 >>> 20) & 15) === TYPE_DATA;
      if (data && (command & CMD_EOP) !== 0) {
        this.#openAt = -1;
        return at + 1;
      }
      this.#open++;
    }
    this.searched = from + this.#open >= this.available;
    return 0;
  }

  /** The registers still describe the ring that was looked at. */
  get unchanged(): boolean {
    const words = this.#words;
    const { index } = this;
    return (
      this.enabled &&
      this.#lookedAt === this.#resets &&
      words[TDH + index] === this.head &&
      (words[TDLEN + index] as number) >>> 4 === this.size &&
      (words[TDBAH + index] as number) * 2 ** 32 + (words[TDBAL + index] as number) === this.#base
    );
  }

  /** Reads the descriptor `distance` after the head. False: its address cannot be read. */
  fetch(distance: number): boolean {
    const at = this.head + distance;
    const address = this.#base + (at < this.size ? at : at - this.size) * DESCRIPTOR_BYTES;
    const window = this.dma.window(address, DESCRIPTOR_BYTES, DMA_READ);
    if (window === null) return this.dma.fault(address, DESCRIPTOR_BYTES, DMA_READ);
    const { u32 } = window.slab.views;
    const from = (address + window.bias) >>> 2;
    this.word0 = u32[from] as number;
    this.word1 = u32[from + 1] as number;
    this.word2 = u32[from + 2] as number;
    this.word3 = u32[from + 3] as number;
    this.#commands[distance] = this.word2 >>> 24;
    return true;
  }

  /**
   * The oldest `count` fetched descriptors are done. True: the driver is told of it.
   * @param quiet the vector's counter stands at zero, so that nothing need wait for the threshold (7.2.2.6)
   */
  retire(count: number, quiet: boolean): boolean {
    const { index } = this;
    const words = this.#words;
    this.pieces = 0;
    this.stalledAt = -1;
    const next = (this.head + count) % this.size;
    words[TDH + index] = next;
    const threshold = ((words[TXDCTL + index] as number) >>> 16) & 31;
    const byHead = ((words[TDWBAL + index] as number) & HEAD_WB_EN) !== 0;
    let told = false;
    for (let i = 0; i < count; i++) {
      const reports = ((this.#commands[i] as number) & CMD_RS) !== 0;
      if (!reports && this.waiting === 0) continue;
      const at = this.head + i < this.size ? this.head + i : this.head + i - this.size;
      if (byHead) {
        told ||= reports;
        continue;
      }
      if (threshold === 0 && this.waiting === 0) {
        this.#writeBack(at);
        told = true;
        continue;
      }
      if (this.waiting === 0) this.waitingFrom = at;
      this.waiting++;
      if (this.waiting >= threshold) told = this.flush() || told;
    }
    this.head = next;
    this.available -= count;
    if (byHead && told) this.#writeHead(next);
    if (quiet && this.flush()) told = true;
    return told;
  }

  /** Writes back what waits. True: there was something. */
  flush(): boolean {
    const { waiting } = this;
    this.waiting = 0;
    if (waiting === 0 || this.size === 0) return false;
    this.dma.sync();
    for (let i = 0; i < waiting; i++) this.#writeBack((this.waitingFrom + i) % this.size);
    return true;
  }

  /** TDWBAL, TDWBAH: the head as a double word (7.2.3). */
  #writeHead(head: number): void {
    const low = this.#words[TDWBAL + this.index] as number;
    this.dma.store32((this.#words[TDWBAH + this.index] as number) * 2 ** 32 + low - (low & 3), head);
  }

  #writeBack(at: number): void {
    const address = this.#base + at * DESCRIPTOR_BYTES + STATUS_BYTE;
    const window = this.dma.window(address, 1, DMA_WRITE);
    if (window === null) {
      this.dma.fault(address, 1, DMA_WRITE);
      return;
    }
    const { u8 } = window.slab.views;
    const from = address + window.bias;
    this.dma.markDirty(window, address, 1);
    Atomics.store(u8, from, ((u8[from] as number) & 0xf0) | STATUS_DD);
  }

  /** Nothing that was read from descriptors applies any more. */
  reset(): void {
    this.#resets++;
    this.contexts.fill(0);
    this.pieces = 0;
    this.localPieces = 0;
    this.locallyDone = 0;
    this.stalledAt = -1;
    this.#openAt = -1;
    this.waiting = 0;
    this.prepaid = 0;
  }

  save(): SavedTransmitQueue {
    const { pieces, localPieces, locallyDone, waitingFrom, waiting } = this;
    return { contexts: Array.from(this.contexts), pieces, localPieces, locallyDone, waitingFrom, waiting };
  }

  restore(saved: SavedTransmitQueue): void {
    this.reset();
    this.contexts.set(saved.contexts);
    this.pieces = saved.pieces;
    this.localPieces = saved.localPieces;
    this.locallyDone = saved.locallyDone;
    this.waitingFrom = saved.waitingFrom;
    this.waiting = saved.waiting;
    this.look();
  }
}

/** Appends a frame of `length` bytes, which has one segment, added next, and asks for nothing. Returns which. */
export function appendPlain(batch: FrameBatch, length: number): number {
  const frame = batch.count++;
  batch.firstSegment[frame] = batch.segments.count;
  batch.segmentCount[frame] = 1;
  batch.length[frame] = length;
  batch.flags[frame] = 0;
  batch.gsoType[frame] = 0;
  batch.hashReport[frame] = 0;
  batch.needs[frame] = 0;
  return frame;
}
