// The NVM of a board with an 82576 (82576 3.3, 6, 8.4.1 to 8.4.3): an SPI EEPROM, read through EERD and driven pin by pin through EECD, which is how it is written; and FLA, the pins of a flash that is not fitted. What the part
// takes from it: the station address and whether APM wakes at power on. Other fields are of the board as it was delivered, so ids and offsets of capabilities are those of the options whatever is written.

import type { RegisterFile } from '#core/register-file';
import { sealEeprom } from '#devices/intel/eeprom';
import type { SpiEeprom } from '#devices/intel/spi-eeprom';
import type { IGB_REGISTERS } from './registers.ts';

/** 1024 words: EECD.EE_SIZE 4 (8.4.1, 2^(6 + n)). */
export const NVM_WORDS = 1024;
const SIZE_CODE = 4;

const INTEL = 0x8086;
/** Initialization Control 3 of port 0 and of port 1 (6.2.21), and its APM enable. */
const CONTROL_3 = [0x24, 0x14] as const;
const APM = 0x0400;

const EECD_SK = 1 << 0;
/** The level of the part's chip select, which is low when it is selected. */
const EECD_CS = 1 << 1;
const EECD_DI = 1 << 2;
const EECD_DO = 1 << 3;
const EECD_REQ = 1 << 6;
const EECD_GNT = 1 << 7;
const EECD_PRES = 1 << 8;
const EECD_AUTO_RD = 1 << 9;
const EECD_ADDRESS_16 = 1 << 10;
const EECD_SIZE_SHIFT = 11;
const EERD_START = 1 << 0;
const EERD_DONE = 1 << 1;
const FLA_REQ = 1 << 4;
const FLA_GNT = 1 << 5;

/** Contents of a board's NVM as it is delivered, sealed. */
export function boardNvm(mac: Uint8Array, deviceId: number, vfDeviceId: number, subsystemId: number): Uint16Array {
  const words = new Uint16Array(NVM_WORDS).fill(0xffff);
  // Image version 1.0.
  words[0x05] = 0x1000;
  // Initialization control 1 to 3, of both ports: ids loaded, advanced power management.
  words[0x0a] = 0x4083;
  words[0x0b] = subsystemId;
  words[0x0c] = INTEL;
  words[0x0d] = deviceId;
  words[0x0e] = INTEL;
  words[0x0f] = 0x6001;
  words[0x11] = deviceId;
  for (const at of CONTROL_3) words[at] = APM;
  words[0x26] = vfDeviceId;
  setAddress(words, mac);
  return words;
}

/** The station address (6.2.1), and the checksum with it. */
export function setAddress(words: Uint16Array, mac: Uint8Array): void {
  for (let i = 0; i < 3; i++) words[i] = (mac[2 * i] as number) | ((mac[2 * i + 1] as number) << 8);
  sealEeprom(words);
}

/** WUC.APME at power on. */
export function wakesByMagic(words: Uint16Array, port: 0 | 1): boolean {
  return ((words[CONTROL_3[port]] as number) & APM) !== 0;
}

type Registers = RegisterFile<typeof IGB_REGISTERS>;

/** EECD as it reads: present, loaded, granted to who asks. */
export function readControl(registers: Registers, eeprom: SpiEeprom): number {
  const stored = registers.get('EECD');
  const granted = (stored & EECD_REQ) !== 0;
  const fixed = EECD_PRES | EECD_AUTO_RD | EECD_ADDRESS_16 | (SIZE_CODE << EECD_SIZE_SHIFT);
  return stored | fixed | (granted ? EECD_GNT : 0) | (eeprom.output ? EECD_DO : 0);
}

/** EECD was written: its pins are software's only while that has the grant. */
export function drivePins(registers: Registers, eeprom: SpiEeprom): void {
  const pins = registers.get('EECD');
  const granted = (pins & EECD_REQ) !== 0;
  eeprom.drive(granted && (pins & EECD_CS) === 0, (pins & EECD_SK) !== 0, (pins & EECD_DI) !== 0);
}

/** EERD: a word, at once. */
export function readWord(registers: Registers, eeprom: SpiEeprom, value: number, lanes: number): void {
  if ((value & lanes & EERD_START) === 0) return;
  const address = (value >>> 2) & 0x3fff;
  const word = eeprom.words[address % eeprom.words.length] as number;
  registers.set('EERD', (word << 16) | (address << 2) | EERD_DONE);
}

/** FLA as it reads: its pins are granted to who asks, and nothing drives a flash's output (SO). */
export function readFlashControl(registers: Registers): number {
  const stored = registers.get('FLA');
  return stored | ((stored & FLA_REQ) !== 0 ? FLA_GNT : 0);
}
