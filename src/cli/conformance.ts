// `nicbox conformance`: runs the suite against one or more targets and says, clause by clause, what holds.

import { SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError, Option } from 'commander';
import {
  AREAS,
  breaksMust,
  CASES,
  CLAUSES,
  DATA_PLANE_NAMES,
  findClause,
  inprocSource,
  isBinding,
  plan,
  planScenarios,
  qemuSource,
  type Report,
  type RunOptions,
  runCases,
  SCENARIOS,
  type ScenarioOptions,
  type TargetSource,
  watchOwnDriver,
} from '#conformance/index';
import { htmlReport } from '#conformance/report-html';
import { jsonReport, junitReport } from '#conformance/reports';
import { conformanceTable } from './conformance-table.ts';
import { paragraph } from './help-text.ts';
import { print } from './output.ts';

/** A name that means nothing here. `code` is stable. */
class SelectionError extends Error {
  readonly code = 'NICBOX_CONFORMANCE';
}

type Format = 'table' | 'json' | 'junit' | 'html';

interface Flags {
  readonly party: 'device' | 'driver';
  readonly target?: string[];
  readonly area: string[];
  readonly clause?: string;
  readonly case?: string;
  readonly seed?: number;
  readonly list?: boolean;
  readonly format: Format;
}

/** @throws SelectionError */
function sourceOf(name: string): TargetSource {
  if (name === 'inproc') return inprocSource();
  const plane = DATA_PLANE_NAMES.find((known) => name === `inproc:${known}`);
  if (plane !== undefined) return inprocSource(plane);
  if (name === 'qemu') return qemuSource('qemu', { file: 'qemu-system-x86_64' });
  if (name.startsWith('qemu:')) return qemuSource(name, { file: name.slice(5) });
  throw new SelectionError(`no target is called ${name}: give inproc, ${DATA_PLANE_NAMES.map((plane) => `inproc:${plane}`).join(', ')}, qemu or qemu:PATH`);
}

function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}

function area(value: string, before: string[] | undefined): string[] {
  if (!AREAS.includes(value)) throw new InvalidArgumentError(`areas: ${AREAS.join(', ')}.`);
  return collect(value, before);
}

function seed(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 0xffff_ffff) throw new InvalidArgumentError('give a whole number from 1 to 4294967295.');
  return value;
}

/** On a terminal only: a case takes milliseconds. */
function progress(): { readonly step: (done: number, total: number, what: string) => void; readonly stop: () => void } {
  const bar = process.stderr.isTTY ? new SingleBar({ format: '  {bar} {value}/{total} | {what}', hideCursor: true, clearOnComplete: true }) : undefined;
  return {
    step(done, total, what) {
      if (done === 0) bar?.start(total, 0, { what });
      else bar?.update(done, { what });
    },
    stop: () => bar?.stop(),
  };
}

/** What would run. */
function list(cases: readonly { readonly name: string; readonly clauses: readonly string[] }[], format: Format): string {
  if (format === 'json') return JSON.stringify(cases, null, 2);
  return cases.map(({ name, clauses }) => `${name}  ${clauses.join(' ')}`).join('\n');
}

function render(reports: readonly Report[], format: Format, party: 'device' | 'driver'): string {
  if (format === 'json') return jsonReport(reports);
  if (format === 'junit') return junitReport(reports);
  if (format === 'html') return htmlReport(reports);
  return conformanceTable(reports, party);
}

/** This project's driver under the driver scenarios. @throws SelectionError */
async function runDriver(flags: Flags, signal: AbortSignal): Promise<boolean> {
  // It has no other device to be on, and scenarios keep their order.
  for (const option of ['target', 'seed'] as const) if (flags[option] !== undefined) throw new SelectionError(`--${option} goes with --party device`);
  requireClause(flags.clause);
  const selection: ScenarioOptions = {
    areas: flags.area,
    ...(flags.clause !== undefined && { clause: flags.clause }),
    ...(flags.case !== undefined && { case: flags.case }),
  };
  if (planScenarios(SCENARIOS, selection).length === 0) throw new SelectionError('no scenario is selected: see --list');
  if (flags.list) {
    const planned = planScenarios(SCENARIOS, selection).map(({ name, scenario: { clauses } }) => ({ name, clauses }));
    print(list(planned, flags.format));
    return true;
  }
  const bar = progress();
  console.error("running scenarios with nicbox's driver");
  const report = await watchOwnDriver({ ...selection, signal, onCase: bar.step }).finally(bar.stop);
  // Half a report would be taken for a whole one.
  signal.throwIfAborted();
  if (report.results.length === 0) throw new SelectionError('nothing that drivers do is judged about that');
  print(render([report], flags.format, 'driver'));
  return !breaksMust(report);
}

/** @throws SelectionError */
function requireClause(name: string | undefined): void {
  if (name !== undefined && findClause(name) === undefined)
    throw new SelectionError(`no clause is called ${name}: give a key (pci.33) or an id, see docs/conformance.md`);
}

async function run(flags: Flags, signal: AbortSignal): Promise<boolean> {
  if (flags.list && (flags.format === 'junit' || flags.format === 'html'))
    throw new SelectionError(`--list is for --format table or json, not ${flags.format}`);
  if (flags.party === 'driver') return runDriver(flags, signal);
  const selection: RunOptions = {
    areas: flags.area,
    ...(flags.clause !== undefined && { clause: flags.clause }),
    ...(flags.case !== undefined && { case: flags.case }),
    ...(flags.seed !== undefined && { seed: flags.seed }),
  };
  requireClause(flags.clause);
  if (plan(CASES, selection).length === 0) throw new SelectionError('no case is selected: see --list');
  if (flags.list) {
    const planned = plan(CASES, selection).map(({ name, test: { clauses } }) => ({ name, clauses }));
    print(list(planned, flags.format));
    return true;
  }
  const reports: Report[] = [];
  for (const source of (flags.target ?? ['inproc']).map(sourceOf)) {
    const bar = progress();
    console.error(`running against ${source.name}`);
    try {
      reports.push(await runCases(CASES, source, { ...selection, signal, onCase: bar.step }));
    } finally {
      bar.stop();
      await source.close?.();
    }
    signal.throwIfAborted();
  }
  print(render(reports, flags.format, 'device'));
  return !reports.some(breaksMust);
}

export function conformanceCommand(signal: AbortSignal, done: (exitCode: number) => void): Command {
  const binding = CLAUSES.filter(isBinding).length;
  return new Command('conformance')
    .description(`Check a virtio-net device against VIRTIO 1.4, clause by clause (${CLAUSES.length} clauses, ${binding} of them MUST or MUST NOT).`)
    .addOption(
      new Option(
        '--target <name>',
        'inproc (this device, served inline), inproc:worker (by a vhost worker), inproc:vdpa (by a vDPA NIC), inproc:vdpa-shadow (by one, through shadow virtqueues), qemu or qemu:PATH (its virtio-net-pci over qtest); may be repeated',
      )
        .argParser(collect)
        .default(undefined, 'inproc'),
    )
    .addOption(
      new Option('--party <party>', "who is tested: a device, or this project's driver, watched on a device of its own")
        .choices(['device', 'driver'])
        .default('device'),
    )
    .addOption(new Option('--area <area>', 'only cases about this area; may be repeated').argParser(area))
    .option('--clause <id>', 'only cases about this clause, by key or id')
    .option('--case <name>', 'only this case, with or without its ring format')
    .option('--seed <n>', "run in an order drawn from this number (default: the specification's order)", seed)
    .option('--list', 'print the cases that would run, and the clauses they check, as lines or with --format json')
    .addOption(new Option('--format <format>', 'of the result').choices(['table', 'json', 'junit', 'html']).default('table'))
    .addHelpText(
      'after',
      `
${paragraph(`Areas: ${AREAS.join(', ')}.`)}

Exit code 0: no MUST is broken; 1: one is; 2: bad input; 130: stopped by Ctrl-C.

Examples:
  nicbox conformance
  nicbox conformance --area net-rss --area net-hash
  nicbox conformance --clause pci.33 --format json
  nicbox conformance --case "reset/queue [packed]"
  nicbox conformance --party driver --area net-tx
  nicbox conformance --target inproc --target qemu --format html > conformance.html`,
    )
    .action(async (flags: Flags) => done((await run({ ...flags, area: flags.area ?? [] }, signal)) ? 0 : 1));
}
