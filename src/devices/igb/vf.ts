// One virtual function, 8086:10CA (82576 9.7): registers in BAR 0, three MSI-X vectors in BAR 3, PCI Express with FLR, error reporting, ARI. What it does is done by the PF's engines, in its name.

import { Aer } from '#pci/aer';
import { Ari } from '#pci/ari';
import { Express } from '#pci/express';
import { type PcieType, PciFunction } from '#pci/function';
import { Msix, msixBar } from '#pci/msix';
import type { ResetKind } from '#pci/ports';
import type { VfRegisters } from './vf-registers.ts';

export const INTEL = 0x8086;
export const VF_DEVICE_ID = 0x10ca;
export const VF_VECTORS = 3;
const MSIX_BAR = 0x4000;
const PENDING_BITS = 0x2000;

export interface IgbVfOptions {
  readonly name: string;
  readonly revision: number;
  readonly subsystemId: number;
  readonly pcieType: PcieType;
  readonly registers: VfRegisters;
  readonly msix: Msix;
  readonly onReset: (kind: ResetKind) => void;
  readonly onMastering: (granted: boolean) => void;
}

export function vfMsix(): Msix {
  return new Msix({ vectors: VF_VECTORS, table: { bar: 3, offset: 0 }, pendingBits: { bar: 3, offset: PENDING_BITS } });
}

export function makeVf(options: IgbVfOptions): PciFunction {
  const { msix } = options;
  return new PciFunction({
    name: options.name,
    identity: {
      vendorId: INTEL,
      deviceId: VF_DEVICE_ID,
      revision: options.revision,
      classCode: 0x02_0000,
      subsystemVendorId: INTEL,
      subsystemId: options.subsystemId,
      pcieType: options.pcieType,
    },
    virtual: true,
    bars: [
      { index: 0, kind: 'memory64', prefetchable: true, region: options.registers },
      { index: 3, kind: 'memory64', prefetchable: true, region: msixBar(msix, 3, undefined, MSIX_BAR) },
    ],
    // Where the part has them (9.7.4).
    capabilities: [
      { capability: msix, offset: 0x70 },
      { capability: new Express({ functionReset: true }), offset: 0xa0 },
      { capability: new Aer(), offset: 0x100 },
      { capability: new Ari(), offset: 0x150 },
    ],
    onReset: options.onReset,
    onMastering: options.onMastering,
  });
}
