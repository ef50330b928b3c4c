// QEMU's monitor protocol, as much as a migration needs: commands and their answers as lines of JSON over a UNIX socket.

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATIENCE } from './host.ts';

export class Qmp {
  readonly #socket: Socket;
  #partial = '';
  #answer: ((line: Record<string, unknown>) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (piece) => {
      const lines = `${this.#partial}${piece.toString()}`.split('\n');
      this.#partial = lines.pop() ?? '';
      for (const line of lines) {
        const message = JSON.parse(line) as Record<string, unknown>;
        // What is neither is the greeting or an event.
        if ('return' in message || 'error' in message) this.#answer?.(message);
      }
    });
    socket.on('error', () => {});
  }

  /** Waits for the socket to be there. */
  static async connect(path: string, seconds = PATIENCE): Promise<Qmp> {
    const deadline = performance.now() + seconds * 1000;
    for (;;) {
      const socket = connect(path);
      const connected = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true));
        socket.once('error', () => resolve(false));
      });
      if (connected) {
        const qmp = new Qmp(socket);
        await qmp.ask('qmp_capabilities');
        return qmp;
      }
      if (performance.now() > deadline) throw new Error(`nobody listens on ${path}`);
      await sleep(50);
    }
  }

  /** Runs a command; returns what it returned, throws what it said was wrong. */
  async ask(execute: string, args: Readonly<Record<string, unknown>> = {}): Promise<Record<string, unknown>> {
    const message = await new Promise<Record<string, unknown>>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${execute}: no answer within ${PATIENCE} s`)), PATIENCE * 1000);
      this.#answer = (answer) => {
        clearTimeout(timer);
        resolve(answer);
      };
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    });
    if ('error' in message) throw new Error(`${execute}: ${JSON.stringify(message.error)}`);
    return message.return as Record<string, unknown>;
  }

  /** Moves the guest to a QEMU that waits for it there; returns what QEMU says of the move once it is complete. */
  async migrate(uri: string, seconds: number): Promise<Record<string, unknown>> {
    await this.ask('migrate', { uri });
    const deadline = performance.now() + seconds * 1000;
    for (;;) {
      const state = await this.ask('query-migrate');
      if (state.status === 'completed') return state;
      if (state.status === 'failed' || state.status === 'cancelled') throw new Error(`the migration ${state.status}: ${JSON.stringify(state)}`);
      if (performance.now() > deadline) throw new Error(`the migration is not complete after ${seconds} s: ${JSON.stringify(state)}`);
      await sleep(100);
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
