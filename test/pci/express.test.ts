// The PCI Express capability: types, device control and status, FLR, link training, disabling and speeds, ARI forwarding.
import { describe, expect, it } from 'vitest';
import { Express } from '#pci/express';
import type { PcieType } from '#pci/function';
import type { ResetKind } from '#pci/ports';
import { findCapability, makeLoneBench, makePortBench } from './capability-kit.ts';
import { Bytes, bdf, COMMAND, makeBench, makeDevice, makePort } from './fabric-kit.ts';

const DEVCTL = 8;
const DEVSTA = 10;
const LNKCTL = 16;
const LNKSTA = 18;

describe('PCI Express capability', () => {
  it('says what each function is', () => {
    const codes: [PcieType, number][] = [
      ['endpoint', 0],
      ['legacy-endpoint', 1],
      ['root-port', 4],
      ['upstream-port', 5],
      ['downstream-port', 6],
      ['pcie-to-pci-bridge', 7],
      ['root-complex-endpoint', 9],
      ['root-complex-event-collector', 10],
    ];
    for (const [type, code] of codes) {
      const capability = new Express();
      const isPort = code >= 4 && code <= 7;
      const fn = isPort ? makePort(type, [capability]) : makeDevice('f', [], { pcieType: type, capabilities: [capability] });
      const at = fn.offsetOf(capability);
      expect(fn.configRead(at + 2, 2), type).toBe(2 | (code << 4));
    }
    expect(() => makeDevice('f', [], { pcieType: 'conventional', capabilities: [new Express()] })).toThrow(TypeError);
    expect(() => makeDevice('f', [], { capabilities: [new Express({ slot: {} })] })).toThrow(TypeError);
  });

  it('declares payload, tags, role-based errors and FLR', () => {
    const declared = (options: ConstructorParameters<typeof Express>[0]) => {
      const { fabric, at } = makeLoneBench([new Express(options)]);
      return fabric.configRead(at, findCapability(fabric, at, 0x10) + 4, 4);
    };
    expect(declared({})).toBe(0x1000_8022);
    expect(declared({ maxPayload: 128, functionReset: false })).toBe(0x8020);
  });

  it('has root registers in root ports alone', () => {
    const { fabric, deviceAt, portAt, portExpress } = makePortBench(makeDevice('f', [], { capabilities: [new Express()] }));
    const cap = findCapability(fabric, deviceAt, 0x10);
    fabric.configWrite(deviceAt, cap + 28, 2, 0xffff);
    fabric.configWrite(portAt, portExpress + 28, 2, 0xffff);
    expect([fabric.configRead(deviceAt, cap + 28, 2), fabric.configRead(portAt, portExpress + 28, 2)]).toEqual([0, 15]);
  });

  it('has no link registers in an integrated endpoint', () => {
    const { fabric, at } = makeLoneBench([new Express()]);
    const cap = findCapability(fabric, at, 0x10);
    fabric.configWrite(at, cap + LNKCTL, 2, 0xffff);
    for (const offset of [12, 16, 20, 24, 28, 32, 44, 48]) expect(fabric.configRead(at, cap + offset, 4)).toBe(0);
  });

  it('stores device control, clears device status by ones, keeps the rest read-only', () => {
    const { fabric, at, fn } = makeLoneBench([new Express({ functionReset: false })]);
    const cap = findCapability(fabric, at, 0x10);
    expect(fabric.configRead(at, cap + DEVCTL, 2)).toBe(0x2810);
    fabric.configWrite(at, cap + DEVCTL, 2, 0xffff);
    expect(fabric.configRead(at, cap + DEVCTL, 2)).toBe(0x79ff);
    for (const c of fn.capabilities) if (c instanceof Express) c.setDeviceStatus(0xf);
    fabric.configWrite(at, cap + DEVSTA, 1, 0x3a);
    expect(fabric.configRead(at, cap + DEVSTA, 2)).toBe(5);
  });
});

describe('PCIe-to-PCI bridges', () => {
  it('have a configuration retry enable where endpoints have FLR', () => {
    const write = (type: PcieType): number => {
      const express = new Express();
      const fn = makePort(type, [express]);
      fn.configWrite(fn.offsetOf(express) + DEVCTL, 2, 0xffff);
      return fn.configRead(fn.offsetOf(express) + DEVCTL, 2);
    };
    expect(write('pcie-to-pci-bridge')).toBe(0x81ef);
    expect(write('root-port')).toBe(0x01ef);
  });
});

describe('function-level reset', () => {
  function makeResettable() {
    const resets: ResetKind[] = [];
    const device = makeDevice('toy', [{ index: 0, kind: 'memory32', region: new Bytes(64) }], {
      capabilities: [new Express()],
      onReset: (kind) => resets.push(kind),
    });
    const bench = makePortBench(device);
    resets.length = 0;
    return { ...bench, device, resets, cap: findCapability(bench.fabric, bench.deviceAt, 0x10) };
  }

  it('resets the function, not its payload size or its link', () => {
    const { fabric, deviceAt, resets, cap, device } = makeResettable();
    fabric.configWrite(deviceAt, 0x10, 4, 0xe000_0000);
    fabric.configWrite(deviceAt, COMMAND, 2, 6);
    fabric.configWrite(deviceAt, cap + DEVCTL, 2, 0x004f);
    fabric.configWrite(deviceAt, cap + LNKCTL, 2, 0x40);
    fabric.configWrite(deviceAt, cap + DEVCTL, 2, 0x804f);
    expect(resets).toEqual(['function']);
    expect(fabric.configRead(deviceAt, cap + DEVCTL, 2)).toBe(0x2850);
    expect(fabric.configRead(deviceAt, cap + LNKCTL, 2)).toBe(0x40);
    expect(fabric.configRead(deviceAt, 0x10, 4)).toBe(0);
    expect(device.mayMaster).toBe(false);
  });

  it('starts from the byte that holds its bit, and only with the bit set', () => {
    const { fabric, deviceAt, resets, cap } = makeResettable();
    fabric.configWrite(deviceAt, cap + DEVCTL, 1, 0x80);
    fabric.configWrite(deviceAt, cap + DEVSTA, 2, 0x8000);
    fabric.configWrite(deviceAt, cap + DEVCTL + 1, 1, 0x7f);
    expect(resets).toEqual([]);
    fabric.configWrite(deviceAt, cap + DEVCTL + 1, 1, 0x80);
    expect(resets).toEqual(['function']);
    expect(fabric.configRead(deviceAt, cap + DEVCTL + 1, 1) & 0x80).toBe(0);
  });

  it('is not offered by ports', () => {
    const { fabric, portAt, portExpress } = makePortBench();
    expect(fabric.configRead(portAt, portExpress + 4, 4) & 0x1000_0000).toBe(0);
    fabric.configWrite(portAt, portExpress + DEVCTL, 2, 0x8000);
    expect(fabric.configRead(portAt, 0x19, 1)).toBe(1);
  });
});

describe('links', () => {
  it('show what both ends can do, at both ends', () => {
    const device = makeDevice('slow', [], { capabilities: [new Express({ maxSpeed: 2, maxWidth: 4 })] });
    const { fabric, portAt, portExpress, deviceAt } = makePortBench(device, { maxSpeed: 4, maxWidth: 16 });
    const cap = findCapability(fabric, deviceAt, 0x10);
    expect(fabric.configRead(deviceAt, cap + LNKSTA, 2)).toBe(0x0042);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2)).toBe(0x2042);
  });

  it('forget a partner that was taken away', () => {
    const device = makeDevice('slow', [], { capabilities: [new Express({ maxSpeed: 1, maxWidth: 1 })] });
    const { fabric, port, portAt, portExpress } = makePortBench(device, { maxSpeed: 4, maxWidth: 16 });
    fabric.detach(device);
    fabric.attach(port, makeDevice('plain'));
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2)).toBe(0x2104);
  });

  it('are down without a device', () => {
    const { fabric, portAt, portExpress, deviceAt } = makePortBench();
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2) & 0x2000).toBe(0);
    expect(fabric.configRead(deviceAt, 0, 4)).toBe(0xffff_ffff);
  });

  it('retrain to the target speed, taking time, and report it', () => {
    const device = makeDevice('fast', [], { capabilities: [new Express()] });
    const { fabric, clock, portAt, portExpress, lines } = makePortBench(device, { trainingTime: 1000 });
    fabric.configWrite(portAt, portExpress + 48, 2, 1);
    fabric.configWrite(portAt, portExpress + LNKCTL, 2, 0x420);
    expect(fabric.configRead(portAt, portExpress + LNKCTL, 2)).toBe(0x400);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2)).toBe(0x2904);
    clock.advance(1000);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2)).toBe(0x6101);
    expect(lines).toContain(true);
    fabric.configWrite(portAt, portExpress + LNKSTA, 2, 0x4000);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2)).toBe(0x2101);
    expect(lines).not.toContain(true);
  });

  it('take the device away while disabled, and bring it back reset', () => {
    const resets: ResetKind[] = [];
    const device = makeDevice('f', [], { capabilities: [new Express()], onReset: (kind) => resets.push(kind) });
    const { fabric, clock, portAt, portExpress, deviceAt } = makePortBench(device, { trainingTime: 1000 });
    resets.length = 0;
    fabric.configWrite(deviceAt, COMMAND, 2, 4);
    expect(device.mayMaster).toBe(true);
    fabric.configWrite(portAt, portExpress + LNKCTL, 1, 0x10);
    expect(fabric.configRead(deviceAt, 0, 4)).toBe(0xffff_ffff);
    expect(device.mayMaster).toBe(false);
    expect(resets).toEqual(['conventional']);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2) & 0x2000).toBe(0);
    fabric.configWrite(portAt, portExpress + LNKCTL, 1, 0);
    expect(fabric.configRead(deviceAt, 0, 4)).toBe(0xffff_ffff);
    clock.advance(1000);
    expect(fabric.configRead(deviceAt, 0, 2)).toBe(0x1234);
    expect(fabric.configRead(deviceAt, COMMAND, 2)).toBe(0);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2) & 0x2000).toBe(0x2000);
  });

  it('keep state over save and restore, in the middle of training too', () => {
    const make = () => makePortBench(makeDevice('f', [], { capabilities: [new Express()] }), { trainingTime: 1000 });
    const a = make();
    a.fabric.configWrite(a.portAt, a.portExpress + LNKCTL, 1, 0x10);
    a.fabric.configWrite(a.portAt, a.portExpress + LNKCTL, 1, 0);
    const b = make();
    b.fabric.restore(structuredClone(a.fabric.save()));
    expect(b.fabric.configRead(b.deviceAt, 0, 4)).toBe(0xffff_ffff);
    b.clock.advance(1000);
    expect(b.fabric.configRead(b.deviceAt, 0, 2)).toBe(0x1234);
  });
});

describe('ARI forwarding', () => {
  it('opens function numbers above 7 while the port forwards them', () => {
    const bench = makeBench();
    const port = makePort('root-port', [new Express()]);
    const functions: ReturnType<typeof makeDevice>[] = [];
    for (const number of [0, 9]) functions[number] = makeDevice(`f${number}`, [], { capabilities: [new Express()] });
    bench.fabric.attach(bench.fabric.root, port, 1);
    bench.fabric.attach(port, functions);
    bench.fabric.configWrite(bdf(0, 1), 0x18, 4, 0x0001_0100);
    const cap = findCapability(bench.fabric, bdf(0, 1), 0x10);
    expect(bench.fabric.configRead(0x109, 0, 4)).toBe(0xffff_ffff);
    bench.fabric.configWrite(bdf(0, 1), cap + 40, 2, 0x20);
    expect(bench.fabric.configRead(0x109, 0, 2)).toBe(0x1234);
    bench.fabric.configWrite(bdf(0, 1), cap + 40, 1, 0);
    expect(bench.fabric.configRead(0x109, 0, 4)).toBe(0xffff_ffff);
  });
});
