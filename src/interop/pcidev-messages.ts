// Messages of user-mode Linux's PCI-over-virtio device (Linux, include/uapi/linux/virtio_pcidev.h): accesses on the first queue, interrupts on the second.

/** What a message is about, its first byte. 4 is a write to a BAR. */
export const CFG_READ = 1;
export const CFG_WRITE = 2;
export const MMIO_READ = 3;
export const MMIO_MEMSET = 5;
export const INT = 6;
export const MSI = 7;

/** op, bar, two bytes of nothing, size (32 bits), address (64 bits); then the data of a write. */
export const HEADER_BYTES = 16;
export const MSI_DATA_BYTES = 4;
