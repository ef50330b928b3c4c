// The flexible wake-up filters of an 8254x (8254x 6.3.3.1.8): FFLT says how many octets of a frame are compared, FFMT which of them count, FFVT what they are; four filters side by side.

import { WUFC_FLX } from '#devices/intel/wake-up';
import { AT } from './registers.ts';

const FILTERS = 4;
const OCTETS = 128;

/** Bits of WUFC of the filters that `bytes` passes. */
export function flexibleFilters(words: Uint32Array, bytes: Uint8Array, length: number): number {
  let passed = 0;
  for (let n = 0; n < FILTERS; n++) if (passes(words, n, bytes, length)) passed |= 1 << (WUFC_FLX + n);
  return passed;
}

function passes(words: Uint32Array, n: number, bytes: Uint8Array, length: number): boolean {
  if (((words[AT.WUFC] as number) & (1 << (WUFC_FLX + n))) === 0) return false;
  const compared = Math.min(words[AT.FFLT + n] as number, OCTETS);
  if (compared === 0 || compared > length) return false;
  for (let i = 0; i < compared; i++) {
    if ((((words[AT.FFMT + i] as number) >>> n) & 1) === 0) continue;
    if (bytes[i] !== (((words[AT.FFVT + i] as number) >>> (8 * n)) & 0xff)) return false;
  }
  return true;
}
