// The physical function on the bus (82576 9.3 to 9.6): what it is, its capabilities where the part has them, its four BARs.

import type { AccessSize, Region } from '#core/region';
import { Aer } from '#pci/aer';
import { Ari } from '#pci/ari';
import { Express } from '#pci/express';
import { type PcieType, PciFunction, type PlacedCapability } from '#pci/function';
import { Msi } from '#pci/msi';
import { Msix, msixBar } from '#pci/msix';
import type { PowerManagement } from '#pci/pm';
import type { FunctionServices, ResetKind } from '#pci/ports';
import { SerialNumber } from '#pci/serial-number';
import type { Sriov } from '#pci/sriov';
import { INTEL } from './vf.ts';

export const IGB_DEVICE_ID = 0x10c9;
/** A dual port server adapter's. */
export const SUBSYSTEM_ID = 0xa03c;
export const REVISION = 1;
const VECTORS = 10;
const FLASH_BAR_BYTES = 0x2_0000;
const IO_BAR_BYTES = 32;
const MSIX_BAR_BYTES = 0x4000;
const PENDING_BITS = 0x2000;

export interface FunctionParts {
  readonly port: number;
  readonly ports: number;
  readonly mac: Uint8Array;
  readonly pcieType: PcieType;
  readonly pm: PowerManagement;
  readonly msix: Msix;
  readonly sriov: Sriov | undefined;
  readonly registers: Region;
  readonly io: Region;
  readonly onAttach: (services: FunctionServices) => void;
  readonly onDetach: () => void;
  readonly onReset: (kind: ResetKind) => void;
  readonly onMastering: (granted: boolean) => void;
}

export function igbMsix(): Msix {
  return new Msix({ vectors: VECTORS, table: { bar: 3, offset: 0 }, pendingBits: { bar: 3, offset: PENDING_BITS } });
}

export function makeFunction(parts: FunctionParts): PciFunction {
  const { port, ports, mac, pcieType, pm, msix, sriov, registers, io, ...events } = parts;
  const capabilities: PlacedCapability[] = [
    { capability: pm, offset: 0x40 },
    { capability: new Msi({ vectors: 1, maskable: true }), offset: 0x50 },
    { capability: msix, offset: 0x70 },
    { capability: new Express({ maxSpeed: 1, maxWidth: 4 }), offset: 0xa0 },
    { capability: new Aer(), offset: 0x100 },
    { capability: SerialNumber.ofMac(mac), offset: 0x140 },
    { capability: new Ari(port + 1 < ports ? port + 1 : 0), offset: 0x150 },
    ...(sriov === undefined ? [] : [{ capability: sriov, offset: 0x160 }]),
  ];
  return new PciFunction({
    name: 'igb',
    identity: {
      vendorId: INTEL,
      deviceId: IGB_DEVICE_ID,
      revision: REVISION,
      classCode: 0x02_0000,
      subsystemVendorId: INTEL,
      subsystemId: SUBSYSTEM_ID,
      interruptPin: port + 1,
      pcieType,
    },
    bars: [
      { index: 0, kind: 'memory32', region: registers },
      { index: 1, kind: 'memory32', region: new AbsentFlash() },
      { index: 2, kind: 'io', region: io, size: IO_BAR_BYTES },
      { index: 3, kind: 'memory32', region: msixBar(msix, 3, undefined, MSIX_BAR_BYTES) },
    ],
    capabilities,
    ...events,
  });
}

/** BAR 1: no flash is fitted (FLA, nvm.ts), and its data pins are pulled up. */
class AbsentFlash implements Region {
  readonly size = FLASH_BAR_BYTES;

  read(_offset: number, size: AccessSize): number {
    return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
  }

  write(): void {}
}
