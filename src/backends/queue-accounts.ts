// What a frame that is not plain adds to its queue's counters (virtio 1.4 5.1.9.5.11), beside what is counted of all frames by the run.

import { FRAME_DATA_VALID, FRAME_NEEDS_CSUM, FRAME_RSC_INFO, type FrameBatch, NOT_SENT_MALFORMED } from '#net/port';
import * as count from '#virtio/net-statistics';

/** The driver got frames `from` .. `to - 1`. @param accepts ACCEPTS_* bits of what it takes */
export function accountReceived(counters: count.QueueCounters, batch: FrameBatch, from: number, to: number, accepts: number): void {
  const { length: lengths, flags, gsoType } = batch;
  let partial = 0;
  let valid = 0;
  for (let f = from; f < to; f++) {
    const flag = flags[f] as number;
    if ((flag & FRAME_NEEDS_CSUM) !== 0) partial++;
    else if ((flag & FRAME_DATA_VALID) !== 0 && accepts !== 0) valid++;
    if (gsoType[f] === 0) continue;
    const length = lengths[f] as number;
    counters.add(count.COUNT_GSO_FRAMES, 1);
    counters.add(count.COUNT_GSO_BYTES, length);
    if ((flag & FRAME_RSC_INFO) === 0) continue;
    counters.add(count.COUNT_CHANGED_FRAMES, 1);
    counters.add(count.COUNT_CHANGED_BYTES, length);
  }
  if (partial > 0) counters.add(count.COUNT_NEEDS_CSUM, partial);
  if (valid > 0) counters.add(count.COUNT_DATA_VALID, valid);
}

/** The driver sent frames `from` .. `to - 1`, counted as sent already: some asked for something, or were not simply themselves sent on. */
export function accountSent(counters: count.QueueCounters, batch: FrameBatch, from: number, to: number): void {
  const { judged, length: lengths, flags, gsoType, sentAs, sentBytes } = batch;
  // Added up first: a port whose frames go nowhere has a whole batch of these.
  let lost = 0;
  let lostBytes = 0;
  let malformed = 0;
  let partial = 0;
  for (let f = from; f < to; f++) {
    const length = lengths[f] as number;
    const pieces = judged ? (sentAs[f] as number) : 0;
    if (pieces >= NOT_SENT_MALFORMED) {
      lost++;
      lostBytes += length;
      if (pieces === NOT_SENT_MALFORMED) malformed++;
      continue;
    }
    if (((flags[f] as number) & FRAME_NEEDS_CSUM) !== 0) partial++;
    if (gsoType[f] === 0) continue;
    counters.add(count.COUNT_GSO_FRAMES, 1);
    counters.add(count.COUNT_GSO_BYTES, length);
    if (pieces === 0) continue;
    counters.add(count.COUNT_CHANGED_FRAMES, 1);
    counters.add(count.COUNT_CHANGED_BYTES, length);
    counters.add(count.COUNT_SEGMENTS, pieces);
    counters.add(count.COUNT_SEGMENT_BYTES, sentBytes[f] as number);
  }
  if (partial > 0) counters.add(count.COUNT_NEEDS_CSUM, partial);
  if (lost === 0) return;
  counters.add(count.COUNT_FRAMES, -lost);
  counters.add(count.COUNT_BYTES, -lostBytes);
  counters.add(count.COUNT_DROPS, lost);
  if (malformed > 0) counters.add(count.COUNT_SPECIAL_DROPS, malformed);
}
