// A virtio-net device whose control plane is emulated and whose data plane is a vDPA device: kicks without exits, control queue and configuration space in force in the NIC, and the
// data plane changed under full load with every frame numbered.

import { afterEach, describe, expect, it } from 'vitest';
import { VhostPool } from '#backends/vhost-pool';
import type { VirtioNet } from '#devices/virtio-net/device';
import { Guest } from '#guest-sim/guest';
import { GuestThread } from '#guest-sim/guest-thread';
import type { VhostBackend } from '#virtio/vhost';
import { nicsOn } from '../backends/vdpa-nics.ts';
import { makeMachine, runBoth, type Side } from './two-guests.ts';

const endings: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

function pools(threads: number): VhostPool {
  const pool = new VhostPool({ threads });
  endings.push(() => pool.close());
  return pool;
}

function machine(name: 'a' | 'b', backend: VhostBackend, guest: Parameters<typeof makeMachine>[2]): Side {
  const side = makeMachine({ port: () => backend }, name, guest);
  endings.push(() => side.machine.close());
  return side;
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`waited 30 s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

describe.each(['split', 'packed'] as const)('%s rings', (ring) => {
  it("the data plane changes under full load, vhost to vDPA to shadow virtqueues and back to vDPA: every frame once, in its flow's order, both ways", async () => {
    const pool = pools(2);
    const wire = pool.worker().segment();
    const nics = nicsOn(pool.worker(), endings);
    const setup = { guest: { net: { ring } } };
    const sides = [machine('a', wire.port('a'), setup), machine('b', wire.port('b'), setup)];
    const guests = await Promise.all(sides.map((side) => GuestThread.start(side.machine.threadBus().share, setup.guest)));
    endings.push(() => Promise.all(guests.map((guest) => guest.close())));
    const [netA, netB] = sides.map((side) => side.net) as [VirtioNet, VirtioNet];
    const settled = (): Promise<void> => until('the hand-over', () => !netA.handingOver && !netB.handingOver);
    for (const [from, to] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const [source, sink] = [guests[from] as GuestThread, guests[to] as GuestThread];
      const count = 60_000;
      let over = false;
      const got = sink.run({ kind: 'sink', count });
      const sent = source.run({ kind: 'generate', count, sizes: [60, 200, 1514, 700] });
      const done = Promise.all([sent, got]).then((reports) => {
        over = true;
        return reports;
      });
      const seen = async (frames: number): Promise<void> => {
        const goal = sink.framesReceived + frames;
        await until(`${frames} more frames`, () => over || sink.framesReceived >= goal);
      };
      let moves = 0;
      const move = async (net: VirtioNet, backend: VhostBackend): Promise<void> => {
        if (!over) moves++;
        net.handOver(backend);
        await settled();
        await seen(1000);
      };
      await seen(1000);
      if (from === 0) {
        netA.handOver(nics.a.direct);
        netB.handOver(nics.b.direct);
        await settled();
        nics.resume();
        await seen(1000);
      }
      do {
        await move(netA, nics.a.shadow);
        await move(netB, nics.b.shadow);
        await move(netA, nics.a.direct);
        await move(netB, nics.b.direct);
      } while (!over && moves < 12);
      const [sentReport, gotReport] = await done;
      expect([...sentReport.errors, ...gotReport.errors]).toEqual([]);
      expect([sentReport.framesSent, gotReport.framesReceived, gotReport.details.lost]).toEqual([count, count, 0]);
      expect(moves).toBeGreaterThanOrEqual(4);
    }
    for (const { device } of [nics.a, nics.b]) expect(device.port.counters.snapshot().receiveFrames).toBeGreaterThan(10_000);
  }, 120_000);

  it.each(['direct', 'shadow'] as const)(
    '%s: kicks are words the guest writes, and no exit is taken in the steady state',
    async (mode) => {
      const nics = nicsOn(pools(1).worker(), endings);
      const setup = { guest: { net: { ring } } };
      const sides = [machine('a', nics.a[mode], setup), machine('b', nics.b[mode], setup)];
      nics.resume();
      const guests = await Promise.all(sides.map((side) => GuestThread.start(side.machine.threadBus().share, setup.guest)));
      endings.push(() => Promise.all(guests.map((guest) => guest.close())));
      const [a, b] = guests as [GuestThread, GuestThread];
      const round = async (): Promise<{ exits: number; kicks: number }> => {
        const got = b.run({ kind: 'echo', count: 400 });
        const sent = await a.run({ kind: 'ping', count: 400 });
        const report = await got;
        expect([...sent.errors, ...report.errors]).toEqual([]);
        return { exits: sent.exits + report.exits, kicks: sent.fastKicks + report.fastKicks };
      };
      // The first notification of each queue is an exit, in which the guest's bus learns the word behind the register.
      await round();
      const steady = await round();
      expect(steady.exits).toBe(0);
      expect(steady.kicks).toBeGreaterThan(0);
    },
    60_000,
  );
});

it.each(['direct', 'shadow'] as const)('%s: what the emulated control queue and configuration space say is in force in the NIC', async (mode) => {
  const nics = nicsOn(pools(1).worker(), endings);
  const setup = { guest: { net: { promiscuous: false } } };
  const sides = [machine('a', nics.a[mode], setup), machine('b', nics.b[mode], setup)];
  nics.resume();
  const [a, b] = sides.map((side) => new Guest(side.machine.localBus(), side.setup.guest)) as [Guest, Guest];
  // The NIC's own configuration space is another; its link is passed on as the embedder sees fit.
  nics.b[mode].onDeviceEvent = (event) => {
    if (event.kind === 'config') (sides[1] as Side).net.setLink(nics.b.device.readConfig(6, 1)[0] === 1);
  };
  const drops = (): Readonly<Record<string, number>> => nics.b.device.port.counters.snapshot().receiveDrops as Readonly<Record<string, number>>;
  const count = 200;
  const destination = [0x52, 0x54, 0, 0, 0, 0x0b];
  const reports = await runBoth(a, b, { kind: 'generate', count, sizes: [100], destination }, { kind: 'sink', count });
  expect([...reports.a.errors, ...reports.b.errors]).toEqual([]);
  // The control queue gives it another address: what comes for the old one the NIC turns away.
  expect(b.net.control?.setMacAddress(Uint8Array.of(0x52, 0x54, 0, 0, 0, 0x77))).toBe(true);
  const before = b.report().framesReceived;
  const source = a.start({ kind: 'generate', count: 50, sizes: [100], destination });
  await until('the frames to be filtered', () => {
    a.step();
    b.step();
    return source.done && nics.b.device.port.counters.snapshot().receiveFrames + Object.values(drops()).reduce((n, d) => n + d, 0) >= count + 50;
  });
  expect(b.report().framesReceived).toBe(before);
  nics.b.device.setLink(false);
  expect((sides[1] as Side).net.linkUp).toBe(false);
});
