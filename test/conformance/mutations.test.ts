// Each case can fail: under a seeded fault that breaks a clause, a check of that very clause fails.

import { describe, expect, it } from 'vitest';
import { CASES } from '#conformance/cases';
import { plan, runOne } from '#conformance/runner';
import { inprocSource } from '#conformance/targets/inproc';
import { mutantSource } from './mutant.ts';
import { MUTATIONS } from './mutations.ts';

describe('under a seeded fault', () => {
  const source = inprocSource();

  it.each(MUTATIONS.map((mutation) => [mutation.name, mutation] as const))('%s', async (name, mutation) => {
    const about = CASES.filter(({ clauses }) => clauses.some((key) => mutation.breaks.includes(key)));
    const mutant = mutantSource(source, name, mutation.fault);
    const broken = new Set<string>();
    for (const planned of plan(about)) {
      // One variant of a case is enough, and only cases of clauses that have not been seen to break.
      if (!planned.test.clauses.some((key) => mutation.breaks.includes(key) && !broken.has(key))) continue;
      for (const { clause } of (await runOne(planned, mutant)).failures) broken.add(clause);
    }
    expect(mutation.breaks.filter((key) => !broken.has(key))).toEqual([]);
  });
});
