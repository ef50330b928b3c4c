// Advanced Error Reporting (PCIe 4.0 7.8.4) and the way of an error message: from the function that detects an error, through the bridges above as their
// enables allow, to the root port's (or the event collector's) error registers and interrupt (6.2.4, 6.2.6). `reportError` is also how tests and labs inject errors. Functions without
// the capability report the baseline way. What is decided about an error is in aer-errors.ts.

import { RestoreError } from '#core/saved';
import {
  CORRECTABLE_BITS,
  CORRECTABLE_MASK_DEFAULT,
  CorrectableError,
  type DetectedError,
  type ErrorMessage,
  HeaderLog,
  type HeaderRecord,
  judge,
  SEVERITY_DEFAULT,
  UNCORRECTABLE_BITS,
  UNCORRECTABLE_MASK_DEFAULT,
} from './aer-errors.ts';
import { type Capability, type CapabilityArea, EFFECT_NONE, type FunctionHost } from './capability.ts';
import { collectorOf } from './event-collector.ts';
import { EventInterrupt } from './event-interrupt.ts';
import { expressOf } from './express.ts';

export { CorrectableError, type DetectedError, type ErrorMessage, UncorrectableError } from './aer-errors.ts';

export interface AerOptions {
  /** Headers that can wait behind the one shown (Multiple Header Recording); default 4, 1 = not offered. */
  readonly headerLogDepth?: number;
}

const UNCORRECTABLE_STATUS = 4;
const UNCORRECTABLE_MASK = 8;
const UNCORRECTABLE_SEVERITY = 12;
const CORRECTABLE_STATUS = 16;
const CORRECTABLE_MASK = 20;
const CONTROL = 24;
const HEADER_LOG = 28;
const ROOT_COMMAND = 44;
const ROOT_STATUS = 48;
const ERROR_SOURCE = 52;
const MULTIPLE_CAPABLE = 0x200;
const MULTIPLE_ENABLE = 0x400;
const FIRST_ERROR = 31;
// Root Error Status.
const CORRECTABLE_RECEIVED = 1;
const MULTIPLE_CORRECTABLE = 2;
const UNCORRECTABLE_RECEIVED = 4;
const MULTIPLE_UNCORRECTABLE = 8;
const FIRST_FATAL = 16;
const NON_FATAL_RECEIVED = 32;
const FATAL_RECEIVED = 64;
// Header registers.
const COMMAND = 4;
const STATUS = 6;
const SECONDARY_STATUS = 0x1e;
const BRIDGE_CONTROL = 0x3e;
const COMMAND_SERR = 0x100;
const BRIDGE_SERR = 2;
const SYSTEM_ERROR = 0x4000;

export class Aer implements Capability {
  readonly id = 0x01;
  readonly extended = true;
  readonly version = 2;
  /** Up to the error source register, which only root ports use. */
  readonly size = 56;
  readonly #log: HeaderLog;
  #area!: CapabilityArea;
  #interrupt: EventInterrupt | undefined;

  constructor(options: AerOptions = {}) {
    this.#log = new HeaderLog(Math.max(1, options.headerLogDepth ?? 4));
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    const { host } = area;
    area.permitClear(UNCORRECTABLE_STATUS, 4, UNCORRECTABLE_BITS);
    area.permitClear(CORRECTABLE_STATUS, 4, CORRECTABLE_BITS);
    for (const register of [UNCORRECTABLE_STATUS, CORRECTABLE_STATUS, HEADER_LOG, HEADER_LOG + 4, HEADER_LOG + 8, HEADER_LOG + 12])
      area.keepSticky(register, 4, 0xffff_ffff);
    const multiple = this.#log.depth > 1;
    if (multiple) area.set32(CONTROL, MULTIPLE_CAPABLE);
    area.keepSticky(CONTROL, 4, FIRST_ERROR | MULTIPLE_ENABLE);
    // PCIe 4.0 9.4.2.1: a VF has its PF's masks and severities; its own read 0.
    if (!host.virtual) {
      if (multiple) area.permitWrite(CONTROL, 4, MULTIPLE_ENABLE);
      this.#register(UNCORRECTABLE_MASK, UNCORRECTABLE_MASK_DEFAULT, UNCORRECTABLE_BITS);
      this.#register(UNCORRECTABLE_SEVERITY, SEVERITY_DEFAULT, UNCORRECTABLE_BITS);
      this.#register(CORRECTABLE_MASK, CORRECTABLE_MASK_DEFAULT, CORRECTABLE_BITS);
    }
    if (host.pcieType !== 'root-port' && host.pcieType !== 'root-complex-event-collector') return;
    area.permitWrite(ROOT_COMMAND, 4, 7);
    area.permitClear(ROOT_STATUS, 4, 0x7f);
    area.keepSticky(ROOT_STATUS, 4, 0x7f);
    area.keepSticky(ERROR_SOURCE, 4, 0xffff_ffff);
    this.#interrupt = new EventInterrupt(host, 0);
  }

  #register(at: number, value: number, writable: number): void {
    this.#area.set32(at, value);
    this.#area.permitWrite(at, 4, writable);
    this.#area.keepSticky(at, 4, writable);
  }

  get controls(): { readonly severity: number; readonly uncorrectableMask: number; readonly correctableMask: number } {
    return {
      severity: this.#area.get32(UNCORRECTABLE_SEVERITY),
      uncorrectableMask: this.#area.get32(UNCORRECTABLE_MASK),
      correctableMask: this.#area.get32(CORRECTABLE_MASK),
    };
  }

  /** Sets status bits and records a header. Returns false when the log had no room for it. */
  record(uncorrectable: number, correctable: number, header: HeaderRecord | undefined): boolean {
    const area = this.#area;
    area.set32(UNCORRECTABLE_STATUS, area.get32(UNCORRECTABLE_STATUS) | uncorrectable);
    area.set32(CORRECTABLE_STATUS, area.get32(CORRECTABLE_STATUS) | correctable);
    if (header === undefined) return true;
    const added = this.#log.add(header, this.#multiple);
    this.#show();
    return added;
  }

  get #multiple(): boolean {
    return (this.#area.get32(CONTROL) & MULTIPLE_ENABLE) !== 0;
  }

  /** First error pointer and header log follow the record shown; after the last was serviced they keep what they showed (7.8.4.7). */
  #show(): void {
    const shown = this.#log.shown;
    if (shown === undefined) return;
    this.#area.set32(CONTROL, (this.#area.get32(CONTROL) & ~FIRST_ERROR) | shown.error);
    shown.header.forEach((dword, i) => {
      this.#area.set32(HEADER_LOG + 4 * i, dword);
    });
  }

  /** A root port takes an error message in (6.2.4.1.2, 7.8.4.10). */
  receive(message: ErrorMessage, requester: number): void {
    const area = this.#area;
    let status = area.get32(ROOT_STATUS);
    if (message === 'correctable') {
      if ((status & CORRECTABLE_RECEIVED) === 0) area.set16(ERROR_SOURCE, requester);
      status |= (status & CORRECTABLE_RECEIVED) !== 0 ? MULTIPLE_CORRECTABLE : CORRECTABLE_RECEIVED;
    } else {
      const fatal = message === 'fatal';
      if ((status & UNCORRECTABLE_RECEIVED) === 0) {
        area.set16(ERROR_SOURCE + 2, requester);
        status |= UNCORRECTABLE_RECEIVED | (fatal ? FIRST_FATAL : 0);
      } else status |= MULTIPLE_UNCORRECTABLE;
      status |= fatal ? FATAL_RECEIVED : NON_FATAL_RECEIVED;
    }
    area.set32(ROOT_STATUS, status);
    this.#interrupt?.set(this.#interrupting);
  }

  /** 7.8.4.9: each kind of message has its enable. */
  get #interrupting(): boolean {
    const command = this.#area.get32(ROOT_COMMAND);
    const status = this.#area.get32(ROOT_STATUS);
    const received = (status & CORRECTABLE_RECEIVED) | (status & NON_FATAL_RECEIVED ? 2 : 0) | (status & FATAL_RECEIVED ? 4 : 0);
    return (command & received & 7) !== 0;
  }

  afterWrite(register: number, old: number, written: number, _lanes: number): number {
    const area = this.#area;
    if (register === UNCORRECTABLE_STATUS) {
      const left = this.#log.clear(old & written & UNCORRECTABLE_BITS);
      area.set32(UNCORRECTABLE_STATUS, area.get32(UNCORRECTABLE_STATUS) | left);
      this.#show();
    } else if (register === CONTROL && !this.#multiple) this.#log.truncate();
    else if (register === ROOT_COMMAND || register === ROOT_STATUS) this.#interrupt?.set(this.#interrupting);
    return EFFECT_NONE;
  }

  reset(): void {
    // Headers are as sticky as the status bits they belong to: a power-on cleared those, any other reset kept them.
    const status = this.#area.get32(UNCORRECTABLE_STATUS);
    this.#log.reset(this.#log.records.filter((r) => ((status >>> r.error) & 1) !== 0));
    this.#interrupt?.adopt(false);
    this.#interrupt?.set(this.#interrupting);
  }

  save(): readonly HeaderRecord[] {
    return this.#log.records.map((r) => ({ error: r.error, header: [...r.header] as const }));
  }

  restore(state: unknown): void {
    if (!Array.isArray(state) || state.length > this.#log.depth || !state.every(isRecord)) throw new RestoreError('saved AER header log does not fit');
    this.#log.reset(state);
    this.#interrupt?.adopt(this.#interrupting);
  }
}

function isRecord(value: unknown): value is HeaderRecord {
  const r = value as Partial<HeaderRecord> | null;
  const dword = (n: unknown): boolean => Number.isInteger(n) && (n as number) >= 0 && (n as number) < 2 ** 32;
  if (!(Number.isInteger(r?.error) && (r?.error as number) >= 0 && (r?.error as number) < 32)) return false;
  return Array.isArray(r?.header) && r.header.length === 4 && r.header.every(dword);
}

function aerOf(host: Pick<FunctionHost, 'capabilities'>): Aer | undefined {
  return host.capabilities.find((c): c is Aer => c instanceof Aer);
}

const NO_HEADER = [0, 0, 0, 0] as const;

/** `host` detected an error: its registers record it and, as they are set, a message goes up the tree. Also the injection API. */
export function reportError(host: FunctionHost, detected: DetectedError): void {
  const express = expressOf(host);
  if (express === undefined) return;
  const aer = aerOf(host);
  // PCIe 4.0 9.4.1: a VF reports under its PF's enables, masks and severities.
  const owner = host.physical ?? host;
  const masks = aerOf(owner)?.controls;
  const serrEnable = (owner.config.get16(COMMAND) & COMMAND_SERR) !== 0;
  const outcome = judge(detected, {
    severity: masks?.severity ?? SEVERITY_DEFAULT,
    uncorrectableMask: masks?.uncorrectableMask ?? 0,
    correctableMask: masks?.correctableMask ?? 0,
    serrEnable,
    deviceControl: expressOf(owner)?.deviceControl ?? 0,
    hasAer: aer !== undefined,
  });
  express.setDeviceStatus(outcome.deviceStatus);
  const header = outcome.record && detected.kind === 'uncorrectable' ? { error: detected.error, header: detected.header ?? NO_HEADER } : undefined;
  const logged = aer?.record(outcome.uncorrectableStatus, outcome.correctableStatus, header) ?? true;
  if (outcome.signaledSystemError) setStatus(host, STATUS, SYSTEM_ERROR);
  if (outcome.message !== undefined) sendErrorMessage(host, outcome.message);
  if (!logged) reportError(host, { kind: 'correctable', error: CorrectableError.headerLogOverflow });
}

function sendErrorMessage(host: FunctionHost, message: ErrorMessage): void {
  const requester = host.routingId;
  let top: FunctionHost = host;
  for (let bridge = host.upstream; bridge !== undefined; bridge = bridge.upstream) {
    if (!forwards(bridge, message)) return;
    top = bridge;
  }
  // An integrated endpoint has an event collector in place of a root port (6.2.4.1.3).
  if (host.upstream === undefined && !expressOf(host)?.root) top = collectorOf(host) ?? host;
  const express = expressOf(top);
  if (!express?.root) return;
  aerOf(top)?.receive(message, requester);
  const bit = message === 'correctable' ? 1 : message === 'non-fatal' ? 2 : 4;
  if ((express.root.systemErrors & bit) !== 0) express.options.onSystemError?.(message);
}

/** PCIe 4.0 6.2.6, figure 6-3: bridge control lets a message in from below, SERR# or the message's own enable lets it out at the top. */
function forwards(bridge: FunctionHost, message: ErrorMessage): boolean {
  if ((bridge.config.get16(BRIDGE_CONTROL) & BRIDGE_SERR) === 0) return false;
  const enables = expressOf(bridge)?.deviceControl ?? 0;
  if (message === 'correctable') return (enables & 1) !== 0;
  setStatus(bridge, SECONDARY_STATUS, SYSTEM_ERROR);
  const serr = (bridge.config.get16(COMMAND) & COMMAND_SERR) !== 0;
  if (!serr && (enables & (message === 'fatal' ? 4 : 2)) === 0) return false;
  if (serr) setStatus(bridge, STATUS, SYSTEM_ERROR);
  return true;
}

function setStatus(host: FunctionHost, register: number, bit: number): void {
  host.config.set16(register, host.config.get16(register) | bit);
}
