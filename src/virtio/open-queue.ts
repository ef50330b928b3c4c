// From what a driver wrote to a live queue: the checks that make an untrusted QueueSetup safe to serve (virtio 1.4 2.7, 2.8.10, 4.1.4.3), once, before
// anything is read through it. Nothing here throws: the driver's errors come back as a reason. That a size is within what the device offered is the device's check.

import type { DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { type FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from './features.ts';
import { PackedQueue } from './packed.ts';
import { replayPacked } from './packed-used.ts';
import { replaySplit, SplitQueue } from './split.ts';
import type { QueueSetup, RingFeatures, VirtQueue, VringPosition } from './virtqueue.ts';

const MAXIMUM_QUEUE_SIZE = 32768;

/** Where a ring that was just set up starts: split indices at 0; packed offsets at 0 with both wrap counters 1. */
export function initialPosition(features: FeatureSet): VringPosition {
  const start = features.has(VIRTIO_F_RING_PACKED) ? 0x8000 : 0;
  return { available: start, used: start };
}

/** Bytes of the buffer that makes a queue's publishes repeatable by `replayPublish`; 0: this format needs none. */
export function stagingBytes(size: number, features: FeatureSet): number {
  return features.has(VIRTIO_F_RING_PACKED) ? 8 * size : 0;
}

/**
 * Carries out, on another thread's behalf, the publish that would have moved a ring's used position from `from` to `to` (it may have happened, in part or whole: that does
 * not matter). For after the thread died; the driver is to be notified afterwards. False when the ring is not memory the device may use any more.
 */
export function replayPublish(setup: QueueSetup, features: FeatureSet, dma: DmaSpace, from: number, to: number, staging: Int32Array | undefined): boolean {
  if (!features.has(VIRTIO_F_RING_PACKED)) return replaySplit(setup, dma, to);
  return staging !== undefined && replayPacked(setup, dma, from, to, staging);
}

/**
 * Opens a queue at `position`, or says why it cannot be served. Call inside a turn (`dma.enter()`) on a thread other than the machine's.
 * @param staging shared memory of `stagingBytes`, when another thread may have to finish what this one began.
 */
export function openQueue(setup: QueueSetup, position: VringPosition, features: FeatureSet, dma: DmaSpace, staging?: Int32Array): VirtQueue | string {
  const packed = features.has(VIRTIO_F_RING_PACKED);
  const wrong = checkSize(setup.size, packed) ?? checkAreas(setup, packed) ?? checkPosition(position, setup.size, packed);
  if (wrong !== undefined) return wrong;
  dma.sync();
  const ring: RingFeatures = {
    indirect: features.has(VIRTIO_F_INDIRECT_DESC),
    eventIdx: features.has(VIRTIO_F_EVENT_IDX),
    inOrder: features.has(VIRTIO_F_IN_ORDER),
  };
  const none = new SegmentList(0, (dma.memory.slabs[0] as { views: SegmentList['views'][number] }).views);
  const queue = packed ? new PackedQueue(setup, position, ring, dma, none, staging) : new SplitQueue(setup, position, ring, dma, none);
  return queue.broken ?? queue;
}

function checkSize(size: number, packed: boolean): string | undefined {
  if (!(Number.isInteger(size) && size >= 1 && size <= MAXIMUM_QUEUE_SIZE)) return `queue size ${size} is not 1 to ${MAXIMUM_QUEUE_SIZE}`;
  if (!packed && (size & (size - 1)) !== 0) return `queue size ${size} is not a power of two`;
  return undefined;
}

function checkAreas(setup: QueueSetup, packed: boolean): string | undefined {
  return (
    checkAddress('descriptor area', setup.descriptorArea, 16) ??
    checkAddress('driver area', setup.driverArea, packed ? 4 : 2) ??
    checkAddress('device area', setup.deviceArea, 4)
  );
}

function checkAddress(what: string, address: number, alignment: number): string | undefined {
  if (!(Number.isSafeInteger(address) && address >= 0 && address < ADDRESS_LIMIT)) return `${what} at ${address} is outside memory`;
  if (address % alignment !== 0) return `${what} at 0x${address.toString(16)} is not aligned to ${alignment}`;
  return undefined;
}

function checkPosition({ available, used }: VringPosition, size: number, packed: boolean): string | undefined {
  const fits = (value: number): boolean => Number.isInteger(value) && value >= 0 && value <= 0xffff && (!packed || (value & 0x7fff) < size);
  const sound = fits(available) && fits(used) && inFlight(available, used, size, packed) <= size;
  return sound ? undefined : `position available ${available} used ${used} is not one of a ring of ${size}`;
}

/** Entries (split) or descriptors (packed) between used and available; above `size` when the two do not fit each other. */
function inFlight(available: number, used: number, size: number, packed: boolean): number {
  if (!packed) return (available - used) & 0xffff;
  const sameLap = (available & 0x8000) === (used & 0x8000);
  const count = (available & 0x7fff) - (used & 0x7fff) + (sameLap ? 0 : size);
  return count < 0 ? size + 1 : count;
}
