// What Linux's SR-IOV core and the driver of a physical function can be asked for. The PF is in slot 0, its first two VFs in slots 1 and 2; each VF gets a network namespace of its own, `vf` and `vf2`.

import type { PciCheck } from './pci-checks.ts';

/** What the kernel's SR-IOV core does, and the VFs' driver; $vf is the first one. @param id device id of the VFs */
export const virtualFunctions = (driver: string, id: number): PciCheck[] => [
  {
    name: 'VF Enable',
    script: `vf=0000:00:01.0; vf2=0000:00:02.0
[ ! -e /sys/bus/pci/devices/$vf ] && echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && await has_net $vf2
[ "$(drivers $vf)" = ${driver} ] && [ "$(cat /sys/bus/pci/devices/$vf/device)" = 0x${id.toString(16)} ] && [ "$(basename $(readlink /sys/bus/pci/devices/$vf/physfn))" = $pci ]`,
  },
  {
    name: 'VF to peer',
    script: `vf_up() { vf_dev=$(netof $1); ip netns add vf 2> /dev/null; ip link set $vf_dev netns vf && ip netns exec vf ip addr add $2/24 dev $vf_dev && ip netns exec vf ip link set $vf_dev up; }
vf_linked() { [ "$(ip netns exec vf cat /sys/class/net/$vf_dev/carrier)" = 1 ]; }
vf_ping() { await vf_linked && await ip netns exec vf ping -c 1 -W 1 -q $1 && ip netns exec vf ping -A -q -c 50 -w 120 $1 | grep -q ' 50 packets received'; }
vf_up $vf 10.0.0.3 && vf_ping $there && vf_ping $here`,
  },
  {
    name: 'VF reset',
    script: `echo $vf > /sys/bus/pci/drivers/${driver}/unbind && echo 1 > /sys/bus/pci/devices/$vf/reset && echo $vf > /sys/bus/pci/drivers/${driver}/bind && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20`,
  },
  {
    name: 'VFs off and on, 5 times',
    script: `for i in 1 2 3 4 5; do
  echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs && [ ! -e /sys/bus/pci/devices/$vf ] || return 1
  echo $((1 + i % 2)) > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf || return 1
done
vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20`,
  },
];

/** VFs that need no driver of the PF's. After the others. */
export const byStub: PciCheck = {
  name: 'VF Enable by pci-pf-stub',
  script: `echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs && load pci_pf_stub && unbind && echo pci-pf-stub > /sys/bus/pci/devices/$pci/driver_override && echo $pci > /sys/bus/pci/drivers_probe
[ "$(drivers $pci)" = pci-pf-stub ] && echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there`,
};

/** Both VFs at once, in namespaces `vf` and `vf2`. */
const VF_TO_VF: PciCheck = {
  name: 'VF to VF',
  script: `echo 0 > /sys/bus/pci/devices/$pci/sriov_numvfs; echo 2 > /sys/bus/pci/devices/$pci/sriov_numvfs && await has_net $vf && await has_net $vf2 && vf_up $vf 10.0.0.3
other=$(netof $vf2); ip netns add vf2; ip link set $other netns vf2 && ip netns exec vf2 ip addr add 10.0.0.4/24 dev $other && ip netns exec vf2 ip link set $other up
vf_ping 10.0.0.4 && ip netns exec vf2 ping -A -q -c 20 -w 120 $there | grep -q ' 20 packets received' && ping_all 20`,
};

/** What a switch between them is for: each of the two of the check before talks TCP with the station on the wire, and both at the same time. */
export const ON_A_SWITCH: readonly PciCheck[] = [
  VF_TO_VF,
  {
    name: 'TCP of each VF',
    script: `vf_tcp() {
  peer nc -l -p $2 <&3 > /tmp/up.$1 &
  await peer_listens $2 && ip netns exec $1 nc -w 60 $there $2 < /tmp/file && wait $! && [ "$(sha1sum < /tmp/up.$1)" = "$want" ]
}
dd if=/dev/urandom of=/tmp/file bs=16384 count=128 2> /dev/null; want=$(sha1sum < /tmp/file)
vf_tcp vf 5003 && vf_tcp vf2 5004 || return 1
vf_tcp vf 5005 & first=$!
vf_tcp vf2 5006 && wait $first && ping_all 20`,
  },
];

/** What the 82576's embedded switch does for VFs at its PF's word; each on an interface of $dev's. After the others. */
export const SWITCH_CHECKS: readonly PciCheck[] = [
  VF_TO_VF,
  {
    name: 'ip link set vf: vlan, spoofchk, max_tx_rate, mac',
    script: `vf_answers() { ip netns exec vf ping -c 1 -W 1 -q $there; }
ip link set $dev vf 0 vlan 5 && ! vf_answers && ! vf_answers && ip link set $dev vf 0 vlan 0 && vf_ping $there || return 1
for s in off on; do ip link set $dev vf 0 spoofchk $s && ip link show $dev | grep -q "vf 0 .*spoof checking $s" && vf_ping $there || return 1; done
ip link set $dev vf 0 max_tx_rate 100 && vf_ping $there && ip link set $dev vf 0 max_tx_rate 0 && vf_ping $there || return 1
ip link set $dev vf 0 mac 52:54:00:00:00:77 && echo $vf > /sys/bus/pci/drivers/igbvf/unbind && echo $vf > /sys/bus/pci/drivers/igbvf/bind && await has_net $vf && vf_up $vf 10.0.0.3
[ "$(ip netns exec vf cat /sys/class/net/$vf_dev/address)" = 52:54:00:00:00:77 ] && vf_ping $there && vf_ping 10.0.0.4`,
  },
  {
    // A MAC address that the PF's side set is the VF's to change only if it is trusted. In a namespace of its own, a VF is not seen under the name it had.
    name: 'ip link set vf: trust',
    script: `vf_mac() { ip netns exec vf ip link set $vf_dev address $1; }
ip link set $dev vf 0 trust off && ip link show $dev | grep -q 'vf 0 .*52:54:00:00:00:77.*trust off' && ! vf_mac 52:54:00:00:00:78 && vf_ping $there || return 1
ip link set $dev vf 0 trust on && ip link show $dev | grep -q 'vf 0 .*trust on' && vf_mac 52:54:00:00:00:78 && vf_ping $there && ip link show $dev | grep -q 'vf 0 .*52:54:00:00:00:78' || return 1
vf_mac 52:54:00:00:00:77 && ip link set $dev vf 0 trust off && vf_ping $there`,
  },
  {
    // Frames go on coming for the VF that is reset; its neighbour and the PF go on working. What the neighbour has under way when it is told to stop is not lost: only gaps count.
    name: 'VF reset under load',
    script: `load pktgen
mac=$(ip netns exec vf cat /sys/class/net/$vf_dev/address)
start generator peer sh /tmp/generate $peer_dev "count 0" "delay 200000" "pkt_size 200" "dst 10.0.0.200" "dst_mac $mac"
start neighbour "ip netns exec vf2" ping -A $there
failed=
for i in 1 2 3; do
  echo $vf > /sys/bus/pci/drivers/igbvf/unbind && echo 1 > /sys/bus/pci/devices/$vf/reset && echo $vf > /sys/bus/pci/drivers/igbvf/bind && await has_net $vf && vf_up $vf 10.0.0.3 && vf_ping $there && ping_all 20 || { failed=$i; break; }
done
stop neighbour INT
# Its frames are for an address that nobody has, of a device that is there.
got=$(ip netns exec vf cat /sys/class/net/$vf_dev/statistics/rx_packets)
peer sh -c 'echo stop > /proc/net/pktgen/pgctrl'; await ended generator
rmmod pktgen
[ -z "$failed" ] || { echo reset $failed; return 1; }
set -- $(sed -n 's/.* seq=\\([0-9]*\\) .*/\\1/p' /tmp/neighbour | sort -n -u | awk '{ last = $1 } END { print NR, last + 1 - NR }')
echo neighbour: $1 answers, $2 lost, VF got $got frames; [ $1 -gt 50 ] && [ $2 -eq 0 ] && [ $got -gt 100 ]`,
  },
];
