// Switchdev mode: representors, rules and what they do, tunnels with their offloads, meters, chains, control domains, limits.

import { describe, expect, it } from 'vitest';
import type { FlowAction } from '#net/embedded-switch/actions';
import type { FlowRuleSpec } from '#net/embedded-switch/domain';
import type { EmbeddedSwitchOptions } from '#net/embedded-switch/embedded-switch';
import { EmbeddedSwitchError } from '#net/embedded-switch/errors';
import { type FlowMatch, matchWords } from '#net/embedded-switch/match';
import { bucketOf } from '#net/embedded-switch/rule-lookup';
import { ACCEPTS_CSUM, ACCEPTS_EVERYTHING, FRAME_NEEDS_CSUM, FRAME_UDP_TUNNEL_CSUM, GSO_TCPV4, GSO_UDP, GSO_UDP_TUNNEL_IPV4 } from '#net/port';
import { dissect, ethernet, faults, ipv4, ipv6, seedChecksum, tcp, udp } from '../frames.ts';
import { type Frame, MemoryPort } from '../memory-port.ts';
import { bytesOf, counts, macOf, plain, type Rig, rig } from './rig.ts';

const REPRESENTORS = ['uplink0-rep', 'pf-rep', 'vf0-rep', 'vf1-rep', 'vf2-rep'];
const switched = (options: Partial<EmbeddedSwitchOptions> = {}): Rig => rig({ mode: 'switchdev', ...options }, REPRESENTORS);
const add = ({ nic }: Rig, match: FlowMatch, actions: readonly FlowAction[], more: Partial<FlowRuleSpec> = {}) => nic.root.addRule({ match, actions, ...more });
const to = (port: string): FlowAction => ({ kind: 'forward', to: port });

const code = (act: () => void): string => {
  try {
    act();
  } catch (error) {
    if (error instanceof EmbeddedSwitchError) return error.code;
    throw error;
  }
  return 'none';
};

const body = (length: number): number[] => Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
const addressed = { to: bytesOf(macOf(1)), from: bytesOf(macOf(0)) };

/** A frame whose TCP or UDP checksum is right, made with code of the tests alone. */
function whole(frame: Uint8Array): Uint8Array {
  const made = Uint8Array.from(frame);
  const { transport, protocol, bytes } = dissect(made);
  const field = transport + (protocol === 6 ? 16 : 6);
  made.fill(0, field, field + 2);
  seedChecksum(made);
  // The seed is the pseudo header's sum: the rest of it over the segment.
  let sum = 0;
  for (let i = transport; i < bytes.length; i += 2) sum += ((bytes[i] as number) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  const checksum = ~sum & 0xffff || 0xffff;
  made[field] = checksum >> 8;
  made[field + 1] = checksum & 0xff;
  return made;
}

const TCP4 = whole(ethernet(0x0800, ipv4(6, tcp(body(64))), addressed));
const UDP4 = whole(ethernet(0x0800, ipv4(17, udp(body(64))), addressed));
const TCP6 = whole(ethernet(0x86dd, ipv6(6, tcp(body(64))), addressed));
const UDP6 = whole(ethernet(0x86dd, ipv6(17, udp(body(64))), addressed));

describe('representors', () => {
  it('a miss comes out of the representor of the port it came from, and what is sent into one goes to its port', () => {
    const { nic, send } = switched();
    expect(send('vf0', plain(1))).toEqual({ 'vf0-rep': [plain(1)] });
    expect(send('uplink0', plain(1))).toEqual({ 'uplink0-rep': [plain(1)] });
    expect(send('vf1-rep', plain(2))).toEqual({ vf1: [plain(2)] });
    expect(send('uplink0-rep', plain(2))).toEqual({ uplink0: [plain(2)] });
    expect(nic.portStatistics('vf0')).toMatchObject({ frames: 1, forwarded: 1, misses: 1 });
    // What the software sends by way of a representor its port has not sent.
    expect(nic.portStatistics('vf1')).toMatchObject({ frames: 0, forwarded: 0 });
    expect(nic.portStatistics('vf1-rep')).toMatchObject({ frames: 1, forwarded: 1, dropped: 0 });
  });

  it('a rule is about a port, and none about its representor', () => {
    const { nic } = switched();
    expect(code(() => nic.root.addRule({ match: { port: 'vf0-rep' }, actions: [to('vf1')] }))).toBe('bad-match');
    expect(code(() => nic.root.addRule({ table: 'egress', match: { port: 'vf0-rep' }, actions: [{ kind: 'drop' }] }))).toBe('bad-match');
  });

  it('without a representor a miss goes nowhere, and is counted', () => {
    const { nic, send } = rig({ mode: 'switchdev' });
    expect(send('vf0', plain(1))).toEqual({});
    expect(nic.portStatistics('vf0')).toMatchObject({ frames: 1, dropped: 1, misses: 0, drops: { 'no-representor': 1 } });
  });

  it('a rule may hand a frame to the software itself', () => {
    const made = switched();
    add(made, { port: 'vf0' }, [{ kind: 'miss' }], { priority: 9 });
    add(made, {}, [to('vf1')]);
    expect(counts(made.send('vf0', plain(1)))).toEqual({ 'vf0-rep': 1 });
    expect(counts(made.send('vf2', plain(1)))).toEqual({ vf1: 1 });
  });
});

describe('matches', () => {
  const other = whole(ethernet(0x0800, ipv4(17, udp(body(64))), { ...addressed, from: bytesOf(macOf(2)) }));
  const tagged = (vlans: number[], frame: Uint8Array): Uint8Array =>
    Uint8Array.from([
      ...frame.slice(0, 12),
      ...(vlans.length > 1 ? [0x88, 0xa8] : [0x81, 0]),
      ...vlans.flatMap((tci, i) => [...(i > 0 ? [0x81, 0] : []), tci >> 8, tci & 255]),
      ...frame.slice(12),
    ]);
  const syn = whole(ethernet(0x0800, ipv4(6, tcp([], { flags: 2 })), addressed));
  const firstFragment = ethernet(0x0800, ipv4(17, udp(body(64)), { fragment: 0x2000 }), addressed);
  const laterFragment = ethernet(0x0800, ipv4(17, body(64), { fragment: 0x0009 }), addressed);
  const echo = ethernet(0x0800, ipv4(1, [8, 0, 0, 0, 0, 1, 0, 1]), addressed);
  const echo6 = ethernet(0x86dd, ipv6(58, [128, 0, 0, 0, 0, 1, 0, 1]), addressed);
  const vxlan = (vni: number): Uint8Array => {
    const datagram = udp([8, 0, 0, 0, 0, vni >> 8, vni & 255, 0, ...plain(5)]);
    datagram.splice(2, 2, 0x12, 0xb5);
    return ethernet(0x0800, ipv4(17, datagram), addressed);
  };
  it.each<[string, FlowMatch, Uint8Array[], Uint8Array[]]>([
    ['in-port', { port: 'vf0' }, [UDP4], []],
    ['destination MAC', { destinationMac: macOf(1) }, [UDP4], [plain(1)]],
    ['source MAC', { sourceMac: macOf(2) }, [other], [UDP4]],
    ['MAC with a mask', { destinationMac: '01:00:00:00:00:00/01:00:00:00:00:00' }, [plain(1)], [UDP4]],
    ['VLAN id', { vlan: { id: 5 } }, [tagged([5], UDP4), tagged([0xa005], UDP4)], [UDP4, tagged([6], UDP4)]],
    ['VLAN priority', { vlan: { priority: 5 } }, [tagged([0xa005], UDP4)], [tagged([5], UDP4)]],
    ['untagged', { vlan: 'none' }, [UDP4], [tagged([5], UDP4)]],
    ['any tag', { vlan: {} }, [tagged([5], UDP4), tagged([0], UDP4)], [UDP4]],
    ['inner VLAN', { vlan: { id: 5 }, innerVlan: { id: 6 } }, [tagged([5, 6], UDP4)], [tagged([5, 7], UDP4), tagged([5], UDP4)]],
    ['service tag', { serviceTag: true }, [tagged([5, 6], UDP4)], [tagged([5], UDP4)]],
    ['EtherType, behind tags', { etherType: 0x86dd }, [TCP6, tagged([5, 6], TCP6)], [UDP4]],
    ['IPv4 addresses', { source: '10.0.0.1', destination: '10.0.0.2' }, [UDP4, TCP4], [UDP6]],
    ['IPv4 prefix', { source: '10.0.0.0/8' }, [UDP4], [UDP6]],
    ['IPv4 with bits of one’s own', { source: '0.0.0.1/0.0.0.1' }, [UDP4], [UDP6]],
    ['IPv4, another', { source: '10.0.0.2' }, [], [UDP4]],
    ['IPv6 addresses', { source: 'fd00::1', destination: 'fd00::2' }, [UDP6], [UDP4]],
    ['IPv6 prefix', { destination: 'fd00::/8' }, [TCP6], [UDP4]],
    ['protocol of either version', { protocol: 17 }, [UDP4, UDP6], [TCP4, TCP6]],
    ['dscp', { dscp: 0 }, [UDP4], [plain(1)]],
    ['TTL', { ttl: 64 }, [UDP4, UDP6], [plain(1)]],
    ['no fragment', { fragment: 'none' }, [UDP4], [firstFragment, laterFragment, plain(1)]],
    ['first fragment', { fragment: 'first' }, [firstFragment], [UDP4, laterFragment]],
    ['later fragment', { fragment: 'later' }, [laterFragment], [UDP4, firstFragment]],
    ['any fragment', { fragment: 'any' }, [firstFragment, laterFragment], [UDP4]],
    ['ports', { protocol: 17, sourcePort: 5353, destinationPort: 53 }, [UDP4, UDP6, firstFragment], [TCP4, laterFragment]],
    ['ports with a mask', { destinationPort: { value: 48, mask: 0xfff0 } }, [UDP4], [TCP4]],
    ['TCP flags', { tcpFlags: { value: 2, mask: 0x12 } }, [syn], [TCP4, UDP4]],
    ['ICMP type and code', { protocol: 1, icmpType: 8, icmpCode: 0 }, [echo], [echo6, UDP4]],
    ['ICMPv6 type', { icmpType: 128 }, [echo6], [echo]],
    ['VNI', { tunnel: { kind: 'vxlan', vni: 258 } }, [vxlan(258)], [vxlan(259), UDP4]],
    ['outer addresses', { tunnel: { kind: 'vxlan', source: '10.0.0.1', destination: '10.0.0.2' } }, [vxlan(1)], [UDP4]],
    ['Geneve', { tunnel: { kind: 'geneve' } }, [], [vxlan(1)]],
  ])('%s', (_, match, yes, no) => {
    const made = switched();
    const rule = add(made, match, [to('vf1')]);
    const { vf1 = [], ...rest } = made.send('vf0', ...yes, ...no);
    expect([vf1, rest['vf0-rep'] ?? []]).toEqual([yes, no]);
    expect(rule.count).toEqual({ frames: yes.length, bytes: yes.reduce((sum, frame) => sum + frame.length, 0) });
  });

  it('is found through frames whose headers lie in pieces, and beyond the first bytes', () => {
    const made = switched();
    add(made, { protocol: 6, destinationPort: 80 }, [to('vf1')]);
    const extension = [60, 14, ...new Array(118).fill(0)];
    const long = whole(ethernet(0x86dd, ipv6(6, tcp(body(300)), [extension]), addressed));
    const sent: Frame[] = [
      { bytes: TCP4, pieces: [3, 1, 20, 5, 40] },
      { bytes: long, pieces: [64, 7] },
      { bytes: long, misaligned: 3 },
    ];
    expect(made.send('vf0', ...sent)).toEqual({ vf1: sent.map(({ bytes }) => bytes) });
  });

  it.each<[FlowMatch]>([
    [{ destinationMac: '02:00' }],
    [{ destinationMac: '02:00:00:00:00:01/01:00:00:00:00:00' }],
    [{ source: '10.0.0.1', destination: 'fd00::1' }],
    [{ source: '10.0.0.1/8' }],
    [{ source: '300.0.0.1' }],
    [{ source: 'fd00:::1' }],
    [{ vlan: 'none', serviceTag: true }],
    [{ etherType: 70000 }],
    [{ sourcePort: { value: 2, mask: 1 } }],
    [{ tunnel: { vni: 5 } }],
    [{ protocol: 17, tcpFlags: 2 }],
    [{ dscp: 64 }],
  ])('refuses %j', (match) => {
    expect(code(() => add(switched(), match, [to('vf1')]))).toBe('bad-match');
  });
});

describe('priorities and chains', () => {
  it('takes the larger priority, and of equals the older, whatever the masks', () => {
    const made = switched();
    add(made, { destinationMac: macOf(1) }, [to('vf1')], { priority: 5 });
    const shadowed = add(made, { protocol: 17 }, [to('vf2')], { priority: 5 });
    const over = add(made, { source: '10.0.0.0/8' }, [to('pf')], { priority: 6 });
    expect(counts(made.send('vf0', UDP4))).toEqual({ pf: 1 });
    over.remove();
    expect(counts(made.send('vf0', UDP4))).toEqual({ vf1: 1 });
    const again = add(made, { destinationMac: macOf(1) }, [to('pf')], { priority: 7 });
    expect(counts(made.send('vf0', UDP4))).toEqual({ pf: 1 });
    again.remove();
    expect(counts(made.send('vf0', UDP4))).toEqual({ vf1: 1 });
    expect(shadowed.count.frames).toBe(0);
    expect(over.count.frames).toBe(1);
  });

  it('does not take a mask’s best rule for the one that fits', () => {
    const made = switched();
    add(made, { destinationMac: macOf(7) }, [to('pf')], { priority: 9 });
    add(made, { destinationMac: macOf(1) }, [to('vf1')], { priority: 1 });
    add(made, { protocol: 17 }, [to('vf2')], { priority: 5 });
    expect(counts(made.send('vf0', UDP4, TCP4))).toEqual({ vf1: 1, vf2: 1 });
  });

  it('goes on in a later chain with the frame as it has become', () => {
    const made = switched();
    add(made, { port: 'vf0' }, [
      { kind: 'push-vlan', id: 9 },
      { kind: 'jump', chain: 3 },
    ]);
    add(made, { vlan: { id: 9 } }, [to('uplink0')], { chain: 3 });
    expect(made.send('vf0', plain(1))).toEqual({ uplink0: [plain(1, { vlans: [9] })] });
    // Nothing there for this one: the software gets it as it is by now.
    add(made, { port: 'vf1' }, [{ kind: 'jump', chain: 2 }]);
    expect(made.send('vf1', plain(1))).toEqual({ 'vf1-rep': [plain(1)] });
  });

  it.each<[Partial<FlowRuleSpec>, string]>([
    [{ chain: 16 }, 'limit'],
    [{ chain: 2, actions: [{ kind: 'jump', chain: 2 }] }, 'bad-action'],
    [{ actions: [{ kind: 'jump', chain: 16 }] }, 'bad-action'],
    [{ actions: [] }, 'bad-action'],
    [{ actions: [{ kind: 'drop' }, to('vf1')] }, 'bad-action'],
    [{ actions: [{ kind: 'accept' }] }, 'bad-action'],
    [{ actions: [to('vf9')] }, 'unknown'],
    [{ actions: [{ kind: 'meter', meter: 'none' }] }, 'unknown'],
    [{ actions: [{ kind: 'forward', to: ['vf1', 'vf1'] }] }, 'bad-action'],
    [{ actions: new Array(30).fill({ kind: 'push-vlan', id: 1 }) }, 'limit'],
    [{ priority: 70000 }, 'bad-setting'],
    [{ table: 'ingress', chain: 1, actions: [{ kind: 'drop' }] }, 'bad-setting'],
  ])('refuses %j', (spec, expected) => {
    const { nic } = switched();
    expect(code(() => nic.root.addRule({ match: {}, actions: [to('vf1')], ...spec }))).toBe(expected);
    expect(nic.root.rules).toEqual([]);
  });

  it('says when rules, masks of a chain, or places in the hash table are all taken, and has room again after a removal', () => {
    const made = switched({ limits: { rules: 40 } });
    const rules = Array.from({ length: 32 }, (_, i) =>
      add(made, { destinationMac: `02:00:00:00:00:00/${(i + 1).toString(16).padStart(2, '0')}:00:00:00:00:00`.replace('02', '00') }, [to('vf1')]),
    );
    expect(code(() => add(made, { protocol: 17 }, [to('vf1')]))).toBe('limit');
    rules[0]?.remove();
    for (let port = 0; port < 9; port++) add(made, { protocol: 17, destinationPort: port }, [to('vf1')]);
    expect(code(() => add(made, { protocol: 17, destinationPort: 99 }, [to('vf1')]))).toBe('limit');
    const crowded = switched();
    for (let priority = 0; priority < 8; priority++) add(crowded, { protocol: 17 }, [to('vf1')], { priority });
    expect(code(() => add(crowded, { protocol: 17 }, [to('vf1')], { priority: 9 }))).toBe('limit');
  });

  it('rules that would meet in one place of the hash table without the switch’s seed do not', () => {
    const made = switched({ limits: { rules: 64 } });
    const match = (station: number): FlowMatch => ({ sourceMac: `02:00:00:00:${(station >> 8).toString(16)}:${(station & 255).toString(16)}` });
    // What a guest could work out at home: sources whose flows are all where its neighbour's is. The first mask in use is number 0.
    const placeOf = (station: number): number => {
      const { mask, key } = matchWords(match(station), () => 0);
      return bucketOf(0, 0, mask, key, 127);
    };
    const stations = Array.from({ length: 8192 }, (_, i) => i).filter((i) => placeOf(i) === placeOf(0));
    expect(stations.length).toBeGreaterThan(9);
    for (const station of stations.slice(0, 10)) add(made, match(station), [to('vf1')]);
    expect(made.nic.root.rules.length).toBe(10);
  });
});

describe('actions', () => {
  const run = (frame: Uint8Array | Frame, ...actions: FlowAction[]): Uint8Array => {
    const made = switched();
    add(made, {}, [...actions, to('vf1')]);
    const { vf1 = [] } = made.send('vf0', frame);
    expect(vf1.length).toBe(1);
    return vf1[0] as Uint8Array;
  };

  it('drops, and counts why', () => {
    const made = switched();
    const rule = add(made, { protocol: 17 }, [{ kind: 'drop' }]);
    expect(made.send('vf0', UDP4)).toEqual({});
    expect(rule.count).toEqual({ frames: 1, bytes: UDP4.length });
    expect(made.nic.portStatistics('vf0')).toMatchObject({ frames: 1, dropped: 1, drops: { rule: 1 } });
    expect(made.port('vf0').counters.snapshot().transmitDrops).toEqual({ filtered: 1 });
  });

  it('forwards to several ports, few or many of them', () => {
    const made = switched({ functions: 200 });
    add(made, { port: 'vf0' }, [{ kind: 'forward', to: ['vf1', 'vf2'] }]);
    expect(counts(made.send('vf0', UDP4))).toEqual({ vf1: 1, vf2: 1 });
    const many = Array.from({ length: 100 }, (_, i) => `vf${2 * i}`);
    add(made, { port: 'vf1' }, [{ kind: 'forward', to: many }]);
    expect(Object.keys(made.send('vf1', UDP4)).sort()).toEqual([...many].sort());
  });

  it('mirrors the frame as it is at that point', () => {
    const made = switched();
    add(made, {}, [
      { kind: 'mirror', to: 'vf2' },
      { kind: 'push-vlan', id: 5 },
      { kind: 'mirror', to: 'pf' },
      { kind: 'push-vlan', id: 6, protocol: '802.1ad' },
      to('uplink0'),
    ]);
    const twice = (frame: Uint8Array): number[] => [...frame.slice(12, 20)];
    const arrived = made.send('vf0', plain(1));
    expect(arrived.vf2).toEqual([plain(1)]);
    expect(arrived.pf).toEqual([plain(1, { vlans: [5] })]);
    expect(twice(arrived.uplink0?.[0] as Uint8Array)).toEqual([0x88, 0xa8, 0, 6, 0x81, 0, 0, 5]);
  });

  it('pushes, changes and pops tags', () => {
    expect(run(UDP4, { kind: 'push-vlan', id: 5, priority: 3 }).slice(12, 18)).toEqual(Uint8Array.from([0x81, 0, 0x60, 5, 8, 0]));
    const tagged = run(UDP4, { kind: 'push-vlan', id: 5, priority: 3 });
    expect(run(tagged, { kind: 'set-vlan', id: 6 }).slice(12, 18)).toEqual(Uint8Array.from([0x81, 0, 0x60, 6, 8, 0]));
    expect(run(tagged, { kind: 'set-vlan', priority: 1 }).slice(12, 18)).toEqual(Uint8Array.from([0x81, 0, 0x20, 5, 8, 0]));
    expect(run(tagged, { kind: 'pop-vlan' })).toEqual(UDP4);
    expect(run(UDP4, { kind: 'pop-vlan' }, { kind: 'set-vlan', id: 3 })).toEqual(UDP4);
  });

  it('sets MAC addresses', () => {
    const frame = run(UDP4, { kind: 'set', destinationMac: '02:00:00:00:00:77', sourceMac: '02:00:00:00:00:78' });
    expect([...frame.slice(0, 12)]).toEqual([...bytesOf('02:00:00:00:00:77'), ...bytesOf('02:00:00:00:00:78')]);
    expect(frame.slice(12)).toEqual(UDP4.slice(12));
  });

  it.each([
    ['TCP over IPv4', TCP4],
    ['UDP over IPv4', UDP4],
    ['TCP over IPv6', TCP6],
    ['UDP over IPv6', UDP6],
  ])('sets addresses, ports, dscp and TTL of %s, all checksums right', (_, frame) => {
    const version = dissect(frame).version;
    const addresses = version === 4 ? { source: '192.168.7.9', destination: '1.2.3.4' } : { source: '2001:db8::7', destination: 'fe80::1:2' };
    const made = run(frame, { kind: 'set', ...addresses, sourcePort: 4000, destinationPort: 443, dscp: 46, ttl: 9 });
    expect(faults(made)).toEqual([]);
    const { network, transport } = dissect(made);
    expect([...made.slice(transport, transport + 4)]).toEqual([4000 >> 8, 4000 & 255, 443 >> 8, 443 & 255]);
    expect(made[network + (version === 4 ? 8 : 7)]).toBe(9);
    expect(version === 4 ? (made[network + 1] as number) >> 2 : (((made[network] as number) & 15) << 2) | ((made[network + 1] as number) >> 6)).toBe(46);
    if (version === 4) expect([...made.slice(network + 12, network + 20)]).toEqual([192, 168, 7, 9, 1, 2, 3, 4]);
  });

  it('leaves a UDP checksum alone that is not there, and brings one up to date that is still to be filled in', () => {
    const none = Uint8Array.from(UDP4);
    none.fill(0, 40, 42);
    expect([...run(none, { kind: 'set', source: '9.9.9.9' }).slice(40, 42)]).toEqual([0, 0]);
    const asked: Frame = {
      bytes: seedChecksum(Uint8Array.from(ethernet(0x0800, ipv4(6, tcp(body(64))), addressed))),
      flags: FRAME_NEEDS_CSUM,
      csumStart: 34,
      csumOffset: 16,
    };
    // The receiver takes no such request: it is carried out on the way, from the changed seed.
    expect(faults(run(asked, { kind: 'push-vlan', id: 4 }, { kind: 'set', source: '9.9.9.9', destinationPort: 81 }))).toEqual([]);
  });

  it('takes addresses of ICMPv6 into its checksum, and of a fragment into the packet’s', () => {
    const echo = ethernet(0x86dd, ipv6(58, [128, 0, 0, 0, 0, 1, 0, 1]), addressed);
    const sumOf = (frame: Uint8Array): number => {
      const covered = [...frame.slice(22, 54), 0, 0, 0, 8, 0, 0, 0, 58, ...frame.slice(54)];
      let sum = 0;
      for (let i = 0; i < covered.length; i += 2) sum += ((covered[i] as number) << 8) | (covered[i + 1] as number);
      while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
      return sum;
    };
    const checksum = ~sumOf(echo) & 0xffff;
    echo[56] = checksum >> 8;
    echo[57] = checksum & 255;
    expect(sumOf(run(echo, { kind: 'set', source: '2001:db8::9' }))).toBe(0xffff);
    const later = ethernet(0x0800, ipv4(17, body(64), { fragment: 9 }), addressed);
    expect(run(later, { kind: 'set', source: '9.9.9.9', destinationPort: 5 }).slice(34)).toEqual(later.slice(34));
  });

  it('decrements the TTL, and drops a frame whose time has come', () => {
    const made = run(TCP4, { kind: 'decrement-ttl' });
    expect([made[22], faults(made)]).toEqual([63, []]);
    const rig = switched();
    add(rig, {}, [{ kind: 'decrement-ttl' }, to('vf1')]);
    const last = run(UDP4, { kind: 'set', ttl: 1 });
    expect(rig.send('vf0', last)).toEqual({});
    expect(rig.nic.portStatistics('vf0').drops).toEqual({ ttl: 1 });
  });

  it('counts in counters that rules share', () => {
    const made = switched();
    made.nic.root.addCounter('web');
    add(made, { destinationPort: 80 }, [{ kind: 'count', counter: 'web' }, to('vf1')]);
    add(made, { destinationPort: 53 }, [{ kind: 'count', counter: 'web' }, { kind: 'drop' }]);
    made.send('vf0', TCP4, UDP4, TCP4);
    expect(made.nic.root.counter('web')).toEqual({ frames: 3, bytes: 2 * TCP4.length + UDP4.length });
    expect(code(() => made.nic.root.removeCounter('web'))).toBe('in-use');
    for (const rule of made.nic.root.rules) rule.remove();
    made.nic.root.removeCounter('web');
    expect(code(() => made.nic.root.counter('web'))).toBe('unknown');
  });

  it('counts a frame that was held back once', () => {
    const made = switched();
    const rule = add(made, {}, [to('vf1')]);
    made.port('vf1').room = 2;
    made.send('vf0', UDP4, UDP4, UDP4, UDP4, UDP4);
    for (let i = 0; i < 5; i++) made.run();
    expect(rule.count.frames).toBe(2);
    made.port('vf1').room = Infinity;
    made.run();
    expect(rule.count.frames).toBe(5);
    expect(made.nic.portStatistics('vf0')).toMatchObject({ frames: 5, forwarded: 5 });
  });

  it('a mirror of an egress list that lets nothing pass has the frame as it was there', () => {
    const made = rig({ mode: 'switchdev' });
    add(made, { port: 'vf1' }, [{ kind: 'mirror', to: 'pf' }, { kind: 'drop' }], { table: 'egress' });
    add(made, { port: 'vf0' }, [to('vf1'), { kind: 'push-vlan', id: 9 }, to('uplink0')]);
    expect(made.send('vf0', plain(1))).toEqual({ pf: [plain(1)], uplink0: [plain(1, { vlans: [9] })] });
  });
});

describe('meters (RFC 2697)', () => {
  const frames = (n: number): Uint8Array[] => new Array<Uint8Array>(n).fill(UDP4);

  it('passes what the rate and the burst allow, and drops the rest', () => {
    const made = switched();
    // 8 Mbit/s is a byte a microsecond.
    made.nic.root.addMeter('m', { rate: 8e6, burst: 10 * UDP4.length });
    add(made, {}, [{ kind: 'meter', meter: 'm' }, to('vf1')]);
    expect(counts(made.send('vf0', ...frames(15)))).toEqual({ vf1: 10 });
    expect(made.nic.portStatistics('vf0').drops).toEqual({ meter: 5 });
    made.clock.advance(3 * UDP4.length * 1000);
    expect(counts(made.send('vf0', ...frames(15)))).toEqual({ vf1: 3 });
    expect(made.nic.root.meter('m')).toEqual({ green: 13, yellow: 0, red: 17 });
  });

  it('has two buckets and says what each colour comes to', () => {
    const made = switched();
    made.nic.root.addMeter('m', { rate: 1000, burst: 2, excessBurst: 3, unit: 'frames', exceed: { dscp: 10 }, violate: 'drop' });
    add(made, {}, [{ kind: 'meter', meter: 'm' }, to('vf1')]);
    const { vf1 = [] } = made.send('vf0', ...frames(7));
    expect(vf1.map((frame) => (frame[15] as number) >> 2)).toEqual([0, 0, 10, 10, 10]);
    for (const frame of vf1) expect(faults(frame)).toEqual([]);
    expect(made.nic.root.meter('m')).toEqual({ green: 2, yellow: 3, red: 2 });
    // What the committed bucket has no room for fills the other one: 5 ms are five frames.
    made.clock.advance(5e6);
    expect(made.send('vf0', ...frames(7)).vf1?.length).toBe(5);
  });

  it('does not charge for a frame that is held back', () => {
    const made = switched();
    made.nic.root.addMeter('m', { rate: 1, burst: 3, unit: 'frames' });
    add(made, {}, [{ kind: 'meter', meter: 'm' }, to('vf1')]);
    made.port('vf1').room = 1;
    made.send('vf0', ...frames(3));
    for (let i = 0; i < 10; i++) made.run();
    made.port('vf1').room = Infinity;
    made.run();
    expect(made.port('vf1').inbox.length).toBe(3);
    expect(made.nic.root.meter('m')).toEqual({ green: 3, yellow: 0, red: 0 });
  });

  it('polices in access lists, one meter for several rules', () => {
    const made = switched();
    made.nic.root.addMeter('m', { rate: 1, burst: 4, unit: 'frames' });
    for (const port of ['vf0', 'vf2']) made.nic.root.addRule({ table: 'ingress', match: { port }, actions: [{ kind: 'meter', meter: 'm' }] });
    add(made, {}, [to('vf1')]);
    expect([counts(made.send('vf0', ...frames(3))), counts(made.send('vf2', ...frames(3)))]).toEqual([{ vf1: 3 }, { vf1: 1 }]);
  });

  it('marks for one port what goes to another unmarked', () => {
    const made = switched();
    made.nic.root.addMeter('m', { rate: 1, burst: 1, unit: 'frames', violate: { dscp: 8 } });
    made.nic.root.addRule({ table: 'egress', match: { port: 'vf1' }, actions: [{ kind: 'meter', meter: 'm' }] });
    add(made, {}, [{ kind: 'forward', to: ['vf1', 'vf2'] }]);
    const { vf1 = [], vf2 = [] } = made.send('vf0', UDP4, UDP4);
    expect(vf2).toEqual([UDP4, UDP4]);
    expect(vf1.map((frame) => (frame[15] as number) >> 2)).toEqual([0, 8]);
  });
});

describe('tunnels', () => {
  const endpoint = {
    kind: 'vxlan',
    vni: 258,
    source: '192.0.2.1',
    destination: '192.0.2.2',
    sourceMac: '02:00:00:00:00:a1',
    destinationMac: '02:00:00:00:00:a2',
  } as const;
  const endpoint6 = { ...endpoint, kind: 'geneve', source: '2001:db8::1', destination: '2001:db8::2' } as const;

  function tunnelled(settings: Parameters<Rig['nic']['root']['addTunnel']>[1]): Rig {
    const made = switched();
    made.nic.root.addTunnel('t', settings);
    add(made, { port: 'vf0' }, [{ kind: 'encapsulate', tunnel: 't' }, to('uplink0')]);
    add(made, { port: 'uplink0', tunnel: { kind: settings.kind, vni: 258 } }, [{ kind: 'decapsulate' }, { kind: 'jump', chain: 1 }]);
    add(made, { tunnel: { kind: settings.kind, vni: 258, source: settings.source }, destinationMac: macOf(1) }, [to('vf1')], { chain: 1 });
    return made;
  }

  it.each([
    ['VXLAN over IPv4', endpoint, 50],
    ['VXLAN over IPv4 with checksums', { ...endpoint, checksum: true }, 50],
    ['VXLAN over IPv4 in a VLAN', { ...endpoint, vlan: 7 }, 54],
    ['Geneve over IPv6', endpoint6, 70],
  ])('%s: outer headers, lengths and checksums, and back', (_, settings, overhead) => {
    for (const frame of [TCP4, UDP6, plain(1, { to: macOf(1) })]) {
      const made = tunnelled(settings);
      const outer = made.send('vf0', frame).uplink0?.[0] as Uint8Array;
      expect(outer.length).toBe(frame.length + overhead);
      const zero = dissect(outer).transport + 6;
      const unchecked = outer[zero] === 0 && outer[zero + 1] === 0;
      expect(unchecked).toBe(settings.source.includes('.') && !('checksum' in settings));
      expect(faults(outer)).toEqual(unchecked ? ['transport checksum'] : []);
      expect(outer.slice(overhead)).toEqual(frame);
      expect(made.send('uplink0', outer)).toEqual({ vf1: [frame] });
    }
  });

  it('lets no checksum request reach what a rule matched or what is put around the frame', () => {
    const made = switched();
    add(made, { port: 'vf0', tunnel: { kind: 'vxlan', vni: 258 } }, [to('vf1')]);
    const datagram = udp([8, 0, 0, 0, 0, 1, 2, 0, ...plain(5)]);
    datagram.splice(2, 2, 0x12, 0xb5);
    const bytes = ethernet(0x0800, ipv4(17, datagram), addressed);
    const ask = (csumStart: number, csumOffset: number) => made.send('vf0', { bytes, flags: FRAME_NEEDS_CSUM, csumStart, csumOffset });
    // The outer datagram starts at 34: its VXLAN header at 42, the inner frame at 50.
    for (const [start, offset] of [
      [42, 4],
      [42, 5],
      [50, 0],
      [50, 6],
    ] as const)
      expect(ask(start, offset)).toEqual({});
    expect(made.nic.portStatistics('vf0').drops).toEqual({ malformed: 4 });
    expect(Object.keys(ask(34, 6))).toEqual(['vf1']);
    // As long as a packet may be: a request far into it would wrap around into the outer addresses.
    const around = tunnelled(endpoint);
    const long = new Uint8Array(65_499);
    long.set(plain(1, { to: macOf(1) }));
    expect(around.send('vf0', { bytes: long, flags: FRAME_NEEDS_CSUM, csumStart: 65490, csumOffset: 0 })).toEqual({});
    expect(around.nic.portStatistics('vf0').drops).toEqual({ 'not-applicable': 1 });
  });

  it('puts flows into different source ports, one flow always into the same', () => {
    const made = tunnelled(endpoint);
    const ports = (made.send('vf0', TCP4, UDP4, TCP4, TCP6).uplink0 ?? []).map((frame) => ((frame[34] as number) << 8) | (frame[35] as number));
    expect(ports[0]).toBe(ports[2]);
    expect(new Set(ports).size).toBe(3);
    for (const port of ports) expect(port).toBeGreaterThanOrEqual(0xc000);
  });

  const large = (length: number, type: number): Frame => {
    const bytes = seedChecksum(ethernet(0x0800, type === GSO_TCPV4 ? ipv4(6, tcp(body(length))) : ipv4(17, udp(body(length))), addressed));
    return { bytes, flags: FRAME_NEEDS_CSUM, gsoType: type, gsoSize: type === GSO_TCPV4 ? 1000 : 1400, csumStart: 34, csumOffset: type === GSO_TCPV4 ? 16 : 6 };
  };

  it('makes a tunnel GSO frame of a GSO frame, for a receiver that takes such', () => {
    const made = tunnelled({ ...endpoint, checksum: true });
    made.port('uplink0').accepts = ACCEPTS_EVERYTHING;
    const frame = large(3500, GSO_TCPV4);
    made.send('vf0', frame);
    const [got] = made.port('uplink0').inbox;
    expect(got).toMatchObject({
      gsoType: GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4,
      gsoSize: 1000,
      flags: FRAME_NEEDS_CSUM | FRAME_UDP_TUNNEL_CSUM,
      outerTransport: 34,
      innerNetwork: 64,
      csumStart: 84,
      csumOffset: 16,
      headerLength: 104,
    });
    expect(got?.bytes.slice(50)).toEqual(frame.bytes);
    // And back to what it was.
    made.port('vf1').accepts = ACCEPTS_EVERYTHING;
    made.send('uplink0', got as Frame);
    expect(made.port('vf1').inbox[0]).toMatchObject({
      gsoType: GSO_TCPV4,
      flags: FRAME_NEEDS_CSUM,
      csumStart: 34,
      outerTransport: 0,
      innerNetwork: 0,
      bytes: frame.bytes,
    });
  });

  it('cuts it for a receiver that does not: every piece whole, inside and outside', () => {
    const made = tunnelled({ ...endpoint, checksum: true });
    const { uplink0 = [] } = made.send('vf0', large(3500, GSO_TCPV4));
    expect(uplink0.map((frame) => frame.length)).toEqual([1104, 1104, 1104, 604]);
    for (const frame of uplink0) expect([faults(frame), faults(frame.slice(50))]).toEqual([[], []]);
    expect(made.send('uplink0', ...uplink0).vf1?.length).toBe(4);
  });

  it('cuts first what no tunnel GSO type is for: a datagram to be fragmented, a frame longer than a packet', () => {
    const made = tunnelled(endpoint);
    const { uplink0 = [] } = made.send('vf0', large(4000, GSO_UDP));
    expect(uplink0.length).toBe(3);
    for (const frame of uplink0) expect(((frame[16] as number) << 8) | (frame[17] as number)).toBe(frame.length - 14);
    const { uplink0: pieces = [] } = made.send('vf0', large(65_480, GSO_TCPV4));
    expect(pieces.length).toBe(66);
    for (const frame of pieces) expect(faults(frame.slice(50))).toEqual([]);
    // A frame that was cut counts as what it became.
    expect(made.nic.portStatistics('vf0')).toMatchObject({ frames: 69, forwarded: 69, dropped: 0 });
  });

  it('fills in, or has filled in, an inner checksum under an outer one', () => {
    const bytes = seedChecksum(ethernet(0x0800, ipv4(6, tcp(body(333))), addressed));
    const frame: Frame = { bytes, flags: FRAME_NEEDS_CSUM, csumStart: 34, csumOffset: 16, pieces: [100, 33] };
    const made = tunnelled({ ...endpoint, checksum: true });
    const [filled] = made.send('vf0', frame).uplink0 as [Uint8Array];
    expect([faults(filled), faults(filled.slice(50))]).toEqual([[], []]);
    made.port('uplink0').accepts = ACCEPTS_CSUM;
    made.send('vf0', frame);
    expect(made.port('uplink0').inbox[0]).toMatchObject({ flags: FRAME_NEEDS_CSUM, csumStart: 84, csumOffset: 16 });
  });

  it('does not take off what is not there, nor open what it does not understand', () => {
    const made = switched();
    add(made, {}, [{ kind: 'decapsulate' }, to('vf1')]);
    const geneve = (flags: number): Uint8Array => {
      const datagram = udp([0, flags, 0x65, 0x58, 0, 1, 2, 0, ...plain(5)]);
      datagram.splice(2, 2, 6081 >> 8, 6081 & 255);
      return ethernet(0x0800, ipv4(17, datagram), addressed);
    };
    expect(made.send('vf0', UDP4, geneve(0x40), geneve(0))).toEqual({ vf1: [plain(5)] });
    expect(made.nic.portStatistics('vf0').drops).toEqual({ 'not-applicable': 2 });
  });

  it('refuses an endpoint of two IP versions, and to forget one that a rule uses', () => {
    const made = tunnelled(endpoint);
    expect(code(() => made.nic.root.addTunnel('u', { ...endpoint, destination: 'fd00::1' }))).toBe('bad-setting');
    expect(code(() => made.nic.root.removeTunnel('t'))).toBe('in-use');
  });
});

describe('flow counters and ageing', () => {
  it('removes a rule that nothing has met for its idle time, and keeps its count', () => {
    const made = switched();
    const rule = add(made, { port: 'vf0' }, [to('vf1')], { idleTimeout: 10e9 });
    const lasting = add(made, { port: 'vf2' }, [to('vf1')]);
    for (let i = 0; i < 5; i++) {
      made.clock.advance(6e9);
      made.send('vf0', UDP4);
      expect(made.nic.age()).toEqual([]);
    }
    made.clock.advance(9e9);
    expect(made.nic.age()).toEqual([]);
    made.clock.advance(1e9);
    expect(made.nic.age()).toEqual([rule]);
    expect(rule.count).toEqual({ frames: 5, bytes: 5 * UDP4.length });
    expect(counts(made.send('vf0', UDP4))).toEqual({ 'vf0-rep': 1 });
    expect(made.nic.root.rules).toEqual([lasting]);
    expect(code(() => rule.remove())).toBe('unknown');
  });
});

describe('control domains', () => {
  it('a domain’s rules are about its ports and send to its ports', () => {
    const made = switched();
    const tenant = made.nic.domain('tenant', ['vf0', 'vf1']);
    tenant.addRule({ match: { port: 'vf0' }, actions: [to('vf1')] });
    expect(counts(made.send('vf0', UDP4))).toEqual({ vf1: 1 });
    expect(counts(made.send('vf2', UDP4))).toEqual({ 'vf2-rep': 1 });
    tenant.addRule({ match: { port: 'vf1' }, actions: [to('vf0-rep')] });
    expect(counts(made.send('vf1', UDP4))).toEqual({ 'vf0-rep': 1 });
    expect(code(() => tenant.addRule({ match: { port: 'vf2' }, actions: [to('vf1')] }))).toBe('not-owner');
    expect(code(() => tenant.addRule({ match: {}, actions: [to('vf1')] }))).toBe('not-owner');
    expect(code(() => tenant.addRule({ match: { port: 'vf0' }, actions: [to('uplink0')] }))).toBe('not-owner');
    expect(code(() => tenant.addRule({ match: { port: 'vf0' }, actions: [{ kind: 'mirror', to: 'vf2' }] }))).toBe('not-owner');
  });

  it('has meters, counters and rules of its own', () => {
    const made = switched();
    const [one, two] = [made.nic.domain('one', ['vf0']), made.nic.domain('two', ['vf1'])];
    one.addMeter('m', { rate: 1, burst: 1 });
    expect(code(() => two.meter('m'))).toBe('not-owner');
    expect(code(() => two.addRule({ match: { port: 'vf1' }, actions: [{ kind: 'meter', meter: 'm' }, { kind: 'miss' }] }))).toBe('not-owner');
    expect(code(() => two.addMeter('m', { rate: 1, burst: 1 }))).toBe('in-use');
    const rule = one.addRule({ match: { port: 'vf0' }, actions: [{ kind: 'drop' }] });
    expect(code(() => two.removeRule(rule))).toBe('unknown');
    expect([one.rules, two.rules]).toEqual([[rule], []]);
  });

  it('the root’s rules come first where their priority says so', () => {
    const made = switched();
    made.nic.domain('tenant', ['vf0', 'vf1']).addRule({ match: { port: 'vf0' }, actions: [to('vf1')], priority: 10 });
    add(made, { protocol: 17 }, [{ kind: 'drop' }], { priority: 11 });
    expect(counts(made.send('vf0', UDP4, TCP4))).toEqual({ vf1: 1 });
  });
});

describe('link groups', () => {
  it('spreads flows by addresses and ports, and is one port to rules', () => {
    const made = switched({ uplinks: 2, lag: { mode: 'hash' } });
    add(made, { port: 'vf0' }, [to('uplink0')]);
    add(made, { port: 'uplink0' }, [to('vf1')]);
    const flows = Array.from({ length: 64 }, (_, i) => {
      const frame = Uint8Array.from(UDP4);
      frame[35] = i;
      return frame;
    });
    const arrived = made.send('vf0', ...flows);
    expect((arrived.uplink0?.length ?? 0) + (arrived.uplink1?.length ?? 0)).toBe(64);
    expect(Math.min(arrived.uplink0?.length ?? 0, arrived.uplink1?.length ?? 0)).toBeGreaterThan(10);
    expect(counts(made.send('uplink1', UDP4))).toEqual({ vf1: 1 });
  });
});

describe('modes', () => {
  it('changes between legacy and switchdev, not with forwarding rules in force', () => {
    const made = switched();
    made.nic.configurePort('vf1', { mac: macOf(1) });
    const rule = add(made, {}, [to('vf2')]);
    expect(counts(made.send('vf0', UDP4))).toEqual({ vf2: 1 });
    expect(() => {
      made.nic.mode = 'legacy';
    }).toThrow(EmbeddedSwitchError);
    rule.remove();
    made.nic.mode = 'legacy';
    expect(counts(made.send('vf0', UDP4))).toEqual({ vf1: 1 });
    made.nic.mode = 'switchdev';
    expect(counts(made.send('vf0', UDP4))).toEqual({ 'vf0-rep': 1 });
  });

  it('knows a port again that left and came back, and of two of one name the later', () => {
    const made = switched();
    add(made, { port: 'vf0' }, [to('vf1')]);
    const old = made.port('vf1');
    const member = made.segment.ports.find(({ port }) => port === old) as { index: number };
    const next = new MemoryPort('vf1');
    made.segment.addPort(next);
    made.send('vf0', UDP4);
    expect([old.inbox.length, next.inbox.length]).toEqual([0, 1]);
    made.segment.removePort(member.index);
    made.send('vf0', UDP4);
    expect(next.inbox.length).toBe(2);
    made.segment.removePort((made.segment.ports.find(({ port }) => port === next) as { index: number }).index);
    made.send('vf0', UDP4);
    expect(made.nic.portStatistics('vf0').drops).toEqual({ 'no-port': 1 });
  });
});
