// Random rule sets and frames through the switch and through a plain interpreter of them (reference.ts): the same copies at every port, the same counts, nothing unaccounted for.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FlowAction } from '#net/embedded-switch/actions';
import type { FlowRuleSpec } from '#net/embedded-switch/domain';
import type { FlowMatch } from '#net/embedded-switch/match';
import { ethernet, ipv4, ipv6, tcp, udp } from '../frames.ts';
import type { Frame } from '../memory-port.ts';
import { behindTags, type Endpoint, plainly, ReferenceSwitch, takeApart, withChecksums } from './reference.ts';
import { bytesOf, rig } from './rig.ts';

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:01:00:01', 'ff:ff:ff:ff:ff:ff'];
const PORTS = ['uplink0', 'pf', 'vf0', 'vf1', 'vf2'];
const ENDPOINTS: Record<string, Endpoint> = {
  four: { kind: 'vxlan', vni: 77, source: '10.0.0.1', destination: '10.9.9.9', sourceMac: MACS[0] as string, destinationMac: MACS[1] as string },
  six: { kind: 'geneve', vni: 78, source: 'fd00::1', destination: 'fd00::9', sourceMac: MACS[1] as string, destinationMac: MACS[2] as string },
};
const one = <T>(...values: T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const number = (max: number): fc.Arbitrary<number> => fc.integer({ min: 0, max });

// ---- frames ----

const body = number(40).map((length) => Array.from({ length }, (_, i) => (i * 31 + length) & 255));
/** [protocol, bytes]. Ports are few, so that rules meet them. */
const upper: fc.Arbitrary<[number, number[]]> = fc.oneof(
  fc
    .record({ payload: body, source: one(80, 5353), destination: one(80, 53), flags: one(2, 16, 18) })
    .map(({ payload, source, destination, flags }): [number, number[]] => {
      const segment = tcp(payload, { flags });
      segment.splice(0, 4, source >> 8, source & 255, destination >> 8, destination & 255);
      return [6, segment];
    }),
  fc.record({ payload: body, destination: one(53, 80, 4789, 6081), checksum: one(0, 1) }).map(({ payload, destination, checksum }): [number, number[]] => {
    const datagram = udp(payload, checksum);
    datagram.splice(2, 2, destination >> 8, destination & 255);
    return [17, datagram];
  }),
  fc
    .record({ type: one(0, 8, 128), code: one(0, 1), payload: body, version6: fc.boolean() })
    .map(({ type, code, payload, version6 }): [number, number[]] => [version6 ? 58 : 1, [type, code, 0, 0, ...payload]]),
  body.map((payload): [number, number[]] => [132, [0, 80, 0, 80, ...new Array<number>(8).fill(1), ...payload]]),
  body.map((payload): [number, number[]] => [200, payload]),
);
const network: fc.Arbitrary<[number, number[]]> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .record({ upper, fragment: one(0x4000, 0x4000, 0, 0x2000, 0x2008, 8), ttl: one(1, 2, 64), tos: one(0, 0xb9), last: one(1, 2), options: fc.boolean() })
      .map(({ upper: [protocol, bytes], fragment, ttl, tos, last, options }): [number, number[]] => {
        const packet = ipv4(protocol, bytes, { fragment, ...(options && { options: [1, 1, 1, 0] }) });
        packet[8] = ttl;
        packet[1] = tos;
        packet[15] = last;
        return [0x0800, packet];
      }),
  },
  {
    weight: 4,
    arbitrary: fc
      .record({
        upper,
        ttl: one(1, 64),
        tos: one(0, 5),
        extensions: one<number[][]>(
          [],
          [[60, 0, 1, 4, 0, 0, 0, 0]],
          [[0, 1, ...new Array<number>(14).fill(0)]],
          [[44, 0, 0, 1, 0, 0, 0, 9]],
          [[44, 0, 0, 8, 0, 0, 0, 9]],
        ),
      })
      .map(({ upper: [protocol, bytes], ttl, tos, extensions }): [number, number[]] => {
        const packet = ipv6(protocol, bytes, extensions);
        packet[7] = ttl;
        packet[0] = 0x60 | tos;
        return [0x86dd, packet];
      }),
  },
  { weight: 1, arbitrary: body.map((payload): [number, number[]] => [0x88b5, payload]) },
);
const simple = fc
  .record({ network, to: one(...MACS), from: one(...MACS.slice(0, 3)), vlans: one<number[]>([], [], [5], [0x6006], [5, 6]) })
  .map(({ network: [type, bytes], to, from, vlans }) => withChecksums([...ethernet(type, bytes, { to: bytesOf(to), from: bytesOf(from), vlans })]));
const tunnelled = fc
  .record({ inner: simple, kind: one('vxlan', 'geneve'), vni: one(77, 78), flags: one(8, 8, 0), options: one(0, 8), critical: one(0, 0x40), six: fc.boolean() })
  .map(({ inner, kind, vni, flags, options, critical, six }) => {
    const shim = kind === 'vxlan' ? [flags, 0, 0, 0] : [options / 4, critical, 0x65, 0x58];
    const datagram = udp([...shim, 0, vni >> 8, vni & 255, 0, ...(kind === 'vxlan' ? [] : new Array<number>(options).fill(0)), ...inner]);
    datagram.splice(2, 2, ...(kind === 'vxlan' ? [4789 >> 8, 4789 & 255] : [6081 >> 8, 6081 & 255]));
    return [...(six ? ethernet(0x86dd, ipv6(17, datagram)) : ethernet(0x0800, ipv4(17, datagram)))];
  });
const frame = fc
  .record({
    bytes: fc.oneof({ weight: 3, arbitrary: simple }, { weight: 2, arbitrary: tunnelled }),
    cut: fc.option(number(120), { freq: 8 }),
    pieces: fc.array(one(1, 3, 14, 60), { maxLength: 4 }),
    misaligned: number(7),
  })
  .map(({ bytes, cut, pieces, misaligned }): Frame => ({ bytes: Uint8Array.from(bytes.slice(0, Math.max(14, cut ?? bytes.length))), pieces, misaligned }));

// ---- rules ----

const fields: { [field in keyof FlowMatch]-?: fc.Arbitrary<FlowMatch[field]> } = {
  port: one(...PORTS),
  destinationMac: one(...MACS, '02:00:00:00:00:00/ff:ff:ff:ff:00:00', '01:00:00:00:00:00/01:00:00:00:00:00'),
  sourceMac: one(...MACS.slice(0, 3), '02:00:00:00:00:00/ff:ff:ff:ff:00:00'),
  vlan: one<FlowMatch['vlan']>('none', {}, { id: 5 }, { priority: 3 }, { id: { value: 4, mask: 0xffc } }),
  innerVlan: one<FlowMatch['innerVlan']>('none', { id: 6 }, {}),
  serviceTag: fc.boolean(),
  etherType: one(0x0800, 0x86dd, 0x88b5),
  source: one('10.0.0.1', '10.0.0.0/24', '0.0.0.2/0.0.0.2', 'fd00::1', 'fd00::/16'),
  destination: one('10.0.0.2', '10.0.0.0/8', 'fd00::2', '::2/::f'),
  protocol: one(1, 6, 17, 58, 132, 200),
  dscp: one(0, 46, 20),
  ttl: one<FlowMatch['ttl']>(1, 64, { value: 0, mask: 0xfe }),
  fragment: one<FlowMatch['fragment']>('none', 'first', 'later', 'any'),
  sourcePort: one<FlowMatch['sourcePort']>(80, 5353, { value: 0, mask: 1 }),
  destinationPort: one<FlowMatch['destinationPort']>(53, 80, 4789, { value: 0x1000, mask: 0xf000 }),
  tcpFlags: one<FlowMatch['tcpFlags']>(2, { value: 2, mask: 0x12 }),
  icmpType: one(0, 8, 128),
  icmpCode: one(0, 1),
  tunnel: one<FlowMatch['tunnel']>(
    { kind: 'vxlan' },
    { kind: 'vxlan', vni: 77 },
    { kind: 'geneve', vni: 78 },
    { kind: 'geneve', source: 'fd00::/16' },
    { kind: 'vxlan', source: '10.0.0.1', destination: '10.0.0.0/8' },
  ),
};
const contradicts = (match: FlowMatch): boolean => {
  const versions = new Set([match.source, match.destination].filter((address) => address !== undefined).map((address) => address.includes(':')));
  return (
    versions.size > 1 ||
    (match.etherType !== undefined && versions.size > 0 && (match.etherType === 0x86dd) !== versions.has(true)) ||
    (match.tcpFlags !== undefined && match.protocol !== undefined && match.protocol !== 6) ||
    (match.vlan === 'none' && match.serviceTag !== undefined) ||
    ((match.icmpType !== undefined || match.icmpCode !== undefined) &&
      (match.sourcePort !== undefined || match.destinationPort !== undefined || match.tcpFlags !== undefined))
  );
};
const match: fc.Arbitrary<FlowMatch> = fc
  .uniqueArray(one(...(Object.keys(fields) as (keyof FlowMatch)[])), { maxLength: 3 })
  .chain((names) => fc.record(Object.fromEntries(names.map((name) => [name, fields[name]])) as { [field in keyof FlowMatch]: fc.Arbitrary<FlowMatch[field]> }))
  .map((made) => made as FlowMatch)
  .filter((made) => !contradicts(made));

const change: fc.Arbitrary<FlowAction> = fc.oneof(
  fc.record({ kind: fc.constant('push-vlan' as const), id: one(5, 7), priority: one(0, 3), protocol: one('802.1Q' as const, '802.1ad' as const) }),
  one<FlowAction>(
    { kind: 'pop-vlan' },
    { kind: 'set-vlan', id: 8 },
    { kind: 'set-vlan', priority: 2 },
    { kind: 'set', destinationMac: MACS[2] as string, sourceMac: MACS[0] as string },
    { kind: 'set', source: '10.1.2.3', destinationPort: 53 },
    { kind: 'set', source: 'fd00::77', destination: 'fd00::2' },
    { kind: 'set', destination: '10.0.0.2', sourcePort: 80, dscp: 46 },
    { kind: 'set', ttl: 3 },
    { kind: 'decrement-ttl' },
    { kind: 'encapsulate', tunnel: 'four' },
    { kind: 'encapsulate', tunnel: 'six' },
    { kind: 'decapsulate' },
    { kind: 'decapsulate' },
  ),
);
const middle = fc.oneof({ weight: 3, arbitrary: change }, { weight: 1, arbitrary: one(...PORTS).map((to): FlowAction => ({ kind: 'mirror', to })) });
const last = (chain: number): fc.Arbitrary<FlowAction> =>
  fc.oneof(
    { weight: 6, arbitrary: one(...PORTS).map((to): FlowAction => ({ kind: 'forward', to })) },
    { weight: 2, arbitrary: fc.uniqueArray(one(...PORTS), { minLength: 2 }).map((to): FlowAction => ({ kind: 'forward', to })) },
    { weight: 1, arbitrary: one<FlowAction>({ kind: 'drop' }, { kind: 'miss' }, { kind: 'forward', to: 'vf0-rep' }) },
    { weight: chain < 3 ? 4 : 0, arbitrary: fc.integer({ min: Math.min(3, chain + 1), max: 3 }).map((next): FlowAction => ({ kind: 'jump', chain: next })) },
  );
const forwardRule: fc.Arbitrary<FlowRuleSpec> = one(0, 0, 1, 2, 3).chain((chain) =>
  fc
    .record({ match, priority: number(3), middle: fc.array(middle, { maxLength: 4 }), last: last(chain) })
    .map(({ match: m, priority, middle: actions, last: end }): FlowRuleSpec => ({ chain, match: m, priority, actions: [...actions, end] })),
);
const listRule: fc.Arbitrary<FlowRuleSpec> = fc.record({
  table: one('ingress' as const, 'egress' as const),
  match,
  priority: number(3),
  actions: one<FlowAction[]>(
    [{ kind: 'drop' }],
    [{ kind: 'accept' }],
    [{ kind: 'mirror', to: 'pf' }, { kind: 'accept' }],
    [{ kind: 'mirror', to: 'vf1' }, { kind: 'drop' }],
  ),
});
const rules = fc.array(fc.oneof({ weight: 5, arbitrary: forwardRule }, { weight: 1, arbitrary: listRule }), { maxLength: 25 });

/**
 * Within what the reference knows: the source port of an outer header is the switch's to choose, so where frames are encapsulated no rule asks for it, and none makes such a frame look like something else. And not so
 * many headers that there is no room in front of a frame for them.
 */
function comparable(specs: readonly FlowRuleSpec[]): FlowRuleSpec[] {
  let tunnels = 0;
  const kept = specs.filter(({ actions }) => {
    tunnels += actions.filter(({ kind }) => kind === 'encapsulate').length;
    return tunnels <= 2 || !actions.some(({ kind }) => kind === 'encapsulate');
  });
  if (tunnels === 0) return kept;
  return kept.map((spec) => {
    const { sourcePort: _, ...rest } = spec.match;
    const actions = spec.actions.map(
      (action): FlowAction => (action.kind === 'set' && action.destinationPort !== undefined ? { kind: 'set', source: '10.1.2.3' } : action),
    );
    return { ...spec, match: rest, actions };
  });
}

describe('rule sets', () => {
  it('do what the reference says, frame by frame', () => {
    let delivered = 0;
    let met = 0;
    fc.assert(
      fc.property(
        rules.map(comparable),
        fc.array(fc.tuple(one(...PORTS), frame), { minLength: 1, maxLength: 20 }),
        fc.array(number(24)),
        fc.array(fc.tuple(number(59), number(24)), { maxLength: 12 }),
        (specs, frames, removed, changes) => {
          const made = rig(
            { mode: 'switchdev' },
            PORTS.map((name) => `${name}-rep`),
          );
          const reference = new ReferenceSwitch(ENDPOINTS);
          for (const [name, endpoint] of Object.entries(ENDPOINTS)) made.nic.root.addTunnel(name, endpoint);
          const installed = specs.map((spec) => ({ rule: made.nic.root.addRule(spec), expected: reference.add(spec) }));
          // Some are taken out again: what they leave behind must be nothing.
          for (const index of new Set(removed)) {
            const gone = installed[index];
            if (gone === undefined) continue;
            gone.rule.remove();
            reference.rules.splice(reference.rules.indexOf(gone.expected), 1);
          }
          const sent: Record<string, number> = {};
          const forwarded: Record<string, number> = {};
          // Every frame three times, the last two from where its way may be known; and rules are put in and taken out between any two.
          for (const [turn, [port, one]] of [...frames, ...frames, ...frames].entries()) {
            for (const [at, index] of changes) {
              const chosen = installed[index];
              if (at !== turn || chosen === undefined) continue;
              if (chosen.rule.installed) {
                chosen.rule.remove();
                reference.rules.splice(reference.rules.indexOf(chosen.expected), 1);
              } else installed.push({ rule: made.nic.root.addRule(chosen.rule.spec), expected: reference.add(chosen.rule.spec) });
            }
            const outcome = reference.send(port, one.bytes);
            const arrived = made.send(port, one);
            const expected: Record<string, number[][]> = {};
            for (const copy of outcome.copies) {
              const list = expected[copy.port] ?? [];
              expected[copy.port] = list;
              list.push(plainly(copy.bytes));
            }
            // A frame's mirror copies come after itself, wherever its rule has them.
            expect(sorted(Object.fromEntries(Object.entries(arrived).map(([name, list]) => [name, list.map((bytes) => plainly([...bytes]))])))).toEqual(
              sorted(expected),
            );
            // Checksums that were right still are.
            if (isRight([...one.bytes])) for (const bytes of Object.values(arrived).flat()) expect(isRight([...bytes])).toBe(true);
            delivered += outcome.copies.length;
            sent[port] = (sent[port] ?? 0) + 1;
            forwarded[port] = (forwarded[port] ?? 0) + (outcome.forwarded > 0 ? 1 : 0);
          }
          for (const { rule, expected } of installed) {
            expect(rule.count).toEqual({ frames: expected.frames, bytes: expected.bytes });
            met += expected.frames;
          }
          for (const port of PORTS) {
            const { frames: looked, forwarded: on, dropped, drops } = made.nic.portStatistics(port);
            expect([looked, on]).toEqual([sent[port] ?? 0, forwarded[port] ?? 0]);
            expect(looked).toBe(on + dropped);
            expect(Object.values(drops).reduce((sum, count) => sum + count, 0)).toBe(dropped);
          }
        },
      ),
      { numRuns: 400 },
    );
    // It was about something.
    expect(delivered).toBeGreaterThan(1000);
    expect(met).toBeGreaterThan(300);
  });
});

describe('few rules that come and go between like frames', () => {
  const to = (port: string): FlowAction => ({ kind: 'forward', to: port });
  const few: fc.Arbitrary<FlowRuleSpec> = fc.record({
    match: one<FlowMatch>(
      {},
      {},
      { port: 'vf0' },
      { port: 'vf1' },
      { destinationMac: MACS[1] as string },
      { etherType: 0x0800 },
      { ttl: 64 },
      { vlan: 'none' },
    ),
    priority: number(3),
    actions: one<FlowAction[]>(
      [to('vf2')],
      [to('pf')],
      [{ kind: 'drop' }],
      [{ kind: 'set', source: '10.1.2.3' }, to('vf2')],
      [{ kind: 'pop-vlan' }, to('pf')],
      [{ kind: 'mirror', to: 'uplink0' }, to('vf2')],
      [{ kind: 'forward', to: ['pf', 'vf2'] }],
    ),
  });

  it('do what the reference says: no way outlives what made it', () => {
    let known = 0;
    fc.assert(
      fc.property(
        fc.array(few, { minLength: 1, maxLength: 5 }),
        fc.array(frame, { minLength: 2, maxLength: 4 }),
        fc.array(
          fc.oneof(
            { weight: 1, arbitrary: fc.record({ rule: number(4) }) },
            { weight: 4, arbitrary: fc.record({ port: one('vf0', 'vf1'), frame: number(3) }) },
          ),
          { minLength: 20, maxLength: 50 },
        ),
        (specs, frames, steps) => {
          const made = rig(
            { mode: 'switchdev' },
            PORTS.map((name) => `${name}-rep`),
          );
          const reference = new ReferenceSwitch(ENDPOINTS);
          const install = (spec: FlowRuleSpec) => ({ spec, rule: made.nic.root.addRule(spec), expected: reference.add(spec) });
          const installed = specs.map(install);
          for (const step of steps) {
            if ('rule' in step) {
              const at = step.rule % installed.length;
              const { spec, rule, expected } = installed[at] as (typeof installed)[number];
              if (rule.installed) {
                rule.remove();
                reference.rules.splice(reference.rules.indexOf(expected), 1);
                expect(rule.count).toEqual({ frames: expected.frames, bytes: expected.bytes });
              } else installed[at] = install(spec);
              continue;
            }
            const sent = frames[step.frame % frames.length] as Frame;
            const outcome = reference.send(step.port, sent.bytes);
            const arrived = made.send(step.port, sent);
            const expected: Record<string, number[][]> = {};
            for (const copy of outcome.copies) expected[copy.port] = [...(expected[copy.port] ?? []), plainly(copy.bytes)];
            expect(sorted(Object.fromEntries(Object.entries(arrived).map(([name, list]) => [name, list.map((bytes) => plainly([...bytes]))])))).toEqual(
              sorted(expected),
            );
            known += outcome.copies.length;
          }
          for (const { rule, expected } of installed) expect(rule.count).toEqual({ frames: expected.frames, bytes: expected.bytes });
        },
      ),
      { numRuns: 300 },
    );
    expect(known).toBeGreaterThan(1000);
  });
});

const sorted = (copies: Record<string, number[][]>): Record<string, string[]> =>
  Object.fromEntries(Object.entries(copies).map(([name, list]) => [name, list.map((bytes) => bytes.join()).sort()]));

/** As long as its header says, and checksums right. */
function isRight(frame: number[]): boolean {
  const bytes = behindTags(frame);
  const { ip, network } = takeApart(bytes);
  if (ip === undefined) return true;
  const at = network + (ip.version === 4 ? 2 : 4);
  const said = (bytes[at] as number) * 256 + (bytes[at + 1] as number) + (ip.version === 4 ? 0 : 40);
  return said === bytes.length - network && withChecksums(bytes).every((byte, i) => byte === bytes[i]);
}

describe('conservation', () => {
  const to = (port: string): FlowAction => ({ kind: 'forward', to: port });

  it('every frame is delivered, dropped with a reason, or held back, in whatever portions receivers take it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ source: one(...PORTS.slice(2)), kind: number(5), count: fc.integer({ min: 1, max: 40 }) }), { maxLength: 12 }),
        fc.array(fc.tuple(one(...PORTS), number(25)), { maxLength: 12 }),
        (bursts, rooms) => {
          const made = rig(
            { mode: 'switchdev' },
            PORTS.map((name) => `${name}-rep`),
          );
          const { nic } = made;
          nic.root.addMeter('m', { rate: 1, burst: 30, unit: 'frames' });
          // By the payload's first byte, which is the low byte of a UDP port: what becomes of it.
          const actions: FlowAction[][] = [
            [to('vf1')],
            [to('uplink0')],
            [{ kind: 'forward', to: ['pf', 'vf2'] }],
            [{ kind: 'drop' }],
            [{ kind: 'meter', meter: 'm' }, to('vf0')],
            [{ kind: 'mirror', to: 'pf' }, { kind: 'push-vlan', id: 3 }, to('vf2')],
          ];
          const rules = actions.map((list, kind) => nic.root.addRule({ match: { destinationPort: kind }, actions: list }));
          const sent: Record<string, number> = {};
          for (const port of PORTS) made.port(port).room = 5;
          for (const { source, kind, count } of bursts) {
            const datagram = udp([kind]);
            datagram.splice(2, 2, 0, kind);
            for (let i = 0; i < count; i++) made.port(source).outbox.push({ bytes: ethernet(0x0800, ipv4(17, datagram)) });
            sent[source] = (sent[source] ?? 0) + count;
            made.run();
          }
          for (const [port, more] of rooms) {
            made.port(port).room += more;
            made.run();
          }
          let looked = 0;
          for (const port of PORTS) {
            const { frames, forwarded, dropped } = nic.portStatistics(port);
            expect(frames).toBe(forwarded + dropped);
            expect(frames + made.port(port).outbox.length).toBe(sent[port] ?? 0);
            looked += frames;
          }
          const total = (pick: (counters: ReturnType<ReturnType<typeof made.port>['counters']['snapshot']>) => number | undefined): number =>
            [...PORTS, ...PORTS.map((name) => `${name}-rep`)].reduce((sum, name) => sum + (pick(made.port(name).counters.snapshot()) ?? 0), 0);
          const counted = rules.map((rule) => rule.count.frames);
          // Frames from a port to itself go nowhere, and to two ports as two.
          const withheld = PORTS.reduce((sum, port) => sum + (nic.portStatistics(port).withheld['same-port'] ?? 0), 0);
          const { green, red } = nic.root.meter('m');
          expect(counted.reduce((sum, count) => sum + count, 0)).toBe(looked);
          expect(green + red).toBe(counted[4]);
          const copies = (counted[0] as number) + (counted[1] as number) + 2 * (counted[2] as number) + green + 2 * (counted[5] as number) - withheld;
          expect(total((c) => c.receiveFrames) + total((c) => c.receiveDrops['ring-full'])).toBe(copies);
        },
      ),
      { numRuns: 200 },
    );
  });
});
