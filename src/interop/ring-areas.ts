// Where a ring lies in guest memory, from where its front end says: addresses of its own process, or of its IOMMU.

import { DMA_READ, DMA_WRITE } from '#core/dma-space';
import type { QueueSetup } from '#virtio/virtqueue';
import type { FrontMemory } from './front-memory.ts';
import { ProtocolError, type VringAddresses } from './vhost-user-protocol.ts';

/** @throws ProtocolError when a part of it is not in the front end's memory */
export function ringSetup(index: number, size: number, addresses: VringAddresses, packed: boolean, memory: FrontMemory): QueueSetup {
  const place = (what: string, address: number, bytes: number): number => {
    // virtio's own addresses then, not the front end's.
    if (memory.translated) return address;
    const guest = memory.guestAddress(address, bytes);
    if (guest === undefined) throw new ProtocolError(`ring ${index}: ${what} of ${bytes} bytes at 0x${address.toString(16)} is not in any memory region`);
    return guest;
  };
  return {
    size,
    descriptorArea: place('descriptor table', addresses.descriptor, 16 * size),
    driverArea: place('available ring', addresses.available, packed ? 4 : 6 + 2 * size),
    deviceArea: place('used ring', addresses.used, packed ? 4 : 6 + 8 * size),
  };
}

/** Whether all of the ring can be reached now; asks for the translations that are missing. */
export function ringReachable({ size, descriptorArea, driverArea, deviceArea }: QueueSetup, packed: boolean, memory: FrontMemory): boolean {
  if (!memory.translated) return true;
  const areas = [
    memory.reaches(descriptorArea, 16 * size, packed ? DMA_READ | DMA_WRITE : DMA_READ),
    memory.reaches(driverArea, packed ? 4 : 6 + 2 * size, DMA_READ),
    memory.reaches(deviceArea, packed ? 4 : 6 + 8 * size, packed ? DMA_WRITE : DMA_READ | DMA_WRITE),
  ];
  return !areas.includes(false);
}

/** What the data plane wrote last to a ring was logged before it was written: a front end that took its log in between would miss it. */
export function logRing({ size, descriptorArea, deviceArea }: QueueSetup, packed: boolean, memory: FrontMemory): void {
  memory.markDirty(packed ? descriptorArea : deviceArea, packed ? 16 * size : 6 + 8 * size);
  if (packed) memory.markDirty(deviceArea, 4);
}
