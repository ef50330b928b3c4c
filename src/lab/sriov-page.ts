// The numbers of the SR-IOV experiment as one HTML page that needs nothing else: plots as SVG, made here by echarts, and every row in a table.

import { init } from 'echarts';
import { guestCpuRatio, type OffloadRow, PATH_NAMES, PATHS, type Path, ratio, sizeName } from './sriov-offload.ts';

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
  'exits CPU ns',
  'switching ns',
  'exits',
  'interrupts',
  'kicks without exit',
  'wakes',
];

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
    cost(row.cpu?.exits),
    cost(row.cpu?.switching),
    row.exitsPerFrame.toFixed(4),
    row.interruptsPerFrame.toFixed(4),
    row.kicksPerFrame.toFixed(4),
    row.wakesPerFrame.toFixed(4),
  ]
    .map((cell, i) => `<td${i > 0 ? ' class="n"' : ''}>${escaped(cell)}</td>`)
    .join('');
}

export function sriovPage(all: readonly OffloadRow[], notes: readonly string[]): string {
  const sections = [...new Set(all.map((row) => row.size))].map((size) => {
    const rows = all.filter((row) => row.size === size);
    return `<h2>${sizeName(size)}</h2>
${plots(rows)}
<table><tr>${HEAD.map((name, i) => `<th${i > 0 ? ' class="n"' : ''}>${escaped(name)}</th>`).join('')}</tr>
${rows.map((row) => `<tr>${cells(all, row)}</tr>`).join('\n')}</table>`;
  });
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>nicbox: containers, SR-IOV and an offloaded switch</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{border-bottom:1px solid #ddd;padding:3px 6px;text-align:left}th.n,.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}.plots{display:flex;flex-wrap:wrap;gap:0}svg{max-width:100%;height:auto}</style>
<h1>Containers of one guest: bridge, software switch, offloaded switch</h1>
${notes.map((note) => `<p>${escaped(note)}</p>`).join('\n')}
${sections.join('\n')}
</html>
`;
}
