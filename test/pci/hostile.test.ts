// A hostile guest: random configuration, memory and port accesses over a tree with every kind of function. Nothing throws, values stay in range, and after every
// step routing, decoding and mastering agree with a second reading of the rules that asks one question at a time, from the raw register bytes.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AccessSize } from '#core/region';
import { Acs } from '#pci/acs';
import { Aer } from '#pci/aer';
import { Ari } from '#pci/ari';
import { downstreamPort, pciBridge, rootPort, upstreamPort } from '#pci/bridges';
import type { Bus } from '#pci/bus';
import { Express } from '#pci/express';
import { PciFunction } from '#pci/function';
import { Msi } from '#pci/msi';
import { PowerManagement } from '#pci/pm';
import { Sriov } from '#pci/sriov';
import { Bytes, bdf, COMMAND, ECAM_BASE, makeBench, makeDevice, programBridge } from './fabric-kit.ts';

type Forest = ReturnType<typeof makeForest>;

function makeForest(withCapabilities: boolean) {
  const bench = makeBench();
  const { fabric } = bench;
  const caps = () => (withCapabilities ? [new PowerManagement(), new Msi({ vectors: 4 }), new Express(), new Aer()] : []);
  const bars = (): ConstructorParameters<typeof PciFunction>[0]['bars'] => [
    { index: 0, kind: 'memory32', region: new Bytes(0x1000) },
    { index: 1, kind: 'io', region: new Bytes(0x20) },
    { index: 2, kind: 'memory64', prefetchable: true, region: new Bytes(0x10_0000) },
  ];
  const port = rootPort({ capabilities: withCapabilities ? [new Aer(), new Acs()] : [], express: withCapabilities ? { slot: { powerController: true } } : {} });
  const up = upstreamPort();
  const downs = [downstreamPort(), downstreamPort()] as const;
  const second = rootPort();
  const bridge = pciBridge();
  fabric.attach(fabric.root, makeDevice('integrated', bars(), { pcieType: 'root-complex-endpoint', rom: new Bytes(0x800), capabilities: caps() }), 1);
  fabric.attach(fabric.root, port, 2);
  fabric.attach(fabric.root, second, 3);
  fabric.attach(port, up);
  fabric.attach(up, downs[0], 1);
  fabric.attach(up, downs[1], 2);
  const identity = { vendorId: 0x1234, deviceId: 0x10c9, classCode: 0x020000, interruptPin: 1 };
  const pf = new PciFunction({
    name: 'pf',
    identity,
    bars: bars() ?? [],
    capabilities: withCapabilities
      ? [
          ...caps(),
          new Ari(),
          new Sriov({
            totalVfs: 8,
            vfDeviceId: 0x10ca,
            layout: { firstOffset: 0x80, stride: 32 },
            virtualFunction: (i) => ({
              name: `vf${i}`,
              identity,
              bars: [{ index: 0, kind: 'memory64', region: new Bytes(0x1000) }],
              capabilities: [new Express(), new Msi()],
            }),
          }),
        ]
      : [],
  });
  const pair = [makeDevice('a', bars(), { capabilities: caps() }), makeDevice('b', bars(), { capabilities: caps() })] as const;
  const cards = [[pf] as const, pair] as const;
  fabric.attach(downs[0], pf);
  fabric.attach(downs[1], pair);
  fabric.attach(second, bridge);
  fabric.attach(bridge, makeDevice('old', bars(), { pcieType: 'conventional' }), 3);
  // A sane start, so that damage has something to spread from.
  const all = { memory: [0xe000_0000, 0xe0ff_ffff], prefetchable: [0x10_0000_0000, 0x10_0fff_ffff], io: [0x1000, 0xefff] } as const;
  programBridge(fabric, bdf(0, 2), [0, 1, 7], all);
  programBridge(fabric, bdf(1, 0), [1, 2, 7], all);
  programBridge(fabric, bdf(2, 1), [2, 3, 5], all);
  programBridge(fabric, bdf(2, 2), [2, 6, 7], { memory: [0xe100_0000, 0xe1ff_ffff] });
  programBridge(fabric, bdf(0, 3), [0, 8, 9], { memory: [0xe200_0000, 0xe2ff_ffff] });
  programBridge(fabric, bdf(8, 0), [8, 9, 9], { memory: [0xe200_0000, 0xe2ff_ffff] });
  return { ...bench, downs, cards };
}

// ---- the second reading ----

const linked = (fn: PciFunction): boolean =>
  (fn.config.get16(0x3e) & 0x40) === 0 && fn.capabilities.every((c) => c.linkUp !== false && (c.powerState ?? 0) === 0);

function routeTo(bus: Bus, number: number, target: number, devfn: number): PciFunction | undefined {
  if (number === target) {
    if (bus.kind === 'link' && devfn > 7 && !bus.bridge?.capabilities.some((c) => c.ariForwarding)) return undefined;
    return bus.functions.find((fn) => fn.devfn === devfn);
  }
  for (const fn of bus.functions) {
    if (fn.secondaryBus === undefined) continue;
    const [, secondary, subordinate] = fn.config.bytes.subarray(0x18, 0x1b) as unknown as [number, number, number];
    if (secondary === 0 || target < secondary || target > subordinate) continue;
    return linked(fn) ? routeTo(fn.secondaryBus, secondary, target, devfn) : undefined;
  }
  return undefined;
}

/** Who answers a read of one byte of memory: 'name bar', 'window' for a request that went down and met nobody, or undefined. */
function answers(bus: Bus, address: number): string | undefined {
  for (const fn of bus.functions) {
    const c = fn.config;
    if ((c.get16(COMMAND) & 2) === 0 || fn.capabilities.some((capability) => (capability.powerState ?? 0) !== 0)) continue;
    for (const bar of [...fn.bars.list, ...(fn.bars.rom ? [fn.bars.rom] : [])]) {
      if (bar.kind === 'io') continue;
      const low = c.get32(bar.register);
      if (bar === fn.bars.rom && (low & 1) === 0) continue;
      const base = low - (low % (bar === fn.bars.rom ? 2048 : 16)) + (bar.kind === 'memory64' ? c.get32(bar.register + 4) * 2 ** 32 : 0);
      const nowhere = base === 0 || base + bar.size === 2 ** 32 || base + bar.size > 2 ** 52;
      if (!nowhere && address >= base && address < base + bar.size) return `${fn.name} ${bar.index}`;
    }
    if (fn.secondaryBus === undefined) continue;
    const inWindow = (base: number, limit: number): boolean => address >= base && address <= limit;
    const memory = inWindow((c.get16(0x20) & 0xfff0) * 0x1_0000, (c.get16(0x22) & 0xfff0) * 0x1_0000 + 0xf_ffff);
    const prefetchable = inWindow(
      (c.get16(0x24) & 0xfff0) * 0x1_0000 + c.get32(0x28) * 2 ** 32,
      (c.get16(0x26) & 0xfff0) * 0x1_0000 + c.get32(0x2c) * 2 ** 32 + 0xf_ffff,
    );
    const vga = (c.get16(0x3e) & 8) !== 0 && inWindow(0xa_0000, 0xb_ffff);
    if (memory || prefetchable || vga) return (linked(fn) ? answers(fn.secondaryBus, address) : undefined) ?? 'window';
  }
  return undefined;
}

function mastering(fn: PciFunction): boolean {
  for (let at: PciFunction | undefined = fn, below = false; at; at = at.upstream, below = true) {
    if ((at.config.get16(COMMAND) & 4) === 0 || at.capabilities.some((c) => (c.powerState ?? 0) !== 0)) return false;
    if (below && !linked(at)) return false;
  }
  return true;
}

// ---- what a guest may do ----

type Step =
  | {
      readonly kind: 'config';
      readonly at: number;
      readonly offset: number;
      readonly size: AccessSize;
      readonly value: number;
      readonly by: 'call' | 'ecam' | 'ports';
    }
  | { readonly kind: 'mmio'; readonly address: number; readonly size: AccessSize | 8; readonly value: number }
  | { readonly kind: 'io'; readonly address: number; readonly size: AccessSize | 8; readonly value: number }
  | { readonly kind: 'reset' }
  | { readonly kind: 'plug'; readonly below: 0 | 1; readonly reset: boolean };

const IDS = [bdf(0, 1), bdf(0, 2), bdf(0, 3), bdf(1, 0), bdf(2, 1), bdf(2, 2), bdf(3, 0), bdf(6, 0), bdf(6, 0, 1), bdf(8, 0), bdf(9, 3), 0x380, 0x400];
const size = fc.constantFrom<AccessSize>(1, 2, 4);
const value = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 4, 6, 7, 8, 0x40, 0xff, 0x0403_0201, 0x0007_0100, 0xe000_0000, 0xe010_0000, 0xffff_ffff, 0xe0f0_e000, 0x10, 0x19),
  fc.nat(0xffff_ffff),
);
const header = fc.constantFrom(4, 0x10, 0x14, 0x18, 0x19, 0x1a, 0x1c, 0x20, 0x22, 0x24, 0x28, 0x2c, 0x30, 0x38, 0x3e);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    arbitrary: fc.record({ kind: fc.constant('config' as const), at: fc.constantFrom(...IDS), offset: header, size, value, by: fc.constant('call' as const) }),
    weight: 6,
  },
  {
    arbitrary: fc.record({
      kind: fc.constant('config' as const),
      at: fc.oneof(fc.constantFrom(...IDS), fc.nat(0xffff)),
      offset: fc.oneof(fc.nat(0x1ff), fc.nat(0xfff)),
      size,
      value,
      by: fc.constantFrom('call' as const, 'ecam' as const, 'ports' as const),
    }),
    weight: 6,
  },
  {
    arbitrary: fc.record({
      kind: fc.constantFrom('mmio' as const, 'io' as const),
      address: fc.oneof(fc.nat(0x2_0000), fc.integer({ min: 0xdfff_f000, max: 0xe210_0000 }), fc.maxSafeNat()),
      size: fc.constantFrom<AccessSize | 8>(1, 2, 4, 8),
      value,
    }),
    weight: 3,
  },
  { arbitrary: fc.constant({ kind: 'reset' as const }), weight: 1 },
  { arbitrary: fc.record({ kind: fc.constant('plug' as const), below: fc.constantFrom<0 | 1>(0, 1), reset: fc.boolean() }), weight: 1 },
);

/** What the host does meanwhile: takes the device below a downstream port away or puts it back, or resets it. */
function plug({ fabric, downs, cards }: Forest, s: Step & { kind: 'plug' }): void {
  const card = cards[s.below];
  const first = card[0];
  if (s.reset) {
    fabric.resetFunction(first);
    fabric.resetBelow(downs[s.below]);
  } else if (first.attachment) fabric.detach(first);
  else fabric.attach(downs[s.below], card);
}

function take(forest: Forest, s: Step): void {
  const { fabric } = forest;
  const inRange = (read: number, bytes: number): void => expect(read >= 0 && read <= 2 ** (8 * bytes)).toBe(true);
  if (s.kind === 'plug') plug(forest, s);
  else if (s.kind === 'reset') fabric.reset();
  else if (s.kind === 'mmio') {
    fabric.mmioWrite(s.address, s.size, s.value);
    inRange(fabric.mmioRead(s.address, s.size), s.size);
  } else if (s.kind === 'io') {
    const narrow = s.size === 8 ? 4 : s.size;
    fabric.ioWrite(s.address, narrow, s.value);
    inRange(fabric.ioRead(s.address, narrow), narrow);
  } else if (s.by === 'call') {
    fabric.configWrite(s.at, s.offset, s.size, s.value);
    inRange(fabric.configRead(s.at, s.offset, s.size), s.size);
  } else if (s.by === 'ecam') fabric.mmioWrite(ECAM_BASE + s.at * 4096 + s.offset, s.size, s.value);
  else {
    fabric.ioWrite(0xcf8, 4, 0x8000_0000 + s.at * 256 + (s.offset & 0xfc));
    fabric.ioWrite(0xcfc + (s.offset & 3), s.size, s.value);
  }
}

describe('a hostile guest', () => {
  it('gets from routing, decoding and mastering what the registers say', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.array(fc.nat(0xffff), { maxLength: 20 }), (steps, ids) => {
        const forest = makeForest(false);
        const { fabric } = forest;
        for (const s of steps) {
          take(forest, s);
          for (const id of [...IDS, ...ids]) {
            const fn = routeTo(fabric.root, 0, id >>> 8, id & 0xff);
            expect(fabric.functionAt(id)?.name).toBe(fn?.name);
            if (fn === undefined) expect(fabric.configRead(id, 0, 4)).toBe(0xffff_ffff);
          }
          const ranges = fabric.decoded().filter((r) => r.space === 'memory');
          const probes = [0xa_0000, 0xe000_0000, 0xe010_0000, 0xe0f0_0000, 0xe1ff_ffff, 0xffff_f000, 0x10_0000_0000];
          for (const r of ranges) probes.push(r.base - 1, r.base, r.base + r.size - 1, r.base + r.size);
          for (const address of probes) {
            if (address >= ECAM_BASE && address < ECAM_BASE + 2 ** 28) continue;
            const found = fabric.lookup('memory', address);
            const owner = answers(fabric.root, address);
            const named =
              found &&
              `${fabric.functions().find((fn) => fn.routingId === found.bdf && fn.bars.list.concat(fn.bars.rom ?? []).some((b) => b.index === found.bar && owner === `${fn.name} ${b.index}`))?.name} ${found.bar}`;
            expect(named, `at ${address.toString(16)}`).toBe(owner === 'window' ? undefined : owner);
          }
          for (const fn of fabric.functions()) {
            expect(fn.mayMaster, fn.name).toBe(mastering(fn));
            expect(fn.services?.dma.busMaster).toBe(fn.mayMaster);
            expect(fn.services?.dma.requester).toBe(fn.bus?.kind === 'conventional' ? fn.bus.number << 8 : fn.routingId);
          }
        }
      }),
      { numRuns: 200 },
    );
  }, 60_000);

  it('breaks nothing with capabilities, VFs and slots in reach, and saves what can be restored', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const forest = makeForest(true);
        const { fabric, lines } = forest;
        for (const s of steps) {
          take(forest, s);
          let end = 0;
          for (const range of fabric.decoded()) {
            if (range.space === 'io' && end > 2 ** 32) end = 0;
            if (range.space === 'memory') expect(range.base).toBeGreaterThanOrEqual(end);
            end = range.base + range.size;
          }
          expect(fabric.functions().filter((fn) => fn.services?.dma.busMaster !== fn.mayMaster)).toEqual([]);
        }
        const other = makeForest(true);
        for (const below of [0, 1] as const) if (!forest.cards[below][0].attachment) plug(other, { kind: 'plug', below, reset: false });
        const saved = structuredClone(fabric.save());
        other.fabric.restore(saved);
        // Through JSON text: comparing it is quick, comparing megabytes element by element is not.
        expect(JSON.stringify(other.fabric.save())).toBe(JSON.stringify(saved));
        expect(other.fabric.decoded()).toEqual(fabric.decoded());
        expect(other.lines).toEqual(lines);
      }),
      { numRuns: 40 },
    );
  }, 60_000);

  it('enumerates in bounded work whatever the bus numbers are', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...IDS), fc.nat(0xffff_ffff)), { maxLength: 30 }), (numbers) => {
        const { fabric } = makeForest(false);
        for (const [at, value] of numbers) fabric.configWrite(at, 0x18, 4, value);
        let answered = 0;
        for (let id = 0; id < 0x10000; id++) if (fabric.configRead(id, 0, 4) !== 0xffff_ffff) answered++;
        expect(answered).toBeLessThanOrEqual(fabric.functions().length);
      }),
      { numRuns: 20 },
    );
  }, 60_000);
});
