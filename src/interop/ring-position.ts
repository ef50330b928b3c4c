// Where a ring starts that nobody here has served yet: from what the front end says, from the ring itself, and from what a process before this one left in the in-flight area.

import type { JournalEntry } from '#backends/turn-journal';
import type { DmaSpace } from '#core/dma-space';
import type { FeatureSet } from '#virtio/features';
import { VIRTIO_F_RING_PACKED } from '#virtio/features';
import type { InflightRegion } from '#virtio/inflight';
import { replayPublish } from '#virtio/open-queue';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { ProtocolError } from './vhost-user-protocol.ts';

/** virtio 1.4 2.8.1: bits 7 and 15 of a packed descriptor's flags. */
const DESC_F_AVAIL = 0x80;
const DESC_F_USED = 0x8000;
const WRAP = 0x8000;

export interface RingPlace {
  readonly index: number;
  readonly setup: QueueSetup;
  readonly features: FeatureSet;
  readonly space: DmaSpace;
  /** As SET_VRING_BASE gave it. */
  readonly base: number;
}

/** What another process left. */
export interface RingRemains {
  readonly region: InflightRegion;
  readonly staging: Int32Array | undefined;
  /** A publish that was committed, and may not have been carried out. */
  readonly committed: JournalEntry | undefined;
}

/**
 * From the base. What a former back end took and never returned is taken again, as nobody else will return it: so a ring goes on from its used position, which for
 * a split ring only memory knows. @throws ProtocolError
 */
export function firstPosition({ index, setup, features, space, base }: RingPlace): VringPosition {
  if (features.has(VIRTIO_F_RING_PACKED)) {
    // DPDK gives the available half alone and means both; a used half of 0 besides another position would be a whole ring in flight.
    let used = base >>> 16 || base & 0xffff;
    // User-mode Linux says 0 and means the start, where the wrap counters are 1. A ring that really stands there has been round once, and shows it.
    if (used === 0 && !hasUsed(space, setup)) used = WRAP;
    return { available: used, used };
  }
  const used = usedIndex(index, space, setup);
  return { available: used, used };
}

function usedIndex(index: number, space: DmaSpace, setup: QueueSetup): number {
  const used = space.load16(setup.deviceArea + 2);
  if (used < 0) throw new ProtocolError(`ring ${index}: its used index cannot be read`);
  return used;
}

/** Whether a packed ring has a descriptor with the USED flag: one that never went round has none. */
function hasUsed(space: DmaSpace, { size, descriptorArea }: QueueSetup): boolean {
  for (let i = 0; i < size; i++) {
    const flags = space.load16(descriptorArea + 16 * i + 14);
    if (flags < 0) return false;
    if ((flags & DESC_F_USED) !== 0) return true;
  }
  return false;
}

/**
 * Where a ring stands whose back end died, with the publish finished that it had begun. A reason in place of that when nobody can say. @throws ProtocolError
 */
export function remainingPosition(place: RingPlace, { region, staging, committed }: RingRemains): VringPosition | string {
  const { index, setup, features, space } = place;
  const packed = features.has(VIRTIO_F_RING_PACKED);
  let used = packed ? packedUsed(region, space, setup) : usedIndex(index, space, setup);
  if (packed && (used & 0x7fff) >= setup.size) return `its in-flight region says that it stands at ${used & 0x7fff} of ${setup.size}`;
  // The publish belongs to this ring as it stands now, or to none.
  if (committed !== undefined && (used === committed.usedFrom || used === committed.used)) {
    if (!replayPublish(setup, features, space, committed.usedFrom, committed.used, staging)) return 'the publish that was under way cannot be finished';
    used = committed.used;
  }
  const noted = region.inFlight();
  if (noted.length > 0) {
    // Of a back end of another kind. In order, they are the ones that come next in the ring anyway.
    if (packed || !areNext(space, setup, used, noted))
      return `${noted.length} descriptors are in flight from another back end, out of order: they are not taken over`;
    region.clearInFlight();
  }
  return { available: used, used };
}

/** Where a packed ring stands by its in-flight region; undefined when the ring itself shows that the region is out of date: a back end need not have kept it. */
export function packedPosition(region: InflightRegion, space: DmaSpace, setup: QueueSetup): number | undefined {
  const used = packedUsed(region, space, setup);
  if ((used & 0x7fff) >= setup.size) return undefined;
  const flags = space.load16(setup.descriptorArea + 16 * (used & 0x7fff) + 14);
  return flags < 0 || (flags & (DESC_F_AVAIL | DESC_F_USED)) === usedFlags(used) ? undefined : used;
}

/** Flags of a descriptor that was used in the lap of a position. */
function usedFlags(position: number): number {
  return (position & WRAP) !== 0 ? DESC_F_AVAIL | DESC_F_USED : 0;
}

/** A publish that had begun is either there, as its first descriptor shows, or it is not. */
function packedUsed(region: InflightRegion, space: DmaSpace, { size, descriptorArea }: QueueSetup): number {
  const { used, oldUsed } = region;
  if (used === oldUsed || (oldUsed & 0x7fff) >= size) return used;
  const flags = space.load16(descriptorArea + 16 * (oldUsed & 0x7fff) + 14);
  return flags >= 0 && (flags & (DESC_F_AVAIL | DESC_F_USED)) === usedFlags(oldUsed) ? used : oldUsed;
}

/** Whether these heads are exactly the entries of the available ring from `used` on. */
function areNext(space: DmaSpace, { size, driverArea }: QueueSetup, used: number, heads: readonly number[]): boolean {
  const next = heads.map((_, i) => space.load16(driverArea + 4 + 2 * ((used + i) & (size - 1))));
  return heads.every((head) => next.includes(head));
}
