// Features that meet, driver against device: RSS and hash reports with queue resets, suspension, flow rules, moderation, statistics, save and restore and hand-over;
// receive segment coalescing; a legacy driver on a transitional device; a fail-over pair of devices.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { FailoverPair } from '#guest-sim/failover';
import { FlowFilter, flowMatch } from '#guest-sim/flow-filter';
import { composeFrame } from '#guest-sim/frames';
import { Guest } from '#guest-sim/guest';
import type { VirtioNetOptions } from '#guest-sim/net-options';
import type { ReceivedFrame } from '#guest-sim/net-receive';
import { RX_STATISTICS, TX_STATISTICS } from '#guest-sim/net-stats';
import type { Nic, NicTransmitQueue } from '#guest-sim/nic';
import { ReceivedCheck } from '#guest-sim/received-check';
import { VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import type { Workload } from '#guest-sim/workload';
import { MovableBus } from '../machine/pair.ts';
import { closeWires, makeMachine, makeWire, realCapture, runBoth, type Setup, type Side, WIRES } from './two-guests.ts';

const F = VIRTIO_NET_F;
const MATRIX = WIRES.flatMap((wire) => (['split', 'packed'] as const).map((ring) => ({ wire, ring })));
const SPREAD: Setup['device'] = { queuePairs: 4, features: { HASH_REPORT: true } };
const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});
afterAll(closeWires);

interface World {
  readonly sides: readonly [Side, Side];
  readonly a: Guest;
  readonly b: Guest;
}

function machines(wire: (typeof WIRES)[number], a: Setup, b: Setup): [Side, Side] {
  const link = makeWire(wire);
  const sides: [Side, Side] = [makeMachine(link, 'a', a), makeMachine(link, 'b', b)];
  for (const { machine } of sides) closing.push(() => machine.close());
  return sides;
}

function world(wire: (typeof WIRES)[number], a: Setup, b: Setup): World {
  const sides = machines(wire, a, b);
  const [first, second] = sides.map((s) => new Guest(s.machine.localBus(), s.setup.guest)) as [Guest, Guest];
  return { sides, a: first, b: second };
}

/** Steps guests until `done`. @throws Error that says what was waited for */
async function settle(guests: readonly Guest[], what: string, done: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!done()) {
    let busy = false;
    for (const guest of guests) if (guest.step()) busy = true;
    if (performance.now() > deadline) throw new Error(`waited 20 s for ${what}: ${JSON.stringify(guests.map((g) => [g.nic.broken, g.workload?.result()]))}`);
    if (!busy) await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

async function rounds(guests: readonly Guest[], count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    for (const guest of guests) guest.step();
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

const first = (guest: Guest): NicTransmitQueue => guest.nic.transmit[0] as NicTransmitQueue;

function send(guest: Guest, frames: readonly Uint8Array[]): void {
  const queue = first(guest);
  queue.reclaim();
  for (const frame of frames) {
    const views = viewsOf(new SharedArrayBuffer(Math.ceil(frame.length / 8) * 8));
    views.u8.set(frame);
    if (!queue.copy(views, 0, frame.length)) throw new Error('the transmit queue is full');
  }
  queue.flush();
}

const received = (guest: Guest): number => guest.net.receive.reduce((n, q) => n + q.frames, 0);
const udp = (n: number): Uint8Array => composeFrame({ version: 4, protocol: 'udp', payload: 40, fromPort: 1000 + n, toPort: 53 }).bytes;
const many = (count: number): Uint8Array[] => Array.from({ length: count }, (_, n) => udp(n));

/** What a guest spreads: no disagreement on hash or queue, whatever happened meanwhile. */
function expectAgreed(work: Workload): void {
  const { errors, details, framesReceived } = work.result();
  expect([errors, details.agreed]).toEqual([[], framesReceived]);
}

describe.each(MATRIX)('$wire, $ring rings', ({ wire, ring }) => {
  const spread = (more: VirtioNetOptions = {}): Setup => ({
    guest: { net: { ring, pairs: 4, promiscuous: true, rss: {}, hashReport: {}, ...more } },
    device: { ...SPREAD, features: { ...SPREAD.features, ADMIN_VQ: true } },
  });
  const plain: Setup = { guest: { net: { ring, promiscuous: true } } };

  it('resets receive queues in the middle of RSS traffic: what comes keeps to its queue, and everything comes again afterwards', async () => {
    const { a, b } = world(wire, plain, spread());
    const frames = realCapture();
    const work = b.start({ kind: 'spread' });
    const source = a.start({ kind: 'replay', frames, repeat: 40 });
    for (let round = 0; round < 8 && !source.done; round++) {
      await rounds([a, b], 3);
      b.net.resetReceive(round % 4, [32, 64, 128, 256][round % 4] as number);
    }
    await settle([a, b], 'the sender', () => source.done);
    await rounds([a, b], 20);
    expectAgreed(work);
    expect(work.framesReceived).toBeLessThanOrEqual(source.framesSent);
    expect(b.net.receive.map((q) => q.ring.size)).toEqual([32, 64, 128, 256]);
    const { a: sent, b: got } = await runBoth(a, b, { kind: 'replay', frames }, { kind: 'spread', count: frames.count });
    expect([...sent.errors, ...got.errors, got.details.agreed]).toEqual([frames.count]);
  });

  it('suspended with RSS, reports, moderation and a flow rule in force, it has all of them afterwards, and counts on', async () => {
    const { a, b } = world(wire, plain, spread({ with: [VIRTIO_F.ADMIN_VQ] }));
    const control = b.net.control as NonNullable<typeof b.net.control>;
    const filter = FlowFilter.open(b.net.admin as NonNullable<typeof b.net.admin>) as FlowFilter;
    const match = flowMatch({ version: 4, protocol: 'udp', toPort: 9 });
    const rule = { group: filter.addGroup(1), classifier: filter.addClassifier(match), priority: 1, selectors: match, action: 'drop' as const };
    expect([filter.addRule(rule), filter.refusal]).toEqual([0, undefined]);
    expect(control.setCoalescing('receive', { maxPackets: 4, maxUsecs: 100 })).toBe(true);
    const frames = realCapture();
    const refused = composeFrame({ version: 4, protocol: 'udp', payload: 10, fromPort: 7, toPort: 9 }).bytes;
    for (let round = 0; round < 3; round++) {
      const before = received(b);
      const { a: sent, b: got } = await runBoth(a, b, { kind: 'replay', frames }, { kind: 'spread', count: frames.count });
      expect([...sent.errors, ...got.errors, got.details.agreed]).toEqual([frames.count]);
      send(a, [refused]);
      await rounds([a, b], 5);
      expect(received(b) - before).toBe(frames.count);
      expect(control.queueCoalescing(2)).toEqual({ maxPackets: 4, maxUsecs: 100 });
      b.net.suspend();
      await rounds([a, b], 3);
      b.net.resume();
    }
    const counters = control.statistics([0, 2, 4, 6].map((queue) => ({ queue, types: RX_STATISTICS })));
    const counted = (counters ?? []).reduce((n, { counters: c }) => n + (c.rx_packets ?? 0n), 0n);
    expect(counted).toBe(BigInt(received(b)));
  });

  it('sends a frame where a flow rule says, with the hash RSS would have gone by', async () => {
    const { a, b } = world(wire, plain, spread({ with: [VIRTIO_F.ADMIN_VQ] }));
    const filter = FlowFilter.open(b.net.admin as NonNullable<typeof b.net.admin>) as FlowFilter;
    const match = flowMatch({ version: 4, protocol: 'udp', toPort: 53 });
    const rule = { group: filter.addGroup(1), classifier: filter.addClassifier(match), priority: 1, selectors: match, action: 3 };
    expect([filter.addRule(rule), filter.refusal]).toEqual([0, undefined]);
    const seen: { queue: number; value: number; own: number }[] = [];
    const work = b.start({ kind: 'sink', verify: 'none' });
    work.receive = (frame: ReceivedFrame): void => {
      const bytes = Uint8Array.from({ length: frame.length }, (_, i) => frame.byte(i));
      b.net.steering.flowHash?.compute(bytes, 0, bytes.length);
      seen.push({ queue: frame.queue, value: frame.hashValue, own: b.net.steering.flowHash?.value ?? 0 });
    };
    send(a, many(32));
    await settle([a, b], '32 frames', () => seen.length === 32);
    expect(seen.every(({ queue, value, own }) => queue === 3 && value === own && value !== 0)).toBe(true);
    expect(new Set(seen.map(({ value }) => value)).size).toBeGreaterThan(16);
  });

  it('counts for each queue what the guest took from it and gave it', async () => {
    const { a, b } = world(wire, plain, spread());
    const frames = realCapture();
    await runBoth(a, b, { kind: 'replay', frames, repeat: 2 }, { kind: 'spread', count: 2 * frames.count });
    const told = b.net.control?.statistics([0, 2, 4, 6].map((queue) => ({ queue, types: RX_STATISTICS })));
    const sum = (pick: 'rx_packets' | 'rx_bytes', queue: number): bigint =>
      (told ?? []).filter((t) => t.queue === queue).reduce((n, { counters }) => n + (counters[pick] ?? 0n), 0n);
    for (const [i, { frames: n, bytes }] of b.net.receive.entries())
      expect([sum('rx_packets', 2 * i), sum('rx_bytes', 2 * i)]).toEqual([BigInt(n), BigInt(bytes)]);
    const sent = a.net.control?.statistics([{ queue: 1, types: TX_STATISTICS }]) ?? [];
    expect(sent.flatMap(({ counters }) => counters.tx_packets ?? [])).toEqual([BigInt(2 * frames.count)]);
  });

  it('interrupts once for as many packets as the driver said, on each queue by itself', async () => {
    const { a, b } = world(wire, plain, spread());
    const control = b.net.control as NonNullable<typeof b.net.control>;
    const forever = { maxPackets: 8, maxUsecs: 4_000_000_000 };
    expect(control.setCoalescing('receive', forever)).toBe(true);
    // Frames of one flow for each queue, found by the guest's own hash.
    const flows = [0, 1, 2, 3].map((queue) =>
      many(64).find((bytes) => {
        b.net.steering.flowHash?.compute(bytes, 0, bytes.length);
        return b.net.steering.receiveQueue(b.net.steering.flowHash?.value ?? 0, b.net.steering.flowHash?.report ?? 0) === queue;
      }),
    ) as Uint8Array[];
    await rounds([a, b], 3);
    const before = b.net.interrupts;
    const taken = b.net.receive.map((q) => q.frames);
    const since = (): number[] => b.net.receive.map((q, i) => q.frames - (taken[i] as number));
    for (let n = 0; n < 7; n++) {
      send(a, flows);
      await rounds([a, b], 2);
    }
    expect([b.net.interrupts - before, since()]).toEqual([0, [0, 0, 0, 0]]);
    send(a, [flows[2] as Uint8Array]);
    await settle([a, b], 'the eighth packet of queue 2', () => since()[2] === 8);
    expect([b.net.interrupts - before, since()]).toEqual([1, [0, 0, 8, 0]]);
    // One queue by itself; the others wait on.
    expect(control.setQueueCoalescing(0, { maxPackets: 1, maxUsecs: 1000 })).toBe(true);
    await settle([a, b], 'queue 0', () => since()[0] === 7);
    expect([b.net.interrupts - before, since()]).toEqual([2, [7, 0, 8, 0]]);
    expect(control.setCoalescing('receive', { maxPackets: 100, maxUsecs: 20_000 })).toBe(true);
    // Their time has passed or passes soon; nothing else happens.
    await settle([b], 'the time of queues 1 and 3', () => since()[1] === 7 && since()[3] === 7);
    expect(b.net.interrupts - before).toBe(4);
  });

  it.each(WIRES)('moved to another data plane (%s) with interrupts put off, the guest gets its frames, and moderation goes on', async (to) => {
    const { sides, a, b } = world(wire, plain, spread());
    const control = b.net.control as NonNullable<typeof b.net.control>;
    expect(control.setCoalescing('receive', { maxPackets: 1000, maxUsecs: 4_000_000_000 })).toBe(true);
    const before = received(b);
    send(a, many(20));
    // What was still on its way when the rings moved would be put off there.
    await settle([a, b], 'the frames on their way', () => {
      first(a).reclaim();
      return first(a).outstanding === 0;
    });
    await rounds([a, b], 10);
    expect(received(b)).toBe(before);
    const other = makeWire(to);
    for (const [i, { net }] of sides.entries()) net.handOver(other.port(`moved ${i}`, i === 0 ? 1 : 4));
    await settle([a, b], 'the move and the frames that waited', () => !sides.some(({ net }) => net.handingOver) && received(b) === before + 20);
    send(a, many(20));
    await rounds([a, b], 10);
    expect(received(b)).toBe(before + 20);
    expect(control.setCoalescing('receive', { maxPackets: 0, maxUsecs: 0 })).toBe(true);
    await settle([a, b], 'the frames behind', () => received(b) === before + 40);
    const frames = realCapture();
    const { b: got } = await runBoth(a, b, { kind: 'replay', frames }, { kind: 'spread', count: frames.count });
    expect([...got.errors, got.details.agreed]).toEqual([frames.count]);
  });

  it('saved in the middle of RSS traffic and restored into new machines, it spreads, hashes, moderates and counts as before', async () => {
    let sides = machines(wire, plain, spread());
    const buses = sides.map((s) => new MovableBus(s.machine.localBus()));
    const [a, b] = sides.map((s, i) => new Guest(buses[i] as MovableBus, s.setup.guest)) as [Guest, Guest];
    expect(b.net.steering.configureRss({ table: [3, 1, 2, 0, 0, 1, 3, 3], hashTypes: 0x1ff })).toBe(true);
    expect(b.net.control?.setQueueCoalescing(4, { maxPackets: 3, maxUsecs: 70 })).toBe(true);
    const frames = realCapture();
    const total = 12 * frames.count;
    const work = b.start({ kind: 'spread', count: total });
    const source = a.start({ kind: 'replay', frames, repeat: 12 });
    for (const at of [total / 4, total / 2]) {
      await settle([a, b], `${at} frames`, () => work.framesReceived >= at);
      const saved: unknown[] = [];
      for (const { machine } of sides) saved.push(structuredClone(await machine.save({ memory: true, stay: 'paused' })));
      const rams = sides.map(({ machine }) => machine.memory);
      for (const { machine } of sides) await machine.close();
      sides = machines(wire, { ...plain, memory: () => rams[0] as (typeof rams)[0] }, { ...spread(), memory: () => rams[1] as (typeof rams)[0] });
      for (const [i, { machine }] of sides.entries()) await machine.restore(saved[i], { stay: 'paused' });
      for (const { machine } of [...sides].reverse()) machine.resume();
      for (const [i, bus] of buses.entries()) bus.move((sides[i] as Side).machine.localBus());
    }
    await settle([a, b], 'all frames', () => work.done && source.done);
    expectAgreed(work);
    expect(work.framesReceived).toBe(total);
    expect(b.net.control?.queueCoalescing(4)).toEqual({ maxPackets: 3, maxUsecs: 70 });
    const counted = (b.net.control?.statistics([0, 2, 4, 6].map((queue) => ({ queue, types: RX_STATISTICS }))) ?? []).reduce(
      (n, { counters }) => n + (counters.rx_packets ?? 0n),
      0n,
    );
    expect(counted).toBe(BigInt(received(b)));
  });

  it('CVE-2026-63321: merges TCP segments from behind a header of another length for a guest with RSC_EXT, on their queue with their hash; for no other', async () => {
    const wants = [F.RSC_EXT];
    for (const coalescing of [true, false]) {
      const { a, b } = world(wire, plain, spread(coalescing ? { with: wants, require: wants } : {}));
      const got: { length: number; segments: number; acks: number; problem: string; agreed: boolean }[] = [];
      const check = new ReceivedCheck();
      const work = b.start({ kind: 'sink', verify: 'none' });
      work.receive = (f: ReceivedFrame): void => {
        const bytes = Uint8Array.from({ length: f.length }, (_, i) => f.byte(i));
        const { flowHash } = b.net.steering;
        flowHash?.compute(bytes, 0, bytes.length);
        const agreed = flowHash?.value === f.hashValue && b.net.steering.receiveQueue(flowHash.value, flowHash.report) === f.queue;
        got.push({ length: f.length, segments: f.coalescedSegments, acks: f.duplicateAcks, problem: check.check(bytes, 0, f), agreed });
      };
      const segments = [0, 1, 2, 3].map(
        (n) => composeFrame({ version: 4, protocol: 'tcp', payload: 1000, flags: 0x10, sequence: 5000 + 1000 * n, id: 10 + n, fromPort: 99, toPort: 80 }).bytes,
      );
      send(a, segments);
      const bytes = (): number => got.reduce((n, { length }) => n + length - 54, 0);
      await settle([a, b], '4000 bytes of payload', () => bytes() >= 4000);
      expect(bytes()).toBe(4000);
      expect(got.every(({ problem, agreed }) => problem === '' && agreed)).toBe(true);
      if (coalescing) expect(got.reduce((n, { segments: s }) => n + Math.max(s, 1), 0)).toBe(4);
      else expect(got.map(({ length, segments: s }) => [length, s])).toEqual(new Array(4).fill([1054, 0]));
      // Inline one kick is one batch; a worker may have looked in between.
      if (coalescing && wire === 'inline') expect(got.map(({ length, segments: s }) => [length, s])).toEqual([[4054, 4]]);
      for (const close of closing.splice(0).reverse()) await close();
    }
  });

  it('a fail-over pair of a virtio standby and a virtio primary: told when, moved there and back, with no frame lost', async () => {
    const [one, two] = [makeWire(wire), makeWire(wire)];
    const heard: boolean[] = [];
    const a = makeMachine(one, 'a', { guest: { net: { ring, pairs: 1 } }, device: { features: { STANDBY: true }, onStandby: (on) => heard.push(on) } });
    const b = makeMachine(one, 'b', { guest: { net: { ring } } });
    // The primary's other end: a device of its own in the peer's machine.
    a.machine.addVirtioNet({ mac: '52:54:00:00:00:0a', backend: two.port('primary', 1) });
    b.machine.addVirtioNet({ mac: '52:54:00:00:00:1b', backend: two.port('behind', 1) });
    for (const { machine } of [a, b]) closing.push(() => machine.close());
    const [guest, peer] = [new Guest(a.machine.localBus(), a.setup.guest), new Guest(b.machine.localBus(), b.setup.guest)];
    expect(heard).toEqual([true]);
    const open = (g: Guest): Nic => g.openNet(g.tree.devices.filter((d) => d.vendor === 0x1af4)[1] as (typeof g.tree.devices)[0], { ring });
    const [primary, behind] = [open(guest), open(peer)];
    const pair = new FailoverPair(guest.net);
    const got: number[] = [];
    const ours = (f: ReceivedFrame): void => void (f.byte(12) === 0x88 && f.byte(13) === 0xb5 && got.push((f.byte(14) << 8) | f.byte(15)));
    const sink = peer.start({ kind: 'sink', verify: 'none' });
    sink.receive = ours;
    const frame = (n: number): Uint8Array => {
      const bytes = new Uint8Array(64);
      bytes.set([255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 0x0a, 0x88, 0xb5, n >> 8, n & 255]);
      return bytes;
    };
    const views = viewsOf(new SharedArrayBuffer(64));
    const run = async (from: number, to: number): Promise<void> => {
      for (let n = from; n < to; n++) {
        views.u8.set(frame(n));
        expect(pair.send(views, 0, 64)).toBe(true);
      }
      pair.flush();
      const deadline = performance.now() + 20_000;
      while (got.length < to) {
        if (performance.now() > deadline) throw new Error(`waited 20 s for frame ${to}: ${got.length} came`);
        guest.step();
        peer.step();
        pair.poll({ receive: ours });
        behind.poll({ receive: ours });
        await new Promise((resolve) => setTimeout(resolve, 0));
      }
    };
    await run(0, 50);
    pair.attach(primary);
    expect(pair.active).toBe(primary);
    await run(50, 100);
    pair.detach({ receive: ours });
    expect(pair.active).toBe(pair.standby);
    await run(100, 150);
    expect(got).toEqual(Array.from({ length: 150 }, (_, n) => n));
    expect([pair.moves, pair.atRisk]).toEqual([2, 0]);
    guest.net.shutDown();
    expect(heard).toEqual([true, false]);
  });
});

describe.each(WIRES)('a legacy driver on a transitional device, %s', (wire) => {
  const legacy = (net: VirtioNetOptions = {}, device: Setup['device'] = {}): Setup => ({
    guest: { net: { legacy: true, promiscuous: true, ...net } },
    device,
    place: { transitional: true },
  });

  it.each([
    ['all it knows', {}],
    ['no mergeable buffers: a header of ten bytes', { without: [F.MRG_RXBUF] }],
    ['no ANY_LAYOUT: the header in a descriptor of its own', { without: [VIRTIO_F.ANY_LAYOUT] }],
    ['no offloads', { without: [F.CSUM, F.GUEST_CSUM] }],
    ['the interrupt line', { interrupts: 'intx' }],
  ] as [string, VirtioNetOptions][])('and a modern one with packed rings replay the real capture to each other: %s', async (_name, net) => {
    const modern: Setup = { guest: { net: { ring: 'packed', promiscuous: true } } };
    const frames = realCapture();
    for (const [a, b] of [
      [legacy(net), modern],
      [modern, legacy(net)],
    ] as const) {
      const pair = world(wire, a, b);
      const { a: sent, b: got } = await runBoth(pair.a, pair.b, { kind: 'replay', frames, repeat: 2 }, { kind: 'compare', frames, repeat: 2 });
      expect([...sent.errors, ...got.errors, got.malformed]).toEqual([0]);
      expect(got.details.expected).toBe(2 * frames.count);
      for (const close of closing.splice(0).reverse()) await close();
    }
  });

  it('uses four queue pairs, each flow of the answers on its own', async () => {
    const { a, b } = world(wire, legacy({ pairs: 4 }, { queuePairs: 4 }), legacy({ pairs: 4 }, { queuePairs: 4 }));
    expect([a.net.pairs, b.net.pairs]).toEqual([4, 4]);
    const count = 400;
    const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count, sizes: [200], burst: 25 }, { kind: 'sink', count });
    expect([...sent.errors, ...got.errors, got.details.lost]).toEqual([0]);
    expect(a.net.control?.setReceiveMode('all-multicast', true)).toBe(true);
  });

  it('is announced to and sees the link go', async () => {
    const { sides, a, b } = world(wire, legacy(), legacy());
    sides[0].net.setLink(false);
    await settle([a, b], 'the link to go', () => !a.net.configuration.linkUp);
    sides[0].net.setLink(true);
    await settle([a, b], 'the link to come back', () => a.net.configuration.linkUp);
    expect(sides[0].net.announce()).toBe(true);
    await settle([a, b], 'the acknowledgement', () => !sides[0].net.announcing);
  });

  it('is announced for, where it cannot do so itself', async () => {
    const { sides, a, b } = world(wire, legacy({ without: [F.GUEST_ANNOUNCE] }), legacy());
    b.start({ kind: 'sink' });
    expect([sides[0].net.announce(), sides[0].net.announcing]).toEqual([true, false]);
    await settle([a, b], 'the announcement', () => received(b) === 1);
  });

  it('goes on over a save and a restore', async () => {
    const device: Setup = legacy();
    let sides = machines(wire, device, device);
    const buses = sides.map((s) => new MovableBus(s.machine.localBus()));
    const [a, b] = sides.map((s, i) => new Guest(buses[i] as MovableBus, s.setup.guest)) as [Guest, Guest];
    const count = 2000;
    const sink = b.start({ kind: 'sink', count });
    const source = a.start({ kind: 'generate', count, sizes: [60, 1514] });
    await settle([a, b], 'half of the frames', () => sink.framesReceived >= count / 2);
    const saved: unknown[] = [];
    for (const { machine } of sides) saved.push(structuredClone(await machine.save({ memory: true, stay: 'paused' })));
    const rams = sides.map(({ machine }) => machine.memory);
    for (const { machine } of sides) await machine.close();
    sides = machines(wire, { ...device, memory: () => rams[0] as (typeof rams)[0] }, { ...device, memory: () => rams[1] as (typeof rams)[0] });
    for (const [i, { machine }] of sides.entries()) await machine.restore(saved[i], { stay: 'paused' });
    for (const { machine } of [...sides].reverse()) machine.resume();
    for (const [i, bus] of buses.entries()) bus.move((sides[i] as Side).machine.localBus());
    await settle([a, b], 'all frames', () => sink.done && source.done);
    expect([...sink.result().errors, sink.result().details.lost]).toEqual([0]);
  });
});
