// Shared by the benches: repeated timing of a small operation, and a table of what came of it. Not a bench itself.

import Table from 'cli-table3';

/** Nanoseconds for one call of `operation`: the median of `samples` runs of `calls` each, after as many to warm up. `operation` returns a number that is kept, so that it is not optimized away. */
export function nanosPerCall(operation: (i: number) => number, calls = 2_000_000, samples = 7): number {
  let sink = 0;
  const times: number[] = [];
  for (let sample = -2; sample < samples; sample++) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) sink = (sink + operation(i)) | 0;
    const nanos = ((performance.now() - start) * 1e6) / calls;
    if (sample >= 0) times.push(nanos);
  }
  kept = sink;
  return median(times);
}

export let kept = 0;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >>> 1] as number;
}

/** Prints rows under a heading; numbers to the right. */
export function printTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const table = new Table({ head: [...head], colAligns: head.map((_, i) => (i === 0 ? 'left' : 'right')), style: { head: [], border: [] } });
  for (const row of rows) table.push(row.map(String));
  console.log(table.toString());
}
