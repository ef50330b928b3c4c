#!/usr/bin/env bash
# Records captures/real.pcapng: real programs talking over a veth pair between two network namespaces. Needs root, and from Debian 12: iproute2, tcpdump,
# wireshark-common (editcap), python3, curl, iputils-ping, dnsmasq-base, bind9-dnsutils. Addresses are documentation ranges that exist only inside the two
# namespaces; nothing outside them is touched, and everything is taken down on the way out. Ends within about 20 seconds.
#   usage: captures/make-capture.sh [output.pcapng]
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/real.pcapng}")
here=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
client=nicbox-client-$$
server=nicbox-server-$$
jobs_started=()

cleanup() {
  for pid in "${jobs_started[@]}"; do kill "$pid" 2>/dev/null || true; done
  ip netns del "$client" 2>/dev/null || true
  ip netns del "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

in_client() { timeout 10 ip netns exec "$client" "$@"; }
serve() { timeout 30 ip netns exec "$server" "$@" >"$work/server.log" 2>&1 & jobs_started+=($!); }
wait_for() { for _ in $(seq 50); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.1; done; echo "gave up waiting for: $*" >&2; return 1; }

# ---- two hosts and a cable ----
ip netns add "$client"
ip netns add "$server"
ip link add ve-c netns "$client" address 02:00:00:00:00:01 type veth peer name ve-s netns "$server" address 02:00:00:00:00:02
configure() { # namespace device host-number
  ip -n "$1" link set lo up
  ip -n "$1" link set "$2" up
  ip -n "$1" addr add "192.0.2.$3/24" dev "$2"
  ip -n "$1" addr add "2001:db8::$3/64" dev "$2" nodad
}
configure "$client" ve-c 1
configure "$server" ve-s 2
trunk() { # namespace device host-number
  timeout 30 ip netns exec "$1" python3 "$here/vlan-trunk.py" "$2" vlan100 100 "02:00:00:00:01:0$3" >"$work/trunk-$3.log" 2>&1 & jobs_started+=($!)
  wait_for grep -q ready "$work/trunk-$3.log"
  ip -n "$1" addr add "198.51.100.$3/24" dev vlan100
}
trunk "$client" ve-c 1
trunk "$server" ve-s 2

# ---- what the server serves ----
python3 - "$work" <<'PY'
import random, sys
random.seed(20)  # text-like, the same in every recording
words = [''.join(random.choices('abcdefghijklmnopqrstuvwxyz', k=random.randint(2, 9))) for _ in range(500)]
for name, size in (('page.txt', 150_000), ('six.txt', 120_000), ('vlan.txt', 60_000)):
    text = ''
    while len(text) < size:
        text += ' '.join(random.choices(words, k=12)) + '\n'
    open(f'{sys.argv[1]}/{name}', 'w').write(text[:size])
PY
serve python3 -u -m http.server 80 --bind :: --directory "$work"
serve dnsmasq --keep-in-foreground --no-resolv --no-hosts --conf-file=/dev/null --pid-file= --listen-address=192.0.2.2 --bind-interfaces \
  --address=/www.example.test/192.0.2.2 --address=/www.example.test/2001:db8::2 --txt-record=www.example.test,"a record of real traffic"
wait_for ip netns exec "$server" python3 -c 'import socket; socket.create_connection(("127.0.0.1", 80), 1)'

# ---- record at the client's end of the cable: frames as a NIC would get them from a sending stack, offloads still to be done ----
timeout 30 ip netns exec "$client" tcpdump -i ve-c -w "$work/raw.pcap" --time-stamp-precision=nano -s 262144 -U --immediate-mode 2>"$work/tcpdump.log" &
recorder=$!
jobs_started+=("$recorder")
wait_for grep -q 'listening on' "$work/tcpdump.log"

in_client ping -c 3 -i 0.2 192.0.2.2
in_client ping -c 2 -i 0.2 -s 1400 2001:db8::2
in_client dig +tries=1 +time=2 @192.0.2.2 www.example.test A
in_client dig +tries=1 +time=2 @192.0.2.2 www.example.test AAAA
in_client dig +tries=1 +time=2 @192.0.2.2 www.example.test TXT
in_client curl -sS -o "$work/got.txt" http://192.0.2.2/page.txt
cmp "$work/got.txt" "$work/page.txt"
in_client curl -sS -g -o "$work/got.txt" 'http://[2001:db8::2]/six.txt'
cmp "$work/got.txt" "$work/six.txt"
in_client ping -c 2 -i 0.2 198.51.100.2
in_client curl -sS -o "$work/got.txt" http://198.51.100.2/vlan.txt
cmp "$work/got.txt" "$work/vlan.txt"
# Large UDP sends (UDP_SEGMENT, what QUIC servers do), over both IP versions, to a port where somebody listens.
serve python3 -c 'import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 4433)); [s.recv(2048) for _ in range(100)]'
wait_for ip netns exec "$server" grep -q ':1151 ' /proc/net/udp6
in_client python3 - <<'PY'
import socket
for family, address in ((socket.AF_INET, '192.0.2.2'), (socket.AF_INET6, '2001:db8::2')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_UDP, 103, 1200)  # UDP_SEGMENT
    s.sendto(bytes(i & 255 for i in range(9000)), (address, 4433))
PY
sleep 0.5
kill -INT "$recorder"
wait "$recorder" || true

editcap -F pcapng "$work/raw.pcap" "$work/real.pcapng"
mv "$work/real.pcapng" "$out"
echo "$out: $(stat -c %s "$out") bytes"
