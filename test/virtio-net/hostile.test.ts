// Rows of hostile-inputs.md 8.2 that concern the transport and the control queue, by their ids: the device refuses, answers ERR or marks itself broken; nothing throws, nothing spins.
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import { SplitDriver } from '../virtio/driver-split.ts';
import {
  ACKNOWLEDGE,
  DRIVER,
  DRIVER_OK,
  FEATURES_OK,
  NEEDS_RESET,
  QUEUE_DESC,
  QUEUE_ENABLE,
  QUEUE_SELECT,
  QUEUE_SIZE,
  VirtioBench,
} from '../virtio-pci/bench.ts';
import { ControlBench, ERR, OK, u32 } from './control-bench.ts';

const ALL_SPLIT = FeatureSet.of(34, 35);
const broken = (bench: VirtioBench): boolean => (bench.status & NEEDS_RESET) !== 0;

/** A control queue whose descriptors the test writes by hand. */
function byHand(): {
  bench: ControlBench;
  describe: (index: number, address: number, length: number, flags: number, next: number) => void;
  go: (...heads: number[]) => void;
} {
  const bench = new ControlBench();
  const view = new DataView(bench.ram);
  const { descriptor, driver } = VirtioBench.area(bench.index);
  let idx = 0;
  return {
    bench,
    describe(index, address, length, flags, next) {
      view.setUint32(descriptor + 16 * index, address % 2 ** 32, true);
      view.setUint32(descriptor + 16 * index + 4, Math.floor(address / 2 ** 32), true);
      view.setUint32(descriptor + 16 * index + 8, length, true);
      view.setUint16(descriptor + 16 * index + 12, flags, true);
      view.setUint16(descriptor + 16 * index + 14, next, true);
    },
    go(...heads) {
      for (const head of heads) view.setUint16(driver + 4 + 2 * (idx++ % 64), head, true);
      view.setUint16(driver + 2, idx & 0xffff, true);
      bench.kick(bench.index);
    },
  };
}

describe('control queue', () => {
  it('CVE-2014-0150: MAC_TABLE_SET with 0xffffffff entries', () => {
    const bench = new ControlBench();
    expect(bench.command([1, 0, ...u32(0xffffffff), ...new Array(60).fill(2)]).ack).toBe(ERR);
  });

  it('CVE-2016-5403: one descriptor published again and again', () => {
    const { bench, describe: desc, go } = byHand();
    bench.bytes.set([0, 0, 1], 0x300000);
    desc(0, 0x300000, 3, 1, 1);
    desc(1, 0x300010, 1, 2, 0);
    go(...new Array(64).fill(0));
    bench.clock.advance(1);
    expect(broken(bench)).toBe(false);
    expect(bench.bytes[0x300010]).toBe(OK);
    // More than the ring holds at once is a lie about the ring.
    const liar = byHand();
    new DataView(liar.bench.ram).setUint16(VirtioBench.area(liar.bench.index).driver + 2, 65, true);
    liar.bench.kick(liar.bench.index);
    expect(broken(liar.bench)).toBe(true);
  });

  it('CVE-2016-6490: a zero-length descriptor in the chain ends in an answer or a broken queue, not in a loop', () => {
    const { bench, describe: desc, go } = byHand();
    bench.bytes.set([0, 0, 1], 0x300000);
    desc(0, 0x300000, 0, 1, 1);
    desc(1, 0x300000, 3, 1, 2);
    desc(2, 0x300010, 1, 2, 0);
    go(0);
    expect(broken(bench) || bench.bytes[0x300010] === OK).toBe(true);
  });

  it('CVE-2018-17963: lengths that sum to more than 2^31', () => {
    const { bench, describe: desc, go } = byHand();
    for (let i = 0; i < 63; i++) desc(i, 0, 0xffffffff, 1, i + 1);
    desc(63, 0x300010, 1, 2, 0);
    go(0);
    expect(broken(bench)).toBe(true);
  });

  it('a large command of pieces that do exist is read no further than it says', () => {
    const { bench, describe: desc, go } = byHand();
    bench.bytes.set([1, 0, ...u32(0x00ffffff)], 0x300000);
    for (let i = 0; i < 62; i++) desc(i, i === 0 ? 0x300000 : 0, i === 0 ? 6 : 0x200000, 1, i + 1);
    desc(62, 0x3f0000, 1, 2, 0);
    go(0);
    expect(broken(bench)).toBe(false);
    expect([OK, ERR]).toContain(bench.bytes[0x3f0000]);
  });

  it('CVE-2024-3446, CVE-2026-66022: buffers at the device its own notify register', () => {
    const { bench, describe: desc, go } = byHand();
    desc(0, 0x40_0000_3008, 2, 1, 1);
    desc(1, 0x40_0000_3008, 2, 2, 0);
    go(0);
    expect(broken(bench)).toBe(true);
  });

  it.each([
    ['length 0', 0x310000, 0],
    ['length not a multiple of 16', 0x310000, 24],
    ['outside RAM', 0x7000_0000, 32],
  ])('6dbdc271f5: an indirect table, %s', (_, address, length) => {
    const { bench, describe: desc, go } = byHand();
    desc(0, address, length, 4, 0);
    go(0);
    expect(broken(bench)).toBe(true);
  });

  it('6dbdc271f5: nested indirect, and a chain that loops', () => {
    const nested = byHand();
    new DataView(nested.bench.ram).setUint16(0x310000 + 12, 4, true);
    nested.describe(0, 0x310000, 16, 4, 0);
    nested.go(0);
    expect(broken(nested.bench)).toBe(true);
    const looped = byHand();
    looped.describe(0, 0x300000, 1, 1, 1);
    looped.describe(1, 0x300000, 1, 1, 0);
    looped.go(0);
    expect(broken(looped.bench)).toBe(true);
  });

  it('"Guest says index", a head past the ring', () => {
    const { bench, go } = byHand();
    go(64);
    expect(broken(bench)).toBe(true);
  });

  it('"Incorrect order for descriptors": readable after writable', () => {
    const { bench, describe: desc, go } = byHand();
    desc(0, 0x300010, 1, 3, 1);
    desc(1, 0x300000, 3, 0, 0);
    go(0);
    expect(broken(bench)).toBe(true);
  });

  it('CVE-2026-16457: an invalid chain in a packed ring is left, not retried for ever', () => {
    const bench = new ControlBench({ features: new ControlBench().offered() });
    const view = new DataView(bench.ram);
    const { descriptor } = VirtioBench.area(bench.index);
    for (let i = 0; i < 64; i++) {
      view.setUint32(descriptor + 16 * i + 8, 1, true);
      view.setUint16(descriptor + 16 * i + 14, 0x80 | 1, true); // available, NEXT, without end
    }
    bench.kick(bench.index);
    expect(broken(bench)).toBe(true);
    bench.kick(bench.index);
  });

  it('a broken control queue is dead until a reset, and then well', () => {
    const { bench, go } = byHand();
    go(99);
    expect(broken(bench)).toBe(true);
    bench.kick(bench.index);
    bench.ram && new Uint8Array(bench.ram).fill(0, 0x10000, 0x100000);
    bench.bringUp(bench.offered().without(ALL_SPLIT), [0, 1, 2]);
    const { descriptor, driver, device } = VirtioBench.area(2);
    const ring = new SplitDriver(bench.ram, { size: 64, desc: descriptor, avail: driver, used: device }, { eventIdx: true });
    bench.bytes.set([0, 0, 1], 0x300000);
    ring.add(0, [
      { address: 0x300000, length: 3 },
      { address: 0x300010, length: 1, write: true },
    ]);
    ring.expose();
    bench.kick(2);
    expect(ring.reap()).toHaveLength(1);
    expect(bench.bytes[0x300010]).toBe(OK);
  });
});

describe('transport', () => {
  it('CVE-2017-17381: notifying and enabling queues before anything is set up', () => {
    const bench = new VirtioBench();
    for (const status of [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER]) {
      if (status !== 0) bench.status = status;
      for (let index = 0; index < 4; index++) {
        bench.kick(index);
        bench.set(QUEUE_SELECT, 2, index);
        bench.set(QUEUE_ENABLE, 2, 1);
      }
    }
    bench.bringUp(bench.offered().without(ALL_SPLIT), []);
    for (let index = 0; index < 3; index++) {
      bench.set(QUEUE_SELECT, 2, index);
      bench.set(QUEUE_ENABLE, 2, 1);
      bench.kick(index);
    }
    // Areas at address 0 are memory like any other: nothing to do there is no error.
    expect(bench.backend.ring(0).setup.descriptorArea).toBe(0);
  });

  it('CVE-2026-50626, f0d634ea19: a size above the maximum, and a size after the addresses', () => {
    const bench = new VirtioBench();
    bench.negotiate(bench.offered());
    bench.set(QUEUE_SELECT, 2, 0);
    bench.set(QUEUE_DESC, 4, 0x10000);
    bench.set(QUEUE_SIZE, 2, 0x8000);
    expect(bench.get(QUEUE_SIZE, 2)).toBe(256);
    bench.set(QUEUE_SIZE, 2, 128);
    bench.set(QUEUE_ENABLE, 2, 1);
    bench.set(QUEUE_SIZE, 2, 256);
    bench.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    expect(bench.backend.ring(0).setup).toMatchObject({ size: 128, descriptorArea: 0x10000 });
  });

  it('2d69eba5fe, f47af0af0d: bad features, then everything as if they had been accepted', () => {
    const bench = new VirtioBench();
    expect(bench.negotiate(FeatureSet.of(32, 60)) & FEATURES_OK).toBe(0);
    for (let index = 0; index < 3; index++) bench.setUpQueue(index);
    bench.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    for (let index = 0; index < 3; index++) bench.kick(index);
    expect(bench.status & DRIVER_OK).toBe(0);
    expect(bench.backend.calls).toEqual([]);
  });

  it('2d69eba5fe: the control queue is never a data ring', () => {
    const bench = new VirtioBench({ net: { queuePairs: 2 } });
    // Without MQ or RSS the control queue is at 2, where a pair would be with one of them.
    bench.bringUp(bench.offered().without(FeatureSet.of(22, 60, 51, 64, 34, 35)), [0, 1, 2]);
    expect(bench.backend.running()).toEqual([0, 1]);
    bench.bringUp(bench.offered().without(ALL_SPLIT), [0, 1, 2, 3, 4]);
    expect(bench.backend.running()).toEqual([0, 1, 2, 3]);
  });

  it('DPDK CVE-2019-14818: 10^5 resets and enables leave nothing behind', () => {
    const bench = new VirtioBench();
    const features = bench.offered().without(ALL_SPLIT);
    const round = (): void => {
      bench.bringUp(features, [0, 1, 2]);
      bench.status = 0;
      bench.backend.calls.length = 0;
    };
    for (let i = 0; i < 2_000; i++) round();
    const before = process.memoryUsage();
    for (let i = 0; i < 100_000 / 3; i++) round();
    const after = process.memoryUsage();
    expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(2 ** 20);
    expect(after.heapUsed - before.heapUsed).toBeLessThan(64 * 2 ** 20);
  });
});
