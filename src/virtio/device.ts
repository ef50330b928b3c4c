// A virtio device without its transport, and what a transport gives it. The device says what it offers and serves its queues; `VirtioControl` (control.ts) holds
// the status machine, the negotiated features and what the driver wrote of each queue; a transport (pci-transport.ts) puts registers in front.

import type { Clock } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import type { Log } from '#core/log';
import type { Envelope } from '#core/saved';
import type { DevicePart } from './device-parts.ts';
import type { FeatureSet } from './features.ts';
import type { QueueSetup, VringPosition } from './virtqueue.ts';

/** An embedder asked for what cannot be. `code` is stable. */
export class VirtioOptionError extends RangeError {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** Something still runs that must have stopped first. `code` is stable. */
export class BusyError extends Error {
  readonly code = 'NICBOX_BUSY';
}

/** What the device may use, from `attach` on. All of it on the machine's thread. */
export interface VirtioHost {
  readonly memory: DmaSpace;
  readonly clock: Clock;
  readonly log: Log;
  /** Negotiated features; empty before FEATURES_OK. */
  readonly features: FeatureSet;
  readonly driverOk: boolean;
  /** The driver uses the legacy interface: no feature past bit 31, and what it may write of configuration space. */
  readonly legacy: boolean;
  /** The driver has suspended the device: configuration space is not to change. */
  readonly suspended: boolean;
  /** Enabled and not in reset. */
  queueEnabled(index: number): boolean;
  /** As the driver wrote it: untrusted. */
  queueSetup(index: number): QueueSetup;
  /** The queue's interrupt; the same object for the device's life. */
  call(index: number): Call;
  /** Configuration space changed on the device's own account: moves the generation and notifies the driver. */
  configChanged(): void;
  /** Configuration space changed on the driver's own demand, or by a reset: moves the generation, notifies nobody. */
  configMoved(): void;
  /** virtio 1.4 2.1.2 (device SHOULD): the device cannot go on. Stops it, sets DEVICE_NEEDS_RESET and notifies. */
  needsReset(reason: string): void;
}

/** The device type's side of device parts (device-parts.ts). States are those of `save`. */
export interface DevicePartsSource {
  /** Now, also while queues run; positions are then of no use. */
  state(): Envelope;
  /** Device type specific parts of `state`, in order. */
  read(state: unknown, features: FeatureSet): DevicePart[];
  /** `state` with one part changed; undefined: no part of this device, or not one that a driver could have brought about. */
  write(state: unknown, part: DevicePart, features: FeatureSet): unknown | undefined;
  /** A device after a reset, whose driver has negotiated `features` since. */
  negotiated(state: unknown, features: FeatureSet): unknown;
  /** `state` with queues where `positions` has them; null: not live. */
  place(state: unknown, positions: readonly (VringPosition | null)[], features: FeatureSet): unknown;
  /** By queue; undefined: not live. */
  position(index: number): VringPosition | undefined;
  /** The most bytes that the values of `read` can have, and how many parts there can be. */
  readonly bounds: { readonly bytes: number; readonly parts: number };
}

export interface VirtioDevice {
  /** "virtio-net". */
  readonly name: string;
  /** virtio 1.4 5: 1 is a network card. */
  readonly type: number;
  /** Everything offered but the transport's own bits (NOTIFICATION_DATA, NOTIF_CONFIG_DATA). */
  readonly offered: FeatureSet;
  /** Queues with everything offered negotiated. */
  readonly queueCount: number;
  /** How many of them, the last ones, are administration queues (VIRTIO_F_ADMIN_VQ); absent: none. */
  readonly adminQueueCount?: number;
  /** Largest size of queue `index`, a power of two; 0: no such queue under these features (undefined: not negotiated yet). */
  queueMaxSize(index: number, features: FeatureSet | undefined): number;
  /** Bytes of device configuration space; 0: this type has none. */
  readonly configSize: number;
  /** `offset + size` is within `configSize`; of any alignment. No side effects. */
  configRead(offset: number, size: number): number;
  configWrite(offset: number, size: number, value: number): void;
  /** Why this set, a subset of what is offered, cannot work together; undefined: accepted. @param legacy negotiated through the legacy interface */
  refuses(features: FeatureSet, legacy: boolean): string | undefined;
  /** Once, before anything else. */
  attach(host: VirtioHost): void;
  /** FEATURES_OK was accepted. */
  negotiated(): void;
  /** DRIVER_OK: serve the enabled queues. */
  start(): void;
  /** A queue was enabled after DRIVER_OK (re-enabled after a queue reset). */
  startQueue(index: number): void;
  /** Queue reset: asks the queue to stop; over when `queueStopped`. Its position is forgotten. */
  stopQueue(index: number): void;
  queueStopped(index: number): boolean;
  /** VIRTIO_F_SUSPEND: asks every queue to stop where it is, what it used to be shown and called for first; over when `quiet`. */
  suspend(): void;
  /** After `suspend`: nothing touches a queue or calls any more. Looks at the backend's shared state itself. */
  readonly quiet: boolean;
  /** The driver resumes: queues go on where they were, and configuration space shows what changed meanwhile. */
  unsuspend(): void;
  /**
   * The owner of its group stops it (virtio 1.4 2.12.1.4), unseen by the driver: queues as for `suspend`, over when `quiet`, and configuration space stands still. A reset by the driver
   * does not end that.
   */
  freeze(): void;
  thaw(): void;
  /** Asks everything to stop: reset, DEVICE_NEEDS_RESET, FAILED. Idempotent. */
  stop(): void;
  /** Nothing touches guest memory or interrupts any more. Looks at the backend's shared state itself: the event loop may not run meanwhile. */
  readonly stopped: boolean;
  /** Back to the state after power-on; only called once stopped. */
  reset(): void;
  /** The driver's available buffer notification. */
  notify(index: number): void;
  /** Looks for what a backend has to say (a broken ring, a finished stop); called when the driver reads the status. */
  poll(): void;
  /** Doorbell a guest may ring in place of notifying queue `index`, if there is one now; the device revokes it when that ends. */
  kickDoorbell(index: number): Doorbell | undefined;
  /** What the transport does not know. @throws Error with code NICBOX_BUSY unless paused or not running. */
  save(): Envelope;
  /** Checks all of it, changing nothing, and returns what takes it over; the device is then as if paused, if `paused`. @throws RestoreError */
  restore(saved: unknown, features: FeatureSet): (paused: boolean) => void;
  /** Length of each field of device configuration space, from offset 0 on; what the legacy commands of a group's owner may access at once. */
  readonly configFields?: readonly number[];
  /** What the owner of its group saves and sets of it, beyond what every device has; absent: it has no device parts. */
  readonly parts?: DevicePartsSource;
}
