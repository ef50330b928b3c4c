// The shared communication block (CSB): a page of guest memory through which a driver that knows of it says where its rings end, and the device how far it is, without register accesses. Each side has a
// cache line that only it writes. "Wants a kick" comes as a flag and the ring index behind which it is wanted, so that most kicks and interrupts need not happen. docs/e1000.md has the layout.

import { DMA_WRITE, type DmaSpace, type Window } from '#core/dma-space';
import { AT } from './registers.ts';

const { CSBAH, CSBAL } = AT;

// 32-bit words. The guest's line:
const GUEST_TDT = 0;
const GUEST_NEED_TXKICK = 1;
const GUEST_NEED_RXKICK = 2;
const GUEST_CSB_ON = 3;
const GUEST_RDT = 4;
const GUEST_TXKICK_AT = 5;
// The device's:
const HOST_TDH = 16;
const HOST_NEED_TXKICK = 17;
const HOST_RDH = 20;
const HOST_NEED_RXKICK = 21;
const HOST_ISR = 22;
const HOST_RXKICK_AT = 23;
const BYTES = 128;

export class SharedBlock {
  /** The driver has switched it on, and it can be reached. Of the last `look`. */
  on = false;
  readonly #registers: Uint32Array;
  readonly #dma: DmaSpace;
  #words: Int32Array;
  #base = 0;
  #address = 0;
  #window: Window | null = null;

  constructor(registers: Uint32Array, dma: DmaSpace) {
    this.#registers = registers;
    this.#dma = dma;
    this.#words = new Int32Array(0);
  }

  /** At the start of a turn; guest memory may be touched. */
  look(): void {
    const low = this.#registers[CSBAL] as number;
    this.on = false;
    if (low === 0) return;
    this.#address = (this.#registers[CSBAH] as number) * 2 ** 32 + low;
    this.#window = (low & 63) === 0 ? this.#dma.window(this.#address, BYTES, DMA_WRITE) : null;
    if (this.#window === null) return;
    this.#words = this.#window.slab.views.i32;
    this.#base = (this.#address + this.#window.bias) >>> 2;
    this.on = this.#load(GUEST_CSB_ON) !== 0;
  }

  #load(word: number): number {
    return Atomics.load(this.#words, this.#base + word);
  }

  #store(word: number, value: number): void {
    Atomics.store(this.#words, this.#base + word, value);
    this.#dma.markDirty(this.#window as Window, this.#address + 4 * word, 4);
  }

  /** Where the driver's descriptors end; any value. */
  get transmitTail(): number {
    return this.#load(GUEST_TDT) >>> 0;
  }

  get receiveTail(): number {
    return this.#load(GUEST_RDT) >>> 0;
  }

  /** Transmit descriptors from `from` up to `head` are done. True: the driver wants to hear of it. */
  transmitted(from: number, head: number, size: number): boolean {
    this.#store(HOST_TDH, head);
    if (this.#load(GUEST_NEED_TXKICK) === 0) return false;
    const wanted = this.#load(GUEST_TXKICK_AT) >>> 0;
    return (wanted - from + size) % size < (head - from + size) % size;
  }

  /** Receive descriptors up to `head` are the driver's again. True: it wants to hear of it. */
  received(head: number): boolean {
    this.#store(HOST_RDH, head);
    return this.#load(GUEST_NEED_RXKICK) !== 0;
  }

  /** The heads, and a kick: nobody serves the rings at the moment. */
  recover(transmitHead: number, receiveHead: number): void {
    this.#store(HOST_TDH, transmitHead);
    this.#store(HOST_RDH, receiveHead);
    this.wantsTransmitKick = true;
  }

  /** Causes of an interrupt that goes out, for a driver that would rather not read ICR. */
  cause(bits: number): void {
    Atomics.or(this.#words, this.#base + HOST_ISR, bits);
    this.#dma.markDirty(this.#window as Window, this.#address + 4 * HOST_ISR, 4);
  }

  /** Serving the transmit ring, or asleep until kicked. */
  set wantsTransmitKick(wanted: boolean) {
    if ((this.#load(HOST_NEED_TXKICK) !== 0) !== wanted) this.#store(HOST_NEED_TXKICK, wanted ? 1 : 0);
  }

  /** Out of buffers: a kick is wanted once the driver's index has passed `at`. */
  wantReceiveKick(at: number): void {
    this.#store(HOST_RXKICK_AT, at);
    this.#store(HOST_NEED_RXKICK, 1);
  }

  receiveServed(): void {
    if (this.#load(HOST_NEED_RXKICK) !== 0) this.#store(HOST_NEED_RXKICK, 0);
  }
}
