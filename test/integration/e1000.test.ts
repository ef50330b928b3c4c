// The guest's e1000 driver and the e1000, which were written apart from the datasheet, together: frames of all kinds between two guests, each technique alone and all together.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostWorker } from '#backends/vhost-worker';
import type { E1000Options as DeviceOptions } from '#devices/e1000/options';
import type { E1000Options } from '#guest-sim/e1000-options';
import type { E1000Frame } from '#guest-sim/e1000-receive';
import { Guest, type GuestReport } from '#guest-sim/guest';
import type { Job } from '#guest-sim/workload';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { realCapture } from './two-guests.ts';

const open: Machine[] = [];
let pool: VhostPool | undefined;

afterEach(async () => {
  for (const machine of open.splice(0)) await machine.close();
});

afterAll(() => pool?.close());

function worker(): VhostWorker {
  pool ??= new VhostPool();
  thread ??= pool.worker();
  return thread;
}
let thread: VhostWorker | undefined;

interface Setup {
  readonly driver?: E1000Options;
  readonly device?: Partial<DeviceOptions>;
  /** Give the second guest a virtio-net. */
  readonly peer?: 'e1000' | 'virtio-net';
  /** Who serves the rings. */
  readonly wire?: 'inline' | 'worker';
}

/** Two guests whose devices share a cable, both up. */
async function pair({ driver = {}, device = {}, peer = 'e1000', wire: kind = 'inline' }: Setup = {}): Promise<[Guest, Guest]> {
  const wire = kind === 'inline' ? new InlineSegment(new Segment(new DirectLink())) : worker().segment();
  const guests = [0, 1].map((i) => {
    const machine = new Machine({ name: `m${i}`, memory: 64 * 2 ** 20 });
    open.push(machine);
    const mac = `52:54:00:00:00:0${i + 1}`;
    if (i === 1 && peer === 'virtio-net') machine.addVirtioNet({ mac, backend: wire.port('v', 1) });
    else machine.addE1000({ mac, segment: wire, negotiation: 1000, ...device });
    return new Guest(machine.localBus(), i === 1 && peer === 'virtio-net' ? { net: { promiscuous: true } } : { e1000: driver });
  }) as [Guest, Guest];
  for (const guest of guests) await until(guest, () => guest.nic.configuration.linkUp, 'the link');
  return guests;
}

/** Steps one guest, letting timers run, until it is so. */
async function until(guest: Guest, so: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!so()) {
    if (performance.now() > deadline) throw new Error(`waited for ${what}`);
    if (!guest.step()) await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

/** Steps both until both jobs are done. */
async function runBoth(a: Guest, b: Guest, jobA: Job, jobB: Job): Promise<[GuestReport, GuestReport]> {
  const workB = b.start(jobB);
  const workA = a.start(jobA);
  const deadline = performance.now() + 25_000;
  while (!workA.done || !workB.done) {
    const busy = [a.step(), b.step()];
    if (a.nic.broken !== '' || b.nic.broken !== '' || performance.now() > deadline)
      throw new Error(`the jobs did not finish: ${JSON.stringify([a.report(), b.report()])}`);
    if (!busy.includes(true)) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  b.step();
  return [a.report(), b.report()];
}

const TECHNIQUES: readonly (readonly [string, Setup])[] = [
  ['nothing special', {}],
  ['interrupts moderated by ITR', { driver: { moderation: { itr: 500 } } }],
  ['packet and absolute timers', { driver: { moderation: { rdtr: 8, radv: 32, tidv: 8, tadv: 32 } } }],
  ['send combining', { driver: { sendCombining: true } }],
  ['send combining and timers', { driver: { sendCombining: true, moderation: { tidv: 8, tadv: 32, itr: 200 } } }],
  ['the shared block', { driver: { csb: true }, device: { sharedBlock: true } }],
  ['the shared block and moderation', { driver: { csb: true, moderation: { itr: 200 } }, device: { sharedBlock: true } }],
  ['small rings', { driver: { ringSize: 16 } }],
  ['an 82545EM', { device: { model: '82545EM' } }],
  ['an 82544GC, whose EEPROM is read a bit at a time', { device: { model: '82544GC' } }],
];

const ON_BOTH = (['inline', 'worker'] as const).flatMap((wire) => TECHNIQUES.map(([name, setup]) => [`${name}, ${wire}`, { ...setup, wire }] as const));

describe.each(ON_BOTH)('the e1000 driver on the e1000, with %s', (_name, setup) => {
  it('brings it up: address from the EEPROM, link from the PHY', async () => {
    const [a] = await pair(setup);
    expect([...a.e1000.configuration.mac]).toEqual([0x52, 0x54, 0, 0, 0, 1]);
    expect(a.e1000.configuration.linkUp).toBe(true);
    expect(a.e1000.broken).toBe('');
  });

  it('carries frames of every size both ways, each byte checked', async () => {
    const [a, b] = await pair(setup);
    const sizes = [60, 61, 64, 128, 255, 256, 1024, 1513, 1514];
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const [sent, received] = await runBoth(from, to, { kind: 'generate', count: 3000, sizes }, { kind: 'sink', count: 3000 });
      expect([...sent.errors, ...received.errors]).toEqual([]);
      expect(received.framesReceived).toBe(3000);
      expect(received.details.lost).toBe(0);
    }
  });

  it('fills checksums in and cuts large frames', async () => {
    const [a, b] = await pair(setup);
    // Small rings do not hold the largest.
    const sizes = [200, 1514, 4000, 30_000].filter((size) => size <= (a.e1000.transmit[0]?.longestFrame ?? 0));
    const job = { kind: 'generate', count: 100 * sizes.length, sizes, checksumOffload: true } as const;
    const pieces = 100 * sizes.reduce((sum, size) => sum + (size <= 1514 ? 1 : Math.ceil((size - 54) / 1460)), 0);
    const [sent, received] = await runBoth(a, b, job, { kind: 'sink', count: pieces });
    expect([...sent.errors, ...received.errors]).toEqual([]);
  });

  it('answers pings', async () => {
    const [a, b] = await pair(setup);
    const [ping] = await runBoth(a, b, { kind: 'ping', count: 200 }, { kind: 'echo', count: 200 });
    expect(ping.errors).toEqual([]);
    expect(ping.framesReceived).toBe(200);
  });
});

describe('the e1000 driver', () => {
  it('replays a real capture that arrives byte for byte', async () => {
    const [a, b] = await pair({ driver: { promiscuous: true } });
    const frames = realCapture();
    const [sent, received] = await runBoth(a, b, { kind: 'replay', frames, repeat: 3 }, { kind: 'compare', frames, repeat: 3 });
    expect([...sent.errors, ...received.errors]).toEqual([]);
  });

  it('talks to a virtio-net at the other end, large frames and all', async () => {
    const [a, b] = await pair({ peer: 'virtio-net', driver: { promiscuous: true } });
    const frames = realCapture();
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const [sent, received] = await runBoth(from, to, { kind: 'replay', frames, repeat: 2 }, { kind: 'compare', frames, repeat: 2 });
      expect([...sent.errors, ...received.errors]).toEqual([]);
    }
  });

  it('needs fewer tail writes with each technique', async () => {
    const kicks = async (setup: Setup): Promise<number> => {
      const [a, b] = await pair(setup);
      const [sent, received] = await runBoth(a, b, { kind: 'generate', count: 2000, burst: 1 }, { kind: 'sink', count: 2000 });
      expect([...sent.errors, ...received.errors]).toEqual([]);
      return sent.kicks;
    };
    const plain = await kicks({});
    expect(plain).toBeGreaterThanOrEqual(2000);
    expect(await kicks({ driver: { sendCombining: true, moderation: { tidv: 30, tadv: 60 } } })).toBeLessThan(plain / 2);
  });

  it('strips and inserts VLAN tags and filters by id', async () => {
    const [a, b] = await pair({ driver: { vlans: [5] } });
    const seen: { vlan: number; length: number }[] = [];
    const sink = { receive: (frame: unknown) => void seen.push({ vlan: (frame as E1000Frame).vlan, length: (frame as E1000Frame).length }) };
    const queue = a.e1000.transmit[0] as (typeof a.e1000.transmit)[0] & { vlan: number };
    for (const vlan of [5, 6, -1, 0x6005]) {
      queue.vlan = vlan;
      const at = queue.reserve();
      a.arena.u8.fill(0xff, at, at + 6);
      a.arena.u8.set(a.e1000.configuration.mac, at + 6);
      a.arena.u8.set([0x88, 0xb5], at + 12);
      queue.send(100);
      queue.flush();
    }
    const deadline = performance.now() + 5000;
    while (seen.length < 3 && performance.now() < deadline) {
      a.step();
      if (b.bus.lines.any) b.nic.onIntx();
      b.nic.poll(sink);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    expect(seen).toEqual([
      { vlan: 5, length: 100 },
      { vlan: -1, length: 100 },
      { vlan: 0x6005, length: 100 },
    ]);
  });

  it('counts what the device counted, and finds nothing wrong in its watchdog', async () => {
    const [a, b] = await pair();
    await runBoth(a, b, { kind: 'generate', count: 500, sizes: [60, 1000] }, { kind: 'sink', count: 500 });
    a.e1000.watchdog();
    b.e1000.watchdog();
    const sent = a.e1000.statistics.totals;
    const got = b.e1000.statistics.totals;
    expect(sent.goodTransmitted).toBe(500);
    expect(sent.broadcastTransmitted).toBe(500);
    expect(sent.transmitted64).toBe(250);
    expect(got.goodReceived).toBe(500);
    // With their FCS (8254x 13.7.27).
    expect(got.goodOctetsReceived).toBe(250 * 64 + 250 * 1004);
    expect(a.e1000.broken).toBe('');
  });

  it('receives long frames in several buffers when its MTU is long', async () => {
    const [a, b] = await pair({ driver: { mtu: 9000 } });
    const [sent, received] = await runBoth(a, b, { kind: 'generate', count: 300, sizes: [9014, 60, 4000] }, { kind: 'sink', count: 300 });
    expect([...sent.errors, ...received.errors]).toEqual([]);
    expect(received.framesReceived).toBe(300);
  });

  it('recovers by a reset, and gives all memory back', async () => {
    const [a, b] = await pair();
    const before = a.arena.bytesInUse;
    await runBoth(a, b, { kind: 'generate', count: 100 }, { kind: 'sink', count: 100 });
    a.e1000.recover();
    await until(a, () => a.e1000.configuration.linkUp, 'the link after a reset');
    expect(a.arena.bytesInUse).toBe(before);
    const [sent, received] = await runBoth(a, b, { kind: 'generate', count: 100 }, { kind: 'sink', count: 100, verify: 'none' });
    expect([...sent.errors, ...received.errors]).toEqual([]);
    a.e1000.shutDown();
    expect(a.arena.bytesInUse).toBe(0);
  });

  it('refuses the shared block of a device that has none, and options that cannot be', () => {
    const machine = new Machine({ memory: 32 * 2 ** 20 });
    open.push(machine);
    machine.addE1000({ mac: '52:54:00:00:00:01' });
    expect(() => new Guest(machine.localBus(), { e1000: { csb: true } })).toThrow(/no shared block/);
    expect(() => new Guest(machine.localBus(), { e1000: { ringSize: 100 } })).toThrow(/ring size/);
    expect(() => new Guest(machine.localBus(), { e1000: {}, device: 1 })).toThrow(/found 1 e1000/);
  });
});
