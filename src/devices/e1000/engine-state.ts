// What the control plane (registers, on the machine's thread) and the ring engine share, in words that either thread may look at: the registers themselves, flags that are derived from more
// than registers, running statistics, and what the engine has to say. The control plane writes and moves `generation`; the engine re-reads what it keeps when that has moved.

import { COUNTED } from '#devices/intel/statistics';
import { REGISTER_WORDS } from './registers.ts';

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

// Beside interrupt causes (registers.ts, ICR_*), what the engine tells the control plane. Bits that ICR does not have.
/** Frames were received: RXT0, by the receive timers. */
export const EVENT_RECEIVED = 1 << 24;
/** Descriptors with IDE were written back: TXDW, by the transmit timers. */
export const EVENT_SENT_DELAYED = 1 << 25;
/** A PAUSE frame came: `pauseQuanta` says how long. */
export const EVENT_PAUSE = 1 << 26;

const GENERATION = 0;
const FLAGS = 1;
const PAUSE_QUANTA = 2;
const EVENTS = 3;
const FLUSH = 4;
const CONTROL_WORDS = 16;

const REGISTERS = CONTROL_WORDS * 4;
const STATISTICS = (REGISTERS + REGISTER_WORDS * 4 + 7) & ~7;

/** @internal bytes of the block, for tests of layouts */
const BLOCK_BYTES = STATISTICS + COUNTED.length * 8;

export class EngineState {
  readonly buffer: SharedArrayBuffer;
  readonly registers: Uint32Array;
  readonly statistics: Float64Array;
  readonly #control: Int32Array;

  constructor(buffer = new SharedArrayBuffer(BLOCK_BYTES)) {
    this.buffer = buffer;
    this.#control = new Int32Array(buffer, 0, CONTROL_WORDS);
    this.registers = new Uint32Array(buffer, REGISTERS, REGISTER_WORDS);
    this.statistics = new Float64Array(buffer, STATISTICS, COUNTED.length);
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

  /** Written-back descriptors that wait for a threshold are to be written now: a timer ended. Number of such requests. */
  get flushes(): number {
    return Atomics.load(this.#control, FLUSH);
  }
  requestFlush(): void {
    Atomics.add(this.#control, FLUSH, 1);
  }

  /** Leaves events for the control plane's thread; true when there were none before, so that it has to be told. */
  post(events: number): boolean {
    return Atomics.or(this.#control, EVENTS, events) === 0;
  }

  take(): number {
    return Atomics.load(this.#control, EVENTS) === 0 ? 0 : Atomics.exchange(this.#control, EVENTS, 0);
  }
}
