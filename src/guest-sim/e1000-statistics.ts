// The e1000's statistics registers (13.7), which clear when read, added up by the driver.

import { STATISTICS } from './e1000-constants.ts';
import type { E1000Registers } from './e1000-registers.ts';

export class E1000Statistics {
  readonly #registers: E1000Registers;
  readonly #totals = new Float64Array(STATISTICS.length);

  constructor(registers: E1000Registers) {
    this.#registers = registers;
  }

  /** Forgets what was counted before the driver came. */
  clear(): void {
    this.collect();
    this.#totals.fill(0);
  }

  /** Reads every register and adds it: each read is an access. */
  collect(): void {
    const registers = this.#registers;
    for (let i = 0; i < STATISTICS.length; i++) {
      const [, offset, wide] = STATISTICS[i] as (typeof STATISTICS)[number];
      let value = registers.read(offset);
      // Reading the high word clears both.
      if (wide) value += registers.read(offset + 4) * 2 ** 32;
      this.#totals[i] = (this.#totals[i] as number) + value;
    }
  }

  /** Totals since `clear`, by name, as of the last `collect`. */
  get totals(): Readonly<Record<string, number>> {
    return Object.fromEntries(STATISTICS.map(([name], i) => [name, this.#totals[i] as number]));
  }
}
