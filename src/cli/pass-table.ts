// The tour's numbers as tables for people.

import Table from 'cli-table3';
import type { PassResult } from '#lab/replay';
import type { SpreadResult } from '#lab/spread';
import type { VfRow } from '#lab/vf-tour';

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
function fitted(columns: readonly string[], rows: readonly string[][], width: number): string {
  const style = { head: [], border: [], compact: true };
  const wide = new Table({ head: [...columns], colAligns: columns.map((_, i) => (i < 2 || i === columns.length - 1 ? 'left' : 'right')), style });
  wide.push(...rows);
  const tall = new Table({
    colAligns: ['left', ...rows.map((): 'right' => 'right')],
    style,
  });
  tall.push(...columns.map((name, i) => [name, ...rows.map((row) => row[i] as string)]));
  const text = wide.toString();
  return text.indexOf('\n') <= width ? text : tall.toString();
}

export function passTable(passes: readonly PassResult[], width: number): string {
  return `${fitted(COLUMNS, passes.map(cells), width)}\n${NOTE}`;
}

/** Frames per queue and per hash type; of the types, those that some frame had. */
export function spreadTable(results: readonly SpreadResult[], width: number): string {
  const queues = Array.from({ length: Math.max(...results.map((r) => r.queues.length)) }, (_, i) => i);
  const types = [...new Set(results.flatMap((r) => Object.keys(r.hashTypes).filter((type) => r.hashTypes[type] !== 0)))];
  const columns = [
    'data plane',
    'ring',
    'frames',
    ...queues.map((i) => `queue ${i + 1}`),
    ...types.map((type) => (type === 'none' ? 'no hash' : type)),
    'hashes',
  ];
  const rows = results.map((r) => [
    r.plane,
    r.ring,
    String(r.frames),
    ...queues.map((i) => String(r.queues[i] ?? 0)),
    ...types.map((type) => String(r.hashTypes[type] ?? 0)),
    r.errors.length === 0 ? 'all agree' : 'DISAGREE',
  ]);
  return fitted(columns, rows, width);
}

/** A row for each station of the 82576. */
export function vfTable(rows: readonly VfRow[], width: number): string {
  const columns = ['station', 'address', 'sent', 'received', 'lost', 'spoofs heard', 'caught', 'resets', 'missed', 'interrupts'];
  const cells = rows.map((r) => [r.station, r.mac, ...[r.sent, r.received, r.lost, r.spoofsHeard, r.caught, r.resets, r.missed, r.interrupts].map(String)]);
  return fitted(columns, cells, width);
}

const NOTE = `exits, kicks, interrupts and wakes are of both guests together, for each
frame sent; p50 and p99 are round trips of one frame at a time.`;
