// The PCI configuration access capability (virtio 1.4 4.1.4.9): a window into the BARs that needs no BAR to be placed.
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import * as b from './bench.ts';

class Window {
  readonly bench: b.VirtioBench;
  readonly at: number;

  constructor(bench: b.VirtioBench) {
    this.bench = bench;
    this.at = bench.caps.get(5) as number;
  }

  aim(bar: number, offset: number, length: number): void {
    this.bench.configWrite(this.at + 4, 1, bar);
    this.bench.configWrite(this.at + 8, 4, offset);
    this.bench.configWrite(this.at + 12, 4, length);
  }

  read(bar: number, offset: number, length: 1 | 2 | 4): number {
    this.aim(bar, offset, length);
    return this.bench.configRead(this.at + 16, length);
  }

  write(bar: number, offset: number, length: 1 | 2 | 4, value: number): void {
    this.aim(bar, offset, length);
    this.bench.configWrite(this.at + 16, length, value);
  }
}

function open(): { bench: b.VirtioBench; window: Window } {
  const bench = new b.VirtioBench();
  return { bench, window: new Window(bench) };
}

describe('the access window', () => {
  it('has its own length, and only bar, offset, length and data are writable', () => {
    const { bench, window } = open();
    expect(bench.configRead(window.at + 2, 1)).toBe(20);
    const before = [0, 2, 3, 5, 6, 7].map((i) => bench.configRead(window.at + i, 1));
    for (let i = 0; i < 8; i++) if (i !== 4) bench.configWrite(window.at + i, 1, 0xff);
    expect([0, 2, 3, 5, 6, 7].map((i) => bench.configRead(window.at + i, 1))).toEqual(before);
  });

  it('negotiates a device whose BARs are nowhere', () => {
    const { bench, window } = open();
    bench.configWrite(4, 2, 0);
    bench.configWrite(0x10, 4, 0);
    bench.configWrite(0x14, 4, 0);
    for (const status of [1, 3]) window.write(0, b.STATUS, 1, status);
    window.write(0, b.DEVICE_FEATURE_SELECT, 4, 1);
    expect(window.read(0, b.DEVICE_FEATURE, 4) & 1).toBe(1);
    window.write(0, b.DRIVER_FEATURE_SELECT, 4, 1);
    window.write(0, b.DRIVER_FEATURE, 4, 1);
    window.write(0, b.STATUS, 1, 11);
    expect(window.read(0, b.STATUS, 1)).toBe(11);
    window.write(0, b.QUEUE_SELECT, 2, 1);
    expect(window.read(0, b.QUEUE_SIZE, 2)).toBe(256);
  });

  it('has the side effects of the registers it reaches: doorbells, ISR, MSI-X table', () => {
    const { bench, window } = open();
    bench.bringUp(FeatureSet.of(32));
    bench.backend.calls.length = 0;
    window.write(0, 0x3004, 2, 1);
    expect(bench.backend.calls).toEqual(['kick 1']);
    bench.backend.ring(0).call.signal();
    expect(window.read(0, 0x1000, 1)).toBe(1);
    expect(bench.read(b.ISR, 1)).toBe(0);
    window.write(2, 8, 4, 0x1234);
    expect(bench.read(b.BAR2 + 8, 4)).toBe(0x1234);
  });

  it('changes only the first cap.length bytes of the data on a read', () => {
    const { bench, window } = open();
    window.aim(0, b.NUM_QUEUES, 8);
    bench.configWrite(window.at + 16, 4, 0xaabbccdd);
    bench.configWrite(window.at + 12, 4, 2);
    expect(bench.configRead(window.at + 16, 4)).toBe(0xaabb0003);
  });

  it('acts once on a write that a host has split', () => {
    const { bench, window } = open();
    bench.negotiate(FeatureSet.of(32));
    window.aim(0, b.QUEUE_DESC, 4);
    bench.configWrite(window.at + 16, 2, 0x5000);
    expect(bench.get(b.QUEUE_DESC, 4)).toBe(0);
    bench.configWrite(window.at + 18, 2, 0x12);
    expect(bench.get(b.QUEUE_DESC, 4)).toBe(0x125000);
  });

  it.each([
    ['an absent BAR', 3, 0, 4],
    ['the upper half of a 64-bit BAR', 1, 0, 4],
    ['a reserved BAR', 255, 0, 4],
  ])('%s reads all ones and drops writes', (_, bar, offset, length) => {
    const { window } = open();
    window.write(bar, offset, length as 4, 0);
    expect(window.read(bar, offset, length as 4)).toBe(0xffffffff);
  });

  it.each([
    ['past the end', 0, 0x4000, 4],
    ['across the end', 2, 0x7fffffff, 4],
    ['misaligned', 0, b.QUEUE_DESC + 2, 4],
    ['length 0', 0, b.STATUS, 0],
    ['length 3', 0, b.STATUS, 3],
    ['length 8', 0, b.QUEUE_DESC, 8],
    ['length 2^32 - 1', 0, 0, 0xffffffff],
  ])('%s accesses nothing', (_, bar, offset, length) => {
    const { bench, window } = open();
    bench.negotiate(FeatureSet.of(32));
    window.aim(bar, offset, length);
    bench.configWrite(window.at + 16, 4, 0x11223344);
    expect(bench.configRead(window.at + 16, 4)).toBe(0x11223344);
    expect(bench.status).toBe(11);
    expect(bench.get(b.QUEUE_DESC, 4)).toBe(0);
  });
});
