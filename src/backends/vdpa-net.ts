// A vDPA network device whose hardware is a worker thread: its rings are those of a port on one of the worker's segments (vhost-net.ts), served by the same ring loop, with
// doorbells that guests write and calls that go straight to the interrupt controller. What is a NIC's own is here: status, configuration space, translations, suspension,
// and, as an option, the log of pages it wrote. Two groups of rings: the data queues, and the control queue (vdpa-control-queue.ts).

import type { DmaMapping, DmaSpace } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import { ADDRESS_LIMIT, type GuestMemory } from '#core/guest-memory';
import type { Call } from '#core/interrupts';
import { VIRTIO_STATUS_DRIVER_OK, VIRTIO_STATUS_FEATURES_OK } from '#virtio/device-status';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '#virtio/features';
import * as net from '#virtio/net-features';
import { initialPosition } from '#virtio/open-queue';
import type { VdpaControl, VdpaDevice, VdpaDirtyLog, VdpaEvent, VdpaOwner } from '#virtio/vdpa';
import type { VhostEvent, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { CONTROL_GROUP, DATA_GROUP, VdpaAddressSpaces } from './vdpa-address-space.ts';
import { VdpaControlQueue } from './vdpa-control-queue.ts';
import { NetConfig } from './vdpa-net-config.ts';
import type { VhostNet } from './vhost-net.ts';

const VIRTIO_ID_NETWORK = 1;
const MAXIMUM_VRING = 32768;
/** Besides what its data path has. */
const OWN_FEATURES = FeatureSet.of(
  VIRTIO_F_VERSION_1,
  VIRTIO_F_ACCESS_PLATFORM,
  net.VIRTIO_NET_F_CTRL_VQ,
  net.VIRTIO_NET_F_CTRL_RX,
  net.VIRTIO_NET_F_CTRL_RX_EXTRA,
  net.VIRTIO_NET_F_CTRL_VLAN,
  net.VIRTIO_NET_F_CTRL_MAC_ADDR,
  net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
  net.VIRTIO_NET_F_MQ,
);
const NO_AREAS = { descriptorArea: 0, driverArea: 0, deviceArea: 0 };

export interface VdpaNetOptions {
  /** In its configuration space. Default: none. */
  readonly mac?: Uint8Array;
  readonly mtu?: number;
  /** It logs the pages it writes. Default: false, as most hardware. */
  readonly dirtyTracking?: boolean;
  /** Feature bits it does not have. */
  readonly withoutFeatures?: readonly number[];
  /** Entries of its longest ring. Default 32768, as virtio has it. */
  readonly maxVringSize?: number;
  /** Default: all below 2^52. */
  readonly iovaRange?: { readonly first: number; readonly last: number };
}

interface Vring {
  size: number;
  areas: Omit<QueueSetup, 'size'>;
  position: VringPosition;
  call: Call | undefined;
  ready: boolean;
  /** The port has served it since the last reset: it knows where the ring stands. */
  started: boolean;
}

export class VdpaNet implements VdpaDevice {
  readonly name: string;
  readonly deviceId = VIRTIO_ID_NETWORK;
  readonly vringCount: number;
  readonly controlVring: number;
  readonly maxVringSize: number;
  readonly features: FeatureSet;
  readonly flowFilter = true;
  readonly iovaRange: { readonly first: number; readonly last: number };
  readonly groups: number;
  readonly addressSpaces: number;
  readonly dirtyLog?: VdpaDirtyLog;
  /** Where its frames go: counters, and the segment to leave. */
  readonly port: VhostNet;
  readonly #config: NetConfig;
  readonly #controlQueue = new VdpaControlQueue();
  #vrings: Vring[];
  readonly #spaces: VdpaAddressSpaces;
  #owner: VdpaOwner | undefined;
  #memory: GuestMemory | undefined;
  #control: VdpaControl | undefined;
  #status = 0;
  /** Reset, and rings may still be stopping. */
  #resetting = false;
  #driverFeatures = new FeatureSet();
  #suspended = false;

  constructor(port: VhostNet, options: VdpaNetOptions = {}) {
    this.port = port;
    this.name = `vdpa ${port.name}`;
    this.controlVring = 2 * port.maxQueuePairs;
    this.vringCount = this.controlVring + 1;
    this.features = port.features.or(OWN_FEATURES).without(FeatureSet.of(...(options.withoutFeatures ?? [])));
    this.maxVringSize = options.maxVringSize ?? MAXIMUM_VRING;
    if (!(Number.isInteger(this.maxVringSize) && this.maxVringSize >= 1 && this.maxVringSize <= MAXIMUM_VRING))
      throw new RangeError(`longest ring ${this.maxVringSize}: 1 to ${MAXIMUM_VRING} entries`);
    this.iovaRange = options.iovaRange ?? { first: 0, last: ADDRESS_LIMIT - 1 };
    this.#spaces = new VdpaAddressSpaces(this.name, this.iovaRange);
    this.groups = this.#spaces.groups;
    this.addressSpaces = this.#spaces.count;
    this.#config = new NetConfig(port.maxQueuePairs, options);
    this.#vrings = this.#freshVrings();
    if (options.dirtyTracking === true)
      this.dirtyLog = {
        start: () => this.#memory?.dirty.start(),
        stop: () => this.#memory?.dirty.stop(),
        take: () => this.#memory?.dirty.take() ?? [],
      };
    port.onEvent = (event) => this.#portEvent(event);
  }

  #freshVrings(): Vring[] {
    return Array.from({ length: this.vringCount }, (_, index) => ({
      size: 0,
      areas: NO_AREAS,
      position: this.#firstPosition(index),
      call: undefined,
      ready: false,
      started: false,
    }));
  }

  #firstPosition(index: number): VringPosition {
    return initialPosition(index === this.controlVring ? new FeatureSet() : this.#driverFeatures);
  }

  #portEvent(event: VhostEvent): void {
    // Whoever had rings makes them ready again: from `vringPosition`.
    if (event.kind === 'broken') {
      this.#vring(event.index).ready = false;
      this.#tellFaults();
    } else for (const [index, vring] of this.#vrings.entries()) if (this.port.vringState(index) === 'lost') vring.ready = false;
    this.#tell(event);
  }

  #tellFaults(): void {
    this.#spaces.takeFaults((addressSpace, count, faults) => this.#tell({ kind: 'fault', addressSpace, count, faults }));
  }

  #tell(event: VdpaEvent): void {
    this.#owner?.vdpaEvent(event);
  }

  setOwner(owner: VdpaOwner, memory: GuestMemory): void {
    if (this.#anyServed) throw new TypeError(`${this.name}: stop its rings before it changes owners`);
    memory.share();
    // Also when it takes the device anew: what it mapped and knew of the device is over.
    this.#tell({ kind: 'released' });
    this.status = 0;
    this.#owner = owner;
    this.#memory = memory;
    this.#spaces.bind(memory);
  }

  // ---- configuration space ----

  readConfig(offset: number, length: number): Uint8Array {
    return this.#config.read(offset, length);
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.#config.write(offset, bytes);
  }

  get configGeneration(): number {
    return this.#config.generation;
  }

  /** The wire's state, as the configuration space shows it. */
  setLink(up: boolean): void {
    if (this.#config.setLink(up)) this.#tell({ kind: 'config' });
  }

  // ---- status ----

  get #anyServed(): boolean {
    return this.#vrings.some((_, index) => {
      const state = this.port.vringState(index);
      return state === 'running' || state === 'stopping';
    });
  }

  get status(): number {
    if (this.#resetting && !this.#anyServed) {
      this.#resetting = false;
      this.#status = 0;
    }
    return this.#status;
  }

  set status(value: number) {
    if (value === 0) {
      this.#reset();
      return;
    }
    const before = this.status;
    if (this.#resetting) throw new TypeError(`${this.name}: its reset is not over: wait until its status reads 0`);
    if ((before & ~value) !== 0) throw new TypeError(`${this.name}: status bits are cleared by a reset only`);
    let status = before | value;
    // virtio 1.4 2.2.2 (device MUST): FEATURES_OK is not accepted with features it does not have.
    if (!this.#driverFeatures.without(this.features).empty) status &= ~VIRTIO_STATUS_FEATURES_OK;
    if ((status & ~before & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#driverOk(status);
    this.#status = status;
  }

  #driverOk(status: number): void {
    const space = this.#spaces.memoryOf(DATA_GROUP);
    if (space === undefined || this.#control === undefined)
      throw new TypeError(`${this.name}: an owner, its memory and its control words come before DRIVER_OK`);
    if ((status & VIRTIO_STATUS_FEATURES_OK) === 0) throw new TypeError(`${this.name}: FEATURES_OK comes before DRIVER_OK`);
    const { statistics, clock } = this.#control;
    this.#controlQueue.begin({ features: this.#driverFeatures, control: this.#control, config: this.#config, pairs: this.port.maxQueuePairs });
    this.port.open({ features: this.#driverFeatures, memory: space, policy: this.#controlQueue.policy, statistics, clock });
    for (const [index, vring] of this.#vrings.entries()) if (vring.ready) this.#start(index, vring);
  }

  get #live(): boolean {
    return (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0 && !this.#resetting;
  }

  #reset(): void {
    for (let index = 0; index < this.controlVring; index++) this.port.stopVring(index);
    this.#controlQueue.end();
    this.#config.reset();
    this.#resetting = true;
    this.#driverFeatures = new FeatureSet();
    this.#vrings = this.#freshVrings();
    this.#suspended = false;
    this.#control = undefined;
    this.#spaces.reset();
  }

  get driverFeatures(): FeatureSet {
    return this.#driverFeatures;
  }

  set driverFeatures(features: FeatureSet) {
    if ((this.status & VIRTIO_STATUS_FEATURES_OK) !== 0) throw new TypeError(`${this.name}: features are settled at FEATURES_OK`);
    this.#driverFeatures = features;
    for (const [index, vring] of this.#vrings.entries()) vring.position = this.#firstPosition(index);
  }

  setControl(control: VdpaControl): void {
    if (this.#live) throw new TypeError(`${this.name}: control words are given before DRIVER_OK`);
    this.#control = control;
  }

  controlChanged(): void {
    this.#controlQueue.publish();
    this.port.policyChanged();
  }

  kickControl(): void {
    const broken = this.#controlQueue.serve();
    this.port.policyChanged();
    if (broken !== undefined) this.#controlBroken(broken);
  }

  #controlBroken(reason: string): void {
    this.#vring(this.controlVring).ready = false;
    this.#tellFaults();
    this.#tell({ kind: 'broken', index: this.controlVring, reason });
  }

  announceStation(mac: Uint8Array): boolean {
    return this.#live && this.port.announceStation(mac);
  }

  // ---- rings ----

  #vring(index: number): Vring {
    const vring = this.#vrings[index];
    if (vring === undefined) throw new RangeError(`${this.name} has ${this.vringCount} rings: no ring ${index}`);
    return vring;
  }

  #idle(index: number): Vring {
    const vring = this.#vring(index);
    const state = this.port.vringState(index);
    if (vring.ready || state === 'running' || state === 'stopping') throw new TypeError(`${this.name}: ring ${index} is in use`);
    return vring;
  }

  setVringSize(index: number, size: number): void {
    if (size > this.maxVringSize) throw new RangeError(`${this.name} serves rings of up to ${this.maxVringSize} entries, not ${size}`);
    this.#idle(index).size = size;
  }

  setVringAddresses(index: number, areas: Omit<QueueSetup, 'size'>): void {
    this.#idle(index).areas = areas;
  }

  setVringPosition(index: number, position: VringPosition): void {
    const vring = this.#idle(index);
    vring.position = position;
    vring.started = false;
  }

  vringPosition(index: number): VringPosition {
    const vring = this.#vring(index);
    if (!vring.started) return vring.position;
    return index === this.controlVring ? this.#controlQueue.position : this.port.vringPosition(index);
  }

  setVringCall(index: number, call: Call): void {
    this.#idle(index).call = call;
  }

  vringDoorbell(index: number): Doorbell {
    const doorbell = this.port.kickDoorbell(index);
    if (doorbell === undefined) throw new RangeError(`${this.name} has ${this.controlVring} data rings: no doorbell ${index}`);
    return doorbell;
  }

  setVringReady(index: number, ready: boolean): void {
    const vring = this.#vring(index);
    if (vring.ready === ready) return;
    if (ready) {
      this.#idle(index);
      if (vring.call === undefined && index !== this.controlVring) throw new TypeError(`${this.name}: ring ${index} has no call`);
    }
    vring.ready = ready;
    if (!this.#live || this.#suspended) return;
    if (ready) this.#start(index, vring);
    else this.#stop(index);
  }

  #start(index: number, vring: Vring): void {
    const { areas, size, call } = vring;
    const position = this.vringPosition(index);
    vring.started = true;
    if (index === this.controlVring) {
      const broken = this.#controlQueue.open({ size, ...areas }, position, this.#spaces.memoryOf(CONTROL_GROUP) as DmaSpace);
      if (broken !== undefined) this.#controlBroken(broken);
      return;
    }
    this.port.startVring(index, { size, ...areas }, position, call as Call);
  }

  #stop(index: number): void {
    if (index === this.controlVring) this.#controlQueue.close();
    else this.port.stopVring(index);
  }

  vringState(index: number): VringState {
    if (!this.#vring(index).started) return 'stopped';
    return index === this.controlVring ? this.#controlQueue.state : this.port.vringState(index);
  }

  // ---- address spaces ----

  vringGroup(index: number): number {
    this.#vring(index);
    return index === this.controlVring ? CONTROL_GROUP : DATA_GROUP;
  }

  groupAddressSpace(group: number): number {
    return this.#spaces.groupSpace(group);
  }

  setGroupAddressSpace(group: number, addressSpace: number): void {
    if (this.#live) throw new TypeError(`${this.name}: groups get their address spaces before DRIVER_OK`);
    this.#spaces.setGroupSpace(group, addressSpace);
  }

  map(addressSpace: number, mapping: DmaMapping): void {
    this.#spaces.map(addressSpace, mapping);
  }

  unmap(addressSpace: number, iova: number, size: number): number {
    return this.#spaces.unmap(addressSpace, iova, size);
  }

  beginBatch(): void {
    this.#spaces.beginBatch();
  }

  endBatch(): void {
    this.#spaces.endBatch();
  }

  get busMaster(): boolean {
    return this.#spaces.memoryOf(DATA_GROUP)?.busMaster ?? true;
  }

  set busMaster(on: boolean) {
    const space = this.#spaces.memoryOf(DATA_GROUP);
    if (space !== undefined) space.busMaster = on;
  }

  betweenTurns(write: () => void): void {
    // Commands of the control queue run inside such a write: its address space has no turns.
    const space = this.#spaces.memoryOf(DATA_GROUP);
    if (space === undefined) write();
    else space.betweenTurns(write);
  }

  // ---- suspension ----

  suspend(): void {
    if (!this.#live || this.#suspended) return;
    this.#suspended = true;
    for (let index = 0; index < this.vringCount; index++) this.#stop(index);
  }

  get suspended(): boolean {
    return this.#suspended && !this.#anyServed;
  }

  resume(): void {
    if (!this.#suspended) return;
    if (!this.suspended) throw new TypeError(`${this.name}: its suspension is not complete: wait for suspended`);
    this.#suspended = false;
    this.#vrings.forEach((vring, index) => {
      if (vring.ready && this.vringState(index) !== 'broken') this.#start(index, vring);
    });
  }
}
