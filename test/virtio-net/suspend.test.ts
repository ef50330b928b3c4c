// VIRTIO_F_SUSPEND (virtio 1.4 3.4): what stops, what survives, what the driver may do meanwhile; over the recording, the inline and the worker data plane.
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { RestoreError } from '#core/saved';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { FeatureSet } from '#virtio/features';
import { POLICY_ACTIVE, POLICY_ALL_MULTICAST } from '#virtio/net-policy';
import type { VhostBackend } from '#virtio/vhost';
import { eventually, eventuallyBlocking } from '../backends/eventually.ts';
import * as b from '../virtio-pci/bench.ts';
import { ControlBench, OK } from './control-bench.ts';
import { Station } from './station.ts';

const LIVE = b.ACKNOWLEDGE | b.DRIVER | b.FEATURES_OK | b.DRIVER_OK;
const SUSPENDED = (LIVE & ~b.DRIVER_OK) | b.SUSPEND;

function suspended(): ControlBench {
  const bench = new ControlBench();
  bench.status = LIVE | b.SUSPEND;
  expect(bench.status).toBe(SUSPENDED);
  return bench;
}

describe('suspend', () => {
  it('is shown once the last ring has stopped; then DRIVER_OK is clear', () => {
    const bench = new ControlBench();
    bench.backend.slow = true;
    bench.status = LIVE | b.SUSPEND;
    expect(bench.status).toBe(LIVE);
    // Saying it again, as a driver that polls by writing would, changes nothing.
    bench.status = LIVE | b.SUSPEND;
    expect(() => bench.pci.save()).toThrow(expect.objectContaining({ code: 'NICBOX_BUSY' }));
    bench.backend.finishStops();
    expect(bench.status).toBe(SUSPENDED);
    expect(bench.net.policy.flags & POLICY_ACTIVE).toBe(0);
    expect(bench.backend.violations).toEqual([]);
  });

  it('is ignored before DRIVER_OK, in the same write as it, and without the feature', () => {
    const bench = new ControlBench();
    bench.negotiate(bench.offered());
    bench.status = b.ACKNOWLEDGE | b.DRIVER | b.FEATURES_OK | b.SUSPEND;
    expect(bench.status).toBe(b.ACKNOWLEDGE | b.DRIVER | b.FEATURES_OK);
    bench.status = LIVE | b.SUSPEND;
    expect(bench.status).toBe(LIVE);
    const without = new ControlBench({ features: bench.offered().without(FeatureSet.of(34, 35, 43)) });
    without.status = LIVE | b.SUSPEND;
    expect(without.status).toBe(LIVE);
    expect(without.backend.running()).toEqual([0, 1]);
  });

  it('calls that were on their way are delivered before it shows', () => {
    const bench = new ControlBench({ direct: false });
    bench.read(b.ISR, 1);
    bench.backend.ring(0).call.signal();
    expect(bench.lines.some(Boolean)).toBe(false);
    bench.status = LIVE | b.SUSPEND;
    expect(bench.lines.some(Boolean)).toBe(true);
    expect(bench.read(b.ISR, 1)).toBe(1);
  });

  it('meanwhile: notifications touch nothing, registers other than the status stay, the configuration stays and notifies nobody', () => {
    const bench = suspended();
    const generation = bench.get(b.GENERATION, 1);
    bench.set(b.QUEUE_SELECT, 2, 1);
    const size = bench.get(b.QUEUE_SIZE, 2);
    bench.backend.calls.length = 0;
    bench.read(b.ISR, 1);
    const at = bench.post([0, 1, 1]);
    bench.kickControl();
    bench.kick(0);
    bench.set(b.QUEUE_RESET, 2, 1);
    bench.set(b.QUEUE_VECTOR, 2, 1);
    bench.set(b.CONFIG_VECTOR, 2, 1);
    bench.set(b.QUEUE_SIZE, 2, 16);
    expect([bench.get(b.QUEUE_RESET, 2), bench.get(b.QUEUE_VECTOR, 2), bench.get(b.CONFIG_VECTOR, 2)]).toEqual([0, 0xffff, 0xffff]);
    expect(bench.get(b.QUEUE_SIZE, 2)).toBe(size);
    bench.net.setLink(false);
    expect(bench.net.announce()).toBe(true);
    expect([bench.read(b.CONFIG + 6, 2), bench.get(b.GENERATION, 1), bench.read(b.ISR, 1)]).toEqual([1, generation, 0]);
    expect([bench.bytes[at], bench.backend.calls, bench.status]).toEqual([0xee, [], SUSPENDED]);
    // A notification through the fast path cannot come either.
    expect(bench.fabric.doorbell(b.NOTIFY, 2, 0)).toBeUndefined();
    // On resuming: the command is run, the configuration catches up, and the driver is told once.
    bench.status = LIVE;
    expect(bench.status).toBe(LIVE);
    expect([bench.bytes[at], bench.net.policy.flags & POLICY_ALL_MULTICAST]).toEqual([OK, POLICY_ALL_MULTICAST]);
    expect([bench.read(b.CONFIG + 6, 2), bench.read(b.ISR, 1) & 2]).toEqual([2, 2]);
    expect(bench.get(b.GENERATION, 1)).not.toBe(generation);
  });

  it('a change that the driver would not be told of moves the generation alone', () => {
    const bench = new ControlBench({ features: new ControlBench().offered().without(FeatureSet.of(34, 35, 16)) });
    bench.status = LIVE | b.SUSPEND;
    bench.read(b.CONFIG + 6, 2);
    bench.read(b.ISR, 1);
    bench.net.setLink(false);
    const generation = bench.get(b.GENERATION, 1);
    bench.status = LIVE;
    expect([bench.read(b.CONFIG + 6, 2), bench.read(b.ISR, 1) & 2]).toEqual([0, 0]);
    expect(bench.get(b.GENERATION, 1)).not.toBe(generation);
  });

  it('resuming, with SUSPEND written or not, goes on where the rings stood', () => {
    for (const resume of [LIVE, LIVE | b.SUSPEND]) {
      const bench = new ControlBench();
      bench.backend.ring(0).position = { available: 9, used: 7 };
      bench.status = LIVE | b.SUSPEND;
      expect(bench.status).toBe(SUSPENDED);
      bench.backend.calls.length = 0;
      bench.status = resume;
      expect(bench.status).toBe(LIVE);
      expect(bench.backend.calls).toEqual(['start 0 @9', 'start 1 @0', 'kick 0', 'kick 1']);
      expect(bench.net.policy.flags & POLICY_ACTIVE).toBe(POLICY_ACTIVE);
    }
  });

  it('writing it again while suspended does not resume; FAILED and a reset are heard', () => {
    const bench = suspended();
    bench.status = SUSPENDED;
    expect(bench.status).toBe(SUSPENDED);
    bench.status = SUSPENDED | b.FAILED;
    expect(bench.status).toBe(SUSPENDED | b.FAILED);
    bench.status = LIVE | b.FAILED;
    expect(bench.backend.running()).toEqual([]);
    bench.status = 0;
    expect(bench.status).toBe(0);
    bench.bringUp(bench.offered().without(FeatureSet.of(34, 35)), [0, 1]);
    expect(bench.backend.running()).toEqual([0, 1]);
  });

  it('a ring that breaks on the way needs a reset instead, and so does one that cannot go on', () => {
    const bench = new ControlBench();
    bench.backend.slow = true;
    bench.status = LIVE | b.SUSPEND;
    bench.backend.ring(1).state = 'broken';
    bench.backend.finishStops();
    expect(bench.status).toBe(LIVE | b.NEEDS_RESET);
    const other = suspended();
    other.backend.breakOnStart = true;
    other.status = LIVE;
    expect(other.status).toBe(LIVE | b.NEEDS_RESET);
    expect(other.read(b.ISR, 1) & 2).toBe(2);
  });

  it('under a pause, a hand-over and a save: nothing runs until all reasons are gone', () => {
    const bench = suspended();
    bench.net.pause();
    bench.status = LIVE;
    expect([bench.status, bench.backend.running()]).toEqual([LIVE, []]);
    bench.net.resume();
    expect(bench.backend.running()).toEqual([0, 1]);
    bench.status = LIVE | b.SUSPEND;
    const next = new b.RecordingBackend('next');
    bench.net.handOver(next);
    expect([bench.net.handingOver, next.running()]).toEqual([false, []]);
    bench.status = LIVE;
    expect(next.running()).toEqual([0, 1]);
    expect(bench.command([0, 1, 1]).ack).toBe(OK);
  });

  it('is saved and restored, twice, and resumes there', () => {
    const source = new ControlBench();
    source.command([0, 1, 1]);
    source.backend.ring(1).position = { available: 5, used: 5 };
    source.status = LIVE | b.SUSPEND;
    source.net.setLink(false);
    source.net.pause();
    let state = structuredClone({ pci: source.pci.save(), fabric: source.fabric.save() });
    let target = source;
    for (let hop = 0; hop < 2; hop++) {
      target = new ControlBench();
      target.status = 0;
      target.bytes.set(source.bytes);
      target.fabric.restore(state.fabric as never);
      target.pci.restore(state.pci);
      expect([target.status, target.read(b.CONFIG + 6, 2), target.net.linkUp]).toEqual([SUSPENDED, 1, false]);
      state = structuredClone({ pci: target.pci.save(), fabric: target.fabric.save() });
    }
    target.net.resume();
    expect([target.status, target.backend.running()]).toEqual([SUSPENDED, []]);
    target.read(b.ISR, 1);
    target.status = LIVE;
    expect(target.backend.ring(1).start).toEqual({ available: 5, used: 5 });
    expect([target.read(b.CONFIG + 6, 2), target.read(b.ISR, 1) & 2]).toEqual([0, 2]);
    const at = source.post([0, 1, 0]);
    source.driver.expose();
    target.bytes.set(source.bytes);
    target.kick(target.index);
    expect([target.bytes[at], target.net.policy.flags & POLICY_ALL_MULTICAST]).toEqual([OK, 0]);
  });

  it.each([
    ['with DRIVER_OK', { status: LIVE | b.SUSPEND }],
    ['with a bit nobody knows', { status: SUSPENDED | 32 }],
  ])('saved status %s is refused', (_, lie) => {
    const bench = suspended();
    bench.net.pause();
    const saved = structuredClone(bench.pci.save()) as unknown as { state: { control: Record<string, unknown> } };
    Object.assign(saved.state.control, lie);
    expect(() => bench.pci.restore(saved)).toThrow(RestoreError);
    expect(bench.status).toBe(SUSPENDED);
  });
});

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

describe.each(['inline', 'worker'] as const)('under traffic, %s', (kind) => {
  function ports(): [VhostBackend, VhostBackend] {
    if (kind === 'inline') {
      const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
      return [segment.port('a'), segment.port('b')];
    }
    const pool = new VhostPool({ threads: 1 });
    closing.push(() => pool.close());
    const segment = pool.worker().segment();
    return [segment.port('a'), segment.port('b')];
  }

  it.each([false, true])('a sender suspended again and again loses and repeats nothing (packed: %s)', async (packed) => {
    const [pa, pb] = ports();
    const a = new Station(pa, '52:54:00:00:00:0a', packed);
    const c = new Station(pb, '52:54:00:00:00:0b', packed);
    const lengths: number[] = [];
    let sent = 0;
    let reaped = 0;
    for (let round = 0; round < 12; round++) {
      for (let i = 0; i < 5; i++) a.postFrame(64 + (sent++ % 900));
      a.kick(1);
      a.status = LIVE | b.SUSPEND;
      eventuallyBlocking('SUSPEND', () => a.status === SUSPENDED);
      // What was used is there to be seen, and nothing more happens.
      reaped += a.reapSent();
      expect(reaped).toBeLessThanOrEqual(sent);
      a.postFrame(64 + (sent++ % 900));
      a.kick(1);
      expect(a.reapSent()).toBe(0);
      a.status = LIVE;
      expect(a.status).toBe(LIVE);
      await eventually('the frames of the round', () => {
        lengths.push(...c.received().map((f) => f.length));
        c.top();
        // Frames arrive before their sender is told that they are gone.
        reaped += a.reapSent();
        return lengths.length === sent && reaped === sent;
      });
    }
    expect(lengths).toEqual(Array.from({ length: sent }, (_, i) => 64 + (i % 900)));
  });

  it('frames for a suspended receiver are dropped, those before and after arrive', async () => {
    const [pa, pb] = ports();
    const a = new Station(pa, '52:54:00:00:00:0a', false);
    const c = new Station(pb, '52:54:00:00:00:0b', false);
    a.postFrame(100);
    a.kick(1);
    const got: number[] = [];
    const receive = (): number => got.push(...c.received().map((f) => f.length));
    await eventually('the first frame', () => receive() === 1);
    c.status = LIVE | b.SUSPEND;
    eventuallyBlocking('SUSPEND', () => c.status === SUSPENDED);
    c.takeVectors();
    a.postFrame(200);
    a.kick(1);
    let taken = 0;
    await eventually('both frames being taken', () => {
      taken += a.reapSent();
      return taken === 2;
    });
    expect([receive(), c.takeVectors()]).toEqual([1, []]);
    c.status = LIVE;
    a.postFrame(300);
    a.kick(1);
    await eventually('the third frame', () => receive() === 2);
    expect(got).toEqual([100, 300]);
  });
});
