// `nicbox tour`: the main job. Everything it prints for people goes through here; what it found out is src/lab/tour.ts's.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { DataPlane } from '#lab/lab';
import { runTour, type TourListener, type TourResult } from '#lab/tour';
import { CaptureError } from '#net/captured-packet';
import { paragraph } from './help-text.ts';
import { loadLab } from './lspci.ts';
import { FileError, prepareDirectory, print, writeResult } from './output.ts';
import { passTable, spreadTable, vfTable } from './pass-table.ts';

const CAPTURE = fileURLToPath(new URL('../../captures/real.pcapng', import.meta.url));

interface Flags {
  readonly capture: string;
  readonly lab?: string;
  readonly plane: DataPlane | 'both';
  readonly ring: 'split' | 'packed' | 'both';
  readonly repeat: number;
  readonly pings: number;
  readonly out: string;
  readonly json?: boolean;
}

function count(limit: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < 1 || value > limit) throw new InvalidArgumentError(`give a whole number from 1 to ${limit}.`);
    return value;
  };
}

async function readCapture(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new FileError(`cannot read capture ${path}: ${(error as Error).message}`);
  }
}

const titles: Readonly<Record<DataPlane, string>> = {
  inline: 'inline (machine thread)',
  'vhost-net': 'vhost-net (worker thread)',
  vdpa: 'vDPA (a NIC on a worker thread)',
  'vdpa-shadow': 'shadow virtqueues (machine thread) over vDPA',
};
/** Progress on a terminal; on a pipe or with --json a line a pass, on stderr. */
function listener(json: boolean): TourListener {
  const bar = process.stderr.isTTY
    ? new SingleBar({ format: '  {bar} {percentage}% | {value}/{total} frames | {eta_formatted} left', hideCursor: true, clearOnComplete: true })
    : undefined;
  return {
    tree(guest, listing) {
      if (!json) print(`PCI Express as guest "${guest}" sees it\n${listing}`);
    },
    passStarts(plane, ring, frames) {
      console.error(`replaying over ${titles[plane]}, ${ring} rings`);
      bar?.start(frames, 0);
    },
    progress(done) {
      bar?.update(done);
    },
    passEnds(result) {
      bar?.stop();
      console.error(
        `  ${result.frames} frames in ${(result.seconds * 1000).toFixed(0)} ms, ${result.errors.length === 0 ? 'every byte as sent' : `WRONG: ${result.errors.join('; ')}`}`,
      );
    },
    spreadStarts(plane, ring, frames) {
      console.error(`spreading over queues by RSS: ${titles[plane]}, ${ring} rings`);
      bar?.start(frames, 0);
    },
    virtualFunctionsStart(count) {
      console.error(`an 82576 with ${count} virtual functions, each a guest's: all to all, one that lies, one that is reset under load`);
    },
    virtualFunctionsEnd({ frames, seconds, errors }) {
      console.error(
        `  ${frames} frames in ${(seconds * 1000).toFixed(0)} ms, ${errors.length === 0 ? 'each where it belongs, the liar caught, the neighbours undisturbed' : `WRONG: ${errors.join('; ')}`}`,
      );
    },
    spreadEnds({ frames, queues, errors }) {
      bar?.stop();
      console.error(
        `  ${frames} frames on ${queues.length} queues, ${errors.length === 0 ? 'every hash and queue as the guest has it' : `WRONG: ${errors.join('; ')}`}`,
      );
    },
  };
}

export function tourCommand(signal: AbortSignal, done: (exitCode: number) => void): Command {
  return new Command('tour')
    .description(
      'Two guests, a real capture replayed from one to the other through virtio-net over PCI Express, every byte compared on arrival, and what it cost; then spread over four queues, every hash computed on both sides; then seven guests on SR-IOV virtual functions of an Intel 82576.',
    )
    .option('--capture <file>', 'pcap or pcapng file to replay', CAPTURE)
    .option('--lab <file>', 'lab file: the first guest sends to the second (default: two guests on a direct link)')
    .addOption(new Option('--plane <plane>', 'who moves the frames; both: inline and vhost-net').choices([...Object.keys(titles), 'both']).default('both'))
    .addOption(new Option('--ring <format>', 'virtqueue format').choices(['split', 'packed', 'both']).default('both'))
    .option('--repeat <times>', 'times the capture is sent in each pass', count(1_000_000), 1000)
    .option('--pings <count>', 'round trips measured in each pass', count(10_000_000), 2000)
    .option('--out <directory>', 'where tour.pcapng and tour.json go', 'out')
    .option('--json', 'print the result as JSON instead of tables')
    .addHelpText(
      'after',
      `
${paragraph('Writes tour.pcapng (what the second guest received in the last pass), tour-vf0.pcapng to tour-vf6.pcapng and tour.json. Exit code 0: every byte arrived as sent, every hash agrees, every virtual function got its own frames only; 1: not; 2: bad input; 130: stopped by Ctrl-C.')}

Examples:
  nicbox tour
  nicbox tour --capture my.pcap --plane vhost-net --ring packed --repeat 10000
  nicbox tour --lab examples/pairs.lab.json --json

What a lab file has: docs/lab-files.md.`,
    )
    .action(async (flags: Flags) => {
      const [lab, capture] = [await loadLab(flags.lab), await readCapture(flags.capture)];
      await prepareDirectory(flags.out);
      const { result, received, receivedByVf } = await runTour({
        lab,
        capture,
        planes: flags.plane === 'both' ? ['inline', 'vhost-net'] : [flags.plane],
        rings: flags.ring === 'both' ? ['split', 'packed'] : [flags.ring],
        repeat: flags.repeat,
        pings: flags.pings,
        signal,
        on: listener(flags.json === true),
      }).catch((error: unknown) => {
        throw error instanceof CaptureError ? new FileError(`${flags.capture}: ${error.message}`) : error;
      });
      await report(result, received, receivedByVf, flags);
      done(result.verified ? 0 : 1);
    });
}

async function report(result: TourResult, received: Uint8Array, receivedByVf: readonly Uint8Array[], flags: Flags): Promise<void> {
  const json = `${JSON.stringify(result, null, 2)}\n`;
  const pcapng = await writeResult(flags.out, 'tour.pcapng', received);
  for (const [i, file] of receivedByVf.entries()) await writeResult(flags.out, `tour-vf${i}.pcapng`, file);
  const record = await writeResult(flags.out, 'tour.json', json);
  if (flags.json) {
    print(json);
    return;
  }
  const { capture } = result;
  print(`\n${flags.capture}: ${capture.frames} frames, ${capture.bytes} bytes, longest ${capture.longest}; sent ${flags.repeat} times in each pass`);
  print(passTable(result.passes, process.stdout.columns ?? Number.POSITIVE_INFINITY));
  print(`\nSpread over ${result.spread[0]?.queues.length} receive queues by RSS, hashes reported: frames of each queue\nand of each hash type`);
  print(spreadTable(result.spread, process.stdout.columns ?? Number.POSITIVE_INFINITY));
  print('\nAn 82576 with virtual functions: all to all through its switch; then one pretended to be another, and one\nwas reset under load');
  print(vfTable(result.virtualFunctions.rows, process.stdout.columns ?? Number.POSITIVE_INFINITY));
  for (const error of result.virtualFunctions.errors) print(error);
  for (const pass of [...result.passes, ...result.spread]) for (const error of pass.errors) print(`${pass.plane}, ${pass.ring}: ${error}`);
  print(`\nWhat the second guest received: ${pcapng}, and each virtual function: tour-vf0.pcapng and so on\nThe same numbers for programs: ${record}`);
}
