// Frames to order, for experiments with offloads, hashing and filters: Ethernet with VLAN tags, IPv4 with options, IPv6 with extension headers, fragments,
// TCP and UDP, and one level of the encapsulations virtio-net knows. Lengths and checksums are right, and where everything lies is told.

import { fold, set16, set32, sumBytes } from './packets.ts';

/** One network packet and what it carries. */
export interface PacketSpec {
  readonly version: 4 | 6;
  /** 4 or 16 bytes. Default: addresses of the benchmarking ranges (RFC 2544, RFC 5180). */
  readonly from?: readonly number[];
  readonly to?: readonly number[];
  /** IPv4 options: a multiple of 4 bytes. */
  readonly options?: readonly number[];
  /** IPv6 extension headers, each a multiple of 8 bytes whose first byte is filled in here. */
  readonly extensions?: readonly { readonly protocol: number; readonly bytes: readonly number[] }[];
  /** Makes the packet a fragment: `offset` in bytes, a multiple of 8. The payload then is what the fragment carries, transport header included at offset 0. */
  readonly fragment?: { readonly offset: number; readonly more: boolean; readonly id: number };
  /** Of the IPv4 header. Default 0. */
  readonly id?: number;
  readonly protocol: 'tcp' | 'udp' | number;
  readonly fromPort?: number;
  readonly toPort?: number;
  /** TCP flags: 0x80 is CWR. Default ACK. */
  readonly flags?: number;
  readonly sequence?: number;
  /** UDP checksum 0 in place of a right one (IPv4, and tunnels over IPv6). */
  readonly noChecksum?: boolean;
  /** Payload bytes, or how many of a pattern. */
  readonly payload: Uint8Array | number;
}

export interface FrameSpec extends PacketSpec {
  readonly source?: readonly number[];
  readonly destination?: readonly number[];
  /** Tags from the outermost, 4 bytes each in the frame: ethertype and tag control. */
  readonly vlans?: readonly { readonly type: number; readonly tci: number }[];
}

export type TunnelKind = 'vxlan' | 'vxlan-gpe' | 'geneve' | 'gre' | 'gre-key' | 'gre-udp' | 'nvgre' | 'ipip';

/** Where headers lie in a frame, from its start. */
export interface FrameLayout {
  /** Outermost IP header. */
  readonly network: number;
  /** Innermost transport header, and its payload; `transport` is 0 for a later fragment. */
  readonly transport: number;
  readonly payload: number;
  /** In a tunnel: the outer transport (or GRE) header and the inner IP header; 0 without one. */
  readonly outerTransport: number;
  readonly innerNetwork: number;
}

export interface ComposedFrame {
  readonly bytes: Uint8Array;
  readonly layout: FrameLayout;
}

const MAC_A = [0x52, 0x54, 0, 0, 0, 0x0a];
const MAC_B = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const V6 = (last: number): number[] => [0x20, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
const BRIDGED = 0x6558;
const UDP_TUNNELS: Partial<Record<TunnelKind, number>> = { vxlan: 4789, 'vxlan-gpe': 4790, geneve: 6081, 'gre-udp': 4754 };

/** A frame without encapsulation. @throws RangeError for lengths that no header can say */
export function composeFrame(spec: FrameSpec): ComposedFrame {
  const packet = composePacket(spec);
  const head = ethernet(spec, spec.version);
  const at = head.length;
  return {
    bytes: join([head, packet.bytes]),
    layout: { network: at, transport: packet.transport && at + packet.transport, payload: at + packet.payload, outerTransport: 0, innerNetwork: 0 },
  };
}

/** `inner` in a tunnel between the addresses of `outer`, whose protocol and payload follow from the kind. GRE, IPIP and VXLAN-GPE carry the packet, others the frame. */
export function composeTunnel(kind: TunnelKind, outer: Omit<FrameSpec, 'protocol' | 'payload'>, inner: FrameSpec): ComposedFrame {
  const bridged = kind === 'vxlan' || kind === 'geneve' || kind === 'nvgre';
  const plain = composeFrame(inner);
  const skip = bridged ? 0 : plain.layout.network;
  const tunnel = tunnelHeader(kind, bridged, inner.version);
  const payload = join([tunnel, plain.bytes.subarray(skip)]);
  const port = UDP_TUNNELS[kind];
  const protocol = port !== undefined ? 'udp' : kind === 'ipip' ? (inner.version === 4 ? 4 : 41) : 47;
  const around = composeFrame({ ...outer, protocol, payload, fromPort: outer.fromPort ?? 0xd000, toPort: port ?? 0 });
  const shift = around.layout.payload + tunnel.length - skip;
  return {
    bytes: around.bytes,
    layout: {
      network: around.layout.network,
      outerTransport: around.layout.transport,
      innerNetwork: plain.layout.network + shift,
      transport: plain.layout.transport && plain.layout.transport + shift,
      payload: plain.layout.payload + shift,
    },
  };
}

function tunnelHeader(kind: TunnelKind, bridged: boolean, version: 4 | 6): Uint8Array {
  const type = bridged ? BRIDGED : version === 4 ? 0x0800 : 0x86dd;
  const header = new Uint8Array(kind === 'ipip' ? 0 : kind === 'gre' || kind === 'gre-udp' ? 4 : 8);
  switch (kind) {
    case 'vxlan':
      header.set([8, 0, 0, 0, 0, 0, 42, 0]);
      break;
    case 'vxlan-gpe':
      header.set([0x0c, 0, 0, version === 4 ? 1 : 2, 0, 0, 42, 0]);
      break;
    case 'geneve':
      set16(header, 2, type);
      header[6] = 42;
      break;
    case 'gre':
    case 'gre-udp':
      set16(header, 2, type);
      break;
    case 'gre-key':
    case 'nvgre':
      header[0] = 0x20;
      set16(header, 2, type);
      header[6] = 42;
  }
  return header;
}

function ethernet(spec: FrameSpec, version: 4 | 6): Uint8Array {
  const tags = spec.vlans ?? [];
  const head = new Uint8Array(14 + 4 * tags.length);
  head.set(spec.destination ?? MAC_B, 0);
  head.set(spec.source ?? MAC_A, 6);
  for (const [i, tag] of tags.entries()) {
    set16(head, 12 + 4 * i, tag.type);
    set16(head, 14 + 4 * i, tag.tci);
  }
  set16(head, 12 + 4 * tags.length, version === 4 ? 0x0800 : 0x86dd);
  return head;
}

function composePacket(spec: PacketSpec): { bytes: Uint8Array; transport: number; payload: number } {
  const { version } = spec;
  const from = spec.from ?? (version === 4 ? [198, 18, 0, 1] : V6(1));
  const to = spec.to ?? (version === 4 ? [198, 19, 0, 1] : V6(2));
  const protocol = spec.protocol === 'tcp' ? 6 : spec.protocol === 'udp' ? 17 : spec.protocol;
  const later = (spec.fragment?.offset ?? 0) > 0;
  const l4 = later ? payloadOf(spec.payload) : transport(spec, protocol, Uint8Array.from([...from, ...to]));
  const head = version === 4 ? ipv4(spec, protocol, from, to, l4.length) : ipv6(spec, protocol, from, to, l4.length);
  const size = later || spec.protocol === 'tcp' || spec.protocol === 'udp' ? (later ? 0 : spec.protocol === 'tcp' ? 20 : 8) : 0;
  return { bytes: join([head, l4]), transport: later ? 0 : head.length, payload: head.length + size };
}

function transport(spec: PacketSpec, protocol: number, addresses: Uint8Array): Uint8Array {
  const payload = payloadOf(spec.payload);
  if (spec.protocol !== 'tcp' && spec.protocol !== 'udp') return payload;
  const tcp = spec.protocol === 'tcp';
  const bytes = join([new Uint8Array(tcp ? 20 : 8), payload]);
  set16(bytes, 0, spec.fromPort ?? 0xc000);
  set16(bytes, 2, spec.toPort ?? 9);
  if (tcp) {
    set32(bytes, 4, spec.sequence ?? 0);
    bytes[12] = 0x50;
    bytes[13] = spec.flags ?? 0x10;
    set16(bytes, 14, 0xffff);
  } else set16(bytes, 4, checkedLength(bytes.length, 0xffff));
  // A fragment's checksum covers the whole datagram, which is not here to be summed up.
  if (spec.noChecksum || spec.fragment) return bytes;
  const pseudo = sumBytes(addresses, 0, addresses.length) + protocol + bytes.length;
  const sum = ~fold(sumBytes(bytes, 0, bytes.length, pseudo)) & 0xffff;
  set16(bytes, tcp ? 16 : 6, sum === 0 && !tcp ? 0xffff : sum);
  return bytes;
}

function ipv4(spec: PacketSpec, protocol: number, from: readonly number[], to: readonly number[], length: number): Uint8Array {
  const options = spec.options ?? [];
  if (options.length % 4 !== 0 || options.length > 40) throw new RangeError(`IPv4 options of ${options.length} bytes`);
  const head = new Uint8Array(20 + options.length);
  head[0] = 0x40 | (head.length / 4);
  set16(head, 2, checkedLength(head.length + length, 0xffff));
  set16(head, 4, spec.fragment?.id ?? spec.id ?? 0);
  set16(head, 6, spec.fragment ? (spec.fragment.more ? 0x2000 : 0) | (spec.fragment.offset / 8) : 0x4000);
  head[8] = 64;
  head[9] = protocol;
  head.set(from, 12);
  head.set(to, 16);
  head.set(options, 20);
  set16(head, 10, ~fold(sumBytes(head, 0, head.length)) & 0xffff);
  return head;
}

function ipv6(spec: PacketSpec, protocol: number, from: readonly number[], to: readonly number[], length: number): Uint8Array {
  const extensions = [...(spec.extensions ?? [])];
  if (spec.fragment) {
    const bytes = new Uint8Array(8);
    set16(bytes, 2, spec.fragment.offset | (spec.fragment.more ? 1 : 0));
    set32(bytes, 4, spec.fragment.id);
    extensions.push({ protocol: 44, bytes: [...bytes] });
  }
  const head = new Uint8Array(40 + extensions.reduce((n, e) => n + e.bytes.length, 0));
  head[0] = 0x60;
  set16(head, 4, checkedLength(head.length - 40 + length, 0xffff));
  head[6] = extensions[0]?.protocol ?? protocol;
  head[7] = 64;
  head.set(from, 8);
  head.set(to, 24);
  let at = 40;
  for (const [i, extension] of extensions.entries()) {
    head.set(extension.bytes, at);
    head[at] = extensions[i + 1]?.protocol ?? protocol;
    at += extension.bytes.length;
  }
  return head;
}

function payloadOf(payload: Uint8Array | number): Uint8Array {
  return typeof payload === 'number' ? Uint8Array.from({ length: payload }, (_, i) => i * 7 + (i >>> 8)) : payload;
}

function checkedLength(length: number, most: number): number {
  if (length > most) throw new RangeError(`a packet of ${length} bytes is longer than the ${most} its header can say`);
  return length;
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
