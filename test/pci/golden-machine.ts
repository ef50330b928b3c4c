// The machine of the golden dumps: one of every kind of function and capability, programmed the way firmware and a driver would.
import type { SimClock } from '#core/clock';
import { Acs } from '#pci/acs';
import { Aer } from '#pci/aer';
import { Ari } from '#pci/ari';
import { Express } from '#pci/express';
import type { Fabric } from '#pci/fabric';
import { PciFunction } from '#pci/function';
import type { LspciOptions } from '#pci/lspci';
import { Msi } from '#pci/msi';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import { PowerManagement } from '#pci/pm';
import { SerialNumber } from '#pci/serial-number';
import { Sriov } from '#pci/sriov';
import { PciAccess } from '#virtio/pci-access';
import { structureCapability } from '#virtio/pci-structure';
import { findCapability, findExtended, makeTimedBench } from './capability-kit.ts';
import { Bytes, bdf, COMMAND, programBridge } from './fabric-kit.ts';

const NETWORK = 0x020000;
const BRIDGE = 0x060400;

function hostBridge(): PciFunction {
  return new PciFunction({ name: 'host', identity: { vendorId: 0x1b36, deviceId: 0x0008, classCode: 0x060000, pcieType: 'conventional' } });
}

function rootPort(number: number): PciFunction {
  return new PciFunction({
    name: 'root-port',
    identity: { vendorId: 0x1b36, deviceId: 0x000c, classCode: BRIDGE, interruptPin: 1, pcieType: 'root-port' },
    bridge: {},
    capabilities: [
      new PowerManagement({ noSoftReset: true, pmeFrom: ['d0', 'd3hot'] }),
      new Express({ portNumber: number, slot: { number, attentionButton: true, powerController: true, attentionIndicator: true, powerIndicator: true } }),
      new Msi(),
      new Aer(),
      new Acs(),
    ],
  });
}

function switchPort(type: 'upstream-port' | 'downstream-port', portNumber: number): PciFunction {
  return new PciFunction({
    name: type,
    identity: { vendorId: 0x104c, deviceId: 0x8232, revision: 2, classCode: BRIDGE, pcieType: type, interruptPin: type === 'upstream-port' ? 0 : 1 },
    bridge: {},
    capabilities: [
      new PowerManagement({ noSoftReset: true }),
      new Express({ maxSpeed: 3, maxWidth: 8, portNumber }),
      new Aer(),
      ...(type === 'downstream-port' ? [new Acs()] : []),
    ],
  });
}

function nic(): PciFunction {
  const msix = new Msix({ vectors: 10, table: { bar: 3, offset: 0 }, pendingBits: { bar: 3, offset: 0x2000 } });
  return new PciFunction({
    name: 'nic',
    identity: { vendorId: 0x8086, deviceId: 0x10c9, revision: 1, classCode: NETWORK, subsystemId: 0xa03c, interruptPin: 1 },
    bars: [
      { index: 0, kind: 'memory32', region: new Bytes(0x2_0000) },
      { index: 2, kind: 'io', region: new Bytes(0x20) },
      { index: 3, kind: 'memory32', region: msixBar(msix, 3, undefined, 0x4000) },
    ],
    rom: new Bytes(0x1_0000),
    capabilities: [
      { capability: new PowerManagement({ pmeFrom: ['d0', 'd3hot', 'd3cold'] }), offset: 0x40 },
      { capability: new Msi(), offset: 0x50 },
      { capability: msix, offset: 0x70 },
      { capability: new Express({ maxSpeed: 1, maxWidth: 4 }), offset: 0xa0 },
      { capability: new Aer({ headerLogDepth: 1 }), offset: 0x100 },
      { capability: SerialNumber.ofMac(Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56)), offset: 0x140 },
      { capability: new Ari(), offset: 0x150 },
      {
        capability: new Sriov({ totalVfs: 8, vfDeviceId: 0x10ca, layout: { firstOffset: 0x80, stride: 2 }, virtualFunction: nicVf }),
        offset: 0x160,
      },
    ],
  });
}

function nicVf(index: number): ConstructorParameters<typeof PciFunction>[0] {
  const msix = new Msix({ vectors: 3, table: { bar: 3, offset: 0 }, pendingBits: { bar: 3, offset: 0x2000 } });
  return {
    name: `nic-vf${index}`,
    identity: { vendorId: 0x8086, deviceId: 0x10ca, revision: 1, classCode: NETWORK, subsystemVendorId: 0x8086, subsystemId: 0xa03c },
    bars: [
      { index: 0, kind: 'memory64', prefetchable: true, region: new Bytes(0x4000) },
      { index: 3, kind: 'memory64', prefetchable: true, region: msixBar(msix, 3, undefined, 0x4000) },
    ],
    capabilities: [
      { capability: msix, offset: 0x70 },
      { capability: new Express({ maxSpeed: 1, maxWidth: 4 }), offset: 0xa0 },
      { capability: new Aer(), offset: 0x100 },
      { capability: new Ari(), offset: 0x150 },
    ],
  };
}

function virtioNet(): PciFunction {
  const msix = new Msix(msixOwnBar(1, 4));
  const structures = new Bytes(0x4000);
  return new PciFunction({
    name: 'virtio-net',
    identity: { vendorId: 0x1af4, deviceId: 0x1041, revision: 1, classCode: NETWORK, subsystemVendorId: 0x1af4, subsystemId: 0x1100, interruptPin: 1 },
    bars: [
      { index: 1, kind: 'memory32', region: msixBar(msix, 1, undefined, 0x1000) },
      { index: 4, kind: 'memory64', prefetchable: true, region: structures },
    ],
    capabilities: [
      ...[1, 3, 4].map((type, i) => structureCapability({ type, bar: 4, offset: 0x1000 * i, length: 0x1000 })),
      structureCapability({ type: 2, bar: 4, offset: 0x3000, length: 0x1000, notifyMultiplier: 4 }),
      new PciAccess(() => structures),
      msix,
      new PowerManagement({ noSoftReset: true }),
      new Express(),
      new Aer(),
    ],
  });
}

export function makeGoldenMachine(): { fabric: Fabric; clock: SimClock } {
  const { fabric, clock } = makeTimedBench();
  const ports = [1, 2, 3, 4].map(rootPort);
  fabric.attach(fabric.root, hostBridge(), 0);
  ports.forEach((port, i) => {
    fabric.attach(fabric.root, port, i + 1);
  });
  fabric.attach(ports[0] as PciFunction, nic());
  const upstream = switchPort('upstream-port', 0);
  const downstream = [switchPort('downstream-port', 1), switchPort('downstream-port', 2)];
  fabric.attach(ports[1] as PciFunction, upstream);
  downstream.forEach((port, i) => {
    fabric.attach(upstream, port, i);
  });
  fabric.attach(downstream[0] as PciFunction, virtioNet());
  const bridge = new PciFunction({
    name: 'pci-bridge',
    identity: { vendorId: 0x1b36, deviceId: 0x000e, classCode: BRIDGE, pcieType: 'pcie-to-pci-bridge', interruptPin: 1 },
    bridge: {},
    capabilities: [new PowerManagement(), new Msi(), new Express({ maxSpeed: 1, maxWidth: 1 })],
  });
  fabric.attach(ports[2] as PciFunction, bridge);
  const old = new PciFunction({
    name: 'old-nic',
    identity: { vendorId: 0x8086, deviceId: 0x100e, revision: 3, classCode: NETWORK, subsystemId: 0x001e, interruptPin: 1, pcieType: 'conventional' },
    bars: [
      { index: 0, kind: 'memory32', region: new Bytes(0x2_0000) },
      { index: 1, kind: 'io', region: new Bytes(0x40) },
    ],
  });
  fabric.attach(bridge, old, 5);
  program(fabric);
  return { fabric, clock };
}

function program(fabric: Fabric): void {
  const write = (at: number, offset: number, size: 1 | 2 | 4, value: number) => fabric.configWrite(at, offset, size, value);
  programBridge(fabric, bdf(0, 1), [0, 1, 2], { memory: [0xe000_0000, 0xe00f_ffff], prefetchable: [0x10_0000_0000, 0x10_000f_ffff], io: [0x1000, 0x1fff] });
  programBridge(fabric, bdf(0, 2), [0, 3, 6], { memory: [0xe010_0000, 0xe01f_ffff], prefetchable: [0x10_0010_0000, 0x10_001f_ffff] });
  programBridge(fabric, bdf(3, 0), [3, 4, 6], { memory: [0xe010_0000, 0xe01f_ffff], prefetchable: [0x10_0010_0000, 0x10_001f_ffff] });
  programBridge(fabric, bdf(4, 0), [4, 5, 5], { memory: [0xe010_0000, 0xe01f_ffff], prefetchable: [0x10_0010_0000, 0x10_001f_ffff] });
  programBridge(fabric, bdf(4, 1), [4, 6, 6]);
  programBridge(fabric, bdf(0, 3), [0, 7, 8], { memory: [0xe020_0000, 0xe02f_ffff], io: [0x2000, 0x2fff] });
  programBridge(fabric, bdf(7, 0), [7, 8, 8], { memory: [0xe020_0000, 0xe02f_ffff], io: [0x2000, 0x2fff] });
  programBridge(fabric, bdf(0, 4), [0, 9, 9]);

  const nicAt = bdf(1, 0);
  write(bdf(0, 1), findCapability(fabric, bdf(0, 1), 0x10) + 40, 2, 0x20);
  write(bdf(0, 1), findExtended(fabric, bdf(0, 1), 0x0d) + 6, 2, 0x1d);
  write(nicAt, 0x10, 4, 0xe000_0000);
  write(nicAt, 0x18, 4, 0x1000);
  write(nicAt, 0x1c, 4, 0xe002_0000);
  write(nicAt, 0x30, 4, 0xe003_0001);
  write(nicAt, 0x3c, 1, 11);
  write(nicAt, COMMAND, 2, 0x0406);
  write(nicAt, 0x72, 2, 0x8000);
  write(nicAt, 0x160 + 36, 4, 0);
  write(nicAt, 0x160 + 40, 4, 0x10);
  write(nicAt, 0x160 + 36 + 12, 4, 0x0002_0000);
  write(nicAt, 0x160 + 36 + 16, 4, 0x10);
  write(nicAt, 0x160 + 16, 2, 2);
  write(nicAt, 0x160 + 8, 2, 9);
  write(nicAt + 0x80, COMMAND, 2, 4);

  const virtioAt = bdf(5, 0);
  write(virtioAt, 0x14, 4, 0xe010_0000);
  write(virtioAt, 0x20, 4, 0x0010_0000);
  write(virtioAt, 0x24, 4, 0x10);
  write(virtioAt, COMMAND, 2, 6);

  const oldAt = bdf(8, 5);
  write(oldAt, 0x10, 4, 0xe020_0000);
  write(oldAt, 0x14, 4, 0x2000);
  write(oldAt, COMMAND, 2, 7);
}

/** The options that make sizes known to the listing. */
export function barSizes(fabric: Fabric): LspciOptions {
  return {
    barSize: (at, bar) =>
      fabric.functionAt(at)?.bars.list.find((b) => b.index === bar)?.size ?? (bar === 6 ? fabric.functionAt(at)?.bars.rom?.size : undefined),
    virtualBarSize: (at, bar) => fabric.functionAt(at)?.virtualFunctions?.functions[0]?.bars.list.find((b) => b.index === bar)?.size,
  };
}
