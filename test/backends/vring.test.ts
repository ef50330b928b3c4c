// What a dead worker's successor is left: everything that was pushed when a turn committed stands in the staging area, also when a ring was staged twice in the turn.

import { describe, expect, it } from 'vitest';
import { PortBlock, type RingRecord } from '#backends/port-block';
import { TurnJournal, type TurnParticipant } from '#backends/turn-journal';
import { Vring } from '#backends/vring';
import { SimClock } from '#core/clock';
import { viewsOf } from '#core/guest-memory';
import type { Call } from '#core/interrupts';
import { SegmentList } from '#core/segments';
import { VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { NetStatistics } from '#virtio/net-statistics';
import { initialPosition, openQueue, replayPublish, stagingBytes } from '#virtio/open-queue';
import type { QueueSetup } from '#virtio/virtqueue';
import { frameOf, TestGuest } from './guest.ts';

describe('a commit that its thread did not live to carry out', () => {
  it.each([
    ['packed', [VIRTIO_F_RING_PACKED]],
    ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
  ])('%s: returns every chain once, though the ring was staged twice', (_name, features) => {
    const guest = new TestGuest({ features, size: 8 });
    const setup = guest.setups[1] as QueueSetup;
    const staging = new Int32Array(new SharedArrayBuffer(stagingBytes(setup.size, guest.features)));
    // What an earlier turn may have left there.
    staging.fill(191);
    const queue = openQueue(setup, initialPosition(guest.features), guest.features, guest.dma, staging);
    if (typeof queue === 'string') throw new Error(queue);
    const vring = new Vring({
      index: 1,
      slot: 1,
      queue,
      record: new PortBlock(2).records[1] as RingRecord,
      kick: undefined,
      call: guest.calls[1] as Call,
      journal: new TurnJournal(),
      counters: new NetStatistics(2).queue(1),
      time: { clock: new SimClock(), next: Infinity },
    });
    for (let i = 0; i < 5; i++) guest.queue(frameOf(64, i));
    guest.drivers[1]?.expose();
    const chains = new SegmentList(64, viewsOf(new ArrayBuffer(8)));
    const tokens = Array.from({ length: 5 }, () => queue.pop(chains));
    expect(tokens.every((token) => token >= 0)).toBe(true);
    for (const part of [tokens.slice(0, 2), tokens.slice(2)]) {
      for (const token of part) queue.push(token, 0);
      vring.stage(part.length, part.length);
    }
    // The journal has recorded these two, and the thread dies before it applies them.
    expect(replayPublish(setup, guest.features, guest.dma, vring.usedFrom, vring.nextUsed, staging)).toBe(true);
    expect(guest.reap()).toBe(5);
  });
});

it('a turn shows what was staged last first: the ring that its frames came from, so that who gets them finds room to send on', () => {
  const shown: number[] = [];
  const journal = new TurnJournal();
  const participant = (slot: number): TurnParticipant => ({ slot, nextAvailable: 0, usedFrom: 0, nextUsed: 0, apply: () => void shown.push(slot) });
  for (const slot of [2, 0, 1]) journal.stage(participant(slot));
  journal.commit();
  expect(shown).toEqual([1, 0, 2]);
  journal.commit();
  expect(shown).toHaveLength(3);
});
