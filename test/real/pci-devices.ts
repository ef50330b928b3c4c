// Network functions of ours that a real Linux drives, as data: how the command line names the device, which drivers it needs, what is checked of it. A new device is a row here.

import { commonChecks, type DriverFacts, type Limited, type PathKind, type PciCheck } from './pci-checks.ts';

export interface PciDevice extends Limited {
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

/** Of a device, or of its checks, what a path can show. */
export function shown<T extends Limited>(all: readonly T[], path: PathKind): T[] {
  return all.filter(({ not }) => not?.[path] === undefined);
}

const EMULATED = 'minutes of an emulated processor: done in user-mode Linux';
const VIRTIO: DriverFacts = {
  pci: 'virtio-pci',
  net: 'virtio_net',
  modules: ['virtio_pci', 'virtio_net'],
  reset: 'flr',
  millionNot: { 'vfio-user': EMULATED },
};
const IGB: DriverFacts = { pci: 'igb', net: 'igb', modules: ['igb'], reset: 'flr', burst: 32, millionNot: { 'vfio-user': EMULATED } };
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

/** Of a PF in slot 0 with VFs in slots 1 and 2: what the kernel's SR-IOV core does with it, and the VFs' driver. $vf is the first one. @param id device id of the VFs */
const virtualFunctions = (driver: string, id: number): PciCheck[] => [
  {
    name: 'VF Enable',
    script: `vf=0000:00:01.0; vf2=0000:00:02.0
[ ! -e /sys/bus/pci/devices/$vf ] && echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && await has_net $vf2
[ "$(drivers $vf)" = ${driver} ] && [ "$(cat /sys/bus/pci/devices/$vf/device)" = 0x${id.toString(16)} ] && [ "$(basename $(readlink /sys/bus/pci/devices/$vf/physfn))" = $pci ]`,
  },
  {
    name: 'VF to peer',
    script: `vf_up() { vf_dev=$(netof $1); ip netns add vf 2> /dev/null; ip link set $vf_dev netns vf && ip netns exec vf ip addr add $2/24 dev $vf_dev && ip netns exec vf ip link set $vf_dev up; }
vf_ping() { await ip netns exec vf ping -c 1 -W 1 -q $1 && ip netns exec vf ping -A -q -c 50 -w 20 $1 | grep -q ' 50 packets received'; }
vf_up $vf 10.0.0.3 && vf_ping $there && vf_ping $here`,
  },
  {
    name: 'VF reset',
    script: `echo $vf > /sys/bus/pci/drivers/${driver}/unbind && echo 1 > /sys/bus/pci/devices/$vf/reset && echo $vf > /sys/bus/pci/drivers/${driver}/bind && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20`,
  },
  {
    name: 'VFs off and on, 10 times',
    script: `for i in 1 2 3 4 5 6 7 8 9 10; do
  echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs && [ ! -e /sys/bus/pci/devices/$vf ] || return 1
  echo $((1 + i % 2)) > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf || return 1
done
vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20`,
  },
];

/** VFs that need no driver of the PF's. After the others. */
const byStub: PciCheck = {
  name: 'VF Enable by pci-pf-stub',
  script: `echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs && load pci_pf_stub && unbind && echo pci-pf-stub > /sys/bus/pci/devices/$pci/driver_override && echo $pci > /sys/bus/pci/drivers_probe
[ "$(drivers $pci)" = pci-pf-stub ] && echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there`,
};

/** What the 82576's embedded switch does for VFs at its PF's word; each on an interface of $dev's. After the others. */
const SWITCH_CHECKS: readonly PciCheck[] = [
  {
    name: 'VF to VF',
    script: `echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs; echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && await has_net $vf2 && vf_up $vf 10.0.0.3
other=$(netof $vf2); ip netns add vf2; ip link set $other netns vf2 && ip netns exec vf2 ip addr add 10.0.0.4/24 dev $other && ip netns exec vf2 ip link set $other up
vf_ping 10.0.0.4 && ip netns exec vf2 ping -A -q -c 20 -w 20 $there | grep -q ' 20 packets received' && ping_all 20`,
  },
  {
    name: 'ip link set vf: vlan, spoofchk, max_tx_rate, mac',
    script: `vf_answers() { ip netns exec vf ping -c 1 -W 1 -q $there; }
ip link set $dev vf 0 vlan 5 && ! vf_answers && ! vf_answers && ip link set $dev vf 0 vlan 0 && vf_ping $there || return 1
for s in off on; do ip link set $dev vf 0 spoofchk $s && ip link show $dev | grep -q "vf 0 .*spoof checking $s" && vf_ping $there || return 1; done
ip link set $dev vf 0 max_tx_rate 100 && vf_ping $there && ip link set $dev vf 0 max_tx_rate 0 && vf_ping $there || return 1
ip link set $dev vf 0 mac 52:54:00:00:00:77 && echo $vf > /sys/bus/pci/drivers/igbvf/unbind && echo $vf > /sys/bus/pci/drivers/igbvf/bind && await has_net $vf && vf_up $vf 10.0.0.3
[ "$(ip netns exec vf cat /sys/class/net/$vf_dev/address)" = 52:54:00:00:00:77 ] && vf_ping $there && vf_ping 10.0.0.4`,
  },
];

/** What Intel's drivers can be asked for beyond what any can. */
const INTEL_CHECKS: readonly PciCheck[] = [
  {
    name: 'TSO and checksums by the device',
    script: `stat() { ethtool -S $dev | sed -n "s/^ *$1: *//p"; }
ethtool -k $dev | grep -q '^tcp-segmentation-offload: on' || { ethtool -k $dev; return 1; }
tso=$(stat tx_tcp_seg_good); csum=$(stat rx_csum_offload_good); bad=$(stat rx_csum_offload_errors)
tcp 4096; ethtool -S $dev | grep -E 'seg|csum'
[ $(stat tx_tcp_seg_good) -gt $tso ] && [ $(stat tx_tcp_seg_failed) -eq 0 ] && [ $(stat rx_csum_offload_good) -gt $csum ] && [ $(stat rx_csum_offload_errors) -eq $bad ]`,
  },
  {
    name: 'VLAN, tags by the device and by software',
    script: `load 8021q
ip link add link $dev name v5 type vlan id 5 && ip addr add 10.5.0.1/24 dev v5 && ip link set v5 up
peer ip link add link $peer_dev name v5 type vlan id 5 && peer ip addr add 10.5.0.2/24 dev v5 && peer ip link set v5 up || return 1
there=10.5.0.2
for s in on off on; do ethtool -K $dev txvlan $s rxvlan $s; ping_all 20 && tcp 1024 || return 1; done
ip link del v5; peer ip link del v5; there=10.0.0.2; ping_all 3`,
  },
  {
    name: 'frames of 9000 bytes',
    script: `ip link set $dev mtu 9000 && peer ip link set $peer_dev mtu 9000 || return 1
await answers; ping -A -q -c 50 -s 8900 -w 20 $there | grep -q ' 50 packets received' && tcp 4096 || return 1
ip link set $dev mtu 1500 && peer ip link set $peer_dev mtu 1500 && ping_all 3`,
  },
  {
    name: 'ethtool -d',
    script: "ethtool -d $dev > /tmp/d; head -n 40 /tmp/d; grep -q '^0x00000: CTRL' /tmp/d",
  },
  {
    name: 'ethtool -e',
    script: `has=$(ethtool -e $dev raw on length 6 | od -An -tx1 | tr -d ' '); want=$(tr -d : < /sys/class/net/$dev/address); echo $has $want; [ $has = $want ] || return 1
sum=$(ethtool -e $dev raw on length 128 | od -An -v -tu2 -w2 | awk '{ s += $1 } END { print s % 65536 }'); echo $sum; [ $sum -eq $((0xbaba)) ]`,
  },
  {
    name: 'ethtool -G',
    script: `for n in 80 4096 256; do ethtool -G $dev rx $n tx $n && ping_all 50 && tcp 1024 && [ $(ethtool -g $dev | grep -c "^[RT]X:[^0-9]*$n$") -ge 2 ] || return 1; done`,
  },
  { name: 'ethtool -r', script: 'for i in 1 2 3; do ethtool -r $dev && ping_all 10 || return 1; done; ethtool $dev | grep -q "Speed: 1000Mb/s"' },
];

const COALESCING: PciCheck = {
  name: 'ethtool -C',
  script: 'for n in 0 1 10 100 1000 3; do ethtool -C $dev rx-usecs $n && ping_all 50 && tcp 1024 || return 1; done',
};

const SELF_TEST: PciCheck = {
  name: 'ethtool -t offline, all five parts',
  script: `ethtool -t $dev offline > /tmp/t; cat /tmp/t
grep -q PASS /tmp/t && [ $(grep -c 'line)[^0-9]*0$' /tmp/t) -eq 5 ] && await answers && ping_all 20 && tcp 1024`,
};

const NO_PORTS = 'Linux resets this part by I/O ports, and user-mode Linux has none';

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
    checks: [pin, ...commonChecks(VIRTIO), rescan],
  },
  {
    name: 'virtio-net with 2 virtual functions',
    device: 'virtio-net,vfs=2',
    peer: 'virtio-net',
    peerSlot: 3,
    modules: VIRTIO.modules,
    checks: [...virtualFunctions(VIRTIO.pci, 0x1041), byStub],
    not: { 'vfio-user': "QEMU's vfio code leaves SR-IOV out of what its guest sees" },
  },
  {
    name: 'e1000 (82540EM)',
    device: 'e1000',
    peer: 'virtio-net',
    modules: [...VIRTIO.modules, ...E1000.modules],
    checks: [pin, ...commonChecks(E1000), ...INTEL_CHECKS, SELF_TEST],
    not: { 'uml-pci': NO_PORTS },
  },
  {
    name: 'e1000 (82545EM)',
    device: 'e1000,model=82545EM',
    peer: 'e1000',
    modules: E1000.modules,
    // Linux has no coalescing for older parts.
    checks: [pin, ...INTEL_CHECKS, COALESCING, SELF_TEST],
    not: { 'uml-pci': NO_PORTS },
  },
  {
    name: 'e1000 (82545GM)',
    device: 'e1000,model=82545GM',
    peer: 'virtio-net',
    modules: [...VIRTIO.modules, ...E1000.modules],
    checks: [pin, ...commonChecks(E1000), ...INTEL_CHECKS, COALESCING, SELF_TEST],
    not: { 'vfio-user': 'its older relatives are driven there' },
  },
  {
    name: 'igb (82576)',
    device: 'igb',
    peer: 'virtio-net',
    modules: [...VIRTIO.modules, ...IGB.modules],
    checks: [...commonChecks(IGB), ...INTEL_CHECKS, COALESCING, SELF_TEST],
  },
  {
    name: 'igb (82576) with 2 virtual functions',
    device: 'igb,vfs=2',
    peer: 'virtio-net',
    peerSlot: 3,
    modules: [...VIRTIO.modules, ...IGB.modules, 'igbvf'],
    checks: [...virtualFunctions('igbvf', 0x10ca), ...SWITCH_CHECKS],
    not: { 'vfio-user': "QEMU's vfio code leaves SR-IOV out of what its guest sees" },
  },
];
