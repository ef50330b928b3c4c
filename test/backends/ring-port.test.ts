// What a device's rings do as a port: several queue pairs, steering, receive filters, offload words, and random contents.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { DirectLink } from '#net/direct-link';
import { LearningSwitch } from '#net/learning-switch';
import { ACCEPTS_CSUM, ACCEPTS_TSO4, FRAME_NEEDS_CSUM, GSO_TCPV4 } from '#net/port';
import { Segment } from '#net/segment';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import {
  POLICY_ACTIVE,
  POLICY_ALL_MULTICAST,
  POLICY_LINK_UP,
  POLICY_NO_BROADCAST,
  POLICY_NO_UNICAST,
  POLICY_PROMISCUOUS,
  POLICY_VLAN_FILTER,
} from '#virtio/net-policy';
import { frameOf, HEADER, sequenceOf, TestGuest } from './guest.ts';

function linked(optionsA: ConstructorParameters<typeof TestGuest>[0], optionsB = optionsA) {
  const inline = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
  const a = new TestGuest({ name: 'a', ...optionsA });
  const b = new TestGuest({ name: 'b', ...optionsB });
  const backendA = inline.port('a', a.pairs);
  const backendB = inline.port('b', b.pairs);
  a.attach(backendA);
  b.attach(backendB);
  return { a, b, backendA, backendB };
}

function udp(source: number, destination: number, ports: [number, number], seed: number): Uint8Array {
  const frame = frameOf(80, seed);
  frame.set([0x08, 0x00, 0x45, 0, 0, 66, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, destination], 12);
  new DataView(frame.buffer).setUint16(34, ports[0]);
  new DataView(frame.buffer).setUint16(36, ports[1]);
  return frame;
}

describe('several queue pairs', () => {
  it('receives a flow on the pair it was last transmitted on (virtio 1.4 5.1.9.5.6)', () => {
    const { a, b } = linked({ pairs: 4, size: 32 });
    for (let pair = 0; pair < 4; pair++) {
      a.post(32, pair);
      b.post(32, pair);
    }
    for (const pair of [2, 0, 3, 1]) {
      b.queue(udp(2, 1, [5000 + pair, 80], 1), pair);
      b.show(pair);
      for (let i = 0; i < 4; i++) a.receive(i);
      a.queue(udp(1, 2, [80, 5000 + pair], 2), 0);
      a.show(0);
      const got = [0, 1, 2, 3].map((i) => b.receive(i).length);
      expect(got).toEqual([0, 1, 2, 3].map((i) => (i === pair ? 1 : 0)));
      // The flow moves to another pair, and the answers follow.
      const moved = (pair + 1) % 4;
      b.queue(udp(2, 1, [5000 + pair, 80], 1), moved);
      b.show(moved);
      a.queue(udp(1, 2, [80, 5000 + pair], 2), 0);
      a.show(0);
      expect(b.receive(moved).length).toBe(1);
    }
  });

  it('takes frames from all pairs in turn, and holds back each in order when the peer is full', () => {
    const { a, b } = linked({ pairs: 3, size: 64 }, { size: 64 });
    const sent = [0, 0, 0];
    const seen = [0, 0, 0];
    let posted = 0;
    for (let round = 0; round < 300; round++) {
      const pair = round % 3;
      for (let i = 0; i < 1 + (round % 5); i++) {
        const frame = frameOf(64 + pair, (pair << 16) | (sent[pair] as number));
        if (a.queue(frame, pair)) sent[pair] = (sent[pair] as number) + 1;
      }
      a.show(pair);
      b.post(1 + ((round * 7) % 4));
      posted++;
      for (const { frame } of b.receive()) {
        const from = frame.length - 64;
        expect(sequenceOf(frame)).toBe((from << 16) | (seen[from] as number));
        seen[from] = (seen[from] as number) + 1;
      }
      for (let p = 0; p < 3; p++) a.reap(p);
    }
    expect(posted).toBe(300);
    expect(Math.min(...seen)).toBeGreaterThan(50);
    // Drained, everything that was sent has come.
    for (let i = 0; i < 40; i++) {
      b.post();
      for (const { frame } of b.receive()) seen[frame.length - 64] = (seen[frame.length - 64] as number) + 1;
    }
    expect(seen).toEqual(sent);
  });

  it('serves no pair the driver has not made active', () => {
    const { a, b } = linked({ pairs: 2 });
    a.policy.update((p) => {
      p.activePairs = 1;
    });
    b.post();
    b.post(64, 1);
    a.queue(frameOf(60, 1), 1);
    a.show(1);
    expect(a.reap(1)).toBe(0);
    a.policy.update((p) => {
      p.activePairs = 2;
    });
    a.backend?.policyChanged();
    expect(a.reap(1)).toBe(1);
  });
});

describe('receive filter', () => {
  const MAC = [0x52, 0x54, 0, 0, 0, 2];
  const to = (mac: number[], rest: number[] = []): Uint8Array => {
    const frame = frameOf(64, 1);
    frame.set(mac);
    frame.set(rest, 12);
    return frame;
  };
  const BROADCAST = [255, 255, 255, 255, 255, 255];
  const GROUP = [1, 0, 0x5e, 0, 0, 9];
  const OTHER = [0x52, 0x54, 0, 0, 0, 9];
  const cases: [string, number, Uint8Array, boolean][] = [
    ['its own address', 0, to(MAC), true],
    ['another address', 0, to(OTHER), false],
    ['another address, promiscuous', POLICY_PROMISCUOUS, to(OTHER), true],
    ['its own address, no unicast', POLICY_NO_UNICAST, to(MAC), false],
    ['an address of the table', 0, to([0x52, 0x54, 0, 0, 0, 7]), true],
    ['broadcast', 0, to(BROADCAST), true],
    ['broadcast, no broadcast', POLICY_NO_BROADCAST, to(BROADCAST), false],
    ['a group not joined', 0, to(GROUP), false],
    ['a group not joined, all multicast', POLICY_ALL_MULTICAST, to(GROUP), true],
    ['a group of the table', 0, to([1, 0, 0x5e, 0, 0, 7]), true],
    ['a VLAN of the table', POLICY_VLAN_FILTER, to(MAC, [0x81, 0, 0xe0, 42]), true],
    ['a VLAN not in the table', POLICY_VLAN_FILTER, to(MAC, [0x81, 0, 0, 43]), false],
    ['no VLAN tag', POLICY_VLAN_FILTER, to(MAC), true],
    ['14 bytes that end where a tag would begin (7724885620)', POLICY_VLAN_FILTER, to(MAC, [0x81, 0]).slice(0, 14), false],
    ['14 bytes', 0, to(MAC).slice(0, 14), true],
  ];
  it.each(cases)('%s', (_what, flags, frame, passes) => {
    const { a, b, backendB } = linked({ size: 16 });
    b.policy.update((p) => {
      p.flags = POLICY_ACTIVE | POLICY_LINK_UP | flags;
      p.setMac(Uint8Array.from(MAC));
      p.setTable('unicast', [Uint8Array.from([0x52, 0x54, 0, 0, 0, 7])]);
      p.setTable('multicast', [Uint8Array.from([1, 0, 0x5e, 0, 0, 7])]);
      p.setVlan(42, true);
    });
    b.post();
    // In one piece, and with the addresses cut apart.
    a.send(frame);
    const at = 0x8000;
    a.bytes.fill(0, at, at + HEADER);
    a.bytes.set(frame, at + HEADER);
    a.queueChain([
      { address: at, length: HEADER + 3 },
      { address: at + HEADER + 3, length: 10 },
      ...(frame.length > 13 ? [{ address: at + HEADER + 13, length: frame.length - 13 }] : []),
    ]);
    a.show();
    expect(b.receive().length).toBe(passes ? 2 : 0);
    expect(a.reap()).toBe(2);
    if (!passes) expect(backendB.counters.snapshot().receiveDrops).toEqual({ filtered: 2 });
  });

  it('drops while the link is down or the driver is not there, and holds nothing', () => {
    const { a, b, backendB, backendA } = linked({ size: 16 });
    b.post();
    b.policy.update((p) => {
      p.flags = POLICY_ACTIVE;
    });
    a.send(frameOf(60, 1));
    b.policy.update((p) => {
      p.flags = POLICY_LINK_UP;
    });
    a.send(frameOf(60, 2));
    expect(a.reap()).toBe(2);
    expect(b.receive()).toEqual([]);
    const drops = { ...backendB.counters.snapshot().receiveDrops };
    expect(drops['link-down'] ?? 0).toBe(1);
    expect(drops['not-ready'] ?? 0).toBe(1);
    expect(backendA.counters.snapshot().transmitDrops).toEqual({});
  });

  it('drops what exceeds the MTU, unless it is a GSO frame', () => {
    const { a, b, backendB } = linked({ size: 16, bufferSize: 4096 });
    b.policy.update((p) => {
      p.maximumFrame = 1518;
    });
    b.post();
    a.send(frameOf(1519, 1), frameOf(1518, 2));
    expect(b.receive().map((r) => r.frame.length)).toEqual([1518]);
    expect(backendB.counters.snapshot().receiveDrops).toEqual({ 'too-long': 1 });
  });
});

describe('offloads', () => {
  function tcp(payload: number): { frame: Uint8Array; header: Uint8Array } {
    const frame = frameOf(54 + payload, 5);
    frame.set(
      [0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0],
      12,
    );
    new DataView(frame.buffer).setUint16(16, 40 + payload);
    const header = new Uint8Array(HEADER);
    const view = new DataView(header.buffer);
    header[0] = FRAME_NEEDS_CSUM;
    view.setUint16(6, 34, true);
    view.setUint16(8, 16, true);
    return { frame, header };
  }
  const FEATURES = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MRG_RXBUF];

  it('passes a checksum request on to a driver that takes it', () => {
    const { a, b } = linked({ features: FEATURES, accepts: ACCEPTS_CSUM | ACCEPTS_TSO4 });
    b.post();
    const { frame, header } = tcp(100);
    a.queue(frame, 0, header);
    a.show();
    const [got] = b.receive();
    expect([...(got?.header ?? [])]).toEqual([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0]);
    expect(Buffer.compare(got?.frame as Uint8Array, frame)).toBe(0);
  });

  it('passes a GSO frame on whole, and cuts it for a driver that does not take it', () => {
    const { frame, header } = tcp(1700);
    header[1] = GSO_TCPV4;
    new DataView(header.buffer).setUint16(2, 7, true); // a wrong hint
    new DataView(header.buffer).setUint16(4, 1000, true);
    const whole = linked({ features: FEATURES, accepts: ACCEPTS_CSUM | ACCEPTS_TSO4 });
    whole.b.post();
    whole.a.queue(frame, 0, header);
    whole.a.show();
    const [got] = whole.b.receive();
    expect(got?.header.slice(0, 2)).toEqual(Uint8Array.from([FRAME_NEEDS_CSUM, GSO_TCPV4]));
    expect(Buffer.compare(got?.frame as Uint8Array, frame)).toBe(0);
    const merged = got?.header as Uint8Array;
    const view = new DataView(merged.buffer, merged.byteOffset);
    // virtio 1.4 5.1.9.4.1 (device SHOULD): hdr_len covers the headers, whatever the sender's said.
    expect(view.getUint16(2, true)).toBeGreaterThanOrEqual(54);
    expect(view.getUint16(4, true)).toBe(1000);
    const cut = linked({ features: FEATURES }, { features: [] });
    cut.b.post();
    cut.a.queue(frame, 0, header);
    cut.a.show();
    const parts = cut.b.receive();
    expect(parts.map((p) => p.frame.length)).toEqual([1054, 754]);
    for (const part of parts) expect([...part.header]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
  });
});

describe('senders that wait for different rings of one receiver', () => {
  it('each go on when theirs has room', () => {
    const clock = new SimClock();
    const inline = new InlineSegment(new Segment(new LearningSwitch({ clock }), { clock }), { defer: () => {} });
    const [a, b] = [new TestGuest({ name: 'a' }), new TestGuest({ name: 'b' })];
    const c = new TestGuest({ name: 'c', pairs: 2 });
    for (const guest of [a, b, c]) guest.attach(inline.port(guest.name, guest.pairs));
    // Flows by the ring they come to.
    const toC = (port: number) => {
      const frame = udp(1, 3, [port, 80], port);
      frame.set([0x52, 0x54, 0, 0, 0, 3, 0x52, 0x54, 0, 0, 0, 1]);
      return frame;
    };
    const hello = frameOf(60, 0);
    hello.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 3]);
    c.send(hello);
    const flows: [number, number] = [0, 0];
    for (let port = 1000; flows.includes(0); port++) {
      c.post(1, 0);
      c.post(1, 1);
      a.send(toC(port));
      a.reap();
      flows[c.receive(0).length > 0 ? 0 : 1] = port;
      c.receive(1);
    }
    const received = (ring: number) => c.receive(ring).length;
    // Until a frame is held; with a buffer for it, none is left.
    for (const ring of [0, 1]) {
      do a.send(toC(flows[ring] as number));
      while (a.reap() > 0);
      c.post(1, ring);
      expect(a.reap()).toBe(1);
      received(ring);
    }
    a.send(toC(flows[0]));
    b.send(toC(flows[1]));
    expect([a.reap(), b.reap()]).toEqual([0, 0]);
    c.post(1, 0);
    expect([received(0), received(1)]).toEqual([1, 0]);
    expect([a.reap(), b.reap()]).toEqual([1, 0]);
    c.post(1, 1);
    expect([received(0), received(1)]).toEqual([0, 1]);
    expect([a.reap(), b.reap()]).toEqual([0, 1]);
  });
});

describe('anything at all in the rings', () => {
  it('never throws, never loops, and leaves other guests alone', () => {
    const features = fc.subarray([
      VIRTIO_F_EVENT_IDX,
      VIRTIO_F_IN_ORDER,
      VIRTIO_F_INDIRECT_DESC,
      VIRTIO_F_RING_PACKED,
      VIRTIO_NET_F_MRG_RXBUF,
      VIRTIO_NET_F_CSUM,
    ]);
    fc.assert(
      fc.property(features, features, fc.infiniteStream(fc.nat(0xffffffff)), fc.constantFrom(4, 16, 64), (fa, fb, random, size) => {
        const next = (): number => random.next().value as number;
        const deferred: (() => void)[] = [];
        const inline = new InlineSegment(new Segment(new LearningSwitch()), { defer: (work) => deferred.push(work) });
        const a = new TestGuest({ name: 'a', features: fa, size });
        const b = new TestGuest({ name: 'b', features: fb, size });
        const c = new TestGuest({ name: 'c', size: 64 });
        const d = new TestGuest({ name: 'd', size: 64 });
        for (const guest of [a, b, c, d]) guest.attach(inline.port(guest.name));
        c.post();
        d.post();
        for (let round = 0; round < 6; round++) {
          for (const guest of [a, b]) {
            const words = new Uint32Array(guest.bytes.buffer);
            for (const setup of guest.setups) {
              for (let i = 0; i < size * 4; i++) {
                const kind = next() % 8;
                // Addresses and lengths that mostly make sense, so that chains get somewhere.
                const word = i % 4;
                words[setup.descriptorArea / 4 + i] =
                  kind === 0
                    ? next()
                    : word === 0
                      ? next() % guest.bytes.length
                      : word === 1
                        ? 0
                        : word === 2
                          ? next() % 3000
                          : next() & (kind < 4 ? 0x00070007 : 0x80870002);
              }
              for (let i = 0; i < size / 2 + 2; i++) words[Math.floor(setup.driverArea / 4) + i] = next() % 3 === 0 ? next() : (next() % size) * 0x10001;
              if (next() % 2 === 0) new Uint16Array(guest.bytes.buffer)[setup.driverArea / 2 + 1] = next() % (size + 1);
            }
            guest.kick(0);
            guest.kick(1);
          }
          for (let i = 0; i < 3; i++) deferred.pop()?.();
        }
        // The bystanders still talk.
        const before = d.receive().length;
        expect(before).toBeGreaterThanOrEqual(0);
        c.receive();
        c.post();
        d.post();
        const frame = frameOf(60, 77);
        frame.set([2, 0, 0, 0, 0, 0xc], 6);
        frame.set([255, 255, 255, 255, 255, 255], 0);
        c.send(frame);
        for (let i = 0; i < 50 && deferred.length > 0; i++) deferred.pop()?.();
        expect(d.receive().some((r) => r.frame.length === 60 && r.frame[11] === 0xc)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
});
