// Rates of what functions send (`max_tx_rate`, `min_tx_rate`): a token bucket a port for the maximum, and one for the transmit scheduler of the whole device, which a port may go past to the extent of what it is sure of: its
// minimum, and an equal share of what no minimum takes with all that have something to send. So nobody who always has keeps the others from sending. What comes too early stays in its sender's queue. A frame may begin
// while there is anything in the bucket, and take it below nothing: so the longest one passes, and the rate holds over time.

import type { Nanos } from '#core/clock';
import type { FrameBatch } from '../port.ts';
import { RATE_BURST, RATE_FLOATS, RATE_GUARANTEED, RATE_MAXIMUM, RATE_MINIMUM, RATE_STAMP, RATE_TOKENS, type SwitchTables } from './layout.ts';

/** Who has had something to send in this time counts as one to share with: this long at least, and as long as sharers wait for their turn when all of them owe a burst and a large frame. */
const LEAST_WINDOW: Nanos = 10e6;
const MOST_OWED = 2 ** 18;

export class Pacer {
  readonly #rates: Float64Array;
  /** The record of the device as a whole. */
  readonly #device: number;
  /** After `admit` let in fewer: when to try again. */
  until: Nanos = 0;
  // Senders of the present window and how many there were in the one before.
  #window = 0;
  #windowEnd: Nanos = 0;
  #senders = 0;
  #sendersBefore = 0;
  readonly #seen: Int32Array;

  constructor(tables: SwitchTables) {
    this.#rates = tables.rates;
    this.#device = tables.ports * RATE_FLOATS;
    this.#seen = new Int32Array(tables.ports);
  }

  /** How many share the transmit scheduler (of so many bytes a nanosecond) now, this port with them. */
  #sharers(port: number, now: Nanos, rate: number): number {
    if (now >= this.#windowEnd) {
      const window = Math.max(LEAST_WINDOW, (MOST_OWED * this.#senders) / rate);
      this.#sendersBefore = now < this.#windowEnd + window ? this.#senders : 0;
      this.#senders = 0;
      this.#window = (this.#window + 1) | 0;
      this.#windowEnd = now + window;
    }
    if (this.#seen[port] !== this.#window) {
      this.#seen[port] = this.#window;
      this.#senders++;
    }
    return Math.max(this.#senders, this.#sendersBefore);
  }

  /** How many leading frames of a batch a port may send now. They are charged when they have been sent. */
  admit(batch: FrameBatch, port: number, now: Nanos): number {
    const rates = this.#rates;
    const at = port * RATE_FLOATS;
    const device = this.#device;
    const maximum = rates[at + RATE_MAXIMUM] as number;
    const shared = rates[device + RATE_MAXIMUM] as number;
    const share = shared > 0 ? (rates[device + RATE_MINIMUM] as number) / this.#sharers(port, now, shared) : 0;
    const minimum = (rates[at + RATE_MINIMUM] as number) + share;
    this.#fill(at, minimum, now);
    this.#fill(device, 0, now);
    let own = maximum > 0 ? (rates[at + RATE_TOKENS] as number) : Infinity;
    let guaranteed = minimum > 0 ? (rates[at + RATE_GUARANTEED] as number) : -1;
    let all = shared > 0 ? (rates[device + RATE_TOKENS] as number) : Infinity;
    let frame = 0;
    for (; frame < batch.count; frame++) {
      if (own <= 0 || (all <= 0 && guaranteed <= 0)) break;
      const bytes = batch.length[frame] as number;
      own -= bytes;
      all -= bytes;
      guaranteed -= bytes;
    }
    if (frame < batch.count) {
      const forOwn = own <= 0 ? (1 - own) / maximum : 0;
      let forShared = all <= 0 && guaranteed <= 0 ? (1 - all) / shared : 0;
      if (forShared > 0 && minimum > 0) forShared = Math.min(forShared, (1 - guaranteed) / minimum);
      this.until = now + Math.max(forOwn, forShared, 1);
    }
    return frame;
  }

  charge(batch: FrameBatch, frames: number, port: number): void {
    const rates = this.#rates;
    let bytes = 0;
    for (let i = 0; i < frames; i++) bytes += batch.length[i] as number;
    const at = port * RATE_FLOATS;
    rates[at + RATE_TOKENS] = (rates[at + RATE_TOKENS] as number) - bytes;
    // A port that had more than its share has not used up what it is sure of later.
    rates[at + RATE_GUARANTEED] = Math.max(-(rates[at + RATE_BURST] as number), (rates[at + RATE_GUARANTEED] as number) - bytes);
    rates[this.#device + RATE_TOKENS] = (rates[this.#device + RATE_TOKENS] as number) - bytes;
  }

  /** @param sure bytes a nanosecond that the port is sure of */
  #fill(at: number, sure: number, now: Nanos): void {
    const rates = this.#rates;
    const stamp = rates[at + RATE_STAMP] as number;
    rates[at + RATE_STAMP] = now;
    const burst = rates[at + RATE_BURST] as number;
    if (stamp < 0) {
      rates[at + RATE_TOKENS] = burst;
      rates[at + RATE_GUARANTEED] = burst;
      return;
    }
    // A clock of another thread's (a new run of a worker) has its own zero.
    const passed = Math.max(0, now - stamp);
    rates[at + RATE_TOKENS] = Math.min(burst, (rates[at + RATE_TOKENS] as number) + passed * (rates[at + RATE_MAXIMUM] as number));
    rates[at + RATE_GUARANTEED] = Math.min(burst, (rates[at + RATE_GUARANTEED] as number) + passed * sure);
  }
}
