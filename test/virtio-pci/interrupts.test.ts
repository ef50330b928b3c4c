// ISR status, MSI-X vector mapping and the routes of calls (virtio 1.4 4.1.4.5, 4.1.5.1.2, 4.1.5.3, 4.1.5.4), and the configuration generation (4.1.4.3.1).
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import * as b from './bench.ts';

const FEATURES = FeatureSet.of(32, 16); // VERSION_1, STATUS
const intaAfterSwizzle = 3; // device 3, INTA

function up(options: b.BenchOptions = {}, vector?: (index: number) => number): b.VirtioBench {
  const bench = new b.VirtioBench(options);
  bench.bringUp(FEATURES, [0, 1], vector);
  return bench;
}

describe('INTx', () => {
  it('a call sets ISR bit 0, raises the line and Interrupt Status; reading ISR takes all back', () => {
    const bench = up();
    bench.backend.ring(1).call.signal();
    expect(bench.lines.some(Boolean)).toBe(false);
    expect(bench.pci.service()).toBe(true);
    expect(bench.lines.findIndex(Boolean)).toBe(intaAfterSwizzle);
    expect(bench.configRead(6, 2) & 8).toBe(8);
    expect(bench.read(b.ISR, 1)).toBe(1);
    expect(bench.lines.some(Boolean)).toBe(false);
    expect(bench.configRead(6, 2) & 8).toBe(0);
    expect(bench.read(b.ISR, 1)).toBe(0);
    expect(bench.pci.service()).toBe(false);
  });

  it('a configuration change sets bit 1; both are reported together', () => {
    const bench = up();
    bench.net.setLink(false);
    bench.backend.ring(0).call.signal();
    bench.pci.service();
    expect(bench.read(b.ISR, 1)).toBe(3);
  });

  it('reading ISR sees calls that the event loop has not delivered yet', () => {
    const bench = up();
    bench.backend.ring(0).call.signal();
    expect(bench.read(b.ISR, 1)).toBe(1);
  });

  it('the line stays low under Interrupt Disable, and a write changes nothing', () => {
    const bench = up();
    bench.configWrite(4, 2, 0x406);
    bench.backend.ring(0).call.signal();
    bench.pci.service();
    expect(bench.lines.some(Boolean)).toBe(false);
    bench.write(b.ISR, 1, 0);
    expect(bench.configRead(6, 2) & 8).toBe(8);
  });

  it('nothing is left to raise after a reset', () => {
    const bench = up();
    bench.backend.ring(0).call.signal();
    bench.net.setLink(false);
    bench.status = 0;
    expect(bench.pci.service()).toBe(false);
    expect(bench.lines.some(Boolean)).toBe(false);
    expect(bench.read(b.ISR, 1)).toBe(0);
  });

  it('no configuration interrupt before DRIVER_OK, nor at it', () => {
    const bench = new b.VirtioBench();
    bench.negotiate(FEATURES);
    bench.net.setLink(false);
    bench.status = 15;
    expect(bench.read(b.ISR, 1)).toBe(0);
    expect(bench.read(b.CONFIG + 6, 2)).toBe(0);
  });
});

describe('MSI-X vectors', () => {
  it('read back what was mapped, NO_VECTOR past the table, and unmap', () => {
    const bench = new b.VirtioBench({ pci: { vectors: 3 } });
    bench.negotiate(FEATURES);
    bench.set(b.QUEUE_SELECT, 2, 1);
    for (const field of [b.CONFIG_VECTOR, b.QUEUE_VECTOR]) {
      expect(bench.get(field, 2)).toBe(0xffff);
      for (const [written, read] of [
        [2, 2],
        [0, 0],
        [3, 0xffff],
        [1, 1],
        [0x8001, 0xffff],
        [2, 2],
        [0xffff, 0xffff],
      ] as const) {
        bench.set(field, 2, written);
        expect(bench.get(field, 2)).toBe(read);
      }
    }
  });

  it('the table has as many entries as asked for', () => {
    const bench = new b.VirtioBench({ net: { queuePairs: 64 } });
    expect((bench.configRead(bench.msix + 2, 2) & 0x7ff) + 1).toBe(130);
  });

  it('a call goes straight to the guest while its entry is unmasked', () => {
    const bench = up({}, (index) => index + 1);
    bench.enableMsix();
    bench.programVector(1, 0x41);
    bench.programVector(2, 0x42);
    bench.backend.ring(1).call.signal();
    expect(bench.takeVectors()).toEqual([0x42]);
    expect(bench.messages).toEqual([]);
    expect(bench.pci.service()).toBe(false);
  });

  it('a masked entry keeps it pending and sends it when unmasked', () => {
    const bench = up({}, (index) => index);
    bench.enableMsix();
    bench.programVector(0, 0x40);
    bench.programVector(1, 0x41, true);
    bench.backend.ring(1).call.signal();
    expect(bench.takeVectors()).toEqual([]);
    bench.pci.service();
    expect(bench.messages).toEqual([]);
    bench.programVector(1, 0x51);
    expect(bench.messages.map((m) => m.message.data)).toEqual([0x51]);
    bench.backend.ring(1).call.signal();
    expect(bench.takeVectors()).toEqual([0x51]);
  });

  it('the function mask and bus mastering gate the direct route too', () => {
    const bench = up({}, () => 0);
    bench.programVector(0, 0x40);
    bench.enableMsix(true, true);
    bench.backend.ring(0).call.signal();
    expect(bench.takeVectors()).toEqual([]);
    bench.pci.service();
    bench.enableMsix();
    expect(bench.messages).toHaveLength(1);
    bench.configWrite(4, 2, 2);
    bench.backend.ring(0).call.signal();
    bench.pci.service();
    expect(bench.takeVectors()).toEqual([]);
    expect(bench.messages).toHaveLength(1);
    bench.configWrite(4, 2, 6);
    expect(bench.messages).toHaveLength(2);
  });

  it('without a platform for direct calls, relays them with the requester id', () => {
    const bench = up({ direct: false }, () => 1);
    bench.enableMsix();
    bench.programVector(1, 0x77);
    bench.backend.ring(0).call.signal();
    expect(bench.messages).toEqual([]);
    bench.pci.service();
    expect(bench.messages).toEqual([{ message: { addressLow: 0xfee00000, addressHigh: 0, data: 0x77 }, requester: 0x18 }]);
  });

  it('NO_VECTOR means no interrupt, and no ISR bit 0', () => {
    const bench = up();
    bench.enableMsix();
    bench.programVector(0, 0x40);
    bench.backend.ring(0).call.signal();
    bench.pci.service();
    expect(bench.takeVectors()).toEqual([]);
    expect(bench.messages).toEqual([]);
    expect(bench.read(b.ISR, 1)).toBe(0);
  });

  it('a configuration change sets ISR bit 1 first, and uses its own vector', () => {
    const bench = up();
    bench.enableMsix();
    bench.programVector(2, 0x60);
    bench.net.setLink(false);
    expect(bench.messages).toEqual([]);
    bench.set(b.CONFIG_VECTOR, 2, 2);
    bench.net.setLink(true);
    expect(bench.messages.map((m) => m.message.data)).toEqual([0x60]);
    expect(bench.lines.some(Boolean)).toBe(false);
    expect(bench.read(b.ISR, 1)).toBe(2);
  });

  it('a mode change moves the route of a call that was mapped before', () => {
    const bench = up({}, () => 0);
    bench.backend.ring(0).call.signal();
    bench.pci.service();
    expect(bench.lines.some(Boolean)).toBe(true);
    bench.read(b.ISR, 1);
    bench.enableMsix();
    bench.programVector(0, 0x40);
    bench.backend.ring(0).call.signal();
    expect(bench.takeVectors()).toEqual([0x40]);
    bench.enableMsix(false);
    bench.backend.ring(0).call.signal();
    bench.pci.service();
    expect(bench.takeVectors()).toEqual([]);
    expect(bench.lines.some(Boolean)).toBe(true);
  });

  it('a queue reset unmaps the queue and drops what it had not delivered', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(FeatureSet.of(32, 40), [0, 1], () => 0);
    bench.backend.ring(0).call.signal();
    bench.set(b.QUEUE_SELECT, 2, 0);
    bench.set(b.QUEUE_RESET, 2, 1);
    expect(bench.get(b.QUEUE_VECTOR, 2)).toBe(0xffff);
    expect(bench.read(b.ISR, 1)).toBe(0);
  });
});

describe('configuration generation', () => {
  it('differs once a field that changed had been read, and 256 changes do not bring it back', () => {
    const bench = up();
    for (let round = 0; round < 300; round++) {
      const generation = bench.get(b.GENERATION, 1);
      bench.read(b.CONFIG + 6, 2);
      const changes = round === 0 ? 256 : 2;
      for (let i = 0; i < changes; i++) bench.net.setLink(i % 2 === 1);
      expect(bench.get(b.GENERATION, 1)).not.toBe(generation);
    }
  });

  it('differs as well for a driver that did not negotiate the field and is not told', () => {
    const bench = new b.VirtioBench();
    bench.bringUp(FeatureSet.of(32), [0, 1]);
    const generation = bench.get(b.GENERATION, 1);
    bench.read(b.CONFIG + 6, 2);
    bench.net.setLink(false);
    expect(bench.get(b.GENERATION, 1)).not.toBe(generation);
    expect(bench.read(b.ISR, 1)).toBe(0);
  });

  it('stays while nothing that was read changes', () => {
    const bench = up();
    bench.net.setLink(false);
    const generation = bench.get(b.GENERATION, 1);
    bench.read(b.CONFIG, 4);
    expect(bench.get(b.GENERATION, 1)).toBe(generation);
  });
});
