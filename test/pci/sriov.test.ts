// SR-IOV: NumVFs and VF Enable rules, routing ids over several buses, VF BARs with page-size spacing, VF MSE, reset timing, VF FLR, VFs as requesters, saved state;
// with every SR-IOV row of reference/hostile-inputs.md 8.3 and the gaps of reference/qemu.md 3.
import { describe, expect, it } from 'vitest';
import { Iommu } from '#core/iommu';
import { Ari } from '#pci/ari';
import { Express } from '#pci/express';
import type { PciFunction } from '#pci/function';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import { PowerManagement } from '#pci/pm';
import type { ResetKind } from '#pci/ports';
import { Sriov, type SriovOptions } from '#pci/sriov';
import { findCapability, findExtended, makePortBench } from './capability-kit.ts';
import { Bytes, COMMAND, makeDevice, programBridge } from './fabric-kit.ts';

const CONTROL = 8;
const NUMBER = 16;
const VFE = 1;
const MSE = 8;
const ARI = 16;
const VF_BASE = 0x10_0000_0000;

function makeSriov(options: Partial<SriovOptions> = {}, subordinate = 8, iommu?: Iommu) {
  const resets: string[] = [];
  const enabled: number[] = [];
  const regions: Bytes[] = [];
  const layout = options.layout ?? { firstOffset: 0x80, stride: 2 };
  const sriov = new Sriov({
    totalVfs: 8,
    vfDeviceId: 0x10ca,
    layout,
    onEnabled: (count) => enabled.push(count),
    virtualFunction(index) {
      const region = new Bytes(0x4000);
      regions[index] = region;
      const msix = new Msix(msixOwnBar(3, 3));
      return {
        name: `vf${index}`,
        identity: { vendorId: 0x8086, deviceId: 0x10ca, classCode: 0x020000, subsystemVendorId: 0x8086, subsystemId: index },
        bars: [
          { index: 0, kind: 'memory64', prefetchable: true, region },
          { index: 3, kind: 'memory64', prefetchable: true, region: msixBar(msix, 3, undefined, 0x4000) },
        ],
        capabilities: [msix, new Express(), new Ari()],
        onReset: (kind: ResetKind) => resets.push(`${index}:${kind}`),
      };
    },
    ...options,
  });
  const pf = makeDevice('pf', [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }], {
    capabilities: [new Express(), new PowerManagement({ noSoftReset: true }), new Ari(), sriov],
  });
  const bench = makePortBench(pf, {}, [], iommu ? { iommu } : {});
  const { fabric, portAt, deviceAt: pfAt } = bench;
  programBridge(fabric, portAt, [0, 1, subordinate], { prefetchable: [0x10_0000_0000, 0x1f_ffff_ffff] });
  fabric.configWrite(portAt, findCapability(fabric, portAt, 0x10) + 40, 2, 0x20);
  resets.length = 0;
  const cap = findExtended(fabric, pfAt, 0x10);
  const read = (offset: number, size: 1 | 2 | 4 = 2) => fabric.configRead(pfAt, cap + offset, size);
  const write = (offset: number, value: number, size: 1 | 2 | 4 = 2) => fabric.configWrite(pfAt, cap + offset, size, value);
  const vfAt = (i: number) => pfAt + read(20) + i * read(22);
  const alive = () => sriov.functions.map((_, i) => i).filter((i) => fabric.configRead(vfAt(i), 12, 4) !== 0xffff_ffff);
  const start = (count: number, control = VFE | MSE) => {
    write(NUMBER, count);
    write(CONTROL, control);
  };
  const place = (base = VF_BASE) => {
    write(36, base % 2 ** 32, 4);
    write(40, Math.floor(base / 2 ** 32), 4);
  };
  return { ...bench, sriov, pf, pfAt, cap, read, write, vfAt, alive, start, place, resets, enabled, regions };
}

describe('enabling VFs', () => {
  it('brings up NumVFs of them and takes all away', () => {
    const { start, alive, write, enabled, resets } = makeSriov();
    expect(alive()).toEqual([]);
    start(3);
    expect(alive()).toEqual([0, 1, 2]);
    write(CONTROL, 0);
    expect(alive()).toEqual([]);
    expect(resets).toEqual(['0:conventional', '1:conventional', '2:conventional']);
    expect(enabled).toEqual([3, 0]);
  });

  it('tells when a reset of the PF takes them away', () => {
    const { start, fabric, pfAt, enabled } = makeSriov();
    start(3);
    fabric.configWrite(pfAt, findCapability(fabric, pfAt, 0x10) + 8, 2, 0x8000);
    expect(enabled).toEqual([3, 0]);
    start(2);
    expect(enabled).toEqual([3, 0, 2]);
  });

  it('locks NumVFs, the page size and the hierarchy bit meanwhile', () => {
    const { start, read, write } = makeSriov();
    start(3);
    write(NUMBER, 5);
    write(NUMBER + 1, 0, 1);
    write(32, 2, 4);
    write(CONTROL, VFE | ARI);
    expect([read(NUMBER), read(32, 4), read(CONTROL)]).toEqual([3, 1, VFE]);
    write(CONTROL, 0);
    write(NUMBER, 5);
    expect(read(NUMBER)).toBe(5);
  });

  it('refuses more than TotalVFs, in whatever width it is written (CVE-2024-26327)', () => {
    const { read, write, alive, log } = makeSriov();
    write(NUMBER, 4);
    for (const [value, size] of [
      [0xffff, 2],
      [9, 2],
      [9, 1],
      [0xff00_ffff, 4],
    ] as const) {
      write(NUMBER, value, size);
      expect(read(NUMBER)).toBe(4);
    }
    write(NUMBER + 1, 1, 1);
    expect(read(NUMBER)).toBe(4);
    write(CONTROL, VFE);
    expect(alive()).toEqual([0, 1, 2, 3]);
    expect(log.counts['guest-error']).toBeGreaterThan(0);
  });

  it('does nothing for byte writes beside VF Enable (CVE-2025-54567)', () => {
    const { start, alive, write, read, enabled } = makeSriov();
    start(2);
    for (const offset of [9, 10, 11]) {
      write(offset, 0, 1);
      write(offset, 0xff, 1);
    }
    write(10, 0xffff, 2);
    expect(alive()).toEqual([0, 1]);
    expect([read(CONTROL), read(10)]).toEqual([VFE | MSE, 0]);
    expect(enabled).toEqual([2]);
    write(CONTROL, 0);
    for (const offset of [9, 10, 11]) write(offset, 0xff, 1);
    expect(alive()).toEqual([]);
  });

  it('with NumVFs 0 shows nobody, and stays that way (714a1415d7)', () => {
    const { write, read, alive } = makeSriov();
    write(CONTROL, VFE | MSE);
    expect(alive()).toEqual([]);
    write(NUMBER, 4);
    expect(read(NUMBER)).toBe(0);
    expect(alive()).toEqual([]);
    write(CONTROL, 0);
    write(NUMBER, 4);
    write(CONTROL, VFE);
    expect(alive()).toEqual([0, 1, 2, 3]);
  });

  it('takes the time the device needs, and can be called off', () => {
    const { start, alive, write, clock, enabled } = makeSriov({ readyAfter: 50e6 });
    start(2);
    expect(alive()).toEqual([]);
    clock.advance(49e6);
    expect(alive()).toEqual([]);
    clock.advance(1e6);
    expect(alive()).toEqual([0, 1]);
    write(CONTROL, 0);
    expect(alive()).toEqual([]);
    write(CONTROL, VFE);
    write(CONTROL, 0);
    clock.advance(1e9);
    expect(alive()).toEqual([]);
    expect(enabled).toEqual([2, 0]);
  });

  it('writes every read-only field in vain', () => {
    const { read, write } = makeSriov();
    const before = [4, 12, 20, 24, 28, 60].map((at) => read(at, 4));
    for (const at of [4, 12, 20, 24, 28, 60]) write(at, 0xffff_ffff, 4);
    expect([4, 12, 20, 24, 28, 60].map((at) => read(at, 4))).toEqual(before);
    expect([read(12), read(14), read(20), read(22), read(26)]).toEqual([8, 8, 0x80, 2, 0x10ca]);
  });
});

describe('routing', () => {
  it('reaches VFs on the buses after the PF’s own (3391d68e90)', () => {
    const { start, alive, vfAt, fabric } = makeSriov({ totalVfs: 255, layout: { firstOffset: 0x80, stride: 4 } });
    start(255);
    expect(vfAt(254) >>> 8).toBe(5);
    expect(alive().length).toBe(255);
    expect(fabric.configRead(vfAt(31), 0x2e, 2)).toBe(31);
    expect(fabric.configRead(vfAt(32), 0x2e, 2)).toBe(32);
    expect(vfAt(32) >>> 8).toBe(2);
    expect(fabric.configRead(vfAt(254), 0x2e, 2)).toBe(254);
    expect(fabric.configRead(vfAt(32) + 1, 0, 4)).toBe(0xffff_ffff);
  });

  it('ends with the bus numbers the ports above forward', () => {
    const { start, alive } = makeSriov({ totalVfs: 255, layout: { firstOffset: 0x80, stride: 4 } }, 2);
    start(255);
    expect(alive().length).toBe(96);
  });

  it('follows the PF’s bus number, and the requester ids follow too', () => {
    const { start, fabric, portAt, sriov, pfAt } = makeSriov();
    start(2);
    const requesters = () => sriov.functions.slice(0, 2).map((vf) => vf.services?.dma.requester);
    expect(requesters()).toEqual([pfAt + 0x80, pfAt + 0x82]);
    programBridge(fabric, portAt, [0, 4, 8]);
    expect(requesters()).toEqual([0x480, 0x482]);
    expect(fabric.configRead(0x482, 0x2e, 2)).toBe(1);
    expect(fabric.configRead(pfAt + 0x82, 0, 4)).toBe(0xffff_ffff);
  });

  it('has another layout in an ARI capable hierarchy, a bit of the lowest PF alone', () => {
    const bench = makeSriov({ ariLayout: { firstOffset: 1, stride: 1 } });
    bench.write(CONTROL, ARI);
    expect([bench.read(20), bench.read(22), bench.read(CONTROL)]).toEqual([1, 1, ARI]);
    bench.start(8, VFE | ARI);
    expect(bench.fabric.configRead(bench.pfAt + 8, 0x2e, 2)).toBe(7);
    const other = makeSriov({ lowest: false, ariLayout: { firstOffset: 1, stride: 1 } });
    other.write(CONTROL, ARI);
    expect([other.read(CONTROL), other.read(20)]).toEqual([0, 0x80]);
  });

  it('refuses layouts that no routing id can express', () => {
    expect(() => makeSriov({ totalVfs: 0 })).toThrow(RangeError);
    expect(() => makeSriov({ layout: { firstOffset: 0, stride: 1 } })).toThrow(RangeError);
    expect(() => makeSriov({ layout: { firstOffset: 1, stride: 0 } })).toThrow(RangeError);
    expect(() => makeSriov({ totalVfs: 9, layout: { firstOffset: 0xfff8, stride: 1 } })).toThrow(RangeError);
  });

  it('finds the function dependency link at the PF itself unless told otherwise', () => {
    expect(makeSriov().read(18, 1)).toBe(0);
    expect(makeSriov({ dependency: 3 }).read(18, 1)).toBe(3);
  });
});

describe('VF memory', () => {
  it('is sized and spaced by the system page size', () => {
    const { read, write, start, place, fabric, regions } = makeSriov();
    const size = () => {
      write(36, 0xffff_ffff, 4);
      write(40, 0xffff_ffff, 4);
      return 2 ** 32 - ((read(36, 4) & ~15) % 2 ** 32);
    };
    expect(size() % 2 ** 32).toBe(0x4000);
    expect(read(36, 4) & 15).toBe(12);
    // 64 KiB pages: bit 4.
    write(32, 0x10, 4);
    expect(size() % 2 ** 32).toBe(0x1_0000);
    place();
    start(3);
    fabric.mmioWrite(VF_BASE + 2 * 0x1_0000 + 8, 4, 0x1234);
    expect(regions[2]?.bytes[8]).toBe(0x34);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4), 'the rest of a page is nobody’s').toBe(0xffff_ffff);
    expect(fabric.mmioRead(VF_BASE + 3 * 0x1_0000, 4)).toBe(0xffff_ffff);
    expect(
      fabric
        .decoded()
        .filter((d) => d.base >= VF_BASE && d.base < VF_BASE + 0x10_0000)
        .map((d) => d.base - VF_BASE),
    ).toEqual([0, 0x1_0000, 0x2_0000]);
  });

  it('supports page sizes beyond those every device has to', () => {
    const { fabric, pf, cap } = makeSriov({ pageSizes: 0x2 });
    expect(fabric.configRead(pf.routingId, cap + 28, 4)).toBe(0x553 | 2);
    fabric.configWrite(pf.routingId, cap + 32, 4, 2);
    expect(fabric.configRead(pf.routingId, cap + 32, 4)).toBe(2);
  });

  it('keeps the page size when an unsupported one is written', () => {
    const { read, write } = makeSriov();
    for (const page of [0, 4, 3, 0x8000_0000, 0xffff_ffff]) {
      write(32, page, 4);
      expect(read(32, 4)).toBe(1);
    }
    write(32, 0x400, 4);
    expect(read(32, 4)).toBe(0x400);
  });

  it('is governed by VF MSE alone: the VFs’ own bit is read-only zero', () => {
    const { start, place, write, fabric, vfAt } = makeSriov();
    place();
    start(2, VFE);
    fabric.configWrite(vfAt(1), COMMAND, 2, 0xffff);
    expect(fabric.configRead(vfAt(1), COMMAND, 2)).toBe(4);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0xffff_ffff);
    write(CONTROL, VFE | MSE);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0);
    fabric.configWrite(vfAt(1), COMMAND, 2, 0);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0);
    write(CONTROL, VFE);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0xffff_ffff);
  });

  it('is nowhere while the VF BAR is unassigned, or holds what sizing leaves', () => {
    const { start, place, fabric, write } = makeSriov();
    start(2);
    expect(fabric.decoded().filter((d) => d.bar === 0)).toEqual([]);
    for (const high of [0, 0xffff_ffff]) {
      write(36, 0xffff_ffff, 4);
      write(40, high, 4);
      expect(fabric.decoded().filter((d) => d.bar === 0)).toEqual([]);
    }
    place();
    expect(fabric.decoded().filter((d) => d.bar === 0).length).toBe(2);
  });

  it('moves with the VF BAR and vanishes with VF Enable', () => {
    const { start, place, write, fabric } = makeSriov();
    place();
    start(2);
    place(VF_BASE + 0x100_0000);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0xffff_ffff);
    expect(fabric.mmioRead(VF_BASE + 0x100_4000, 4)).toBe(0);
    write(CONTROL, MSE);
    expect(fabric.mmioRead(VF_BASE + 0x100_4000, 4)).toBe(0xffff_ffff);
  });
});

describe('VF configuration space', () => {
  it('has no ids, no BARs, no pin and nothing else that is the PF’s', () => {
    const { start, fabric, vfAt } = makeSriov();
    start(1);
    const at = vfAt(0);
    expect(fabric.configRead(at, 0, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(at, 8, 4)).toBe(0x0200_0000);
    for (let offset = 0xc; offset < 0x40; offset += 4) fabric.configWrite(at, offset, 4, 0xffff_ffff);
    expect([0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x30, 0x3c].map((o) => fabric.configRead(at, o, 4))).toEqual(new Array(10).fill(0));
    expect(fabric.configRead(at, 0x2c, 4)).toBe(0x8086);
  });

  it('shows a PCI Express capability with FLR and little else to write', () => {
    const { start, fabric, vfAt } = makeSriov();
    start(1);
    const cap = findCapability(fabric, vfAt(0), 0x10);
    fabric.configWrite(vfAt(0), cap + 8, 2, 0x7fff);
    fabric.configWrite(vfAt(0), cap + 16, 2, 0xffff);
    fabric.configWrite(vfAt(0), cap + 40, 2, 0xffff);
    expect([8, 16, 18, 40].map((o) => fabric.configRead(vfAt(0), cap + o, 2))).toEqual([0, 0, 0, 0]);
    expect(fabric.configRead(vfAt(0), cap + 4, 4) & 0x1000_0000).toBe(0x1000_0000);
  });
});

describe('VFs as requesters', () => {
  it('master by their own enable, in their own name', () => {
    const { start, fabric, vfAt, sriov, messages, pfAt, place, write } = makeSriov();
    place();
    write(36 + 12, VF_BASE % 2 ** 32, 4);
    write(36 + 16, Math.floor(VF_BASE / 2 ** 32) + 1, 4);
    start(2);
    const vf = sriov.functions[1] as PciFunction;
    expect(vf.mayMaster).toBe(false);
    fabric.configWrite(vfAt(1), COMMAND, 2, 4);
    expect([vf.mayMaster, sriov.functions[0]?.mayMaster]).toEqual([true, false]);
    expect(vf.services?.dma.requester).toBe(vfAt(1));
    const table = VF_BASE + 2 ** 32 + 0x4000;
    fabric.mmioWrite(table, 4, 0xfee0_0000);
    fabric.mmioWrite(table + 8, 8, 0x77);
    fabric.configWrite(vfAt(1), findCapability(fabric, vfAt(1), 0x11) + 2, 2, 0x8000);
    vf.services?.interrupts.raise(0);
    expect(messages).toEqual([{ message: { addressLow: 0xfee0_0000, addressHigh: 0, data: 0x77 }, requester: pfAt + 0x82 }]);
  });

  it('reach what an IOMMU maps for their own id and fault for what it maps for the PF (f4fdaf009c)', () => {
    const iommu = new Iommu();
    const { start, fabric, vfAt, pfAt, sriov, pf, memory, portAt } = makeSriov({}, 8, iommu);
    start(2);
    const domains = [pfAt, vfAt(0), vfAt(1)].map((requester) => {
      fabric.configWrite(requester, COMMAND, 2, 4);
      const domain = iommu.domain();
      iommu.attach(requester, domain);
      return domain;
    });
    domains[0]?.map(0x10_0000, 0x1000, 4096);
    domains[1]?.map(0x20_0000, 0x2000, 4096);
    domains[2]?.map(0x20_0000, 0x3000, 4096);
    const [first, second] = sriov.functions.slice(0, 2).map((vf) => vf.services?.dma);
    expect([first?.store32(0x20_0010, 0x11), second?.store32(0x20_0010, 0x22), pf.services?.dma.store32(0x10_0010, 0x33)]).toEqual([true, true, true]);
    const ram = memory.slabs[0]?.views.u8;
    expect([ram?.[0x2010], ram?.[0x3010], ram?.[0x1010]]).toEqual([0x11, 0x22, 0x33]);
    iommu.takeFaults();
    expect(first?.store32(0x10_0010, 0x44)).toBe(false);
    expect(pf.services?.dma.store32(0x20_0010, 0x44)).toBe(false);
    expect(
      iommu
        .takeFaults()
        .records.map((fault) => [fault.requester, fault.reason])
        .sort(),
    ).toEqual(
      [
        [pfAt, 'unmapped'],
        [vfAt(0), 'unmapped'],
      ].sort(),
    );
    // Another bus number makes it another requester, which has no domain.
    programBridge(fabric, portAt, [0, 4, 8]);
    expect(first?.store32(0x20_0010, 0x55)).toBe(false);
    expect(ram?.[0x2010]).toBe(0x11);
  });

  it('stop at VF Disable, at the PF’s power state, and at the port', () => {
    const { start, write, fabric, vfAt, sriov, portAt } = makeSriov();
    const vf = sriov.functions[0] as PciFunction;
    start(1);
    fabric.configWrite(vfAt(0), COMMAND, 2, 4);
    fabric.configWrite(portAt, COMMAND, 2, 3);
    expect(vf.mayMaster).toBe(false);
    fabric.configWrite(portAt, COMMAND, 2, 7);
    expect(vf.mayMaster).toBe(true);
    write(CONTROL, 0);
    expect(vf.mayMaster).toBe(false);
    expect(vf.services?.dma.busMaster).toBe(false);
    write(CONTROL, VFE);
    expect(vf.mayMaster, 'a VF comes up as after reset').toBe(false);
  });
});

describe('resets', () => {
  it('FLR of a VF resets it alone', () => {
    const { start, place, fabric, vfAt, resets, alive } = makeSriov();
    place();
    start(3);
    for (const i of [0, 1, 2]) fabric.configWrite(vfAt(i), COMMAND, 2, 4);
    resets.length = 0;
    fabric.configWrite(vfAt(1), findCapability(fabric, vfAt(1), 0x10) + 8, 2, 0x8000);
    expect(resets).toEqual(['1:function']);
    expect([0, 1, 2].map((i) => fabric.configRead(vfAt(i), COMMAND, 2))).toEqual([4, 0, 4]);
    expect(alive()).toEqual([0, 1, 2]);
    expect(fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0);
  });

  it('FLR of the PF takes its VFs away and unlocks NumVFs', () => {
    const { start, fabric, pfAt, read, write, alive } = makeSriov();
    write(32, 0x10, 4);
    start(3);
    fabric.configWrite(pfAt, findCapability(fabric, pfAt, 0x10) + 8, 2, 0x8000);
    expect(alive()).toEqual([]);
    expect([read(CONTROL), read(NUMBER), read(32, 4)]).toEqual([0, 0, 1]);
    write(36, 0xffff_ffff, 4);
    expect(read(36, 4)).toBe(0xffff_c00c);
    write(NUMBER, 5);
    expect(read(NUMBER)).toBe(5);
  });

  it('FLR of the PF cancels VFs that were coming up', () => {
    const { start, fabric, pfAt, clock, alive } = makeSriov({ readyAfter: 1e6 });
    start(3);
    fabric.configWrite(pfAt, findCapability(fabric, pfAt, 0x10) + 8, 2, 0x8000);
    clock.advance(1e7);
    expect(alive()).toEqual([]);
  });
});

describe('hot plug of a PF', () => {
  it('takes enabled VFs along, and brings the PF back without them', () => {
    const { start, place, fabric, pf, port, alive, sriov, read, pfAt, clock } = makeSriov({ readyAfter: 1000 });
    place();
    start(4);
    clock.advance(1000);
    expect(alive().length).toBe(4);
    fabric.detach(pf);
    expect(sriov.functions.every((vf) => vf.services === undefined && !vf.mayMaster)).toBe(true);
    expect(fabric.mmioRead(VF_BASE, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(pfAt + 0x80, 12, 4)).toBe(0xffff_ffff);
    fabric.attach(port, pf);
    clock.advance(1e6);
    expect(fabric.configRead(pfAt, 0, 2)).toBe(0x1234);
    expect([read(CONTROL), read(NUMBER), alive()]).toEqual([0, 0, []]);
    start(2);
    clock.advance(1000);
    expect(alive()).toEqual([0, 1]);
  });

  it('in D3hot silences the VFs, which come back with it', () => {
    const { start, place, fabric, pf, sriov, vfAt } = makeSriov();
    place();
    start(1);
    fabric.configWrite(vfAt(0), COMMAND, 2, 4);
    const pm = findCapability(fabric, pf.routingId, 1) + 4;
    fabric.configWrite(pf.routingId, pm, 2, 3);
    expect(fabric.mmioRead(VF_BASE, 4)).toBe(0xffff_ffff);
    expect(sriov.functions[0]?.mayMaster).toBe(false);
    fabric.configWrite(pf.routingId, pm, 2, 0);
    expect(fabric.mmioRead(VF_BASE, 4)).toBe(0);
    expect(sriov.functions[0]?.mayMaster).toBe(true);
  });
});

describe('SR-IOV state', () => {
  it('survives save and restore with VFs enabled: command, MSI-X, decode', () => {
    const a = makeSriov();
    a.place();
    a.write(32, 0x10, 4);
    a.start(3);
    a.fabric.configWrite(a.vfAt(2), COMMAND, 2, 4);
    a.fabric.configWrite(a.vfAt(2), findCapability(a.fabric, a.vfAt(2), 0x11) + 2, 2, 0xc000);
    a.sriov.functions[2]?.services?.interrupts.raise(1);
    const b = makeSriov();
    b.fabric.restore(structuredClone(a.fabric.save()));
    expect(b.alive()).toEqual([0, 1, 2]);
    expect(b.fabric.configRead(b.vfAt(2), COMMAND, 2)).toBe(4);
    expect(b.sriov.functions[2]?.mayMaster).toBe(true);
    expect(b.sriov.functions[2]?.interrupts.mode).toBe('msix');
    expect(b.fabric.mmioRead(VF_BASE + 0x2_0000, 4)).toBe(0);
    expect(b.fabric.mmioRead(VF_BASE + 0x4000, 4)).toBe(0xffff_ffff);
    b.write(NUMBER, 1);
    expect(b.read(NUMBER)).toBe(3);
  });

  it('registers no VF for a record without VF Enable (CVE-2025-54566)', () => {
    const a = makeSriov();
    a.write(NUMBER, 5);
    const b = makeSriov();
    b.start(8);
    b.fabric.restore(structuredClone(a.fabric.save()));
    expect(b.alive()).toEqual([]);
    expect(b.sriov.enabled).toBe(0);
    b.write(NUMBER, 2);
    expect(b.read(NUMBER)).toBe(2);
  });

  it('continues an enabling that was under way', () => {
    const a = makeSriov({ readyAfter: 1e6 });
    a.start(2);
    const b = makeSriov({ readyAfter: 1e6 });
    b.fabric.restore(structuredClone(a.fabric.save()));
    expect(b.alive()).toEqual([]);
    b.clock.advance(1e6);
    expect(b.alive()).toEqual([0, 1]);
  });

  it('refuses records with more VFs than there are, another page size, or VFs without VF Enable', () => {
    const damage: [string, (bench: ReturnType<typeof makeSriov>) => void][] = [
      ['NumVFs', (a) => a.pf.config.set16(a.cap + NUMBER, 9)],
      ['page size', (a) => a.pf.config.set32(a.cap + 32, 3)],
      ['VF Enable', (a) => a.pf.config.set16(a.cap + CONTROL, 0)],
      ['TotalVFs', (a) => a.pf.config.set16(a.cap + 14, 0xffff)],
    ];
    for (const [what, spoil] of damage) {
      const a = makeSriov();
      a.start(2);
      spoil(a);
      const b = makeSriov();
      expect(() => b.fabric.restore(structuredClone(a.fabric.save())), what).toThrow('SR-IOV');
      expect(b.alive()).toEqual([]);
      expect(b.read(14)).toBe(8);
    }
  });
});

describe('VFs of a device', () => {
  it('must be alike', () => {
    const options = (index: number) => ({
      name: 'vf',
      identity: { vendorId: 1, deviceId: 2, classCode: 0 },
      bars: [{ index: 0, kind: 'memory32', region: new Bytes(0x1000 << index) }] as const,
    });
    expect(() => new Sriov({ totalVfs: 2, vfDeviceId: 2, layout: { firstOffset: 1, stride: 1 }, virtualFunction: options })).toThrow(TypeError);
  });
});
