// The worker loop, run on this thread, is made to die at every single atomic operation it does, one run each: after each death the host recovers, the devices
// start their rings again, and every frame has to arrive exactly once. What lies between two atomic operations is plain stores nobody else looks at yet.

import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostWorker } from '#backends/vhost-worker';
import type { WorkerJob } from '#backends/worker-job';
import { WorkerLoop } from '#backends/worker-loop';
import { Bell } from '#core/doorbell';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import { TestGuest } from './guest.ts';
import { Stream } from './stream.ts';

type AtomicName = 'add' | 'and' | 'compareExchange' | 'exchange' | 'load' | 'notify' | 'or' | 'store' | 'sub';
const NAMES: AtomicName[] = ['add', 'and', 'compareExchange', 'exchange', 'load', 'notify', 'or', 'store', 'sub'];
const real = Object.fromEntries([...NAMES, 'wait' as const].map((name) => [name, Atomics[name]])) as unknown as typeof Atomics;

function restore(): void {
  for (const name of [...NAMES, 'wait' as const]) (Atomics as unknown as Record<string, unknown>)[name] = real[name];
}
afterEach(restore);

class Died extends Error {}

/** Runs `work` with a count of its atomic operations, dying at number `fatal`; `asleep` is called in place of sleeping. */
function withDeath(fatal: number, asleep: () => void, work: () => void, counted: (operations: number) => void): void {
  let count = 0;
  for (const name of NAMES)
    (Atomics as unknown as Record<string, unknown>)[name] = (...args: unknown[]): unknown => {
      if (++count === fatal) throw new Died(`at atomic operation ${fatal}`);
      return (real[name] as (...args: unknown[]) => unknown)(...args);
    };
  (Atomics as unknown as Record<string, unknown>).wait = (): string => {
    asleep();
    return 'timed-out';
  };
  try {
    work();
  } finally {
    restore();
    counted(count);
  }
}

const FRAMES = 7;

/** One life with a death at `fatal` (0: none). Returns how many atomic operations the first run did. */
async function live(features: readonly number[], fatal: number, viaLink = false): Promise<number> {
  let operations = 0;
  let runs = 0;
  const asleep = (): void => {
    throw new Died('asleep');
  };
  const task = async (job: WorkerJob) => {
    await turn();
    const mine = ++runs;
    let result = { turns: 0 };
    const run = (): void => {
      result = new WorkerLoop(job).run();
    };
    withDeath(mine === 1 ? fatal : 0, asleep, run, (count) => {
      if (mine === 1) operations = count;
    });
    return result;
  };
  const worker = new VhostWorker(task, { maximum: 0 });
  const segment = worker.segment();
  const mergeable = features.includes(VIRTIO_NET_F_MRG_RXBUF);
  const options = { features, size: 16, bufferSize: mergeable ? 700 : 2048 };
  const a = new TestGuest({ name: 'a', ...options });
  const b = new TestGuest({ name: 'b', ...options });
  a.attach(segment.port('a'));
  let host = (): void => {};
  if (viaLink) {
    // The second guest is served on this thread, which does not die, and joined by a frame ring.
    const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    const near = segment.link('host', new Bell(), { bytes: 1 << 17 });
    inline.addPort(near);
    b.attach(inline.port('b'));
    host = () => inline.wake(near);
  } else b.attach(segment.port('b'));
  for (const guest of [a, b])
    if (guest.backend)
      guest.backend.onEvent = (event) => {
        guest.events.push(event);
        // Runs that only fall asleep look like runs that die for nothing; after several of them in a row, when all is done, the worker gives up.
        if (event.kind === 'lost' && worker.serving) guest.start(guest.positions());
      };
  const there = new Stream(a, b);
  const back = new Stream(b, a);
  a.post();
  b.post();
  there.step(FRAMES, FRAMES);
  back.step(2, 2);
  // A run ends by its death, or by falling asleep with nothing left, which ends it here as well; the next run begins by itself.
  for (let i = 0; i < 200 && !(there.completed === FRAMES && there.received === FRAMES && back.received === 2); i++) {
    await turn();
    host();
    there.take();
    back.take();
    there.completed += a.reap();
  }
  expect({ received: there.received, completed: there.completed, back: back.received }, `death at atomic operation ${fatal}`).toEqual({
    received: FRAMES,
    completed: FRAMES,
    back: 2,
  });
  // Nothing more comes: no frame twice.
  for (let i = 0; i < 4; i++) {
    await turn();
    host();
  }
  there.take();
  back.take();
  expect([there.received, back.received]).toEqual([FRAMES, 2]);
  expect([...a.events, ...b.events].filter((e) => e.kind === 'broken')).toEqual([]);
  await worker.stop();
  return operations;
}

describe.each([
  ['split', [VIRTIO_NET_F_MRG_RXBUF]],
  ['split, in order, event index', [VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
] as [string, number[]][])('a worker dying anywhere, %s', (_name, features) => {
  it('delivers every frame exactly once', async () => {
    const operations = await live(features, 0);
    expect(operations).toBeGreaterThan(100);
    for (let fatal = 1; fatal <= operations; fatal++) await live(features, fatal);
  }, 60_000);

  it('does so through a frame ring as well', async () => {
    const operations = await live(features, 0, true);
    expect(operations).toBeGreaterThan(100);
    for (let fatal = 1; fatal <= operations; fatal++) await live(features, fatal, true);
  }, 60_000);
});
