// The experiment's numbers as one HTML page that needs nothing else: plots as SVG, made here by echarts, and every row in a table.

import { init } from 'echarts';
import { gains, type Measurement, nameOf, published, ratio } from './rizzo.ts';

const escaped = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const COLOURS = ['#0b6e99', '#e07b39', '#5b8c5a', '#8a5a9e', '#b03a48', '#7a7a7a'];

/** One mode's frames per second by combination, a bar for each load. */
function plot(rows: readonly Measurement[], loads: readonly string[], log: boolean): string {
  const names = [...new Set(rows.map((m) => nameOf(m.techniques)))];
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: 1080, height: 660 });
  chart.setOption({
    animation: false,
    color: COLOURS,
    legend: { top: 0, itemGap: 24 },
    grid: { left: 240, right: 40, top: 40, bottom: 50 },
    xAxis: log
      ? { type: 'log', name: 'frames/s', nameLocation: 'middle', nameGap: 30, min: 1000, axisLabel: { formatter: si } }
      : { type: 'value', name: 'round trip p50, us', nameLocation: 'middle', nameGap: 30 },
    yAxis: { type: 'category', inverse: true, data: names, axisTick: { show: false } },
    series: loads.map((load) => ({
      type: 'bar',
      name: load,
      data: names.map((name) => {
        const m = rows.find((r) => r.load.name === load && nameOf(r.techniques) === name);
        return m === undefined ? null : log ? Math.round(m.framesPerSecond) : m.p50 / 1000;
      }),
    })),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

const si = (value: number): string => (value >= 1e6 ? `${value / 1e6} M` : value >= 1000 ? `${value / 1000} k` : String(value));

export function rizzoPage(all: readonly Measurement[], notes: readonly string[]): string {
  const sections = [...new Set(all.map((m) => m.mode))].map((mode) => {
    const rows = all.filter((m) => m.mode === mode);
    const streams = [...new Set(rows.filter((m) => m.load.burst > 0).map((m) => m.load.name))];
    const cells = (m: Measurement): string =>
      [
        nameOf(m.techniques),
        m.load.name,
        Math.round(m.framesPerSecond).toLocaleString('en'),
        `${ratio(all, m).toFixed(1)} x`,
        m.exitsPerFrame.toFixed(3),
        m.interruptsPerFrame.toFixed(3),
        m.wakesPerFrame.toFixed(3),
        m.p50 === 0 ? '' : (m.p50 / 1000).toFixed(1),
        m.p99 === 0 ? '' : (m.p99 / 1000).toFixed(1),
        published(m),
      ]
        .map((cell, i) => `<td${i > 1 && i < 9 ? ' class="n"' : ''}>${escaped(cell)}</td>`)
        .join('');
    const gainRows = gains(rows)
      .filter((g) => streams.includes(g.load))
      .map(
        (g) =>
          `<tr><td>${g.technique}</td><td>${escaped(g.load)}</td><td class="n">${g.alone.toFixed(2)} x</td><td class="n">${g.onTop.toFixed(2)} x</td></tr>`,
      )
      .join('');
    return `<h2>${mode === 'wall' ? 'Wall clock: real threads, exits and wakes' : 'Model: simulated time, declared costs'}</h2>
<h3>Throughput</h3><div>${plot(rows, streams, true)}</div>
<h3>Round trip</h3><div>${plot(rows, ['request/response'], false)}</div>
<h3>What each technique brings</h3>
<table><tr><th>technique</th><th>load</th><th class="n">alone, against the baseline</th><th class="n">on top of the other three</th></tr>${gainRows}</table>
<h3>All numbers</h3>
<table><tr><th>techniques</th><th>load</th><th class="n">frames/s</th><th class="n">to baseline</th><th class="n">exits</th><th class="n">interrupts</th><th class="n">wakes</th><th class="n">p50 us</th><th class="n">p99 us</th><th>published</th></tr>
${rows.map((m) => `<tr>${cells(m)}</tr>`).join('\n')}</table>`;
  });
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>nicbox: four techniques for a faster e1000</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{border-bottom:1px solid #ddd;padding:3px 8px;text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{min-width:760px;max-width:100%;height:auto}div{overflow-x:auto}</style>
<h1>Four techniques for a faster e1000, in all sixteen combinations</h1>
${notes.map((note) => `<p>${escaped(note)}</p>`).join('\n')}
${sections.join('\n')}
</html>
`;
}
