// What the experiments' commands have in common: their options' values, and how figures are printed.

import { SingleBar } from 'cli-progress';
import { InvalidArgumentError } from 'commander';

export function positive(limit: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!(value > 0 && value <= limit)) throw new InvalidArgumentError(`give a number above 0, at most ${limit}.`);
    return value;
  };
}

/** Whole numbers in a row, each once. */
export function wholeNumbers(least: number, most: number, example: string): (text: string) => number[] {
  return (text) => {
    const values = text.split(',').map((value) => (value.trim() === '' ? Number.NaN : Number(value)));
    if (!values.every((v) => Number.isInteger(v) && v >= least && v <= most))
      throw new InvalidArgumentError(`give whole numbers from ${least} to ${most}, as in ${example}.`);
    return [...new Set(values)];
  };
}

/** An option NAME=NANOSECONDS that may be repeated. */
export function costs<T extends object>(known: T): (text: string, before: T) => T {
  return (text, before) => {
    const [name = '', value = ''] = text.split('=');
    if (!(name in known) || value === '' || !(Number(value) >= 0))
      throw new InvalidArgumentError(`give NAME=NANOSECONDS; names: ${Object.keys(known).join(', ')}.`);
    return { ...before, [name]: Number(value) };
  };
}

export const rate = (value: number): string => (value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : `${(value / 1e3).toFixed(1)} k`);
export const small = (value: number): string => (value === 0 ? '0' : value < 0.0005 ? '<0.001' : value.toFixed(3));
export const micros = (value: number): string => (value === 0 ? '' : (value / 1000).toFixed(1));
/** No line between rows. */
export const tableStyle = { head: [], border: [], compact: true };

export interface Progress {
  /** `done` of `total` are over, and now it is this. */
  step(done: number, total: number, what: string): void;
  stop(): void;
}

/** A bar on a terminal, lines elsewhere. */
export function progress(): Progress {
  const bar = process.stderr.isTTY ? new SingleBar({ format: '  {bar} {value}/{total} | {what}', hideCursor: true, clearOnComplete: true }) : undefined;
  return {
    step(done, total, what) {
      if (bar === undefined) console.error(`${done + 1}/${total} ${what}`);
      else if (done === 0) bar.start(total, 0, { what });
      else bar.update(done, { what });
    },
    stop: () => bar?.stop(),
  };
}
