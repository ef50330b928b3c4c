// A host machine whose virtual functions belong to guests: each guest has memory of its own, seen from address 0 on, which an IOMMU makes the only thing its function can reach. Simulated time.

import { SimClock } from '#core/clock';
import { GuestMemory } from '#core/guest-memory';
import { Iommu } from '#core/iommu';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';
import type { PciFunction } from '#pci/function';

const HOST_BYTES = 32 * 2 ** 20;
const GUEST_BYTES = 4 * 2 ** 20;

export class VfHost {
  readonly machine: Machine;
  readonly iommu = new Iommu({ unattached: 'identity' });
  readonly clock = new SimClock();
  /** Where the physical function is to be attached. */
  readonly port: PciFunction;
  readonly #ram: readonly SharedArrayBuffer[];
  readonly #guestBytes: number;

  constructor(guests: number, guestBytes = GUEST_BYTES) {
    this.#ram = Array.from({ length: guests }, () => new SharedArrayBuffer(guestBytes));
    this.#guestBytes = guestBytes;
    const guestRam = this.#ram.map((source, i) => ({ base: HOST_BYTES + i * guestBytes, size: guestBytes, source }));
    this.machine = new Machine({
      name: 'host',
      memory: new GuestMemory([{ base: 0, size: HOST_BYTES }, ...guestRam]),
      iommu: this.iommu,
      clock: this.clock,
    });
    this.port = rootPort({ express: { slot: { number: 1 } } });
    this.machine.attach(this.port);
  }

  /** Gives a function to a guest: the memory that both then have. */
  assign(device: PciDevice, guest: number): GuestMemory {
    const domain = this.iommu.domain();
    domain.map(0, HOST_BYTES + guest * this.#guestBytes, this.#guestBytes);
    this.iommu.attach(device.rid, domain);
    return new GuestMemory([{ base: 0, size: this.#guestBytes, source: this.#ram[guest] as SharedArrayBuffer }]);
  }
}
