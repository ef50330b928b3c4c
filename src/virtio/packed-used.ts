// Used entries of a packed ring on their way into it (virtio 1.4 2.8.2, 2.8.9). They are staged and written at publish only, because they overwrite descriptors that
// would be taken again if the device stopped before; staged in shared memory, a publish can be carried out by another thread after this one died.

import type { DmaSpace } from '#core/dma-space';
import { DESC_F_WRITE, DESCRIPTOR_BYTES } from './chain.ts';
import { RingArea } from './ring-area.ts';
import type { QueueSetup } from './virtqueue.ts';

// The last word of a descriptor: id in the low half, flags in the high half.
const AVAIL = 1 << 23;
const USED = 1 << 31;
const LAP_BITS = AVAIL | USED;
const WRITTEN = DESC_F_WRITE << 16;
const WRAP = 0x8000;
const WORD3 = 12;
const DESCRIPTOR = DESCRIPTOR_BYTES;

/**
 * Writes staged used entries from slot `from` on, the first one's last word after all else: the driver reads entries in ring order, so it sees all or none. Others may write what
 * is staged (an in-flight area's): what no chain can have had ends it.
 */
export function writeStaged(ring: RingArea, size: number, from: number, bits: number, staged: Int32Array, count: number): void {
  const firstWord = usedWord(staged[0] as number, staged[1] as number, bits);
  const { scattered } = ring;
  let { words } = ring;
  let base = ring.bias >> 2;
  let slot = from;
  for (let i = 0; i < count; i++) {
    const entry = staged[2 * i] as number;
    const written = staged[2 * i + 1] as number;
    if (scattered) {
      ring.seek(DESCRIPTOR * slot);
      words = ring.words;
      base = ring.bias >> 2;
    }
    const at = (base + (slot << 2)) | 0;
    words[(at + 2) | 0] = written;
    if (i > 0) words[(at + 3) | 0] = usedWord(entry, written, bits);
    const step = (entry >>> 16) + 1;
    if (step > size) break;
    slot += step;
    if (slot >= size) {
      slot -= size;
      bits ^= LAP_BITS;
    }
  }
  // Release: the entries before what reveals them.
  ring.store32(DESCRIPTOR * from + WORD3, firstWord);
}

function usedWord(entry: number, written: number, bits: number): number {
  return (entry & 0xffff) | bits | (written !== 0 ? WRITTEN : 0);
}

/** Marks the slots from the first of the batch to the next to write: some were not written, which costs a page at most. */
export function markUsed(ring: RingArea, size: number, from: number, to: number, sameLap: boolean): void {
  const end = sameLap ? to : size;
  ring.markDirty(DESCRIPTOR * from, DESCRIPTOR * (end - from));
  if (!sameLap) ring.markDirty(0, DESCRIPTOR * to);
}

/** Shows the driver the staged entries between two used positions, as the thread that staged them was about to. False when that ring is not memory any more. */
export function replayPacked(setup: QueueSetup, dma: DmaSpace, from: number, to: number, staged: Int32Array): boolean {
  const { size } = setup;
  const ring = new RingArea(dma, setup.descriptorArea, DESCRIPTOR * size, 'both');
  dma.sync();
  if (!ring.resolve()) return false;
  const first = from & 0x7fff;
  const mark = (): void => markUsed(ring, size, first, to & 0x7fff, ((from ^ to) & WRAP) === 0);
  // Only the last step of a publish makes the first slot other than available. If that was done, a driver that still runs may have taken all of it and have put
  // new buffers there since, which must not be overwritten.
  const available = (from & WRAP) !== 0 ? AVAIL : USED;
  if ((ring.load32(DESCRIPTOR * first + WORD3) & LAP_BITS) !== available) {
    // It may have died before it logged that.
    mark();
    return true;
  }
  let slot = first;
  let wrap = from & WRAP;
  let count = 0;
  while ((slot | wrap) !== to && count < size) {
    const step = ((staged[2 * count] as number) >>> 16) + 1;
    if (step > size) return false;
    slot += step;
    count++;
    if (slot >= size) {
      slot -= size;
      wrap ^= WRAP;
    }
  }
  if (count === 0) return true;
  writeStaged(ring, size, first, (from & WRAP) !== 0 ? LAP_BITS : 0, staged, count);
  mark();
  return true;
}
