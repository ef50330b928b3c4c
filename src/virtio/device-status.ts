// Device status bits (virtio 1.4 2.1) and the queues' sizes a driver may ask for (2.7, 2.8).

export const VIRTIO_STATUS_ACKNOWLEDGE = 1;
export const VIRTIO_STATUS_DRIVER = 2;
export const VIRTIO_STATUS_DRIVER_OK = 4;
export const VIRTIO_STATUS_FEATURES_OK = 8;
/** Set by the driver to ask for it, shown by the device once it is so (VIRTIO_F_SUSPEND). */
export const VIRTIO_STATUS_SUSPEND = 16;
export const VIRTIO_STATUS_DEVICE_NEEDS_RESET = 64;
export const VIRTIO_STATUS_FAILED = 128;

/** What stays as a driver sets it; SUSPEND and DEVICE_NEEDS_RESET are shown by the device. */
export const VIRTIO_STATUS_DRIVER_BITS =
  VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED;

export const VIRTIO_QUEUE_SIZE_LIMIT = 32768;

export function isPowerOfTwo(n: number): boolean {
  return n > 0 && (n & (n - 1)) === 0;
}
