// Alternative routing-id interpretation (PCIe 4.0 7.8.7): eight-bit function numbers, found by following next function numbers from function 0. Function groups
// are not offered. The port's half, ARI Forwarding Enable, is in express.ts.

import type { Capability, CapabilityArea } from './capability.ts';

export class Ari implements Capability {
  readonly id = 0x0e;
  readonly extended = true;
  readonly version = 1;
  readonly size = 8;
  readonly #next: number;

  /** @param nextFunction the next higher function of the device, 0 at the last one and in VFs. @throws RangeError unless 0..255. */
  constructor(nextFunction = 0) {
    if (!Number.isInteger(nextFunction) || nextFunction < 0 || nextFunction > 255) throw new RangeError(`no function ${nextFunction}: ARI has 0..255`);
    this.#next = nextFunction;
  }

  install(area: CapabilityArea): void {
    area.set8(5, this.#next);
  }
}
