// An e1000 whose rings a worker serves while its guest runs on a thread of its own, or while its machine's thread does what disturbs: pauses, saved states, resets, revoked memory, a worker that dies.

import { afterEach, describe, expect, it, vi } from 'vitest';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostWorker } from '#backends/vhost-worker';
import { Iommu } from '#core/iommu';
import type { E1000 } from '#devices/e1000/device';
import type { E1000Options } from '#guest-sim/e1000-options';
import { Guest } from '#guest-sim/guest';
import { GuestThread } from '#guest-sim/guest-thread';
import type { Workload } from '#guest-sim/workload';
import { Machine } from '#nicbox/machine';
import { realCapture } from './two-guests.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 30_000 });

const open: { pools: VhostPool[]; guests: GuestThread[]; machines: Machine[] } = { pools: [], guests: [], machines: [] };

afterEach(async () => {
  await Promise.all(open.guests.splice(0).map((guest) => guest.close()));
  await Promise.all(open.machines.splice(0).map((machine) => machine.close()));
  await Promise.all(open.pools.splice(0).map((pool) => pool.close()));
});

const DEATHS = 4;

interface Side {
  readonly machine: Machine;
  readonly nic: E1000;
}

const RAM = 64 * 2 ** 20;

/** @param iommu of the second one */
function pair(worker: VhostWorker, csb: boolean, iommu?: Iommu): [Side, Side] {
  const segment = worker.segment();
  return [1, 2].map((n) => {
    const machine = new Machine({ name: `m${n}`, memory: RAM, ...(n === 2 && iommu && { iommu }) });
    open.machines.push(machine);
    return { machine, nic: machine.addE1000({ mac: `52:54:00:00:00:0${n}`, segment, negotiation: 1000, sharedBlock: csb }) };
  }) as [Side, Side];
}

function startPool(): VhostPool {
  const pool = new VhostPool();
  open.pools.push(pool);
  return pool;
}

const DRIVERS: readonly (readonly [string, E1000Options])[] = [
  ['registers', {}],
  ['the shared block', { csb: true }],
];

describe.each(DRIVERS)('guests on threads, a worker for the rings, by %s', (_name, driver) => {
  const start = async (sides: readonly Side[]): Promise<[GuestThread, GuestThread]> => {
    const guests = await Promise.all(sides.map(({ machine }) => GuestThread.start(machine.threadBus().share, { e1000: { ...driver, promiscuous: true } })));
    open.guests.push(...guests);
    return guests as [GuestThread, GuestThread];
  };

  it('carry a real capture byte for byte, and every frame of a long stream once', async () => {
    const [a, b] = await start(pair(startPool().worker(), driver.csb === true));
    const frames = realCapture();
    const compared = b.run({ kind: 'compare', frames, repeat: 3 });
    const replayed = await a.run({ kind: 'replay', frames, repeat: 3 });
    expect([...replayed.errors, ...(await compared).errors]).toEqual([]);
    for (const count of [1, 10, 5000]) {
      const got = b.run({ kind: 'sink', count });
      const sent = await a.run({ kind: 'generate', count, sizes: [60, 700] });
      const report = await got;
      expect([...sent.errors, ...report.errors]).toEqual([]);
      expect([report.framesReceived, report.details.lost]).toEqual([count, 0]);
    }
    const echo = b.run({ kind: 'echo' });
    const ping = await a.run({ kind: 'ping', count: 50 });
    b.stop();
    expect([...ping.errors, ...(await echo).errors, ping.framesReceived]).toEqual([50]);
  });
});

describe('a tail write with the shared block in force', () => {
  it('needs no exit: the guest rings the worker', async () => {
    const sides = pair(startPool().worker(), true);
    const buses = sides.map(({ machine }) => machine.threadBus());
    const guests = await Promise.all(buses.map(({ share }) => GuestThread.start(share, { e1000: { csb: true } })));
    open.guests.push(...guests);
    const [a, b] = guests as [GuestThread, GuestThread];
    const ping = async (count: number): Promise<{ kicks: number; exits: number }> => {
      const before = buses[0]?.exits() ?? 0;
      const echo = b.run({ kind: 'echo' });
      const { errors, kicks } = await a.run({ kind: 'ping', count });
      b.stop();
      expect([...errors, ...(await echo).errors]).toEqual([]);
      return { kicks, exits: (buses[0]?.exits() ?? 0) - before };
    };
    await ping(10);
    const { exits } = await ping(100);
    // An interrupt costs one, its ICR; a kick none. With one for each write of TDT they would be 200.
    expect(exits).toBeLessThan(170);
  });
});

/** Both guests on this thread, stepped until `so`; timers, messages and the worker run in between. */
async function step(guests: readonly Guest[], so: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 25_000;
  while (!so()) {
    if (performance.now() > deadline) throw new Error(`waited for ${what}: ${JSON.stringify(guests.map((guest) => guest.report()))}`);
    for (const guest of guests) guest.step();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe.each(DRIVERS)('in the middle of traffic, by %s', (_name, driver) => {
  const run = async (worker: VhostWorker, iommu?: Iommu, attached = (): void => {}): Promise<{ sides: [Side, Side]; guests: [Guest, Guest] }> => {
    const sides = pair(worker, driver.csb === true, iommu);
    attached();
    const guests = sides.map(({ machine }) => new Guest(machine.localBus(), { e1000: driver })) as [Guest, Guest];
    await step(guests, () => guests.every((guest) => guest.nic.configuration.linkUp), 'the links');
    return { sides, guests };
  };
  const traffic = ([a, b]: [Guest, Guest], count: number): [Workload, Workload] => {
    const sink = b.start({ kind: 'sink', count });
    return [a.start({ kind: 'generate', count, sizes: [60, 300, 1514] }), sink];
  };
  const finish = async (guests: [Guest, Guest], work: [Workload, Workload]): Promise<void> => {
    await step(guests, () => work.every(({ done }) => done), 'the rest of the frames');
    expect(guests.flatMap((guest) => guest.report().errors)).toEqual([]);
    expect(guests[1].report().details.lost).toBe(0);
  };

  it('a machine is paused, saved, spoilt and restored', async () => {
    const { sides, guests } = await run(startPool().worker());
    const work = traffic(guests, 3000);
    for (let round = 1; round <= 5; round++) {
      await step(guests, () => work[1].framesReceived > 400 * round, `frames before save ${round}`);
      const side = sides[round & 1] as Side;
      const saved = await side.machine.save({ stay: 'paused' });
      // Nothing of it may move now.
      const { counters } = side.nic;
      const before = JSON.stringify(counters.snapshot());
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect(JSON.stringify(counters.snapshot())).toBe(before);
      side.nic.registers.set('TDH', 0xffff);
      side.nic.registers.set('RDT', 3);
      await side.machine.restore(saved);
    }
    await finish(guests, work);
  });

  it('bus mastering goes and comes back: the device waits', async () => {
    const { sides, guests } = await run(startPool().worker());
    const work = traffic(guests, 3000);
    await step(guests, () => work[1].framesReceived > 500, 'some frames');
    // The sender's: a receiver that cannot be reached would lose frames.
    sides[0].machine.configWrite(0x0008, 4, 2, 3);
    const sent = sides[0].nic.counters.snapshot().transmitFrames;
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(sides[0].nic.counters.snapshot().transmitFrames).toBe(sent);
    sides[0].machine.configWrite(0x0008, 4, 2, 7);
    await finish(guests, work);
  });

  /** Traffic goes on although the receiver is not there for a while: then its driver sets it up again, and a stream arrives whole. */
  const goesOn = async ([a, b]: [Guest, Guest], flood: Workload): Promise<void> => {
    b.e1000.recover();
    await step([a, b], () => b.e1000.configuration.linkUp, 'the link of the receiver');
    const more = flood.framesSent + 500;
    b.start({ kind: 'sink', verify: 'none' });
    await step([a, b], () => flood.framesSent > more, 'the flood to go on');
    a.start({ kind: 'generate', count: 0 });
    await step([a, b], () => a.e1000.transmitOutstanding === 0, 'the end of the flood');
    for (let idle = 0; idle < 50; idle++) await step([a, b], () => !b.step(), 'the receiver to have taken it');
    await finish([a, b], traffic([a, b], 1000));
    expect([a.nic.broken, b.nic.broken]).toEqual(['', '']);
  };

  it.each([
    ['is put to sleep (D3) and back', 0x00e0, 3, 0],
    ['loses bus mastering and gets it back', 0x0004, 3, 7],
  ] as const)('the receiver %s: nothing of its memory is touched meanwhile, and the sender goes on', async (_what, register, off, on) => {
    const { sides, guests } = await run(startPool().worker());
    const [a, b] = guests;
    const flood = a.start({ kind: 'generate', count: 1e6 });
    const sink = b.start({ kind: 'sink', verify: 'none' });
    await step(guests, () => sink.framesReceived > 300, 'some frames');
    const { machine } = sides[1];
    // Leaving D3 resets a function: an operating system puts its configuration back.
    const kept = [0x10, 0x18, 0x04].map((at) => [at, machine.configRead(0x0008, at, 4)] as const);
    machine.configWrite(0x0008, register, 2, off);
    const ram = machine.memory.slabs.map(({ views }) => views.u8.slice());
    // Frames for it are lost, not held.
    const more = flood.framesSent + 3000;
    await step([a], () => flood.framesSent > more, 'frames that nobody takes');
    machine.memory.slabs.forEach(({ views }, i) => {
      expect(Buffer.compare(views.u8, ram[i] as Uint8Array)).toBe(0);
    });
    machine.configWrite(0x0008, register, 2, on);
    for (const [at, value] of kept) machine.configWrite(0x0008, at, 4, value);
    await goesOn(guests, flood);
  });

  it('memory is taken from the receiver and given back (IOMMU): nothing of it is touched meanwhile, and the sender goes on', async () => {
    const iommu = new Iommu();
    const domain = iommu.domain();
    const { sides, guests } = await run(startPool().worker(), iommu, () => {
      domain.map(0, 0, RAM);
      iommu.attach(0x0008, domain);
    });
    const [a, b] = guests;
    const flood = a.start({ kind: 'generate', count: 1e6 });
    const sink = b.start({ kind: 'sink', verify: 'none' });
    for (let round = 1; round <= 3; round++) {
      await step(guests, () => sink.framesReceived > 300 * round, `frames before round ${round}`);
      domain.unmap(0, RAM);
      const ram = sides[1].machine.memory.slabs[0]?.views.u8.slice() as Uint8Array;
      const until = performance.now() + 20;
      while (performance.now() < until) {
        a.step();
        await new Promise((resolve) => setImmediate(resolve));
      }
      expect(Buffer.compare(sides[1].machine.memory.slabs[0]?.views.u8 as Uint8Array, ram)).toBe(0);
      domain.map(0, 0, RAM);
      b.e1000.recover();
      await step(guests, () => b.e1000.configuration.linkUp, `the link in round ${round}`);
    }
    expect(sink.framesReceived).toBeGreaterThan(900);
    await goesOn(guests, flood);
  });

  it('the driver resets its device and goes on', async () => {
    const { guests } = await run(startPool().worker());
    const [a, b] = guests;
    const flood = a.start({ kind: 'generate', count: 1e6 });
    b.start({ kind: 'sink', count: 1e6, verify: 'none' });
    for (let round = 1; round <= 5; round++) {
      const goal = flood.framesSent + 300;
      await step(guests, () => flood.framesSent > goal, `frames before reset ${round}`);
      b.e1000.recover();
      await step(guests, () => b.e1000.configuration.linkUp, `the link after reset ${round}`);
    }
    expect([a.nic.broken, b.nic.broken]).toEqual(['', '']);
  });

  it('the worker dies again and again: nothing is lost, the last batch may come twice', async () => {
    const pool = startPool();
    const worker = pool.worker();
    let lost = 0;
    worker.onLost = () => lost++;
    const { guests } = await run(worker);
    const [a, b] = guests;
    const count = 4000;
    const sent = a.start({ kind: 'generate', count, sizes: [60, 300] });
    const got = b.start({ kind: 'sink', count: 1e9 });
    for (let kill = 1; kill <= DEATHS; kill++) {
      const goal = got.framesReceived + 50 + ((kill * 7919) % 300);
      await step(guests, () => got.framesReceived > goal, `frames before death ${kill}`);
      const killed = pool.kill();
      await step(guests, () => lost === kill, `word of death ${kill}`);
      await killed;
    }
    await step(guests, () => sent.done && a.e1000.transmitOutstanding === 0, 'the sender');
    for (let rounds = 0; rounds < 50; rounds++) await step(guests, () => !b.step(), 'the receiver');
    expect([a.nic.broken, b.nic.broken]).toEqual(['', '']);
    expect(b.report().details.lost).toBe(0);
    expect(got.framesReceived).toBeGreaterThanOrEqual(count);
    // A batch is at most 256 frames.
    expect(got.framesReceived).toBeLessThanOrEqual(count + DEATHS * 256);
  });
});

describe('a worker that is given up', () => {
  it('leaves a device whose cable is pulled', async () => {
    const pool = new VhostPool({ entry: new URL('./broken-entry.mjs', import.meta.url) });
    open.pools.push(pool);
    const worker = pool.worker();
    const gone = new Promise<void>((resolve) => {
      worker.onLost = (_, again) => {
        if (!again) resolve();
      };
    });
    const [{ machine, nic }] = pair(worker, false);
    const guest = new Guest(machine.localBus(), { e1000: {} });
    await gone;
    await step([guest], () => !guest.nic.configuration.linkUp, 'the link to go down');
    expect(nic.cable).toBe(false);
  });
});
