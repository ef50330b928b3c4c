// Constants of virtio over PCI (virtio 1.4 4.1) and where this device puts its structures: one 64-bit prefetchable memory BAR with a page each for the common
// configuration, ISR status and device configuration, and the notification area after them; MSI-X has a BAR of its own.

import { VirtioOptionError } from './device.ts';
import { isPowerOfTwo } from './device-status.ts';

export const VIRTIO_PCI_VENDOR = 0x1af4;
/** virtio 1.4 4.1.2: device id is this plus the device type. */
export const VIRTIO_PCI_DEVICE_BASE = 0x1040;

export const VIRTIO_PCI_CAP_COMMON_CFG = 1;
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2;
export const VIRTIO_PCI_CAP_ISR_CFG = 3;
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4;
export const VIRTIO_PCI_CAP_PCI_CFG = 5;

export const VIRTIO_MSI_NO_VECTOR = 0xffff;
export const VIRTIO_ISR_QUEUE = 1;
export const VIRTIO_ISR_CONFIG = 2;

/** BAR numbers: the structures (64-bit, so 0 and 1; or 4 and 5, when the legacy interface has 0) and MSI-X. */
export const STRUCTURES_BAR = 0;
export const TRANSITIONAL_STRUCTURES_BAR = 4;
export const LEGACY_BAR = 0;
/** Of the legacy registers with MSI-X on; the device configuration follows. */
export const LEGACY_HEADER_BYTES = 24;
export const MSIX_BAR = 2;
/** virtio 1.4 4.1.2.3: a transitional network device. */
export const TRANSITIONAL_NETWORK_ID = 0x1000;

const PAGE = 0x1000;
export const COMMON_OFFSET = 0;
export const COMMON_LENGTH = 64;
export const ISR_OFFSET = PAGE;
export const DEVICE_OFFSET = 2 * PAGE;
export const NOTIFY_OFFSET = 3 * PAGE;
/** Where the owner of a group says that a member's legacy notifications go: behind the ISR status, in its page. */
export const LEGACY_NOTIFY_OFFSET = ISR_OFFSET + PAGE / 2;
const LONGEST_DEVICE_CONFIG = PAGE;

/** virtio 1.4 4.1.5.1.2.1 (device SHOULD): 2 to 0x800 vectors. */
const FEWEST_VECTORS = 2;
const MOST_VECTORS = 0x800;

export interface PciLayout {
  /** 0: every queue notifies at the same address. */
  readonly notifyMultiplier: number;
  readonly notifyLength: number;
  readonly barSize: number;
  readonly vectors: number;
}

/** @throws VirtioOptionError */
export function planLayout(options: {
  readonly queueCount: number;
  readonly configSize: number;
  readonly notifyMultiplier: number;
  readonly notificationData: boolean;
  readonly vectors: number | undefined;
}): PciLayout {
  const { queueCount, configSize, notifyMultiplier, notificationData } = options;
  // virtio 1.4 4.1.4.4.1 (device MUST): 0 or a power of two of at least 2, and a multiple of 4 where notifications are 32 bits wide.
  const smallest = notificationData ? 4 : 2;
  if (
    notifyMultiplier !== 0 &&
    !(Number.isInteger(notifyMultiplier) && isPowerOfTwo(notifyMultiplier) && notifyMultiplier >= smallest && notifyMultiplier <= PAGE)
  )
    throw new VirtioOptionError('NICBOX_NOTIFY_MULTIPLIER', `notify multiplier ${notifyMultiplier}: give 0 or a power of two from ${smallest} to ${PAGE}`);
  const vectors = options.vectors ?? Math.min(MOST_VECTORS, queueCount + 1);
  if (!Number.isInteger(vectors) || vectors < FEWEST_VECTORS || vectors > MOST_VECTORS)
    throw new VirtioOptionError('NICBOX_VECTORS', `${vectors} MSI-X vectors: give ${FEWEST_VECTORS} to ${MOST_VECTORS}`);
  if (configSize > LONGEST_DEVICE_CONFIG)
    throw new VirtioOptionError('NICBOX_CONFIG_SIZE', `device configuration of ${configSize} bytes: at most ${LONGEST_DEVICE_CONFIG} fit`);
  // Long enough for each queue's doorbell at its widest, whatever is negotiated.
  const notifyLength = notifyMultiplier === 0 ? 4 : Math.max(4, queueCount * notifyMultiplier);
  return { notifyMultiplier, notifyLength, barSize: 2 ** Math.ceil(Math.log2(NOTIFY_OFFSET + notifyLength)), vectors };
}
