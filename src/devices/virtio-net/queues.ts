// A network device's virtqueues under the indices its driver knows them by (virtio 1.4 5.1.2): receiveq1, transmitq1, ..., the control queue after the last pair that was negotiated, the administration
// queue last of all. Data rings are the data plane's; commands are served here, on the machine's thread. What is held still, saved and restored, is all of them.

import type { VirtioHost } from '#virtio/device';
import { type FeatureSet, VIRTIO_F_ADMIN_VQ } from '#virtio/features';
import { hasQueuePairs, VIRTIO_NET_F_CTRL_VQ } from '#virtio/net-features';
import type { VringPosition } from '#virtio/virtqueue';
import type { CommandQueue } from './command-queue.ts';
import { ControlQueue } from './control-queue.ts';
import type { DataPlane } from './data-plane.ts';
import { AdminQueue, type AdminQueueOptions } from './net-admin.ts';

const CONTROL_QUEUE_SIZE = 64;
const ADMIN_QUEUE_SIZE = 64;

export interface NetQueuesOptions {
  readonly offered: FeatureSet;
  readonly pairs: number;
  /** Of a data queue, at most. */
  readonly size: number;
}

/** What commands lead to. */
export interface CommandHandlers {
  readonly control: ConstructorParameters<typeof ControlQueue>[2];
  /** undefined: there is no administration queue. */
  readonly administration: AdminQueueOptions | undefined;
}

export interface QueuePositions {
  /** Of each data ring; null: not live. */
  readonly positions: readonly (VringPosition | null)[];
  readonly control: VringPosition | null;
  readonly admin: VringPosition | null;
}

export class NetQueues {
  readonly count: number;
  readonly adminCount: number;
  readonly #options: NetQueuesOptions;
  readonly #data: DataPlane;
  #host: VirtioHost | undefined;
  #control: ControlQueue | undefined;
  #admin: AdminQueue | undefined;
  #restored: readonly (VringPosition | null)[] = [];

  constructor(options: NetQueuesOptions, data: DataPlane) {
    this.#options = options;
    this.#data = data;
    this.adminCount = options.offered.has(VIRTIO_F_ADMIN_VQ) ? 1 : 0;
    this.count = 2 * options.pairs + (options.offered.has(VIRTIO_NET_F_CTRL_VQ) ? 1 : 0) + this.adminCount;
  }

  attach(host: VirtioHost, { control, administration }: CommandHandlers): void {
    this.#host = host;
    this.#data.attach(host);
    this.#control = new ControlQueue(host, CONTROL_QUEUE_SIZE, control);
    if (administration) this.#admin = new AdminQueue(host, ADMIN_QUEUE_SIZE, administration);
  }

  // ---- which is which ----

  /** Queue pairs under these features; undefined: not negotiated yet. */
  pairs(features: FeatureSet | undefined): number {
    return features === undefined || hasQueuePairs(features) ? this.#options.pairs : 1;
  }

  /** The largest size of queue `index`; 0: there is none under these features. */
  maxSize(index: number, features: FeatureSet | undefined): number {
    const dataQueues = 2 * this.pairs(features);
    const has = (bit: number): boolean => (features ?? this.#options.offered).has(bit);
    if (index < dataQueues) return this.#options.size;
    if (index >= this.count - this.adminCount) return has(VIRTIO_F_ADMIN_VQ) ? ADMIN_QUEUE_SIZE : 0;
    return index === dataQueues && has(VIRTIO_NET_F_CTRL_VQ) ? CONTROL_QUEUE_SIZE : 0;
  }

  /** Index of the control queue under the negotiated features, or -1. */
  get #controlIndex(): number {
    const features = this.#host?.features;
    return features?.has(VIRTIO_NET_F_CTRL_VQ) ? 2 * this.pairs(features) : -1;
  }

  /** The command queue that queue `index` is under the negotiated features; undefined: it is a data queue. */
  #commands(index: number): CommandQueue | undefined {
    if (index === this.#controlIndex) return this.#control;
    return index >= this.count - this.adminCount ? this.#admin : undefined;
  }

  // ---- life ----

  /** DRIVER_OK: all that are enabled, where they were restored to or from the beginning. Data rings run after `DataPlane.launch`. */
  startAll(): void {
    const host = this.#host as VirtioHost;
    this.#data.begin();
    for (let index = 0; index < this.count; index++) if (host.queueEnabled(index)) this.start(index);
    this.#restored = [];
  }

  start(index: number): void {
    const commands = this.#commands(index);
    if (commands === undefined) this.#data.start(index, this.#restored[index] ?? undefined);
    // While held it opens later, where it stood.
    else if (this.#data.holds === 0) commands.open(index);
  }

  notify(index: number): void {
    const commands = this.#commands(index);
    if (commands === undefined) this.#data.kick(index);
    else commands.serve();
  }

  /** Queue reset. Returns whether it is a data ring, which stops in its own time. */
  stop(index: number): boolean {
    const commands = this.#commands(index);
    if (commands) commands.close();
    else this.#data.stop(index);
    return commands === undefined;
  }

  stopped(index: number): boolean {
    return this.#commands(index) !== undefined || this.#data.stopped(index);
  }

  /** Reset, NEEDS_RESET, FAILED: nothing is wanted any more, and no position kept. */
  stopAll(): void {
    this.#control?.close();
    this.#admin?.close();
    this.#restored = [];
    this.#data.stopAll();
  }

  /** All stop where they are. @param by HELD_* */
  hold(by: number): void {
    this.#control?.park();
    this.#admin?.park();
    this.#data.hold(by);
  }

  /** Data rings go on once nobody holds them any more; then `resumeCommands`. */
  release(by: number): void {
    this.#data.release(by);
  }

  /** Command queues go on if nobody holds the device: what they are told has to find it as it will be. */
  resumeCommands(): void {
    for (const index of [this.#controlIndex, this.#admin ? this.count - 1 : -1])
      if (index >= 0 && this.#data.holds === 0 && this.#host?.driverOk && this.#host.queueEnabled(index)) this.#commands(index)?.unpark(index);
  }

  // ---- positions ----

  /** Restored, and not started since. */
  get restored(): boolean {
    return this.#restored.length > 0;
  }

  /** Where a queue stands that has stopped; undefined: not live. */
  position(index: number): VringPosition | undefined {
    const commands = this.#commands(index);
    if (commands) return commands.position;
    return this.#restored[index] ?? this.#data.positions()[index] ?? undefined;
  }

  save(): QueuePositions {
    const control = this.#control?.position;
    return {
      // As they were, until they have started.
      positions: this.restored ? [...this.#restored] : this.#data.positions(),
      control: control ? { available: control.available, used: control.used } : null,
      admin: this.#admin?.position ?? null,
    };
  }

  /** What has been checked. All have stopped. */
  restore({ positions, control, admin }: QueuePositions): void {
    this.#control?.restore(control ?? undefined);
    if (this.#admin) this.#admin.restore(admin ?? undefined);
    this.#restored = positions;
  }
}
