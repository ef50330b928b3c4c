// Power management: D-state transitions, what stops outside D0, the internal reset of D3hot -> D0, PME.
import { describe, expect, it } from 'vitest';
import { Express } from '#pci/express';
import { PowerManagement, type PowerManagementOptions } from '#pci/pm';
import type { ResetKind } from '#pci/ports';
import { findCapability, makePortBench } from './capability-kit.ts';
import { Bytes, bdf, COMMAND, makeBench, makeDevice } from './fabric-kit.ts';

const AT = bdf(0, 3);

function makePm(options: PowerManagementOptions = {}) {
  const bench = makeBench();
  const resets: ResetKind[] = [];
  const pm = new PowerManagement(options);
  const device = makeDevice('toy', [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }], {
    pcieType: 'root-complex-endpoint',
    capabilities: [pm],
    onReset: (kind) => resets.push(kind),
  });
  bench.fabric.attach(bench.fabric.root, device, 3);
  resets.length = 0;
  const { fabric } = bench;
  const control = findCapability(fabric, AT, 1) + 4;
  fabric.configWrite(AT, 0x10, 4, 0xf000_0000);
  fabric.configWrite(AT, COMMAND, 2, 6);
  const state = () => fabric.configRead(AT, control, 2) & 3;
  const go = (to: number) => fabric.configWrite(AT, control, 2, to);
  return { ...bench, pm, device, resets, control, state, go };
}

describe('power states', () => {
  it('allow every deeper state that is declared and otherwise only D0', () => {
    // PCI PM 1.2 5.2: rows are where we are, columns what is written; the entry is where we end.
    const expected = [
      [0, 1, 2, 3],
      [0, 1, 2, 3],
      [0, 2, 2, 3],
      [0, 3, 3, 3],
    ];
    for (let from = 0; from < 4; from++) {
      for (let to = 0; to < 4; to++) {
        const { go, state } = makePm({ d1: true, d2: true, noSoftReset: true });
        go(from);
        go(to);
        expect(state(), `D${from} -> D${to}`).toBe(expected[from]?.[to]);
      }
    }
  });

  it('are declared in the capability', () => {
    const declared = (options: PowerManagementOptions) => {
      const { fabric, control } = makePm(options);
      return fabric.configRead(AT, control - 2, 2);
    };
    expect(declared({})).toBe(3);
    expect(declared({ d1: true, pmeFrom: ['d0', 'd3cold'] })).toBe(0x8a03);
    expect(declared({ d2: true, pmeFrom: ['d1', 'd2', 'd3hot'] })).toBe(0x7403);
  });

  it('ignore D1 and D2 where they are not declared', () => {
    const { go, state } = makePm();
    go(1);
    expect(state()).toBe(0);
    go(2);
    expect(state()).toBe(0);
    go(3);
    expect(state()).toBe(3);
  });

  it('stop decoding and mastering outside D0 but leave configuration space reachable', () => {
    const { fabric, go, device } = makePm({ noSoftReset: true });
    expect(fabric.mmioRead(0xf000_0000, 4)).toBe(0);
    expect(device.mayMaster).toBe(true);
    go(3);
    expect(fabric.mmioRead(0xf000_0000, 4)).toBe(0xffff_ffff);
    expect(device.mayMaster).toBe(false);
    expect(device.services?.dma.busMaster).toBe(false);
    expect(fabric.configRead(AT, 0, 2)).toBe(0x1234);
    go(0);
    expect(fabric.mmioRead(0xf000_0000, 4)).toBe(0);
    expect(device.mayMaster).toBe(true);
  });

  it('reset the function on the way from D3hot to D0 unless No_Soft_Reset is set', () => {
    const soft = makePm();
    soft.go(3);
    expect(soft.resets).toEqual([]);
    soft.go(0);
    expect(soft.resets).toEqual(['d3hot']);
    expect(soft.fabric.configRead(AT, 0x10, 4)).toBe(0);
    expect(soft.fabric.configRead(AT, COMMAND, 2)).toBe(0);

    const kept = makePm({ noSoftReset: true });
    kept.go(3);
    kept.go(0);
    expect(kept.resets).toEqual([]);
    expect(kept.fabric.configRead(AT, 0x10, 4)).toBe(0xf000_0000);
  });

  it('lower the interrupt pin while asleep', () => {
    const { go, device, lines } = makePm({ noSoftReset: true });
    device.services?.interrupts.setLine(true);
    expect(lines).toContain(true);
    go(3);
    expect(lines).not.toContain(true);
    go(0);
    expect(lines).toContain(true);
  });
});

describe('PME', () => {
  const PME = 0x8100;

  it('is cleared by writing one and only then', () => {
    const { pm, fabric, control } = makePm({ pmeFrom: ['d0', 'd3hot'] });
    pm.assertPme();
    expect(fabric.configRead(AT, control, 2)).toBe(0x8000);
    fabric.configWrite(AT, control, 2, 0x0100);
    expect(fabric.configRead(AT, control, 2)).toBe(0x8100);
    fabric.configWrite(AT, control + 1, 1, 0x80);
    expect(fabric.configRead(AT, control, 2)).toBe(0);
  });

  it('is not asserted from a state that does not support it, and has no enable where none does', () => {
    const { pm, fabric, control } = makePm({ pmeFrom: ['d3hot'] });
    pm.assertPme();
    expect(fabric.configRead(AT, control, 2)).toBe(0);
    const none = makePm();
    none.fabric.configWrite(AT, none.control, 2, 0xffff);
    expect(none.fabric.configRead(AT, none.control, 2) & PME).toBe(0);
  });

  it('keeps its context over the internal reset of D3hot to D0', () => {
    const { pm, fabric, control, go } = makePm({ pmeFrom: ['d3hot'] });
    go(0x103);
    pm.assertPme();
    go(0x100);
    expect(fabric.configRead(AT, control, 2)).toBe(0x8100);
  });

  it('reaches the root port, one requester shown at a time, and interrupts', () => {
    const pm = [0, 1].map(() => new PowerManagement({ pmeFrom: ['d0'] }));
    const [first, second] = pm.map((each, i) => makeDevice(`f${i}`, [], { capabilities: [new Express(), each] }));
    const bench = makePortBench();
    const { fabric, port, portAt, portExpress, lines } = bench;
    fabric.attach(port, [first, second]);
    fabric.configWrite(portAt, portExpress + 28, 2, 8);
    for (const at of [bdf(1, 0, 0), bdf(1, 0, 1)]) fabric.configWrite(at, findCapability(fabric, at, 1) + 4, 2, 0x100);
    pm[1]?.assertPme();
    expect(fabric.configRead(portAt, portExpress + 32, 4)).toBe(0x1_0101);
    expect(lines).toContain(true);
    pm[0]?.assertPme();
    expect(fabric.configRead(portAt, portExpress + 32, 4)).toBe(0x3_0101);
    fabric.configWrite(portAt, portExpress + 32, 4, 0x1_0000);
    expect(fabric.configRead(portAt, portExpress + 32, 4)).toBe(0x1_0100);
    fabric.configWrite(portAt, portExpress + 32, 4, 0x1_0000);
    expect(fabric.configRead(portAt, portExpress + 32, 4) & 0x3_0000).toBe(0);
    expect(lines).not.toContain(true);
  });

  it('is said again every 100 ms until it is serviced', () => {
    const pm = new PowerManagement({ pmeFrom: ['d0'] });
    const { fabric, clock, portAt, portExpress, deviceAt } = makePortBench(makeDevice('f', [], { capabilities: [new Express(), pm] }));
    const control = findCapability(fabric, deviceAt, 1) + 4;
    fabric.configWrite(deviceAt, control, 2, 0x100);
    pm.assertPme();
    fabric.configWrite(portAt, portExpress + 34, 2, 1);
    expect(fabric.configRead(portAt, portExpress + 34, 2)).toBe(0);
    clock.advance(100e6);
    expect(fabric.configRead(portAt, portExpress + 34, 2)).toBe(1);
    fabric.configWrite(deviceAt, control, 2, 0x8100);
    fabric.configWrite(portAt, portExpress + 34, 2, 1);
    clock.advance(1e9);
    expect(fabric.configRead(portAt, portExpress + 34, 2)).toBe(0);
  });

  it('is said again after a restore, at the time it was due', () => {
    const make = () => {
      const pm = new PowerManagement({ pmeFrom: ['d0'] });
      return { pm, ...makePortBench(makeDevice('f', [], { capabilities: [new Express(), pm] })) };
    };
    const a = make();
    a.pm.assertPme();
    a.fabric.configWrite(a.deviceAt, findCapability(a.fabric, a.deviceAt, 1) + 4, 2, 0x100);
    expect(a.fabric.configRead(a.portAt, a.portExpress + 34, 2), 'enabling sends what was waiting').toBe(1);
    const b = make();
    b.fabric.restore(structuredClone(a.fabric.save()));
    b.fabric.configWrite(b.portAt, b.portExpress + 34, 2, 1);
    b.clock.advance(100e6 - 1);
    expect(b.fabric.configRead(b.portAt, b.portExpress + 34, 2)).toBe(0);
    b.clock.advance(1);
    expect(b.fabric.configRead(b.portAt, b.portExpress + 34, 2)).toBe(1);
  });
});
