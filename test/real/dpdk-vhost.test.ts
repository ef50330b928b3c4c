// Our virtio-net device over DPDK's own vhost back end: testpmd sends every frame back with its addresses swapped. testpmd polls: one core is busy meanwhile.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { Guest } from '#guest-sim/guest';
import { MemoryFile, VHOST_USER_NET_FEATURES, VhostUserBackend } from '#interop/index';
import { Machine } from '#nicbox/machine';
import { eventually } from '../backends/eventually.ts';
import { available, PATIENCE } from './host.ts';
import { findDpdk } from './testpmd.ts';

const WAIT = PATIENCE * 1000;
/** Feature bits (virtio 1.4 5.1.3 and 6). */
const MRG_RXBUF = 15;
const IN_ORDER = 35;
const { missing } = await available(findDpdk);

const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

let started = 0;

/** testpmd with a vhost port on `path` that sends back what it gets. */
async function startVhost(path: string, queues: number): Promise<ChildProcess> {
  const child = spawn(
    'dpdk-testpmd',
    [
      ...['--lcores', '0@1,1@1', '--no-huge', '-m', '256', `--file-prefix=nicbox-vhost-${process.pid}-${started++}`, '--no-pci', '--no-telemetry'],
      ...['--vdev', `net_vhost0,iface=${path},queues=${queues}`, '--', '-i', '--nb-cores=1', '--forward-mode=macswap', '--auto-start'],
      ...['--total-num-mbufs=16384', `--rxq=${queues}`, `--txq=${queues}`],
    ],
    { stdio: ['pipe', 'ignore', 'ignore'] },
  );
  const ended = new Promise((resolve) => child.once('exit', resolve));
  closing.push(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  await eventually('testpmd’s socket', () => existsSync(path), WAIT);
  return child;
}

interface Side {
  readonly machine: Machine;
  readonly backend: VhostUserBackend;
}

async function side(path: string, queuePairs: number): Promise<Side> {
  const ram = new MemoryFile(96 * 2 ** 20);
  closing.push(() => ram.close());
  const backend = await VhostUserBackend.connect({ path, memory: ram.memory, queuePairs, patience: WAIT });
  closing.push(() => backend.close());
  const machine = new Machine({ memory: ram.memory });
  closing.push(() => machine.close());
  machine.addVirtioNet({ mac: '52:54:00:00:00:0a', backend, queuePairs, features: VHOST_USER_NET_FEATURES });
  return { machine, backend };
}

/** Pings one after the other, each with its sequence number checked. testpmd takes a moment to serve rings that it has acknowledged, so the first may be lost. */
async function roundTrips(guest: Guest, count: number): Promise<void> {
  const deadline = performance.now() + WAIT;
  for (;;) {
    const first = guest.start({ kind: 'ping', count: 1, size: 64 });
    const retry = performance.now() + 500;
    while (!first.done && performance.now() < retry) if (!guest.step()) await new Promise((resolve) => setImmediate(resolve));
    if (first.done) break;
    if (performance.now() > deadline) throw new Error(`testpmd sent nothing back within ${WAIT} ms: ${JSON.stringify(guest.report())}`);
  }
  const job = guest.start({ kind: 'ping', count, size: 1514 });
  await eventually(
    `${count} round trips`,
    () => {
      guest.step();
      return job.done;
    },
    WAIT,
  );
  expect(job.result()).toMatchObject({ errors: [], framesReceived: count });
}

describe.skipIf(missing !== undefined)(`DPDK vhost${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it.each([
    { ring: 'split', pairs: 1 },
    { ring: 'packed', pairs: 1 },
    { ring: 'split', pairs: 2 },
    { ring: 'split', pairs: 1, lacks: MRG_RXBUF },
    { ring: 'packed', pairs: 1, lacks: MRG_RXBUF },
    { ring: 'split', pairs: 1, has: IN_ORDER },
    { ring: 'packed', pairs: 1, has: IN_ORDER },
    { ring: 'packed', pairs: 1, has: IN_ORDER, lacks: MRG_RXBUF },
  ] as const)('is the back end of our device over resets, stops and starts: %j', async (layout) => {
    const { ring, pairs, has, lacks }: { ring: 'split' | 'packed'; pairs: number; has?: number; lacks?: number } = layout;
    // A driver takes what it can get: what is to be missing here or there is left out, what is not asked for as well.
    const without = [...(has === undefined ? [IN_ORDER] : []), ...(lacks === undefined ? [] : [lacks])];
    const directory = mkdtempSync(join(tmpdir(), 'nicbox-dpdk-'));
    closing.push(() => rmSync(directory, { recursive: true, force: true }));
    const path = join(directory, 's');
    await startVhost(path, pairs);
    const { machine, backend } = await side(path, pairs);
    for (let boot = 0; boot < 2; boot++) {
      const guest = new Guest(machine.localBus(), { net: { ring, pairs, without } });
      const agreed = (bit: number): boolean => ((guest.net.features >> BigInt(bit)) & 1n) === 1n;
      expect([guest.net.packed, agreed(IN_ORDER), agreed(MRG_RXBUF)]).toEqual([ring === 'packed', has !== undefined, lacks === undefined]);
      await roundTrips(guest, 200);
      await machine.pause();
      const { available, used } = backend.vringPosition(1);
      expect(backend.vringState(1)).toBe('stopped');
      expect(available).toBe(used);
      if (ring === 'split' && pairs === 1) expect(available).toBeGreaterThanOrEqual(201);
      machine.resume();
      await roundTrips(guest, 200);
    }
    expect(backend.connections).toBe(1);
  });

  it('is replaced by another when it is killed', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'nicbox-dpdk-'));
    closing.push(() => rmSync(directory, { recursive: true, force: true }));
    const path = join(directory, 's');
    const first = await startVhost(path, 1);
    const { machine, backend } = await side(path, 1);
    const guest = new Guest(machine.localBus(), { net: { ring: 'split' } });
    await roundTrips(guest, 200);
    first.kill('SIGKILL');
    await eventually('the end to be noticed', () => !backend.connected, WAIT);
    // What was killed leaves its socket, which the next one would not replace.
    rmSync(path, { force: true });
    await startVhost(path, 1);
    await eventually('the next one', () => backend.ready, WAIT);
    await roundTrips(guest, 200);
    expect(backend.connections).toBe(2);
  });
});
