// A host with an 82576 whose virtual functions belong to guests: each guest has memory of its own, which it sees from address 0 on and which an IOMMU makes the only thing its
// function can reach. All of them run on the machine's thread, in simulated time.

import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { GuestMemory } from '#core/guest-memory';
import { Iommu } from '#core/iommu';
import type { Igb as IgbDevice } from '#devices/igb/device';
import { GuestArena } from '#guest-sim/arena';
import { Guest } from '#guest-sim/guest';
import type { IgbOptions, IgbvfOptions } from '#guest-sim/igb-options';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import type { Delay } from '#guest-sim/pci-sriov';
import { DirectLink } from '#net/direct-link';
import type { PortHost } from '#net/port';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';

const HOST_BYTES = 32 * 2 ** 20;
const NEGOTIATION = 1000;
/** Nanoseconds that a step of everybody takes, and steps until a wait is given up. */
const STEP = 1000;
const MOST_STEPS = 50_000;
const GUEST_BYTES = 4 * 2 ** 20;

export interface VfGuestsOptions {
  /** Virtual functions, each a guest's: 1 to 7. */
  readonly vfs: number;
  /** Where the port's cable goes. Default: to nobody. */
  readonly segment?: PortHost;
  readonly mac?: string;
  readonly host?: IgbOptions;
  readonly guest?: IgbvfOptions;
}

export class VfGuests {
  readonly machine: Machine;
  readonly iommu = new Iommu({ unattached: 'identity' });
  readonly device: IgbDevice;
  /** Drives the physical function. */
  readonly host: Guest;
  /** By virtual function. */
  readonly guests: readonly Guest[];
  readonly functions: readonly PciDevice[];
  readonly #clock = new SimClock();

  /** Everything up: the physical function, its virtual ones, a driver in each guest. @throws RangeError, IgbError */
  constructor(options: VfGuestsOptions) {
    const { vfs, mac = '52:54:00:82:57:60' } = options;
    const clock = this.#clock;
    const segment = options.segment ?? new InlineSegment(new Segment(new DirectLink()));
    const ram = Array.from({ length: vfs }, () => new SharedArrayBuffer(GUEST_BYTES));
    this.machine = new Machine({
      name: 'host',
      memory: new GuestMemory([{ base: 0, size: HOST_BYTES }, ...ram.map((source, i) => ({ base: HOST_BYTES + i * GUEST_BYTES, size: GUEST_BYTES, source }))]),
      iommu: this.iommu,
      clock,
    });
    const port = rootPort({ express: { slot: { number: 1 } } });
    this.machine.attach(port);
    this.device = this.machine.addIgb({ mac, segment, negotiation: NEGOTIATION }, { under: port });
    const bus = this.machine.localBus();
    this.host = new Guest(bus, { igb: options.host ?? {} });
    this.functions = this.host.igb.enableVfs(vfs, (nanos) => clock.advance(nanos));
    this.guests = this.functions.map((device, i) => {
      const domain = this.iommu.domain();
      domain.map(0, HOST_BYTES + i * GUEST_BYTES, GUEST_BYTES);
      this.iommu.attach(device.rid, domain);
      const memory = new GuestMemory([{ base: 0, size: GUEST_BYTES, source: ram[i] as SharedArrayBuffer }]);
      return this.openGuest(device, memory, options.guest);
    });
  }

  /** A guest with this memory, driving one virtual function; the host's driver answers meanwhile. @throws RangeError, IgbError */
  openGuest(device: PciDevice, memory: GuestMemory, igbvf: IgbvfOptions = {}): Guest {
    const { host } = this;
    const delay: Delay = (nanos) => {
      this.#clock.advance(nanos);
      host.step();
    };
    return new Guest(this.machine.localBus(), { igbvf }, { host, device, arena: new GuestArena(memory), delay });
  }

  /** Lets guest time pass with nobody doing anything. */
  pass(nanos: number): void {
    this.#clock.advance(nanos);
  }

  /** Steps all that are up. True when any of them got anywhere. */
  step(): boolean {
    let busy = this.host.step();
    for (const guest of this.guests) if (guest.step()) busy = true;
    this.#clock.advance(STEP);
    return busy;
  }

  /** Every station's address, virtual functions first, as `mesh` jobs want them. */
  get stations(): number[][] {
    return [...this.guests, this.host].map((guest) => [...guest.nic.configuration.mac]);
  }

  /** Steps until it is so. @throws Error saying what was waited for, after MOST_STEPS */
  until(so: () => boolean, what: string): void {
    for (let steps = 0; !so(); steps++) {
      if (steps === MOST_STEPS) throw new Error(`waited for ${what}: ${this.troubles()}`);
      this.step();
    }
  }

  /** Why drivers gave up, and how jobs stand. */
  troubles(): string {
    return JSON.stringify(
      [this.host, ...this.guests].map((guest) => ({
        broken: guest.nic.broken,
        mac: [...guest.nic.configuration.mac],
        ...(guest.workload && { job: guest.report() }),
      })),
    );
  }

  async close(): Promise<void> {
    await this.machine.close();
  }
}
