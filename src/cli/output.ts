// Where results go: stdout. Readers that leave early end the program as they end others (128 + SIGPIPE, nothing said); a full disk is an error like any other, which
// console.log would keep to itself. Progress goes to stderr through console.error: without a reader it is not missed.

import { openSync } from 'node:fs';
import { access, constants, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const EXIT_FAILED = 2;
const EXIT_NO_READER = 141;

/** The result cannot be written. `code` is stable. */
class OutputError extends Error {
  readonly code = 'NICBOX_OUTPUT';
}

/** A file that was named cannot be had. `code` is stable. */
export class FileError extends Error {
  readonly code = 'NICBOX_FILE';
}

/** @throws FileError */
export function openCapture(path: string): number {
  try {
    return openSync(path, 'w');
  } catch (error) {
    throw new FileError(`cannot write ${path}: ${(error as Error).message}`);
  }
}

/** Before the long work, so that a directory that cannot be written is known at once. Makes one level: `mkdir -p` of Node 20 never returns below /proc. */
export async function prepareDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw new FileError(`cannot make directory ${directory}: ${(error as Error).message}`);
  }
  try {
    await access(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new FileError(`cannot write to ${directory}: ${(error as Error).message}`);
  }
}

/** Returns the path. @throws FileError */
export async function writeResult(directory: string, name: string, content: string | Uint8Array): Promise<string> {
  const path = join(directory, name);
  try {
    await writeFile(path, content);
  } catch (error) {
    throw new FileError(`cannot write ${path}: ${(error as Error).message}`);
  }
  return path;
}

/** Prints a result and a line end. @throws OutputError */
export function print(text: string): void {
  try {
    process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
  } catch (error) {
    throw new OutputError(`cannot write the output: ${(error as Error).message}`);
  }
}

/**
 * Call once, before anything is printed. When stdout fails, `stop` is called (what runs is to end by itself, leaving nothing behind) and `exitCode` says how.
 */
export function watchOutput(stop: () => void): { readonly exitCode: number | undefined } {
  const outcome: { exitCode: number | undefined } = { exitCode: undefined };
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (outcome.exitCode !== undefined) return;
    outcome.exitCode = error.code === 'EPIPE' ? EXIT_NO_READER : EXIT_FAILED;
    // It may come when all else is over.
    process.exitCode = outcome.exitCode;
    if (error.code !== 'EPIPE') console.error(`nicbox: cannot write the output: ${error.message}`);
    stop();
  });
  process.stderr.on('error', () => {});
  return outcome;
}
