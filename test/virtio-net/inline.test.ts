// Two network devices over the inline data plane, end to end through registers and rings: what the control plane promises is what frames experience.
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { NEEDS_RESET, QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER, QUEUE_ENABLE, QUEUE_RESET, QUEUE_SELECT, QUEUE_SIZE, VirtioBench } from '../virtio-pci/bench.ts';
import { OK, u16 } from './control-bench.ts';
import { frameTo, MAC_B, Station, TRANSMIT } from './station.ts';

function pair(packed: boolean): { a: Station; b: Station; segment: InlineSegment } {
  const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
  return { segment, a: new Station(segment.port('a'), '52:54:00:00:00:0a', packed), b: new Station(segment.port('b'), '52:54:00:00:00:0b', packed) };
}

describe.each([false, true])('over packed rings: %s', (packed) => {
  it('a frame to the address arrives, others do not until a mode or table lets them', () => {
    const { a, b } = pair(packed);
    const other = [0x52, 0x54, 0, 0, 0, 0xc];
    const group = [1, 0, 0x5e, 0, 0, 1];
    const broadcast = new Array(6).fill(0xff);
    const arrives = (frame: number[]): boolean => {
      a.send(frame);
      const got = b.received();
      if (got.length > 0) expect(got).toEqual([frame]);
      return got.length > 0;
    };
    expect(arrives(frameTo(MAC_B))).toBe(true);
    expect([frameTo(other), frameTo(group), frameTo(broadcast)].map(arrives)).toEqual([false, false, true]);
    expect(b.command([0, 1, 1]).ack).toBe(OK);
    expect([frameTo(other), frameTo(group)].map(arrives)).toEqual([false, true]);
    b.command([0, 1, 0]);
    b.command([1, 0, 1, 0, 0, 0, ...other, 1, 0, 0, 0, ...group]);
    expect([frameTo(other), frameTo(group)].map(arrives)).toEqual([true, true]);
    b.command([1, 1, ...other]);
    b.command([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect([frameTo(MAC_B), frameTo(other)].map(arrives)).toEqual([false, true]);
    b.command([0, 0, 1]);
    expect(arrives(frameTo(MAC_B))).toBe(true);
  });

  it('tagged frames pass for the VLANs that were added', () => {
    const { a, b } = pair(packed);
    const arrives = (frame: number[]): boolean => {
      a.send(frame);
      return b.received().length > 0;
    };
    expect(arrives(frameTo(MAC_B, 5))).toBe(false);
    b.command([2, 0, ...u16(5)]);
    expect([frameTo(MAC_B, 5), frameTo(MAC_B, 6)].map(arrives)).toEqual([true, false]);
    b.command([2, 1, ...u16(5)]);
    expect(arrives(frameTo(MAC_B, 5))).toBe(false);
  });

  it('a pulled cable drops frames, and the driver sees it', () => {
    const { a, b } = pair(packed);
    b.net.setLink(false);
    a.send(frameTo(MAC_B));
    expect(b.received()).toEqual([]);
    b.net.setLink(true);
    a.send(frameTo(MAC_B));
    expect(b.received()).toHaveLength(1);
  });

  it('pause and resume lose and repeat nothing', () => {
    const { a, b } = pair(packed);
    for (let round = 0; round < 10; round++) {
      a.send(frameTo(MAC_B, undefined, 64 + round));
      a.net.pause();
      b.net.pause();
      expect([a.net.paused, b.net.paused]).toEqual([true, true]);
      b.net.resume();
      a.net.resume();
    }
    expect(b.received().map((f) => f.length)).toEqual(Array.from({ length: 10 }, (_, i) => 64 + i));
  });

  it('moves to another segment between two frames', () => {
    const { a, b } = pair(packed);
    a.send(frameTo(MAC_B, undefined, 70));
    const next = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    a.net.handOver(next.port('a'));
    b.net.handOver(next.port('b'));
    expect([a.net.handingOver, b.net.handingOver]).toEqual([false, false]);
    a.send(frameTo(MAC_B, undefined, 71));
    expect(b.received().map((f) => f.length)).toEqual([70, 71]);
  });

  it('f0d634ea19: a ring whose size was written after its addresses has that size, and nothing beyond it is touched', () => {
    const { a, b } = pair(packed);
    const size = 8;
    const area = VirtioBench.area(1);
    a.set(QUEUE_SELECT, 2, 1);
    a.set(QUEUE_RESET, 2, 1);
    a.bytes.fill(0, 0x20000, 0x30000);
    a.set(QUEUE_DESC, 4, area.descriptor);
    a.set(QUEUE_DRIVER, 4, area.driver);
    a.set(QUEUE_DEVICE, 4, area.device);
    a.set(QUEUE_SIZE, 2, size);
    a.set(QUEUE_ENABLE, 2, 1);
    const ring = a.ring(1, packed, size);
    // Behind the descriptors, and behind a used ring of this size with its event index.
    const guards = [area.descriptor + 16 * size, ...(packed ? [] : [area.device + 4 + 8 * size + 2])];
    for (const at of guards) a.bytes.fill(0xee, at, at + 64);
    a.bytes.set(frameTo(MAC_B), TRANSMIT + 12);
    for (let n = 0; n < 5 * size; n++) {
      expect(ring.add(n, [{ address: TRANSMIT, length: 12 + 64 }])).toBe(true);
      ring.expose();
      a.kick(1);
      expect(ring.reap().map(({ cookie }) => cookie)).toEqual([n]);
      expect(b.received()).toHaveLength(1);
      b.top();
    }
    for (const at of guards) expect(a.bytes.subarray(at, at + 64).every((byte) => byte === 0xee)).toBe(true);
    expect(a.status & NEEDS_RESET).toBe(0);
  });

  it('a queue reset stops one queue and starts it from its beginning', () => {
    const { a, b } = pair(packed);
    a.send(frameTo(MAC_B));
    a.set(QUEUE_SELECT, 2, 1);
    a.set(QUEUE_RESET, 2, 1);
    expect(a.get(QUEUE_RESET, 2)).toBe(0);
    a.bytes.fill(0, 0x20000, 0x30000);
    a.setUpQueue(1);
    const again = a.ring(1, packed);
    again.add(0, [{ address: TRANSMIT, length: 12 + 64 }]);
    again.expose();
    a.kick(1);
    expect(again.reap()).toHaveLength(1);
    expect(b.received()).toHaveLength(2);
  });

  it('a ring that its driver breaks needs a reset, which mends it', () => {
    const { a } = pair(packed);
    a.bytes.fill(0xff, 0x20000, 0x20000 + 4096);
    a.transmit.add(0, [{ address: 0x7000_0000, length: 100 }]);
    a.transmit.expose();
    a.kick(1);
    expect(a.status & NEEDS_RESET).toBe(NEEDS_RESET);
    a.status = 0;
    expect(a.status).toBe(0);
  });
});
