// Virtual functions (SR-IOV 1.1, PCIe 4.0 chapter 9): enabling them with the wait software owes them, finding them by offset and stride, and telling
// where their BARs and identity are, since neither shows in their own configuration space.

import type { GuestBus } from '#core/guest-bus';
import type { Bar } from './pci-bars.ts';
import { type ConfigAccess, capabilities, extendedCapabilities, formatRid } from './pci-config.ts';
import { CFG, SRIOV, SRIOV_ARI_HIERARCHY, SRIOV_VF_ENABLE, SRIOV_VF_MEMORY_ENABLE, VF_ENABLE_WAIT_NANOS } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';

export interface SriovInfo {
  /** Offset of the extended capability. */
  readonly at: number;
  readonly totalVfs: number;
  readonly vfDevice: number;
  /** VF BARs: `size` is one function's; `address` the first one's. */
  readonly bars: readonly Bar[];
  /** The highest bus number all TotalVFs functions would reach. */
  readonly lastBus: number;
}

/** Lets guest time pass. On a thread of its own a guest sleeps; on the machine's thread the caller moves the simulated clock. */
export type Delay = (nanos: number) => void;

/** Sleeps until the bus's clock has moved on. @throws Error when guest time stands still, as a simulated clock nobody advances does. */
export function sleepOn(bus: GuestBus): Delay {
  const word = new Int32Array(new SharedArrayBuffer(4));
  return (nanos) => {
    const deadline = bus.now() + nanos;
    const patience = performance.now() + 3 * (nanos / 1e6) + 1000;
    while (bus.now() < deadline) {
      if (performance.now() > patience) throw new Error('guest time does not move: pass a delay that advances the simulated clock');
      Atomics.wait(word, 0, 0, 1);
    }
  };
}

/** Routing id of the `index`th virtual function, from 0. */
export function vfRid(pf: number, offset: number, stride: number, index: number): number {
  return pf + offset + stride * index;
}

/**
 * Enables `count` virtual functions and returns those that answer. For a virtio physical function the driver has to have negotiated VIRTIO_F_SR_IOV before.
 * @throws RangeError when the function has no SR-IOV, or `count` is above TotalVFs, or they would reach past the reserved bus numbers.
 */
export function enableVirtualFunctions(config: ConfigAccess, pf: PciDevice, count: number, delay: Delay): PciDevice[] {
  const info = pf.sriov;
  if (!info) throw new RangeError(`${formatRid(pf.rid)} has no SR-IOV capability`);
  if (!(Number.isInteger(count) && count >= 1 && count <= info.totalVfs))
    throw new RangeError(`${count} virtual functions asked of ${formatRid(pf.rid)}, which has 1 to ${info.totalVfs}`);
  const control = info.at + SRIOV.CONTROL;
  const kept = config.read(pf.rid, control, 2) & SRIOV_ARI_HIERARCHY;
  config.write(pf.rid, control, 2, kept);
  config.write(pf.rid, info.at + SRIOV.NUM_VFS, 2, count);
  const offset = config.read(pf.rid, info.at + SRIOV.FIRST_VF_OFFSET, 2);
  const stride = config.read(pf.rid, info.at + SRIOV.VF_STRIDE, 2);
  const last = vfRid(pf.rid, offset, stride, count - 1);
  if (last >> 8 > info.lastBus || last >> 8 > config.lastBus)
    throw new RangeError(`virtual functions of ${formatRid(pf.rid)} reach ${formatRid(last)}, past the bus numbers reserved for them`);
  config.write(pf.rid, control, 2, kept | SRIOV_VF_ENABLE | SRIOV_VF_MEMORY_ENABLE);
  delay(VF_ENABLE_WAIT_NANOS);
  const found: PciDevice[] = [];
  for (let i = 0; i < count; i++) {
    const rid = vfRid(pf.rid, offset, stride, i);
    // Vendor and device id read all ones in a VF; the class code is its own.
    const revision = config.read(rid, CFG.REVISION, 4);
    if (revision === 0xffffffff) continue;
    found.push({
      rid,
      vendor: pf.vendor,
      device: info.vfDevice,
      classCode: revision >>> 8,
      bars: info.bars.map((b) => ({ ...b, address: b.address === undefined ? undefined : b.address + i * b.size })),
      capabilities: capabilities(config, rid),
      extendedCapabilities: extendedCapabilities(config, rid),
      portType: pf.portType,
      bridge: undefined,
      sriov: undefined,
      physical: pf,
    });
  }
  return found;
}

export function disableVirtualFunctions(config: ConfigAccess, pf: PciDevice, delay: Delay): void {
  const info = pf.sriov;
  if (!info) return;
  const control = info.at + SRIOV.CONTROL;
  config.write(pf.rid, control, 2, config.read(pf.rid, control, 2) & ~(SRIOV_VF_ENABLE | SRIOV_VF_MEMORY_ENABLE));
  // SR-IOV 1.1 3.3.3.1: VFs are gone one second after the bit was cleared.
  delay(1_000_000_000);
}
