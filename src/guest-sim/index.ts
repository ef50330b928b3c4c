// The synthetic guest: enumeration, a virtio-net driver and workloads, written from the specifications alone and knowing nothing of the devices it drives.

export { ADMIN_GROUP, ADMIN_OPCODE, ADMIN_STATUS, type AdminAnswer, type AdminCommand, AdminQueue, type GroupMember } from './admin-queue.ts';
export { GuestArena, GuestOutOfMemoryError } from './arena.ts';
export type { CompareJob, FrameStore } from './compare.ts';
export { E1000, isE1000 } from './e1000.ts';
export type { E1000Moderation, E1000Options } from './e1000-options.ts';
export { E1000Error } from './e1000-registers.ts';
export type { EchoJob, PingJob } from './echo.ts';
export { FailoverPair } from './failover.ts';
export { chooseFeatures, DRIVER_FEATURES, featureMask, hasFeature, LEGACY_FEATURES, OPTIONAL_FEATURES } from './features.ts';
export { FF_ACTION, FF_SELECTOR, FlowFilter, type FlowFilterLimits, type FlowMatch, type FlowRule, flowMatch, type Selector } from './flow-filter.ts';
export { FlowHash, type FlowHashOptions } from './flow-hash.ts';
export { type ComposedFrame, composeFrame, composeTunnel, type FrameLayout, type FrameSpec, type PacketSpec, type TunnelKind } from './frames.ts';
export type { GenerateJob } from './generator.ts';
export { type AssignedFunction, Guest, type GuestOptions, type GuestReport } from './guest.ts';
export type { GuestSummary } from './guest-protocol.ts';
export { GuestThread, GuestThreadError, type GuestThreadOptions } from './guest-thread.ts';
export { Histogram } from './histogram.ts';
export { Igb, isIgb } from './igb.ts';
export { MESSAGE, PfMailbox, VfMailbox } from './igb-mailbox.ts';
export type { AdvancedQueueOptions, IgbOptions, IgbRssOptions, IgbvfOptions, InterruptStyle } from './igb-options.ts';
export { IgbError } from './igb-registers.ts';
export { IgbVfs, type VfPolicy } from './igb-vfs.ts';
export { Igbvf, isIgbvf } from './igbvf.ts';
export type { VfExtensions } from './igbvf-requests.ts';
export { LegacyPci } from './legacy-pci.ts';
export type { MeshJob } from './mesh.ts';
export { Msix, VectorSpace } from './msix.ts';
export { announcements, type GuestAddresses } from './net-announce.ts';
export { type Coalescing, ControlQueue, type ReceiveMode } from './net-control.ts';
export { AdaptiveModeration } from './net-moderation.ts';
export type { HashOptions, NetConfiguration, RssOptions, VirtioNetOptions } from './net-options.ts';
export { CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN, CHECKSUM_VALID, type FrameSink, type ReceivedFrame, ReceiveQueue } from './net-receive.ts';
export type { RssConfig } from './net-rss.ts';
export { CVQ_STATISTICS, type QueueStatistics, RX_STATISTICS, STATISTICS, type StatisticsRequest, TX_STATISTICS } from './net-stats.ts';
export { NetSteering } from './net-steering.ts';
export { TransmitOffload, TransmitQueue } from './net-transmit.ts';
export type { Nic, NicTransmitQueue } from './nic.ts';
export { type OffloadRequest, requestOffload, segmentPlan } from './offload.ts';
export { PackedRing } from './packed-ring.ts';
export type { Bar } from './pci-bars.ts';
export {
  type Capability,
  type ConfigAccess,
  capabilities,
  EcamAccess,
  extendedCapabilities,
  findCapability,
  findExtendedCapability,
  formatRid,
  PortAccess,
} from './pci-config.ts';
export { type EnumerateOptions, enumeratePci, type PciBus, type PciDevice, type PciTree } from './pci-enumerate.ts';
export { type Delay, disableVirtualFunctions, enableVirtualFunctions, type SriovInfo, sleepOn } from './pci-sriov.ts';
export { ReceivedCheck } from './received-check.ts';
export type { ReplayJob } from './replay.ts';
export type { DriverRing, RingAddresses, RingOptions } from './ring.ts';
export { Segmenter, type SegmentPlan } from './segment.ts';
export type { SinkJob } from './sink.ts';
export { SplitRing } from './split-ring.ts';
export type { SpreadJob } from './spread.ts';
export { DEV_PART, type DevicePart, type NotifyAddress, SriovGroup } from './sriov-group.ts';
export { DEFAULT_RSS_KEY, Toeplitz } from './toeplitz.ts';
export { NET_HASH_TUNNEL, NET_HASH_TYPE, VIRTIO_F, VIRTIO_NET_F, VIRTIO_STATUS } from './virtio-constants.ts';
export { isVirtioNet, VirtioNet } from './virtio-net.ts';
export { QueueKick, VirtioError, type VirtioFault, VirtioPci, type VirtioTransport } from './virtio-pci.ts';
export type { Job, PackedFrames, Workload, WorkloadResult } from './workload.ts';
