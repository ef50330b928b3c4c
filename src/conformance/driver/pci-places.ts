// Where a device's structures lie, found in its configuration space (virtio 1.4 4.1.4): so that an access can be told by what it touches.

import { CAP_ID, CFG_TYPE, COMMON, COMMON_FIELDS, type CommonField, PCI, type Structure } from '../layout.ts';

export type AccessSize = 1 | 2 | 4;

/** The device itself, looked at without the driver's knowledge. */
export interface Peek {
  config(offset: number, size: AccessSize): number;
  bar(bar: number, offset: number, size: AccessSize): number;
}

/** What an access touches. */
export interface Place {
  readonly type: number;
  /** In the structure. */
  readonly offset: number;
  /** Of the common configuration. */
  readonly field: CommonField | undefined;
}

export class PciPlaces {
  /** The structures in BARs; the first usable one of each type counts. */
  readonly structures: readonly Structure[];
  /** Vendor-specific capabilities of every type, as they come. */
  readonly capabilities: readonly Structure[];
  readonly multiplier: number;
  /** Offset of the MSI-X capability, -1 without one, and its number of vectors. */
  readonly msix: number;
  readonly vectors: number;

  constructor(peek: Peek) {
    const read = (offset: number, size: AccessSize): number => peek.config(offset, size);
    const capabilities: Structure[] = [];
    const structures: Structure[] = [];
    let msix = -1;
    let vectors = 0;
    let multiplier = 0;
    for (let at = read(PCI.CAPABILITIES, 1) & 0xfc, n = 0; at >= 0x40 && n < 48; at = read(at + 1, 1) & 0xfc, n++) {
      const id = read(at, 1);
      if (id === CAP_ID.MSIX) {
        msix = at;
        vectors = (read(at + 2, 2) & 0x7ff) + 1;
      }
      if (id !== CAP_ID.VENDOR) continue;
      const [bar, offset, length] = [read(at + 4, 1), read(at + 8, 4), read(at + 12, 4)];
      const structure = { at, capLength: read(at + 2, 1), type: read(at + 3, 1), bar, id: read(at + 5, 1), offset, length };
      capabilities.push(structure);
      const { type } = structure;
      if (type < CFG_TYPE.COMMON || type > CFG_TYPE.DEVICE || bar > 5 || structures.some((found) => found.type === type)) continue;
      structures.push(structure);
      if (type === CFG_TYPE.NOTIFY) multiplier = read(at + 16, 4);
    }
    this.structures = structures;
    this.capabilities = capabilities;
    this.multiplier = multiplier;
    this.msix = msix;
    this.vectors = vectors;
  }

  of(type: number): Structure | undefined {
    return this.structures.find((structure) => structure.type === type);
  }

  at(bar: number, address: number): Place | undefined {
    for (const structure of this.structures) {
      const at = address - structure.offset;
      if (structure.bar !== bar || at < 0 || at >= structure.length) continue;
      return {
        type: structure.type,
        offset: at,
        field: structure.type === CFG_TYPE.COMMON ? COMMON_FIELDS.find((name) => COMMON[name][0] <= at && at < COMMON[name][0] + COMMON[name][1]) : undefined,
      };
    }
    return undefined;
  }
}
