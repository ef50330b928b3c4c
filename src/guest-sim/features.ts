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
];

/** Everything this driver knows how to use, except SR_IOV, which is for physical functions whose VFs the guest means to enable. */
export const DRIVER_FEATURES: readonly number[] = [
  ...Object.values(VIRTIO_NET_F),
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
];

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
