// The tree: routing by bus numbers, windows, swizzle, mastering, requester ids, resets, hot plug, conventional devices, placement rules.
import { describe, expect, it } from 'vitest';
import { Iommu } from '#core/iommu';
import { Aer } from '#pci/aer';
import { downstreamPort, pciBridge, rootPort, upstreamPort } from '#pci/bridges';
import type { Capability } from '#pci/capability';
import { EFFECT_DECODE, EFFECT_MASTERING, EFFECT_ROUTING } from '#pci/capability';
import { Express } from '#pci/express';
import { PciFunction } from '#pci/function';
import { lspciTree } from '#pci/lspci';
import { Msi } from '#pci/msi';
import type { ResetKind } from '#pci/ports';
import { Bytes, bdf, COMMAND, ECAM_BASE, makeBench, makeDevice, makePort, programBridge } from './fabric-kit.ts';

/** Root port 00:02.0 -> switch (upstream port, downstream ports 0 and 4) -> a device below each. */
function makeSwitch(options: Parameters<typeof makeBench>[0] = {}) {
  const bench = makeBench(options);
  const { fabric } = bench;
  const port = makePort();
  const up = makePort('upstream-port');
  const downs = [makePort('downstream-port'), makePort('downstream-port')] as const;
  const regions = [new Bytes(0x1000), new Bytes(0x1000)] as const;
  const resets: string[] = [];
  const devices = regions.map((region, i) =>
    makeDevice(
      `device${i}`,
      [
        { index: 0, kind: 'memory32', region },
        { index: 1, kind: 'io', region: new Bytes(16) },
      ],
      {
        onReset: (kind: ResetKind) => resets.push(`device${i} ${kind}`),
      },
    ),
  );
  fabric.attach(fabric.root, port, 2);
  fabric.attach(port, up);
  fabric.attach(up, downs[0], 0);
  fabric.attach(up, downs[1], 4);
  fabric.attach(downs[0], devices[0] as (typeof devices)[0]);
  fabric.attach(downs[1], devices[1] as (typeof devices)[0]);
  return { ...bench, port, up, downs, regions, devices, resets };
}

const PORT = bdf(0, 2);

/** Bus 1 the switch's upper link, 2 inside it, 3 and 4 below; 1 MiB of memory and 4 KiB of I/O each. */
function programSwitch({ fabric }: ReturnType<typeof makeSwitch>): void {
  programBridge(fabric, PORT, [0, 1, 4], { memory: [0xe000_0000, 0xe01f_ffff], io: [0x1000, 0x2fff] });
  programBridge(fabric, bdf(1, 0), [1, 2, 4], { memory: [0xe000_0000, 0xe01f_ffff], io: [0x1000, 0x2fff] });
  programBridge(fabric, bdf(2, 0), [2, 3, 3], { memory: [0xe000_0000, 0xe00f_ffff], io: [0x1000, 0x1fff] });
  programBridge(fabric, bdf(2, 4), [2, 4, 4], { memory: [0xe010_0000, 0xe01f_ffff], io: [0x2000, 0x2fff] });
  for (const [bus, memory, io] of [
    [3, 0xe000_0000, 0x1000],
    [4, 0xe010_0000, 0x2000],
  ] as const) {
    fabric.configWrite(bdf(bus, 0), 0x10, 4, memory);
    fabric.configWrite(bdf(bus, 0), 0x14, 4, io);
    fabric.configWrite(bdf(bus, 0), COMMAND, 2, 7);
  }
}

describe('configuration routing', () => {
  it('reaches nothing below a bridge before it has bus numbers', () => {
    const { fabric } = makeSwitch();
    const found: number[] = [];
    for (let at = 0; at < 0x10000; at++) if (fabric.configRead(at, 0, 4) !== 0xffff_ffff) found.push(at);
    expect(found).toEqual([PORT]);
  });

  it('finds exactly the functions there are, once numbered, and no ghosts below ports', () => {
    const bench = makeSwitch();
    programSwitch(bench);
    const found: number[] = [];
    for (let at = 0; at < 0x10000; at++) if (bench.fabric.mmioRead(ECAM_BASE + at * 4096, 2) !== 0xffff) found.push(at);
    expect(found).toEqual([PORT, bdf(1, 0), bdf(2, 0), bdf(2, 4), bdf(3, 0), bdf(4, 0)]);
  });

  it('ends whatever the bus numbers are: loops, inversions, overlaps', () => {
    const bench = makeSwitch();
    const { fabric } = bench;
    programBridge(fabric, PORT, [0, 0, 255]);
    for (let bus = 1; bus < 256; bus++) expect(fabric.configRead(bus << 8, 0, 4)).toBe(0xffff_ffff);
    programBridge(fabric, PORT, [7, 9, 3]);
    expect(fabric.configRead(bdf(9, 0), 0, 4)).toBe(0xffff_ffff);
    programSwitch(bench);
    // The second downstream port claims the first one's bus: the first keeps it, the second's device is lost.
    fabric.configWrite(bdf(2, 4), 0x19, 1, 3);
    expect(fabric.functionAt(bdf(3, 0))?.name).toBe('device0');
    // The upstream port takes its own upper bus for its lower one: type 0 wins there.
    fabric.configWrite(bdf(1, 0), 0x19, 1, 1);
    expect(fabric.functionAt(bdf(1, 0))?.name).toBe('upstream-port');
    expect(fabric.configRead(bdf(2, 0), 0, 4)).toBe(0xffff_ffff);
  });

  it('passes 8-bit function numbers with ARI forwarding, 0..7 of device 0 without', () => {
    const { fabric } = makeBench();
    const ari: { forwarding: boolean } & Partial<Capability> = { forwarding: false };
    const capability: Capability = {
      id: 0x09,
      size: 4,
      install: (area) => area.permitWrite(2, 1, 1),
      get ariForwarding() {
        return ari.forwarding;
      },
      afterWrite: (_register, _old, written) => {
        ari.forwarding = (written & 0x1_0000) !== 0;
        return EFFECT_ROUTING;
      },
    };
    const port = makePort('root-port', [capability]);
    fabric.attach(fabric.root, port, 0);
    const functions = Array.from({ length: 20 }, (_, i) => (i === 0 || i === 3 || i === 19 ? makeDevice(`f${i}`) : undefined));
    fabric.attach(port, functions);
    programBridge(fabric, 0, [0, 1, 1]);
    expect(fabric.functionAt((1 << 8) | 3)?.name).toBe('f3');
    expect(fabric.functionAt((1 << 8) | 19)).toBeUndefined();
    fabric.configWrite(0, port.offsetOf(capability) + 2, 1, 1);
    expect(fabric.functionAt((1 << 8) | 19)?.name).toBe('f19');
    expect(fabric.configRead(1 << 8, 14, 1)).toBe(0x80);
  });
});

describe('windows', () => {
  it('gate what reaches below, at every level', () => {
    const bench = makeSwitch();
    programSwitch(bench);
    const { fabric, regions } = bench;
    regions[1].bytes[4] = 0x44;
    expect(fabric.mmioRead(0xe010_0004, 1)).toBe(0x44);
    expect(fabric.ioRead(0x2000, 1)).toBe(0);
    // The root port's window shrinks by the second MiB.
    fabric.configWrite(PORT, 0x22, 2, 0xe000);
    expect(fabric.mmioRead(0xe010_0004, 1)).toBe(0xff);
    expect(fabric.mmioRead(0xe000_0004, 1)).toBe(0);
    fabric.configWrite(PORT, 0x22, 2, 0xe010);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 5);
    expect(fabric.mmioRead(0xe010_0004, 1)).toBe(0xff);
    expect(fabric.ioRead(0x2000, 1)).toBe(0);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 6);
    expect(fabric.mmioRead(0xe010_0004, 1)).toBe(0x44);
    expect(fabric.ioRead(0x2000, 1)).toBe(0xff);
  });

  it('take 64-bit prefetchable addresses, and 32-bit I/O', () => {
    const { fabric } = makeBench();
    const port = makePort();
    const region = new Bytes(0x1000);
    region.bytes[0] = 0x64;
    const io = new Bytes(16);
    io.bytes[0] = 0x32;
    fabric.attach(fabric.root, port, 1);
    fabric.attach(
      port,
      makeDevice('far', [
        { index: 0, kind: 'memory64', prefetchable: true, region },
        { index: 2, kind: 'io', region: io },
      ]),
    );
    programBridge(fabric, bdf(0, 1), [0, 1, 1], { prefetchable: [0x80_0000_0000, 0x80_000f_ffff], io: [0x12_3000, 0x12_3fff] });
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0x1000);
    fabric.configWrite(bdf(1, 0), 0x14, 4, 0x80);
    fabric.configWrite(bdf(1, 0), 0x18, 4, 0x12_3010);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 3);
    expect(fabric.mmioRead(0x80_0000_1000, 1)).toBe(0x64);
    expect(fabric.ioRead(0x12_3010, 1)).toBe(0x32);
    expect(fabric.decoded()).toEqual([
      { space: 'memory', base: 0x80_0000_1000, size: 0x1000, bdf: bdf(1, 0), bar: 0 },
      { space: 'io', base: 0x12_3010, size: 16, bdf: bdf(1, 0), bar: 2 },
    ]);
  });

  it('shadow what comes later on the bus even where nothing below answers', () => {
    const { fabric } = makeBench();
    const port = makePort();
    fabric.attach(fabric.root, port, 1);
    fabric.attach(fabric.root, makeDevice('late', [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }]), 2);
    fabric.configWrite(bdf(0, 2), 0x10, 4, 0xe000_0000);
    fabric.configWrite(bdf(0, 2), COMMAND, 2, 2);
    expect(fabric.mmioRead(0xe000_0000, 1)).toBe(0);
    programBridge(fabric, bdf(0, 1), [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff] });
    expect(fabric.mmioRead(0xe000_0000, 1)).toBe(0xff);
    expect(fabric.log.counts['guest-error']).toBe(1);
  });

  it('cut a BAR that sticks out', () => {
    const { fabric } = makeBench();
    const port = makePort();
    fabric.attach(fabric.root, port, 0);
    fabric.attach(port, makeDevice('wide', [{ index: 0, kind: 'memory32', region: new Bytes(0x20_0000) }]));
    programBridge(fabric, 0, [0, 1, 1], { memory: [0xe010_0000, 0xe01f_ffff] });
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0xe000_0000);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 2);
    expect(fabric.decoded()).toEqual([{ space: 'memory', base: 0xe010_0000, size: 0x10_0000, bdf: bdf(1, 0), bar: 0 }]);
    expect(fabric.lookup('memory', 0xe010_0000)?.offset).toBe(0x10_0000);
  });

  it('with ISA Enable pass the first quarter of each KiB, with VGA Enable the VGA ranges', () => {
    const { fabric } = makeBench();
    const port = makePort();
    const region = new Bytes(0x100);
    fabric.attach(fabric.root, port, 0);
    fabric.attach(
      port,
      makeDevice('isa', [
        { index: 0, kind: 'io', region },
        { index: 1, kind: 'memory32', region: new Bytes(0x2_0000) },
      ]),
    );
    programBridge(fabric, 0, [0, 1, 1], { io: [0x1000, 0x1fff] });
    fabric.configWrite(0, 0x3e, 2, 4);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 3);
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0x1400);
    expect(fabric.ioRead(0x1400, 1)).toBe(0);
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0x1500);
    expect(fabric.ioRead(0x1500, 1)).toBe(0xff);
    fabric.configWrite(bdf(1, 0), 0x14, 4, 0xa_0000);
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0x300);
    expect(fabric.mmioRead(0xa_0000, 1)).toBe(0xff);
    fabric.configWrite(0, 0x3e, 2, 8 | 16);
    expect(fabric.mmioRead(0xa_0000, 1)).toBe(0);
    expect([0x3af, 0x3b0, 0x3bb, 0x3bc, 0x3c0, 0x3df, 0x3e0].map((at) => fabric.ioRead(at, 1))).toEqual([0xff, 0, 0, 0xff, 0, 0, 0xff]);
  });
});

describe('INTx', () => {
  it('turns the pin by the device number at each bridge and at the root, and ors the wires', () => {
    const { fabric, devices, lines, edges } = makeSwitch();
    const plain = makeDevice('plain', [], { pin: 3 });
    fabric.attach(fabric.root, plain, 4);
    const [a, b] = devices.map((d) => d.services?.interrupts);
    // device0: INTA, downstream port at device 0, upstream port, root port at device 2 -> C. device1: downstream port at device 4 -> the same.
    a?.setLine(true);
    a?.setLine(true);
    b?.setLine(true);
    // INTC at device 4 of the root bus -> C as well.
    plain.services?.interrupts.setLine(true);
    expect(lines).toEqual([false, false, true, false]);
    a?.setLine(false);
    b?.setLine(false);
    expect(lines[2]).toBe(true);
    plain.services?.interrupts.setLine(false);
    expect(edges).toEqual(['C+', 'C-']);
  });

  it('sees device number 0 below a port, also for the high function numbers of ARI', () => {
    const { fabric, lines } = makeBench();
    const port = makePort();
    const far = makeDevice('f9', [], { pin: 2 });
    fabric.attach(fabric.root, port, 1);
    fabric.attach(port, [makeDevice('f0'), ...new Array(8).fill(undefined), far]);
    far.services?.interrupts.setLine(true);
    // INTB stays B at the port; device 1 of the root makes it C.
    expect(lines).toEqual([false, false, true, false]);
  });

  it('shows the level in Status and obeys Interrupt Disable at once', () => {
    const { fabric, lines } = makeBench();
    const device = makeDevice('toy');
    fabric.attach(fabric.root, device, 0);
    device.services?.interrupts.setLine(true);
    expect(fabric.configRead(0, 6, 2) & 8).toBe(8);
    fabric.configWrite(0, COMMAND, 2, 0x400);
    expect(lines[0]).toBe(false);
    expect(fabric.configRead(0, 6, 2) & 8).toBe(8);
    fabric.configWrite(0, COMMAND, 2, 0);
    expect(lines[0]).toBe(true);
    fabric.detach(device);
    expect(lines[0]).toBe(false);
  });
});

describe('mastering', () => {
  it('needs Bus Master Enable in the function and in every bridge above', () => {
    const bench = makeSwitch();
    programSwitch(bench);
    const { fabric, devices } = bench;
    const dma = devices[0]?.services?.dma;
    const bytes = new Uint8Array(4);
    expect(dma?.read(0x1000, bytes)).toBe(true);
    for (const at of [PORT, bdf(1, 0), bdf(2, 0), bdf(3, 0)]) {
      fabric.configWrite(at, COMMAND, 2, 3);
      expect(dma?.read(0x1000, bytes), `without bus master at ${at.toString(16)}`).toBe(false);
      expect(devices[0]?.mayMaster).toBe(false);
      expect(devices[1]?.mayMaster).toBe(at !== PORT && at !== bdf(1, 0));
      fabric.configWrite(at, COMMAND, 2, 7);
      expect(dma?.read(0x1000, bytes)).toBe(true);
    }
  });

  it('tells the device when it is granted and taken', () => {
    const { fabric } = makeBench();
    const told: boolean[] = [];
    fabric.attach(fabric.root, makeDevice('toy', [], { onMastering: (granted) => told.push(granted) }), 0);
    fabric.configWrite(0, COMMAND, 2, 4);
    fabric.configWrite(0, COMMAND, 2, 6);
    fabric.configWrite(0, COMMAND, 2, 2);
    expect(told).toEqual([true, false]);
  });

  it('carries requester ids that follow renumbering, into the IOMMU domain of the new number', () => {
    const iommu = new Iommu();
    const bench = makeSwitch({ iommu });
    programSwitch(bench);
    const { fabric, devices, memory } = bench;
    const dma = devices[0]?.services?.dma;
    expect(dma?.requester).toBe(bdf(3, 0));
    const domain = iommu.domain();
    domain.map(0x10_0000, 0x2000, 0x1000);
    iommu.attach(bdf(9, 0), domain);
    expect(dma?.store32(0x10_0000, 7)).toBe(false);
    fabric.configWrite(PORT, 0x1a, 1, 9);
    fabric.configWrite(bdf(1, 0), 0x1a, 1, 9);
    fabric.configWrite(bdf(2, 0), 0x19, 2, 0x0909);
    expect(dma?.requester).toBe(bdf(9, 0));
    expect(dma?.store32(0x10_0000, 7)).toBe(true);
    expect(memory.slabs[0]?.views.u32[0x2000 / 4]).toBe(7);
    expect(devices[1]?.services?.dma.requester).toBe(bdf(4, 0));
  });

  it('stops at a capability that blocks the requester, and at a link that is down', () => {
    const { fabric } = makeBench();
    const state = { blocks: false, up: true };
    const capability: Capability = {
      id: 9,
      size: 4,
      install: () => {},
      get linkUp() {
        return state.up;
      },
      blocksRequester: (requester) => state.blocks && requester === bdf(1, 0),
    };
    const port = makePort('root-port', [capability]);
    const device = makeDevice('toy', [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }]);
    fabric.attach(fabric.root, port, 0);
    fabric.attach(port, device);
    programBridge(fabric, 0, [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff] });
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0xe000_0000);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 7);
    expect(device.mayMaster).toBe(true);
    state.blocks = true;
    port.report(EFFECT_MASTERING);
    expect(device.mayMaster).toBe(false);
    state.blocks = false;
    state.up = false;
    port.report(EFFECT_MASTERING | EFFECT_ROUTING | EFFECT_DECODE);
    expect(device.mayMaster).toBe(false);
    expect(fabric.mmioRead(0xe000_0000, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(bdf(1, 0), 0, 4)).toBe(0xffff_ffff);
  });
});

describe('a bridge outside D0', () => {
  it('passes nothing down but answers itself, and lets everything through again in D0', () => {
    const { fabric } = makeBench();
    const port = rootPort();
    const device = makeDevice('toy', [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }]);
    fabric.attach(fabric.root, port, 0);
    fabric.attach(port, device);
    programBridge(fabric, 0, [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff] });
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0xe000_0000);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 6);
    const power = port.offsetOf(port.capability(1) as Capability) + 4;
    const reads = () => [fabric.configRead(bdf(1, 0), 0, 4), fabric.mmioRead(0xe000_0000, 4), device.mayMaster, fabric.configRead(0, 0, 2)];
    expect(reads()).toEqual([0x1111_1234, 0, true, 0x1b36]);
    fabric.configWrite(0, power, 2, 3);
    expect(reads()).toEqual([0xffff_ffff, 0xffff_ffff, false, 0x1b36]);
    // Without No_Soft_Reset the way back is a reset of the port: it has lost its numbers.
    fabric.configWrite(0, power, 2, 0);
    programBridge(fabric, 0, [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff] });
    expect(reads()).toEqual([0x1111_1234, 0, true, 0x1b36]);
  });
});

describe('messages', () => {
  it('inside the interrupt window are interrupts, elsewhere writes to memory, and nothing without bus mastering', () => {
    const { fabric, memory, messages } = makeBench();
    const msi = new Msi();
    const device = makeDevice('toy', [], { capabilities: [msi] });
    fabric.attach(fabric.root, device, 0);
    const at = device.offsetOf(msi);
    const interrupts = device.services?.interrupts;
    fabric.configWrite(0, at + 4, 4, 0xfee0_1000);
    fabric.configWrite(0, at + 12, 2, 0x31);
    fabric.configWrite(0, at + 2, 2, 1);
    expect(interrupts?.mode).toBe('msi');
    expect(interrupts?.message(0)).toBeNull();
    fabric.configWrite(0, COMMAND, 2, 4);
    const before = messages.length;
    interrupts?.raise(0);
    expect(messages.slice(before)).toEqual([{ message: { addressLow: 0xfee0_1000, addressHigh: 0, data: 0x31 }, requester: 0 }]);
    fabric.configWrite(0, at + 4, 4, 0x2000);
    interrupts?.raise(0);
    expect(messages).toHaveLength(before + 1);
    expect(memory.slabs[0]?.views.u32[0x2000 / 4]).toBe(0x31);
  });
});

describe('conventional devices below a PCIe-to-PCI bridge', () => {
  it('answer 256 bytes at device numbers of their own and ask with the bridge’s secondary number', () => {
    const { fabric, lines } = makeBench();
    const port = makePort();
    const bridge = makePort('pcie-to-pci-bridge');
    const old = makeDevice('old', [], { pcieType: 'conventional' });
    fabric.attach(fabric.root, port, 1);
    fabric.attach(port, bridge);
    fabric.attach(bridge, old, 5);
    programBridge(fabric, bdf(0, 1), [0, 1, 2]);
    programBridge(fabric, bdf(1, 0), [1, 2, 2]);
    expect(fabric.mmioRead(ECAM_BASE + (bdf(2, 5) << 12), 4)).toBe(0x1111_1234);
    expect(fabric.mmioRead(ECAM_BASE + (bdf(2, 5) << 12) + 0x100, 4)).toBe(0xffff_ffff);
    expect(old.services?.dma.requester).toBe(bdf(2, 0));
    // Behind a further, conventional bridge the id stays that of the PCIe bridge.
    const inner = new PciFunction({ name: 'inner', identity: { vendorId: 1, deviceId: 1, classCode: 0x060400, pcieType: 'conventional' }, bridge: {} });
    const older = makeDevice('older', [], { pcieType: 'conventional' });
    fabric.attach(bridge, inner, 6);
    fabric.attach(inner, older, 1);
    fabric.configWrite(bdf(0, 1), 0x1a, 1, 3);
    fabric.configWrite(bdf(1, 0), 0x1a, 1, 3);
    programBridge(fabric, bdf(2, 6), [2, 3, 3]);
    expect(fabric.functionAt(bdf(3, 1))).toBe(older);
    expect(older.services?.dma.requester).toBe(bdf(2, 0));
    old.services?.interrupts.setLine(true);
    // INTA at device 5 -> B at the bridge, device 0 of its link -> B at the port, device 1 of the root -> C.
    expect(lines).toEqual([false, false, true, false]);
  });
});

describe('requests that nobody claims', () => {
  function makeDeadEnd() {
    const bench = makeBench();
    const { fabric } = bench;
    const ports = [rootPort({ capabilities: [new Aer()] }), rootPort()] as const;
    const device = makeDevice('toy', [], { capabilities: [new Express(), new Aer()] });
    const bridge = pciBridge();
    fabric.attach(fabric.root, ports[0], 0);
    fabric.attach(fabric.root, ports[1], 1);
    fabric.attach(ports[0], device);
    fabric.attach(ports[1], bridge);
    programBridge(fabric, 0, [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff], prefetchable: [0x10_0000_0000, 0x10_000f_ffff] });
    programBridge(fabric, bdf(0, 1), [0, 2, 3], { memory: [0xe010_0000, 0xe01f_ffff], io: [0x1000, 0x1fff] });
    programBridge(fabric, bdf(2, 0), [2, 3, 3], { memory: [0xe010_0000, 0xe01f_ffff], io: [0x1000, 0x1fff] });
    const status = (at: number, fn: PciFunction): number => fabric.configRead(at, fn.offsetOf(fn.capability(0x10) as Express) + 10, 2) & 15;
    const aer = device.offsetOf(device.capability(1, 'extended') as Aer);
    return { ...bench, ports, device, bridge, status, log: () => [0x1c, 0x20, 0x24, 0x28].map((at) => fabric.configRead(bdf(1, 0), aer + at, 4)) };
  }

  it('are unsupported requests to the function on the link: a write an error, a read only advised', () => {
    const { fabric, device, status, log } = makeDeadEnd();
    expect(fabric.mmioRead(0xe000_0010, 4)).toBe(0xffff_ffff);
    // Unsupported request and correctable error detected.
    expect(status(bdf(1, 0), device)).toBe(9);
    fabric.mmioWrite(0x10_0000_0012, 2, 0xbeef);
    expect(status(bdf(1, 0), device)).toBe(11);
    // A memory write of one dword with a 64-bit address, its upper two bytes enabled.
    expect(log()).toEqual([0x6000_0001, 0x0000_000c, 0x10, 0x10]);
  });

  it('are the port’s own to refuse when nobody is below', () => {
    const { fabric, ports, device, status } = makeDeadEnd();
    fabric.detach(device);
    fabric.mmioWrite(0xe000_0000, 4, 1);
    expect(status(0, ports[0])).toBe(10);
  });

  it('are master aborts on a conventional bus', () => {
    const { fabric } = makeDeadEnd();
    expect(fabric.configRead(bdf(2, 0), 0x1e, 2)).toBe(0);
    expect(fabric.ioRead(0x1234, 1)).toBe(0xff);
    expect(fabric.configRead(bdf(2, 0), 0x1e, 2)).toBe(0x2000);
    fabric.configWrite(bdf(2, 0), 0x1e, 2, 0x2000);
    expect(fabric.configRead(bdf(2, 0), 0x1e, 2)).toBe(0);
    expect(fabric.configRead(bdf(0, 1), 0x1e, 2)).toBe(0);
  });

  it('are nobody’s business when no bridge passed them down', () => {
    const { fabric, device, ports, status } = makeDeadEnd();
    expect(fabric.mmioRead(0xd000_0000, 4)).toBe(0xffff_ffff);
    expect([status(bdf(1, 0), device), status(0, ports[0])]).toEqual([0, 0]);
  });
});

describe('resets', () => {
  it('go down from Secondary Bus Reset, and nothing answers while it is held', () => {
    const bench = makeSwitch();
    programSwitch(bench);
    const { fabric, devices, resets } = bench;
    devices[0]?.services?.interrupts.setLine(true);
    fabric.configWrite(bdf(1, 0), 0x3e, 2, 0x40);
    expect(resets).toEqual(['device0 conventional', 'device1 conventional']);
    expect(bench.lines).toEqual([false, false, false, false]);
    expect(devices[0]?.mayMaster).toBe(false);
    expect(fabric.configRead(bdf(2, 0), 0, 4)).toBe(0xffff_ffff);
    // Held: writing the bit again is no second reset.
    fabric.configWrite(bdf(1, 0), 0x3e, 1, 0x40);
    expect(resets).toHaveLength(2);
    fabric.configWrite(bdf(1, 0), 0x3e, 2, 0);
    expect(fabric.configRead(bdf(2, 0), 0x18, 4)).toBe(0);
    expect(fabric.configRead(bdf(1, 0), 0x1a, 1)).toBe(4);
    expect(fabric.mmioRead(0xe000_0000, 4)).toBe(0xffff_ffff);
  });

  it('of the machine reach everything and start from nothing', () => {
    const bench = makeSwitch();
    programSwitch(bench);
    bench.fabric.ioWrite(0xcf8, 4, 0x8000_0000);
    bench.fabric.reset();
    expect(bench.resets).toEqual(['device0 conventional', 'device1 conventional']);
    expect(bench.fabric.decoded()).toEqual([]);
    expect(bench.fabric.ioRead(0xcf8, 4)).toBe(0);
    expect(bench.fabric.configRead(PORT, 0x18, 4)).toBe(0);
    expect(bench.devices[0]?.services?.dma.busMaster).toBe(false);
  });
});

describe('hot plug', () => {
  it('attaches and takes away at run time, and tells the port', () => {
    const { fabric } = makeBench();
    const presence: boolean[] = [];
    const port = makePort('root-port', [{ id: 9, size: 4, install: () => {}, presenceChanged: (present) => presence.push(present) }]);
    fabric.attach(fabric.root, port, 1);
    programBridge(fabric, bdf(0, 1), [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff] });
    let detached = 0;
    const device = makeDevice('toy', [{ index: 0, kind: 'memory32', region: new Bytes(0x1000) }], { onDetach: () => detached++ });
    expect(fabric.configRead(bdf(1, 0), 0, 4)).toBe(0xffff_ffff);
    const generation = fabric.decodeGeneration;
    fabric.attach(port, device);
    const dma = device.services?.dma;
    fabric.configWrite(bdf(1, 0), 0x10, 4, 0xe000_0000);
    fabric.configWrite(bdf(1, 0), COMMAND, 2, 6);
    expect(fabric.mmioRead(0xe000_0000, 4)).toBe(0);
    fabric.detach(device);
    expect(fabric.mmioRead(0xe000_0000, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(bdf(1, 0), 0, 4)).toBe(0xffff_ffff);
    expect(fabric.decodeGeneration).toBeGreaterThan(generation);
    expect(dma?.store32(0, 1)).toBe(false);
    expect(device.services).toBeUndefined();
    fabric.attach(port, device);
    // As after power-on: nothing of before is left.
    expect(fabric.configRead(bdf(1, 0), 0x10, 4)).toBe(0);
    expect(presence).toEqual([true, false, true]);
    expect(detached).toBe(1);
  });

  it('can go on for as long as one likes', () => {
    // A DMA space that reserves address space for each attachment kills the process, not the test, somewhere above 30000 (measured).
    const { fabric } = makeBench();
    const port = makePort();
    const device = makeDevice('toy');
    fabric.attach(fabric.root, port, 0);
    programBridge(fabric, 0, [0, 1, 1]);
    for (let i = 0; i < 50_000; i++) {
      fabric.attach(port, device);
      fabric.detach(device);
    }
    fabric.attach(port, device);
    expect(fabric.configRead(bdf(1, 0), 0, 4)).toBe(0x1111_1234);
    expect(fabric.functions()).toEqual([port, device]);
  });

  it('takes a switch away with all below it', () => {
    const bench = makeSwitch();
    programSwitch(bench);
    bench.devices[1]?.services?.interrupts.setLine(true);
    bench.fabric.detach(bench.up);
    expect(bench.fabric.functions().map((fn) => fn.name)).toEqual(['root-port']);
    expect(bench.lines).toEqual([false, false, false, false]);
    expect(() => bench.fabric.attach(bench.downs[0], makeDevice('orphan'))).toThrow(TypeError);
  });

  it('refuses trees that cannot exist', () => {
    const { fabric } = makeBench();
    const port = makePort();
    const device = makeDevice('toy');
    fabric.attach(fabric.root, port, 0);
    fabric.attach(port, device);
    expect(() => fabric.attach(port, makeDevice('second'))).toThrow(RangeError);
    expect(() => fabric.attach(port, makeDevice('second'), 1)).toThrow(RangeError);
    expect(() => fabric.attach(fabric.root, device, 5)).toThrow(TypeError);
    expect(() => fabric.attach(fabric.root, makePort('downstream-port'), 5)).toThrow(TypeError);
    expect(() => fabric.attach(fabric.root, [undefined, makeDevice('one')], 5)).toThrow(TypeError);
    expect(() => fabric.attach(device, makeDevice('below'))).toThrow(TypeError);
    expect(fabric.functions()).toEqual([port, device]);
  });
});

describe('configuration requests that nobody answers', () => {
  function makeTree() {
    const bench = makeBench();
    const { fabric } = bench;
    const port = rootPort({ capabilities: [new Aer()] });
    const empty = rootPort({ capabilities: [new Aer()] });
    const up = upstreamPort({ capabilities: [new Aer()] });
    const down = downstreamPort({ capabilities: [new Aer()] });
    const device = makeDevice('toy', [], { capabilities: [new Express(), new Aer()] });
    const bridge = pciBridge();
    fabric.attach(fabric.root, port, 1);
    fabric.attach(fabric.root, empty, 2);
    fabric.attach(fabric.root, bridge, 3);
    fabric.attach(port, up);
    fabric.attach(up, down, 0);
    fabric.attach(down, device);
    programBridge(fabric, bdf(0, 1), [0, 1, 4]);
    programBridge(fabric, bdf(1, 0), [1, 2, 4]);
    programBridge(fabric, bdf(2, 0), [2, 3, 3]);
    programBridge(fabric, bdf(0, 2), [0, 5, 5]);
    programBridge(fabric, bdf(0, 3), [0, 6, 7]);
    const status = (fn: PciFunction): number => fn.config.get16(fn.offsetOf(fn.capability(0x10) as Express) + 10) & 15;
    const all = { port, empty, up, down, device };
    /** Who has noticed something so far. */
    const noticed = (): string[] => Object.entries(all).flatMap(([name, fn]) => (status(fn) === 0 ? [] : [`${name} ${status(fn)}`]));
    return { ...bench, ...all, bridge, noticed };
  }

  // 9: unsupported request and, as the requester is the one to judge, correctable error detected.
  it.each<[what: string, at: number, who: string[]]>([
    ['below an empty port: the port’s', bdf(5, 0), ['empty 9']],
    ['for another function of a device: the device’s', bdf(3, 0, 1), ['device 9']],
    ['for another device on a link: the port’s, which passes device 0 only', bdf(3, 1), ['down 9']],
    ['inside a switch: the upstream port’s', bdf(2, 7), ['up 9']],
    ['for a bus behind no port of a switch: the upstream port’s', bdf(4, 0), ['up 9']],
    ['on the root bus, or a bus of nobody’s: the root complex’s, which says nothing', bdf(0, 9), []],
    ['for a bus of nobody’s', bdf(0x80, 0), []],
    ['for what is there: nobody’s', bdf(3, 0), []],
  ])('%s', (_, at, who) => {
    const { fabric, noticed } = makeTree();
    expect(noticed()).toEqual([]);
    fabric.functionAt(at);
    expect(noticed()).toEqual([]);
    expect(fabric.configRead(at, 0, 4)).toBe(at === bdf(3, 0) ? 0x1111_1234 : 0xffff_ffff);
    expect(noticed()).toEqual(who);
    const other = makeTree();
    other.fabric.mmioWrite(ECAM_BASE + at * 4096 + 0x40, 1, 0);
    expect(other.noticed()).toEqual(who);
  });

  it('on a conventional bus are master aborts', () => {
    const { fabric, bridge, noticed } = makeTree();
    for (const at of [bdf(6, 4), bdf(7, 0)]) {
      bridge.config.set16(0x1e, 0);
      fabric.configWrite(at, 4, 2, 7);
      expect(fabric.configRead(bdf(0, 3), 0x1e, 2)).toBe(0x2000);
    }
    expect(noticed()).toEqual([]);
  });

  it('leave their header in the log: type 0 on the bus itself, type 1 on the way', () => {
    const { fabric, device, up } = makeTree();
    for (const [fn, at, header] of [
      [device, bdf(3, 0, 5), [0x4400_0001, 0x0000_000c, 0x0305_0104, 0]],
      [up, bdf(4, 1, 2), [0x4500_0001, 0x0000_000c, 0x040a_0104, 0]],
    ] as const) {
      const aer = fn.offsetOf(fn.capability(1, 'extended') as Aer);
      // Advisory errors unmasked: only then is the header kept (PCIe 4.0 6.2.3.2.4).
      fabric.configWrite(fn.routingId, aer + 20, 4, 0);
      fabric.configWrite(at, 0x106, 2, 0xffff);
      expect([0x1c, 0x20, 0x24, 0x28].map((o) => fabric.configRead(fn.routingId, aer + o, 4))).toEqual(header);
    }
  });

  it('are not made by looking at the tree from outside', () => {
    const { fabric, noticed } = makeTree();
    const tree = lspciTree((at, offset, size) => fabric.functionAt(at)?.configRead(offset, size) ?? 0xffff_ffff);
    expect(tree.split('\n').filter((line) => line.includes('[1234:1111]'))).toHaveLength(1);
    expect(noticed()).toEqual([]);
  });
});
