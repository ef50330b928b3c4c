// What Intel's register blocks share, whatever the part: a window of 32-bit registers in BAR 0, and the PHY behind MDIC, whose waits are bounded by a number of looks, as a
// broken device never answers.

import type { GuestBus } from '#core/guest-bus';

export interface RegisterBlock {
  read(offset: number): number;
  write(offset: number, value: number): void;
}

export class RegisterWindow implements RegisterBlock {
  readonly #bus: GuestBus;
  readonly #base: number;

  constructor(bus: GuestBus, base: number) {
    this.#bus = bus;
    this.#base = base;
  }

  read(offset: number): number {
    return this.#bus.mmioRead(this.#base + offset, 4);
  }

  write(offset: number, value: number): void {
    this.#bus.mmioWrite(this.#base + offset, 4, value >>> 0);
  }
}

/** Looks before a device that should have answered counts as broken. */
export const LOOKS = 1000;

/** Reads `offset` until a masked value shows. False: it never did. */
export function lookFor(registers: RegisterBlock, offset: number, mask: number, value: number): boolean {
  for (let look = 0; look < LOOKS; look++) if ((registers.read(offset) & mask) === value) return true;
  return false;
}

// A descriptor ring's registers, from the first one's offset: the same for both directions and all parts.
const BASE_LOW = 0x00;
const BASE_HIGH = 0x04;
const LENGTH = 0x08;
const HEAD = 0x10;
const TAIL = 0x18;

/** Ring registers: base, length, head, tail. The queue is off. */
export function programRing(registers: RegisterBlock, block: number, address: number, bytes: number): void {
  registers.write(block + BASE_LOW, address % 2 ** 32);
  registers.write(block + BASE_HIGH, Math.floor(address / 2 ** 32));
  registers.write(block + LENGTH, bytes);
  registers.write(block + HEAD, 0);
  registers.write(block + TAIL, 0);
}

// MDIC, the same in the 8254x (13.4.8) and the 82576 (8.2.4).
const MDIC = 0x0020;
const MDIC_PHY = 1 << 21;
const MDIC_WRITE = 1 << 26;
const MDIC_READ = 2 << 26;
const MDIC_READY = 1 << 28;
const MDIC_ERROR = 1 << 30;

/** PHY registers (IEEE 802.3 22.2.4). */
export const PHY_CONTROL = 0;
export const PHY_ID1 = 2;
export const PHY_ADVERTISE = 4;
export const PHY_AUTONEG_ENABLE = 1 << 12;
export const PHY_AUTONEG_RESTART = 1 << 9;
export const PHY_ADVERTISE_PAUSE = 3 << 10;

/** A PHY register, or -1 when the PHY does not answer. */
export function phyRead(registers: RegisterBlock, register: number): number {
  return command(registers, MDIC_READ | (register << 16));
}

/** False: the PHY does not answer. */
export function phyWrite(registers: RegisterBlock, register: number, value: number): boolean {
  return command(registers, MDIC_WRITE | (register << 16) | value) >= 0;
}

function command(registers: RegisterBlock, word: number): number {
  registers.write(MDIC, word | MDIC_PHY);
  for (let look = 0; look < LOOKS; look++) {
    const value = registers.read(MDIC);
    if ((value & MDIC_READY) !== 0) return (value & MDIC_ERROR) !== 0 ? -1 : value & 0xffff;
  }
  return -1;
}
