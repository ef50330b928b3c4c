// The suite's own driver: what a case has in its hands. Step by step (registers, features, queues) for cases about the steps, or `start` for those about what comes after.
// It does what it is told, also what no driver should.

import { AdminBench } from './admin-bench.ts';
import { FEATURE, FEATURE_WINDOWS, type FeatureBits, type FeatureName, fromWords, nameOfBit, withDependencies, wordOf } from './features.ts';
import {
  CAP_ID,
  CFG_TYPE,
  COMMON,
  COMMON_FIELDS,
  type CommonField,
  type MsixPlace,
  NET_CONFIG,
  type NetField,
  NO_VECTOR,
  PCI,
  PCI_COMMAND,
  PCI_STATUS,
  STATUS,
  type Structure,
} from './layout.ts';
import { NetBench } from './net-bench.ts';
import { RawPacked } from './raw-packed.ts';
import type { RawRing, RingPlace } from './raw-ring.ts';
import { RawSplit } from './raw-split.ts';
import type { Session } from './session.ts';
import type { AccessBytes } from './target.ts';

export interface Variant {
  readonly ring: 'split' | 'packed';
  /** Features to negotiate beside what the case asks for. */
  readonly features: readonly FeatureName[];
}

export interface StartOptions {
  /** Beside VERSION_1, the ring format, and what the variant says; with what they depend on. */
  readonly features?: readonly FeatureName[];
  /** Default true; false: INTx. */
  readonly msix?: boolean;
  /** Queue pairs to set up (default 1, or with MQ or RSS up to 4). */
  readonly pairs?: number;
  /** Descriptors of each queue (default 64; the device's maximum when that is less). */
  readonly size?: number;
  /** Buffers for each receive queue, and bytes of each (default 16 of 2048). */
  readonly buffers?: number;
  readonly bufferSize?: number;
  /** Stop short of: choosing features, setting FEATURES_OK, setting DRIVER_OK. */
  readonly before?: 'features' | 'FEATURES_OK' | 'DRIVER_OK';
}

/** A virtqueue that was set up: its ring, and how to notify it. */
export interface Queue {
  readonly index: number;
  readonly ring: RawRing;
  readonly notifyOffset: number;
}

/** How often a register is looked at before the suite gives up waiting for it. */
const PATIENCE = 200;
const DEFAULT_SIZE = 64;

export class Bench {
  readonly session: Session;
  readonly variant: Variant;
  readonly net: NetBench;
  readonly admin: AdminBench;
  readonly structures: Structure[] = [];
  msix: MsixPlace | undefined;
  /** What is negotiated, or about to be. */
  features: FeatureBits = new Set();
  offered: FeatureBits = new Set();
  queues = new Map<number, Queue>();

  constructor(session: Session, variant: Variant) {
    this.session = session;
    this.variant = variant;
    this.net = new NetBench(this);
    this.admin = new AdminBench(this);
  }

  /** Finds the structures. The device decodes memory and may master the bus from here on. */
  async discover(): Promise<void> {
    const s = this.session;
    const command = await s.configRead(PCI.COMMAND, 2);
    await s.configWrite(PCI.COMMAND, 2, command | PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    if (((await s.configRead(PCI.STATUS, 2)) & PCI_STATUS.CAPABILITIES) === 0) return;
    let at = (await s.configRead(PCI.CAPABILITIES, 1)) & 0xfc;
    for (let n = 0; n < 48 && at >= 0x40; n++) {
      const id = await s.configRead(at, 1);
      if (id === CAP_ID.VENDOR) await this.#structure(at);
      if (id === CAP_ID.MSIX) {
        const table = await s.configRead(at + 4, 4);
        this.msix = { at, vectors: ((await s.configRead(at + 2, 2)) & 0x7ff) + 1, bar: table & 7, offset: (table & ~7) >>> 0 };
      }
      at = (await s.configRead(at + 1, 1)) & 0xfc;
    }
    const common = this.structure(CFG_TYPE.COMMON);
    s.name = (bar, offset) => {
      for (const { type, bar: where, offset: from, length } of this.structures) {
        if (where !== bar || offset < from || offset >= from + length) continue;
        if (type === CFG_TYPE.COMMON) return COMMON_FIELDS.find((name) => COMMON[name][0] === offset - from) ?? `common+${offset - from}`;
        if (type <= CFG_TYPE.DEVICE) return `${['', 'common', 'notify', 'ISR', 'device config'][type]}+${offset - from}`;
      }
      return `BAR${bar}+0x${offset.toString(16)}`;
    };
    if (common) this.offered = await this.readOffered();
  }

  async #structure(at: number): Promise<void> {
    const s = this.session;
    this.structures.push({
      at,
      capLength: await s.configRead(at + 2, 1),
      type: await s.configRead(at + 3, 1),
      bar: await s.configRead(at + 4, 1),
      id: await s.configRead(at + 5, 1),
      offset: await s.configRead(at + 8, 4),
      length: await s.configRead(at + 12, 4),
    });
  }

  /** The first of its type, which the specification says to prefer. */
  structure(type: number): Structure | undefined {
    return this.structures.find((found) => found.type === type);
  }

  // ---- registers ----

  #at(type: number, what: string): Structure {
    return this.session.found(this.structure(type), `no ${what} capability`);
  }

  async get(field: CommonField): Promise<number> {
    const { bar, offset } = this.#at(CFG_TYPE.COMMON, 'COMMON_CFG');
    return this.session.barRead(bar, offset + COMMON[field][0], COMMON[field][1] as AccessBytes);
  }

  async set(field: CommonField, value: number): Promise<void> {
    const { bar, offset } = this.#at(CFG_TYPE.COMMON, 'COMMON_CFG');
    await this.session.barWrite(bar, offset + COMMON[field][0], COMMON[field][1] as AccessBytes, value);
  }

  /** A field of the queue with this index. */
  async getQueue(index: number, field: CommonField): Promise<number> {
    await this.set('queue_select', index);
    return this.get(field);
  }

  async setQueue(index: number, field: CommonField, value: number): Promise<void> {
    await this.set('queue_select', index);
    await this.set(field, value);
  }

  async config(field: NetField): Promise<number> {
    return this.configBytes(NET_CONFIG[field][0], NET_CONFIG[field][1] as AccessBytes);
  }

  async configBytes(offset: number, size: AccessBytes): Promise<number> {
    const place = this.#at(CFG_TYPE.DEVICE, 'DEVICE_CFG');
    return this.session.barRead(place.bar, place.offset + offset, size);
  }

  async writeConfig(offset: number, size: AccessBytes, value: number): Promise<void> {
    const place = this.#at(CFG_TYPE.DEVICE, 'DEVICE_CFG');
    await this.session.barWrite(place.bar, place.offset + offset, size, value);
  }

  async mac(): Promise<Uint8Array> {
    const mac = new Uint8Array(6);
    for (let i = 0; i < 6; i++) mac[i] = await this.configBytes(i, 1);
    return mac;
  }

  async isr(): Promise<number> {
    const { bar, offset } = this.#at(CFG_TYPE.ISR, 'ISR_CFG');
    return this.session.barRead(bar, offset, 1);
  }

  async readOffered(): Promise<FeatureBits> {
    const words: number[] = [];
    for (let window = 0; window < FEATURE_WINDOWS; window++) {
      await this.set('device_feature_select', window);
      words.push(await this.get('device_feature'));
    }
    return fromWords(words);
  }

  has(name: FeatureName): boolean {
    return this.features.has(FEATURE[name]);
  }

  /** Skips the case unless all of them are offered. */
  needs(...names: readonly FeatureName[]): void {
    const missing = names.filter((name) => !this.offered.has(FEATURE[name]));
    if (missing.length > 0) this.session.skip(`not offered: ${missing.join(', ')}`);
  }

  // ---- life ----

  async reset(): Promise<void> {
    await this.set('device_status', 0);
    await this.until('device_status to read 0 after a reset', async () => (await this.get('device_status')) === 0);
    this.features = new Set();
    this.queues = new Map();
  }

  async until(what: string, holds: () => Promise<boolean>): Promise<void> {
    for (let n = 0; n < PATIENCE; n++) {
      if (await holds()) return;
      await this.session.target.settle();
    }
    this.session.ensure(false, `waited for ${what}`);
  }

  async addStatus(bit: number): Promise<number> {
    await this.set('device_status', (await this.get('device_status')) | bit);
    return this.get('device_status');
  }

  async writeFeatures(bits: FeatureBits): Promise<void> {
    for (let window = 0; window < FEATURE_WINDOWS; window++) {
      await this.set('driver_feature_select', window);
      await this.set('driver_feature', wordOf(bits, window));
    }
    this.features = bits;
  }

  /** What `start` would negotiate. Skips the case when something of it is not offered. */
  choose(names: readonly FeatureName[] = []): FeatureBits {
    const wanted: FeatureName[] = ['VERSION_1', ...this.variant.features, ...names, ...(this.variant.ring === 'packed' ? (['RING_PACKED'] as const) : [])];
    // Behind an IOMMU, or with its own memory ordering, a device may insist on these (virtio 1.4 6.2).
    for (const name of ['ACCESS_PLATFORM', 'ORDER_PLATFORM'] as const) if (this.offered.has(FEATURE[name])) wanted.push(name);
    const bits = withDependencies(wanted, this.offered);
    const missing = [...bits].filter((bit) => !this.offered.has(bit));
    if (missing.length > 0) this.session.skip(`not offered: ${missing.map(nameOfBit).join(', ')}`);
    return bits;
  }

  /** virtio 1.4 3.1.1, in order, as far as asked. */
  async start(options: StartOptions = {}): Promise<void> {
    const { session } = this;
    await this.reset();
    await this.addStatus(STATUS.ACKNOWLEDGE);
    await this.addStatus(STATUS.DRIVER);
    if (options.before === 'features') return;
    await this.writeFeatures(this.choose(options.features));
    if (options.before === 'FEATURES_OK') return;
    const status = await this.addStatus(STATUS.FEATURES_OK);
    session.ensure((status & STATUS.FEATURES_OK) !== 0, `FEATURES_OK did not stay set for ${[...this.features].map(nameOfBit).join(', ')}`);
    const msix = options.msix !== false;
    if (msix) await this.enableMsix();
    if (msix) await this.set('config_msix_vector', 0);
    const several = this.has('MQ') || this.has('RSS');
    const pairs = options.pairs ?? (several ? Math.min(4, await this.config('max_virtqueue_pairs')) : 1);
    this.net.pairs = pairs;
    for (let index = 0; index < 2 * pairs; index++) await this.setUpQueue(index, { msix, ...(options.size !== undefined && { size: options.size }) });
    if (this.has('CTRL_VQ')) {
      this.net.controlIndex = await this.controlQueueIndex();
      await this.setUpQueue(this.net.controlIndex, { msix });
    }
    if (this.has('ADMIN_VQ')) await this.setUpQueue(await this.get('admin_queue_index'), { msix });
    if (options.before === 'DRIVER_OK') return;
    await this.addStatus(STATUS.DRIVER_OK);
    await this.net.post(options.buffers ?? 16, options.bufferSize ?? 2048);
  }

  async controlQueueIndex(): Promise<number> {
    return this.has('MQ') || this.has('RSS') ? 2 * (await this.config('max_virtqueue_pairs')) : 2;
  }

  async enableMsix(): Promise<void> {
    const { session } = this;
    const msix = this.needMsix();
    const { target } = session;
    for (let vector = 0; vector < Math.min(msix.vectors, 64); vector++) {
      const { address, data } = target.message(vector);
      const at = msix.offset + 16 * vector;
      await session.barWrite(msix.bar, at, 4, address % 2 ** 32);
      await session.barWrite(msix.bar, at + 4, 4, Math.floor(address / 2 ** 32));
      await session.barWrite(msix.bar, at + 8, 4, data);
      await session.barWrite(msix.bar, at + 12, 4, 0);
    }
    await session.configWrite(msix.at + 2, 2, 0x8000);
  }

  /** Skips the case when there is none. */
  needMsix(): MsixPlace {
    return this.msix ?? this.session.skip('the device has no MSI-X capability');
  }

  /** The vector `start` gives a queue: 0 is that of configuration changes. */
  vectorOf(queue: number): number {
    const vectors = Math.min(this.msix?.vectors ?? 1, 64);
    return queue + 1 < vectors ? queue + 1 : vectors - 1;
  }

  /** Lays a ring out, tells the device and enables it. */
  async setUpQueue(index: number, options: { readonly size?: number; readonly msix?: boolean; readonly enable?: boolean } = {}): Promise<Queue> {
    const { session } = this;
    const most = await this.getQueue(index, 'queue_size');
    session.ensure(most > 0, `queue ${index} is not there`);
    const size = Math.min(options.size ?? DEFAULT_SIZE, most);
    await this.set('queue_size', size);
    if (options.msix !== false && this.msix) {
      const vector = this.vectorOf(index);
      await this.set('queue_msix_vector', vector);
      const mapped = await this.get('queue_msix_vector');
      session.ensure(mapped === vector || mapped === NO_VECTOR, `queue ${index} has vector ${mapped} in place of ${vector}`);
    }
    const place = this.has('RING_PACKED') ? this.packedPlace(size) : this.splitPlace(size);
    await session.write(place.descriptors, new Uint8Array(16 * size));
    await session.write(place.driver, new Uint8Array(this.has('RING_PACKED') ? 4 : 6 + 2 * size));
    await session.write(place.device, new Uint8Array(this.has('RING_PACKED') ? 4 : 6 + 8 * size));
    await this.setPlace(place);
    const notify = this.#at(CFG_TYPE.NOTIFY, 'NOTIFY_CFG');
    const multiplier = await this.notifyMultiplier();
    const notifyOffset = notify.offset + (await this.get('queue_notify_off')) * multiplier;
    if (options.enable !== false) await this.set('queue_enable', 1);
    const parts = { session, place, eventIndex: this.has('EVENT_IDX'), inOrder: this.has('IN_ORDER') };
    const queue: Queue = { index, ring: this.has('RING_PACKED') ? new RawPacked(parts) : new RawSplit(parts), notifyOffset };
    this.queues.set(index, queue);
    return queue;
  }

  async notifyMultiplier(): Promise<number> {
    return this.session.configRead(this.#at(CFG_TYPE.NOTIFY, 'NOTIFY_CFG').at + 16, 4);
  }

  splitPlace(size: number): RingPlace {
    const { session } = this;
    return { size, descriptors: session.allocate(16 * size, 16), driver: session.allocate(6 + 2 * size, 2), device: session.allocate(6 + 8 * size, 4) };
  }

  packedPlace(size: number): RingPlace {
    const { session } = this;
    return { size, descriptors: session.allocate(16 * size, 16), driver: session.allocate(4, 4), device: session.allocate(4, 4) };
  }

  /** The addresses of the selected queue. */
  async setPlace(place: RingPlace): Promise<void> {
    for (const [name, address] of [
      ['queue_desc', place.descriptors],
      ['queue_driver', place.driver],
      ['queue_device', place.device],
    ] as const) {
      await this.set(`${name}_lo`, address % 2 ** 32);
      await this.set(`${name}_hi`, Math.floor(address / 2 ** 32));
    }
  }

  // ---- notifications ----

  queue(index: number): Queue {
    return this.session.found(this.queues.get(index), `queue ${index} was not set up`);
  }

  /** Makes what was added available, notifies, and lets the device do what it can. */
  async kick(index: number): Promise<void> {
    const queue = this.queue(index);
    await queue.ring.expose();
    await this.notify(queue);
    await this.session.target.settle();
  }

  async notify(queue: Queue): Promise<void> {
    const { bar } = this.#at(CFG_TYPE.NOTIFY, 'NOTIFY_CFG');
    let name = queue.index;
    if (this.has('NOTIF_CONFIG_DATA')) name = await this.getQueue(queue.index, 'queue_notif_config_data');
    if (!this.has('NOTIFICATION_DATA')) {
      await this.session.barWrite(bar, queue.notifyOffset, 2, name);
      return;
    }
    const { offset, wrap } = queue.ring.position();
    await this.session.barWrite(bar, queue.notifyOffset, 4, (name | (offset << 16) | (wrap << 31)) >>> 0);
  }

  /** Message numbers since the last call, once the device has nothing more to do. */
  async messages(): Promise<number[]> {
    await this.session.target.settle();
    const numbers = await this.session.target.messages();
    for (const n of numbers) this.session.note(`message ${n}`);
    return numbers;
  }
}
