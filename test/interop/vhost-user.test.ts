// Front ends on vhost-user sockets of a running server: frames both ways over split and packed rings, through a link and a switch, over reconnects.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { serveVhostUser, type VhostUserOptions, type VhostUserServer } from '#interop/index';
import { openCapture } from '#net/capture';
import { eventually } from '../backends/eventually.ts';
import { FrontEnd, type FrontEndOptions, type FrontSocket, frame, REQUEST } from './front-end.ts';

let directory: string;
let server: VhostUserServer | undefined;
const fronts: FrontSocket[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-vhost-user-'));
});

afterEach(async () => {
  for (const front of fronts.splice(0)) front.close();
  await server?.close();
  server = undefined;
  rmSync(directory, { recursive: true, force: true });
});

const socket = (name: string): string => join(directory, name);

async function serve(options: Partial<VhostUserOptions> & { sockets: readonly string[] }): Promise<VhostUserServer> {
  server = await serveVhostUser(options);
  return server;
}

function front(path: string, options?: FrontEndOptions): FrontEnd {
  const made = new FrontEnd(path, options);
  fronts.push(made);
  return made;
}

describe('traffic', () => {
  it.each([
    ['split', { packed: false }],
    ['split without event index and merging', { packed: false, eventIdx: false, mergeable: false }],
    ['packed', { packed: true }],
    ['packed without event index and merging', { packed: true, eventIdx: false, mergeable: false }],
  ])('passes both ways between two front ends on a link: %s', async (_, options) => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link' });
    const a = await front(socket('a'), options).start();
    const b = await front(socket('b'), { ...options, base: 0x4000_0000, userBase: 0x5555_0000_0000 }).start();
    // More than the rings hold, of odd lengths, up to what a buffer takes.
    const there = Array.from({ length: 1500 }, (_, i) => frame(1, 2, i, 60 + ((i * 37) % 1400)));
    const back = Array.from({ length: 700 }, (_, i) => frame(2, 1, i, 60 + ((i * 53) % 1400)));
    const [atB, atA] = await Promise.all([b.receiveFrames(there.length), a.receiveFrames(back.length), a.sendFrames(there), b.sendFrames(back)]);
    expect(atB).toEqual(there);
    expect(atA).toEqual(back);
  });

  it('wakes a data plane that sleeps, and calls a driver that asked for it', async () => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link', poll: { maximum: 0 } });
    const a = await front(socket('a')).start();
    const b = await front(socket('b')).start();
    const calls = new Uint8Array(new ArrayBuffer(8));
    for (let i = 0; i < 20; i++) {
      b.receive[0]?.ring.enableCalls();
      await a.sendFrames([frame(1, 2, i)]);
      const { callFd } = b.queues[0] as { callFd: number };
      const before = i;
      await eventually(`call ${before}`, () => b.native.events.readEvent(callFd, calls) === 8);
      expect(await b.receiveFrames(1)).toEqual([frame(1, 2, i)]);
    }
    const statistics = server?.statistics[0];
    expect(statistics?.rings[1]?.kicks).toBeGreaterThan(0);
    expect(server?.worker.sleeps).toBeGreaterThan(0);
  });

  it('goes through a switch to the station it is for, and to everybody while that is unknown', async () => {
    await serve({ sockets: [socket('a'), socket('b'), socket('c')] });
    const [a, b, c] = [await front(socket('a')).start(), await front(socket('b'), { packed: true }).start(), await front(socket('c')).start()];
    await a.sendFrames([frame(1, 2, 0)]);
    expect(await Promise.all([b.receiveFrames(1), c.receiveFrames(1)])).toEqual([[frame(1, 2, 0)], [frame(1, 2, 0)]]);
    await b.sendFrames([frame(2, 1, 1), frame(2, 3, 2)]);
    expect(await a.receiveFrames(2)).toEqual([frame(2, 1, 1), frame(2, 3, 2)]);
    // a and b are known by now: c sees only what was flooded.
    await a.sendFrames([frame(1, 2, 3)]);
    expect(await b.receiveFrames(1)).toEqual([frame(1, 2, 3)]);
    expect(await c.receiveFrames(1)).toEqual([frame(2, 3, 2)]);
    expect(server?.statistics[2]?.counters.receiveFrames).toBe(2);
  });

  it('uses all queue pairs that are enabled', async () => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link', queuePairs: 2 });
    const a = await front(socket('a'), { pairs: 2 }).start();
    const b = await front(socket('b')).start();
    expect((await a.ask(REQUEST.GET_QUEUE_NUM)).getUint32(0, true)).toBe(2);
    await Promise.all([a.sendFrames([frame(1, 2, 0)], 0), a.sendFrames([frame(1, 2, 1)], 1)]);
    const received = await b.receiveFrames(2);
    expect(received.map((f) => f[17]).sort()).toEqual([0, 1]);
  });
});

describe('a capture', () => {
  it('has every frame that was sent, once, in order, by its link', async () => {
    const chunks: Uint8Array[] = [];
    await serve({ sockets: ['a', 'b', 'c', 'd'].map(socket), topology: 'link', capture: (chunk) => chunks.push(chunk) });
    const [a, b, c, d] = [
      await front(socket('a')).start(),
      await front(socket('b')).start(),
      await front(socket('c')).start(),
      await front(socket('d')).start(),
    ];
    const first = Array.from({ length: 600 }, (_, i) => frame(1, 2, i, 60 + (i % 900)));
    const second = Array.from({ length: 300 }, (_, i) => frame(3, 4, i, 1400));
    await Promise.all([b.receiveFrames(first.length), a.sendFrames(first), d.receiveFrames(second.length), c.sendFrames(second)]);
    await server?.close();
    expect(server?.captureMissed).toBe(0);
    const packets = [...openCapture(Buffer.concat(chunks)).packets];
    const on = (index: number): Uint8Array[] => packets.filter((packet) => packet.interface === index).map((packet) => new Uint8Array(packet.bytes));
    expect(on(0)).toEqual(first);
    expect(on(1)).toEqual(second);
  });
});

describe('rings', () => {
  it.each([false, true])('stop where they are and go on from there (packed %s)', async (packed) => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link' });
    const a = await front(socket('a'), { packed }).start();
    const b = await front(socket('b'), { packed }).start();
    for (let round = 0; round < 5; round++) {
      const frames = Array.from({ length: 300 }, (_, i) => frame(1, 2, 1000 * round + i));
      const [received] = await Promise.all([b.receiveFrames(frames.length), a.sendFrames(frames)]);
      expect(received).toEqual(frames);
      const base = await a.stopRing(1);
      const sent = 300 * (round + 1);
      if (!packed) expect(base).toBe(sent);
      else expect(base & 0x7fff).toBe(sent % 256);
      await a.startRing(1, base);
    }
  });

  it.each([false, true])('outlive the thread that serves them (packed %s)', async (packed) => {
    const running = await serve({ sockets: [socket('a'), socket('b')], topology: 'link' });
    const a = await front(socket('a'), { packed }).start();
    const b = await front(socket('b'), { packed }).start();
    for (let round = 0; round < 4; round++) {
      const frames = Array.from({ length: 800 }, (_, i) => frame(1, 2, 1000 * round + i));
      const [received] = await Promise.all([b.receiveFrames(frames.length), a.sendFrames(frames), running.kill()]);
      expect(received).toEqual(frames);
    }
  });

  it('hold still while disabled', async () => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link' });
    const a = await front(socket('a')).start();
    const b = await front(socket('b')).start();
    await a.enable(1, false);
    const queue = a.transmit[0];
    const at = queue?.reserve() ?? -1;
    a.arena.u8.set(frame(1, 2, 9), at);
    queue?.send(64);
    queue?.flush();
    // Another message and its answer: the kick has long been seen.
    await a.ask(REQUEST.GET_FEATURES);
    expect(queue?.reclaim()).toBe(0);
    await a.enable(1, true);
    expect(await b.receiveFrames(1)).toEqual([frame(1, 2, 9)]);
  });

  it('go on over a new memory table and new features', async () => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link' });
    const a = await front(socket('a')).start();
    const b = await front(socket('b')).start();
    for (let i = 0; i < 5; i++) {
      await a.setMemory();
      await a.sendFrames([frame(1, 2, i)]);
      expect(await b.receiveFrames(1)).toEqual([frame(1, 2, i)]);
    }
  });
});

describe('connections', () => {
  it('a front end that goes leaves room for the next one', async () => {
    await serve({ sockets: [socket('a'), socket('b')], topology: 'link' });
    const b = await front(socket('b')).start();
    for (let i = 0; i < 3; i++) {
      const a = await front(socket('a'), { packed: i % 2 === 1 }).start();
      await Promise.all([a.sendFrames([frame(1, 2, i)]), b.sendFrames([frame(2, 1, i)])]);
      expect(await b.receiveFrames(1)).toEqual([frame(1, 2, i)]);
      expect(await a.receiveFrames(1)).toEqual([frame(2, 1, i)]);
      fronts.splice(fronts.indexOf(a), 1);
      a.close();
      await eventually('the connection to be over', () => server?.statistics[0]?.session === undefined);
    }
    expect(server?.statistics[0]).toMatchObject({ connections: 3, refused: 0 });
  });

  it('takes over a socket whose server was killed, refuses one that is in use, and removes its own', async () => {
    const first = await serve({ sockets: [socket('a')] });
    await expect(serveVhostUser({ sockets: [socket('a')] })).rejects.toMatchObject({ code: 'NICBOX_SOCKET' });
    await first.close();
    expect(existsSync(socket('a'))).toBe(false);
  });

  it('as a client keeps calling until somebody listens, and again after a hang-up', async () => {
    const { openNative } = await import('#interop/native');
    const native = openNative();
    await serve({ sockets: [socket('a')], client: true });
    const listener = native.sockets.listen(socket('a'));
    for (let i = 0; i < 2; i++) {
      let fd = -1;
      await eventually('a call', () => {
        fd = native.sockets.accept(listener);
        return fd >= 0;
      });
      native.close(fd);
    }
    native.close(listener);
    expect(server?.statistics[0]?.connections).toBeGreaterThanOrEqual(2);
  });
});
