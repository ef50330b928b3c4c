// Frames that follow one another in a batch: what becomes of them is what becomes of each when it comes alone.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FlowRule, FlowRuleSpec } from '#net/embedded-switch/domain';
import { ACCEPTS_EVERYTHING, FRAME_DATA_VALID, FRAME_NEEDS_CSUM } from '#net/port';
import { ethernet } from '../frames.ts';
import type { Frame } from '../memory-port.ts';
import { dotted, ipv4, ipv6, transport } from '../packets.ts';
import { bytesOf, macOf, type Rig, rig } from './rig.ts';

const one = <T>(...values: T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const SOURCES = [dotted('10.0.0.1'), dotted('10.0.0.2')] as const;

/** What a frame is made from; two that are the same but for one of these may go different ways. */
const FIELDS = {
  to: one(macOf(1), macOf(1), macOf(1), macOf(2), '02:00:00:00:01:ff', '02:00:00:01:01:01', '02:00:00:00:02:01', 'ff:ff:ff:ff:ff:ff'),
  from: one(macOf(0), macOf(0), macOf(0), '02:00:00:00:00:66', '02:01:00:00:01:00'),
  vlans: one<number[]>([], [], [], [5]),
  type: one(0x0800, 0x0800, 0x0800, 0x86dd, 0x88b5),
  protocol: one(17, 17, 6, 1),
  options: one<{ words?: number; fragment?: number }>({}, {}, {}, { words: 6 }, { fragment: 0x2000 }, { fragment: 0x4000 }, { fragment: 3 }),
  length: fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 14, max: 230 }) }, { weight: 1, arbitrary: fc.integer({ min: 14, max: 1514 }) }),
  fill: fc.integer({ min: 0, max: 255 }),
  misaligned: one(0, 4, 4, 4, 2, 1),
  pieces: one<number[]>([], [], [], [14], [60], [200, 7]),
  flags: one(0, FRAME_NEEDS_CSUM, FRAME_NEEDS_CSUM, FRAME_DATA_VALID),
  csumStart: one(34, 34, 34, 38, 20),
  csumOffset: one(6, 6, 16, 2),
};
type Fields = { [K in keyof typeof FIELDS]: (typeof FIELDS)[K] extends fc.Arbitrary<infer T> ? T : never };

function frameOf({ to, from, vlans, type, protocol, options, length, fill, misaligned, pieces, flags, csumStart, csumOffset }: Fields): Frame {
  const source = SOURCES[fill & 1] as number[];
  const body = transport(protocol, [1000 + fill, 2000], new Array(1500).fill(fill));
  const payload = type === 0x86dd ? ipv6(new Array(16).fill(fill), new Array(16).fill(2), protocol, body) : ipv4(source, SOURCES[0], protocol, body, options);
  const bytes = ethernet(type, type === 0x88b5 ? new Array(1500).fill(fill) : payload, { to: bytesOf(to), from: bytesOf(from), vlans }).subarray(0, length);
  return { bytes, misaligned, pieces, flags, ...(flags === FRAME_NEEDS_CSUM && { csumStart, csumOffset }) };
}

/** What nearly all frames are: all of these go the quickest way. */
const COMMON: Fields = {
  to: macOf(1),
  from: macOf(0),
  vlans: [],
  type: 0x0800,
  protocol: 17,
  options: {},
  length: 60,
  fill: 1,
  misaligned: 4,
  pieces: [],
  flags: FRAME_NEEDS_CSUM,
  csumStart: 34,
  csumOffset: 6,
};
const base = fc.oneof(fc.constant(COMMON), fc.record(FIELDS));
const change = one(...(Object.keys(FIELDS) as (keyof Fields)[])).chain((field) =>
  (FIELDS[field] as fc.Arbitrary<unknown>).map((value) => ({ [field]: value })),
);
/** Frames that come several times in a row, between such as differ from them in one thing, or in two. */
const frames = base.chain((common) =>
  fc
    .array(fc.record({ changes: fc.array(change, { maxLength: 2 }), times: one(1, 2, 3, 30, 110) }), { minLength: 2, maxLength: 8 })
    .map((runs) => runs.flatMap(({ changes, times }) => new Array<Frame>(times).fill(frameOf(Object.assign({ ...common }, ...changes))))),
);

type Setup = 'plain' | 'spoof check' | 'port VLAN' | 'list of addresses' | 'list of flows' | 'rule for a port' | 'rules for flows' | 'rule for tunnels';
const SETUPS: readonly Setup[] = [
  'plain',
  'spoof check',
  'port VLAN',
  'list of addresses',
  'list of flows',
  'rule for a port',
  'rules for flows',
  'rule for tunnels',
];

const RULES: Partial<Record<Setup, readonly FlowRuleSpec[]>> = {
  'list of addresses': [
    { table: 'ingress', match: { port: 'vf0', destinationMac: macOf(1) }, actions: [{ kind: 'accept' }] },
    { table: 'ingress', match: { port: 'vf0', destinationMac: macOf(2) }, actions: [{ kind: 'drop' }] },
  ],
  'list of flows': [
    { table: 'ingress', match: { port: 'vf0', protocol: 17, sourcePort: { value: 1, mask: 1 } }, actions: [{ kind: 'accept' }] },
    { table: 'egress', match: { port: 'vf1', protocol: 6, tcpFlags: { value: 2, mask: 2 } }, actions: [{ kind: 'drop' }] },
  ],
  'rule for a port': [{ match: { port: 'vf0' }, actions: [{ kind: 'forward', to: 'vf1' }] }],
  'rules for flows': [
    {
      match: {
        port: 'vf0',
        source: '10.0.0.2',
        destination: '10.0.0.1',
        protocol: 17,
        sourcePort: 1001,
        destinationPort: 2000,
        dscp: 0,
        ttl: 64,
        fragment: 'none',
      },
      actions: [{ kind: 'forward', to: 'vf1' }],
      priority: 2,
    },
    { match: { port: 'vf0', protocol: 6, tcpFlags: { value: 0x10, mask: 0x12 } }, actions: [{ kind: 'forward', to: 'vf2' }], priority: 1 },
    { match: { port: 'vf0' }, actions: [{ kind: 'forward', to: 'uplink0' }] },
  ],
  'rule for tunnels': [
    { match: { port: 'vf0', tunnel: { kind: 'vxlan' } }, actions: [{ kind: 'forward', to: 'vf2' }], priority: 1 },
    { match: { port: 'vf0', destination: '10.0.0.0/8' }, actions: [{ kind: 'forward', to: 'vf1' }] },
  ],
};

interface Made extends Rig {
  readonly rules: readonly FlowRule[];
}

function made(setup: Setup, accepts: number): Made {
  const legacy = !setup.startsWith('rule');
  const switched = rig({ mode: legacy ? 'legacy' : 'switchdev', ...(setup === 'rule for tunnels' && { vxlanPort: 2000 }) });
  if (legacy)
    for (let vf = 0; vf < 3; vf++) {
      const vlan = setup === 'port VLAN' ? { vlan: { id: 9 } } : vf === 0 ? {} : { vlans: vf === 1 ? [] : [5] };
      switched.nic.configurePort(`vf${vf}`, { mac: macOf(vf), spoofCheck: setup === 'spoof check', ...vlan });
    }
  for (const name of switched.nic.ports) switched.port(name).accepts = accepts;
  return { ...switched, rules: (RULES[setup] ?? []).map((rule) => switched.nic.root.addRule(rule)) };
}

const counted = ({ nic, rules, port }: Made): unknown => ({
  ports: nic.ports.map((name) => ({ name, counters: port(name).counters.snapshot(), statistics: nic.portStatistics(name) })),
  rules: rules.map(({ count }) => count),
});
const seen = (switched: Made): unknown => ({ ...(counted(switched) as object), inboxes: switched.nic.ports.map((name) => [name, switched.port(name).inbox]) });

describe('frames that follow one another', () => {
  it('go where each goes that comes alone, as it is, and are counted the same', () => {
    let most = 0;
    fc.assert(
      fc.property(frames, one(...SETUPS), one(0, ACCEPTS_EVERYTHING), one(Infinity, 3, 70), (all, setup, accepts, room) => {
        // Copies of a flooded frame are lost where there is no room.
        const sent = room === Infinity ? all : all.filter(({ bytes }) => bytes[0] !== 0xff);
        const together = made(setup, accepts);
        const alone = made(setup, accepts);
        const full = together.port('vf1');
        full.room = room;
        together.port('vf0').outbox.push(...sent);
        together.run();
        full.room = Infinity;
        together.run();
        for (const f of sent) {
          alone.port('vf0').outbox.push(f);
          alone.run();
        }
        expect(together.port('vf0').outbox).toHaveLength(0);
        expect(seen(together)).toEqual(seen(alone));
        most = Math.max(most, full.inbox.length);
      }),
      { numRuns: 50 },
    );
    expect(most).toBeGreaterThan(200);
  });

  it.each(SETUPS)('%s: differ in one bit, and what decides by that bit is asked', (setup) => {
    const together = made(setup, ACCEPTS_EVERYTHING);
    const alone = made(setup, ACCEPTS_EVERYTHING);
    for (const common of [
      frameOf(COMMON),
      frameOf({ ...COMMON, to: macOf(2), vlans: [5], flags: 0 }),
      frameOf({ ...COMMON, protocol: 6, csumOffset: 16 }),
      frameOf({ ...COMMON, length: 120, flags: 0 }),
    ])
      for (let bit = 0; bit < 8 * 60; bit++) {
        const bytes = Uint8Array.from(common.bytes);
        bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
        const sent: Frame[] = [common, common, { ...common, bytes }, common];
        together.port('vf0').outbox.push(...sent);
        together.run();
        for (const f of sent) {
          alone.port('vf0').outbox.push(f);
          alone.run();
        }
        if (bit % 16 === 15) expect(counted(together), `bytes ${bit >> 3} and before`).toEqual(counted(alone));
      }
  });

  it('are held back in their order where the receiver is full', () => {
    const switched = made('spoof check', ACCEPTS_EVERYTHING);
    const receiver = switched.port('vf1');
    const numbered = (n: number): Frame => ({
      bytes: ethernet(0x88b5, [n, ...new Array(60).fill(n)], { to: bytesOf(macOf(1)), from: bytesOf(macOf(0)), vlans: [] }),
    });
    switched.port('vf0').outbox.push(...Array.from({ length: 250 }, (_, n) => numbered(n)));
    for (const room of [1, 2, 60, 103, 104, 105, 106, 250]) {
      receiver.room = room;
      switched.run();
      expect(receiver.inbox.map(({ bytes }) => bytes[14])).toEqual(Array.from({ length: room }, (_, n) => n));
      expect(switched.nic.portStatistics('vf0').forwarded).toBe(room);
    }
  });

  it('are sent on as they were when they were looked at, whatever their sender makes of them meanwhile', () => {
    const switched = made('spoof check', ACCEPTS_EVERYTHING);
    const sender = switched.port('vf0');
    const receiver = switched.port('vf1');
    const good = ethernet(0x88b5, new Array(170).fill(1), { to: bytesOf(macOf(1)), from: bytesOf(macOf(0)), vlans: [] });
    let memory: Uint8Array | undefined;
    const collect = sender.collect.bind(sender);
    sender.collect = (batch, count, bytes) => {
      const collected = collect(batch, count, bytes);
      if (collected > 0) memory = batch.segments.views[0]?.u8;
      return collected;
    };
    const deliver = receiver.deliver.bind(receiver);
    receiver.deliver = (batch, from, to) => {
      memory?.fill(0xff);
      return deliver(batch, from, to);
    };
    // Those that are sent with the first, and come in one piece like it.
    sender.outbox.push(...new Array<Frame>(60).fill({ bytes: good }));
    switched.run();
    expect(receiver.inbox).toHaveLength(60);
    for (const { bytes } of receiver.inbox) expect(bytes).toEqual(good);
  });
});
