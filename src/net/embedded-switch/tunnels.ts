// Tunnel endpoints: the headers that encapsulation puts in front of a frame, made once (RFC 7348 5 for VXLAN, RFC 8926 3 for Geneve without options). Lengths, identification, source port and checksums are each frame's.

import { EmbeddedSwitchError } from './errors.ts';
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6 } from './frame-key.ts';
import {
  CONFIG_GENEVE_PORT,
  CONFIG_VXLAN_PORT,
  type SwitchTables,
  TUNNEL_CHECKSUM,
  TUNNEL_HEADERS,
  TUNNEL_LENGTH,
  TUNNEL_NETWORK,
  TUNNEL_TRANSPORT,
  TUNNEL_VERSION,
  TUNNEL_WORDS,
} from './layout.ts';
import { ipWords, macBytes } from './match.ts';

export interface TunnelSettings {
  readonly kind: 'vxlan' | 'geneve';
  readonly vni: number;
  /** Of the outer headers. */
  readonly sourceMac: string;
  readonly destinationMac: string;
  /** Both IPv4 or both IPv6. */
  readonly source: string;
  readonly destination: string;
  /** Tag of the outer frame. */
  readonly vlan?: number;
  /** Default 64. */
  readonly ttl?: number;
  readonly dscp?: number;
  /** Outer UDP checksums. Default over IPv6 only, where they are not optional (RFC 8200 8.1) but by agreement (RFC 6935). */
  readonly checksum?: boolean;
}

const BRIDGED = 0x6558;

/** Writes an endpoint. @throws EmbeddedSwitchError, having written nothing */
export function writeTunnel(tables: SwitchTables, tunnel: number, settings: TunnelSettings): void {
  const { kind, vni, vlan, ttl = 64, dscp = 0 } = settings;
  const source = ipWords(settings.source, bad);
  const destination = ipWords(settings.destination, bad);
  if (source.version !== destination.version) throw bad('its source and destination are of two IP versions');
  check('vni', vni, 0xffffff);
  check('ttl', ttl, 255);
  check('dscp', dscp, 63);
  if (vlan !== undefined) check('vlan', vlan, 4094);
  const { version } = source;
  const port = tables.config[kind === 'vxlan' ? CONFIG_VXLAN_PORT : CONFIG_GENEVE_PORT] as number;
  const tag = vlan === undefined ? [] : [...u16(0x8100), ...u16(vlan)];
  const ip =
    version === 4
      ? // Don't Fragment: what is too long for the way is for the inner sender to know.
        [0x45, dscp << 2, 0, 0, 0, 0, 0x40, 0, ttl, 17, 0, 0, ...u32(source.words[0] as number), ...u32(destination.words[0] as number)]
      : [...u16(0x6000 | (dscp << 6)), 0, 0, 0, 0, 17, ttl, ...[...source.words].flatMap(u32), ...[...destination.words].flatMap(u32)];
  const udp = [0, 0, ...u16(port), 0, 0, 0, 0];
  const shim = kind === 'vxlan' ? [8, 0, 0, 0, ...u32(vni << 8)] : [0, 0, ...u16(BRIDGED), ...u32(vni << 8)];
  const ethernet = [
    ...macBytes(settings.destinationMac, bad),
    ...macBytes(settings.sourceMac, bad),
    ...tag,
    ...u16(version === 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6),
  ];
  const headers = [...ethernet, ...ip, ...udp, ...shim];
  tables.change(() => {
    const at = tunnel * TUNNEL_WORDS;
    tables.tunnels[at + TUNNEL_LENGTH] = headers.length;
    tables.tunnels[at + TUNNEL_NETWORK] = ethernet.length;
    tables.tunnels[at + TUNNEL_TRANSPORT] = ethernet.length + ip.length;
    tables.tunnels[at + TUNNEL_VERSION] = version;
    tables.tunnels[at + TUNNEL_CHECKSUM] = (settings.checksum ?? version === 6) ? 1 : 0;
    tables.tunnelHeaders.set(headers, tunnel * TUNNEL_HEADERS);
  });
}

function u16(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

function u32(value: number): number[] {
  return [...u16(value >>> 16), ...u16(value & 0xffff)];
}

function check(name: string, value: number, most: number): void {
  if (!(Number.isInteger(value) && value >= 0 && value <= most)) throw bad(`${name} ${value}: 0 to ${most}`);
}

function bad(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-setting', `tunnel: ${message}`);
}
