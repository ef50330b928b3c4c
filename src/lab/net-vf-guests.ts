// Guests that each have a virtual function of a virtio-net physical function (vf-host.ts). All drivers run on the machine's thread; the functions' rings are served by whatever data planes the
// caller gives.

import type { GuestMemory } from '#core/guest-memory';
import type { Iommu } from '#core/iommu';
import type { NetSriovOptions, NetVfs } from '#devices/virtio-net/virtual-functions';
import { GuestArena } from '#guest-sim/arena';
import { Guest } from '#guest-sim/guest';
import type { VirtioNetOptions as DriverOptions } from '#guest-sim/net-options';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import { VIRTIO_F } from '#guest-sim/virtio-constants';
import type { Machine } from '#nicbox/machine';
import type { VhostBackend } from '#virtio/vhost';
import { VfHost } from './vf-host.ts';

const STEP = 1000;
/** Milliseconds until a wait is given up. */
const PATIENCE = 60_000;
/** Steps of everybody between two turns for the event loop. */
const STEPS = 16;

export interface NetVfGuestsOptions {
  /** Virtual functions, each a guest's: 1 to 255. */
  readonly vfs: number;
  readonly mac?: string;
  /** The physical function's data plane. */
  readonly backend: VhostBackend;
  readonly sriov: Omit<NetSriovOptions, 'totalVfs'>;
  /** The physical function's driver, and the guests'. */
  readonly host?: DriverOptions;
  readonly guest?: DriverOptions;
  /** Memory of each guest. Default 4 MiB. */
  readonly guestBytes?: number;
}

export class NetVfGuests {
  readonly machine: Machine;
  readonly iommu: Iommu;
  /** What the host sets of the functions. */
  readonly vfs: NetVfs;
  /** Drives the physical function. */
  readonly host: Guest;
  /** By virtual function. */
  readonly guests: readonly Guest[];
  readonly functions: readonly PciDevice[];
  readonly #clock: VfHost['clock'];

  /** Everything up: the physical function, its virtual ones, a driver in each guest. @throws RangeError, VirtioError */
  constructor(options: NetVfGuestsOptions) {
    const { vfs, mac = '52:54:00:af:00:01', guestBytes } = options;
    const vfHost = new VfHost(vfs, guestBytes);
    this.machine = vfHost.machine;
    this.iommu = vfHost.iommu;
    this.#clock = vfHost.clock;
    const made = this.machine.addVirtioNet({ mac, backend: options.backend, sriov: { ...options.sriov, totalVfs: vfs } }, { under: vfHost.port });
    this.vfs = made.vfs;
    this.host = new Guest(this.machine.localBus(), { net: { with: [VIRTIO_F.ADMIN_VQ], ...options.host, sriov: true }, vectors: 'shared' });
    if (this.host.net.admin)
      this.host.net.admin.whileWaiting = () => {
        this.#clock.advance(STEP);
        this.machine.service();
      };
    const pf = this.host.tree.devices.find((device) => device.sriov !== undefined) as PciDevice;
    this.functions = this.host.enableVirtualFunctions(pf, vfs, (nanos) => this.#clock.advance(nanos));
    this.guests = this.functions.map((device, i) => this.openGuest(device, vfHost.assign(device, i), options.guest));
  }

  /** A guest with this memory, driving one virtual function. @throws RangeError, VirtioError */
  openGuest(device: PciDevice, memory: GuestMemory, net: DriverOptions = {}): Guest {
    const { host } = this;
    const delay = (nanos: number): void => this.#clock.advance(nanos);
    return new Guest(this.machine.localBus(), { net }, { host, device, arena: new GuestArena(memory), delay });
  }

  /** Lets guest time pass with nobody doing anything. */
  pass(nanos: number): void {
    this.#clock.advance(nanos);
  }

  /** Steps all that are up. True when any of them got anywhere. */
  step(): boolean {
    let busy = this.host.step();
    for (const guest of this.guests) if (guest.step()) busy = true;
    this.machine.service();
    this.#clock.advance(STEP);
    return busy;
  }

  /** Steps until it is so. @throws Error saying what was waited for, after a while */
  async until(so: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + PATIENCE;
    while (!so()) {
      if (performance.now() > deadline) throw new Error(`waited ${PATIENCE / 1000} s for ${what}: ${this.troubles()}`);
      for (let i = 0; i < STEPS; i++) this.step();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Why drivers gave up, and how jobs stand. */
  troubles(): string {
    return JSON.stringify([this.host, ...this.guests].map((guest) => ({ broken: guest.nic.broken, ...(guest.workload && { job: guest.report() }) })));
  }

  async close(): Promise<void> {
    await this.machine.close();
  }
}
