// What Linux's igb can be asked for of an 82576 that the older parts do not have: several queues and how frames are spread over them, exact counters, an NVM that is written, and the clock of the precision time
// protocol. The peer sends by pktgen, with ports at random, so that flows differ in nothing that a hash could miss. The 82576's igb has no ntuple filters and no link state of VFs.

import type { PciCheck } from './pci-checks.ts';

/** Fewer than a ring's 256 descriptors: with several queues the driver lets a full one drop frames. */
const FRAMES = 200;

/** Before the checks below: nothing but what they send is on the link. */
const QUIET = `
stat() { ethtool -S $dev | sed -n "s/^ *$1: *//p"; }
for ns in "" peer; do $ns sh -c 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f; done'; done
ip neigh replace $there lladdr $(peer cat /sys/class/net/$peer_dev/address) dev $dev nud permanent
peer ip neigh replace $here lladdr $(cat /sys/class/net/$dev/address) dev $peer_dev nud permanent
load pktgen
# Frames for an address that nobody has are taken by the device and answered by no one.
nobody=10.0.0.200
# Packets of each queue in a direction (rx, tx), and how many more there are than in a list of before.
queues() { ethtool -S $dev | sed -n "s/^ *$1_queue_[0-9]*_packets: *//p" | tr '\\n' ' '; }
since() { { echo "$2"; queues $1; } | awk 'NR == 1 { split($0, old) } NR == 2 { for (i = 1; i <= NF; i++) printf "%d ", $i - old[i] }'; }
sum() { awk '{ s = 0; for (i = 1; i <= NF; i++) s += $i; print s }'; }
flows() { peer sh /tmp/generate $peer_dev "count ${FRAMES}" "pkt_size 100" "dst $nobody" "dst_mac $(cat /sys/class/net/$dev/address)" "flag UDPSRC_RND" "flag UDPDST_RND" "udp_src_min 1024" "udp_src_max 65000" "udp_dst_min 20000" "udp_dst_max 65000"; }
arrived() { [ $(since rx "$1" | sum) -ge ${FRAMES} ]; }
# spread WORD: which queues the frames came to, each as x, or - where none did; all of them came.
spread() { old="$(queues rx)"; flows && await arrived "$old" || return 1; came="$(since rx "$old")"; echo $came; [ $(echo $came | sum) -eq ${FRAMES} ] && [ "$(echo $came | awk '{ for (i = 1; i <= NF; i++) printf "%s", ($i > 0 ? "x" : "-") }')" = $1 ]; }
`;

const COUNTERS: PciCheck = {
  name: 'ethtool -S, to the frame and byte',
  script: `${QUIET}
names="tx_packets rx_packets tx_bytes rx_bytes tx_broadcast rx_broadcast tx_multicast rx_multicast rx_errors tx_errors tx_dropped rx_crc_errors rx_missed_errors rx_no_buffer_count rx_length_errors tx_aborted_errors"
ip route replace 224.0.0.0/4 dev $dev; peer ip route replace 224.0.0.0/4 dev $peer_dev
ethtool -S $dev > /tmp/old; old_tx="$(queues tx)"; old_rx="$(queues rx)"
# With the check sequence each is 14 + 20 + 8 + 100 + 4 bytes.
ping -A -q -c 50 -s 100 $there | grep -q ' 50 packets received' || return 1
for to in 10.0.0.255 224.0.0.1; do ping -q -c 3 -i 0.1 -W 1 -s 100 $to; peer ping -q -c 3 -i 0.1 -W 1 -s 100 $to; done > /dev/null
settled() { [ $(($(stat rx_packets) - $(sed -n 's/^ *rx_packets: *//p' /tmp/old))) -ge 56 ]; }
await settled
ethtool -S $dev > /tmp/new
set --; for n in $names; do set -- $* $(($(sed -n "s/^ *$n: *//p" /tmp/new) - $(sed -n "s/^ *$n: *//p" /tmp/old))); done
echo $names; echo $*
[ "$*" = "56 56 8176 8176 3 3 3 3 0 0 0 0 0 0 0 0" ] && [ $(since tx "$old_tx" | sum) -eq 56 ] && [ $(since rx "$old_rx" | sum) -eq 56 ]`,
};

/** Sent over all of them, too: pktgen takes one after the other. */
const CHANNELS: PciCheck = {
  name: 'ethtool -L',
  script: `${QUIET}
to=$(peer cat /sys/class/net/$peer_dev/address)
for n in 8 1 4 2 8; do
  ethtool -L $dev combined $n && await linked && ethtool -l $dev | sed -n 's/^Combined:[^0-9]*//p' | tail -n 1 | grep -qx $n && ping_all 20 || { echo $n channels; return 1; }
  ethtool -N $dev rx-flow-hash udp4 sdfn && spread $(printf 'x%.0s' $(seq $n)) || { echo received with $n channels; return 1; }
  old="$(queues tx)"
  sh /tmp/generate $dev "count 160" "pkt_size 100" "dst $nobody" "dst_mac $to" "queue_map_min 0" "queue_map_max $((n - 1))" || return 1
  sent() { [ $(since tx "$old" | sum) -ge 160 ]; }
  await sent; went="$(since tx "$old")"; echo $went
  echo $went | awk -v n=$n '{ for (i = 1; i <= NF; i++) if ($i < 160 / n) exit 1; exit NF != n }' || { echo sent with $n channels; return 1; }
done
ls /sys/bus/pci/devices/$pci/msi_irqs | wc -l | grep -qx 9`,
};

/** After it, with eight channels. */
const INDIRECTION: PciCheck = {
  name: 'ethtool -x, -X',
  script: `table() { ethtool -x $dev | sed -n 's/^ *[0-9]*: *//p' | tr -s ' \\n' '\\n\\n' | grep . | sort -n | uniq -c | awk '{ printf "%s*%s ", $1, $2 }'; }
ethtool -N $dev rx-flow-hash udp4 sdfn
try() { want_table="$1"; want=$2; shift 2; ethtool -X $dev "$@" && echo $(table) && [ "$(table)" = "$want_table" ] && spread $want || { echo "$@"; return 1; }; }
try "16*0 16*1 16*2 16*3 16*4 16*5 16*6 16*7 " xxxxxxxx equal 8 && try "43*0 43*1 42*2 " xxx----- equal 3 &&
try "128*5 " -----x-- weight 0 0 0 0 0 1 0 0 && try "32*1 96*6 " -x----x- weight 0 1 0 0 0 0 3 0 && try "64*2 64*3 " --xx---- start 2 equal 2 && try "16*0 16*1 16*2 16*3 16*4 16*5 16*6 16*7 " xxxxxxxx default`,
};

/** Of UDP this driver hashes the addresses, unless it is told to take the ports as well. The 82576 can do no more with TCP than it does. */
const FLOW_HASH: PciCheck = {
  name: 'ethtool -N rx-flow-hash',
  script: `fields() { ethtool -n $dev rx-flow-hash $1 | grep -c 'L4 bytes'; }
one() { old="$(queues rx)"; flows && await arrived "$old" || return 1; came="$(since rx "$old")"; echo $came; echo $came | awk '{ for (i = 1; i <= NF; i++) n += $i > 0; exit n != 1 }'; }
for i in 1 2; do
  ethtool -N $dev rx-flow-hash udp4 sd && [ $(fields udp4) -eq 0 ] && one && ethtool -N $dev rx-flow-hash udp4 sdfn && [ $(fields udp4) -eq 2 ] && spread xxxxxxxx || return 1
done
ethtool -N $dev rx-flow-hash tcp4 sd; [ $(fields tcp4) -eq 2 ] && ethtool -N $dev rx-flow-hash udp6 sdfn && [ $(fields udp6) -eq 2 ]`,
};

/** Bytes of words that nobody takes anything from, in the part that the checksum is over and beyond it, changed and changed back; the driver writes the whole word, and the checksum after it. */
const NVM_WRITES: PciCheck = {
  name: 'ethtool -E',
  script: `byte() { ethtool -e $dev raw on offset $1 length 1 | od -An -tu1 | tr -d ' '; }
checksum() { ethtool -e $dev raw on length 128 | od -An -v -tu2 -w2 | awk '{ s += $1 } END { print s % 65536 }'; }
ethtool -e $dev raw on > /tmp/nvm
for at in 32 33 1024 1025; do
  old=$(byte $at)
  for value in 0 90 255 $old; do
    ethtool -E $dev magic 0x10c98086 offset $at value $value || return 1
    [ $(byte $at) -eq $value ] && [ $(checksum) -eq $((0xbaba)) ] || { echo $at: $(byte $at), not $value, checksum $(checksum); return 1; }
  done
done
ethtool -e $dev raw on | cmp - /tmp/nvm && ! ethtool -E $dev magic 0x10098086 offset 32 value 0 && ping_all 3`,
};

const STAMPING: PciCheck = {
  name: 'ethtool -T',
  script: `ethtool -T $dev > /tmp/said-T; cat /tmp/said-T
for word in hardware-transmit hardware-receive hardware-raw-clock ptpv2-event 'PTP Hardware Clock: [0-9]'; do grep -q "$word" /tmp/said-T || { echo no $word; return 1; }; done
[ -c /dev/ptp$(sed -n 's/^PTP Hardware Clock: //p' /tmp/said-T) ]`,
};

/** Set, stepped both ways, faster and slower, against the system's clock. Each line of phc_ctl says when it was written: so long at least, and at most, has the clock had its new pace. */
const CLOCK: PciCheck = {
  name: 'phc_ctl: set, adj, freq',
  script: `nanoseconds() { sed -n 's/.*offset from CLOCK_REALTIME is \\(-*[0-9]*\\)ns/\\1/p' /tmp/phc; }
phc() { phc_ctl $dev -- "$@" > /tmp/phc 2>&1; cat /tmp/phc; }
phc set 1000 get; sed -n 's/.*clock time is \\([0-9]*\\)[.].*/\\1/p' /tmp/phc | awk '{ exit !($1 >= 1000 && $1 < 1060) }' || return 1
# Behind the system's clock by nothing, 100 s, -100 s.
phc set cmp adj -100 cmp adj 200 cmp
nanoseconds | awk '{ d[NR] = $1 / 1e9 } END { exit !(d[1] > -30 && d[1] < 30 && d[2] > 70 && d[2] < 130 && d[3] > -130 && d[3] < -70) }' || return 1
for ppb in 200000000 -200000000; do
  phc set freq $ppb cmp wait 2 cmp
  awk -v ppb=$ppb '{ split($0, part, /[][]/) } /frequency/ { before = part[2] } /slept/ { slept = part[2] } /offset from/ { at[++n] = part[2]; offset[n] = $NF + 0 }
    END { paced = (offset[1] - offset[2]) / ppb; print "paced for", paced; exit !(n == 2 && paced > 0.99 * (slept - at[1]) && paced < 1.01 * (at[2] - before)) }' /tmp/phc || return 1
done
phc freq 0 set`,
};

/** Two clocks decades apart, and ptp4l: stamps of both devices in both directions, steps and pace. A machine with other work to do makes them less exact, and nothing else. */
const synchronised = (transport: string, option: string): PciCheck => ({
  name: `ptp4l, hardware stamps, ${transport}`,
  script: `cat > /tmp/ptp.conf << END
[global]
logAnnounceInterval -2
logSyncInterval -3
logMinDelayReqInterval -3
summary_interval -3
tx_timestamp_timeout 20000
sanity_freq_limit 0
announceReceiptTimeout 12
END
phc_ctl $dev freq 0 set 1000; peer phc_ctl $peer_dev freq 0 set
start master peer ptp4l -f /tmp/ptp.conf -i $peer_dev ${option} -m --priority1 1
start slave "" ptp4l -f /tmp/ptp.conf -i $dev ${option} -m --slaveOnly 1
locked() { [ $(grep -c 'master offset.* s2 ' /tmp/slave) -ge 20 ]; }
await locked; result=$?
# A stamp is kept until it is read: on a busy machine a message that comes before that has none, and is passed over.
wrong=$(grep -h -B 3 -E 'timed out|bad message|to FAULTY' /tmp/master /tmp/slave)
# After that look: one that is told to end while it waits for a stamp calls that a fault.
stop slave TERM; stop master TERM
[ $result -eq 0 ] || { tail -n 12 /tmp/master /tmp/slave; return 1; }
[ -z "$wrong" ] || { echo "$wrong"; return 1; }
grep 'master offset.* s2 ' /tmp/slave | tail -n 20
# Nanoseconds: the median of the last twenty.
grep 'master offset.* s2 ' /tmp/slave | tail -n 20 | sed 's/.*master offset *-*\\([0-9]*\\) .*/\\1/' | sort -n | sed -n 10p | awk '{ print "median", $1; exit !($1 < 50000000) }'`,
});

export const IGB_CHECKS: readonly PciCheck[] = [
  COUNTERS,
  CHANNELS,
  INDIRECTION,
  FLOW_HASH,
  NVM_WRITES,
  STAMPING,
  CLOCK,
  synchronised('Ethernet', '-2'),
  synchronised('UDP', '-4'),
];
