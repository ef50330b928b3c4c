// Results for people: one page, self-contained, targets side by side; per area and clause the strength, the verdict and the evidence.

import { AREAS, CLAUSES, type Clause } from './catalogue.ts';
import { escapeMarkup } from './reports.ts';
import { type ClauseVerdict, judge, type Report } from './runner.ts';

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --pass: #2a8a3e; --fail: #c4302b; --skip: #7a7a7a; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.pass { color: var(--pass); } .fail { color: var(--fail); font-weight: 600; } .skip, .none { color: var(--skip); }
.id { color: var(--skip); font-size: .85em; } code { white-space: nowrap; }
details summary { cursor: pointer; } pre { white-space: pre-wrap; overflow-wrap: anywhere; } details pre { background: #8881; padding: .5rem; }
nav { columns: 4; margin-bottom: 1.5rem; }`;

const WORDS = { pass: 'pass', fail: 'FAIL', skip: 'skipped', none: 'no case' } as const;

type Verdicts = ReadonlyMap<string, ClauseVerdict>;

function cell(verdict: ClauseVerdict | undefined): string {
  const kind = verdict?.verdict ?? 'none';
  const evidence = verdict?.evidence ?? [];
  const more = evidence.length === 0 ? '' : `<details><summary>evidence</summary><pre>${escapeMarkup(evidence.join('\n'))}</pre></details>`;
  const cases = verdict && verdict.cases.length > 0 ? `<div class="id">${escapeMarkup(verdict.cases.join(', '))}</div>` : '';
  return `<td><span class="${kind}">${WORDS[kind]}</span>${cases}${more}</td>`;
}

function row(clause: Clause, all: readonly Verdicts[]): string {
  return `<tr id="${clause.key}"><td><code>${clause.key}</code></td><td>${clause.strength}</td><td>${escapeMarkup(clause.summary)}<div class="id">${escapeMarkup(clause.id)}${
    clause.features === '' ? '' : `; ${escapeMarkup(clause.features)}`
  }</div></td>${all.map((verdicts) => cell(verdicts.get(clause.key))).join('')}</tr>`;
}

export function htmlReport(reports: readonly Report[]): string {
  const all = reports.map(judge);
  const heads = reports.map(({ target }) => `<th>${escapeMarkup(target)}</th>`).join('');
  const covered = CLAUSES.filter((clause) => all.some((verdicts) => verdicts.get(clause.key)?.verdict !== 'none'));
  const areas = AREAS.filter((area) => covered.some((clause) => clause.area === area));
  const count = (verdicts: Verdicts, area: string, kind: string): number =>
    covered.filter((clause) => clause.area === area && verdicts.get(clause.key)?.verdict === kind).length;
  const summary = areas.map(
    (area) =>
      `<tr><td><a href="#area-${area}">${area}</a></td>${all
        .map(
          (verdicts) =>
            `<td><span class="pass">${count(verdicts, area, 'pass')}</span> / <span class="${count(verdicts, area, 'fail') > 0 ? 'fail' : 'skip'}">${count(verdicts, area, 'fail')}</span> / <span class="skip">${count(verdicts, area, 'skip')}</span></td>`,
        )
        .join('')}</tr>`,
  );
  const failures = reports.map(({ target, results }) => {
    const failed = results.filter((result) => result.verdict === 'fail');
    const items = failed.map((result) => {
      const lines = [
        ...(result.reason === undefined ? [] : [result.reason]),
        ...result.failures.map((check) => `${check.clause}: ${check.what}: expected ${check.expected}, saw ${check.seen}`),
      ];
      return `<li><code>${escapeMarkup(result.name)}</code><pre>${escapeMarkup(lines.join('\n'))}</pre><details><summary>what led there</summary><pre>${escapeMarkup((result.trace ?? []).join('\n'))}</pre></details></li>`;
    });
    return `<h3>${escapeMarkup(target)}: ${failed.length} of ${results.length} cases failed</h3>${items.length > 0 ? `<ul>${items.join('')}</ul>` : ''}`;
  });
  const sections = areas.map(
    (area) =>
      `<h2 id="area-${area}">${area}</h2><table><thead><tr><th>clause</th><th>strength</th><th>what</th>${heads}</tr></thead><tbody>${covered
        .filter((clause) => clause.area === area)
        .map((clause) => row(clause, all))
        .join('\n')}</tbody></table>`,
  );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>VIRTIO 1.4 conformance</title><style>${STYLE}</style></head><body>
<h1>VIRTIO 1.4 conformance of virtio-net devices</h1>
<p>Clauses in own words, with the section of VIRTIO 1.4 (CS01) they stand in. Only clauses that some case looks at are listed.</p>
<table><thead><tr><th>area (pass / fail / skipped)</th>${heads}</tr></thead><tbody>${summary.join('\n')}</tbody></table>
<h2>Failures</h2>
${failures.join('\n')}
${sections.join('\n')}
</body></html>
`;
}
