// `nicbox serve vfio-user` as a person meets it: a process with a socket for each device, its state as JSON or as a table, errors in one line; and what a thousand clients
// leave in it.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { eventually } from '../backends/eventually.ts';
import { CONFIG, IRQ, VfioClient } from '../interop/vfio-client.ts';
import { type Running, ServeKit } from './serve-kit.ts';

const kit = new ServeKit();
const serve = (...args: string[]): Running => kit.serve('vfio-user', ...args);

/** The last state of each socket. */
const states = ({ stdout }: Running, count: number): Record<string, unknown>[] =>
  stdout
    .trimEnd()
    .split('\n')
    .slice(-count)
    .map((line) => JSON.parse(line));

async function attached(path: string): Promise<VfioClient> {
  const client = new VfioClient(path);
  await client.hello();
  client.makeMemory(0);
  await client.mapDma(0, 2 ** 20, { fd: client.memoryFd });
  await client.mapDma(2 ** 20, 2 ** 20, { fd: client.memoryFd, offset: 2 ** 20 });
  await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 0, 3, [client.eventfd(), client.eventfd(), client.eventfd()]);
  await client.store(CONFIG, 4, 2, 6);
  return client;
}

describe('nicbox serve vfio-user', () => {
  it('serves a device on each socket, tells their state as JSON, and cleans up when told to stop', async () => {
    const paths = [kit.path('a'), kit.path('b')];
    const running = serve('--socket', ...paths, '--device', 'virtio-net,queues=2', '--json');
    await eventually('both sockets', () => paths.every((path) => existsSync(path)), 20_000);
    const client = await attached(paths[0] as string);
    expect(await client.load(CONFIG, 0, 4)).toBe(0x1041_1af4);
    await eventually('a line of the client', () => running.stdout.includes('"connected":true'), 20_000);
    running.child.kill('SIGTERM');
    expect(await running.ended).toBe(130);
    client.close();
    expect(paths.some((path) => existsSync(path))).toBe(false);
    expect(running.stderr).toContain('a client connected');
    expect(running.stderr).not.toMatch(/error/);
    // A device that was told to stop has let its client go.
    expect(states(running, 2)).toMatchObject([
      { path: paths[0], connections: 1, refused: 0, state: 'RUNNING' },
      { path: paths[1], connected: false, connections: 0, refused: 0, regions: { mapped: 0, byMessage: 0 }, dmaMessages: 0 },
    ]);
  });

  it('prints a table at the end otherwise', async () => {
    const path = kit.path('a');
    const running = serve('--socket', path);
    await eventually('the socket', () => existsSync(path), 20_000);
    running.child.kill('SIGINT');
    expect(await running.ended).toBe(130);
    expect(running.stdout).toMatch(/│ socket .*│ DMA messages │ state +│/);
    expect(running.stdout).toMatch(/│ none +│ 0 +│ 0 +│/);
  });

  it.each([
    ['without a socket', [], /required option '--socket/],
    ['with a socket that cannot be', ['--socket', '/nowhere/at/all'], /nicbox: cannot listen on \/nowhere\/at\/all: ENOENT/],
    ['with a device that is none', ['--socket', 'a', '--device', 'ne2000'], /no device 'ne2000'; there are: virtio-net/],
    ['with an option that a device has not', ['--socket', 'a', '--device', 'virtio-net,speed=1'], /has no option 'speed=1'; there are: mac, queues/],
    ['with a device that cannot be so', ['--socket', 'a', '--device', 'virtio-net,queues=0'], /queues is a whole number from 1 to 64/],
    ['with a link that would never be up', ['--socket', 'a', '--device', 'igb,negotiation=soon'], /negotiation is a time from 0 to 60000/],
    ['with a size that no frame has', ['--socket', 'a', '--device', 'virtio-net,mtu=0'], /nicbox: .*mtu/i],
    ['with more devices than sockets', ['--socket', 'a', '--device', 'virtio-net', '--device', 'virtio-net'], /2 devices for 1 sockets/],
    ['with virtual functions', ['--socket', 'a', '--device', 'virtio-net,vfs=2'], /virtual functions cannot be shown/],
    ['with one device on links', ['--link', '--socket', 'a'], /cannot be joined in pairs/],
    ['with a switch of links', ['--link', '--switch', '--socket', 'a', 'b'], /exclude each other/],
    ['with the same socket twice', ['--socket', 'a', 'a'], /may be given once/],
  ])('says what is wrong in one line %s, and leaves no socket', async (_, args, reason) => {
    const running = serve(...args);
    expect(await running.ended).toBe(2);
    expect(running.stderr).toMatch(reason);
    // Commander's come with where help is.
    const lines = running.stderr
      .trimEnd()
      .split('\n')
      .filter((line) => line !== '(nicbox serve vfio-user --help shows what there is)');
    expect(lines).toHaveLength(1);
    expect(running.stderr).not.toContain('internal error');
    expect(readdirSync(kit.scratch)).toEqual([]);
  });

  it('has help with commands to copy', async () => {
    const running = serve('--help');
    expect(await running.ended).toBe(0);
    expect(running.stdout).toContain('"driver":"vfio-user-pci"');
    expect(running.stdout).toContain('virtio-net: mac=');
  });

  it('keeps no descriptor, mapping, thread or process of a thousand clients that vanish', { timeout: 180_000 }, async () => {
    const path = kit.path('a');
    const running = serve('--socket', path, '--device', 'virtio-net,vectors=3', '--json');
    await eventually('the socket', () => existsSync(path), 20_000);
    const proc = `/proc/${running.child.pid}`;
    const mapped = (): number =>
      readFileSync(`${proc}/maps`, 'utf8')
        .split('\n')
        .filter((line) => line.includes('vfio-client')).length;
    // Also the thread's own: a process forked by any of them.
    const processes = (): number =>
      readdirSync(`${proc}/task`).reduce((sum, task) => sum + readFileSync(`${proc}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).length, 0);
    const held = (): readonly number[] => [readdirSync(`${proc}/fd`).length, mapped(), readdirSync(`${proc}/task`).length, processes()];
    const cycle = async (): Promise<void> => (await attached(path)).close();
    /** The next one is answered when the one before is gone altogether. */
    const settled = async (): Promise<readonly number[]> => {
      const client = new VfioClient(path);
      await client.hello();
      const now = held();
      client.close();
      return now;
    };
    for (let i = 0; i < 10; i++) await cycle();
    const before = await settled();
    expect(before[1]).toBe(0);
    for (let i = 0; i < 1000; i++) await cycle();
    const after = await settled();
    // No more than at first: then, one of the tenth client's may still have been on its way out.
    expect(after.map((n, i) => Math.max(n, before[i] as number))).toEqual(before);
    running.child.kill('SIGTERM');
    expect(await running.ended).toBe(130);
    expect(states(running, 1)).toMatchObject([{ connections: 1012, refused: 0 }]);
  });
});
