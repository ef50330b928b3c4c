import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SimClock } from '#core/clock';
import { DirectLink } from '#net/direct-link';
import { LearningSwitch } from '#net/learning-switch';
import { ACCEPTS_CSUM, ACCEPTS_TSO4, FRAME_NEEDS_CSUM, GSO_TCPV4 } from '#net/port';
import { Segment, type SegmentOptions } from '#net/segment';
import { BROADCAST, dissect, ethernet, faults, ipv4, MAC_A, MAC_B, MAC_C, seedChecksum, tcp } from './frames.ts';
import { type Frame, MemoryPort } from './memory-port.ts';

const numbered = (n: number, addresses = {}): Frame => ({ bytes: ethernet(0x88b5, [n >> 8, n & 0xff, ...new Array(46).fill(n & 0xff)], addresses) });
const numbersIn = (port: MemoryPort): number[] => port.inbox.map(({ bytes }) => ((bytes[14] as number) << 8) | (bytes[15] as number));
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

function linked(options: SegmentOptions = {}): { segment: Segment; a: MemoryPort; b: MemoryPort } {
  const segment = new Segment(new DirectLink(), { clock: new SimClock(), ...options });
  const a = new MemoryPort('a');
  const b = new MemoryPort('b');
  segment.addPort(a);
  segment.addPort(b);
  return { segment, a, b };
}

/** Three stations, all known already. */
function switched(options: SegmentOptions = {}): { segment: Segment; clock: SimClock; a: MemoryPort; b: MemoryPort; c: MemoryPort; learning: LearningSwitch } {
  const clock = new SimClock();
  const learning = new LearningSwitch({ clock });
  const segment = new Segment(learning, { clock, ...options });
  const [a, b, c] = ['a', 'b', 'c'].map((name) => new MemoryPort(name)) as [MemoryPort, MemoryPort, MemoryPort];
  for (const port of [a, b, c]) segment.addPort(port);
  for (const [port, from] of [
    [a, MAC_A],
    [b, MAC_B],
    [c, MAC_C],
  ] as const)
    port.outbox.push(numbered(0, { from, to: BROADCAST }));
  segment.service();
  for (const port of [a, b, c]) port.inbox.length = 0;
  return { segment, clock, a, b, c, learning };
}

describe('direct link', () => {
  it('carries both ways, publishes once a turn and counts', () => {
    const { segment, a, b } = linked();
    a.outbox.push(...range(0, 100).map((n) => numbered(n)));
    b.outbox.push(numbered(500));
    expect(segment.service()).toBe(true);
    expect(numbersIn(b)).toEqual(range(0, 100));
    expect(numbersIn(a)).toEqual([500]);
    expect([a.flushes, b.flushes, b.visible]).toEqual([1, 1, 100]);
    expect(a.counters.snapshot()).toMatchObject({ transmitFrames: 100, transmitBytes: 6200, receiveFrames: 1, receiveBytes: 62, transmitDrops: {} });
    expect(segment.service()).toBe(false);
  });

  it('moves at most the budget of a port in a round, and the other port has its turn in between', () => {
    const { segment, a, b } = linked();
    a.outbox.push(...range(0, 600).map((n) => numbered(n)));
    b.outbox.push(...range(0, 10).map((n) => numbered(n)));
    segment.service({ frames: 64, bytes: 1 << 20 });
    expect([b.inbox.length, a.inbox.length]).toEqual([64, 10]);
    segment.service({ frames: 256, bytes: 62 * 5 });
    expect(b.inbox.length).toBe(69);
  });

  it('a full receiver holds the sender back for as long as it takes, and nothing is lost, repeated or polled meanwhile', () => {
    const { segment, a, b } = linked();
    b.room = 7;
    a.outbox.push(...range(0, 20).map((n) => numbered(n)));
    segment.service();
    expect([numbersIn(b), b.visible, a.outbox.length]).toEqual([range(0, 7), 7, 13]);
    const before = a.collects;
    for (let i = 0; i < 10; i++) expect(segment.service()).toBe(false);
    expect(a.collects).toBe(before);
    expect(segment.rest()).toBe(false);
    b.room = 12;
    expect(segment.service()).toBe(true);
    b.room = 100;
    segment.service();
    expect(numbersIn(b)).toEqual(range(0, 20));
    expect(b.counters.snapshot().receiveDrops).toEqual({});
  });

  it('drops and counts while the cable hangs in the air or the link is down', () => {
    const segment = new Segment(new DirectLink());
    const a = new MemoryPort('a');
    segment.addPort(a);
    a.outbox.push(numbered(1), numbered(2));
    segment.service();
    const b = new MemoryPort('b');
    const index = segment.addPort(b);
    b.linkUp = false;
    a.outbox.push(numbered(3));
    b.outbox.push(numbered(4));
    segment.service();
    expect(a.counters.snapshot().transmitDrops).toEqual({ 'link-down': 2 });
    expect(b.counters.snapshot()).toMatchObject({ receiveDrops: { 'link-down': 1 }, transmitDrops: { 'link-down': 1 } });
    expect(() => segment.addPort(new MemoryPort('c'))).toThrow(RangeError);
    segment.removePort(index);
    expect(segment.addPort(new MemoryPort('c'))).toBe(index);
  });

  it('leaves an idle port alone until woken', () => {
    const { segment, a } = linked({ idleRounds: 3 });
    for (let i = 0; i < 10; i++) segment.service();
    expect(a.collects).toBe(3);
    a.outbox.push(numbered(1));
    expect(segment.service()).toBe(false);
    segment.wake(0);
    expect(segment.service()).toBe(true);
  });

  it('rests only when nothing slipped in', () => {
    const { segment, a } = linked();
    segment.service();
    a.outbox.push(numbered(1));
    expect(segment.rest()).toBe(true);
    segment.service();
    expect(segment.rest()).toBe(false);
    a.outbox.push(numbered(2));
    expect(segment.service()).toBe(false);
  });

  it('leaves the work of a call from inside a turn to the call that is under way', () => {
    const { segment, a, b } = linked();
    b.flush = () => {
      if (b.inbox.length > 1) return;
      b.outbox.push(numbered(9));
      segment.wake(1);
      expect(segment.service()).toBe(false);
    };
    a.outbox.push(numbered(1));
    while (segment.service());
    expect(numbersIn(a)).toEqual([9]);
  });
});

describe('offloads on a segment', () => {
  const large = (size: number): Frame => {
    const bytes = seedChecksum(ethernet(0x0800, ipv4(6, tcp(range(0, size).map((n) => n & 0xff)))));
    return { bytes, flags: FRAME_NEEDS_CSUM, gsoType: GSO_TCPV4, gsoSize: 100, csumStart: 34, csumOffset: 16 };
  };

  it('hands a frame over as it is to who accepts it', () => {
    const { segment, a, b } = linked();
    b.accepts = ACCEPTS_CSUM | ACCEPTS_TSO4;
    const frame = large(1000);
    a.outbox.push(frame);
    segment.service();
    // hdr_len is what the headers say, not what the sender said.
    expect(b.inbox).toEqual([{ ...frame, headerLength: 54, outerTransport: 0, innerNetwork: 0 }]);
  });

  it('keeps the order between frames as they are, converted and malformed', () => {
    const { segment, a, b } = linked();
    a.outbox.push(numbered(1), large(250), { ...numbered(2), flags: FRAME_NEEDS_CSUM, csumStart: 9999 }, numbered(3));
    segment.service();
    expect(b.inbox.map((f) => f.bytes.length)).toEqual([62, 154, 154, 104, 62]);
    expect(a.counters.snapshot().transmitDrops).toEqual({ malformed: 1 });
  });

  it('goes on in the middle of a converted frame when the receiver filled up there', () => {
    const { segment, a, b } = linked();
    a.outbox.push(numbered(1), large(10_000), numbered(2));
    for (b.room = 3; b.room < 200; b.room += 7) segment.service();
    const payload = b.inbox.slice(1, -1).flatMap(({ bytes }) => [...bytes.slice(dissect(bytes).payload)]);
    expect(payload).toEqual(range(0, 10_000).map((n) => n & 0xff));
    expect(b.inbox.slice(1, -1).flatMap(({ bytes }) => faults(bytes))).toEqual([]);
    expect(b.inbox.length).toBe(102);
  });

  it.each(['before the sender is asked', 'while it is asked', 'after it was asked'])('goes on there also after a pause of the sender that ends %s', (end) => {
    const { segment, a, b } = linked();
    a.outbox.push(large(1000));
    b.room = 4;
    segment.service();
    b.room = 200;
    const sender = a as MemoryPort & { paused: boolean };
    const collect = a.collect.bind(a);
    sender.paused = end !== 'before the sender is asked';
    a.collect = (batch, frames, bytes) => {
      if (!sender.paused) return collect(batch, frames, bytes);
      // Told on another thread that it may go on.
      sender.paused = end === 'after it was asked';
      return 0;
    };
    segment.service();
    sender.paused = false;
    while (segment.service());
    expect(b.inbox.flatMap(({ bytes }) => [...bytes.slice(dissect(bytes).payload)])).toEqual(range(0, 1000).map((n) => n & 0xff));
  });

  it('sends all of a converted frame to who takes the place of the one that had the first part', () => {
    const { segment, a, b } = linked();
    b.room = 5;
    a.outbox.push(large(1000));
    segment.service();
    expect(b.inbox.length).toBe(5);
    segment.removePort(1);
    const next = new MemoryPort('next');
    expect(segment.addPort(next)).toBe(1);
    while (segment.service());
    expect(next.inbox.length).toBe(10);
  });

  it('a sender of tiny segment sizes gets no more of the thread than others', () => {
    const { segment, a, b } = linked();
    a.outbox.push(...range(0, 50).map(() => ({ ...large(2000), gsoSize: 1 })));
    b.outbox.push(numbered(1));
    segment.service();
    // A second one would come to 4108 pieces, over the 4096 of a turn.
    expect([b.inbox.length, a.inbox.length, a.outbox.length]).toEqual([2000, 1, 49]);
    for (let round = 0; a.outbox.length > 0 && round < 50; round++) segment.service();
    expect(b.inbox.length).toBe(50 * 2000);
  });

  it('does not take a new frame in an old place for the rest of the one it was sending', () => {
    const { segment, a, b } = linked();
    b.room = 5;
    a.outbox.push(large(1000));
    segment.service();
    // The driver was reset and sends another frame of the same length from the same descriptor.
    const other = large(1000);
    const bytes = other.bytes.slice();
    bytes.set([9, 9, 9, 9], 38);
    a.outbox.splice(0, 1, { ...other, bytes });
    b.room = 100;
    segment.service();
    expect(b.inbox.length).toBe(15);
    expect(b.inbox.slice(5).flatMap((f) => faults(f.bytes))).toEqual([]);
  });
});

describe('learning switch', () => {
  it('floods what it does not know, then sends to one port, and never back', () => {
    const { segment, a, b, c } = switched();
    a.outbox.push(
      numbered(1),
      numbered(2, { to: MAC_C }),
      numbered(3, { to: [2, 0, 0, 0, 0, 0x99] }),
      numbered(4, { to: BROADCAST }),
      numbered(5, { to: MAC_A }),
    );
    segment.service();
    expect(numbersIn(b)).toEqual([1, 3, 4]);
    expect(numbersIn(c)).toEqual([2, 3, 4]);
    expect(numbersIn(a)).toEqual([]);
    expect(a.counters.snapshot().transmitDrops).toEqual({ filtered: 1 });
  });

  it('learns each VLAN on its own', () => {
    const { segment, a, b, c } = switched();
    b.outbox.push(numbered(0, { from: MAC_B, to: MAC_A, vlans: [7] }));
    segment.service();
    for (const port of [a, b, c]) port.inbox.length = 0;
    a.outbox.push(numbered(1, { vlans: [7] }), numbered(2, { vlans: [8] }));
    segment.service();
    expect(b.inbox.length).toBe(2);
    expect(c.inbox.length).toBe(1);
  });

  it('follows a station that moves, forgets one that is silent and one whose port left', () => {
    const { segment, clock, a, b, c, learning } = switched();
    c.outbox.push(numbered(0, { from: MAC_B, to: MAC_A }));
    segment.service();
    a.outbox.push(numbered(1));
    segment.service();
    expect([numbersIn(b), numbersIn(c)]).toEqual([[], [1]]);
    clock.advance(301e9);
    a.outbox.push(numbered(2));
    segment.service();
    expect([numbersIn(b), numbersIn(c)]).toEqual([[2], [1, 2]]);
    expect(learning.stations()).toMatchObject([{ mac: '02:00:00:00:00:0a', vlan: 0, port: 0 }]);
    segment.removePort(0);
    expect(learning.stations()).toEqual([]);
  });

  it('does not learn group addresses and does not pass what is for the link alone', () => {
    const { segment, a, b, learning } = switched();
    a.outbox.push(numbered(1, { from: [3, 0, 0, 0, 0, 1] }), numbered(2, { from: [0, 0, 0, 0, 0, 0] }), numbered(3, { to: [1, 0x80, 0xc2, 0, 0, 0x0e] }));
    a.outbox.push({ bytes: new Uint8Array(13) });
    segment.service();
    expect(numbersIn(b)).toEqual([1, 2]);
    expect(learning.stations()).toHaveLength(3);
    expect(a.counters.snapshot().transmitDrops).toEqual({ filtered: 1, malformed: 1 });
  });

  it('looks at no frame of a lone port, and drops them all; those that are none as malformed', () => {
    const learning = new LearningSwitch({ clock: new SimClock() });
    const segment = new Segment(learning, { clock: new SimClock() });
    const a = new MemoryPort('a');
    segment.addPort(a);
    a.outbox.push(numbered(1), numbered(2, { to: BROADCAST }), { bytes: new Uint8Array(13) });
    segment.service();
    expect([a.outbox.length, learning.stations()]).toEqual([0, []]);
    expect(a.counters.snapshot()).toMatchObject({ transmitFrames: 3, transmitDrops: { filtered: 2, malformed: 1 } });
    const b = new MemoryPort('b');
    segment.addPort(b);
    a.outbox.push(numbered(3));
    segment.service();
    expect([numbersIn(b), learning.stations().length]).toEqual([[3], 1]);
  });

  it('a full port holds back unicast for it, until it has been stuck for the limit; then its senders go on', () => {
    const { segment, clock, a, b, c } = switched({ holdLimit: 1e6 });
    b.room = 2;
    a.outbox.push(numbered(1), numbered(2), numbered(3), numbered(4, { to: MAC_C }));
    c.outbox.push(numbered(5, { from: MAC_C, to: MAC_A }));
    segment.service();
    expect([numbersIn(b), numbersIn(c), numbersIn(a)]).toEqual([[1, 2], [], [5]]);
    expect(segment.nextDeadline).toBe(clock.now() + 1e6);
    clock.advance(999_999);
    expect(segment.service()).toBe(false);
    clock.advance(1);
    expect(segment.service()).toBe(true);
    expect([numbersIn(c), b.counters.snapshot().receiveDrops]).toEqual([[4], { 'ring-full': 1 }]);
    // While stuck, nothing waits for it; once it takes a frame, it holds back again.
    a.outbox.push(numbered(6), numbered(7, { to: MAC_C }));
    segment.service();
    expect([numbersIn(c), b.counters.snapshot().receiveDrops]).toEqual([[4, 7], { 'ring-full': 2 }]);
    b.room = 3;
    a.outbox.push(numbered(8), numbered(9), numbered(10, { to: MAC_C }));
    segment.service();
    expect([numbersIn(b), numbersIn(c), a.outbox.length]).toEqual([[1, 2, 8], [4, 7], 2]);
  });

  it('a full port does not hold up a flood: its copies are dropped and counted', () => {
    const { segment, a, b, c } = switched();
    b.room = 1;
    a.outbox.push(...range(0, 5).map((n) => numbered(n, { to: BROADCAST })));
    segment.service();
    expect([numbersIn(b), numbersIn(c)]).toEqual([[0], range(0, 5)]);
    expect(b.counters.snapshot().receiveDrops).toEqual({ 'ring-full': 4 });
  });

  it('gives each port its copy of a flooded frame as that port takes it', () => {
    const { segment, a, b, c } = switched();
    b.accepts = ACCEPTS_CSUM | ACCEPTS_TSO4;
    const bytes = seedChecksum(ethernet(0x0800, ipv4(6, tcp(new Array(450).fill(7))), { to: [2, 0, 0, 0, 0, 0x77] }));
    a.outbox.push({ bytes, flags: FRAME_NEEDS_CSUM, gsoType: GSO_TCPV4, gsoSize: 100, csumStart: 34, csumOffset: 16 }, numbered(1, { to: BROADCAST }));
    segment.service();
    expect(b.inbox.map((f) => f.bytes.length)).toEqual([504, 62]);
    expect(c.inbox.map((f) => f.bytes.length)).toEqual([154, 154, 154, 154, 104, 62]);
    expect(c.inbox.slice(0, -1).flatMap((f) => faults(f.bytes))).toEqual([]);
  });

  it('holds back a flood that has only one port to go to', () => {
    const segment = new Segment(new LearningSwitch());
    const [a, b] = [new MemoryPort('a'), new MemoryPort('b')];
    segment.addPort(a);
    segment.addPort(b);
    b.room = 3;
    a.outbox.push(...range(0, 9).map((n) => numbered(n)));
    segment.service();
    b.room = 9;
    segment.service();
    expect(numbersIn(b)).toEqual(range(0, 9));
  });

  it('forgets the station heard longest ago when many claim the same places, and stays within its size', () => {
    const clock = new SimClock();
    const learning = new LearningSwitch({ clock, stations: 64 });
    const segment = new Segment(learning, { clock });
    const a = new MemoryPort('a');
    segment.addPort(a);
    segment.addPort(new MemoryPort('b'));
    for (let n = 0; n < 5000; n++) {
      a.outbox.push(numbered(n, { from: [2, 0, 0, 1, n >> 8, n & 255] }));
      clock.advance(1);
      segment.service();
    }
    const known = learning.stations();
    expect(known.length).toBeLessThanOrEqual(64);
    expect(known.some(({ mac }) => mac === '02:00:00:01:13:87')).toBe(true);
  });

  it('behaves as a plain map of stations would, for random traffic, moves, pauses and full ports', () => {
    const ports = 4;
    const step = fc.record({
      port: fc.nat(ports - 1),
      from: fc.nat(5),
      to: fc.nat(7),
      vlan: fc.constantFrom(0, 0, 5),
      pause: fc.constantFrom(0, 0, 0, 100),
      misaligned: fc.nat(7),
      piece: fc.integer({ min: 1, max: 40 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const clock = new SimClock();
        const segment = new Segment(new LearningSwitch({ clock, ageing: 250 }), { clock });
        const members = range(0, ports).map((n) => new MemoryPort(`p${n}`));
        for (const port of members) segment.addPort(port);
        const stations = new Map<string, { port: number; at: number }>();
        const expected: number[][] = members.map(() => []);
        steps.forEach(({ port, from, to, vlan, pause, misaligned, piece }, n) => {
          clock.advance(pause);
          const target = to === 7 ? BROADCAST : [2, 0, 0, 0, 0, to];
          const frame = numbered(n, { from: [2, 0, 0, 0, 0, from], to: target, vlans: vlan ? [vlan] : [] });
          const at = vlan ? 18 : 14;
          frame.bytes.set([n >> 8, n & 255], at);
          (members[port] as MemoryPort).outbox.push({ ...frame, misaligned, pieces: [piece] });
          stations.set(`${vlan}/${from}`, { port, at: clock.now() });
          const known = to === 7 ? undefined : stations.get(`${vlan}/${to}`);
          const fresh = known !== undefined && clock.now() - known.at <= 250 ? known : undefined;
          members.forEach((_, other) => {
            if (other !== port && (fresh === undefined || fresh.port === other)) (expected[other] as number[]).push(n);
          });
          segment.service();
        });
        const got = members.map((m) =>
          m.inbox.map(({ bytes }) => {
            const at = bytes[12] === 0x81 ? 18 : 14;
            return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
          }),
        );
        expect(got).toEqual(expected);
      }),
    );
  });

  it('serves every ready port in each round, so a busy one starves nobody', () => {
    const { segment, a, b, c } = switched();
    a.outbox.push(...range(0, 1000).map((n) => numbered(n, { to: MAC_C })));
    b.outbox.push(...range(0, 3).map((n) => numbered(n, { from: MAC_B, to: MAC_C })));
    segment.service({ frames: 10, bytes: 1e6 });
    expect(c.inbox.length).toBe(13);
  });
});
