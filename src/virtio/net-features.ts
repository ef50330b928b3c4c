// Network device feature bits (virtio 1.4 5.1.3), what each needs (5.1.3.1), and which of them the data plane carries. They stand here and not in the device
// because both sides of the vhost port speak of them. Legacy-only bits (GSO, GUEST_RSC4/6) have no name here.

import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from './features.ts';

export const VIRTIO_NET_F_CSUM = 0;
export const VIRTIO_NET_F_GUEST_CSUM = 1;
export const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 2;
export const VIRTIO_NET_F_MTU = 3;
export const VIRTIO_NET_F_MAC = 5;
export const VIRTIO_NET_F_GUEST_TSO4 = 7;
export const VIRTIO_NET_F_GUEST_TSO6 = 8;
export const VIRTIO_NET_F_GUEST_ECN = 9;
export const VIRTIO_NET_F_GUEST_UFO = 10;
export const VIRTIO_NET_F_HOST_TSO4 = 11;
export const VIRTIO_NET_F_HOST_TSO6 = 12;
export const VIRTIO_NET_F_HOST_ECN = 13;
export const VIRTIO_NET_F_HOST_UFO = 14;
export const VIRTIO_NET_F_MRG_RXBUF = 15;
export const VIRTIO_NET_F_STATUS = 16;
export const VIRTIO_NET_F_CTRL_VQ = 17;
export const VIRTIO_NET_F_CTRL_RX = 18;
export const VIRTIO_NET_F_CTRL_VLAN = 19;
export const VIRTIO_NET_F_CTRL_RX_EXTRA = 20;
export const VIRTIO_NET_F_GUEST_ANNOUNCE = 21;
export const VIRTIO_NET_F_MQ = 22;
export const VIRTIO_NET_F_CTRL_MAC_ADDR = 23;
export const VIRTIO_NET_F_DEVICE_STATS = 50;
export const VIRTIO_NET_F_HASH_TUNNEL = 51;
export const VIRTIO_NET_F_VQ_NOTF_COAL = 52;
export const VIRTIO_NET_F_NOTF_COAL = 53;
export const VIRTIO_NET_F_GUEST_USO4 = 54;
export const VIRTIO_NET_F_GUEST_USO6 = 55;
export const VIRTIO_NET_F_HOST_USO = 56;
export const VIRTIO_NET_F_HASH_REPORT = 57;
export const VIRTIO_NET_F_GUEST_HDRLEN = 59;
export const VIRTIO_NET_F_RSS = 60;
export const VIRTIO_NET_F_RSC_EXT = 61;
export const VIRTIO_NET_F_STANDBY = 62;
export const VIRTIO_NET_F_SPEED_DUPLEX = 63;
export const VIRTIO_NET_F_RSS_CONTEXT = 64;
export const VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO = 65;
export const VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM = 66;
export const VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO = 67;
export const VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM = 68;
export const VIRTIO_NET_F_OUT_NET_HEADER = 69;

/** Of an address. */
export const MAC_BYTES = 6;

/** Bytes of struct virtio_net_hdr (virtio 1.4 5.1.9): fields stay where they are, so a later one brings those before it. */
export function netHeaderBytes(features: FeatureSet): number {
  if (features.has(VIRTIO_NET_F_OUT_NET_HEADER)) return 32;
  if (features.has(VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO) || features.has(VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO)) return 24;
  if (features.has(VIRTIO_NET_F_HASH_REPORT)) return 20;
  // virtio 1.4 5.1.9.1: num_buffers is there for a legacy driver only with MRG_RXBUF.
  return features.has(VIRTIO_F_VERSION_1) || features.has(VIRTIO_NET_F_MRG_RXBUF) ? 12 : 10;
}

/** `bit` is of use only with one of `needs`; a bit that needs several has several entries. */
export interface FeatureDependency {
  readonly bit: number;
  readonly needs: readonly number[];
}

// virtio 1.4 5.1.3.1. CTRL_GUEST_OFFLOADS and DEVICE_STATS are not in that list but have nowhere to go without the control queue (virtio-spec.md trap 12).
export const NET_FEATURE_DEPENDENCIES: readonly FeatureDependency[] = [
  { bit: VIRTIO_NET_F_GUEST_TSO4, needs: [VIRTIO_NET_F_GUEST_CSUM] },
  { bit: VIRTIO_NET_F_GUEST_TSO6, needs: [VIRTIO_NET_F_GUEST_CSUM] },
  { bit: VIRTIO_NET_F_GUEST_ECN, needs: [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6] },
  { bit: VIRTIO_NET_F_GUEST_USO4, needs: [VIRTIO_NET_F_GUEST_CSUM] },
  { bit: VIRTIO_NET_F_GUEST_USO6, needs: [VIRTIO_NET_F_GUEST_CSUM] },
  { bit: VIRTIO_NET_F_GUEST_UFO, needs: [VIRTIO_NET_F_GUEST_CSUM] },
  ...[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6].map((need) => ({
    bit: VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO,
    needs: [need],
  })),
  { bit: VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM, needs: [VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO] },
  // 5.1.3.1 says HOST_TSO, the prose GUEST_TSO (virtio-spec.md trap 8): either will do.
  { bit: VIRTIO_NET_F_RSC_EXT, needs: [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6] },
  { bit: VIRTIO_NET_F_HOST_TSO4, needs: [VIRTIO_NET_F_CSUM] },
  { bit: VIRTIO_NET_F_HOST_TSO6, needs: [VIRTIO_NET_F_CSUM] },
  { bit: VIRTIO_NET_F_HOST_ECN, needs: [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6] },
  { bit: VIRTIO_NET_F_HOST_USO, needs: [VIRTIO_NET_F_CSUM] },
  { bit: VIRTIO_NET_F_HOST_UFO, needs: [VIRTIO_NET_F_CSUM] },
  ...[VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO].map((need) => ({ bit: VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO, needs: [need] })),
  { bit: VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM, needs: [VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO] },
  { bit: VIRTIO_NET_F_CTRL_RX, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_CTRL_RX_EXTRA, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_CTRL_VLAN, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_CTRL_MAC_ADDR, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_MQ, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_GUEST_ANNOUNCE, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_RSS, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_HASH_REPORT, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_HASH_TUNNEL, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_HASH_TUNNEL, needs: [VIRTIO_NET_F_RSS, VIRTIO_NET_F_HASH_REPORT] },
  { bit: VIRTIO_NET_F_RSS_CONTEXT, needs: [VIRTIO_NET_F_RSS] },
  { bit: VIRTIO_NET_F_NOTF_COAL, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_VQ_NOTF_COAL, needs: [VIRTIO_NET_F_CTRL_VQ] },
  { bit: VIRTIO_NET_F_DEVICE_STATS, needs: [VIRTIO_NET_F_CTRL_VQ] },
];

/** Data-plane features whose settings reach the data plane in the policy words, or that count in shared words: a data plane that has no such words cannot have them. */
export const NET_POLICY_FEATURES = FeatureSet.of(
  VIRTIO_NET_F_RSS,
  VIRTIO_NET_F_HASH_REPORT,
  VIRTIO_NET_F_HASH_TUNNEL,
  VIRTIO_NET_F_RSS_CONTEXT,
  VIRTIO_NET_F_DEVICE_STATS,
  VIRTIO_NET_F_VQ_NOTF_COAL,
  VIRTIO_NET_F_NOTF_COAL,
);

/** virtio 1.4 5.1.2: there is more than one pair of queues only with one of these. */
export function hasQueuePairs(features: FeatureSet): boolean {
  return features.has(VIRTIO_NET_F_MQ) || features.has(VIRTIO_NET_F_RSS);
}

/** Bits a device may offer only when its backend carries them: the ring's format, everything that shapes a frame, when it notifies, what it counts. */
export const NET_DATA_PLANE_FEATURES = FeatureSet.of(
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_IN_ORDER,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_GUEST_USO4,
  VIRTIO_NET_F_GUEST_USO6,
  VIRTIO_NET_F_HOST_USO,
  VIRTIO_NET_F_GUEST_UFO,
  VIRTIO_NET_F_HOST_UFO,
  VIRTIO_NET_F_GUEST_HDRLEN,
  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO,
  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM,
  VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO,
  VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM,
  VIRTIO_NET_F_RSC_EXT,
  VIRTIO_NET_F_OUT_NET_HEADER,
).or(NET_POLICY_FEATURES);

/** Receive offloads that OFFLOADS_SET switches (virtio 1.4 5.1.9.5.9). */
export const GUEST_OFFLOADS = FeatureSet.of(
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_GUEST_UFO,
  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO,
  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM,
  VIRTIO_NET_F_GUEST_USO4,
  VIRTIO_NET_F_GUEST_USO6,
);
