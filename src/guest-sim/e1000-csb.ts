// The shared communication block of a paravirtual e1000 (Rizzo 2013): a page of guest memory in which driver and device leave each other their ring positions and say whether
// they want to be told of the next. Word offsets are in e1000-constants.ts. Index stores come after what they announce, and go through Atomics.

import type { GuestArena } from './arena.ts';
import { CSB, CSB_BYTES } from './e1000-constants.ts';

export class SharedBlock {
  readonly #arena: GuestArena;
  readonly #offset: number;
  readonly #first: number;

  constructor(arena: GuestArena) {
    this.#arena = arena;
    this.#offset = arena.allocate(CSB_BYTES, CSB_BYTES);
    this.#first = this.#offset >>> 2;
  }

  get address(): number {
    return this.#arena.address(this.#offset);
  }

  get(word: number): number {
    return Atomics.load(this.#arena.i32, this.#first + word) >>> 0;
  }

  set(word: number, value: number): void {
    Atomics.store(this.#arena.i32, this.#first + word, value);
  }

  /** Announces transmit descriptors up to `tail`. True when the device sleeps and wants a write of TDT. */
  announceTransmit(tail: number): boolean {
    this.set(CSB.guest_tdt, tail);
    return this.get(CSB.host_need_txkick) !== 0;
  }

  /** Announces receive descriptors up to `tail`, from `before`. True when the device ran short and wants a write of RDT as the tail passes an index it named. */
  announceReceive(before: number, tail: number, size: number): boolean {
    this.set(CSB.guest_rdt, tail);
    if (this.get(CSB.host_need_rxkick) === 0) return false;
    const at = this.get(CSB.host_rxkick_at) % size;
    return (tail - at + size) % size <= (tail - before + size) % size;
  }

  dispose(): void {
    this.#arena.free(this.#offset);
  }
}
