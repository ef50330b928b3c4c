// Clauses of VIRTIO 1.4, in own words. The network device: statistics, flow filter, IPsec.
// "@ area"; "= party|section of the specification"; then for each statement: ordinal|strength|who can be tested for it|features|summary. Rows are only ever added at an
// area's end: their place is their key.

export const NET_MORE_CLAUSES = `
@ net-stats
= device|dev:Device Types / Network Device / Device Operation / Control Virtqueue / Device Statistics
1|MUST|device|DEVICE_STATS|STATS_QUERY returns the capabilities struct with every supported type
2|MUST|device|DEVICE_STATS|STATS_GET naming an out-of-range queue is answered ERR
3|MUST|device|DEVICE_STATS|STATS_GET naming an unknown type is answered ERR
4|MUST|device|DEVICE_STATS|STATS_GET naming a type not valid for that queue is answered ERR
5|MUST|device|DEVICE_STATS|STATS_GET naming a type whose feature is not negotiated is answered ERR
6|MUST|device|DEVICE_STATS|One bad entry fails the whole STATS_GET
7|MUST|device|DEVICE_STATS|Reply header size gives the entry's byte count
8|MUST|device|DEVICE_STATS|Reply header type and vq_index are filled in
9|MUST|device|DEVICE_STATS|Reply never exceeds the bytes available or valid
10|MUST|no|DEVICE_STATS|Counters wrap to zero on overflow
= driver|drv:Device Types / Network Device / Device Operation / Control Virtqueue / Device Statistics
1|MUST|driver|DEVICE_STATS|Only types reported by STATS_QUERY are requested
2|MUST|driver|DEVICE_STATS|Requested types suit the named queue
3|MUST|driver|DEVICE_STATS|Result buffer holds all requested replies
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Device Statistics / Controlq Statistics
D1|DESC|device|DEVICE_STATS|Control-queue counters include the querying command itself
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Device Statistics / Receiveq Basic Statistics
D1|DESC|device|DEVICE_STATS|rx_drops includes rx_drop_overruns
@ net-ff
= device|dev:Device Types / Network Device / Device Operation / Flow filter
1|MUST|device|ADMIN_VQ|Flow-filter support shows the three FF capabilities in the id list
2|MUST|device|ADMIN_VQ|Object create/modify/query/destroy work for group, classifier and rule types
3|SHOULD|device|ADMIN_VQ|With any FF capability disabled, object commands fail as invalid opcode
4|SHOULD|device|ADMIN_VQ|Second group of equal priority fails EINVAL
5|SHOULD|device|ADMIN_VQ|Too many groups fails ENOSPC
6|SHOULD|device|ADMIN_VQ|Too many classifiers fails ENOSPC
7|SHOULD|device|ADMIN_VQ|Destroying a group with rules fails EBUSY
8|SHOULD|device|ADMIN_VQ|Destroying a classifier in use fails EBUSY
9|SHOULD|device|ADMIN_VQ|Rule creation fails for vq_index that is no rx queue
10|SHOULD|device|ADMIN_VQ|Rule creation fails for priority at or above last_rule_priority (clashes with field text)
11|SHOULD|device|ADMIN_VQ|Rule creation fails for id at or above the rule limits
12|SHOULD|device|ADMIN_VQ|Rule creation fails if key length differs from the selector masks' total
13|SHOULD|device|ADMIN_VQ|Rule creation fails for an unlisted action
14|MUST|device|ADMIN_VQ|Frame directed to an rx queue under reset is dropped
15|MUST|device|ADMIN_VQ|First applied rule ends rule processing and steering for the frame
16|MUST|device|ADMIN_VQ|Highest-priority group is tried first
17|MUST|device|ADMIN_VQ|A match in one group shuts out the rest
18|MUST|device|ADMIN_VQ|No match moves on to the next group down
19|MUST|device|ADMIN_VQ|Within a group rules go from high to low priority
20|MUST|device|ADMIN_VQ|The matching rule's action is performed
21|MUST NOT|device|ADMIN_VQ|At most one action per frame
22|MAY|driver|ADMIN_VQ|Equal-priority rules may be tried in any order
23|MUST|device|ADMIN_VQ|Order is RX/MAC/VLAN filter, then flow rules, then RSS or automatic steering
24|MUST|device|ADMIN_VQ|A drop at any stage ends processing
25|MUST|device|ADMIN_VQ|Frame dropped by RX/MAC/VLAN filter never reaches flow rules
26|MUST|device|ADMIN_VQ|Classifier flagged PARTIAL_MASK accepted even with full masks, if supported
= driver|drv:Device Types / Network Device / Device Operation / Flow filter
1|MUST|driver|ADMIN_VQ|Driver enables all three FF capabilities before use
2|SHOULD NOT|driver|ADMIN_VQ|Group with rules is not destroyed
3|SHOULD|driver|ADMIN_VQ|Group destroyed only after its rules
4|SHOULD NOT|driver|ADMIN_VQ|Classifier in use is not destroyed
5|SHOULD|driver|ADMIN_VQ|Classifier destroyed only after its rules
6|SHOULD NOT|driver|ADMIN_VQ|Overlapping rules in a group get different priorities
7|MAY|device|ADMIN_VQ|Equal-priority rules can hit the same frame
8|SHOULD|driver|ADMIN_VQ|Distinct priorities chosen where several rules could match
9|MUST|driver|ADMIN_VQ|First selector is Ethernet
10|MUST|driver|ADMIN_VQ|Second selector is IPv4 or IPv6
11|MUST|driver|ADMIN_VQ|Third selector is UDP or TCP
12|MUST|driver|ADMIN_VQ|EtherType mask all-ones when two or more selectors
13|MUST|driver|ADMIN_VQ|Protocol/Next Header mask all-ones when three selectors
14|MUST|driver|ADMIN_VQ|Key EtherType matches the IP selector
15|MUST|driver|ADMIN_VQ|Key Protocol/Next Header matches the L4 selector
16|SHOULD|driver|ADMIN_VQ|Field masks are all-ones unless partial masking is enabled
@ net-ipsec
= device|sec:Device Types / Network Device / Feature bits
1|SHOULD|device|IPSEC|Offering IPSEC comes with offering OUT_NET_HEADER
= driver|drv:Device Types / Network Device / Device Operation / Packet Transmission
47|MUST|driver|IPSEC|SECURITY flag: an outbound SA object exists first
48|MUST|driver|IPSEC|SECURITY flag: resource_id names a valid outbound SA
= device|dev:Device Types / Network Device / Device Operation / Packet Transmission
15|MUST NOT|device|IPSEC|IPsec resource fields unused unless SECURITY is set
= device|dev:Device Types / Network Device / Device Operation / Processing of Incoming Packets
38|MUST|device|IPSEC|IPsec-processed frame sets SECURITY
39|MUST|device|IPSEC|Frame without IPsec processing clears SECURITY
40|MUST|device|IPSEC|SECURITY is independent of the error and expiry flags
41|MUST|device|IPSEC|IPsec processing error sets SECURITY_ERR
42|MUST|device|IPSEC|No IPsec error clears SECURITY_ERR
43|MUST|device|IPSEC|SECURITY_ERR is independent of the expiry flag
44|MUST|device|IPSEC|SA past its soft lifetime sets the soft-expiry flag
= driver|sec:Device Types / Network Device / Device Operation / IPsec Operation / Packet processing order
1|SHOULD|driver|IPSEC|Driver copes with frames in flight whose SA was just destroyed
= device|dev:Device Types / Network Device / Device Operation / IPsec Operation
1|MUST|device|IPSEC|IPsec support shows both IPsec capabilities in the id list
2|MUST|device|IPSEC|Object commands work for in- and outbound SA types
3|MUST|device|IPSEC|With an IPsec capability disabled, SA object commands fail as invalid opcode
4|MUST|device|IPSEC|Creating an existing SA id fails EEXIST (spelled EEXIT)
5|MUST|device|IPSEC|Outbound SA id at or above outb_sa_limit fails
6|MUST|device|IPSEC|Outbound SA with unsupported parameters fails
7|MUST|device|IPSEC|Inbound SA id at or above inb_sa_limit fails
8|MUST|device|IPSEC|Inbound SA with unsupported parameters fails
9|SHOULD|no|IPSEC|Device keeps an SA lookup table by id
10|MUST|device|IPSEC|Destroyed SA can be created again without reset
11|MAY|device|IPSEC|Duplicate SPI may be refused with EINVAL
12|MUST|device|IPSEC|Device reset destroys all SAs
= driver|drv:Device Types / Network Device / Device Operation / IPsec Operation
1|MUST|driver|IPSEC|Capability list queried
2|MUST|driver|IPSEC|IPsec capabilities fetched when listed
3|MUST|driver|IPSEC|IPsec capabilities set by the driver
4|MUST|driver|IPSEC|All outbound SA parameters supplied
5|MUST|driver|IPSEC|All inbound SA parameters but tunnel ones supplied
6|SHOULD NOT|driver|IPSEC|Inbound SPIs are unique
7|MUST|driver|IPSEC|Outbound frames fit the path MTU
`;
