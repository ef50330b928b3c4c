// Results for programs: JSON, and JUnit's XML as continuous integration reads it.

import { CLAUSES } from './catalogue.ts';
import { judge, type Report } from './runner.ts';

/** Per target: each case's result, and each clause's verdict. */
export function jsonReport(reports: readonly Report[]): string {
  return `${JSON.stringify(
    reports.map((report) => {
      const verdicts = judge(report);
      return {
        ...report,
        clauses: CLAUSES.flatMap((clause) => {
          const verdict = verdicts.get(clause.key);
          return verdict === undefined || verdict.verdict === 'none' ? [] : [{ ...clause, ...verdict }];
        }),
      };
    }),
    null,
    2,
  )}\n`;
}

export function escapeMarkup(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

/** A test suite for each target, a test case for each case. */
export function junitReport(reports: readonly Report[]): string {
  const lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<testsuites>'];
  for (const { target, results, milliseconds } of reports) {
    const count = (verdict: string): number => results.filter((result) => result.verdict === verdict).length;
    lines.push(
      `  <testsuite name="${escapeMarkup(target)}" tests="${results.length}" failures="${count('fail')}" skipped="${count('skip')}" time="${(milliseconds / 1000).toFixed(3)}">`,
    );
    for (const result of results) {
      const head = `    <testcase classname="${escapeMarkup(result.case.replace('/', '.'))}" name="${escapeMarkup(result.name)}" time="${(result.milliseconds / 1000).toFixed(3)}"`;
      if (result.verdict === 'pass') lines.push(`${head}/>`);
      else if (result.verdict === 'skip') lines.push(`${head}><skipped message="${escapeMarkup(result.reason ?? '')}"/></testcase>`);
      else {
        const failures = result.failures.map((check) => `${check.clause}: ${check.what}: expected ${check.expected}, saw ${check.seen}`);
        const text = [...(result.reason === undefined ? [] : [result.reason]), ...failures, ...(result.trace ?? [])].join('\n');
        lines.push(`${head}><failure message="${escapeMarkup(result.reason ?? failures[0] ?? '')}">${escapeMarkup(text)}</failure></testcase>`);
      }
    }
    lines.push('  </testsuite>');
  }
  lines.push('</testsuites>', '');
  return lines.join('\n');
}
