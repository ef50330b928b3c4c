// The fabric's side of SR-IOV: VFs on bus numbers past the PF's, their memory from the PF's registers, requester ids, and who wins where numbers collide.
import { describe, expect, it } from 'vitest';
import { Ari } from '#pci/ari';
import { rootPort } from '#pci/bridges';
import { Express } from '#pci/express';
import { PciFunction } from '#pci/function';
import { Msi } from '#pci/msi';
import { PowerManagement } from '#pci/pm';
import { Sriov, type VfLayout } from '#pci/sriov';
import { Bytes, bdf, COMMAND, makeBench, programBridge } from './fabric-kit.ts';

const TOTAL = 200;

function makePf(layout: VfLayout, pcieType: 'endpoint' | 'root-complex-endpoint') {
  const identity = { vendorId: 0x1234, deviceId: 0x10c9, classCode: 0x020000, interruptPin: 1, pcieType };
  const regions: Bytes[] = [];
  const resets: string[] = [];
  const sriov = new Sriov({
    totalVfs: TOTAL,
    vfDeviceId: 0x10ca,
    layout,
    virtualFunction: (i) => {
      const region = new Bytes(0x1000);
      region.bytes[0] = i;
      regions.push(region);
      return {
        name: `vf${i}`,
        identity: { ...identity, deviceId: 0x10ca },
        bars: [{ index: 0, kind: 'memory64', region }],
        capabilities: [new PowerManagement(), new Express(), new Msi(), new Ari()],
        onReset: (kind) => resets.push(`vf${i} ${kind}`),
      };
    },
  });
  const pf = new PciFunction({
    name: 'pf',
    identity,
    bars: [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }],
    capabilities: [new Express(), new Ari(), sriov],
  });
  return { pf, sriov, regions, resets };
}

/** Below a root port that has buses 1..4; VF i at 1:80 + 2i, so the last ones are on bus 2. */
function makeBelowPort(options: Parameters<typeof makeBench>[0] = {}) {
  const bench = makeBench(options);
  const port = rootPort();
  const parts = makePf({ firstOffset: 0x80, stride: 2 }, 'endpoint');
  bench.fabric.attach(bench.fabric.root, port, 1);
  bench.fabric.attach(port, parts.pf);
  programBridge(bench.fabric, bdf(0, 1), [0, 1, 4], { memory: [0xe000_0000, 0xe01f_ffff] });
  const express = port.capability(0x10) as Express;
  bench.fabric.configWrite(bdf(0, 1), port.offsetOf(express) + 40, 2, 0x20);
  const at = parts.pf.offsetOf(parts.sriov);
  const write = (register: number, size: 2 | 4, value: number): void => bench.fabric.configWrite(bdf(1, 0), at + register, size, value);
  return { ...bench, ...parts, port, write };
}

describe('virtual functions', () => {
  it('answer on the PF’s bus and the next one, and only while enabled', () => {
    const { fabric, write } = makeBelowPort();
    expect(fabric.configRead(0x180, 0, 4)).toBe(0xffff_ffff);
    write(16, 2, TOTAL);
    write(8, 2, 1);
    for (let i = 0; i < TOTAL; i++) expect(fabric.functionAt(0x180 + 2 * i)?.name).toBe(`vf${i}`);
    expect(fabric.configRead(0x200, 0, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(0x200, 8, 4)).toBe(0x0200_0000);
    expect(fabric.configRead(0x180 + 2 * TOTAL, 8, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(0x181, 8, 4)).toBe(0xffff_ffff);
    write(8, 2, 0);
    expect(fabric.configRead(0x180, 8, 4)).toBe(0xffff_ffff);
  });

  it('on the PF’s bus need ARI forwarding; on later buses they do not', () => {
    const { fabric, write, port } = makeBelowPort();
    write(16, 2, TOTAL);
    write(8, 2, 1);
    fabric.configWrite(bdf(0, 1), port.offsetOf(port.capability(0x10) as Express) + 40, 2, 0);
    expect(fabric.functionAt(0x180)).toBeUndefined();
    expect(fabric.functionAt(0x202)?.name).toBe('vf65');
  });

  it('are lost past the bridge’s subordinate bus', () => {
    const { fabric, write } = makeBelowPort();
    write(16, 2, TOTAL);
    write(8, 2, 1);
    fabric.configWrite(bdf(0, 1), 0x1a, 1, 1);
    expect(fabric.functionAt(0x1fe)?.name).toBe('vf63');
    expect(fabric.functionAt(0x200)).toBeUndefined();
  });

  it('decode where the PF’s VF BARs say, under VF MSE and the windows', () => {
    const { fabric, write } = makeBelowPort();
    write(36, 4, 0xe010_0000);
    write(16, 2, TOTAL);
    write(8, 2, 1);
    expect(fabric.mmioRead(0xe010_0000, 4)).toBe(0xffff_ffff);
    write(8, 2, 9);
    expect(fabric.decoded()).toHaveLength(TOTAL);
    expect(fabric.decoded()[100]).toEqual({ space: 'memory', base: 0xe010_0000 + 100 * 0x1000, size: 0x1000, bdf: 0x180 + 200, bar: 0 });
    expect(fabric.mmioRead(0xe010_0000 + 199 * 0x1000, 1)).toBe(199);
    expect(fabric.barRead(0x180 + 4, 0, 0, 1)).toBe(2);
    // The VF's own command register has no say.
    fabric.configWrite(0x180, COMMAND, 2, 0xffff);
    expect(fabric.configRead(0x180, COMMAND, 2)).toBe(4);
    // Its power state has: one VF in D3hot is silent, the others are not.
    const vf = fabric.functionAt(0x180) as PciFunction;
    fabric.configWrite(0x180, vf.offsetOf(vf.capability(1) as PowerManagement) + 4, 2, 3);
    expect(fabric.mmioRead(0xe010_0000, 4)).toBe(0xffff_ffff);
    expect(fabric.mmioRead(0xe010_1000, 1)).toBe(1);
    fabric.configWrite(bdf(0, 1), COMMAND, 2, 5);
    expect(fabric.mmioRead(0xe010_1000, 1)).toBe(0xff);
  });

  it('ask for memory and interrupt under their own ids and their own bus master bit', () => {
    const { fabric, write, pf, sriov, messages } = makeBelowPort();
    write(16, 2, TOTAL);
    write(8, 2, 1);
    const vf = sriov.functions[70] as PciFunction;
    const id = 0x180 + 140;
    expect(vf.services?.dma.requester).toBe(id);
    expect(vf.services?.dma.store32(0x100, 1)).toBe(false);
    fabric.configWrite(id, COMMAND, 2, 4);
    expect(vf.services?.dma.store32(0x100, 1)).toBe(true);
    expect(pf.mayMaster).toBe(false);
    const msi = vf.offsetOf(vf.capability(5) as Msi);
    fabric.configWrite(id, msi + 4, 4, 0xfee0_0000);
    fabric.configWrite(id, msi + 12, 2, 0x41);
    fabric.configWrite(id, msi + 2, 2, 1);
    vf.services?.interrupts.raise(0);
    expect(messages).toEqual([{ message: { addressLow: 0xfee0_0000, addressHigh: 0, data: 0x41 }, requester: id }]);
    fabric.configWrite(bdf(0, 1), COMMAND, 2, 3);
    expect(vf.services?.dma.store32(0x100, 1)).toBe(false);
    // Renumbered: VFs move with the PF.
    fabric.configWrite(bdf(0, 1), 0x19, 1, 2);
    expect(vf.services?.dma.requester).toBe(id + 0x100);
  });

  it('of an integrated endpoint may lie on a bus that no bridge has', () => {
    const { fabric } = makeBench();
    const { pf, sriov } = makePf({ firstOffset: 0x180, stride: 2 }, 'root-complex-endpoint');
    fabric.attach(fabric.root, pf, 5);
    const port = rootPort();
    fabric.attach(fabric.root, port, 6);
    const at = pf.offsetOf(sriov);
    fabric.configWrite(bdf(0, 5), at + 16, 2, 3);
    fabric.configWrite(bdf(0, 5), at + 8, 2, 1);
    // Offset 0x180 from 00:05.0 (0x28): 01:15.0.
    expect(fabric.functionAt(bdf(1, 0x15))?.name).toBe('vf0');
    expect(fabric.functionAt(bdf(1, 0x15, 4))?.name).toBe('vf2');
    // A bridge that claims the bus has it.
    programBridge(fabric, bdf(0, 6), [0, 1, 1]);
    expect(fabric.functionAt(bdf(1, 0x15))).toBeUndefined();
  });

  it('go through FLR alone, and with the PF', () => {
    const { fabric, write, sriov, pf, resets } = makeBelowPort();
    write(16, 2, 2);
    write(8, 2, 1);
    const vf = sriov.functions[1] as PciFunction;
    fabric.configWrite(0x182, COMMAND, 2, 4);
    fabric.configWrite(0x182, vf.offsetOf(vf.capability(0x10) as Express) + 8, 2, 0x8000);
    expect(resets).toEqual(['vf1 function']);
    expect(vf.mayMaster).toBe(false);
    expect(fabric.functionAt(0x182)).toBe(vf);
    fabric.configWrite(bdf(1, 0), pf.offsetOf(pf.capability(0x10) as Express) + 8, 2, 0x8000);
    expect(resets).toContain('vf0 function');
    expect(fabric.functionAt(0x182)).toBeUndefined();
    fabric.detach(pf);
    expect(vf.services).toBeUndefined();
  });
});
