// Names for the few classes and ids a nicbox machine shows. Not a copy of any id database: what is not here is printed as numbers.

import { hex } from './text.ts';

const CLASSES: ReadonlyMap<number, string> = new Map([
  [0x0000, 'Unclassified device'],
  [0x0100, 'SCSI storage controller'],
  [0x0180, 'Mass storage controller'],
  [0x0200, 'Ethernet controller'],
  [0x0280, 'Network controller'],
  [0x0300, 'VGA compatible controller'],
  [0x0500, 'RAM memory'],
  [0x0580, 'Memory controller'],
  [0x0600, 'Host bridge'],
  [0x0601, 'ISA bridge'],
  [0x0604, 'PCI bridge'],
  [0x0680, 'Bridge'],
  [0x0700, 'Serial controller'],
  [0x0780, 'Communication controller'],
  [0x0880, 'System peripheral'],
  [0x1200, 'Processing accelerators'],
  [0xff00, 'Unassigned class'],
]);

const VENDORS: ReadonlyMap<number, string> = new Map([
  [0x1af4, 'Red Hat, Inc. (virtio)'],
  [0x1b36, 'Red Hat, Inc. (platform)'],
  [0x8086, 'Intel Corporation'],
]);

/** By vendor in the upper half. */
const DEVICES: ReadonlyMap<number, string> = new Map([
  [0x1af41000, 'Virtio network device (transitional)'],
  [0x1af41041, 'Virtio network device'],
  [0x1b360008, 'PCIe Host bridge'],
  [0x1b36000c, 'PCIe Root port'],
  [0x1b36000d, 'PCIe Switch upstream port'],
  [0x1b36000e, 'PCIe-to-PCI bridge'],
  [0x1b36000f, 'PCIe Switch downstream port'],
  [0x8086100e, '82540EM Gigabit Ethernet Controller'],
  [0x808610c9, '82576 Gigabit Network Connection'],
  [0x808610ca, '82576 Virtual Function'],
]);

export function className(code: number): string {
  return CLASSES.get(code) ?? `Class ${hex(code, 4)}`;
}

export function deviceName(vendor: number, device: number): string {
  const maker = VENDORS.get(vendor) ?? `Vendor ${hex(vendor, 4)}`;
  const name = DEVICES.get(vendor * 0x10000 + device) ?? `Device ${hex(device, 4)}`;
  return `${maker} ${name}`;
}
