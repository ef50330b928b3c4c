// Frames that a switch sends on in two pieces, the headers that it has looked at and the rest where their sender has it: each arrives as it was sent, in one buffer, and nothing beside it.

import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import type { FrameBatch } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import { MemoryPort } from '../net/memory-port.ts';
import { frameOf, TestGuest } from './guest.ts';

const MAC_A = [2, 0, 0, 0, 0, 1];
const MAC_B = [2, 0, 0, 0, 0, 2];

function addressed(length: number, seed: number): Uint8Array {
  const frame = frameOf(length, seed);
  frame.set([...MAC_B, ...MAC_A, 0x88, 0xb5]);
  return frame;
}

/** What a guest gets of these frames of a port. */
function arrived(port: MemoryPort, guest: TestGuest, frames: readonly { bytes: Uint8Array; pieces?: readonly number[]; misaligned?: number }[]): Uint8Array[] {
  const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
  guest.attach(inline.port('guest'));
  guest.bytes.fill(0xdd, 0x10000 + 0x20000);
  guest.post();
  port.outbox.push(...frames);
  inline.addPort(port);
  inline.wake(port);
  return guest.receive().map(({ frame }) => frame);
}

describe.each([
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['merged buffers', [VIRTIO_NET_F_MRG_RXBUF]],
])('frames in two pieces, %s', (_name, features) => {
  it('come out of an embedded switch as they went in', () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    nic.configurePort('vf0', { mac: '02:00:00:00:00:01' });
    nic.configurePort('vf1', { mac: '02:00:00:00:00:02' });
    const inline = new InlineSegment(new Segment(nic.forwarding()), { defer: () => {} });
    const [a, b] = [new TestGuest({ name: 'a', features, size: 64 }), new TestGuest({ name: 'b', features, size: 64 })];
    a.attach(inline.port('vf0'));
    b.attach(inline.port('vf1'));
    for (let seed = 0; seed < 30; seed++) {
      b.post();
      // Below and beyond what is copied whole, of any length, with short ones between.
      const frames = Array.from({ length: 50 }, (_, i) => addressed(i % 7 === 6 ? 60 : 180 + ((seed * 50 + i) % 1334), seed * 50 + i));
      expect(a.send(...frames)).toBe(true);
      expect(b.receive().map(({ frame }) => frame)).toEqual(frames);
      a.reap();
    }
  });

  it('of any lengths arrive whole', () => {
    const lengths = [1, 3, 6, 13, 14, 15, 20, 21, 33, 64, 127, 128];
    const frames = lengths.flatMap((first) =>
      [14, 15, 16, 17, 18, 100, 1000].map((rest, i) => ({ bytes: addressed(first + rest, first + rest), pieces: [first], misaligned: 4 * (i & 1) })),
    );
    const guest = new TestGuest({ features, size: 256 });
    expect(arrived(new MemoryPort('p'), guest, frames)).toEqual(frames.map(({ bytes }) => bytes));
  });

  it('with more behind them than their length says leave what lies beyond their end alone', () => {
    const port = new (class extends MemoryPort {
      override collect(batch: FrameBatch, frames: number, bytes: number): number {
        const collected = super.collect(batch, frames, bytes);
        for (let f = 0; f < collected; f++) batch.length[f] = 150;
        return collected;
      }
    })('p');
    const guest = new TestGuest({ features, size: 16, bufferSize: 200 });
    const sent = [5, 6, 7, 8].map((seed) => addressed(1100, seed));
    const expected = sent.map((bytes) => bytes.subarray(0, 150));
    const frames = sent.map((bytes) => ({ bytes, pieces: [100], misaligned: 4 }));
    expect(arrived(port, guest, frames)).toEqual(expected);
    for (const frame of expected) {
      const at = guest.bytes.findIndex((_, i) => frame.every((byte, k) => guest.bytes[i + k] === byte));
      expect(at).toBeGreaterThan(0);
      expect(new Set(guest.bytes.subarray(at + 150, at + 1200))).toEqual(new Set([0xdd]));
    }
  });
});
