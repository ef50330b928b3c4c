// What the software offloads make, as Wireshark's dissectors see it: every length and checksum of every header, inner and outer, and the datagram put together again.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import {
  FRAME_NEEDS_CSUM,
  FRAME_UDP_TUNNEL_CSUM,
  FrameBatch,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
  GSO_UDP_TUNNEL_IPV4,
  GSO_UDP_TUNNEL_IPV6,
} from '#net/port';
import { SoftwareOffload } from '#net/software-offload';
import { macOf, rig } from '../net/embedded-switch/rig.ts';
import { dissect, ethernet, ipv4, ipv6, seedChecksum, tcp, udp } from '../net/frames.ts';
import { appendFrame, type Frame, frameBytes } from '../net/memory-port.ts';
import { available, endChildren, installed, mustRun, scratch } from './host.ts';

const { client: tshark, missing } = await available(() => installed('tshark', ['tshark']));
if (missing !== undefined) process.stderr.write(`real: skipped, ${missing}\n`);

const bytesOf = (length: number): number[] => Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 0xff);

/** A VXLAN packet in UDP: port 4789, flags with a VNI, an Ethernet frame. */
function vxlan(outer: 4 | 6, inner: 4 | 6, protocol: 'tcp' | 'udp', length: number, outerChecksum: boolean): Frame {
  const transport = protocol === 'tcp' ? tcp(bytesOf(length)) : udp(bytesOf(length));
  const number = protocol === 'tcp' ? 6 : 17;
  const packet = inner === 4 ? ethernet(0x0800, ipv4(number, transport)) : ethernet(0x86dd, ipv6(number, transport));
  const datagram = udp([8, 0, 0, 0, 0, 1, 2, 0, ...seedChecksum(packet)]);
  datagram.splice(2, 2, 4789 >> 8, 4789 & 0xff);
  const bytes = outer === 4 ? ethernet(0x0800, ipv4(17, datagram)) : ethernet(0x86dd, ipv6(17, datagram));
  if (outerChecksum) seedChecksum(bytes);
  const outerTransport = dissect(bytes).transport;
  const innerNetwork = outerTransport + 8 + 8 + 14;
  return {
    bytes,
    flags: FRAME_NEEDS_CSUM | (outerChecksum ? FRAME_UDP_TUNNEL_CSUM : 0),
    gsoType: (protocol === 'udp' ? GSO_UDP_L4 : inner === 4 ? GSO_TCPV4 : GSO_TCPV6) | (inner === 4 ? GSO_UDP_TUNNEL_IPV4 : GSO_UDP_TUNNEL_IPV6),
    gsoSize: 1000,
    csumStart: innerNetwork + (inner === 4 ? 20 : 40),
    csumOffset: protocol === 'tcp' ? 16 : 6,
    outerTransport,
    innerNetwork,
  };
}

function datagram(version: 4 | 6, length: number): Frame {
  const bytes = seedChecksum(version === 4 ? ethernet(0x0800, ipv4(17, udp(bytesOf(length)))) : ethernet(0x86dd, ipv6(17, udp(bytesOf(length)))));
  return { bytes, flags: FRAME_NEEDS_CSUM, gsoType: GSO_UDP, gsoSize: 1400, csumStart: dissect(bytes).transport, csumOffset: 6 };
}

function convert(frame: Frame): Uint8Array[] {
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  appendFrame(batch, frame);
  const offload = new SoftwareOffload();
  offload.convert(batch, 0, 0, 0);
  return Array.from({ length: offload.output.count }, (_, i) => frameBytes(offload.output, i));
}

/** A classic pcap file, by hand. */
function pcap(frames: readonly Uint8Array[]): Uint8Array {
  const total = frames.reduce((sum, f) => sum + 16 + f.length, 24);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0xa1b2c3d4, true);
  view.setUint16(4, 2, true);
  view.setUint16(6, 4, true);
  view.setUint32(16, 0x40000, true);
  view.setUint32(20, 1, true);
  let at = 24;
  for (const frame of frames) {
    view.setUint32(at + 8, frame.length, true);
    view.setUint32(at + 12, frame.length, true);
    bytes.set(frame, at + 16);
    at += 16 + frame.length;
  }
  return bytes;
}

const CHECKS = ['ip', 'tcp', 'udp'].flatMap((protocol) => ['-o', `${protocol}.check_checksum:TRUE`]);
/** The ports and payloads are made up: nobody is to take them for DNS. */
const QUIET = ['dns', 'mdns', 'http'].flatMap((protocol) => ['--disable-protocol', protocol]);

async function fields(frames: readonly Uint8Array[], ...names: string[]): Promise<string[][]> {
  const file = join(scratch(), 'frames.pcap');
  writeFileSync(file, pcap(frames));
  const output = await mustRun(tshark as string, [
    '-r',
    file,
    ...CHECKS,
    ...QUIET,
    '-T',
    'fields',
    '-E',
    'occurrence=a',
    ...names.flatMap((name) => ['-e', name]),
  ]);
  const lines = output.split('\n').filter((line) => line.includes('\t') || /^[0-9]/.test(line));
  return lines.map((line) => line.split('\t'));
}

afterAll(endChildren);

describe.skipIf(missing !== undefined)('tshark', () => {
  it.each([
    [4, 4, 'tcp', true],
    [4, 6, 'tcp', false],
    [6, 4, 'tcp', true],
    [6, 6, 'udp', true],
    [4, 4, 'udp', false],
  ] as const)('finds nothing wrong with VXLAN over IPv%i of IPv%i %s, outer checksum %s', async (outer, inner, protocol, checksum) => {
    const made = convert(vxlan(outer, inner, protocol, 3500, checksum));
    expect(made.length).toBe(4);
    const rows = await fields(made, 'vxlan.vni', 'ip.checksum.status', 'tcp.checksum.status', 'udp.checksum.status', '_ws.malformed');
    expect(rows.length).toBe(4);
    for (const [vni, ip, tcpStatus, udpStatus, malformed] of rows) {
      expect(vni).toBe('258');
      // 1 is good, 3 is not there to check (a UDP checksum of 0).
      const addresses = [outer, inner].filter((version) => version === 4).map(() => '1');
      expect((ip ?? '').split(',').filter((s) => s !== '')).toEqual(addresses);
      expect(tcpStatus).toBe(protocol === 'tcp' ? '1' : '');
      expect(udpStatus).toBe([checksum ? '1' : '3', ...(protocol === 'udp' ? ['1'] : [])].join(','));
      expect(malformed ?? '').toBe('');
    }
  });

  it.each([
    ['vxlan', 4, 'tcp'],
    ['vxlan', 6, 'udp'],
    ['geneve', 4, 'udp'],
    ['geneve', 6, 'tcp'],
  ] as const)('finds nothing wrong with what an embedded switch makes: %s over IPv%i of %s, with addresses rewritten', async (kind, outer, protocol) => {
    const made = rig({ mode: 'switchdev' });
    const addresses = outer === 4 ? ['192.0.2.1', '192.0.2.2'] : ['2001:db8::1', '2001:db8::2'];
    made.nic.root.addTunnel('t', {
      kind,
      vni: 258,
      source: addresses[0] as string,
      destination: addresses[1] as string,
      sourceMac: macOf(8),
      destinationMac: macOf(9),
      checksum: true,
    });
    made.nic.root.addRule({
      match: {},
      actions: [
        { kind: 'set', source: '198.51.100.7', destinationPort: 9999, dscp: 10 },
        { kind: 'decrement-ttl' },
        { kind: 'push-vlan', id: 77 },
        { kind: 'encapsulate', tunnel: 't' },
        { kind: 'forward', to: 'uplink0' },
      ],
    });
    const transport = protocol === 'tcp' ? tcp(bytesOf(3500)) : udp(bytesOf(3500));
    const packet = seedChecksum(ethernet(0x0800, ipv4(protocol === 'tcp' ? 6 : 17, transport)));
    const offset = protocol === 'tcp' ? 16 : 6;
    const large: Frame = {
      bytes: packet,
      flags: FRAME_NEEDS_CSUM,
      gsoType: protocol === 'tcp' ? GSO_TCPV4 : GSO_UDP_L4,
      gsoSize: 1000,
      csumStart: 34,
      csumOffset: offset,
    };
    const { uplink0 = [] } = made.send('vf0', large, {
      bytes: seedChecksum(Uint8Array.from(packet)),
      flags: FRAME_NEEDS_CSUM,
      csumStart: 34,
      csumOffset: offset,
    });
    expect(uplink0.length).toBe(5);
    const rows = await fields(uplink0, `${kind}.vni`, 'vlan.id', 'ip.ttl', 'ip.checksum.status', 'tcp.checksum.status', 'udp.checksum.status', '_ws.malformed');
    expect(rows.length).toBe(5);
    for (const [vni, vlan, ttl, ip, tcpStatus, udpStatus, malformed] of rows) {
      expect([Number(vni), vlan, ttl]).toEqual([258, '77', outer === 4 ? '64,63' : '63']);
      expect(ip).toBe(outer === 4 ? '1,1' : '1');
      expect(tcpStatus).toBe(protocol === 'tcp' ? '1' : '');
      expect(udpStatus).toBe(protocol === 'udp' ? '1,1' : '1');
      expect(malformed ?? '').toBe('');
    }
  });

  it.each([4, 6] as const)('puts a datagram over IPv%i together again', async (version) => {
    const made = convert(datagram(version, 4000));
    expect(made.length).toBe(3);
    const rows = await fields(made, 'udp.length', 'udp.checksum.status', version === 4 ? 'ip.reassembled.length' : 'ipv6.reassembled.length', '_ws.malformed');
    const whole = rows.filter(([length]) => length === '4008');
    expect(whole).toEqual([['4008', '1', '4008', '']]);
  });
});
