// The 8254x register block as a driver reaches it: BAR 0, and the two slow devices behind it, the EEPROM (5.4) and the PHY (MDIC, 13.4.8).

import type { GuestBus } from '#core/guest-bus';
import {
  E1000_WITHOUT_EERD,
  EECD_CS,
  EECD_DI,
  EECD_DO,
  EECD_GNT,
  EECD_REQ,
  EECD_SIZE,
  EECD_SK,
  EEPROM_SUM,
  EEPROM_WORDS,
  EERD_DONE,
  EERD_START,
  REG,
} from './e1000-constants.ts';
import { LOOKS, phyRead, phyWrite, type RegisterBlock, RegisterWindow } from './intel-registers.ts';
import type { PciDevice } from './pci-enumerate.ts';

/** A device that does not do what the manual says, or is not there. `code` is stable. */
export class E1000Error extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'E1000Error';
    this.code = code;
  }
}

export class E1000Registers implements RegisterBlock {
  readonly #window: RegisterWindow;
  readonly #eerd: boolean;

  /** @throws E1000Error when BAR 0 was given no address */
  constructor(bus: GuestBus, device: PciDevice) {
    const bar = device.bars.find((b) => b.index === 0 && !b.io);
    if (bar?.address === undefined || bar.size < 0x20000) throw new E1000Error('ERR_E1000_BAR', 'BAR 0 of the e1000 is missing, too small or has no address');
    this.#window = new RegisterWindow(bus, bar.address);
    this.#eerd = !E1000_WITHOUT_EERD.has(device.device);
  }

  read(offset: number): number {
    return this.#window.read(offset);
  }

  write(offset: number, value: number): void {
    this.#window.write(offset, value);
  }

  /** Posted writes have arrived once a read has come back. */
  flush(): void {
    this.read(REG.STATUS);
  }

  // ---- EEPROM ----

  /** Word `address` of the EEPROM. @throws E1000Error */
  eepromRead(address: number): number {
    if (!this.#eerd) return this.#microwireRead(address);
    this.write(REG.EERD, EERD_START | (address << 8));
    for (let look = 0; look < LOOKS; look++) {
      const value = this.read(REG.EERD);
      if ((value & EERD_DONE) !== 0) return value >>> 16;
    }
    throw new E1000Error('ERR_E1000_EEPROM', `the EEPROM did not answer a read of word ${address}`);
  }

  /** All words, their sum checked (5.6.32). @throws E1000Error */
  eepromWords(): Uint16Array {
    const words = new Uint16Array(EEPROM_WORDS);
    let sum = 0;
    for (let i = 0; i < EEPROM_WORDS; i++) {
      words[i] = this.eepromRead(i);
      sum += words[i] as number;
    }
    if ((sum & 0xffff) !== EEPROM_SUM)
      throw new E1000Error('ERR_E1000_EEPROM', `the EEPROM's words sum to 0x${(sum & 0xffff).toString(16)}, not 0x${EEPROM_SUM.toString(16)}`);
    return words;
  }

  /** A bit at a time (5.4.1): start bit and opcode 110, the address, then 16 data bits, most significant first. */
  #microwireRead(address: number): number {
    this.write(REG.EECD, (this.read(REG.EECD) & ~(EECD_SK | EECD_CS | EECD_DI)) | EECD_REQ);
    let idle = this.read(REG.EECD);
    for (let look = 0; look < LOOKS && (idle & EECD_GNT) === 0; look++) idle = this.read(REG.EECD);
    const bits = (idle & EECD_SIZE) !== 0 ? 8 : 6;
    idle &= ~(EECD_SK | EECD_DI);
    this.write(REG.EECD, idle | EECD_CS);
    const command = (6 << bits) | address;
    for (let bit = bits + 2; bit >= 0; bit--) this.#clock(idle | EECD_CS | ((command >> bit) & 1 ? EECD_DI : 0));
    let word = 0;
    for (let bit = 0; bit < 16; bit++) {
      this.#clock(idle | EECD_CS);
      word = (word << 1) | ((this.read(REG.EECD) & EECD_DO) !== 0 ? 1 : 0);
    }
    this.write(REG.EECD, idle & ~(EECD_CS | EECD_REQ));
    return word;
  }

  /** Data on the line, then a rising and a falling edge of the clock. */
  #clock(lines: number): void {
    this.write(REG.EECD, lines);
    this.write(REG.EECD, lines | EECD_SK);
    this.write(REG.EECD, lines);
  }

  // ---- PHY ----

  /** @throws E1000Error */
  phyRead(register: number): number {
    const value = phyRead(this, register);
    if (value < 0) throw silent(register);
    return value;
  }

  /** @throws E1000Error */
  phyWrite(register: number, value: number): void {
    if (!phyWrite(this, register, value)) throw silent(register);
  }
}

function silent(register: number): E1000Error {
  return new E1000Error('ERR_E1000_PHY', `the PHY did not carry out an access to register ${register}`);
}
