import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { FRAME_NEEDS_CSUM, GSO_TCPV4 } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_CSUM, VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import type { SplitDriver } from '../virtio/driver-split.ts';
import { frameOf, HEADER, TestGuest } from './guest.ts';

const FORMATS: [string, number[]][] = [
  ['split', []],
  ['split, event index', [VIRTIO_F_EVENT_IDX]],
  ['split, in order', [VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
];

function pair(features: number[], options: Partial<ConstructorParameters<typeof TestGuest>[0]> = {}) {
  const deferred: (() => void)[] = [];
  const inline = new InlineSegment(new Segment(new DirectLink()), { defer: (work) => deferred.push(work) });
  const a = new TestGuest({ name: 'a', features, ...options });
  const b = new TestGuest({ name: 'b', features, ...options });
  const backendA = inline.port('a');
  const backendB = inline.port('b');
  a.attach(backendA);
  b.attach(backendB);
  return { a, b, inline, deferred, backendA, backendB };
}

describe.each(FORMATS)('inline backend, %s', (_name, features) => {
  it('carries frames of every size from guest to guest, in order, byte for byte', () => {
    const { a, b } = pair(features);
    let seed = 0;
    for (let length = 14; length < 2036; length += 13) {
      b.post();
      const frames = [frameOf(length, seed++), frameOf(60, seed++), frameOf(2036 - length + 14, seed++)];
      expect(a.send(...frames)).toBe(true);
      const received = b.receive();
      expect(received.map((r) => Buffer.from(r.frame))).toEqual(frames.map((f) => Buffer.from(f)));
      for (const { header } of received) expect([...header]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
      expect(a.reap()).toBe(3);
    }
    expect(a.events).toEqual([]);
    expect(b.events).toEqual([]);
  });

  it('holds frames the receiver has no buffer for, and delivers them when it has', () => {
    const { a, b } = pair(features);
    b.post(2);
    a.send(frameOf(100, 1), frameOf(101, 2), frameOf(102, 3), frameOf(103, 4));
    expect(b.receive().map((r) => r.frame.length)).toEqual([100, 101]);
    expect(a.reap()).toBe(2);
    b.post(1);
    expect(b.receive().map((r) => r.frame.length)).toEqual([102]);
    b.post(8);
    expect(b.receive().map((r) => r.frame.length)).toEqual([103]);
    expect(a.reap()).toBe(2);
  });

  it('spreads a frame over merged buffers, each but the last full, and counts them', () => {
    const { a, b } = pair([...features, VIRTIO_NET_F_MRG_RXBUF], { bufferSize: 300 });
    b.post();
    const frame = frameOf(1500, 9);
    a.send(frame, frameOf(288, 10));
    const received = b.receive();
    expect(received.map((r) => r.buffers)).toEqual([6, 1]);
    expect(Buffer.compare(received[0]?.frame as Uint8Array, frame)).toBe(0);
  });

  it('logs each page after writing it: a page copied whenever it is found dirty is never left stale', () => {
    const { a, b } = pair([...features, VIRTIO_NET_F_MRG_RXBUF], { bufferSize: 300 });
    b.post();
    for (let i = 0; i < 5; i++) a.queue(frameOf(100 + 300 * i, i));
    a.drivers[1]?.expose();
    // A migration as eager as can be: it takes the log and copies after every single mark, and once more at the end. No driver writes meanwhile.
    const copies = [a, b].map((guest) => {
      const { dirty } = guest.memory;
      dirty.start();
      const copy = Uint8Array.from(guest.bytes);
      const migrate = () => {
        for (const page of dirty.take()) copy.set(guest.bytes.subarray(page, page + 4096), page);
      };
      const mark = dirty.mark.bind(dirty);
      dirty.mark = (...range) => {
        mark(...range);
        migrate();
      };
      return { guest, copy, migrate };
    });
    a.kick(1);
    for (const { migrate } of copies) migrate();
    for (const { guest, copy } of copies) expect(Buffer.compare(copy, guest.bytes), guest.name).toBe(0);
    expect(b.receive().length).toBe(5);
  });

  it('uses no merged buffer of a frame that does not fit yet', () => {
    const { a, b } = pair([...features, VIRTIO_NET_F_MRG_RXBUF], { bufferSize: 300 });
    b.post(3);
    a.send(frameOf(1500, 9));
    expect(b.receive()).toEqual([]);
    b.post(2);
    expect(b.receive()).toEqual([]);
    b.post(1);
    expect(b.receive().map((r) => [r.buffers, r.frame.length])).toEqual([[6, 1500]]);
  });

  it('interrupts and kicks once a batch', () => {
    const { a, b, backendA } = pair(features);
    b.post();
    a.send(...Array.from({ length: 20 }, (_, i) => frameOf(64, i)));
    expect(b.receive().length).toBe(20);
    expect(backendA.ringStatistics(1)).toMatchObject({ kicks: 1, chains: 20 });
    expect(b.calls[0]?.counts.signals).toBe(1);
  });

  it('hands a ring back where it stands, and goes on from there', () => {
    const { a, b, inline } = pair(features);
    b.post(40);
    a.send(...Array.from({ length: 10 }, (_, i) => frameOf(64, i)));
    a.stop();
    b.stop();
    expect(a.states()).toEqual(['stopped', 'stopped']);
    const [positionsA, positionsB] = [a.positions(), b.positions()];
    a.send(frameOf(64, 10), frameOf(64, 11));
    expect(b.receive().length).toBe(10);
    const next = new InlineSegment(new Segment(new DirectLink()), { defer: () => {}, paused: true });
    a.attach(next.port('a'), positionsA);
    b.attach(next.port('b'), positionsB);
    expect(b.receive()).toEqual([]);
    next.resume();
    expect(b.receive().map((r) => r.frame.length)).toEqual([64, 64]);
    expect(inline.running).toBe(false);
  });
});

describe('inline backend, hostile and odd transmit chains', () => {
  const at = 0x8000; // below the rings
  it('finds a header in any layout, also one byte a descriptor (DPDK CVE-2022-2132)', () => {
    const { a, b } = pair([VIRTIO_F_INDIRECT_DESC]);
    b.post();
    const frame = frameOf(80, 3);
    a.bytes.fill(0, at, at + HEADER);
    a.bytes.set(frame, at + HEADER + 1);
    const ones = Array.from({ length: HEADER }, (_, i) => ({ address: at + i, length: 1 }));
    a.queueChain([...ones, { address: at + HEADER + 1, length: 80 }]);
    a.queueChain([
      { address: at, length: 5 },
      { address: at + 5, length: 7 },
      { address: at + HEADER + 1, length: 33 },
      { address: at + HEADER + 34, length: 47 },
    ]);
    a.queueChain([
      { address: at, length: HEADER },
      { address: at + HEADER + 1, length: 80 },
    ]);
    a.show();
    const received = b.receive();
    expect(received.length).toBe(3);
    for (const r of received) expect(Buffer.compare(r.frame, frame)).toBe(0);
  });

  it.each([
    ['shorter than the header', 5],
    ['a header alone (5043d4728a)', 12],
    ['a header and 1 byte (CVE-2024-41090)', 13],
    ['a header and 13 bytes', 25],
  ])('completes a chain %s and counts it malformed', (_what, length) => {
    const { a, b, backendA } = pair([]);
    b.post();
    a.queueChain([{ address: at, length }]);
    a.queue(frameOf(60, 1));
    a.queueChain([{ address: at, length }]);
    a.show();
    expect(a.reap()).toBe(3);
    expect(b.receive().length).toBe(1);
    expect(backendA.counters.snapshot().transmitDrops).toEqual({ malformed: 2 });
    expect(a.events).toEqual([]);
  });

  it('completes a chain of no bytes at all, and does not take zero-length descriptors for progress', () => {
    const { a, b, backendA } = pair([]);
    b.post();
    for (let i = 0; i < 30; i++) a.queueChain([{ address: at, length: 0 }]);
    a.queue(frameOf(60, 1));
    a.show();
    expect(a.reap()).toBe(31);
    expect(b.receive().length).toBe(1);
    expect(backendA.counters.snapshot().transmitDrops).toEqual({ malformed: 30 });
  });

  it('drops a frame longer than any, and one that asks for what was not negotiated', () => {
    const { a, b, backendA } = pair([VIRTIO_NET_F_CSUM]);
    b.post();
    const gso = new Uint8Array(HEADER);
    gso.set([FRAME_NEEDS_CSUM, GSO_TCPV4, 54, 0, 100, 0, 34, 0, 16, 0]);
    a.queue(frameOf(200, 1), 0, gso);
    const pages = Array.from({ length: 40 }, () => ({ address: at, length: 2000 }));
    a.queueChain(pages);
    a.show();
    expect(a.reap()).toBe(2);
    expect(b.receive()).toEqual([]);
    expect(backendA.counters.snapshot().transmitDrops).toEqual({ malformed: 1, 'too-long': 1 });
  });

  it('drops a checksum request past the end of the frame (csum_start 65535, CVE-2024-11614)', () => {
    const { a, b } = pair([VIRTIO_NET_F_CSUM]);
    b.post();
    for (const [start, offset] of [
      [65535, 65535],
      [65535, 0],
      [60, 0],
      [59, 0],
      [0, 59],
    ]) {
      const header = new Uint8Array(HEADER);
      new DataView(header.buffer).setUint16(6, start as number, true);
      new DataView(header.buffer).setUint16(8, offset as number, true);
      header[0] = FRAME_NEEDS_CSUM;
      a.queue(frameOf(60, 1), 0, header);
    }
    a.queue(frameOf(60, 2));
    a.show();
    expect(a.reap()).toBe(6);
    expect(b.receive().length).toBe(1);
  });

  it('disregards unknown flag bits, and NEEDS_CSUM where it was not negotiated', () => {
    const { a, b } = pair([]);
    b.post();
    const header = new Uint8Array(HEADER).fill(0xff);
    header[1] = 0;
    a.queue(frameOf(60, 1), 0, header);
    a.show();
    expect(b.receive().map((r) => [...r.header])).toEqual([[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]]);
  });

  it('breaks the ring, not the process, on a descriptor outside memory, and says so once', () => {
    const { a, b } = pair([]);
    b.post();
    a.queueChain([{ address: 2 ** 40, length: 100 }]);
    a.show();
    expect(a.states()).toEqual(['running', 'broken']);
    expect(a.events.length).toBe(1);
    expect(a.events[0]).toMatchObject({ kind: 'broken', index: 1 });
    // The other direction lives.
    a.post();
    b.send(frameOf(60, 1));
    expect(a.receive().length).toBe(1);
  });
});

describe('inline backend, receive side', () => {
  it('drops a frame no posted buffer can hold without MRG_RXBUF, and keeps the buffer', () => {
    const { a, b, backendB } = pair([], { bufferSize: 200 });
    b.post();
    a.send(frameOf(189, 1), frameOf(188, 2));
    expect(b.receive().map((r) => r.frame.length)).toEqual([188]);
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ 'too-long': 1 });
  });

  it('drops a frame that the whole ring of merged buffers cannot hold (more heads than there are)', () => {
    const { a, b, backendB } = pair([VIRTIO_NET_F_MRG_RXBUF], { bufferSize: 20, size: 64 });
    b.post();
    a.send(frameOf(1500, 1), frameOf(60, 2));
    expect(b.receive().map((r) => r.buffers)).toEqual([4]);
    expect(a.reap()).toBe(2);
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ 'too-long': 1 });
  });

  it('drops, and does not hold, what comes while bus mastering is off', () => {
    const { a, b, backendB } = pair([]);
    b.post();
    b.dma.busMaster = false;
    a.send(frameOf(60, 1));
    expect(a.reap()).toBe(1);
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ 'not-ready': 1 });
    b.dma.busMaster = true;
    a.send(frameOf(60, 2));
    expect(b.receive().length).toBe(1);
    expect(a.reap()).toBe(1);
    a.dma.busMaster = false;
    a.send(frameOf(60, 3));
    expect(a.reap()).toBe(0);
    a.dma.busMaster = true;
    a.kick(1);
    expect(a.reap()).toBe(1);
  });

  it('logs the pages it writes', () => {
    const { a, b } = pair([]);
    b.post(1);
    b.memory.dirty.start();
    a.send(frameOf(100, 1));
    const pages = b.memory.dirty.take().length;
    // The used ring's page and the buffer's.
    expect(pages).toBe(2);
  });

  it.each([
    ['split', []],
    ['packed', [VIRTIO_F_RING_PACKED]],
  ])('does little for a driver that posts receive chains of a thousand buffers of no length (%s)', (_format, format) => {
    const deferred: (() => void)[] = [];
    const inline = new InlineSegment(new Segment(new DirectLink()), { rounds: 1, defer: (work) => deferred.push(work) });
    const features = [...format, VIRTIO_F_INDIRECT_DESC, VIRTIO_NET_F_MRG_RXBUF];
    const a = new TestGuest({ features, size: 64 });
    const b = new TestGuest({ features, size: 256 });
    const backendB = inline.port('b');
    a.attach(inline.port('a'));
    b.attach(backendB);
    const packed = format.length > 0;
    const ring = b.drivers[0] as SplitDriver;
    const table = 0x28000;
    const view = new DataView(b.bytes.buffer);
    for (let i = 0; i < 1024; i++) view.setUint32(table + 16 * i + 12, packed ? 2 << 16 : 2 | (i < 1023 ? 1 : 0) | ((i + 1) << 16), true);
    for (let i = 0; i < 256; i++) ring.add(i, [{ address: table, length: 16384 }]);
    ring.expose();
    // INDIRECT, in place of what the driver wrote.
    const flags = 0x10000 + (packed ? 14 : 12);
    for (let i = 0; i < 256; i++) view.setUint16(flags + 16 * i, packed ? (view.getUint16(flags + 16 * i, true) & 0x8080) | 4 : 4, true);
    for (let i = 0; i < 64; i++) a.queue(frameOf(60, i));
    a.show();
    const dropped = () => backendB.counters.snapshot().receiveDrops['too-long'] ?? 0;
    for (let turns = 1; turns <= 64; turns++) {
      // Each frame would cost a quarter of a million looks.
      expect(dropped()).toBeLessThanOrEqual(2 * turns);
      for (const work of deferred.splice(0)) work();
    }
    expect(dropped()).toBe(64);
    expect(a.reap()).toBe(64);
    expect(b.events).toEqual([]);
  });

  it('goes on after something of the embedder threw inside a turn', () => {
    const { a, b, deferred } = pair([]);
    b.post();
    const call = b.calls[0] as { signal: () => void };
    const { signal } = call;
    call.signal = () => {
      throw new Error('interrupt sink');
    };
    expect(() => a.send(frameOf(60, 1))).toThrow('interrupt sink');
    call.signal = signal;
    for (const work of deferred.splice(0)) work();
    a.send(frameOf(60, 2));
    expect(b.receive().length).toBe(2);
    expect(a.reap()).toBe(2);
  });

  it('takes few chains at a time from a driver that sends a thousand buffers of no length in each', () => {
    const deferred: (() => void)[] = [];
    const inline = new InlineSegment(new Segment(new DirectLink()), { rounds: 1, defer: (work) => deferred.push(work) });
    const a = new TestGuest({ features: [VIRTIO_F_INDIRECT_DESC], size: 256 });
    const backend = inline.port('a');
    a.attach(backend);
    const table = 0x28000;
    const view = new DataView(a.bytes.buffer);
    for (let i = 0; i < 1024; i++) view.setUint32(table + 16 * i + 12, (i < 1023 ? 1 : 0) | ((i + 1) << 16), true);
    for (let i = 0; i < 256; i++) a.queueChain([{ address: table, length: 16384 }]);
    a.drivers[1]?.expose();
    for (let i = 0; i < 256; i++) view.setUint16((a.setups[1]?.descriptorArea ?? 0) + 16 * i + 12, 4, true);
    a.kick(1);
    const dropped = () => backend.counters.snapshot().transmitDrops.malformed ?? 0;
    for (let turns = 1; turns < 64; turns++) {
      expect(dropped()).toBeLessThanOrEqual(16 * turns);
      for (const work of deferred.splice(0)) work();
    }
    expect(dropped()).toBe(256);
    expect(a.events).toEqual([]);
  });

  it('yields within a bound when a peer refills as fast as it is drained (CVE-2019-3900)', () => {
    const { a, b, deferred } = pair([]);
    let sent = 0;
    b.post();
    // A guest whose interrupt handler refills at once: on this thread, from inside the call.
    const call = a.calls[1] as { signal: () => void };
    const signal = call.signal.bind(call);
    call.signal = () => {
      signal();
      a.reap();
      b.receive();
      b.post();
      while (a.queue(frameOf(60, sent++))) {}
      a.show();
      a.kick(1);
    };
    for (let i = 0; i < 8; i++) a.queue(frameOf(60, sent++));
    a.show();
    expect(deferred.length).toBe(1);
    const before = sent;
    (deferred.pop() as () => void)();
    expect(sent).toBeGreaterThan(before);
    expect(deferred.length).toBe(1);
  });
});
