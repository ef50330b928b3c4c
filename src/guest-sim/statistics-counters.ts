// Statistics registers that clear when read (8254x 13.7, 82576 8.18), added up by the driver.

import type { RegisterBlock } from './intel-registers.ts';

/** Name and offset of a counter; those of two registers have their low word first. */
export type StatisticsTable = readonly (readonly [name: string, offset: number, wide?: 'wide'])[];

export class StatisticsCounters {
  readonly #registers: RegisterBlock;
  readonly #table: StatisticsTable;
  readonly #totals: Float64Array;

  constructor(registers: RegisterBlock, table: StatisticsTable) {
    this.#registers = registers;
    this.#table = table;
    this.#totals = new Float64Array(table.length);
  }

  /** Forgets what was counted before the driver came. */
  clear(): void {
    this.collect();
    this.#totals.fill(0);
  }

  /** Reads every register and adds it: each read is an access. */
  collect(): void {
    const registers = this.#registers;
    for (let i = 0; i < this.#table.length; i++) {
      const [, offset, wide] = this.#table[i] as StatisticsTable[number];
      let value = registers.read(offset);
      // Reading the high word clears both.
      if (wide) value += registers.read(offset + 4) * 2 ** 32;
      this.#totals[i] = (this.#totals[i] as number) + value;
    }
  }

  /** Totals since `clear`, by name, as of the last `collect`. */
  get totals(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#table.map(([name], i) => [name, this.#totals[i] as number]));
  }
}
