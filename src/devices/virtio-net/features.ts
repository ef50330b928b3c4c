// What a virtio-net device offers (virtio 1.4 5.1.3): everything whose whole behaviour is here, within what the backend's data plane carries and what the embedder
// asks for.

import { VirtioOptionError } from '#virtio/device';
import {
  FeatureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ADMIN_VQ,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
} from '#virtio/features';
import * as net from '#virtio/net-features';

/** Feature bits an embedder may turn on and off, by the specification's names without their prefix. */
export const NET_FEATURES = {
  CSUM: net.VIRTIO_NET_F_CSUM,
  GUEST_CSUM: net.VIRTIO_NET_F_GUEST_CSUM,
  CTRL_GUEST_OFFLOADS: net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
  MTU: net.VIRTIO_NET_F_MTU,
  MAC: net.VIRTIO_NET_F_MAC,
  GUEST_TSO4: net.VIRTIO_NET_F_GUEST_TSO4,
  GUEST_TSO6: net.VIRTIO_NET_F_GUEST_TSO6,
  GUEST_ECN: net.VIRTIO_NET_F_GUEST_ECN,
  HOST_TSO4: net.VIRTIO_NET_F_HOST_TSO4,
  HOST_TSO6: net.VIRTIO_NET_F_HOST_TSO6,
  HOST_ECN: net.VIRTIO_NET_F_HOST_ECN,
  MRG_RXBUF: net.VIRTIO_NET_F_MRG_RXBUF,
  STATUS: net.VIRTIO_NET_F_STATUS,
  CTRL_VQ: net.VIRTIO_NET_F_CTRL_VQ,
  CTRL_RX: net.VIRTIO_NET_F_CTRL_RX,
  CTRL_VLAN: net.VIRTIO_NET_F_CTRL_VLAN,
  CTRL_RX_EXTRA: net.VIRTIO_NET_F_CTRL_RX_EXTRA,
  MQ: net.VIRTIO_NET_F_MQ,
  GUEST_ANNOUNCE: net.VIRTIO_NET_F_GUEST_ANNOUNCE,
  CTRL_MAC_ADDR: net.VIRTIO_NET_F_CTRL_MAC_ADDR,
  GUEST_UFO: net.VIRTIO_NET_F_GUEST_UFO,
  HOST_UFO: net.VIRTIO_NET_F_HOST_UFO,
  GUEST_HDRLEN: net.VIRTIO_NET_F_GUEST_HDRLEN,
  RSC_EXT: net.VIRTIO_NET_F_RSC_EXT,
  GUEST_UDP_TUNNEL_GSO: net.VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO,
  GUEST_UDP_TUNNEL_GSO_CSUM: net.VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM,
  HOST_UDP_TUNNEL_GSO: net.VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO,
  HOST_UDP_TUNNEL_GSO_CSUM: net.VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM,
  OUT_NET_HEADER: net.VIRTIO_NET_F_OUT_NET_HEADER,
  GUEST_USO4: net.VIRTIO_NET_F_GUEST_USO4,
  GUEST_USO6: net.VIRTIO_NET_F_GUEST_USO6,
  HOST_USO: net.VIRTIO_NET_F_HOST_USO,
  STANDBY: net.VIRTIO_NET_F_STANDBY,
  HASH_TUNNEL: net.VIRTIO_NET_F_HASH_TUNNEL,
  HASH_REPORT: net.VIRTIO_NET_F_HASH_REPORT,
  RSS: net.VIRTIO_NET_F_RSS,
  RSS_CONTEXT: net.VIRTIO_NET_F_RSS_CONTEXT,
  DEVICE_STATS: net.VIRTIO_NET_F_DEVICE_STATS,
  VQ_NOTF_COAL: net.VIRTIO_NET_F_VQ_NOTF_COAL,
  NOTF_COAL: net.VIRTIO_NET_F_NOTF_COAL,
  SPEED_DUPLEX: net.VIRTIO_NET_F_SPEED_DUPLEX,
  INDIRECT_DESC: VIRTIO_F_INDIRECT_DESC,
  EVENT_IDX: VIRTIO_F_EVENT_IDX,
  ACCESS_PLATFORM: VIRTIO_F_ACCESS_PLATFORM,
  RING_PACKED: VIRTIO_F_RING_PACKED,
  IN_ORDER: VIRTIO_F_IN_ORDER,
  RING_RESET: VIRTIO_F_RING_RESET,
  ADMIN_VQ: VIRTIO_F_ADMIN_VQ,
  SUSPEND: VIRTIO_F_SUSPEND,
} as const;

export type NetFeatureName = keyof typeof NET_FEATURES;

/** To be of use to anybody, an offer also needs these; a driver may leave them out. */
const OFFER_DEPENDENCIES: readonly net.FeatureDependency[] = [
  ...net.NET_FEATURE_DEPENDENCIES,
  // The request to announce is a bit of the status field.
  { bit: net.VIRTIO_NET_F_GUEST_ANNOUNCE, needs: [net.VIRTIO_NET_F_STATUS] },
];

function nameOf(bit: number): string {
  for (const [name, number] of Object.entries(NET_FEATURES)) if (number === bit) return name;
  return `bit ${bit}`;
}

/** Why this set cannot work together (virtio 1.4 2.2.1, 5.1.3.1), or undefined. */
export function missingDependency(features: FeatureSet): string | undefined {
  for (const { bit, needs } of net.NET_FEATURE_DEPENDENCIES)
    if (features.has(bit) && !needs.some((need) => features.has(need))) return `${nameOf(bit)} needs ${needs.map(nameOf).join(' or ')}`;
  return undefined;
}

function offeredUnasked(bit: number, queuePairs: number): boolean {
  switch (bit) {
    // Only a device whose memory is translated has a reason to ask for platform access.
    case VIRTIO_F_ACCESS_PLATFORM:
    // Only a fail-over pair has a standby; what an administration queue is for is the embedder's to say.
    case net.VIRTIO_NET_F_STANDBY:
    case VIRTIO_F_ADMIN_VQ:
    // These make the header of every frame longer, which only some drivers get anything for.
    case net.VIRTIO_NET_F_HASH_REPORT:
    case net.VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO:
    case net.VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO:
    case net.VIRTIO_NET_F_OUT_NET_HEADER:
      return false;
    case net.VIRTIO_NET_F_RSS:
      return queuePairs > 1;
    default:
      return true;
  }
}

export interface OfferOptions {
  /** true: must be offered; false: must not be; absent: offered if it makes sense. */
  readonly features: { readonly [name in NetFeatureName]?: boolean };
  readonly backend: FeatureSet;
  readonly queuePairs: number;
  readonly hasMtu: boolean;
  readonly hasSpeed: boolean;
  readonly rssContexts: number;
}

/** The set offered. @throws VirtioOptionError when what is asked for cannot be. */
export function offer({ features, backend, queuePairs, hasMtu, hasSpeed, rssContexts }: OfferOptions): FeatureSet {
  for (const name of Object.keys(features))
    if (!(name in NET_FEATURES))
      throw new VirtioOptionError('NICBOX_FEATURE_UNKNOWN', `no feature is called ${name}; these are: ${Object.keys(NET_FEATURES).join(', ')}`);
  const asked = features as Readonly<Record<string, boolean | undefined>>;
  const wants: Readonly<Record<string, [reason: string, possible: boolean]>> = {
    MQ: ['queuePairs above 1', queuePairs > 1],
    RSS_CONTEXT: ['rss.contexts above 0', rssContexts > 0],
    MTU: ['an mtu', hasMtu],
    SPEED_DUPLEX: ['a speed', hasSpeed],
  };
  const bits: number[] = [VIRTIO_F_VERSION_1];
  for (const [name, bit] of Object.entries(NET_FEATURES)) {
    const [reason, possible] = wants[name] ?? ['', true];
    const carried = !net.NET_DATA_PLANE_FEATURES.has(bit) || backend.has(bit);
    if (asked[name] === true && !carried) throw new VirtioOptionError('NICBOX_FEATURE_UNSUPPORTED', `${name}: the backend's data plane does not carry it`);
    if (asked[name] === true && !possible) throw new VirtioOptionError('NICBOX_FEATURE_DEPENDENCY', `${name} needs ${reason}`);
    if ((asked[name] ?? offeredUnasked(bit, queuePairs)) && carried && possible) bits.push(bit);
  }
  let offered = FeatureSet.of(...bits);
  // Defaults whose prerequisite was turned off go with it, in rounds as one may carry another; a bit asked for by name is an error instead.
  for (let changed = true; changed; ) {
    changed = false;
    for (const { bit, needs } of OFFER_DEPENDENCIES) {
      if (!offered.has(bit) || needs.some((need) => offered.has(need))) continue;
      if (asked[nameOf(bit)] === true)
        throw new VirtioOptionError('NICBOX_FEATURE_DEPENDENCY', `${nameOf(bit)} needs ${needs.map(nameOf).join(' or ')}, which is not offered`);
      offered = offered.without(FeatureSet.of(bit));
      changed = true;
    }
  }
  if (queuePairs > 1 && !net.hasQueuePairs(offered))
    throw new VirtioOptionError('NICBOX_FEATURE_DEPENDENCY', `${queuePairs} queue pairs need CTRL_VQ, and MQ or RSS`);
  return offered;
}
