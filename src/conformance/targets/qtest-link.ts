// QEMU without a guest, over its qtest protocol: one line each way on its standard input and output, and lines of its own accord when interrupt lines move. Beside it QMP, for
// what only a monitor can do.

import { type ChildProcess, spawn } from 'node:child_process';
import { createConnection, type Socket } from 'node:net';

/** How to start the program: what to run, in front of QEMU's own arguments, and with which environment. */
export interface QemuProgram {
  readonly file: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** QEMU cannot be started, or is gone. `code` is stable. */
export class QemuError extends Error {
  readonly code = 'NICBOX_QEMU';
}

interface Waiting {
  readonly text: string;
  readonly resolve: (answer: string) => void;
  readonly reject: (error: Error) => void;
}

export class QtestLink {
  /** Levels of the interrupt controller's inputs that are intercepted. */
  readonly levels = new Map<number, boolean>();
  readonly #child: ChildProcess;
  readonly #waiting: Waiting[] = [];
  #pending = '';
  #said = '';
  #ended: string | undefined;

  constructor(program: QemuProgram, args: readonly string[]) {
    this.#child = spawn(program.file, [...(program.args ?? []), ...args, '-qtest', 'stdio', '-qtest-log', 'none'], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...program.env },
    });
    this.#child.stdout?.on('data', (piece: Buffer) => this.#take(piece.toString('latin1')));
    this.#child.stderr?.on('data', (piece: Buffer) => {
      this.#said = `${this.#said}${piece}`.slice(-2000);
    });
    this.#child.stdin?.on('error', () => {});
    this.#child.on('error', (error) => this.#end(`cannot start ${program.file}: ${error.message}`));
    this.#child.on('exit', (code, signal) => this.#end(`QEMU ended (${signal ?? code}): ${this.#said.trim()}`));
  }

  /** Why it is gone. */
  get ended(): string | undefined {
    return this.#ended;
  }

  get alive(): boolean {
    return this.#ended === undefined;
  }

  #end(why: string): void {
    this.#ended ??= why;
    for (const { reject } of this.#waiting.splice(0)) reject(new QemuError(this.#ended));
  }

  #take(text: string): void {
    this.#pending += text;
    for (let end = this.#pending.indexOf('\n'); end >= 0; end = this.#pending.indexOf('\n')) {
      const line = this.#pending.slice(0, end).trim();
      this.#pending = this.#pending.slice(end + 1);
      const irq = /^IRQ (raise|lower) (\d+)/.exec(line);
      if (irq) this.levels.set(Number(irq[2]), irq[1] === 'raise');
      else if (line.startsWith('OK')) this.#waiting.shift()?.resolve(line.slice(3));
      else if (/^(FAIL|ERR)/.test(line)) {
        const asked = this.#waiting.shift();
        asked?.reject(new QemuError(`qtest: ${asked.text}: ${line}`));
      }
    }
  }

  /** Sends a command; its answer without the OK. Commands are carried out in order, also when several are on their way. */
  command(text: string): Promise<string> {
    if (this.#ended !== undefined) return Promise.reject(new QemuError(this.#ended));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ text, resolve, reject });
      this.#child.stdin?.write(`${text}\n`);
    });
  }

  async number(text: string): Promise<number> {
    return Number(await this.command(text));
  }

  async close(): Promise<void> {
    if (this.#ended !== undefined) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await gone;
  }
}

/** A QMP session: one command at a time; events are skipped. */
export class Qmp {
  readonly #socket: Socket;
  #pending = '';
  #answer: ((answer: { readonly return?: unknown; readonly error?: { readonly desc: string } }) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => {});
    socket.on('data', (piece) => {
      this.#pending += piece.toString();
      for (let end = this.#pending.indexOf('\n'); end >= 0; end = this.#pending.indexOf('\n')) {
        const message = JSON.parse(this.#pending.slice(0, end));
        this.#pending = this.#pending.slice(end + 1);
        if ('return' in message || 'error' in message) this.#answer?.(message);
      }
    });
  }

  static async connect(path: string): Promise<Qmp> {
    for (let attempt = 0; ; attempt++) {
      try {
        const socket = await new Promise<Socket>((resolve, reject) => {
          const made = createConnection(path, () => resolve(made));
          made.once('error', reject);
        });
        const qmp = new Qmp(socket);
        await qmp.execute('qmp_capabilities');
        return qmp;
      } catch (error) {
        if (attempt >= 200) throw new QemuError(`QEMU's monitor does not answer: ${(error as Error).message}`);
        await new Promise((resolve) => setTimeout(resolve, 25));
      }
    }
  }

  /** @throws QemuError when QEMU refuses. */
  async execute(execute: string, args?: object): Promise<unknown> {
    const answer = await new Promise<{ readonly return?: unknown; readonly error?: { readonly desc: string } }>((resolve) => {
      this.#answer = resolve;
      this.#socket.write(`${JSON.stringify({ execute, ...(args && { arguments: args }) })}\n`);
    });
    if (answer.error) throw new QemuError(`QMP ${execute}: ${answer.error.desc}`);
    return answer.return;
  }

  close(): void {
    this.#socket.destroy();
  }
}
