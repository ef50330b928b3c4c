// The driver's side of virtio over PCI (virtio 1.4 4.1): finds the structures through the vendor capabilities, and does to their registers what the
// spec asks, each with an access of the field's own width.

import type { GuestBus } from '#core/guest-bus';
import type { AccessSize } from '#core/region';
import type { ConfigAccess } from './pci-config.ts';
import { CAP_VENDOR, CFG, COMMAND_MASTER, COMMAND_MEMORY } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';
import type { RingAddresses } from './ring.ts';
import { COMMON_CFG, COMMON_CFG_MINIMUM, VIRTIO_PCI_CAP, VIRTIO_STATUS } from './virtio-constants.ts';

export type VirtioFault =
  | 'ERR_VIRTIO_CAPABILITIES'
  | 'ERR_VIRTIO_RESET'
  | 'ERR_VIRTIO_FEATURES'
  | 'ERR_VIRTIO_QUEUE'
  | 'ERR_VIRTIO_CONFIG'
  | 'ERR_VIRTIO_VECTOR'
  | 'ERR_VIRTIO_CONTROL'
  | 'ERR_VIRTIO_SUSPENDED'
  | 'ERR_VIRTIO_ADMIN'
  | 'ERR_VIRTIO_BROKEN';

/** The device did not do what the driver needs of it. */
export class VirtioError extends Error {
  readonly code: VirtioFault;

  constructor(code: VirtioFault, message: string) {
    super(message);
    this.name = 'VirtioError';
    this.code = code;
  }
}

interface Structure {
  readonly address: number;
  readonly length: number;
}

/** How long the driver waits for a register to reach a value the spec promises, in milliseconds. */
const PATIENCE_MS = 10_000;
/** Words of feature bits looked at: those of virtio-net reach to bit 70. */
const FEATURE_WORDS = 4;
const NAP = new Int32Array(new SharedArrayBuffer(4));

/** Polls `done` with growing naps. False when it did not come true in time. */
export function pollUntil(done: () => boolean, patience = PATIENCE_MS): boolean {
  for (let i = 0; i < 1000; i++) if (done()) return true;
  const deadline = performance.now() + patience;
  while (performance.now() < deadline) {
    Atomics.wait(NAP, 0, 0, 0.2);
    if (done()) return true;
  }
  return done();
}

export class VirtioPci {
  readonly rid: number;
  readonly #bus: GuestBus;
  readonly #common: Structure;
  readonly #notify: Structure;
  readonly #isr: Structure;
  readonly #device: Structure | undefined;
  readonly #multiplier: number;
  /** The bits this driver has set since the reset; NEEDS_RESET is the device's and is never written back. */
  #written = 0;

  private constructor(
    bus: GuestBus,
    rid: number,
    parts: { common: Structure; notify: Structure; isr: Structure; device: Structure | undefined; multiplier: number },
  ) {
    this.#bus = bus;
    this.rid = rid;
    this.#common = parts.common;
    this.#notify = parts.notify;
    this.#isr = parts.isr;
    this.#device = parts.device;
    this.#multiplier = parts.multiplier;
  }

  /** Opens a function: memory decoding and bus mastering on, structures found. @throws VirtioError */
  static open(bus: GuestBus, config: ConfigAccess, device: PciDevice): VirtioPci {
    const found = new Map<number, Structure>();
    let multiplier = 0;
    for (const cap of device.capabilities) {
      if (cap.id !== CAP_VENDOR) continue;
      const length = config.read(device.rid, cap.offset + 2, 1);
      const type = config.read(device.rid, cap.offset + 3, 1);
      const bar = config.read(device.rid, cap.offset + 4, 1);
      // virtio 1.4 4.1.4 (driver MUST): unknown types and reserved BAR numbers are skipped; longer capabilities than we know are fine.
      if (length < 16 || bar > 5 || type < VIRTIO_PCI_CAP.COMMON_CFG || type > VIRTIO_PCI_CAP.DEVICE_CFG || found.has(type)) continue;
      const offset = config.read(device.rid, cap.offset + 8, 4);
      const size = config.read(device.rid, cap.offset + 12, 4);
      const where = device.bars.find((b) => b.index === bar && !b.io);
      if (where?.address === undefined || offset + size > where.size || size === 0) continue;
      if (type === VIRTIO_PCI_CAP.COMMON_CFG && size < COMMON_CFG_MINIMUM) continue;
      if (type === VIRTIO_PCI_CAP.NOTIFY_CFG) {
        if (length < 20 || size < 2) continue;
        multiplier = config.read(device.rid, cap.offset + 16, 4);
      }
      found.set(type, { address: where.address + offset, length: size });
    }
    const common = found.get(VIRTIO_PCI_CAP.COMMON_CFG);
    const notify = found.get(VIRTIO_PCI_CAP.NOTIFY_CFG);
    const isr = found.get(VIRTIO_PCI_CAP.ISR_CFG);
    if (!common || !notify || !isr)
      throw new VirtioError('ERR_VIRTIO_CAPABILITIES', 'no usable common, notification and ISR structures: not a virtio 1.x device');
    const command = config.read(device.rid, CFG.COMMAND, 2);
    config.write(device.rid, CFG.COMMAND, 2, command | COMMAND_MASTER | (device.physical ? 0 : COMMAND_MEMORY));
    return new VirtioPci(bus, device.rid, { common, notify, isr, device: found.get(VIRTIO_PCI_CAP.DEVICE_CFG), multiplier });
  }

  #get(field: number, size: AccessSize): number {
    return this.#bus.mmioRead(this.#common.address + field, size);
  }

  #set(field: number, size: AccessSize, value: number): void {
    this.#bus.mmioWrite(this.#common.address + field, size, value);
  }

  get status(): number {
    return this.#get(COMMON_CFG.device_status, 1);
  }

  /** virtio 1.4 2.1.1 (driver MUST NOT): status bits are only ever added; `reset` alone clears them. */
  addStatus(bits: number): void {
    this.#written |= bits;
    this.#set(COMMON_CFG.device_status, 1, this.#written);
  }

  /** Writes 0 and waits to read it back (4.1.4.3.2). @throws VirtioError when the device never gets there. */
  reset(): void {
    this.#written = 0;
    this.#set(COMMON_CFG.device_status, 1, 0);
    if (!pollUntil(() => this.status === 0)) throw new VirtioError('ERR_VIRTIO_RESET', `device status still reads ${this.status} after a reset`);
  }

  /** Has the device stop where it is (VIRTIO_F_SUSPEND, virtio 1.4 3.4). @throws VirtioError when it does not get there, or asks for a reset. */
  suspend(): void {
    this.addStatus(VIRTIO_STATUS.SUSPEND);
    this.#awaitStatus(VIRTIO_STATUS.SUSPEND, 'suspend');
    this.#written &= ~VIRTIO_STATUS.DRIVER_OK;
  }

  /** Lets a suspended device run on. @throws VirtioError when it does not, or asks for a reset. */
  resume(): void {
    // SUSPEND is written as it stands: only the device clears it, once it runs (2.1.1: the driver clears no bit).
    this.addStatus(VIRTIO_STATUS.DRIVER_OK);
    this.#awaitStatus(VIRTIO_STATUS.DRIVER_OK, 'resume');
    this.#written &= ~VIRTIO_STATUS.SUSPEND;
  }

  #awaitStatus(wanted: number, what: string): void {
    const both = VIRTIO_STATUS.SUSPEND | VIRTIO_STATUS.DRIVER_OK;
    let status = 0;
    const done = pollUntil(() => {
      status = this.status;
      return (status & both) === wanted || (status & VIRTIO_STATUS.NEEDS_RESET) !== 0;
    });
    if (!done || (status & VIRTIO_STATUS.NEEDS_RESET) !== 0)
      throw new VirtioError('ERR_VIRTIO_SUSPENDED', `the device did not ${what}: its status reads ${status}`);
  }

  /** First index and number of the administration virtqueues; undefined when the structure is too short to say. */
  get adminQueues(): { readonly first: number; readonly count: number } | undefined {
    if (this.#common.length < COMMON_CFG.admin_queue_num + 2) return undefined;
    return { first: this.#get(COMMON_CFG.admin_queue_index, 2), count: this.#get(COMMON_CFG.admin_queue_num, 2) };
  }

  /** Bits 0 to 127 of what the device offers. */
  get offeredFeatures(): bigint {
    let features = 0n;
    for (let word = FEATURE_WORDS - 1; word >= 0; word--) {
      this.#set(COMMON_CFG.device_feature_select, 4, word);
      features = (features << 32n) | BigInt(this.#get(COMMON_CFG.device_feature, 4));
    }
    return features;
  }

  /** Writes the accepted bits, sets FEATURES_OK and looks whether it stayed (3.1.1 steps 4 to 6). @throws VirtioError */
  acceptFeatures(features: bigint): void {
    for (let word = 0; word < FEATURE_WORDS; word++) {
      this.#set(COMMON_CFG.driver_feature_select, 4, word);
      this.#set(COMMON_CFG.driver_feature, 4, Number((features >> BigInt(32 * word)) & 0xffffffffn));
    }
    this.addStatus(VIRTIO_STATUS.FEATURES_OK);
    if ((this.status & VIRTIO_STATUS.FEATURES_OK) === 0)
      throw new VirtioError('ERR_VIRTIO_FEATURES', `the device refused the feature set 0x${features.toString(16)}`);
  }

  /** Reads from the device configuration between two equal generations (2.5.1). @throws VirtioError when it never holds still. */
  readConfig<T>(read: (at: (offset: number, size: AccessSize) => number) => T): T {
    const device = this.#device;
    if (!device) throw new VirtioError('ERR_VIRTIO_CONFIG', 'the device has no configuration structure');
    const at = (offset: number, size: AccessSize): number => (offset + size <= device.length ? this.#bus.mmioRead(device.address + offset, size) : 0);
    for (let tries = 0; tries < 1000; tries++) {
      const before = this.#get(COMMON_CFG.config_generation, 1);
      const value = read(at);
      if (this.#get(COMMON_CFG.config_generation, 1) === before) return value;
    }
    throw new VirtioError('ERR_VIRTIO_CONFIG', 'the configuration changed during each of 1000 reads');
  }

  get queueCount(): number {
    return this.#get(COMMON_CFG.num_queues, 2);
  }

  /** Largest size of a queue; 0: there is no such queue. */
  queueSize(queue: number): number {
    this.#set(COMMON_CFG.queue_select, 2, queue);
    return this.#get(COMMON_CFG.queue_size, 2);
  }

  /** Maps a queue's interrupt; false when the device refused (it reads back 0xffff, 4.1.5.1.2). */
  setQueueVector(queue: number, vector: number): boolean {
    this.#set(COMMON_CFG.queue_select, 2, queue);
    this.#set(COMMON_CFG.queue_msix_vector, 2, vector);
    return this.#get(COMMON_CFG.queue_msix_vector, 2) === vector;
  }

  setConfigVector(vector: number): boolean {
    this.#set(COMMON_CFG.config_msix_vector, 2, vector);
    return this.#get(COMMON_CFG.config_msix_vector, 2) === vector;
  }

  /** Programs a queue and enables it, queue_enable last (4.1.4.3.2). Returns how to kick it. @throws VirtioError */
  enableQueue(queue: number, size: number, ring: RingAddresses, options: { notificationData: boolean; notifyConfigData: boolean }): QueueKick {
    this.#set(COMMON_CFG.queue_select, 2, queue);
    if (this.#get(COMMON_CFG.queue_enable, 2) !== 0) throw new VirtioError('ERR_VIRTIO_QUEUE', `queue ${queue} is enabled before it was set up`);
    this.#set(COMMON_CFG.queue_size, 2, size);
    this.#setWide(COMMON_CFG.queue_desc, ring.desc);
    this.#setWide(COMMON_CFG.queue_driver, ring.driver);
    this.#setWide(COMMON_CFG.queue_device, ring.device);
    const offset = this.#get(COMMON_CFG.queue_notify_off, 2) * this.#multiplier;
    const width = options.notificationData ? 4 : 2;
    if (offset + width > this.#notify.length)
      throw new VirtioError('ERR_VIRTIO_QUEUE', `queue ${queue} is notified at ${offset}, outside the ${this.#notify.length} bytes of the structure`);
    const id = options.notifyConfigData ? this.#get(COMMON_CFG.queue_notif_config_data, 2) : queue;
    this.#set(COMMON_CFG.queue_enable, 2, 1);
    return new QueueKick(this.#bus, this.#notify.address + offset, id, options.notificationData ? 'wide' : 'short');
  }

  #setWide(field: number, value: number): void {
    this.#set(field, 4, value % 2 ** 32);
    this.#set(field + 4, 4, Math.floor(value / 2 ** 32));
  }

  /** Resets one queue (VIRTIO_F_RING_RESET, 4.1.4.3.2). Afterwards its memory is the driver's again. @throws VirtioError */
  resetQueue(queue: number): void {
    this.#set(COMMON_CFG.queue_select, 2, queue);
    this.#set(COMMON_CFG.queue_reset, 2, 1);
    const done = pollUntil(() => {
      this.#set(COMMON_CFG.queue_select, 2, queue);
      return this.#get(COMMON_CFG.queue_reset, 2) === 0;
    });
    if (!done || this.#get(COMMON_CFG.queue_enable, 2) !== 0) throw new VirtioError('ERR_VIRTIO_RESET', `queue ${queue} did not come out of its reset`);
  }

  /** Reads, and thereby clears, the ISR: bit 0 a queue, bit 1 the configuration. Not touched while MSI-X is on. */
  readIsr(): number {
    return this.#bus.mmioRead(this.#isr.address, 1);
  }
}

/** What a device's driver needs of the way its registers are reached: the modern structures, or the legacy I/O BAR. */
export type VirtioTransport = Pick<VirtioPci, keyof VirtioPci>;

/** A queue's doorbell as the driver writes it (4.1.5.2): 16 bits, 32 with notification data, or a port of the legacy interface. */
export class QueueKick {
  kicks = 0;
  readonly address: number;
  readonly #bus: GuestBus;
  readonly #id: number;
  readonly #style: 'short' | 'wide' | 'port';

  constructor(bus: GuestBus, address: number, id: number, style: 'short' | 'wide' | 'port') {
    this.#bus = bus;
    this.address = address;
    this.#id = id;
    this.#style = style;
  }

  /** `data`: next_off and next_wrap, sent when NOTIFICATION_DATA was negotiated. */
  ring(data: number): void {
    this.kicks++;
    if (this.#style === 'wide') this.#bus.mmioWrite(this.address, 4, (this.#id | (data << 16)) >>> 0);
    else if (this.#style === 'port') this.#bus.ioWrite(this.address, 2, this.#id);
    else this.#bus.mmioWrite(this.address, 2, this.#id);
  }
}
