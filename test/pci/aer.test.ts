// Advanced error reporting: detection, masks, severities, advisory errors, header logs, and messages up the tree to the root port.
import { describe, expect, it } from 'vitest';
import { Aer, type AerOptions, CorrectableError, reportError, UncorrectableError } from '#pci/aer';
import { EventCollectorAssociation } from '#pci/event-collector';
import { Express } from '#pci/express';
import type { PciFunction } from '#pci/function';
import { Msi } from '#pci/msi';
import { PowerManagement } from '#pci/pm';
import { findCapability, findExtended, makePortBench, makeTimedBench } from './capability-kit.ts';
import { bdf, COMMAND, makeDevice, makePort, programBridge } from './fabric-kit.ts';

const HEADER = [0x4a000001, 0x01000004, 0x00000000, 0xdeadbeef] as const;
const POISONED = { kind: 'uncorrectable', error: UncorrectableError.poisonedTlp, header: HEADER } as const;
const MALFORMED = { kind: 'uncorrectable', error: UncorrectableError.malformedTlp } as const;
const BAD_TLP = { kind: 'correctable', error: CorrectableError.badTlp } as const;
const UNSUPPORTED = { kind: 'uncorrectable', error: UncorrectableError.unsupportedRequest, advisory: true } as const;

function makeAer(options: AerOptions = {}) {
  const systemErrors: string[] = [];
  const device = makeDevice('toy', [], { capabilities: [new Express(), new Aer(options)] });
  const bench = makePortBench(device, { onSystemError: (severity) => systemErrors.push(severity) }, [new Msi(), new Aer()]);
  const { fabric, portAt, deviceAt } = bench;
  const aer = findExtended(fabric, deviceAt, 1);
  const root = findExtended(fabric, portAt, 1);
  const express = findCapability(fabric, deviceAt, 0x10);
  const read = (offset: number) => fabric.configRead(deviceAt, aer + offset, 4);
  const write = (offset: number, value: number) => fabric.configWrite(deviceAt, aer + offset, 4, value);
  const rootRead = (offset: number) => fabric.configRead(portAt, root + offset, 4);
  const rootWrite = (offset: number, value: number) => fabric.configWrite(portAt, root + offset, 4, value);
  /** Everything on, all the way up: device and port reporting, SERR forwarding in the bridge, root command. */
  const enable = () => {
    fabric.configWrite(deviceAt, express + 8, 2, 0x0f);
    fabric.configWrite(portAt, bench.portExpress + 8, 2, 0x0f);
    fabric.configWrite(portAt, 0x3e, 2, 2);
    rootWrite(44, 7);
  };
  return { ...bench, device, aer, root, express, read, write, rootRead, rootWrite, enable, systemErrors };
}

describe('errors at the function', () => {
  it('have the defaults of the specification', () => {
    const { read } = makeAer();
    expect([read(8), read(12), read(20)].map((v) => v.toString(16))).toEqual(['400000', '462030', 'e000']);
  });

  it('set status in AER and Device Status whatever is masked or disabled', () => {
    const { device, read, fabric, deviceAt, express, write, rootRead } = makeAer();
    write(8, 0xffff_ffff);
    reportError(device, POISONED);
    reportError(device, BAD_TLP);
    expect(read(4)).toBe(1 << 12);
    expect(read(16)).toBe(1 << 6);
    expect(fabric.configRead(deviceAt, express + 10, 2)).toBe(3);
    expect(read(28)).toBe(0);
    expect(rootRead(48) & 0x7f).toBe(0);
  });

  it('log the first header and its pointer, and lose later ones', () => {
    const { device, read, write } = makeAer();
    reportError(device, POISONED);
    reportError(device, { ...MALFORMED, header: [1, 2, 3, 4] });
    expect(read(24) & 31).toBe(12);
    expect([28, 32, 36, 40].map(read)).toEqual([...HEADER]);
    expect(read(4)).toBe((1 << 12) | (1 << 18));
    // The header of the second found no room: a correctable error of its own.
    expect(read(16)).toBe(1 << 15);
    write(4, 1 << 12);
    expect(read(4)).toBe(1 << 18);
    reportError(device, { ...MALFORMED, header: [5, 6, 7, 8] });
    expect(read(24) & 31).toBe(18);
    expect([28, 32, 36, 40].map(read)).toEqual([5, 6, 7, 8]);
  });

  it('queue headers while multiple header recording is on', () => {
    const { device, read, write } = makeAer({ headerLogDepth: 2 });
    write(24, 0x400);
    reportError(device, POISONED);
    reportError(device, { ...POISONED, header: [9, 9, 9, 9] });
    expect(read(16)).toBe(0);
    reportError(device, MALFORMED);
    expect(read(16)).toBe(1 << 15);
    write(4, 1 << 12);
    expect(read(4), 'still set: a second such error waits').toBe((1 << 12) | (1 << 18));
    expect([28, 32, 36, 40].map(read)).toEqual([9, 9, 9, 9]);
    write(4, 1 << 12);
    expect(read(4)).toBe(1 << 18);
  });

  it('survive a hot reset and a function-level reset, but not power-on', () => {
    const { device, read, fabric, port } = makeAer();
    reportError(device, POISONED);
    fabric.resetFunction(device);
    fabric.resetBelow(port);
    expect(read(4)).toBe(1 << 12);
    expect(read(28)).toBe(HEADER[0]);
    fabric.reset();
    programBridge(fabric, bdf(0, 1), [0, 1, 1]);
    expect(read(4)).toBe(0);
    expect(read(28)).toBe(0);
  });

  it('are reported the baseline way without AER', () => {
    const plain = makeDevice('plain', [], { capabilities: [new Express()] });
    const { fabric, deviceAt, portAt, portExpress } = makePortBench(plain, {}, [new Aer()]);
    const root = findExtended(fabric, portAt, 1);
    const express = findCapability(fabric, deviceAt, 0x10);
    fabric.configWrite(deviceAt, express + 8, 2, 2);
    fabric.configWrite(portAt, portExpress + 8, 2, 2);
    fabric.configWrite(portAt, 0x3e, 2, 2);
    reportError(plain, POISONED);
    expect(fabric.configRead(deviceAt, express + 10, 2)).toBe(2);
    expect(fabric.configRead(portAt, root + 48, 4)).toBe(0x24);
  });
});

describe('advisory non-fatal errors', () => {
  it('are silent but for Device Status and the advisory bit while masked', () => {
    const { device, read, enable, rootRead, fabric, deviceAt, express } = makeAer();
    enable();
    reportError(device, UNSUPPORTED);
    expect(read(16)).toBe(1 << 13);
    expect(read(4)).toBe(0);
    expect(fabric.configRead(deviceAt, express + 10, 2)).toBe(9);
    expect(rootRead(48) & 0x7f).toBe(0);
  });

  it('are sent as correctable, and logged, when unmasked', () => {
    const { device, read, write, enable, rootRead } = makeAer();
    enable();
    write(20, 0);
    reportError(device, UNSUPPORTED);
    expect(read(4)).toBe(1 << 20);
    expect(read(24) & 31).toBe(20);
    expect(rootRead(48) & 0x7f).toBe(1);
    expect(rootRead(52)).toBe(0x100);
  });

  it('are no longer advisory once their severity is fatal', () => {
    const { device, write, read, enable, rootRead } = makeAer();
    enable();
    write(12, 1 << 20);
    reportError(device, UNSUPPORTED);
    expect(rootRead(48) & 0x7f).toBe(0x54);
    expect(read(16)).toBe(0);
  });
});

describe('messages to the root port', () => {
  it('set its status, source and interrupt', () => {
    const { device, enable, rootRead, rootWrite, lines } = makeAer();
    enable();
    reportError(device, BAD_TLP);
    expect(rootRead(48) & 0x7f).toBe(1);
    expect(rootRead(52)).toBe(0x0100);
    expect(lines).toContain(true);
    reportError(device, BAD_TLP);
    expect(rootRead(48) & 0x7f).toBe(3);
    reportError(device, POISONED);
    reportError(device, MALFORMED);
    // Received, multiple, non-fatal seen, fatal seen; the first was not fatal.
    expect(rootRead(48) & 0x7f).toBe(0x6f);
    expect(rootRead(52)).toBe(0x0100_0100);
    rootWrite(48, 0x7f);
    expect(rootRead(48) & 0x7f).toBe(0);
    expect(lines).not.toContain(true);
  });

  it('interrupt as soon as root command is told to, for the kinds it names', () => {
    const { device, enable, rootWrite, lines } = makeAer();
    enable();
    rootWrite(44, 0);
    reportError(device, BAD_TLP);
    expect(lines).not.toContain(true);
    for (const [command, level] of [
      [6, false],
      [1, true],
      [2, false],
    ] as const) {
      rootWrite(44, command);
      expect(lines.includes(true)).toBe(level);
    }
  });

  it('are one message interrupt each time a kind rises from none', () => {
    const { device, enable, rootWrite, messages, fabric, portAt } = makeAer();
    enable();
    const msi = findCapability(fabric, portAt, 5);
    fabric.configWrite(portAt, msi + 4, 4, 0xfee0_0000);
    fabric.configWrite(portAt, msi + 2, 2, 1);
    reportError(device, POISONED);
    reportError(device, POISONED);
    expect(messages.length).toBe(1);
    rootWrite(48, 0x7f);
    reportError(device, POISONED);
    expect(messages.length).toBe(2);
  });

  it('need every enable on their way', () => {
    const gates: [string, (b: ReturnType<typeof makeAer>) => void][] = [
      ['device reporting', (b) => b.fabric.configWrite(b.deviceAt, b.express + 8, 2, 0x0d)],
      ['mask', (b) => b.write(8, 1 << 12)],
      ['bridge SERR forwarding', (b) => b.fabric.configWrite(b.portAt, 0x3e, 2, 0)],
      ['port reporting', (b) => b.fabric.configWrite(b.portAt, b.portExpress + 8, 2, 0x0d)],
    ];
    for (const [what, close] of gates) {
      const bench = makeAer();
      bench.enable();
      close(bench);
      reportError(bench.device, POISONED);
      expect(bench.rootRead(48) & 0x7f, what).toBe(0);
    }
  });

  it('go by SERR# in place of the reporting enables, and say so in the status registers', () => {
    const { device, fabric, deviceAt, portAt, rootRead } = makeAer();
    fabric.configWrite(deviceAt, COMMAND, 2, 0x100);
    fabric.configWrite(portAt, COMMAND, 2, 0x107);
    fabric.configWrite(portAt, 0x3e, 2, 2);
    reportError(device, MALFORMED);
    expect(rootRead(48) & 0x7f).toBe(0x54);
    expect(fabric.configRead(deviceAt, 6, 2) & 0x4000).toBe(0x4000);
    expect(fabric.configRead(portAt, 0x1e, 2) & 0x4000).toBe(0x4000);
    expect(fabric.configRead(portAt, 6, 2) & 0x4000).toBe(0x4000);
    fabric.configWrite(portAt, 0x1e, 2, 0x4000);
    expect(fabric.configRead(portAt, 0x1e, 2) & 0x4000).toBe(0);
  });

  it('become system errors where root control says so', () => {
    const { device, enable, fabric, portAt, portExpress, systemErrors } = makeAer();
    enable();
    fabric.configWrite(portAt, portExpress + 28, 2, 4);
    reportError(device, POISONED);
    expect(systemErrors).toEqual([]);
    reportError(device, MALFORMED);
    expect(systemErrors).toEqual(['fatal']);
  });

  it('from the root port itself need no forwarding', () => {
    const { port, fabric, portAt, portExpress, rootRead } = makeAer();
    fabric.configWrite(portAt, portExpress + 8, 2, 1);
    reportError(port, BAD_TLP);
    expect(rootRead(48) & 0x7f).toBe(1);
    expect(rootRead(52)).toBe(portAt);
  });

  it('come through switches, whose ports are gates like any other', () => {
    const bench = makePortBench(undefined, {}, [new Aer()]);
    const { fabric, port, portAt, portExpress } = bench;
    const upstream = makePort('upstream-port', [new Express()]);
    const downstream = makePort('downstream-port', [new Express(), new Aer()]);
    const device = makeDevice('deep', [], { capabilities: [new Express(), new Aer()] });
    fabric.attach(port, upstream);
    fabric.attach(upstream, downstream);
    fabric.attach(downstream, device);
    programBridge(fabric, portAt, [0, 1, 3]);
    programBridge(fabric, bdf(1, 0), [1, 2, 3]);
    programBridge(fabric, bdf(2, 0), [2, 3, 3]);
    for (const at of [portAt, bdf(1, 0), bdf(2, 0)]) fabric.configWrite(at, 0x3e, 2, 2);
    for (const at of [portAt, bdf(1, 0), bdf(2, 0), bdf(3, 0)]) fabric.configWrite(at, findCapability(fabric, at, 0x10) + 8, 2, 2);
    const root = findExtended(fabric, portAt, 1);
    reportError(device, POISONED);
    expect(fabric.configRead(portAt, root + 48, 4)).toBe(0x24);
    expect(fabric.configRead(portAt, root + 52, 4)).toBe(0x0300_0000);
    fabric.configWrite(portAt, root + 48, 4, 0x7f);
    fabric.configWrite(bdf(1, 0), 0x3e, 2, 0);
    reportError(device, POISONED);
    expect(fabric.configRead(portAt, root + 48, 4)).toBe(0);
    expect(portExpress).toBeGreaterThan(0);
  });
});

describe('messages of integrated endpoints', () => {
  it('end at the event collector that is associated with their device number, PME too', () => {
    const { fabric, lines, clock } = makeTimedBench();
    const pm = new PowerManagement({ pmeFrom: ['d0'] });
    const [near, far] = [4, 9].map((number) => {
      const fn = makeDevice(`f${number}`, [], {
        pcieType: 'root-complex-endpoint',
        capabilities: number === 4 ? [new Express(), new Aer(), pm] : [new Express(), new Aer()],
      });
      fabric.attach(fabric.root, fn, number);
      fabric.configWrite(bdf(0, number), findCapability(fabric, bdf(0, number), 0x10) + 8, 2, 0x0f);
      return fn;
    });
    const collector = makeDevice('collector', [], {
      pcieType: 'root-complex-event-collector',
      capabilities: [new Express(), new Aer(), new EventCollectorAssociation(1 << 4)],
    });
    fabric.attach(fabric.root, collector, 0x1f);
    const at = bdf(0, 0x1f);
    const aer = findExtended(fabric, at, 1);
    const express = findCapability(fabric, at, 0x10);
    expect(fabric.configRead(at, findExtended(fabric, at, 7) + 4, 4)).toBe(0x10);
    fabric.configWrite(at, aer + 44, 4, 7);
    reportError(far as PciFunction, POISONED);
    expect(fabric.configRead(at, aer + 48, 4)).toBe(0);
    reportError(near as PciFunction, POISONED);
    expect(fabric.configRead(at, aer + 48, 4)).toBe(0x24);
    expect(fabric.configRead(at, aer + 54, 2)).toBe(bdf(0, 4));
    expect(lines).toContain(true);
    fabric.configWrite(bdf(0, 4), findCapability(fabric, bdf(0, 4), 1) + 4, 2, 0x100);
    pm.assertPme();
    clock.advance(1);
    expect(fabric.configRead(at, express + 32, 4)).toBe(0x1_0000 + bdf(0, 4));
    expect(() => makeDevice('f', [], { capabilities: [new EventCollectorAssociation()] })).toThrow(TypeError);
  });
});

describe('AER state', () => {
  it('survives save and restore with queued headers, and refuses what does not fit', () => {
    const a = makeAer();
    a.enable();
    a.write(24, 0x400);
    reportError(a.device, POISONED);
    reportError(a.device, { ...MALFORMED, header: [1, 2, 3, 4] });
    const b = makeAer();
    b.fabric.restore(structuredClone(a.fabric.save()));
    expect(b.lines).toContain(true);
    b.write(4, 1 << 12);
    expect([28, 32, 36, 40].map(b.read)).toEqual([1, 2, 3, 4]);
    const full = new Aer({ headerLogDepth: 2 });
    makeDevice('full', [], { capabilities: [new Express(), full] });
    full.restore(new Array(2).fill({ error: 4, header: HEADER }));
    expect(full.save().length).toBe(2);
    const aer = new Aer();
    makeDevice('x', [], { capabilities: [new Express(), aer] });
    for (const bad of [
      null,
      {},
      [1],
      [{ error: 40, header: [0, 0, 0, 0] }],
      [{ error: 4, header: [0, 0, -1, 0] }],
      new Array(9).fill({ error: 4, header: HEADER }),
    ])
      expect(() => aer.restore(bad)).toThrow('AER');
  });
});
