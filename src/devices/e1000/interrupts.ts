// From causes to the interrupt line (8254x 3.2.7, 3.4.3, 13.4.17 to 13.4.21): ICR and its masks, the receive and transmit delay timers, and the throttle. One level, recomputed in one place from causes
// and mask. Timers: a packet timer starts anew with every packet, an absolute one with the first; either's end gives the cause and stops both.

import type { Clock, Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';
import { AT, ICR_ALL, ICR_RXT0, ICR_SRPD, ICR_TXDW } from './registers.ts';

const { ICR, IMS, ITR, RADV, RDTR, TADV, TIDV } = AT;

/** Of RDTR, RADV, TIDV, TADV: 1.024 us a unit. */
const DELAY_UNIT: Nanos = 1024;
/** Of ITR. */
const THROTTLE_UNIT: Nanos = 256;
const LONGEST_DELAY: Nanos = 0xffff * DELAY_UNIT;

export interface InterruptHost {
  readonly clock: Clock;
  /** The line changed. */
  setLine(asserted: boolean): void;
  /** The line is where a saved state had it: nothing happened. */
  restoreLine(asserted: boolean): void;
  /** The transmit timers ended: what waits for the write-back threshold is written before the cause shows. */
  flushTransmit(): void;
}

export interface SavedInterrupts {
  /** Deadlines of the receive, transmit and throttle timers; -1: not armed. */
  readonly timers: readonly Nanos[];
  /** When the line rose last; -1: never. */
  readonly rose: Nanos;
  readonly line: boolean;
}

/** A packet timer with an absolute limit: the pair RDTR / RADV, or TIDV / TADV. */
class DelayPair {
  readonly packet: Timer;
  readonly absolute: Timer;

  constructor(clock: Clock, expire: () => void) {
    const end = (): void => {
      this.cancel();
      expire();
    };
    this.packet = clock.timer(end);
    this.absolute = clock.timer(end);
  }

  start(now: Nanos, packetUnits: number, absoluteUnits: number): void {
    this.packet.arm(now + packetUnits * DELAY_UNIT);
    if (absoluteUnits > 0 && this.absolute.deadline === undefined) this.absolute.arm(now + absoluteUnits * DELAY_UNIT);
  }

  get running(): boolean {
    return this.packet.deadline !== undefined || this.absolute.deadline !== undefined;
  }

  cancel(): void {
    this.packet.cancel();
    this.absolute.cancel();
  }
}

export class Interrupts {
  readonly #host: InterruptHost;
  readonly #words: Uint32Array;
  readonly #receive: DelayPair;
  readonly #transmit: DelayPair;
  readonly #throttle: Timer;
  #line = false;
  #rose: Nanos = -1;
  readonly #timers: readonly Timer[];

  constructor(host: InterruptHost, words: Uint32Array) {
    this.#host = host;
    this.#words = words;
    const { clock } = host;
    this.#receive = new DelayPair(clock, () => this.raise(ICR_RXT0));
    this.#transmit = new DelayPair(clock, () => {
      host.flushTransmit();
      this.raise(ICR_TXDW);
    });
    this.#throttle = clock.timer(() => this.update());
    this.#timers = [this.#receive.packet, this.#receive.absolute, this.#transmit.packet, this.#transmit.absolute, this.#throttle];
  }

  get line(): boolean {
    return this.#line;
  }

  /** Causes arise now. */
  raise(causes: number): void {
    if (causes === 0) return;
    // 8254x 3.2.7.1, 13.4.44: the cause arising by another way stops the timers, so that there is no second interrupt for the same packets.
    if ((causes & ICR_RXT0) !== 0) this.#receive.cancel();
    if ((causes & ICR_TXDW) !== 0) this.#transmit.cancel();
    this.#words[ICR] = (this.#words[ICR] as number) | (causes & ICR_ALL);
    this.update();
  }

  /** Frames are in memory: RXT0 at once, or by the receive timers. A small packet does not wait (8254x 3.2.7.2). */
  received(causes: number): void {
    const delay = this.#words[RDTR] as number;
    if ((causes & ICR_SRPD) !== 0 || delay === 0) {
      this.raise(causes | ICR_RXT0);
      return;
    }
    this.#receive.start(this.#host.clock.now(), delay, this.#words[RADV] as number);
    this.raise(causes);
  }

  /** Descriptors that asked for a delayed interrupt are written, or wait for the threshold. 8254x 13.4.41: a TIDV of 0 is not allowed; it delays nothing. */
  sentDelayed(): void {
    const delay = this.#words[TIDV] as number;
    if (delay === 0) {
      this.#host.flushTransmit();
      this.raise(ICR_TXDW);
    } else this.#transmit.start(this.#host.clock.now(), delay, this.#words[TADV] as number);
  }

  /** RDTR.FPD: the packet timer ends now (8254x 13.4.30). */
  flushReceive(): void {
    if (this.#receive.running) this.raise(ICR_RXT0);
  }

  /** ICR was read, or bits of it written. */
  clear(causes: number): void {
    this.#words[ICR] = (this.#words[ICR] as number) & ~causes;
    this.update();
  }

  mask(bits: number, on: boolean): void {
    const old = this.#words[IMS] as number;
    this.#words[IMS] = on ? old | (bits & ICR_ALL) : old & ~bits;
    this.update();
  }

  /** The level from causes, mask and throttle. ITR 0 throttles nothing (8254x 13.4.18). */
  update(): void {
    const due = ((this.#words[ICR] as number) & (this.#words[IMS] as number)) !== 0;
    if (!due) {
      this.#throttle.cancel();
      this.#drive(false);
      return;
    }
    if (this.#line) return;
    const interval = (this.#words[ITR] as number) * THROTTLE_UNIT;
    const now = this.#host.clock.now();
    if (interval > 0 && this.#rose >= 0 && now < this.#rose + interval) {
      this.#throttle.arm(this.#rose + interval);
      return;
    }
    this.#throttle.cancel();
    this.#rose = now;
    this.#drive(true);
  }

  #drive(asserted: boolean): void {
    if (this.#line === asserted) return;
    this.#line = asserted;
    this.#host.setLine(asserted);
  }

  reset(): void {
    for (const timer of this.#timers) timer.cancel();
    this.#rose = -1;
    this.update();
  }

  save(): SavedInterrupts {
    return { timers: this.#timers.map((timer) => timer.deadline ?? -1), rose: this.#rose, line: this.#line };
  }

  /** @throws RestoreError, having changed nothing */
  static check(saved: Partial<SavedInterrupts> | undefined): asserts saved is SavedInterrupts {
    const { timers, rose, line } = saved ?? {};
    const isTime = (n: unknown): boolean => Number.isFinite(n) && (n as number) >= -1;
    if (!Array.isArray(timers) || timers.length !== 5 || !timers.every(isTime) || !isTime(rose) || typeof line !== 'boolean')
      throw new RestoreError('saved interrupt timers are malformed');
  }

  /** No timer has further to go than 16 bits of its unit, and the line did not rise in the future: a record made by another clock, or to silence the device, is brought within that. */
  restore(saved: SavedInterrupts): void {
    const now = this.#host.clock.now();
    this.#timers.forEach((timer, i) => {
      const deadline = saved.timers[i] as Nanos;
      timer.cancel();
      if (deadline >= 0) timer.arm(Math.min(deadline, now + LONGEST_DELAY));
    });
    this.#rose = Math.min(saved.rose, now);
    this.#line = saved.line;
    this.#host.restoreLine(saved.line);
  }
}
