// What a driver does to the virtio capabilities in configuration space (virtio 1.4 4.1.4): it writes to none but the access window, which it keeps to where structures are; and it knows
// whose vendor data it reads.

import { CFG_TYPE, type Structure } from '../layout.ts';
import type { Findings } from './findings.ts';
import type { PciPlaces } from './pci-places.ts';

/** struct virtio_pci_cfg_cap: bar, offset, length, data. */
const WINDOW = { bar: 4, offset: 8, length: 12, data: 16 } as const;
const VENDOR_ID = 4;

export class ConfigSpaceJudge {
  readonly #findings: Findings;
  readonly #places: () => PciPlaces;
  readonly #window = { bar: 0, offset: 0, length: 0 };
  readonly #knownVendors = new Set<number>();

  constructor(findings: Findings, places: () => PciPlaces) {
    this.#findings = findings;
    this.#places = places;
  }

  #capability(offset: number): Structure | undefined {
    return this.#places().capabilities.find(({ at, capLength }) => offset >= at && offset < at + capLength);
  }

  read(offset: number, size: number): void {
    const capability = offset < 0x40 ? undefined : this.#capability(offset);
    if (capability === undefined) return;
    const at = offset - capability.at;
    // While no length is set, it is somebody who lists configuration space.
    if (capability.type === CFG_TYPE.PCI && at >= WINDOW.data && this.#window.length !== 0) this.#through(at - WINDOW.data, size);
    if (capability.type !== CFG_TYPE.VENDOR) return;
    if (at <= VENDOR_ID && at + size >= VENDOR_ID + 2) this.#knownVendors.add(capability.at);
    if (at > VENDOR_ID + 1) this.#findings.check('pci.85', 'vendor_id read before other data of the vendor', this.#knownVendors.has(capability.at), true);
  }

  write(offset: number, size: number, value: number): void {
    if (offset < 0x40 || offset >= 0x100) return;
    for (const { at, capLength, type } of this.#places().capabilities)
      if (type !== CFG_TYPE.PCI) {
        const inside = offset >= at && offset < at + capLength;
        this.#findings.check('pci.27', `writes to the capability at 0x${at.toString(16)}`, inside, false);
        if (type === CFG_TYPE.VENDOR) this.#findings.check('pci.84', 'vendor data written: used for more than a report', inside, false);
      }
    const capability = this.#capability(offset);
    if (capability?.type !== CFG_TYPE.PCI) return;
    const at = offset - capability.at;
    if (at === WINDOW.bar) this.#window.bar = value & 0xff;
    else if (at === WINDOW.offset) this.#window.offset = value;
    else if (at === WINDOW.length) this.#window.length = value;
    else if (at >= WINDOW.data) this.#through(at - WINDOW.data, size);
  }

  /** An access through the window's data field. */
  #through(at: number, size: number): void {
    const { bar, offset, length } = this.#window;
    const sized = length === 1 || length === 2 || length === 4;
    this.#findings.that('pci.89', 'offset of the access window', sized && offset % length === 0, `a multiple of its length ${length}`, offset);
    this.#findings.check('pci.90', 'place and bytes of an access through the window', [at % size, at + size <= length], [0, true]);
    const inside = this.#places().structures.some((s) => s.bar === bar && offset >= s.offset && offset + length <= s.offset + s.length);
    this.#findings.that('pci.91', 'aim of the access window', inside, 'in a structure of another capability', [bar, offset, length]);
  }
}
