// Device status bits (virtio 1.4 2.1) and the queues' sizes a driver may ask for (2.7, 2.8). SUSPEND (bit 4) belongs to a feature that is not offered.

const VIRTIO_STATUS_ACKNOWLEDGE = 1;
export const VIRTIO_STATUS_DRIVER = 2;
export const VIRTIO_STATUS_DRIVER_OK = 4;
export const VIRTIO_STATUS_FEATURES_OK = 8;
export const VIRTIO_STATUS_DEVICE_NEEDS_RESET = 64;
export const VIRTIO_STATUS_FAILED = 128;

/** What a driver may set; DEVICE_NEEDS_RESET is the device's own. */
export const VIRTIO_STATUS_DRIVER_BITS =
  VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED;

export const VIRTIO_QUEUE_SIZE_LIMIT = 32768;

export function isPowerOfTwo(n: number): boolean {
  return n > 0 && (n & (n - 1)) === 0;
}
