// A split virtqueue from the driver's side (virtio 1.4 2.7), in memory of the host's own: the ring that a shadow virtqueue lets its device serve. Only the used ring is
// written by the device. What a chain consists of is kept here too, so nothing is read back from where the device could see it, and a device that returns
// what it does not have breaks the ring, no more. IN_ORDER: descriptors are taken in ring order (2.7.9), and one used entry may stand for several chains.

import type { DirtyLog } from '#core/dirty-log';
import { DMA_READ, DMA_WRITE, type DmaMapping } from '#core/dma-space';
import { DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR_BYTES } from './chain.ts';
import { QUEUE_BROKEN, QUEUE_EMPTY, type QueueSetup } from './virtqueue.ts';

const PAGE = 4096;
// Available ring: flags, idx, ring[size], used_event. Used ring: flags, idx, ring[size] of {id, len}, avail_event.
const HEADER_BYTES = 4;
const AVAIL_F_NO_INTERRUPT = 1;
const USED_F_NO_NOTIFY = 1;

function pages(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE;
}

export class ShadowRing {
  readonly size: number;
  /** For the device: addresses in its own space. */
  readonly setup: QueueSetup;
  /** Free descriptors. */
  room: number;
  /** Chains that the device has and has not returned. */
  outstanding = 0;
  // Of the chain taken last.
  token = 0;
  written = 0;
  /** Its first buffer: guest-physical address and length. */
  firstAddress = -1;
  firstLength = 0;
  readonly #mask: number;
  readonly #inOrder: boolean;
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  /** Of descriptor 0, in words; of the available and the used ring's flags, in halves. */
  readonly #table: number;
  readonly #avail: number;
  readonly #used: number;
  #availIndex = 0;
  #exposed = 0;
  #usedIndex = 0;
  #usedSeen = 0;
  /** IN_ORDER: chains that the entry at hand stands for besides the one it names, which is the last of them. */
  #skipped = 0;
  #entryWritten = 0;
  // Free descriptors, first in first out: with IN_ORDER that is ring order.
  readonly #free: Uint16Array;
  #freeFrom = 0;
  // By descriptor: guest-physical address (-1: nothing of the guest's), length, whether the device may write it, the next of its chain.
  readonly #address: Float64Array;
  readonly #length: Int32Array;
  readonly #writes: Uint8Array;
  readonly #next: Uint16Array;
  // By head: descriptors (0: none of ours is out), what the guest's ring calls the chain, bytes that may be written.
  readonly #pieces: Uint16Array;
  readonly #token: Int32Array;
  readonly #writable: Float64Array;
  // The chain being added.
  #head = -1;
  #tail = -1;

  /** Bytes of whole pages, and of each area. */
  static bytes(size: number): number {
    return areasOf(size).end;
  }

  /** What a device may do there: it reads descriptors and the available ring, and writes the used ring. */
  static mappings(size: number, iova: number, address: number): DmaMapping[] {
    const { used, end } = areasOf(size);
    return [
      { iova, address, size: used, permissions: DMA_READ },
      { iova: iova + used, address: address + used, size: end - used, permissions: DMA_READ | DMA_WRITE },
    ];
  }

  /**
   * @param size a power of two
   * @param offset of its bytes, a multiple of 4096, in `buffer`
   * @param iova where the device finds them
   */
  constructor(parts: { size: number; buffer: SharedArrayBuffer; offset: number; iova: number; inOrder: boolean }) {
    const { size, buffer, offset, iova } = parts;
    const { avail, used, end } = areasOf(size);
    this.size = size;
    this.room = size;
    this.#mask = size - 1;
    this.#inOrder = parts.inOrder;
    this.#words = new Int32Array(buffer, offset, end / 4);
    this.#halves = new Uint16Array(buffer, offset, end / 2);
    this.#words.fill(0);
    this.#table = 0;
    this.#avail = avail / 2;
    this.#used = used / 2;
    this.setup = { size, descriptorArea: iova, driverArea: iova + avail, deviceArea: iova + used };
    this.#free = Uint16Array.from({ length: size }, (_, i) => i);
    this.#address = new Float64Array(size);
    this.#length = new Int32Array(size);
    this.#writes = new Uint8Array(size);
    this.#next = new Uint16Array(size);
    this.#pieces = new Uint16Array(size);
    this.#token = new Int32Array(size);
    this.#writable = new Float64Array(size);
  }

  // ---- chains to the device ----

  /** A new chain; the caller has seen that there is `room` for all of it. */
  begin(token: number): void {
    this.#head = -1;
    this.token = token;
  }

  /** The next buffer of the chain. Device-readable ones come first. `address`: guest-physical, or -1 where nothing of the guest's is. */
  add(iova: number, address: number, length: number, writable: boolean): void {
    const descriptor = this.#free[this.#freeFrom & this.#mask] as number;
    this.#freeFrom = (this.#freeFrom + 1) | 0;
    this.room--;
    const at = (this.#table + (descriptor << 2)) | 0;
    const words = this.#words;
    words[at] = iova;
    words[at + 1] = iova / 2 ** 32;
    words[at + 2] = length;
    words[at + 3] = writable ? DESC_F_WRITE : 0;
    this.#address[descriptor] = address;
    this.#length[descriptor] = length;
    this.#writes[descriptor] = writable ? 1 : 0;
    if (this.#head < 0) {
      this.#head = descriptor;
      this.#pieces[descriptor] = 1;
      this.#token[descriptor] = this.token;
      this.#writable[descriptor] = writable ? length : 0;
    } else {
      const last = (this.#table + (this.#tail << 2) + 3) | 0;
      words[last] = ((words[last] as number) & DESC_F_WRITE) | DESC_F_NEXT | (descriptor << 16);
      this.#next[this.#tail] = descriptor;
      const head = this.#head;
      this.#pieces[head] = (this.#pieces[head] as number) + 1;
      if (writable) this.#writable[head] = (this.#writable[head] as number) + length;
    }
    this.#tail = descriptor;
  }

  /** The chain is whole: seen by the device after `expose`. */
  end(): void {
    this.#halves[this.#avail + 2 + (this.#availIndex & this.#mask)] = this.#head;
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
    this.outstanding++;
  }

  /** Shows the device what was added. True when it wants to be kicked. */
  expose(): boolean {
    if (this.#exposed === this.#availIndex) return false;
    // virtio 1.4 2.7.13.3.1: descriptors and entries before the index, the index before the flag is read.
    Atomics.store(this.#halves, this.#avail + 1, this.#availIndex);
    this.#exposed = this.#availIndex;
    return (Atomics.load(this.#halves, this.#used) & USED_F_NO_NOTIFY) === 0;
  }

  /** Chains that a device which stands at `available` has not taken. */
  untaken(available: number): number {
    return (this.#availIndex - available) & 0xffff;
  }

  // ---- chains from the device ----

  suppressCalls(): void {
    this.#halves[this.#avail] = AVAIL_F_NO_INTERRUPT;
  }

  /** Asks for calls; true when something was returned meanwhile. */
  awaitCall(): boolean {
    Atomics.store(this.#halves, this.#avail, 0);
    return Atomics.load(this.#halves, this.#used + 1) !== this.#usedIndex;
  }

  /**
   * The next chain that the device returned, by its head, QUEUE_EMPTY, or QUEUE_BROKEN when it returned what it does not have. `token` and `written` say what it is; `log` marks what the device
   * wrote of it, if anybody wants to know.
   */
  take(log: DirtyLog | undefined): number {
    const index = this.#usedIndex;
    if (index === this.#usedSeen) {
      const seen = Atomics.load(this.#halves, this.#used + 1);
      if (seen === index) return QUEUE_EMPTY;
      if (((seen - index) & 0xffff) > this.outstanding) return QUEUE_BROKEN;
      this.#usedSeen = seen;
    }
    const entry = (this.#used >>> 1) + 1 + ((index & this.#mask) << 1);
    if (this.#inOrder) {
      // The chain that is out longest is the one whose turn it is; an entry that names a later one stands for all up to it, and lies where the first of them would.
      if (this.#skipped === 0) {
        const chains = this.#chainsUpTo(this.#words[entry] as number);
        if (chains === 0) return QUEUE_BROKEN;
        this.#skipped = chains;
        this.#entryWritten = (this.#words[entry + 1] as number) >>> 0;
      }
      const head = this.#halves[this.#avail + 2 + (index & this.#mask)] as number;
      // virtio 1.4 2.7.9: those without an entry of their own count as written as a whole.
      this.#return(head, --this.#skipped > 0 ? (this.#writable[head] as number) : this.#entryWritten, log);
      return head;
    }
    const head = (this.#words[entry] as number) >>> 0;
    if (head >= this.size || this.#pieces[head] === 0) return QUEUE_BROKEN;
    this.#return(head, (this.#words[entry + 1] as number) >>> 0, log);
    return head;
  }

  /** Chains from the oldest that is out to the one with this head, both counted, of those returned; 0: it is none of them. */
  #chainsUpTo(head: number): number {
    const returned = (this.#usedSeen - this.#usedIndex) & 0xffff;
    for (let n = 0; n < returned; n++) if (this.#halves[this.#avail + 2 + ((this.#usedIndex + n) & this.#mask)] === head) return n + 1;
    return 0;
  }

  #return(head: number, written: number, log: DirtyLog | undefined): void {
    this.token = this.#token[head] as number;
    this.firstAddress = this.#address[head] as number;
    this.firstLength = this.#length[head] as number;
    this.written = Math.min(written, this.#writable[head] as number);
    let left = log === undefined ? 0 : this.written;
    const pieces = this.#pieces[head] as number;
    this.#pieces[head] = 0;
    let descriptor = head;
    for (let n = 0; n < pieces; n++) {
      if (left > 0 && this.#writes[descriptor] === 1) {
        const run = Math.min(left, (this.#length[descriptor] as number) >>> 0);
        if (run > 0) log?.markAddress(this.#address[descriptor] as number, run);
        left -= run;
      }
      this.#free[(this.#freeFrom + this.room) & this.#mask] = descriptor;
      this.room++;
      descriptor = this.#next[descriptor] as number;
    }
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
    this.outstanding--;
  }
}

function areasOf(size: number): { readonly avail: number; readonly used: number; readonly end: number } {
  const avail = DESCRIPTOR_BYTES * size;
  // Its own pages: the device may write there.
  const used = pages(avail + HEADER_BYTES + 2 * size + 2);
  return { avail, used, end: pages(used + HEADER_BYTES + 8 * size + 2) };
}
