// From a lab file's description of a guest to its machine: ports and switches as asked, devices below them, each over the data plane of the link it is on.

import type { Clock } from '#core/clock';
import type { Log } from '#core/log';
import type { VirtioNet } from '#devices/virtio-net/device';
import { Machine } from '#nicbox/machine';
import { Acs } from '#pci/acs';
import { Aer } from '#pci/aer';
import { downstreamPort, rootPort, upstreamPort } from '#pci/bridges';
import type { PciFunction } from '#pci/function';
import { SerialNumber } from '#pci/serial-number';
import type { VirtioPci } from '#virtio/pci-transport';
import type { VhostBackend } from '#virtio/vhost';
import type { DeviceDescription, GuestDescription } from './lab-file.ts';

export interface LabDevice {
  readonly description: DeviceDescription;
  readonly net: VirtioNet;
  readonly pci: VirtioPci;
}

export interface LabMachine {
  readonly name: string;
  readonly machine: Machine;
  readonly devices: readonly LabDevice[];
}

export interface TopologyOptions {
  /** The data plane for a device: called once for each, in the file's order. */
  readonly backend: (device: DeviceDescription, guest: GuestDescription, index: number) => VhostBackend;
  readonly clock?: Clock;
  readonly log?: Log;
}

/** Locally administered, the same for the same place in the file: labs are repeatable. */
function defaultMac(guestIndex: number, deviceIndex: number): string {
  const hex = (n: number): string => n.toString(16).padStart(2, '0');
  return `52:54:00:00:${hex(guestIndex + 1)}:${hex(deviceIndex + 1)}`;
}

const extended = (): (Aer | Acs)[] => [new Aer(), new Acs()];

/** Builds one guest's machine. @throws the errors of Machine and VirtioNet, which say what cannot be. */
export function buildMachine(guest: GuestDescription, guestIndex: number, options: TopologyOptions): LabMachine {
  const machine = new Machine({
    name: guest.name,
    memory: guest.memory,
    ...(options.clock && { clock: options.clock }),
    ...(options.log && { log: options.log.child(guest.name) }),
  });
  let slot = 0;
  const addRootPort = (): PciFunction => {
    const port = rootPort({ express: { slot: { number: ++slot } }, capabilities: extended() });
    machine.attach(port);
    return port;
  };
  let shared: PciFunction | undefined;
  const switchPort = (): PciFunction => {
    if (shared === undefined) {
      shared = upstreamPort({ capabilities: [new Aer()] });
      machine.attach(shared, { under: addRootPort() });
    }
    const port = downstreamPort({ express: { slot: { number: ++slot } }, capabilities: extended() });
    machine.attach(port, { under: shared });
    return port;
  };
  const devices = guest.devices.map((description, index): LabDevice => {
    const mac = description.mac ?? defaultMac(guestIndex, index);
    const { net, pci } = machine.addVirtioNet(
      {
        mac,
        backend: options.backend(description, guest, index),
        queuePairs: description.queuePairs,
        features: description.features,
        ...(description.mtu !== undefined && { mtu: description.mtu }),
      },
      {
        under: description.under === 'switch' ? switchPort() : addRootPort(),
        capabilities: [new Aer(), SerialNumber.ofMac(Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16)))],
      },
    );
    return { description, net, pci };
  });
  return { name: guest.name, machine, devices };
}
