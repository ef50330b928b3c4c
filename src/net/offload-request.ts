// What a frame's virtio_net_hdr asks of whoever passes it on, checked (virtio 1.4 5.1.9.2). The header is the sender's word and the receiver would act on it, so a request
// that makes no sense stops here: the frame is dropped as malformed, also when the receiver accepts such requests. A tunnel is taken at the sender's word for where its
// inner header starts; what is there has to be what the request says.

import { FrameHeaders, gatherHeader, HEADER_LIMIT, PROTOCOL_TCP, PROTOCOL_UDP, parseHeaders, parseIp, TUNNEL_HEADER_LIMIT } from './headers.ts';
import {
  ACCEPTS_CSUM,
  ACCEPTS_ECN,
  ACCEPTS_TSO4,
  ACCEPTS_TSO6,
  ACCEPTS_UDP_TUNNEL,
  ACCEPTS_UDP_TUNNEL_CSUM,
  ACCEPTS_UFO,
  ACCEPTS_USO4,
  ACCEPTS_USO6,
  FRAME_MALFORMED,
  FRAME_NEEDS_CSUM,
  FRAME_UDP_TUNNEL_CSUM,
  type FrameBatch,
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
  GSO_UDP_TUNNEL,
  GSO_UDP_TUNNEL_IPV4,
} from './port.ts';

/** Frames one GSO frame may become: 64 KiB in segments of 48 bytes (the least an IPv4 host may announce less a full set of options) and some. */
export const MAXIMUM_GSO_SEGMENTS = 2048;

export const TCP_CHECKSUM_OFFSET = 16;
export const UDP_CHECKSUM_OFFSET = 6;

const UDP_HEADER = 8;
const TCP_CWR = 0x80;
const LONGEST_DATAGRAM = 0xffff;

const scratch = new Uint8Array(TUNNEL_HEADER_LIMIT);
const headers = new FrameHeaders();
const outer = new FrameHeaders();

/**
 * Fills in `batch.needs` when any frame asks for anything; returns the OR over the frames, 0 when there is nothing to look at (then `needs` is stale).
 */
export function inspectOffloads(batch: FrameBatch): number {
  const { count, flags, gsoType, needs, length, csumStart, csumOffset } = batch;
  let asked = 0;
  for (let i = 0; i < count; i++) asked |= ((flags[i] as number) & FRAME_NEEDS_CSUM) | (gsoType[i] as number);
  if (asked === 0) return 0;
  let all = 0;
  for (let i = 0; i < count; i++) {
    let need = 0;
    if (gsoType[i] !== 0) need = segmentationNeeds(batch, i);
    else if (((flags[i] as number) & FRAME_NEEDS_CSUM) !== 0)
      need = (csumStart[i] as number) + (csumOffset[i] as number) + 2 > (length[i] as number) ? FRAME_MALFORMED : ACCEPTS_CSUM;
    needs[i] = need;
    all |= need;
  }
  return all;
}

function segmentationNeeds(batch: FrameBatch, frame: number): number {
  const type = batch.gsoType[frame] as number;
  const copied = gatherHeader(batch, frame, scratch, 0, headerLimit(type));
  const needs = gsoNeeds(batch, frame, scratch, copied, headers, outer);
  if (needs !== FRAME_MALFORMED) {
    // virtio 1.4 5.1.9.4.1 (device SHOULD): hdr_len covers the headers. The sender's may not.
    batch.headerLength[frame] = headers.payload;
    // virtio 1.4 5.1.9.4.1 (device MUST): and the ECN bit is set where the packet has it, also when the sender had no such bit to set.
    if ((needs & ACCEPTS_ECN) !== 0) batch.gsoType[frame] = type | GSO_ECN;
  }
  return needs;
}

/** Bytes in which the headers of a GSO frame of this type have to be. */
export function headerLimit(gsoType: number): number {
  return (gsoType & GSO_UDP_TUNNEL) === 0 ? HEADER_LIMIT : TUNNEL_HEADER_LIMIT;
}

/**
 * How many leading frames of a batch (at least one) become at most about `pieces` frames when they are segmented: a budget of bytes alone would let a sender of
 * tiny segment sizes keep the thread a hundred times longer than its neighbours. Call after inspectOffloads found something.
 */
export function framesWithin(batch: FrameBatch, pieces: number): number {
  let sum = 0;
  for (let i = 0; i < batch.count; i++) {
    if (batch.gsoType[i] === 0 || ((batch.needs[i] as number) & FRAME_MALFORMED) !== 0) continue;
    const size = batch.gsoSize[i] as number;
    // IP fragments lie at multiples of eight bytes.
    const piece = ((batch.gsoType[i] as number) & ~GSO_ECN) === GSO_UDP ? Math.max(8, size & ~7) : size;
    sum += Math.ceil((batch.length[i] as number) / piece);
    if (sum > pieces && i > 0) return i;
  }
  return batch.count;
}

/**
 * What a GSO frame needs, by its headers in `bytes`; FRAME_MALFORMED when they do not fit the request. `into` holds the parsed headers afterwards, of a tunnel the
 * inner ones, and `around` the outer ones. hdr_len is not looked at: it is a hint that may be wrong.
 */
export function gsoNeeds(batch: FrameBatch, frame: number, bytes: Uint8Array, available: number, into: FrameHeaders, around: FrameHeaders): number {
  const type = batch.gsoType[frame] as number;
  const size = batch.gsoSize[frame] as number;
  const flags = batch.flags[frame] as number;
  const tunnel = type & GSO_UDP_TUNNEL;
  // virtio 1.4 5.1.9.2.1 (driver MUST): a GSO frame has NEEDS_CSUM set and the segment size in gso_size.
  if ((flags & FRAME_NEEDS_CSUM) === 0 || size === 0) return FRAME_MALFORMED;
  if (tunnel === 0) {
    if ((flags & FRAME_UDP_TUNNEL_CSUM) !== 0 || !parseHeaders(bytes, available, into)) return FRAME_MALFORMED;
  } else if (!parseTunnel(batch, frame, bytes, available, into, around)) return FRAME_MALFORMED;
  if (into.payload === 0 || into.fragment || into.routed) return FRAME_MALFORMED;
  if ((batch.length[frame] as number) - into.payload > size * MAXIMUM_GSO_SEGMENTS) return FRAME_MALFORMED;
  if (batch.csumStart[frame] !== into.transport) return FRAME_MALFORMED;
  const base = type & ~(GSO_ECN | GSO_UDP_TUNNEL);
  const tunnelNeeds = tunnel === 0 ? 0 : ACCEPTS_UDP_TUNNEL | ((flags & FRAME_UDP_TUNNEL_CSUM) === 0 ? 0 : ACCEPTS_UDP_TUNNEL_CSUM);
  if (base === GSO_UDP_L4 || base === GSO_UDP) {
    if (into.protocol !== PROTOCOL_UDP || batch.csumOffset[frame] !== UDP_CHECKSUM_OFFSET || (type & GSO_ECN) !== 0) return FRAME_MALFORMED;
    if (base === GSO_UDP) return tunnel === 0 && fragmentable(batch.length[frame] as number, size, into) ? ACCEPTS_UFO | ACCEPTS_CSUM : FRAME_MALFORMED;
    return (into.version === 4 ? ACCEPTS_USO4 : ACCEPTS_USO6) | ACCEPTS_CSUM | tunnelNeeds;
  }
  const family = base === GSO_TCPV4 ? 4 : base === GSO_TCPV6 ? 6 : 0;
  if (family === 0 || into.version !== family || into.protocol !== PROTOCOL_TCP || batch.csumOffset[frame] !== TCP_CHECKSUM_OFFSET) return FRAME_MALFORMED;
  const congestion = (type & GSO_ECN) !== 0 || ((bytes[into.transport + 13] as number) & TCP_CWR) !== 0;
  return (family === 4 ? ACCEPTS_TSO4 : ACCEPTS_TSO6) | (congestion ? ACCEPTS_ECN : 0) | ACCEPTS_CSUM | tunnelNeeds;
}

/** virtio 1.4 5.1.9.2.1: outer UDP where outer_th_offset says, inner IP where inner_nh_offset says, of the version the type says. */
function parseTunnel(batch: FrameBatch, frame: number, bytes: Uint8Array, available: number, into: FrameHeaders, around: FrameHeaders): boolean {
  const type = batch.gsoType[frame] as number;
  if ((type & GSO_UDP_TUNNEL) === GSO_UDP_TUNNEL) return false;
  if (!parseHeaders(bytes, available, around) || around.protocol !== PROTOCOL_UDP || around.fragment || around.routed) return false;
  const inner = batch.innerNetwork[frame] as number;
  if (batch.outerTransport[frame] !== around.transport || inner < around.transport + UDP_HEADER) return false;
  return parseIp(bytes, available, inner, (type & GSO_UDP_TUNNEL_IPV4) !== 0 ? 4 : 6, into);
}

/** A datagram that IP can carry in fragments of `size` bytes of payload, in eights (RFC 791 3.2), whose first holds all its headers (RFC 7112 5). */
function fragmentable(length: number, size: number, { version, network, fragmentable, payload, fragmentHeader }: FrameHeaders): boolean {
  const datagram = length - network - (version === 4 ? 0 : 40);
  return !fragmentHeader && datagram <= LONGEST_DATAGRAM && (size & ~7) >= payload - fragmentable;
}
