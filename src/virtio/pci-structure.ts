// The vendor capability that says where one of the virtio structures is (virtio 1.4 4.1.4): type, BAR, offset, length; of the notification area also its multiplier.

import type { Capability, CapabilityArea } from '#pci/capability';
import { VIRTIO_PCI_CAP_NOTIFY_CFG } from './pci-layout.ts';

export const PCI_CAP_VENDOR = 0x09;

export interface StructurePlace {
  readonly type: number;
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
  /** NOTIFY_CFG. */
  readonly notifyMultiplier?: number;
}

/** A read-only capability; nothing in it reacts to accesses. */
export function structureCapability(place: StructurePlace): Capability {
  const size = place.type === VIRTIO_PCI_CAP_NOTIFY_CFG ? 20 : 16;
  return {
    id: PCI_CAP_VENDOR,
    size,
    install(area: CapabilityArea) {
      area.set8(2, size);
      area.set8(3, place.type);
      area.set8(4, place.bar);
      area.set32(8, place.offset);
      area.set32(12, place.length);
      if (place.notifyMultiplier !== undefined) area.set32(16, place.notifyMultiplier);
    },
  };
}
