// Which hash a received frame has, and how it is told (virtio 1.4 5.1.9.4.3 to 5.1.9.4.5, 5.1.9.5.10).

import { FlowHash } from '#guest-sim/flow-hash';
import { composeFrame, composeTunnel, type FrameSpec, type TunnelKind } from '#guest-sim/frames';
import { DEFAULT_RSS_KEY } from '#guest-sim/toeplitz';
import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { FEATURE } from '../features.ts';
import { ACK_ERR, ACK_OK, CTRL } from '../layout.ts';
import type { Session } from '../session.ts';
import { plainFrame, udpFrame } from './frames.ts';
import { HASH, hashConfig, rssConfig } from './steering.ts';

const TUNNEL = { GRE_2784: 1, GRE_2890: 2, GRE_7676: 4, GRE_UDP: 8, VXLAN: 16, VXLAN_GPE: 32, GENEVE: 64, IPIP: 128, NVGRE: 256 } as const;
const KINDS: readonly (readonly [TunnelKind, number])[] = [
  ['gre', TUNNEL.GRE_2784],
  ['gre-key', TUNNEL.GRE_2890],
  ['gre-udp', TUNNEL.GRE_UDP],
  ['vxlan', TUNNEL.VXLAN],
  ['vxlan-gpe', TUNNEL.VXLAN_GPE],
  ['geneve', TUNNEL.GENEVE],
  ['ipip', TUNNEL.IPIP],
  ['nvgre', TUNNEL.NVGRE],
];

/** Destination options with a home address (RFC 6275 6.3), and a type 2 routing header (6.4). */
const HOME = [0, 2, 1, 2, 0, 0, 201, 16, ...Array.from({ length: 16 }, (_, i) => 0xa0 + i)];
const ROUTING = [0, 2, 2, 1, 0, 0, 0, 0, ...Array.from({ length: 16 }, (_, i) => 0x50 + i)];

/** Sets the hash types, by the command the device has to have for it. */
async function configure(b: Bench, hashTypes: number): Promise<void> {
  if (b.has('RSS')) await b.net.commanded(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ hashTypes, table: [0, 0] }));
  else await b.net.commanded(CTRL.MQ, CTRL.HASH_CONFIG, hashConfig(hashTypes));
}

/** Checks report and value of a frame against the suite's own hash. Report 0: there is none, and the value means nothing. */
async function checkHash(b: Bench, s: Session, clause: string, what: string, frame: Uint8Array, hashTypes: number, report: number, tunnels = 0): Promise<void> {
  const oracle = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes, tunnels });
  oracle.compute(frame, 0, frame.length);
  s.ensure(oracle.report === report, `the suite's own hash of ${what} is of kind ${oracle.report}, not ${report}`);
  const { header } = await b.net.arrives(frame);
  s.check(clause, `hash_report of ${what}`, header.hashReport, report);
  if (report !== 0) s.check(clause, `hash_value of ${what}`, header.hashValue >>> 0, oracle.value >>> 0);
}

interface Row {
  readonly what: string;
  readonly spec: FrameSpec;
  readonly types: number;
  readonly report: number;
}

/** What a frame hashes to under a set of hash types. */
function hashCase(name: string, clause: string, rows: readonly Row[]): Case {
  return {
    name,
    clauses: [clause],
    over: [['HASH_REPORT'], ['HASH_REPORT', 'RSS']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'], buffers: 32 });
      const supported = await b.config('supported_hash_types');
      const known = rows.filter(({ types }) => (types & ~supported) === 0);
      if (known.length === 0) s.skip('the device supports none of these hash types');
      for (const { what, spec, types, report } of known) {
        await configure(b, types);
        await checkHash(b, s, clause, what, composeFrame(spec).bytes, types, report);
      }
    },
  };
}

const v4 = (protocol: FrameSpec['protocol'], more: Partial<FrameSpec> = {}): FrameSpec => ({
  version: 4,
  protocol,
  payload: 40,
  fromPort: 1234,
  toPort: 80,
  ...more,
});
const v6 = (protocol: FrameSpec['protocol'], more: Partial<FrameSpec> = {}): FrameSpec => ({
  version: 6,
  protocol,
  payload: 40,
  fromPort: 1234,
  toPort: 80,
  ...more,
});
const EXTENDED = {
  extensions: [
    { protocol: 60, bytes: HOME },
    { protocol: 43, bytes: ROUTING },
  ],
};
const ALL = 0x1ff;

export const HASH_CASES: readonly Case[] = [
  {
    name: 'net-hash/commands',
    clauses: ['net-hash.3', 'net-hash.5', 'net-hash.12', 'net-hash.D9', 'net-hash.D10', 'net-hash.D13'],
    over: [['HASH_REPORT'], ['HASH_REPORT', 'MQ']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      const { bytes } = udpFrame();
      s.check('net-hash.D13', 'hash_report before any hash type was set', (await b.net.arrives(bytes)).header.hashReport, 0);
      const { ack } = await b.net.command(CTRL.MQ, CTRL.HASH_CONFIG, hashConfig(HASH.UDPv4));
      s.check('net-hash.3', 'ack of HASH_CONFIG', ack, ACK_OK);
      s.check(b.has('MQ') ? 'net-hash.12' : 'net-hash.5', 'ack of HASH_CONFIG without RSS', ack, ACK_OK);
      await checkHash(b, s, 'net-hash.D9', 'a UDP frame with UDPv4 on', bytes, HASH.UDPv4, 3);
      await checkHash(b, s, 'net-hash.D10', 'a frame of no IP', plainFrame(1), HASH.UDPv4, 0);
    },
  },
  {
    name: 'net-hash/commands-with-RSS',
    clauses: ['net-hash.3', 'net-hash.4'],
    over: [['HASH_REPORT', 'RSS']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      const { ack } = await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ hashTypes: HASH.UDPv4, table: [0, 0] }));
      s.check('net-hash.3', 'ack of RSS_CONFIG', ack, ACK_OK);
      s.check('net-hash.4', 'ack of RSS_CONFIG', ack, ACK_OK);
      await checkHash(b, s, 'net-hash.4', 'a UDP frame with UDPv4 on', udpFrame().bytes, HASH.UDPv4, 3);
    },
  },
  hashCase('net-hash/IPv4-TCP', 'net-hash.D1', [
    { what: 'IPv4 and TCP, every type on', spec: v4('tcp'), types: ALL & ~0x1c0, report: 2 },
    { what: 'IPv4 with options and TCP', spec: v4('tcp', { options: [1, 1, 1, 0] }), types: HASH.TCPv4, report: 2 },
  ]),
  hashCase('net-hash/IPv4-UDP', 'net-hash.D2', [
    { what: 'IPv4 and UDP, every type on', spec: v4('udp'), types: ALL & ~0x1c0, report: 3 },
    { what: 'IPv4 and UDP, UDPv4 on', spec: v4('udp'), types: HASH.UDPv4, report: 3 },
  ]),
  hashCase('net-hash/IPv4', 'net-hash.D3', [
    { what: 'IPv4 and TCP, IPv4 on', spec: v4('tcp'), types: HASH.IPv4, report: 1 },
    { what: 'IPv4 and UDP, IPv4 and TCPv4 on', spec: v4('udp'), types: HASH.IPv4 | HASH.TCPv4, report: 1 },
    { what: 'IPv4 and ICMP, every type on', spec: v4(1), types: ALL & ~0x1c0, report: 1 },
    { what: 'IPv4 and TCP, UDPv4 on', spec: v4('tcp'), types: HASH.UDPv4, report: 0 },
    { what: 'IPv4 and TCP, only IPv6 types on', spec: v4('tcp'), types: HASH.IPv6 | HASH.TCPv6, report: 0 },
  ]),
  hashCase('net-hash/IPv6-TCP', 'net-hash.D4', [{ what: 'IPv6 and TCP, all but the extended types on', spec: v6('tcp'), types: ALL & ~0x1c0, report: 5 }]),
  hashCase('net-hash/IPv6-UDP', 'net-hash.D5', [{ what: 'IPv6 and UDP, all but the extended types on', spec: v6('udp'), types: ALL & ~0x1c0, report: 6 }]),
  hashCase('net-hash/IPv6', 'net-hash.D6', [
    { what: 'IPv6 and TCP, IPv6 on', spec: v6('tcp'), types: HASH.IPv6, report: 4 },
    { what: 'IPv6 and ICMPv6', spec: v6(58), types: ALL & ~0x1c0, report: 4 },
    { what: 'IPv6 and UDP, TCPv6 on', spec: v6('udp'), types: HASH.TCPv6, report: 0 },
  ]),
  hashCase('net-hash/IPv6-extensions', 'net-hash.D7', [
    { what: 'IPv6 with home address and routing header, TCP, TCP_EX on', spec: v6('tcp', EXTENDED), types: HASH.TCP_EX, report: 8 },
    { what: 'IPv6 with home address and routing header, UDP, UDP_EX on', spec: v6('udp', EXTENDED), types: HASH.UDP_EX, report: 9 },
    { what: 'IPv6 with home address and routing header, IP_EX on', spec: v6('tcp', EXTENDED), types: HASH.IP_EX, report: 7 },
  ]),
  hashCase('net-hash/IPv6-extensions-skipped', 'net-hash.D8', [
    { what: 'IPv6 with extensions, TCP, TCPv6 on', spec: v6('tcp', EXTENDED), types: HASH.TCPv6, report: 5 },
    { what: 'IPv6 with extensions, UDP, UDPv6 on', spec: v6('udp', EXTENDED), types: HASH.UDPv6, report: 6 },
    { what: 'IPv6 with extensions, IPv6 on', spec: v6('tcp', EXTENDED), types: HASH.IPv6, report: 4 },
  ]),
  {
    name: 'net-hash/tunnels',
    clauses: ['net-hash.6', 'net-hash.8', 'net-hash.D11', 'net-hash.D12'],
    over: [['HASH_TUNNEL', 'HASH_REPORT']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'], buffers: 60 });
      const supported = await b.config('supported_tunnel_types');
      const types = HASH.TCPv4 | HASH.UDPv4 | HASH.IPv4;
      await configure(b, types);
      const set = (mask: number): Promise<{ ack: number }> => b.net.commanded(CTRL.TUNNEL, CTRL.TUNNEL_SET, [mask & 0xff, (mask >>> 8) & 0xff, 0, 0]);
      const inner = v4('tcp', { from: [10, 1, 2, 3], to: [10, 4, 5, 6] });
      const frames = KINDS.filter(([, bit]) => (supported & bit) !== 0).map(([kind, bit]) => ({
        kind,
        bit,
        frame: composeTunnel(kind, { version: 4 }, inner).bytes,
      }));
      if (frames.length === 0) s.skip('the device supports no tunnel type');
      const outer = (kind: string, bytes: Uint8Array): Promise<void> => {
        const udp = bytes[23] === 17;
        return checkHash(b, s, clauseNow, `${kind}, by its outer headers`, bytes, types, udp ? 3 : 1);
      };
      let clauseNow = 'net-hash.D11';
      for (const { kind, frame } of frames) await outer(kind, frame);
      for (const { kind, bit, frame } of frames) {
        await set(bit);
        await checkHash(b, s, 'net-hash.D12', `${kind}, by its inner headers`, frame, types, 2, bit);
        const other = frames.find((found) => found.bit !== bit && (found.kind === 'vxlan') !== (kind === 'vxlan'));
        clauseNow = 'net-hash.6';
        if (other) await outer(other.kind, other.frame);
        await checkHash(b, s, 'net-hash.6', 'a frame in no tunnel', composeFrame(inner).bytes, types, 2, bit);
      }
      await set(0);
      clauseNow = 'net-hash.8';
      for (const { kind, frame } of frames) await outer(kind, frame);
    },
  },
  {
    name: 'net-hash/unsupported-tunnel',
    clauses: ['net-hash.7'],
    over: [['HASH_TUNNEL', 'HASH_REPORT']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      const supported = await b.config('supported_tunnel_types');
      const bit = Array.from({ length: 32 }, (_, i) => i).find((i) => ((supported >>> i) & 1) === 0);
      if (bit === undefined) return s.skip('the device supports every tunnel type there could be');
      const mask = (1 << bit) >>> 0;
      const { ack } = await b.net.command(CTRL.TUNNEL, CTRL.TUNNEL_SET, [mask & 0xff, (mask >>> 8) & 0xff, (mask >>> 16) & 0xff, mask >>> 24]);
      s.check('net-hash.7', `ack of enabling tunnel type ${bit}, which is not supported`, ack, ACK_ERR);
      s.ensure(b.offered.has(FEATURE.HASH_TUNNEL), 'HASH_TUNNEL is not offered');
    },
  },
];
