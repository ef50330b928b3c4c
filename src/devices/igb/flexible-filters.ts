// The flexible wake-up filters of an 82576 (82576 5.6.3.1.8, 8.20.11, FHFT): six of up to 128 octets, in rows of sixteen octets of registers: eight octets to compare, a mask of them, and in the last row how many octets count.

import { WUFC_FLX } from '#devices/intel/wake-up';
import { AT } from './registers.ts';

const IN_FHFT = 4;
const FILTERS = 6;
const FILTER_WORDS = 64;
const ROW_WORDS = 4;
const ROW_OCTETS = 8;
const MASK = 2;
const LENGTH = FILTER_WORDS - 1;
const OCTETS = 128;

/** Bits of WUFC of the filters that `bytes` passes. */
export function flexibleFilters(words: Uint32Array, bytes: Uint8Array, length: number): number {
  let passed = 0;
  for (let n = 0; n < FILTERS; n++) {
    const bit = 1 << (WUFC_FLX + n);
    const at = n < IN_FHFT ? AT.FHFT + FILTER_WORDS * n : AT.FHFT_EXT + FILTER_WORDS * (n - IN_FHFT);
    if (((words[AT.WUFC] as number) & bit) !== 0 && passes(words, at, bytes, length)) passed |= bit;
  }
  return passed;
}

function passes(words: Uint32Array, at: number, bytes: Uint8Array, length: number): boolean {
  const compared = Math.min((words[at + LENGTH] as number) & 0xff, OCTETS);
  if (compared === 0 || compared > length) return false;
  for (let i = 0; i < compared; i++) {
    const row = at + ROW_WORDS * Math.floor(i / ROW_OCTETS);
    const octet = i % ROW_OCTETS;
    if ((((words[row + MASK] as number) >>> octet) & 1) === 0) continue;
    if (bytes[i] !== (((words[row + (octet >>> 2)] as number) >>> (8 * (octet & 3))) & 0xff)) return false;
  }
  return true;
}
