import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { RestoreError, unseal } from '#core/saved';
import type { VirtioNet } from '#devices/virtio-net/device';
import { Guest } from '#guest-sim/guest';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { type Link, MovableBus, makeLink, makeSide, type Plane, RAM_SIZE, type Side } from './pair.ts';

const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

interface World {
  link: Link;
  a: Side;
  b: Side;
}

function build(plane: Plane, rams: readonly SharedArrayBuffer[]): World {
  const link = makeLink(plane);
  closing.push(() => link.close());
  const [a, b] = [makeSide(link, 'a', rams[0] as SharedArrayBuffer), makeSide(link, 'b', rams[1] as SharedArrayBuffer)];
  closing.push(
    () => a.machine.close(),
    () => b.machine.close(),
  );
  return { link, a, b };
}

/** Steps both guests until `condition`, giving the event loop its turns. */
async function stepUntil(guests: readonly Guest[], what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited 20 s for ${what}: ${JSON.stringify(guests.map((g) => g.report()))}`);
    let busy = false;
    for (const guest of guests) if (guest.step()) busy = true;
    if (!busy) await new Promise((resolve) => setImmediate(resolve));
  }
}

const MOVES: readonly (readonly [Plane, Plane])[] = [
  ['inline', 'inline'],
  ['inline', 'vhost-net'],
  ['vhost-net', 'inline'],
  ['vhost-net', 'vhost-net'],
  ['vdpa', 'vdpa'],
  ['vdpa-shadow', 'vdpa-shadow'],
];

describe.each(['split', 'packed'] as const)('%s rings', (ring) => {
  it.each(MOVES)('machines saved mid-traffic over %s and restored over %s lose and repeat no frame', async (from, to) => {
    const rams = [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)];
    let world = build(from, rams);
    const buses = [new MovableBus(world.a.machine.localBus()), new MovableBus(world.b.machine.localBus())] as const;
    const [a, b] = buses.map((bus) => new Guest(bus, { net: { ring } })) as [Guest, Guest];
    const count = 6000;
    const sink = b.start({ kind: 'sink', count });
    const source = a.start({ kind: 'generate', count, sizes: [60, 61, 200, 1514, 700] });

    for (const at of [count / 4, count / 2, (3 * count) / 4]) {
      await stepUntil([a, b], `${at} frames at B`, () => sink.framesReceived >= at);
      expect(sink.done).toBe(false);
      // The guests stand still; the machines go, RAM and all.
      const saved = [];
      for (const { machine } of [world.a, world.b]) saved.push(structuredClone(await machine.save({ memory: true, stay: 'paused' })));
      for (const { machine } of [world.a, world.b]) await machine.close();
      await world.link.close();
      for (const ram of rams) new Uint8Array(ram).fill(0xa5);

      world = build(world.link.pool ? (to === 'inline' ? 'inline' : from) : to, rams);
      // Both before either goes on: a frame to a device that is not up is dropped, as on any network.
      await world.a.machine.restore(saved[0], { stay: 'paused' });
      await world.b.machine.restore(saved[1], { stay: 'paused' });
      for (const { machine } of [world.b, world.a]) machine.resume();
      buses[0].move(world.a.machine.localBus());
      buses[1].move(world.b.machine.localBus());
    }
    await stepUntil([a, b], 'all frames', () => sink.done && source.done);
    // A frame too many would be waiting behind the last.
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
    a.step();
    b.step();
    const [sent, got] = [a.report(), b.report()];
    expect([...sent.errors, ...got.errors]).toEqual([]);
    expect([sent.framesSent, got.framesReceived, got.details.lost]).toEqual([count, count, 0]);
  });
});

it('saving without a move goes on as if nothing had happened', async () => {
  const world = build('inline', [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)]);
  const [a, b] = [new Guest(world.a.machine.localBus()), new Guest(world.b.machine.localBus())];
  const sink = b.start({ kind: 'sink', count: 3000 });
  a.start({ kind: 'generate', count: 3000 });
  for (const at of [500, 1500]) {
    await stepUntil([a, b], `${at} frames`, () => sink.framesReceived >= at);
    const { memory } = unseal(await world.a.machine.save(), 'machine', 1) as { memory: unknown };
    expect(memory).toBeNull();
  }
  await stepUntil([a, b], 'all frames', () => sink.done);
  expect(b.report().errors).toEqual([]);
});

it('a machine whose devices came and went is restored into one built with what is left', async () => {
  const segment = new InlineSegment(new Segment(new LearningSwitch()));
  const add = (m: Machine, deviceNumber: number): VirtioNet =>
    m.addVirtioNet({ mac: `52:54:00:00:00:0${deviceNumber}`, backend: segment.port(`${deviceNumber}`) }, { deviceNumber }).net;
  const [old, young] = [new Machine({ memory: RAM_SIZE }), new Machine({ memory: RAM_SIZE })];
  closing.push(
    () => old.close(),
    () => young.close(),
  );
  const { pci } = old.addVirtioNet({ mac: '52:54:00:00:00:01', backend: segment.port('gone') }, { deviceNumber: 1 });
  const second = add(old, 2);
  old.detach(pci.fn);
  add(old, 1);
  second.setLink(false);
  const nets = [1, 2].map((number) => add(young, number));
  await young.restore(await old.save());
  expect(nets.map((net) => net.linkUp)).toEqual([true, false]);
});

it('saves asked for at once take turns', async () => {
  const world = build('vhost-net', [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)]);
  new Guest(world.a.machine.localBus());
  const [first, second] = await Promise.all([world.a.machine.save(), world.a.machine.save()]);
  expect(second).toEqual(first);
  expect(world.a.net.paused).toBe(false);
});

describe('what is refused', () => {
  async function saved(): Promise<unknown> {
    const world = build('inline', [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)]);
    const guest = new Guest(world.a.machine.localBus());
    guest.step();
    return structuredClone(await world.a.machine.save({ memory: true }));
  }

  type Spoiler = (state: {
    parts: { name: string; state: unknown }[];
    vectors: unknown;
    fabric: unknown;
    memory: { ranges: { size: number }[]; chunks: { address: number }[] };
  }) => void;

  it.each<[string, Spoiler]>([
    ['another device', (s) => Object.assign(s.parts[0] as object, { name: 'e1000 0' })],
    ['a device too few', (s) => void s.parts.pop()],
    ['a device state of nothing', (s) => Object.assign(s.parts[0] as object, { state: null })],
    ['no pending interrupts', (s) => Object.assign(s, { vectors: [] })],
    ['pending interrupts out of range', (s) => Object.assign(s, { vectors: [0, 0, 0, 0, 0, 0, 0, 2 ** 32] })],
    ['another fabric', (s) => Object.assign(s, { fabric: { part: 'pci-fabric', version: 1, state: { functions: [] } } })],
    ['other RAM', (s) => Object.assign(s.memory.ranges[0] as object, { size: 4096 })],
    ['RAM where there is none', (s) => Object.assign(s.memory.chunks[0] as object, { address: RAM_SIZE })],
    ['RAM at a fraction', (s) => Object.assign(s.memory.chunks[0] as object, { address: 0.5 })],
  ])('%s: and the machine goes on as it was', async (_, spoil) => {
    const record = (await saved()) as { state: Parameters<Spoiler>[0] };
    spoil(record.state);
    const world = build('inline', [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)]);
    const [a, b] = [new Guest(world.a.machine.localBus()), new Guest(world.b.machine.localBus())];
    const sink = b.start({ kind: 'sink', count: 1000 });
    a.start({ kind: 'generate', count: 1000 });
    await stepUntil([a, b], 'half the frames', () => sink.framesReceived >= 500);
    await expect(world.a.machine.restore(record)).rejects.toThrow(RestoreError);
    await stepUntil([a, b], 'all frames', () => sink.done);
    expect(b.report().errors).toEqual([]);
  });

  it.each([null, undefined, 7, 'machine', {}, [], { part: 'machine', version: 2, state: {} }, { part: 'machine', version: 1, state: null }])(
    '%j',
    async (record) => {
      const machine = new Machine({ memory: 2 ** 20 });
      closing.push(() => machine.close());
      await expect(machine.restore(record)).rejects.toThrow(RestoreError);
    },
  );
});

/** Every place in a record where something can be put. */
function* places(value: unknown): Generator<[Record<string | number, unknown>, string | number]> {
  if (typeof value !== 'object' || value === null) return;
  const keys: (string | number)[] = ArrayBuffer.isView(value) ? [0, (value as Uint8Array).length >> 1] : Object.keys(value);
  for (const key of keys) {
    yield [value as Record<string | number, unknown>, key];
    yield* places((value as Record<string | number, unknown>)[key]);
  }
}

it('a record changed anywhere is refused as such or makes a machine that works: nothing else is thrown', async () => {
  const world = build('inline', [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)]);
  const { machine } = world.a;
  const guest = new Guest(machine.localBus());
  guest.step();
  const good = await machine.save();
  const count = [...places(good)].length;
  expect(count).toBeGreaterThan(100);
  const junk: unknown[] = [null, undefined, -1, 0.5, Number.NaN, 2 ** 40, 'x', {}, [], new Uint8Array(3), 3n];
  let refused = 0;
  for (let n = 0; n < count * junk.length; n++) {
    const i = Math.floor(n / junk.length);
    const record = structuredClone(good);
    const [holder, key] = [...places(record)][i] as [Record<string | number, unknown>, string | number];
    const value = junk[n % junk.length];
    if (ArrayBuffer.isView(holder)) holder[key] = 0xff;
    else holder[key] = value;
    try {
      await machine.restore(record);
    } catch (error) {
      expect(error, `place ${i}, ${String(key)} = ${String(value)}`).toBeInstanceOf(RestoreError);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(count);
  await machine.restore(good);
  expect((await machine.save()).state).toEqual(good.state);
});

describe('dirty pages', () => {
  it.each(['inline', 'vhost-net', 'vdpa', 'vdpa-shadow'] as const)('are exactly those a device wrote while the guest stood still, over %s', async (plane) => {
    const rams = [new SharedArrayBuffer(RAM_SIZE), new SharedArrayBuffer(RAM_SIZE)];
    const world = build(plane, rams);
    const [a, b] = [new Guest(world.a.machine.localBus()), new Guest(world.b.machine.localBus())];
    b.step();
    const source = a.start({ kind: 'generate', count: 100, sizes: [1000] });
    await world.b.machine.pause();
    const before = new Uint8Array(rams[1] as SharedArrayBuffer).slice();
    world.b.machine.dirty.start();
    world.b.machine.resume();
    await stepUntil([a], 'A to be rid of its frames', () => source.done);
    await world.b.machine.pause();
    const dirty = new Set(world.b.machine.dirty.take());
    const after = new Uint8Array(rams[1] as SharedArrayBuffer);
    const changed: number[] = [];
    for (let page = 0; page < RAM_SIZE; page += 4096)
      if (Buffer.compare(before.subarray(page, page + 4096), after.subarray(page, page + 4096)) !== 0) changed.push(page);
    expect(changed.length).toBeGreaterThan(25);
    expect(changed.filter((page) => !dirty.has(page))).toEqual([]);
    // Some pages may be written with what was there: no more than the rings and the headers of frames.
    expect(dirty.size).toBeLessThanOrEqual(changed.length + 104);
    world.b.machine.dirty.stop();
    world.b.machine.resume();
  });
});
