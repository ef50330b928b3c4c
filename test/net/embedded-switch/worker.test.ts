// The switch's data side on a worker thread, its control on this one: frames through shared tables, settings and rules that change meanwhile, representors that end here.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RingLink } from '#backends/ring-link';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment } from '#backends/vhost-worker';
import { Bell } from '#core/doorbell';
import { PortCounters } from '#net/counters';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { SlowPath } from '#net/embedded-switch/slow-path';
import { Segment } from '#net/segment';
import { MemoryPort } from '../memory-port.ts';
import { macOf, plain } from './rig.ts';

/** Longest wait for the other thread, in milliseconds. */
const PATIENCE = 10_000;

describe('on a worker', () => {
  let pool: VhostPool;
  beforeAll(() => {
    pool = new VhostPool();
  });
  afterAll(() => pool.close());

  /** A port of the worker's segment whose far end is a memory port here. */
  function end(segment: VhostSegment, name: string): { port: MemoryPort; serve: () => void } {
    const here = new Segment({
      maximumPorts: 2,
      relay: (batch, needs, source, s) => s.offer(batch, needs, 0, batch.count, source, 1 - source),
      detach: () => {},
    });
    const link: RingLink = segment.link(name, new Bell());
    const port = new MemoryPort(name);
    here.addPort(port);
    here.addPort(link);
    return {
      port,
      serve() {
        here.wake(0);
        here.wake(1);
        here.service();
        here.rest();
      },
    };
  }

  async function until(what: string, ends: readonly { serve: () => void }[], done: () => boolean): Promise<void> {
    const deadline = Date.now() + PATIENCE;
    while (!done()) {
      if (Date.now() > deadline) throw new Error(`waited ${PATIENCE} ms for ${what}`);
      for (const one of ends) one.serve();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  it('forwards by tables that change while frames pass, each change in force when it has returned', async () => {
    const nic = new EmbeddedSwitch({ functions: 2, mode: 'switchdev' });
    const worker = pool.worker();
    const segment = worker.segment({ kind: nic.share });
    const [vf0, vf1, uplink] = ['vf0', 'vf1', 'uplink0'].map((name) => end(segment, name)) as [
      ReturnType<typeof end>,
      ReturnType<typeof end>,
      ReturnType<typeof end>,
    ];
    const reps = ['vf0-rep', 'vf1-rep', 'uplink0-rep'].map((name) => ({ name, bell: new Bell() })).map(({ name, bell }) => segment.link(name, bell));
    const ends = [vf0, vf1, uplink];
    let rule = nic.root.addRule({ match: { port: 'vf0' }, actions: [{ kind: 'forward', to: 'vf1' }] });
    const SENT = 2000;
    for (let i = 0; i < SENT; i++) vf0.port.outbox.push({ bytes: plain(i) });
    await until('the first frames', ends, () => vf1.port.inbox.length >= 100);
    // From one port to the other and back while they pass: every frame goes to one of the two, in order.
    for (let change = 0; change < 40; change++) {
      rule.remove();
      rule = nic.root.addRule({ match: { port: 'vf0' }, actions: [{ kind: 'forward', to: change % 2 === 0 ? 'uplink0' : 'vf1' }], priority: 1 });
      for (const one of ends) one.serve();
      await new Promise((resolve) => setImmediate(resolve));
    }
    const seen = (): number => vf1.port.inbox.length + uplink.port.inbox.length + nic.portStatistics('vf0').misses;
    await until('all frames', [...ends, { serve: () => reps.forEach(drain) }], () => seen() === SENT);
    const numbers = (port: MemoryPort): number[] => port.inbox.map(({ bytes }) => ((bytes[14] as number) << 8) | (bytes[15] as number));
    for (const list of [numbers(vf1.port), numbers(uplink.port)]) expect(list).toEqual([...list].sort((a, b) => a - b));
    expect(nic.portStatistics('vf0')).toMatchObject({ frames: SENT, forwarded: SENT, dropped: 0 });
    // A change has been made when it returns: nothing sent after it goes the old way.
    const before = numbers(vf1.port).length;
    rule.remove();
    nic.root.addRule({ match: { port: 'vf0' }, actions: [{ kind: 'forward', to: 'uplink0' }] });
    for (let i = 0; i < 50; i++) vf0.port.outbox.push({ bytes: plain(i) });
    const target = uplink.port.inbox.length + 50;
    await until('frames after the change', ends, () => uplink.port.inbox.length === target);
    expect(vf1.port.inbox.length).toBe(before);
    await worker.stop();
  });

  it('paces a port whose worker sleeps meanwhile', async () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    for (const vf of [0, 1]) nic.configurePort(`vf${vf}`, { mac: macOf(vf) });
    // A byte a microsecond: beyond the burst 30 frames take about 2 ms each way of looking at it.
    nic.configurePort('vf0', { maximumRate: 8e6 });
    const another = new VhostPool();
    const worker = another.worker();
    const segment = worker.segment({ kind: nic.share });
    const [vf0, vf1] = ['vf0', 'vf1'].map((name) => end(segment, name)) as [ReturnType<typeof end>, ReturnType<typeof end>];
    const burst = Math.floor(65_536 / 62) + 1;
    for (let i = 0; i < burst + 30; i++) vf0.port.outbox.push({ bytes: plain(1, { to: macOf(1) }) });
    const start = performance.now();
    await until('all frames', [vf0, vf1], () => vf1.port.inbox.length === burst + 30);
    expect(performance.now() - start).toBeGreaterThan(1.5);
    await another.close();
  });

  it('sends misses to a slow path on this thread, whose rules take over there', async () => {
    const nic = new EmbeddedSwitch({ functions: 2, mode: 'switchdev' });
    const another = new VhostPool();
    const worker = another.worker();
    const segment = worker.segment({ kind: nic.share });
    const [vf0, vf1] = ['vf0', 'vf1'].map((name) => end(segment, name)) as [ReturnType<typeof end>, ReturnType<typeof end>];
    const slow = new SlowPath(nic);
    const software = new Segment(slow);
    for (const name of ['vf0-rep', 'vf1-rep']) software.addPort(segment.link(name, new Bell()));
    const serve = {
      serve() {
        for (const { index } of software.ports) software.wake(index);
        software.service();
        software.rest();
      },
    };
    const ends = [vf0, vf1, serve];
    for (let n = 0; n < 4; n++)
      for (const [from, to, source, target] of [
        [vf0, vf1, 0, 1],
        [vf1, vf0, 1, 0],
      ] as const) {
        const expected = to.port.inbox.length + 1;
        from.port.outbox.push({ bytes: plain(n, { from: macOf(source), to: macOf(target) }) });
        await until('a frame', ends, () => to.port.inbox.length === expected);
      }
    expect(nic.root.rules.length).toBe(2);
    for (let n = 0; n < 100; n++) vf0.port.outbox.push({ bytes: plain(n, { to: macOf(1) }) });
    await until('offloaded frames', ends, () => vf1.port.inbox.length === 104);
    const { misses } = nic.portStatistics('vf0');
    expect(misses).toBeLessThanOrEqual(3);
    const flow = slow.flows.get(`vf0 ${macOf(0)} > ${macOf(1)} 0`);
    expect((flow?.slow.frames ?? 0) + (flow?.fast.frames ?? 0)).toBe(103);
    slow.close();
    await another.close();
  });

  it('goes on with the same tables on a new thread when the worker dies', async () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    for (const vf of [0, 1]) nic.configurePort(`vf${vf}`, { mac: macOf(vf), spoofCheck: true });
    const another = new VhostPool();
    const worker = another.worker();
    const lost = new Promise<void>((resolve) => {
      worker.onLost = () => resolve();
    });
    const segment = worker.segment({ kind: nic.share });
    const [vf0, vf1] = ['vf0', 'vf1'].map((name) => end(segment, name)) as [ReturnType<typeof end>, ReturnType<typeof end>];
    vf0.port.outbox.push({ bytes: plain(1, { to: macOf(1) }) });
    await until('a frame', [vf0, vf1], () => vf1.port.inbox.length === 1);
    await another.kill();
    await lost;
    nic.configurePort('vf0', { vlan: { id: 4 } });
    nic.configurePort('vf1', { vlan: { id: 4 } });
    vf0.port.outbox.push({ bytes: plain(2, { to: macOf(1) }) }, { bytes: plain(3, { to: macOf(1), from: macOf(9) }) });
    await until('a frame of the new run', [vf0, vf1], () => vf1.port.inbox.length === 2 && nic.portStatistics('vf0').dropped === 1);
    expect(nic.portStatistics('vf0')).toMatchObject({ frames: 3, forwarded: 2, drops: { 'spoofed-mac': 1 } });
    await another.close();
  });

  it('is changed without a wait for a worker that died in the middle of a batch', async () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    for (const vf of [0, 1]) nic.configurePort(`vf${vf}`, { mac: macOf(vf) });
    const another = new VhostPool({ entry: new URL('./stuck-worker.mjs', import.meta.url) });
    const worker = another.worker();
    const lost = new Promise<void>((resolve) => {
      worker.onLost = () => resolve();
    });
    const segment = worker.segment({ kind: nic.share });
    const vf0 = end(segment, 'vf0');
    const words = new Int32Array(new SharedArrayBuffer(4));
    segment.openPort({ name: 'vf1', kind: 'stuck', share: words, counters: new PortCounters(), recover: () => {}, lost: () => {} });
    vf0.port.outbox.push({ bytes: plain(1, { to: macOf(1) }) });
    await until('the thread to be stuck in a batch', [vf0], () => Atomics.load(words, 0) === 1);
    const inside = (): boolean => readers(nic.share.lock).some((reader) => reader > 0);
    expect(inside()).toBe(true);
    await another.kill();
    await lost;
    // What a change waits for, two seconds at most.
    expect(inside()).toBe(false);
    nic.configurePort('vf0', { spoofCheck: true });
    await another.close();
  });
});

/** The reader words of a DMA table (dma-table.ts): above 0 inside a turn. */
const readers = (lock: SharedArrayBuffer): number[] => [...new Int32Array(lock, 8 * 4, 16)];

function drain(link: RingLink): void {
  const sink = new Segment({ maximumPorts: 2, relay: (batch) => batch.count, detach: () => {} });
  sink.addPort(link);
  sink.service();
}
