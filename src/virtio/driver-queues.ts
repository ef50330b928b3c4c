// A device's virtqueues as its driver sets them up (virtio 1.4 2.6.1, 4.1.4.3): which there are under the negotiated features, what may be written when, queue reset, notifications.

import type { Doorbell } from '#core/doorbell';
import type { Log } from '#core/log';
import type { VirtioDevice } from './device.ts';
import { type FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET } from './features.ts';
import { QueueRecord, type SavedQueue } from './queue-record.ts';

/** What the control plane says. */
export interface QueueGate {
  readonly features: FeatureSet;
  readonly featuresOk: boolean;
  readonly driverOk: boolean;
  readonly resetting: boolean;
  readonly suspended: boolean;
  readonly legacy: boolean;
}

interface QueueTransport {
  readonly log: Log;
  /** Queue `index` is back in its reset state (its vector too). */
  queueCleared(index: number): void;
}

export class DriverQueues {
  /** With everything offered negotiated. */
  readonly records: readonly QueueRecord[];
  readonly #device: VirtioDevice;
  readonly #gate: QueueGate;
  readonly #transport: QueueTransport;
  #resets = 0;

  constructor(device: VirtioDevice, gate: QueueGate, transport: QueueTransport) {
    this.#device = device;
    this.#gate = gate;
    this.#transport = transport;
    this.records = Array.from({ length: device.queueCount }, () => new QueueRecord());
    this.clear(undefined);
  }

  /** Queue resets under way. */
  get resets(): number {
    return this.#resets;
  }

  /** Administration queues: the last ones. */
  get administration(): { readonly first: number; readonly count: number } {
    const count = this.#device.adminQueueCount ?? 0;
    return { first: this.records.length - count, count };
  }

  /** The queue, if these features have it; every other index reads as size 0. */
  at(index: number): QueueRecord | undefined {
    const queue = this.records[index];
    return queue !== undefined && queue.maxSize > 0 ? queue : undefined;
  }

  /** Enabled and not under reset. */
  live(index: number): boolean {
    const queue = this.records[index];
    return queue?.enabled === true && !queue.resetting;
  }

  /** The queue, if the driver may set it up now. */
  writable(index: number): QueueRecord | undefined {
    const queue = this.at(index);
    const { resetting, suspended, legacy } = this.#gate;
    if (queue !== undefined && !queue.enabled && !queue.resetting && !resetting && !suspended && !legacy) return queue;
    this.#transport.log.guestError('a queue that is enabled, suspended or not there was written', { queue: index });
    return undefined;
  }

  writeSize(index: number, size: number): void {
    const powerOfTwo = !this.#gate.features.has(VIRTIO_F_RING_PACKED);
    if (this.writable(index)?.writeSize(size, powerOfTwo) === false) this.#transport.log.guestError('queue size refused', { queue: index, size });
  }

  enable(index: number): void {
    const queue = this.writable(index);
    if (queue === undefined) return;
    if (!this.#gate.featuresOk) {
      this.#transport.log.guestError('queue enabled before FEATURES_OK', { queue: index });
      return;
    }
    queue.enabled = true;
    if (this.#gate.driverOk) this.#device.startQueue(index);
  }

  /**
   * A legacy driver gives a queue its place, which also enables it: the descriptor, driver and device areas. undefined, page number 0, takes it away: 'resetting', over when
   * `resetting` says so.
   */
  placeLegacy(index: number, areas: readonly [number, number, number] | undefined): 'resetting' | undefined {
    const queue = this.at(index);
    if (queue === undefined || !this.#gate.legacy || this.#gate.resetting || queue.resetting) return undefined;
    if (areas === undefined) {
      if (!queue.enabled) return undefined;
      this.#startReset(index, queue);
      return 'resetting';
    }
    if (queue.enabled) {
      this.#transport.log.guestError('a queue that has an address was given another', { queue: index });
      return undefined;
    }
    queue.addresses.set(areas.flatMap((address) => [address % 2 ** 32, Math.floor(address / 2 ** 32)]));
    queue.enabled = true;
    if (this.#gate.driverOk) this.#device.startQueue(index);
    return undefined;
  }

  // ---- resets ----

  /** As after a reset, with the sizes that `features` allow. */
  clear(features: FeatureSet | undefined): void {
    this.#resets = 0;
    this.records.forEach((queue, index) => {
      queue.clear(this.#device.queueMaxSize(index, features));
    });
  }

  /** A legacy driver's features are settled while it sets queues up: those that have an address stay as they are. */
  resize(features: FeatureSet): void {
    this.records.forEach((queue, index) => {
      if (!queue.enabled) queue.clear(this.#device.queueMaxSize(index, features));
    });
  }

  /** virtio 1.4 2.6.1: resets one queue; over when `resetting` says so. */
  reset(index: number): void {
    const queue = this.at(index);
    if (queue === undefined || queue.resetting || this.#gate.resetting) return;
    if (!this.#gate.features.has(VIRTIO_F_RING_RESET) || this.#gate.suspended) {
      this.#transport.log.guestError('queue reset without RING_RESET, or while suspended', { queue: index });
      return;
    }
    this.#startReset(index, queue);
  }

  #startReset(index: number, queue: QueueRecord): void {
    queue.resetting = true;
    this.#resets++;
    this.#device.stopQueue(index);
    this.poll();
  }

  resetting(index: number): boolean {
    this.poll();
    return this.at(index)?.resetting === true;
  }

  /** Looks which of those under reset have stopped. */
  poll(): void {
    for (let index = 0; index < this.records.length && this.#resets > 0; index++) {
      const queue = this.records[index] as QueueRecord;
      if (!queue.resetting || !this.#device.queueStopped(index)) continue;
      queue.clear();
      this.#resets--;
      this.#transport.queueCleared(index);
    }
  }

  // ---- notifications ----

  /** The doorbell a guest may ring in place of notifying queue `index`, while it is live. */
  kickDoorbell(index: number): Doorbell | undefined {
    return this.#gate.driverOk && this.live(index) ? this.#device.kickDoorbell(index) : undefined;
  }

  /** Looks at every live queue: notifications may have come to nothing while the function could not master the bus. */
  notifyAll(): void {
    for (let index = 0; index < this.records.length; index++) if (this.#gate.driverOk && this.live(index)) this.#device.notify(index);
  }

  /** virtio 1.4 2.1.1 (device MUST NOT): no buffer is consumed before DRIVER_OK, whatever is notified. */
  notify(index: number): void {
    if (this.#gate.driverOk && this.live(index)) this.#device.notify(index);
    else this.#transport.log.guestError('notification for a queue that is not live', { queue: index });
  }

  // ---- saved state ----

  /** `saved` has been checked. */
  restore(features: FeatureSet | undefined, saved: readonly SavedQueue[]): void {
    this.clear(features);
    this.records.forEach((queue, index) => {
      queue.restore(saved[index] as SavedQueue);
    });
  }
}
