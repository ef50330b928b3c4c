// Clauses of VIRTIO 1.4, in own words. The network device: frames both ways, the control queue, multiqueue, RSS, hashes, coalescing.
// "@ area"; "= party|section of the specification"; then for each statement: ordinal|strength|who can be tested for it|features|summary. Rows are only ever added at an
// area's end: their place is their key.

export const NET_CLAUSES = `
@ net
= device|dev:Device Types / Network Device / Device configuration layout
1|MUST|device|MQ|max_virtqueue_pairs lies in 1..0x8000
2|MUST|device|MTU|mtu lies in 68..65535
3|SHOULD|device|MTU|mtu is 1280 or more
4|MUST NOT|device|MTU|mtu never changes after being set
5|MUST NOT|device|MTU|Non-GSO frames over mtu+Ethernet header are not delivered
6|MUST|device|MTU|Transmitted non-GSO frames up to mtu+header go out whole
9|MAY|no|STANDBY|Device may act as failover standby for a same-MAC primary
10|MUST|device|SPEED_DUPLEX|speed in Mbit/s is 0..0x7fffffff, or all-ones for unknown (constants mistyped with 9 digits)
11|MUST|device|SPEED_DUPLEX|duplex is 0, 1 or 0xff (full/half coding contradicts the field description)
12|SHOULD NOT|device|SPEED_DUPLEX and STATUS|speed and duplex are stable while link is up
= driver|drv:Device Types / Network Device / Device configuration layout
1|MUST NOT|driver||Driver writes no net config field
2|SHOULD|driver|MAC|MAC bit acked when offered
3|MUST|driver|MAC|NIC address taken from config mac
4|SHOULD|driver|not MAC|Without MAC bit a locally administered address is used
5|SHOULD|driver|not STATUS|Without STATUS bit link counts as up
6|SHOULD|driver|STATUS|With STATUS bit link state comes from status bit 0
7|SHOULD|driver|MTU|MTU bit acked when offered
8|MUST|driver|MTU|Receive buffers suffice for one mtu-sized frame
9|MUST NOT|driver|MTU|Non-GSO frames sent stay within mtu+header
10|SHOULD|driver|STANDBY|STANDBY bit acked when offered
11|MUST|driver|SPEED_DUPLEX|Out-of-range speed or duplex treated as unknown
12|SHOULD|driver|SPEED_DUPLEX|speed and duplex reread after config-change interrupt
= device|sec:Device Types / Network Device / Virtqueues
D1|DESC|device||receiveqN at 2(N-1), transmitqN at 2N-1, controlq at 2*max pairs (or 2 without MQ/RSS)
D2|DESC|device||Control queue absent unless CTRL_VQ is negotiated
= device|sec:Device Types / Network Device / Device configuration layout
D1|DESC|device||Config fields appear only with their feature bit; mac always occupies bytes 0-5
D2|DESC|device||Config is read-only to the driver
= device|sec:Device Types / Network Device / Device Operation
D1|DESC|device||Net header grows by negotiated feature: 12, 20, 24 or 32 bytes
@ net-tx
= driver|sec:Device Types / Network Device / Device Operation / Packet Transmission
1|MAY|device|OUT_NET_HEADER|Driver may give the outer L3 offset in outer_nh_offset
= device|sec:Device Types / Network Device / Device Operation / Packet Transmission.dev
2|MUST NOT|no|OUT_NET_HEADER|Zero outer_nh_offset means the field is not used
= driver|sec:Device Types / Network Device / Device Operation / Packet Transmission.drv
2|MUST NOT|no|OUT_NET_HEADER|Zero outer_nh_offset means the field is not used
= driver|drv:Device Types / Network Device / Device Operation / Packet Transmission
1|MUST|driver||Tx header has the same size as the rx header
2|MUST|driver||num_buffers is zero on transmit
3|MUST|driver|not CSUM|Without CSUM the flags byte is zero
4|SHOULD|driver|not CSUM|Without CSUM frames carry complete checksums
5|MAY|device|OUT_NET_HEADER|outer_nh_offset may be non-zero on tx
6|MAY|device|HOST_TSO4|gso_type TCPV4 allowed
7|MUST NOT|driver|not HOST_TSO4|gso_type TCPV4 forbidden
8|MAY|device|HOST_TSO6|gso_type TCPV6 allowed
9|MUST NOT|driver|not HOST_TSO6|gso_type TCPV6 forbidden
10|MAY|device|HOST_UFO|gso_type UDP (UFO) allowed
11|MUST NOT|driver|not HOST_UFO|gso_type UDP (UFO) forbidden
12|MAY|device|HOST_USO|gso_type UDP_L4 (USO) allowed
13|MUST NOT|driver|not HOST_USO|gso_type UDP_L4 (USO) forbidden
14|SHOULD NOT|driver|not HOST_ECN|TSO frames with ECN (CWR) set not sent without HOST_ECN
15|MUST|driver|HOST_ECN|TSO frames with ECN carry the GSO_ECN bit
16|MAY|device|HOST_UDP_TUNNEL_GSO|UDP-tunnel GSO bits allowed
17|MUST NOT|driver|not HOST_UDP_TUNNEL_GSO|UDP-tunnel GSO bits forbidden
18|MUST|driver|HOST_UDP_TUNNEL_GSO|Inner IPv4 selects the TUNNEL_IPV4 bit
19|MUST|driver|HOST_UDP_TUNNEL_GSO|Inner IPv6 selects the TUNNEL_IPV6 bit
20|MUST NOT|driver|not HOST_UDP_TUNNEL_GSO_CSUM|Tunnel GSO with outer checksum offload not sent unless both tunnel bits negotiated
21|MUST|driver|HOST_UDP_TUNNEL_GSO_CSUM|Outer checksum offload sets a tunnel GSO bit plus UDP_TUNNEL_CSUM
22|MUST NOT|driver|not HOST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM flag forbidden without the feature
23|MUST NOT|driver|not HOST_UDP_TUNNEL_GSO_CSUM|Tunnel GSO frames needing outer checksum offload forbidden without the feature
24|MUST NOT|driver|HOST_UDP_TUNNEL_GSO|Tunnel GSO bits never combined with UFO type
25|MUST NOT|driver|HOST_UDP_TUNNEL_GSO|The two tunnel GSO bits are exclusive
26|MUST NOT|driver|HOST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM requires a tunnel GSO bit
27|MAY|device|CSUM|NEEDS_CSUM allowed
28|MUST|driver|CSUM|NEEDS_CSUM: driver has verified all checksums up to csum_start+csum_offset
29|MUST|driver|CSUM|NEEDS_CSUM: L4 checksum field preloaded with pseudo-header sum
30|MUST|driver|CSUM|NEEDS_CSUM: csum_start/offset such that a plain ones'-complement fill completes the frame
31|MUST|driver|not HOST_TSO4 and not HOST_TSO6 and not HOST_USO and not HOST_UFO|No tx segmentation feature: gso_type is NONE
32|MUST|driver|CSUM|GSO frame always has NEEDS_CSUM
33|MUST|driver|CSUM|GSO frame always has gso_size = MSS
34|MUST|driver|GUEST_HDRLEN|GUEST_HDRLEN: GSO hdr_len is exact through the (inner) L4 header
35|SHOULD|driver|not GUEST_HDRLEN|Otherwise hdr_len is no smaller than the headers
36|MAY|device|HOST_UDP_TUNNEL_GSO|Tunnel GSO bits may be set
37|MUST|driver|HOST_UDP_TUNNEL_GSO|Tunnel GSO: outer_th_offset and inner_nh_offset filled
38|MAY|device|HOST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM may accompany tunnel GSO
39|MUST|driver|HOST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM: outer UDP checksum preloaded with its pseudo-header sum
40|MUST NOT|driver|HOST_UDP_TUNNEL_GSO and not HOST_UDP_TUNNEL_GSO_CSUM|Tunnel GSO without the csum feature: outer UDP must not need checksumming
41|MUST|driver|HOST_UDP_TUNNEL_GSO and not HOST_UDP_TUNNEL_GSO_CSUM|...so outer UDP checksum is 0 or already complete
42|MUST NOT|driver|not HOST_UDP_TUNNEL_GSO|Tunnel GSO bits forbidden without the feature (restated)
43|MUST NOT|driver|not HOST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM forbidden without the feature (restated)
44|SHOULD|driver|GUEST_HDRLEN|GUEST_HDRLEN acked if exact header length can be given
45|MUST NOT|driver||DATA_VALID and RSC_INFO never set on transmit
46|MUST NOT|driver||DATA_VALID never set with tunnel GSO bits
= device|dev:Device Types / Network Device / Device Operation / Packet Transmission
1|MUST|device||Unknown header flag bits are disregarded
2|MUST NOT|device||csum_start/csum_offset unused unless NEEDS_CSUM is set
3|MAY|device|OUT_NET_HEADER|Non-zero outer_nh_offset may be relied on
4|MUST NOT|device|not OUT_NET_HEADER|outer_nh_offset unused when zero or not negotiated
5|MAY|device|GUEST_HDRLEN|GUEST_HDRLEN: GSO hdr_len may be taken as header size
6|MAY|device|not GUEST_HDRLEN|Otherwise hdr_len may serve as a hint
7|MUST NOT|device|not GUEST_HDRLEN|Wrong hdr_len must not break transmission
8|MUST NOT|device|HOST_UDP_TUNNEL_GSO|Frame with both tunnel GSO bits is rejected
9|MUST NOT|device|HOST_UDP_TUNNEL_GSO|Tunnel offsets unused without tunnel GSO bits
10|MUST NOT|device|HOST_UDP_TUNNEL_GSO|Tunnel GSO frame lacking NEEDS_CSUM is rejected
11|MUST NOT|device|HOST_UDP_TUNNEL_GSO|Tunnel GSO frame with DATA_VALID is rejected
12|MUST NOT|device|HOST_UDP_TUNNEL_GSO|Tunnel GSO frame whose base type is NONE is rejected
13|MUST NOT|device|HOST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM without tunnel bits is rejected (typo MOST NOT in spec)
14|MUST NOT|device||Frame checksum not trusted unless NEEDS_CSUM is set
@ net-rx
= driver|drv:Device Types / Network Device / Device Operation / Setting Up Receive Buffers
1|SHOULD|driver|not MRG_RXBUF|Big-packet rx buffers hold 65601 bytes (65609 with HASH_REPORT)
2|SHOULD|driver|not MRG_RXBUF|Plain rx buffers hold 1526 bytes (1534 with HASH_REPORT)
3|MUST|driver|MRG_RXBUF|Mergeable buffer at least as big as the net header
4|MUST|driver||Header size computed to last negotiated field: 12, 20, 24 or 32 bytes
5|SHOULD|driver|MQ|Each receive queue in use is stocked with buffers
= device|dev:Device Types / Network Device / Device Operation / Setting Up Receive Buffers
1|MUST|device||num_buffers equals the count of rx buffers used
2|MUST|device|not MRG_RXBUF|Without MRG_RXBUF one rx buffer holds the whole frame
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets
1|MAY|driver|OUT_NET_HEADER|outer_nh_offset may be supplied on rx
2|MAY|driver|GUEST_TSO4 or GUEST_TSO6 or GUEST_UFO or GUEST_USO4 or GUEST_USO6|GSO frames may be delivered when a guest GSO bit is negotiated
3|MAY|driver|GUEST_UDP_TUNNEL_GSO|Tunnel GSO bits may be set on rx
= device|dev:Device Types / Network Device / Device Operation / Processing of Incoming Packets
1|MUST|device|not MRG_RXBUF|num_buffers reads 1 without MRG_RXBUF
2|MUST|device|MRG_RXBUF|num_buffers counts every buffer of the frame, header included
3|MUST|device|MRG_RXBUF|All merged buffers but the last are filled to capacity
4|MUST|device|MRG_RXBUF|All buffers of one frame become visible as used together
5|MUST|device|not GUEST_CSUM|Without GUEST_CSUM rx flags is zero
6|SHOULD|device|not GUEST_CSUM|Without GUEST_CSUM delivered frames have complete checksums
7|MUST NOT|device|not GUEST_TSO4|No TCPV4 GSO delivered without GUEST_TSO4
8|MUST NOT|device|not GUEST_UFO|No UFO delivered without GUEST_UFO (spec writes GUEST_UDP)
9|MUST NOT|device|not GUEST_TSO6|No TCPV6 GSO delivered without GUEST_TSO6
10|MUST NOT|device|not GUEST_USO4 and not GUEST_USO6|No UDP_L4 GSO delivered without a GUEST_USO bit
11|MUST NOT|device|not GUEST_UDP_TUNNEL_GSO|No tunnel GSO bits without GUEST_UDP_TUNNEL_GSO
12|MUST NOT|device|not GUEST_UDP_TUNNEL_GSO_CSUM|No UDP_TUNNEL_CSUM without its guest feature
13|SHOULD NOT|device|not GUEST_ECN|No GSO TCP with ECN (CWR) delivered without GUEST_ECN
14|MUST|device|GUEST_ECN|ECN GSO delivery carries the GSO_ECN bit
15|MAY|driver|OUT_NET_HEADER|outer_nh_offset may be filled on rx
16|MUST NOT|device|not OUT_NET_HEADER|outer_nh_offset unused when not negotiated or no L3 header
17|MAY|driver|GUEST_CSUM|NEEDS_CSUM may be set on rx
18|MUST|device|GUEST_CSUM|rx NEEDS_CSUM: checksums up to csum_start+csum_offset were verified
19|MUST|device|GUEST_CSUM|rx NEEDS_CSUM: L4 checksum holds the pseudo-header sum
20|MUST|device|GUEST_CSUM|rx NEEDS_CSUM: csum_start/offset let a plain fill complete the frame
21|MUST NOT|device|not GUEST_UDP_TUNNEL_GSO|No tunnelled GSO frame without GUEST_UDP_TUNNEL_GSO
22|MUST|device|GUEST_UDP_TUNNEL_GSO|Tunnelled GSO frame sets the bit matching the inner L3 family
23|MUST|device|GUEST_UDP_TUNNEL_GSO|Tunnelled GSO frame fills outer_th_offset and inner_nh_offset
24|MUST NOT|device|GUEST_UDP_TUNNEL_GSO|Tunnelled GSO frame needs no outer checksum offload
25|MUST NOT|device|not GUEST_UDP_TUNNEL_GSO_CSUM|No tunnelled GSO with outer checksum offload without its feature
26|MUST|device|not GUEST_TSO4 and not GUEST_TSO6 and not GUEST_UFO and not GUEST_USO4 and not GUEST_USO6|No guest GSO feature: gso_type NONE
27|MUST|device|GUEST_CSUM|Delivered GSO frame has NEEDS_CSUM
28|MUST|device|GUEST_CSUM|Delivered GSO frame has gso_size = MSS
29|MUST|device|RSC_EXT|RSC_EXT GSO frame: RSC_INFO set, csum_start=segments, csum_offset=dup ACKs
30|MUST NOT|device|not RSC_EXT|RSC_INFO never set without RSC_EXT
31|SHOULD|device|GUEST_TSO4 or GUEST_TSO6 or GUEST_UFO or GUEST_USO4 or GUEST_USO6|rx hdr_len is no smaller than the headers (inner L4 for tunnels)
32|MAY|driver|GUEST_CSUM|DATA_VALID may be set on rx
33|MUST|device|GUEST_CSUM|DATA_VALID implies the (outermost) checksum was verified
34|MUST NOT|device|GUEST_UDP_TUNNEL_GSO|DATA_VALID never set with tunnel GSO bits
35|MAY|driver|GUEST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM may be set on tunnelled GSO rx
36|MUST|device|GUEST_UDP_TUNNEL_GSO_CSUM|UDP_TUNNEL_CSUM: outer UDP checksum holds its pseudo-header sum
37|MUST|device|GUEST_UDP_TUNNEL_GSO_CSUM|Tunnelled GSO without that flag: outer UDP checksum zero or complete
= driver|drv:Device Types / Network Device / Device Operation / Processing of Incoming Packets
1|MUST|driver||Unknown rx flag bits are disregarded
2|MAY|driver|OUT_NET_HEADER|Non-zero rx outer_nh_offset may be relied on
3|MUST NOT|driver|not OUT_NET_HEADER|rx outer_nh_offset unused when zero or not negotiated
4|MUST NOT|driver||csum_start/offset unused without NEEDS_CSUM or when RSC_INFO is set
5|MAY|driver||rx hdr_len may serve as a hint
6|MUST NOT|driver||Wrong rx hdr_len must not break the driver
7|MUST NOT|driver||Neither NEEDS_CSUM nor DATA_VALID: checksum not trusted
8|MUST NOT|driver|GUEST_UDP_TUNNEL_GSO|rx frame with both tunnel GSO bits is rejected
9|MUST NOT|driver|GUEST_UDP_TUNNEL_GSO|Tunnel offsets unused without tunnel GSO bits
10|MUST NOT|driver|GUEST_UDP_TUNNEL_GSO|rx tunnel GSO lacking NEEDS_CSUM is rejected
11|MUST NOT|driver|GUEST_UDP_TUNNEL_GSO|rx tunnel GSO with DATA_VALID is rejected
12|MUST NOT|driver|GUEST_UDP_TUNNEL_GSO|rx tunnel GSO whose base type is NONE is rejected
13|MUST NOT|driver|GUEST_UDP_TUNNEL_GSO_CSUM|rx UDP_TUNNEL_CSUM+NEEDS_CSUM without tunnel bits is rejected (typo MOST NOT)
@ net-ctrl
= device|dev:Device Types / Network Device / Device configuration layout
14|SHOULD NOT|device|CTRL_RX_EXTRA|CTRL_RX_EXTRA not offered without CTRL_VQ
= driver|drv:Device Types / Network Device / Device configuration layout
14|SHOULD NOT|driver|CTRL_RX_EXTRA|CTRL_RX_EXTRA not acked without CTRL_VQ
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Packet Receive Filtering
1|MUST|device|CTRL_RX|PROMISC command (1 byte on/off) is implemented
2|SHOULD|device|CTRL_RX|PROMISC on: every frame is received
3|SHOULD|device|CTRL_RX|PROMISC on overrides the other RX modes
4|MUST|device|CTRL_RX|ALLMULTI command (1 byte on/off) is implemented
5|SHOULD|device|CTRL_RX|ALLMULTI on: every multicast frame is received
6|MUST|device|CTRL_RX_EXTRA|ALLUNI command is implemented
7|SHOULD|device|CTRL_RX_EXTRA|ALLUNI on: every unicast frame is received
8|MUST|device|CTRL_RX_EXTRA|NOMULTI command is implemented
9|SHOULD NOT|device|CTRL_RX_EXTRA|NOMULTI on: multicast frames held back
10|SHOULD|device|CTRL_RX_EXTRA|NOMULTI beats ALLMULTI
11|SHOULD NOT|device|CTRL_RX_EXTRA|NOMULTI leaves broadcast alone
12|MUST|device|CTRL_RX_EXTRA|NOUNI command is implemented
13|SHOULD NOT|device|CTRL_RX_EXTRA|NOUNI on: unicast frames held back
14|SHOULD|device|CTRL_RX_EXTRA|NOUNI beats ALLUNI
15|MUST|device|CTRL_RX_EXTRA|NOBCAST command is implemented
16|SHOULD NOT|device|CTRL_RX_EXTRA|NOBCAST on: broadcast frames held back
17|SHOULD|device|CTRL_RX_EXTRA|NOBCAST beats ALLMULTI
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Packet Receive Filtering
1|MUST NOT|driver|not CTRL_RX|PROMISC/ALLMULTI not sent without CTRL_RX
2|MUST NOT|driver|not CTRL_RX_EXTRA|ALLUNI/NOMULTI/NOUNI/NOBCAST not sent without CTRL_RX_EXTRA
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering
1|MUST|device|CTRL_RX|MAC filter table is empty after reset
2|MUST|device|CTRL_RX|New MAC table is in force before TABLE_SET is returned used
3|MUST|device|CTRL_MAC_ADDR and MAC|Config mac shows the new address before ADDR_SET is returned used
4|SHOULD|device|CTRL_RX|Frames matching neither own MAC nor table are dropped
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering
1|MUST NOT|driver|not CTRL_RX|MAC-class commands not sent without CTRL_RX
2|SHOULD|driver|CTRL_RX|ADDR_SET sent when the default MAC differs from config mac
3|MUST|driver|CTRL_RX|TABLE_SET payload is count+unicast list then count+multicast list
4|MAY|device|CTRL_RX|Either list may be empty
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / VLAN Filtering
1|MUST|device|not CTRL_VLAN|Without CTRL_VLAN every tagged frame is accepted
2|MUST|device|CTRL_VLAN|With CTRL_VLAN tagged frames of listed VIDs are accepted
3|SHOULD|device|CTRL_VLAN|With CTRL_VLAN tagged frames of unlisted VIDs are dropped
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Gratuitous Packet Sending
1|SHOULD|driver|GUEST_ANNOUNCE|Seeing the ANNOUNCE status bit makes the driver announce itself to peers
2|MUST|driver|GUEST_ANNOUNCE|Driver sends the ANNOUNCE_ACK command
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Gratuitous Packet Sending
1|MUST|device|GUEST_ANNOUNCE|ANNOUNCE status bit clears before ANNOUNCE_ACK is returned used
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Offloads State Configuration / Setting Offloads State
1|MUST NOT|driver|CTRL_GUEST_OFFLOADS|Only negotiated guest offloads are enabled
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue
D1|DESC|device|CTRL_VQ|Each command is answered by ack 0 (OK) or 1 (ERR) ahead of any result data
D2|DESC|device|CTRL_VQ|Unknown class or command is answered ERR (common practice, implied)
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / VLAN Filtering
D1|DESC|device|CTRL_VLAN|VLAN table starts empty; untagged frames unaffected
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering
D1|DESC|device|CTRL_MAC_ADDR|ADDR_SET changes the accepted unicast address
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Offloads State Configuration / Setting Offloads State
D1|DESC|device|CTRL_GUEST_OFFLOADS|Negotiated guest offloads start enabled
D2|DESC|device|CTRL_GUEST_OFFLOADS|Bits cleared by OFFLOADS_SET stop the matching rx offload
D3|DESC|device|CTRL_GUEST_OFFLOADS|Offload mask bits 46/47 stand for features 65/66
@ net-mq
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Device operation in multiqueue mode
1|MAY|no||Device may implement automatic steering and/or RSS as multiqueue modes
2|MAY|no||Device may offer MQ, RSS or both
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Device operation in multiqueue mode
3|MAY|device||Driver may ack any offered combination of them
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
1|MAY|device|MQ|Driver may spread tx over several queues
2|MAY|device|MQ|After VQ_PAIRS_SET the first n pairs may be used
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
3|MUST|device|MQ|After VQ_PAIRS_SET rx steering is flow based
4|SHOULD|device|MQ|Replies of a flow sent on transmitqX arrive on receiveqX
5|MAY|driver|MQ|Unknown or one-way flows may land on any active rx queue
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
1|MUST|driver|MQ|Queues configured before VQ_PAIRS_SET enables them
2|MUST NOT|driver|MQ|Requested pair count is within 1..max_virtqueue_pairs
3|MUST|driver|MQ|Only transmitq1 used before VQ_PAIRS_SET
4|MUST NOT|driver|MQ|Tx queues above the requested count unused from submission on
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
1|MUST|device|MQ|Only receiveq1 gets frames after reset
2|MUST NOT|device|MQ|No frames on rx queues above the count once VQ_PAIRS_SET is returned used
3|SHOULD|device|MQ and RING_RESET|Frame bound for an rx queue under reset goes elsewhere
4|MUST|device|MQ and RING_RESET|All rx queues under reset: frame dropped
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Device operation in multiqueue mode
D1|DESC|device||Multiqueue is off until a CTRL_MQ command
D2|DESC|device||Last CTRL_MQ command decides the mode
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
D1|DESC|device|MQ|VQ_PAIRS_SET with 1 turns multiqueue off
@ net-rss
= device|dev:Device Types / Network Device / Device configuration layout
7|MUST|device|RSS or HASH_REPORT|rss_max_key_size is 40 or more
8|MUST|device|RSS|rss_max_indirection_table_length is 128 or more
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Receive-side scaling (RSS)
1|MUST NOT|driver|not RSS|RSS_CONFIG not sent without RSS
2|MUST|driver|RSS|Indirection table lists enabled rx queues only
3|MUST|driver|RSS|Table size is a power of two
4|MUST|driver|RSS|Mask stays below rss_max_indirection_table_length
5|MUST NOT|driver|RSS|Only supported hash types enabled
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Receive-side scaling (RSS) / RSS processing
1|MUST|device|RSS|Queue choice starts from the frame hash
2|MUST|device|RSS|Unhashable frame goes to unclassified_queue
3|MUST|device|RSS|hash AND mask indexes the indirection table
4|MUST|device|RSS and RING_RESET|Chosen queue under reset: frame dropped
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / RSS Context
1|MUST|device|RSS_CONTEXT|max_rss_contexts is 1 or more
2|MUST|device|RSS_CONTEXT|Reset removes all RSS contexts
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / RSS Context
1|MUST|driver|RSS_CONTEXT|Context commands sent only after negotiation
2|MUST|driver|RSS_CONTEXT|Context id within 1..max_rss_contexts
3|MUST NOT|driver|RSS_CONTEXT|VQ_PAIRS_SET not sent while any context exists
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Receive-side scaling (RSS) / Setting RSS parameters
D1|DESC|device|RSS|Queue ids in RSS structs are virtqueue index divided by two
D2|DESC|device|RSS|max_tx_vq limits the tx queues used
D3|DESC|device|RSS|Table length is mask+1, so key fields sit at a variable offset
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / RSS Context / Setting RSS Context Parameters
D1|DESC|device|RSS_CONTEXT|ADD creates, MOD changes, DEL removes a context; reserved bytes disregarded
@ net-hash
= device|dev:Device Types / Network Device / Device configuration layout
13|SHOULD NOT|device|HASH_REPORT|HASH_REPORT not offered without CTRL_VQ
= driver|drv:Device Types / Network Device / Device configuration layout
13|SHOULD NOT|driver|HASH_REPORT|HASH_REPORT not acked without CTRL_VQ
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Hash calculation for incoming packets
1|MUST|device|HASH_REPORT|HASH_REPORT device implements a CTRL_MQ hash command, even single-queue
2|MUST|device|HASH_REPORT and RSS|...which is RSS_CONFIG if RSS is offered
3|MUST|device|HASH_REPORT and not RSS|...and HASH_CONFIG otherwise
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Inner Header Hash
1|MUST|device|HASH_TUNNEL|Frame of no enabled tunnel type is hashed on outer headers
2|SHOULD|device|HASH_TUNNEL|Enabling an unsupported tunnel type is answered ERR
3|MUST|device|HASH_TUNNEL|Zero mask or reset turns inner hashing off entirely
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Inner Header Hash
1|MUST|driver|HASH_TUNNEL|HASH_TUNNEL_SET sent only after negotiation
2|MUST NOT|driver|HASH_TUNNEL|Only supported tunnel types enabled
3|MUST|driver|HASH_TUNNEL|Unknown supported_tunnel_types bits disregarded
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode / Hash calculation
1|MUST|device|HASH_REPORT|Automatic steering plus HASH_REPORT: HASH_CONFIG is implemented
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode / Hash calculation
2|MUST|driver|HASH_REPORT|Reserved words of the hash config struct are zero
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Hash calculation for incoming packets / IPv4 packets
D1|DESC|device|RSS or HASH_REPORT|IPv4+TCP with TCPv4 on: hash over addresses and ports
D2|DESC|device|RSS or HASH_REPORT|IPv4+UDP with UDPv4 on: hash over addresses and ports
D3|DESC|device|RSS or HASH_REPORT|IPv4 otherwise with IPv4 on: hash over addresses; else no hash
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Hash calculation for incoming packets / IPv6 packets without extension header
D1|DESC|device|RSS or HASH_REPORT|Plain IPv6+TCP with TCPv6 on: hash over addresses and ports
D2|DESC|device|RSS or HASH_REPORT|Plain IPv6+UDP with UDPv6 on: hash over addresses and ports
D3|DESC|device|RSS or HASH_REPORT|Plain IPv6 otherwise with IPv6 on: hash over addresses; else no hash
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Hash calculation for incoming packets / IPv6 packets with extension header
D1|DESC|device|RSS or HASH_REPORT|IPv6 with extensions: *_EX types use home address option and type-2 routing address when present
D2|DESC|device|RSS or HASH_REPORT|IPv6 with extensions and no *_EX type on: extensions skipped, plain IPv6 rules apply
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Hash reporting for incoming packets
D1|DESC|device|HASH_REPORT|Hashed frame: hash_value and hash_report type are filled
D2|DESC|device|HASH_REPORT|Unhashed frame: hash_report is 0
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Inner Header Hash
D1|DESC|device|HASH_TUNNEL|All tunnel types are off until HASH_TUNNEL_SET
= device|sec:Device Types / Network Device / Device Operation / Processing of Incoming Packets / Hash calculation for incoming packets / Encapsulated packet
D1|DESC|device|HASH_TUNNEL|Frame of an enabled tunnel type is hashed on its inner headers
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode / Hash calculation
D1|DESC|device|HASH_REPORT|No hash types are on until configured; reports stay 0
@ net-coal
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Notifications Coalescing
1|MUST|driver|VQ_NOTF_COAL|vq_index names an enabled rx or tx queue
2|MUST|driver|NOTF_COAL|TX_SET/RX_SET sent only with NOTF_COAL
3|MUST|driver|VQ_NOTF_COAL|VQ_SET/VQ_GET sent only with VQ_NOTF_COAL
4|MUST|driver|VQ_NOTF_COAL|VQ_GET values unused when ack is ERR
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Notifications Coalescing
1|MUST|device|VQ_NOTF_COAL|Reserved field has no influence
2|SHOULD|device|NOTF_COAL|TX_SET/RX_SET that cannot be applied is answered ERR
3|MUST|device|VQ_NOTF_COAL|VQ_SET that cannot be applied is answered ERR
4|MUST|device|VQ_NOTF_COAL|VQ_SET/VQ_GET on a disabled or non-data queue is answered ERR
5|MUST|device|VQ_NOTF_COAL and RING_RESET|Re-enabled tx queue takes the last TX_SET values, else 0
6|MUST|device|VQ_NOTF_COAL and RING_RESET|Re-enabled rx queue takes the last RX_SET values, else 0
7|MAY|driver|NOTF_COAL or VQ_NOTF_COAL|Notification rate may deviate from the settings
8|SHOULD NOT|device|NOTF_COAL or VQ_NOTF_COAL|Suppressed notifications stay suppressed even when coalescing fires
9|MUST|device|NOTF_COAL or VQ_NOTF_COAL|Reset zeroes all coalescing parameters
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Notifications Coalescing
D1|DESC|device|NOTF_COAL or VQ_NOTF_COAL|RX_SET/TX_SET apply to all queues of the direction, overriding per-queue values
D2|DESC|device|NOTF_COAL or VQ_NOTF_COAL|Most recent setting wins per queue; VQ_GET returns it
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Notifications Coalescing / Operation
D1|DESC|device|NOTF_COAL or VQ_NOTF_COAL|Notify at max_packets or max_usecs since the first uncounted frame, whichever comes first
D2|DESC|device|NOTF_COAL or VQ_NOTF_COAL|Either parameter 0: notify per frame
D3|DESC|device|NOTF_COAL or VQ_NOTF_COAL|Counting is per queue and restarts after each firing
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Notifications Coalescing / Notifications When Coalescing Parameters Change
D1|DESC|device|NOTF_COAL or VQ_NOTF_COAL|Parameter change is evaluated at once against pending counts
`;
