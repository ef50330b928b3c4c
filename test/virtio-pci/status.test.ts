// Status machine, feature negotiation and reset through the common configuration (virtio 1.4 2.1, 2.2, 2.4, 3.1).
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import * as b from './bench.ts';

const VERSION_1 = FeatureSet.of(32);
const RING_RESET = 40;
const LIVE = b.ACKNOWLEDGE | b.DRIVER | b.FEATURES_OK | b.DRIVER_OK;

describe('feature negotiation', () => {
  it('offers VERSION_1, and nothing reserved, legacy or past bit 127', () => {
    const bench = new b.VirtioBench();
    const offered = bench.offered();
    expect(offered.has(32)).toBe(true);
    for (const bit of [4, 6, 24, 27, 30, 31, 41, 42, 44, 45, 46, 47, 48, 49, ...Array.from({ length: 64 }, (_, i) => 64 + i)])
      expect(offered.has(bit), `bit ${bit}`).toBe(false);
    for (const selector of [4, 5, 0x7fffffff, 0xffffffff]) {
      bench.set(b.DEVICE_FEATURE_SELECT, 4, selector);
      expect(bench.get(b.DEVICE_FEATURE, 4)).toBe(0);
    }
  });

  it('echoes what the driver wrote in each window', () => {
    const bench = new b.VirtioBench();
    bench.status = 3;
    bench.writeFeatures(new FeatureSet([0x1000_0001, 1]));
    bench.set(b.DRIVER_FEATURE_SELECT, 4, 0);
    expect(bench.get(b.DRIVER_FEATURE, 4)).toBe(0x1000_0001);
    bench.set(b.DRIVER_FEATURE_SELECT, 4, 1);
    expect(bench.get(b.DRIVER_FEATURE, 4)).toBe(1);
    bench.set(b.DRIVER_FEATURE_SELECT, 4, 9);
    expect(bench.get(b.DRIVER_FEATURE, 4)).toBe(0);
  });

  it('accepts all that is offered, and the bare minimum, and the same again after a reset', () => {
    const bench = new b.VirtioBench();
    const all = bench.offered();
    for (const features of [all, VERSION_1, all, VERSION_1]) expect(bench.negotiate(features)).toBe(b.ACKNOWLEDGE | b.DRIVER | b.FEATURES_OK);
  });

  it.each([
    ['no VERSION_1', FeatureSet.of(5)],
    ['a bit not offered', FeatureSet.of(32, 60)],
    ['a reserved bit', FeatureSet.of(32, 127)],
    ['HOST_TSO4 without CSUM', FeatureSet.of(32, 11)],
    ['GUEST_TSO4 without GUEST_CSUM', FeatureSet.of(32, 7)],
    ['GUEST_ECN without a TSO', FeatureSet.of(32, 1, 9)],
    ['CTRL_RX without CTRL_VQ', FeatureSet.of(32, 18)],
  ])('refuses %s, and a better set afterwards is fine', (_, features) => {
    const bench = new b.VirtioBench();
    expect(bench.negotiate(features)).toBe(b.ACKNOWLEDGE | b.DRIVER);
    bench.writeFeatures(VERSION_1);
    bench.status = b.ACKNOWLEDGE | b.DRIVER | b.FEATURES_OK;
    expect(bench.status & b.FEATURES_OK).toBe(b.FEATURES_OK);
  });

  it('refuses an acknowledgement past bit 127', () => {
    const bench = new b.VirtioBench();
    bench.status = 3;
    bench.writeFeatures(VERSION_1);
    bench.set(b.DRIVER_FEATURE_SELECT, 4, 4);
    bench.set(b.DRIVER_FEATURE, 4, 1);
    bench.status = 11;
    expect(bench.status).toBe(3);
  });

  it('does not take features after FEATURES_OK', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(VERSION_1);
    bench.writeFeatures(bench.offered());
    bench.set(b.DRIVER_FEATURE_SELECT, 4, 0);
    expect(bench.get(b.DRIVER_FEATURE, 4)).toBe(0);
  });
});

describe('status', () => {
  it('does not go live without FEATURES_OK', () => {
    const bench = new b.VirtioBench();
    bench.status = b.ACKNOWLEDGE | b.DRIVER | b.DRIVER_OK;
    expect(bench.status).toBe(b.ACKNOWLEDGE | b.DRIVER);
    expect(bench.backend.calls).toEqual([]);
  });

  it('keeps bits until a reset, and does not let the driver set the device its own', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.status = b.ACKNOWLEDGE;
    expect(bench.status).toBe(LIVE);
    bench.status = LIVE | b.NEEDS_RESET | 16 | 32;
    expect(bench.status).toBe(LIVE);
  });

  it('consumes nothing before DRIVER_OK, whatever is enabled and notified', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(VERSION_1);
    bench.setUpQueue(0);
    bench.setUpQueue(1);
    bench.kick(0);
    bench.kick(1);
    expect(bench.backend.calls).toEqual([]);
    bench.status = LIVE;
    expect(bench.backend.calls).toEqual(['open', 'start 0 @0', 'start 1 @0', 'kick 0', 'kick 1']);
  });

  it('FAILED stops the data plane', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.status = LIVE | b.FAILED;
    expect(bench.backend.running()).toEqual([]);
    expect(bench.status).toBe(LIVE | b.FAILED);
  });

  it('starts only the queues that were enabled', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1, [1]);
    expect(bench.backend.running()).toEqual([1]);
    bench.kick(0);
    expect(bench.backend.calls).not.toContain('kick 0');
  });
});

describe('device reset', () => {
  it('reads 0 when it is over, and everything is as after power-on', () => {
    const bench = new b.VirtioBench();
    bench.set(b.CONFIG_VECTOR, 2, 2);
    bench.bringUp(bench.offered(), [0, 1, 2], (index) => index);
    bench.status = 0;
    expect(bench.status).toBe(0);
    expect(bench.backend.running()).toEqual([]);
    expect(bench.get(b.CONFIG_VECTOR, 2)).toBe(0xffff);
    expect(bench.get(b.QUEUE_SELECT, 2)).toBe(0);
    for (let index = 0; index < 3; index++) {
      bench.set(b.QUEUE_SELECT, 2, index);
      expect(bench.get(b.QUEUE_ENABLE, 2)).toBe(0);
      expect(bench.get(b.QUEUE_RESET, 2)).toBe(0);
      expect(bench.get(b.QUEUE_VECTOR, 2)).toBe(0xffff);
      for (const field of [b.QUEUE_DESC, b.QUEUE_DESC + 4, b.QUEUE_DRIVER, b.QUEUE_DEVICE]) expect(bench.get(field, 4)).toBe(0);
    }
  });

  it('keeps reading non-zero until the data plane has let go, with no event loop in between', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.backend.slow = true;
    bench.status = 0;
    expect(bench.status).toBe(LIVE);
    // Nothing the driver does meanwhile wakes it up again.
    bench.status = b.ACKNOWLEDGE;
    bench.kick(0);
    bench.set(b.QUEUE_SELECT, 2, 0);
    bench.set(b.QUEUE_ENABLE, 2, 1);
    expect(bench.status).toBe(LIVE);
    expect(bench.backend.calls.filter((c) => c.startsWith('kick'))).toEqual(['kick 0', 'kick 1']);
    bench.backend.finishStops();
    expect(bench.status).toBe(0);
    bench.backend.slow = false;
    bench.bringUp(VERSION_1);
    expect(bench.backend.running()).toEqual([0, 1]);
    expect(bench.backend.ring(0).start).toEqual({ available: 0, used: 0 });
  });

  it('a function-level reset does the same', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.fabric.resetFunction(bench.pci.fn);
    expect(bench.backend.running()).toEqual([]);
    bench.configure();
    expect(bench.status).toBe(0);
  });
});

describe('DEVICE_NEEDS_RESET', () => {
  it('follows a broken ring, stops the others and tells the driver; only a reset clears it', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.backend.ring(1).state = 'broken';
    bench.backend.onEvent?.({ kind: 'broken', index: 1, reason: 'test' });
    expect(bench.read(b.ISR, 1) & 2).toBe(2);
    expect(bench.status).toBe(LIVE | b.NEEDS_RESET);
    expect(bench.backend.running()).toEqual([]);
    bench.kick(0);
    expect(bench.backend.calls.filter((c) => c === 'kick 0')).toHaveLength(1);
    bench.bringUp(VERSION_1);
    expect(bench.status).toBe(LIVE);
    expect(bench.backend.running()).toEqual([0, 1]);
  });

  it('is seen by reading the status when no event was delivered', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.backend.ring(0).state = 'broken';
    expect(bench.status).toBe(LIVE | b.NEEDS_RESET);
  });

  it('follows a setup that cannot be served', () => {
    const bench = new b.VirtioBench();
    bench.backend.breakOnStart = true;
    bench.bringUp(VERSION_1);
    expect(bench.status).toBe(LIVE | b.NEEDS_RESET);
  });

  it('follows a backend that throws', () => {
    const bench = new b.VirtioBench();
    bench.backend.throwOnOpen = true;
    bench.bringUp(VERSION_1);
    expect(bench.status).toBe(LIVE | b.NEEDS_RESET);
    expect(bench.backend.running()).toEqual([]);
  });
});

describe('queue reset', () => {
  const features = FeatureSet.of(32, RING_RESET);

  it('reads 1 while busy, then 0 with queue_enable 0 and defaults; the queue comes back with another size', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(features);
    bench.backend.slow = true;
    bench.set(b.QUEUE_SELECT, 2, 1);
    bench.set(b.QUEUE_RESET, 2, 1);
    expect(bench.get(b.QUEUE_RESET, 2)).toBe(1);
    bench.kick(1);
    bench.set(b.QUEUE_ENABLE, 2, 1);
    bench.backend.finishStops();
    expect(bench.get(b.QUEUE_RESET, 2)).toBe(0);
    expect(bench.get(b.QUEUE_ENABLE, 2)).toBe(0);
    expect(bench.get(b.QUEUE_DESC, 4)).toBe(0);
    expect(bench.get(b.QUEUE_SIZE, 2)).toBe(256);
    expect(bench.backend.running()).toEqual([0]);
    bench.backend.slow = false;
    bench.setUpQueue(1, { size: 64 });
    expect(bench.get(b.QUEUE_RESET, 2)).toBe(0);
    expect(bench.backend.ring(1)).toMatchObject({ state: 'running', setup: { size: 64 }, start: { available: 0, used: 0 } });
  });

  it('is ignored without the feature and for queues that are not there', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    for (const index of [0, 40, 0xffff]) {
      bench.set(b.QUEUE_SELECT, 2, index);
      bench.set(b.QUEUE_RESET, 2, 1);
      expect(bench.get(b.QUEUE_RESET, 2)).toBe(0);
    }
    expect(bench.backend.running()).toEqual([0, 1]);
  });

  it('a device reset overtakes one that is under way', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(features);
    bench.backend.slow = true;
    bench.set(b.QUEUE_SELECT, 2, 0);
    bench.set(b.QUEUE_RESET, 2, 1);
    bench.status = 0;
    bench.backend.finishStops();
    expect(bench.status).toBe(0);
    bench.set(b.QUEUE_SELECT, 2, 0);
    expect(bench.get(b.QUEUE_RESET, 2)).toBe(0);
  });
});
