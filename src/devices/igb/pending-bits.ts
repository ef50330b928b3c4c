// MSI-X pending bits as PBACL and GPIE.PBA_support see them (82576 8.8.8, 8.8.17): of the function they are read from, a bit a vector.

import type { Msix } from '#pci/msix';

export function pendingBits(msix: Msix): number {
  return msix.pendingBits.read(0, 4);
}

/** Messages of these vectors that wait behind a mask are not sent any more (PCIe 4.0 6.1.4.3). */
export function retract(msix: Msix, vectors: number): void {
  for (let vector = 0; vector < msix.vectors; vector++) if (((vectors >>> vector) & 1) !== 0) msix.retract(vector);
}
