// struct virtio_net_hdr (virtio 1.4 5.1.9) however a driver laid it out: what a transmit request in it may ask under the features
// negotiated. Left out: IPsec, which no backend here offers, so its bits are unknown bits and disregarded.

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
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
  GSO_UDP_TUNNEL,
} from '#net/port';
import type { FeatureSet } from '#virtio/features';
import {
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO,
  VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM,
  VIRTIO_NET_F_HOST_UFO,
  VIRTIO_NET_F_HOST_USO,
} from '#virtio/net-features';

/** Offloads this driver may ask for on transmit, as ACCEPTS_* bits. */
export function transmitOffloads(features: FeatureSet): number {
  let bits = 0;
  if (features.has(VIRTIO_NET_F_CSUM)) bits |= ACCEPTS_CSUM;
  if (features.has(VIRTIO_NET_F_HOST_TSO4)) bits |= ACCEPTS_TSO4;
  if (features.has(VIRTIO_NET_F_HOST_TSO6)) bits |= ACCEPTS_TSO6;
  if (features.has(VIRTIO_NET_F_HOST_ECN)) bits |= ACCEPTS_ECN;
  if (features.has(VIRTIO_NET_F_HOST_USO)) bits |= ACCEPTS_USO4 | ACCEPTS_USO6;
  if (features.has(VIRTIO_NET_F_HOST_UFO)) bits |= ACCEPTS_UFO;
  if (features.has(VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO)) bits |= ACCEPTS_UDP_TUNNEL;
  if (features.has(VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM)) bits |= ACCEPTS_UDP_TUNNEL_CSUM;
  return bits;
}

/** True when `gsoType` is NONE or one this driver may use. */
export function gsoAllowed(gsoType: number, offloads: number): boolean {
  if ((gsoType & GSO_ECN) !== 0 && (offloads & ACCEPTS_ECN) === 0) return false;
  const tunnel = gsoType & GSO_UDP_TUNNEL;
  // virtio 1.4 5.1.9.2.2 (device MUST NOT accept): both, or a tunnel of nothing that is to be cut.
  if (tunnel !== 0 && ((offloads & ACCEPTS_UDP_TUNNEL) === 0 || tunnel === GSO_UDP_TUNNEL)) return false;
  switch (gsoType & ~(GSO_ECN | GSO_UDP_TUNNEL)) {
    case GSO_NONE:
      return gsoType === GSO_NONE;
    case GSO_UDP:
      return gsoType === GSO_UDP && (offloads & ACCEPTS_UFO) !== 0;
    case GSO_TCPV4:
      return (offloads & ACCEPTS_TSO4) !== 0;
    case GSO_TCPV6:
      return (offloads & ACCEPTS_TSO6) !== 0;
    case GSO_UDP_L4:
      return (offloads & (ACCEPTS_USO4 | ACCEPTS_USO6)) !== 0 && (gsoType & GSO_ECN) === 0;
    default:
      return false;
  }
}
