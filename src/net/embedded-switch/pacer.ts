// Rates of what functions send (`max_tx_rate`, `min_tx_rate`): a token bucket a port for the maximum, and one for the transmit scheduler of the whole device, which a port may go past to the extent of its minimum. What comes too
// early stays in its sender's queue. A frame may begin while there is anything in the bucket, and take it below nothing: so the longest one passes, and the rate holds over time.

import type { Nanos } from '#core/clock';
import type { FrameBatch } from '../port.ts';
import { RATE_BURST, RATE_FLOATS, RATE_GUARANTEED, RATE_MAXIMUM, RATE_MINIMUM, RATE_STAMP, RATE_TOKENS, type SwitchTables } from './layout.ts';

export class Pacer {
  readonly #rates: Float64Array;
  /** The record of the device as a whole. */
  readonly #device: number;
  /** After `admit` let in fewer: when to try again. */
  until: Nanos = 0;

  constructor(tables: SwitchTables) {
    this.#rates = tables.rates;
    this.#device = tables.ports * RATE_FLOATS;
  }

  /** How many leading frames of a batch a port may send now. They are charged when they have been sent. */
  admit(batch: FrameBatch, port: number, now: Nanos): number {
    const rates = this.#rates;
    const at = port * RATE_FLOATS;
    const device = this.#device;
    this.#fill(at, now);
    this.#fill(device, now);
    const maximum = rates[at + RATE_MAXIMUM] as number;
    const minimum = rates[at + RATE_MINIMUM] as number;
    const shared = rates[device + RATE_MAXIMUM] as number;
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

  #fill(at: number, now: Nanos): void {
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
    rates[at + RATE_GUARANTEED] = Math.min(burst, (rates[at + RATE_GUARANTEED] as number) + passed * (rates[at + RATE_MINIMUM] as number));
  }
}
