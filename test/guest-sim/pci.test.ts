import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Bar } from '#guest-sim/pci-bars';
import { capabilities, EcamAccess, extendedCapabilities, formatRid, PortAccess } from '#guest-sim/pci-config';
import { enumeratePci, type PciBus } from '#guest-sim/pci-enumerate';
import { enableVirtualFunctions, sleepOn } from '#guest-sim/pci-sriov';
import { PLATFORM, TreeBus, TreeFunction } from './config-tree.ts';

const PCIE = 0x40;

function port(type: number): TreeFunction {
  return new TreeFunction('bridge').capability(0x10, PCIE).set(PCIE + 2, 2, 2 | (type << 4));
}

function endpoint(): TreeFunction {
  return new TreeFunction('device').capability(0x10, PCIE).set(PCIE + 2, 2, 2);
}

/** Adds the ARI capability and its chain, and lets the port above forward. */
function withAri(up: TreeFunction, fn: TreeFunction, next: number, at = 0x100, after = 0): void {
  up.set(PCIE + 0x24, 4, 0x20).allow(PCIE + 0x28, 2, 0x20);
  fn.extended(0x0e, at, after).set(at + 4, 2, next << 8);
}

function withSriov(fn: TreeFunction, at: number, vfs: { total: number; offset: number; stride: number; bar: number }): void {
  fn.extended(0x10, at)
    .set(at + 0x0c, 4, vfs.total * 65537)
    .set(at + 0x14, 4, vfs.offset | (vfs.stride << 16))
    .set(at + 0x1a, 2, 0x1041)
    .set(at + 0x1c, 4, 0x553)
    .allow(at + 0x08, 2, 0x19)
    .allow(at + 0x10, 2, 0xffff)
    .allow(at + 0x20, 4, 0xffffffff)
    .bar(at + 0x24, vfs.bar, 12);
}

/** Every placed range in the tree is aligned, disjoint from its siblings, inside each window above it, and where the registers say. Returns how many. */
function checkPlacement(bus: PciBus, tree: TreeBus, functions: Map<number, TreeFunction>, windows: { from: number; to: number }[]): number {
  let placed = 0;
  const ranges: { from: number; to: number; io: boolean }[] = [];
  const add = (bar: Bar, size: number): void => {
    if (bar.address === undefined) return;
    expect(bar.address % bar.size).toBe(0);
    ranges.push({ from: bar.address, to: bar.address + size, io: bar.io });
    placed++;
  };
  for (const device of bus.devices) {
    const fn = functions.get(device.rid & 0xff) as TreeFunction;
    for (const bar of device.bars) {
      add(bar, bar.size);
      const low = fn.get(0x10 + 4 * bar.index, 4);
      const high = bar.wide ? fn.get(0x14 + 4 * bar.index, 4) : 0;
      expect(high * 2 ** 32 + (low - (low & (bar.io ? 3 : 15)))).toBe(bar.address);
    }
    for (const bar of device.sriov?.bars ?? []) add(bar, bar.size * (device.sriov?.totalVfs ?? 0));
    if (!device.bridge) continue;
    expect(device.bridge.number).toBeGreaterThan(bus.number);
    expect(device.bridge.subordinate).toBeLessThanOrEqual(bus.subordinate);
    expect([fn.get(0x18, 1), fn.get(0x19, 1), fn.get(0x1a, 1)]).toEqual([bus.number, device.bridge.number, device.bridge.subordinate]);
    const inner = [
      { from: fn.get(0x20, 2) * 65536, to: (fn.get(0x22, 2) + 16) * 65536, io: false },
      {
        from: fn.get(0x28, 4) * 2 ** 32 + (fn.get(0x24, 2) & 0xfff0) * 65536,
        to: fn.get(0x2c, 4) * 2 ** 32 + ((fn.get(0x26, 2) & 0xfff0) + 16) * 65536,
        io: false,
      },
      { from: ((fn.get(0x1c, 1) & 0xf0) << 8) | (fn.get(0x30, 2) << 16), to: (((fn.get(0x1d, 1) & 0xf0) << 8) | (fn.get(0x32, 2) << 16)) + 4096, io: true },
    ].filter((w) => w.to > w.from);
    for (const w of inner) ranges.push(w);
    placed += checkPlacement(device.bridge, tree, fn.behind as Map<number, TreeFunction>, inner);
  }
  for (const r of ranges) expect(windows.some((w) => r.from >= w.from && r.to <= w.to)).toBe(true);
  for (const io of [false, true]) {
    const sorted = ranges.filter((r) => r.io === io).sort((a, b) => a.from - b.from);
    for (let i = 1; i < sorted.length; i++)
      expect((sorted[i] as (typeof sorted)[number]).from).toBeGreaterThanOrEqual((sorted[i - 1] as (typeof sorted)[number]).to);
  }
  return placed;
}

const ROOT_WINDOWS = [PLATFORM.io, PLATFORM.memory32, PLATFORM.memory64].map((w) => ({ from: w.base, to: w.base + w.size }));

describe('enumeration', () => {
  it('numbers buses depth first and finds what is behind ports, switches and bridges', () => {
    const down = [port(6), port(6)];
    const leaf = [endpoint().bar(0x10, 0x4000, 12), endpoint().bar(0x10, 256, 0)];
    const up = port(5);
    down.forEach((d, i) => {
      up.behind?.set(i << 3, d);
      d.behind?.set(0, leaf[i] as TreeFunction);
    });
    const root = port(4);
    root.behind?.set(0, up);
    const toPci = port(7);
    const conventional = new TreeFunction('device').bar(0x10, 64, 1);
    toPci.behind?.set(5 << 3, conventional);
    const other = port(4);
    other.behind?.set(0, toPci);
    const bus = new TreeBus(
      new Map([
        [1 << 3, root],
        [2 << 3, other],
      ]),
    );
    const tree = enumeratePci(bus);
    expect(tree.unplaced).toBe(0);
    expect(tree.devices.map((d) => formatRid(d.rid))).toEqual([
      '00:01.0',
      '01:00.0',
      '02:00.0',
      '03:00.0',
      '02:01.0',
      '04:00.0',
      '00:02.0',
      '05:00.0',
      '06:05.0',
    ]);
    expect(tree.root.subordinate).toBe(6);
    expect(checkPlacement(tree.root, bus, bus.root, ROOT_WINDOWS)).toBe(3);
    // A port's link has one device: the others were not even asked for.
    expect(bus.accesses).toBeLessThan(1200);
    // Decoding and, in bridges, mastering are on; a device's own mastering is its driver's to turn on.
    expect([leaf[0]?.get(4, 2), conventional.get(4, 2), root.get(4, 2)]).toEqual([2, 1, 7]);
    // The other way in finds the same.
    expect(enumeratePci(bus, { config: new PortAccess(bus) }).devices.map((d) => d.rid)).toEqual(tree.devices.map((d) => d.rid));
  });

  it('places every BAR of any tree inside the windows above it, or says it could not', () => {
    const bar = fc.record({ power: fc.integer({ min: 4, max: 26 }), flags: fc.constantFrom(0 as const, 4 as const, 12 as const, 1 as const) });
    const leaf = fc.array(bar, { maxLength: 3 });
    const { node } = fc.letrec<{ node: unknown[] }>((tie) => ({
      node: fc.oneof({ maxDepth: 4 }, fc.tuple(fc.constant('leaf'), leaf), fc.tuple(fc.constant('bridge'), fc.array(tie('node'), { maxLength: 3 }))),
    }));
    const build = (n: unknown[]): TreeFunction => {
      if (n[0] === 'leaf') {
        const fn = endpoint();
        for (const [i, b] of (n[1] as { power: number; flags: 0 | 1 | 4 | 12 }[]).entries())
          fn.bar(0x10 + 8 * i, b.flags === 1 ? 2 ** Math.min(b.power, 8) : 2 ** b.power, b.flags);
        return fn;
      }
      const fn = port(5);
      for (const [i, child] of (n[1] as unknown[][]).entries()) fn.behind?.set(i << 3, build(child));
      return fn;
    };
    fc.assert(
      fc.property(fc.array(node, { maxLength: 4 }), (nodes) => {
        const bus = new TreeBus(new Map(nodes.map((n, i) => [(i + 1) << 3, build(n)])));
        const tree = enumeratePci(bus);
        const bars = tree.devices.reduce((n, d) => n + d.bars.length, 0);
        if (tree.unplaced === 0) expect(checkPlacement(tree.root, bus, bus.root, ROOT_WINDOWS)).toBe(bars);
      }),
      { numRuns: 100 },
    );
  });

  it('leaves decoding off where a BAR found no place', () => {
    const small = endpoint().bar(0x10, 4096, 0);
    const huge = endpoint().bar(0x10, 2 ** 30, 0);
    const bus = new TreeBus(
      new Map([
        [8, small],
        [16, huge],
      ]),
    );
    const tree = enumeratePci(bus);
    expect(tree.unplaced).toBe(1);
    expect([small.get(4, 2), huge.get(4, 2)]).toEqual([2, 0]);
  });

  it('follows ARI function numbers when the port forwards them, and not when it does not', () => {
    for (const forwards of [true, false]) {
      const up = port(4);
      const functions = [0, 5, 12, 130].map((fn, i, all) => {
        const device = endpoint();
        if (fn === 0) device.set(0x0e, 1, 0x80);
        withAri(up, device, all[i + 1] ?? 0);
        up.behind?.set(fn, device);
        return device;
      });
      if (!forwards) up.set(PCIE + 0x24, 4, 0);
      const bus = new TreeBus(new Map([[8, up]]));
      const found = enumeratePci(bus).devices.filter((d) => d.rid >= 256);
      expect(found.map((d) => d.rid - 256)).toEqual(forwards ? [0, 5, 12, 130] : [0, 5]);
      expect(up.get(PCIE + 0x28, 2)).toBe(forwards ? 0x20 : 0);
      expect(functions.length).toBe(4);
    }
  });

  it('reserves bus numbers for virtual functions, places their BARs, waits, and finds them', () => {
    const up = port(4);
    const pf = endpoint().bar(0x10, 0x4000, 12);
    withAri(up, pf, 0, 0x100, 0x140);
    withSriov(pf, 0x140, { total: 600, offset: 1, stride: 1, bar: 0x8000 });
    up.behind?.set(0, pf);
    const after = port(4);
    after.behind?.set(0, endpoint());
    const bus = new TreeBus(
      new Map([
        [8, up],
        [16, after],
      ]),
    );
    // VFs at routing ids pf + 1 ...: this model answers them with a class code and a capability only.
    for (let i = 1; i <= 600; i++) up.behind?.set(i, new TreeFunction('device', 0xffff_ffff).set(8, 4, 0x0200_0000).capability(0x11, 0x40));
    const config = new EcamAccess(bus);
    const tree = enumeratePci(bus);
    const found = tree.devices.find((d) => d.sriov);
    expect(found?.sriov).toMatchObject({ totalVfs: 600, lastBus: 3 });
    expect(tree.devices.map((d) => formatRid(d.rid))).toEqual(['00:01.0', '01:00.0', '00:02.0', '04:00.0']);
    expect(up.get(0x1a, 1)).toBe(3);
    expect(pf.get(0x148, 2)).toBe(0x10);
    const waits: number[] = [];
    const vfs = enableVirtualFunctions(config, found as NonNullable<typeof found>, 300, (nanos) => {
      expect(pf.get(0x148, 2)).toBe(0x19);
      waits.push(nanos);
    });
    expect(waits).toEqual([100_000_000]);
    expect(vfs.length).toBe(300);
    expect(vfs[299]).toMatchObject({ rid: 0x100 + 300, vendor: 0x8086, device: 0x1041 });
    const first = vfs[0]?.bars[0]?.address as number;
    expect(first % 0x8000).toBe(0);
    expect(vfs.map((v) => v.bars[0]?.address)).toEqual(Array.from({ length: 300 }, (_, i) => first + i * 0x8000));
    for (const bad of [0, 601, 1.5]) expect(() => enableVirtualFunctions(config, found as NonNullable<typeof found>, bad, () => {})).toThrow(RangeError);
  });

  it('says so when guest time stands still', () => {
    const bus = new TreeBus(new Map());
    expect(() => sleepOn(bus)(1e6)).toThrow('does not move');
  });
});

describe('a fabric that lies', () => {
  it('cannot send a capability walk in circles', () => {
    const fn = new TreeFunction('device').capability(9, 0x40, 0x50).capability(9, 0x50, 0x40).extended(1, 0x100, 0x200).extended(1, 0x200, 0x100);
    const bus = new TreeBus(new Map([[8, fn]]));
    const config = new EcamAccess(bus);
    expect(capabilities(config, 8).map((c) => c.offset)).toEqual([0x40, 0x50]);
    expect(extendedCapabilities(config, 8).map((c) => c.offset)).toEqual([0x100, 0x200]);
  });

  it('cannot make enumeration throw or run on', () => {
    fc.assert(
      fc.property(fc.integer(), fc.constantFrom(0, 1, 2, 3), (seed, mood) => {
        const bus = new TreeBus(new Map());
        let state = seed | 1;
        let reads = 0;
        bus.lie = (address, size) => {
          reads++;
          state ^= state << 13;
          state ^= state >>> 17;
          state ^= state << 5;
          const offset = address & 0xfff;
          // Some moods let the walk get further: a bridge everywhere, capabilities everywhere.
          if (offset === 0x0e && mood === 1) return 1;
          if (offset === 0 && mood >= 1) return size === 2 ? 0x8086 : 0x1234_8086;
          if (offset === 6 && mood >= 2) return 0x10;
          return (state >>> 0) % 2 ** (8 * size);
        };
        const tree = enumeratePci(bus);
        expect(tree.devices.length).toBeLessThan(256 * 256);
        expect(reads).toBeLessThan(3e7);
      }),
      { numRuns: 8 },
    );
  });
});
