// Drivers that use their rings wrongly.

import type { Stage } from '#conformance/driver/stage';
import {
  buffers,
  bytes,
  type DriverMutation,
  deaf,
  descriptors,
  FLAGS,
  flagsAt,
  found,
  notifications,
  notify,
  put16,
  put32,
  ringed,
  u16,
  u32,
} from './driver-fault.ts';

const PLAIN = 'driver/plain-rings';
const LISTS = 'driver/lists-in-order';
const UNORDERED = 'driver/unordered-rings';
const FLAG = 'driver/suppressed-by-flag';
const EVENT = 'driver/suppressed-by-event-index';

const add = (stage: Stage, descriptor: number, flags: number): void => put16(stage, flagsAt(stage, descriptor), u16(stage, flagsAt(stage, descriptor)) | flags);
const has = (stage: Stage, descriptor: number, flag: number): boolean => (u16(stage, flagsAt(stage, descriptor)) & flag) !== 0;
/** In chains: the first descriptor of each. */
const chained = (
  name: string,
  breaks: readonly string[],
  change: (stage: Stage, descriptor: number, desc: number, size: number) => void,
  ring?: 'split' | 'packed',
): DriverMutation =>
  descriptors(
    name,
    breaks,
    1,
    (stage, descriptor, { setup }) => {
      if (has(stage, descriptor, FLAGS.NEXT)) change(stage, descriptor, setup.desc, setup.size);
    },
    PLAIN,
    ring,
  );
/** Entry 0 of the table of each buffer in one. */
const tabled = (
  name: string,
  breaks: readonly string[],
  change: (stage: Stage, entry: number, descriptor: number) => void,
  scenario: string,
  ring: 'split' | 'packed',
): DriverMutation =>
  descriptors(
    name,
    breaks,
    0,
    (stage, descriptor) => {
      if (has(stage, descriptor, FLAGS.INDIRECT)) change(stage, u32(stage, descriptor), descriptor);
    },
    scenario,
    ring,
  );
const silent = (scenario: string, breaks: readonly string[]): DriverMutation =>
  notifications(
    `does not notify in ${scenario}`,
    breaks,
    ({ address, value }, forward, stage) => {
      if (address === notify(stage) || (value & 0xffff) !== 1) forward(address, 2, value);
    },
    scenario,
  );
const noisy = (scenario: string, breaks: readonly string[]): DriverMutation => ({
  name: `notifies all the time in ${scenario}`,
  breaks,
  scenario,
  fault: () => ({ quiet: (stage) => stage.watched.mmioWrite(notify(stage) + 4, 2, 1) }),
});

export const RING_FAULTS: readonly DriverMutation[] = [
  chained('lets the device write before it has read', ['vq.5'], (stage, descriptor) => add(stage, descriptor, FLAGS.WRITE)),
  chained('lets the device write before it has read (packed)', ['packed.15'], (stage, descriptor) => add(stage, descriptor, FLAGS.WRITE), 'packed'),
  chained('cuts a frame into crumbs', ['vq.6'], (stage, _descriptor, desc, size) => {
    for (let slot = 0; slot < size; slot++) put32(stage, desc + 16 * slot + 8, 1);
  }),
  chained(
    'makes a chain without an end',
    ['split.6', 'split.10'],
    (stage, descriptor, desc) => put16(stage, descriptor + 14, (descriptor - desc) / 16),
    'split',
  ),
  chained('uses tables that were not negotiated', ['split.8'], (stage, descriptor) => add(stage, descriptor, FLAGS.INDIRECT), 'split'),
  chained('uses tables that were not negotiated (packed)', ['packed.21', 'packed.24'], (stage, descriptor) => add(stage, descriptor, FLAGS.INDIRECT), 'packed'),
  descriptors(
    'skips a descriptor',
    ['split.7'],
    0,
    (stage, descriptor) => {
      if (has(stage, descriptor, FLAGS.NEXT)) put16(stage, descriptor + 14, u16(stage, descriptor + 14) + 1);
    },
    'driver/lists-in-order-without-tables',
    'split',
  ),
  tabled('nests tables', ['split.9'], (stage, entry) => put16(stage, entry + 12, u16(stage, entry + 12) | FLAGS.INDIRECT), LISTS, 'split'),
  tabled('chains a table', ['split.11'], (stage, _entry, descriptor) => add(stage, descriptor, FLAGS.NEXT), LISTS, 'split'),
  tabled('mixes a table up', ['split.12'], (stage, entry) => put16(stage, entry + 14, 2), LISTS, 'split'),
  tabled('chains in a table', ['packed.22'], (stage, entry) => put16(stage, entry + 14, u16(stage, entry + 14) | FLAGS.NEXT), UNORDERED, 'packed'),
  ringed('takes a buffer back', ['split.15'], 0, (stage, { setup, next }) => put16(stage, setup.driver + 2, (next - 1) & 0xffff), 'driver/traffic', 'split'),
  ringed('sets flags that mean nothing', ['split.16'], 0, (stage, { setup }) => put16(stage, setup.driver, 2), PLAIN, 'split'),
  ringed('sets a flag beside the event index', ['split.18'], 0, (stage, { setup }) => put16(stage, setup.driver, 1), 'driver/traffic', 'split'),
  ringed('changes what the device has', ['init.15'], 0, (stage, { setup }) => bytes(stage, setup.desc, 16 * setup.size).set([9], 8), 'driver/traffic', 'split'),
  ringed(
    'changes what the device has (packed)',
    ['init.15', 'packed.10'],
    0,
    (stage, { setup }) => bytes(stage, setup.desc, 16 * setup.size).set([9], 16 * 60 + 8),
    'driver/traffic',
    'packed',
  ),
  ringed(
    'uses a slot again too early',
    ['packed.9', 'packed.17'],
    0,
    (stage, { setup, next, inFlight }) => {
      if (inFlight === setup.size) put16(stage, setup.desc + 16 * next + 14, FLAGS.USED | FLAGS.WRITE);
    },
    'driver/traffic',
    'packed',
  ),
  descriptors(
    'makes a list longer than the ring',
    ['packed.14'],
    1,
    (stage, _descriptor, { setup }) => {
      for (let slot = 0; slot < setup.size; slot++) put16(stage, setup.desc + 16 * slot + 14, FLAGS.AVAIL | FLAGS.NEXT);
    },
    PLAIN,
    'packed',
  ),
  descriptors(
    'shows a list by half',
    ['packed.16', 'packed.18'],
    1,
    (stage, descriptor, { setup }) => {
      // The last one that is available says there is more.
      let last = descriptor;
      while (last + 16 < setup.desc + 16 * setup.size && has(stage, last + 16, FLAGS.AVAIL) && !has(stage, last + 16, FLAGS.USED)) last += 16;
      add(stage, last, FLAGS.NEXT);
    },
    'driver/traffic',
    'packed',
  ),
  silent(FLAG, ['split.33', 'split.35', 'split.40', 'split.49']),
  silent(EVENT, ['split.36', 'split.37', 'split.42', 'split.49']),
  silent('driver/suppressed-packed', ['packed.28']),
  noisy(FLAG, ['split.34']),
  noisy(EVENT, ['split.38']),
  deaf('driver/needless-interrupts', ['split.20']),
  deaf('driver/used-out-of-sight', ['packed.4']),
  found(
    'believes in more than was written',
    ['split.29', 'split.30', 'split.31'],
    'receive',
    (_first, lengthAt, stage) => put32(stage, lengthAt, 212),
    'driver/used-length',
  ),
  buffers('counts buffers of a frame to be sent', ['net-tx.5'], 'transmit', (first) => first.set([1], 10)),
];
