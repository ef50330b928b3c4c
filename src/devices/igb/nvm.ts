// The NVM of a board with an 82576 (82576 6.2): what a driver reads of it, through EERD. One image for both ports.

import { sealEeprom } from '#devices/intel/eeprom';

/** 1024 words: EECD.EE_SIZE 4 (8.4.1, 2^(6 + n)). */
const NVM_WORDS = 1024;
export const NVM_SIZE_CODE = 4;

const INTEL = 0x8086;

/** Contents of a board's NVM as it is delivered, sealed. */
export function boardNvm(mac: Uint8Array, deviceId: number, vfDeviceId: number, subsystemId: number): Uint16Array {
  const words = new Uint16Array(NVM_WORDS).fill(0xffff);
  for (let i = 0; i < 3; i++) words[i] = (mac[2 * i] as number) | ((mac[2 * i + 1] as number) << 8);
  // Image version 1.0.
  words[0x05] = 0x1000;
  // Initialization control 1 to 3, of both ports: ids loaded, no advanced power management.
  words[0x0a] = 0x4083;
  words[0x0b] = subsystemId;
  words[0x0c] = INTEL;
  words[0x0d] = deviceId;
  words[0x0e] = INTEL;
  words[0x0f] = 0x6001;
  words[0x11] = deviceId;
  words[0x14] = 0x0000;
  words[0x24] = 0x0000;
  words[0x26] = vfDeviceId;
  sealEeprom(words);
  return words;
}
