// Asking a device to finish frames: checksum, segmentation and the same inside UDP tunnels (virtio 1.4 5.1.9.2). Fills the header's fields exactly, as
// GUEST_HDRLEN wants them, seeds the checksum fields, and refuses what was not negotiated.

import type { FrameLayout } from './frames.ts';
import type { TransmitOffload } from './net-transmit.ts';
import { fold, get16, set16 } from './packets.ts';
import { pseudoSum, type SegmentPlan } from './segment.ts';
import {
  NET_GSO_ECN,
  NET_GSO_TCPV4,
  NET_GSO_TCPV6,
  NET_GSO_UDP,
  NET_GSO_UDP_L4,
  NET_GSO_UDP_TUNNEL_IPV4,
  NET_GSO_UDP_TUNNEL_IPV6,
  NET_HDR_F_NEEDS_CSUM,
  NET_HDR_F_UDP_TUNNEL_CSUM,
  VIRTIO_NET_F,
} from './virtio-constants.ts';

export interface OffloadRequest {
  /** Payload bytes of a piece (fragment payload for UFO); 0: only the checksum. Default 0. */
  readonly gsoSize?: number;
  /** Cut a UDP datagram into IP fragments (UFO) in place of datagrams (USO). */
  readonly fragments?: boolean;
  /** In a tunnel: have the outer UDP checksum filled in too. Otherwise it has to be 0 or right already, which for pieces means 0. */
  readonly outerChecksum?: boolean;
}

const F = VIRTIO_NET_F;
const TCP_CWR = 0x80;

/** How the frame at `bytes` would be cut, whoever does it; undefined when it carries neither TCP nor UDP, or only a fragment of them. */
export function segmentPlan(bytes: Uint8Array, layout: FrameLayout, request: OffloadRequest): SegmentPlan | undefined {
  const network = layout.innerNetwork || layout.network;
  const version = (bytes[network] as number) >>> 4;
  const tcp = layout.payload - layout.transport >= 20;
  if (layout.transport === 0 || layout.payload - layout.transport < 8) return undefined;
  if (version === 4 && (get16(bytes, network + 6) & 0x3fff) !== 0) return undefined;
  const gsoType = tcp ? (version === 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6) : request.fragments ? NET_GSO_UDP : NET_GSO_UDP_L4;
  const outerNetwork = layout.innerNetwork ? layout.network : 0;
  return {
    gsoType,
    gsoSize: request.gsoSize ?? 0,
    network,
    transport: layout.transport,
    payload: layout.payload,
    outerNetwork,
    outerTransport: layout.outerTransport,
  };
}

/**
 * Makes `bytes` a frame that the device is to finish, and `offload` its header. False: a feature this needs was not negotiated (`has` says which were), and
 * nothing was changed: then the frame goes out finished, or cut by `Segmenter`.
 */
export function requestOffload(
  bytes: Uint8Array,
  layout: FrameLayout,
  request: OffloadRequest,
  has: (feature: number) => boolean,
  offload: TransmitOffload,
): boolean {
  const plan = segmentPlan(bytes, layout, request);
  if (!plan || !has(F.CSUM)) return false;
  const { gsoType, gsoSize, network, transport } = plan;
  const tcp = gsoType === NET_GSO_TCPV4 || gsoType === NET_GSO_TCPV6;
  const ecn = tcp && gsoSize > 0 && ((bytes[transport + 13] as number) & TCP_CWR) !== 0;
  const tunnel = layout.innerNetwork > 0 && gsoSize > 0;
  if (
    gsoSize > 0 &&
    !has(gsoType === NET_GSO_TCPV4 ? F.HOST_TSO4 : gsoType === NET_GSO_TCPV6 ? F.HOST_TSO6 : gsoType === NET_GSO_UDP ? F.HOST_UFO : F.HOST_USO)
  )
    return false;
  if (ecn && !has(F.HOST_ECN)) return false;
  // virtio 1.4 5.1.9.2.1 (driver MUST NOT): a tunnel bit over UFO, or without its feature; an outer checksum to fill in without its own.
  if (tunnel && (!has(F.HOST_UDP_TUNNEL_GSO) || gsoType === NET_GSO_UDP || layout.outerTransport === 0)) return false;
  if (request.outerChecksum && !(tunnel && has(F.HOST_UDP_TUNNEL_GSO_CSUM))) return false;
  const field = tcp ? 16 : 6;
  set16(bytes, transport + field, fold(pseudoSum(bytes, network, tcp ? 6 : 17, bytes.length - transport)));
  offload.clear();
  offload.flags = NET_HDR_F_NEEDS_CSUM;
  offload.csumStart = transport;
  offload.csumOffset = field;
  if (gsoSize === 0) return true;
  offload.gsoType = gsoType | (ecn ? NET_GSO_ECN : 0);
  offload.gsoSize = gsoSize;
  offload.headerLength = layout.payload;
  if (!tunnel) return true;
  offload.gsoType |= (bytes[network] as number) >>> 4 === 4 ? NET_GSO_UDP_TUNNEL_IPV4 : NET_GSO_UDP_TUNNEL_IPV6;
  offload.outerTransport = layout.outerTransport;
  offload.innerNetwork = layout.innerNetwork;
  const outer = layout.outerTransport;
  if (request.outerChecksum) {
    offload.flags |= NET_HDR_F_UDP_TUNNEL_CSUM;
    set16(bytes, outer + 6, fold(pseudoSum(bytes, layout.network, 17, bytes.length - outer)));
  } else set16(bytes, outer + 6, 0);
  return true;
}
