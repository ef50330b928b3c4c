// `nicbox lab`: experiments. Each is a subcommand of `lab run`; what it does is in src/lab.

import { availableParallelism, loadavg } from 'node:os';
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import { gains, headline, type Measurement, MODES, type Mode, nameOf, published, ratio } from '#lab/rizzo';
import { DEFAULT_COSTS, type ModelCosts } from '#lab/rizzo-model';
import { rizzoPage } from '#lab/rizzo-page';
import { runRizzo } from '#lab/run-rizzo';
import { costs, micros, positive, progress, rate, small, tableStyle, wholeNumbers } from './lab-format.ts';
import { SRIOV_OFFLOAD, sriovOffloadCommand } from './lab-sriov.ts';
import { prepareDirectory, print, writeResult } from './output.ts';

interface Flags {
  readonly mode: Mode | 'both';
  readonly seconds: number;
  readonly size: number[];
  readonly cost: ModelCosts;
  readonly out: string;
  readonly json?: boolean;
}

function table(all: readonly Measurement[], mode: Mode): string {
  const t = new Table({
    head: ['techniques', 'load', 'frames/s', 'ratio', 'exits', 'interrupts', 'wakes', 'p50 us', 'p99 us', 'published'],
    colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'left'],
    style: tableStyle,
  });
  for (const m of all)
    if (m.mode === mode)
      t.push([
        nameOf(m.techniques),
        m.load.name,
        rate(m.framesPerSecond),
        ratio(all, m).toFixed(1),
        small(m.exitsPerFrame),
        small(m.interruptsPerFrame),
        small(m.wakesPerFrame),
        micros(m.p50),
        micros(m.p99),
        published(m),
      ]);
  return t.toString();
}

function gainTable(all: readonly Measurement[], mode: Mode): string {
  const t = new Table({ head: ['technique', 'load', 'alone', 'on top of the others'], colAligns: ['left', 'left', 'right', 'right'], style: tableStyle });
  for (const g of gains(all)) if (g.mode === mode) t.push([g.technique, g.load, g.alone.toFixed(2), g.onTop.toFixed(2)]);
  return t.toString();
}

async function rizzo(flags: Flags, signal: AbortSignal): Promise<boolean> {
  await prepareDirectory(flags.out);
  const modes = flags.mode === 'both' ? MODES : [flags.mode];
  const bar = progress();
  const all = await runRizzo({
    modes,
    seconds: flags.seconds,
    sizes: flags.size,
    costs: flags.cost,
    signal,
    on: { starts: (mode, techniques, done, total) => bar.step(done, total, `${mode}: ${nameOf(techniques)}`) },
  }).finally(() => bar.stop());
  const declared = `Model costs, ns: ${Object.entries(flags.cost)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ')}.`;
  const notes = [
    'Two guests with an e1000 each. Exits, interrupts and wakes are of both guests (and the worker) together, for each frame or round trip; sizes include the FCS.',
    'Published figures are those of BSDCan 2013: C, KVM, hardware of 2013. Compare ratios, within one mode.',
    ...(modes.includes('model') ? [declared] : []),
    ...(modes.includes('wall') ? [`Real time was measured at a load of ${loadavg()[0]?.toFixed(1)} on ${availableParallelism()} processors.`] : []),
    ...modes.flatMap((mode) => headline(all, mode)),
  ];
  const json = `${JSON.stringify({ costs: flags.cost, measurements: all, gains: gains(all) }, null, 2)}\n`;
  const page = await writeResult(flags.out, 'rizzo.html', rizzoPage(all, notes));
  const record = await writeResult(flags.out, 'rizzo.json', json);
  const wrong = all.flatMap((m) => m.errors.map((error) => `${m.mode}, ${nameOf(m.techniques)}, ${m.load.name}: ${error}`));
  if (flags.json) print(json);
  else {
    for (const mode of modes) print(`\n${mode === 'wall' ? 'Wall clock' : 'Model'}\n${table(all, mode)}\n${gainTable(all, mode)}`);
    print(`\n${notes.join('\n')}\n\nPlots: ${page}\nThe same numbers for programs: ${record}`);
  }
  for (const line of wrong) console.error(line);
  return wrong.length === 0;
}

const EXPERIMENTS = [
  ['rizzo', "Four techniques for a faster e1000, in all sixteen combinations (Rizzo's, BSDCan 2013)"],
  ['sriov-offload', SRIOV_OFFLOAD],
] as const;

export function labCommand(signal: AbortSignal, done: (exitCode: number) => void): Command {
  const run = new Command('run').description('Run an experiment.').addCommand(
    new Command('rizzo')
      .description(EXPERIMENTS[0][1])
      .addOption(new Option('--mode <mode>', 'real threads and time, simulated time, or both').choices(['wall', 'model', 'both']).default('both'))
      .option('--seconds <n>', 'of each measurement in wall-clock mode', positive(600), 0.3)
      .option('--size <bytes>', 'frame sizes with FCS', wholeNumbers(64, 1518, '64,1500'), [64, 1500])
      .option('--cost <name=ns>', 'of the model; may be repeated', costs(DEFAULT_COSTS), DEFAULT_COSTS)
      .option('--out <directory>', 'where rizzo.html and rizzo.json go', 'out')
      .option('--json', 'print the result as JSON instead of tables')
      .addHelpText(
        'after',
        `
Exit code 0: every measurement came to its end, in simulated time with every
frame in order; 1: not; 2: bad input; 130: stopped by Ctrl-C.

Examples:
  nicbox lab run rizzo
  nicbox lab run rizzo --mode model --cost exit=1200 --cost wake=5000
  nicbox lab run rizzo --mode wall --seconds 2 --size 64 --json`,
      )
      .action(async (flags: Flags) => done((await rizzo(flags, signal)) ? 0 : 1)),
  );
  run.addCommand(sriovOffloadCommand(signal, done));
  const list = new Command('list').description('The experiments there are.').action(() => {
    for (const [name, what] of EXPERIMENTS) print(`${name.padEnd(13)}  ${what}`);
  });
  return new Command('lab').description('Experiments: what the literature reports, measured here.').addCommand(run).addCommand(list);
}
