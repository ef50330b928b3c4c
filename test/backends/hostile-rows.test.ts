// Rows of the list of inputs that broke others (../shared/reference/hostile-inputs.md 8.2, 8.3) that need a data path: receive chains and back ends as hostile
// as can be. Each is titled by the fault it replays. Over every ring format.

import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import type { viewsOf } from '#core/guest-memory';
import { PortCounters } from '#net/counters';
import { DirectLink } from '#net/direct-link';
import { LearningSwitch } from '#net/learning-switch';
import type { FrameBatch, NetPort } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_RSS } from '#virtio/net-features';
import { MemoryPort } from '../net/memory-port.ts';
import { frameOf, HEADER, sequenceOf, TestGuest } from './guest.ts';

const MRG = VIRTIO_NET_F_MRG_RXBUF;
const FORMATS: [string, number[]][] = [
  ['split', []],
  ['split, event index', [VIRTIO_F_EVENT_IDX]],
  ['split, in order', [VIRTIO_F_IN_ORDER]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
];

function pair(features: number[], options: Partial<ConstructorParameters<typeof TestGuest>[0]> = {}) {
  const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
  const a = new TestGuest({ name: 'a', features, ...options });
  const b = new TestGuest({ name: 'b', features, ...options });
  const backendA = inline.port('a');
  const backendB = inline.port('b');
  a.attach(backendA);
  b.attach(backendB);
  return { a, b, inline, backendA, backendB };
}

type Receiver = TestGuest['drivers'][number];

/** Posts one receive chain of the given buffers, whatever they are. */
function postChain(guest: TestGuest, cookie: number, buffers: Parameters<Receiver['add']>[1]): void {
  const driver = guest.drivers[0] as Receiver;
  expect(driver.add(cookie, buffers)).toBe(true);
  if (driver.expose()) guest.kick(0);
}

describe.each(FORMATS)('%s', (_name, features) => {
  it.each([
    ['outside RAM', (end: number) => [{ address: end, length: 2048, write: true }]],
    ['half outside RAM', (end: number) => [{ address: end - 1024, length: 2048, write: true }]],
    ['at an address that wraps with its length (DPDK CVE-2020-10725)', () => [{ address: 2 ** 52 - 1024, length: 2048, write: true }]],
    [
      'the second of two outside RAM',
      (end: number) => [
        { address: 0x1000, length: 64, write: true },
        { address: end + 4096, length: 2048, write: true },
      ],
    ],
  ])('CVE-2021-3748: a mergeable receive buffer %s breaks that queue, writes nothing and spares the peer', (_what, buffers) => {
    const { a, b } = pair([...features, MRG]);
    const end = b.bytes.length;
    b.bytes.fill(0xee, 0x1000, 0x1040);
    postChain(b, 1, buffers(end));
    a.send(frameOf(600, 1));
    expect(b.events).toEqual([expect.objectContaining({ kind: 'broken', index: 0 })]);
    expect(b.backend?.vringState(0)).toBe('broken');
    expect(b.bytes.subarray(0x1000, 0x1040).every((byte) => byte === 0xee)).toBe(true);
    expect(a.events).toEqual([]);
    // The sender goes on: what is for a broken queue is dropped, not held.
    expect(a.reap()).toBe(1);
    a.send(frameOf(600, 2));
    expect(a.reap()).toBe(1);
  });

  it('CVE-2022-26353: a second buffer that is too small takes what it can, and the frame goes on in the next', () => {
    const { a, b } = pair([...features, MRG]);
    const spots = [0x1000, 0x2000, 0x3000, 0x4000];
    [200, 1, 13, 2048].forEach((length, i) => {
      postChain(b, spots[i] as number, [{ address: spots[i] as number, length, write: true }]);
    });
    const frame = frameOf(600, 7);
    a.send(frame);
    const done = (b.drivers[0] as Receiver).reap();
    expect(done.map((d) => d.cookie)).toEqual(spots);
    expect(done.map((d) => d.length)).toEqual([200, 1, 13, HEADER + 600 - 214]);
    expect(b.bytes[0x1000 + 10]).toBe(4);
    const joined = done.flatMap((d) => [...b.bytes.subarray(d.cookie, d.cookie + d.length)]);
    expect(Buffer.compare(Uint8Array.from(joined.slice(HEADER)), frame)).toBe(0);
  });

  it('0a55b58d3b, 6fcf5ebafa: frames over many buffers of several descriptors each, round the ring and round again', () => {
    const { a, b } = pair([...features, MRG], { size: 16 });
    let next = 0;
    const spot = (): number => 0x1000 + (next++ % 16) * 256;
    let sequence = 0;
    // 600 bytes and the header need 4 buffers of 170, each of 2 descriptors: 8 of 16 a frame, and 3 frames for 2 rounds of the ring after an odd start.
    for (let round = 0; round < 40; round++) {
      const buffers = round % 3 === 0 ? 5 : 4;
      for (let i = 0; i < buffers; i++) {
        const at = spot();
        postChain(b, at, [
          { address: at, length: 70, write: true },
          { address: at + 70, length: 100, write: true },
        ]);
      }
      const frame = frameOf(600, sequence++);
      a.send(frame);
      let done = (b.drivers[0] as Receiver).reap();
      expect(done.map((d) => d.length)).toEqual([170, 170, 170, HEADER + 600 - 510]);
      const joined = done.flatMap((d) => [...b.bytes.subarray(d.cookie, d.cookie + d.length)]);
      expect(Buffer.compare(Uint8Array.from(joined.slice(HEADER)), frame)).toBe(0);
      if (buffers === 5) {
        a.send(frameOf(100, sequence++));
        done = (b.drivers[0] as Receiver).reap();
        expect(done.map((d) => d.length)).toEqual([HEADER + 100]);
      }
      a.reap();
    }
    expect(b.events).toEqual([]);
  });

  it('kernel "OOB in get_rx_bufs": a frame that needs more than a thousand buffers arrives whole, or waits until there are as many', () => {
    const { a, b } = pair([...features, MRG], { size: 2048, bufferSize: 64 });
    const size = 65_000;
    const heads = Math.ceil((HEADER + size) / 64);
    expect(heads).toBeGreaterThan(960);
    // The sender's buffers are 2 KiB apart: a frame of 65,000 bytes as a chain of its own, over the area of many.
    const frame = frameOf(size, 3);
    const base = 0x10000 + 0x20000 * 2 + 2048 * 2048;
    a.bytes.fill(0, base, base + HEADER);
    a.bytes.set(frame, base + HEADER);
    b.post(heads - 1);
    expect(a.queueChain([{ address: base, length: HEADER + size }])).toBe(true);
    a.show();
    expect(b.receive()).toEqual([]);
    expect(a.reap()).toBe(0);
    b.post(200);
    const [got] = b.receive();
    expect(got?.buffers).toBe(heads);
    expect(Buffer.compare(got?.frame as Uint8Array, frame)).toBe(0);
    expect(a.reap()).toBe(1);
    expect([...a.events, ...b.events]).toEqual([]);
  });

  it('DPDK CVE-2020-10722: a descriptor of zero length at a bad address is skipped, and harms nothing', () => {
    const { a, b } = pair(features);
    b.post(4);
    const frame = frameOf(100, 9);
    a.bytes.set(new Uint8Array(HEADER), 0x1000);
    a.bytes.set(frame, 0x1000 + HEADER);
    a.queueChain([
      { address: 0x1000, length: HEADER },
      { address: 2 ** 51, length: 0 },
      { address: 0x1000 + HEADER, length: 100 },
    ]);
    a.show();
    expect(b.receive().map((r) => Buffer.from(r.frame))).toEqual([Buffer.from(frame)]);
    expect(a.events).toEqual([]);
  });

  it('DPDK CVE-2020-10723: a length whose low 16 bits look harmless is taken whole', () => {
    const { a, b, backendA } = pair(features);
    b.post(4);
    // 0x10040: 64 in 16 bits. No frame is that long, so it is dropped; and nothing was read past the 64 KiB a frame may have.
    a.queueChain([{ address: 0x10000, length: 0x10040 + HEADER }]);
    a.show();
    expect(b.receive()).toEqual([]);
    expect(a.reap()).toBe(1);
    expect(
      Object.values(backendA.counters.snapshot().transmitDrops).reduce((sum, n) => sum + n, 0) +
        Object.values(b.backend === undefined ? {} : (b.backend as typeof backendA).counters.snapshot().receiveDrops).reduce((sum, n) => sum + n, 0),
    ).toBe(1);
  });

  it('CVE-2023-3301: a peer that is detached in the middle of traffic leaves a cable that hangs in the air', () => {
    const { a, b, backendB } = pair(features);
    b.post(1);
    a.send(frameOf(100, 1), frameOf(100, 2), frameOf(100, 3));
    expect(b.receive()).toHaveLength(1);
    b.stop();
    backendB.detach();
    // What was held for it goes nowhere, and the sender gets its buffers back.
    a.kick(1);
    expect(a.reap()).toBe(3);
    a.send(frameOf(100, 4));
    expect(a.reap()).toBe(1);
    expect(a.events).toEqual([]);
  });

  it.each([
    ['a link', () => new DirectLink()],
    ['a switch', () => new LearningSwitch()],
  ])('CVE-2026-63320: frames of 0 to 13 bytes that a back end brings over %s reach no filter, no hash and no driver', (_what, relay) => {
    const inline = new InlineSegment(new Segment(relay()), { defer: () => {} });
    const b = new TestGuest({ name: 'b', features: [...features, MRG, VIRTIO_NET_F_RSS], pairs: 2 });
    b.attach(inline.port('b', 2));
    const spread = { types: 0x1ff, key: new Uint8Array(40).fill(7), table: Uint16Array.of(1, 0), unclassified: 0, maxTxVq: 2 };
    b.policy.update(({ rss }) => rss.set(0, spread, spread));
    for (const queue of [0, 1]) b.post(32, queue);
    const backEnd = new MemoryPort('back end');
    for (let length = 0; length < 14; length++) backEnd.outbox.push({ bytes: new Uint8Array(length).fill(0xff) });
    backEnd.outbox.push({ bytes: frameOf(64, 5) });
    inline.addPort(backEnd);
    inline.wake(backEnd);
    expect([...b.receive(0), ...b.receive(1)].map((r) => [r.frame.length, sequenceOf(r.frame)])).toEqual([[64, 5]]);
    expect([backEnd.outbox, b.events]).toEqual([[], []]);
  });

  it('rust-vmm d951283: a ring that was stopped is not looked at, whatever is in it', () => {
    const { a, b, backendA } = pair(features);
    b.post(8);
    a.stop();
    expect(a.states()).toEqual(['stopped', 'stopped']);
    const before = a.positions();
    a.queue(frameOf(100, 1));
    a.show();
    backendA.kick(1);
    expect(b.receive()).toEqual([]);
    expect(a.positions()).toEqual(before);
    // Started again where it stopped, it serves what has piled up.
    a.start(before);
    a.kick(1);
    expect(b.receive().map((r) => sequenceOf(r.frame))).toEqual([1]);
  });

  it('kernel 3c4cea8fa7f7: a back end that refuses in the middle of a full batch loses, repeats and reorders nothing', () => {
    const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    const a = new TestGuest({ name: 'a', features, size: 256 });
    a.attach(inline.port('a'));
    const taken: number[] = [];
    let room = 0;
    const backEnd: NetPort = {
      name: 'refuser',
      linkUp: true,
      accepts: 0,
      counters: new PortCounters(),
      collect: () => 0,
      complete: () => {},
      deliver(batch: FrameBatch, from: number, to: number): number {
        let f = from;
        for (; f < to && room > 0; f++, room--) {
          const s = batch.firstSegment[f] as number;
          const { u8 } = batch.segments.views[s] as ReturnType<typeof viewsOf>;
          taken.push(sequenceOf(u8.subarray(batch.segments.offset[s])));
        }
        return f - from;
      },
      flush: () => {},
      get hasRoom() {
        return room > 0;
      },
      awaitFrames: () => false,
      awaitRoom: () => room > 0,
    };
    inline.addPort(backEnd);
    let sent = 0;
    let reaped = 0;
    for (const more of [0, 1, 255, 0, 7, 256, 3, 300, 1000, 0, 500]) {
      while (a.queue(frameOf(64, sent))) sent++;
      a.show();
      room = more;
      inline.wake(backEnd);
      reaped += a.reap();
      expect(reaped).toBe(taken.length);
    }
    room = 10_000;
    inline.wake(backEnd);
    for (let i = 0; i < 50 && reaped < sent; i++) {
      a.kick(1);
      reaped += a.reap();
    }
    expect(reaped).toBe(sent);
    expect(taken).toEqual(Array.from({ length: sent }, (_, i) => i));
  });
});
