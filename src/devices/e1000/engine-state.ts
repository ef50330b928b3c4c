// What the control plane (registers, on the machine's thread) and the ring engine share, in words that either thread may look at: the registers themselves, flags that are derived from more
// than registers, running statistics, and what the engine has to say. The control plane writes and moves `generation`; the engine re-reads what it keeps when that has moved.

import { CONTEXT_WORDS } from '#devices/intel/checksum-context';
import { COUNTED } from '#devices/intel/statistics';
import { AT, REGISTER_WORDS } from './registers.ts';

/** The MAC sees a link and its medium carries frames. */
export const FLAG_LINK = 1;
/** Frames go from the transmitter to this device's own receiver, and nowhere else. */
export const FLAG_LOOPBACK = 2;
/** Held by a PAUSE frame. */
export const FLAG_PAUSED = 4;
/** A PAUSE frame is to be sent (FLAG_XON: with time 0). */
export const FLAG_SEND_XOFF = 8;
export const FLAG_SEND_XON = 16;
/** Frames shorter than the minimum are taken as they are, not as a medium's senders would have padded them. */
export const FLAG_RUNTS = 32;
/** A frame that finds no buffer is lost, as on a wire, and not held at its source. */
export const FLAG_LOSSY = 64;
/** The machine stands still: no frame moves, those for this port wait. */
export const FLAG_STILL = 128;
/** The peer was told to stop and not yet to go on. */
export const FLAG_HOLDS_PEER = 256;
/** Not in D0: frames are looked at for whether they wake. */
export const FLAG_ASLEEP = 512;

// Beside interrupt causes (registers.ts, ICR_*), what the engine tells the control plane. Bits that ICR does not have.
/** Frames were received: RXT0, by the receive timers. */
export const EVENT_RECEIVED = 1 << 24;
/** Descriptors with IDE were written back: TXDW, by the transmit timers. */
export const EVENT_SENT_DELAYED = 1 << 25;
/** A PAUSE frame came: `pauseQuanta` says how long. */
export const EVENT_PAUSE = 1 << 26;
/** A frame that may wake the system came: `takeWoken` says by what. */
export const EVENT_WOKEN = 1 << 27;
/** The magic packet of APM came. */
export const EVENT_MAGIC = 1 << 28;

/** The thread that is to serve the port has taken it. */
export const EVENT_TAKEN = 1 << 29;

/** Context descriptors between the head and where a turn got to. */
export const MOST_CONTEXTS = 256;

/** Of ITR, in milliseconds. */
const THROTTLE_UNIT = 256e-6;

const GENERATION = 0;
const FLAGS = 1;
const PAUSE_QUANTA = 2;
const EVENTS = 3;
const PIECES = 5;
const WAITING_FROM = 6;
const WAITING = 7;
const REPORTING_FROM = 8;
const REPORTING = 9;
const READER = 10;
const WOKEN = 11;
const CONTROL_WORDS = 16;

const REGISTERS = CONTROL_WORDS * 4;
const CONTEXTS = REGISTERS + REGISTER_WORDS * 4;
const ALL_CONTEXTS = (2 + MOST_CONTEXTS) * CONTEXT_WORDS;
const STATISTICS = (CONTEXTS + ALL_CONTEXTS * 4 + 7) & ~7;
const TIMES = STATISTICS + COUNTED.length * 8;
const BLOCK_BYTES = TIMES + 8;

export class EngineState {
  readonly buffer: SharedArrayBuffer;
  readonly registers: Uint32Array;
  readonly statistics: Float64Array;
  /** Context descriptors in force at the head: single frames, segmentation; then those that lie further on, in order. */
  readonly contexts: Uint32Array;
  readonly #control: Int32Array;
  readonly #times: Float64Array;

  constructor(buffer = new SharedArrayBuffer(BLOCK_BYTES)) {
    this.buffer = buffer;
    this.#control = new Int32Array(buffer, 0, CONTROL_WORDS);
    this.registers = new Uint32Array(buffer, REGISTERS, REGISTER_WORDS);
    this.contexts = new Uint32Array(buffer, CONTEXTS, ALL_CONTEXTS);
    this.statistics = new Float64Array(buffer, STATISTICS, COUNTED.length);
    this.#times = new Float64Array(buffer, TIMES, 1);
  }

  get generation(): number {
    return Atomics.load(this.#control, GENERATION);
  }

  /** The control plane has changed something that engines keep. */
  changed(): void {
    Atomics.add(this.#control, GENERATION, 1);
  }

  get flags(): number {
    return Atomics.load(this.#control, FLAGS);
  }

  setFlag(flag: number, on: boolean): void {
    if (on) Atomics.or(this.#control, FLAGS, flag);
    else Atomics.and(this.#control, FLAGS, ~flag);
  }

  /** Of the last PAUSE frame, in units of 512 bit times. */
  get pauseQuanta(): number {
    return Atomics.load(this.#control, PAUSE_QUANTA);
  }
  set pauseQuanta(quanta: number) {
    Atomics.store(this.#control, PAUSE_QUANTA, quanta);
  }

  // ---- what the engine keeps between turns, so that whoever serves it next finds it ----

  /** Pieces of the packet at the transmit head that are sent already. */
  get pieces(): number {
    return this.#control[PIECES] as number;
  }
  set pieces(pieces: number) {
    this.#control[PIECES] = pieces;
  }

  /** Transmit descriptors that are done and wait for the write-back threshold: first index and how many. */
  get waitingFrom(): number {
    return this.#control[WAITING_FROM] as number;
  }
  get waiting(): number {
    return this.#control[WAITING] as number;
  }
  setWaiting(from: number, count: number): void {
    this.#control[WAITING_FROM] = from;
    this.#control[WAITING] = count;
  }

  /** Descriptors the head has passed and whose status is being written: not 0 between turns only when their thread died. */
  get reportingFrom(): number {
    return this.#control[REPORTING_FROM] as number;
  }
  get reporting(): number {
    return this.#control[REPORTING] as number;
  }
  setReporting(from: number, count: number): void {
    this.#control[REPORTING_FROM] = from;
    this.#control[REPORTING] = count;
  }

  /** The transmit ring is another one now: nothing that is kept of the old one applies. */
  forgetTransmit(): void {
    this.pieces = 0;
    this.setWaiting(0, 0);
    this.setReporting(0, 0);
  }

  /** What the serving thread is as a DMA reader, or -1: what to expel when it dies. */
  get reader(): number {
    return Atomics.load(this.#control, READER) - 1;
  }
  set reader(reader: number) {
    Atomics.store(this.#control, READER, reader + 1);
  }

  /** Adds bits of WUS by which a frame would wake. */
  addWoken(status: number): void {
    Atomics.or(this.#control, WOKEN, status);
  }
  takeWoken(): number {
    return Atomics.exchange(this.#control, WOKEN, 0);
  }

  // ---- events ----

  /** The interrupt line rose just now: until ITR has passed it will not do so again. */
  rose(): void {
    this.#times[0] = wallTime();
  }

  /** Milliseconds until the throttle (8254x 13.4.18) lets an interrupt through, by real time. */
  get throttled(): number {
    const interval = (this.registers[AT.ITR] as number) * THROTTLE_UNIT;
    if (interval === 0) return 0;
    return Math.min(interval, (this.#times[0] as number) + interval - wallTime());
  }

  /** Leaves events for the control plane's thread; true when there were none before, so that it has to be told. */
  post(events: number): boolean {
    return Atomics.or(this.#control, EVENTS, events) === 0;
  }

  take(): number {
    return Atomics.load(this.#control, EVENTS) === 0 ? 0 : Atomics.exchange(this.#control, EVENTS, 0);
  }
}

/** Milliseconds, the same on every thread. */
function wallTime(): number {
  return performance.timeOrigin + performance.now();
}
