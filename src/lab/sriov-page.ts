// The numbers of the SR-IOV experiment as one HTML page that needs nothing else: plots as SVG, made here by echarts, and every row in a table.

import { init } from 'echarts';
import {
  baseOf,
  guestCpuRatio,
  limitOf,
  type OffloadRow,
  PATH_NAMES,
  PATHS,
  type Path,
  ratio,
  type Setting,
  sameSetting,
  settingName,
  settingsOf,
  sizeName,
} from './sriov-offload.ts';
import { comparisons } from './sriov-words.ts';

const escaped = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
/** Short: three plots stand beside each other. */
const SERIES: Record<Path, string> = { bridge: '(i) bridge', software: '(ii) software', offload: '(iii) offloaded' };
const COLOURS: Record<Path, string> = { bridge: '#7a7a7a', software: '#e07b39', offload: '#0b6e99' };

interface Plot {
  readonly axis: string;
  readonly value: (row: OffloadRow) => number | null;
  readonly log?: true;
}

const si = (value: number): string => (value >= 1e6 ? `${value / 1e6} M` : value >= 1000 ? `${value / 1000} k` : String(value));

/** A line for each path over the number of pairs, one size. */
function plot(rows: readonly OffloadRow[], { axis, value, log }: Plot): string {
  const pairs = [...new Set(rows.map((row) => row.pairs))].sort((a, b) => a - b);
  const paths = PATHS.filter((path) => rows.some((row) => row.path === path));
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: 355, height: 300 });
  chart.setOption({
    animation: false,
    color: paths.map((path) => COLOURS[path]),
    legend: { top: 0, itemGap: 8, textStyle: { fontSize: 11 } },
    grid: { left: 70, right: 20, top: 40, bottom: 45 },
    xAxis: { type: 'category', data: pairs, name: 'container pairs', nameLocation: 'middle', nameGap: 28 },
    yAxis: {
      type: log ? 'log' : 'value',
      ...(log ? {} : { min: 0 }),
      name: axis,
      nameLocation: 'middle',
      nameGap: 55,
      axisLabel: { formatter: si },
    },
    series: paths.map((path) => ({
      type: 'line',
      name: SERIES[path],
      symbolSize: 7,
      data: pairs.map((count) => {
        const row = rows.find((r) => r.path === path && r.pairs === count);
        return row === undefined || row.errors.length > 0 ? null : value(row);
      }),
    })),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function plots(rows: readonly OffloadRow[]): string {
  const figures: Plot[] = [{ axis: 'Gbit/s', value: (row) => Number(row.gigabitsPerSecond.toFixed(3)) }];
  if (rows.some((row) => row.roundTrip !== null))
    figures.push({ axis: 'round trip p50, us', value: (row) => (row.roundTrip?.p50 ?? 0) / 1000 || null, log: true });
  if (rows.some((row) => row.cpu !== null))
    figures.push({ axis: 'guest CPU, ns a frame', value: (row) => (row.cpu === null ? null : Math.round(row.cpu.guest)) });
  return `<div class="plots">${figures.map((figure) => plot(rows, figure)).join('\n')}</div>`;
}

const HEAD = [
  'path',
  'pairs',
  'frames/s',
  'Gbit/s',
  'to (i)',
  'p50 us',
  'p99 us',
  'guest CPU ns',
  'to (i)',
  'host CPU ns',
  'NIC ns',
  'exits',
  'interrupts',
  'kicks without exit',
  'wakes',
  'busiest',
];
/** Of what is text. */
const LEFT = [0, HEAD.length - 1];

/** Of real time nobody knows who was busiest. */
const columnsOf = ({ mode }: Pick<Setting, 'mode'>): number => (mode === 'wall' ? HEAD.length - 1 : HEAD.length);

function cells(all: readonly OffloadRow[], row: OffloadRow): string {
  const times = (value: number): string => (Number.isFinite(value) ? `${value.toFixed(2)} x` : '');
  const cost = (value: number | undefined): string => (value === undefined ? 'n/a' : Math.round(value).toLocaleString('en'));
  const wait = (value: number | undefined): string => (value === undefined ? '' : (value / 1000).toFixed(1));
  return [
    `${PATH_NAMES[row.path]}${row.errors.length > 0 ? ': failed' : ''}`,
    String(row.pairs),
    Math.round(row.framesPerSecond).toLocaleString('en'),
    row.gigabitsPerSecond.toFixed(2),
    times(ratio(all, row)),
    wait(row.roundTrip?.p50),
    wait(row.roundTrip?.p99),
    cost(row.cpu?.guest),
    times(guestCpuRatio(all, row)),
    cost(row.cpu?.host),
    row.path === 'offload' ? cost(row.cpu?.nic) : '',
    row.exitsPerFrame.toFixed(4),
    row.interruptsPerFrame.toFixed(4),
    row.kicksPerFrame.toFixed(4),
    row.wakesPerFrame.toFixed(4),
    limitOf(row),
  ]
    .slice(0, columnsOf(row))
    .map((cell, i) => `<td${LEFT.includes(i) ? '' : ' class="n"'}>${escaped(cell)}</td>`)
    .join('');
}

/** What (iii) brings: a line for each setting, a column for each size. */
function summary(all: readonly OffloadRow[]): string {
  const sizes = [...new Set(all.map((row) => row.size))];
  const rows = comparisons(all);
  if (rows.length === 0) return '';
  const cell = (setting: Setting, size: number): string => {
    const row = rows.find((r) => sameSetting(r, setting) && r.size === size);
    if (row === undefined) return '<td></td>';
    const base = baseOf(all, row);
    const limits = limitOf(row) === '' || base === undefined ? '' : `<br><small>${escaped(`(i) ${limitOf(base)}, (iii) ${limitOf(row)}`)}</small>`;
    return `<td class="n"><b>${ratio(all, row).toFixed(2)} x</b>${limits}</td>`;
  };
  const pairs = [...new Set(rows.map((row) => row.pairs))].join(', ');
  return `<h2>Frames of (iii) to those of (i)</h2>
<p>With the most pairs of containers that were measured (${pairs}); below each, in the model, who was busiest.</p>
<table><tr><th>setting</th>${sizes.map((size) => `<th class="n">${sizeName(size)}</th>`).join('')}</tr>
${settingsOf(all)
  .map((setting) => `<tr><td>${escaped(settingName(setting))}</td>${sizes.map((size) => cell(setting, size)).join('')}</tr>`)
  .join('\n')}</table>`;
}

function sections(all: readonly OffloadRow[], setting: Setting): string {
  const here = all.filter((row) => sameSetting(row, setting));
  const parts = [...new Set(here.map((row) => row.size))].map((size) => {
    const rows = here.filter((row) => row.size === size);
    return `<h3>${sizeName(size)}</h3>
${plots(rows)}
<div class="wide"><table><tr>${HEAD.slice(0, columnsOf(setting))
      .map((name, i) => `<th${LEFT.includes(i) ? '' : ' class="n"'}>${escaped(name)}</th>`)
      .join('')}</tr>
${rows.map((row) => `<tr>${cells(all, row)}</tr>`).join('\n')}</table></div>`;
  });
  return `<h2>${escaped(settingName(setting))}</h2>\n${parts.join('\n')}`;
}

export function sriovPage(all: readonly OffloadRow[], notes: readonly string[]): string {
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>nicbox: containers, SR-IOV and an offloaded switch</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{border-bottom:1px solid #ddd;padding:3px 6px;text-align:left}th.n,.n{text-align:right;font-variant-numeric:tabular-nums}td.n,.wide td{white-space:nowrap}.wide{overflow-x:auto}
.plots{display:flex;flex-wrap:wrap;gap:0}svg{max-width:100%;height:auto}h2{margin-top:1.6em;border-bottom:2px solid #0b6e99}small{color:#666}</style>
<h1>Containers: bridge, software switch, offloaded switch</h1>
${summary(all)}
<h2>What is compared</h2>
${notes.map((note) => `<p>${escaped(note)}</p>`).join('\n')}
${settingsOf(all)
  .map((setting) => sections(all, setting))
  .join('\n')}
</html>
`;
}
