// ACS source validation as enforced by the fabric, what ACS offers where, ARI next function numbers, serial numbers.
import { describe, expect, it } from 'vitest';
import { Acs } from '#pci/acs';
import { Ari } from '#pci/ari';
import { Express } from '#pci/express';
import { SerialNumber } from '#pci/serial-number';
import { findExtended, makeLoneBench, makePortBench } from './capability-kit.ts';
import { bdf, COMMAND, makeDevice, makePort } from './fabric-kit.ts';

describe('ACS', () => {
  it('offers what the fabric carries out, by kind of function', () => {
    for (const [type, offered] of [
      ['root-port', 0x1d],
      ['downstream-port', 0x01],
      ['endpoint', 0x0c],
    ] as const) {
      const acs = new Acs();
      const fn = type === 'endpoint' ? makeDevice('f', [], { capabilities: [acs] }) : makePort(type, [acs]);
      const at = fn.offsetOf(acs);
      expect(fn.configRead(at + 4, 2), type).toBe(offered);
      fn.configWrite(at + 6, 2, 0xffff);
      expect(fn.configRead(at + 6, 2), type).toBe(offered);
    }
    expect(() => makePort('upstream-port', [new Acs()])).toThrow(TypeError);
  });

  it('stops requests and messages whose requester id is on no bus below the port', () => {
    const device = makeDevice('f', [], { capabilities: [new Express()] });
    const { fabric, port, portAt, deviceAt } = makePortBench(device, {}, [new Acs()]);
    const acs = findExtended(fabric, portAt, 0x0d);
    fabric.configWrite(deviceAt, COMMAND, 2, 4);
    expect(device.mayMaster).toBe(true);
    // The secondary number moves away from the subordinate: bus 1 > 0, an empty range.
    fabric.configWrite(portAt, 0x1a, 1, 0);
    expect(device.mayMaster).toBe(true);
    fabric.configWrite(portAt, acs + 6, 2, 1);
    expect(device.mayMaster).toBe(false);
    expect(device.services?.dma.store32(0x1000, 1)).toBe(false);
    expect(device.sendMessage({ addressLow: 0xfee0_0000, addressHigh: 0, data: 0 })).toBe(false);
    fabric.configWrite(portAt, 0x1a, 1, 1);
    expect(device.mayMaster).toBe(true);
    expect(device.services?.dma.store32(0x1000, 1)).toBe(true);
    expect(port.mayMaster).toBe(true);
  });
});

describe('ARI and serial number', () => {
  it('show the next function', () => {
    const { fabric, at } = makeLoneBench([new Ari(9)]);
    expect(fabric.configRead(at, findExtended(fabric, at, 0x0e) + 4, 4)).toBe(0x0900);
    fabric.configWrite(at, findExtended(fabric, at, 0x0e) + 4, 4, 0xffff_ffff);
    expect(fabric.configRead(at, findExtended(fabric, at, 0x0e) + 4, 4)).toBe(0x0900);
    expect(() => new Ari(256)).toThrow(RangeError);
  });

  it('make a serial number of a MAC address', () => {
    const { fabric, at } = makeLoneBench([SerialNumber.ofMac(Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56))]);
    const cap = findExtended(fabric, at, 3);
    expect([fabric.configRead(at, cap + 8, 4), fabric.configRead(at, cap + 4, 4)]).toEqual([0x525400ff, 0xfe123456]);
    expect(fabric.configRead(bdf(0, 3), cap, 4)).toBe(0x0001_0003);
  });
});
