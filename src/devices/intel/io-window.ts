// The I/O BAR: a window of two registers through which every register can be reached without memory decoding (8254x 13.1.1, "I/O-mapped access"). IOADDR at 0 takes an offset, IODATA at 4 is the register there.

import type { AccessSize, Region } from '#core/region';

const IOADDR = 0;
const IODATA = 4;

export class IoWindow implements Region {
  readonly size = 8;
  /** What IOADDR holds. */
  address = 0;
  readonly #registers: Region;
  readonly #limit: number;

  /** @param limit offsets that can be reached: those of registers, not of diagnostic memory */
  constructor(registers: Region, limit: number) {
    this.#registers = registers;
    this.#limit = limit;
  }

  /** IODATA answers to whole, aligned double words only: 8254x 13.1.1. */
  read(offset: number, size: AccessSize): number {
    if (offset < IODATA) return (this.address >>> (8 * offset)) & (size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1);
    return offset === IODATA && size === 4 && this.#reaches ? this.#registers.read(this.address, 4) : 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset === IOADDR && size === 4) this.address = value >>> 0;
    else if (offset === IODATA && size === 4 && this.#reaches) this.#registers.write(this.address, 4, value);
  }

  get #reaches(): boolean {
    return this.address < this.#limit && (this.address & 3) === 0;
  }
}
