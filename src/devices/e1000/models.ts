// The parts this device can be. One model of registers; a part differs by its ids, its PHY, its EEPROM access and a cause (8254x 1, 5.4, 13.4.43).

export interface E1000Model {
  readonly deviceId: number;
  readonly revision: number;
  readonly subsystemId: number;
  /** PHY identifier words. */
  readonly phyId: readonly [number, number];
  /** EERD, and request and grant in EECD: what came after the 82544. */
  readonly arbitratesEeprom: boolean;
  /** ICR.TXD_LOW and TXDCTL.LWTHRESH. */
  readonly hasLow: boolean;
}

export const E1000_MODELS = {
  '82540EM': { deviceId: 0x100e, revision: 2, subsystemId: 0x001e, phyId: [0x0141, 0x0c20], arbitratesEeprom: true, hasLow: true },
  '82544GC': { deviceId: 0x100c, revision: 2, subsystemId: 0x110d, phyId: [0x0141, 0x0c30], arbitratesEeprom: false, hasLow: false },
  '82545EM': { deviceId: 0x100f, revision: 1, subsystemId: 0x1001, phyId: [0x0141, 0x0c20], arbitratesEeprom: true, hasLow: true },
  // Drivers reset this one by CTRL's second address, and need no I/O ports.
  '82545GM': { deviceId: 0x1026, revision: 4, subsystemId: 0x1026, phyId: [0x0141, 0x0c20], arbitratesEeprom: true, hasLow: true },
} as const satisfies Record<string, E1000Model>;

export type E1000ModelName = keyof typeof E1000_MODELS;

export const INTEL = 0x8086;
/** Subsystem id by which a driver knows that there is a shared communication block to be had (docs/e1000.md). */
export const CSB_SUBSYSTEM_ID = 0x1101;

const EEPROM_WORDS = 64;
/** Signature, subsystem and vendor ids in the EEPROM are to be loaded. */
const CONTROL_1 = 0x4408;
const CONTROL_2 = 0x0a00;
/** Advanced power management on. */
const CONTROL_3 = 0x0400;

/** Contents of a board's EEPROM as it is delivered, but for the checksum (8254x 5.6). */
export function boardEeprom(model: E1000Model, subsystemId: number, mac: Uint8Array): Uint16Array {
  const words = new Uint16Array(EEPROM_WORDS);
  for (let i = 0; i < 3; i++) words[i] = (mac[2 * i] as number) | ((mac[2 * i + 1] as number) << 8);
  words[0x04] = 0xffff;
  words[0x0a] = CONTROL_1;
  words[0x0b] = subsystemId;
  words[0x0c] = INTEL;
  words[0x0d] = model.deviceId;
  words[0x0e] = INTEL;
  words[0x0f] = CONTROL_2;
  words[0x24] = CONTROL_3;
  return words;
}
