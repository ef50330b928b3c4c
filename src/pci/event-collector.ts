// The root complex event collector's endpoint association (PCIe 4.0 7.9.10, 6.2.4.1.3): which integrated endpoints of its bus send their error and PME messages to
// it. Such endpoints have no root port above them.

import type { Capability, CapabilityArea, FunctionHost } from './capability.ts';

export class EventCollectorAssociation implements Capability {
  readonly id = 0x07;
  readonly extended = true;
  readonly version = 1;
  readonly size = 8;
  readonly #devices: number;

  /** @param devices bit n = the integrated endpoints at device number n of the collector's bus; all of them if left out. */
  constructor(devices = 0xffff_ffff) {
    this.#devices = devices >>> 0;
  }

  /** @throws TypeError on any other function than an event collector. */
  install(area: CapabilityArea): void {
    if (area.host.pcieType !== 'root-complex-event-collector')
      throw new TypeError(`a ${area.host.pcieType} collects no events: its type must be root-complex-event-collector`);
    area.set32(4, this.#devices);
  }

  covers(deviceNumber: number): boolean {
    return ((this.#devices >>> deviceNumber) & 1) !== 0;
  }
}

/** The event collector that a function on the root bus sends its messages to. */
export function collectorOf(host: Pick<FunctionHost, 'bus' | 'routingId' | 'physical'>): FunctionHost | undefined {
  const device = ((host.physical ?? host).routingId >>> 3) & 31;
  for (const fn of host.bus?.functions ?? []) {
    for (const capability of fn.capabilities) if (capability instanceof EventCollectorAssociation && capability.covers(device)) return fn;
  }
  return undefined;
}
