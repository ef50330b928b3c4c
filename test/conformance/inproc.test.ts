// The whole suite against this project's own device, over each of its data planes. Every case passes or says why it cannot be tried, and checks each clause it claims; docs/conformance.md says so
// (`NICBOX_WRITE_DOCS=1 npx vitest run test/conformance/inproc.test.ts` writes it anew).

import { writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { CASES } from '#conformance/cases';
import { type Report, runCases } from '#conformance/runner';
import { DATA_PLANE_NAMES } from '#conformance/targets/data-plane';
import { inprocSource } from '#conformance/targets/inproc';
import { watchOwnDriver } from '#conformance/targets/own-driver';
import { conformanceDocument, proven } from './document.ts';

/** What this device does not have: its cases are skipped, all others run. */
const ABSENT = [/^not offered: (ACCESS_PLATFORM, ORDER_PLATFORM|NOTIFY_ON_EMPTY)$/, /no vendor data capability/, /no shared memory region/];

/** Clauses of cases that run all the same: about features that this device does not offer. */
const UNSEEN = new Set<string>();

const sources = DATA_PLANE_NAMES.map((plane) => inprocSource(plane));
const reports: Report[] = [];
for (const source of sources) reports.push(await runCases(CASES, source));
afterAll(async () => {
  for (const source of sources) await source.close?.();
});

describe.each(reports.map((report) => [report.target, report.results] as const))('%s', (_target, results) => {
  it('passes every case', () => {
    const failed = results.filter(({ verdict }) => verdict === 'fail');
    expect(failed.map(({ name, reason, failures, trace }) => ({ name, reason, failures, trace }))).toEqual([]);
    const skipped = results.filter(({ verdict, reason }) => verdict === 'skip' && !ABSENT.some((known) => known.test(reason ?? '')));
    expect(skipped.map(({ name, reason }) => `${name}: ${reason}`)).toEqual([]);
  });

  it('is checked in each case for what the case says it checks', () => {
    const checked = new Map<string, Set<string>>();
    const ran = results.filter(({ verdict }) => verdict === 'pass');
    for (const result of ran) for (const key of result.held) checked.set(result.case, (checked.get(result.case) ?? new Set()).add(key));
    for (const result of ran)
      expect({ case: result.case, unchecked: result.clauses.filter((key) => checked.get(result.case)?.has(key) !== true && !UNSEEN.has(key)) }).toEqual({
        case: result.case,
        unchecked: [],
      });
  });
});

it('runs cases in the same order for the same seed', async () => {
  const order = async (seed: number): Promise<string[]> => (await runCases(CASES, inprocSource(), { seed, areas: ['msix'] })).results.map(({ name }) => name);
  const first = await order(7);
  expect(await order(7)).toEqual(first);
  expect(await order(8)).not.toEqual(first);
});

it('docs/conformance.md is what the code says', async () => {
  const { file, text, written } = conformanceDocument(reports, await watchOwnDriver());
  if (process.env.NICBOX_WRITE_DOCS) writeFileSync(file, written);
  else expect(text === written ? 'up to date' : 'NICBOX_WRITE_DOCS=1 npx vitest run test/conformance/inproc.test.ts writes it anew').toBe('up to date');
});

it('every clause of a case was seen failing under a fault', () => {
  const claimed = new Set(CASES.flatMap(({ clauses }) => clauses));
  expect([...claimed].filter((key) => !proven.has(key)).sort()).toEqual([]);
});
