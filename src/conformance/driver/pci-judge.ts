// Judges a driver by its accesses to a virtio device over PCI (virtio 1.4 3.1, 4.1): the order of initialisation, features, queue set-up, resets, notifications, vectors. What it learns about
// queues it passes on to `DriverJudge`, which reads them in memory. Register by register; configuration space is `ConfigSpaceJudge`'s.

import { GROUP } from '../admin-bench.ts';
import { FEATURE, type FeatureBits, fromWords } from '../features.ts';
import { CFG_TYPE, COMMON, type CommonField, NO_VECTOR, STATUS } from '../layout.ts';
import { ConfigReads, judgeOptional } from './config-reads.ts';
import { ConfigSpaceJudge } from './config-space-judge.ts';
import type { Findings } from './findings.ts';
import type { DriverJudge } from './judge.ts';
import { NotifyJudge } from './notify-judge.ts';
import { type AccessSize, PciPlaces, type Peek, type Place } from './pci-places.ts';
import { SriovJudge } from './sriov-judge.ts';

const READ_ONLY: readonly CommonField[] = [
  'device_feature',
  'num_queues',
  'config_generation',
  'queue_notify_off',
  'queue_notif_config_data',
  'admin_queue_index',
  'admin_queue_num',
];
const ADDRESSES = ['queue_desc_lo', 'queue_desc_hi', 'queue_driver_lo', 'queue_driver_hi', 'queue_device_lo', 'queue_device_hi'] as const;
/** More of the device configuration than any driver knows. */
const CONFIG_BYTES = 64;

export class PciJudge {
  readonly findings: Findings;
  readonly rings: DriverJudge;
  readonly #peek: Peek;
  #places: PciPlaces | undefined;
  readonly #space: ConfigSpaceJudge;
  readonly #sriov: SriovJudge;
  readonly #reads: ConfigReads;
  readonly #notify: NotifyJudge;
  #status = 0;
  #sawReset = false;
  /** 0 was written and has not been read back. */
  #resetting = false;
  #readSinceFeaturesOk = true;
  /** FEATURES_OK was read back clear. */
  #refused = false;
  #failed = false;
  readonly #selectors = { device: 0, driver: 0, queue: 0 };
  readonly #offered: number[] = [];
  readonly #accepted: number[] = [];
  readonly #written = new Map<number, Set<CommonField>>();
  readonly #sizes = new Map<number, number>();
  readonly #addresses = new Map<number, number[]>();
  readonly #wasReset = new Set<number>();
  #queueResetting = -1;
  #enabled = 0;
  #isrReads = 0;
  /** The device configuration as the driver has read it, byte by byte. */
  readonly #read8 = new Map<number, number>();
  #earlyWrites = 0;
  #suspending: 'no' | 'asked' | 'done' | 'resuming' = 'no';
  /** A vector that was mapped and has not been read back. */
  #mapped: CommonField | undefined;

  constructor(peek: Peek, rings: DriverJudge) {
    this.#peek = peek;
    this.rings = rings;
    this.findings = rings.findings;
    this.#space = new ConfigSpaceJudge(this.findings, () => this.places);
    this.#sriov = new SriovJudge(this.findings, peek);
    rings.virtualFunctions = this.#sriov;
    this.#reads = new ConfigReads(this.findings);
    this.#notify = new NotifyJudge(this.findings, rings);
  }

  /** Structures are looked up once the driver makes its first access to a BAR: until then they may have no address. */
  get places(): PciPlaces {
    this.#places ??= new PciPlaces(this.#peek);
    return this.#places;
  }

  /** Status as the driver last wrote it. */
  get status(): number {
    return this.#status;
  }

  get features(): FeatureBits {
    return fromWords(this.#accepted.map((word) => word ?? 0));
  }

  get offered(): FeatureBits {
    return fromWords(this.#offered.map((word) => word ?? 0));
  }

  configRead(offset: number, size: number): void {
    this.#space.read(offset, size);
  }

  configWrite(offset: number, size: number, value: number): void {
    this.#space.write(offset, size, value);
    const negotiated = (): boolean => (this.#status & STATUS.FEATURES_OK) !== 0 && !this.#refused && this.features.has(FEATURE.SR_IOV);
    this.#sriov.write(offset, value, negotiated, () => {
      this.rings.look();
      return this.rings.admin.inFlight(GROUP.SRIOV);
    });
  }

  /** After a load from a BAR. */
  barRead(bar: number, offset: number, size: AccessSize, value: number): void {
    const place = this.places.at(bar, offset);
    if (place) this.#read(place, size, value);
  }

  /** Before a store to a BAR takes effect. */
  barWrite(bar: number, offset: number, size: AccessSize, value: number): void {
    const place = this.places.at(bar, offset);
    if (place) this.#write(place, size, value);
  }

  #check(clause: string, what: string, seen: unknown, expected: unknown): void {
    this.findings.check(clause, what, seen, expected);
  }

  #read(place: Place, size: AccessSize, value: number): void {
    const { type, field, offset } = place;
    this.#reads.access(place, value);
    if (type === CFG_TYPE.ISR && this.places.msix >= 0) {
      const on = (this.#peek.config(this.places.msix + 2, 2) & 0x8000) !== 0;
      if (on && (this.#status & STATUS.DRIVER_OK) !== 0) this.#isrReads++;
    }
    if (type === CFG_TYPE.DEVICE) {
      for (let i = 0; i < size; i++) this.#read8.set(offset + i, (value >>> (8 * i)) & 0xff);
      if (this.#offered.length > 0) judgeOptional(this.findings, offset, this.offered);
    }
    if (field === undefined) return;
    this.#width(field, size);
    if (field === 'device_status') this.#statusRead(value);
    if (field === 'device_feature') this.#offered[this.#selectors.device] = value;
    if (field === 'queue_notify_off') this.#notify.offsets.set(this.#selectors.queue, value * this.places.multiplier);
    if (field === 'queue_notif_config_data') this.#notify.data.set(this.#selectors.queue, value);
    if (field === 'queue_reset' && this.#queueResetting === this.#selectors.queue && value === 0) {
      for (const clause of ['reset.6', 'pci.54']) this.#check(clause, `queue_reset of queue ${this.#queueResetting} read until it was 0`, true, true);
      this.#queueResetting = -1;
    }
    if (field === this.#mapped) {
      this.#check('msix.14', `${field} read back after it was written`, true, true);
      this.#mapped = undefined;
    }
  }

  #statusRead(value: number): void {
    if (value === 0 && this.#resetting) {
      this.#resetting = false;
      for (const clause of ['reset.3', 'pci.52']) this.#check(clause, 'status read until it was 0', value, 0);
    }
    this.#readSinceFeaturesOk = true;
    if ((this.#status & STATUS.FEATURES_OK) !== 0 && (this.#status & STATUS.DRIVER_OK) === 0 && this.#suspending === 'no')
      this.#refused = (value & STATUS.FEATURES_OK) === 0;
    const both = value & (STATUS.SUSPEND | STATUS.DRIVER_OK);
    if (this.#suspending === 'asked' && both === STATUS.SUSPEND) {
      this.#check('suspend.2', 'status read until SUSPEND was set and DRIVER_OK clear', both, STATUS.SUSPEND);
      this.#suspending = 'done';
    }
    if (this.#suspending === 'resuming' && both === STATUS.DRIVER_OK) {
      this.#check('suspend.6', 'status read until DRIVER_OK was set and SUSPEND clear', both, STATUS.DRIVER_OK);
      this.#suspending = 'no';
      this.#status = (this.#status | STATUS.DRIVER_OK) & ~STATUS.SUSPEND;
      this.rings.suspended(false);
    }
  }

  #width(field: CommonField, size: AccessSize): void {
    this.#check('pci.13', `bytes of an access to ${field}`, size, COMMON[field][1]);
  }

  #write(place: Place, size: AccessSize, value: number): void {
    const { type, field, offset } = place;
    this.#reads.access(place, value);
    if (type === CFG_TYPE.NOTIFY) this.#notified(offset, size, value);
    if (type === CFG_TYPE.DEVICE) {
      this.#check('net.11', `writes to the device configuration at ${offset}`, 1, 0);
      if ((this.#status & STATUS.FEATURES_OK) === 0) this.#earlyWrites++;
    }
    if (this.#suspending !== 'no' && type !== CFG_TYPE.NOTIFY)
      this.#check('suspend.5', `${field ?? 'device configuration'} written while the device is suspended`, field !== 'device_status', false);
    if (field === undefined) return;
    this.#width(field, size);
    this.#check('pci.48', `writes to ${field}`, READ_ONLY.includes(field), false);
    this.#inOrder(field, value);
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
        this.#check('msix.13', `${field} ${value} of ${this.places.vectors}`, value < this.places.vectors || value === NO_VECTOR, true);
        this.#mapped = value === NO_VECTOR ? undefined : field;
        break;
      case 'queue_enable':
        this.#queueEnabled(value);
        break;
      case 'queue_reset':
        this.#queueReset();
        break;
      default:
    }
    this.#remember(field, value);
  }

  #remember(field: CommonField, value: number): void {
    const queue = this.#selectors.queue;
    if (field === 'queue_reset') return;
    if (field === 'queue_size') this.#sizes.set(queue, value);
    if (field.startsWith('queue_d')) {
      const words = this.#addresses.get(queue) ?? [0, 0, 0, 0, 0, 0];
      words[(COMMON[field][0] - 32) / 4] = value;
      this.#addresses.set(queue, words);
    }
    this.#written.set(queue, (this.#written.get(queue) ?? new Set()).add(field));
  }

  /** What has to have been looked at before anything else is written. */
  #inOrder(field: CommonField, value: number): void {
    if (this.#resetting && !(field === 'device_status' && value === 0)) {
      for (const clause of ['reset.3', 'pci.52']) this.#check(clause, `status seen to be 0 before ${field} was written`, false, true);
    }
    const selects = field === 'queue_select';
    if (this.#queueResetting >= 0 && !selects && field !== 'device_status') {
      for (const clause of ['reset.6', 'pci.54'])
        this.#check(clause, `queue_reset of queue ${this.#queueResetting} seen to be 0 before ${field} was written`, false, true);
      this.#queueResetting = -1;
    }
    if (!field.endsWith('msix_vector') && this.#mapped !== undefined && !selects) {
      this.#check('msix.14', `${this.#mapped} read back before ${field} was written`, false, true);
      this.#mapped = undefined;
    }
    const gives = field === 'device_status' && (value === 0 || (value & STATUS.FAILED) !== 0);
    if (this.#refused) {
      if (field === 'device_status' && value !== 0) this.#check('init.12', 'FAILED set after the features were refused', value & STATUS.FAILED, STATUS.FAILED);
      this.#check('init.13', `${field} written after the features were refused, other than to give up`, gives, true);
    }
    if (this.#failed) {
      const resets = field === 'device_status' && value === 0;
      if (field === 'device_status')
        this.#check('status.3', `status 0x${value.toString(16)} written after FAILED`, resets || (value & STATUS.FAILED) !== 0, true);
      this.#check('init.13', `${field} written after FAILED`, gives, true);
    }
  }

  #statusWritten(value: number): void {
    if (value === 0) {
      this.#restart();
      return;
    }
    const before = this.#status;
    const added = value & ~before;
    this.#check('init.1', 'a reset before the first status bit', this.#sawReset, true);
    // SUSPEND and DRIVER_OK change places as 3.4 says.
    const swaps = this.#suspending === 'no' ? 0 : STATUS.SUSPEND | STATUS.DRIVER_OK;
    this.#check('status.2', 'status bits a write takes away', before & ~value & ~swaps, 0);
    if (added & STATUS.ACKNOWLEDGE) this.#check('init.2', 'status written as the first step', value, STATUS.ACKNOWLEDGE);
    if (added & STATUS.DRIVER) this.#check('init.3', 'ACKNOWLEDGE set before DRIVER', before & STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE);
    if (added & (STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK)) this.#check('status.1', 'status bits set by one write', bitCount(added), 1);
    if (added & STATUS.FEATURES_OK) {
      this.#check('init.7', 'DRIVER set before FEATURES_OK', before & STATUS.DRIVER, STATUS.DRIVER);
      this.#readSinceFeaturesOk = false;
      this.#check('init.6', 'writes to the device configuration before FEATURES_OK', this.#earlyWrites, 0);
      this.rings.negotiated(this.offered, this.features);
      this.#sriov.negotiated(this.offered, this.features);
    } else if ((value & STATUS.FAILED) === 0) this.#check('init.9', 'status read again after FEATURES_OK was written', this.#readSinceFeaturesOk, true);
    if (added & STATUS.DRIVER_OK && this.#suspending === 'no') {
      this.#check('init.11', 'FEATURES_OK set before DRIVER_OK', before & STATUS.FEATURES_OK, STATUS.FEATURES_OK);
      this.#check('init.10', 'queues enabled before DRIVER_OK', this.#enabled > 0, true);
      this.#check('net.11', 'writes to the device configuration until DRIVER_OK', this.#earlyWrites, 0);
      this.#configured();
      this.rings.started();
    }
    this.#suspendWritten(value, added);
    if ((value & STATUS.FAILED) !== 0) this.#failed = true;
    this.#status = value;
  }

  #suspendWritten(value: number, added: number): void {
    if (added & STATUS.SUSPEND) {
      this.#check(
        'suspend.1',
        'DRIVER_OK and the feature when SUSPEND is written',
        (value & STATUS.DRIVER_OK) !== 0 && this.features.has(FEATURE.SUSPEND),
        true,
      );
      this.#suspending = 'asked';
      this.rings.suspended(true);
    } else if (this.#suspending === 'done' && (value & STATUS.DRIVER_OK) !== 0) this.#suspending = 'resuming';
    else if (this.#suspending === 'asked' && (value & STATUS.FAILED) === 0)
      this.#check('suspend.2', 'status written before it was seen that the device is suspended', true, false);
  }

  #restart(): void {
    if (this.#failed) this.#check('status.3', 'reset after FAILED', true, true);
    this.rings.reset();
    this.#sawReset = true;
    this.#resetting = true;
    this.#status = 0;
    this.#accepted.length = 0;
    this.#written.clear();
    this.#wasReset.clear();
    this.#sizes.clear();
    this.#enabled = 0;
    this.#refused = false;
    this.#failed = false;
    this.#suspending = 'no';
    this.#queueResetting = -1;
    this.#read8.clear();
  }

  #configured(): void {
    const device = this.places.of(CFG_TYPE.DEVICE);
    if (device === undefined) return;
    const bytes = new Uint8Array(CONFIG_BYTES);
    for (let i = 0; i < Math.min(CONFIG_BYTES, device.length); i++) bytes[i] = this.#read8.get(i) ?? this.#peek.bar(device.bar, device.offset + i, 1);
    this.rings.configured(bytes);
  }

  #queueReset(): void {
    const queue = this.#selectors.queue;
    this.rings.queueStopped(queue);
    this.#written.delete(queue);
    this.#wasReset.add(queue);
    this.#queueResetting = queue;
  }

  #queueEnabled(value: number): void {
    const queue = this.#selectors.queue;
    const fields = this.#written.get(queue) ?? new Set();
    const size = this.#sizes.get(queue);
    const packed = this.features.has(FEATURE.RING_PACKED);
    this.#check('pci.53', 'queue_enable as written', value, 1);
    const missing = ADDRESSES.filter((name) => !fields.has(name));
    this.#check('pci.51', `registers of queue ${queue} written after it was enabled, or never`, missing, []);
    if (this.#wasReset.has(queue)) this.#check('reset.9', `registers of queue ${queue} not written again since its reset`, missing, []);
    if (size !== undefined)
      this.#check(packed ? 'pci.49' : 'pci.50', `queue_size of queue ${queue}`, packed ? size > 0 : size > 0 && (size & (size - 1)) === 0, true);
    this.#admin(queue);
    const words = this.#addresses.get(queue);
    if (words === undefined) return;
    const wide = (i: number): number => (words[i] as number) + 2 ** 32 * (words[i + 1] as number);
    const device = wide(4);
    const first = this.rings.memory.view.bytes(device, 4);
    if (first) this.#check('pci.D8', `device area of queue ${queue} when it was enabled`, first.slice(), new Uint8Array(4));
    this.#enabled++;
    const common = this.places.of(CFG_TYPE.COMMON);
    const most = common ? this.#peek.bar(common.bar, common.offset + COMMON.queue_size[0], 2) : 0;
    this.rings.queueEnabled(queue, { size: size ?? most, desc: wide(0), driver: wide(2), device });
  }

  /** Beyond num_queues there are administration queues only. */
  #admin(queue: number): void {
    const common = this.places.of(CFG_TYPE.COMMON);
    if (common === undefined || !this.features.has(FEATURE.ADMIN_VQ)) return;
    const read = (field: CommonField): number => this.#peek.bar(common.bar, common.offset + COMMON[field][0], 2);
    const [first, count] = [read('admin_queue_index'), read('admin_queue_num')];
    this.rings.adminQueues = Array.from({ length: count }, (_, i) => first + i);
    if (queue < read('num_queues')) return;
    this.findings.that('pci.57', 'index of an administration queue', queue >= first && queue < first + count, `${first} to ${first + count - 1}`, queue);
  }

  #notified(offset: number, size: AccessSize, value: number): void {
    this.#check('init.14', 'DRIVER_OK when a queue is notified', this.#status & (STATUS.DRIVER_OK | STATUS.SUSPEND) ? 1 : 0, 1);
    this.#check('pci.75', 'reads of ISR under MSI-X so far', this.#isrReads, 0);
    if (this.#suspending === 'resuming') this.#check('suspend.6', 'a notification before the device was seen to run again', true, false);
    this.#notify.notified(offset, size, value, (queue) => this.#written.has(queue));
  }
}

function bitCount(value: number): number {
  let count = 0;
  for (let bit = 0; bit < 8; bit++) count += (value >>> bit) & 1;
  return count;
}
