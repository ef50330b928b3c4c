// One of the three areas of a ring (descriptors, driver area, device area) as views that the ring code indexes directly. An area nearly always lies in one
// run of RAM; behind an IOMMU with small pages, or across the edge of two slabs, it does not, and is then reached page by page through `seek`.

import { DMA_READ, DMA_WRITE, type DmaSpace, type Window } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';

const PAGE = 4096;
const PAGE_SHIFT = 12;
const NO_WORDS = new Int32Array(0);
const NO_HALVES = new Uint16Array(0);

/**
 * The byte at area offset `o` is byte `bias + o` of the views. In a scattered area that holds for the page of the last `seek` only, so:
 * `if (area.scattered) area.seek(o)` before every access. Accesses are naturally aligned, hence never cross a page.
 */
export class RingArea {
  words: Int32Array = NO_WORDS;
  halves: Uint16Array = NO_HALVES;
  bias = 0;
  scattered = false;
  /** After a `resolve` in vain: where the first byte lies that cannot be accessed. */
  missing = 0;
  readonly address: number;
  readonly length: number;
  readonly #dma: DmaSpace;
  readonly #write: boolean;
  readonly #read: boolean;
  /** The window of a contiguous area, or of each page (of device addresses) the area touches. */
  #windows: Window[] = [];
  /** What each window's views were, to notice that the embedder replaced the buffer. */
  #views: ByteViews[] = [];
  /** Area offset of the first page's start (zero or below). */
  readonly #firstPage: number;

  constructor(dma: DmaSpace, address: number, length: number, access: 'read' | 'write' | 'both') {
    this.#dma = dma;
    this.address = address;
    this.length = length;
    this.#read = access !== 'write';
    this.#write = access !== 'read';
    this.#firstPage = -(address % PAGE);
  }

  /** Finds the area in memory again. False when some of it cannot be accessed as a ring needs it: then nothing may be read or written. */
  resolve(): boolean {
    this.#windows = [];
    this.#views = [];
    const whole = this.#window(this.address, this.length);
    if (whole !== null) {
      this.scattered = false;
      this.#windows.push(whole);
      this.#views.push(whole.slab.views);
      this.words = whole.slab.views.i32;
      this.halves = whole.slab.views.u16;
      this.bias = this.address + whole.bias;
      return this.bias % 16 === this.address % 16;
    }
    this.scattered = true;
    for (let at = this.address + this.#firstPage; at < this.address + this.length; at += PAGE) {
      const from = Math.max(at, this.address);
      const window = this.#window(from, Math.min(at + PAGE, this.address + this.length) - from);
      // A translation finer than a page does not exist in an IOMMU; refusing it keeps every access inside one window.
      if (window === null || (window.bias + at) % PAGE !== 0) {
        this.missing = from;
        return false;
      }
      this.#windows.push(window);
      this.#views.push(window.slab.views);
    }
    this.seek(0);
    return true;
  }

  /** True while the views found by `resolve` are still the ones RAM is seen through. */
  get current(): boolean {
    for (let i = 0; i < this.#windows.length; i++) if ((this.#windows[i] as Window).slab.views !== this.#views[i] || this.words.length === 0) return false;
    return this.#windows.length > 0;
  }

  /** Scattered areas: makes the views those of the page that area offset `offset` lies in. */
  seek(offset: number): void {
    if (!this.scattered) return;
    const window = this.#windows[(offset - this.#firstPage) >>> PAGE_SHIFT] as Window;
    this.words = window.slab.views.i32;
    this.halves = window.slab.views.u16;
    this.bias = this.address + window.bias;
  }

  /** What the ring code needs of its bytes: DMA_READ, DMA_WRITE or both. */
  get access(): number {
    return (this.#read ? DMA_READ : 0) | (this.#write ? DMA_WRITE : 0);
  }

  load16(offset: number): number {
    if (this.scattered) this.seek(offset);
    return Atomics.load(this.halves, (this.bias + offset) >>> 1);
  }

  store16(offset: number, value: number): void {
    if (this.scattered) this.seek(offset);
    Atomics.store(this.halves, (this.bias + offset) >>> 1, value);
  }

  /** Signed, as all words of the ring code are: 32-bit integers stay integers in the JIT. */
  load32(offset: number): number {
    if (this.scattered) this.seek(offset);
    return Atomics.load(this.words, (this.bias + offset) >>> 2);
  }

  store32(offset: number, value: number): void {
    if (this.scattered) this.seek(offset);
    Atomics.store(this.words, (this.bias + offset) >>> 2, value);
  }

  /** Marks pages dirty: after writing there. */
  markDirty(offset: number, length: number): void {
    if (!this.scattered) {
      this.#dma.markDirty(this.#windows[0] as Window, this.address + offset, length);
      return;
    }
    const end = offset + length;
    for (let from = offset; from < end; ) {
      const page = (from - this.#firstPage) >>> PAGE_SHIFT;
      const to = Math.min(end, this.#firstPage + (page + 1) * PAGE);
      this.#dma.markDirty(this.#windows[page] as Window, this.address + from, to - from);
      from = to;
    }
  }

  #window(address: number, length: number): Window | null {
    const window = this.#dma.window(address, length, this.#write ? DMA_WRITE : DMA_READ);
    if (window === null || (this.#read && (window.permissions & DMA_READ) === 0)) return null;
    return window;
  }
}
