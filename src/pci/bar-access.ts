// Accesses by function and BAR, for hosts that decode addresses themselves: only a BAR that decodes answers, wherever it lies.

import { type AccessSize, allOnes, type Region, readRegion, writeRegion } from '#core/region';
import type { PciFunction } from './function.ts';

/** All ones from what does not answer. 8 bytes are two accesses of 4, low half first. */
export function readBar(fn: PciFunction | null, bar: number, offset: number, size: AccessSize | 8): number {
  if (size === 8) return readBar(fn, bar, offset, 4) + readBar(fn, bar, offset + 4, 4) * 2 ** 32;
  const region = answering(fn, bar);
  if (region === undefined || !(Number.isInteger(offset) && offset >= 0) || (size !== 4 && size !== 2 && size !== 1)) return allOnes(size);
  return readRegion(region, offset, size);
}

export function writeBar(fn: PciFunction | null, bar: number, offset: number, size: AccessSize | 8, value: number): void {
  if (size === 8) {
    writeBar(fn, bar, offset, 4, value % 2 ** 32);
    writeBar(fn, bar, offset + 4, 4, Math.floor(value / 2 ** 32));
    return;
  }
  const region = answering(fn, bar);
  if (region === undefined || !(Number.isInteger(offset) && offset >= 0) || (size !== 4 && size !== 2 && size !== 1)) return;
  writeRegion(region, offset, size, size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff));
}

function answering(fn: PciFunction | null, index: number): Region | undefined {
  const bar = fn?.bars.at(index);
  if (!fn || bar === undefined) return undefined;
  const { physical } = fn;
  // PCIe 4.0 9.3.4.1.3: VF MSE governs a VF's BARs.
  const enabled = physical ? physical.virtualFunctions?.memoryEnabled === true && fn.powered : bar.kind === 'io' ? fn.decodesIo : fn.decodesMemory;
  return enabled ? bar.region : undefined;
}
