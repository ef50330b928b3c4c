// RSS, hash reports and what they meet on the way to a receive ring: every way a frame is written, both ring formats, queues under reset, links that know the hash.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { FlowTable } from '#backends/steering';
import { VhostPool } from '#backends/vhost-pool';
import { viewsOf } from '#core/guest-memory';
import { DirectLink } from '#net/direct-link';
import { acquireHashIdentity, releaseHashIdentity } from '#net/hash-identity';
import { LearningSwitch } from '#net/learning-switch';
import { ACCEPTS_CSUM, ACCEPTS_TSO4, FRAME_NEEDS_CSUM, FrameBatch, GSO_TCPV4 } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import {
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_HASH_REPORT,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_RSS,
} from '#virtio/net-features';
import { POLICY_ACTIVE, POLICY_ALL_MULTICAST, POLICY_ALL_UNICAST, POLICY_LINK_UP } from '#virtio/net-policy';
import type { RssConfiguration } from '#virtio/rss-policy';
import { appendFrame, MemoryPort } from '../net/memory-port.ts';
import { colons, ethernet, ip, ipv4, ipv6, transport } from '../net/packets.ts';
import { expectedHash, MICROSOFT_KEY } from '../net/toeplitz.ts';
import { eventually } from './eventually.ts';
import { frameOf, type GuestOptions, HEADER, type Received, TestGuest } from './guest.ts';

const ALL = 0x1ff;

function linked(optionsA: GuestOptions, optionsB: GuestOptions) {
  const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
  const a = new TestGuest({ name: 'a', ...optionsA });
  const b = new TestGuest({ name: 'b', ...optionsB });
  const [backendA, backendB] = [inline.port('a', a.pairs), inline.port('b', b.pairs)];
  a.attach(backendA);
  b.attach(backendB);
  return { a, b, backendA, backendB };
}

function configure(guest: TestGuest, rss: Partial<RssConfiguration> & { readonly tunnels?: number; readonly live?: [number, number] }): void {
  const configuration = { types: ALL, key: MICROSOFT_KEY, table: Uint16Array.of(0), unclassified: 0, maxTxVq: guest.pairs, ...rss };
  guest.policy.update((p) => {
    p.rss.tunnels = rss.tunnels ?? 0;
    p.rss.set(0, configuration, rss.table === undefined ? undefined : configuration);
    if (rss.live !== undefined) p.rss.live = rss.live;
  });
  guest.backend?.policyChanged();
}

const flow = (n: number, protocol = 6, payload = 30): Uint8Array =>
  ip(ipv4([10, 0, n >> 8, n & 0xff], [10, 1, 0, 1], protocol, transport(protocol, [1000 + n, 80], new Array(payload).fill(n & 0xff))));

const hashIn = ({ header }: Received): [number, number] => {
  const view = new DataView(header.buffer, header.byteOffset);
  return [view.getUint32(12, true), view.getUint16(16, true)];
};

/** Queue by RSS, said a second time. */
function queueOf(frame: Uint8Array, table: readonly number[], unclassified: number, types = ALL): number {
  const [hash, report] = expectedHash(frame, MICROSOFT_KEY, types);
  return report === 0 ? unclassified : (table[hash % table.length] as number);
}

describe('RSS', () => {
  it.each([
    ['split', []],
    ['packed', [VIRTIO_F_RING_PACKED]],
    ['split, in order', [VIRTIO_F_IN_ORDER]],
    ['packed, in order, event indices', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX]],
  ])('spreads flows by the table, in order within each (%s)', (_, features) => {
    const pairs = 16;
    const { a, b } = linked({ size: 256, features }, { size: 64, pairs, features });
    const table = Array.from({ length: 128 }, (_, i) => (i * 7) % pairs);
    configure(b, { table: Uint16Array.from(table), unclassified: 3 });
    const sent: Uint8Array[][] = Array.from({ length: pairs }, () => []);
    const got: Uint8Array[][] = Array.from({ length: pairs }, () => []);
    for (let round = 0; round < 12; round++) {
      for (let pair = 0; pair < pairs; pair++) b.post(64, pair);
      for (let i = 0; i < 60; i++) {
        const frame = i % 13 === 5 ? frameOf(60 + i, i) : flow((i * 37 + round) & 0x3ff, i % 3 === 0 ? 17 : 6, i);
        expect(a.queue(frame)).toBe(true);
        sent[queueOf(frame, table, 3)]?.push(frame);
      }
      a.show();
      a.reap();
      for (let pair = 0; pair < pairs; pair++) got[pair]?.push(...b.receive(pair).map(({ frame }) => frame.slice()));
    }
    expect(got).toEqual(sent);
    expect(sent.filter((frames) => frames.length > 0).length).toBe(pairs);
  });

  it('what has no hash goes to the unclassified queue', () => {
    const { a, b } = linked({}, { pairs: 4 });
    configure(b, { table: Uint16Array.of(1, 1), unclassified: 2, types: 2 });
    for (let pair = 0; pair < 4; pair++) b.post(8, pair);
    a.send(ethernet(0x0806, new Array(40).fill(0)), flow(1, 17), flow(2, 6));
    expect([0, 1, 2, 3].map((pair) => b.receive(pair).length)).toEqual([0, 1, 2, 0]);
  });

  it('takes what the driver sends on a queue past max_tx_vq: Linux names fewer than it uses', () => {
    const { a, b } = linked({ pairs: 2 }, {});
    a.policy.update((p) => {
      p.activePairs = 1;
    });
    configure(a, { table: Uint16Array.of(0, 1), maxTxVq: 1 });
    b.post();
    a.queue(frameOf(60, 1), 1);
    a.show(1);
    expect(a.reap(1)).toBe(1);
    expect(b.receive().length).toBe(1);
  });

  it('one full queue holds its sender back, and nothing is delivered twice or out of order', () => {
    const pairs = 4;
    const { a, b } = linked({ size: 256 }, { size: 16, pairs });
    const table = [0, 1, 2, 3];
    configure(b, { table: Uint16Array.from(table) });
    const frames = Array.from({ length: 200 }, (_, i) => flow(i));
    const sent = table.map((pair) => frames.filter((frame) => queueOf(frame, table, 0) === pair));
    const got: Uint8Array[][] = table.map(() => []);
    a.send(...frames);
    for (let step = 0; step < 600; step++) {
      b.post(1 + (step % 3), (step * 7) % pairs);
      for (let pair = 0; pair < pairs; pair++) got[pair]?.push(...b.receive(pair).map(({ frame }) => frame.slice()));
    }
    expect(got).toEqual(sent);
    expect(a.reap()).toBe(200);
  });

  it('drops frames for a queue the driver is resetting, keeps those for one that is only at rest (virtio 1.4 5.1.9.5.7.3)', () => {
    const { a, b, backendB } = linked({ size: 64 }, { pairs: 2, size: 64 });
    configure(b, { table: Uint16Array.of(0, 1) });
    for (const pair of [0, 1]) b.post(32, pair);
    const [zero, one] = [0, 1].map((pair) => Array.from({ length: 60 }, (_, i) => flow(i)).filter((frame) => queueOf(frame, [0, 1], 0) === pair)) as [
      Uint8Array[],
      Uint8Array[],
    ];
    backendB.stopVring(2);
    configure(b, { table: Uint16Array.of(0, 1), live: [1, 0] });
    a.send(one[0] as Uint8Array, zero[0] as Uint8Array, one[1] as Uint8Array, zero[1] as Uint8Array);
    expect(b.receive(0).map(({ frame }) => frame)).toEqual(zero.slice(0, 2));
    expect(a.reap()).toBe(4);
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ 'not-ready': 2 });
    // At rest, as in a hand-over: frames wait for it, and those behind them with them.
    const position = backendB.vringPosition(2);
    configure(b, { table: Uint16Array.of(0, 1), live: [3, 0] });
    a.send(zero[2] as Uint8Array, one[2] as Uint8Array, zero[3] as Uint8Array);
    expect(b.receive(0).map(({ frame }) => frame)).toEqual([zero[2]]);
    backendB.startVring(2, b.setups[2] as never, position, b.calls[2] as never);
    expect(b.receive(1).map(({ frame }) => frame)).toEqual([one[2]]);
    expect(b.receive(0).map(({ frame }) => frame)).toEqual([zero[3]]);
  });

  it('automatic steering sends elsewhere what was for a queue under reset, and drops when all of them are (5.1.9.5.6.2)', () => {
    const { a, b, backendB } = linked({ size: 64 }, { pairs: 2, size: 64 });
    for (const pair of [0, 1]) b.post(32, pair);
    const live = (bits: number): void => {
      b.policy.update((p) => {
        p.rss.live = [bits, 0];
      });
      backendB.policyChanged();
    };
    b.queue(ip(ipv4([10, 1, 0, 1], [10, 0, 0, 7], 6, transport(6, [80, 1007], [1]))), 1);
    b.show(1);
    a.send(flow(7));
    expect([b.receive(0).length, b.receive(1).length]).toEqual([0, 1]);
    backendB.stopVring(2);
    live(1);
    a.send(flow(7));
    expect(b.receive(0).length).toBe(1);
    backendB.stopVring(0);
    live(0);
    a.send(flow(7), flow(8));
    expect(a.reap()).toBe(4);
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ 'not-ready': 2 });
  });

  it('filters before it spreads', () => {
    const flags = POLICY_ACTIVE | POLICY_LINK_UP | POLICY_ALL_MULTICAST;
    const { a, b, backendB } = linked({ size: 64 }, { pairs: 2, policyFlags: flags });
    b.policy.update((p) => p.setMac(Uint8Array.from([0x52, 0x54, 0, 0, 0, 2])));
    configure(b, { table: Uint16Array.of(0, 1) });
    for (const pair of [0, 1]) b.post(32, pair);
    const frames = Array.from({ length: 20 }, (_, i) => flow(i));
    const mine = frames.filter((_, i) => i % 3 !== 0);
    frames.forEach((frame, i) => {
      if (i % 3 === 0) frame[5] = 9;
    });
    a.send(...frames);
    for (const pair of [0, 1]) expect(b.receive(pair).map(({ frame }) => frame)).toEqual(mine.filter((frame) => queueOf(frame, [0, 1], 0) === pair));
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ filtered: 7 });
    expect(flags & POLICY_ALL_UNICAST).toBe(0);
  });

  it.each([
    ['split', []],
    ['packed', [VIRTIO_F_RING_PACKED]],
    ['split, mergeable', [VIRTIO_NET_F_MRG_RXBUF]],
  ])('what is held, dropped or in need of several buffers on one ring changes nothing on another, and is counted once (%s)', (_, features) => {
    const mergeable = features.includes(VIRTIO_NET_F_MRG_RXBUF);
    const { a, b, backendB } = linked({ size: 64, features }, { size: 16, pairs: 2, features, bufferSize: mergeable ? 128 : 512 });
    b.policy.update((p) => {
      p.maximumFrame = 400;
    });
    configure(b, { table: Uint16Array.of(0, 1) });
    const ofPair = (pair: number, payload: number): Uint8Array[] =>
      Array.from({ length: 60 }, (_, i) => flow(i, 6, payload)).filter((frame) => queueOf(frame, [0, 1], 0) === pair);
    const [zero, one, long, twoBuffers] = [ofPair(0, 30), ofPair(1, 30), ofPair(1, 500), ofPair(1, 100)] as [
      Uint8Array[],
      Uint8Array[],
      Uint8Array[],
      Uint8Array[],
    ];
    const frames = [0, 1, 2, 3].flatMap((i) => [zero[i], one[i], long[i], twoBuffers[i], zero[i + 10]] as Uint8Array[]);
    const got: Uint8Array[][] = [[], []];
    const take = (): void => {
      for (const pair of [0, 1]) got[pair]?.push(...b.receive(pair).map(({ frame }) => frame.slice()));
    };
    // Pair 0 has three: its fourth holds all that come after it, those of pair 1 as well.
    b.post(3, 0);
    b.post(16, 1);
    a.send(...frames);
    take();
    const dealtWith = frames.slice(0, 9);
    expect(got).toEqual([0, 1].map((pair) => dealtWith.filter((frame) => frame.length < 400 && queueOf(frame, [0, 1], 0) === pair)));
    expect(backendB.counters.snapshot()).toMatchObject({ receiveFrames: 7, receiveDrops: { 'too-long': 2 } });
    expect(a.reap()).toBe(9);
    b.post(10, 0);
    take();
    expect(got).toEqual([0, 1].map((pair) => frames.filter((frame) => frame.length < 400 && queueOf(frame, [0, 1], 0) === pair)));
    expect(backendB.counters.snapshot()).toMatchObject({ receiveFrames: 16, receiveDrops: { 'too-long': 4 } });
    expect(a.reap()).toBe(11);
  });

  it('an entry beyond the rings there are takes nothing with it', () => {
    // What a control plane checks (CVE-2024-6505); a data plane must not depend on it.
    const { a, b } = linked({}, { pairs: 2 });
    configure(b, { table: Uint16Array.of(0xffff, 63, 2, 1), unclassified: 40_000 });
    for (const pair of [0, 1]) b.post(32, pair);
    a.send(...Array.from({ length: 30 }, (_, i) => flow(i)), frameOf(60, 1));
    const got = [...b.receive(0), ...b.receive(1)];
    expect(got.every(({ frame }) => queueOf(frame, [9, 9, 9, 1], 9) === 1)).toBe(true);
    expect(b.events).toEqual([]);
  });
});

describe('hash reports', () => {
  const formats = [
    ['split', []],
    ['packed', [VIRTIO_F_RING_PACKED]],
    ['split, in order', [VIRTIO_F_IN_ORDER]],
    ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
    ['split, mergeable', [VIRTIO_NET_F_MRG_RXBUF]],
    ['packed, mergeable', [VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF]],
    ['split, indirect, mergeable', [VIRTIO_F_INDIRECT_DESC, VIRTIO_NET_F_MRG_RXBUF]],
    ['packed, indirect, mergeable, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_INDIRECT_DESC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_F_IN_ORDER]],
  ] as const;

  it.each(formats)('every frame says its hash and type, or none; spread or not (%s)', (_, features) => {
    const mergeable = features.includes(VIRTIO_NET_F_MRG_RXBUF as never);
    for (const pairs of [1, 4]) {
      const report = [...features, VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_RSS];
      const { a, b } = linked({ size: 64, features: report }, { size: 64, pairs, features: report, bufferSize: mergeable ? 100 : 2048 });
      const table = Array.from({ length: 128 }, (_, i) => i % pairs);
      configure(b, { table: Uint16Array.from(table) });
      const frames = [
        flow(1),
        flow(2, 17, 8),
        flow(3, 6, 300),
        flow(4, 1, 60),
        frameOf(64, 5),
        ip(ipv6(colons('fd00::1'), colons('fd00::2'), 17, transport(17, [5, 6], [1, 2, 3]))),
        ip(ipv6(colons('fd00::1'), colons('fd00::2'), 60, [6, 2, 1, 2, 0, 0, 0xc9, 16, ...colons('fd00::9'), ...transport(6, [5, 6])])),
        frameOf(1500, 6),
      ];
      for (let pair = 0; pair < pairs; pair++) b.post(64, pair);
      a.send(...frames);
      for (let pair = 0; pair < pairs; pair++) {
        const got = b.receive(pair);
        expect(got.map(({ frame }) => frame)).toEqual(frames.filter((frame) => queueOf(frame, table, 0) === pair));
        for (const frame of got) {
          expect(hashIn(frame)).toEqual(expectedHash(frame.frame, MICROSOFT_KEY, ALL));
          expect([...frame.header.subarray(0, 10), ...frame.header.subarray(18)]).toEqual(new Array(12).fill(0));
          expect(frame.header[10]).toBe(mergeable ? Math.ceil((frame.frame.length + 20) / 100) : 1);
        }
      }
    }
  });

  it('NONE before hashing was set up, whatever the buffers held', () => {
    for (const length of [60, 61, 700]) {
      const { a, b } = linked({ size: 16 }, { size: 16, features: [VIRTIO_NET_F_HASH_REPORT] });
      b.bytes.fill(0xa5, 0x30000);
      b.post(8);
      a.send(frameOf(length, 1), flow(1));
      expect(b.receive().map((frame) => [...hashIn(frame), frame.header[18], frame.header[19]])).toEqual([
        [0, 0, 0, 0],
        [0, 0, 0, 0],
      ]);
    }
  });

  it('a header in several buffers, and num_buffers across them', () => {
    for (const [first, second] of [
      [11, 9],
      [12, 4],
      [13, 7],
      [17, 3],
      [4, 4],
    ] as const) {
      const { a, b } = linked({ size: 16 }, { size: 16, features: [VIRTIO_NET_F_HASH_REPORT] });
      configure(b, {});
      const at = 0x20000 + 0x10000;
      b.bytes.fill(0xa5, at, at + 400);
      const driver = b.drivers[0] as TestGuest['drivers'][0];
      driver.add(1, [
        { address: at, length: first, write: true },
        { address: at + 100, length: second, write: true },
        { address: at + 200, length: 150, write: true },
      ]);
      driver.expose();
      b.kick(0);
      const frame = flow(9);
      a.send(frame);
      expect(driver.reap()).toEqual([expect.objectContaining({ length: 20 + frame.length })]);
      const whole = [...b.bytes.subarray(at, at + first), ...b.bytes.subarray(at + 100, at + 100 + second), ...b.bytes.subarray(at + 200, at + 350)];
      const view = new DataView(Uint8Array.from(whole).buffer);
      expect([view.getUint32(12, true), view.getUint16(16, true)]).toEqual(expectedHash(frame, MICROSOFT_KEY, ALL));
      expect(view.getUint16(10, true)).toBe(1);
      expect(Uint8Array.from(whole.slice(20, 20 + frame.length))).toEqual(frame);
    }
  });

  it('a transmit header of twenty bytes, in one buffer or cut anywhere, is no part of the frame (CVE-2023-6693)', () => {
    const { a, b } = linked({ size: 64, features: [VIRTIO_NET_F_HASH_REPORT] }, { size: 64 });
    b.post();
    const frame = flow(1);
    expect(a.queue(frame)).toBe(true);
    a.show();
    const at = 0x30000;
    for (let cut = 1; cut < 24; cut++) {
      a.bytes.fill(0, at, at + 20);
      // What a driver leaves in the hash fields of a frame it sends means nothing.
      a.bytes.fill(0xff, at + 12, at + 20);
      a.bytes.set(frame, at + 20);
      a.queueChain([
        { address: at, length: cut },
        { address: at + cut, length: 20 + frame.length - cut },
      ]);
      a.show();
    }
    expect(b.receive().map(({ frame: got }) => got)).toEqual(new Array(24).fill(frame));
  });

  it('segments of a frame cut in software have its hash', () => {
    const offloads = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4];
    for (const accepts of [0, ACCEPTS_CSUM, ACCEPTS_CSUM | ACCEPTS_TSO4]) {
      const { a, b } = linked(
        { size: 64, features: offloads, bufferSize: 8192 },
        { size: 64, pairs: 2, features: [...offloads, VIRTIO_NET_F_HASH_REPORT], accepts, bufferSize: 8192 },
      );
      configure(b, { table: Uint16Array.of(0, 1) });
      for (const pair of [0, 1]) b.post(16, pair);
      const frame = flow(77, 6, 5000);
      const header = new Uint8Array(HEADER);
      const view = new DataView(header.buffer);
      header[0] = FRAME_NEEDS_CSUM;
      header[1] = GSO_TCPV4;
      view.setUint16(2, 54, true);
      view.setUint16(4, 1000, true);
      view.setUint16(6, 34, true);
      view.setUint16(8, 16, true);
      a.queue(frame, 0, header);
      a.show();
      const expected = expectedHash(frame, MICROSOFT_KEY, ALL);
      const got = b.receive((expected[0] & 1) as 0 | 1);
      expect(got.length).toBe((accepts & ACCEPTS_TSO4) !== 0 ? 1 : 5);
      for (const one of got) expect(hashIn(one)).toEqual(expected);
    }
  });

  it('tunnels are hashed by what is inside when that is on', () => {
    const inner = ipv4([1, 2, 3, 4], [5, 6, 7, 8], 6, transport(6, [1, 2]));
    const frame = ip(ipv4([10, 0, 0, 1], [10, 0, 0, 2], 4, inner));
    for (const tunnels of [0, 128, 127]) {
      const { a, b } = linked({}, { features: [VIRTIO_NET_F_HASH_REPORT] });
      configure(b, { tunnels });
      b.post(4);
      a.send(frame);
      expect(b.receive().map(hashIn)).toEqual([expectedHash(frame, MICROSOFT_KEY, ALL, tunnels)]);
    }
  });
});

it('frames behind legacy headers of ten bytes, which lie on no word, arrive whole', () => {
  for (const [from, to] of [
    [10, 10],
    [10, 12],
    [12, 10],
  ] as const) {
    const { a, b } = linked({}, {});
    for (const [guest, header] of [
      [a, from],
      [b, to],
    ] as const) {
      guest.policy.update((p) => {
        p.headerLength = header;
      });
      guest.backend?.policyChanged();
    }
    b.post(8);
    const frames = [60, 61, 64, 200].map((length, i) => frameOf(length, i));
    for (const frame of frames) a.queue(frame, 0, new Uint8Array(from));
    a.show();
    const got = (b.drivers[0] as TestGuest['drivers'][0]).reap().map(({ cookie, length }) => b.bytes.slice(cookie + to, cookie + length));
    expect(got).toEqual(frames);
  }
});

describe('a worker', () => {
  it('spreads and reports as the inline data plane does, and follows a change of configuration', async () => {
    const pool = new VhostPool();
    try {
      const segment = pool.worker().segment();
      const a = new TestGuest({ name: 'a', size: 256 });
      const b = new TestGuest({ name: 'b', size: 128, pairs: 4, features: [VIRTIO_NET_F_HASH_REPORT] });
      a.attach(segment.port('a'));
      b.attach(segment.port('b', 4));
      const frames = Array.from({ length: 100 }, (_, i) => flow(i * 3, i % 2 === 0 ? 6 : 17));
      for (const [table, key] of [
        [[0, 1, 2, 3], MICROSOFT_KEY],
        [[3, 2], MICROSOFT_KEY.slice(4)],
      ] as const) {
        configure(b, { table: Uint16Array.from(table), key });
        for (let pair = 0; pair < 4; pair++) b.post(128, pair);
        a.send(...frames);
        const got: Received[][] = [[], [], [], []];
        await eventually('100 frames', () => {
          for (let pair = 0; pair < 4; pair++) got[pair]?.push(...b.receive(pair));
          a.reap();
          return got.flat().length === 100;
        });
        for (const one of got.flat()) expect(hashIn(one)).toEqual(expectedHash(one.frame, key, ALL));
        const queue = (frame: Uint8Array): number => table[expectedHash(frame, key, ALL)[0] % table.length] as number;
        expect(got.map((queued) => queued.map(({ frame }) => frame))).toEqual([0, 1, 2, 3].map((pair) => frames.filter((frame) => queue(frame) === pair)));
      }
    } finally {
      await pool.close();
    }
  });
});

describe('a hash that is known already', () => {
  it('is passed on by who sends it, to receivers with the same parameters only', () => {
    const inline = new InlineSegment(new Segment(new LearningSwitch()), { defer: () => {} });
    const parameters = { types: 2, tunnels: 0, key: MICROSOFT_KEY };
    const identity = acquireHashIdentity(parameters);
    const nic = new (class extends MemoryPort {
      override collect(...args: Parameters<MemoryPort['collect']>): number {
        const [batch] = args;
        const before = batch.count;
        const count = super.collect(...args);
        for (let f = before; f < batch.count; f++) {
          // Not what our hasher would say, so that the two can be told apart.
          batch.hash[f] = 0x12345678;
          batch.hashReport[f] = 2;
          batch.hashedBy[f] = identity;
        }
        return count;
      }
    })('nic');
    inline.addPort(nic);
    const guests = [{}, { types: 3 }, { key: MICROSOFT_KEY.slice(1) }, {}].map((change, i) => {
      const guest = new TestGuest({ name: `${i}`, features: [VIRTIO_NET_F_HASH_REPORT] });
      guest.attach(inline.port(`${i}`));
      configure(guest, { ...parameters, ...change });
      guest.post(4);
      return guest;
    });
    const frame = flow(3);
    nic.outbox.push({ bytes: frame });
    inline.wake(nic);
    const known = [0x12345678, 2];
    expect(guests.map((guest) => guest.receive().map(hashIn))).toEqual([
      [known],
      [expectedHash(frame, MICROSOFT_KEY, 3)],
      [expectedHash(frame, MICROSOFT_KEY.slice(1), 2)],
      // The column has held two others' since.
      [expectedHash(frame, MICROSOFT_KEY, 2)],
    ]);
    releaseHashIdentity(identity);
  });
});

describe('any traffic', () => {
  it('arrives where the table says, with the hash it has', () => {
    fc.assert(
      fc.property(
        fc.record({
          features: fc.subarray([
            VIRTIO_F_RING_PACKED,
            VIRTIO_F_IN_ORDER,
            VIRTIO_F_INDIRECT_DESC,
            VIRTIO_F_EVENT_IDX,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_HASH_REPORT,
          ]),
          pairs: fc.integer({ min: 1, max: 6 }),
          log: fc.integer({ min: 0, max: 7 }),
          entries: fc.array(fc.nat(), { minLength: 128, maxLength: 128 }),
          unclassified: fc.nat(),
          types: fc.integer({ min: 0, max: 0x1ff }),
          frames: fc.array(fc.tuple(fc.integer({ min: 0, max: 300 }), fc.constantFrom(6, 17, 1), fc.integer({ min: 0, max: 400 })), {
            minLength: 1,
            maxLength: 60,
          }),
          posts: fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 20 })), { minLength: 200, maxLength: 200 }),
        }),
        ({ features, pairs, log, entries, unclassified, types, frames, posts }) => {
          const mergeable = features.includes(VIRTIO_NET_F_MRG_RXBUF);
          const { a, b } = linked({ size: 64 }, { size: 16, pairs, features, bufferSize: mergeable ? 128 : 512 });
          const table = entries.slice(0, 1 << log).map((entry) => entry % pairs);
          configure(b, { table: Uint16Array.from(table), unclassified: unclassified % pairs, types });
          const sent = frames.map(([n, protocol, payload]) => flow(n, protocol, payload));
          a.send(...sent);
          const got: Uint8Array[][] = Array.from({ length: pairs }, () => []);
          const take = (): void => {
            for (let pair = 0; pair < pairs; pair++)
              for (const one of b.receive(pair)) {
                got[pair]?.push(one.frame.slice());
                if (b.header === 20) expect(hashIn(one)).toEqual(expectedHash(one.frame, MICROSOFT_KEY, types));
              }
          };
          for (const [pair, count] of posts) {
            b.post(count, pair % pairs);
            take();
          }
          for (let i = 0; i < 20 * pairs; i++) {
            b.post(16, i % pairs);
            take();
          }
          expect(got).toEqual(got.map((_, pair) => sent.filter((frame) => queueOf(frame, table, unclassified % pairs, types) === pair)));
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('flows', () => {
  /** Every ring runs. */
  const everywhere = Int8Array.from({ length: 64 }, (_, pair) => pair);

  it('are the same wherever and in whatever pieces their frames lie, and in both directions', () => {
    const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
    const flows = new FlowTable();
    const chosen = new Int8Array(batch.capacity);
    for (let n = 0; n < 64; n++) {
      const there = flow(n, n % 2 === 0 ? 6 : 17);
      const back = ip(ipv4([10, 1, 0, 1], [10, 0, n >> 8, n & 0xff], n % 2 === 0 ? 6 : 17, transport(n % 2 === 0 ? 6 : 17, [80, 1000 + n], [1])));
      batch.clear();
      appendFrame(batch, { bytes: there });
      for (let misaligned = 0; misaligned < 8; misaligned++) appendFrame(batch, { bytes: back, misaligned });
      for (const first of [13, 20, 37]) appendFrame(batch, { bytes: back, pieces: [first, 3] });
      const pair = n % 16;
      flows.learn(batch, 0, 1, pair);
      flows.choose(batch, 1, batch.count, 16, everywhere, chosen);
      expect([...chosen.subarray(1, batch.count)]).toEqual(new Array(batch.count - 1).fill(pair));
    }
  });

  it('that nobody learned spread over the active pairs, and over no other', () => {
    const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)), 512);
    for (let n = 0; n < 512; n++) appendFrame(batch, { bytes: flow(n) });
    for (const active of [2, 3, 16, 64]) {
      const flows = new FlowTable();
      const chosen = new Int8Array(512);
      flows.choose(batch, 0, 512, active, everywhere, chosen);
      const pairs = new Set(chosen);
      expect([Math.min(...pairs), Math.max(...pairs), pairs.size]).toEqual([0, active - 1, active]);
    }
  });
});
