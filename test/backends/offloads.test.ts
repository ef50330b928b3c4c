// Offloads from ring to ring: what one driver asks for and another is told, over every ring format, with the tunnel fields of a 24-byte header; and what is counted of it.
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { LearningSwitch } from '#net/learning-switch';
import * as port from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import * as net from '#virtio/net-features';
import * as count from '#virtio/net-statistics';
import { ACK, dissect, ethernet, faults, ipv4, ipv6, onesComplementSum, PSH, pseudoHeader, seedChecksum, tcp, udp } from '../net/frames.ts';
import { frameOf, type GuestOptions, type Received, TestGuest } from './guest.ts';

const HOST = [
  net.VIRTIO_NET_F_CSUM,
  net.VIRTIO_NET_F_HOST_TSO4,
  net.VIRTIO_NET_F_HOST_TSO6,
  net.VIRTIO_NET_F_HOST_ECN,
  net.VIRTIO_NET_F_HOST_UFO,
  net.VIRTIO_NET_F_HOST_USO,
  net.VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO,
  net.VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM,
];
const EVERYTHING = port.ACCEPTS_EVERYTHING;
const FORMATS: [string, number[]][] = [
  ['split', []],
  ['split, event index, indirect', [VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC]],
  ['split, in order', [VIRTIO_F_IN_ORDER]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index, indirect', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
];

const bytesOf = (length: number): number[] => Array.from({ length }, (_, i) => (i * 13 + (i >> 8)) & 0xff);
const u16 = (value: number): number[] => [value & 0xff, value >>> 8];

interface Request {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly headerLength?: number;
  readonly gsoSize?: number;
  readonly start?: number;
  readonly offset?: number;
  readonly outer?: number;
  readonly inner?: number;
}

function header(size: number, r: Request): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set([r.flags ?? 0, r.gsoType ?? 0, ...u16(r.headerLength ?? 0), ...u16(r.gsoSize ?? 0), ...u16(r.start ?? 0), ...u16(r.offset ?? 0)]);
  if (size >= 24) bytes.set([...u16(r.outer ?? 0), ...u16(r.inner ?? 0)], 20);
  return bytes;
}

function pair(a: GuestOptions, b: GuestOptions) {
  const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
  const from = new TestGuest({ name: 'a', ...a });
  const to = new TestGuest({ name: 'b', ...b });
  from.attach(inline.port('a'));
  to.attach(inline.port('b'));
  to.post();
  return { a: from, b: to };
}

/** VXLAN over UDP over IPv4, TCP over IPv4 in it: both checksums left to the device. */
function vxlan(payload: number): { frame: Uint8Array; request: Request } {
  const innerPacket = seedChecksum(ethernet(0x0800, ipv4(6, tcp(bytesOf(payload), { flags: ACK | PSH })))).slice(14);
  const frame = seedChecksum(ethernet(0x0800, ipv4(17, udp([...bytesOf(22), ...innerPacket]))));
  return {
    frame,
    request: {
      flags: port.FRAME_NEEDS_CSUM | port.FRAME_UDP_TUNNEL_CSUM,
      gsoType: port.GSO_TCPV4 | port.GSO_UDP_TUNNEL_IPV4,
      headerLength: 104,
      gsoSize: 1000,
      start: 84,
      offset: 16,
      outer: 34,
      inner: 64,
    },
  };
}

describe.each(FORMATS)('tunnel frames, %s', (_name, features) => {
  const all = [...features, ...HOST];
  describe.each([
    [true, 700],
    [false, 8192],
  ])('mergeable buffers: %s', (mergeable, bufferSize) => {
    const receiver = { features: mergeable ? [...all, net.VIRTIO_NET_F_MRG_RXBUF] : all, bufferSize };
    it('arrive as they were sent where the driver takes them, with all the fields of their header', () => {
      const { a, b } = pair({ features: all, headerLength: 24, bufferSize: 8192 }, { ...receiver, headerLength: 24, accepts: EVERYTHING });
      const { frame, request } = vxlan(5000);
      a.queue(frame, 0, header(24, request));
      a.queue(frameOf(100, 1));
      a.show();
      const received = b.receive();
      expect(received.length).toBe(2);
      expect(Buffer.compare((received[0] as Received).frame, frame)).toBe(0);
      const buffers = mergeable ? Math.ceil((24 + frame.length) / 700) : 1;
      expect(received[0]?.buffers).toBe(buffers);
      const want = header(24, request);
      want.set(u16(buffers), 10);
      expect([...(received[0] as Received).header]).toEqual([...want]);
      expect([...(received[1] as Received).header]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
      expect(a.reap()).toBe(2);
    });

    it.each([
      ['with a short header', 12, EVERYTHING & ~port.ACCEPTS_UDP_TUNNEL],
      ['with a long one', 24, EVERYTHING & ~port.ACCEPTS_UDP_TUNNEL_CSUM],
      ['that takes nothing', 12, 0],
    ])('arrive cut and whole for a driver %s', (_what, headerLength, accepts) => {
      const { a, b } = pair({ features: all, headerLength: 24, bufferSize: 8192 }, { ...receiver, headerLength, accepts });
      const { frame, request } = vxlan(4500);
      a.queue(frame, 0, header(24, request));
      a.show();
      const received = b.receive();
      expect(received.map((r) => r.frame.length)).toEqual([1104, 1104, 1104, 1104, 604]);
      for (const r of received) {
        expect(faults(r.frame)).toEqual([]);
        expect(faults(ethernet(0x0800, [...r.frame.slice(64)]))).toEqual([]);
        expect([...r.header.slice(0, 10)]).toEqual(new Array(10).fill(0));
      }
      expect(received.flatMap((r) => [...r.frame.slice(104)])).toEqual(bytesOf(4500));
    });
  });

  it('a header in single bytes, over an indirect table where there is one', () => {
    const { a, b } = pair({ features: all, headerLength: 24, bufferSize: 8192 }, { features: all, bufferSize: 8192, headerLength: 24, accepts: EVERYTHING });
    const { frame, request } = vxlan(2500);
    const at = 0x8000;
    a.bytes.set(header(24, request), at);
    a.bytes.set(frame, at + 24);
    a.queueChain([...Array.from({ length: 24 }, (_, i) => ({ address: at + i, length: 1 })), { address: at + 24, length: frame.length }]);
    a.show();
    const received = b.receive();
    expect(received.map((r) => [...r.header.slice(20, 24)])).toEqual([[34, 0, 64, 0]]);
    expect(Buffer.compare((received[0] as Received).frame, frame)).toBe(0);
  });
});

describe('what a driver may not ask, dropped and counted as malformed', () => {
  const { frame, request } = vxlan(2000);
  const tcp4 = seedChecksum(ethernet(0x0800, ipv4(6, tcp(bytesOf(2000)))));
  const plain: Request = { flags: 1, gsoType: port.GSO_TCPV4, gsoSize: 1000, start: 34, offset: 16 };
  it.each<[string, Uint8Array, Request]>([
    ['a tunnel over both versions', frame, { ...request, gsoType: 0x61 }],
    ['a tunnel of nothing to cut', frame, { ...request, gsoType: 0x20 }],
    ['a tunnel with DATA_VALID', frame, { ...request, flags: 1 | 2 | 8 }],
    ['a tunnel without NEEDS_CSUM', frame, { ...request, flags: 8 }],
    ['an outer checksum without a tunnel', tcp4, { ...plain, flags: 1 | 8 }],
    ['an outer checksum of a plain frame', tcp4.slice(0, 200), { flags: 8 }],
    ['UFO in a tunnel', frame, { ...request, gsoType: 0x23 }],
    ['tunnel offsets of 65535', frame, { ...request, outer: 0xffff, inner: 0xffff }],
    ['csum_start of 65535 (CVE-2024-11614)', tcp4.slice(0, 200), { flags: 1, start: 0xffff, offset: 0xffff }],
    ['a checksum field that ends past the frame (CVE-2024-3567)', tcp4.slice(0, 51), { flags: 1, start: 34, offset: 16 }],
    ['segments of 0 bytes (CVE-2015-6815)', tcp4, { ...plain, gsoSize: 0 }],
    ['an unknown type', tcp4, { ...plain, gsoType: 2 }],
    ['a type of all ones', tcp4, { ...plain, gsoType: 0xff }],
  ])('%s', (_what, bytes, asked) => {
    const { a, b } = pair({ features: HOST, headerLength: 24, bufferSize: 8192 }, { headerLength: 24, bufferSize: 8192, accepts: EVERYTHING });
    a.queue(bytes, 0, header(24, asked));
    a.queue(frameOf(60, 1));
    a.show();
    expect(b.receive().map((r) => r.frame.length)).toEqual([60]);
    expect(a.reap()).toBe(2);
    const counters = [count.COUNT_FRAMES, count.COUNT_BYTES, count.COUNT_DROPS, count.COUNT_SPECIAL_DROPS];
    expect(counters.map((counter) => a.statistics.get(1, counter))).toEqual([1, 60, 1, 1]);
  });

  it('without the feature its bits are unknown ones', () => {
    const without = HOST.filter((bit) => bit !== net.VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM);
    const { a, b } = pair({ features: without, headerLength: 24, bufferSize: 8192 }, { headerLength: 24, bufferSize: 8192, accepts: EVERYTHING });
    a.queue(frameOf(60, 1), 0, header(24, { flags: 0xf8 }));
    a.show();
    expect([...(b.receive()[0]?.header ?? [])]).toEqual([...header(24, {})].with(10, 1));
  });
});

describe('a header with outer_nh_offset', () => {
  it('is 32 bytes long, and what it hints at is not gone by (device MAY)', () => {
    const { a, b } = pair({ features: HOST, headerLength: 32, bufferSize: 8192 }, { headerLength: 32, bufferSize: 8192, accepts: EVERYTHING });
    const { frame, request } = vxlan(2500);
    const asked = header(32, request);
    // Nonsense in outer_nh_offset and in the fields that only IPsec has.
    asked.fill(0xff, 24);
    a.queue(frame, 0, asked);
    a.queue(frameOf(60, 1), 0, header(32, {}).fill(0xff, 24));
    a.show();
    const received = b.receive();
    expect(received.map((r) => [...r.header])).toEqual([[...header(32, request)].with(10, 1), [...header(32, {})].with(10, 1)]);
    expect(received.map((r) => r.frame.length)).toEqual([frame.length, 60]);
  });
});

describe('UFO', () => {
  const datagram = seedChecksum(ethernet(0x0800, ipv4(17, udp(bytesOf(3000)))));
  const request: Request = { flags: 1, gsoType: port.GSO_UDP, headerLength: 42, gsoSize: 1480, start: 34, offset: 6 };
  it('arrives as it is, or in fragments that carry one checksum', () => {
    const whole = pair({ features: HOST, bufferSize: 8192 }, { bufferSize: 8192, accepts: EVERYTHING });
    whole.a.queue(datagram, 0, header(12, request));
    whole.a.show();
    expect(whole.b.receive().map((r) => [...r.header])).toEqual([[...header(12, request)].with(10, 1)]);
    const cut = pair({ features: HOST, bufferSize: 8192 }, { accepts: EVERYTHING & ~port.ACCEPTS_UFO });
    cut.a.queue(datagram, 0, header(12, request));
    cut.a.show();
    const received = cut.b.receive();
    expect(received.map((r) => r.frame.length)).toEqual([34 + 1480, 34 + 1480, 34 + 48]);
    const body = received.flatMap((r) => [...r.frame.slice(34)]);
    const again = ethernet(0x0800, ipv4(17, body, { fragment: 0 }));
    expect(faults(again)).toEqual([]);
    expect(body.slice(8)).toEqual(bytesOf(3000));
  });
});

describe('receive segment coalescing', () => {
  const segments = (version: 4 | 6, lengths: readonly number[]): Uint8Array[] => {
    let sequence = 1;
    return lengths.map((length, i) => {
      const body = tcp(bytesOf(length), { sequence });
      sequence += length;
      const frame = version === 4 ? ethernet(0x0800, ipv4(6, body, { id: i })) : ethernet(0x86dd, ipv6(6, body));
      const p = dissect(frame);
      const sum = ~onesComplementSum([...pseudoHeader(p), ...frame.slice(p.transport)]) & 0xffff;
      frame.set([sum >> 8, sum & 0xff], p.transport + 16);
      return frame;
    });
  };

  it.each([
    [4, 1, 54],
    [6, 4, 74],
  ] as const)('of IPv%i: one frame with the number of segments, between frames of their own', (version, gsoType, headers) => {
    const { a, b } = pair({}, { features: [net.VIRTIO_NET_F_MRG_RXBUF], bufferSize: 1024, accepts: EVERYTHING | port.ACCEPTS_RSC });
    a.queue(frameOf(60, 1));
    for (const frame of segments(version, [1000, 1000, 500, 0, 0])) a.queue(frame);
    a.queue(frameOf(61, 2));
    a.show();
    const received = b.receive();
    expect(received.map((r) => r.frame.length)).toEqual([60, headers + 2500, 61]);
    expect([...(received[1] as Received).header]).toEqual([1 | 4, gsoType, headers, 0, ...u16(1000), 3, 0, 2, 0, 3, 0]);
    expect([...(received[1] as Received).frame.slice(headers)]).toEqual([...bytesOf(1000), ...bytesOf(1000), ...bytesOf(500)]);
    expect(a.reap()).toBe(7);
    expect([count.COUNT_CHANGED_FRAMES, count.COUNT_CHANGED_BYTES, count.COUNT_GSO_FRAMES].map((c) => b.statistics.get(0, c))).toEqual([1, headers + 2500, 1]);
  });

  it('reports of a frame that came large as well (device MUST)', () => {
    const { a, b } = pair({ features: HOST, bufferSize: 8192 }, { bufferSize: 8192, accepts: EVERYTHING | port.ACCEPTS_RSC });
    a.queue(seedChecksum(ethernet(0x0800, ipv4(6, tcp(bytesOf(2500))))), 0, header(12, { flags: 1, gsoType: 1, gsoSize: 1000, start: 34, offset: 16 }));
    a.show();
    expect(b.receive().map((r) => [...r.header])).toEqual([[1 | 4, 1, 54, 0, ...u16(1000), 3, 0, 0, 0, 1, 0]]);
  });

  it('holds what does not fit, and loses and repeats nothing', () => {
    const { a, b } = pair({}, { size: 2, bufferSize: 8192, accepts: EVERYTHING | port.ACCEPTS_RSC });
    for (const length of [100, 101]) for (const frame of segments(4, [length, length])) a.queue(frame);
    for (const frame of segments(4, [102, 102, 102])) a.queue(frame);
    a.queue(frameOf(60, 1));
    a.show();
    expect(b.receive().map((r) => r.frame.length)).toEqual([254, 256]);
    expect(a.reap()).toBe(4);
    b.post();
    expect(b.receive().map((r) => r.frame.length)).toEqual([54 + 306, 60]);
    expect(a.reap()).toBe(4);
  });

  it('a driver that does not ask for it gets every segment', () => {
    const { a, b } = pair({}, { bufferSize: 8192, accepts: EVERYTHING });
    for (const frame of segments(4, [100, 100])) a.queue(frame);
    a.show();
    expect(b.receive().length).toBe(2);
  });
});

describe('counters of each queue', () => {
  const words = (guest: TestGuest, ring: number): Record<string, number> =>
    Object.fromEntries(
      Object.entries(count)
        .filter(([name, value]) => name.startsWith('COUNT_') && typeof value === 'number')
        .map(([name, value]) => [name.slice(6), guest.statistics.get(ring, value as number)] as const)
        .filter(([, value]) => value !== 0),
    );

  it('say what passed, as it was asked for, and as what it was sent', () => {
    const { a, b } = pair({ features: HOST, bufferSize: 8192 }, { accepts: port.ACCEPTS_CSUM });
    const big = seedChecksum(ethernet(0x0800, ipv4(6, tcp(bytesOf(2500)))));
    const small = seedChecksum(ethernet(0x0800, ipv4(17, udp(bytesOf(100)))));
    a.queue(big, 0, header(12, { flags: 1, gsoType: 1, gsoSize: 1000, start: 34, offset: 16 }));
    a.queue(small, 0, header(12, { flags: 1, start: 34, offset: 6 }));
    a.queue(frameOf(60, 1));
    a.queueChain([{ address: 0x8000, length: 20 }]);
    a.show();
    const sent = 3 * 54 + 2500;
    expect(words(a, 1)).toEqual({
      NOTIFICATIONS: 1,
      INTERRUPTS: 1,
      FRAMES: 3,
      BYTES: 2554 + 142 + 60,
      DROPS: 1,
      SPECIAL_DROPS: 1,
      NEEDS_CSUM: 2,
      GSO_FRAMES: 1,
      GSO_BYTES: 2554,
      CHANGED_FRAMES: 1,
      CHANGED_BYTES: 2554,
      SEGMENTS: 3,
      SEGMENT_BYTES: sent,
    });
    expect(words(b, 0)).toEqual({ INTERRUPTS: 1, FRAMES: 5, BYTES: sent + 142 + 60, NEEDS_CSUM: 4 });
    expect(b.receive().length).toBe(5);
  });

  it('count a large frame that nobody had to cut as it is', () => {
    const { a, b } = pair({ features: HOST, bufferSize: 8192 }, { accepts: EVERYTHING, bufferSize: 8192 });
    const big = seedChecksum(ethernet(0x0800, ipv4(6, tcp(bytesOf(2500)))));
    a.queue(big, 0, header(12, { flags: 1, gsoType: 1, gsoSize: 1000, start: 34, offset: 16 }));
    a.show();
    expect(words(a, 1)).toMatchObject({ FRAMES: 1, BYTES: 2554, GSO_FRAMES: 1, GSO_BYTES: 2554, NEEDS_CSUM: 1 });
    expect(words(a, 1)).not.toHaveProperty('SEGMENTS');
    expect(words(b, 0)).toMatchObject({ FRAMES: 1, BYTES: 2554, GSO_FRAMES: 1, GSO_BYTES: 2554, NEEDS_CSUM: 1 });
  });

  it('count what is dropped at the receiver, for want of buffers and otherwise', () => {
    const inline = new InlineSegment(new Segment(new LearningSwitch()), { defer: () => {} });
    const guests = ['a', 'b', 'c'].map((name) => new TestGuest({ name, features: [], policyFlags: port.GSO_NONE }));
    for (const guest of guests) guest.attach(inline.port(guest.name));
    const [a, b, c] = guests as [TestGuest, TestGuest, TestGuest];
    b.post(1);
    c.post();
    const broadcast = frameOf(60, 1);
    broadcast.fill(0xff, 0, 6);
    // Three floods: b has room for one, and a full port does not hold up what is meant for all.
    a.send(broadcast, broadcast, broadcast);
    expect([b, c].map((guest) => words(guest, 0).FRAMES)).toEqual([1, 3]);
    expect(words(b, 0)).toMatchObject({ DROPS: 2, SPECIAL_DROPS: 2 });
    // Nobody's address: filtered by both.
    const elsewhere = frameOf(60, 2);
    a.send(elsewhere);
    expect(words(c, 0)).toMatchObject({ FRAMES: 3, DROPS: 1 });
    expect(words(a, 1)).toMatchObject({ FRAMES: 4, BYTES: 240 });
  });

  it('do not count as sent what went nowhere', () => {
    const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    const a = new TestGuest({ name: 'a' });
    a.attach(inline.port('a'));
    a.send(frameOf(60, 1), frameOf(60, 2));
    expect(words(a, 1)).toEqual({ NOTIFICATIONS: 1, INTERRUPTS: 1, DROPS: 2 });
  });

  it('go on in the same words when another backend takes over', () => {
    const { a, b } = pair({}, {});
    a.send(frameOf(60, 1));
    for (const guest of [a, b]) guest.stop();
    const next = new InlineSegment(new Segment(new DirectLink()), { defer: () => {}, paused: true });
    const positions = [a.positions(), b.positions()];
    a.attach(next.port('a'), positions[0]);
    b.attach(next.port('b'), positions[1]);
    next.resume();
    a.send(frameOf(61, 2));
    expect([words(a, 1).FRAMES, words(a, 1).BYTES, words(b, 0).FRAMES]).toEqual([2, 121, 2]);
  });
});
