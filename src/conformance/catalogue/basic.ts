// Clauses of VIRTIO 1.4, in own words. Basic facilities: status, initialisation, features, configuration, resets, suspend, virtqueues of both formats, notifications.
// "@ area"; "= party|section of the specification"; then for each statement: ordinal|strength|who can be tested for it|features|summary. Rows are only ever added at an
// area's end: their place is their key.

export const BASIC_CLAUSES = `
@ status
= driver|drv:Basic Facilities of a Virtio Device / Device Status Field
1|MUST|driver||Driver records init progress by setting each status bit as that step finishes
2|MUST NOT|driver||Driver never clears an individual status bit (only a full reset returns it to zero)
3|MUST|driver||After raising FAILED, driver resets device before any new init attempt
4|SHOULD NOT|driver||Driver does not count on outstanding requests finishing once DEVICE_NEEDS_RESET shows up
= device|dev:Basic Facilities of a Virtio Device / Device Status Field
1|MUST NOT|device||No buffers consumed and no used-buffer notification raised until DRIVER_OK is set
2|SHOULD|device||Unrecoverable error state is signalled through DEVICE_NEEDS_RESET
3|MUST|device||Raising DEVICE_NEEDS_RESET while DRIVER_OK is set triggers a config-change notification
@ init
= driver|drv:General Initialization And Device Operation / Device Initialization
1|MUST|driver||Init step 1: device is reset first
2|MUST|driver||Init step 2: ACKNOWLEDGE set
3|MUST|driver||Init step 3: DRIVER set
4|MUST|driver||Init step 4: offered bits read, supported subset written back
5|MAY|device||Config fields may be read by the driver before FEATURES_OK
6|MUST NOT|driver||Config fields not written by the driver during feature negotiation
7|MUST|driver||Init step 5: FEATURES_OK set
8|MUST NOT|driver||Feature set frozen once FEATURES_OK is written
9|MUST|driver||Init step 6: status reread to see whether FEATURES_OK stuck
10|MUST|driver||Init step 7: queues discovered and set up, config handled
11|MUST|driver||Init step 8: DRIVER_OK set last
12|SHOULD|driver||Irrecoverable init error leads to FAILED
13|MUST NOT|driver||Init does not proceed after such an error
14|MUST NOT|driver||No available-buffer notification sent before DRIVER_OK
= driver|drv:General Initialization And Device Operation / Device Cleanup
1|MUST NOT|driver||Ring entries of in-flight buffers on a live queue are left untouched by the driver
2|MUST|driver||Driver resets first before withdrawing in-flight buffers
@ features
= driver|drv:Basic Facilities of a Virtio Device / Feature Bits
1|MUST NOT|driver||Driver acks only bits the device offered
2|MUST NOT|driver||Driver acks a bit only if that bit's prerequisite bits are acked too
3|MUST|driver||Driver sanity-checks the offered feature set
4|MUST|driver||Driver disregards undefined, reserved, wrong-transport or wrong-device-type bits
5|MUST NOT|driver||Driver does not ack a bit the spec leaves undefined
6|MUST NOT|driver||Driver does not ack a bit the spec marks reserved
7|MUST NOT|driver||Driver does not ack a bit unsupported on the transport in use
8|MUST NOT|driver||Driver does not ack a bit not defined for this device type
9|SHOULD|driver||Missing optional feature makes the driver drop to a compatible mode
10|MUST|driver||If it cannot run without a missing feature, driver sets FAILED and stops init
11|MUST NOT|driver||An unknown offered bit alone is no reason for the driver to fail
= device|dev:Basic Facilities of a Virtio Device / Feature Bits
1|MUST NOT|device||Every offered bit has its prerequisite bits offered as well
2|SHOULD|device||Any legal subset acked by the driver is accepted
3|MUST|device||Unacceptable subset: FEATURES_OK reads back clear after the driver writes it
4|MUST NOT|device||Undefined, reserved or transport/type-inapplicable bits are never offered
5|SHOULD NOT|device||Feature set accepted once is accepted again after device or system reset
= driver|drv:Reserved Feature Bits
1|MUST|driver|VERSION_1|VERSION_1 acked whenever offered
2|MAY|driver||Driver may refuse a device lacking VERSION_1
3|SHOULD|driver|ACCESS_PLATFORM|ACCESS_PLATFORM acked whenever offered
4|MUST|no|ACCESS_PLATFORM|With ACCESS_PLATFORM the IOMMU is off or programmed to map device addresses
5|MUST|no|not ACCESS_PLATFORM|Without ACCESS_PLATFORM only physical addresses are given to the device
6|SHOULD|driver|RING_PACKED|RING_PACKED acked whenever offered
7|SHOULD|driver|ORDER_PLATFORM|ORDER_PLATFORM acked whenever offered
8|MUST|no|ORDER_PLATFORM|Hardware-grade barriers used under ORDER_PLATFORM
13|SHOULD|driver|NOTIF_CONFIG_DATA|NOTIF_CONFIG_DATA acked whenever offered
= device|dev:Reserved Feature Bits
1|MUST|device||VERSION_1 is offered
2|MAY|device||Device may refuse to work if VERSION_1 is not acked
3|SHOULD|no|ACCESS_PLATFORM|ACCESS_PLATFORM offered when memory access is translated or restricted
4|MAY|device|ACCESS_PLATFORM|Device may refuse to work without ACCESS_PLATFORM acked
6|MAY|device|ORDER_PLATFORM|Device may refuse to work when offered ORDER_PLATFORM is declined
7|MAY|no|ORDER_PLATFORM|Device may run slower when offered ORDER_PLATFORM is declined
8|SHOULD|no||Plug-in PCI cards are advised to offer both ACCESS_PLATFORM and ORDER_PLATFORM
= device|sec:Device Types / Network Device / Feature bits / Feature bit requirements
D1|DESC|device|GUEST_TSO4|GUEST_TSO4 offered only with GUEST_CSUM
D2|DESC|device|GUEST_TSO6|GUEST_TSO6 offered only with GUEST_CSUM
D3|DESC|device|GUEST_ECN|GUEST_ECN offered only with GUEST_TSO4 or GUEST_TSO6
D4|DESC|device|GUEST_UFO|GUEST_UFO offered only with GUEST_CSUM
D5|DESC|device|GUEST_USO4|GUEST_USO4 offered only with GUEST_CSUM
D6|DESC|device|GUEST_USO6|GUEST_USO6 offered only with GUEST_CSUM
D7|DESC|device|GUEST_UDP_TUNNEL_GSO|GUEST_UDP_TUNNEL_GSO offered only with GUEST_TSO4, TSO6, USO4 and USO6
D8|DESC|device|GUEST_UDP_TUNNEL_GSO_CSUM|GUEST_UDP_TUNNEL_GSO_CSUM offered only with GUEST_UDP_TUNNEL_GSO
D9|DESC|device|HOST_TSO4|HOST_TSO4 offered only with CSUM
D10|DESC|device|HOST_TSO6|HOST_TSO6 offered only with CSUM
D11|DESC|device|HOST_ECN|HOST_ECN offered only with HOST_TSO4 or HOST_TSO6
D12|DESC|device|HOST_UFO|HOST_UFO offered only with CSUM
D13|DESC|device|HOST_USO|HOST_USO offered only with CSUM
D14|DESC|device|HOST_UDP_TUNNEL_GSO|HOST_UDP_TUNNEL_GSO offered only with HOST_TSO4, TSO6 and USO
D15|DESC|device|HOST_UDP_TUNNEL_GSO_CSUM|HOST_UDP_TUNNEL_GSO_CSUM offered only with HOST_UDP_TUNNEL_GSO
D16|DESC|device|CTRL_RX|CTRL_RX offered only with CTRL_VQ
D17|DESC|device|CTRL_VLAN|CTRL_VLAN offered only with CTRL_VQ
D18|DESC|device|GUEST_ANNOUNCE|GUEST_ANNOUNCE offered only with CTRL_VQ
D19|DESC|device|MQ|MQ offered only with CTRL_VQ
D20|DESC|device|CTRL_MAC_ADDR|CTRL_MAC_ADDR offered only with CTRL_VQ
D21|DESC|device|NOTF_COAL|NOTF_COAL offered only with CTRL_VQ
D22|DESC|device|RSC_EXT|RSC_EXT offered only with HOST_TSO4 or HOST_TSO6 (elsewhere the text speaks of GUEST_TSO)
D23|DESC|device|RSS|RSS offered only with CTRL_VQ
D24|DESC|device|VQ_NOTF_COAL|VQ_NOTF_COAL offered only with CTRL_VQ
D25|DESC|device|HASH_TUNNEL|HASH_TUNNEL offered only with CTRL_VQ plus RSS or HASH_REPORT
D26|DESC|device|RSS_CONTEXT|RSS_CONTEXT offered only with CTRL_VQ and RSS
@ config
= driver|drv:Basic Facilities of a Virtio Device / Device Configuration Space
1|MUST NOT|driver||No atomicity assumed for fields over 32 bits or for multi-field reads
2|SHOULD|driver||Config reads are bracketed by generation-counter reads and retried on mismatch
3|MUST|driver||Optional config fields touched only when their feature bit is offered
4|MUST NOT|driver||Driver tolerates config space bigger than it knows about
5|SHOULD|driver||Size check is a lower bound only
= device|dev:Basic Facilities of a Virtio Device / Device Configuration Space
1|MUST|device||Config fields, including those of offered features, readable before FEATURES_OK
= device|sec:General Initialization And Device Operation / Device Operation / Notification of Device Configuration Changes
D1|DESC|device||Device-initiated config change raises a config-change notification
D2|DESC|device||DEVICE_NEEDS_RESET counts as such a change
@ reset
= device|dev:Basic Facilities of a Virtio Device / Device Reset
1|MUST|device||Status register is back to zero following a reset
2|MUST NOT|device||After reset completes, no notification or queue access until re-initialised
= driver|drv:Basic Facilities of a Virtio Device / Device Reset
1|SHOULD|driver||Driver regards its reset as finished only once status reads zero
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Reset
1|MUST NOT|device|RING_RESET|A reset queue executes no requests and raises no notifications
2|MUST|device|RING_RESET|Queue reset restores default avail/used state of that queue
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Reset
1|MUST|driver|RING_RESET|Driver confirms queue reset really happened
2|MAY|device|RING_RESET|Queue memory may be freed by the driver once reset is confirmed (device must not touch it)
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Re-enable
1|MUST|device|RING_RESET|Re-enabled queue honours newly written parameters such as a different size
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Re-enable
1|MUST|driver|RING_RESET|Re-enable repeats full queue setup, possibly with new values
@ suspend
= driver|drv:General Initialization And Device Operation / Device Suspend
1|SHOULD NOT|driver|SUSPEND|SUSPEND is written only with DRIVER_OK set and the feature negotiated
2|MUST|driver|SUSPEND|Driver rereads status for SUSPEND=1 and DRIVER_OK=0 to confirm suspension
3|MUST NOT|driver|SUSPEND|No new buffers exposed after writing SUSPEND
4|MUST NOT|driver|SUSPEND|No queue notifications after writing SUSPEND
5|MUST NOT|driver|SUSPEND|No config writes after writing SUSPEND, status register excepted
6|MUST|driver|SUSPEND|On resume, driver waits for SUSPEND=0 and DRIVER_OK=1 before normal work
= device|dev:General Initialization And Device Operation / Device Suspend
1|MUST|device|SUSPEND|SUSPEND writes have no effect before initialisation is complete
2|SHOULD|device|SUSPEND|Config writes other than status are dropped while suspended
3|MUST NOT|device|SUSPEND|While suspended: no queue notifications, queue accesses or config changes
4|MUST NOT|device|SUSPEND|No config-change notification while suspended
5|MUST|device|SUSPEND|Config-change notification held back during suspend is sent on resume
6|MUST|device|SUSPEND|Writing SUSPEND ends in suspended state or DEVICE_NEEDS_RESET
7|MUST|device|SUSPEND|Writing DRIVER_OK while suspended ends in running state or DEVICE_NEEDS_RESET
8|SHOULD|device|SUSPEND|Before reporting suspended, device stops taking new buffers
9|SHOULD|device|SUSPEND|Before reporting suspended, buffers already taken are completed
10|SHOULD|device|SUSPEND|Before reporting suspended, used-buffer notifications are delivered
= device|sec:General Initialization And Device Operation / Device Suspend
D1|DESC|device|SUSPEND|Suspended reads as SUSPEND=1 and DRIVER_OK=0; resumed as the reverse
@ vq
= device|sec:Basic Facilities of a Virtio Device / Exporting Objects
1|SHOULD|no||Exported-object UUIDs are best generated as RFC4122 version 4
= device|dev:Reserved Feature Bits
5|MUST|device|IN_ORDER|IN_ORDER negotiated: buffers come back in the order supplied
= device|dev:Basic Facilities of a Virtio Device / Message Framing
1|MUST NOT|device||Message parsing independent of how descriptors slice the buffer
2|MAY|driver||Device may cap the chain length it accepts (reasonably)
= driver|drv:Basic Facilities of a Virtio Device / Message Framing
1|MUST|driver||Device-readable elements precede device-writable ones in each buffer
2|SHOULD NOT|driver||Buffers not chopped into excessively many descriptors
@ split
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues
1|MUST|driver|not RING_PACKED|Ring parts start on 16-byte (desc), 2-byte (avail), 4-byte (used) boundaries
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table
1|MUST NOT|device||Device-readable buffers are never written
2|SHOULD NOT|no||Device-writable buffers are not read
3|MAY|no||Reading writable buffers is tolerated for debugging only
4|MUST NOT|device||Descriptor table entries are never modified by the device
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table
1|MUST NOT|driver||Chain total stays within 2^32 bytes, so no descriptor loops
2|MUST|driver|IN_ORDER|In-order: next is offset+1, wrapping to 0 at the last slot
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table / Indirect Descriptors
1|MUST NOT|driver|INDIRECT_DESC|INDIRECT flag used only after negotiation
2|MUST NOT|driver|INDIRECT_DESC|Indirect tables are not nested
3|MUST NOT|driver|INDIRECT_DESC|Chain length never exceeds the queue size
4|MUST NOT|driver|INDIRECT_DESC|INDIRECT and NEXT never combined in one descriptor
5|MUST|driver|INDIRECT_DESC and IN_ORDER|In-order: indirect entries laid out consecutively with next=1,2,...
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table / Indirect Descriptors
1|MUST|device|INDIRECT_DESC|WRITE flag on the descriptor pointing at an indirect table is disregarded
2|MUST|device|INDIRECT_DESC|Chain of plain descriptors ending in one indirect descriptor works
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Available Ring
1|MUST NOT|driver||Available index only moves forward
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / Used Buffer Notification Suppression
1|MUST|driver|not EVENT_IDX|Without EVENT_IDX avail.flags is 0 or 1
2|MAY|device|not EVENT_IDX|Without EVENT_IDX driver may set avail.flags=1 to discourage interrupts
3|MUST|driver|EVENT_IDX|With EVENT_IDX avail.flags stays 0
4|MAY|device|EVENT_IDX|With EVENT_IDX driver may place used_event to delay interrupts
5|MUST|driver||Driver copes with unneeded interrupts
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / Used Buffer Notification Suppression
1|MUST|device|not EVENT_IDX|Without EVENT_IDX used_event has no influence
2|SHOULD NOT|device|not EVENT_IDX|Without EVENT_IDX, avail.flags=1 silences used notifications
3|MUST|device|not EVENT_IDX|Without EVENT_IDX, avail.flags=0 means each used update is notified
4|MUST|device|EVENT_IDX|With EVENT_IDX bit 0 of avail.flags has no influence
5|MUST|device|EVENT_IDX|With EVENT_IDX, writing the used slot numbered used_event triggers notification
6|SHOULD NOT|device|EVENT_IDX|With EVENT_IDX, crossing no used_event means staying quiet
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Used Ring
1|MUST|device||Used element length stored ahead of the used index bump
2|MUST|device||At least len bytes, from the first writable buffer on, written before the index bump
3|MAY|driver||Device may write beyond the len it reports
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Used Ring
1|MUST NOT|driver||Driver trusts nothing past the reported len
2|SHOULD|driver||Data past len is disregarded by the driver
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / Available Buffer Notification Suppression
1|MUST|driver||used.flags zeroed by the driver at allocation
2|MUST|driver|not EVENT_IDX|Without EVENT_IDX avail_event has no influence on the driver
3|SHOULD NOT|driver|not EVENT_IDX|Without EVENT_IDX, used.flags=1 means no kick
4|MUST|driver|not EVENT_IDX|Without EVENT_IDX, used.flags=0 means kick after exposing buffers
5|MUST|driver|EVENT_IDX|With EVENT_IDX bit 0 of used.flags has no influence
6|MUST|driver|EVENT_IDX|With EVENT_IDX, filling the avail slot numbered avail_event demands a kick
7|SHOULD NOT|driver|EVENT_IDX|With EVENT_IDX, otherwise no kick
= device|dev:Basic Facilities of a Virtio Device / Virtqueues / Available Buffer Notification Suppression
1|MUST|device|not EVENT_IDX|Without EVENT_IDX used.flags holds 0 or 1
2|MAY|driver|not EVENT_IDX|Without EVENT_IDX device may set used.flags=1 to discourage kicks
3|MUST|device|EVENT_IDX|With EVENT_IDX used.flags stays 0
4|MAY|driver|EVENT_IDX|With EVENT_IDX device may move avail_event to delay kicks
5|MUST|device||Kicks without new buffers are harmless
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device
1|MAY|device||Several chains may be queued before one index update
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Updating The Available Ring
1|MAY|device||One-chain-per-update driver is legal
2|MAY|device||Many chains per index update are legal
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Updating idx
1|MAY|driver||Chains may be accessed as soon as the index is published
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Updating idx
1|MUST|no||Write barrier separates ring contents from the index publish
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Notifying The Device
1|MAY|driver||Device may suppress kicks it does not need
= driver|drv:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Notifying The Device
1|MUST|no||Full barrier separates index publish from reading suppression state
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Receiving Used Buffers From The Device
1|MAY|device||Driver may mask interrupts while draining the used ring
= device|sec:Basic Facilities of a Virtio Device / Split Virtqueues
D1|DESC|device|not RING_PACKED|Queue size is a power of two, 32768 at most
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Available Ring
D1|DESC|device|not RING_PACKED|Available index starts at 0 and wraps at 65536; slot is idx modulo size
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Used Ring
D1|DESC|device|not RING_PACKED|Used id is the head index of the chain
D2|DESC|device|not RING_PACKED|Used index starts at 0 and wraps at 65536
D3|DESC|device|not RING_PACKED|Used len counts bytes written to the writable part
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / In-order use of descriptors
D1|DESC|device|not RING_PACKED and IN_ORDER|One used element with the last head may complete a batch; index grows by batch size
D2|DESC|device|not RING_PACKED and IN_ORDER|Batch element sits at the slot of the batch's first buffer
D3|DESC|device|not RING_PACKED and IN_ORDER|Skipped buffers count as fully written (bad fit for rx lengths)
@ packed
= driver|drv:Basic Facilities of a Virtio Device / Packed Virtqueues
1|MUST|driver|RING_PACKED|Packed parts start on 16-byte (ring) and 4-byte (event areas) boundaries
= device|dev:Basic Facilities of a Virtio Device / Packed Virtqueues
1|MUST|device|RING_PACKED|Processing of buffers starts in ring order
2|MUST|device|RING_PACKED|Used entries are placed in completion order
3|MAY|driver|RING_PACKED|Used-entry writes already begun may become visible out of order
= device|dev:Basic Facilities of a Virtio Device / Packed Virtqueues / The Virtqueue Descriptor Table
1|MUST NOT|device|RING_PACKED|Device-readable buffers are never written
2|SHOULD NOT|no|RING_PACKED|Device-writable buffers are not read
3|MUST NOT|device|RING_PACKED|Descriptor touched only after its AVAIL bit is seen to flip
4|MUST NOT|device|RING_PACKED|Descriptor left alone after the USED bit has been flipped
= driver|drv:Basic Facilities of a Virtio Device / PAcked Virtqueues / The Virtqueue Descriptor Table
1|MUST NOT|driver|RING_PACKED|Driver reuses a slot only after seeing USED flip
2|MUST NOT|driver|RING_PACKED|Driver leaves a slot alone after flipping AVAIL
3|MUST|driver|RING_PACKED and NOTIFICATION_DATA|Notification data carries offset and wrap of the next slot to be filled
4|MAY|device|RING_PACKED|Driver may kick repeatedly with nothing new
= driver|drv:Basic Facilities of a Virtio Device / Packed Virtqueues / Scatter-Gather Support
1|MUST NOT|driver|RING_PACKED|List length within the device's own limit
2|MUST NOT|driver|RING_PACKED|List length within the queue size (no loops)
3|MUST|driver|RING_PACKED|Device-readable elements precede device-writable ones
4|MUST NOT|driver|RING_PACKED|Driver does not wait for more used slots to finish writing a list
5|MUST|driver|RING_PACKED|Whole list must fit free slots before its head is exposed
6|MUST NOT|driver|RING_PACKED|Head exposed only after all later descriptors of the list
= device|dev:Basic Facilities of a Virtio Device / Packed Virtqueues / Scatter-Gather Support
1|MUST|device|RING_PACKED|NEXT-chained list elements are consumed in the driver's order
2|MAY|driver|RING_PACKED|Device may cap list length
= driver|drv:Basic Facilities of a Virtio Device / Packed Virtqueues / The Virtqueue Descriptor Table / Indirect Descriptors
1|MUST NOT|driver|RING_PACKED and INDIRECT_DESC|INDIRECT flag used only after negotiation
2|MUST NOT|driver|RING_PACKED and INDIRECT_DESC|Indirect-table entries carry no flag other than WRITE
3|MUST NOT|driver|RING_PACKED and INDIRECT_DESC|Table length within the device's limit
4|MUST NOT|driver|RING_PACKED and INDIRECT_DESC|NEXT-linked lists contain no indirect descriptors
= driver|sec:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Placing Available Buffers Into The Descriptor Ring
1|MAY|device|RING_PACKED|A request may span several descriptors, head flags written last
= device|sec:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Placing Available Buffers Into The Descriptor Ring
2|MAY|driver|RING_PACKED|Device may access exposed descriptors right away
= driver|drv:Basic Facilities of a Virtio Device / Packed Virtqueues / Supplying Buffers to The Device / Updating flags
1|MUST|no|RING_PACKED|Write barrier precedes the head flags store
= device|sec:Basic Facilities of a Virtio Device / Packed Virtqueues / Supplying Buffers to The Device / Sending Available Buffer Notifications
1|MAY|driver|RING_PACKED|Device may suppress kicks through its event-suppression area
= driver|drv:Basic Facilities of a Virtio Device / Packed Virtqueues / Supplying Buffers to The Device / Sending Available Buffer Notifications
1|MUST|no|RING_PACKED|Full barrier precedes reading the device event-suppression area
= driver|sec:Basic Facilities of a Virtio Device / Packed Virtqueues / Receiving Used Buffers From The Device
1|MAY|device|RING_PACKED|Driver may mask used notifications while draining
= device|sec:Basic Facilities of a Virtio Device / Packed Virtqueues
D1|DESC|device|RING_PACKED|Ring positions advance circularly from slot 0, both sides independently
= device|sec:Packed Virtqueues / Driver and Device Ring Wrap Counters
D1|DESC|device|RING_PACKED|Both wrap counters start at 1
D2|DESC|device|RING_PACKED|Device wrap counter flips after using the last ring slot
D3|DESC|device|RING_PACKED|Available means AVAIL==wrap and USED!=wrap
D4|DESC|device|RING_PACKED|Used means AVAIL==USED==device wrap
= device|sec:Packed Virtqueues / Polling of available and used descriptors
D1|DESC|device|RING_PACKED|After a batch/list used write the device skips ahead by the list length
= device|sec:Packed Virtqueues / Write Flag
D1|DESC|device|RING_PACKED|Used descriptor WRITE flag tells if the device wrote any data
= device|sec:Packed Virtqueues / Element Address and Length
D1|DESC|device|RING_PACKED|Used descriptor len is bytes written; only meaningful with WRITE set
= device|sec:Packed Virtqueues / Scatter-Gather Support
D1|DESC|device|RING_PACKED|Direct lists and single indirect buffers may alternate in one ring
D2|DESC|device|RING_PACKED|Each list yields exactly one used descriptor
= device|sec:Packed Virtqueues / Next Flag: Descriptor Chaining
D1|DESC|device|RING_PACKED|Buffer id is taken from the last descriptor of the list
D2|DESC|device|RING_PACKED|Used descriptor overwrites the next device slot, carrying that id
= device|sec:Packed Virtqueues / Indirect Flag: Scatter-Gather Support
D1|DESC|device|RING_PACKED and INDIRECT_DESC|Indirect entries are sequential; only their WRITE flag counts
D2|DESC|device|RING_PACKED and INDIRECT_DESC|Indirect entries' id and other flags are disregarded
D3|DESC|device|RING_PACKED and INDIRECT_DESC|WRITE on the descriptor naming the table is disregarded
= device|sec:Packed Virtqueues / In-order use of descriptors
D1|DESC|device|RING_PACKED and IN_ORDER|One used entry carrying the last id may complete a whole in-order batch
D2|DESC|device|RING_PACKED and IN_ORDER|Next used entry goes to the slot after the batch
= device|sec:Packed Virtqueues / Multi-buffer requests
D1|DESC|device|RING_PACKED|Multi-buffer request (merged rx): first buffer's used entry is written last
= device|sec:Packed Virtqueues / Driver and Device Event Suppression
D1|DESC|device|RING_PACKED|Driver event flags DISABLE silence used notifications
D2|DESC|device|RING_PACKED|Driver event flags ENABLE notify on each used entry
D3|DESC|device|RING_PACKED and EVENT_IDX|Driver event flags DESC notify only at the given offset and wrap
D4|DESC|device|RING_PACKED|Device event area never holds value 3, nor DESC without EVENT_IDX
= device|sec:Packed Virtqueues / Structure Size and Alignment
D1|DESC|device|RING_PACKED|Ring size need not be a power of two, up to 32768
@ notify
= driver|drv:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Available Buffer Notifications
1|MUST|driver|not NOTIFICATION_DATA|Kick is a 16-bit write
2|MUST|driver|NOTIFICATION_DATA|Kick is a 32-bit write
3|MUST|driver|not NOTIFICATION_DATA and not NOTIF_CONFIG_DATA|16-bit kick value is the queue index
4|MUST|driver|NOTIFICATION_DATA and not NOTIF_CONFIG_DATA|32-bit kick carries queue index in low half
5|MUST|driver|NOTIF_CONFIG_DATA and not NOTIFICATION_DATA|16-bit kick value is queue_notif_config_data
6|MUST|driver|NOTIF_CONFIG_DATA and NOTIFICATION_DATA|32-bit kick carries queue_notif_config_data in low half
= driver|sec:Basic Facilities of a Virtio Device / Driver notifications
D1|DESC|driver|NOTIFICATION_DATA|Split: next_off is avail index bits 0-14, next_wrap is bit 15
D2|DESC|driver|NOTIFICATION_DATA|Packed: next_off is the next slot, next_wrap the driver wrap counter
= device|sec:Basic Facilities of a Virtio Device / Driver notifications
D3|DESC|device|NOTIFICATION_DATA|Repeated identical notification data is harmless
= device|sec:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Notification capability
D1|DESC|device||Doorbell address is cap.offset + queue_notify_off * multiplier
`;
