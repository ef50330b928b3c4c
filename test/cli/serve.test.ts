// `nicbox serve vhost-user` as a person meets it: a process that makes sockets, serves a front end, and takes its sockets away when told to stop.

import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openCapture } from '#net/capture';
import { eventually } from '../backends/eventually.ts';
import { FrontEnd, frame } from '../interop/front-end.ts';
import { type Running, ServeKit } from './serve-kit.ts';

const kit = new ServeKit();
const serve = (...args: string[]): Running => kit.serve('vhost-user', ...args);

describe('nicbox serve vhost-user', () => {
  it('joins two front ends, counts and captures what they send, and cleans up when interrupted', async () => {
    const paths = [kit.path('a'), kit.path('b')];
    const running = serve('--socket', ...paths, '--json', '--pcap', 'all.pcapng');
    await eventually('both sockets', () => paths.every((path) => existsSync(path)), 20_000);
    const [a, b] = [await new FrontEnd(paths[0] as string).start(), await new FrontEnd(paths[1] as string, { packed: true }).start()];
    const sent = Array.from({ length: 500 }, (_, i) => frame(1, 2, i));
    const [received] = await Promise.all([b.receiveFrames(sent.length), a.sendFrames(sent)]);
    expect(received).toEqual(sent);
    a.close();
    b.close();
    running.child.kill('SIGINT');
    expect(await running.ended).toBe(130);
    expect(paths.some((path) => existsSync(path))).toBe(false);
    const last = running.stdout.trimEnd().split('\n').slice(-2);
    expect(last.map((line) => JSON.parse(line).counters)).toMatchObject([{ transmitFrames: 500 }, { receiveFrames: 500 }]);
    const captured = [...openCapture(readFileSync(kit.path('all.pcapng'))).packets];
    expect(captured.map((packet) => new Uint8Array(packet.bytes))).toEqual(sent);
    expect(running.stderr).toContain('a front end connected');
  });

  it.each([
    ['without a socket', [], /required option '--socket/],
    ['with a socket that cannot be', ['--socket', '/nowhere/at/all'], /nicbox: cannot listen on \/nowhere\/at\/all: ENOENT/],
    ['with three sockets on links', ['--link', '--socket', 'a', 'b', 'c'], /3 sockets cannot be joined in pairs/],
    ['with a switch of links', ['--link', '--switch', '--socket', 'a'], /exclude each other/],
    ['with the same socket twice', ['--socket', 'a', 'a'], /may be given once/],
    ['with too many queues', ['--socket', 'a', '--queues', '65'], /whole number from 1 to 64/],
    ['with a capture that cannot be written', ['--socket', 'a', '--pcap', '/nowhere/x'], /cannot write \/nowhere\/x/],
  ])('says what is wrong %s', async (_, args, reason) => {
    const running = serve(...args);
    expect(await running.ended).toBe(2);
    expect(running.stderr).toMatch(reason);
    expect(running.stderr).not.toContain('internal error');
  });

  it('has help with commands to copy', async () => {
    const running = serve('--help');
    expect(await running.ended).toBe(0);
    expect(running.stdout).toContain('-netdev vhost-user');
    expect(running.stdout).toContain('dpdk-testpmd');
  });
});
