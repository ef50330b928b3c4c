// The driver's side: this project's driver keeps to what can be judged of it, and each of those clauses is seen to fail under a fault: in its accesses or in the memory it writes, on their
// way to the watch, or in what it sees of its device.

import { expect, it } from 'vitest';
import { CLAUSES } from '#conformance/catalogue';
import { planScenarios } from '#conformance/driver/run';
import { JUDGED, SCENARIOS, UNJUDGED, UNUSED } from '#conformance/driver/scenarios';
import { watchOwnDriver } from '#conformance/targets/own-driver';
import { DRIVER_MUTATIONS } from './mutations/driver.ts';
import { faultyBus } from './mutations/driver-fault.ts';

it('passes every scenario, and every clause that is judged', async () => {
  const { results } = await watchOwnDriver();
  const odd = results.filter(({ verdict }) => verdict !== 'pass');
  expect(odd.map(({ name, verdict, reason, failures }) => ({ name, verdict, reason, failures }))).toEqual([]);
  const held = new Set(results.flatMap((result) => result.held));
  expect([...JUDGED].filter((key) => !held.has(key) && !UNUSED.includes(key))).toEqual([]);
  expect([...held].filter((key) => !JUDGED.has(key))).toEqual([]);
});

it('has names of its own, and clauses that drivers can be tested for', () => {
  expect(new Set(SCENARIOS.map(({ name }) => name)).size).toBe(SCENARIOS.length);
  const known = new Set(CLAUSES.filter(({ observable }) => observable === 'driver').map(({ key }) => key));
  expect([...JUDGED, ...Object.keys(UNJUDGED)].filter((key) => !known.has(key))).toEqual([]);
  expect(Object.keys(UNJUDGED).filter((key) => JUDGED.has(key))).toEqual([]);
});

it.each(DRIVER_MUTATIONS.map((mutation) => [mutation.name, mutation] as const))('sees a driver that %s', async (_name, { breaks, fault, scenario, ring }) => {
  const planned = planScenarios(SCENARIOS, { case: scenario }).filter((item) => ring === undefined || item.ring === ring);
  expect(planned.length).toBeGreaterThan(0);
  const broken = new Set<string>();
  for (const { name } of planned) {
    // One ring format is enough where it shows everything.
    if (breaks.every((key) => broken.has(key))) break;
    const { results } = await watchOwnDriver({ case: name }, (stage) => faultyBus(stage, fault()));
    for (const { failures } of results) for (const { clause } of failures) broken.add(clause);
  }
  expect(breaks.filter((key) => !broken.has(key))).toEqual([]);
});

it('has a fault for each clause that is judged', () => {
  const proven = new Set(DRIVER_MUTATIONS.flatMap(({ breaks }) => breaks));
  expect([...JUDGED].filter((key) => !proven.has(key))).toEqual([]);
});
