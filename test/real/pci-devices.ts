// Network functions of ours that a real Linux drives, as data: how the command line names the device, which drivers it needs, what is checked of it. A new device is a row here.

import { commonChecks, type PciCheck } from './pci-checks.ts';

export interface PciDevice {
  readonly name: string;
  /** `--device` of `nicbox serve`, of the function under test and of its peer. */
  readonly device: string;
  readonly peer: string;
  /** Of both; the guest loads them in this order. */
  readonly modules: readonly string[];
  /** Words of the guest's command line. */
  readonly append?: readonly string[];
  readonly checks: readonly PciCheck[];
}

const VIRTIO = { pci: 'virtio-pci', net: 'virtio_net', modules: ['virtio_pci', 'virtio_net'] };

/** @param pairs queue pairs: `ethtool -L` to one and back, with traffic behind each. */
const channels = (pairs: number): PciCheck => ({
  name: 'ethtool -L',
  script: `for n in ${pairs} 1 ${pairs}; do ethtool -L $dev combined $n && ping_all 50 || return 1; done; ethtool -l $dev | sed -n 's/^Combined:[^0-9]*//p' | tail -n 1 | grep -qx ${pairs}`,
});
const vectors = (count: number): PciCheck => ({
  name: 'MSI-X',
  script: `ls /sys/bus/pci/devices/$pci/msi_irqs; [ $(ls /sys/bus/pci/devices/$pci/msi_irqs | wc -l) -eq ${count} ]`,
});
const pin: PciCheck = { name: 'INTx', script: '[ ! -e /sys/bus/pci/devices/$pci/msi_irqs ] && [ $(cat /sys/bus/pci/devices/$pci/irq) -gt 0 ]' };

export const PCI_DEVICES: readonly PciDevice[] = [
  {
    name: 'virtio-net, split rings, 4 queue pairs',
    device: 'virtio-net,queues=4,packed=off',
    peer: 'virtio-net',
    modules: VIRTIO.modules,
    checks: [vectors(10), ...commonChecks(VIRTIO), channels(4)],
  },
  {
    name: 'virtio-net, packed rings, 2 queue pairs',
    device: 'virtio-net,queues=2,packed=on',
    peer: 'virtio-net,packed=off',
    modules: VIRTIO.modules,
    checks: [vectors(6), ...commonChecks(VIRTIO), channels(2)],
  },
  {
    name: 'virtio-net, INTx',
    device: 'virtio-net',
    peer: 'virtio-net',
    modules: VIRTIO.modules,
    append: ['pci=nomsi'],
    checks: [pin, ...commonChecks(VIRTIO)],
  },
];
