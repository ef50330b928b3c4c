// What Linux's drivers of Intel's NICs can be asked for beyond what any can, of the e1000s and the 82576: offloads, VLANs, large frames, and what ethtool reads, sets and tests.

import type { PciCheck } from './pci-checks.ts';

/** What the device does with frames. */
export const FRAME_CHECKS: readonly PciCheck[] = [
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
await answers; ping -A -q -c 50 -s 8900 -w 120 $there | grep -q ' 50 packets received' && tcp 4096 || return 1
ip link set $dev mtu 1500 && peer ip link set $peer_dev mtu 1500 && ping_all 3`,
  },
];

/** What ethtool reads and sets. */
export const TOOL_CHECKS: readonly PciCheck[] = [
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
  { name: 'ethtool -r', script: 'for i in 1 2; do ethtool -r $dev && ping_all 10 || return 1; done; ethtool $dev | grep -q "Speed: 1000Mb/s"' },
];

export const COALESCING: PciCheck = {
  name: 'ethtool -C',
  script: 'for n in 0 10 1000 3; do ethtool -C $dev rx-usecs $n && ping_all 20 && tcp 512 || return 1; done',
};

export const SELF_TEST: PciCheck = {
  name: 'ethtool -t offline, all five parts',
  script: `ethtool -t $dev offline > /tmp/t; cat /tmp/t
grep -q PASS /tmp/t && [ $(grep -c 'line)[^0-9]*0$' /tmp/t) -eq 5 ] && await answers && ping_all 20 && tcp 1024`,
};
