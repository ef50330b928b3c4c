// RING_RESET (virtio 1.4 2.6.1) of one queue at a time under traffic, over the inline and the worker data plane: what was used stays used, the queue comes back from its beginning with
// another size, and the other queues never notice.
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import type { VhostBackend } from '#virtio/vhost';
import { eventually, eventuallyBlocking } from '../backends/eventually.ts';
import { PackedDriver } from '../virtio/driver-packed.ts';
import { SplitDriver } from '../virtio/driver-split.ts';
import { NEEDS_RESET, QUEUE_ENABLE, QUEUE_RESET, QUEUE_SELECT, VirtioBench } from '../virtio-pci/bench.ts';
import { OK } from './control-bench.ts';
import { Station } from './station.ts';

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

function ports(kind: 'inline' | 'worker'): [VhostBackend, VhostBackend] {
  if (kind === 'inline') {
    const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    return [segment.port('a'), segment.port('b')];
  }
  const pool = new VhostPool({ threads: 1 });
  closing.push(() => pool.close());
  const segment = pool.worker().segment();
  return [segment.port('a'), segment.port('b')];
}

/** Resets queue `index` as a driver does, calls `stopped` when it is over, and sets it up again with `size` entries; returns the driver of the new ring. */
function again(station: Station, index: number, size: number, packed: boolean, stopped: () => void = () => {}): SplitDriver | PackedDriver {
  station.set(QUEUE_SELECT, 2, index);
  station.set(QUEUE_RESET, 2, 1);
  eventuallyBlocking('the queue reset', () => {
    station.set(QUEUE_SELECT, 2, index);
    return station.get(QUEUE_RESET, 2) === 0;
  });
  expect(station.get(QUEUE_ENABLE, 2)).toBe(0);
  stopped();
  const { descriptor, driver, device } = VirtioBench.area(index);
  station.bytes.fill(0, descriptor, descriptor + 0x10000);
  station.setUpQueue(index, { size });
  const offered = station.pci.device.offered;
  const options = { eventIdx: offered.has(29), inOrder: packed && offered.has(35) };
  return packed
    ? new PackedDriver(station.ram, { size, ring: descriptor, driver, device }, options)
    : new SplitDriver(station.ram, { size, desc: descriptor, avail: driver, used: device }, options);
}

describe.each(['inline', 'worker'] as const)('%s', (kind) => {
  it.each([false, true])('a transmit queue: what came back was sent, once, and the rest not at all (packed: %s)', async (packed) => {
    const [pa, pb] = ports(kind);
    const a = new Station(pa, '52:54:00:00:00:0a', packed);
    const z = new Station(pb, '52:54:00:00:00:0b', packed);
    const lengths: number[] = [];
    const receive = (): void => {
      lengths.push(...z.received().map((f) => f.length));
      z.top();
    };
    let next = 64;
    for (let round = 0; round < 12; round++) {
      const first = next;
      for (let i = 0; i < 4; i++) a.postFrame(next++);
      a.kick(1);
      a.transmit = again(a, 1, 2 ** (4 + (round % 4)), packed);
      // Frames of the old ring that made it are there already, or on their way: a frame of the new one comes after them.
      const marker = next++;
      a.postFrame(marker);
      a.kick(1);
      // Frames arrive before their sender is told so.
      let reaped = 0;
      await eventually(`the frame after reset ${round}`, () => {
        receive();
        reaped += a.reapSent();
        return lengths.at(-1) === marker && reaped > 0;
      });
      expect(reaped).toBe(1);
      const sent = lengths.filter((length) => length >= first && length < marker);
      // A beginning of the four, in order, each once.
      expect(sent).toEqual([0, 1, 2, 3].slice(0, sent.length).map((i) => first + i));
      expect(a.command([0, 1, round & 1]).ack).toBe(OK);
    }
    expect(new Set(lengths).size).toBe(lengths.length);
    expect((a.status | z.status) & NEEDS_RESET).toBe(0);
  });

  it.each([false, true])('a receive queue: its sender goes on, and no frame comes twice or out of order (packed: %s)', async (packed) => {
    const [pa, pb] = ports(kind);
    const a = new Station(pa, '52:54:00:00:00:0a', packed);
    const z = new Station(pb, '52:54:00:00:00:0b', packed);
    const lengths: number[] = [];
    let next = 64;
    let returned = 0;
    for (let round = 0; round < 12; round++) {
      for (let i = 0; i < 4; i++) a.postFrame(next++);
      a.kick(1);
      const take = (): unknown => lengths.push(...z.received().map((f) => f.length));
      // The last of the old ring is seen when it has stopped.
      z.receive = again(z, 0, 2 ** (5 + (round % 3)), packed, take);
      z.refill(16);
      const marker = next++;
      a.postFrame(marker);
      a.kick(1);
      await eventually(`the frame after reset ${round}`, () => {
        take();
        returned += a.reapSent();
        return lengths.at(-1) === marker;
      });
      z.top();
    }
    await eventually('all transmit buffers', () => {
      returned += a.reapSent();
      return returned === next - 64;
    });
    // Each once, in order; those that came while there was no queue are dropped.
    expect(lengths).toEqual([...new Set(lengths)].sort((x, y) => x - y));
    expect(lengths.length).toBeGreaterThanOrEqual(12);
    expect((a.status | z.status) & NEEDS_RESET).toBe(0);
  });
});
