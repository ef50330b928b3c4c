// The driver's side: this project's driver keeps to what can be judged from its accesses, and each of those clauses is seen to fail under a fault between the driver and who watches it.

import { expect, it } from 'vitest';
import { WATCHED, type WatchedBus } from '#conformance/driver-watch';
import type { CommonField } from '#conformance/layout';
import { watchOwnDriver } from '#conformance/targets/own-driver';
import type { GuestBus } from '#core/guest-bus';
import { DRIVER_MUTATIONS, type DriverFault } from './mutations/driver.ts';

/** A driver that does one thing wrong: its accesses, changed on their way to the bus that is watched. */
function faulty(watched: WatchedBus, fault: DriverFault): GuestBus {
  return new Proxy(watched, {
    get(target, name) {
      if (name === 'mmioWrite')
        return (address: number, size: 1 | 2 | 4, value: number) => {
          const field: CommonField | undefined = target.fieldAt(address);
          fault(target, { address, size, value, field }, (at, width, written) => target.mmioWrite(at, width, written));
        };
      const member = Reflect.get(target, name, target);
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}

it('passes every clause that is watched', async () => {
  const { results } = await watchOwnDriver();
  expect(results.map(({ name, verdict, reason, failures }) => ({ name, verdict, reason, failures }))).toEqual(
    results.map(({ name }) => ({ name, verdict: 'pass', reason: undefined, failures: [] })),
  );
  const held = new Set(results.flatMap((result) => result.held));
  expect(WATCHED.filter((key) => !held.has(key))).toEqual(DRIVER_UNSEEN);
});

/** Judged only when they are broken: a good driver makes no such access at all. */
const DRIVER_UNSEEN: string[] = [];

it.each(DRIVER_MUTATIONS.map((mutation) => [mutation.name, mutation] as const))('sees a driver that %s', async (_name, { breaks, fault }) => {
  const { results } = await watchOwnDriver((watched) => faulty(watched, fault()));
  const broken = new Set(results.flatMap(({ failures }) => failures.map(({ clause }) => clause)));
  expect(breaks.filter((key) => !broken.has(key))).toEqual([]);
});

it('has a fault for each clause that is watched', () => {
  const proven = new Set(DRIVER_MUTATIONS.flatMap(({ breaks }) => breaks));
  expect(WATCHED.filter((key) => !proven.has(key))).toEqual([]);
});
