// What a frame's virtio_net_hdr asks of whoever passes it on, checked (virtio 1.4 5.1.6.2). The header is the sender's word and the receiver would act on it, so a request
// that makes no sense stops here: the frame is dropped as malformed, also when the receiver accepts such requests. UFO and tunnel GSO are not offered.

import { FrameHeaders, gatherHeader, HEADER_LIMIT, PROTOCOL_TCP, PROTOCOL_UDP, parseHeaders } from './headers.ts';
import {
  ACCEPTS_CSUM,
  ACCEPTS_ECN,
  ACCEPTS_TSO4,
  ACCEPTS_TSO6,
  ACCEPTS_USO4,
  ACCEPTS_USO6,
  FRAME_MALFORMED,
  FRAME_NEEDS_CSUM,
  type FrameBatch,
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP_L4,
} from './port.ts';

/** Frames one GSO frame may become: 64 KiB in segments of 48 bytes (the least an IPv4 host may announce less a full set of options) and some. */
export const MAXIMUM_GSO_SEGMENTS = 2048;

export const TCP_CHECKSUM_OFFSET = 16;
export const UDP_CHECKSUM_OFFSET = 6;

const scratch = new Uint8Array(HEADER_LIMIT);
const headers = new FrameHeaders();

/**
 * Fills in `batch.needs` when any frame asks for anything; returns the OR over the frames, 0 when there is nothing to look at (then `needs` is stale).
 */
export function inspectOffloads(batch: FrameBatch): number {
  const { count, flags, gsoType, needs } = batch;
  let asked = 0;
  for (let i = 0; i < count; i++) asked |= ((flags[i] as number) & FRAME_NEEDS_CSUM) | (gsoType[i] as number);
  if (asked === 0) return 0;
  let all = 0;
  for (let i = 0; i < count; i++) {
    const need = offloadNeeds(batch, i);
    needs[i] = need;
    all |= need;
  }
  return all;
}

function offloadNeeds(batch: FrameBatch, frame: number): number {
  const type = batch.gsoType[frame] as number;
  const wantsChecksum = ((batch.flags[frame] as number) & FRAME_NEEDS_CSUM) !== 0;
  if (type === 0) {
    if (!wantsChecksum) return 0;
    const field = (batch.csumStart[frame] as number) + (batch.csumOffset[frame] as number);
    return field + 2 > (batch.length[frame] as number) ? FRAME_MALFORMED : ACCEPTS_CSUM;
  }
  const copied = gatherHeader(batch, frame, scratch, 0, HEADER_LIMIT);
  const needs = gsoNeeds(batch, frame, scratch, copied, headers);
  // virtio 1.4 5.1.6.4.1 (device SHOULD): hdr_len covers the headers. The sender's may not.
  if (needs !== FRAME_MALFORMED) batch.headerLength[frame] = headers.payload;
  return needs;
}

/**
 * How many leading frames of a batch (at least one) become at most about `pieces` frames when they are segmented: a budget of bytes alone would let a sender of
 * tiny segment sizes keep the thread a hundred times longer than its neighbours. Call after inspectOffloads found something.
 */
export function framesWithin(batch: FrameBatch, pieces: number): number {
  let sum = 0;
  for (let i = 0; i < batch.count; i++) {
    if (batch.gsoType[i] === 0 || ((batch.needs[i] as number) & FRAME_MALFORMED) !== 0) continue;
    sum += Math.ceil((batch.length[i] as number) / (batch.gsoSize[i] as number));
    if (sum > pieces && i > 0) return i;
  }
  return batch.count;
}

/**
 * What a GSO frame needs, by its headers in `bytes`; FRAME_MALFORMED when they do not fit the request. `into` holds the parsed headers afterwards.
 * hdr_len is not looked at: it is a hint that may be wrong.
 */
export function gsoNeeds(batch: FrameBatch, frame: number, bytes: Uint8Array, available: number, into: FrameHeaders): number {
  const type = batch.gsoType[frame] as number;
  const size = batch.gsoSize[frame] as number;
  // virtio 1.4 5.1.6.2.1 (driver MUST): a GSO frame has NEEDS_CSUM set and the segment size in gso_size.
  if (((batch.flags[frame] as number) & FRAME_NEEDS_CSUM) === 0 || size === 0) return FRAME_MALFORMED;
  if (!parseHeaders(bytes, available, into) || into.payload === 0 || into.fragment || into.routed) return FRAME_MALFORMED;
  if ((batch.length[frame] as number) - into.payload > size * MAXIMUM_GSO_SEGMENTS) return FRAME_MALFORMED;
  if (batch.csumStart[frame] !== into.transport) return FRAME_MALFORMED;
  const base = type & ~GSO_ECN;
  if (base === GSO_UDP_L4) {
    if (into.protocol !== PROTOCOL_UDP || batch.csumOffset[frame] !== UDP_CHECKSUM_OFFSET || type !== base) return FRAME_MALFORMED;
    return (into.version === 4 ? ACCEPTS_USO4 : ACCEPTS_USO6) | ACCEPTS_CSUM;
  }
  const family = base === GSO_TCPV4 ? 4 : base === GSO_TCPV6 ? 6 : 0;
  if (family === 0 || into.version !== family || into.protocol !== PROTOCOL_TCP || batch.csumOffset[frame] !== TCP_CHECKSUM_OFFSET) return FRAME_MALFORMED;
  return (family === 4 ? ACCEPTS_TSO4 : ACCEPTS_TSO6) | (type === base ? 0 : ACCEPTS_ECN) | ACCEPTS_CSUM;
}
