// Clauses of VIRTIO 1.4, in own words. Group administration commands: capabilities, resource objects, device parts, the legacy interface of members.
// "@ area"; "= party|section of the specification"; then for each statement: ordinal|strength|who can be tested for it|features|summary. Rows are only ever added at an
// area's end: their place is their key.

export const ADMIN_CLAUSES = `
@ admin
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands
1|MUST|device|ADMIN_VQ|Bad opcode, group type or member id yields status EINVAL
2|MUST|device|ADMIN_VQ|Unknown group type reported as Q_INVALID_GROUP (checked first)
3|MUST|device|ADMIN_VQ|Unknown opcode reported as Q_INVALID_OPCODE (checked second)
4|MUST|device|ADMIN_VQ|Bad member id, when the command uses it, reported as Q_INVALID_MEMBER
5|MUST|device|ADMIN_VQ|Success is status OK
6|MUST|device|ADMIN_VQ|Failure is any status other than OK
7|MUST NOT|device|ADMIN_VQ|EINVAL leaves device state exactly as before
8|MUST NOT|device|ADMIN_VQ|EINVAL command has no side effects
9|MUST NOT|device|ADMIN_VQ|EINVAL command never pushes the device into an error state
10|SHOULD NOT|device|ADMIN_VQ|Failed commands in general leave state alone
11|MAY|device|ADMIN_VQ|Device may demand opcode combinations
12|MAY|device|ADMIN_VQ|LIST_USE violating such a dependency may fail EINVAL with Q_INVALID_FIELD
13|MUST|device|ADMIN_VQ|Command state is separate per group type
14|MAY|driver|ADMIN_VQ|LIST_QUERY answer may differ between group types
15|MUST|device|ADMIN_VQ|Before LIST_USE only LIST_QUERY and LIST_USE are legal
16|MUST|device|ADMIN_VQ|Successful LIST_USE replaces the legal opcode list with the one supplied
17|MUST|device|ADMIN_VQ|Every command is checked against the legal list
18|MUST|device|ADMIN_VQ|Opcode outside the legal list fails EINVAL with Q_INVALID_OPCODE
19|MUST NOT|device|ADMIN_VQ|Supported-opcode list never gets smaller
20|MAY|driver|ADMIN_VQ|Supported-opcode list may grow
21|MUST NOT|device|ADMIN_VQ|An opcode once reported stays reported
22|SHOULD|device|ADMIN_VQ|LIST_USE list accepted before a reset is accepted after it
23|MUST NOT|device|ADMIN_VQ|Post-reset LIST_USE failure is never due to the list alone
24|MAY|no|ADMIN_VQ|Firmware change or similar may excuse a list regression
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands
1|MAY|device|ADMIN_VQ|Group support may be probed by LIST_QUERY on that group type
2|MUST|driver|ADMIN_VQ|LIST_USE completes OK before any command beyond the two list commands
3|MAY|device|ADMIN_VQ|LIST_USE may be repeated
4|MUST NOT|driver|ADMIN_VQ|LIST_USE is not issued with other commands in flight
5|SHOULD NOT|driver|ADMIN_VQ|Driver enables only opcodes it understands
6|MUST NOT|driver|ADMIN_VQ|Driver enables only opcodes LIST_QUERY reported for that group
7|MUST NOT|driver|ADMIN_VQ|No command for a group before its LIST_USE
8|MAY|device|ADMIN_VQ|Driver may lock out the list commands by clearing their own bits
9|MUST|driver|ADMIN_VQ|Unknown status handled like EINVAL
10|MUST|driver|ADMIN_VQ|Unknown qualifier handled like Q_INVALID_COMMAND
= device|dev:Basic Facilities of a Virtio Device / Administration virtqueues
1|MUST|device|ADMIN_VQ|Short readable part: missing bytes count as zero
2|MUST|device|ADMIN_VQ|Short writable part: surplus result bytes are dropped
3|MUST|device|ADMIN_VQ|Long readable part: surplus bytes are not looked at
4|MUST|device|ADMIN_VQ|Long writable part: only the defined struct is written, used length tells how much
5|SHOULD|device|ADMIN_VQ|Writable part filled up to the smaller of struct and buffer, zeros included
6|MUST NOT|device|ADMIN_VQ|Buffer length mismatch alone never fails a command
7|MUST|device|ADMIN_VQ|Written result length is a multiple of 8 bytes
8|MUST|device|ADMIN_VQ|Status and qualifier always written
9|MUST|device|ADMIN_VQ|Commands on one admin queue run in queue order
10|MAY|driver|ADMIN_VQ|Commands on different admin queues may run in any order
11|MUST NOT|device|ADMIN_VQ|EAGAIN/ENOMEM leave no trace, so retry is safe
= driver|drv:Basic Facilities of a Virtio Device / Administration virtqueues
1|MAY|device|ADMIN_VQ|Buffers longer than the defined structs are legal
2|SHOULD|driver|ADMIN_VQ|Readable part covers at least the defined struct
3|MUST|driver|ADMIN_VQ|Both parts are 8-byte multiples long
4|MUST|driver|ADMIN_VQ|Both parts have non-zero length (spec says device here, clearly driver)
5|MAY|device|ADMIN_VQ|Command-specific parts may be empty unless the command needs them
6|MUST NOT|driver|ADMIN_VQ|Driver does not assume the full writable part gets filled
7|MUST|driver|ADMIN_VQ|Bytes beyond used length count as zero for the driver
8|MUST|driver|ADMIN_VQ|Driver itself orders commands spread over several admin queues
9|SHOULD|driver|ADMIN_VQ|EAGAIN is retried
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands
D1|DESC|device|ADMIN_VQ|LIST_QUERY result always has bits 0 and 1 set
D2|DESC|device|ADMIN_VQ|LIST result array is long enough for the highest opcode; zero tail allowed
D3|DESC|device|ADMIN_VQ|Qualifier is 0 when status is OK
D4|DESC|device|ADMIN_VQ|Reserved result fields are 0; reserved inputs disregarded
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands
D1|DESC|device|ADMIN_VQ|Checks run in order group, opcode, member (implied by the otherwise-chain)
@ admin-legacy
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Legacy Interface
1|MUST|device|ADMIN_VQ|The four legacy cfg read/write opcodes come as a package
2|MUST|device|ADMIN_VQ|Legacy cfg data is little-endian both ways
3|MUST|device|ADMIN_VQ|Common-cfg access not covering exactly one in-range field fails
4|MUST|device|ADMIN_VQ|Device-cfg access not covering exactly one in-range field fails
5|MUST|device|ADMIN_VQ|Common-cfg write opcode acts like the legacy register write
6|MUST|device|ADMIN_VQ|Common-cfg read opcode acts like the legacy register read
7|MUST|device|ADMIN_VQ|Device-cfg write opcode acts like the legacy config write
8|MUST|device|ADMIN_VQ|Device-cfg read opcode acts like the legacy config read
9|SHOULD|device|ADMIN_VQ and SR_IOV|Owner and VFs keep non-transitional revision id and subsystem id
10|SHOULD|device|ADMIN_VQ and SR_IOV|Owner keeps a non-transitional PCI device id
11|MUST|device|ADMIN_VQ and SR_IOV|Doorbell at a reported notify address equals a Queue Notify write
12|MUST|device|ADMIN_VQ|NOTIFY_INFO support implies the four cfg opcodes
13|MUST|device|ADMIN_VQ|Final NOTIFY_INFO entry has flags zero
14|MUST|device|ADMIN_VQ|Valid NOTIFY_INFO entries point at an implemented BAR
15|MUST|device|ADMIN_VQ|Valid NOTIFY_INFO offsets are 2-byte aligned
16|MAY|driver|ADMIN_VQ|NOTIFY_INFO entries may name owner BARs, member BARs or a mix
17|MUST|device|ADMIN_VQ and SR_IOV|NOTIFY_INFO support forces VF BAR0 to read as zero
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Legacy Interface
1|MUST|driver|ADMIN_VQ|Driver encodes/decodes legacy cfg data little-endian
2|SHOULD|driver|ADMIN_VQ|Common-cfg access covers one field
3|SHOULD|driver|ADMIN_VQ|Device-cfg access covers one field
4|SHOULD|driver|ADMIN_VQ|Reported notify address used for all VF kicks when available
5|MUST|driver|ADMIN_VQ|Entry with flags 0 ends the list
6|MUST|driver|ADMIN_VQ|Entry flags must be 1 or 2 to be used
7|MUST|driver|ADMIN_VQ|Entry BAR must exist on the named function
8|MUST|driver|ADMIN_VQ|Entry offset must be even and inside that BAR
9|MUST|driver|ADMIN_VQ|Entries failing these checks are skipped
@ caps
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device and driver capabilities
1|MUST|device|ADMIN_VQ|Capability support implies all three capability opcodes
2|MUST|device|ADMIN_VQ|DRIVER_CAP_SET accepts any limit up to the advertised one
3|MUST|device|ADMIN_VQ|DRIVER_CAP_SET accepts any subset of advertised flags
4|MAY|device|ADMIN_VQ|Over-limit value or unadvertised flag may be refused with EINVAL
5|MUST|device|ADMIN_VQ|Capability opcodes on a non-self group fail EINVAL
6|SHOULD|device|ADMIN_VQ|(Duplicate weaker wording) capability opcodes on a non-self group fail EINVAL
7|SHOULD|device|ADMIN_VQ|Disabling a capability with live objects fails EBUSY
8|SHOULD|device|ADMIN_VQ|Capability id absent from the id list fails ENXIO
9|MUST|device|ADMIN_VQ|Device reset forgets all driver capabilities
10|SHOULD|device|ADMIN_VQ|Unset driver limit counts as zero
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device and driver capabilities
1|MUST|driver|ADMIN_VQ|DRIVER_CAP_SET precedes use of dependent objects
2|MUST NOT|driver|ADMIN_VQ|Driver limit does not exceed the device limit
3|MUST NOT|driver|ADMIN_VQ|Driver flags stay within the device flags
4|MUST NOT|driver|ADMIN_VQ|Driver array entries stay within the device's entries
5|MUST NOT|driver|ADMIN_VQ|Capability not disabled while its objects exist
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device and driver capabilities
D1|DESC|device|ADMIN_VQ|Capability ids: 0-0x7ff generic, 0x800-0xfff device type, rest reserved
@ objs
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device resource objects
1|SHOULD|device|ADMIN_VQ|Creating an id that already exists fails EEXIST (value missing from status table)
2|SHOULD|device|ADMIN_VQ|Modify, query or destroy of a missing object fails ENXIO
3|SHOULD|device|ADMIN_VQ|Failed creation reports ENOSPC
4|SHOULD|device|ADMIN_VQ|Modify or destroy of an object others depend on fails EBUSY
5|MUST|device|ADMIN_VQ|Destroyed object can be created again without reset
6|SHOULD|device|ADMIN_VQ|Any unused id is accepted, in any order
7|MAY|device|ADMIN_VQ|Creation may fail below the advertised limit
8|MAY|device|ADMIN_VQ|An internal limit may be the reason for that
9|SHOULD|device|ADMIN_VQ|As many objects as the driver capability states can be created
10|MUST NOT|device|ADMIN_VQ|Failed modify changes nothing
11|MUST|device|ADMIN_VQ|Query returns what the last create or modify stored
12|MUST|device|ADMIN_VQ|Device reset destroys every object
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device resource objects
1|MUST NOT|driver|ADMIN_VQ|No second object under a live id of the same type
2|MUST NOT|driver|ADMIN_VQ|No more objects than the driver's own limit
3|SHOULD NOT|driver|ADMIN_VQ|Destroyed objects are not modified, queried or destroyed again
4|SHOULD NOT|driver|ADMIN_VQ|Objects with dependents are not destroyed
5|SHOULD|driver|ADMIN_VQ|Dependents destroyed first
6|MUST NOT|driver|ADMIN_VQ|Capability not changed while its objects exist
7|MUST|driver|ADMIN_VQ|Capability set before objects are used
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device resource objects
D1|DESC|device|ADMIN_VQ|Valid object ids are 0..limit-1 per type
@ parts
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device parts
1|MUST|device|ADMIN_VQ|All eight parts/object/mode opcodes come as a package
2|MUST|device|ADMIN_VQ|DEV_PARTS_GET can be repeated
3|MUST|device|ADMIN_VQ|Returned parts follow the table order
4|SHOULD|device|ADMIN_VQ|DEV_PARTS_SET on a running device fails
5|MUST|device|ADMIN_VQ|DEV_PARTS_SET can be repeated, same or other parts
6|MUST|device|ADMIN_VQ|Part length mismatch makes DEV_PARTS_SET fail
7|MUST NOT|device|ADMIN_VQ|DEV_FEATURES part is verified, never applied
8|MUST NOT|device|ADMIN_VQ and SR_IOV|Stopped VF starts no PCI transaction
9|MUST|device|ADMIN_VQ and SR_IOV|Outstanding PCI transactions finish before the stop command completes
10|MUST|device|ADMIN_VQ and SR_IOV|Observed buffers get their used descriptors written before stop completes
11|MUST|device|ADMIN_VQ and SR_IOV|Stopped VF still accepts doorbells
12|MAY|driver|ADMIN_VQ and SR_IOV|Doorbells to a stopped VF may alter its parts
13|MUST|device|ADMIN_VQ and SR_IOV|Stopped VF answers PCI reads with valid data
14|MUST|device|ADMIN_VQ and SR_IOV|PCI-defined interfaces work the same in stopped mode
15|MUST NOT|device|ADMIN_VQ and SR_IOV|Stopped VF generates no PME
16|MUST NOT|device|ADMIN_VQ|Stopped device leaves ring and buffer memory alone
17|MUST NOT|device|ADMIN_VQ|Stopped device raises no notification of any kind
18|MUST|device|ADMIN_VQ and SR_IOV|MODE_SET/PARTS_SET answered after an ongoing FLR completes
19|MUST|device|ADMIN_VQ and SR_IOV|MODE_SET/PARTS_SET answered after an ongoing device reset completes
20|MUST|no|ADMIN_VQ and SR_IOV|MODE_SET/PARTS_SET answered after an ongoing power transition completes
21|MUST|device|ADMIN_VQ|Stopping a stopped device succeeds
22|MUST|device|ADMIN_VQ|Resuming a running device succeeds
23|MUST|device|ADMIN_VQ and SR_IOV|VF reset or FLR returns all parts to defaults
24|MAY|device|ADMIN_VQ|Invalid selected parts may be left out of the answer (written MAY NOT)
25|MUST|device|ADMIN_VQ|DRV_FEATURES or COMMON_CFG part appears after DEV_FEATURES
26|MUST|device|ADMIN_VQ|COMMON_CFG part appears after DEV_FEATURES
27|MUST|device|ADMIN_VQ|COMMON_CFG part appears after DEV_FEATURES and DRV_FEATURES
28|MUST|device|ADMIN_VQ|DEV_CFG part appears after DEV_FEATURES (part id not defined anywhere)
29|SHOULD|device|ADMIN_VQ|PARTS_SET only verifies DEV_FEATURES, COMMON_CFG and DEV_CFG parts
30|SHOULD NOT|device|ADMIN_VQ|Read-only and invariant configuration parts are not applied
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device parts
1|MUST|driver|ADMIN_VQ|Device stopped before DEV_PARTS_SET
2|MUST|driver|ADMIN_VQ|Parts supplied in table order
3|SHOULD NOT|driver|ADMIN_VQ and SR_IOV|Config space of a stopped VF left alone
4|SHOULD|driver|ADMIN_VQ|Result buffer large enough for all metadata
5|SHOULD|driver|ADMIN_VQ|Result buffer large enough for all parts
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device parts / Device parts handling commands / VIRTIO-ADMIN-CMD-DEV-PARTS-METADATA-GET
D1|DESC|device|ADMIN_VQ|Result buffer too small: status ENOMEM
D2|DESC|device|ADMIN_VQ|SIZE, COUNT and LIST queries agree with each other
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device parts / Device parts handling commands / VIRTIO-ADMIN-CMD-DEV-PARTS-GET
D1|DESC|device|ADMIN_VQ|Requested part that does not exist is skipped silently
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device parts / Device parts handling commands / VIRTIO-ADMIN-CMD-DEV-PARTS-SET
D1|DESC|device|ADMIN_VQ|Set parts take effect on resume
D2|DESC|device|ADMIN_VQ|Failed set leaves the device as it was
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands / Device parts
D1|DESC|device|ADMIN_VQ|Optional-flagged part may be disregarded by the device (lower-case may)
D2|DESC|device|ADMIN_VQ|DRV_CFG part comes after DEV_FEATURES, DRV_FEATURES, DEV_CFG (keyword missing)
D3|DESC|device|ADMIN_VQ|DEVICE_STATUS part comes after DEV_FEATURES, DRV_FEATURES, DEV_CFG (keyword missing)
= device|sec:Basic Facilities of a Virtio Device / Device parts
D1|DESC|device|ADMIN_VQ|Unused selector and reserved bytes are zero; length excludes the 16-byte header
= device|sec:Basic Facilities of a Virtio Device / Device parts / Common device parts / VIRTIO-DEV-PART-DEV-FEATURES
D1|DESC|device|ADMIN_VQ|At most one DEV_FEATURES part, flagged optional
= device|sec:Basic Facilities of a Virtio Device / Device parts / Common device parts / VIRTIO-DEV-PART-VQ-CFG
D1|DESC|device|ADMIN_VQ|At most one VQ_CFG part per queue index
= device|sec:Device Types / Network Device / Device parts / VIRTIO-NET-DEV-PART-CVQ-CFG-PART
D1|DESC|device|ADMIN_VQ|One CVQ part per class/command; VLAN_ADD part holds the whole VLAN table
`;
