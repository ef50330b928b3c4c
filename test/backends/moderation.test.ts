// Notification coalescing (virtio 1.4 5.1.9.5.10) in the data plane: when the driver is interrupted, by the device's clock inline and by wall time on a worker.
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { SimClock } from '#core/clock';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_NOTF_COAL } from '#virtio/net-features';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { eventually, eventuallyBlocking } from './eventually.ts';
import { frameOf, listen, TestGuest } from './guest.ts';

const FORMATS: [string, number[]][] = [
  ['split', []],
  ['split, event index', [VIRTIO_F_EVENT_IDX]],
  ['split, in order', [VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
];

const US = 1000;

function coalesce(guest: TestGuest, ring: number, packets: number, usecs: number): void {
  guest.dma.betweenTurns(() => guest.policy.update((p) => p.setCoalescing(ring, packets, usecs)));
  guest.backend?.policyChanged();
}

/** It asks not to be, and will look by itself. */
function ignore(guest: TestGuest, ring: number): void {
  const driver = guest.drivers[ring];
  if (driver instanceof PackedDriver) driver.setEvent(1);
  else if (guest.features.has(VIRTIO_F_EVENT_IDX)) driver?.setUsedEvent((driver.usedIdx + 0x8000) & 0xffff);
  else driver?.setInterruptFlag(true);
}

/** Takes what came, as a driver does when it is interrupted. */
function take(guest: TestGuest): number {
  const frames = guest.receive().length;
  guest.post();
  listen(guest, 0);
  return frames;
}

const interrupts = (guest: TestGuest, ring: number): number => guest.calls[ring]?.counts.signals ?? -1;

function pair(features: number[], options: Partial<ConstructorParameters<typeof TestGuest>[0]> = {}) {
  const clock = new SimClock();
  const inline = new InlineSegment(new Segment(new DirectLink(), { clock }), { defer: () => {} });
  const a = new TestGuest({ name: 'a', features: [...features, VIRTIO_NET_F_NOTF_COAL], clock, ...options });
  const b = new TestGuest({ name: 'b', features: [...features, VIRTIO_NET_F_NOTF_COAL], clock, ...options });
  a.attach(inline.port('a'));
  b.attach(inline.port('b'));
  b.post();
  let seed = 0;
  const send = (count: number): void => {
    for (let i = 0; i < count; i++) {
      a.send(frameOf(64, seed++));
      a.reap();
      listen(a, 1);
    }
  };
  listen(b, 0);
  listen(a, 1);
  return { a, b, clock, send };
}

describe.each(FORMATS)('inline, %s', (_name, features) => {
  it('interrupts after max_packets, and starts counting again', () => {
    const { b, send } = pair(features);
    coalesce(b, 0, 15, 10);
    send(14);
    expect(interrupts(b, 0)).toBe(0);
    send(1);
    expect(interrupts(b, 0)).toBe(1);
    take(b);
    send(15);
    expect(interrupts(b, 0)).toBe(2);
  });

  it('interrupts max_usecs after the first packet that was not told of, whichever comes first', () => {
    const { b, clock, send } = pair(features);
    coalesce(b, 0, 15, 10);
    // The command starts no timer.
    clock.advance(50 * US);
    send(1);
    clock.advance(9 * US);
    send(1);
    expect(interrupts(b, 0)).toBe(0);
    clock.advance(1 * US - 1);
    expect(interrupts(b, 0)).toBe(0);
    clock.advance(1);
    expect(interrupts(b, 0)).toBe(1);
    expect(take(b)).toBe(2);
    clock.advance(1000 * US);
    expect(interrupts(b, 0)).toBe(1);
    send(1);
    clock.advance(10 * US);
    expect(interrupts(b, 0)).toBe(2);
  });

  it('does the same for transmission, each queue by itself', () => {
    const { a, b, clock, send } = pair(features);
    coalesce(a, 1, 4, 100);
    send(3);
    expect(interrupts(a, 1)).toBe(0);
    expect(interrupts(b, 0)).toBeGreaterThan(0);
    send(1);
    expect(interrupts(a, 1)).toBe(1);
    a.queue(frameOf(64, 99));
    a.show();
    clock.advance(100 * US - 1);
    expect(interrupts(a, 1)).toBe(1);
    clock.advance(1);
    expect(interrupts(a, 1)).toBe(2);
  });

  it.each([
    [0, 10],
    [10, 0],
    [0, 0],
  ])('max_packets %i with max_usecs %i interrupts after every packet', (packets, usecs) => {
    const { b, send } = pair(features);
    coalesce(b, 0, packets, usecs);
    for (let i = 1; i <= 3; i++) {
      send(1);
      expect(interrupts(b, 0)).toBe(i);
      take(b);
    }
  });

  it('judges new parameters at once by what has been counted, and by when counting began', () => {
    const { b, clock, send } = pair(features);
    coalesce(b, 0, 15, 1000);
    send(10);
    coalesce(b, 0, 11, 1000);
    expect(interrupts(b, 0)).toBe(0);
    coalesce(b, 0, 8, 1000);
    expect(interrupts(b, 0)).toBe(1);
    take(b);
    send(2);
    coalesce(b, 0, 0, 1000);
    expect(interrupts(b, 0)).toBe(2);
    take(b);
    coalesce(b, 0, 15, 1000);
    send(1);
    clock.advance(200 * US);
    coalesce(b, 0, 15, 300);
    clock.advance(99 * US);
    expect(interrupts(b, 0)).toBe(2);
    clock.advance(1 * US);
    expect(interrupts(b, 0)).toBe(3);
    take(b);
    send(1);
    clock.advance(200 * US);
    coalesce(b, 0, 15, 100);
    expect(interrupts(b, 0)).toBe(4);
  });

  it('sends what it put off when the ring stops, and only once', () => {
    const { b, clock, send } = pair(features);
    coalesce(b, 0, 15, 1000);
    send(3);
    b.backend?.stopVring(0);
    expect(b.states()[0]).toBe('stopped');
    expect(interrupts(b, 0)).toBe(1);
    clock.advance(10_000 * US);
    expect(interrupts(b, 0)).toBe(1);
    expect(b.receive().length).toBe(3);
  });

  it('waits for no more packets than the ring holds', () => {
    const { b, send } = pair(features, { size: 16 });
    coalesce(b, 0, 1000, 1e6);
    send(16);
    expect(interrupts(b, 0)).toBe(1);
  });

  it('counts packets, not the buffers they are spread over', () => {
    const { a, b } = pair([...features, VIRTIO_NET_F_MRG_RXBUF], { bufferSize: 300 });
    coalesce(b, 0, 3, 1000);
    for (let i = 0; i < 2; i++) a.send(frameOf(1000, i));
    expect(interrupts(b, 0)).toBe(0);
    a.send(frameOf(1000, 3));
    expect(interrupts(b, 0)).toBe(1);
    expect(b.receive().map((r) => r.buffers)).toEqual([4, 4, 4]);
  });

  it('suppression wins: no interrupt when the condition is met and the driver has looked meanwhile', () => {
    const { b, clock, send } = pair(features);
    coalesce(b, 0, 15, 10);
    send(2);
    take(b);
    ignore(b, 0);
    clock.advance(10 * US);
    expect(interrupts(b, 0)).toBe(0);
    send(15);
    expect(interrupts(b, 0)).toBe(0);
    take(b);
    send(15);
    expect(interrupts(b, 0)).toBe(1);
  });
});

describe('time that moves inside a turn', () => {
  it('is noticed at its end', () => {
    const { a, b, clock, send } = pair([]);
    coalesce(b, 0, 15, 10);
    send(1);
    // An interrupt sink that lets time pass: the transmit interrupt comes out of a turn.
    const { signal } = a.calls[1] as { signal(): void };
    (a.calls[1] as { signal(): void }).signal = function (this: unknown) {
      clock.advance(20 * US);
      signal.call(a.calls[1]);
    };
    send(1);
    expect(interrupts(b, 0)).toBe(1);
  });
});

describe.each(FORMATS)('on a worker, %s', (_name, features) => {
  const pools: VhostPool[] = [];
  afterEach(async () => {
    for (const pool of pools.splice(0)) await pool.close();
  });

  function onWorker(options: Partial<ConstructorParameters<typeof TestGuest>[0]> = {}) {
    const pool = new VhostPool({ threads: 1 });
    pools.push(pool);
    const segment = pool.worker().segment({ paused: true });
    const a = new TestGuest({ name: 'a', features: [...features, VIRTIO_NET_F_NOTF_COAL], ...options });
    const b = new TestGuest({ name: 'b', features: [...features, VIRTIO_NET_F_NOTF_COAL], ...options });
    a.attach(segment.port('a'));
    b.attach(segment.port('b'));
    b.post();
    listen(b, 0);
    segment.resume();
    return { pool, a, b };
  }
  const shown = (guest: TestGuest): number => guest.backend?.vringPosition(0).used ?? -1;

  it('puts interrupts off until enough packets have come, or for ever when the time is long', async () => {
    const { a, b } = onWorker();
    // Longer than the test may take.
    coalesce(b, 0, 15, 0xffffffff);
    const before = shown(b);
    for (let i = 0; i < 14; i++) a.send(frameOf(64, i));
    await eventually('14 frames', () => ((shown(b) - before) & 0x7fff) === 14);
    expect(interrupts(b, 0)).toBe(0);
    a.send(frameOf(64, 14));
    await eventually('an interrupt for 15', () => interrupts(b, 0) === 1);
    expect(b.receive().length).toBe(15);
  });

  it('sends them when their time has come, though nothing else happens and the worker sleeps', async () => {
    const { a, b } = onWorker();
    coalesce(b, 0, 15, 2000);
    a.send(frameOf(64, 0));
    await eventually('an interrupt by time', () => interrupts(b, 0) === 1);
    expect(b.receive().length).toBe(1);
  });

  it('sends them when the ring is stopped', async () => {
    const { a, b } = onWorker();
    coalesce(b, 0, 15, 0xffffffff);
    const before = shown(b);
    a.send(frameOf(64, 0));
    await eventually('a frame', () => ((shown(b) - before) & 0x7fff) === 1);
    b.stop();
    eventuallyBlocking('stopped rings', () => b.states().every((state) => state === 'stopped'));
    expect(interrupts(b, 0)).toBe(1);
  });

  it('a killed worker loses none', async () => {
    const { pool, a, b } = onWorker();
    coalesce(b, 0, 15, 0xffffffff);
    const before = shown(b);
    a.send(frameOf(64, 0));
    await eventually('a frame', () => ((shown(b) - before) & 0x7fff) === 1);
    expect(interrupts(b, 0)).toBe(0);
    const killed = pool.kill();
    await eventually('the interrupt of a dead worker', () => interrupts(b, 0) > 0);
    await killed;
    expect(b.receive().length).toBe(1);
  });
});
