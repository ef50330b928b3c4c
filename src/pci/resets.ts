// Resets that take in what lies below, leaves first: by the time a bridge forgets its bus numbers, all behind it is at rest.

import type { Bus } from './bus.ts';
import type { PciFunction } from './function.ts';

/** Power-on of `fn` and all below. */
export function powerOn(fn: PciFunction): void {
  for (const child of fn.secondaryBus?.functions ?? []) powerOn(child);
  fn.powerOn();
}

/** Hot reset of everything on `bus` and below (PCIe 4.0 6.6.1). */
export function resetBus(bus: Bus): void {
  for (const fn of bus.functions) {
    if (fn.secondaryBus) resetBus(fn.secondaryBus);
    fn.reset('conventional');
  }
}
