// Commands that configure hashing and spreading (virtio 1.4 5.1.9.5.6, 5.1.9.5.7, 5.1.9.5.8, 5.1.9.4.4): what each does to the policy words, which wins, what is refused; and what
// configuration space says of it.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import type { NetPolicy } from '#virtio/net-policy';
import { CONFIG, NEEDS_RESET, QUEUE_ENABLE, QUEUE_RESET, QUEUE_SELECT } from '../virtio-pci/bench.ts';
import { ControlBench, ERR, OK, RSS_KEY, type RssFields, rss, u16, u32 } from './control-bench.ts';

const MQ = 22;
const HASH_TUNNEL = 51;
const HASH_REPORT = 57;
const RSS = 60;
const RSS_CONTEXT = 64;

const net = { queuePairs: 4, features: { HASH_REPORT: true } } as const;
const table4 = (policy: NetPolicy, id = 0): number[] => [...policy.rss.table(id)];
/** Everything the data plane reads of steering. */
const seen = ({ net: { policy } }: ControlBench): unknown => [
  policy.activePairs,
  policy.rss.tunnels,
  ...Array.from({ length: policy.rss.limits.contexts + 1 }, (_, id) => [table4(policy, id), policy.rss.parameters(id), policy.rss.unclassified(id)]),
];
const without = (bench: ControlBench, ...bits: number[]): FeatureSet => bench.offered().without(FeatureSet.of(34, 35, ...bits));

describe('configuration space', () => {
  it('shows limits and types of what is offered', () => {
    const bench = new ControlBench({ net: { ...net, rss: { tableLength: 512, keySize: 52 } } });
    expect([bench.read(CONFIG + 8, 2), bench.read(CONFIG + 17, 1), bench.read(CONFIG + 18, 2)]).toEqual([4, 52, 512]);
    expect([bench.read(CONFIG + 20, 4), bench.read(CONFIG + 24, 4)]).toEqual([0x1ff, 0x1ff]);
  });

  it.each([
    [{ HASH_REPORT: true, RSS: false }, [40, 0, 0x1ff, 0x1ff]],
    [{ HASH_TUNNEL: false }, [40, 128, 0x1ff, 0]],
    [{ RSS: false }, [0, 0, 0, 0]],
  ])('%o', (features, fields) => {
    const bench = new ControlBench({ net: { queuePairs: 4, features } });
    expect([bench.read(CONFIG + 17, 1), bench.read(CONFIG + 18, 2), bench.read(CONFIG + 20, 4), bench.read(CONFIG + 24, 4)]).toEqual(fields);
  });

  it('max_virtqueue_pairs and the control queue behind them are there with RSS alone', () => {
    const bench = new ControlBench({ net: { queuePairs: 3, features: { MQ: false } } });
    expect([bench.read(CONFIG + 8, 2), bench.index]).toEqual([3, 6]);
    expect(bench.command([4, 1, ...rss({ types: 0, table: [2], maxTx: 3 })]).ack).toBe(OK);
    expect(bench.command([4, 0, ...u16(2)]).ack).toBe(ERR);
    // And a driver that takes neither has one pair, its control queue at 2.
    const single = new ControlBench({ net, features: without(new ControlBench({ net }), MQ, RSS, RSS_CONTEXT) });
    expect(single.index).toBe(2);
    expect(single.command([4, 2, ...u32(1), 0, 0, 0, 0, 0, 0, 0, 0, 40, ...RSS_KEY]).ack).toBe(OK);
  });
});

describe('RSS_CONFIG', () => {
  it('is in force when its buffer is used', () => {
    const bench = new ControlBench({ net });
    const { policy } = bench.net;
    expect(table4(policy)).toEqual([]);
    expect(bench.command([4, 1, ...rss({ types: 0x1ff, table: [3, 1, 0, 2], unclassified: 1, maxTx: 2 })])).toEqual({ ack: OK, used: 1 });
    expect([table4(policy), policy.rss.unclassified(0), policy.activePairs]).toEqual([[3, 1, 0, 2], 1, 2]);
    expect(policy.rss.parameters(0)).toEqual({ types: 0x1ff, tunnels: 0, key: Uint8Array.from(RSS_KEY) });
    expect(policy.headerLength).toBe(20);
  });

  it('tables as long as the device says, keys as long as it says', () => {
    const bench = new ControlBench({ net: { ...net, rss: { tableLength: 512, keySize: 60 } } });
    const table = Array.from({ length: 512 }, (_, i) => i & 3);
    const key = Array.from({ length: 60 }, (_, i) => i);
    expect(bench.command([4, 1, ...rss({ types: 1, table, key })]).ack).toBe(OK);
    expect(table4(bench.net.policy)).toEqual(table);
    expect(bench.net.policy.rss.parameters(0)?.key).toEqual(Uint8Array.from(key.slice(0, 40)));
    expect(bench.command([4, 1, ...rss({ types: 1, table: [...table, ...table] })]).ack).toBe(ERR);
    expect(bench.command([4, 1, ...rss({ types: 1, table, key: [...key, 1] })]).ack).toBe(ERR);
    expect(table4(bench.net.policy)).toEqual(table);
  });

  it('a short key goes on with zeros; no key will do when nothing is hashed', () => {
    const bench = new ControlBench({ net });
    bench.command([4, 1, ...rss({ types: 1, table: [0], key: [0x80, 1] })]);
    expect(bench.net.policy.rss.parameters(0)?.key).toEqual(Uint8Array.from([0x80, 1, ...new Array(38).fill(0)]));
    expect(bench.command([4, 1, ...rss({ types: 0, table: [2], key: [] })]).ack).toBe(OK);
    expect(bench.net.policy.rss.parameters(0)?.types).toBe(0);
    expect(table4(bench.net.policy)).toEqual([2]);
  });

  const wrong: [string, RssFields][] = [
    ['a hash type that is not supported', { types: 0x200, table: [0] }],
    ['hash types without a key', { types: 1, table: [0], key: [] }],
    ['a table that is no power of two', { types: 1, table: [0, 1, 2] }],
    ['a table too long', { types: 1, table: new Array(256).fill(0) }],
    ['a mask of 0xffff (cd76e8fcbe)', { types: 1, table: [0], mask: 0xffff }],
    ['a table longer than the command', { types: 1, table: [0, 1], mask: 127 }],
    ['a queue that there is not (CVE-2024-6505)', { types: 1, table: [0, 4] }],
    ['queue 0xffff (CVE-2024-6505)', { types: 1, table: [0, 0xffff] }],
    ['a queue id with its reserved bit', { types: 1, table: [0x8000] }],
    ['an unclassified queue that there is not', { types: 1, table: [0], unclassified: 4 }],
    ['max_tx_vq 0', { types: 1, table: [0], maxTx: 0 }],
    ['max_tx_vq above the pairs', { types: 1, table: [0], maxTx: 5 }],
    ['a key too long', { types: 1, table: [0], key: new Array(41).fill(1) }],
    ['a key longer than the command', { types: 1, table: [0], keyLength: 41 - 1, key: RSS_KEY.slice(1) }],
  ];

  it.each(wrong)('with %s fails and changes nothing', (_, fields) => {
    const bench = new ControlBench({ net });
    bench.command([4, 1, ...rss({ types: 2, table: [1, 2], unclassified: 3, maxTx: 4 })]);
    const before = seen(bench);
    expect(bench.command([4, 1, ...rss(fields)])).toEqual({ ack: ERR, used: 1 });
    expect(bench.command([9, 1, ...u16(1), 0, 0, 0, 0, 0, 0, ...rss(fields)])).toEqual({ ack: ERR, used: 1 });
    expect(seen(bench)).toEqual(before);
  });

  it('cut short anywhere it fails, in any slicing it works', () => {
    const bench = new ControlBench({ net });
    const bytes = [4, 1, ...rss({ types: 0x1f, table: [3, 2, 1, 0], unclassified: 2, maxTx: 3 })];
    const before = seen(bench);
    for (let length = 2; length < bytes.length; length++) expect(bench.command(bytes.slice(0, length)).ack).toBe(ERR);
    expect(seen(bench)).toEqual(before);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 10 }), fc.boolean(), (slices, indirect) => {
        bench.command([4, 0, ...u16(1)]);
        expect(bench.command(bytes, { slices, indirect }).ack).toBe(OK);
        expect(table4(bench.net.policy)).toEqual([3, 2, 1, 0]);
      }),
      { numRuns: 40 },
    );
  });

  it('was not negotiated: it fails', () => {
    const bench = new ControlBench({ net, features: without(new ControlBench({ net }), RSS, RSS_CONTEXT) });
    expect(bench.command([4, 1, ...rss({ types: 0, table: [0] })]).ack).toBe(ERR);
  });
});

describe('the last CTRL_MQ command wins', () => {
  const hash = (types: number, key = RSS_KEY): number[] => [4, 2, ...u32(types), 0, 0, 0, 0, 0, 0, 0, 0, key.length, ...key];

  it('VQ_PAIRS_SET turns spreading off, RSS_CONFIG on again; reports go on with the hash parameters set last', () => {
    const bench = new ControlBench({ net });
    const { policy } = bench.net;
    bench.command([4, 0, ...u16(3)]);
    bench.command([4, 1, ...rss({ types: 3, table: [1, 0], maxTx: 2 })]);
    expect([table4(policy), policy.activePairs]).toEqual([[1, 0], 2]);
    bench.command([4, 0, ...u16(4)]);
    expect([table4(policy), policy.activePairs, policy.rss.parameters(0)?.types]).toEqual([[], 4, 3]);
    bench.command([4, 1, ...rss({ types: 7, table: [2], maxTx: 1 })]);
    expect([table4(policy), policy.activePairs, policy.rss.parameters(0)?.types]).toEqual([[2], 1, 7]);
    // HASH_CONFIG goes back to automatic steering, over the pairs set last.
    expect(bench.command(hash(1)).ack).toBe(OK);
    expect([table4(policy), policy.activePairs, policy.rss.parameters(0)?.types]).toEqual([[], 4, 1]);
  });

  it('nothing is computed that nobody needs', () => {
    const bench = new ControlBench({ net: { queuePairs: 4 } });
    bench.command([4, 1, ...rss({ types: 3, table: [1, 0] })]);
    expect(bench.net.policy.rss.parameters(0)?.types).toBe(3);
    bench.command([4, 0, ...u16(4)]);
    expect(bench.net.policy.rss.parameters(0)).toBeUndefined();
  });

  it('HASH_CONFIG is refused without HASH_REPORT, with reserved words, a bad key or types', () => {
    const bench = new ControlBench({ net });
    bench.command(hash(5));
    const before = seen(bench);
    for (const bytes of [
      hash(0x200),
      hash(1, []),
      hash(1, new Array(41).fill(1)),
      hash(1).slice(0, -1),
      [4, 2, ...u32(1), 0, 0, 0, 1, 0, 0, 0, 0, 40, ...RSS_KEY],
      [4, 3, ...hash(1).slice(2)],
    ])
      expect(bench.command(bytes).ack).toBe(ERR);
    expect(seen(bench)).toEqual(before);
    const plain = new ControlBench({ net: { queuePairs: 4 } });
    expect(plain.command(hash(1)).ack).toBe(ERR);
  });

  it('a reset forgets it all (5.1.9.4.4, 5.1.9.5.8 device MUST)', () => {
    const bench = new ControlBench({ net });
    const before = seen(bench);
    bench.command([4, 1, ...rss({ types: 3, table: [1, 0], maxTx: 2 })]);
    bench.command([7, 0, ...u32(0x1f)]);
    bench.command([9, 1, ...u16(2), 0, 0, 0, 0, 0, 0, ...rss({ types: 1, table: [3] })]);
    expect(seen(bench)).not.toEqual(before);
    bench.status = 0;
    expect(seen(bench)).toEqual(before);
  });
});

describe('HASH_TUNNEL_SET', () => {
  it('takes supported types, 0 turns it off', () => {
    const bench = new ControlBench({ net });
    const { rss: words } = bench.net.policy;
    for (const [types, ack, after] of [
      [0x1ff, OK, 0x1ff],
      [0x200, ERR, 0x1ff],
      [0x80000000, ERR, 0x1ff],
      [0x11, OK, 0x11],
      [0, OK, 0],
    ] as const) {
      expect(bench.command([7, 0, ...u32(types)]).ack).toBe(ack);
      expect(words.tunnels).toBe(after);
    }
    expect(bench.command([7, 0, 1, 0, 0]).ack).toBe(ERR);
    expect(bench.command([7, 1, ...u32(1)]).ack).toBe(ERR);
    const refused = new ControlBench({ net, features: without(bench, HASH_TUNNEL) });
    expect(refused.command([7, 0, ...u32(1)]).ack).toBe(ERR);
  });
});

describe('RSS contexts', () => {
  const context = (command: number, id: number, fields: RssFields): number[] => [9, command, ...u16(id), 1, 2, 3, 4, 5, 6, ...rss(fields)];

  it('CAP_GET answers behind the ack', () => {
    const bench = new ControlBench({ net: { ...net, rss: { contexts: 300 } } });
    const ackAt = bench.post([9, 0], { writable: [1, 1, 1, 5] });
    bench.kickControl();
    expect(bench.driver.reap()).toEqual([expect.objectContaining({ length: 3 })]);
    expect([...bench.bytes.subarray(ackAt, ackAt + 4)]).toEqual([OK, 300 & 0xff, 300 >> 8, 0xee]);
    expect(bench.command([9, 0], { writable: [2] }).ack).toBe(ERR);
  });

  it('ADD makes one, MOD changes it, DEL removes it, each only where that makes sense', () => {
    const bench = new ControlBench({ net: { ...net, rss: { contexts: 2 } } });
    const { policy } = bench.net;
    const one = { types: 2, table: [3, 1], unclassified: 1 };
    const other = { types: 4, table: [2], unclassified: 2 };
    expect(bench.command(context(2, 1, one)).ack).toBe(ERR);
    expect(bench.command([9, 3, ...u16(1)]).ack).toBe(ERR);
    expect(bench.command(context(1, 1, one)).ack).toBe(OK);
    expect(bench.command(context(1, 1, other)).ack).toBe(ERR);
    expect([table4(policy, 1), policy.rss.parameters(1)?.types, policy.rss.unclassified(1)]).toEqual([[3, 1], 2, 1]);
    expect(bench.command(context(2, 1, other)).ack).toBe(OK);
    expect([table4(policy, 1), policy.rss.parameters(1)?.types]).toEqual([[2], 4]);
    for (const id of [0, 3, 0xffff]) expect(bench.command(context(1, id, one)).ack).toBe(ERR);
    expect(bench.command(context(1, 2, one)).ack).toBe(OK);
    expect(bench.command([9, 3, ...u16(1)]).ack).toBe(OK);
    expect([table4(policy, 1), policy.rss.parameters(1), table4(policy, 2)]).toEqual([[], undefined, [3, 1]]);
    expect(bench.command([9, 4, ...u16(2)]).ack).toBe(ERR);
    // The default configuration is none of them.
    expect(table4(policy)).toEqual([]);
  });

  it('while there is one VQ_PAIRS_SET fails (5.1.9.5.8, driver MUST NOT)', () => {
    const bench = new ControlBench({ net });
    bench.command(context(1, 1, { types: 0, table: [0] }));
    expect(bench.command([4, 0, ...u16(2)]).ack).toBe(ERR);
    bench.command([9, 3, ...u16(1)]);
    expect(bench.command([4, 0, ...u16(2)]).ack).toBe(OK);
  });

  it('was not negotiated: the class fails', () => {
    const bench = new ControlBench({ net, features: without(new ControlBench({ net }), RSS_CONTEXT) });
    for (const bytes of [[9, 0], context(1, 1, { types: 0, table: [0] }), [9, 3, 1, 0]]) expect(bench.command(bytes, { writable: [8] }).ack).toBe(ERR);
  });
});

describe('which queues there are', () => {
  it('a queue under reset is not among them, nor one that was never set up', () => {
    const bench = new ControlBench({ net, queues: [0, 1, 2, 3, 6, 8] });
    const { rss: words } = bench.net.policy;
    expect(words.live).toEqual([0b1011, 0]);
    bench.backend.slow = true;
    bench.set(QUEUE_SELECT, 2, 2);
    bench.set(QUEUE_RESET, 2, 1);
    expect(words.live).toEqual([0b1001, 0]);
    bench.backend.finishStops();
    expect(bench.get(QUEUE_RESET, 2)).toBe(0);
    bench.setUpQueue(2);
    bench.set(QUEUE_ENABLE, 2, 1);
    expect(words.live).toEqual([0b1011, 0]);
    bench.net.pause();
    bench.backend.finishStops();
    expect([bench.net.paused, words.live]).toEqual([true, [0b1011, 0]]);
  });
});

describe('any command', () => {
  it('of these classes is answered, and one that fails changes nothing', () => {
    const bench = new ControlBench({ net });
    bench.command([4, 1, ...rss({ types: 2, table: [1, 2], unclassified: 3, maxTx: 4 })]);
    const command = fc.oneof(
      fc.tuple(fc.constantFrom(4, 7, 9), fc.integer({ min: 0, max: 5 }), fc.uint8Array({ maxLength: 120 })).map(([c, n, bytes]) => [c, n, ...bytes]),
      fc
        .record({
          context: fc.option(fc.integer({ min: 0, max: 18 })),
          types: fc.integer({ min: 0, max: 0x2ff }),
          table: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 9 }),
          mask: fc.option(fc.integer({ min: 0, max: 0xffff }), { nil: undefined }),
          unclassified: fc.integer({ min: 0, max: 4 }),
          maxTx: fc.integer({ min: 0, max: 5 }),
          keyLength: fc.option(fc.integer({ min: 0, max: 45 }), { nil: undefined }),
        })
        .map(({ context, mask, keyLength, ...fields }) => {
          const config = rss({ ...fields, ...(mask !== undefined && { mask }), ...(keyLength !== undefined && { keyLength }) });
          return context === null ? [4, 1, ...config] : [9, 1 + (context & 1), ...u16(context), 0, 0, 0, 0, 0, 0, ...config];
        }),
    );
    fc.assert(
      fc.property(command, fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 5 }), (bytes, slices) => {
        const before = seen(bench);
        const { ack } = bench.command(bytes, { slices, writable: [4] });
        expect([OK, ERR]).toContain(ack);
        if (ack === ERR) expect(seen(bench)).toEqual(before);
        for (let id = 0; id <= 16; id++) expect(table4(bench.net.policy, id).every((pair) => pair < 4)).toBe(true);
        expect(bench.status & NEEDS_RESET).toBe(0);
      }),
      { numRuns: 500 },
    );
  });
});

it('HASH_REPORT makes the header twenty bytes, whatever else is negotiated', () => {
  const bench = new ControlBench({ net });
  expect(bench.net.policy.headerLength).toBe(20);
  const plain = new ControlBench({ net, features: without(bench, HASH_REPORT) });
  expect(plain.net.policy.headerLength).toBe(12);
  expect(plain.net.policy.rss.parameters(0)).toBeUndefined();
});
