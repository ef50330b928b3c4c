// What accesses to registers do beyond storing (8254x 13.4): each hook is a line or two that hands on to who knows. Registers whose value the ring engine keeps a copy of move the state's generation.

import type { RegisterFile, RegisterHooks } from '#core/register-file';
import type { MicrowireEeprom } from '#devices/intel/eeprom';
import type { Link } from '#devices/intel/link';
import { COUNT, type Statistics } from '#devices/intel/statistics';
import type { WakeUp } from '#devices/intel/wake-up';
import { type EngineState, FLAG_SEND_XOFF } from './engine-state.ts';
import type { Interrupts } from './interrupts.ts';
import { CTRL_PHY_RST, CTRL_RST, CTRL_TFCE, type E1000_REGISTERS, type E1000Register, TCTL_SWXOFF } from './registers.ts';

const FPD = 1 << 31;
const EECD_SK = 1;
const EECD_CS = 2;
const EECD_DI = 4;
const EECD_DO = 8;
const EECD_REQ = 0x40;
const EECD_GNT = 0x80;
const EECD_PRES = 0x100;
const EECD_SIZE = 0x200;
const EERD_START = 1;
const EERD_DONE = 0x10;

/** What the hooks reach. Parts that exist only while the device is attached are looked up when needed. */
export interface HookHost {
  readonly registers: RegisterFile<typeof E1000_REGISTERS>;
  readonly state: EngineState;
  readonly statistics: Statistics;
  readonly eeprom: MicrowireEeprom;
  readonly arbitratesEeprom: boolean;
  readonly interrupts: Interrupts | undefined;
  readonly link: Link | undefined;
  /** Takes what the thread that serves the rings has to say. */
  service(): void;
  /** Frames or room may have come. */
  wake(): void;
  /** CTRL.RST. */
  reset(): void;
  readonly wakeUp: WakeUp;
  /** The address of the shared block was written. */
  wroteBlock(): void;
}

type Hooks = { [K in E1000Register]?: RegisterHooks };

/** Registers that the engine keeps copies of. */
const KEPT = ['FCT', 'RDBAL', 'RDBAH', 'RDLEN', 'RDH', 'MTA', 'RAL', 'RAH', 'VFTA', 'RXCSUM', 'VET'] as const;
/** Those that say which transmit ring there is. */
const TRANSMIT_RING = ['TDBAL', 'TDBAH', 'TDLEN', 'TDH'] as const;
/** 32-bit statistics, by the names they are counted under. */
const WIDE = { GORC: ['GORCL', 'GORCH'], GOTC: ['GOTCL', 'GOTCH'], TOR: ['TORL', 'TORH'], TOT: ['TOTL', 'TOTH'] } as const;

export function registerHooks(host: HookHost): Hooks {
  const { state } = host;
  const hooks: Hooks = {
    CTRL: { write: (value, _, lanes) => writeControl(host, value, lanes) },
    STATUS: { read: () => host.link?.status ?? 0 },
    EECD: { read: () => readEeprom(host), afterWrite: () => driveEeprom(host) },
    EERD: { write: (value, _, lanes) => readWord(host, value, lanes) },
    // EE_RST (13) loads the EEPROM anew, and clears itself.
    MDIC: { write: (value, _, lanes) => host.link?.manage(value, lanes) },
    ICR: { read: () => causes(host), afterRead: () => host.interrupts?.update(), write: (value, _, lanes) => host.interrupts?.clear(value & lanes) },
    // 8254x 13.4.19 has ICS as write-only; drivers exist that read it as an ICR that does not clear.
    ICS: { read: () => causes(host), write: (value, _, lanes) => host.interrupts?.raise(value & lanes) },
    IMS: { write: (value, _, lanes) => host.interrupts?.mask(value & lanes, true) },
    IMC: { write: (value, _, lanes) => host.interrupts?.mask(value & lanes, false) },
    ITR: { afterWrite: () => host.interrupts?.update() },
    RDTR: {
      write: (value, _, lanes) => {
        host.registers.store('RDTR', value, 0, lanes);
        if ((value & lanes & FPD) !== 0) host.interrupts?.flushReceive();
      },
    },
    TDT: { afterWrite: () => host.wake() },
    RDT: { afterWrite: () => host.wake() },
    RCTL: {
      afterWrite: () => {
        state.changed();
        host.link?.update();
      },
    },
    TCTL: { write: (value, _, lanes) => writeTransmitControl(host, value, lanes) },
    // TXA is what RXA leaves of 64 KiB.
    PBA: { afterWrite: () => host.registers.set('PBA', host.registers.field('PBA', 'RXA') | ((64 - host.registers.field('PBA', 'RXA')) << 16)) },
    WUC: { read: () => host.wakeUp.readControl(), write: (value, _, lanes) => writeWakeUp(host, value, lanes) },
    CSBAL: { afterWrite: () => host.wroteBlock() },
    CSBAH: { afterWrite: () => host.wroteBlock() },
  };
  for (const name of KEPT) hooks[name] = { afterWrite: () => state.changed() };
  for (const name of TRANSMIT_RING)
    hooks[name] = {
      afterWrite: () => {
        state.forgetTransmit();
        state.changed();
      },
    };
  return { ...hooks, ...statisticsHooks(host.statistics) };
}

/** ICR, with what another thread has told of so far. */
function causes(host: HookHost): number {
  host.service();
  return host.registers.get('ICR');
}

function statisticsHooks(statistics: Statistics): Hooks {
  const hooks: Hooks = {};
  for (const [name, count] of Object.entries(COUNT)) {
    const pair = WIDE[name as keyof typeof WIDE];
    if (pair === undefined) hooks[name as E1000Register] = { read: () => statistics.register(count), afterRead: () => statistics.clear(count) };
    else {
      hooks[pair[0]] = { read: () => statistics.low(count) };
      hooks[pair[1]] = { read: () => statistics.high(count), afterRead: () => statistics.clear(count) };
    }
  }
  return hooks;
}

function writeControl(host: HookHost, value: number, lanes: number): void {
  const written = value & lanes;
  if ((written & CTRL_RST) !== 0) {
    host.reset();
    return;
  }
  host.registers.store('CTRL', value, 0, lanes);
  host.state.changed();
  if ((written & CTRL_PHY_RST) !== 0) host.link?.phy.reset();
  host.link?.update();
}

function writeTransmitControl(host: HookHost, value: number, lanes: number): void {
  host.registers.store('TCTL', value, 0, lanes);
  host.state.changed();
  // 8254x 13.4.33: one XOFF frame, where flow control may be sent at all.
  if ((value & lanes & TCTL_SWXOFF) !== 0 && (host.registers.get('CTRL') & CTRL_TFCE) !== 0) host.state.setFlag(FLAG_SEND_XOFF, true);
  host.wake();
}

function writeWakeUp(host: HookHost, value: number, lanes: number): void {
  host.registers.store('WUC', value, 0, lanes);
  host.wakeUp.wroteControl(value & lanes);
}

// ---- the EEPROM: pins (8254x 5.3) and EERD (8254x 13.4.4) ----

function readEeprom(host: HookHost): number {
  const stored = host.registers.get('EECD');
  const granted = host.arbitratesEeprom && (stored & EECD_REQ) !== 0;
  const large = host.eeprom.words.length === 256;
  return stored | (host.eeprom.output ? EECD_DO : 0) | (granted ? EECD_GNT : 0) | EECD_PRES | (large ? EECD_SIZE : 0);
}

/** Where access is arbitrated the pins are software's only while it is granted. */
function driveEeprom(host: HookHost): void {
  const pins = host.registers.get('EECD');
  if (host.arbitratesEeprom && (pins & EECD_REQ) === 0) host.eeprom.drive(false, false, false);
  else host.eeprom.drive((pins & EECD_CS) !== 0, (pins & EECD_SK) !== 0, (pins & EECD_DI) !== 0);
}

function readWord(host: HookHost, value: number, lanes: number): void {
  if (!host.arbitratesEeprom || (value & lanes & EERD_START) === 0) return;
  const address = (value >>> 8) & 0xff;
  const word = host.eeprom.words[address % host.eeprom.words.length] as number;
  host.registers.set('EERD', (word << 16) | (address << 8) | EERD_DONE);
}
