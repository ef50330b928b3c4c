// How long the whole conformance suite takes against this project's device in this process: over each data plane by itself, and in all. Goal: all of them within 60 s on two cores.
// The bound: making as many machines and closing them again, with nothing done in between.

import { CASES } from '#conformance/cases';
import { plan, runCases } from '#conformance/runner';
import { DATA_PLANE_NAMES } from '#conformance/targets/data-plane';
import { inprocSource } from '#conformance/targets/inproc';
import { printTable } from './measure.ts';

const GOAL_SECONDS = 60;
const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(2);

const rows: string[][] = [];
let all = 0;
let failed = 0;
for (const plane of DATA_PLANE_NAMES) {
  const source = inprocSource(plane);
  try {
    const opened = performance.now();
    for (const { test } of plan(CASES)) await (await source.open(test.model)).close();
    const bare = performance.now() - opened;
    const { results, milliseconds } = await runCases(CASES, source);
    const slowest = results.reduce((worst, result) => (result.milliseconds > worst.milliseconds ? result : worst));
    const of = (verdict: string): number => results.filter((result) => result.verdict === verdict).length;
    failed += of('fail');
    all += milliseconds;
    rows.push([
      source.name,
      String(results.length),
      `${of('pass')} / ${of('fail')} / ${of('skip')}`,
      seconds(milliseconds),
      seconds(bare),
      (milliseconds / results.length).toFixed(1),
      `${slowest.name} ${slowest.milliseconds.toFixed(0)} ms`,
    ]);
  } finally {
    await source.close?.();
  }
}
rows.push(['all', '', '', seconds(all), '', '', all / 1000 <= GOAL_SECONDS ? `within ${GOAL_SECONDS} s` : `over ${GOAL_SECONDS} s`]);
printTable(['device', 'cases', 'pass / fail / skip', 'seconds', 'opening and closing alone', 'ms a case', 'slowest'], rows);
if (failed > 0) process.exitCode = 1;
