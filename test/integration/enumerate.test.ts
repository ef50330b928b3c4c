// The guest's enumerator against the real fabric: two independent readings of PCI Express, down to 256 virtual functions.

import { describe, expect, it } from 'vitest';
import { SimClock } from '#core/clock';
import { Msix, VectorSpace } from '#guest-sim/msix';
import { EcamAccess, PortAccess } from '#guest-sim/pci-config';
import { enumeratePci, type PciDevice } from '#guest-sim/pci-enumerate';
import { disableVirtualFunctions, enableVirtualFunctions } from '#guest-sim/pci-sriov';
import { Machine } from '#nicbox/machine';
import { Ari } from '#pci/ari';
import { downstreamPort, pciBridge, rootPort, upstreamPort } from '#pci/bridges';
import { Express } from '#pci/express';
import { PciFunction } from '#pci/function';
import { Msix as DeviceMsix, msixBar, msixOwnBar } from '#pci/msix';
import { Sriov } from '#pci/sriov';

/** A BAR that remembers what was stored in it. */
class Cells {
  readonly size: number;
  readonly #words = new Map<number, number>();

  constructor(size: number) {
    this.size = size;
  }

  read(offset: number): number {
    return this.#words.get(offset) ?? 0;
  }

  write(offset: number, _size: number, value: number): void {
    this.#words.set(offset, value);
  }
}

const IDENTITY = { vendorId: 0x1234, deviceId: 0x10c9, classCode: 0x020000, interruptPin: 1, pcieType: 'endpoint' as const };

function physicalFunction(totalVfs: number): PciFunction {
  const sriov = new Sriov({
    totalVfs,
    vfDeviceId: 0x10ca,
    layout: { firstOffset: 1, stride: 1 },
    virtualFunction: (i) => ({
      name: `vf${i}`,
      identity: { ...IDENTITY, deviceId: 0x10ca },
      bars: [{ index: 0, kind: 'memory64', prefetchable: true, region: new Cells(0x4000) }],
      capabilities: [new Express(), new Ari()],
    }),
  });
  return new PciFunction({
    name: 'pf',
    identity: IDENTITY,
    bars: [{ index: 0, kind: 'memory32', region: new Cells(0x1000) }],
    capabilities: [new Express(), new Ari(), sriov],
  });
}

describe('the guest enumerates', () => {
  it('256 virtual functions, each with memory of its own, after the wait it owes them', async () => {
    const clock = new SimClock();
    const machine = new Machine({ memory: 2 ** 22, clock });
    const port = rootPort();
    machine.attach(port);
    machine.attach(physicalFunction(256), { under: port });
    const other = rootPort();
    machine.attach(other);
    const bus = machine.localBus();
    const config = new EcamAccess(bus);
    const tree = enumeratePci(bus);
    expect(tree.unplaced).toBe(0);
    const pf = tree.devices.find((d) => d.sriov) as PciDevice;
    expect(pf.sriov).toMatchObject({ totalVfs: 256, lastBus: 2 });
    // The second port's bus comes after the one that only virtual functions reach.
    expect(tree.devices.filter((d) => d.bridge).map((d) => [d.bridge?.number, d.bridge?.subordinate])).toEqual([
      [1, 2],
      [3, 3],
    ]);
    const vfs = enableVirtualFunctions(config, pf, 256, (nanos) => clock.advance(nanos));
    expect(vfs.length).toBe(256);
    for (const [i, vf] of vfs.entries()) bus.mmioWrite((vf.bars[0]?.address as number) + 0x3ffc, 4, i + 1);
    expect(vfs.map((vf) => bus.mmioRead((vf.bars[0]?.address as number) + 0x3ffc, 4))).toEqual(vfs.map((_, i) => i + 1));
    disableVirtualFunctions(config, pf, (nanos) => clock.advance(nanos));
    expect(bus.mmioRead((vfs[7]?.bars[0]?.address as number) + 0x3ffc, 4)).toBe(0xffffffff);
    await machine.close();
  });

  it('ports, a switch and a bridge, and reaches every BAR behind them through either way into configuration space', async () => {
    for (const ports of [false, true]) {
      const machine = new Machine({ memory: 2 ** 22 });
      const device = (kind: 'memory32' | 'memory64' | 'io', size: number, pcieType: 'endpoint' | 'conventional'): PciFunction =>
        new PciFunction({
          name: kind,
          identity: { ...IDENTITY, pcieType },
          bars: [{ index: 0, kind, region: new Cells(size) }],
          capabilities: pcieType === 'endpoint' ? [new Express()] : [],
        });
      const root = rootPort();
      const up = upstreamPort();
      machine.attach(root);
      machine.attach(up, { under: root });
      for (const [i, kind] of (['memory32', 'memory64', 'io'] as const).entries()) {
        const down = downstreamPort();
        machine.attach(down, { under: up, deviceNumber: i });
        machine.attach(device(kind, kind === 'io' ? 64 : 0x10000, 'endpoint'), { under: down });
      }
      const second = rootPort();
      const bridge = pciBridge();
      machine.attach(second);
      machine.attach(bridge, { under: second });
      for (let i = 0; i < 4; i++) machine.attach(device(i % 2 === 0 ? 'memory32' : 'io', 128, 'conventional'), { under: bridge, deviceNumber: i + 3 });
      const bus = machine.localBus();
      const tree = enumeratePci(bus, { config: ports ? new PortAccess(bus) : new EcamAccess(bus) });
      expect(tree.unplaced).toBe(0);
      const leaves = tree.devices.filter((d) => !d.bridge);
      expect(leaves.length).toBe(7);
      for (const [i, leaf] of leaves.entries()) {
        const bar = leaf.bars[0];
        if (bar?.io) bus.ioWrite((bar.address as number) + 60, 4, i + 100);
        else bus.mmioWrite((bar?.address as number) + 60, 4, i + 100);
      }
      expect(leaves.map(({ bars: [bar] }) => (bar?.io ? bus.ioRead((bar.address as number) + 60, 4) : bus.mmioRead((bar?.address as number) + 60, 4)))).toEqual(
        leaves.map((_, i) => i + 100),
      );
      await machine.close();
    }
  });

  it('and sets MSI-X up so that each vector reaches its own handler', async () => {
    const machine = new Machine({ memory: 2 ** 22 });
    const msix = new DeviceMsix(msixOwnBar(1, 8));
    const port = rootPort();
    machine.attach(port);
    const fn = new PciFunction({
      name: 'msix',
      identity: IDENTITY,
      bars: [{ index: 1, kind: 'memory32', region: msixBar(msix, 1) }],
      capabilities: [new Express(), msix],
    });
    machine.attach(fn, { under: port });
    const bus = machine.localBus();
    const config = new EcamAccess(bus);
    const device = enumeratePci(bus).devices.find((d) => !d.bridge) as PciDevice;
    config.write(device.rid, 4, 2, config.read(device.rid, 4, 2) | 4);
    const vectors = new VectorSpace(bus.platform.intxVectors);
    const guest = Msix.find(bus, config, device, vectors) as Msix;
    expect(guest.entries).toBe(8);
    const called: number[] = [];
    guest.begin();
    for (let i = 0; i < 8; i++) expect(guest.route(i, () => called.push(i))).toBe(true);
    guest.finish();
    const take = (): void => {
      for (let v = bus.vectors.take(); v >= 0; v = bus.vectors.take()) vectors.handlers[v]?.();
    };
    for (const i of [3, 0, 7]) {
      msix.raise(i);
      take();
    }
    guest.mask(3);
    msix.raise(3);
    take();
    expect(called).toEqual([3, 0, 7]);
    guest.unmask(3);
    take();
    expect(called).toEqual([3, 0, 7, 3]);
    await machine.close();
  });
});
