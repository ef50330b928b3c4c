// The four software-definable pins of a port (82576 3.4.4, 8.2.1, 8.2.3): direction and level in CTRL and CTRL_EXT, an interrupt of a rising input (CTRL_EXT.SDPx_GPIEN), and as time's own pins what TSSDP makes of them
// (time-events.ts). What is wired to them is the embedder's: it drives inputs and hears of outputs. Left out: the watchdog indication (CTRL.SDP0_WDE), port 0's pins as SFP pins.

import { AT, ICR_GPI_SDP0 } from './registers.ts';

const { CTRL, CTRL_EXT, TSSDP } = AT;

export const PINS = 4;

/** Of each pin: the register with its level and direction, and where. */
const PLACES = [
  { word: CTRL, level: 1 << 18, output: 1 << 22 },
  { word: CTRL, level: 1 << 19, output: 1 << 23 },
  { word: CTRL_EXT, level: 1 << 6, output: 1 << 10 },
  { word: CTRL_EXT, level: 1 << 7, output: 1 << 11 },
] as const;

/** TSSDP: SDP0's selection, whether it is time's; three bits a pin. */
const SELECT_SHIFT = 6;
const SELECT_BITS = 3;
const TIMED = 4;

export interface PinsHost {
  readonly words: Uint32Array;
  /** Causes of ICR arise. */
  raise(causes: number): void;
  /** An input changed: time may be to be noted. */
  inputChanged(pin: number): void;
  /** An output has another level now, or a pin became an output. The last thing done. */
  output(pin: number, level: boolean): void;
}

export class Pins {
  readonly #host: PinsHost;
  /** Levels that the board drives, and that time's events left, a bit a pin. */
  #board = 0;
  #timed = 0;
  /** What the board was told last: directions and levels. */
  #told = 0;

  constructor(host: PinsHost) {
    this.#host = host;
  }

  #isOutput(pin: number): boolean {
    const { word, output } = PLACES[pin] as (typeof PLACES)[number];
    return ((this.#host.words[word] as number) & output) !== 0;
  }

  /** What TSSDP says of a pin: 0, 1 a target time, 2, 3 a clock; -1: it is not time's. */
  #selection(pin: number): number {
    const field = (this.#host.words[TSSDP] as number) >>> (SELECT_SHIFT + SELECT_BITS * pin);
    return (field & TIMED) !== 0 ? field & 3 : -1;
  }

  /** The level on the pin, whoever drives it. An input that nobody drives is low. */
  level(pin: number): boolean {
    if (!this.#isOutput(pin)) return ((this.#board >>> pin) & 1) !== 0;
    if (this.#selection(pin) >= 0) return ((this.#timed >>> pin) & 1) !== 0;
    const { word, level } = PLACES[pin] as (typeof PLACES)[number];
    return ((this.#host.words[word] as number) & level) !== 0;
  }

  /** The board drives an input, or would if the pin were one. @throws RangeError */
  drive(pin: number, level: boolean): void {
    if (!(Number.isInteger(pin) && pin >= 0 && pin < PINS)) throw new RangeError(`pin ${pin}: 0 to ${PINS - 1}`);
    const bit = 1 << pin;
    if (((this.#board & bit) !== 0) === level) return;
    this.#board ^= bit;
    if (this.#isOutput(pin)) return;
    this.#host.inputChanged(pin);
    // CTRL_EXT 3:0. A rising edge, found by comparing levels.
    if (level && ((this.#host.words[CTRL_EXT] as number) & bit) !== 0) this.#host.raise(ICR_GPI_SDP0 << pin);
  }

  /** CTRL or CTRL_EXT as it reads: levels of inputs are those of the pins. */
  read(register: 'CTRL' | 'CTRL_EXT'): number {
    const word = AT[register];
    let value = this.#host.words[word] as number;
    PLACES.forEach((place, pin) => {
      if (place.word === word) value = this.level(pin) ? value | place.level : value & ~place.level;
    });
    return value;
  }

  /** Time turns over the level of the pins that have this selection. */
  toggle(selection: number): void {
    for (let pin = 0; pin < PINS; pin++) if (this.#selection(pin) === selection) this.#timed ^= 1 << pin;
    this.update();
  }

  /** Time's level of the pins that have this selection is low. */
  clear(selection: number): void {
    for (let pin = 0; pin < PINS; pin++) if (this.#selection(pin) === selection) this.#timed &= ~(1 << pin);
    this.update();
  }

  /** CTRL, CTRL_EXT or TSSDP changed: tells the board what is different. */
  update(): void {
    let told = 0;
    for (let pin = 0; pin < PINS; pin++) {
      if (this.#isOutput(pin)) told |= (this.level(pin) ? 0x11 : 0x10) << pin;
    }
    const changed = this.#told ^ told;
    this.#told = told;
    for (let pin = 0; pin < PINS; pin++) {
      const isOutput = ((told >>> (4 + pin)) & 1) !== 0;
      if (isOutput && ((changed >>> pin) & 0x11) !== 0) this.#host.output(pin, ((told >>> pin) & 1) !== 0);
    }
  }

  /** The registers were reset. */
  reset(): void {
    this.#timed = 0;
    this.update();
  }

  save(): number {
    return this.#timed;
  }

  /** After the registers. What the board drives is this board's. */
  restore(timed: number): void {
    this.#timed = timed;
    this.update();
  }
}
