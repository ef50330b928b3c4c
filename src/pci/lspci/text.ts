// Small pieces of the listing: how flags, sizes, hexadecimal numbers and PCI addresses are written, and the reader everything goes through.

import type { AccessSize } from '#core/region';

/** Reads `size` bytes of configuration space; an absent function reads all ones. `bdf` is the 16-bit routing id. */
export type ConfigRead = (bdf: number, offset: number, size: AccessSize) => number;

export function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}

/** "01:1f.7" of a routing id. */
export function bdfText(bdf: number): string {
  return `${hex(bdf >>> 8, 2)}:${hex((bdf >>> 3) & 31, 2)}.${bdf & 7}`;
}

/** Bit position and name, in the order they are printed. */
export type FlagList = readonly (readonly [bit: number, name: string])[];

/** "Name+ Other-" for each listed bit. */
export function flagText(value: number, list: FlagList): string {
  return list.map(([bit, name]) => name + ((value >>> bit) & 1 ? '+' : '-')).join(' ');
}

const UNITS = ['', 'K', 'M', 'G', 'T', 'P'];

/** "4K" of 4096: the largest unit that divides the size. */
export function sizeText(size: number): string {
  let unit = 0;
  let left = size;
  while (left >= 1024 && left % 1024 === 0 && unit < UNITS.length - 1) {
    left /= 1024;
    unit++;
  }
  return `${left}${UNITS[unit]}`;
}

/** One function's configuration space, read where it stands. */
export class FunctionView {
  readonly bdf: number;
  readonly #read: ConfigRead;

  constructor(read: ConfigRead, bdf: number) {
    this.#read = read;
    this.bdf = bdf;
  }

  u8(offset: number): number {
    return this.#read(this.bdf, offset, 1) & 0xff;
  }

  u16(offset: number): number {
    return this.#read(this.bdf, offset, 2) & 0xffff;
  }

  u32(offset: number): number {
    return this.#read(this.bdf, offset, 4) >>> 0;
  }

  /** 64 bits as a number (exact to 2^53, which no address here exceeds once masked). */
  u64(offset: number): number {
    return this.u32(offset) + this.u32(offset + 4) * 2 ** 32;
  }

  get headerType(): number {
    return this.u8(0x0e) & 0x7f;
  }

  /** Offset of the first standard capability with `id`, or 0. Bounded however the list loops. */
  capability(id: number): number {
    for (const offset of this.capabilities()) if (this.u8(offset) === id) return offset;
    return 0;
  }

  /** Offsets of the standard capabilities in list order; stops at a loop or at a pointer into the header. */
  capabilities(): number[] {
    if ((this.u16(0x06) & 0x10) === 0) return [];
    const found: number[] = [];
    let at = this.u8(0x34) & 0xfc;
    while (at >= 0x40 && !found.includes(at)) {
      found.push(at);
      at = this.u8(at + 1) & 0xfc;
    }
    return found;
  }

  /** Offsets of the extended capabilities; empty where configuration space ends at 256 bytes. */
  extendedCapabilities(): number[] {
    const found: number[] = [];
    let at = 0x100;
    while (at >= 0x100 && !found.includes(at)) {
      const header = this.u32(at);
      if (header === 0 || header === 0xffffffff) break;
      found.push(at);
      at = (header >>> 20) & 0xffc;
    }
    return found;
  }

  extendedCapability(id: number): number {
    for (const offset of this.extendedCapabilities()) if (this.u16(offset) === id) return offset;
    return 0;
  }
}
