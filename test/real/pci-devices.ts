// Network functions of ours that a real Linux drives, as data: how the command line names the device, which drivers it needs, what is checked of it. A new device is a row here.

import { IGB_CHECKS } from './igb-checks.ts';
import { COALESCING, FRAME_CHECKS, SELF_TEST, TOOL_CHECKS } from './intel-checks.ts';
import { commonChecks, type DriverFacts, type Limited, type PathKind, type PciCheck } from './pci-checks.ts';
import { byStub, ON_A_SWITCH, SWITCH_CHECKS, virtualFunctions } from './sriov-checks.ts';

/** What runs one after the other: each has test files, `uml-pci-GROUP.test.ts` and, unless that path shows none of it, `vfio-user-GROUP.test.ts`. */
export type PciGroup = 'virtio' | 'e1000' | 'igb' | 'igb-queues' | 'sriov';

export interface PciDevice extends Limited {
  readonly name: string;
  readonly group: PciGroup;
  /** `--device` of `nicbox serve`, of the function under test and of its peer. */
  readonly device: string;
  readonly peer: string;
  /** Of both; the guest loads them in this order. */
  readonly modules: readonly string[];
  /** The peer's slot; the device under test is in slot 0. Default 1. */
  readonly peerSlot?: number;
  /** Words of the guest's command line, and of `nicbox serve`. */
  readonly append?: readonly string[];
  readonly args?: readonly string[];
  readonly checks: readonly PciCheck[];
}

/** Of a device, or of its checks, what a path can show. */
export function shown<T extends Limited>(all: readonly T[], path: PathKind): T[] {
  return all.filter(({ not }) => not?.[path] === undefined);
}

const VIRTIO: DriverFacts = { pci: 'virtio-pci', net: 'virtio_net', modules: ['virtio_pci', 'virtio_net'], reset: 'flr' };
const IGB: DriverFacts = { pci: 'igb', net: 'igb', modules: ['igb'], reset: 'flr', burst: 32 };
const E1000: DriverFacts = { pci: 'e1000', net: 'e1000', modules: ['e1000'], reset: 'pm', burst: 32 };

/** @param pairs queue pairs: `ethtool -L` to one and back, with traffic behind each. */
const channels = (pairs: number): PciCheck => ({
  name: 'ethtool -L',
  script: `for n in ${pairs} 1 ${pairs}; do ethtool -L $dev combined $n && ping_all 50 || return 1; done; ethtool -l $dev | sed -n 's/^Combined:[^0-9]*//p' | tail -n 1 | grep -qx ${pairs}`,
});
/** The control queue has none: Linux polls it. */
const vectors = (count: number): PciCheck => ({
  name: 'MSI-X',
  script: `ls /sys/bus/pci/devices/$pci/msi_irqs; [ $(ls /sys/bus/pci/devices/$pci/msi_irqs | wc -l) -eq ${count} ]`,
});
const pin: PciCheck = {
  name: 'INTx',
  script: '[ $(ls /sys/bus/pci/devices/$pci/msi_irqs 2> /dev/null | wc -l) -eq 0 ] && [ $(cat /sys/bus/pci/devices/$pci/irq) -gt 0 ]',
};

const rescan: PciCheck = {
  name: 'removed and found again',
  not: { 'uml-pci': "user-mode Linux's bus does not find a function again that was removed" },
  script:
    'for i in 1 2; do echo 1 > /sys/bus/pci/devices/$pci/remove && [ ! -e /sys/bus/pci/devices/$pci ] && echo 1 > /sys/bus/pci/rescan && up && ping_all 10 || return 1; done',
};

/** Autonegotiation that is over when the driver first looks. Else Linux's e1000 looks again two seconds later, after each of many resets. */
const SOON = ',negotiation=1';
/** What has nothing to do with how the device gets into the guest, and can be had in the faster one. */
const once = (checks: readonly PciCheck[]): PciCheck[] =>
  checks.map((check) => ({ ...check, not: { 'vfio-user': 'the same driver has done it with the same device in user-mode Linux' } }));
const NO_PORTS = 'Linux resets this part by I/O ports, and user-mode Linux has none';

export const PCI_DEVICES: readonly PciDevice[] = [
  {
    name: 'virtio-net, split rings, 4 queue pairs',
    group: 'virtio',
    device: 'virtio-net,queues=4,packed=off',
    peer: 'virtio-net',
    modules: VIRTIO.modules,
    checks: [vectors(9), ...commonChecks(VIRTIO), channels(4)],
  },
  {
    name: 'virtio-net, packed rings, 2 queue pairs',
    group: 'virtio',
    device: 'virtio-net,queues=2,packed=on',
    peer: 'virtio-net,packed=off',
    modules: VIRTIO.modules,
    checks: [vectors(5), ...commonChecks(VIRTIO), channels(2)],
  },
  {
    name: 'virtio-net, INTx',
    group: 'virtio',
    device: 'virtio-net',
    peer: 'virtio-net',
    modules: VIRTIO.modules,
    append: ['pci=nomsi'],
    // What has nothing to do with interrupts is looked at above.
    checks: [pin, ...commonChecks(VIRTIO).filter(({ name }) => !name.startsWith('ethtool') && name !== 'TCP, offloads off'), rescan],
  },
  {
    name: 'virtio-net with 2 virtual functions',
    group: 'sriov',
    device: 'virtio-net,vfs=2',
    peer: 'virtio-net',
    peerSlot: 3,
    modules: VIRTIO.modules,
    // The functions of a NIC with an embedded switch, and the peer on its wire.
    args: ['--nic'],
    checks: [...virtualFunctions(VIRTIO.pci, 0x1041), ...ON_A_SWITCH, byStub],
    not: { 'vfio-user': "QEMU's vfio code leaves SR-IOV out of what its guest sees" },
  },
  {
    name: 'e1000 (82540EM)',
    group: 'e1000',
    device: `e1000${SOON}`,
    peer: 'virtio-net',
    modules: [...VIRTIO.modules, ...E1000.modules],
    checks: [pin, ...commonChecks(E1000), ...FRAME_CHECKS, ...TOOL_CHECKS, SELF_TEST],
    not: { 'uml-pci': NO_PORTS },
  },
  {
    name: 'e1000 (82545EM)',
    group: 'e1000',
    device: 'e1000,model=82545EM',
    peer: 'e1000',
    modules: E1000.modules,
    // With another of its kind, and the link in its own time. Linux has no coalescing for the one above.
    checks: [pin, ...FRAME_CHECKS, COALESCING],
    not: { 'uml-pci': NO_PORTS },
  },
  {
    name: 'e1000 (82545GM)',
    group: 'e1000',
    device: `e1000,model=82545GM${SOON}`,
    peer: 'virtio-net',
    modules: [...VIRTIO.modules, ...E1000.modules],
    checks: [pin, ...commonChecks(E1000), ...FRAME_CHECKS, ...TOOL_CHECKS, COALESCING, SELF_TEST],
    not: { 'vfio-user': 'its older relatives are driven there' },
  },
  {
    name: 'igb (82576)',
    group: 'igb',
    device: 'igb',
    peer: 'virtio-net',
    modules: [...VIRTIO.modules, ...IGB.modules],
    checks: [...commonChecks(IGB), ...once([...FRAME_CHECKS, ...TOOL_CHECKS, COALESCING]), SELF_TEST],
  },
  {
    name: 'igb (82576), queues and clock',
    group: 'igb-queues',
    device: `igb${SOON}`,
    peer: `igb${SOON}`,
    modules: IGB.modules,
    checks: IGB_CHECKS,
  },
  {
    name: 'igb (82576) with 2 virtual functions',
    group: 'sriov',
    device: `igb,vfs=2${SOON}`,
    peer: 'virtio-net',
    peerSlot: 3,
    modules: [...VIRTIO.modules, ...IGB.modules, 'igbvf'],
    checks: [...virtualFunctions('igbvf', 0x10ca), ...SWITCH_CHECKS],
    not: { 'vfio-user': "QEMU's vfio code leaves SR-IOV out of what its guest sees" },
  },
];
