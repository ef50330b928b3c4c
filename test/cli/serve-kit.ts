// A `nicbox serve` as a process of its own in a scratch folder, for the tests of one file; each is ended, and its folder removed, after the test.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface Running {
  stdout: string;
  stderr: string;
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
}

export class ServeKit {
  scratch = '';
  #child: ChildProcess | undefined;

  constructor() {
    beforeEach(() => {
      this.scratch = mkdtempSync(join(tmpdir(), 'nicbox-serve-'));
    });
    afterEach(() => {
      this.#child?.kill('SIGKILL');
      rmSync(this.scratch, { recursive: true, force: true });
    });
  }

  path(name: string): string {
    return join(this.scratch, name);
  }

  serve(...args: string[]): Running {
    const child = spawn(process.execPath, [main, 'serve', ...args], { cwd: this.scratch });
    this.#child = child;
    const running: Running = { stdout: '', stderr: '', child, ended: new Promise((resolve) => child.on('close', resolve)) };
    child.stdout.on('data', (data) => {
      running.stdout += data;
    });
    child.stderr.on('data', (data) => {
      running.stderr += data;
    });
    return running;
  }
}
