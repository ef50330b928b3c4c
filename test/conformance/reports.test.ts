// What people read: targets side by side, on a terminal and on a page; of what fails the clause, who breaks it, and what was seen.

import { beforeAll, expect, it } from 'vitest';
import { conformanceTable } from '#cli/conformance-table';
import { CASES } from '#conformance/cases';
import { htmlReport } from '#conformance/report-html';
import { breaksMust, type Report, runCases } from '#conformance/runner';
import { inprocSource } from '#conformance/targets/inproc';
import { mutantSource } from './mutant.ts';
import { MUTATIONS } from './mutations.ts';

const FAULT = 'device_feature_select stays';
const reports: Report[] = [];

beforeAll(async () => {
  const source = inprocSource();
  const fault = MUTATIONS.find(({ name }) => name === FAULT);
  const options = { case: 'pci/feature-windows' };
  reports.push(await runCases(CASES, source, options), await runCases(CASES, mutantSource(source, FAULT, fault?.fault ?? (() => ({}))), options));
});

it('one of them breaks a MUST', () => {
  expect(reports.map(breaksMust)).toEqual([false, true]);
});

it('the table has a column for each, and tells what failed where', () => {
  const lines = conformanceTable(reports, 'device').split('\n');
  expect(lines.find((line) => line.includes('area'))).toMatch(/nicbox, inline +│ nicbox, inline: device_feature_select stays/);
  expect(lines.find((line) => line.startsWith('│ pci '))).toMatch(/ 2 \/ 0 \/ 0 +│ +0 \/ 2 \/ 0 │/);
  expect(lines.find((line) => line.startsWith('│ pci.33'))).toMatch(/pass +│ FAIL/);
  expect(lines.filter((line) => line.includes('expected') && line.includes('saw')).length).toBeGreaterThan(0);
});

it('the table of one has its counts and nothing to compare', () => {
  const text = conformanceTable(reports.slice(0, 1), 'device');
  expect(text).toContain('pass / fail / skipped');
  expect(text).not.toContain('breaks');
});

it('the page has a column for each, links to what fails, and shows evidence once for those it is the same for', () => {
  const page = htmlReport([...reports, reports[1] as Report]);
  expect(page.match(/<th class="target">/g)?.length).toBe(3 * 3);
  expect(page).toContain('<a href="#pci.33">');
  expect(page).toContain('<tr id="pci.33">');
  const rows = page.slice(page.indexOf('<tr id="pci.33">'));
  expect(rows.slice(0, rows.indexOf('</tr>')).match(/class="(pass|fail)"/g)).toEqual(['class="pass"', 'class="fail"', 'class="fail"']);
  const evidence = rows.slice(rows.indexOf('<tr class="evidence">'));
  expect(evidence.slice(0, evidence.indexOf('</tr>')).match(/<pre>/g)).toHaveLength(1);
});
