import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostWorker } from '#backends/vhost-worker';
import { Bell } from '#core/doorbell';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import type { VhostBackend } from '#virtio/vhost';
import { eventually, eventuallyBlocking } from './eventually.ts';
import { frameOf, TestGuest } from './guest.ts';
import { Stream, streamThroughDeaths } from './stream.ts';

const FORMATS: [string, number[]][] = [
  ['split', []],
  ['split, event index', [VIRTIO_F_EVENT_IDX]],
  ['split, in order', [VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
];

const pools: VhostPool[] = [];
function pool(threads = 1): VhostPool {
  const made = new VhostPool({ threads });
  pools.push(made);
  return made;
}
afterEach(async () => {
  for (const p of pools.splice(0)) await p.close();
});

function pairOn(worker: VhostWorker, features: number[], options = {}) {
  const segment = worker.segment({ paused: true });
  const a = new TestGuest({ name: 'a', features, ...options });
  const b = new TestGuest({ name: 'b', features, ...options });
  const backendA = segment.port('a');
  const backendB = segment.port('b');
  a.attach(backendA);
  b.attach(backendB);
  segment.resume();
  return { a, b, segment, backendA, backendB };
}

describe.each(FORMATS)('vhost-net worker, %s', (_name, features) => {
  it('carries frames both ways at once, in order, byte for byte', async () => {
    const { a, b } = pairOn(pool().worker(), features);
    const there = new Stream(a, b);
    const back = new Stream(b, a);
    await eventually('2000 frames each way', () => {
      there.step(2000);
      back.step(2000);
      return there.received === 2000 && back.received === 2000 && there.completed === 2000;
    });
    expect(a.events.concat(b.events)).toEqual([]);
  });

  it('is stopped and observed without an event loop, and its position goes on elsewhere', async () => {
    const worker = pool().worker();
    const { a, b } = pairOn(worker, features);
    const stream = new Stream(a, b);
    await eventually('100 frames', () => {
      stream.step(100);
      return stream.received === 100;
    });
    for (let i = 0; i < 10; i++) stream.step(400);
    a.stop();
    b.stop();
    eventuallyBlocking('all rings stopped', () => [...a.states(), ...b.states()].every((s) => s === 'stopped'));
    const inline = new InlineSegment(new Segment(new DirectLink()), { paused: true });
    const positions = [a.positions(), b.positions()];
    a.attach(inline.port('a'), positions[0]);
    b.attach(inline.port('b'), positions[1]);
    inline.resume();
    await eventually('400 frames', () => {
      stream.step(400);
      return stream.received === 400 && stream.completed === 400;
    });
  });

  it('survives being killed in the middle of traffic: every frame arrives once', async () => {
    const p = pool();
    const worker = p.worker();
    const { a, b } = pairOn(worker, features);
    // More deaths than a DMA space has reader slots: each one's slot has to be freed.
    await streamThroughDeaths(a, b, p, features.length === 0 ? 18 : 8);
    expect([...a.events, ...b.events].filter((e) => e.kind === 'broken')).toEqual([]);
  }, 60_000);
});

describe('vhost-net worker', () => {
  it('moves between inline, worker and other worker under traffic, losing and repeating nothing', async () => {
    for (const features of [[VIRTIO_NET_F_MRG_RXBUF], [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]]) {
      const p = pool(2);
      const workers = [p.worker(), p.worker()];
      const a = new TestGuest({ name: 'a', features });
      const b = new TestGuest({ name: 'b', features });
      const stream = new Stream(a, b);
      const back = new Stream(b, a);
      let positions = [a.positions.length, b.positions.length] as unknown as [undefined, undefined];
      positions = [undefined, undefined];
      for (let move = 0; move < 12; move++) {
        const where = move % 3;
        if (where === 0) {
          const inline = new InlineSegment(new Segment(new DirectLink()), { paused: true });
          a.attach(inline.port('a'), positions[0]);
          b.attach(inline.port('b'), positions[1]);
          inline.resume();
        } else {
          const segment = (workers[where - 1] as VhostWorker).segment({ paused: true });
          a.attach(segment.port('a'), positions[0]);
          b.attach(segment.port('b'), positions[1]);
          segment.resume();
        }
        const goal = stream.received + 150;
        await eventually(`150 frames on stop ${move}`, () => {
          stream.step(1e9);
          back.step(1e9, 3);
          return stream.received >= goal;
        });
        a.stop();
        b.stop();
        await eventually('rings stopped', () => {
          stream.step(1e9);
          return [...a.states(), ...b.states()].every((s) => s === 'stopped');
        });
        positions = [a.positions(), b.positions()] as never;
      }
      const inline = new InlineSegment(new Segment(new DirectLink()), { paused: true });
      a.attach(inline.port('a'), positions[0]);
      b.attach(inline.port('b'), positions[1]);
      inline.resume();
      const goal = stream.sent;
      await eventually('the rest', () => {
        stream.step(goal);
        back.step(back.sent);
        return stream.received === goal && back.received === back.sent;
      });
    }
  }, 60_000);

  it('sleeps when idle, and a kick wakes it', async () => {
    const worker = pool().worker();
    const { a, b, backendA } = pairOn(worker, []);
    b.post();
    await eventually('the worker asleep', () => worker.statistics.sleeps > 0 && a.states()[1] === 'running' && backendA.ringStatistics(1)?.arms === 1);
    const { turns } = worker.statistics;
    for (let i = 0; i < 50; i++) await turn();
    expect(worker.statistics.turns - turns).toBeLessThan(100);
    expect(a.send(frameOf(60, 1))).toBe(true);
    await eventually('the frame', () => b.receive().length === 1);
    expect(backendA.ringStatistics(1)?.kicks).toBe(1);
    expect(backendA.counters.snapshot().transmitFrames).toBe(1);
  });

  it('holds for a receiver without buffers asleep, and goes on when it posts some', async () => {
    const worker = pool().worker();
    const { a, b } = pairOn(worker, [VIRTIO_F_EVENT_IDX, VIRTIO_NET_F_MRG_RXBUF], { bufferSize: 400 });
    b.post(2);
    a.send(frameOf(300, 1), frameOf(1500, 2));
    await eventually('the first', () => b.receive().length === 1);
    const { sleeps } = worker.statistics;
    await eventually('sleep while holding', () => worker.statistics.sleeps > sleeps);
    b.post(3);
    await eventually('the second', () => b.receive().length === 1);
  });

  it('lets go of a device that moved on: as many moves as one likes, and nobody detached', async () => {
    const worker = pool().worker();
    const lost: string[] = [];
    worker.onLost = (reason) => lost.push(reason);
    const a = new TestGuest({ name: 'a' });
    const b = new TestGuest({ name: 'b' });
    const stream = new Stream(a, b);
    let positions: ReturnType<TestGuest['positions']>[] = [];
    for (let move = 1; move <= 20; move++) {
      // Frames that come before the other end is there are for a cable that hangs in the air.
      const segment = worker.segment({ paused: true });
      a.attach(segment.port('a'), positions[0]);
      b.attach(segment.port('b'), positions[1]);
      segment.resume();
      await eventually(`traffic after move ${move}`, () => {
        stream.step(20 * move);
        return stream.received === 20 * move || lost.length > 0;
      });
      expect(lost).toEqual([]);
      a.stop();
      b.stop();
      eventuallyBlocking('all rings stopped', () => [...a.states(), ...b.states()].every((s) => s === 'stopped'));
      positions = [a.positions(), b.positions()];
    }
  });

  it('refuses a third port on a direct link where it is asked for, not on the thread that serves everybody', async () => {
    const worker = pool().worker();
    const lost: string[] = [];
    worker.onLost = (reason) => lost.push(reason);
    const { a, b, segment, backendB } = pairOn(worker, []);
    expect(() => segment.port('c')).toThrow(RangeError);
    expect(() => segment.link('c', new Bell())).toThrow(RangeError);
    const stream = new Stream(a, b);
    await eventually('50 frames', () => {
      stream.step(50);
      return stream.received === 50;
    });
    // A port that left makes room for another.
    b.stop();
    eventuallyBlocking('the rings of b have stopped', () => b.states().every((s) => s === 'stopped'));
    const positions = b.positions();
    backendB.detach();
    b.attach(segment.port('b again'), positions);
    await eventually('100 frames', () => {
      stream.step(100);
      return stream.received === 100;
    });
    expect(lost).toEqual([]);
  });

  it('starts no ring on a worker that has ended, and lets go of those it had', async () => {
    const worker = pool().worker();
    const { a, b } = pairOn(worker, []);
    await eventually('the rings run', () => [...a.states(), ...b.states()].every((s) => s === 'running'));
    await worker.stop();
    expect(() => a.start(a.positions())).toThrow(/has ended/);
    a.stop();
    b.stop();
    eventuallyBlocking('no ring is still to stop', () => [...a.states(), ...b.states()].every((s) => s === 'stopped' || s === 'lost'));
  });

  it('serves several segments, and reports a broken ring as an event', async () => {
    const worker = pool().worker();
    const one = pairOn(worker, []);
    const two = pairOn(worker, [VIRTIO_F_RING_PACKED]);
    const streams = [new Stream(one.a, one.b), new Stream(two.a, two.b)];
    await eventually('500 frames on each', () => {
      for (const stream of streams) stream.step(500);
      return streams.every((s) => s.received === 500);
    });
    one.a.queueChain([{ address: 2 ** 41, length: 64 }]);
    one.a.show();
    await eventually('the event', () => one.a.events.length > 0);
    expect(one.a.events).toMatchObject([{ kind: 'broken', index: 1 }]);
    expect(one.a.states()).toEqual(['running', 'broken']);
    two.a.send(frameOf(60, 500));
    await eventually('the other segment lives', () => two.b.receive().length === 1);
  });

  it('takes a device off a segment in the middle of traffic, and its memory with it (CVE-2023-3301)', async () => {
    const worker = pool().worker();
    const segment = worker.segment({ kind: 'switch' });
    const [a, b, c] = ['a', 'b', 'c'].map((name) => new TestGuest({ name })) as [TestGuest, TestGuest, TestGuest];
    const backends = [a, b, c].map((guest) => segment.port(guest.name));
    [a, b, c].forEach((guest, i) => {
      guest.attach(backends[i] as VhostBackend);
    });
    let arrived = 0;
    const step = (receivers = [b, c]): void => {
      a.reap();
      for (let i = 0; i < 8; i++) a.queue(frameOf(60, i));
      a.show();
      for (const guest of receivers) {
        arrived += guest.receive().length;
        guest.post();
      }
    };
    await eventually('traffic', () => {
      step();
      return arrived > 200;
    });
    b.stop();
    await eventually('b stopped', () => {
      step();
      return b.states().every((state) => state === 'stopped');
    });
    backends[1]?.detach();
    // Taking the memory away waits for readers: none may be left.
    b.dma.busMaster = false;
    b.bytes.fill(0);
    const before = arrived;
    await eventually('the others go on', () => {
      step([c]);
      return arrived > before + 200;
    });
    expect(b.bytes.every((byte) => byte === 0)).toBe(true);
    expect([...a.events, ...c.events]).toEqual([]);
  });

  it('joins a port of this thread to a segment: frames both ways, held when full', async () => {
    const worker = pool().worker();
    const segment = worker.segment();
    const guest = new TestGuest({ name: 'a', size: 256 });
    guest.attach(segment.port('a'));
    const bell = new Bell();
    const near = segment.link('host', bell, { bytes: 1 << 17 });
    // On this thread, an inline segment joins the link to a second guest.
    const other = new TestGuest({ name: 'b', size: 256 });
    const inline = new InlineSegment(new Segment(new DirectLink()));
    inline.addPort(near);
    other.attach(inline.port('b'));
    const there = new Stream(guest, other);
    const back = new Stream(other, guest);
    await eventually('1500 frames each way', () => {
      there.step(1500, 64);
      back.step(1500, 64);
      inline.wake(near);
      return there.received === 1500 && back.received === 1500;
    });
  });
});
