// A vDPA device: hardware whose data path is virtio's and whose control path is its maker's. It is a VhostBackend taken apart to what vhost-vdpa's requests say: a device
// status with FEATURES_OK and DRIVER_OK, a configuration space, rings in groups, address spaces of its own that are filled with translations, suspension, and
// doorbells that a guest writes itself. A VhostBackend over one (src/backends/vdpa-*.ts) passes the guest's rings through, or puts shadow virtqueues in between.
// Everything is called on the machine's thread. What the caller does against the order of things throws; what the device meets later is an event.

import type { Clock } from '#core/clock';
import type { DmaFault, DmaMapping } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { GuestMemory } from '#core/guest-memory';
import type { Call } from '#core/interrupts';
import type { FeatureSet } from './features.ts';
import type { NetPolicy } from './net-policy.ts';
import type { NetStatistics } from './net-statistics.ts';
import type { VhostEvent, VringState } from './vhost.ts';
import type { QueueSetup, VringPosition } from './virtqueue.ts';

export type VdpaEvent =
  | VhostEvent
  /** The device asked an address space for what it does not map, or not so. At most the newest 16 keep their details. */
  | { readonly kind: 'fault'; readonly addressSpace: number; readonly count: number; readonly faults: readonly DmaFault[] }
  /** The configuration space changed, and with it its generation. */
  | { readonly kind: 'config' }
  /** Another owner took the device: this one's rings, translations and status are gone. */
  | { readonly kind: 'released' };

/** Who drives the device: one at a time. */
export interface VdpaOwner {
  vdpaEvent(event: VdpaEvent): void;
}

/** What the emulated control plane decides. Of the words the device goes by those that no control queue carries: link, MTU, flow rules, which rings there are. */
export interface VdpaControl {
  readonly policy: NetPolicy;
  readonly statistics?: NetStatistics | undefined;
  readonly clock?: Clock | undefined;
}

/** Dirty tracking in the device, by page of the memory it is bound to. */
export interface VdpaDirtyLog {
  /** From here on every write is logged; starts with no page dirty. */
  start(): void;
  stop(): void;
  /** Takes and clears the pages written: addresses as mappings name them, ascending. */
  take(): number[];
}

export interface VdpaDevice {
  readonly name: string;
  /** virtio 1.4 5: which kind of device. */
  readonly deviceId: number;
  /** The control queue with them. */
  readonly vringCount: number;
  /** Which of them the control queue is (virtio 1.4 5.1.2, with as many pairs as there are): the last, behind the data queues. Split, without event index and indirect tables, whatever was negotiated. */
  readonly controlVring: number;
  readonly maxVringSize: number;
  readonly features: FeatureSet;
  /** The data path follows the flow rules in the policy words. */
  readonly flowFilter: boolean;
  /** Device addresses that can be mapped: first to last. */
  readonly iovaRange: { readonly first: number; readonly last: number };
  /** Rings that reach memory through the same address space are a group: data queues are group 0, the control queue group 1. */
  readonly groups: number;
  readonly addressSpaces: number;
  /** Absent: the device tracks nothing, and only shadow virtqueues know what it wrote. */
  readonly dirtyLog?: VdpaDirtyLog;

  /**
   * Takes the device, in its reset state, with nothing mapped; who had it before hears of it. `memory` is what mappings lead to. @throws TypeError while a ring runs, or unless the
   * memory is shared.
   */
  setOwner(owner: VdpaOwner, memory: GuestMemory): void;

  // ---- configuration space: little-endian, as virtio 1.4 5.1.4 lays it out for a network device ----

  /** Bytes beyond its end read as 0. */
  readConfig(offset: number, length: number): Uint8Array;
  /** What is not writable keeps its value. */
  writeConfig(offset: number, bytes: Uint8Array): void;
  /** Moves with every change that the device made: the same before and after a read of several fields, they fit together. */
  readonly configGeneration: number;

  // ---- status ----

  /** virtio 1.4 2.1. FEATURES_OK stays clear when the features are not ones it has; 0 is read after a reset only once no ring is being served any more. */
  status: number;
  /** Before FEATURES_OK. */
  driverFeatures: FeatureSet;
  /** Before DRIVER_OK. */
  setControl(control: VdpaControl): void;
  /** The control words changed. Between turns. */
  controlChanged(): void;
  /** There are commands in the control queue: on return they have been carried out and answered. Between turns. */
  kickControl(): void;
  /** Sends a frame in the driver's place that says where this station is (a RARP broadcast). */
  announceStation(mac: Uint8Array): boolean;

  // ---- rings, while not ready ----

  setVringSize(index: number, size: number): void;
  setVringAddresses(index: number, areas: Omit<QueueSetup, 'size'>): void;
  /** Where to begin, and, once the ring is not being served any more, where it stands. */
  setVringPosition(index: number, position: VringPosition): void;
  vringPosition(index: number): VringPosition;
  /** Of a data queue: who drives the control queue knows when it is served. */
  setVringCall(index: number, call: Call): void;
  /** Of a data queue: the word that tells the device of available buffers. A guest may write it itself, and no exit is taken. */
  vringDoorbell(index: number): Doorbell;
  /** Ready rings are served from DRIVER_OK on. One that is no longer ready stops after the frames in hand: observe `vringState`. One that is broken or lost is no longer ready. */
  setVringReady(index: number, ready: boolean): void;
  vringState(index: number): VringState;

  // ---- address spaces ----

  vringGroup(index: number): number;
  groupAddressSpace(group: number): number;
  /** Before DRIVER_OK. After a reset each group has address space 0. */
  setGroupAddressSpace(group: number, addressSpace: number): void;
  /** @throws RangeError when it overlaps a mapping, is not page aligned or leaves the range */
  map(addressSpace: number, mapping: DmaMapping): void;
  /** On return, or at the end of the batch, the device cannot be using what was mapped there. Returns the bytes that were. */
  unmap(addressSpace: number, iova: number, size: number): number;
  /** Between begin and end the device goes on with what it had; then all changes take effect at once. Nests. */
  beginBatch(): void;
  endBatch(): void;
  /** Bus mastering of the function in front of it. Cleared: on return the data queues touch no memory, and hold still. The control queue is the host's. */
  busMaster: boolean;
  /** Runs `write` while the device is between two turns of its data queues. */
  betweenTurns(write: () => void): void;

  // ---- suspension ----

  /** Asks every ring to stop where it is, its state kept. */
  suspend(): void;
  /** It has: no memory is touched any more. */
  readonly suspended: boolean;
  /** Goes on with every ready ring. */
  resume(): void;
}
