// The legacy interface of a transitional device (virtio 1.4 4.1.4.10): registers behind an I/O BAR, 32 feature bits, queues whose size the device fixes and
// whose three parts lie one behind the other, told by a page number. The guest is little-endian, so its native byte order is that of the rest.

import type { GuestBus } from '#core/guest-bus';
import type { AccessSize } from '#core/region';
import type { ConfigAccess } from './pci-config.ts';
import { CAP_MSIX, CFG, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, MSIX_CONTROL, MSIX_ENABLE } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';
import type { RingAddresses } from './ring.ts';
import { QueueKick, VirtioError, type VirtioTransport } from './virtio-pci.ts';

const REGISTER = {
  device_features: 0,
  driver_features: 4,
  queue_address: 8,
  queue_size: 12,
  queue_select: 14,
  queue_notify: 16,
  device_status: 18,
  isr_status: 19,
  config_msix_vector: 20,
  queue_msix_vector: 22,
} as const;
/** The device's own configuration lies behind the registers, of which two more are there while MSI-X is on. */
const CONFIG = 20;
const CONFIG_WITH_MSIX = 24;
const PAGE = 4096;
/** The BAR is at least this long for a network device. */
const SHORTEST = CONFIG_WITH_MSIX + 8;

export class LegacyPci implements VirtioTransport {
  readonly rid: number;
  readonly adminQueues = undefined;
  readonly #bus: GuestBus;
  readonly #config: ConfigAccess;
  readonly #port: number;
  readonly #size: number;
  readonly #msix: number | undefined;
  #written = 0;

  private constructor(bus: GuestBus, config: ConfigAccess, device: PciDevice, port: number, size: number) {
    this.#bus = bus;
    this.#config = config;
    this.rid = device.rid;
    this.#port = port;
    this.#size = size;
    this.#msix = device.capabilities.find((c) => c.id === CAP_MSIX)?.offset;
  }

  /** Opens a function: decoding and bus mastering on. @throws VirtioError when BAR 0 is no I/O BAR with an address */
  static open(bus: GuestBus, config: ConfigAccess, device: PciDevice): LegacyPci {
    const bar = device.bars.find((b) => b.index === 0 && b.io);
    if (bar?.address === undefined || bar.size < SHORTEST)
      throw new VirtioError('ERR_VIRTIO_CAPABILITIES', 'BAR 0 is no I/O BAR with an address: not a transitional virtio device');
    const command = config.read(device.rid, CFG.COMMAND, 2);
    config.write(device.rid, CFG.COMMAND, 2, command | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER);
    return new LegacyPci(bus, config, device, bar.address, bar.size);
  }

  #get(register: number, size: AccessSize): number {
    return this.#bus.ioRead(this.#port + register, size);
  }

  #set(register: number, size: AccessSize, value: number): void {
    this.#bus.ioWrite(this.#port + register, size, value);
  }

  get status(): number {
    return this.#get(REGISTER.device_status, 1);
  }

  addStatus(bits: number): void {
    this.#written |= bits;
    this.#set(REGISTER.device_status, 1, this.#written);
  }

  reset(): void {
    this.#written = 0;
    this.#set(REGISTER.device_status, 1, 0);
    // The read has the write arrive; the legacy interface does not promise more.
    if (this.status !== 0) throw new VirtioError('ERR_VIRTIO_RESET', `device status still reads ${this.status} after a reset`);
  }

  get offeredFeatures(): bigint {
    return BigInt(this.#get(REGISTER.device_features, 4));
  }

  /** There is no FEATURES_OK: what is written holds (3.1.2). */
  acceptFeatures(features: bigint): void {
    this.#set(REGISTER.driver_features, 4, Number(features & 0xffffffffn));
  }

  /** There is no generation: what is read has to be the same twice (2.5.3). @throws VirtioError when it never is */
  readConfig<T>(read: (at: (offset: number, size: AccessSize) => number) => T): T {
    const base = this.#msixOn ? CONFIG_WITH_MSIX : CONFIG;
    const at = (offset: number, size: AccessSize): number => (base + offset + size <= this.#size ? this.#get(base + offset, size) : 0);
    let last = read(at);
    for (let tries = 0; tries < 1000; tries++) {
      const value = read(at);
      if (JSON.stringify(value) === JSON.stringify(last)) return value;
      last = value;
    }
    throw new VirtioError('ERR_VIRTIO_CONFIG', 'the configuration changed during each of 1000 reads');
  }

  get #msixOn(): boolean {
    return this.#msix !== undefined && (this.#config.read(this.rid, this.#msix + MSIX_CONTROL, 2) & MSIX_ENABLE) !== 0;
  }

  /** The legacy interface does not say how many there are. */
  get queueCount(): number {
    let count = 0;
    while (count < 0x1_0000 && this.queueSize(count) !== 0) count++;
    return count;
  }

  queueSize(queue: number): number {
    this.#set(REGISTER.queue_select, 2, queue);
    return this.#get(REGISTER.queue_size, 2);
  }

  setQueueVector(queue: number, vector: number): boolean {
    this.#set(REGISTER.queue_select, 2, queue);
    this.#set(REGISTER.queue_msix_vector, 2, vector);
    return this.#get(REGISTER.queue_msix_vector, 2) === vector;
  }

  setConfigVector(vector: number): boolean {
    this.#set(REGISTER.config_msix_vector, 2, vector);
    return this.#get(REGISTER.config_msix_vector, 2) === vector;
  }

  /** `ring` has to lie as the legacy interface wants it. @throws VirtioError */
  enableQueue(queue: number, size: number, ring: RingAddresses): QueueKick {
    this.#set(REGISTER.queue_select, 2, queue);
    if (this.#get(REGISTER.queue_address, 4) !== 0) throw new VirtioError('ERR_VIRTIO_QUEUE', `queue ${queue} has an address before it was set up`);
    if (this.#get(REGISTER.queue_size, 2) !== size || ring.desc % PAGE !== 0)
      throw new VirtioError('ERR_VIRTIO_QUEUE', `queue ${queue} is not of size ${size}`);
    this.#set(REGISTER.queue_address, 4, ring.desc / PAGE);
    return new QueueKick(this.#bus, this.#port + REGISTER.queue_notify, queue, 'port');
  }

  resetQueue(queue: number): void {
    throw new VirtioError('ERR_VIRTIO_FEATURES', `queue ${queue} cannot be reset through the legacy interface`);
  }

  suspend(): void {
    throw new VirtioError('ERR_VIRTIO_FEATURES', 'the legacy interface cannot suspend a device');
  }

  resume(): void {
    throw new VirtioError('ERR_VIRTIO_FEATURES', 'the legacy interface cannot resume a device');
  }

  readIsr(): number {
    return this.#get(REGISTER.isr_status, 1);
  }
}
