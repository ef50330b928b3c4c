// What both kinds of VhostBackend over a vDPA device have in common: taking the device, negotiating with it, keeping its data queues' address space in step with the
// memory of the function in front of it (mappings, bus mastering, turns), so that what the guest takes away the device cannot use any more when the guest's access returns;
// and its control queue, in an address space of its own, told what the emulated control plane has settled with the driver.

import type { DirtyWriter } from '#core/dirty-log';
import { DMA_WRITE, type DmaFollower, type DmaMapping, type DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, GuestMemory, type RamRange } from '#core/guest-memory';
import { VIRTIO_STATUS_ACKNOWLEDGE, VIRTIO_STATUS_DRIVER, VIRTIO_STATUS_DRIVER_OK, VIRTIO_STATUS_FEATURES_OK } from '#virtio/device-status';
import type { FeatureSet } from '#virtio/features';
import { NetPolicy, POLICY_ACTIVE } from '#virtio/net-policy';
import type { VdpaDevice, VdpaEvent, VdpaOwner } from '#virtio/vdpa';
import type { VhostSession } from '#virtio/vhost';
import { ControlShadow, controlFeatures } from './vdpa-control-shadow.ts';
import { reachable } from './vdpa-reach.ts';

const PAGE = 4096;
/** As Linux's and QEMU's vhost-vdpa have them. */
const DATA_SPACE = 0;
const CONTROL_SPACE = 1;

export interface FrontParts {
  /** The translations to give the device, from those of the function. */
  readonly plan: (memory: DmaSpace) => readonly DmaMapping[];
  readonly event: (event: Exclude<VdpaEvent, { kind: 'released' }>) => void;
  /** The device is about to be another's: what it knows is to be asked for now. */
  readonly released?: () => void;
  /** The device has stopped touching memory, as bus mastering is about to be cleared; the function's can still be written. */
  readonly leaving?: () => void;
}

export class VdpaFront implements VdpaOwner, DmaFollower {
  readonly device: VdpaDevice;
  readonly #parts: FrontParts;
  /** The function's memory, while the device is ours. */
  #memory: DmaSpace | undefined;
  #whole: GuestMemory | undefined;
  #ranges: readonly RamRange[] = [];
  #policy: NetPolicy | undefined;
  #control: ControlShadow | undefined;
  // The same for every driver: one may come and go as often as it likes.
  #controlBuffer = new SharedArrayBuffer(0);
  #said = new NetPolicy();

  constructor(device: VdpaDevice, parts: FrontParts) {
    this.device = device;
    this.#parts = parts;
  }

  /** The device is ours. */
  get held(): boolean {
    return this.#memory !== undefined;
  }

  /**
   * Takes the device and brings it to DRIVER_OK, with no data ring ready and its control queue told everything.
   * @param features the driver's, without those that the card is not to have
   * @param own memory beside the guest's that the plan maps. @throws TypeError, RangeError, Error, ControlRefusedError
   */
  open(session: VhostSession, features: FeatureSet, own: readonly RamRange[] = []): void {
    const { device } = this;
    const { memory, policy } = session;
    const { limits } = policy.rss;
    const [dataGroup, controlGroup] = [device.vringGroup(0), device.vringGroup(device.controlVring)];
    if (dataGroup === controlGroup || device.addressSpaces <= CONTROL_SPACE)
      throw new Error(`the control queue of ${device.name} cannot be isolated from its data queues`);
    const bytes = ControlShadow.bytes(limits);
    if (this.#controlBuffer.byteLength !== bytes) this.#controlBuffer = new SharedArrayBuffer(bytes);
    const base = Math.max(...memory.memory.slabs.map((slab) => slab.base + slab.size), ...own.map((range) => range.base + range.size));
    device.setOwner(this, this.#joined(memory.memory, [...own, { base, size: bytes, source: this.#controlBuffer }]));
    device.setGroupAddressSpace(dataGroup, DATA_SPACE);
    device.setGroupAddressSpace(controlGroup, CONTROL_SPACE);
    device.setControl(session);
    const negotiated = features.and(device.features).or(controlFeatures(features, device));
    device.status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    device.driverFeatures = negotiated;
    device.status |= VIRTIO_STATUS_FEATURES_OK;
    if ((device.status & VIRTIO_STATUS_FEATURES_OK) === 0)
      throw new Error(`${device.name} does not accept feature bits ${negotiated.without(device.features).bits().join(', ')}`);
    this.#memory = memory;
    this.#policy = policy;
    this.#said = this.#said.cleared(limits);
    this.#control = new ControlShadow(device, negotiated, this.#said, this.#controlBuffer);
    for (const mapping of this.#control.mappings(base)) device.map(CONTROL_SPACE, mapping);
    this.#control.setUp();
    this.moved();
    memory.followers.add(this);
    device.status |= VIRTIO_STATUS_DRIVER_OK;
    this.#tell(true);
  }

  /** Feature bits that the device has not and would need to be told what a driver with these sets. */
  lacks(features: FeatureSet): FeatureSet {
    return controlFeatures(features, this.device).without(this.device.features);
  }

  /** Tells the device what changed: in force for every turn that begins once this has returned. @throws ControlRefusedError */
  policyChanged(): void {
    // That nothing is served is all it need know: after a reset the next session says the rest, after a suspension the change that ends it.
    this.#tell(((this.#policy?.flags ?? 0) & POLICY_ACTIVE) !== 0);
  }

  #tell(settings: boolean): void {
    const [policy, control] = [this.#policy, this.#control];
    if (this.#memory === undefined || policy === undefined || control === undefined) return;
    const { device } = this;
    const commands = settings ? control.difference(policy) : [];
    device.betweenTurns(() => {
      device.controlChanged();
      control.say(commands);
    });
  }

  /** The guest's RAM and our own in one: the same object each time, unless either is other memory now. */
  #joined(guest: GuestMemory, own: readonly RamRange[]): GuestMemory {
    const ranges: RamRange[] = guest.share().ranges.map(({ base, size, buffer, byteOffset }) => ({ base, size, source: buffer, sourceOffset: byteOffset }));
    ranges.push(...own);
    const same =
      ranges.length === this.#ranges.length && ranges.every(({ base, source }, i) => this.#ranges[i]?.base === base && this.#ranges[i]?.source === source);
    if (!same || this.#whole === undefined) this.#whole = new GuestMemory(ranges);
    this.#ranges = ranges;
    return this.#whole;
  }

  vdpaEvent(event: VdpaEvent): void {
    if (event.kind !== 'released') {
      this.#parts.event(event);
      return;
    }
    if (this.#memory === undefined) return;
    this.#parts.released?.();
    this.#memory.followers.delete(this);
    this.#memory = undefined;
  }

  // ---- DmaFollower ----

  leaving(): void {
    this.device.busMaster = false;
    this.#parts.leaving?.();
  }

  moved(): void {
    const memory = this.#memory;
    if (memory === undefined) return;
    const { device } = this;
    const { plan } = this.#parts;
    // Its rings see all of the change or nothing: an area that is gone for a moment would break them.
    device.betweenTurns(() => {
      device.busMaster = memory.busMaster;
      device.beginBatch();
      try {
        device.unmap(DATA_SPACE, 0, ADDRESS_LIMIT);
        for (const mapping of plan(memory)) device.map(DATA_SPACE, mapping);
      } finally {
        device.endBatch();
      }
    });
  }

  betweenTurns(write: () => void): void {
    this.device.betweenTurns(write);
  }
}

/**
 * The guest's dirty log, over a device that writes without marking pages there: by what the device logged itself; of one that logs nothing, every page it can write counts as
 * written while rings are served. (A migration over such a device puts shadow virtqueues in between first: then what it wrote is known.)
 */
export class DeviceDirt implements DirtyWriter {
  /** A ring was served since pages were collected last. */
  served = false;
  readonly #device: VdpaDevice;
  readonly #memory: DmaSpace;
  #logging = false;
  #over = false;

  constructor(device: VdpaDevice, memory: DmaSpace) {
    this.#device = device;
    this.#memory = memory;
    memory.memory.dirty.join(this);
  }

  get logging(): boolean {
    return this.#logging;
  }

  set logging(on: boolean) {
    if (on === this.#logging) return;
    this.#logging = on;
    if (this.#over) return;
    if (on) this.#device.dirtyLog?.start();
    else this.#device.dirtyLog?.stop();
  }

  /** The last look: the device is about to be another's. */
  finish(): void {
    this.collect();
    if (this.#logging) this.#device.dirtyLog?.stop();
    this.#over = true;
  }

  /** Between turns: the device loses mappings, and what it wrote through them is to be known still. */
  remapped(before: readonly DmaMapping[], after: readonly DmaMapping[]): void {
    if (!this.#logging || !this.served || this.#over || this.#device.dirtyLog !== undefined) return;
    const { dirty } = this.#memory.memory;
    const kept = new Set(after.map(writableAs));
    for (const mapping of before)
      if ((mapping.permissions & DMA_WRITE) !== 0 && !kept.has(writableAs(mapping))) dirty.markAddress(mapping.address, mapping.size);
  }

  collect(): void {
    if (!this.#logging || !this.served || this.#over) return;
    const device = this.#device;
    const { dirty } = this.#memory.memory;
    this.served = false;
    // The control ring runs until the next reset, and reaches nothing of the guest's.
    for (let index = 0; index < device.controlVring; index++) if (/running|stopping/.test(device.vringState(index))) this.served = true;
    if (device.dirtyLog !== undefined) for (const page of device.dirtyLog.take()) dirty.markAddress(page, PAGE);
    else for (const { address, size, permissions } of reachable(this.#memory)) if ((permissions & DMA_WRITE) !== 0) dirty.markAddress(address, size);
  }
}

const writableAs = ({ address, size, permissions }: DmaMapping): string => `${address} ${size} ${permissions & DMA_WRITE}`;
