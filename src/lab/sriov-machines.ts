// The machines of the experiment's guests: each has one virtio-net NIC that leads to the path's switch, and for the paths with virtual functions as many of them as it has containers.

import type { Clock } from '#core/clock';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { SwitchVfPorts } from '#net/embedded-switch/vf-ports';
import type { VfPorts } from '#net/vf-ports';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';
import type { VhostBackend } from '#virtio/vhost';
import type { Guests, Path } from './sriov-offload.ts';

/** Virtual functions' addresses follow their physical function's. */
const PF_MACS = ['52:54:00:af:00:01', '52:54:00:bf:00:01'] as const;
const MIB = 2 ** 20;
/** Of a guest, and for each container's rings and buffers. */
const GUEST_BYTES = 32 * MIB;
const CONTAINER_BYTES = 2 * MIB;

export interface Placement {
  readonly path: Path;
  readonly pairs: number;
  readonly guests: Guests;
}

export const containersOf = ({ pairs, guests }: Placement): number => (guests === 1 ? 2 * pairs : pairs);

/** A NIC whose embedded switch has a function for each container, and one more for the second guest's physical function. */
export function embeddedSwitch(placement: Placement, clock?: Clock): EmbeddedSwitch {
  const containers = 2 * placement.pairs;
  const nic = new EmbeddedSwitch({ functions: containers + (placement.guests - 1), ...(clock && { clock }) });
  nic.configurePort('pf', { mac: PF_MACS[0] });
  if (placement.guests === 2) nic.configurePort(`vf${containers}`, { mac: PF_MACS[1] });
  return nic;
}

export interface MachineParts {
  /** Of path (iii). */
  readonly nic: EmbeddedSwitch | undefined;
  /** The data plane of a function, by the name that its port has on the switch. */
  readonly backend: (name: string) => VhostBackend;
  readonly clock?: Clock;
}

export function machinesFor(placement: Placement, { nic, backend, clock }: MachineParts): Machine[] {
  const containers = containersOf(placement);
  return Array.from({ length: placement.guests }, (_, guest) => {
    const machine = new Machine({ name: `guest ${guest}`, memory: GUEST_BYTES + containers * CONTAINER_BYTES, ...(clock && { clock }) });
    const port = rootPort({ express: { slot: { number: 1 } } });
    machine.attach(port);
    const first = guest * containers;
    const sriov = {
      totalVfs: containers,
      backend: (vf: number) => backend(`vf${first + vf}`),
      ...(nic && { ports: functionsFrom(first, new SwitchVfPorts(nic)) }),
    };
    const physical = backend(guest === 0 ? 'pf' : `vf${2 * containers}`);
    machine.addVirtioNet({ mac: PF_MACS[guest] as string, backend: physical, ...(placement.path !== 'bridge' && { sriov }) }, { under: port });
    return machine;
  });
}

/** A guest's function 0 is another number to the switch. */
function functionsFrom(first: number, ports: VfPorts): VfPorts {
  return { configure: (vf, settings) => ports.configure(first + vf, settings) };
}
