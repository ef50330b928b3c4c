// Memory that another process has and does not lend, reached by asking for it. A range may lie partly there and partly in windows, so it is looked up and moved piece by piece; what is
// mapped, or whether the device may still master the bus, may change while a piece is fetched.

import type { DmaSpace } from './dma-space.ts';
import { DMA_READ, DMA_WRITE, type DmaAccess } from './dma-table.ts';

/**
 * Memory that is reached by asking for it, piece by piece: another process's, which lends no mapping. Called on the machine's thread only; each call may take long, and the
 * guest may do anything meanwhile (also to this device). Windows never cover it: virtqueues cannot lie there.
 */
export interface RemoteMemory {
  /** There is no other: no virtqueue can be anywhere. */
  readonly everything: boolean;
  /** How many bytes from `address` on, `length` at most, are there for this access; 0: none. */
  run(address: number, length: number, access: DmaAccess): number;
  /** False: the other side did not answer, or refused. */
  read(address: number, into: Uint8Array, offset: number, length: number): boolean;
  write(address: number, from: Uint8Array, offset: number, length: number): boolean;
}

/** Accesses of a space to ranges that its windows do not cover, or not all of. */
export class RemoteAccess {
  readonly memory: RemoteMemory;
  readonly #space: DmaSpace;
  /** One register's worth. */
  readonly #word = new Uint8Array(4);

  constructor(space: DmaSpace, memory: RemoteMemory) {
    this.#space = space;
    this.memory = memory;
  }

  /** True when all of [address, address + length) may be accessed. The space was synced. */
  reaches(address: number, length: number, access: DmaAccess): boolean {
    if (!this.#space.busMaster) return false;
    for (let done = 0; done < length; ) {
      const run = this.#run(address + done, length - done, access);
      if (run === 0) return false;
      done += run;
    }
    return length > 0;
  }

  /** Bytes that one window, or one remote piece, has of a range. */
  #run(address: number, length: number, access: DmaAccess): number {
    const w = this.#space.window(address, 0, access);
    return w === null ? this.memory.run(address, length, access) : Math.min(length, w.end - address);
  }

  /** Moves `length` bytes between a range and `bytes`. False, and a fault: not, or not all. */
  exchange(address: number, bytes: Uint8Array, offset: number, length: number, access: DmaAccess): boolean {
    const space = this.#space;
    if (!this.reaches(address, length, access)) return space.fault(address, length, access);
    for (let done = 0; done < length; ) {
      const at = address + done;
      // Whatever happens while a piece is fetched, the next is looked up anew.
      space.sync();
      const run = space.busMaster ? this.#run(at, length - done, access) : 0;
      if (run === 0) return space.fault(at, length - done, access);
      const w = space.window(at, 0, access);
      if (w !== null) {
        const { u8 } = w.slab.views;
        if (access === DMA_READ) bytes.set(u8.subarray(at + w.bias, at + w.bias + run), offset + done);
        else {
          u8.set(bytes.subarray(offset + done, offset + done + run), at + w.bias);
          space.markDirty(w, at, run);
        }
      } else {
        const { memory } = this;
        const ok = access === DMA_READ ? memory.read(at, bytes, offset + done, run) : memory.write(at, bytes, offset + done, run);
        if (!ok) return space.fault(at, run, access);
      }
      done += run;
    }
    return true;
  }

  /** As `DmaSpace.load16` and `load32`. */
  load(address: number, size: 2 | 4): number {
    const word = this.#word;
    if ((address & (size - 1)) !== 0) {
      this.#space.fault(address, size, DMA_READ);
      return -1;
    }
    if (!this.exchange(address, word, 0, size, DMA_READ)) return -1;
    const low = (word[0] as number) | ((word[1] as number) << 8);
    return size === 2 ? low : (low | ((word[2] as number) << 16) | ((word[3] as number) << 24)) >>> 0;
  }

  store(address: number, size: 2 | 4, value: number): boolean {
    if ((address & (size - 1)) !== 0) return this.#space.fault(address, size, DMA_WRITE);
    for (let i = 0; i < size; i++) this.#word[i] = value >>> (8 * i);
    return this.exchange(address, this.#word, 0, size, DMA_WRITE);
  }
}
