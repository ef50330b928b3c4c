// How long a guest takes to enumerate a machine with 256 virtual functions over two buses: finding the functions, sizing and placing BARs, enabling the VFs, finding those.
// Beside it the bound: the same number of configuration accesses with nothing behind them. Goal: under 100 ms.

import { SimClock } from '#core/clock';
import type { GuestBus } from '#core/guest-bus';
import type { AccessSize } from '#core/region';
import { EcamAccess } from '#guest-sim/pci-config';
import { enumeratePci } from '#guest-sim/pci-enumerate';
import { enableVirtualFunctions } from '#guest-sim/pci-sriov';
import { Machine } from '#nicbox/machine';
import { Ari } from '#pci/ari';
import { rootPort } from '#pci/bridges';
import { Express } from '#pci/express';
import { PciFunction } from '#pci/function';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import { Sriov } from '#pci/sriov';
import { median, printTable } from './measure.ts';

const VFS = 256;
const SAMPLES = 9;

function vf(): ConstructorParameters<typeof PciFunction>[0] {
  const msix = new Msix(msixOwnBar(2, 3));
  return {
    name: 'vf',
    identity: { vendorId: 0x1234, deviceId: 0x5679, classCode: 0x020000 },
    bars: [
      { index: 0, kind: 'memory64', prefetchable: true, region: { size: 0x4000, read: () => 0, write: () => {} } },
      { index: 2, kind: 'memory32', region: msixBar(msix, 2) },
    ],
    capabilities: [new Express(), msix, new Ari()],
  };
}

function build(): { machine: Machine; clock: SimClock; pf: PciFunction } {
  const clock = new SimClock();
  const machine = new Machine({ memory: 2 ** 24, clock });
  const pf = new PciFunction({
    name: 'pf',
    identity: { vendorId: 0x1234, deviceId: 0x5678, classCode: 0x020000 },
    bars: [{ index: 0, kind: 'memory64', prefetchable: true, region: { size: 0x4000, read: () => 0, write: () => {} } }],
    capabilities: [new Express(), new Ari(), new Sriov({ totalVfs: VFS, vfDeviceId: 0x5679, layout: { firstOffset: 0x80, stride: 2 }, virtualFunction: vf })],
  });
  const port = rootPort();
  machine.attach(port);
  machine.attach(pf, { under: port });
  return { machine, clock, pf };
}

/** Counts what goes through a bus. */
function counting(bus: GuestBus, target: Machine['fabric']): { bus: GuestBus; accesses: () => number } {
  let accesses = 0;
  const counted: GuestBus = Object.assign(Object.create(bus) as GuestBus, {
    mmioRead: (address: number, size: AccessSize) => {
      accesses++;
      return target.mmioRead(address, size);
    },
    mmioWrite: (address: number, size: AccessSize, value: number) => {
      accesses++;
      target.mmioWrite(address, size, value);
    },
  });
  return { bus: counted, accesses: () => accesses };
}

const times: number[] = [];
const bounds: number[] = [];
let found = 0;
let accesses = 0;
for (let sample = 0; sample < SAMPLES; sample++) {
  const { machine, clock, pf } = build();
  const { bus, accesses: counted } = counting(machine.localBus(), machine.fabric);
  const start = performance.now();
  const tree = enumeratePci(bus);
  const config = new EcamAccess(bus);
  const device = tree.devices.find((d) => d.rid === pf.routingId);
  if (device === undefined) throw new Error('the guest did not find the physical function');
  const vfs = enableVirtualFunctions(config, device, VFS, (nanos) => clock.advance(nanos));
  times.push(performance.now() - start);
  found = vfs.length;
  accesses = counted();
  const empty = new Machine({ memory: 2 ** 24 });
  const { ecam } = empty.platform;
  const boundStart = performance.now();
  for (let i = 0; i < accesses; i++) empty.fabric.mmioRead(ecam.base + (i & 0xffff) * 4096, 4);
  bounds.push(performance.now() - boundStart);
  await machine.close();
  await empty.close();
}
if (found !== VFS) throw new Error(`${found} of ${VFS} virtual functions answered`);
const time = median(times);
const bound = median(bounds);
printTable(
  ['enumeration', 'ms', 'config accesses', 'x bound'],
  [
    [`root port, PF, ${VFS} VFs: found, placed, enabled`, time.toFixed(1), accesses, (time / bound).toFixed(1)],
    ['bound: as many reads of absent functions', bound.toFixed(1), accesses, '1.0'],
  ],
);
