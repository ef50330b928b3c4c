// `nicbox serve vhost-user` as a user runs it: the built command in a process of its own.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Child, PATIENCE, project } from './host.ts';

export interface ServerCounters {
  readonly transmitFrames: number;
  readonly receiveFrames: number;
  /** By reason, of both directions. */
  readonly drops: Readonly<Record<string, number>>;
}

export class VhostUserServer {
  readonly sockets: readonly string[];
  readonly child: Child;

  private constructor(sockets: readonly string[], child: Child) {
    this.sockets = sockets;
    this.child = child;
  }

  static async start(sockets: readonly string[], args: readonly string[] = []): Promise<VhostUserServer> {
    const child = new Child('nicbox serve vhost-user', process.execPath, [
      join(project, 'dist/cli/main.js'),
      'serve',
      'vhost-user',
      ...sockets.flatMap((socket) => ['--socket', socket]),
      ...args,
    ]);
    await child.until('its sockets', PATIENCE, () => sockets.every((socket) => existsSync(socket)) || undefined);
    return new VhostUserServer(sockets, child);
  }

  /** What it last said of each socket, with --json. */
  counters(): ServerCounters[] {
    return this.sockets.map((path) => {
      const line = this.child.lines.findLast((text) => text.startsWith(`{"path":"${path}"`));
      if (line === undefined) throw new Error(`the server said nothing of ${path}:\n${this.child.tail}`);
      const { transmitFrames, receiveFrames, transmitDrops, receiveDrops } = JSON.parse(line).counters;
      return { transmitFrames, receiveFrames, drops: { ...transmitDrops, ...receiveDrops } };
    });
  }

  /** Asks it to stop and returns its exit code. */
  async stop(): Promise<number | null> {
    this.child.signal('SIGTERM');
    await this.child.until('its end', PATIENCE, () => this.child.over || undefined);
    return this.child.ended;
  }
}
