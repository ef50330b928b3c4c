// The control virtqueue (virtio 1.4 5.1.9.5): what each command does to the policy words a data plane reads, what is refused, and how commands may be laid out.
import { describe, expect, it } from 'vitest';
import { ACCEPTS_CSUM, ACCEPTS_TSO4, ACCEPTS_TSO6, ACCEPTS_UDP_TUNNEL, ACCEPTS_UDP_TUNNEL_CSUM, ACCEPTS_UFO, ACCEPTS_USO4 } from '#net/port';
import { FeatureSet } from '#virtio/features';
import * as p from '#virtio/net-policy';
import { CONFIG, GENERATION, NEEDS_RESET } from '../virtio-pci/bench.ts';
import { ControlBench, ERR, OK, u16, u32 } from './control-bench.ts';

const UNI = [0x52, 0, 0, 0, 0, 9];
const MULTI = [0x33, 0x33, 0, 0, 0, 1];
const low = (mac: readonly number[]): number => (mac[0] as number) | ((mac[1] as number) << 8) | ((mac[2] as number) << 16) | ((mac[3] as number) << 24);
const high = (mac: readonly number[]): number => (mac[4] as number) | ((mac[5] as number) << 8);
const macTable = (uni: readonly number[][], multi: readonly number[][]): number[] => [
  1,
  0,
  ...u32(uni.length),
  ...uni.flat(),
  ...u32(multi.length),
  ...multi.flat(),
];
const without = (bench: ControlBench, ...bits: number[]): FeatureSet => bench.offered().without(FeatureSet.of(34, 35, ...bits));

describe('receive modes', () => {
  it.each([
    [0, p.POLICY_PROMISCUOUS],
    [1, p.POLICY_ALL_MULTICAST],
    [2, p.POLICY_ALL_UNICAST],
    [3, p.POLICY_NO_MULTICAST],
    [4, p.POLICY_NO_UNICAST],
    [5, p.POLICY_NO_BROADCAST],
  ])('command %i switches its mode, in force when the buffer is used', (command, flag) => {
    const bench = new ControlBench();
    expect(bench.net.policy.flags & flag).toBe(0);
    const { policyChanges } = bench.backend;
    expect(bench.command([0, command, 1])).toEqual({ ack: OK, used: 1 });
    expect(bench.net.policy.flags & flag).toBe(flag);
    expect(bench.backend.policyChanges).toBeGreaterThan(policyChanges);
    expect(bench.command([0, command, 0]).ack).toBe(OK);
    expect(bench.net.policy.flags & flag).toBe(0);
  });

  it('without CTRL_RX everything is received; with it, only what matches', () => {
    const filtering = new ControlBench();
    expect(filtering.net.policy.flags & (p.POLICY_PROMISCUOUS | p.POLICY_ALL_UNICAST)).toBe(0);
    const open = new ControlBench({ features: without(filtering, 18) });
    expect(open.net.policy.flags & (p.POLICY_ALL_UNICAST | p.POLICY_ALL_MULTICAST)).toBe(p.POLICY_ALL_UNICAST | p.POLICY_ALL_MULTICAST);
    expect(open.net.policy.flags & p.POLICY_VLAN_FILTER).toBe(p.POLICY_VLAN_FILTER);
    expect(open.command([0, 0, 0]).ack).toBe(ERR);
  });

  it('a driver whose address the device cannot know gets every unicast frame, until it says', () => {
    const bench = new ControlBench({ features: without(new ControlBench(), 5) });
    expect(bench.net.policy.flags & p.POLICY_ALL_UNICAST).toBe(p.POLICY_ALL_UNICAST);
    bench.command([1, 1, ...UNI]);
    expect(bench.net.policy.flags & p.POLICY_ALL_UNICAST).toBe(0);
  });
});

describe('MAC commands', () => {
  it('TABLE_SET replaces both lists', () => {
    const bench = new ControlBench();
    expect(bench.command(macTable([UNI], [MULTI])).ack).toBe(OK);
    expect(bench.net.policy.inTable(low(UNI), high(UNI))).toBe(true);
    expect(bench.net.policy.inTable(low(MULTI), high(MULTI))).toBe(true);
    bench.command(macTable([], []));
    expect(bench.net.policy.inTable(low(UNI), high(UNI))).toBe(false);
    expect(bench.net.policy.inTable(low(MULTI), high(MULTI))).toBe(false);
  });

  it('files an address by what it is, whichever list it came in', () => {
    const bench = new ControlBench();
    bench.command(macTable([MULTI], [UNI]));
    expect(bench.net.policy.inTable(low(UNI), high(UNI))).toBe(true);
    expect(bench.net.policy.inTable(low(MULTI), high(MULTI))).toBe(true);
  });

  it('a list too long for the filter lets all of its kind pass', () => {
    const bench = new ControlBench();
    const many = Array.from({ length: 65 }, (_, i) => [0x52, 0, 0, 1, 0, i]);
    bench.command(macTable(many, [MULTI]));
    expect(bench.net.policy.flags & (p.POLICY_ALL_UNICAST | p.POLICY_ALL_MULTICAST)).toBe(p.POLICY_ALL_UNICAST);
    expect(bench.net.policy.inTable(low(MULTI), high(MULTI))).toBe(true);
    bench.command(macTable(many.slice(1), []));
    expect(bench.net.policy.flags & p.POLICY_ALL_UNICAST).toBe(0);
  });

  it.each([
    ['entries 0xffffffff (CVE-2014-0150)', [1, 0, ...u32(0xffffffff), ...UNI]],
    ['entries that only fit modulo 2^32', [1, 0, ...u32(0x2aaaaaab), ...UNI, ...u32(0)]],
    ['a second list that is missing', [1, 0, ...u32(1), ...UNI]],
    ['a second count of 0xffffffff', [1, 0, ...u32(0), ...u32(0xffffffff)]],
    ['a list cut short', [1, 0, ...u32(2), ...UNI, ...u32(0)]],
    ['bytes left over', [...macTable([UNI], []), 0]],
    ['nothing', [1, 0]],
  ])('TABLE_SET with %s fails and changes nothing', (_, bytes) => {
    const bench = new ControlBench();
    bench.command(macTable([UNI], [MULTI]));
    expect(bench.command(bytes)).toEqual({ ack: ERR, used: 1 });
    expect(bench.net.policy.inTable(low(UNI), high(UNI))).toBe(true);
    expect(bench.net.policy.inTable(low(MULTI), high(MULTI))).toBe(true);
  });

  it('ADDR_SET changes the address in configuration space and in the filter, and moves the generation; a reset brings the old one back', () => {
    const bench = new ControlBench();
    bench.read(CONFIG, 4);
    const generation = bench.get(GENERATION, 1);
    expect(bench.command([1, 1, ...UNI]).ack).toBe(OK);
    expect(bench.get(GENERATION, 1)).not.toBe(generation);
    expect([0, 1, 2, 3, 4, 5].map((i) => bench.read(CONFIG + i, 1))).toEqual(UNI);
    expect([bench.net.policy.macLow, bench.net.policy.macHigh]).toEqual([low(UNI), high(UNI)]);
    bench.status = 0;
    expect(bench.read(CONFIG + 5, 1)).toBe(0x56);
    expect(bench.net.policy.macHigh).toBe(high([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
  });

  it('ADDR_SET with a group address or too few bytes fails', () => {
    const bench = new ControlBench();
    expect(bench.command([1, 1, ...MULTI]).ack).toBe(ERR);
    expect(bench.command([1, 1, 0x52, 0, 0, 0, 0]).ack).toBe(ERR);
    expect(bench.read(CONFIG + 5, 1)).toBe(0x56);
  });
});

describe('VLAN commands', () => {
  it('with CTRL_VLAN the filter is on and starts empty', () => {
    const bench = new ControlBench();
    expect(bench.net.policy.flags & p.POLICY_VLAN_FILTER).toBe(p.POLICY_VLAN_FILTER);
    for (const id of [0, 1, 100, 4095]) expect(bench.net.policy.hasVlan(id)).toBe(false);
    for (const id of [0, 100, 4095]) expect(bench.command([2, 0, ...u16(id)]).ack).toBe(OK);
    expect([0, 1, 100, 101, 4095].map((id) => bench.net.policy.hasVlan(id))).toEqual([true, false, true, false, true]);
    bench.command([2, 1, ...u16(100)]);
    expect(bench.net.policy.hasVlan(100)).toBe(false);
    expect(bench.command([2, 0, ...u16(4096)]).ack).toBe(ERR);
    expect(bench.command([2, 0, 1]).ack).toBe(ERR);
    expect(bench.command([2, 2, ...u16(1)]).ack).toBe(ERR);
  });

  it('without it the filter is off', () => {
    const bench = new ControlBench({ features: without(new ControlBench(), 19) });
    expect(bench.net.policy.flags & p.POLICY_VLAN_FILTER).toBe(0);
    expect(bench.command([2, 0, ...u16(5)]).ack).toBe(ERR);
  });
});

describe('VQ_PAIRS_SET', () => {
  it('takes 1 to max_virtqueue_pairs', () => {
    const bench = new ControlBench({ net: { queuePairs: 4 } });
    expect(bench.read(CONFIG + 8, 2)).toBe(4);
    expect(bench.net.policy.activePairs).toBe(1);
    for (const [pairs, ack, active] of [
      [4, OK, 4],
      [0, ERR, 4],
      [5, ERR, 4],
      [0xffff, ERR, 4],
      [1, OK, 1],
      [3, OK, 3],
    ] as const) {
      expect(bench.command([4, 0, ...u16(pairs)]).ack).toBe(ack);
      expect(bench.net.policy.activePairs).toBe(active);
    }
    bench.status = 0;
    expect(bench.net.policy.activePairs).toBe(1);
  });

  it('and RSS or hash commands fail when they were not negotiated', () => {
    const bench = new ControlBench({ net: { queuePairs: 2, features: { RSS: false } } });
    expect(bench.command([4, 1, ...new Array(60).fill(0)]).ack).toBe(ERR);
    expect(bench.command([4, 2, ...new Array(60).fill(0)]).ack).toBe(ERR);
  });
});

describe('guest offloads', () => {
  const set = (...bits: number[]): number[] => [
    5,
    0,
    ...FeatureSet.of(...bits)
      .words.slice(0, 2)
      .flatMap((w) => u32(w)),
  ];

  it('start with what was negotiated, and follow the mask', () => {
    const bench = new ControlBench({ features: without(new ControlBench(), 61) });
    expect(bench.net.policy.accepts & (ACCEPTS_CSUM | ACCEPTS_TSO4 | ACCEPTS_TSO6 | ACCEPTS_USO4)).toBe(
      ACCEPTS_CSUM | ACCEPTS_TSO4 | ACCEPTS_TSO6 | ACCEPTS_USO4,
    );
    expect(bench.command(set(1, 7)).ack).toBe(OK);
    expect(bench.net.policy.accepts).toBe(ACCEPTS_CSUM | ACCEPTS_TSO4);
    expect(bench.command(set(7)).ack).toBe(OK);
    expect(bench.net.policy.accepts).toBe(0);
    expect(bench.command(set(1, 54)).ack).toBe(OK);
    expect(bench.net.policy.accepts).toBe(ACCEPTS_CSUM | ACCEPTS_USO4);
  });

  it('bits that were not negotiated, are no offloads, or a short mask fail', () => {
    const bench = new ControlBench({ features: without(new ControlBench(), 8, 65, 66) });
    const { accepts } = bench.net.policy;
    for (const bytes of [set(1, 8), set(0), set(46), set(15), [5, 0, 2, 0, 0, 0], [5, 1, ...set(1).slice(2)]]) expect(bench.command(bytes).ack).toBe(ERR);
    expect(bench.net.policy.accepts).toBe(accepts);
  });
});

describe('guest offloads of features beyond bit 63', () => {
  const set = (low: number, high: number): number[] => [5, 0, ...u32(low), ...u32(high)];
  const net = { features: { GUEST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO: true } } as const;
  const tunnels = (...bits: number[]): ControlBench => new ControlBench({ net, features: without(new ControlBench({ net }), ...bits) });
  const TUNNEL = 1 << 14;
  const TUNNEL_CSUM = 1 << 15;

  it('have bits 46 and 47 of the mask', () => {
    const bench = tunnels();
    expect(bench.net.policy.accepts & (ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM | ACCEPTS_UFO)).toBe(
      ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM | ACCEPTS_UFO,
    );
    expect(bench.command(set(2 | (1 << 10), TUNNEL)).ack).toBe(OK);
    expect(bench.net.policy.accepts & (ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM | ACCEPTS_UFO)).toBe(ACCEPTS_UDP_TUNNEL | ACCEPTS_UFO);
    expect(bench.command(set(2, TUNNEL | TUNNEL_CSUM)).ack).toBe(OK);
    expect(bench.net.policy.accepts & (ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM)).toBe(ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM);
    for (const bad of [set(2, 1 << 13), set(2, 1 << 16), set(2, 1 << 31)]) expect(bench.command(bad).ack).toBe(ERR);
  });

  it('and none without those features; the header is as long as what was negotiated needs', () => {
    const bench = tunnels(66);
    expect([bench.command(set(2, TUNNEL)).ack, bench.command(set(2, TUNNEL_CSUM)).ack]).toEqual([OK, ERR]);
    expect(bench.net.policy.headerLength).toBe(24);
    // One direction is enough: the fields are in every header then (virtio-spec.md trap 6).
    for (const bits of [
      [65, 66],
      [67, 68],
    ])
      expect(tunnels(...bits).net.policy.headerLength).toBe(24);
    expect(tunnels(57, 65, 66, 67, 68).net.policy.headerLength).toBe(12);
  });

  it.each([
    ['GUEST tunnels without GUEST_USO6', [55]],
    ['their checksum without them', [65]],
    ['HOST tunnels without HOST_USO', [56]],
    ['HOST_UFO without CSUM', [0, 11, 12, 13, 56, 67, 68]],
    ['RSC_EXT without any TSO', [7, 8, 9, 11, 12, 13, 65, 66, 67, 68]],
  ])('the device refuses %s', (_what, bits) => {
    expect(() => tunnels(...bits)).toThrow('refused');
  });
});

describe('how commands come', () => {
  it.each([false, true])('in any slicing, direct or indirect, over split and packed (packed: %s)', (packed) => {
    const all = new ControlBench().offered();
    const features = packed ? all : all.without(FeatureSet.of(34, 35));
    const bench = new ControlBench({ features });
    const bytes = macTable([UNI], [MULTI]);
    for (const indirect of [false, true])
      for (const slices of [[], [2], [1, 1, 1], new Array(bytes.length).fill(1), [3, 7]]) {
        bench.command([...macTable([], [])]);
        expect(bench.command(bytes, { slices, indirect })).toEqual({ ack: OK, used: 1 });
        expect(bench.net.policy.inTable(low(MULTI), high(MULTI))).toBe(true);
      }
  });

  it('the ack goes into the first writable byte, wherever it is, and nothing else is written', () => {
    const bench = new ControlBench();
    const at = bench.post([0, 0, 1], { writable: [3, 8] });
    bench.kickControl();
    expect(bench.driver.reap()[0]?.length).toBe(1);
    expect([...bench.bytes.subarray(at, at + 11)]).toEqual([OK, ...new Array(10).fill(0xee)]);
  });

  it.each([
    ['an empty command', []],
    ['a class alone', [0]],
    ['a command without its data', [0, 0]],
    ['an unknown class', [10, 0]],
    ['an unknown ANNOUNCE command', [3, 1]],
    ['class 255', [255, 255, 1]],
    ['an unknown RX command', [0, 6, 1]],
  ])('%s fails', (_, bytes) => {
    const bench = new ControlBench();
    expect(bench.command(bytes)).toEqual({ ack: ERR, used: 1 });
    expect(bench.status & NEEDS_RESET).toBe(0);
  });

  it('a command with no room for its ack is returned unrun', () => {
    const bench = new ControlBench();
    bench.post([0, 0, 1], { writable: [] });
    bench.kickControl();
    expect(bench.driver.reap()).toMatchObject([{ length: 0 }]);
    expect(bench.net.policy.flags & p.POLICY_PROMISCUOUS).toBe(0);
    expect(bench.status & NEEDS_RESET).toBe(0);
  });

  it('many at once, in order, with one interrupt', () => {
    const bench = new ControlBench();
    for (let i = 0; i < 30; i++) bench.post([0, 0, i & 1]);
    bench.kickControl();
    expect(bench.driver.reap()).toHaveLength(30);
    expect(bench.net.policy.flags & p.POLICY_PROMISCUOUS).toBe(p.POLICY_PROMISCUOUS);
    expect(bench.lines.some(Boolean)).toBe(true);
  });

  it('a notification serves a bounded number of commands; the clock brings the others', () => {
    const bench = new ControlBench();
    // The driver's ring has 64 entries and each of these needs two; 20 times as many are served if it keeps the ring full from inside.
    let served = 0;
    const { driver } = bench;
    bench.backend.policyChanged = () => {
      served++;
      if (served > 1000) return;
      driver.reap();
      bench.post([0, 0, 1]);
      driver.expose();
    };
    bench.post([0, 0, 1]);
    bench.kickControl();
    expect(served).toBeLessThanOrEqual(64);
    bench.clock.advance(1);
    expect(served).toBeGreaterThan(64);
  });

  it('a reset clears everything that commands have set up', () => {
    const bench = new ControlBench({ net: { queuePairs: 2 } });
    const features = bench.offered().without(FeatureSet.of(34, 35));
    const many = Array.from({ length: 65 }, (_, i) => [0x52, 0, 0, 1, 0, i]);
    const { flags, accepts } = bench.net.policy;
    for (let command = 0; command < 6; command++) bench.command([0, command, 1]);
    bench.command(macTable(many, [MULTI]));
    bench.command([2, 0, ...u16(9)]);
    bench.command([4, 0, ...u16(2)]);
    bench.command([5, 0, ...new Array(8).fill(0)]);
    expect(bench.net.policy.flags).not.toBe(flags);
    bench.bringUp(features, [0, 1]);
    const { policy } = bench.net;
    expect([policy.flags, policy.accepts, policy.activePairs]).toEqual([flags, accepts, 1]);
    expect(policy.hasVlan(9)).toBe(false);
    expect(policy.inTable(low(MULTI), high(MULTI))).toBe(false);
  });

  it('after a reset the control queue starts from its beginning', () => {
    const bench = new ControlBench();
    bench.command([0, 0, 1]);
    bench.status = 0;
    expect(bench.net.policy.flags & p.POLICY_PROMISCUOUS).toBe(0);
    expect(bench.net.policy.flags & p.POLICY_ACTIVE).toBe(0);
    const again = new ControlBench();
    again.command([0, 1, 1]);
    again.bringUp(again.offered().without(FeatureSet.of(34, 35)), []);
    expect(again.net.policy.flags & p.POLICY_ALL_MULTICAST).toBe(0);
  });
});

describe('a broken control ring', () => {
  it.each([
    ['a looped chain', 0x20000, 1, 0],
    ['next past the ring', 0x20000, 1, 500],
  ])('%s needs a reset', (_, _at, flags, next) => {
    const bench = new ControlBench();
    bench.post([0, 0, 1]);
    const view = new DataView(bench.ram);
    const descriptor = 0x10000 * (bench.index + 1);
    for (let i = 0; i < 64; i++) {
      view.setUint16(descriptor + 16 * i + 12, flags, true);
      view.setUint16(descriptor + 16 * i + 14, next, true);
    }
    bench.kickControl();
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(bench.backend.running()).toEqual([]);
  });

  it('a buffer outside RAM, or a ring outside RAM, needs a reset', () => {
    const outside = new ControlBench();
    outside.driver.add(0, [
      { address: 0x7000_0000, length: 3 },
      { address: 0x300000, length: 1, write: true },
    ]);
    outside.kickControl();
    expect(outside.status & NEEDS_RESET).toBe(NEEDS_RESET);
    const bench = new ControlBench({ queues: [0, 1] });
    bench.set(22, 2, bench.index);
    bench.set(32 + 4, 4, 1);
    bench.set(28, 2, 1);
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  it('a descriptor that is its own notify register is no memory', () => {
    const bench = new ControlBench();
    bench.driver.add(0, [
      { address: 0x300000, length: 3 },
      { address: 0x40_0000_3008, length: 1, write: true },
    ]);
    bench.kickControl();
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });
});
