// Which function may sit where: the hierarchy's rules, checked when a device is attached so that no guest ever meets a tree that cannot exist. PCIe 4.0 1.3.

import type { Bus, BusKind } from './bus.ts';
import type { PcieType, PciFunction } from './function.ts';

const ALLOWED: Record<BusKind, readonly PcieType[]> = {
  // A plain endpoint on the root bus is let through: many machines have them, and guests cope (SR-IOV wants a root-complex endpoint there).
  root: ['conventional', 'endpoint', 'legacy-endpoint', 'root-complex-endpoint', 'root-complex-event-collector', 'root-port', 'pcie-to-pci-bridge'],
  internal: ['downstream-port'],
  link: ['endpoint', 'legacy-endpoint', 'upstream-port', 'pcie-to-pci-bridge'],
  conventional: ['conventional'],
};

/** @throws TypeError or RangeError saying why `functions` (by function number) cannot be device `device` on `bus`. */
export function checkPlacement(bus: Bus, functions: readonly (PciFunction | undefined)[], device: number): void {
  if (functions[0] === undefined) throw new TypeError('a device needs a function 0: nothing else is looked for without it');
  const most = bus.kind === 'link' ? 256 : 8;
  if (functions.length > most) throw new RangeError(`a device on a ${bus.kind} bus has at most ${most} functions`);
  const lastDevice = bus.kind === 'link' ? 0 : 31;
  if (!Number.isInteger(device) || device < 0 || device > lastDevice) throw new RangeError(`device ${device}: a ${bus.kind} bus has devices 0..${lastDevice}`);
  for (const [number, fn] of functions.entries()) {
    if (fn === undefined) continue;
    const where = `${fn.name} at device ${device} function ${number} of a ${bus.kind} bus`;
    if (fn.attachment !== undefined || functions.indexOf(fn) !== number) throw new TypeError(`${where}: already attached`);
    if (fn.virtual) throw new TypeError(`${where}: a virtual function is attached with its PF`);
    if (!ALLOWED[bus.kind].includes(fn.pcieType)) throw new TypeError(`${where}: a ${fn.pcieType} function cannot be there (${ALLOWED[bus.kind].join(', ')})`);
    if (bus.at((device << 3) + number) !== undefined) throw new RangeError(`${where}: taken`);
  }
  if (bus.functions.some((other) => other.devfn >>> 3 === device)) throw new RangeError(`device ${device} of the ${bus.kind} bus is taken`);
}
