// Any sequence of accesses: no throw, bounded work, and a data plane that is asked for nothing it could not do. fast-check prints the seed of a failure.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AccessSize } from '#core/region';
import { VIRTIO_STATUS_SUSPEND } from '#virtio/device-status';
import { FeatureSet } from '#virtio/features';
import * as b from './bench.ts';

const RUNS = { numRuns: 300 };
const size = fc.constantFrom<AccessSize>(1, 2, 4);
const interesting = fc.oneof(
  fc.nat(0xffff),
  fc.constantFrom(0, 1, 2, 3, 4, 7, 11, 15, 64, 128, 0x10000, 0x20000, 0x30000, 0xffff, 0x8000, 0xffffffff, 0xfffffff0),
  fc.nat(0xffffffff),
);

type Step =
  | { kind: 'common' | 'bar' | 'notify' | 'config'; offset: number; size: AccessSize; value: number; write: boolean }
  | { kind: 'status'; value: number }
  | { kind: 'bring-up'; features: number; queues: number[] }
  | { kind: 'backend'; event: 'finish' | 'break' | 'lose' | 'slow' | 'fast' | 'hand-over' | 'pause' | 'resume' | 'link' | 'signal'; index: number }
  | { kind: 'window'; bar: number; offset: number; length: number; value: number; write: boolean };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('common' as const), offset: fc.nat(70), size, value: interesting, write: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('notify' as const), offset: fc.nat(64), size, value: interesting, write: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('bar' as const), offset: fc.nat(0x4000), size, value: interesting, write: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('config' as const), offset: fc.nat(0xff), size, value: interesting, write: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('status' as const), value: fc.constantFrom(0, 1, 3, 11, 15, 128, 255) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('bring-up' as const), features: fc.nat(3), queues: fc.uniqueArray(fc.nat(5)) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('backend' as const),
      event: fc.constantFrom('finish' as const, 'break', 'lose', 'slow', 'fast', 'hand-over', 'pause', 'resume', 'link', 'signal'),
      index: fc.nat(3),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('window' as const),
      bar: fc.nat(7),
      offset: fc.oneof(fc.nat(0x4000), interesting),
      length: fc.constantFrom(0, 1, 2, 3, 4, 8),
      value: interesting,
      write: fc.boolean(),
    }),
  },
);

class Runner {
  readonly bench: b.VirtioBench;
  readonly backends: b.RecordingBackend[];

  constructor(notifyMultiplier: number) {
    this.bench = new b.VirtioBench({ net: { queuePairs: 2 }, pci: { notifyMultiplier, notificationData: true, notifConfigData: true } });
    this.backends = [this.bench.backend];
  }

  get backend(): b.RecordingBackend {
    return this.bench.net.backend as b.RecordingBackend;
  }

  run(step: Step): void {
    const { bench } = this;
    switch (step.kind) {
      case 'common':
      case 'notify':
      case 'bar': {
        const address = (step.kind === 'notify' ? b.NOTIFY : b.BAR0) + step.offset;
        if (step.write) bench.write(address, step.size, step.value);
        else bench.read(address, step.size);
        return;
      }
      case 'config':
        // Not the command register, the BARs or power management: then there would be nothing left to test.
        if (step.offset < 0x40 || step.offset + step.size > bench.msix + 12) bench.configRead(step.offset, step.size);
        else if (step.write) bench.configWrite(step.offset, step.size, step.value);
        else bench.configRead(step.offset, step.size);
        return;
      case 'status':
        bench.status = step.value;
        return;
      case 'bring-up': {
        const sets = [bench.offered(), bench.offered().without(FeatureSet.of(34)), FeatureSet.of(32), FeatureSet.of(32, 34, 40)];
        if ((bench.negotiate(sets[step.features] as FeatureSet) & b.FEATURES_OK) === 0) return;
        for (const index of step.queues) bench.setUpQueue(index);
        bench.status = 15;
        return;
      }
      case 'backend':
        this.#event(step.event, step.index);
        return;
      case 'window': {
        const at = bench.caps.get(5) as number;
        bench.configWrite(at + 4, 1, step.bar);
        bench.configWrite(at + 8, 4, step.offset);
        bench.configWrite(at + 12, 4, step.length);
        if (step.write) bench.configWrite(at + 16, 4, step.value);
        else bench.configRead(at + 16, 4);
      }
    }
  }

  #event(event: (Step & { kind: 'backend' })['event'], index: number): void {
    const { backend, bench } = this;
    const ring = backend.rings.get(index);
    switch (event) {
      case 'finish':
        backend.finishStops();
        return;
      case 'break':
      case 'lose':
        if (ring === undefined || (ring.state !== 'running' && ring.state !== 'stopping')) return;
        ring.state = event === 'break' ? 'broken' : 'lost';
        backend.onEvent?.(event === 'break' ? { kind: 'broken', index, reason: 'property' } : { kind: 'lost', reason: 'property' });
        return;
      case 'slow':
      case 'fast':
        backend.slow = event === 'slow';
        return;
      case 'hand-over': {
        if (bench.net.handingOver) return;
        const next = new b.RecordingBackend('next');
        this.backends.push(next);
        bench.net.handOver(next);
        return;
      }
      case 'pause':
        bench.net.pause();
        return;
      case 'resume':
        bench.net.resume();
        return;
      case 'link':
        bench.net.setLink(index % 2 === 0);
        return;
      case 'signal':
        ring?.call.signal();
    }
  }

  /** What must hold after every step. */
  check(): void {
    for (const backend of this.backends) expect(backend.violations).toEqual([]);
    const { bench } = this;
    const status = bench.status;
    const live = (status & (b.DRIVER_OK | b.NEEDS_RESET | b.FAILED)) === b.DRIVER_OK;
    // Suspended, it is not driven (virtio 1.4 2.1).
    expect(status & ~0xdf).toBe(0);
    if ((status & VIRTIO_STATUS_SUSPEND) !== 0) expect(status & b.DRIVER_OK).toBe(0);
    if ((status & b.DRIVER_OK) !== 0) expect(status & b.FEATURES_OK).toBe(b.FEATURES_OK);
    const select = bench.get(b.QUEUE_SELECT, 2);
    for (const [n, backend] of this.backends.entries()) {
      const running = backend.running();
      // Rings run on the present backend, in a live device, for enabled queues only.
      if (n < this.backends.length - 1 && !bench.net.handingOver) expect(running).toEqual([]);
      if (!live) expect(running).toEqual([]);
      for (const index of running) {
        bench.set(b.QUEUE_SELECT, 2, index);
        expect(bench.get(b.QUEUE_ENABLE, 2)).toBe(1);
      }
    }
    bench.set(b.QUEUE_SELECT, 2, select);
  }
}

describe('random accesses to the transport', () => {
  it.each([0, 4])('never throw, and keep data plane and registers in step (multiplier %i)', (multiplier) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const runner = new Runner(multiplier);
        for (const each of steps) {
          runner.run(each);
          runner.bench.pci.service();
          runner.check();
        }
        // Whatever happened, a reset ends it.
        runner.bench.configWrite(4, 2, 6);
        runner.backend.slow = false;
        for (const backend of runner.backends) backend.finishStops();
        runner.bench.status = 0;
        for (const backend of runner.backends) backend.finishStops();
        expect(runner.bench.status).toBe(0);
        runner.bench.net.resume();
        runner.bench.bringUp(FeatureSet.of(32));
        expect(runner.backend.running()).toEqual([0, 1]);
      }),
      RUNS,
    );
  });
});

describe('random memory behind the control queue', () => {
  it('is answered or breaks the queue, whatever it holds', () => {
    const commands = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 20 });
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1024, maxLength: 1024 }), fc.nat(0xffff), fc.boolean(), commands, (junk, index, packed, pieces) => {
        const bench = new b.VirtioBench();
        const offered = bench.offered();
        bench.bringUp(packed ? offered : offered.without(FeatureSet.of(34)), [0, 1, 2]);
        const ram = new Uint8Array(bench.ram);
        const { descriptor, driver } = b.VirtioBench.area(2);
        ram.set(junk, descriptor);
        ram.set(junk.subarray(0, 128), driver + 4);
        // Descriptors that often enough point into RAM and are short.
        const view = new DataView(bench.ram);
        for (let i = 0; i < 64; i += 2) {
          view.setUint32(descriptor + 16 * i + 4, 0, true);
          view.setUint8(descriptor + 16 * i + 3, (junk[i] as number) & 0x3);
          view.setUint32(descriptor + 16 * i + 8, (junk[i + 1] as number) & 0x3f, true);
        }
        pieces.forEach((piece, i) => {
          ram.set(piece, 0x10000 * (i + 1));
        });
        new DataView(bench.ram).setUint16(driver + 2, index & 0x3f, true);
        bench.kick(2);
        bench.clock.advance(1000);
        expect(bench.status & b.DRIVER_OK).toBe(b.DRIVER_OK);
      }),
      RUNS,
    );
  });
});
