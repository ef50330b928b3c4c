// The 82576's register block as its driver reaches it: BAR 0, the EEPROM (EERD, 8.4.2) and the PHY, both behind the semaphores that software and firmware share (4.7).

import type { GuestBus } from '#core/guest-bus';
import * as k from './igb-constants.ts';
import { lookFor, phyRead, phyWrite, type RegisterBlock, RegisterWindow } from './intel-registers.ts';
import type { PciDevice } from './pci-enumerate.ts';

const { REG } = k;

/** A device that does not do what the datasheet says, or is not there. `code` is stable. */
export class IgbError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'IgbError';
    this.code = code;
  }
}

/** BAR 0 as a window of registers. @throws IgbError when it was given no address or is smaller than `size` */
export function openRegisters(bus: GuestBus, device: PciDevice, size: number): RegisterWindow {
  const bar = device.bars.find((b) => b.index === 0 && !b.io);
  if (bar?.address === undefined || bar.size < size) throw new IgbError('ERR_IGB_BAR', 'BAR 0 of the 82576 is missing, too small or has no address');
  return new RegisterWindow(bus, bar.address);
}

export class IgbRegisters implements RegisterBlock {
  readonly #window: RegisterWindow;

  /** @throws IgbError when BAR 0 was given no address */
  constructor(bus: GuestBus, device: PciDevice) {
    this.#window = openRegisters(bus, device, 0x20000);
  }

  read(offset: number): number {
    return this.#window.read(offset);
  }

  write(offset: number, value: number): void {
    this.#window.write(offset, value);
  }

  /** Sets and clears bits of a register. */
  change(offset: number, set: number, clear = 0): void {
    this.write(offset, (this.read(offset) & ~clear) | set);
  }

  /** Posted writes have arrived once a read has come back. */
  flush(): void {
    this.read(REG.STATUS);
  }

  /** Which of the device's two ports this is (8.2.2). */
  get port(): number {
    return (this.read(REG.STATUS) >>> k.STATUS_LAN_ID_SHIFT) & 1;
  }

  /** 4.7.1: SMBI among software, then SWESMBI towards firmware, then the resource's bit of SW_FW_SYNC. @throws IgbError */
  #acquire(bit: number): void {
    this.#lock();
    const sync = this.read(REG.SW_FW_SYNC);
    // The firmware's bit of the same resource lies 16 above ours.
    const taken = (sync & (bit | (bit << 16))) !== 0;
    if (!taken) this.write(REG.SW_FW_SYNC, sync | bit);
    this.#unlock();
    if (taken) throw new IgbError('ERR_IGB_SEMAPHORE', `SW_FW_SYNC 0x${sync.toString(16)} says that resource 0x${bit.toString(16)} is taken`);
  }

  #release(bit: number): void {
    this.#lock();
    this.change(REG.SW_FW_SYNC, 0, bit);
    this.#unlock();
  }

  #lock(): void {
    // A read that finds SMBI clear has set it (8.8.1).
    if (!lookFor(this, REG.SWSM, k.SWSM_SMBI, 0)) throw new IgbError('ERR_IGB_SEMAPHORE', 'SWSM.SMBI stays taken');
    for (let look = 0; look < 100; look++) {
      this.change(REG.SWSM, k.SWSM_SWESMBI);
      if ((this.read(REG.SWSM) & k.SWSM_SWESMBI) !== 0) return;
    }
    this.#unlock();
    throw new IgbError('ERR_IGB_SEMAPHORE', 'SWSM.SWESMBI is not granted');
  }

  #unlock(): void {
    this.change(REG.SWSM, 0, k.SWSM_SMBI | k.SWSM_SWESMBI);
  }

  /** All words, their sum checked (6.2.25). @throws IgbError */
  eepromWords(): Uint16Array {
    const words = new Uint16Array(k.EEPROM_WORDS);
    let sum = 0;
    this.#acquire(k.SW_FW_EEPROM);
    try {
      for (let i = 0; i < k.EEPROM_WORDS; i++) {
        this.write(REG.EERD, k.EERD_START | (i << k.EERD_ADDRESS_SHIFT));
        if (!lookFor(this, REG.EERD, k.EERD_DONE, k.EERD_DONE)) throw new IgbError('ERR_IGB_EEPROM', `the EEPROM did not answer a read of word ${i}`);
        words[i] = this.read(REG.EERD) >>> 16;
        sum += words[i] as number;
      }
    } finally {
      this.#release(k.SW_FW_EEPROM);
    }
    if ((sum & 0xffff) !== k.EEPROM_SUM)
      throw new IgbError('ERR_IGB_EEPROM', `the EEPROM's words sum to 0x${(sum & 0xffff).toString(16)}, not 0x${k.EEPROM_SUM.toString(16)}`);
    return words;
  }

  /** Does something with the PHY to itself. @throws IgbError when it does not answer */
  withPhy(use: (phy: { read(register: number): number; write(register: number, value: number): void }) => void): void {
    const bit = k.SW_FW_PHY << this.port;
    const silent = (register: number): never => {
      throw new IgbError('ERR_IGB_PHY', `the PHY did not carry out an access to register ${register}`);
    };
    this.#acquire(bit);
    try {
      use({
        read: (register) => {
          const value = phyRead(this, register);
          return value < 0 ? silent(register) : value;
        },
        write: (register, value) => {
          if (!phyWrite(this, register, value)) silent(register);
        },
      });
    } finally {
      this.#release(bit);
    }
  }
}
