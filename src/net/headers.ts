// Ethernet, VLAN and IP headers up to TCP, UDP or ICMP, read from a private copy of a frame's first bytes: a guest may change the frame meanwhile, the copy
// stays. Leaves out: MPLS, what is inside tunnels (parseIp reads on there when told where), IPv6 extensions beyond the common ones (they end the walk as an unknown protocol).

import type { ByteViews } from '#core/guest-memory';
import type { FrameBatch } from './port.ts';

/** Bytes of a frame that are looked at: two VLAN tags, an IPv4 header with options or IPv6 with extensions, TCP with options, and room. */
export const HEADER_LIMIT = 256;
/** The same twice, with the longest Geneve header between. */
export const TUNNEL_HEADER_LIMIT = 768;

const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_VLAN = 0x8100;
export const ETHERTYPE_QINQ = 0x88a8;
const ETHERTYPE_IPV6 = 0x86dd;

export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;

const MAXIMUM_TAGS = 2;
const MAXIMUM_EXTENSIONS = 8;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const DESTINATION_OPTIONS = 60;

/** What a frame's headers say; one object is filled again and again. Offsets are from the frame's first byte. */
export class FrameHeaders {
  /** After VLAN tags. */
  etherType = 0;
  /** VLAN id of the outermost tag, -1 untagged. */
  vlan = -1;
  /** Where the network header starts. */
  network = 0;
  /** 4, 6, or 0 when it is not IP. */
  version = 0;
  /** TCP, UDP, ... of the last header walked. */
  protocol = 0;
  /** Where the transport header starts; 0 when not IP. */
  transport = 0;
  /** Where the payload after a whole TCP or UDP header starts; 0 when there is no such header here. */
  payload = 0;
  /** An IP fragment: the transport header is not here, or does not cover all of its payload. */
  fragment = false;
  /** Where what IP may fragment starts: after the IPv4 header, after the IPv6 header and those extensions that every fragment carries (RFC 8200 4.5). */
  fragmentable = 0;
  /** IPv6: the byte that says what header comes there. */
  nextHeader = 0;
  /** It has an IPv6 fragment header, if only of a packet that was not fragmented. */
  fragmentHeader = false;
  /** An IPv6 routing header with segments left: the destination address is not the final one. */
  routed = false;
}

/** Copies up to `limit` of a frame's first bytes to `into` at `at`; returns how many. */
export function gatherHeader(batch: FrameBatch, frame: number, into: Uint8Array, at: number, limit: number): number {
  const { segments } = batch;
  let segment = batch.firstSegment[frame] as number;
  const end = segment + (batch.segmentCount[frame] as number);
  let done = 0;
  for (; segment < end && done < limit; segment++) {
    const { u8 } = segments.views[segment] as ByteViews;
    const offset = segments.offset[segment] as number;
    const run = Math.min(segments.length[segment] as number, limit - done);
    for (let i = 0; i < run; i++) into[at + done + i] = u8[offset + i] as number;
    done += run;
  }
  return done;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

/**
 * Reads the headers in the first `available` bytes. Returns false when a header is cut short or lies about its own length; what was read up to there stands.
 */
export function parseHeaders(bytes: Uint8Array, available: number, into: FrameHeaders): boolean {
  clear(into);
  if (available < 14) return false;
  let at = 12;
  let type = read16(bytes, at);
  for (let tags = 0; tags < MAXIMUM_TAGS && (type === ETHERTYPE_VLAN || type === ETHERTYPE_QINQ); tags++) {
    if (available < at + 6) return false;
    if (tags === 0) into.vlan = read16(bytes, at + 2) & 0xfff;
    at += 4;
    type = read16(bytes, at);
  }
  into.etherType = type;
  into.network = at + 2;
  if (type === ETHERTYPE_IPV4) return parseIpv4(bytes, available, into);
  if (type === ETHERTYPE_IPV6) return parseIpv6(bytes, available, into);
  return true;
}

/** The same from an IP header on that starts at `network`: what a tunnel carries. */
export function parseIp(bytes: Uint8Array, available: number, network: number, version: 4 | 6, into: FrameHeaders): boolean {
  clear(into);
  into.network = network;
  return version === 4 ? parseIpv4(bytes, available, into) : parseIpv6(bytes, available, into);
}

function clear(into: FrameHeaders): void {
  into.etherType = 0;
  into.vlan = -1;
  into.network = 0;
  into.version = 0;
  into.protocol = 0;
  into.transport = 0;
  into.payload = 0;
  into.fragment = false;
  into.fragmentable = 0;
  into.nextHeader = 0;
  into.fragmentHeader = false;
  into.routed = false;
}

function parseIpv4(bytes: Uint8Array, available: number, into: FrameHeaders): boolean {
  const at = into.network;
  if (available < at + 20) return false;
  const first = bytes[at] as number;
  const headerLength = (first & 15) * 4;
  if (first >>> 4 !== 4 || headerLength < 20 || available < at + headerLength) return false;
  into.version = 4;
  into.protocol = bytes[at + 9] as number;
  into.transport = at + headerLength;
  into.fragmentable = into.transport;
  into.fragment = (read16(bytes, at + 6) & 0x3fff) !== 0;
  return into.fragment || parseTransport(bytes, available, into);
}

function parseIpv6(bytes: Uint8Array, available: number, into: FrameHeaders): boolean {
  const start = into.network;
  if (available < start + 40 || (bytes[start] as number) >>> 4 !== 6) return false;
  into.version = 6;
  let protocol = bytes[start + 6] as number;
  let at = start + 40;
  into.nextHeader = start + 6;
  into.fragmentable = at;
  for (let walked = 0; isExtension(protocol); walked++) {
    if (walked === MAXIMUM_EXTENSIONS || available < at + 8) return false;
    const length = protocol === FRAGMENT ? 8 : protocol === AUTHENTICATION ? ((bytes[at + 1] as number) + 2) * 4 : ((bytes[at + 1] as number) + 1) * 8;
    if (available < at + length) return false;
    if (protocol === ROUTING && (bytes[at + 3] as number) > 0) into.routed = true;
    if (protocol === FRAGMENT) into.fragmentHeader = true;
    if (protocol === FRAGMENT && (read16(bytes, at + 2) & 0xfff9) !== 0) into.fragment = true;
    if (protocol === HOP_BY_HOP || protocol === ROUTING) {
      into.nextHeader = at;
      into.fragmentable = at + length;
    }
    protocol = bytes[at] as number;
    at += length;
    if (into.fragment) break;
  }
  into.protocol = protocol;
  into.transport = at;
  return into.fragment || parseTransport(bytes, available, into);
}

function isExtension(protocol: number): boolean {
  return protocol === HOP_BY_HOP || protocol === ROUTING || protocol === FRAGMENT || protocol === AUTHENTICATION || protocol === DESTINATION_OPTIONS;
}

function parseTransport(bytes: Uint8Array, available: number, into: FrameHeaders): boolean {
  const at = into.transport;
  if (into.protocol === PROTOCOL_TCP) {
    if (available < at + 20) return false;
    const length = ((bytes[at + 12] as number) >>> 4) * 4;
    if (length < 20 || available < at + length) return false;
    into.payload = at + length;
  } else if (into.protocol === PROTOCOL_UDP) {
    if (available < at + 8) return false;
    into.payload = at + 8;
  }
  return true;
}
