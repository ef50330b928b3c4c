import { expect, it } from 'vitest';
import { passTable, spreadTable } from '#cli/pass-table';
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

it.each([60, 80, 160, Number.POSITIVE_INFINITY])('so do those of what was spread, in %d columns', (width) => {
  const hashTypes = { none: 4000, IPv4: 10_000, TCPv4: 105_000, UDPv4: 7000, IPv6: 12_000, TCPv6: 28_000, UDPv6: 1000, IP_EX: 8000, TCP_EX: 0, UDP_EX: 0 };
  const result = { plane: 'inline', ring: 'split', frames: 175_000, agreed: 175_000, queues: [86_000, 52_000, 28_000, 9000], hashTypes, errors: [] } as const;
  const text = spreadTable([result, { ...result, ring: 'packed' }, { ...result, agreed: 174_999, errors: ['frame 7: kind 2'] }], width);
  for (const value of ['queue 4', '52000', 'no hash', '4000', 'IP_EX', 'all agree', 'DISAGREE']) expect(text).toContain(value);
  // What no frame had has no column.
  expect(text).not.toContain('TCP_EX');
  for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(Math.max(width, 72));
  expect(text.split('\n').filter((line) => line.includes('52000'))).toHaveLength(width >= 160 ? 3 : 1);
});
