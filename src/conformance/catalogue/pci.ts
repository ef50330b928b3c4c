// Clauses of VIRTIO 1.4, in own words. Virtio over PCI, its MSI-X vectors, shared memory, SR-IOV.
// "@ area"; "= party|section of the specification"; then for each statement: ordinal|strength|who can be tested for it|features|summary. Rows are only ever added at an
// area's end: their place is their key.

export const PCI_CLAUSES = `
@ pci
= device|dev:Virtio Transport Options / Virtio Over PCI Bus
1|MUST|device||Config space and BAR behaviour follow the PCI or PCIe specification
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Discovery
1|MAY|driver||A transitional device id (0x1000-0x103f) may be used
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Discovery
1|MUST|device||PCI vendor id is 0x1AF4
2|MUST|device||PCI device id is 0x1040 + virtio id, or the type's transitional id (net: 0x1041/0x1000)
3|MAY|driver||Subsystem ids may name the environment
4|SHOULD|device||Non-transitional device id lies in 0x1040-0x107f
5|SHOULD|device||Non-transitional revision id is at least 1
6|SHOULD|device||Non-transitional subsystem device id is at least 0x40
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Discovery
1|MUST|driver||Driver binds vendor 0x1AF4 with id 0x1040 + virtio id
2|MUST|driver||Driver binds the transitional id of its type too
3|MUST|driver||Any revision id is accepted
4|MAY|driver||Any subsystem ids may be accepted
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout
1|MUST|driver||Register access width matches field width, naturally aligned (64-bit as two 32-bit)
2|MAY|device||Halves of a 64-bit field may be accessed separately in any order
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout
1|MUST|device||Low and high halves of 64-bit fields work independently
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / Virtio Structure PCI Capabilities
1|MAY|driver||cap_len may include padding or unknown fields
2|MAY|driver||Several capabilities of one type may be present
3|MAY|driver||Structure length may cover padding or fields yet to be defined
= driver|sec:Virtio Transport Options / Virtio Over PCI Bus / Virtio Structure PCI Capabilities
4|MAY|driver||Driver may map only the leading part (e.g. 4 KiB) of a huge structure
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / Virtio Structure PCI Capabilities
1|MUST|driver||Unknown cfg_type capabilities are skipped
2|SHOULD|driver||First usable capability of each type wins
3|MUST|driver||Oversized cap_len accepted
4|MUST|driver||Capabilities with reserved BAR numbers are skipped
5|SHOULD|driver||Only the needed part of a structure is mapped
6|MUST|driver||Oversized structure length tolerated
7|MAY|driver||Driver may check the length for a minimum
8|MUST NOT|driver||Capability fields not written, PCI_CFG window excepted
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / Virtio Structure PCI Capabilities
1|MUST|device||cap_len spans the whole capability with extra data
2|MAY|driver||Device may append data or padding
3|SHOULD|device||Same-type capabilities appear best first
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Common configuration structure layout
1|MUST|device||COMMON_CFG offset is a multiple of 4
2|MUST|device||At least one COMMON_CFG capability exists
3|MUST|device||device_feature shows the 32-bit window picked by device_feature_select, any selector value
4|MUST|device||driver_feature reads back valid written bits for the selected window
5|MAY|device||Invalid written bits may or may not be echoed in driver_feature
6|MUST|device||config_generation differs once a changed field has been read since the last read
7|MUST|device||Writing status 0 resets; status then reads 0 when finished
8|MUST|device||queue_enable reads 0 after reset
9|MUST|device|RING_RESET|queue_reset reads 0 after device reset
10|MUST|device|RING_RESET|queue_reset reads 0 once the queue is re-enabled
11|MUST|device|RING_RESET|Writing 1 to queue_reset resets the selected queue
12|MUST|device|RING_RESET|queue_reset stays 1 while the reset is in progress
13|MUST|device|RING_RESET|queue_reset and queue_enable both read 0 when the queue reset is done
14|MUST|device||queue_size reads 0 for a queue_select with no such queue
15|MUST|device|not RING_PACKED|Split rings: queue_size is 0 or a power of two
16|MUST|device|ADMIN_VQ|admin_queue_index is not below num_queues
17|MUST|device|ADMIN_VQ|Admin queue range fits in 16-bit indices
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Common configuration structure layout
1|MUST NOT|driver||Read-only common-cfg registers are not written
2|MUST NOT|driver|RING_PACKED|Packed: queue_size 0 is not written
3|MUST NOT|driver|not RING_PACKED|Split: only powers of two are written to queue_size
4|MUST|driver||All queue registers programmed before queue_enable
5|MUST|driver||After writing status 0 driver polls until 0 reads back
6|MUST NOT|driver||queue_enable is never written 0
7|MUST NOT|driver|RING_RESET|Queue reset counts as finished only when queue_reset reads 0
8|MAY|device|RING_RESET|A reset queue may be re-enabled after reprogramming
9|MAY|device|RING_RESET|Re-enabled queue may use different parameters
10|MUST|driver|ADMIN_VQ|Admin queues set up only at indices within the advertised range
11|MAY|device|ADMIN_VQ|Fewer admin queues than offered may be set up
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Notification capability
1|MUST|device||At least one NOTIFY_CFG capability exists
2|MUST|device|not NOTIFICATION_DATA|Notify offset is a multiple of 2
3|MUST|device|not NOTIFICATION_DATA|Multiplier is 0 or an even power of two
4|MUST|device|not NOTIFICATION_DATA|Notify region length is at least 2
5|MUST|device|not NOTIFICATION_DATA|Notify region is long enough for every queue in every configuration
6|MUST|device|not NOTIFICATION_DATA|Length covers notify_off*multiplier plus 2 for each queue
7|MUST|device|NOTIFICATION_DATA|Multiplier is 0 or a power of two divisible by 4
8|MUST|device|NOTIFICATION_DATA|Notify offset is a multiple of 4
9|MUST|device|NOTIFICATION_DATA|Notify region length is at least 4
10|MUST|device|NOTIFICATION_DATA|Notify region is long enough for every queue in every configuration
11|MUST|device|NOTIFICATION_DATA|Length covers notify_off*multiplier plus 4 for each queue
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / ISR status capability
1|MUST|device||At least one ISR_CFG capability exists
2|MUST|device||ISR bit 1 is set ahead of a config-change interrupt (also under MSI-X as worded)
3|MUST|device||INTx mode: ISR bit 0 is set ahead of a queue interrupt
4|MUST|device||INTx mode: PCI Status Interrupt bit mirrors OR of ISR bits
5|MUST|device||Reading ISR clears it
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / ISR status capability
1|SHOULD NOT|driver||MSI-X mode: driver leaves ISR unread on queue interrupts
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Device-specific configuration
1|MUST|device||At least one DEVICE_CFG capability exists when the type has config fields
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Device-specific configuration
1|MUST|device||DEVICE_CFG offset is a multiple of 4
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Vendor data capability
1|MUST NOT|device||Vendor capability reads are free of side effects
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Vendor data capability
1|MAY|driver||Vendor capability's id may differ from PCI vendor and subsystem ids (written CAN)
2|MAY|driver||Several vendor capabilities may exist, same or different ids (written CAN)
3|MUST NOT|device||Vendor capability's id is not 0x1AF4
4|MUST|device||Vendor capability length is a multiple of 4
5|MUST NOT|device||Vendor capability reads change nothing
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Vendor data capability
1|SHOULD NOT|driver||Vendor capability used for debug or reporting only
2|MUST|driver||Vendor id checked before using the vendor capability
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / PCI configuration access capability
1|MUST|device||At least one PCI_CFG capability exists
2|MUST|device||Writing pci_cfg_data performs a write of cap.length bytes at cap.bar/cap.offset
3|MUST|device||Reading pci_cfg_data performs a read of cap.length bytes at cap.bar/cap.offset
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / PCI configuration access capability
1|MUST NOT|driver||Window offset is a multiple of window length
2|MUST|driver||Window accesses are aligned
3|MUST NOT|driver||Window only aimed at areas described by other virtio capabilities
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Common configuration structure layout
D1|DESC|device||num_queues leaves admin queues out
D2|DESC|device||Feature window selectors past the last defined bit read 0 (bits now reach 70)
D3|DESC|device||queue_size after reset is the maximum; driver may lower it
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / ISR status capability
D1|DESC|device||ISR read drops the INTx line
D2|DESC|device||Reserved ISR bits read 0
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / PCI configuration access capability
D1|DESC|device||cap.bar, cap.offset, cap.length and data are writable, other fields are not
D2|DESC|device||Window accesses to ISR and doorbells have their usual side effects
= driver|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / Virtqueue Configuration
D1|DESC|driver||Ring memory is zeroed before use
@ msix
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / MSI-X Vector Configuration
1|SHOULD|device||MSI-X device has between 2 and 0x800 vectors
2|MUST|device||MSI-X Table Size tells the vector count
3|SHOULD|no||Table Size chosen to suit performance
4|MUST|device||Any event can be mapped to any valid vector
5|MUST|device||Any event can be unmapped with 0xffff
6|MUST|device||Vector registers read back the mapping, 0xffff when unmapped
7|MUST|device||All events unmapped after reset
8|SHOULD NOT|device||Mapping fails only for want of resources
9|MUST|device||Mapping failure reads back as 0xffff
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / MSI-X Vector Configuration
1|MUST|driver||Driver handles any Table Size from 0 to 0x7FF
2|MAY|driver||With one vector driver may fall back to INTx
3|MAY|driver||Table Size may be taken as a vector-count hint
4|MUST NOT|driver||No mapping to vectors past the table
5|MUST|driver||Vector readback is verified after mapping
6|MAY|driver||On mapping failure driver may use fewer vectors, leave MSI-X or give up
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Used Buffer Notifications
1|MUST NOT|device||MSI-X on, queue vector 0xffff: no interrupt for that queue
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Notification of Device Configuration Changes
1|MAY|driver||One interrupt may stand for both queue and config events
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Notification of Device Configuration Changes
1|MUST NOT|device||MSI-X on, config vector 0xffff: no interrupt for config changes
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Notification of Device Configuration Changes
1|MUST|driver||Driver handles an interrupt shared by queue and config events
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / MSI-X Vector Configuration
D1|DESC|device||With MSI-X enabled, INTx/ISR signalling is out of use
D2|DESC|device||Vector 0xffff disables the event's interrupt
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Used Buffer Notifications
D1|DESC|device||Queue interrupt goes to the table entry in queue_msix_vector
@ shm
= device|dev:Basic Facilities of a Virtio Device / Shared Memory Regions
1|MUST NOT|no||Shared regions are not a control channel or a data stream for the device
= device|dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Shared memory capability
1|MUST|device||Shared-memory region (64-bit offset+length) fits its BAR
2|MUST|device||Shared-memory ids are unique within the device
@ sriov
= driver|drv:Reserved Feature Bits
9|MAY|device|SR_IOV|VFs may be turned on through the SR-IOV capability once negotiated
10|MUST NOT|driver|SR_IOV|SR_IOV bit not acked for non-PCI devices or devices lacking the capability
11|MUST|driver|SR_IOV|Full negotiation with SR_IOV precedes setting VF Enable
12|MAY|device|SR_IOV|After one successful negotiation VFs may be enabled again post-reset without renegotiating
= device|dev:Reserved Feature Bits
9|SHOULD|device|SR_IOV|PCI device with an SR-IOV capability offers the SR_IOV bit
10|MUST NOT|device|SR_IOV|Device without an SR-IOV capability does not offer the SR_IOV bit
= device|dev:Basic Facilities of a Virtio Device / Device groups / Group administration commands
25|MUST|device|ADMIN_VQ and SR_IOV|SR-IOV group without capability or VF Enable: EINVAL with Q_INVALID_GROUP
26|MUST|device|ADMIN_VQ and SR_IOV|SR-IOV member id outside 1..NumVFs: EINVAL with Q_INVALID_MEMBER
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands
11|MUST|driver|ADMIN_VQ and SR_IOV|VF Enable stays set and VF Migration Capable clear while SR-IOV commands are in flight
= device|sec:Basic Facilities of a Virtio Device / Device groups / Group administration commands
D5|DESC|device|ADMIN_VQ and SR_IOV|SR-IOV group is absent while VF Enable is clear
= driver|drv:Basic Facilities of a Virtio Device / Device groups / Group administration commands
D1|DESC|driver|ADMIN_VQ and SR_IOV|SR-IOV member ids sent lie in 1..NumVFs (keyword missing in text)
`;
