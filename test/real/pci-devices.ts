// Network functions of ours that a real Linux drives, as data: how the command line names the device, which drivers it needs, what is checked of it. A new device is a row here.

import { commonChecks, type PciCheck } from './pci-checks.ts';

export interface PciDevice {
  readonly name: string;
  /** `--device` of `nicbox serve`, of the function under test and of its peer. */
  readonly device: string;
  readonly peer: string;
  /** Of both; the guest loads them in this order. */
  readonly modules: readonly string[];
  /** The peer's slot; the device under test is in slot 0. Default 1. */
  readonly peerSlot?: number;
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
/** The control queue has none: Linux polls it. */
const vectors = (count: number): PciCheck => ({
  name: 'MSI-X',
  script: `ls /sys/bus/pci/devices/$pci/msi_irqs; [ $(ls /sys/bus/pci/devices/$pci/msi_irqs | wc -l) -eq ${count} ]`,
});
const pin: PciCheck = { name: 'INTx', script: '[ ! -e /sys/bus/pci/devices/$pci/msi_irqs ] && [ $(cat /sys/bus/pci/devices/$pci/irq) -gt 0 ]' };

/** Of a PF in slot 0 with VFs in slots 1 and 2: what the kernel's SR-IOV core does with it, and the VFs' driver. $vf is the first one. */
const VIRTUAL_FUNCTIONS: readonly PciCheck[] = [
  {
    name: 'VF Enable',
    script: `vf=0000:00:01.0; vf2=0000:00:02.0
[ ! -e /sys/bus/pci/devices/$vf ] && echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && await has_net $vf2
[ "$(drivers $vf)" = virtio-pci ] && [ "$(cat /sys/bus/pci/devices/$vf/device)" = 0x1041 ] && [ "$(basename $(readlink /sys/bus/pci/devices/$vf/physfn))" = $pci ]`,
  },
  {
    name: 'VF to peer',
    script: `vf_up() { vf_dev=$(netof $1); ip netns add vf 2> /dev/null; ip link set $vf_dev netns vf && ip netns exec vf ip addr add $2/24 dev $vf_dev && ip netns exec vf ip link set $vf_dev up; }
vf_ping() { await ip netns exec vf ping -c 1 -W 1 -q $1 && ip netns exec vf ping -A -q -c 50 -w 20 $1 | grep -q ' 50 packets received'; }
vf_up $vf 10.0.0.3 && vf_ping $there && vf_ping $here`,
  },
  {
    name: 'VF reset',
    script:
      'echo $vf > /sys/bus/pci/drivers/virtio-pci/unbind && echo 1 > /sys/bus/pci/devices/$vf/reset && echo $vf > /sys/bus/pci/drivers/virtio-pci/bind && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20',
  },
  {
    name: 'VFs off and on, 10 times',
    script: `for i in 1 2 3 4 5 6 7 8 9 10; do
  echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs && [ ! -e /sys/bus/pci/devices/$vf ] || return 1
  echo $((1 + i % 2)) > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf || return 1
done
vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20`,
  },
  {
    name: 'VF Enable by pci-pf-stub',
    script: `echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs && load pci_pf_stub && unbind && echo pci-pf-stub > /sys/bus/pci/devices/$pci/driver_override && echo $pci > /sys/bus/pci/drivers_probe
[ "$(drivers $pci)" = pci-pf-stub ] && echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there`,
  },
];

export const PCI_DEVICES: readonly PciDevice[] = [
  {
    name: 'virtio-net, split rings, 4 queue pairs',
    device: 'virtio-net,queues=4,packed=off',
    peer: 'virtio-net',
    modules: VIRTIO.modules,
    checks: [vectors(9), ...commonChecks(VIRTIO), channels(4)],
  },
  {
    name: 'virtio-net, packed rings, 2 queue pairs',
    device: 'virtio-net,queues=2,packed=on',
    peer: 'virtio-net,packed=off',
    modules: VIRTIO.modules,
    checks: [vectors(5), ...commonChecks(VIRTIO), channels(2)],
  },
  {
    name: 'virtio-net, INTx',
    device: 'virtio-net',
    peer: 'virtio-net',
    modules: VIRTIO.modules,
    append: ['pci=nomsi'],
    checks: [pin, ...commonChecks(VIRTIO)],
  },
  {
    name: 'virtio-net with 2 virtual functions',
    device: 'virtio-net,vfs=2',
    peer: 'virtio-net',
    peerSlot: 3,
    modules: VIRTIO.modules,
    checks: VIRTUAL_FUNCTIONS,
  },
];
