// Set-up shared by the ring tests: RAM with a ring in it, a queue over it and the plain driver of its kind.

import { DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { initialPosition, openQueue } from '#virtio/open-queue';
import type { QueueSetup, VirtQueue } from '#virtio/virtqueue';
import { PackedDriver } from './driver-packed.ts';
import { type At, SplitDriver } from './driver-split.ts';

export const RAM_BYTES = 4 * 2 ** 20;
export const DESC = 0x10000;
export const DRIVER = 0x98000;
export const DEVICE = 0xb0000;
export const TABLES = 0x100000;
export const DATA = 0x200000;

export interface WorldOptions {
  readonly packed?: boolean;
  readonly size?: number;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly inOrder?: boolean;
  readonly setup?: Partial<QueueSetup>;
  readonly at?: At;
  /** Split: the free-running index both sides start from. */
  readonly start?: number;
  readonly prepare?: (dma: DmaSpace) => void;
}

export function featuresOf(options: WorldOptions): FeatureSet {
  return FeatureSet.of(
    VIRTIO_F_VERSION_1,
    ...(options.packed ? [VIRTIO_F_RING_PACKED] : []),
    ...(options.eventIdx ? [VIRTIO_F_EVENT_IDX] : []),
    ...((options.indirect ?? true) ? [VIRTIO_F_INDIRECT_DESC] : []),
    ...(options.inOrder ? [VIRTIO_F_IN_ORDER] : []),
  );
}

export function setupOf(options: WorldOptions): QueueSetup {
  return { size: options.size ?? 8, descriptorArea: DESC, driverArea: DRIVER, deviceArea: DEVICE, ...options.setup };
}

export class World {
  readonly ram = new SharedArrayBuffer(RAM_BYTES);
  readonly u8 = new Uint8Array(this.ram);
  readonly view = new DataView(this.ram);
  readonly memory: GuestMemory;
  readonly dma: DmaSpace;
  readonly list: SegmentList;
  readonly features: FeatureSet;
  readonly setup: QueueSetup;
  readonly options: WorldOptions;
  readonly driver: SplitDriver | PackedDriver;
  queue: VirtQueue;

  constructor(options: WorldOptions = {}) {
    this.options = options;
    const memory = new GuestMemory([{ base: 0, size: RAM_BYTES, source: this.ram }]);
    this.memory = memory;
    this.dma = DmaSpace.create(memory);
    options.prepare?.(this.dma);
    this.list = new SegmentList(4096, (memory.slabs[0] as (typeof memory.slabs)[0]).views);
    this.features = featuresOf(options);
    this.setup = setupOf(options);
    this.driver = newDriver(this.ram, this.setup, options);
    if (options.start !== undefined) this.split.startAt(options.start);
    const position = options.start === undefined ? initialPosition(this.features) : { available: options.start, used: options.start };
    this.queue = mustOpen(openQueue(this.setup, position, this.features, this.dma));
  }

  get split(): SplitDriver {
    if (!(this.driver instanceof SplitDriver)) throw new Error('a packed world');
    return this.driver;
  }

  get packed(): PackedDriver {
    if (!(this.driver instanceof PackedDriver)) throw new Error('a split world');
    return this.driver;
  }

  /** Opens the queue again from where it stands, as a hand-over does. */
  reopen(): void {
    this.queue = mustOpen(openQueue(this.setup, this.queue.position, this.features, this.dma));
  }

  pop(): number {
    this.list.truncate(0);
    return this.queue.pop(this.list);
  }
}

export function newDriver(ram: SharedArrayBuffer, setup: QueueSetup, options: WorldOptions): SplitDriver | PackedDriver {
  return options.packed
    ? new PackedDriver(ram, { size: setup.size, ring: setup.descriptorArea, driver: setup.driverArea, device: setup.deviceArea }, options, options.at)
    : new SplitDriver(ram, { size: setup.size, desc: setup.descriptorArea, avail: setup.driverArea, used: setup.deviceArea }, options, options.at);
}

export function mustOpen(queue: VirtQueue | string): VirtQueue {
  if (typeof queue === 'string') throw new Error(queue);
  return queue;
}
