// The transmit descriptor ring (8254x 3.4): reading descriptors once, and giving them back: head, status write-back with its threshold, and the causes that go with it. Descriptors that
// are being worked on lie from the head on; nothing is in flight between turns.

import { DMA_READ, DMA_WRITE, type DmaSpace } from '#core/dma-space';
import type { FrameBatch } from '#net/port';
import { type EngineState, EVENT_SENT_DELAYED } from './engine-state.ts';
import { AT, ICR_TXD_LOW, ICR_TXDW, ICR_TXQE } from './registers.ts';

const { TDBAH, TDBAL, TDH, TDLEN, TXDCTL } = AT;

/** Command bits, as in the top byte of a descriptor's third word. */
export const CMD_EOP = 0x01;
export const CMD_IFCS = 0x02;
/** Legacy: insert a checksum. Data: TSE. */
export const CMD_IC = 0x04;
export const CMD_TSE = 0x04;
const CMD_RS = 0x08;
const CMD_RPS = 0x10;
export const CMD_DEXT = 0x20;
export const CMD_VLE = 0x40;
const CMD_IDE = 0x80;
const CMD_REPORT = CMD_RS | CMD_RPS;

/** 8254x 3.3: the longest packet that is not segmented. */
export const LONGEST_PACKET = 16288;
export const SHORTEST_FRAME = 60;

/** How much `collectPlain` may append, and how many bytes it did. */
export interface PlainLimit {
  frames: number;
  bytes: number;
  taken: number;
}

const DESCRIPTOR_BYTES = 16;
const STATUS_BYTE = 12;
const STATUS_DD = 1;
const MOST_DESCRIPTORS = 0x1_0000;
/** Descriptors in a cache line, where TXDCTL counts in lines: 64 bytes. */
const LINE_DESCRIPTORS = 4;

export class TransmitRing {
  /** Next descriptor to give back. */
  head = 0;
  /** Descriptors the driver has added from the head on. */
  available = 0;
  size = 0;
  /** Where the head was before descriptors were given back last; -1: that has been looked at. */
  retiredFrom = -1;
  // Of the descriptor fetched last.
  word0 = 0;
  word1 = 0;
  word2 = 0;
  word3 = 0;
  readonly #state: EngineState;
  readonly #words: Uint32Array;
  readonly #dma: DmaSpace;
  readonly #hasLow: boolean;
  #base = 0;
  /** The whole ring, where it lies in one piece of memory: its words, and the first of them. */
  #whole: Uint32Array | null = null;
  #first = 0;
  /** Command byte of each fetched descriptor, by its distance from the head. */
  readonly #commands = new Uint8Array(MOST_DESCRIPTORS);

  /** @param hasLow the part has the TXD_LOW cause */
  constructor(state: EngineState, dma: DmaSpace, hasLow: boolean) {
    this.#state = state;
    this.#words = state.registers;
    this.#dma = dma;
    this.#hasLow = hasLow;
  }

  /** Looks at the registers. False: the ring they describe cannot be served. @param tail where the driver's descriptors end */
  look(tail: number): boolean {
    const words = this.#words;
    this.size = (words[TDLEN] as number) >>> 4;
    this.#base = (words[TDBAH] as number) * 2 ** 32 + (words[TDBAL] as number);
    this.head = words[TDH] as number;
    this.available = 0;
    // Indices outside the ring would never meet: nothing is served (CVE-2016-1981).
    if (this.head >= this.size || tail >= this.size) return this.size === 0 || this.head === tail;
    this.available = (tail - this.head + this.size) % this.size;
    const window = this.#dma.window(this.#base, this.size * DESCRIPTOR_BYTES, DMA_READ);
    this.#whole = window === null ? null : window.slab.views.u32;
    if (window !== null) this.#first = (this.#base + window.bias) >>> 2;
    return true;
  }

  /**
   * Appends frames that go out as they lie in one piece of memory, each by one legacy descriptor that asks for nothing else: the usual case. From the descriptor `from` after the head
   * on, up to the first that is otherwise. Returns how many.
   * @param tags VLE is no plain request
   */
  collectPlain(batch: FrameBatch, from: number, limit: PlainLimit, tags: boolean): number {
    const words = this.#whole;
    if (words === null) return 0;
    const mask = ((CMD_DEXT | CMD_EOP | CMD_IFCS | CMD_IC | (tags ? CMD_VLE : 0)) << 24) >>> 0;
    const plain = ((CMD_EOP | CMD_IFCS) << 24) >>> 0;
    const { segments } = batch;
    const frames = Math.min(limit.frames, this.available - from, segments.capacity - segments.count);
    let index = this.head + from < this.size ? this.head + from : this.head + from - this.size;
    let count = 0;
    let bytes = 0;
    for (; count < frames && bytes < limit.bytes; count++) {
      const at = this.#first + index * 4;
      const word2 = words[at + 2] as number;
      const length = word2 & 0xffff;
      if ((word2 & mask) >>> 0 !== plain || length < SHORTEST_FRAME || length > LONGEST_PACKET) break;
      const address = (words[at + 1] as number) * 2 ** 32 + (words[at] as number);
      const window = this.#dma.window(address, length, DMA_READ);
      if (window === null) break;
      this.#commands[from + count] = word2 >>> 24;
      const frame = batch.count++;
      batch.firstSegment[frame] = segments.count;
      segments.addGuestAt(window, window.slab.views, address + window.bias, address, length);
      batch.segmentCount[frame] = 1;
      batch.length[frame] = length;
      batch.flags[frame] = 0;
      batch.gsoType[frame] = 0;
      batch.hashReport[frame] = 0;
      batch.needs[frame] = 0;
      batch.token[frame] = index;
      bytes += length;
      if (++index === this.size) index = 0;
    }
    limit.taken = bytes;
    return count;
  }

  /** The registers still describe the ring that was looked at: no reset or set-up came in between. */
  get unchanged(): boolean {
    const words = this.#words;
    return (
      words[TDH] === this.head && (words[TDLEN] as number) >>> 4 === this.size && (words[TDBAH] as number) * 2 ** 32 + (words[TDBAL] as number) === this.#base
    );
  }

  /** Reads the descriptor `distance` after the head. False: its address cannot be read. */
  fetch(distance: number): boolean {
    const index = this.head + distance;
    const address = this.#base + (index < this.size ? index : index - this.size) * DESCRIPTOR_BYTES;
    const window = this.#dma.window(address, DESCRIPTOR_BYTES, DMA_READ);
    if (window === null) return this.#dma.fault(address, DESCRIPTOR_BYTES, DMA_READ);
    const { u32 } = window.slab.views;
    const at = (address + window.bias) >>> 2;
    this.word0 = u32[at] as number;
    this.word1 = u32[at + 1] as number;
    this.word2 = u32[at + 2] as number;
    this.word3 = u32[at + 3] as number;
    this.#commands[distance] = this.word2 >>> 24;
    return true;
  }

  /**
   * The oldest `count` fetched descriptors are done: moves the head, writes back what asked for it. Returns events.
   * @param pieces sent of the packet that is at the head then
   */
  retire(count: number, pieces: number): number {
    const state = this.#state;
    if (count === 0) {
      state.pieces = pieces;
      return 0;
    }
    const words = this.#words;
    const next = (this.head + count) % this.size;
    // The head first, with a note of what is still to be written: a thread that dies here leaves neither frames to be sent once more nor descriptors without their report.
    state.setReporting(this.head, count);
    state.pieces = pieces;
    Atomics.store(words, TDH, next);
    const control = words[TXDCTL] as number;
    const threshold = ((control >>> 16) & 0x3f) * ((control & 0x0100_0000) !== 0 ? 1 : LINE_DESCRIPTORS);
    let events = 0;
    for (let i = 0; i < count; i++) {
      const command = this.#commands[i] as number;
      if ((command & CMD_REPORT) === 0 && state.waiting === 0) continue;
      const index = this.head + i < this.size ? this.head + i : this.head + i - this.size;
      if (threshold === 0 && state.waiting === 0) {
        this.#writeBack(index);
        events |= (command & CMD_IDE) !== 0 ? EVENT_SENT_DELAYED : ICR_TXDW;
      } else {
        // 8254x 13.4.43: from the first one that reports on, every descriptor is collected and written.
        state.setWaiting(state.waiting === 0 ? index : state.waitingFrom, state.waiting + 1);
        if (state.waiting >= threshold) {
          this.flush();
          events |= (command & CMD_IDE) !== 0 ? EVENT_SENT_DELAYED : ICR_TXDW;
        } else events |= EVENT_SENT_DELAYED;
      }
    }
    state.setReporting(0, 0);
    this.retiredFrom = this.head;
    this.head = next;
    const left = this.available - count;
    if (left === 0) events |= ICR_TXQE;
    const low = 8 * (control >>> 25);
    if (this.#hasLow && this.available > low && left <= low) events |= ICR_TXD_LOW;
    this.available = left;
    return events;
  }

  /** Writes back what waits for the threshold. */
  flush(): void {
    const { waiting, waitingFrom } = this.#state;
    for (let i = 0; i < waiting; i++) this.#writeBack((waitingFrom + i) % Math.max(1, this.size));
    this.#state.setWaiting(0, 0);
  }

  /** After a thread died: writes what it had not. A descriptor that the driver has given again since had been written. The registers were looked at. */
  recover(): void {
    this.flush();
    const { reporting, reportingFrom } = this.#state;
    for (let i = 0; i < reporting && this.size > 0; i++) {
      const index = (reportingFrom + i) % this.size;
      const distance = (index - this.head + this.size) % this.size;
      if (distance >= this.available && this.fetch(distance) && ((this.word2 >>> 24) & CMD_REPORT) !== 0) this.#writeBack(index);
    }
    this.#state.setReporting(0, 0);
  }

  #writeBack(index: number): void {
    const address = this.#base + index * DESCRIPTOR_BYTES + STATUS_BYTE;
    const window = this.#dma.window(address, 1, DMA_WRITE);
    if (window === null) {
      this.#dma.fault(address, 1, DMA_WRITE);
      return;
    }
    const { u8 } = window.slab.views;
    const at = address + window.bias;
    this.#dma.markDirty(window, address, 1);
    // DD set; EC, LC and TU, of half duplex, clear.
    Atomics.store(u8, at, ((u8[at] as number) & 0xf0) | STATUS_DD);
  }
}
