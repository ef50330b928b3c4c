// What a real Linux does with a network function of ours, as shell scripts for its guest. A check is a shell function's body: it succeeds or fails, and what it printed last says why. The
// function under test and a peer on the same link are in one kernel, the peer in a network namespace of its own, so every frame between them passes through both devices.

/** How functions of ours get into a guest. */
export type PathKind = 'uml-pci' | 'vfio-user';

/** What a path cannot show, and why: the report says so. */
export interface Limited {
  readonly not?: Readonly<Partial<Record<PathKind, string>>>;
}

export interface PciCheck extends Limited {
  readonly name: string;
  /** Runs with: $pci and $peer_pci (0000:00:00.0), $dev and $peer_dev (interface names), $here and $there (their addresses), and the functions of the prelude. */
  readonly script: string;
}

/** How much a guest is given to do: an emulated processor is slow to make, copy and compare what it sends. */
export interface Workload {
  /** Transfers are so many times smaller. */
  readonly divisor: number;
  /** What pktgen sends where it is about how many. */
  readonly packets: number;
}

/** What checks have in common. */
const prelude = ({ divisor, packets }: Workload): string => `
here=10.0.0.1
there=10.0.0.2
packets=${packets}
netof() { for d in /sys/bus/pci/devices/$1/net/* /sys/bus/pci/devices/$1/virtio*/net/*; do [ ! -e $d ] || basename $d; done; }
# Waits, on a busy machine a minute. A process is dear here: the shell reads files itself.
await() {
  read limit rest < /proc/uptime; limit=$((\${limit%.*} + 60))
  until "$@" > /dev/null 2>&1; do
    read passed rest < /proc/uptime
    [ \${passed%.*} -lt $limit ] || { echo waited in vain: "$@"; return 1; }
    sleep 0.05
  done
}
has_net() { [ -n "$(netof $1)" ]; }
peer() { ip netns exec peer "$@"; }
# Brings up whichever of the two there is.
up() {
  await has_net $pci || return 1
  dev=$(netof $pci)
  ip addr flush dev $dev
  ip addr add $here/24 dev $dev
  ip link set $dev up
}
peer_up() {
  await has_net $peer_pci || return 1
  peer_dev=$(netof $peer_pci)
  ip link set $peer_dev netns peer
  peer ip addr add $there/24 dev $peer_dev
  peer ip link set $peer_dev up
}
linked() { read carrier < /sys/class/net/$dev/carrier && [ $carrier = 1 ]; }
answers() { linked && ping -c 1 -W 1 -q $there; }
# ping_all COUNT: every one is answered.
ping_all() { await answers && ping -A -q -c $1 -w 120 $there | grep -q " $1 packets received" || { ping -c 1 -W 1 $there; ip -s link show $dev; return 1; }; }
# tcp KIBIBYTES: so much each way (less where that takes long), the contents compared.
tcp() {
  dd if=/dev/urandom of=/tmp/file bs=16384 count=$(($1 / 16 / ${divisor})) 2> /dev/null
  want=$(sha1sum < /tmp/file)
  peer nc -l -p 5001 <&3 > /tmp/up &
  await peer_listens 5001 && nc -w 60 $there 5001 < /tmp/file && wait $! || { echo TCP up; return 1; }
  [ "$(sha1sum < /tmp/up)" = "$want" ] || { echo TCP up: other bytes came; return 1; }
  peer nc -l -p 5002 < /tmp/file > /dev/null &
  await peer_listens 5002 && nc -w 60 $there 5002 <&3 > /tmp/down && wait $! || { echo TCP down; return 1; }
  [ "$(sha1sum < /tmp/down)" = "$want" ] || { echo TCP down: other bytes came; return 1; }
}
has_peer() { peer ip link show $peer_dev; }
peer_listens() { peer netstat -ltn | grep -q ":$1 "; }
drivers() { basename $(readlink /sys/bus/pci/devices/$1/driver); }
# Takes the function's driver away and gives it back.
unbind() { driver=$(drivers $pci) && echo $pci > /sys/bus/pci/drivers/$driver/unbind; }
bind() { echo $pci > /sys/bus/pci/drivers/$driver/bind && up; }
# What comes after a check that leaves a dead link is not worth waiting for.
check() {
  there=10.0.0.2
  begin=$(cut -d ' ' -f 1 /proc/uptime)
  if [ -n "$dead" ]; then echo "CHECK failed $begin $begin $1: not run, the link is dead"
  elif "$2" > /tmp/said 2>&1; then echo "CHECK ok $begin $(cut -d ' ' -f 1 /proc/uptime) $1"
  else
    echo "CHECK failed $begin $(cut -d ' ' -f 1 /proc/uptime) $1: $(tail -n 6 /tmp/said | tr '\\n' '|')"; dmesg | tail -n 15
    there=10.0.0.2
    await answers || dead=yes
  fi
}
# generate DEVICE WORD...: pktgen on it, in whichever namespace.
cat > /tmp/generate << 'END'
device=$1
shift
echo rem_device_all > /proc/net/pktgen/kpktgend_0
echo "add_device $device" > /proc/net/pktgen/kpktgend_0
for word in "delay 0" "clone_skb 0" "$@"; do echo "$word" > /proc/net/pktgen/$device || { echo pktgen: $word; exit 1; }; done
echo start > /proc/net/pktgen/pgctrl
grep -q '^Result: OK' /proc/net/pktgen/$device
END
# start NAME NAMESPACE PROGRAM ...: in the background, what it says to /tmp/NAME (NAMESPACE: "" or what runs a program there). stop NAME SIGNAL: and waits for its end.
start() { name=$1; ns=$2; shift 2; rm -f /tmp/$name.pid; $ns sh -c 'echo $$ > /tmp/$0.pid; exec "$@" > /tmp/$0 2>&1' $name "$@" & await [ -s /tmp/$name.pid ]; }
stop() { kill -$2 $(cat /tmp/$1.pid); await ended $1; }
ended() { [ ! -d /proc/$(cat /tmp/$1.pid) ]; }
mkfifo /tmp/idle
exec 3<>/tmp/idle

mkdir -p /var/run /run
ip link set lo up
ip netns add peer
peer ip link set lo up
`;

/** The script of a guest: the modules, the two functions, then one check after another. */
export function checkScript(slots: readonly string[], modules: readonly string[], checks: readonly PciCheck[], workload: Workload): string {
  const [pci, peer] = slots;
  return `
pci=${pci}
peer_pci=${peer}
modules="${modules.join(' ')}"
${prelude(workload)}
for m in $modules; do load $m; done
peer_up || { echo "CHECK failed 0 0 peer: none"; return; }
up || { echo "CHECK failed 0 0 device: none"; return; }
${checks.map(({ script }, i) => `check_${i}() {\n${script}\n}`).join('\n')}
${checks.map(({ name }, i) => `check '${name}' check_${i}`).join('\n')}
echo LSPCI-BEGIN
lspci -vvv -s ${(pci as string).slice(5)}
echo LSPCI-END
`;
}

/** Two functions that flood each other for ever. */
export function trafficScript(slots: readonly string[]): string {
  return `
pci=${slots[0]}
peer_pci=${slots[1]}
${prelude({ divisor: 1, packets: 1 })}
for m in virtio_pci virtio_net; do load $m; done
peer_up && up && ping_all 10 || return
ping -A -q $there &
(while :; do peer nc -l -p 5001 <&3 > /dev/null; done) &
echo TRAFFIC
while :; do nc $there 5001 < /dev/zero || sleep 0.1; done
`;
}

export interface DriverFacts {
  /** As PCI names it, and as ethtool does. */
  readonly pci: string;
  readonly net: string;
  /** Unloaded in the reverse order. */
  readonly modules: readonly string[];
  /** Packets for which the driver is called at a time when many are sent: each call is a register write, where that is how a part is told. */
  readonly burst?: number;
  /** How the function can be reset, as sysfs names it: by the function itself, or by way of D3. */
  readonly reset: 'flr' | 'pm';
}

/** What any network function has to stand. */
export function commonChecks(driver: DriverFacts): PciCheck[] {
  const offloads = 'rx tx sg tso gso gro';
  const toggle = (state: string): string =>
    offloads
      .split(' ')
      .map((name) => `${name} ${state}`)
      .join(' ');
  const unload = [...driver.modules].reverse().join(' ');
  return [
    { name: 'probe', script: `[ "$(drivers $pci)" = ${driver.pci} ] && has_net $pci` },
    { name: '200 pings', script: 'ping_all 200' },
    { name: 'TCP, offloads on', script: 'tcp 4096' },
    { name: 'TCP, offloads off', script: `ethtool -K $dev ${toggle('off')} 2> /dev/null; peer ethtool -K $peer_dev ${toggle('off')} 2> /dev/null\ntcp 2048` },
    {
      name: 'ethtool -K',
      script: `for n in ${offloads}; do for s in on off on; do ethtool -K $dev $n $s 2> /dev/null; ping_all 3 || return 1; done; done; peer ethtool -K $peer_dev ${toggle('on')} 2> /dev/null; tcp 1024`,
    },
    { name: 'ethtool -i', script: `ethtool -i $dev\nethtool -i $dev | grep -qx 'driver: ${driver.net}' && ethtool -i $dev | grep -qx "bus-info: $pci"` },
    {
      name: 'ethtool -S',
      script: `sum() { ethtool -S $dev | sed -n "s/^ *[rt]x_queue_[0-9]*_packets: *//p;s/^ *[rt]x_packets: *//p" | awk '{ s += $1 } END { print s + 0 }'; }
before=$(sum); ping_all 50; after=$(sum); echo $before $after; [ $((after - before)) -ge 100 ]`,
    },
    { name: 'link down and up', script: 'for i in 1 2; do ip link set $dev down; ! answers || return 1; ip link set $dev up; ping_all 5 || return 1; done' },
    { name: 'unbind, bind', script: 'for i in 1 2; do unbind && ! has_net $pci && bind && ping_all 5 || return 1; done; tcp 1024' },
    {
      name: 'reset through sysfs (FLR or D3)',
      script: `cat /sys/bus/pci/devices/$pci/reset_method
grep -qw ${driver.reset} /sys/bus/pci/devices/$pci/reset_method && unbind && echo ${driver.reset} > /sys/bus/pci/devices/$pci/reset_method && echo 1 > /sys/bus/pci/devices/$pci/reset && bind && ping_all 20 && tcp 1024`,
    },
    {
      name: 'module reload',
      script: `for i in 1 2; do rmmod ${unload} && ! has_net $pci || return 1; for m in $modules; do load $m; done; { has_peer || peer_up; } && up && ping_all 20 || return 1; done; tcp 1024`,
    },
    { name: 'a million packets (20,000 in QEMU)', script: many(driver.burst ?? 1) },
  ];
}

/**
 * pktgen sends, with UDP checksums made in software, to a port where nobody listens: the other kernel checks each packet's checksum before it counts it so. None is lost, as our link holds
 * senders back.
 */
const many = (burst: number): string => `
ethtool -K $dev tx off 2> /dev/null
peer ethtool -K $peer_dev rx off 2> /dev/null
load pktgen
udp() { peer cat /proc/net/snmp | sed -n 's/^Udp: \\([0-9].*\\)/\\1/p' | cut -d ' ' -f $1; }
ping_all 3
to=$(peer cat /sys/class/net/$peer_dev/address)
before=$(udp 2); wrong=$(udp 3)
sh /tmp/generate $dev "count $packets" "burst ${burst}" "pkt_size 100" "dst $there" "dst_mac $to" "udp_dst_min 9" "udp_dst_max 9" "flag UDPCSUM" || return 1
# A burst that a full ring cut short is followed by a whole one: some more than that may leave.
sent=$(sed -n 's/.*pkts-sofar: \\([0-9]*\\).*/\\1/p' /proc/net/pktgen/$dev)
got() { [ $(($(udp 2) - before)) -ge $sent ]; }
await got
grep -E 'pps|errors' /proc/net/pktgen/$dev
echo rem_device_all > /proc/net/pktgen/kpktgend_0
rmmod pktgen
peer ip -s link show $peer_dev
peer cat /proc/net/snmp | grep ^Udp
ethtool -K $dev tx on tso on 2> /dev/null
peer ethtool -K $peer_dev rx on 2> /dev/null
echo sent $sent, arrived $(($(udp 2) - before)), wrong $(($(udp 3) - wrong))
[ $sent -ge $packets ] && [ $(($(udp 2) - before)) -eq $sent ] && [ $(udp 3) -eq $wrong ]`;
