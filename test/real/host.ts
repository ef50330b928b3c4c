// What the real clients need of the machine: Debian packages, unpacked into a cache beside the project or installed, and child processes with bounded time.
// Whatever cannot be had is a reason to skip, said in so many words; nothing else is.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder with package.json above this file, wherever it was compiled to. */
export const project = projectAbove(dirname(fileURLToPath(import.meta.url)));

export const cache = process.env.NICBOX_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'nicbox');

function projectAbove(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : projectAbove(dirname(folder));
}

/** NICBOX_TRACE=1 shows what children say while they do. */
const TRACE = process.env.NICBOX_TRACE === '1';

/** Seconds that anything may take which takes a few on a machine with nothing else to do. Only what has failed takes so long. */
export const PATIENCE = 300;

/** A client cannot be had here; the message says why and what would help. */
export class Unavailable extends Error {}

/** Says what takes long, while it does. */
export function progress(text: string): void {
  process.stderr.write(`real: ${text}\n`);
}

export interface Ran {
  readonly code: number;
  readonly output: string;
}

export function run(program: string, args: readonly string[], options: { readonly seconds?: number; readonly cwd?: string } = {}): Promise<Ran> {
  return new Promise((resolve) => {
    const settings = {
      timeout: (options.seconds ?? PATIENCE) * 1000,
      maxBuffer: 1 << 28,
      encoding: 'latin1' as const,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    };
    execFile(program, args, { ...settings, env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' } }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : 127;
      resolve({ code, output: `${stdout}${stderr}` });
    });
  });
}

/** The same for what has to go well. */
export async function mustRun(program: string, args: readonly string[], options: { readonly seconds?: number; readonly cwd?: string } = {}): Promise<string> {
  const { code, output } = await run(program, args, options);
  if (code !== 0) throw new Unavailable(`${program} ${args.slice(0, 4).join(' ')} ended with ${code}: ${output.trim().split('\n').slice(-2).join(' | ')}`);
  return output;
}

export function onPath(program: string): string | undefined {
  return `${process.env.PATH ?? ''}:/usr/sbin:/sbin`
    .split(':')
    .map((folder) => join(folder, program))
    .find((path) => existsSync(path));
}

/** Does what only one process at a time may do, whoever it is of; the lock of one that was killed does not count. Says so when it has to wait. */
export async function exclusively<T>(lock: string, work: () => Promise<T>): Promise<T> {
  for (let said = false; ; said = true) {
    try {
      mkdirSync(dirname(lock), { recursive: true });
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch {
      const owner = existsSync(lock) ? readFileSync(lock, 'utf8') : '';
      if (owner !== '' && !existsSync(`/proc/${owner}`)) rmSync(lock, { force: true });
      else if (!said) progress(`process ${owner} is at ${lock}: waiting`);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  try {
    return await work();
  } finally {
    rmSync(lock, { force: true });
  }
}

/** Around whatever fetches packages. */
const packageLock = (): string => join(cache, 'packages.lock');

let updated: Promise<unknown> | undefined;

async function apt(args: readonly string[], seconds: number, cwd?: string): Promise<void> {
  if (onPath('apt-get') === undefined) throw new Unavailable('this is no Debian: there is no apt-get');
  const options = { seconds, ...(cwd === undefined ? {} : { cwd }) };
  if ((await run('apt-get', args, options)).code === 0) return;
  // The package lists of a fresh machine are empty or old.
  if (process.getuid?.() === 0) {
    updated ??= run('apt-get', ['update', '-q'], { seconds: 120 });
    await updated;
  }
  await mustRun('apt-get', args, options);
}

/** A Debian package's files, unpacked in the cache; nothing is installed. */
export async function unpacked(name: string): Promise<string> {
  const folder = join(cache, 'packages', name);
  if (!existsSync(folder)) await exclusively(packageLock(), () => unpack(name, folder));
  return folder;
}

async function unpack(name: string, folder: string): Promise<void> {
  // Somebody else may have been at it.
  if (existsSync(folder)) return;
  progress(`fetching Debian's ${name}`);
  mkdirSync(join(cache, 'packages'), { recursive: true });
  const work = mkdtempSync(join(cache, 'packages', '.work-'));
  try {
    await apt(['download', '-q', name], 300, work);
    const file = readdirSync(work).find((f) => f.endsWith('.deb'));
    if (file === undefined) throw new Unavailable(`apt-get download ${name} left no package`);
    await mustRun('dpkg', ['-x', join(work, file), join(work, 'files')], { seconds: 120 });
    if (!existsSync(folder)) renameSync(join(work, 'files'), folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The path of an installed program; as root its package is installed first if need be. */
export async function installed(program: string, packages: readonly string[]): Promise<string> {
  const present = onPath(program);
  if (present !== undefined) return present;
  if (process.getuid?.() !== 0) throw new Unavailable(`${program} is not installed and this is not root: apt-get install ${packages.join(' ')}`);
  await exclusively(packageLock(), async () => {
    if (onPath(program) !== undefined) return;
    progress(`installing ${packages.join(', ')}`);
    // Somebody else of this machine may be installing something.
    await apt(['install', '-y', '-q', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=240', ...packages], 300);
  });
  const now = onPath(program);
  if (now === undefined) throw new Unavailable(`${packages.join(' ')} brought no ${program}`);
  return now;
}

/** What a client needs, or why it is not there. Errors that are no reason to skip go on being errors. */
export async function available<T>(
  make: () => Promise<T>,
): Promise<{ readonly client: T; readonly missing: undefined } | { readonly client: undefined; readonly missing: string }> {
  try {
    return { client: await make(), missing: undefined };
  } catch (error) {
    if (error instanceof Unavailable) return { client: undefined, missing: error.message };
    throw error;
  }
}

const scratches: string[] = [];

/** A folder for sockets and files of one test, gone after `endChildren`; short, since a UNIX socket's path has at most 107 bytes. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'nbr-'));
  scratches.push(folder);
  return folder;
}

/** A child process whose output is kept by line and can be waited for. It is the first of a session of its own, and ends with all of that. */
export class Child {
  readonly name: string;
  readonly process: ChildProcess;
  readonly lines: string[] = [];
  readonly ended: Promise<number | null>;
  over = false;
  #listeners: (() => void)[] = [];

  constructor(name: string, program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.name = name;
    // Should this process be killed, what it started must not run on.
    const leash = onPath('setpriv');
    const [command, ...rest] = leash === undefined ? [program, ...args] : [leash, '--pdeathsig', 'KILL', program, ...args];
    this.process = spawn(command as string, rest, { stdio: ['pipe', 'pipe', 'pipe'], detached: true, env: { ...process.env, ...env } });
    children.add(this);
    let partial = '';
    const take = (piece: Buffer): void => {
      const parts = `${partial}${piece.toString('latin1')}`.split(/\r*\n/);
      partial = parts.pop() ?? '';
      this.lines.push(...parts);
      if (TRACE) process.stderr.write(parts.map((line) => `${name}: ${line}\n`).join(''));
      for (const listener of this.#listeners) listener();
    };
    this.process.stdout?.on('data', take);
    this.process.stderr?.on('data', take);
    this.process.stdin?.on('error', () => {});
    this.ended = new Promise((resolve) => {
      const finish = (code: number | null): void => {
        this.over = true;
        children.delete(this);
        for (const listener of this.#listeners) listener();
        resolve(code);
      };
      this.process.once('error', (error) => {
        this.lines.push(error.message);
        finish(127);
      });
      this.process.once('close', finish);
    });
  }

  /** The rest of the output that a message needs. */
  get tail(): string {
    return this.lines.slice(-25).join('\n');
  }

  /** Waits for a line, from line `from` on. */
  async line(pattern: RegExp, seconds: number, from = 0): Promise<RegExpExecArray> {
    return this.until(`a line ${pattern}`, seconds, () => {
      for (let i = from; i < this.lines.length; i++) {
        const match = pattern.exec(this.lines[i] as string);
        if (match !== null) return match;
      }
      return undefined;
    });
  }

  async until<T>(what: string, seconds: number, holds: () => T | undefined): Promise<T> {
    const first = holds();
    if (first !== undefined) return first;
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        clearTimeout(timer);
        clearInterval(poll);
        this.#listeners = this.#listeners.filter((l) => l !== look);
      };
      const look = (): void => {
        const found = holds();
        if (found !== undefined) {
          stop();
          resolve(found);
        } else if (this.over) {
          stop();
          reject(new Error(`${this.name} ended before ${what}; it had said:\n${this.tail}`));
        }
      };
      // For what is no line: a file, a time.
      const poll = setInterval(look, 50);
      const timer = setTimeout(() => {
        stop();
        reject(new Error(`${this.name}: waited ${seconds} s for ${what}; it had said:\n${this.tail}`));
      }, seconds * 1000);
      this.#listeners.push(look);
    });
  }

  write(text: string): void {
    this.process.stdin?.write(text);
  }

  signal(signal: NodeJS.Signals): void {
    if (!this.over && this.process.pid !== undefined) process.kill(this.process.pid, signal);
  }

  /** Ends it and everything of its session, and again what one of them made meanwhile: user-mode Linux makes a process for each of its own. */
  async kill(): Promise<void> {
    const { pid } = this.process;
    if (pid === undefined) return;
    for (let tries = 0; tries < 100; tries++) {
      for (const member of sessionOf(pid)) {
        try {
          process.kill(member, 'SIGKILL');
        } catch {
          // It has ended meanwhile.
        }
      }
      const ended = await Promise.race([this.ended.then(() => true), new Promise<boolean>((resolve) => setTimeout(resolve, 200, false))]);
      if (ended) return;
    }
    throw new Error(`${this.name} (process ${pid}) does not end; it had said:\n${this.tail}`);
  }
}

const children = new Set<Child>();

/** Ends what a test left running, and removes its folders. */
export async function endChildren(): Promise<void> {
  await Promise.all([...children].map((child) => child.kill()));
  for (const folder of scratches.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** A process with all that descend from it, and the sessions and process groups that these lead: guests make their own. */
function sessionOf(leader: number): number[] {
  const processes: { readonly id: number; readonly of: readonly number[] }[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      // After the name in parentheses: state, parent, process group, session.
      const fields = readFileSync(`/proc/${name}/stat`, 'latin1').replace(/^.*\) /s, '');
      processes.push({ id: Number(name), of: fields.split(' ').slice(1, 4).map(Number) });
    } catch {
      // Gone between the listing and the look.
    }
  }
  const found = new Set([leader]);
  for (let before = 0; before !== found.size; ) {
    before = found.size;
    for (const { id, of } of processes) if (of.some((other) => found.has(other))) found.add(id);
  }
  return [...found];
}
