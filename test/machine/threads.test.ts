import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { Guest, type GuestReport } from '#guest-sim/guest';
import { GuestThread } from '#guest-sim/guest-thread';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { type Link, makeLink, makeSide, type Plane, RAM_SIZE, type Side } from './pair.ts';

const closing: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

interface Pair {
  readonly link: Link;
  readonly sides: readonly [Side, Side];
  readonly guests: readonly [GuestThread, GuestThread];
}

/** Two machines on a worker's link, their guests on threads of their own. */
async function pair(ring: 'split' | 'packed', plane: Plane = 'vhost-net'): Promise<Pair> {
  const link = makeLink(plane);
  closing.push(() => link.close());
  const sides = (['a', 'b'] as const).map((name) => makeSide(link, name, new SharedArrayBuffer(RAM_SIZE))) as [Side, Side];
  for (const { machine } of sides) closing.push(() => machine.close());
  const guests = (await Promise.all(sides.map(({ machine }) => GuestThread.start(machine.threadBus().share, { net: { ring } })))) as [GuestThread, GuestThread];
  for (const guest of guests) closing.push(() => guest.close());
  return { link, sides, guests };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited 20 s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Sends `count` frames from the first guest to the second while `meanwhile` goes on. */
async function transfer({ guests: [a, b] }: Pair, count: number, meanwhile: (received: () => number) => Promise<void>): Promise<[GuestReport, GuestReport]> {
  const got = b.run({ kind: 'sink', count });
  const sent = a.run({ kind: 'generate', count, sizes: [60, 200, 1514] });
  const patience = setTimeout(() => b.stop(), 25_000);
  await meanwhile(() => b.framesReceived);
  const reports = [await sent, await got] as [GuestReport, GuestReport];
  clearTimeout(patience);
  return reports;
}

describe.each(['split', 'packed'] as const)('%s rings', (ring) => {
  it.each([
    ['vhost-net', 300_000],
    ['vdpa', 300_000],
    ['vdpa-shadow', 100_000],
  ] as const)('a worker killed mid-traffic, three times, costs no frame and repeats none: %s', async (plane, count) => {
    const world = await pair(ring, plane);
    let kills = 0;
    const [sent, got] = await transfer(world, count, async (received) => {
      for (const at of [0.1, 0.3, 0.5]) {
        await until(`${at} of the frames`, () => received() >= at * count);
        // The first three die in the middle of it, or the test is about nothing.
        expect(received()).toBeLessThan(count);
        await world.link.pool?.kill();
        kills++;
      }
    });
    expect([...sent.errors, ...got.errors]).toEqual([]);
    expect([sent.framesSent, got.framesReceived, got.details.lost]).toEqual([count, count, 0]);
    expect(kills).toBe(3);
    expect(world.sides.map(({ net }) => net.restarts).some((n) => n > 0)).toBe(true);
  });

  it('pausing, and moving to this thread and back, mid-traffic, costs no frame', async () => {
    const world = await pair(ring);
    const inline = makeLink('inline');
    const [a, b] = world.sides;
    const worker = [a.net.backend, b.net.backend] as const;
    const ours = [inline.port('a'), inline.port('b')] as const;
    const count = 200_000;
    const [sent, got] = await transfer(world, count, async (received) => {
      await until('a fifth of the frames', () => received() >= 0.2 * count);
      await b.machine.pause();
      await a.machine.pause();
      const held = received();
      b.machine.resume();
      a.machine.resume();
      await until('traffic after the pause', () => received() > held + 1000);

      const moves = [ours, worker];
      for (const to of moves) {
        // Both stand still while they change segments: a frame sent between two segments has no receiver.
        await a.machine.pause();
        await b.machine.pause();
        b.net.handOver(to[1]);
        a.net.handOver(to[0]);
        await until('the hand-over', () => !a.net.handingOver && !b.net.handingOver);
        b.machine.resume();
        a.machine.resume();
        const before = received();
        await until('traffic after the move', () => received() >= Math.min(count, before + 1000));
      }
    });
    expect([...sent.errors, ...got.errors]).toEqual([]);
    expect([sent.framesSent, got.framesReceived, got.details.lost]).toEqual([count, count, 0]);
  });

  it('kicks go without exits', async () => {
    const world = await pair(ring);
    const [sent] = await transfer(world, 50_000, async () => {});
    expect(sent.errors).toEqual([]);
    expect(sent.fastKicks).toBeGreaterThan(0);
    expect(sent.exits).toBeLessThan(50);
  });
});

describe('closing', () => {
  it('a machine leaves nothing behind that keeps a process alive, and takes no new guests or devices', async () => {
    const before = process.getActiveResourcesInfo().sort();
    const link = makeLink('vhost-net');
    const side = makeSide(link, 'a', new SharedArrayBuffer(RAM_SIZE));
    const other = makeSide(link, 'b', new SharedArrayBuffer(RAM_SIZE));
    const thread = await GuestThread.start(side.machine.threadBus().share);
    new Guest(other.machine.localBus()).step();
    other.machine.clock.timer(() => {}).arm(1e15);
    await thread.close();
    await Promise.all([side.machine.close(), other.machine.close(), side.machine.close()]);
    await link.close();
    expect(() => side.machine.threadBus()).toThrow(expect.objectContaining({ code: 'NICBOX_CLOSED' }));
    const spare = new InlineSegment(new Segment(new DirectLink())).port('c');
    expect(() => side.machine.addVirtioNet({ mac: '52:54:00:00:00:0c', backend: spare })).toThrow(expect.objectContaining({ code: 'NICBOX_CLOSED' }));
    await until('every resource to be given back', () => {
      const left = process.getActiveResourcesInfo();
      for (const resource of before) if (left.includes(resource)) left.splice(left.indexOf(resource), 1);
      return left.filter((resource) => resource !== 'Timeout' && resource !== 'Immediate').length === 0;
    });
  });

  it('ends a guest’s accesses with an error, not a hang', async () => {
    const link = makeLink('inline');
    const { machine } = makeSide(link, 'a', new SharedArrayBuffer(RAM_SIZE));
    const thread = await GuestThread.start(machine.threadBus().share);
    await machine.close();
    // Its device is gone; asked to shut down, it finds no machine, and its thread is ended.
    await thread.close(500);
    await expect(thread.run({ kind: 'sink', count: 1 })).rejects.toMatchObject({ name: 'GuestThreadError' });
  });
});
