// Clauses of VIRTIO 1.4, in own words. Legacy interfaces, of all chapters.
// "@ area"; "= party|section of the specification"; then for each statement: ordinal|strength|who can be tested for it|features|summary. Rows are only ever added at an
// area's end: their place is their key.

export const LEGACY_CLAUSES = `
@ legacy
= driver|sec:Basic Facilities of a Virtio Device / Feature Bits / Legacy Interface: A Note on Feature Bits
1|MUST|driver||Transitional driver treats a device not offering VERSION_1 as legacy
= device|sec:Basic Facilities of a Virtio Device / Feature Bits / Legacy Interface: A Note on Feature Bits
2|MUST|device||Transitional device treats a driver that did not ack VERSION_1 as legacy
= device|sec:Basic Facilities of a Virtio Device / Feature Bits / Legacy Interface: A Note on Feature Bits.dev
3|MAY|no||Legacy interface support may be left out altogether
= driver|sec:Basic Facilities of a Virtio Device / Feature Bits / Legacy Interface: A Note on Feature Bits.drv
3|MAY|no||Legacy interface support may be left out altogether
= device|sec:Basic Facilities of a Virtio Device / Feature Bits / Legacy Interface: A Note on Feature Bits.dev
4|MUST|no||While in legacy mode, transitional parties obey the legacy-interface sections
= driver|sec:Basic Facilities of a Virtio Device / Feature Bits / Legacy Interface: A Note on Feature Bits.drv
4|MUST|no||While in legacy mode, transitional parties obey the legacy-interface sections
= driver|sec:Basic Facilities of a Virtio Device / Device Configuration Space / Legacy Interface: Device Configuration Space
1|SHOULD|driver||Legacy-mode driver rereads multi-byte config until two reads agree
= driver|sec:General Initialization And Device Operation / Device Initialization / Legacy Interface: Device Initialization
1|MUST|driver||Legacy-mode driver skips the two FEATURES_OK steps
= device|sec:General Initialization And Device Operation / Device Initialization / Legacy Interface: Device Initialization
2|MUST|device||Transitional device tolerates config writes before feature negotiation
3|MUST|device||Transitional device tolerates queue use before DRIVER_OK in legacy mode
= device|sec:Reserved Feature Bits / Legacy Interface: Reserved Feature Bits
1|MAY|device|NOTIFY_ON_EMPTY|Transitional device may offer NOTIFY_ON_EMPTY (24)
2|MUST|device|NOTIFY_ON_EMPTY|With NOTIFY_ON_EMPTY, queue running dry raises a notification despite suppression
3|MUST|device|ANY_LAYOUT|Transitional device offers ANY_LAYOUT (27)
= driver|sec:Reserved Feature Bits / Legacy Interface: Reserved Feature Bits
4|MUST|driver|ANY_LAYOUT|Transitional driver acks ANY_LAYOUT when offered
= device|sec:Reserved Feature Bits / Legacy Interface: Reserved Feature Bits.dev
5|SHOULD NOT|device||Bit 30 (old QEMU probe bit) stays unnegotiated
= driver|sec:Reserved Feature Bits / Legacy Interface: Reserved Feature Bits.drv
5|SHOULD NOT|driver||Bit 30 (old QEMU probe bit) stays unnegotiated
= device|sec:Legacy Interface: Terminology.dev
1|MAY|no||Legacy-related features are optional extras
= driver|sec:Legacy Interface: Terminology.drv
1|MAY|no||Legacy-related features are optional extras
= device|sec:Legacy Interface: Terminology.dev
2|MAY|no||Either party may support the legacy interface, legacy devices or legacy drivers
= driver|sec:Legacy Interface: Terminology.drv
2|MAY|no||Either party may support the legacy interface, legacy devices or legacy drivers
= device|sec:Legacy Interface: Terminology
3|MAY|no||A device may choose to be transitional
= driver|sec:Legacy Interface: Terminology
4|MAY|no||A driver may choose to be transitional
= driver|sec:Conformance / Conformance Targets
1|MUST|no||Driver conforms to general, one transport, one device-type and legacy clause
= device|sec:Conformance / Conformance Targets
2|MUST|no||Device conforms to general, one transport, one device-type and legacy clause
= device|sec:Conformance / Legacy Interface: Transitional Device and Transitional Driver Conformance.dev
1|MUST|no||Implementation is classifiable as either transitional or non-transitional
= driver|sec:Conformance / Legacy Interface: Transitional Device and Transitional Driver Conformance.drv
1|MUST|no||Implementation is classifiable as either transitional or non-transitional
= device|sec:Conformance / Legacy Interface: Transitional Device and Transitional Driver Conformance.dev
2|MAY|no||Legacy support is optional
= driver|sec:Conformance / Legacy Interface: Transitional Device and Transitional Driver Conformance.drv
2|MAY|no||Legacy support is optional
= device|sec:Conformance / Legacy Interface: Transitional Device and Transitional Driver Conformance.dev
3|MUST|no||Claiming legacy support means meeting every legacy MUST
= driver|sec:Conformance / Legacy Interface: Transitional Device and Transitional Driver Conformance.drv
3|MUST|no||Claiming legacy support means meeting every legacy MUST
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Legacy Interfaces: A Note on Virtqueue Layout
1|MUST|driver||Legacy-mode driver takes Queue Size from the device as given
2|MUST|driver||Legacy-mode driver allocates ring bytes per the align-and-sum formula
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / Legacy Interfaces: A Note on Virtqueue Layout.dev
3|MUST|device||Legacy mode uses one contiguous desc/avail/pad/used layout
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Legacy Interfaces: A Note on Virtqueue Layout.drv
3|MUST|driver||Legacy mode uses one contiguous desc/avail/pad/used layout
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / Legacy Interfaces: A Note on Virtqueue Endianness.dev
1|MUST|device||Legacy-mode ring fields use guest-native byte order
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Legacy Interfaces: A Note on Virtqueue Endianness.drv
1|MUST|driver||Legacy-mode ring fields use guest-native byte order
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Discovery / Legacy Interfaces: A Note on PCI Device Discovery
1|MUST|device||Transitional device has revision id 0
2|MUST|device||Transitional device's subsystem id equals the virtio device id
3|MUST|device||Transitional device's PCI id lies in 0x1000-0x103f
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Legacy Interfaces: A Note on PCI Device Layout
1|MUST|device||Transitional device exposes the legacy register block in I/O BAR0
= driver|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Legacy Interfaces: A Note on PCI Device Layout
2|MUST|driver||Legacy-mode driver uses that I/O BAR0 block
3|MAY|device||Legacy-mode driver may use any access width on device config
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Legacy Interfaces: A Note on PCI Device Layout
4|MUST|device||Any-width legacy config access gives the same bytes as natural access
= driver|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Legacy Interfaces: A Note on PCI Device Layout
5|MUST|driver||Legacy-mode driver finds device config right behind the header
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Legacy Interfaces: A Note on PCI Device Layout
6|MUST|device||Device config sits right behind the legacy header (20, or 24 with MSI-X)
7|MUST|device||Legacy mode: feature bits 32-63 count as not acked
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / Non-transitional Device With Legacy Driver
1|SHOULD|device||Where a clashing legacy driver exists: present an I/O BAR0
2|SHOULD|device||...and on zero byte written at offset 18, read zeros on all BARs and drop writes
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / Virtio Device Configuration Layout Detection / Legacy Interface: A Note on Device Layout Detection
1|MUST|device||Transitional device has its legacy interface in I/O BAR0
= driver|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / Virtio Device Configuration Layout Detection / Legacy Interface: A Note on Device Layout Detection
2|MUST|driver||Transitional driver searches for virtio capabilities
3|MUST|driver||No virtio capability: transitional driver goes legacy
4|MUST|driver||Non-transitional driver searches for virtio capabilities
5|MUST|driver||No virtio capability: non-transitional driver bows out cleanly
= device|sec:Device Types / Network Device / Device configuration layout / Legacy Interface: Device configuration layout.dev
1|MUST|device||Legacy mode: status and max_virtqueue_pairs in guest byte order
= driver|sec:Device Types / Network Device / Device configuration layout / Legacy Interface: Device configuration layout.drv
1|MUST|driver||Legacy mode: status and max_virtqueue_pairs in guest byte order
= device|sec:Device Types / Network Device / Device Operation / Legacy Interface: Device Operation.dev
1|MUST|device||Legacy mode: net header fields in guest byte order
= driver|sec:Device Types / Network Device / Device Operation / Legacy Interface: Device Operation.drv
1|MUST|driver||Legacy mode: net header fields in guest byte order
= driver|sec:Device Types / Network Device / Device Operation / Legacy Interface: Device Operation
2|SHOULD|driver||Legacy-mode driver disregards used length on tx and control queues
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering / Legacy Interface: Setting MAC Address Filtering.dev
1|MUST|device||Legacy mode: table counts in guest byte order
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering / Legacy Interface: Setting MAC Address Filtering.drv
1|MUST|driver||Legacy mode: table counts in guest byte order
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering / Legacy Interface: Setting MAC Address Filtering
2|MAY|device||Legacy byte-wise mac write may take effect only at the last byte
3|MAY|device||Legacy byte-wise mac write may pause receive until the last byte
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / VLAN Filtering / Legacy Interface: VLAN Filtering.dev
1|MUST|device||Legacy mode: VLAN id in guest byte order
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / VLAN Filtering / Legacy Interface: VLAN Filtering.drv
1|MUST|driver||Legacy mode: VLAN id in guest byte order
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode / Legacy Interface: Automatic receive steering in multiqueue mode.dev
1|MUST|device||Legacy mode: virtqueue_pairs in guest byte order
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode / Legacy Interface: Automatic receive steering in multiqueue mode.drv
1|MUST|driver||Legacy mode: virtqueue_pairs in guest byte order
= device|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Offloads State Configuration / Setting Offloads State / Legacy Interface: Setting Offloads State.dev
1|MUST|device||Legacy mode: offloads mask in guest byte order
= driver|sec:Device Types / Network Device / Device Operation / Control Virtqueue / Offloads State Configuration / Setting Offloads State / Legacy Interface: Setting Offloads State.drv
1|MUST|driver||Legacy mode: offloads mask in guest byte order
= driver|sec:Device Types / Network Device / Legacy Interface: Framing Requirements
1|MUST|driver|not ANY_LAYOUT|Net header occupies a descriptor of its own, data follows
2|MUST|driver|not ANY_LAYOUT|Control command class+command form one 2-byte descriptor
3|MUST|driver|not ANY_LAYOUT|Control payload forms one unpadded descriptor (except MAC table)
4|MUST|driver|not ANY_LAYOUT|MAC table is exactly two unpadded descriptors
5|MUST|driver|not ANY_LAYOUT|First MAC-table descriptor holds the unicast table
6|MUST|driver|not ANY_LAYOUT|Second MAC-table descriptor holds the multicast table
7|MUST|driver|not ANY_LAYOUT|Control ack forms one 1-byte descriptor
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Legacy Interfaces: A Note on PCI Device Layout
D1|DESC|device||Legacy register block: features 0, ack 4, PFN 8, size 12, select 14, notify 16, status 18, isr 19
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / Virtqueue Configuration / Legacy Interface: A Note on Virtqueue Configuration
D1|DESC|device||Legacy Queue Address register holds address/4096; queue size is fixed
= device|sec:Device Types / Network Device / Device configuration layout / Legacy Interface: Device configuration layout
D1|DESC|device||Legacy mode: config mac is writable
= device|sec:Device Types / Network Device / Device Operation / Legacy Interface: Device Operation
D1|DESC|device||Legacy mode without MRG_RXBUF: net header is 10 bytes
`;
