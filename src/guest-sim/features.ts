// Choosing features: what the driver can do, cut down to what the device offers, cut down again until every bit's prerequisites hold (virtio 1.4
// 2.2.1, 5.1.3.1). Unknown offered bits are ignored, never a reason to fail.

import { VIRTIO_F, VIRTIO_NET_F } from './virtio-constants.ts';

/** Bit numbers to the mask the registers carry. */
export function featureMask(bits: Iterable<number>): bigint {
  let mask = 0n;
  for (const bit of bits) mask |= 1n << BigInt(bit);
  return mask;
}

export function hasFeature(features: bigint, bit: number): boolean {
  return ((features >> BigInt(bit)) & 1n) === 1n;
}

const NET = VIRTIO_NET_F;

/** Each bit with the ones it needs; several rows: all of them; several bits in a row: any of them. */
const NEEDS: readonly (readonly [number, readonly number[]])[] = [
  [NET.GUEST_TSO4, [NET.GUEST_CSUM]],
  [NET.GUEST_TSO6, [NET.GUEST_CSUM]],
  [NET.GUEST_USO4, [NET.GUEST_CSUM]],
  [NET.GUEST_USO6, [NET.GUEST_CSUM]],
  [NET.GUEST_ECN, [NET.GUEST_TSO4, NET.GUEST_TSO6]],
  [NET.HOST_TSO4, [NET.CSUM]],
  [NET.HOST_TSO6, [NET.CSUM]],
  [NET.HOST_USO, [NET.CSUM]],
  [NET.HOST_ECN, [NET.HOST_TSO4, NET.HOST_TSO6]],
  [NET.CTRL_RX, [NET.CTRL_VQ]],
  [NET.CTRL_VLAN, [NET.CTRL_VQ]],
  [NET.CTRL_RX_EXTRA, [NET.CTRL_VQ]],
  [NET.GUEST_ANNOUNCE, [NET.CTRL_VQ]],
  [NET.MQ, [NET.CTRL_VQ]],
  [NET.CTRL_MAC_ADDR, [NET.CTRL_VQ]],
  [NET.CTRL_GUEST_OFFLOADS, [NET.CTRL_VQ]],
  [NET.GUEST_UFO, [NET.GUEST_CSUM]],
  [NET.HOST_UFO, [NET.CSUM]],
  [NET.NOTF_COAL, [NET.CTRL_VQ]],
  [NET.VQ_NOTF_COAL, [NET.CTRL_VQ]],
  [NET.DEVICE_STATS, [NET.CTRL_VQ]],
  [NET.RSS, [NET.CTRL_VQ]],
  [NET.HASH_REPORT, [NET.CTRL_VQ]],
  [NET.HASH_TUNNEL, [NET.CTRL_VQ]],
  [NET.HASH_TUNNEL, [NET.RSS, NET.HASH_REPORT]],
  [NET.RSS_CONTEXT, [NET.CTRL_VQ]],
  [NET.RSS_CONTEXT, [NET.RSS]],
  // The table names HOST_TSO, the receive clause GUEST_TSO (5.1.9.4): a driver that has both offends against neither.
  [NET.RSC_EXT, [NET.GUEST_TSO4, NET.GUEST_TSO6]],
  [NET.RSC_EXT, [NET.HOST_TSO4, NET.HOST_TSO6]],
  [NET.GUEST_UDP_TUNNEL_GSO, [NET.GUEST_TSO4]],
  [NET.GUEST_UDP_TUNNEL_GSO, [NET.GUEST_TSO6]],
  [NET.GUEST_UDP_TUNNEL_GSO, [NET.GUEST_USO4]],
  [NET.GUEST_UDP_TUNNEL_GSO, [NET.GUEST_USO6]],
  [NET.GUEST_UDP_TUNNEL_GSO_CSUM, [NET.GUEST_UDP_TUNNEL_GSO]],
  [NET.HOST_UDP_TUNNEL_GSO, [NET.HOST_TSO4]],
  [NET.HOST_UDP_TUNNEL_GSO, [NET.HOST_TSO6]],
  [NET.HOST_UDP_TUNNEL_GSO, [NET.HOST_USO]],
  [NET.HOST_UDP_TUNNEL_GSO_CSUM, [NET.HOST_UDP_TUNNEL_GSO]],
];

/**
 * What the driver knows and takes only when asked (`VirtioNetOptions.with` or `require`): these lengthen every header, cost the device work for each frame,
 * or change who steers.
 */
export const OPTIONAL_FEATURES: readonly number[] = [
  NET.RSS,
  NET.HASH_REPORT,
  NET.HASH_TUNNEL,
  NET.RSS_CONTEXT,
  NET.RSC_EXT,
  NET.GUEST_UDP_TUNNEL_GSO,
  NET.GUEST_UDP_TUNNEL_GSO_CSUM,
  NET.HOST_UDP_TUNNEL_GSO,
  NET.HOST_UDP_TUNNEL_GSO_CSUM,
  VIRTIO_F.ADMIN_VQ,
];

/** What this driver takes wherever it is offered: all it knows but `OPTIONAL_FEATURES` and SR_IOV, which is for physical functions whose VFs the guest means to enable. */
export const DRIVER_FEATURES: readonly number[] = [
  ...Object.values(VIRTIO_NET_F).filter((bit) => !OPTIONAL_FEATURES.includes(bit)),
  VIRTIO_F.INDIRECT_DESC,
  VIRTIO_F.EVENT_IDX,
  VIRTIO_F.VERSION_1,
  VIRTIO_F.ACCESS_PLATFORM,
  VIRTIO_F.RING_PACKED,
  VIRTIO_F.IN_ORDER,
  VIRTIO_F.ORDER_PLATFORM,
  VIRTIO_F.NOTIFICATION_DATA,
  VIRTIO_F.NOTIF_CONFIG_DATA,
  VIRTIO_F.RING_RESET,
  VIRTIO_F.SUSPEND,
];

/** What the legacy interface can say, and ANY_LAYOUT; whoever lacks that gets frames and commands cut as 5.1.9.8 asks. */
export const LEGACY_FEATURES: readonly number[] = [...DRIVER_FEATURES.filter((bit) => bit < 32), VIRTIO_F.ANY_LAYOUT];

/** The largest self-consistent subset of `offered` within `wanted`. */
export function chooseFeatures(offered: bigint, wanted: bigint): bigint {
  let chosen = offered & wanted;
  for (let settled = false; !settled; ) {
    settled = true;
    for (const [bit, needs] of NEEDS) {
      if (!hasFeature(chosen, bit) || needs.some((n) => hasFeature(chosen, n))) continue;
      chosen &= ~(1n << BigInt(bit));
      settled = false;
    }
  }
  return chosen;
}
