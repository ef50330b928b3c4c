// An igb's saved state, which is untrusted: everything is checked before anything changes. Registers may hold only bits that the table or the device can put there, because ring lengths and indices are derived from them.

import { RestoreError, unseal } from '#core/saved';
import type { Link, SavedLink } from '#devices/intel/link';
import type { SavedSpiEeprom, SpiEeprom } from '#devices/intel/spi-eeprom';
import type { Statistics } from '#devices/intel/statistics';
import { ICR_ALL, Interrupts, type SavedInterrupts } from './interrupts.ts';
import { PINS } from './pins.ts';
import { IGB_REGISTERS, QUEUES } from './registers.ts';
import { TcpTimer } from './tcp-timer.ts';
import type { TimeEvents } from './time-events.ts';
import type { TimeSync } from './time-sync.ts';
import { CONTEXT_WORDS, CONTEXTS, type SavedTransmitQueue } from './transmit-queue.ts';
import { type SavedVirtual, VirtualFunctions } from './virtual-functions.ts';

export const PART = 'igb';
export const VERSION = 2;

const ALL = 0xffff_ffff;
const EXTENDED = 0xc1ff_ffff;
const LOW16 = 0xffff;
/** What the device itself puts into registers that a driver cannot write, or not those bits of. */
const PUT_BY_DEVICE: Readonly<Record<string, number>> = {
  STATUS: 0x0007_c400,
  EERD: ALL,
  TSAUXC: 0x0a00,
  AUXSTMP: ALL,
  WUPL: 0x0fff,
  WUPM: ALL,
  MDIC: ALL,
  ICR: ICR_ALL,
  IMS: ICR_ALL,
  EICR: EXTENDED,
  EIMS: EXTENDED,
  EIAC: EXTENDED,
  EIAM: EXTENDED,
  RDH: LOW16,
  TDH: LOW16,
  RQDPC: 0x0fff,
  TSYNCTXCTL: 1,
  TSYNCRXCTL: 1,
  TXSTMPL: ALL,
  TXSTMPH: ALL,
  RXSTMPL: ALL,
  RXSTMPH: ALL,
  RXSATRL: ALL,
  RXSATRH: ALL,
  P2VMAILBOX: 0x1f,
  V2PMAILBOX: 0xff,
  MBVFICR: 0x00ff_00ff,
  VFLRE: 0xff,
  LVMMC: ALL,
  WVBR: ALL,
  MDFB: ALL,
  SCSTS: ALL,
  BSCCNT: ALL,
  MSCCNT: ALL,
  PVFGPRC: ALL,
  PVFGPTC: ALL,
  PVFGORC: ALL,
  PVFGOTC: ALL,
  PVFMPRC: ALL,
  PVFGPRLBC: ALL,
  PVFGPTLBC: ALL,
  PVFGORLBC: ALL,
  PVFGOTLBC: ALL,
};

export interface IgbState {
  readonly registers: Record<string, number[]>;
  readonly statistics: number[];
  readonly ioAddress: number;
  readonly link: SavedLink;
  readonly interrupts: SavedInterrupts;
  readonly queues: readonly SavedTransmitQueue[];
  readonly time: ReturnType<TimeSync['save']>;
  readonly timeEvents: ReturnType<TimeEvents['save']>;
  /** Levels that time's events left on pins. */
  readonly pins: number;
  readonly eeprom: SavedSpiEeprom;
  readonly tcpTimer: ReturnType<TcpTimer['save']>;
  /** PAUSE frames still to be sent. */
  readonly sends: number;
  readonly virtual: SavedVirtual;
}

export interface Taker {
  readonly statistics: Statistics;
  readonly eeprom: SpiEeprom;
  readonly link: Link;
  readonly sends: number;
}

/** @throws RestoreError */
export function checkIgb(saved: unknown, taker: Taker): IgbState {
  const state = unseal(saved, PART, VERSION) as Partial<IgbState> | null;
  if (typeof state !== 'object' || state === null) throw new RestoreError('saved igb is no record');
  checkRegisters(state.registers);
  taker.statistics.check(state.statistics);
  taker.eeprom.check(state.eeprom);
  taker.link.check(state.link);
  Interrupts.check(state.interrupts);
  const { ioAddress, sends, queues, time, timeEvents, pins } = state;
  if (!isWord(ioAddress)) throw new RestoreError(`saved IOADDR ${ioAddress}`);
  if (!(Number.isInteger(sends) && ((sends as number) & ~taker.sends) === 0)) throw new RestoreError(`saved flow control ${sends}`);
  if (!Array.isArray(queues) || queues.length !== QUEUES) throw new RestoreError('saved transmit queues are malformed');
  for (const queue of queues) checkQueue(queue);
  const [value, since, latched] = (time ?? []) as unknown[];
  if (typeof value !== 'bigint' || value < 0n || value >= 2n ** 64n || !Number.isFinite(since) || !isWord(latched))
    throw new RestoreError('saved SYSTIM is malformed');
  const clocks = timeEvents as unknown[] | undefined;
  if (!Array.isArray(clocks) || clocks.length !== 2 || !clocks.every((runs) => typeof runs === 'boolean')) throw new RestoreError('saved clocks are malformed');
  if (!(Number.isInteger(pins) && (pins as number) >= 0 && (pins as number) < 1 << PINS)) throw new RestoreError(`saved pins ${pins}`);
  TcpTimer.check(state.tcpTimer);
  VirtualFunctions.check(state.virtual);
  return state as IgbState;
}

function isWord(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= ALL;
}

function checkRegisters(registers: unknown): void {
  for (const [name, spec] of Object.entries(IGB_REGISTERS) as [string, { writable?: number; reset?: number; writeOneToClear?: number; aliasOf?: string }][]) {
    if (spec.aliasOf !== undefined) continue;
    const values = (registers as Record<string, unknown> | undefined)?.[name];
    if (!Array.isArray(values)) throw new RestoreError(`saved register ${name} is missing`);
    const cleared = name === 'ICR' || name === 'EICR' ? 0 : (spec.writeOneToClear ?? 0);
    const may = (PUT_BY_DEVICE[name] ?? 0) | (spec.writable ?? 0) | (spec.reset ?? 0) | cleared;
    for (const value of values) if (!isWord(value) || (value & ~may) !== 0) throw new RestoreError(`saved register ${name} holds ${value}`);
  }
}

function checkQueue(saved: Partial<SavedTransmitQueue> | undefined): void {
  const { contexts, pieces, localPieces, locallyDone, waitingFrom, waiting } = saved ?? {};
  if (!Array.isArray(contexts) || contexts.length !== CONTEXTS * CONTEXT_WORDS || !contexts.every(isWord))
    throw new RestoreError('saved transmit contexts are malformed');
  const isCount = (n: unknown): boolean => Number.isInteger(n) && (n as number) >= 0 && (n as number) <= 0x10_0000;
  if (!isCount(pieces) || !isCount(localPieces) || !isCount(locallyDone)) throw new RestoreError('saved packet in transmission is malformed');
  const isIndex = (n: unknown): boolean => Number.isInteger(n) && (n as number) >= 0 && (n as number) < 0x1_0000;
  if (!isIndex(waitingFrom) || !isIndex(waiting)) throw new RestoreError('saved write-back is malformed');
}
