// The PCI configuration access capability (virtio 1.4 4.1.4.9): a window of up to four bytes into any BAR of the function, moved by writing cap.bar, cap.offset and
// cap.length, for software that cannot reach memory space yet. It works whether or not the BAR is placed or enabled.

import { type AccessSize, allOnes, type Region } from '#core/region';
import { type Capability, type CapabilityArea, EFFECT_NONE } from '#pci/capability';
import { VIRTIO_PCI_CAP_PCI_CFG } from './pci-layout.ts';
import { PCI_CAP_VENDOR } from './pci-structure.ts';

const CAP_LENGTH = 2;
const CAP_TYPE = 3;
const CAP_BAR = 4;
const CAP_OFFSET = 8;
const CAP_ACCESS = 12;
const CAP_DATA = 16;

export class PciAccess implements Capability {
  readonly id = PCI_CAP_VENDOR;
  readonly size = 20;
  /** The region behind a BAR, or undefined for one the function does not have. */
  readonly #bar: (index: number) => Region | undefined;
  #area: CapabilityArea | undefined;

  constructor(bar: (index: number) => Region | undefined) {
    this.#bar = bar;
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    area.set8(CAP_LENGTH, this.size);
    area.set8(CAP_TYPE, VIRTIO_PCI_CAP_PCI_CFG);
    area.permitWrite(CAP_BAR, 1, 0xff);
    area.permitWrite(CAP_OFFSET, 4, 0xffffffff);
    area.permitWrite(CAP_ACCESS, 4, 0xffffffff);
    area.permitWrite(CAP_DATA, 4, 0xffffffff);
  }

  /** virtio 1.4 4.1.4.9.1 (device MUST): a read of pci_cfg_data reads cap.length bytes of the BAR into its first bytes. */
  beforeRead(register: number): void {
    const area = this.#area;
    if (register !== CAP_DATA || area === undefined) return;
    const size = this.#accessSize(area);
    if (size === undefined) return;
    const offset = area.get32(CAP_OFFSET);
    const region = this.#bar(area.get8(CAP_BAR));
    const value = region === undefined ? allOnes(size) : region.read(offset, size);
    if (size === 1) area.set8(CAP_DATA, value & 0xff);
    else if (size === 2) area.set16(CAP_DATA, value & 0xffff);
    else area.set32(CAP_DATA, value);
  }

  /** (device MUST): a write to pci_cfg_data writes its first cap.length bytes to the BAR; when the last of them has arrived, should a host split the write. */
  afterWrite(register: number, _old: number, _written: number, lanes: number): number {
    const area = this.#area;
    if (register !== CAP_DATA || area === undefined) return EFFECT_NONE;
    const size = this.#accessSize(area);
    if (size === undefined || ((lanes >>> (8 * (size - 1))) & 0xff) === 0) return EFFECT_NONE;
    const data = area.get32(CAP_DATA);
    this.#bar(area.get8(CAP_BAR))?.write(area.get32(CAP_OFFSET), size, size === 4 ? data : data & (2 ** (8 * size) - 1));
    return EFFECT_NONE;
  }

  /** (driver MUST): 1, 2 or 4 bytes, at a multiple of that, inside the BAR. Anything else accesses nothing. */
  #accessSize(area: CapabilityArea): AccessSize | undefined {
    const size = area.get32(CAP_ACCESS);
    if (size !== 1 && size !== 2 && size !== 4) return undefined;
    const offset = area.get32(CAP_OFFSET);
    if (offset % size !== 0) return undefined;
    const region = this.#bar(area.get8(CAP_BAR));
    return region !== undefined && offset + size > region.size ? undefined : size;
  }
}
