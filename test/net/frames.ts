// Frames written by hand from the RFCs and checked the slow way, byte by byte: a second reading of the formats that shares nothing with src/net.

export interface Addresses {
  readonly to?: readonly number[];
  readonly from?: readonly number[];
  /** VLAN ids, outermost first; two make a QinQ frame. */
  readonly vlans?: readonly number[];
}

export const MAC_A = [0x02, 0, 0, 0, 0, 0x0a];
export const MAC_B = [0x02, 0, 0, 0, 0, 0x0b];
export const MAC_C = [0x02, 0, 0, 0, 0, 0x0c];
export const BROADCAST = [255, 255, 255, 255, 255, 255];

function u16(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

function u32(value: number): number[] {
  return [...u16(value >>> 16), ...u16(value & 0xffff)];
}

export function ethernet(type: number, payload: readonly number[], { to = MAC_B, from = MAC_A, vlans = [] }: Addresses = {}): Uint8Array {
  const tags = vlans.flatMap((id, i) => [...u16(i === 0 && vlans.length > 1 ? 0x88a8 : 0x8100), ...u16(id)]);
  return Uint8Array.from([...to, ...from, ...tags, ...u16(type), ...payload]);
}

/** RFC 1071, one 16-bit word after the other. */
export function onesComplementSum(bytes: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += ((bytes[i] as number) << 8) | (bytes[i + 1] ?? 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

export function ipv4(protocol: number, body: readonly number[], options: { id?: number; options?: readonly number[]; fragment?: number } = {}): number[] {
  const extra = options.options ?? [];
  const header = [
    0x40 | (5 + extra.length / 4),
    0,
    ...u16(20 + extra.length + body.length),
    ...u16(options.id ?? 1),
    ...u16(options.fragment ?? 0x4000),
    64,
    protocol,
    0,
    0,
    ...[10, 0, 0, 1],
    ...[10, 0, 0, 2],
    ...extra,
  ];
  const checksum = ~onesComplementSum(header) & 0xffff;
  header.splice(10, 2, ...u16(checksum));
  return [...header, ...body];
}

const V6_A = [0xfd, ...new Array(14).fill(0), 1];
const V6_B = [0xfd, ...new Array(14).fill(0), 2];

/** `extensions`: [type, ...bytes after the next-header byte] each, a multiple of 8 bytes long in all. */
export function ipv6(protocol: number, body: readonly number[], extensions: readonly (readonly number[])[] = []): number[] {
  const types = [...extensions.map((e) => e[0] as number), protocol];
  const chain = extensions.flatMap((e, i) => [types[i + 1] as number, ...e.slice(1)]);
  return [0x60, 0, 0, 0, ...u16(chain.length + body.length), types[0] as number, 64, ...V6_A, ...V6_B, ...chain, ...body];
}

export interface TcpOptions {
  readonly sequence?: number;
  readonly flags?: number;
  readonly options?: readonly number[];
  readonly checksum?: number;
}

export const FIN = 1;
export const PSH = 8;
export const ACK = 16;
export const CWR = 128;

export function tcp(payload: readonly number[], { sequence = 1000, flags = ACK, options = [], checksum = 0 }: TcpOptions = {}): number[] {
  return [
    ...u16(1234),
    ...u16(80),
    ...u32(sequence),
    ...u32(77),
    (5 + options.length / 4) << 4,
    flags,
    ...u16(8192),
    ...u16(checksum),
    0,
    0,
    ...options,
    ...payload,
  ];
}

export function udp(payload: readonly number[], checksum = 0): number[] {
  return [...u16(5353), ...u16(53), ...u16(8 + payload.length), ...u16(checksum), ...payload];
}

export interface Packet {
  readonly version: number;
  readonly protocol: number;
  readonly network: number;
  readonly transport: number;
  readonly payload: number;
  readonly bytes: Uint8Array;
}

const at16 = (b: Uint8Array, at: number): number => ((b[at] as number) << 8) | (b[at + 1] as number);

/** Walks a well-formed frame's headers. */
export function dissect(bytes: Uint8Array): Packet {
  let at = 12;
  while (at16(bytes, at) === 0x8100 || at16(bytes, at) === 0x88a8) at += 4;
  const network = at + 2;
  const version = (bytes[network] as number) >> 4;
  let protocol = bytes[network + (version === 4 ? 9 : 6)] as number;
  let transport = network + (version === 4 ? ((bytes[network] as number) & 15) * 4 : 40);
  while (version === 6 && [0, 43, 60].includes(protocol)) {
    protocol = bytes[transport] as number;
    transport += ((bytes[transport + 1] as number) + 1) * 8;
  }
  const payload = transport + (protocol === 6 ? ((bytes[transport + 12] as number) >> 4) * 4 : 8);
  return { version, protocol, network, transport, payload, bytes };
}

/** The pseudo header of RFC 9293 and RFC 8200 for this packet. */
export function pseudoHeader(p: Packet): number[] {
  const length = p.bytes.length - p.transport;
  const b = p.bytes;
  return p.version === 4
    ? [...b.slice(p.network + 12, p.network + 20), 0, p.protocol, ...u16(length)]
    : [...b.slice(p.network + 8, p.network + 40), ...u32(length), 0, 0, 0, p.protocol];
}

/** What is wrong with a TCP or UDP frame's lengths and checksums; empty when all is well. */
export function faults(bytes: Uint8Array): string[] {
  const p = dissect(bytes);
  const found: string[] = [];
  if (p.version === 4) {
    if (onesComplementSum(bytes.slice(p.network, p.network + ((bytes[p.network] as number) & 15) * 4)) !== 0xffff) found.push('IPv4 header checksum');
    if (at16(bytes, p.network + 2) !== bytes.length - p.network) found.push('IPv4 total length');
  } else if (at16(bytes, p.network + 4) !== bytes.length - p.network - 40) found.push('IPv6 payload length');
  if (p.protocol === 17 && at16(bytes, p.transport + 4) !== bytes.length - p.transport) found.push('UDP length');
  if (onesComplementSum([...pseudoHeader(p), ...bytes.slice(p.transport)]) !== 0xffff) found.push('transport checksum');
  return found;
}

/** Puts the pseudo header's sum into the checksum field, as a sender that asks for NEEDS_CSUM must. */
export function seedChecksum(bytes: Uint8Array): Uint8Array {
  const p = dissect(bytes);
  bytes.set(u16(onesComplementSum(pseudoHeader(p))), p.transport + (p.protocol === 6 ? 16 : 6));
  return bytes;
}
