#!/usr/bin/env node
// The `nicbox` command. Parsing is commander's; each subcommand is a file of its own. Errors a person can mend are one line on stderr and exit code 2; a run
// that was done and did not verify is exit code 1; Ctrl-C is 130.

import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import { conformanceCommand } from './conformance.ts';
import { tellDefaults } from './help-text.ts';
import { labCommand } from './lab.ts';
import { lspciCommand } from './lspci.ts';
import { watchOutput } from './output.ts';
import { serveCommand } from './serve.ts';
import { tourCommand } from './tour.ts';

const EXIT_USAGE = 2;
const EXIT_INTERRUPTED = 130;

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

/** One line that says what is wrong, for errors a person can do something about; others keep their stack, as they are ours. */
function explain(error: unknown): string {
  const { code, message, stack } = error as { code?: unknown; message?: string; stack?: string };
  if (typeof code === 'string' && message !== undefined) return `nicbox: ${message}`;
  return `nicbox: internal error, please report it: ${stack ?? String(error)}`;
}

async function main(): Promise<number> {
  const interrupted = new AbortController();
  const output = watchOutput(() => interrupted.abort());
  const onSignal = (): void => {
    // A second Ctrl-C does not wait for the clean stop.
    if (interrupted.signal.aborted) process.exit(EXIT_INTERRUPTED);
    interrupted.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);

  let exitCode = 0;
  const done = (code: number): void => {
    exitCode = code;
  };
  const program = new Command('nicbox')
    .description('Emulated PCI Express network devices, served by worker threads and driven by synthetic guests.')
    .version(version)
    .showHelpAfterError('(nicbox COMMAND --help shows what there is)')
    .exitOverride()
    .addCommand(tourCommand(interrupted.signal, done))
    .addCommand(lspciCommand())
    .addCommand(labCommand(interrupted.signal, done))
    .addCommand(conformanceCommand(interrupted.signal, done))
    .addCommand(serveCommand(interrupted.signal, done));
  pointToHelp(program, 'nicbox');

  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
    if (output.exitCode !== undefined) return output.exitCode;
    if (interrupted.signal.aborted) {
      console.error('nicbox: stopped');
      return EXIT_INTERRUPTED;
    }
    console.error(explain(error));
    return EXIT_USAGE;
  }
  return output.exitCode ?? (interrupted.signal.aborted ? EXIT_INTERRUPTED : exitCode);
}

/** Every command's errors end with where its help is, and come back here in place of ending the process. */
function pointToHelp(parent: Command, path: string): void {
  for (const command of parent.commands) {
    const name = `${path} ${command.name()}`;
    tellDefaults(command);
    command.exitOverride().showHelpAfterError(`(${name} --help shows what there is)`);
    pointToHelp(command, name);
  }
}

process.exitCode = await main();
