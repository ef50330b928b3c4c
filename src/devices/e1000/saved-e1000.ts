// An e1000's saved state, which is untrusted: everything is checked before anything changes. Registers may hold only bits that the table or the device can put there, because ring lengths and indices
// are derived from them.

import { RestoreError, unseal } from '#core/saved';
import { CONTEXT_WORDS } from '#devices/intel/checksum-context';
import type { MicrowireEeprom, SavedEeprom } from '#devices/intel/eeprom';
import type { Link, SavedLink } from '#devices/intel/link';
import type { Statistics } from '#devices/intel/statistics';
import { Interrupts, type SavedInterrupts } from './interrupts.ts';
import { E1000_REGISTERS, ICR_ALL, PACKET_BUFFER_WORDS } from './registers.ts';
import type { Transmit } from './transmit.ts';

export const PART = 'e1000';
export const VERSION = 1;

const ALL = 0xffff_ffff;
/** What the device itself puts into registers that a driver cannot write, or not those bits of. */
const PUT_BY_DEVICE: Readonly<Record<string, number>> = {
  EERD: 0xffff_ff10,
  MDIC: ALL,
  ICR: ICR_ALL,
  IMS: ICR_ALL,
  PBA: 0x007f_003f,
  WUS: 0x000f_00ff,
  WUPL: 0x0fff,
  WUPM: ALL,
};

export interface E1000State {
  readonly model: string;
  readonly registers: Record<string, number[]>;
  readonly statistics: number[];
  readonly eeprom: SavedEeprom;
  readonly packetBuffer: Uint32Array;
  readonly ioAddress: number;
  readonly link: SavedLink;
  readonly interrupts: SavedInterrupts;
  readonly transmit: ReturnType<Transmit['save']>;
  /** PAUSE frames still to be sent: FLAG_SEND_XOFF, FLAG_SEND_XON. */
  readonly sends: number;
}

/** What checking needs to know of the device that takes the state over. */
export interface Taker {
  readonly model: string;
  readonly eeprom: MicrowireEeprom;
  readonly statistics: Statistics;
  readonly link: Link;
  readonly sends: number;
}

/** @throws RestoreError */
export function checkE1000(saved: unknown, taker: Taker): E1000State {
  const state = unseal(saved, PART, VERSION) as Partial<E1000State> | null;
  if (typeof state !== 'object' || state === null) throw new RestoreError('saved e1000 is no record');
  if (state.model !== taker.model) throw new RestoreError(`saved e1000 is a ${state.model}; this one is a ${taker.model}`);
  checkRegisters(state.registers);
  taker.statistics.check(state.statistics);
  taker.eeprom.check(state.eeprom);
  taker.link.check(state.link);
  Interrupts.check(state.interrupts);
  const { ioAddress, sends, packetBuffer } = state;
  if (!(packetBuffer instanceof Uint32Array) || packetBuffer.length !== PACKET_BUFFER_WORDS) throw new RestoreError('saved packet buffer is malformed');
  if (!isWord(ioAddress)) throw new RestoreError(`saved IOADDR ${ioAddress}`);
  if (!(Number.isInteger(sends) && ((sends as number) & ~taker.sends) === 0)) throw new RestoreError(`saved flow control ${sends}`);
  checkTransmit(state.transmit);
  return state as E1000State;
}

function isWord(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= ALL;
}

function checkRegisters(registers: unknown): void {
  for (const [name, spec] of Object.entries(E1000_REGISTERS) as [string, { writable?: number; reset?: number; writeOneToClear?: number; aliasOf?: string }][]) {
    if (spec.aliasOf !== undefined) continue;
    const values = (registers as Record<string, unknown> | undefined)?.[name];
    if (!Array.isArray(values)) throw new RestoreError(`saved register ${name} is missing`);
    const may = (PUT_BY_DEVICE[name] ?? 0) | (spec.writable ?? 0) | (spec.reset ?? 0) | (name === 'ICR' ? 0 : (spec.writeOneToClear ?? 0));
    for (const value of values) if (!isWord(value) || (value & ~may) !== 0) throw new RestoreError(`saved register ${name} holds ${value}`);
  }
}

function checkTransmit(saved: Partial<E1000State['transmit']> | undefined): void {
  const { contexts, pieces, waiting } = saved ?? {};
  if (!Array.isArray(contexts) || contexts.length !== 2 * CONTEXT_WORDS || !contexts.every(isWord))
    throw new RestoreError('saved transmit contexts are malformed');
  if (!(Number.isInteger(pieces) && (pieces as number) >= 0 && (pieces as number) <= 0x10_0000))
    throw new RestoreError(`saved packet has ${pieces} pieces sent`);
  const [from, count] = (waiting ?? []) as number[];
  const isIndex = (n: unknown): boolean => Number.isInteger(n) && (n as number) >= 0 && (n as number) < 0x1_0000;
  if (!Array.isArray(waiting) || waiting.length !== 2 || !isIndex(from) || !isIndex(count)) throw new RestoreError('saved write-back is malformed');
}
