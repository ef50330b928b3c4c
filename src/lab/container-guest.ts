// The experiment's guest: brings its NIC up and, for the paths with virtual functions, one for each container, and gives each its turns. Who drives it (a thread in real time, a model's processors) decides in which order.

import type { Nanos } from '#core/clock';
import type { GuestBus } from '#core/guest-bus';
import { Bridge, type BridgedNic } from '#guest-sim/bridge';
import { Guest } from '#guest-sim/guest';
import type { Nic } from '#guest-sim/nic';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import { Sink } from '#guest-sim/sink';
import type { Workload } from '#guest-sim/workload';
import type { Path } from './sriov-offload.ts';

/** Buffers of 2 KiB in each direction of each container, on every path, and of the NIC below a bridge. */
export const RING = 256;

export interface ContainerGuestOptions {
  readonly path: Path;
  readonly containers: number;
  /** Which guest of the experiment, from 0: no two stations have one address. */
  readonly number: number;
  /** Lets time pass while functions come up. Default: sleeps. */
  readonly delay?: (duration: Nanos) => void;
}

export interface Container {
  readonly guest: ContainerGuest;
  /** Among its guest's. */
  readonly number: number;
  readonly nic: Nic;
  /** Its end of the bridge; undefined with a function of its own. */
  readonly bridged: BridgedNic | undefined;
  workload: Workload;
}

/** Sends nothing, and counts what comes. */
export const idle = (): Workload => new Sink({ kind: 'sink', verify: 'none' });

export class ContainerGuest {
  readonly guest: Guest;
  readonly bridge: Bridge | undefined;
  readonly containers: readonly Container[];

  /** @throws Error when a function does not come up */
  constructor(bus: GuestBus, { path, containers, number, delay }: ContainerGuestOptions) {
    const options = { queueSize: RING, interrupts: 'shared' } as const;
    this.guest = new Guest(bus, { net: { ...options, sriov: path !== 'bridge', promiscuous: path === 'bridge' }, vectors: 'shared' });
    const { arena, nic } = this.guest;
    if (path === 'bridge') {
      const macs = Array.from({ length: containers }, (_, i) => Uint8Array.of(0x52, 0x54, 0, 0xbb, (number << 6) | (i >> 8), i & 0xff));
      this.bridge = new Bridge(arena, nic, macs, RING);
      this.guest.tap = this.bridge;
      this.containers = this.bridge.ports.map((bridged, i) => ({ guest: this, number: i, nic: bridged, bridged, workload: idle() }));
      return;
    }
    const pf = this.guest.tree.devices.find((device) => device.sriov !== undefined) as PciDevice;
    const functions = this.guest.enableVirtualFunctions(pf, containers, delay);
    if (functions.length !== containers) throw new Error(`${functions.length} of ${containers} virtual functions answer`);
    this.containers = functions.map((device, i) => ({
      guest: this,
      number: i,
      nic: this.guest.openNet(device, options),
      bridged: undefined,
      workload: idle(),
    }));
  }

  /** A container's turn: takes frames, and sends. True when it got anywhere. */
  step({ nic, workload }: Container): boolean {
    const received = workload.framesReceived;
    let busy = nic.poll(workload);
    if (!workload.done && workload.step(nic, this.guest.bus)) busy = true;
    // A poll that took all there was has nothing more to do, but was work.
    return busy || workload.framesReceived !== received;
  }

  /** Interrupts and the physical function's turn. True when it got anywhere. */
  stepNic(): boolean {
    const arrived = this.bridge?.arrived;
    return this.guest.step() || this.bridge?.arrived !== arrived;
  }

  /** Why a driver gave up, or ''. */
  get broken(): string {
    for (const { nic } of this.containers) if (nic.broken !== '') return nic.broken;
    return this.guest.nic.broken;
  }

  get interrupts(): number {
    let interrupts = this.guest.nic.interrupts;
    for (const { nic } of this.containers) interrupts += nic.interrupts;
    return interrupts;
  }

  shutDown(): void {
    for (const { nic } of this.containers) nic.shutDown();
    this.guest.nic.shutDown();
  }
}
