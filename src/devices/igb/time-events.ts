// What SYSTIM does of its own accord (82576 7.9.4, 8.16; what rev. 2.7's text was not at hand for is as the I210 and X550 have it, which have the same registers): at a target time the pins that TSSDP gives it change level;
// a clock turns its pins over every FREQOUT of SYSTIM; an input's change, or software (TSAUXC.SAMP_AUT), notes SYSTIM in AUXSTMP until it is read. The 82576 has no cause for these in ICR: they show on pins and in TSAUXC.

import type { Clock, Nanos, Timer } from '#core/clock';
import type { Pins } from './pins.ts';
import { AT } from './registers.ts';
import type { TimeSync } from './time-sync.ts';

const { AUXSTMP, FREQOUT, TRGTTIM, TSAUXC, TSSDP } = AT;

/** TSAUXC, of channel 0 and of channel 1. */
const EN_TT = [1 << 0, 1 << 1] as const;
const EN_CLK = [1 << 2, 1 << 5] as const;
const SAMP_AUT = [1 << 3, 1 << 6] as const;
const ST = [1 << 4, 1 << 7] as const;
const EN_TS = [1 << 8, 1 << 10] as const;
const AUTT = [1 << 9, 1 << 11] as const;
/** TSSDP.AUXn_SDP_SEL and AUXn_TS_SDP_EN: three bits a channel. */
const AUX_ENABLE = 4;
const AUX_BITS = 3;
/** Pins selecting a clock, not a target time. */
const CLOCK_0 = 2;
const WORD = 2n ** 32n;
/** A clock's pin is looked at no more often; faster ones lose edges in pairs. So much of the host's time a guest can have. */
const LEAST: Nanos = 10_000;

type Channel = 0 | 1;

export class TimeEvents {
  readonly #words: Uint32Array;
  readonly #time: TimeSync;
  readonly #pins: Pins;
  readonly #clock: Clock;
  readonly #timers: readonly [Timer, Timer];
  /** A clock that runs: its first level is out. */
  readonly #runs: [boolean, boolean] = [false, false];
  #looked: [Nanos, Nanos] = [-Infinity, -Infinity];

  constructor(words: Uint32Array, time: TimeSync, pins: Pins, clock: Clock) {
    this.#words = words;
    this.#time = time;
    this.#pins = pins;
    this.#clock = clock;
    this.#timers = [clock.timer(() => this.#look(0)), clock.timer(() => this.#look(1))];
  }

  get #control(): number {
    return this.#words[TSAUXC] as number;
  }

  #target(channel: Channel): bigint {
    return BigInt(this.#words[TRGTTIM + 2 * channel + 1] as number) * WORD + BigInt(this.#words[TRGTTIM + 2 * channel] as number);
  }

  #setTarget(channel: Channel, time: bigint): void {
    this.#words[TRGTTIM + 2 * channel] = Number(time % WORD);
    this.#words[TRGTTIM + 2 * channel + 1] = Number((time / WORD) % WORD);
  }

  // ---- registers ----

  /** TSAUXC was stored; `written` has its commands. */
  wroteControl(written: number): void {
    for (const channel of [0, 1] as const) {
      if ((written & SAMP_AUT[channel]) !== 0) this.#note(channel);
      const clocked = (this.#control & EN_CLK[channel]) !== 0;
      if (!clocked) this.#runs[channel] = false;
      else if (!this.#runs[channel] && (this.#control & ST[channel]) === 0) this.#start(channel, this.#time.now);
    }
    this.update();
  }

  /** SYSTIM, its pace, a target or a clock's period is another one. */
  update(): void {
    this.#look(0);
    this.#look(1);
  }

  /** AUXSTMPH was read: the next time may be noted. */
  release(channel: Channel): void {
    this.#words[TSAUXC] = this.#control & ~AUTT[channel];
  }

  // ---- events ----

  /** An input pin changed. */
  inputChanged(pin: number): void {
    for (const channel of [0, 1] as const) {
      const selection = ((this.#words[TSSDP] as number) >>> (AUX_BITS * channel)) & 7;
      if ((selection & AUX_ENABLE) !== 0 && (selection & 3) === pin && (this.#control & EN_TS[channel]) !== 0) this.#note(channel);
    }
  }

  #note(channel: Channel): void {
    if ((this.#control & AUTT[channel]) !== 0) return;
    const { now } = this.#time;
    this.#words[AUXSTMP + 2 * channel] = Number(now % WORD);
    this.#words[AUXSTMP + 2 * channel + 1] = Number(now / WORD);
    this.#words[TSAUXC] = this.#control | AUTT[channel];
  }

  /** A clock begins low, at `from`. */
  #start(channel: Channel, from: bigint): void {
    this.#runs[channel] = true;
    this.#setTarget(channel, from + BigInt(this.#words[FREQOUT + channel] as number));
    this.#pins.clear(CLOCK_0 + channel);
  }

  /** Does what is due, and sees to it that somebody looks again. */
  #look(channel: Channel): void {
    this.#timers[channel].cancel();
    if (this.#waits(channel) && this.#time.now >= this.#target(channel)) this.#reached(channel);
    if (!this.#waits(channel)) return;
    const when = this.#time.whenReaches(this.#target(channel));
    if (when === Infinity) return;
    const now = this.#clock.now();
    const clocked = (this.#control & EN_CLK[channel]) !== 0;
    // `when` can be just past by rounding.
    this.#timers[channel].arm(Math.max(when > now ? when : now + LEAST, clocked ? this.#looked[channel] + LEAST : when));
  }

  /** A target time means something: for pins of its own, or for a clock that starts or goes on by it. */
  #waits(channel: Channel): boolean {
    const control = this.#control;
    if ((control & EN_TT[channel]) !== 0) return true;
    return (control & EN_CLK[channel]) !== 0 && !(this.#runs[channel] && this.#words[FREQOUT + channel] === 0);
  }

  #reached(channel: Channel): void {
    this.#looked[channel] = this.#clock.now();
    const clocked = (this.#control & EN_CLK[channel]) !== 0;
    // One event for each time it was enabled.
    if ((this.#control & EN_TT[channel]) !== 0) {
      this.#words[TSAUXC] = this.#control & ~EN_TT[channel];
      this.#pins.toggle(channel);
    }
    if (!clocked) return;
    if (!this.#runs[channel]) this.#start(channel, this.#target(channel));
    const half = BigInt(this.#words[FREQOUT + channel] as number);
    const next = this.#target(channel);
    const { now } = this.#time;
    if (half === 0n || now < next) return;
    const turns = (now - next) / half + 1n;
    this.#setTarget(channel, next + turns * half);
    if (turns % 2n === 1n) this.#pins.toggle(CLOCK_0 + channel);
  }

  // ---- life ----

  reset(): void {
    for (const timer of this.#timers) timer.cancel();
    this.#runs.fill(false);
    this.#looked = [-Infinity, -Infinity];
  }

  save(): readonly [boolean, boolean] {
    return [...this.#runs];
  }

  /** After the registers, SYSTIM and the pins. */
  restore([first, second]: readonly [boolean, boolean]): void {
    this.reset();
    this.#runs[0] = first;
    this.#runs[1] = second;
    this.update();
  }
}
