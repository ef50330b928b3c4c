// DPDK's testpmd as a vhost-user front end (its virtio-user driver) or, for comparison, as a back end (its vhost driver). It polls: one core is busy while it runs.

import { Child, installed, PATIENCE, run } from './host.ts';

interface PortCounters {
  readonly received: number;
  readonly sent: number;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

interface TestpmdOptions {
  /** DPDK's --vdev arguments: its ports, in this order. */
  readonly vdevs: readonly string[];
  /** What it does with frames: io, mac, txonly, rxonly, ... */
  readonly mode: string;
  readonly core?: number;
  readonly queues?: number;
  /** testpmd's own further arguments. */
  readonly args?: readonly string[];
}

export interface Dpdk {
  readonly version: string;
  start(name: string, options: TestpmdOptions): Promise<Testpmd>;
}

export async function findDpdk(): Promise<Dpdk> {
  const program = await installed('dpdk-testpmd', ['dpdk-dev']);
  const { output } = await run('dpkg-query', ['-s', 'dpdk-dev']);
  const version = /^Version: (\d[\d.]*)/m.exec(output)?.[1] ?? 'of unknown version';
  return { version, start: (name, options) => Testpmd.start(program, name, options) };
}

let started = 0;

class Testpmd {
  readonly child: Child;

  private constructor(child: Child) {
    this.child = child;
  }

  /** Brings the ports up; frames move from `go` on. */
  static async start(program: string, name: string, { vdevs, mode, core = 1, queues = 1, args = [] }: TestpmdOptions): Promise<Testpmd> {
    // Its counters come through stdio: by line, so that they come before the next prompt.
    const child = new Child(name, 'stdbuf', [
      ...['-oL', program],
      // Main thread and forwarding thread on one core.
      ...['--lcores', `0@${core},1@${core}`, '--no-huge', '-m', '256', `--file-prefix=nicbox-${process.pid}-${started++}`, '--no-pci', '--no-telemetry'],
      ...vdevs.flatMap((vdev) => ['--vdev', vdev]),
      ...['--', '-i', '--nb-cores=1', `--forward-mode=${mode}`, '--total-num-mbufs=16384', '--no-flush-rx', `--rxq=${queues}`, `--txq=${queues}`, ...args],
    ]);
    const pmd = new Testpmd(child);
    await pmd.#done(PATIENCE);
    return pmd;
  }

  /** Sends a command and waits until it is done; returns what it printed. */
  async command(text: string, seconds = PATIENCE): Promise<string> {
    const from = this.child.lines.length;
    this.child.write(`${text}\n`);
    await this.#done(seconds);
    return this.child.lines.slice(from).join('\n');
  }

  #marks = 0;

  /** Commands run in order: the echo of an unknown one says that those before it have ended. */
  async #done(seconds: number): Promise<void> {
    const mark = `nicbox-mark-${this.#marks++}`;
    const from = this.child.lines.length;
    this.child.write(`${mark}\n`);
    await this.child.line(/Command not found/, seconds, from);
  }

  async counters(): Promise<PortCounters[]> {
    const text = await this.command('show port stats all');
    const ports: PortCounters[] = [];
    for (const part of text.split('NIC statistics for port').slice(1)) {
      const value = (name: string): number => Number(new RegExp(`${name}: *(\\d+)`).exec(part)?.[1] ?? Number.NaN);
      ports.push({ received: value('RX-packets'), sent: value('TX-packets'), receivedBytes: value('RX-bytes'), sentBytes: value('TX-bytes') });
    }
    return ports;
  }

  /** Frames of all ports a second, over a while. */
  async rates(seconds: number): Promise<{ readonly received: number; readonly sent: number }> {
    const first = await this.counters();
    const begin = performance.now();
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    const last = await this.counters();
    const elapsed = (performance.now() - begin) / 1000;
    const sum = (of: (port: PortCounters) => number): number =>
      last.reduce((total, port) => total + of(port), 0) - first.reduce((total, port) => total + of(port), 0);
    return { received: sum((port) => port.received) / elapsed, sent: sum((port) => port.sent) / elapsed };
  }

  /** Stops forwarding, closes the ports, ends. */
  async quit(): Promise<void> {
    this.child.write('quit\n');
    await this.child.until('its end', PATIENCE, () => this.child.over || undefined);
  }
}
