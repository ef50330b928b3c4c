// What a frame that is not plain adds to its queue's counters (virtio 1.4 5.1.9.5.11), beside what is counted of all frames by the run.

import { FRAME_DATA_VALID, FRAME_NEEDS_CSUM, FRAME_RSC_INFO, type FrameBatch, NOT_SENT_MALFORMED } from '#net/port';
import * as count from '#virtio/net-statistics';

/** The driver got frame `f`. @param accepts ACCEPTS_* bits of what it takes */
export function accountReceived(counters: count.QueueCounters, batch: FrameBatch, f: number, accepts: number): void {
  const flags = batch.flags[f] as number;
  const gso = batch.gsoType[f] !== 0;
  if (flags === 0 && !gso) return;
  const length = batch.length[f] as number;
  if ((flags & FRAME_NEEDS_CSUM) !== 0) counters.add(count.COUNT_NEEDS_CSUM, 1);
  else if ((flags & FRAME_DATA_VALID) !== 0 && accepts !== 0) counters.add(count.COUNT_DATA_VALID, 1);
  if (!gso) return;
  counters.add(count.COUNT_GSO_FRAMES, 1);
  counters.add(count.COUNT_GSO_BYTES, length);
  if ((flags & FRAME_RSC_INFO) === 0) return;
  counters.add(count.COUNT_CHANGED_FRAMES, 1);
  counters.add(count.COUNT_CHANGED_BYTES, length);
}

/** The driver sent frame `f`, counted as sent already: it asked for something, or not simply itself was sent on. */
export function accountSent(counters: count.QueueCounters, batch: FrameBatch, f: number): void {
  const length = batch.length[f] as number;
  const sentAs = batch.judged ? (batch.sentAs[f] as number) : 0;
  if (sentAs >= NOT_SENT_MALFORMED) {
    counters.add(count.COUNT_FRAMES, -1);
    counters.add(count.COUNT_BYTES, -length);
    counters.add(count.COUNT_DROPS, 1);
    if (sentAs === NOT_SENT_MALFORMED) counters.add(count.COUNT_SPECIAL_DROPS, 1);
    return;
  }
  if (((batch.flags[f] as number) & FRAME_NEEDS_CSUM) !== 0) counters.add(count.COUNT_NEEDS_CSUM, 1);
  if (batch.gsoType[f] === 0) return;
  counters.add(count.COUNT_GSO_FRAMES, 1);
  counters.add(count.COUNT_GSO_BYTES, length);
  if (sentAs === 0) return;
  counters.add(count.COUNT_CHANGED_FRAMES, 1);
  counters.add(count.COUNT_CHANGED_BYTES, length);
  counters.add(count.COUNT_SEGMENTS, sentAs);
  counters.add(count.COUNT_SEGMENT_BYTES, batch.sentBytes[f] as number);
}
