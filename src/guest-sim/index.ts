// The synthetic guest: enumeration, a virtio-net driver and workloads, written from the specifications alone and knowing nothing of the devices it drives.

export { GuestArena, GuestOutOfMemoryError } from './arena.ts';
export type { CompareJob, FrameStore } from './compare.ts';
export type { EchoJob, PingJob } from './echo.ts';
export { chooseFeatures, DRIVER_FEATURES, featureMask, hasFeature } from './features.ts';
export type { GenerateJob } from './generator.ts';
export { Guest, type GuestOptions, type GuestReport } from './guest.ts';
export type { GuestSummary } from './guest-protocol.ts';
export { GuestThread, GuestThreadError, type GuestThreadOptions } from './guest-thread.ts';
export { Histogram } from './histogram.ts';
export { Msix, VectorSpace } from './msix.ts';
export { ControlQueue, type ReceiveMode } from './net-control.ts';
export type { NetConfiguration, VirtioNetOptions } from './net-options.ts';
export { CHECKSUM_PARTIAL, CHECKSUM_UNKNOWN, CHECKSUM_VALID, type FrameSink, type ReceivedFrame, ReceiveQueue } from './net-receive.ts';
export { TransmitOffload, TransmitQueue } from './net-transmit.ts';
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
export type { ReplayJob } from './replay.ts';
export type { DriverRing, RingAddresses, RingOptions } from './ring.ts';
export type { SinkJob } from './sink.ts';
export { SplitRing } from './split-ring.ts';
export { VIRTIO_F, VIRTIO_NET_F, VIRTIO_STATUS } from './virtio-constants.ts';
export { isVirtioNet, VirtioNet } from './virtio-net.ts';
export { QueueKick, VirtioError, type VirtioFault, VirtioPci } from './virtio-pci.ts';
export type { Job, PackedFrames, Workload, WorkloadResult } from './workload.ts';
