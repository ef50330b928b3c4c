// The tour's numbers as a table for people.

import Table from 'cli-table3';
import type { PassResult } from '#lab/replay';

const perFrame = (value: number): string => (value === 0 ? '0' : value < 0.0005 ? '<0.001' : value.toFixed(3));
const rate = (value: number): string => (value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : `${(value / 1e3).toFixed(1)} k`);
const microseconds = (nanos: number): string => (nanos / 1000).toFixed(1);

const COLUMNS = ['data plane', 'ring', 'frames', 'MB', 'frames/s', 'Gbit/s', 'exits', 'kicks', 'interrupts', 'wakes', 'p50 us', 'p99 us', 'bytes at B'];

function cells(p: PassResult): string[] {
  return [
    p.plane,
    p.ring,
    String(p.frames),
    (p.bytes / 1e6).toFixed(1),
    rate(p.framesPerSecond),
    ((p.bytes * 8) / p.seconds / 1e9).toFixed(2),
    perFrame(p.exitsPerFrame),
    perFrame(p.kicksPerFrame),
    perFrame(p.interruptsPerFrame),
    perFrame(p.wakesPerFrame),
    microseconds(p.roundTrip.p50),
    microseconds(p.roundTrip.p99),
    p.errors.length === 0 ? 'all equal' : 'DIFFER',
  ];
}

/** A row for each pass; on a terminal that is too narrow for that, a column. */
export function passTable(passes: readonly PassResult[], width: number): string {
  const rows = passes.map(cells);
  const style = { head: [], border: [] };
  const wide = new Table({ head: COLUMNS, colAligns: ['left', 'left', ...new Array<'right'>(10).fill('right'), 'left'], style });
  wide.push(...rows);
  const tall = new Table({
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
    colAligns: ['left', ...passes.map((): 'right' => 'right')],
    style,
  });
  tall.push(...COLUMNS.map((name, i) => [name, ...rows.map((row) => row[i] as string)]));
  const text = wide.toString();
  const fits = text.indexOf('\n') <= width;
  return `${fits ? text : tall.toString()}\n${NOTE}`;
}

const NOTE = `exits, kicks, interrupts and wakes are of both guests together, for each
frame sent; p50 and p99 are round trips of one frame at a time.`;
