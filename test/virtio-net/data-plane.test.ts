// Data queues over backends: positions across stops, hand-over between backends, lost workers, pause.
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import { NET_DATA_PLANE_FEATURES } from '#virtio/net-features';
import { POLICY_ACTIVE } from '#virtio/net-policy';
import { NEEDS_RESET, QUEUE_ENABLE, QUEUE_RESET, QUEUE_SELECT, RecordingBackend, VirtioBench } from '../virtio-pci/bench.ts';

const SPLIT = FeatureSet.of(32, 40);
const PACKED = FeatureSet.of(32, 34, 40);
const at = (available: number, used = available): { available: number; used: number } => ({ available, used });

function up(features = SPLIT, options: ConstructorParameters<typeof VirtioBench>[0] = {}): VirtioBench {
  const bench = new VirtioBench(options);
  bench.bringUp(features);
  return bench;
}

describe('starting', () => {
  it('hands over what was negotiated, the setup and the first position', () => {
    const bench = up(PACKED);
    expect(bench.backend.session?.features.equals(PACKED)).toBe(true);
    expect(bench.backend.session?.policy).toBe(bench.net.policy);
    expect(bench.backend.session?.memory.requester).toBe(0x18);
    expect(bench.backend.ring(1)).toMatchObject({
      start: at(0x8000),
      setup: { size: 256, descriptorArea: 0x20000, driverArea: 0x28000, deviceArea: 0x2c000 },
    });
    expect(bench.net.policy.flags & POLICY_ACTIVE).toBe(POLICY_ACTIVE);
    expect(bench.net.policy.headerLength).toBe(12);
  });

  it('reports addresses of any size as they are', () => {
    const bench = new VirtioBench();
    bench.negotiate(SPLIT);
    bench.setUpQueue(0);
    bench.set(QUEUE_SELECT, 2, 1);
    bench.set(36, 4, 0xffffffff);
    bench.set(32, 4, 0xfffffff0);
    bench.set(QUEUE_ENABLE, 2, 1);
    bench.status = 15;
    expect(bench.backend.ring(1).setup.descriptorArea).toBeGreaterThanOrEqual(2 ** 52);
  });

  it('a backend that will not have what the control plane settled makes the device need a reset', () => {
    const bench = up();
    bench.backend.policyChanged = () => {
      throw new Error('refused');
    };
    bench.net.setLink(false);
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect([bench.backend.ring(0).state, bench.backend.ring(1).state]).toEqual(['stopped', 'stopped']);
    bench.backend.policyChanged = () => {};
    bench.status = 0;
    bench.bringUp(SPLIT);
    expect(bench.status & NEEDS_RESET).toBe(0);
    expect(bench.backend.ring(0).state).toBe('running');
  });

  it('a queue that is enabled late starts alone', () => {
    const bench = new VirtioBench();
    bench.bringUp(SPLIT, [0]);
    bench.backend.calls.length = 0;
    bench.setUpQueue(1);
    expect(bench.backend.calls).toEqual(['start 1 @0', 'kick 1']);
  });
});

describe('hand-over', () => {
  it('stops on the old, goes on at the same positions on the new, and looks at each ring once', () => {
    const bench = up();
    const next = new RecordingBackend('next');
    const old = bench.fabric.doorbell(0x40_0000_3000, 2, 0);
    bench.backend.ring(0).position = at(70, 68);
    bench.backend.ring(1).position = at(0xffff);
    bench.net.handOver(next);
    expect(bench.net.handingOver).toBe(false);
    expect(bench.backend.running()).toEqual([]);
    expect(next.calls).toEqual(['open', 'start 0 @46', 'start 1 @ffff', 'kick 0', 'kick 1']);
    expect(next.ring(0).start).toEqual(at(70, 68));
    expect(next.ring(0).call).toBe(bench.backend.ring(0).call);
    expect(bench.net.backend).toBe(next);
    bench.kick(1);
    expect(next.calls.at(-1)).toBe('kick 1');
    expect(old?.doorbell.revocations).toBe(1);
    expect(bench.fabric.doorbell(0x40_0000_3000, 2, 0)?.doorbell).toBe(next.doorbells.get(0));
  });

  it('waits for a worker without losing kicks, and tolerates a reset in between', () => {
    const bench = up();
    const next = new RecordingBackend('next');
    bench.backend.slow = true;
    bench.net.handOver(next);
    expect(bench.net.handingOver).toBe(true);
    bench.kick(0);
    expect(next.calls).toEqual([]);
    bench.backend.finishStops();
    expect(bench.net.handingOver).toBe(false);
    expect(next.calls).toContain('kick 0');
    const third = new RecordingBackend('third');
    next.slow = true;
    bench.net.handOver(third);
    bench.status = 0;
    expect(bench.status).not.toBe(0);
    next.finishStops();
    expect(bench.status).toBe(0);
    expect(third.running()).toEqual([]);
    bench.bringUp(SPLIT);
    expect(third.running()).toEqual([0, 1]);
    expect(third.ring(0).start).toEqual(at(0));
  });

  it('of a queue in reset: the queue stays stopped', () => {
    const bench = up();
    const next = new RecordingBackend('next');
    bench.backend.slow = true;
    bench.set(QUEUE_SELECT, 2, 1);
    bench.set(QUEUE_RESET, 2, 1);
    bench.net.handOver(next);
    bench.backend.finishStops();
    expect(bench.get(QUEUE_RESET, 2)).toBe(0);
    expect(next.running()).toEqual([0]);
  });

  it('before DRIVER_OK just changes who will serve', () => {
    const bench = new VirtioBench();
    const next = new RecordingBackend('next');
    bench.net.handOver(next);
    bench.bringUp(SPLIT);
    expect(bench.backend.calls).toEqual([]);
    expect(next.running()).toEqual([0, 1]);
  });

  it('refuses a backend that cannot carry what the device offers, and a second hand-over meanwhile', () => {
    const bench = up();
    expect(() => bench.net.handOver(new RecordingBackend('poor', NET_DATA_PLANE_FEATURES.without(FeatureSet.of(34))))).toThrow(
      expect.objectContaining({ code: 'NICBOX_BACKEND_FEATURES' }),
    );
    bench.backend.slow = true;
    bench.net.handOver(new RecordingBackend('a'));
    expect(() => bench.net.handOver(new RecordingBackend('b'))).toThrow(expect.objectContaining({ code: 'NICBOX_BUSY' }));
  });

  it('events of the backend it left are not heard', () => {
    const bench = up();
    bench.net.handOver(new RecordingBackend('next'));
    bench.backend.onEvent?.({ kind: 'broken', index: 0, reason: 'late' });
    expect(bench.status & NEEDS_RESET).toBe(0);
  });
});

describe('a lost worker', () => {
  const lose = (backend: RecordingBackend, position = at(5, 4)): void => {
    for (const ring of backend.rings.values())
      if (ring.state === 'running') {
        ring.state = 'lost';
        ring.position = position;
      }
    backend.onEvent?.({ kind: 'lost', reason: 'worker exited' });
  };

  it('is replaced: its rings go on where they were recovered', () => {
    const bench = up();
    lose(bench.backend);
    expect(bench.backend.running()).toEqual([0, 1]);
    expect(bench.backend.ring(0).start).toEqual(at(5, 4));
    expect(bench.net.restarts).toBe(1);
    expect(bench.status & NEEDS_RESET).toBe(0);
  });

  it('is noticed by a status read when no event came', () => {
    const bench = up();
    bench.backend.ring(0).state = 'lost';
    expect(bench.status & NEEDS_RESET).toBe(0);
    expect(bench.backend.running()).toEqual([0, 1]);
  });

  it('again and again needs a reset in the end', () => {
    const bench = up();
    for (let i = 0; i < 20; i++) lose(bench.backend);
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(bench.backend.running()).toEqual([]);
    expect(bench.net.restarts).toBeLessThanOrEqual(17);
    bench.bringUp(SPLIT);
    expect(bench.net.restarts).toBe(0);
    lose(bench.backend);
    expect(bench.backend.running()).toEqual([0, 1]);
  });

  it('needs a reset at once if the embedder says so', () => {
    const bench = up(SPLIT, { net: { onLost: 'needs-reset' } });
    lose(bench.backend);
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(bench.backend.running()).toEqual([]);
  });

  it('during a reset does not hold the reset up', () => {
    const bench = up();
    bench.backend.slow = true;
    bench.status = 0;
    for (const ring of bench.backend.rings.values()) ring.state = 'lost';
    expect(bench.status).toBe(0);
    expect(bench.net.restarts).toBe(0);
  });

  it('during a hand-over, the next one takes what was recovered', () => {
    const bench = up();
    const next = new RecordingBackend('next');
    bench.backend.slow = true;
    bench.net.handOver(next);
    for (const ring of bench.backend.rings.values()) {
      ring.state = 'lost';
      ring.position = at(9, 7);
    }
    bench.backend.onEvent?.({ kind: 'lost', reason: 'worker exited' });
    expect(next.ring(1).start).toEqual(at(9, 7));
    expect(next.running()).toEqual([0, 1]);
  });
});

describe('pause', () => {
  it('stops where it is and goes on there, unseen by the driver', () => {
    const bench = up();
    bench.backend.slow = true;
    bench.net.pause();
    expect(bench.net.paused).toBe(false);
    bench.backend.ring(0).position = at(3);
    bench.backend.finishStops();
    expect(bench.net.paused).toBe(true);
    expect(bench.status).toBe(15);
    bench.kick(0);
    bench.backend.calls.length = 0;
    bench.net.resume();
    expect(bench.backend.calls).toEqual(['start 0 @3', 'start 1 @0', 'kick 0', 'kick 1']);
  });

  it('a device brought up while paused starts on resume', () => {
    const bench = new VirtioBench();
    bench.net.pause();
    bench.bringUp(SPLIT);
    expect(bench.backend.running()).toEqual([]);
    bench.net.resume();
    expect(bench.backend.running()).toEqual([0, 1]);
  });

  it('a device reset while paused starts afresh', () => {
    const bench = up();
    bench.backend.ring(0).position = at(9);
    bench.net.pause();
    expect(bench.net.paused).toBe(true);
    bench.bringUp(PACKED);
    bench.net.resume();
    expect(bench.backend.ring(0).start).toEqual(at(0x8000));
  });
});

describe('link', () => {
  it('is in the policy and in configuration space', () => {
    const bench = up(FeatureSet.of(32, 16));
    expect([bench.net.policy.flags & 1, bench.read(0x40_0000_2006, 2)]).toEqual([1, 1]);
    bench.net.setLink(false);
    expect([bench.net.policy.flags & 1, bench.read(0x40_0000_2006, 2)]).toEqual([0, 0]);
    expect(bench.read(0x40_0000_1000, 1)).toBe(2);
    bench.net.setLink(false);
    expect(bench.read(0x40_0000_1000, 1)).toBe(0);
  });

  it('does not interrupt a driver that did not negotiate STATUS', () => {
    const bench = up(SPLIT);
    bench.net.setLink(false);
    expect(bench.read(0x40_0000_1000, 1)).toBe(0);
    expect(bench.net.policy.flags & 1).toBe(0);
  });
});
