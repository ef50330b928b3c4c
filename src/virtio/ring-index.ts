// Where a device stands in a ring, told through the ring itself: virtio 1.4 2.14 has no device part for it. A device that is stopped has used every buffer it has seen (2.12.1.4.3), so
// one number says it all. A split ring has that number, its used index. A packed ring has none; there the stopping device leaves the place of the next descriptor, with the wrap
// counter, in its event suppression structure (2.8.10), which is its own to write and says the same while notifications are asked for by place.

import { DMA_READ, DMA_WRITE, type DmaSpace } from '#core/dma-space';
import { type FeatureSet, VIRTIO_F_RING_PACKED } from './features.ts';
import { initialPosition } from './open-queue.ts';
import type { QueueSetup, VringPosition } from './virtqueue.ts';

/** Before a stop counts as done. */
export function leaveIndex({ deviceArea }: QueueSetup, position: VringPosition, features: FeatureSet, memory: DmaSpace): void {
  memory.sync();
  if (features.has(VIRTIO_F_RING_PACKED) && memory.window(deviceArea, 2, DMA_WRITE) !== null) memory.store16(deviceArea, position.available);
}

/** Of a ring that cannot be reached: its beginning; whoever opens it finds out. */
export function findIndex({ deviceArea, size }: QueueSetup, features: FeatureSet, memory: DmaSpace): VringPosition {
  const packed = features.has(VIRTIO_F_RING_PACKED);
  const at = packed ? deviceArea : deviceArea + 2;
  memory.sync();
  if (at % 2 !== 0 || memory.window(at, 2, DMA_READ) === null) return initialPosition(features);
  const index = memory.load16(at);
  // Left by the device, but where a driver can write.
  return packed && (index & 0x7fff) >= size ? initialPosition(features) : { available: index, used: index };
}
