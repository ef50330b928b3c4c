// Capabilities, common configuration fields, notification area and device configuration of virtio over PCI (virtio 1.4 4.1.2 to 4.1.4).
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import * as b from './bench.ts';

const VERSION_1 = FeatureSet.of(32);
const NOTIFICATION_DATA = 38;
const NOTIF_CONFIG_DATA = 39;

describe('identity and capabilities', () => {
  it('is a modern network card', () => {
    const bench = new b.VirtioBench();
    expect(bench.configRead(0, 2)).toBe(0x1af4);
    expect(bench.configRead(2, 2)).toBe(0x1041);
    expect(bench.configRead(8, 1)).toBeGreaterThanOrEqual(1);
    expect(bench.configRead(9, 1) | (bench.configRead(10, 2) << 8)).toBe(0x020000);
    expect(bench.configRead(0x2e, 2)).toBeGreaterThanOrEqual(0x40);
  });

  it('has each structure, aligned and inside its BAR', () => {
    const bench = new b.VirtioBench({ net: { queuePairs: 4 } });
    expect([...bench.caps.keys()].sort()).toEqual([1, 2, 3, 4, 5]);
    bench.configWrite(0x10, 4, 0xffffffff);
    const barSize = ~(bench.configRead(0x10, 4) & ~15) + 1;
    expect(bench.configRead(0x10, 4) & 15, '64-bit, prefetchable').toBe(12);
    for (const [type, alignment] of [
      [1, 4],
      [2, 4],
      [3, 1],
      [4, 4],
    ] as const) {
      const at = bench.caps.get(type) as number;
      expect(bench.configRead(at + 2, 1)).toBe(type === 2 ? 20 : 16);
      expect(bench.configRead(at + 4, 1)).toBe(0);
      expect(bench.configRead(at + 8, 4) % alignment).toBe(0);
      expect(bench.configRead(at + 8, 4) + bench.configRead(at + 12, 4)).toBeLessThanOrEqual(barSize >>> 0);
    }
  });

  it.each([0, 4, 64, 4096])('with multiplier %i has room for every doorbell at its widest', (notifyMultiplier) => {
    const bench = new b.VirtioBench({ net: { queuePairs: 4 }, pci: { notifyMultiplier, notificationData: true } });
    const at = bench.caps.get(2) as number;
    expect(bench.configRead(at + 16, 4)).toBe(notifyMultiplier);
    const length = bench.configRead(at + 12, 4);
    for (let index = 0; index < 9; index++) {
      bench.set(b.QUEUE_SELECT, 2, index);
      expect(bench.get(b.QUEUE_NOTIFY_OFF, 2) * notifyMultiplier + 4).toBeLessThanOrEqual(length);
    }
  });

  it.each([
    [{ notifyMultiplier: 3 }, 'NICBOX_NOTIFY_MULTIPLIER'],
    [{ notifyMultiplier: 2, notificationData: true }, 'NICBOX_NOTIFY_MULTIPLIER'],
    [{ notifyMultiplier: 1 }, 'NICBOX_NOTIFY_MULTIPLIER'],
    [{ vectors: 1 }, 'NICBOX_VECTORS'],
    [{ vectors: 2049 }, 'NICBOX_VECTORS'],
  ])('refuses %o with a code', (pci, code) => {
    expect(() => new b.VirtioBench({ pci })).toThrow(expect.objectContaining({ code }));
  });
});

describe('common configuration', () => {
  it('has the 64-bit queue addresses as halves', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(VERSION_1);
    bench.set(b.QUEUE_DESC + 4, 4, 0x12);
    bench.set(b.QUEUE_DESC, 4, 0xabcd0000);
    bench.set(b.QUEUE_DEVICE, 4, 0x5000);
    expect([bench.get(b.QUEUE_DESC, 4), bench.get(b.QUEUE_DESC + 4, 4), bench.get(b.QUEUE_DEVICE, 4), bench.get(b.QUEUE_DEVICE + 4, 4)]).toEqual([
      0xabcd0000, 0x12, 0x5000, 0,
    ]);
    bench.set(b.QUEUE_SELECT, 2, 1);
    expect(bench.get(b.QUEUE_DESC, 4)).toBe(0);
  });

  it('shows nothing behind a queue_select that selects nothing', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(VERSION_1);
    for (const index of [2, 3, 200, 0xffff]) {
      bench.set(b.QUEUE_SELECT, 2, index);
      expect(bench.get(b.QUEUE_SIZE, 2)).toBe(0);
      bench.set(b.QUEUE_SIZE, 2, 16);
      bench.set(b.QUEUE_DESC, 4, 0x1000);
      bench.set(b.QUEUE_ENABLE, 2, 1);
      bench.set(b.QUEUE_VECTOR, 2, 0);
      expect([bench.get(b.QUEUE_SIZE, 2), bench.get(b.QUEUE_DESC, 4), bench.get(b.QUEUE_ENABLE, 2), bench.get(b.QUEUE_VECTOR, 2)]).toEqual([0, 0, 0, 0xffff]);
    }
  });

  it('has the control queue after the last pair that was negotiated', () => {
    const bench = new b.VirtioBench({ net: { queuePairs: 4 } });
    const sizes = (): number[] =>
      Array.from({ length: 10 }, (_, index) => {
        bench.set(b.QUEUE_SELECT, 2, index);
        return bench.get(b.QUEUE_SIZE, 2);
      });
    expect(bench.get(b.NUM_QUEUES, 2)).toBe(9);
    expect(sizes()).toEqual([256, 256, 256, 256, 256, 256, 256, 256, 64, 0]);
    bench.negotiate(bench.offered());
    expect(sizes()).toEqual([256, 256, 256, 256, 256, 256, 256, 256, 64, 0]);
    // virtio 1.4 5.1.2: with RSS alone the pairs are there as well.
    bench.negotiate(bench.offered().without(FeatureSet.of(22)));
    expect(sizes()).toEqual([256, 256, 256, 256, 256, 256, 256, 256, 64, 0]);
    bench.negotiate(bench.offered().without(FeatureSet.of(22, 51, 60, 64)));
    expect(sizes()).toEqual([256, 256, 64, 0, 0, 0, 0, 0, 0, 0]);
    bench.negotiate(VERSION_1);
    expect(sizes()).toEqual([256, 256, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  it('keeps queue_size at something that works: a power of two for split, within the maximum always', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(VERSION_1);
    for (const size of [0, 257, 512, 100, 0xffff]) {
      bench.set(b.QUEUE_SIZE, 2, size);
      expect(bench.get(b.QUEUE_SIZE, 2)).toBe(256);
    }
    bench.set(b.QUEUE_SIZE, 2, 32);
    expect(bench.get(b.QUEUE_SIZE, 2)).toBe(32);
    bench.negotiate(FeatureSet.of(32, 34));
    bench.set(b.QUEUE_SIZE, 2, 100);
    expect(bench.get(b.QUEUE_SIZE, 2)).toBe(100);
  });

  it('does not let an enabled queue be changed (size after addresses, address after enable)', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.set(b.QUEUE_SELECT, 2, 0);
    bench.set(b.QUEUE_SIZE, 2, 16);
    bench.set(b.QUEUE_DESC, 4, 0x300000);
    bench.set(b.QUEUE_ENABLE, 2, 0);
    expect([bench.get(b.QUEUE_SIZE, 2), bench.get(b.QUEUE_DESC, 4), bench.get(b.QUEUE_ENABLE, 2)]).toEqual([256, 0x10000, 1]);
  });

  it('does not enable a queue before FEATURES_OK', () => {
    const bench = new b.VirtioBench();
    bench.status = 3;
    bench.setUpQueue(0);
    expect(bench.get(b.QUEUE_ENABLE, 2)).toBe(0);
  });

  it('takes accesses that a host has split, and acts once on the whole', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(VERSION_1);
    const bytewise = (field: number, size: number, value: number): void => {
      for (let i = 0; i < size; i++) bench.set(field + i, 1, (value >>> (8 * i)) & 0xff);
    };
    bytewise(b.QUEUE_SELECT, 2, 1);
    // 256 to 128: neither byte alone is a size.
    bytewise(b.QUEUE_SIZE, 2, 128);
    bytewise(b.CONFIG_VECTOR, 2, 2);
    bytewise(b.QUEUE_DESC, 4, 0x00345670);
    bench.set(b.QUEUE_DRIVER, 2, 0x8000);
    bench.set(b.QUEUE_DRIVER + 2, 2, 0x34);
    bytewise(b.QUEUE_ENABLE, 2, 1);
    expect(bench.get(b.QUEUE_SELECT, 2)).toBe(1);
    expect([0, 1].map((i) => bench.get(b.QUEUE_SIZE + i, 1))).toEqual([128, 0]);
    expect(bench.get(b.CONFIG_VECTOR, 2)).toBe(2);
    expect(bench.get(b.QUEUE_DESC, 4)).toBe(0x00345670);
    expect(bench.get(b.QUEUE_DRIVER, 4)).toBe(0x348000);
    expect(bench.get(b.QUEUE_ENABLE, 2)).toBe(1);
    // One load over neighbours: config_msix_vector and num_queues.
    expect(bench.get(b.CONFIG_VECTOR, 4)).toBe(0x0003_0002);
  });

  it('has no administration queues, and nothing after its end', () => {
    const bench = new b.VirtioBench();
    expect(bench.get(b.ADMIN_INDEX, 4)).toBe(0);
    expect(bench.get(64, 4)).toBe(0);
    bench.set(b.ADMIN_INDEX, 4, 0xffffffff);
    bench.set(b.NUM_QUEUES, 2, 7);
    bench.set(b.GENERATION, 1, 7);
    expect([bench.get(b.ADMIN_INDEX, 4), bench.get(b.NUM_QUEUES, 2), bench.get(b.GENERATION, 1)]).toEqual([0, 3, 0]);
  });
});

describe('notifications', () => {
  const kicks = (bench: b.VirtioBench): string[] => bench.backend.calls.filter((c) => c.startsWith('kick'));

  it('with a multiplier, the address says which queue', () => {
    const bench = new b.VirtioBench({ pci: { notifyMultiplier: 16 } });
    bench.bringUp(VERSION_1);
    bench.backend.calls.length = 0;
    bench.write(b.NOTIFY + 16, 2, 0);
    bench.write(b.NOTIFY + 18, 2, 0);
    bench.write(b.NOTIFY, 1, 0);
    bench.write(b.NOTIFY + 1, 1, 0);
    expect(kicks(bench)).toEqual(['kick 1', 'kick 0']);
  });

  it('with multiplier 0, the value does, also when split', () => {
    const bench = new b.VirtioBench({ pci: { notifyMultiplier: 0 } });
    bench.bringUp(VERSION_1);
    bench.set(b.QUEUE_SELECT, 2, 1);
    expect(bench.get(b.QUEUE_NOTIFY_OFF, 2)).toBe(0);
    bench.backend.calls.length = 0;
    bench.write(b.NOTIFY, 2, 1);
    bench.write(b.NOTIFY, 2, 9);
    bench.write(b.NOTIFY, 1, 1);
    bench.write(b.NOTIFY + 1, 1, 0);
    expect(kicks(bench)).toEqual(['kick 1', 'kick 1']);
  });

  it('NOTIFICATION_DATA brings a 32-bit value whose position is a hint only', () => {
    const bench = new b.VirtioBench({ pci: { notifyMultiplier: 0, notificationData: true } });
    bench.bringUp(FeatureSet.of(32, NOTIFICATION_DATA));
    bench.backend.calls.length = 0;
    bench.write(b.NOTIFY, 4, 0xffff0001);
    bench.write(b.NOTIFY, 4, 0xffff0001);
    expect(kicks(bench)).toEqual(['kick 1', 'kick 1']);
  });

  it.each([0, 4])('NOTIF_CONFIG_DATA names queues by a value of the device (multiplier %i)', (notifyMultiplier) => {
    const bench = new b.VirtioBench({ pci: { notifyMultiplier, notifConfigData: true, notificationData: true } });
    bench.bringUp(FeatureSet.of(32, NOTIFICATION_DATA, NOTIF_CONFIG_DATA));
    bench.backend.calls.length = 0;
    const names = [0, 1].map((index) => {
      bench.set(b.QUEUE_SELECT, 2, index);
      return bench.get(b.QUEUE_NOTIF_CONFIG, 2);
    });
    expect(names[0]).not.toBe(names[1]);
    bench.write(b.NOTIFY + notifyMultiplier, 4, names[1] as number);
    bench.write(b.NOTIFY, 4, names[0] as number);
    expect(kicks(bench)).toEqual(['kick 1', 'kick 0']);
    bench.negotiate(VERSION_1);
    bench.set(b.QUEUE_SELECT, 2, 1);
    expect(bench.get(b.QUEUE_NOTIF_CONFIG, 2)).toBe(0);
  });

  it('a queue without size, enable or existence is not used', () => {
    const bench = new b.VirtioBench({ net: { queuePairs: 2 } });
    bench.bringUp(bench.offered(), [1]);
    bench.backend.calls.length = 0;
    for (let index = 0; index < 64; index++) bench.kick(index);
    expect(kicks(bench)).toEqual(['kick 1']);
  });

  it('reading the area does nothing', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.backend.calls.length = 0;
    expect(bench.read(b.NOTIFY, 2)).toBe(0);
    expect(bench.backend.calls).toEqual([]);
  });

  it('names the doorbell that may be rung instead, while the queue is live and only for the write a driver makes', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    const doorbell = bench.fabric.doorbell(b.NOTIFY + 4, 2, 1);
    expect(doorbell?.doorbell).toBe(bench.backend.doorbells.get(1));
    expect(doorbell?.match).toBe('address');
    expect(bench.fabric.doorbell(b.NOTIFY + 4, 4, 1)).toBeUndefined();
    expect(bench.fabric.doorbell(b.NOTIFY + 6, 2, 1)).toBeUndefined();
    expect(bench.fabric.doorbell(b.NOTIFY + 8, 2, 2)).toBeUndefined();
    expect(bench.fabric.doorbell(b.ISR, 2, 0)).toBeUndefined();
    const before = doorbell?.doorbell.revocations ?? 0;
    bench.status = 0;
    expect(doorbell?.doorbell.revocations).toBeGreaterThan(before);
    expect(bench.fabric.doorbell(b.NOTIFY + 4, 2, 1)).toBeUndefined();
  });

  it('with one address for all, the doorbell stands for one value', () => {
    const bench = new b.VirtioBench({ pci: { notifyMultiplier: 0 } });
    bench.bringUp(VERSION_1);
    expect(bench.fabric.doorbell(b.NOTIFY, 2, 1)).toEqual({ doorbell: bench.backend.doorbells.get(1), match: 'value' });
  });
});

describe('bus mastering', () => {
  it('coming back on, looks at every live queue: a kick may have come to nothing meanwhile', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(VERSION_1);
    bench.configWrite(4, 2, 2);
    bench.backend.calls.length = 0;
    bench.configWrite(4, 2, 6);
    expect(bench.backend.calls).toEqual(['kick 0', 'kick 1']);
  });
});
