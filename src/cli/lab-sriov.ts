// `nicbox lab run sriov-offload`: pairs of containers in guests, and three paths between them. What it does is in src/lab.

import { availableParallelism, loadavg } from 'node:os';
import Table from 'cli-table3';
import { Command, InvalidArgumentError, Option } from 'commander';
import { runSriovOffload } from '#lab/run-sriov-offload';
import { DEFAULT_COSTS, type OffloadCosts } from '#lab/sriov-costs';
import {
  DEFAULT_PAIRS,
  DEFAULT_SIZES,
  DEFAULT_VCPUS,
  GUESTS,
  type Guests,
  guestCpuRatio,
  limitOf,
  MODES,
  MOST_PAIRS,
  MOST_VCPUS,
  type Mode,
  type OffloadRow,
  PATH_NAMES,
  PATHS,
  type Path,
  ratio,
  type Setting,
  type SoftwareSwitch,
  SWITCHES,
  sameSetting,
  settingName,
  settingsOf,
  sizeName,
} from '#lab/sriov-offload';
import { sriovPage } from '#lab/sriov-page';
import { headline, notesFor } from '#lab/sriov-words';
import { paragraph } from './help-text.ts';
import { costs, micros, positive, progress, rate, small, tableStyle, wholeNumbers } from './lab-format.ts';
import { prepareDirectory, print, writeResult } from './output.ts';

export const SRIOV_OFFLOAD = "Containers: a bridge in their guest, virtual functions on a software switch, and on an offloaded one (Washizu's, KVM Forum 2024)";

interface Flags {
  readonly mode: Mode | 'both';
  readonly guests: Guests[];
  readonly path: Path[];
  readonly pairs: number[];
  readonly size: number[];
  readonly seconds: number;
  readonly switch: SoftwareSwitch;
  readonly bridgeCost: number;
  readonly vcpus: number[];
  readonly cost: OffloadCosts;
  readonly out: string;
  readonly json?: boolean;
}

function paths(text: string): Path[] {
  const values = text.split(',');
  const found = PATHS.filter((path) => values.includes(path));
  if (!values.every((value) => (PATHS as readonly string[]).includes(value))) throw new InvalidArgumentError(`give some of ${PATHS.join(',')}.`);
  return found;
}

function nanoseconds(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value <= 100_000) || text.trim() === '') throw new InvalidArgumentError('give nanoseconds, 0 to 100000.');
  return value;
}

const guests = (text: string): Guests[] => wholeNumbers(1, 2, '1,2')(text) as Guests[];

const nanos = (value: number | undefined): string =>
  value === undefined ? 'n/a' : value >= 10_000 ? `${(value / 1000).toFixed(1)} us` : `${Math.round(value)} ns`;
const times = (value: number): string => (Number.isFinite(value) ? value.toFixed(2) : '');

function table(all: readonly OffloadRow[], setting: Setting, size: number): string {
  const t = new Table({
    head: [
      'path',
      'pairs',
      'frames/s',
      'Gbit/s',
      'to (i)',
      'p50 us',
      'p99 us',
      'guest CPU',
      'to (i)',
      'host CPU',
      'NIC',
      'exits',
      'interrupts',
      'kicks',
      'wakes',
      ...(setting.mode === 'model' ? ['busiest'] : []),
    ],
    colAligns: ['left', ...new Array<'right'>(14).fill('right'), 'left'],
    style: tableStyle,
  });
  for (const row of all)
    if (sameSetting(row, setting) && row.size === size)
      t.push([
        `${PATH_NAMES[row.path]}${row.errors.length > 0 ? ' (failed)' : ''}`,
        row.pairs,
        rate(row.framesPerSecond),
        row.gigabitsPerSecond.toFixed(2),
        times(ratio(all, row)),
        micros(row.roundTrip?.p50 ?? 0),
        micros(row.roundTrip?.p99 ?? 0),
        nanos(row.cpu?.guest),
        times(guestCpuRatio(all, row)),
        nanos(row.cpu?.host),
        row.path === 'offload' ? nanos(row.cpu?.nic) : '',
        small(row.exitsPerFrame),
        small(row.interruptsPerFrame),
        small(row.kicksPerFrame),
        small(row.wakesPerFrame),
        ...(setting.mode === 'model' ? [limitOf(row)] : []),
      ]);
  return t.toString();
}

async function run(flags: Flags, signal: AbortSignal): Promise<boolean> {
  await prepareDirectory(flags.out);
  const modes = flags.mode === 'both' ? MODES : [flags.mode];
  const bar = progress();
  const all = await runSriovOffload({
    modes,
    guests: flags.guests,
    paths: flags.path,
    pairs: flags.pairs,
    sizes: flags.size,
    seconds: flags.seconds,
    software: flags.switch,
    bridgeCost: flags.bridgeCost,
    vcpus: flags.vcpus,
    costs: flags.cost,
    signal,
    on: {
      starts: (setting, path, pairs, done, total) =>
        bar.step(done, total, `${settingName(setting)}: ${PATH_NAMES[path]}, ${pairs} pair${pairs === 1 ? '' : 's'}`),
    },
  }).finally(() => bar.stop());
  const processors = availableParallelism();
  const circumstances = { modes, software: flags.switch, bridgeCost: flags.bridgeCost, costs: flags.cost, processors, load: loadavg()[0] ?? 0 };
  const notes = notesFor(circumstances);
  if (all.some(({ cpu, errors }) => cpu === null && errors.length === 0))
    notes.push('CPU time is not available on this system: it does not say what a thread used (n/a).');
  const json = `${JSON.stringify({ switch: flags.switch, bridgeCost: flags.bridgeCost, costs: flags.cost, processors, measurements: all }, null, 2)}\n`;
  const page = await writeResult(flags.out, 'sriov-offload.html', sriovPage(all, notes));
  const record = await writeResult(flags.out, 'sriov-offload.json', json);
  const wrong = all.flatMap((row) =>
    row.errors.map((error) => `${settingName(row)}: ${PATH_NAMES[row.path]}, ${sizeName(row.size)}, ${row.pairs} pairs: ${error}`),
  );
  if (flags.json) print(json);
  else {
    for (const setting of settingsOf(all)) for (const size of flags.size) print(`\n${settingName(setting)}, ${sizeName(size)}\n${table(all, setting, size)}`);
    print(`\n${[...notes, ...headline(all)].join('\n')}\n\nPlots: ${page}\nThe same numbers for programs: ${record}`);
  }
  for (const line of wrong) console.error(line);
  return wrong.length === 0;
}

export function sriovOffloadCommand(signal: AbortSignal, done: (exitCode: number) => void): Command {
  return new Command('sriov-offload')
    .description(SRIOV_OFFLOAD)
    .addOption(new Option('--mode <mode>', 'real threads and time, simulated time, or both').choices([...MODES, 'both']).default('both'))
    .option('--guests <numbers>', '1: both containers of a pair in one guest; 2: one in each of two', guests, [...GUESTS])
    .option('--path <names>', `which paths: some of ${PATHS.join(',')}`, paths, [...PATHS])
    .option('--pairs <numbers>', 'pairs of containers', wholeNumbers(1, MOST_PAIRS, '1,16'), [...DEFAULT_PAIRS])
    .option('--size <bytes>', 'frame sizes with FCS; beyond 1518 as TCP segmentation offload', wholeNumbers(64, 65_536, '64,65536'), [...DEFAULT_SIZES])
    .addOption(new Option('--switch <kind>', "the host's: a learning switch, or VALE").choices([...SWITCHES]).default('switch'))
    .option('--seconds <n>', 'in wall-clock mode: of each stream, and of each measurement of round trips', positive(600), 0.2)
    .option(
      '--bridge-cost <ns>',
      "in wall-clock mode: what a guest's kernel takes for a frame on its bridge, beside the bridge's own code (docs/sriov.md)",
      nanoseconds,
      0,
    )
    .option('--vcpus <numbers>', 'of the model: processors of each guest', wholeNumbers(1, MOST_VCPUS, '1,4'), [...DEFAULT_VCPUS])
    .option('--cost <name=ns>', 'of the model; may be repeated', costs(DEFAULT_COSTS), DEFAULT_COSTS)
    .option('--out <directory>', 'where sriov-offload.html and sriov-offload.json go', 'out')
    .option('--json', 'print the result as JSON instead of tables')
    .addHelpText(
      'after',
      `
${paragraph('Exit code 0: every frame that was sent arrived, once, in order and whole; 1: not; 2: bad input; 130: stopped by Ctrl-C.')}

Examples:
  nicbox lab run sriov-offload
  nicbox lab run sriov-offload --mode model --guests 2 --vcpus 1,8 --cost hostFrame=250
  nicbox lab run sriov-offload --mode wall --guests 1 --pairs 1,64 --size 1500 --seconds 2
  nicbox lab run sriov-offload --path software,offload --switch vale --json
  nicbox lab run sriov-offload --mode wall --pairs 64 --bridge-cost 280`,
    )
    .action(async (flags: Flags) => done((await run(flags, signal)) ? 0 : 1));
}
