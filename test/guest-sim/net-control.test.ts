// RSS, hash reports, interrupt moderation, statistics and suspension as the driver does them, against a model written for these tests.

import { describe, expect, it } from 'vitest';
import { DRIVER_FEATURES, featureMask, OPTIONAL_FEATURES } from '#guest-sim/features';
import { FlowHash } from '#guest-sim/flow-hash';
import { Guest } from '#guest-sim/guest';
import { AdaptiveModeration } from '#guest-sim/net-moderation';
import type { VirtioNetOptions } from '#guest-sim/net-options';
import type { ReceivedFrame } from '#guest-sim/net-receive';
import { RX_STATISTICS, STATISTICS, TX_STATISTICS } from '#guest-sim/net-stats';
import { DEFAULT_RSS_KEY, Toeplitz } from '#guest-sim/toeplitz';
import { NET_HASH_TYPE, VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { type ModelOptions, VirtioModel } from './virtio-model.ts';

const F = VIRTIO_NET_F;
const ALL = featureMask([...DRIVER_FEATURES, ...OPTIONAL_FEATURES].filter((bit) => bit !== VIRTIO_F.ADMIN_VQ));

function bringUp(net: VirtioNetOptions = {}, model: Partial<ModelOptions> = {}): { device: VirtioModel; guest: Guest } {
  const device = new VirtioModel({ features: ALL, pairs: net.pairs ?? 1, ...model });
  return { device, guest: new Guest(device, { net }) };
}

function settle(guest: Guest, steps = 20): void {
  for (let i = 0; i < steps; i++) guest.step();
}

/** Toeplitz as it is defined, a bit at a time. */
function bitwise(key: Uint8Array, input: readonly number[]): number {
  let hash = 0;
  for (let i = 0; i < 8 * input.length; i++) {
    if ((((input[i >> 3] as number) >> (7 - (i & 7))) & 1) === 0) continue;
    for (let b = 0; b < 32; b++) if ((((key[(i + b) >> 3] ?? 0) >> (7 - ((i + b) & 7))) & 1) === 1) hash ^= 1 << (31 - b);
  }
  return hash >>> 0;
}

describe('Toeplitz', () => {
  const KEY = Uint8Array.from(Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex'));
  it.each([
    // Microsoft, "Verifying the RSS hash calculation": source, destination, ports.
    [[66, 9, 149, 187, 161, 142, 100, 80], [2794, 1766], 0x323e8fc2, 0x51ccc178],
    [[199, 92, 111, 2, 65, 69, 140, 83], [14230, 4739], 0xd718262a, 0xc626b0ea],
    [[24, 19, 198, 95, 12, 22, 207, 184], [12898, 38024], 0xd2d0a5de, 0x5c2b394a],
    [[38, 27, 205, 30, 209, 142, 163, 6], [48228, 2217], 0x82989176, 0xafc7327f],
    [[153, 39, 163, 191, 202, 188, 127, 2], [44251, 1303], 0x5d1809c5, 0x10e828a2],
  ] as const)('agrees with the published vector of %j', (addresses, ports, l3, l4) => {
    const bytes = Uint8Array.from([...addresses, ...ports.flatMap((p) => [p >> 8, p & 0xff])]);
    const t = new Toeplitz(KEY);
    expect(t.add(0, 0, bytes, 0, 8) >>> 0).toBe(l3);
    expect(t.add(t.add(0, 0, bytes, 0, 8), 8, bytes, 8, 4) >>> 0).toBe(l4);
    expect(bitwise(KEY, [...bytes])).toBe(l4);
  });
});

/** Ethernet over whatever `payload` is. */
const ethernet = (type: number, payload: readonly number[], tags: readonly number[] = []): number[] => [
  ...[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
  ...tags,
  type >> 8,
  type & 0xff,
  ...payload,
];
const ipv4 = (protocol: number, payload: readonly number[], fragment = 0): number[] => {
  const total = 20 + payload.length;
  return [0x45, 0, total >> 8, total & 0xff, 0, 0, fragment >> 8, fragment & 0xff, 64, protocol, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6, ...payload];
};
const V6_SOURCE = Array.from({ length: 16 }, (_, i) => 0x20 + i);
const V6_DESTINATION = Array.from({ length: 16 }, (_, i) => 0x80 + i);
const ipv6 = (next: number, payload: readonly number[]): number[] => [
  0x60,
  0,
  0,
  0,
  payload.length >> 8,
  payload.length & 0xff,
  next,
  64,
  ...V6_SOURCE,
  ...V6_DESTINATION,
  ...payload,
];
const PORTS = [0x12, 0x34, 0x56, 0x78];
const TCP = [...PORTS, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0];
const UDP = [...PORTS, 0, 8, 0, 0];
const V4 = [10, 1, 2, 3, 10, 4, 5, 6];
const V6 = [...V6_SOURCE, ...V6_DESTINATION];
const HOME = Array.from({ length: 16 }, (_, i) => 0xd0 + i);

describe('the hash of a frame', () => {
  const cases: [string, number, number[], number, number[] | undefined][] = [
    ['TCP over IPv4', ~0, ethernet(0x800, ipv4(6, TCP)), 2, [...V4, ...PORTS]],
    ['UDP over IPv4', ~0, ethernet(0x800, ipv4(17, UDP)), 3, [...V4, ...PORTS]],
    ['TCP over IPv4 with TCPv4 off', ~NET_HASH_TYPE.TCPv4, ethernet(0x800, ipv4(6, TCP)), 1, V4],
    ['a fragment', ~0, ethernet(0x800, ipv4(6, TCP, 0x2000)), 1, V4],
    ['a later fragment', ~0, ethernet(0x800, ipv4(17, UDP, 7)), 1, V4],
    ['ICMP', ~0, ethernet(0x800, ipv4(1, [8, 0, 0, 0, 0, 0, 0, 0])), 1, V4],
    ['ICMP with IPv4 off', ~NET_HASH_TYPE.IPv4, ethernet(0x800, ipv4(1, [8, 0, 0, 0, 0, 0, 0, 0])), 0, undefined],
    ['ARP', ~0, ethernet(0x806, Array(46).fill(0)), 0, undefined],
    ['one VLAN tag', ~0, ethernet(0x800, ipv4(6, TCP), [0x81, 0, 0, 5]), 2, [...V4, ...PORTS]],
    ['two VLAN tags', ~0, ethernet(0x800, ipv4(6, TCP), [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]), 2, [...V4, ...PORTS]],
    ['a cut IPv4 packet', ~0, ethernet(0x800, ipv4(6, TCP)).slice(0, 50), 0, undefined],
    ['TCP over IPv6', ~0, ethernet(0x86dd, ipv6(6, TCP)), 5, [...V6, ...PORTS]],
    ['UDP over IPv6', ~0, ethernet(0x86dd, ipv6(17, UDP)), 6, [...V6, ...PORTS]],
    ['another protocol over IPv6', ~0, ethernet(0x86dd, ipv6(59, [])), 4, V6],
    ['TCP behind hop-by-hop options', ~0, ethernet(0x86dd, ipv6(0, [6, 0, 1, 4, 0, 0, 0, 0, ...TCP])), 8, [...V6, ...PORTS]],
    ['the same without the EX types', 0x3f, ethernet(0x86dd, ipv6(0, [6, 0, 1, 4, 0, 0, 0, 0, ...TCP])), 5, [...V6, ...PORTS]],
    [
      'UDP behind a home address option',
      ~0,
      ethernet(0x86dd, ipv6(60, [17, 2, 1, 2, 0, 0, 201, 16, ...HOME, ...UDP])),
      9,
      [...HOME, ...V6_DESTINATION, ...PORTS],
    ],
    ['the same without the EX types', 0x3f, ethernet(0x86dd, ipv6(60, [17, 2, 1, 2, 0, 0, 201, 16, ...HOME, ...UDP])), 6, [...V6, ...PORTS]],
    ['a routing header of type 2', ~0, ethernet(0x86dd, ipv6(43, [6, 2, 2, 1, 0, 0, 0, 0, ...HOME, ...TCP])), 8, [...V6_SOURCE, ...HOME, ...PORTS]],
    ['a routing header of type 0', ~0, ethernet(0x86dd, ipv6(43, [6, 2, 0, 1, 0, 0, 0, 0, ...HOME, ...TCP])), 8, [...V6, ...PORTS]],
    ['an IPv6 fragment', ~0, ethernet(0x86dd, ipv6(44, [6, 0, 0, 1, 0, 0, 0, 9, ...TCP])), 7, V6],
  ];
  it.each(cases)('covers the right fields of %s', (_name, hashTypes, frame, report, input) => {
    const hash = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes });
    // At an odd place among other bytes: nothing outside the frame may matter.
    const u8 = new Uint8Array(frame.length + 21).fill(0xa5);
    u8.set(frame, 13);
    expect(hash.compute(u8, 13, frame.length)).toBe(input !== undefined);
    expect([hash.report, hash.value]).toEqual([report, input ? bitwise(DEFAULT_RSS_KEY, input) : 0]);
  });

  const inner = ethernet(0x86dd, ipv6(6, TCP));
  const udp = (port: number, payload: readonly number[]): number[] => ipv4(17, [0xc0, 0, port >> 8, port & 0xff, 0, 8 + payload.length, 0, 0, ...payload]);
  const tunnels: [string, number, number[]][] = [
    ['GRE_2784', 0, ethernet(0x800, ipv4(47, [0, 0, 0x86, 0xdd, ...inner.slice(14)]))],
    ['GRE_2784 with a checksum', 0, ethernet(0x800, ipv4(47, [0x80, 0, 0x86, 0xdd, 1, 2, 0, 0, ...inner.slice(14)]))],
    ['GRE_2890', 1, ethernet(0x800, ipv4(47, [0x30, 0, 0x86, 0xdd, 1, 2, 3, 4, 5, 6, 7, 8, ...inner.slice(14)]))],
    ['GRE_7676', 2, ethernet(0x86dd, ipv6(47, [0, 0, 0x86, 0xdd, ...inner.slice(14)]))],
    ['GRE_UDP', 3, ethernet(0x800, udp(4754, [0, 0, 0x86, 0xdd, ...inner.slice(14)]))],
    ['VXLAN', 4, ethernet(0x800, udp(4789, [8, 0, 0, 0, 0, 0, 9, 0, ...inner]))],
    ['VXLAN_GPE', 5, ethernet(0x800, udp(4790, [0x0c, 0, 0, 2, 0, 0, 9, 0, ...inner.slice(14)]))],
    ['GENEVE with options', 6, ethernet(0x800, udp(6081, [2, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, ...inner]))],
    ['NVGRE', 8, ethernet(0x800, ipv4(47, [0x20, 0, 0x65, 0x58, 0, 1, 2, 3, ...inner]))],
  ];
  it.each(tunnels)('takes the inner header of %s when that is enabled, the outer one when not', (_name, bit, frame) => {
    const u8 = Uint8Array.from(frame);
    const on = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes: ~0, tunnels: 1 << bit });
    expect([on.compute(u8, 0, u8.length), on.report, on.value]).toEqual([true, 5, bitwise(DEFAULT_RSS_KEY, [...V6, ...PORTS])]);
    const off = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes: ~0, tunnels: 0 });
    off.compute(u8, 0, u8.length);
    expect(off.value).not.toBe(on.value);
  });

  it('takes the inner header of IPv4 in IPv4, and none at all when the inner one is no IP packet', () => {
    const ipip = Uint8Array.from(ethernet(0x800, ipv4(4, ipv4(6, TCP))));
    const hash = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes: ~0, tunnels: 128 + 16 });
    hash.compute(ipip, 0, ipip.length);
    expect([hash.report, hash.value]).toEqual([2, bitwise(DEFAULT_RSS_KEY, [...V4, ...PORTS])]);
    const arp = Uint8Array.from(ethernet(0x800, udp(4789, [8, 0, 0, 0, 0, 0, 9, 0, ...ethernet(0x806, Array(46).fill(0))])));
    expect([hash.compute(arp, 0, arp.length), hash.report]).toEqual([false, 0]);
  });
});

describe.each(['split', 'packed'] as const)('the control queue over %s rings', (ring) => {
  it('configures RSS when it comes up: queues in turn, every hash type that is known and supported, and no queue pairs besides', () => {
    const { device, guest } = bringUp({ ring, pairs: 4, rss: {} });
    const [command] = device.commands;
    expect(device.commands).toHaveLength(1);
    expect(command?.slice(0, 10)).toEqual([4, 1, 0xff, 1, 0, 0, 127, 0, 0, 0]);
    expect(command?.slice(10, 20)).toEqual([0, 0, 1, 0, 2, 0, 3, 0, 0, 0]);
    expect(command?.slice(10 + 256)).toEqual([4, 0, 40, ...DEFAULT_RSS_KEY]);
    expect(guest.net.steering.receiveQueue(6, 2)).toBe(2);
    const changed = guest.net.steering.configureRss({
      table: [3, 1],
      hashTypes: NET_HASH_TYPE.IPv4,
      unclassified: 2,
      key: Uint8Array.of(9, 9),
      maxTransmitQueues: 1,
    });
    expect(changed).toBe(true);
    expect(device.commands[1]).toEqual([4, 1, 1, 0, 0, 0, 1, 0, 2, 0, 3, 0, 1, 0, 1, 0, 2, 9, 9]);
    expect([0, 1, 2, 3].map((hash) => guest.net.steering.receiveQueue(hash, 1))).toEqual([3, 1, 3, 1]);
    expect(guest.net.steering.receiveQueue(1, 0)).toBe(2);
  });

  it('refuses tables and keys that no device of this kind could take', () => {
    const { guest } = bringUp({ ring, pairs: 2, rss: {} });
    for (const bad of [
      { table: [0, 1, 0] },
      { table: [] },
      { table: [2, 0] },
      { table: Array(1024).fill(0) },
      { unclassified: 5 },
      { key: new Uint8Array(41) },
    ])
      expect(() => guest.net.steering.configureRss(bad)).toThrow(RangeError);
    expect(guest.net.steering.rss?.table).toHaveLength(128);
  });

  it('gives up a device that offers RSS with limits the specification forbids', () => {
    const device = new VirtioModel({ features: ALL });
    device.config.setUint8(17, 16);
    expect(() => new Guest(device, { net: { ring, rss: {} } })).toThrow('RSS keys of 16 bytes');
  });

  it('finds the control queue behind the pairs RSS brings, without MQ', () => {
    const { device, guest } = bringUp({ ring, pairs: 2, rss: {}, without: [F.MQ] });
    expect(guest.net.has(F.MQ)).toBe(false);
    expect(device.queues.map((q) => q.enabled)).toEqual([1, 1, 1, 1, 1]);
    expect(device.commands[0]?.slice(0, 2)).toEqual([4, 1]);
  });

  it('hands hash and kind of each frame to the workload, behind a header of 20 bytes', () => {
    const { device, guest } = bringUp({ ring, hashReport: { hashTypes: 7, tunnels: 16 }, without: [F.RSS] });
    expect(device.commands).toEqual([
      [4, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, ...DEFAULT_RSS_KEY],
      [7, 0, 16, 0, 0, 0],
    ]);
    const seen: number[][] = [];
    const sink = { receive: (f: ReceivedFrame): void => void seen.push([f.hashValue, f.hashReport, f.length, f.byte(0)]) };
    const header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x78, 0x56, 0x34, 0xf2];
    for (const report of [2, 0, 9, 10]) device.deliver(0, [...header, report, 0, 0, 0, ...Array(60).fill(0x5a)]);
    for (let v = guest.bus.vectors.take(); v >= 0; v = guest.bus.vectors.take()) guest.vectors.handlers[v]?.();
    guest.net.poll(sink);
    expect(seen).toEqual([
      [0xf2345678, 2, 60, 0x5a],
      [0, 0, 60, 0x5a],
      [0xf2345678, 9, 60, 0x5a],
      [0, 0, 60, 0x5a],
    ]);
    // The header goes out as long as it comes in.
    const before = guest.net.receive[0]?.frames as number;
    const work = guest.start({ kind: 'generate', count: 100, sizes: [60, 1514] });
    settle(guest, 40);
    expect([work.done, (guest.net.receive[0]?.frames as number) - before]).toEqual([true, 100]);
  });

  it('adds, changes and deletes RSS contexts within what the device has, and sends no queue pairs meanwhile', () => {
    const { device, guest } = bringUp({ ring, pairs: 2, rss: {}, with: [F.RSS_CONTEXT] });
    device.answers.set('9.0', (_data, room) => (room >= 2 ? [3, 0] : undefined));
    const control = guest.net.control as NonNullable<typeof guest.net.control>;
    const config = { hashTypes: 1, table: [1], unclassified: 0, maxTransmitQueues: 2, key: Uint8Array.of(7) };
    expect(control.mostRssContexts).toBe(3);
    expect([0, 4].map((id) => control.setRssContext(id, config))).toEqual([false, false]);
    expect([control.setRssContext(3, config), control.setRssContext(3, config)]).toEqual([true, true]);
    expect(control.setQueuePairs(1)).toBe(false);
    expect([control.deleteRssContext(2), control.deleteRssContext(3), control.setQueuePairs(1)]).toEqual([false, true, true]);
    const body = [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 7];
    expect(device.commands.slice(1)).toEqual([
      [9, 0],
      [9, 1, ...body],
      [9, 2, ...body],
      [9, 3, 3, 0],
      [4, 0, 1, 0],
    ]);
  });

  it('sets and reads back notification coalescing, and believes nothing of a refused read', () => {
    const { device, guest } = bringUp({ ring });
    const control = guest.net.control as NonNullable<typeof guest.net.control>;
    expect(control.setCoalescing('receive', { maxPackets: 258, maxUsecs: 70000 })).toBe(true);
    expect(control.setCoalescing('transmit', { maxPackets: 1, maxUsecs: 2 })).toBe(true);
    expect(control.setQueueCoalescing(1, { maxPackets: 3, maxUsecs: 4 })).toBe(true);
    device.answers.set('6.3', (data) => (data[0] === 1 ? [3, 0, 0, 0, 4, 0, 0, 0] : undefined));
    expect(control.queueCoalescing(1)).toEqual({ maxPackets: 3, maxUsecs: 4 });
    expect(control.queueCoalescing(2)).toBeUndefined();
    device.answers.set('6.3', () => [3, 0, 0]);
    expect(control.queueCoalescing(1)).toBeUndefined();
    expect(device.commands.slice(0, 3)).toEqual([
      [6, 1, 2, 1, 0, 0, 0x70, 0x11, 1, 0],
      [6, 0, 1, 0, 0, 0, 2, 0, 0, 0],
      [6, 2, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0],
    ]);
    const bare = bringUp({ ring, without: [F.NOTF_COAL, F.VQ_NOTF_COAL, F.DEVICE_STATS] }).guest.net.control;
    expect([bare?.setCoalescing('receive', { maxPackets: 1, maxUsecs: 1 }), bare?.queueCoalescing(0), bare?.statistics([])]).toEqual([
      false,
      undefined,
      undefined,
    ]);
  });

  it('asks for the statistics the device has, and walks the replies by their own sizes', () => {
    const { device, guest } = bringUp({ ring });
    const control = guest.net.control as NonNullable<typeof guest.net.control>;
    device.answers.set('8.0', () => [0b0111, 0, 0b0001, 0, 1, 0, 0, 0]);
    const reply = (type: number, queue: number, values: number[], spare = 0): number[] => [
      ...[type, 0, queue, 0, 0, 0, 8 + 8 * (values.length + spare), 0],
      ...values.flatMap((v) => [v, 1, 0, 0, 0, 0, 0, 0]),
      ...Array(8 * spare).fill(0xee),
    ];
    let room = 0;
    device.answers.set('8.1', (_data, most) => {
      room = most;
      return [...reply(0, 0, [1, 2, 3, 4, 5, 6], 1), ...reply(STATISTICS.RX_CSUM, 0, [9]), ...reply(16, 1, [1, 2, 3, 4, 5, 6]), 5, 0, 0];
    });
    const statistics = control.statistics([
      { queue: 0, types: RX_STATISTICS },
      { queue: 1, types: TX_STATISTICS },
    ]);
    expect(device.commands.at(-1)).toEqual([8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    expect(room).toBe(56 + 40 + 40 + 56);
    expect(statistics?.map((s) => [s.queue, s.type])).toEqual([
      [0, 0],
      [0, 1],
      [1, 16],
    ]);
    expect(statistics?.[0]?.counters).toEqual({
      rx_notifications: 257n,
      rx_packets: 258n,
      rx_bytes: 259n,
      rx_interrupts: 260n,
      rx_drops: 261n,
      rx_drop_overruns: 262n,
    });
    expect(statistics?.[1]?.counters).toEqual({ rx_csum_valid: 265n });
    device.answers.set('8.1', () => undefined);
    expect(control.statistics([{ queue: 0, types: 1n }])).toBeUndefined();
    expect(control.statistics([{ queue: 0, types: 8n }])).toEqual([]);
  });

  it('sends tables longer than its first command block', () => {
    const { device, guest } = bringUp({ ring });
    const many = Array.from({ length: 2000 }, (_, i) => Uint8Array.of(2, 0, 0, 0, i >> 8, i & 0xff));
    expect(guest.net.control?.setMacTable(many, [])).toBe(true);
    expect(device.commands.at(-1)).toHaveLength(2 + 8 + 12000);
    expect(guest.net.control?.setReceiveMode('promiscuous', true)).toBe(true);
    expect(device.commands.at(-1)).toEqual([0, 0, 1]);
  });

  it('stops for a suspension and goes on after it: nothing is sent, posted, commanded or kicked in between', () => {
    const { device, guest } = bringUp({ ring });
    const work = guest.start({ kind: 'generate', count: 500, burst: 8 });
    settle(guest, 3);
    guest.net.suspend();
    expect(device.log.at(-1)).toBe('w status = 31');
    const at = device.log.length;
    const sent = work.framesSent;
    settle(guest, 10);
    expect([device.log.slice(at), work.framesSent, guest.net.transmit[0]?.reserve()]).toEqual([[], sent, -1]);
    expect(() => guest.net.control?.setReceiveMode('promiscuous', true)).toThrow('resume it first');
    expect(() => guest.net.resetPair(0)).toThrow('resume it first');
    guest.net.resume();
    expect(device.log[at]).toBe('w status = 31');
    expect(device.status).toBe(15);
    settle(guest, 200);
    expect([work.done, work.framesReceived, guest.net.broken]).toEqual([true, 500, '']);
    guest.net.suspend();
    guest.net.recover();
    expect([guest.net.suspended, device.status]).toEqual([false, 15]);
  });

  it('gives up a device that cannot suspend', () => {
    const { guest } = bringUp({ ring }, { stubborn: true });
    expect(() => guest.net.suspend()).toThrow('did not suspend');
    expect(guest.net.broken).toContain('did not suspend');
  });

  it('resets a receive or a transmit queue alone, with another size', () => {
    const { device, guest } = bringUp({ ring });
    const memory = guest.arena.bytesInUse;
    guest.net.resetReceive(0, 16);
    guest.net.resetTransmit(0, 32);
    expect([device.queues[0]?.size, device.queues[1]?.size]).toEqual([16, 32]);
    const work = guest.start({ kind: 'generate', count: 300, burst: 8 });
    settle(guest, 200);
    expect([work.done, work.framesReceived]).toEqual([true, 300]);
    guest.net.resetPair(0);
    expect([device.queues[0]?.size, guest.arena.bytesInUse]).toEqual([64, memory]);
  });

  it('announces each address it was given', () => {
    const { device, guest } = bringUp({ ring, addresses: { ipv4: [[10, 0, 0, 9]], ipv6: [HOME] } });
    const frames: number[][] = [];
    const work = guest.start({ kind: 'sink', verify: 'none' });
    work.receive = (f) => void frames.push(Array.from({ length: f.length }, (_, i) => f.byte(i)));
    device.changeConfig(() => device.config.setUint16(6, 3, true));
    settle(guest, 5);
    expect(device.commands).toEqual([[3, 0]]);
    const mac = [2, 0, 0, 0xaa, 0xbb, 0xcc];
    expect(frames[0]?.slice(0, 42)).toEqual([...Array(6).fill(0xff), ...mac, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, ...mac, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
    const na = frames[1] as number[];
    expect(na.slice(0, 14)).toEqual([0x33, 0x33, 0, 0, 0, 1, ...mac, 0x86, 0xdd]);
    expect([na[54], na[58], ...na.slice(78)]).toEqual([136, 0x20, 2, 1, ...mac]);
    let sum = 58 + 32;
    for (let i = 22; i < 86; i += 2) sum += ((na[i] as number) << 8) | (na[i + 1] as number);
    expect(((sum & 0xffff) + (sum >> 16)) & 0xffff).toBe(0xffff);
  });
});

describe('adaptive moderation', () => {
  const ladder = (): { moderation: AdaptiveModeration; applied: number[]; run: (ms: number, interruptsPerMs: number, framesEach: number) => void } => {
    const applied: number[] = [];
    const moderation = new AdaptiveModeration(1, (_queue, value) => {
      applied.push(value.maxPackets);
      return true;
    });
    let now = 0;
    const run = (ms: number, interruptsPerMs: number, framesEach: number): void => {
      for (let i = 0; i < ms * interruptsPerMs; i++) {
        moderation.interrupted(0);
        moderation.polled(0, framesEach, now);
        now += 1e6 / interruptsPerMs;
      }
    };
    return { moderation, applied, run };
  };

  it('waits longer while interrupts come thick, and goes back when waiting brings nothing', () => {
    const { moderation, applied, run } = ladder();
    run(20, 5, 3);
    expect(applied).toEqual([]);
    run(20, 100, 3);
    expect(applied).toEqual([8, 32, 64, 128]);
    run(40, 5, 1);
    expect(applied.slice(4)).toEqual([64, 32, 8, 0]);
    expect(moderation.current(0)).toEqual({ maxPackets: 0, maxUsecs: 0 });
  });

  it('stays where the device refuses, and starts again after a queue reset', () => {
    const refused: number[] = [];
    const moderation = new AdaptiveModeration(1, (_q, value) => {
      refused.push(value.maxPackets);
      return false;
    });
    for (let i = 0; i < 1000; i++) {
      moderation.interrupted(0);
      moderation.polled(0, 1, i * 10_000);
    }
    expect(new Set(refused)).toEqual(new Set([8]));
    expect(moderation.current(0).maxPackets).toBe(0);
    const { moderation: other, run } = ladder();
    run(10, 100, 3);
    expect(other.current(0).maxPackets).toBeGreaterThan(0);
    other.forget(0);
    expect(other.current(0).maxPackets).toBe(0);
  });
});
