// docs/conformance.md says for each clause what the suite does about it. What QEMU's verdicts are is kept in qemu-verdicts.json, from the last time the suite ran against it
// (test/real/conformance.test.ts).

import { readFileSync } from 'node:fs';
import { CASES } from '#conformance/cases';
import { AREAS, CLAUSES, type Clause } from '#conformance/catalogue';
import { SCENARIOS, UNJUDGED, WATCHED } from '#conformance/driver/scenarios';
import { judge, type Report } from '#conformance/runner';
import { DRIVER_MUTATIONS } from './mutations/driver.ts';
import { MUTATIONS } from './mutations.ts';

const FILE = new URL('../../docs/conformance.md', import.meta.url);
const QEMU: Readonly<Record<string, Readonly<Record<string, string>>>> = JSON.parse(readFileSync(new URL('qemu-verdicts.json', import.meta.url), 'utf8'));
/** The same of drivers nobody here wrote (test/real/driver-watch.test.ts). */
const DRIVERS: Readonly<Record<string, Readonly<Record<string, string>>>> = JSON.parse(readFileSync(new URL('driver-verdicts.json', import.meta.url), 'utf8'));
const BEGIN = '<!-- clauses: written by test/conformance/inproc.test.ts -->\n';
const END = '<!-- end of clauses -->\n';

/** Clauses that some seeded fault was seen to break. */
export const proven: ReadonlySet<string> = new Set([...MUTATIONS, ...DRIVER_MUTATIONS].flatMap(({ breaks }) => breaks));

/** Why there is no case about a clause, by its key or its area. */
const REASONS: Readonly<Record<string, string>> = {
  'net-ipsec': 'no case yet; this device does not offer IPSEC',
  'parts.15': 'no target shows power management events',
  'legacy.47': 'for devices that a legacy driver takes for its own: none are known',
  'legacy.48': 'for devices that a legacy driver takes for its own: none are known',
};

function reason(clause: Clause): string {
  if (UNJUDGED[clause.key] !== undefined) return UNJUDGED[clause.key] as string;
  if (clause.observable === 'no') return 'cannot be seen from outside';
  return REASONS[clause.key] ?? REASONS[clause.area] ?? (clause.observable === 'driver' ? 'a duty of drivers: no case yet' : 'no case yet');
}

const escaped = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

/** The document as it is, and as it would be with these results. */
export function conformanceDocument(reports: readonly Report[], driver: Report): { readonly file: URL; readonly text: string; readonly written: string } {
  const own = reports.map((report) => ({ name: report.target, verdicts: judge(report) }));
  const watched = judge(driver);
  const cases = new Map<string, string[]>();
  for (const { name, clauses } of CASES) for (const key of clauses) cases.set(key, [...(cases.get(key) ?? []), name]);
  for (const { name, clauses } of SCENARIOS) for (const key of clauses) cases.set(key, [...(cases.get(key) ?? []), name]);
  // What is watched everywhere needs no name of a scenario, but those that are about it.
  for (const key of WATCHED) if (!cases.has(key)) cases.set(key, ['watched']);
  const others = { ...QEMU, ...DRIVERS };
  const columns = Object.keys(others);
  const lines: string[] = [];

  const total = (rows: readonly Clause[], test: (clause: Clause) => boolean): number => rows.filter(test).length;
  lines.push(
    '| area | can be tested on a device | covered | seen failing under a fault | on a driver | covered | seen failing under a fault | cannot be seen |',
    '|---|---:|---:|---:|---:|---:|---:|---:|',
  );
  const row = (name: string, rows: readonly Clause[]): string => {
    const of = (party: string): string => {
      const those = rows.filter(({ observable }) => observable === party);
      return `${those.length} | ${total(those, ({ key }) => cases.has(key))} | ${total(those, ({ key }) => proven.has(key))}`;
    };
    return `| ${name} | ${of('device')} | ${of('driver')} | ${total(rows, ({ observable }) => observable === 'no')} |`;
  };
  for (const area of AREAS)
    lines.push(
      row(
        area,
        CLAUSES.filter((clause) => clause.area === area),
      ),
    );
  lines.push(row('all', CLAUSES), '');

  for (const area of AREAS) {
    lines.push(
      `## ${area}`,
      '',
      `| clause | party | strength | what | cases | fault | ${[...own.map(({ name }) => name), ...columns].join(' | ')} |`,
      `|---|---|---|---|---|---|${[...own, ...columns].map(() => '---|').join('')}`,
    );
    for (const clause of CLAUSES.filter((found) => found.area === area)) {
      const names = cases.get(clause.key);
      // Of a driver's duty the first column says how this project's own did; of those that were watched, also what no scenario of ours is about.
      const verdicts = [
        ...own.map((one, i) => (clause.observable === 'driver' ? (i === 0 ? watched : undefined) : one.verdicts)?.get(clause.key)?.verdict ?? ''),
        ...columns.map((name) => others[name]?.[clause.key] ?? ''),
      ];
      const what = `${escaped(clause.summary)}${clause.features === '' ? '' : ` (${clause.features})`}`;
      const about = names === undefined ? `_${reason(clause)}_` : names.map((name) => name.replace(`${area}/`, '/')).join(', ');
      lines.push(
        `| ${clause.key} | ${clause.party} | ${clause.strength} | ${what} | ${about} | ${names === undefined ? '' : proven.has(clause.key) ? 'yes' : 'no'} | ${verdicts.join(' | ')} |`,
      );
    }
    lines.push('');
  }
  const text = readFileSync(FILE, 'utf8');
  const [before, rest] = text.split(BEGIN) as [string, string];
  const after = rest.split(END)[1] ?? '';
  const written = `${before}${BEGIN}${lines.join('\n')}\n${END}${after}`;
  return { file: FILE, text, written };
}
