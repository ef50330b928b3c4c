// A worker whose time is told goes by it alone, and `quiesce` is exact: what was rung before it is done, and what the thread had to say is heard. Nothing here waits by the wall's clock.

import { afterEach, expect, it } from 'vitest';
import { VhostPool, type VhostPoolOptions } from '#backends/vhost-pool';
import { ToldTime } from '#core/clock';
import { VIRTIO_NET_F_NOTF_COAL } from '#virtio/net-features';
import { frameOf, TestGuest } from './guest.ts';

const pools: VhostPool[] = [];
afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
});

function pair(options: VhostPoolOptions = {}) {
  const pool = new VhostPool(options);
  pools.push(pool);
  const worker = pool.worker();
  const segment = worker.segment();
  const a = new TestGuest({ name: 'a' });
  const b = new TestGuest({ name: 'b', features: [VIRTIO_NET_F_NOTF_COAL] });
  a.attach(segment.port('a'));
  b.attach(segment.port('b'));
  b.post();
  return { pool, worker, a, b };
}

it('has moved every frame that was rung for, each time', async () => {
  const { worker, a, b } = pair({ poll: { maximum: 0 } });
  for (let n = 1; n <= 50; n++) {
    a.send(frameOf(64, n), frameOf(1514, n));
    await worker.quiesce();
    expect([a.reap(), b.receive().length]).toEqual([2, 2]);
    b.post();
  }
});

it('holds also where the thread polls', async () => {
  const { worker, a, b } = pair({ poll: { maximum: 200_000, minimum: 100_000 } });
  for (let n = 1; n <= 20; n++) {
    a.send(frameOf(64, n));
    await worker.quiesce();
    expect(b.receive()).toHaveLength(1);
    b.post();
  }
});

it('puts interrupts off until told that it is time', async () => {
  const time = new ToldTime();
  const { worker, a, b } = pair({ poll: { maximum: 0 }, time });
  b.dma.betweenTurns(() => b.policy.update((p) => p.setCoalescing(0, 15, 10)));
  b.backend?.policyChanged();
  const interrupts = async (): Promise<number | undefined> => {
    await worker.quiesce();
    return b.calls[0]?.counts.signals;
  };
  a.send(frameOf(64, 1));
  expect(await interrupts()).toBe(0);
  // Longer than the ten microseconds it would have taken, on the wall.
  await new Promise((done) => setTimeout(done, 5));
  expect(await interrupts()).toBe(0);
  time.tell(9_999);
  expect(await interrupts()).toBe(0);
  time.tell(10_000);
  expect(await interrupts()).toBe(1);
});

it('has been told of a ring that broke', async () => {
  const { worker, a } = pair();
  // A list of descriptors that has no end.
  a.queue(frameOf(64, 1));
  const at = a.setups[1]?.descriptorArea as number;
  const view = new DataView(a.bytes.buffer);
  view.setUint16(at + 12, 1, true);
  view.setUint16(at + 14, 0, true);
  a.show();
  await worker.quiesce();
  expect(a.events).toMatchObject([{ kind: 'broken', index: 1 }]);
});

it('ends when the worker has', async () => {
  const { pool, worker } = pair();
  await pool.close();
  await worker.quiesce();
  expect(worker.serving).toBe(false);
});
