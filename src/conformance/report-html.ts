// Results for people: one page, self-contained, targets side by side; per area and clause the strength, the verdict and the evidence.

import { AREAS, CLAUSES, type Clause } from './catalogue.ts';
import { escapeMarkup } from './reports.ts';
import { type ClauseVerdict, judge, type Report } from './runner.ts';

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --pass: #2a8a3e; --fail: #c4302b; --skip: #7a7a7a; --ground: Canvas; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
thead th { position: sticky; top: 0; background: var(--ground); border-bottom-width: 2px; vertical-align: bottom; }
th.target, td.target { width: 6.5rem; text-align: center; } td.target { white-space: nowrap; } td.key { width: 7rem; } td.strength { width: 7.5rem; white-space: nowrap; }
tr.evidence td { padding-top: 0; } tr:has(+ tr.evidence) td { border-bottom: 0; } tr.sum td { border-top: 2px solid var(--line); font-weight: 600; }
.pass { color: var(--pass); } .fail { color: var(--fail); font-weight: 600; } .skip, .none { color: var(--skip); }
.id { color: var(--skip); font-size: .85em; } code { white-space: nowrap; } li { margin-bottom: .6rem; }
details summary { cursor: pointer; color: var(--skip); } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; } details pre { background: #8881; padding: .5rem; }`;

const WORDS = { pass: 'pass', fail: 'FAIL', skip: 'skipped', none: '' } as const;

type Verdicts = ReadonlyMap<string, ClauseVerdict>;

function cell(verdicts: Verdicts, key: string): string {
  const kind = verdicts.get(key)?.verdict ?? 'none';
  return `<td class="target"><span class="${kind}">${WORDS[kind]}</span></td>`;
}

/** What was seen, of all targets: targets that say the same share a line. */
function evidence(key: string, reports: readonly Report[], all: readonly Verdicts[]): string {
  const said = new Map<string, string[]>();
  for (const [i, verdicts] of all.entries()) {
    const lines = verdicts.get(key)?.evidence ?? [];
    if (lines.length > 0) said.set(lines.join('\n'), [...(said.get(lines.join('\n')) ?? []), reports[i]?.target ?? '']);
  }
  if (said.size === 0) return '';
  const text = [...said].map(([lines, targets]) => `<div class="id">${escapeMarkup(targets.join('; '))}</div><pre>${escapeMarkup(lines)}</pre>`).join('');
  return `<tr class="evidence"><td></td><td></td><td colspan="${all.length + 1}"><details><summary>evidence</summary>${text}</details></td></tr>`;
}

function row(clause: Clause, reports: readonly Report[], all: readonly Verdicts[]): string {
  const cases = [...new Set(all.flatMap((verdicts) => verdicts.get(clause.key)?.cases ?? []))];
  const source = `${clause.id}${clause.features === '' ? '' : `; ${clause.features}`}`;
  return `<tr id="${clause.key}"><td class="key"><code>${clause.key}</code></td><td class="strength">${clause.strength}</td><td>${escapeMarkup(clause.summary)}<div class="id">${escapeMarkup(source)}</div><div class="id">${escapeMarkup(cases.join(', '))}</div></td>${all
    .map((verdicts) => cell(verdicts, clause.key))
    .join('')}</tr>${evidence(clause.key, reports, all)}`;
}

/** Clauses that some target breaks, and which of the targets. */
function broken(all: readonly Verdicts[], heads: string): string {
  const clauses = CLAUSES.filter(({ key }) => all.some((verdicts) => verdicts.get(key)?.verdict === 'fail'));
  if (clauses.length === 0) return '<p>None.</p>';
  const rows = clauses.map(
    ({ key, strength, summary }) =>
      `<tr><td class="key"><a href="#${key}"><code>${key}</code></a></td><td class="strength">${strength}</td><td>${escapeMarkup(summary)}</td>${all.map((verdicts) => cell(verdicts, key)).join('')}</tr>`,
  );
  return `<table><thead><tr><th>clause</th><th>strength</th><th>what</th>${heads}</tr></thead><tbody>${rows.join('\n')}</tbody></table>`;
}

function failedCases({ target, results, milliseconds }: Report): string {
  const failed = results.filter((result) => result.verdict === 'fail');
  const items = failed.map((result) => {
    const lines = [
      ...(result.reason === undefined ? [] : [result.reason]),
      ...result.failures.map((check) => `${check.clause}: ${check.what}: expected ${check.expected}, saw ${check.seen}`),
    ];
    return `<li><code>${escapeMarkup(result.name)}</code><pre>${escapeMarkup(lines.join('\n'))}</pre><details><summary>what led there</summary><pre>${escapeMarkup((result.trace ?? []).join('\n'))}</pre></details></li>`;
  });
  const head = `${escapeMarkup(target)}: ${failed.length} of ${results.length} cases failed, in ${(milliseconds / 1000).toFixed(1)} s`;
  return items.length === 0 ? `<p>${head}</p>` : `<details><summary>${head}</summary><ul>${items.join('')}</ul></details>`;
}

export function htmlReport(reports: readonly Report[]): string {
  const all = reports.map(judge);
  const heads = reports.map(({ target }) => `<th class="target">${escapeMarkup(target)}</th>`).join('');
  const covered = CLAUSES.filter((clause) => all.some((verdicts) => (verdicts.get(clause.key)?.verdict ?? 'none') !== 'none'));
  const areas = AREAS.filter((area) => covered.some((clause) => clause.area === area));
  const counts = (clauses: readonly Clause[]): string =>
    all
      .map((verdicts) => {
        const count = (kind: string): number => clauses.filter(({ key }) => verdicts.get(key)?.verdict === kind).length;
        const failed = count('fail');
        return `<td class="target"><span class="pass">${count('pass')}</span> / <span class="${failed > 0 ? 'fail' : 'skip'}">${failed}</span> / <span class="skip">${count('skip')}</span></td>`;
      })
      .join('');
  const summary = areas.map((area) => `<tr><td><a href="#area-${area}">${area}</a></td>${counts(covered.filter((clause) => clause.area === area))}</tr>`);
  const sections = areas.map(
    (area) =>
      `<h2 id="area-${area}">${area}</h2><table><thead><tr><th>clause</th><th>strength</th><th>what</th>${heads}</tr></thead><tbody>${covered
        .filter((clause) => clause.area === area)
        .map((clause) => row(clause, reports, all))
        .join('\n')}</tbody></table>`,
  );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>VIRTIO 1.4 conformance</title><style>${STYLE}</style></head><body>
<h1>VIRTIO 1.4 conformance: ${escapeMarkup(reports.map(({ target }) => target).join('; '))}</h1>
<p>Clauses in own words, with the section of VIRTIO 1.4 (CS01) they stand in. Only clauses that some case looks at are listed.</p>
<table><thead><tr><th>area (pass / fail / skipped)</th>${heads}</tr></thead><tbody>${summary.join('\n')}<tr class="sum"><td>all</td>${counts(covered)}</tr></tbody></table>
<h2>Clauses that ${reports.length === 1 ? 'the target' : 'some target'} breaks</h2>
${broken(all, heads)}
<h2>Cases that failed</h2>
${reports.map(failedCases).join('\n')}
${sections.join('\n')}
</body></html>
`;
}
