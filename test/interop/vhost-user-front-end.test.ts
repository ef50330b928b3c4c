// Our virtio-net device over a vhost-user back end: our own server, over real sockets. What guests send through it arrives, over stops, lost and late back ends.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '#core/guest-memory';
import { Iommu } from '#core/iommu';
import { Log } from '#core/log';
import type { VirtioNet, VirtioNetOptions } from '#devices/virtio-net/device';
import { Guest, type GuestOptions } from '#guest-sim/guest';
import {
  MemoryFile,
  serveVhostUser,
  VHOST_USER_NET_FEATURES,
  VhostUserBackend,
  type VhostUserFrontEndOptions,
  type VhostUserOptions,
  type VhostUserServer,
} from '#interop/index';
import { Machine } from '#nicbox/machine';
import { eventually } from '../backends/eventually.ts';
import { realCapture, runBoth } from '../integration/two-guests.ts';

const RAM = 96 * 2 ** 20;
let directory: string;
const closing: (() => unknown)[] = [];
const backends: VhostUserBackend[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-front-'));
});

afterEach(async () => {
  backends.length = 0;
  for (const close of closing.splice(0).reverse()) await close();
  rmSync(directory, { recursive: true, force: true });
});

const socket = (name: string): string => join(directory, name);

async function serve(options: Partial<VhostUserOptions> = {}): Promise<VhostUserServer> {
  const server = await serveVhostUser({ sockets: [socket('a'), socket('b')], topology: 'link', ...options });
  closing.push(() => server.close());
  return server;
}

interface Side {
  readonly machine: Machine;
  readonly net: VirtioNet;
  readonly backend: VhostUserBackend;
  readonly log: Log;
  boot(options?: GuestOptions): Guest;
}

async function side(name: 'a' | 'b', options: Partial<VhostUserFrontEndOptions> = {}, net: Partial<VirtioNetOptions> = {}): Promise<Side> {
  const log = new Log(name);
  const ram = new MemoryFile(RAM);
  closing.push(() => ram.close());
  const backend = await VhostUserBackend.connect({ path: socket(name), memory: ram.memory, log, ...options });
  closing.push(() => backend.close());
  backends.push(backend);
  const machine = new Machine({ name, memory: ram.memory, log });
  closing.push(() => machine.close());
  // Frames of the generator take their flow from the last byte: the two guests send the same flows, so what one sends teaches its device where to put what the other sends.
  const { net: device } = machine.addVirtioNet({
    ...{ mac: `52:54:00:00:0${name}:01`, backend, queuePairs: options.queuePairs ?? 1, features: VHOST_USER_NET_FEATURES },
    ...net,
  });
  return { machine, net: device, backend, log, boot: (guest) => new Guest(machine.localBus(), guest) };
}

async function bothWays(a: Guest, b: Guest, count: number): Promise<void> {
  // Frames to a device whose back end has not brought it up yet are lost, as on any cable.
  await eventually('the back ends to be up', () => backends.every((backend) => backend.ready));
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const reports = await runBoth(from, to, { kind: 'generate', count, sizes: [60, 61, 127, 590, 1514], checksumOffload: true }, { kind: 'sink', count });
    expect([...reports.a.errors, ...reports.b.errors]).toEqual([]);
    expect(reports.b.details).toMatchObject({ lost: 0, unmarked: 0 });
  }
}

describe.each(['split', 'packed'] as const)('%s rings', (ring) => {
  it('carry frames both ways, large sends and all', async () => {
    const server = await serve();
    const [a, b] = [await side('a'), await side('b')];
    const guests = [a.boot({ net: { ring } }), b.boot({ net: { ring } })] as const;
    expect(guests[0].net.packed).toBe(ring === 'packed');
    await bothWays(...guests, 3000);
    const frames = realCapture();
    const { a: sent, b: got } = await runBoth(...guests, { kind: 'replay', frames }, { kind: 'compare', frames });
    expect([...sent.errors, ...got.errors]).toEqual([]);
    expect(server.statistics.map((s) => s.counters.transmitDrops)).toEqual([{}, {}]);
  });

  it('stop where they are, and go on from there', async () => {
    await serve();
    const [a, b] = [await side('a'), await side('b')];
    const guests = [a.boot({ net: { ring } }), b.boot({ net: { ring } })] as const;
    let sent = 0;
    for (let round = 0; round < 4; round++) {
      await bothWays(...guests, 200 + round);
      sent += 200 + round;
      await a.machine.pause();
      const { available, used } = a.backend.vringPosition(1);
      expect(a.backend.vringState(1)).toBe('stopped');
      // Every frame was a chain of its own, and all of them have been returned.
      if (ring === 'split') expect([available, used]).toEqual([sent, sent]);
      else expect(available).toBe(used);
      a.machine.resume();
    }
    expect(a.net.restarts).toBe(0);
    expect(a.backend.connections).toBe(1);
  });

  it('are reset by drivers that poll, with no event loop meanwhile, and survive a back end that is killed', { timeout: 120_000 }, async () => {
    // A back end in a process of its own, as this thread will not serve anybody inside a reset.
    const start = async (): Promise<ChildProcess> => {
      const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
      const child = spawn(process.execPath, [main, 'serve', 'vhost-user', '--link', '--socket', socket('a'), socket('b')], { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.once('exit', resolve));
      closing.push(async () => {
        child.kill('SIGKILL');
        await ended;
      });
      return child;
    };
    const child = await start();
    // A whole process has to start, on a machine that may be busy.
    const patience = 40_000;
    const [a, b] = await Promise.all([side('a', { patience }), side('b', { patience })]);
    for (let boot = 0; boot < 3; boot++) await bothWays(a.boot({ net: { ring } }), b.boot({ net: { ring } }), 300);
    const guests = [a.boot({ net: { ring } }), b.boot({ net: { ring } })] as const;
    child.kill('SIGKILL');
    await eventually('both to miss it', () => !a.backend.connected && !b.backend.connected);
    await start();
    await eventually('the next one', () => a.backend.connected && b.backend.connected, patience);
    await bothWays(...(ring === 'split' ? guests : ([a.boot({ net: { ring } }), b.boot({ net: { ring } })] as const)), 300);
  });
});

it('use as many queue pairs as both sides have', async () => {
  const server = await serve({ queuePairs: 4 });
  const [a, b] = [await side('a', { queuePairs: 2 }), await side('b', { queuePairs: 2 })];
  const guests = [a.boot({ net: { pairs: 2 } }), b.boot({ net: { pairs: 2 } })] as const;
  await bothWays(...guests, 1000);
  expect(server.statistics[0]?.rings.map((ring) => ring.chains > 0)).toEqual([true, true, true, true, false, false, false, false]);
});

it.each(['split', 'packed'] as const)('goes on with the next back end after one died, and finds the ring where the dead one left it (%s)', async (ring) => {
  const server = await serve();
  const [a, b] = [await side('a'), await side('b')];
  const guests = [a.boot({ net: { ring } }), b.boot({ net: { ring } })] as const;
  await bothWays(...guests, 500);
  await server.close();
  await eventually('both to miss it', () => !a.backend.connected && !b.backend.connected);
  // Sent into the void: they wait in the ring.
  const sending = guests[0].start({ kind: 'generate', count: 100 });
  for (let i = 0; i < 10; i++) guests[0].step();
  expect(sending.done).toBe(false);
  await serve();
  const sink = guests[1].start({ kind: 'sink', count: 100 });
  await eventually('the frames that waited', () => {
    for (const guest of guests) guest.step();
    return sending.done && sink.done;
  });
  expect(sink.result().errors).toEqual([]);
  expect([a.net.restarts, b.net.restarts]).toEqual([1, 1]);
  await bothWays(...guests, 500);
  expect(a.backend.connections).toBe(2);
});

it('passes nothing while its cable is pulled', async () => {
  const server = await serve();
  const [a, b] = [await side('a'), await side('b')];
  const guests = [a.boot(), b.boot()] as const;
  await bothWays(...guests, 100);
  a.net.setLink(false);
  await eventually('the rings to be disabled', () => server.statistics[0]?.session?.running.includes(true) === false);
  a.net.setLink(true);
  await bothWays(...guests, 100);
});

it('tells the MTU its driver negotiated: longer frames do not come', async () => {
  const server = await serve({ mtu: 9000 });
  const [a, b] = [await side('a', {}, { mtu: 1000 }), await side('b')];
  const guests = [a.boot(), b.boot()] as const;
  await eventually('the back ends to be up', () => backends.every((backend) => backend.ready));
  // 14 bytes of header, a tag and the MTU; one byte more.
  const sink = guests[0].start({ kind: 'sink', count: 2 });
  const sent = guests[1].start({ kind: 'generate', count: 3, sizes: [1018, 1019, 60] });
  await eventually('two of three', () => {
    for (const guest of guests) guest.step();
    return sent.done && sink.done;
  });
  expect(server.statistics[0]?.counters).toMatchObject({ receiveFrames: 2, receiveDrops: { 'too-long': 1 } });
});

it('announces its station by SEND_RARP where the driver cannot', async () => {
  const server = await serve();
  const [a, b] = [await side('a', {}, { features: { ...VHOST_USER_NET_FEATURES, GUEST_ANNOUNCE: false } }), await side('b')];
  expect(a.net.announce()).toBe(false);
  const guests = [a.boot(), b.boot()] as const;
  await eventually('the back ends to be up', () => backends.every((backend) => backend.ready));
  expect([a.net.announce(), a.net.announcing]).toEqual([true, false]);
  await eventually('the announcement', () => {
    for (const guest of guests) guest.step();
    return server.statistics[1]?.counters.receiveFrames === 1;
  });
});

it('waits for a back end that calls', async () => {
  const listening = Promise.all([side('a', { listen: true }), side('b', { listen: true })]);
  await eventually('the sockets', () => readdirSync(directory).length === 2);
  await serve({ client: true });
  const [a, b] = await listening;
  await bothWays(a.boot(), b.boot(), 300);
});

it('leaves no descriptors behind', async () => {
  const count = (): number => readdirSync('/proc/self/fd').length;
  const server = await serve();
  // Its thread opens descriptors of its own while it starts.
  await eventually('the data plane to run', () => server.worker.sleeps > 0);
  const ram = new MemoryFile(RAM);
  closing.push(() => ram.close());
  const once = async (): Promise<void> => {
    const backend = await VhostUserBackend.connect({ path: socket('a'), memory: ram.memory });
    backend.close();
    await new Promise((resolve) => setTimeout(resolve, 20));
  };
  await once();
  const before = count();
  for (let i = 0; i < 20; i++) await once();
  await eventually('the last connection to be over', () => count() <= before);
});

describe('refuses, saying what to do,', () => {
  it('RAM that no other process can map', async () => {
    await expect(VhostUserBackend.connect({ path: socket('a'), memory: GuestMemory.pc(RAM) })).rejects.toMatchObject({
      code: 'NICBOX_RAM_NOT_SHAREABLE',
      message: expect.stringContaining('MemoryFile'),
    });
  });

  it('a path where nobody is', async () => {
    const ram = new MemoryFile(RAM);
    closing.push(() => ram.close());
    await expect(VhostUserBackend.connect({ path: socket('a'), memory: ram.memory, patience: 100 })).rejects.toMatchObject({
      code: 'NICBOX_VHOST_USER_PEER',
      message: expect.stringContaining('ENOENT'),
    });
  });

  it('a back end with too few queues', async () => {
    await serve();
    await expect(side('a', { queuePairs: 2 })).rejects.toMatchObject({ code: 'NICBOX_VHOST_USER_PEER', message: expect.stringContaining('1 queue pairs') });
  });

  it('a place behind an IOMMU', async () => {
    await serve();
    const ram = new MemoryFile(RAM);
    closing.push(() => ram.close());
    const backend = await VhostUserBackend.connect({ path: socket('a'), memory: ram.memory });
    closing.push(() => backend.close());
    const log = new Log();
    const said: string[] = [];
    log.listen(({ message }) => said.push(message));
    const machine = new Machine({ memory: ram.memory, iommu: new Iommu(), log });
    closing.push(() => machine.close());
    machine.addVirtioNet({ mac: '52:54:00:00:00:0a', backend });
    const guest = new Guest(machine.localBus());
    guest.step();
    expect(said.some((message) => message.includes('behind an IOMMU'))).toBe(true);
  });
});
