// Watches a driver: a bus between it and a device, which judges by the accesses what VIRTIO 1.4 asks of drivers - the order of initialisation, features, queue set-up, notifications.
// What a driver does in memory, and what it thinks, it does not see.

import type { BusCounts, GuestBus, PlatformDescription } from '#core/guest-bus';
import type { GuestMemory } from '#core/guest-memory';
import type { IntxLines, PendingVectors } from '#core/interrupts';
import { DEPENDENCIES, FEATURE, FEATURE_NAMES, type FeatureBits, type FeatureName, fromWords, LEGACY_BITS, nameOfBit } from './features.ts';
import { CAP_ID, CFG_TYPE, COMMON, COMMON_FIELDS, type CommonField, NET_CONFIG, NO_VECTOR, PCI, STATUS, type Structure } from './layout.ts';
import { type Check, same, show } from './session.ts';

type AccessSize = 1 | 2 | 4;

const READ_ONLY: readonly CommonField[] = [
  'device_feature',
  'num_queues',
  'config_generation',
  'queue_notify_off',
  'queue_notif_config_data',
  'admin_queue_index',
  'admin_queue_num',
];
const DEFINED: ReadonlySet<number> = new Set([...FEATURE_NAMES.map((name) => FEATURE[name]), ...LEGACY_BITS]);
/** Fields of the device configuration that come with a feature; any of them is enough. */
const OPTIONAL: readonly (readonly [field: keyof typeof NET_CONFIG, features: readonly FeatureName[]])[] = [
  ['mac', ['MAC']],
  ['status', ['STATUS']],
  ['max_virtqueue_pairs', ['MQ', 'RSS']],
  ['mtu', ['MTU']],
  ['speed', ['SPEED_DUPLEX']],
  ['duplex', ['SPEED_DUPLEX']],
  ['rss_max_key_size', ['RSS', 'HASH_REPORT']],
  ['rss_max_indirection_table_length', ['RSS']],
  ['supported_hash_types', ['RSS', 'HASH_REPORT']],
  ['supported_tunnel_types', ['HASH_TUNNEL']],
];

/** A structure of the device, and where in it. */
interface Place {
  readonly type: number;
  readonly offset: number;
  readonly field: CommonField | undefined;
}

/** Clauses this judges. */
export const WATCHED: readonly string[] = [
  ...['status.1', 'status.2', 'init.1', 'init.2', 'init.3', 'init.4', 'init.6', 'init.7', 'init.8', 'init.9', 'init.10', 'init.11', 'init.14'],
  ...['features.1', 'features.2', 'features.5', 'features.6', 'features.7', 'features.8', 'features.17', 'config.3', 'reset.3'],
  ...['notify.1', 'notify.3', 'pci.13', 'pci.27', 'pci.48', 'pci.49', 'pci.50', 'pci.51', 'pci.52', 'pci.53', 'pci.75', 'pci.D8', 'msix.13', 'msix.14'],
];

export class WatchedBus implements GuestBus {
  readonly checks: Check[] = [];
  readonly #bus: GuestBus;
  /** Configuration space of the function, in the memory-mapped window. */
  readonly #config: number;
  #structures: readonly Structure[] = [];
  #msix = -1;
  #vectors = 0;
  #status = 0;
  #sawReset = false;
  /** 0 was written and has not been read back. */
  #resetting = false;
  #readSinceFeaturesOk = true;
  #selectors = { device: 0, driver: 0, queue: 0 };
  readonly #offered: number[] = [];
  readonly #accepted: number[] = [];
  readonly #written = new Map<number, Set<CommonField>>();
  readonly #sizes = new Map<number, number>();
  readonly #addresses = new Map<number, number[]>();
  #enabled = 0;
  #isrReads = 0;
  #earlyWrites = 0;
  /** A vector that was mapped and has not been read back. */
  #mapped: string | undefined;

  /** @param rid the device's bus, device and function number */
  constructor(bus: GuestBus, rid: number) {
    this.#bus = bus;
    const { base, firstBus } = bus.platform.ecam;
    this.#config = base + (rid - (firstBus << 8)) * 4096;
  }

  get platform(): PlatformDescription {
    return this.#bus.platform;
  }
  get memory(): GuestMemory {
    return this.#bus.memory;
  }
  get vectors(): PendingVectors {
    return this.#bus.vectors;
  }
  get lines(): IntxLines {
    return this.#bus.lines;
  }
  get counts(): BusCounts {
    return this.#bus.counts;
  }
  now(): number {
    return this.#bus.now();
  }
  waitForInterrupt(timeout: number): boolean {
    return this.#bus.waitForInterrupt(timeout);
  }
  waitForInterruptAsync(timeout: number): Promise<boolean> {
    return this.#bus.waitForInterruptAsync(timeout);
  }
  ioRead(port: number, size: AccessSize): number {
    return this.#bus.ioRead(port, size);
  }
  ioWrite(port: number, size: AccessSize, value: number): void {
    this.#bus.ioWrite(port, size, value);
  }

  mmioRead(address: number, size: AccessSize): number {
    const value = this.#bus.mmioRead(address, size);
    const place = this.#place(address);
    if (place) this.#read(place, size, value);
    return value;
  }

  mmioWrite(address: number, size: AccessSize, value: number): void {
    if (address >= this.#config && address < this.#config + 256) this.#configWritten(address - this.#config);
    const place = this.#place(address);
    if (place) this.#write(place, size, value);
    this.#bus.mmioWrite(address, size, value);
  }

  /** The field of the common configuration at an address. */
  fieldAt(address: number): CommonField | undefined {
    return this.#place(address)?.field;
  }

  /** Where the structure of this type lies, and its capability in configuration space; both as addresses. */
  addressOf(type: number): { readonly structure: number; readonly capability: number } {
    if (this.#structures.length === 0) this.#discover();
    const found = this.#structures.find((structure) => structure.type === type);
    if (found === undefined) throw new RangeError(`the device has no structure of type ${type}`);
    return { structure: this.#barAddress(found.bar) + found.offset, capability: this.#config + found.at };
  }

  #check(clause: string, what: string, seen: unknown, expected: unknown): void {
    this.checks.push({ clause, what, expected: show(expected), seen: show(seen), holds: same(seen, expected) });
  }

  // ---- where things are, read from the device itself ----

  #place(address: number): Place | undefined {
    const { ecam, memory32, memory64 } = this.platform;
    const device =
      (address >= memory32.base && address < memory32.base + memory32.size) || (address >= memory64.base && address < memory64.base + memory64.size);
    if (!device || (address >= ecam.base && address < ecam.base + 2 ** 28)) return undefined;
    if (this.#structures.length === 0) this.#discover();
    for (const { type, bar, offset, length } of this.#structures) {
      const at = address - (this.#barAddress(bar) + offset);
      if (at < 0 || at >= length) continue;
      return {
        type,
        offset: at,
        field: type === CFG_TYPE.COMMON ? COMMON_FIELDS.find((name) => COMMON[name][0] <= at && at < COMMON[name][0] + COMMON[name][1]) : undefined,
      };
    }
    return undefined;
  }

  #barAddress(bar: number): number {
    const low = this.#bus.mmioRead(this.#config + PCI.BAR0 + 4 * bar, 4);
    const high = (low & 6) === 4 ? this.#bus.mmioRead(this.#config + PCI.BAR0 + 4 * bar + 4, 4) : 0;
    return ((low & ~15) >>> 0) + high * 2 ** 32;
  }

  #discover(): void {
    const read = (offset: number, size: AccessSize): number => this.#bus.mmioRead(this.#config + offset, size);
    const found: Structure[] = [];
    for (let at = read(PCI.CAPABILITIES, 1) & 0xfc, n = 0; at >= 0x40 && n < 48; at = read(at + 1, 1) & 0xfc, n++) {
      const id = read(at, 1);
      if (id === CAP_ID.MSIX) {
        this.#msix = at;
        this.#vectors = (read(at + 2, 2) & 0x7ff) + 1;
      }
      if (id !== CAP_ID.VENDOR) continue;
      const structure = {
        at,
        capLength: read(at + 2, 1),
        type: read(at + 3, 1),
        bar: read(at + 4, 1),
        id: read(at + 5, 1),
        offset: read(at + 8, 4),
        length: read(at + 12, 4),
      };
      if (structure.type >= CFG_TYPE.COMMON && structure.type <= CFG_TYPE.DEVICE) found.push(structure);
    }
    this.#structures = found;
  }

  #configWritten(offset: number): void {
    for (const { at, capLength, type } of this.#structures)
      if (type !== CFG_TYPE.PCI) this.#check('pci.27', `writes to the capability at 0x${at.toString(16)}`, offset >= at && offset < at + capLength, false);
  }

  // ---- what is judged ----

  #read({ type, field, offset }: Place, size: AccessSize, value: number): void {
    if (type === CFG_TYPE.ISR && this.#msix >= 0) {
      const on = (this.#bus.mmioRead(this.#config + this.#msix + 2, 2) & 0x8000) !== 0;
      if (on && (this.#status & STATUS.DRIVER_OK) !== 0) this.#isrReads++;
    }
    if (type === CFG_TYPE.DEVICE && this.#offered.length > 0) {
      const offered = fromWords(this.#offered.map((word) => word ?? 0));
      const [name, features] = OPTIONAL.find(([found]) => offset >= NET_CONFIG[found][0] && offset < NET_CONFIG[found][0] + NET_CONFIG[found][1]) ?? [];
      if (features)
        this.#check(
          'config.3',
          `a feature offered that brings ${name}, which is read`,
          features.some((need) => offered.has(FEATURE[need])),
          true,
        );
    }
    if (field === undefined) return;
    this.#width(field, size);
    if (field === 'device_status') {
      if (value === 0 && this.#resetting) {
        this.#resetting = false;
        for (const clause of ['reset.3', 'pci.52']) this.#check(clause, 'status read until it was 0', value, 0);
      }
      this.#readSinceFeaturesOk = true;
    }
    if (field === 'device_feature') this.#offered[this.#selectors.device] = value;
    if (field === this.#mapped) {
      this.#check('msix.14', `${field} read back after it was written`, true, true);
      this.#mapped = undefined;
    }
  }

  #width(field: CommonField, size: AccessSize): void {
    this.#check('pci.13', `bytes of an access to ${field}`, size, COMMON[field][1]);
  }

  #write(place: Place, size: AccessSize, value: number): void {
    const { type, field } = place;
    if (type === CFG_TYPE.NOTIFY) this.#notified(size, value);
    if (type === CFG_TYPE.DEVICE) {
      if ((this.#status & STATUS.FEATURES_OK) === 0) this.#earlyWrites++;
      return;
    }
    if (field === undefined) return;
    this.#width(field, size);
    this.#check('pci.48', `writes to ${field}`, READ_ONLY.includes(field), false);
    if (this.#resetting && !(field === 'device_status' && value === 0)) {
      for (const clause of ['reset.3', 'pci.52']) this.#check(clause, `status seen to be 0 before ${field} was written`, false, true);
    }
    if (field.endsWith('msix_vector') === false && this.#mapped !== undefined && field !== 'queue_select') {
      this.#check('msix.14', `${this.#mapped} read back before ${field} was written`, false, true);
      this.#mapped = undefined;
    }
    switch (field) {
      case 'device_status':
        this.#statusWritten(value);
        break;
      case 'device_feature_select':
        this.#selectors.device = value;
        break;
      case 'driver_feature_select':
        this.#selectors.driver = value;
        break;
      case 'queue_select':
        this.#selectors.queue = value;
        break;
      case 'driver_feature':
        this.#check('init.8', 'driver_feature written after FEATURES_OK', (this.#status & STATUS.FEATURES_OK) !== 0, false);
        this.#check(
          'init.4',
          `the offer of window ${this.#selectors.driver} read before it was answered`,
          this.#offered[this.#selectors.driver] !== undefined || value === 0,
          true,
        );
        this.#accepted[this.#selectors.driver] = value;
        break;
      case 'config_msix_vector':
      case 'queue_msix_vector':
        this.#check('msix.13', `${field} ${value} of ${this.#vectors}`, value < this.#vectors || value === NO_VECTOR, true);
        this.#mapped = value === NO_VECTOR ? undefined : field;
        break;
      case 'queue_enable':
        this.#queueEnabled(value);
        break;
      default:
    }
    const queue = this.#selectors.queue;
    if (field === 'queue_size') this.#sizes.set(queue, value);
    if (field.startsWith('queue_d')) {
      const words = this.#addresses.get(queue) ?? [0, 0, 0, 0, 0, 0];
      words[(COMMON[field][0] - 32) / 4] = value;
      this.#addresses.set(queue, words);
    }
    this.#written.set(queue, (this.#written.get(queue) ?? new Set()).add(field));
  }

  get #features(): FeatureBits {
    return fromWords(this.#accepted.map((word) => word ?? 0));
  }

  #statusWritten(value: number): void {
    if (value === 0) {
      this.#sawReset = true;
      this.#resetting = true;
      this.#status = 0;
      this.#accepted.length = 0;
      this.#written.clear();
      this.#sizes.clear();
      this.#enabled = 0;
      return;
    }
    const before = this.#status;
    const added = value & ~before;
    this.#check('init.1', 'a reset before the first status bit', this.#sawReset, true);
    // SUSPEND and DRIVER_OK change places as 3.4 says.
    this.#check('status.2', 'status bits a write takes away', before & ~value & ~STATUS.SUSPEND, 0);
    if (added & STATUS.ACKNOWLEDGE) this.#check('init.2', 'status written as the first step', value, STATUS.ACKNOWLEDGE);
    if (added & STATUS.DRIVER) this.#check('init.3', 'ACKNOWLEDGE set before DRIVER', before & STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE);
    if (added & (STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK)) this.#check('status.1', 'status bits set by one write', bitCount(added), 1);
    if (added & STATUS.FEATURES_OK) {
      this.#check('init.7', 'DRIVER set before FEATURES_OK', before & STATUS.DRIVER, STATUS.DRIVER);
      this.#readSinceFeaturesOk = false;
      this.#check('init.6', 'writes to the device configuration before FEATURES_OK', this.#earlyWrites, 0);
      this.#judgeFeatures();
    } else this.#check('init.9', 'status read again after FEATURES_OK was written', this.#readSinceFeaturesOk, true);
    if (added & STATUS.DRIVER_OK) {
      this.#check('init.11', 'FEATURES_OK set before DRIVER_OK', before & STATUS.FEATURES_OK, STATUS.FEATURES_OK);
      this.#check('init.10', 'queues enabled before DRIVER_OK', this.#enabled > 0, true);
    }
    this.#status = value;
  }

  #judgeFeatures(): void {
    const accepted = this.#features;
    const offered = fromWords(this.#offered.map((word) => word ?? 0));
    this.#check(
      'features.1',
      'bits accepted that were not offered',
      [...accepted].filter((bit) => !offered.has(bit)),
      [],
    );
    const unknown = [...accepted].filter((bit) => !DEFINED.has(bit));
    for (const clause of ['features.5', 'features.6', 'features.7', 'features.8'])
      this.#check(clause, 'bits accepted that a network device over PCI does not have', unknown, []);
    const lacking = DEPENDENCIES.filter(
      ([name, groups]) => accepted.has(FEATURE[name]) && groups.some((group) => !group.some((need) => accepted.has(FEATURE[need]))),
    ).map(([name]) => name);
    this.#check('features.2', 'bits accepted without what they need', lacking, []);
    if (offered.has(FEATURE.VERSION_1)) this.#check('features.17', `${nameOfBit(FEATURE.VERSION_1)} accepted`, accepted.has(FEATURE.VERSION_1), true);
  }

  #queueEnabled(value: number): void {
    const queue = this.#selectors.queue;
    const fields = this.#written.get(queue) ?? new Set();
    const size = this.#sizes.get(queue);
    const packed = this.#features.has(FEATURE.RING_PACKED);
    this.#check('pci.53', 'queue_enable as written', value, 1);
    const missing = (['queue_desc_lo', 'queue_desc_hi', 'queue_driver_lo', 'queue_driver_hi', 'queue_device_lo', 'queue_device_hi'] as const).filter(
      (name) => !fields.has(name),
    );
    this.#check('pci.51', `registers of queue ${queue} written after it was enabled, or never`, missing, []);
    if (size !== undefined)
      this.#check(packed ? 'pci.49' : 'pci.50', `queue_size of queue ${queue}`, packed ? size > 0 : size > 0 && (size & (size - 1)) === 0, true);
    const words = this.#addresses.get(queue);
    const device = words && (words[4] as number) + 2 ** 32 * (words[5] as number);
    const slab = device === undefined ? undefined : this.memory.slabAt(device);
    if (slab && device !== undefined)
      this.#check(
        'pci.D8',
        `device area of queue ${queue} when it was enabled`,
        [...slab.views.u8.subarray(device - slab.base, device - slab.base + 4)],
        [0, 0, 0, 0],
      );
    this.#enabled++;
  }

  #notified(size: AccessSize, value: number): void {
    this.#check('init.14', 'DRIVER_OK when a queue is notified', this.#status & STATUS.DRIVER_OK, STATUS.DRIVER_OK);
    this.#check('pci.75', 'reads of ISR under MSI-X so far', this.#isrReads, 0);
    const features = this.#features;
    if (features.has(FEATURE.NOTIFICATION_DATA)) return;
    this.#check('notify.1', 'bytes of a notification', size, 2);
    if (!features.has(FEATURE.NOTIF_CONFIG_DATA)) this.#check('notify.3', 'a queue that was set up, named by a notification', this.#written.has(value), true);
  }
}

function bitCount(value: number): number {
  let count = 0;
  for (let bit = 0; bit < 8; bit++) count += (value >>> bit) & 1;
  return count;
}
