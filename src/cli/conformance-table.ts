// The suite's results as tables on a terminal: a row for each area with the targets side by side, then each clause that some target breaks.

import Table from 'cli-table3';
import { AREAS, CLAUSES, judge, type Report, type Verdict } from '#conformance/index';

const style = { head: [], border: [] };
/** Areas first, then numbers; no line between rows. */
const chars = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' };
const WORDS = { pass: 'pass', fail: 'FAIL', skip: 'skipped', none: '' } as const;

export function conformanceTable(reports: readonly Report[], party: 'device' | 'driver'): string {
  const all = reports.map((report) => judge(report));
  const verdictOf = (verdicts: (typeof all)[number], key: string): Verdict | 'none' => verdicts.get(key)?.verdict ?? 'none';
  const several = reports.length > 1;

  const heads = several ? reports.map(({ target }) => target) : ['pass / fail / skipped'];
  const areas = new Table({
    head: ['area', 'clauses', 'with cases', ...heads],
    colAligns: ['left', 'right', 'right', ...heads.map(() => 'right' as const)],
    style,
    chars,
  });
  for (const area of AREAS) {
    const rows = CLAUSES.filter((clause) => clause.area === area && clause.observable === party);
    const covered = rows.filter(({ key }) => all.some((verdicts) => verdictOf(verdicts, key) !== 'none')).length;
    if (covered === 0) continue;
    const cells = all.map((verdicts) => {
      const count = (verdict: Verdict): number => rows.filter(({ key }) => verdictOf(verdicts, key) === verdict).length;
      return `${count('pass')} / ${count('fail')} / ${count('skip')}`;
    });
    areas.push([area, rows.length, covered, ...cells]);
  }

  const lines = reports.map(({ target, results, milliseconds }) => {
    const of = (verdict: Verdict): number => results.filter((result) => result.verdict === verdict).length;
    return `${target}: ${results.length} ${results.length === 1 ? 'case' : 'cases'} in ${(milliseconds / 1000).toFixed(1)} s: ${of('pass')} passed, ${of('fail')} failed, ${of('skip')} skipped`;
  });
  lines.push('', ...(several ? ['Clauses: pass / fail / skipped'] : []), areas.toString());

  const broken = CLAUSES.filter(({ key }) => all.some((verdicts) => verdictOf(verdicts, key) === 'fail'));
  if (several && broken.length > 0) {
    const failures = new Table({ head: ['clause', 'strength', 'what', ...heads], colWidths: [null, null, 60], wordWrap: true, style, chars });
    for (const { key, strength, summary } of broken) failures.push([key, strength, summary, ...all.map((verdicts) => WORDS[verdictOf(verdicts, key)])]);
    lines.push('', 'Clauses that some target breaks', failures.toString());
  }
  for (const [i, verdicts] of all.entries())
    for (const { key, strength, summary, id } of broken) {
      const found = verdicts.get(key);
      if (found?.verdict !== 'fail') continue;
      lines.push('', `${several ? `${reports[i]?.target}: ` : ''}${key} ${strength}: ${summary} (${id})`, ...found.evidence.map((line) => `    ${line}`));
    }
  return lines.join('\n');
}
