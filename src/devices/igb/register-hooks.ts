// What accesses to registers do beyond storing (82576 8): each hook is a line or two that hands on to who knows. Registers of which engines keep copies move the state's generation.

import type { RegisterFile, RegisterHooks } from '#core/register-file';
import type { Link } from '#devices/intel/link';
import type { SpiEeprom } from '#devices/intel/spi-eeprom';
import type { Statistics } from '#devices/intel/statistics';
import type { WakeUp } from '#devices/intel/wake-up';
import type { Engine } from './engine.ts';
import type { Interrupts } from './interrupts.ts';
import { drivePins, readControl, readFlashControl, readWord } from './nvm.ts';
import type { Pins } from './pins.ts';
import type { ExtendedName } from './pools.ts';
import { FLAG_SEND_XOFF, type PortState } from './port-state.ts';
import {
  CTRL_EXT_EE_RST,
  CTRL_EXT_PFRSTD,
  CTRL_GIO_MASTER_DISABLE,
  CTRL_PHY_RST,
  CTRL_RST,
  CTRL_TFCE,
  type IGB_REGISTERS,
  type IgbRegister,
  TCTL_SWXOFF,
} from './registers.ts';
import { COUNT } from './statistics.ts';
import type { TcpTimer } from './tcp-timer.ts';
import type { TimeEvents } from './time-events.ts';
import type { TimeSync } from './time-sync.ts';

const STATUS_PHYRA = 1 << 10;
const STATUS_GIO_MASTER = 1 << 19;
const QUEUE_ENABLE = 1 << 25;
const SWFLSH = 1 << 26;
const SMBI = 1;

/** Parts that exist only while the device is attached. */
export interface LiveParts {
  readonly interrupts: Interrupts;
  readonly link: Link;
  readonly engine: Engine;
  readonly time: TimeSync;
  readonly timeEvents: TimeEvents;
  readonly tcpTimer: TcpTimer;
}

export interface HookHost {
  readonly registers: RegisterFile<typeof IGB_REGISTERS>;
  readonly state: PortState;
  readonly statistics: Statistics;
  readonly eeprom: SpiEeprom;
  readonly pins: Pins;
  readonly wakeUp: WakeUp;
  /** 0 or 1: which of the part's ports it is, and how many there are. */
  readonly port: number;
  readonly ports: number;
  readonly live: LiveParts | undefined;
  now(): number;
  wake(): void;
  /** CTRL.RST. */
  reset(): void;
  /** CTRL_EXT.EE_RST: the address comes from the NVM anew. */
  loadAddress(): void;
  /** CTRL_EXT.PFRSTD. */
  pfReady(): void;
  /** MSI-X pending bits of the physical function. */
  pending(): number;
  /** Messages of these vectors that wait behind a mask are not sent. */
  retract(vectors: number): void;
}

type Hooks = { [K in IgbRegister]?: RegisterHooks };

/** Registers that engines keep copies of. */
const KEPT = [
  'FCT',
  'VET',
  'RXCSUM',
  'RLPML',
  'RFCTL',
  'MTA',
  'RAL',
  'RAH',
  'RAL2',
  'RAH2',
  'VFTA',
  'UTA',
  'MRQC',
  'RETA',
  'RSSRK',
  'SYNQF',
  'ETQF',
  'FTQF',
  'IMIR',
  'IMIREXT',
  'IMIRVP',
  'DTXCTL',
  'DTXTCPFLGL',
  'DTXTCPFLGH',
  'VT_CTL',
  'VMOLR',
  'VLVF',
  'VMVIR',
  'RPLOLR',
  'DTXSWC',
  'QDE',
  'VFRE',
  'VFTE',
  'VMRCTL',
  'VMRVLAN',
  'VMRVM',
  'SCCRL',
  'BSCTRH',
  'MSCTRH',
] as const satisfies readonly IgbRegister[];

/** A queue's own: looked at each turn. */
const OF_QUEUE = ['SRRCTL', 'RDBAL', 'RDBAH', 'RDLEN', 'TDBAL', 'TDBAH', 'TDLEN'] as const satisfies readonly IgbRegister[];

/** 64-bit statistics, by the names they are counted under. */
const WIDE = {
  GORC: ['GORCL', 'GORCH'],
  GOTC: ['GOTCL', 'GOTCH'],
  TOR: ['TORL', 'TORH'],
  TOT: ['TOTL', 'TOTH'],
  HGORC: ['HGORCL', 'HGORCH'],
  HGOTC: ['HGOTCL', 'HGOTCH'],
} as const;
const EXTENDED = ['EICS', 'EIMS', 'EIMC', 'EIAC', 'EIAM', 'EICR'] as const satisfies readonly ExtendedName[];

export function registerHooks(host: HookHost, virtual: Hooks): Hooks {
  const { state } = host;
  const changed: RegisterHooks = { afterWrite: () => state.changed() };
  const hooks: Hooks = {};
  for (const name of KEPT) hooks[name] = changed;
  for (const name of OF_QUEUE) hooks[name] = { afterWrite: () => state.queuesChanged() };
  return { ...hooks, ...generalHooks(host), ...interruptHooks(host), ...queueHooks(host), ...timeHooks(host), ...statisticsHooks(host.statistics), ...virtual };
}

function generalHooks(host: HookHost): Hooks {
  return {
    CTRL: { read: () => host.pins.read('CTRL'), write: (value, _, lanes) => writeControl(host, value, lanes) },
    STATUS: { read: () => readStatus(host), write: (value, _, lanes) => clearReset(host, value, lanes) },
    CTRL_EXT: { read: () => host.pins.read('CTRL_EXT'), write: (value, _, lanes) => writeExtendedControl(host, value, lanes) },
    EECD: { read: () => readControl(host.registers, host.eeprom), afterWrite: () => drivePins(host.registers, host.eeprom) },
    EERD: { write: (value, _, lanes) => readWord(host.registers, host.eeprom, value, lanes) },
    FLA: { read: () => readFlashControl(host.registers) },
    MDIC: { write: (value, _, lanes) => host.live?.link.manage(value, lanes) },
    FRTIMER: { read: () => freeRunning(host.now()) },
    TCPTIMER: {
      write: (value, _, lanes) => {
        host.registers.store('TCPTIMER', value, 0, lanes);
        host.live?.tcpTimer.wrote(value & lanes);
      },
    },
    // 8.7.17: reading takes the semaphore, where it is free.
    SWSM: { afterRead: () => host.registers.set('SWSM', host.registers.get('SWSM') | SMBI) },
    FACTPS: { read: () => (host.ports === 2 ? 0x0000_0104 : 0x0000_0004) },
    RCTL: { afterWrite: () => relink(host) },
    TCTL: { write: (value, _, lanes) => writeTransmitControl(host, value, lanes) },
    WUC: {
      read: () => host.wakeUp.readControl(),
      write: (value, _, lanes) => {
        host.registers.store('WUC', value, 0, lanes);
        host.wakeUp.wroteControl(value & lanes);
      },
    },
  };
}

function interruptHooks(host: HookHost): Hooks {
  const hooks: Hooks = {
    ICR: {
      read: () => host.live?.interrupts.readCauses() ?? 0,
      afterRead: () => host.live?.interrupts.causesRead(),
      write: (value, _, lanes) => host.live?.interrupts.clearCauses(value & lanes),
    },
    ICS: { read: () => host.registers.get('ICR'), write: (value, _, lanes) => host.live?.interrupts.raise(value & lanes) },
    IMS: { write: (value, _, lanes) => host.live?.interrupts.mask(value & lanes, true) },
    IMC: { read: () => host.registers.get('IMS'), write: (value, _, lanes) => host.live?.interrupts.mask(value & lanes, false) },
    GPIE: { afterWrite: () => host.live?.interrupts.modeChanged() },
    // 8.8.17: the pending bits, cleared by ones.
    PBACL: { read: () => host.pending(), write: (value, _, lanes) => host.retract(value & lanes) },
    EITR: { read: (vector) => host.live?.interrupts.readThrottle(vector) ?? 0, write: (value, vector) => host.live?.interrupts.writeThrottle(vector, value) },
  };
  for (const name of EXTENDED)
    hooks[name] = {
      read: () => host.live?.interrupts.readExtended(name) ?? 0,
      write: (value, _, lanes) => host.live?.interrupts.writeExtended(name, lanes, value),
    };
  hooks.EICR = { ...hooks.EICR, afterRead: () => host.live?.interrupts.extendedRead() };
  return hooks;
}

function queueHooks(host: HookHost): Hooks {
  const enable = (name: 'RXDCTL' | 'TXDCTL', head: 'RDH' | 'TDH') => (value: number, queue: number, lanes: number) => {
    const before = host.registers.get(name, queue);
    host.registers.store(name, value, queue, lanes);
    const now = host.registers.get(name, queue);
    // 4.5.9, 4.5.10: a queue starts at its ring's beginning; what an earlier life of it left behind is forgotten.
    if (((before ^ now) & QUEUE_ENABLE) !== 0) {
      host.registers.set(head, 0, queue);
      if (head === 'TDH') host.live?.engine.transmitQueues[queue]?.reset();
      else host.live?.engine.receiveQueues[queue]?.reset();
      host.state.queuesChanged();
    }
    if (name === 'TXDCTL' && (value & lanes & SWFLSH) !== 0) host.live?.engine.quiet(1 << queue);
    host.wake();
  };
  return {
    RDT: { afterWrite: () => host.wake() },
    TDT: { afterWrite: () => host.wake() },
    RXDCTL: { write: enable('RXDCTL', 'RDH') },
    TXDCTL: { write: enable('TXDCTL', 'TDH') },
  };
}

function timeHooks(host: HookHost): Hooks {
  const time = (): TimeSync | undefined => host.live?.time;
  /** Afterwards events may be due, or due at another time. */
  const then = (change: () => void): void => {
    change();
    host.live?.timeEvents.update();
  };
  const due: RegisterHooks = { afterWrite: () => host.live?.timeEvents.update() };
  return {
    SYSTIML: { read: () => time()?.readLow() ?? 0, write: (value) => then(() => time()?.writeLow(value)) },
    SYSTIMH: { read: () => time()?.readHigh() ?? 0, write: (value) => then(() => time()?.writeHigh(value)) },
    TIMINCA: {
      write: (value, _, lanes) =>
        then(() => {
          time()?.beforePace();
          host.registers.store('TIMINCA', value, 0, lanes);
        }),
    },
    TIMADJH: { afterWrite: () => then(() => time()?.adjust()) },
    TSAUXC: {
      write: (value, _, lanes) => {
        host.registers.store('TSAUXC', value, 0, lanes);
        host.live?.timeEvents.wroteControl(value & lanes);
      },
    },
    TRGTTIM: due,
    FREQOUT: due,
    AUXSTMP: {
      afterRead: (half) => {
        if ((half & 1) !== 0) host.live?.timeEvents.release(half === 1 ? 0 : 1);
      },
    },
    TSSDP: { afterWrite: () => host.pins.update() },
    TXSTMPH: { afterRead: () => time()?.release('transmit') },
    RXSTMPH: { afterRead: () => time()?.release('receive') },
  };
}

function statisticsHooks(statistics: Statistics): Hooks {
  const hooks: Hooks = {};
  for (const [name, which] of Object.entries(COUNT)) {
    const pair = WIDE[name as keyof typeof WIDE];
    if (pair !== undefined) {
      hooks[pair[0]] = { read: () => statistics.low(which) };
      hooks[pair[1]] = { read: () => statistics.high(which), afterRead: () => statistics.clear(which) };
    } else if (name !== 'TSCTFC') hooks[name as IgbRegister] = { read: () => statistics.register(which), afterRead: () => statistics.clear(which) };
  }
  return hooks;
}

function relink(host: HookHost): void {
  host.state.changed();
  host.live?.link.update();
}

function writeControl(host: HookHost, value: number, lanes: number): void {
  const written = value & lanes;
  if ((written & CTRL_RST) !== 0) {
    host.reset();
    return;
  }
  host.registers.store('CTRL', value, 0, lanes);
  host.state.changed();
  if ((written & CTRL_PHY_RST) !== 0) {
    host.registers.set('STATUS', host.registers.get('STATUS') | STATUS_PHYRA);
    host.live?.link.phy.reset();
  }
  host.live?.link.update();
  // Last: the board may answer.
  host.pins.update();
}

function readStatus(host: HookHost): number {
  const { registers } = host;
  const master = (registers.get('CTRL') & CTRL_GIO_MASTER_DISABLE) === 0 ? STATUS_GIO_MASTER : 0;
  return (host.live?.link.status ?? 0) | (host.port << 2) | registers.get('STATUS') | master;
}

/** PHYRA is cleared by writing 0 (8.2.2). */
function clearReset(host: HookHost, value: number, lanes: number): void {
  if ((lanes & STATUS_PHYRA) !== 0 && (value & STATUS_PHYRA) === 0) host.registers.set('STATUS', host.registers.get('STATUS') & ~STATUS_PHYRA);
}

function writeExtendedControl(host: HookHost, value: number, lanes: number): void {
  host.registers.store('CTRL_EXT', value, 0, lanes);
  host.state.changed();
  if ((value & lanes & CTRL_EXT_EE_RST) !== 0) host.loadAddress();
  if ((value & lanes & CTRL_EXT_PFRSTD) !== 0) host.pfReady();
  host.pins.update();
}

function writeTransmitControl(host: HookHost, value: number, lanes: number): void {
  host.registers.store('TCTL', value, 0, lanes);
  host.state.changed();
  // 8.12.1: one XOFF frame, where flow control may be sent at all.
  if ((value & lanes & TCTL_SWXOFF) !== 0 && (host.registers.get('CTRL') & CTRL_TFCE) !== 0) host.state.setFlag(FLAG_SEND_XOFF, true);
  host.wake();
}

/** FRTIMER (8.2.9): microseconds, milliseconds and seconds since the clock's zero, side by side. */
function freeRunning(now: number): number {
  const micros = Math.floor(now / 1000);
  const millis = Math.floor(micros / 1000);
  return ((micros % 1000) | ((millis % 1000) << 10) | (Math.floor(millis / 1000) << 20)) >>> 0;
}
