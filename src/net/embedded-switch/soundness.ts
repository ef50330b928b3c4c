// Whether what a frame's sender still asks for is sound: whether the checksum that is to be filled in is one, and not a way to change what has been checked; and whether a request to cut still fits the headers, which
// the sender may have changed since it was looked at.

import { PROTOCOL_TCP, PROTOCOL_UDP } from '../headers.ts';
import { TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET } from '../offload-request.ts';
import { FRAME_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_TUNNEL } from '../port.ts';
import { ETHERTYPE_IPV4, type FrameKey } from './frame-key.ts';
import { KEY_TYPE } from './layout.ts';
import type { WorkFrames } from './work-frames.ts';

const IPV4 = 14;
const TRANSPORT = IPV4 + 20;
/** The first byte of an IPv4 header without options. */
export const IPV4_PLAIN = 0x45;
/** Bytes of a frame that are to be there for a look to do. */
export const CHECKSUM_SIGHT = TRANSPORT + 20;

/** By the frame's key. */
export function isSound({ output }: WorkFrames, place: number, key: FrameKey): boolean {
  const type = (output.gsoType[place] as number) & ~GSO_ECN;
  const asks = ((output.flags[place] as number) & FRAME_NEEDS_CSUM) !== 0;
  if (type === GSO_NONE && !asks) return true;
  const start = output.csumStart[place] as number;
  return asks && fits(type, start, key) && key.allowsChecksum(start, output.csumOffset[place] as number);
}

/** Whether the headers are of the kind that a request to cut names; inside a tunnel they are looked at when it is carried out. */
function fits(type: number, start: number, key: FrameKey): boolean {
  if (type === GSO_NONE || (type & GSO_UDP_TUNNEL) !== 0) return true;
  if (key.transport === 0 || key.transport - key.frame !== start) return false;
  if (type === GSO_TCPV4 || type === GSO_TCPV6) return key.protocol === PROTOCOL_TCP && key.version === (type === GSO_TCPV4 ? 4 : 6);
  return key.protocol === PROTOCOL_UDP;
}

/** The same of the commonest frames by a few bytes, when of the key only the Ethernet header has been read. False: it takes the whole key to tell. */
export function isSoundAtSight({ output, bytes, start, end }: WorkFrames, place: number, key: FrameKey): boolean {
  const at = start[place] as number;
  if (key.words[KEY_TYPE] !== ETHERTYPE_IPV4 || (end[place] as number) - at < CHECKSUM_SIGHT || bytes[at + IPV4] !== IPV4_PLAIN) return false;
  if (((output.flags[place] as number) & FRAME_NEEDS_CSUM) === 0) return false;
  const fragment = (bytes[at + IPV4 + 6] as number) | ((bytes[at + IPV4 + 7] as number) << 8);
  const type = (output.gsoType[place] as number) & ~GSO_ECN;
  return isTransportSum(fragment, bytes[at + IPV4 + 9] as number, output.csumStart[place] as number, output.csumOffset[place] as number, type);
}

/**
 * TCP or UDP straight behind an IPv4 header without options, in one piece, its checksum where it is.
 * @param fragment bytes 6 and 7 of the IPv4 header, the first the lower
 */
export function isTransportSum(fragment: number, protocol: number, start: number, offset: number, type: number): boolean {
  if ((fragment & 0xff3f) !== 0 || start !== TRANSPORT) return false;
  if (protocol === PROTOCOL_TCP) return offset === TCP_CHECKSUM_OFFSET && (type === GSO_NONE || type === GSO_TCPV4);
  return protocol === PROTOCOL_UDP && offset === UDP_CHECKSUM_OFFSET && type === GSO_NONE;
}
