// The legacy interface (virtio 1.4 4.1.4.10, 2.7.2) by hand: registers in an I/O BAR 0, rings of one piece, headers of ten bytes. Frames and commands are those of any bench.

import { Bench, type Queue, type StartOptions } from './bench.ts';
import { FEATURE, type FeatureName, fromWords, wordOf } from './features.ts';
import { NO_VECTOR, PCI, PCI_COMMAND, STATUS } from './layout.ts';
import type { RingPlace } from './raw-ring.ts';
import { RawSplit } from './raw-split.ts';
import type { AccessBytes } from './target.ts';

/** Offset and size of each register. The vectors are there while MSI-X is on. */
export const LEGACY = {
  device_features: [0, 4],
  driver_features: [4, 4],
  queue_address: [8, 4],
  queue_size: [12, 2],
  queue_select: [14, 2],
  queue_notify: [16, 2],
  device_status: [18, 1],
  isr: [19, 1],
  config_vector: [20, 2],
  queue_vector: [22, 2],
} as const;

export type LegacyField = keyof typeof LEGACY;

/** How the registers are reached: in a BAR, or by commands of the group's owner. */
export interface LegacyAccess {
  read(offset: number, size: AccessBytes): Promise<number>;
  write(offset: number, size: AccessBytes, value: number): Promise<void>;
  /** Of the device's configuration. */
  configRead(offset: number, size: AccessBytes): Promise<number>;
  configWrite(offset: number, size: AccessBytes, value: number): Promise<void>;
}

const PAGE = 4096;
const LEGACY_BAR = 0;

/** Where the parts of a ring of one piece are. */
export function legacyPlace(base: number, size: number): RingPlace {
  const driver = base + 16 * size;
  return { size, descriptors: base, driver, device: Math.ceil((driver + 2 * (3 + size)) / PAGE) * PAGE };
}

export class LegacyBench extends Bench {
  #msix = false;
  #access: LegacyAccess = {
    read: (offset, size) => this.session.barRead(LEGACY_BAR, offset, size),
    write: (offset, size, value) => this.session.barWrite(LEGACY_BAR, offset, size, value),
    configRead: (offset, size) => this.session.barRead(LEGACY_BAR, this.configAt + offset, size),
    configWrite: (offset, size, value) => this.session.barWrite(LEGACY_BAR, this.configAt + offset, size, value),
  };

  /** Goes by the owner's commands. */
  async openThrough(access: LegacyAccess): Promise<void> {
    await this.discover();
    this.#access = access;
    this.offered = fromWords([await this.read('device_features')]);
  }

  /** Turns I/O decoding on. Skips the case when there is no I/O BAR 0. */
  async open(): Promise<void> {
    const s = this.session;
    await this.discover();
    if (((await s.configRead(PCI.BAR0, 4)) & 1) === 0) s.skip('the device has no legacy interface');
    await s.configWrite(PCI.COMMAND, 2, (await s.configRead(PCI.COMMAND, 2)) | PCI_COMMAND.IO);
    const named = s.name;
    s.name = (bar, offset) => (bar === LEGACY_BAR ? `legacy+${offset}` : named(bar, offset));
    this.offered = fromWords([await this.read('device_features')]);
  }

  read(field: LegacyField): Promise<number> {
    return this.#access.read(LEGACY[field][0], LEGACY[field][1] as AccessBytes);
  }

  write(field: LegacyField, value: number): Promise<void> {
    return this.#access.write(LEGACY[field][0], LEGACY[field][1] as AccessBytes, value);
  }

  /** Where the device's configuration begins: behind the header, which MSI-X makes longer. */
  get configAt(): number {
    return this.#msix ? 24 : 20;
  }

  override configBytes(offset: number, size: AccessBytes): Promise<number> {
    return this.#access.configRead(offset, size);
  }

  override writeConfig(offset: number, size: AccessBytes, value: number): Promise<void> {
    return this.#access.configWrite(offset, size, value);
  }

  override async reset(): Promise<void> {
    await this.write('device_status', 0);
    await this.until('the legacy device_status to read 0 after a reset', async () => (await this.read('device_status')) === 0);
    this.features = new Set();
    this.queues = new Map();
  }

  async setMsix(on: boolean): Promise<void> {
    if (on) await this.enableMsix();
    else if (this.msix) await this.session.configWrite(this.msix.at + 2, 2, 0);
    this.#msix = on && this.msix !== undefined;
  }

  /** Bits 0 to 31 alone, and no FEATURES_OK (virtio 1.4 3.1.2). */
  async negotiate(names: readonly FeatureName[]): Promise<void> {
    this.needs(...names);
    this.features = new Set(names.map((name) => FEATURE[name]));
    // ANY_LAYOUT is accepted whenever it is offered.
    await this.write('driver_features', (wordOf(this.features, 0) | (wordOf(this.offered, 0) & (1 << 27))) >>> 0);
  }

  /** Lays a ring out where the device's size says, and tells the device its page. */
  async setUpLegacyQueue(index: number): Promise<Queue> {
    const s = this.session;
    await this.write('queue_select', index);
    const size = await this.read('queue_size');
    s.ensure(size > 0, `legacy queue ${index} is not there`);
    const place = legacyPlace(s.allocate(3 * PAGE + 26 * size, PAGE), size);
    for (const at of [place.descriptors, place.driver, place.device]) await s.write(at, new Uint8Array(8));
    await this.write('queue_address', place.descriptors / PAGE);
    if (this.#msix) {
      const vector = this.vectorOf(index);
      await this.write('queue_vector', vector);
      const mapped = await this.read('queue_vector');
      s.ensure(mapped === vector || mapped === NO_VECTOR, `legacy queue ${index} has vector ${mapped} in place of ${vector}`);
    }
    const queue: Queue = { index, ring: new RawSplit({ session: s, place, eventIndex: this.has('EVENT_IDX'), inOrder: false }), notifyOffset: 0 };
    this.queues.set(index, queue);
    return queue;
  }

  /** As an old driver would, in order, as far as asked. */
  override async start(options: StartOptions = {}): Promise<void> {
    await this.reset();
    await this.write('device_status', STATUS.ACKNOWLEDGE);
    await this.write('device_status', STATUS.ACKNOWLEDGE | STATUS.DRIVER);
    if (options.before === 'features') return;
    await this.negotiate(options.features ?? []);
    await this.setMsix(options.msix === true);
    const most = this.has('MQ') ? await this.config('max_virtqueue_pairs') : 1;
    this.net.pairs = options.pairs ?? Math.min(most, 2);
    for (let index = 0; index < 2 * this.net.pairs; index++) await this.setUpLegacyQueue(index);
    if (this.has('CTRL_VQ')) {
      this.net.controlIndex = 2 * most;
      await this.setUpLegacyQueue(this.net.controlIndex);
    }
    if (options.before === 'DRIVER_OK') return;
    await this.write('device_status', STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK);
    await this.net.post(options.buffers ?? 8, options.bufferSize ?? 2048);
  }

  override notify({ index }: Queue): Promise<void> {
    return this.write('queue_notify', index);
  }
}
