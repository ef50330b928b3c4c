// How Intel's parts want the headers of a frame they are to cut (8254x 3.5, 82576 7.2.4): no IP length and no IP checksum, and the transport checksum field holding the sum of a
// pseudo header without the length, as each segment has its own.

import type { TransmitOffload } from './net-transmit.ts';
import { ETHERTYPE_IPV4, fold, type Headers, PROTOCOL_TCP, PROTOCOL_UDP, pseudoHeaderSum, set16 } from './packets.ts';
import { NET_GSO_ECN, NET_GSO_UDP_L4 } from './virtio-constants.ts';

/** Prepares the frame of `length` bytes at `at`, whose headers all lie there in one piece, and describes them in `h`. Returns the bytes of the IP header. */
export function seedSegmentation(u8: Uint8Array, at: number, length: number, offload: TransmitOffload, h: Headers): number {
  h.parse(u8, at, length);
  const ip = at + h.network;
  const v4 = h.etherType === ETHERTYPE_IPV4;
  // Also when the lengths in it are not the frame's: they are taken out anyway.
  h.version = v4 ? 4 : 6;
  h.protocol = (offload.gsoType & ~NET_GSO_ECN) === NET_GSO_UDP_L4 ? PROTOCOL_UDP : PROTOCOL_TCP;
  const ipBytes = v4 ? ((u8[ip] as number) & 15) * 4 : offload.csumStart - h.network;
  set16(u8, ip + (v4 ? 2 : 4), 0);
  if (v4) set16(u8, ip + 10, 0);
  set16(u8, at + offload.csumStart + offload.csumOffset, fold(pseudoHeaderSum(u8, at, h, 0)));
  return ipBytes;
}
