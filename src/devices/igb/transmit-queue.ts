// A transmit descriptor ring (82576 7.2.2): reading descriptors once; giving them back by DD or by the head's write-back, at once or when the threshold or the vector's counter says so. What is kept between turns: two
// contexts, how much of the packet at the head was sent, which reports wait.

import { DMA_READ, DMA_WRITE, type DmaSpace } from '#core/dma-space';
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

const DESCRIPTOR_BYTES = 16;
const STATUS_BYTE = 12;
const STATUS_DD = 1;
const MOST_DESCRIPTORS = 0x1_0000;
const ENABLE = 1 << 25;
const HEAD_WB_EN = 1;
/** Words of a context, and contexts of a queue (7.2.2.2, IDX). */
export const CONTEXT_WORDS = 4;
export const CONTEXTS = 2;

/** Command bytes of descriptors in hand, by their distance from the head; a port's queues share one, as one at a time is worked on. */
export function commandBytes(): Uint8Array {
  return new Uint8Array(MOST_DESCRIPTORS);
}

export interface SavedTransmitQueue {
  readonly contexts: readonly number[];
  readonly pieces: number;
  readonly localPieces: number;
  readonly locallyDone: boolean;
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
  /** Pieces of the packet at the head that are out on the network, and those that local pools have. */
  pieces = 0;
  localPieces = 0;
  /** Local pools have all of it. */
  locallyDone = false;
  /** Descriptors at the head that are no whole packet, when looked at last; -1: none. */
  stalledAt = -1;
  /** Reports that wait, from this descriptor on. */
  waiting = 0;
  waitingFrom = 0;
  word0 = 0;
  word1 = 0;
  word2 = 0;
  word3 = 0;
  /** Frames that a refusal gave back and that the rate limiter has counted already. */
  prepaid = 0;
  readonly #words: Uint32Array;
  readonly #commands: Uint8Array;
  #base = 0;

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
    if (((words[TXDCTL + index] as number) & ENABLE) === 0) return false;
    this.size = (words[TDLEN + index] as number) >>> 4;
    this.head = words[TDH + index] as number;
    this.#base = (words[TDBAH + index] as number) * 2 ** 32 + (words[TDBAL + index] as number);
    const tail = words[TDT + index] as number;
    const { head, size } = this;
    if (head >= size || tail >= size || head === tail) return false;
    this.dma.sync();
    if (!this.dma.busMaster) return false;
    this.available = (tail - head + size) % size;
    return true;
  }

  /** The registers still describe the ring that was looked at. */
  get unchanged(): boolean {
    const words = this.#words;
    const { index } = this;
    return (
      this.enabled &&
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
    this.localPieces = 0;
    this.locallyDone = false;
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
    this.contexts.fill(0);
    this.pieces = 0;
    this.localPieces = 0;
    this.locallyDone = false;
    this.stalledAt = -1;
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
