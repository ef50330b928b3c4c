import { expect, it } from 'vitest';
import { passTable } from '#cli/pass-table';
import type { PassResult } from '#lab/replay';

const pass = (plane: PassResult['plane'], ring: PassResult['ring'], errors: string[] = []): PassResult => ({
  plane,
  ring,
  frames: 1_234_567,
  bytes: 5e8,
  seconds: 2,
  framesPerSecond: 617_283.5,
  exitsPerFrame: 0.0001,
  kicksPerFrame: 0,
  interruptsPerFrame: 0.25,
  wakesPerFrame: 1,
  roundTrip: { count: 1, p50: 1500, p99: 45_678 },
  errors,
});
const passes = [pass('inline', 'split'), pass('inline', 'packed'), pass('vhost-net', 'split'), pass('vhost-net', 'packed', ['frame 3 differs'])];
const values = ['1234567', '500.0', '617.3 k', '2.00', '<0.001', '0', '0.250', '1.000', '1.5', '45.7', 'all equal', 'DIFFER'];

it.each([60, 80, 100, 200, Number.POSITIVE_INFINITY])('all numbers fit a terminal of %d columns', (width) => {
  const text = passTable(passes, width);
  for (const value of values) expect(text).toContain(value);
  for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(Math.max(width, 72));
  // A row for each pass where there is room.
  expect(text.split('\n').filter((line) => line.includes('1234567'))).toHaveLength(width >= 200 ? 4 : 1);
});
