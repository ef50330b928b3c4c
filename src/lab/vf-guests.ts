// Guests that each have a virtual function of an 82576 (vf-host.ts). All of them run on the machine's thread.

import { InlineSegment } from '#backends/inline-backend';
import type { GuestMemory } from '#core/guest-memory';
import type { Iommu } from '#core/iommu';
import type { Igb as IgbDevice } from '#devices/igb/device';
import { GuestArena } from '#guest-sim/arena';
import { Guest } from '#guest-sim/guest';
import type { IgbOptions, IgbvfOptions } from '#guest-sim/igb-options';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import type { Delay } from '#guest-sim/pci-sriov';
import { DirectLink } from '#net/direct-link';
import type { PortHost } from '#net/port';
import { Segment } from '#net/segment';
import type { Machine } from '#nicbox/machine';
import { VfHost } from './vf-host.ts';

const NEGOTIATION = 1000;
/** Nanoseconds that a step of everybody takes, and steps until a wait is given up. */
const STEP = 1000;
const MOST_STEPS = 50_000;

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
  readonly iommu: Iommu;
  readonly device: IgbDevice;
  /** Drives the physical function. */
  readonly host: Guest;
  /** By virtual function. */
  readonly guests: readonly Guest[];
  readonly functions: readonly PciDevice[];
  readonly #clock: VfHost['clock'];

  /** Everything up: the physical function, its virtual ones, a driver in each guest. @throws RangeError, IgbError */
  constructor(options: VfGuestsOptions) {
    const { vfs, mac = '52:54:00:82:57:60' } = options;
    const vfHost = new VfHost(vfs);
    this.machine = vfHost.machine;
    this.iommu = vfHost.iommu;
    this.#clock = vfHost.clock;
    const segment = options.segment ?? new InlineSegment(new Segment(new DirectLink()));
    this.device = this.machine.addIgb({ mac, segment, negotiation: NEGOTIATION }, { under: vfHost.port });
    const bus = this.machine.localBus();
    this.host = new Guest(bus, { igb: options.host ?? {} });
    this.functions = this.host.igb.enableVfs(vfs, (nanos) => this.#clock.advance(nanos));
    this.guests = this.functions.map((device, i) => this.openGuest(device, vfHost.assign(device, i), options.guest));
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
