// The flow filter in the data plane (virtio 1.4 5.1.9.6): frames of one device, rules of another, over the inline and the worker backend. What a rule matches is checked against a
// matcher written here, byte by byte, from the text.
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import type { VhostBackend } from '#virtio/vhost';
import { eventually, eventuallyBlocking } from '../backends/eventually.ts';
import type { PackedDriver } from '../virtio/driver-packed.ts';
import type { SplitDriver } from '../virtio/driver-split.ts';
import { QUEUE_RESET, QUEUE_SELECT } from '../virtio-pci/bench.ts';
import * as a from './admin-bench.ts';
import { OK, u16 } from './control-bench.ts';
import { MAC_B, Station, TRANSMIT } from './station.ts';

const PAIRS = 3;
/** Receive buffers of ring n are here, 64 of 2 KiB. */
const BUFFERS = (ring: number): number => 0x100000 + (ring >> 1) * 0x20000;

/** A receiver whose queues are all active, with an administration queue. */
class Receiver extends Station {
  readonly admin: a.AdminDriver;
  readonly rings: readonly (SplitDriver | PackedDriver)[];

  constructor(backend: VhostBackend, packed: boolean, pairs = PAIRS) {
    super(backend, '52:54:00:00:00:0b', packed, { queuePairs: PAIRS, ...a.withAdmin() });
    this.command([4, 0, ...u16(pairs)]);
    this.rings = Array.from({ length: PAIRS }, (_, pair) => {
      const ring = pair === 0 ? this.receive : this.ring(2 * pair, packed);
      if (pair > 0) this.fill(ring, pair, 48);
      return ring;
    });
    this.admin = new a.AdminDriver(this);
    this.admin.enable();
  }

  fill(ring: SplitDriver | PackedDriver, pair: number, count: number): void {
    for (let slot = 0; slot < count; slot++) ring.add(slot, [{ address: BUFFERS(2 * pair) + slot * 2048, length: 2048, write: true }]);
    ring.expose();
    this.kick(2 * pair);
  }

  /** How many frames came on each ring since the last call; buffers go back. */
  counts(): number[] {
    return this.rings.map((ring, pair) => {
      const done = ring.reap();
      if (pair === 0) this.refill(done.length);
      else {
        for (const { cookie } of done) ring.add(cookie, [{ address: BUFFERS(2 * pair) + cookie * 2048, length: 2048, write: true }]);
        ring.expose();
        this.kick(2 * pair);
      }
      return done.length;
    });
  }

  classifier(id: number, ...masks: a.Mask[]): number {
    return this.admin.status(a.CREATE, a.object(a.CLASSIFIER, id, a.selectors(...masks)));
  }

  group(id: number, priority: number): number {
    return this.admin.status(a.CREATE, a.object(a.GROUP, id, u16(priority)));
  }

  rule(id: number, ...of: Parameters<typeof a.rule>): number {
    return this.admin.status(a.CREATE, a.object(a.RULE, id, a.rule(...of)));
  }
}

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

function pair(kind: 'inline' | 'worker', packed = false, pairs = PAIRS): { from: Station; to: Receiver; move: () => [VhostBackend, VhostBackend] } {
  const ports = (): [VhostBackend, VhostBackend] => {
    if (kind === 'inline') {
      const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
      return [segment.port('a'), segment.port('b', PAIRS)];
    }
    const pool = new VhostPool({ threads: 1 });
    closing.push(() => pool.close());
    const segment = pool.worker().segment();
    return [segment.port('a'), segment.port('b', PAIRS)];
  };
  const [pa, pb] = ports();
  return { from: new Station(pa, '52:54:00:00:00:0a', packed), to: new Receiver(pb, packed, pairs), move: ports };
}

const MAC_A = [0x52, 0x54, 0, 0, 0, 0xa];
/** An Ethernet frame to the receiver. */
const frame = (type: number, payload: readonly number[] = []): number[] => {
  const bytes = [...MAC_B, ...MAC_A, type >>> 8, type & 0xff, ...payload];
  return [...bytes, ...new Array(Math.max(0, 64 - bytes.length)).fill(0)];
};
const ipv4 = (protocol: number, payload: readonly number[], more: { options?: number; fragment?: number; last?: number } = {}): number[] => {
  const words = 5 + (more.options ?? 0);
  const { fragment = 0 } = more;
  return [
    0x40 | words,
    0,
    0,
    60,
    0,
    0,
    fragment >>> 8,
    fragment & 0xff,
    64,
    protocol,
    0,
    0,
    10,
    0,
    0,
    1,
    10,
    0,
    0,
    more.last ?? 2,
    ...new Array(4 * (words - 5)).fill(1),
    ...payload,
  ];
};
const ipv6 = (next: number, payload: readonly number[]): number[] => [0x60, 0, 0, 0, 0, 40, next, 64, ...new Array(32).fill(0xfd), ...payload];
const udp = (destination: number): number[] => [0x12, 0x34, ...u16(destination).reverse(), 0, 8, 0, 0];
const tcp = (destination: number, flags = 0x10): number[] => [0x12, 0x34, ...u16(destination).reverse(), 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0];

const key = (...parts: (readonly number[])[]): number[] => parts.flat();
const ethKey = (type: number): number[] => [...new Array(12).fill(0), type >>> 8, type & 0xff];
const ip4Key = (protocol: number, last = 0): number[] => [...new Array(9).fill(0), protocol, ...new Array(9).fill(0), last];
const portKey = (port: number, length: number): number[] => [0, 0, ...u16(port).reverse(), ...new Array(length - 4).fill(0)];
const UDP4: a.Mask[] = [
  { type: a.ETH, on: [12, 13] },
  { type: a.IPV4, on: [9] },
  { type: a.UDP, on: [2, 3] },
];
const udp4Key = (port: number): number[] => key(ethKey(0x0800), ip4Key(17), portKey(port, 8));

describe.each(['inline', 'worker'] as const)('%s', (kind) => {
  it('a frame goes where its rule says or is dropped, others are steered; from when the command is answered to when the rule is gone', async () => {
    const { from, to } = pair(kind);
    let sent = 0;
    const deliver = async (bytes: number[], arrives = 1): Promise<number[]> => {
      from.send(bytes);
      sent++;
      let counts = [0, 0, 0];
      await eventually('the frame', () => {
        const more = to.counts();
        counts = counts.map((n, i) => n + (more[i] as number));
        return counts.reduce((x, y) => x + y, 0) >= arrives;
      });
      return counts;
    };
    expect(to.group(0, 1)).toBe(OK);
    expect(to.classifier(0, ...UDP4)).toBe(OK);
    expect(to.rule(0, 0, 0, 10, 4, udp4Key(53))).toBe(OK);
    const dns = frame(0x0800, ipv4(17, udp(53)));
    const steered = await deliver(frame(0x1234));
    expect(steered[2]).toBe(0);
    expect(await deliver(dns)).toEqual([0, 0, 1]);
    // A rule of higher priority, then a group of higher priority.
    expect(to.rule(1, 0, 0, 11, 2, udp4Key(53))).toBe(OK);
    expect(await deliver(dns)).toEqual([0, 1, 0]);
    expect(to.group(1, 2)).toBe(OK);
    expect(to.rule(2, 1, 0, 0, 0, udp4Key(53))).toBe(OK);
    expect(await deliver(dns)).toEqual([1, 0, 0]);
    // The group on top drops it now; a frame behind it proves that nothing is still on its way.
    expect(to.admin.status(a.MODIFY, a.object(a.RULE, 2, a.rule(1, 0, 0, 'drop', udp4Key(53))))).toBe(OK);
    from.send(dns);
    expect(await deliver(frame(0x1234))).toEqual(steered);
    expect(to.admin.status(a.DESTROY, a.object(a.RULE, 2))).toBe(OK);
    expect(await deliver(dns)).toEqual([0, 1, 0]);
    to.status = 0;
    eventuallyBlocking('the reset', () => to.status === 0);
    expect(to.net.policy.flowRules[0]).toBe(0);
    expect(sent).toBe(6);
  });
});

describe('what a rule leads to', () => {
  it('a queue in reset, or past the active pairs, drops; enabled again it gets its frames; others are not held up', () => {
    const { from, to } = pair('inline');
    to.group(0, 1);
    to.classifier(0, ...UDP4);
    to.rule(0, 0, 0, 1, 2, udp4Key(53));
    const dns = frame(0x0800, ipv4(17, udp(53)));
    to.set(QUEUE_SELECT, 2, 2);
    to.set(QUEUE_RESET, 2, 1);
    expect(to.get(QUEUE_RESET, 2)).toBe(0);
    from.send(dns);
    expect(to.counts().reduce((x, y) => x + y, 0)).toBe(0);
    expect(from.reapSent()).toBe(0);
    from.send(frame(0x1234));
    expect(to.counts().reduce((x, y) => x + y, 0)).toBe(1);
    to.bytes.fill(0, 0x30000, 0x40000);
    to.setUpQueue(2);
    const again = to.ring(2, false);
    to.fill(again, 1, 8);
    from.send(dns);
    expect(again.reap()).toHaveLength(1);
    to.command([4, 0, ...u16(1)]);
    from.send(dns);
    expect([again.reap(), to.receive.reap()]).toEqual([[], []]);
    to.command([4, 0, ...u16(2)]);
    from.send(dns);
    expect(again.reap()).toHaveLength(1);
  });

  it('with one active pair rules still drop; filters of the control queue come first', () => {
    const { from, to } = pair('inline', false, 1);
    to.group(0, 1);
    to.classifier(0, { type: a.ETH, on: [12, 13] });
    to.rule(0, 0, 0, 1, 'drop', ethKey(0x1234));
    to.rule(1, 0, 0, 1, 0, ethKey(0x4321));
    for (const type of [0x1234, 0x4321, 0x5678]) from.send(frame(type));
    expect(to.counts()).toEqual([2, 0, 0]);
    // To somebody else: the rule does not bring it in.
    from.send([0x52, 0, 0, 0, 0, 1, ...frame(0x4321).slice(6)]);
    expect(to.counts()).toEqual([0, 0, 0]);
  });

  it('goes on through a hand-over and a pause, whose frames wait', () => {
    const { from, to, move } = pair('inline');
    to.group(0, 1);
    to.classifier(0, ...UDP4);
    to.rule(0, 0, 0, 1, 4, udp4Key(53));
    const [pa, pb] = move();
    from.net.handOver(pa);
    to.net.handOver(pb);
    expect([from.net.handingOver, to.net.handingOver]).toEqual([false, false]);
    const dns = frame(0x0800, ipv4(17, udp(53)));
    from.send(dns);
    expect(to.counts()).toEqual([0, 0, 1]);
    to.net.pause();
    from.send(dns);
    expect(to.counts()).toEqual([0, 0, 0]);
    to.net.resume();
    expect(to.counts()).toEqual([0, 0, 1]);
  });
});

describe('what a rule matches', () => {
  it.each([
    ['options in IPv4 move the ports', ipv4(17, udp(53), { options: 3 }), 0x0800, true],
    ['another port', ipv4(17, udp(54)), 0x0800, false],
    ['TCP with those ports', ipv4(6, tcp(53)), 0x0800, false],
    ['the first fragment', ipv4(17, udp(53), { fragment: 0x2000 }), 0x0800, true],
    ['a later fragment, whose bytes look like the ports', ipv4(17, udp(53), { fragment: 0x2001 }), 0x0800, false],
    ['an IPv4 header length below 5', [0x44, ...ipv4(17, udp(53)).slice(1)], 0x0800, false],
    ['version 6 under EtherType IPv4', [0x65, ...ipv4(17, udp(53)).slice(1)], 0x0800, false],
    ['a VLAN tag in front', [0, 5, 8, 0, ...ipv4(17, udp(53))], 0x8100, false],
  ])('%s', (_, payload, type, matches) => {
    const { from, to } = pair('inline');
    to.command([2, 0, ...u16(5)]);
    to.group(0, 1);
    to.classifier(0, ...UDP4);
    to.rule(0, 0, 0, 1, 'drop', udp4Key(53));
    from.send(frame(type, payload));
    expect(to.counts().reduce((x, y) => x + y, 0)).toBe(matches ? 0 : 1);
  });

  const udp6Key = key(ethKey(0x86dd), [0, 0, 0, 0, 0, 0, 17, ...new Array(33).fill(0)], portKey(53, 8));
  const UDP6: a.Mask[] = [
    { type: a.ETH, on: [12, 13] },
    { type: a.IPV6, on: [6] },
    { type: a.UDP, on: [2, 3] },
  ];
  it.each([
    ['no extension header', ipv6(17, udp(53)), true],
    ['hop-by-hop, then destination options', ipv6(0, [60, 0, 0, 0, 0, 0, 0, 0, 17, 1, ...new Array(14).fill(0), ...udp(53)]), true],
    ['an authentication header', ipv6(51, [17, 4, ...new Array(22).fill(0), ...udp(53)]), true],
    ['the first fragment', ipv6(44, [17, 0, 0, 1, 0, 0, 0, 9, ...udp(53)]), true],
    ['a later fragment', ipv6(44, [17, 0, 0, 8, 0, 0, 0, 9, ...udp(53)]), false],
    ['a chain that ends outside the frame', ipv6(0, [17, 255, 0, 0, 0, 0, 0, 0]), false],
    ['a chain of nine', ipv6(0, [...new Array(8).fill([0, 0, 0, 0, 0, 0, 0, 0]).flat(), 17, 0, 0, 0, 0, 0, 0, 0, ...udp(53)]), false],
    ['a chain of eight', ipv6(0, [...new Array(7).fill([0, 0, 0, 0, 0, 0, 0, 0]).flat(), 17, 0, 0, 0, 0, 0, 0, 0, ...udp(53)]), true],
  ])('in IPv6 with %s', (_, payload, matches) => {
    const { from, to } = pair('inline');
    to.group(0, 1);
    to.classifier(0, ...UDP6);
    to.rule(0, 0, 0, 1, 'drop', udp6Key);
    from.send(frame(0x86dd, payload));
    expect(to.counts().reduce((x, y) => x + y, 0)).toBe(matches ? 0 : 1);
  });

  interface Made {
    readonly group: number;
    readonly priority: number;
    readonly queue: number | 'drop';
    readonly masks: number[][];
    readonly keys: number[][];
    readonly types: number[];
  }

  /** Where a frame goes: the first in order of group priority, then rule priority; rules of one priority are made not to overlap. */
  function expected(rules: readonly Made[], bytes: readonly number[]): number | 'drop' | undefined {
    const ordered = [...rules].sort((x, y) => y.group - x.group || y.priority - x.priority);
    return ordered.find(({ masks, keys, types }) => {
      let at = 0;
      for (const [i, type] of types.entries()) {
        const mask = masks[i] as number[];
        if (at + mask.length > bytes.length) return false;
        const wanted = keys[i] as number[];
        for (const [j, bits] of mask.entries()) if ((((bytes[at + j] as number) ^ (wanted[j] as number)) & bits) !== 0) return false;
        if (type === a.IPV4 && (bytes[at] as number) >>> 4 !== 4) return false;
        at += type === a.IPV4 ? 4 * ((bytes[at] as number) & 15) : mask.length;
      }
      return true;
    })?.queue;
  }

  it.each([false, true])('is what the text says, for random rules and frames, however the frame is sliced (packed: %s)', (packed) => {
    const few = fc.constantFrom(0, 1, 2, 0xff);
    const bytesOf = (length: number): fc.Arbitrary<number[]> => fc.array(few, { minLength: length, maxLength: length });
    // Masks of few bits, so that some rules match; what has to be whole is.
    const sparse = (length: number): fc.Arbitrary<number[]> => fc.array(fc.constantFrom(0, 0, 0, 0, 0, 1, 0x80), { minLength: length, maxLength: length });
    const set = (bytes: number[], at: number, ...values: number[]): number[] => bytes.map((b, i) => values[i - at] ?? b);
    const made = fc
      .record({
        depth: fc.integer({ min: 1, max: 3 }),
        l4: fc.constantFrom(a.UDP, a.TCP),
        masks: fc.tuple(sparse(14), sparse(20), sparse(20)),
        keys: fc.tuple(bytesOf(14), bytesOf(20), bytesOf(20)),
      })
      .map(({ depth, l4, masks, keys }) => {
        const types = [a.ETH, a.IPV4, l4].slice(0, depth);
        const size = l4 === a.UDP ? 8 : 20;
        const eth = depth > 1 ? set(masks[0], 12, 0xff, 0xff) : masks[0];
        const ip = depth > 2 ? set(masks[1], 9, 0xff) : masks[1];
        return {
          types,
          masks: [eth, ip, masks[2].slice(0, size)].slice(0, depth),
          keys: [depth > 1 ? set(keys[0], 12, 8, 0) : keys[0], depth > 2 ? set(keys[1], 9, l4 === a.UDP ? 17 : 6) : keys[1], keys[2].slice(0, size)].slice(
            0,
            depth,
          ),
        };
      });
    const traffic = fc.record({
      source: bytesOf(6),
      type: fc.constantFrom([8, 0], [8, 0], [8, 0], [0x12, 0x34]),
      ip: bytesOf(20),
      protocol: fc.constantFrom(6, 17, 1),
      words: fc.constantFrom(5, 5, 6),
      rest: bytesOf(30),
      slices: fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 4 }),
    });
    let hits = 0;
    fc.assert(
      fc.property(fc.array(made, { minLength: 1, maxLength: 8 }), fc.array(traffic, { minLength: 1, maxLength: 10 }), (drafts, frames) => {
        const { from, to } = pair('inline', packed);
        to.command([0, 0, 1]);
        for (const id of [0, 1]) to.group(id, 5 + id);
        const rules = drafts.map((draft, id): Made => ({ ...draft, group: id & 1, priority: 10 + id, queue: id % 4 === 3 ? 'drop' : 2 * (id % 3) }));
        for (const [id, { types, masks, keys, group, priority, queue }] of rules.entries()) {
          expect(to.classifier(id, ...types.map((type, i) => ({ type, flags: 1, mask: masks[i] as number[] })))).toBe(OK);
          expect(to.rule(id, group, id, priority, queue, keys.flat())).toBe(OK);
        }
        for (const { source, type, ip, protocol, words, rest, slices } of frames) {
          // No fragments here: they have a case of their own.
          const header = set(set(set(ip, 0, 0x40 | words), 6, 0, 0), 9, protocol);
          const bytes = [...MAC_B, ...source, ...type, ...header, ...new Array(4 * (words - 5)).fill(1), ...rest];
          from.bytes.fill(0, TRANSMIT, TRANSMIT + 12);
          from.bytes.set(bytes, TRANSMIT + 12);
          let at = TRANSMIT;
          const end = TRANSMIT + 12 + bytes.length;
          const buffers = [12, ...slices, 1e9].flatMap((length) => {
            const run = Math.min(length, end - at);
            at += run;
            return run > 0 ? [{ address: at - run, length: run }] : [];
          });
          from.transmit.add(0, buffers);
          from.transmit.expose();
          from.kick(1);
          from.transmit.reap();
          const goes = expected(rules, bytes);
          const counts = to.counts();
          if (goes === undefined) expect(counts.reduce((x, y) => x + y, 0)).toBe(1);
          else {
            hits++;
            expect(counts).toEqual([0, 1, 2].map((n) => (goes === 2 * n ? 1 : 0)));
          }
        }
      }),
      { numRuns: 60 },
    );
    expect(hits).toBeGreaterThan(20);
  });

  it('64 rules are looked through in order of priority, the last one too', () => {
    const { from, to } = pair('inline');
    to.group(0, 1);
    to.classifier(0, { type: a.ETH, on: [12, 13] });
    for (let id = 0; id < 64; id++) expect(to.rule(id, 0, 0, 254 - id, id === 63 ? 4 : 'drop', ethKey(0x7000 + id))).toBe(OK);
    from.send(frame(0x7000 + 62));
    expect(to.counts()).toEqual([0, 0, 0]);
    from.send(frame(0x7000 + 63));
    expect(to.counts()).toEqual([0, 0, 1]);
  });
});
