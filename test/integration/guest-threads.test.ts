// The same guests, each on a thread of its own: exits, doorbells and interrupts cross threads, the machines' thread serves them.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { GuestThread } from '#guest-sim/guest-thread';
import type { Machine } from '#nicbox/machine';
import { closeWires, makeMachine, makeWire, realCapture, type Setup, WIRES } from './two-guests.ts';

const open: { guests: GuestThread[]; machines: Machine[] } = { guests: [], machines: [] };

afterEach(async () => {
  await Promise.all(open.guests.splice(0).map((g) => g.close()));
  await Promise.all(open.machines.splice(0).map((m) => m.close()));
});

async function twoThreads(wire: (typeof WIRES)[number], setup: Setup): Promise<[GuestThread, GuestThread]> {
  const segment = makeWire(wire);
  const sides = [makeMachine(segment, 'a', setup), makeMachine(segment, 'b', setup)];
  open.machines.push(...sides.map((s) => s.machine));
  const guests = await Promise.all(sides.map((s) => GuestThread.start(s.machine.threadBus().share, setup.guest)));
  open.guests.push(...guests);
  return guests as [GuestThread, GuestThread];
}

afterAll(closeWires);

const MATRIX = WIRES.flatMap((wire) => (['split', 'packed'] as const).map((ring) => ({ wire, ring })));

describe.each(MATRIX)('guests on threads, $wire, $ring rings', ({ wire, ring }) => {
  it.each(['per-queue', 'intx'] as const)('replay the real capture byte for byte, interrupts %s', async (interrupts) => {
    const [a, b] = await twoThreads(wire, { guest: { net: { ring, interrupts, promiscuous: true } } });
    expect([a.summary.packed, b.summary.packed]).toEqual([ring === 'packed', ring === 'packed']);
    const frames = realCapture();
    const got = b.run({ kind: 'compare', frames, repeat: 5 });
    const sent = await a.run({ kind: 'replay', frames, repeat: 5 });
    const report = await got;
    expect([...sent.errors, ...report.errors]).toEqual([]);
    expect(report.details.expected).toBe(5 * frames.count);
    expect([a.framesSent, b.jobsDone]).toEqual([5 * frames.count, 1]);
  });

  it('sleep, wake, and lose nothing', async () => {
    const [a, b] = await twoThreads(wire, { guest: { net: { ring } } });
    for (const count of [1, 10, 5000]) {
      const got = b.run({ kind: 'sink', count });
      const sent = await a.run({ kind: 'generate', count, sizes: [60, 700] });
      const report = await got;
      expect([...sent.errors, ...report.errors]).toEqual([]);
      expect([sent.framesSent, report.framesReceived, report.details.lost]).toEqual([count, count, 0]);
    }
  });

  it('answer one another, and stop when told', async () => {
    const [a, b] = await twoThreads(wire, { guest: { net: { ring } } });
    const echo = b.run({ kind: 'echo' });
    await expect(b.run({ kind: 'echo' })).rejects.toThrow('running a job');
    const ping = await a.run({ kind: 'ping', count: 200 });
    b.stop();
    const echoed = await echo;
    expect([...ping.errors, ...echoed.errors]).toEqual([]);
    expect([ping.framesReceived, echoed.framesSent, echoed.done]).toEqual([200, 200, false]);
  });

  it('say so when they cannot start', async () => {
    const segment = makeWire('inline');
    const { machine } = makeMachine(segment, 'a', {});
    open.machines.push(machine);
    await expect(GuestThread.start(machine.threadBus().share, { device: 3 })).rejects.toThrow('told to drive number 3');
    await expect(GuestThread.start(machine.threadBus().share, { net: { ring, require: [57] } })).rejects.toMatchObject({ code: 'ERR_VIRTIO_FEATURES' });
  });
});
