# A VLAN interface in user space, for kernels built without 802.1Q: a TAP whose frames go out tagged on a real interface, and whose input is that
# interface's frames of the VLAN, untagged.  usage: vlan-trunk.py <interface> <tap name> <vlan id> <mac>
import fcntl, os, select, socket, struct, sys

device, tap_name, vlan = sys.argv[1], sys.argv[2], int(sys.argv[3])
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 0x10
ETH_P_ALL = 3

tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH22x', tap_name.encode(), IFF_TAP | IFF_NO_PI))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
wire.bind((device, 0))
wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
os.system(f'ip link set {tap_name} address {sys.argv[4]} && ip link set {tap_name} up')
print('ready', flush=True)

while True:
    for fd in select.select([tap, wire], [], [])[0]:
        if fd == tap:
            frame = os.read(tap, 65536)
            wire.send(frame[:12] + struct.pack('!HH', 0x8100, vlan) + frame[12:])
            continue
        frame, extra, _, address = wire.recvmsg(65536, 256)
        if address[2] == socket.PACKET_OUTGOING:
            continue
        # The kernel takes the tag out of a received frame and hands it over beside it.
        for level, kind, data in extra:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, _ = struct.unpack('IIIHHHH', data[:20])
                if status & TP_STATUS_VLAN_VALID and tci & 0xFFF == vlan:
                    os.write(tap, frame)
