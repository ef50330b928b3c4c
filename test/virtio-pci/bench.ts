// Set-up shared by the virtio-pci and virtio-net tests: a fabric with one virtio network device on its root bus, driven register by register, over a data plane that
// moves nothing and remembers what it was told. The register offsets are typed from virtio 1.4 4.1.4, not taken from the device.

import { SimClock } from '#core/clock';
import { Bell, Doorbell } from '#core/doorbell';
import { GuestMemory } from '#core/guest-memory';
import { type Call, PendingVectors } from '#core/interrupts';
import { Log } from '#core/log';
import type { AccessSize } from '#core/region';
import { VirtioNet, type VirtioNetOptions } from '#devices/virtio-net/device';
import { Fabric } from '#pci/fabric';
import type { MsiMessage } from '#pci/ports';
import { FeatureSet } from '#virtio/features';
import { NET_DATA_PLANE_FEATURES } from '#virtio/net-features';
import { VirtioPci, type VirtioPciOptions } from '#virtio/pci-transport';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';

export const BAR0 = 0x40_0000_0000;
export const BAR2 = 0xe000_0000;
const COMMON = BAR0;
export const ISR = BAR0 + 0x1000;
export const CONFIG = BAR0 + 0x2000;
export const NOTIFY = BAR0 + 0x3000;

export const DEVICE_FEATURE_SELECT = 0;
export const DEVICE_FEATURE = 4;
export const DRIVER_FEATURE_SELECT = 8;
export const DRIVER_FEATURE = 12;
export const CONFIG_VECTOR = 16;
export const NUM_QUEUES = 18;
export const STATUS = 20;
export const GENERATION = 21;
export const QUEUE_SELECT = 22;
export const QUEUE_SIZE = 24;
export const QUEUE_VECTOR = 26;
export const QUEUE_ENABLE = 28;
export const QUEUE_NOTIFY_OFF = 30;
export const QUEUE_DESC = 32;
export const QUEUE_DRIVER = 40;
export const QUEUE_DEVICE = 48;
export const QUEUE_NOTIF_CONFIG = 56;
export const QUEUE_RESET = 58;
export const ADMIN_INDEX = 60;

export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const SUSPEND = 16;
export const NEEDS_RESET = 64;
export const FAILED = 128;

const RAM = 4 * 2 ** 20;

interface RecordedRing {
  state: VringState;
  setup: QueueSetup;
  start: VringPosition;
  position: VringPosition;
  call: Call;
}

/** A data plane that moves nothing. Stops complete at once unless `slow`, as a worker's do later. */
export class RecordingBackend implements VhostBackend {
  readonly name: string;
  readonly features: FeatureSet;
  readonly maxQueuePairs = 64;
  onEvent: ((event: VhostEvent) => void) | undefined;
  readonly calls: string[] = [];
  readonly rings = new Map<number, RecordedRing>();
  readonly doorbells = new Map<number, Doorbell>();
  session: VhostSession | undefined;
  slow = false;
  policyChanges = 0;
  /** Calls that no backend should get; the tests expect none. */
  readonly violations: string[] = [];
  /** Makes startVring find the setup unusable. */
  breakOnStart = false;
  /** Makes open fail, as over memory that a worker cannot see. */
  throwOnOpen = false;

  constructor(name = 'recording', features = NET_DATA_PLANE_FEATURES) {
    this.name = name;
    this.features = features;
  }

  open(session: VhostSession): void {
    if (this.throwOnOpen) throw new TypeError('this memory cannot be shared');
    this.session = session;
    this.calls.push('open');
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    const before = this.rings.get(index)?.state;
    if (before === 'running' || before === 'stopping') this.violations.push(`ring ${index} started while ${before}`);
    this.calls.push(`start ${index} @${position.available.toString(16)}`);
    this.rings.set(index, { state: this.breakOnStart ? 'broken' : 'running', setup, start: position, position, call });
  }

  stopVring(index: number): void {
    this.calls.push(`stop ${index}`);
    if (!this.rings.has(index)) this.violations.push(`ring ${index} stopped before it was ever started`);
    const ring = this.ring(index);
    if (ring.state === 'running') ring.state = this.slow ? 'stopping' : 'stopped';
  }

  /** The turn in hand is over: stops asked for are done. */
  finishStops(): void {
    for (const ring of this.rings.values()) if (ring.state === 'stopping') ring.state = 'stopped';
  }

  vringState(index: number): VringState {
    return this.ring(index).state;
  }

  vringPosition(index: number): VringPosition {
    return this.ring(index).position;
  }

  kick(index: number): void {
    this.calls.push(`kick ${index}`);
  }

  kickDoorbell(index: number): Doorbell | undefined {
    let doorbell = this.doorbells.get(index);
    if (doorbell === undefined) {
      doorbell = new Doorbell(new Bell());
      this.doorbells.set(index, doorbell);
    }
    return doorbell;
  }

  policyChanged(): void {
    this.policyChanges++;
  }

  ring(index: number): RecordedRing {
    const ring = this.rings.get(index);
    if (ring === undefined) throw new Error(`ring ${index} was never started`);
    return ring;
  }

  running(): number[] {
    return [...this.rings]
      .filter(([, ring]) => ring.state === 'running')
      .map(([index]) => index)
      .sort((a, z) => a - z);
  }
}

export interface BenchOptions {
  readonly net?: Partial<VirtioNetOptions>;
  readonly pci?: Partial<VirtioPciOptions>;
  readonly backend?: RecordingBackend;
  /** Without it every call is relayed. */
  readonly direct?: boolean;
}

export class VirtioBench {
  readonly memory = new GuestMemory([{ base: 0, size: RAM }]);
  readonly ram = (this.memory.slabs[0] as (typeof this.memory.slabs)[0]).views.u8.buffer as SharedArrayBuffer;
  readonly clock = new SimClock();
  readonly log = new Log('bench');
  readonly lines = [false, false, false, false];
  readonly messages: { message: MsiMessage; requester: number }[] = [];
  readonly vectors = new PendingVectors();
  readonly relayBell = new Bell();
  readonly fabric: Fabric;
  readonly backend: RecordingBackend;
  readonly net: VirtioNet;
  readonly pci: VirtioPci;
  readonly bdf = 0x18;
  /** Configuration offsets of the vendor capabilities by cfg_type, and of MSI-X. */
  readonly caps = new Map<number, number>();
  msix = 0;

  constructor(options: BenchOptions = {}) {
    this.backend = options.backend ?? new RecordingBackend();
    this.net = new VirtioNet({ mac: '52:54:00:12:34:56', backend: this.backend, ...options.net });
    const direct = options.direct ?? true;
    this.pci = new VirtioPci({
      device: this.net,
      pcieType: 'root-complex-endpoint',
      routing: { bell: this.relayBell, ...(direct ? { vectors: this.vectors, resolve: (message: MsiMessage) => message.data & 0xff } : {}) },
      ...options.pci,
    });
    this.fabric = new Fabric({
      memory: this.memory,
      clock: this.clock,
      log: this.log,
      msi: { message: (message, requester) => this.messages.push({ message, requester }) },
      intx: {
        setIntx: (line, asserted) => {
          this.lines[line] = asserted;
        },
      },
    });
    this.fabric.attach(this.fabric.root, this.pci.fn, 3);
    this.configure();
  }

  /** What firmware does: BARs placed, memory and bus mastering enabled, capabilities found. */
  configure(): void {
    this.configWrite(0x10, 4, BAR0 % 2 ** 32);
    this.configWrite(0x14, 4, Math.floor(BAR0 / 2 ** 32));
    this.configWrite(0x18, 4, BAR2);
    this.configWrite(4, 2, 0x6);
    for (let at = this.configRead(0x34, 1); at !== 0; at = this.configRead(at + 1, 1)) {
      const id = this.configRead(at, 1);
      if (id === 9) this.caps.set(this.configRead(at + 3, 1), at);
      if (id === 0x11) this.msix = at;
    }
  }

  configRead(offset: number, size: AccessSize): number {
    return this.fabric.configRead(this.bdf, offset, size);
  }

  configWrite(offset: number, size: AccessSize, value: number): void {
    this.fabric.configWrite(this.bdf, offset, size, value);
  }

  read(address: number, size: AccessSize): number {
    return this.fabric.mmioRead(address, size);
  }

  write(address: number, size: AccessSize, value: number): void {
    this.fabric.mmioWrite(address, size, value);
  }

  get(field: number, size: AccessSize): number {
    return this.read(COMMON + field, size);
  }

  set(field: number, size: AccessSize, value: number): void {
    this.write(COMMON + field, size, value);
  }

  get status(): number {
    return this.get(STATUS, 1);
  }

  set status(bits: number) {
    this.set(STATUS, 1, bits);
  }

  offered(): FeatureSet {
    return new FeatureSet(
      [0, 1, 2, 3].map((selector) => {
        this.set(DEVICE_FEATURE_SELECT, 4, selector);
        return this.get(DEVICE_FEATURE, 4);
      }),
    );
  }

  writeFeatures(features: FeatureSet): void {
    features.words.forEach((word, selector) => {
      this.set(DRIVER_FEATURE_SELECT, 4, selector);
      this.set(DRIVER_FEATURE, 4, word);
    });
  }

  /** Steps 1 to 6 of virtio 1.4 3.1.1; returns the status read back. */
  negotiate(features: FeatureSet): number {
    this.status = 0;
    this.status = ACKNOWLEDGE;
    this.status = ACKNOWLEDGE | DRIVER;
    this.writeFeatures(features);
    this.status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    return this.status;
  }

  /** Rings of queue `index` have 64 KiB of memory to themselves. */
  static area(index: number): { descriptor: number; driver: number; device: number } {
    const base = 0x10000 * (index + 1);
    return { descriptor: base, driver: base + 0x8000, device: base + 0xc000 };
  }

  setUpQueue(index: number, options: { size?: number; vector?: number } = {}): void {
    const { descriptor, driver, device } = VirtioBench.area(index);
    this.set(QUEUE_SELECT, 2, index);
    if (options.size !== undefined) this.set(QUEUE_SIZE, 2, options.size);
    if (options.vector !== undefined) this.set(QUEUE_VECTOR, 2, options.vector);
    this.set(QUEUE_DESC, 4, descriptor);
    this.set(QUEUE_DRIVER, 4, driver);
    this.set(QUEUE_DEVICE, 4, device);
    this.set(QUEUE_ENABLE, 2, 1);
  }

  /** Brings the device to DRIVER_OK with the given queues. */
  bringUp(features: FeatureSet, queues: readonly number[] = [0, 1], vector?: (index: number) => number): void {
    if ((this.negotiate(features) & FEATURES_OK) === 0) throw new Error('the device refused the features');
    for (const index of queues) this.setUpQueue(index, vector ? { vector: vector(index) } : {});
    this.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
  }

  enableMsix(on = true, functionMask = false): void {
    this.configWrite(this.msix + 2, 2, (on ? 0x8000 : 0) | (functionMask ? 0x4000 : 0));
  }

  /** Programs MSI-X entry `entry` to send `vector`, unmasked. */
  programVector(entry: number, vector: number, masked = false): void {
    this.write(BAR2 + 16 * entry, 4, 0xfee00000);
    this.write(BAR2 + 16 * entry + 4, 4, 0);
    this.write(BAR2 + 16 * entry + 8, 4, vector);
    this.write(BAR2 + 16 * entry + 12, 4, masked ? 1 : 0);
  }

  kick(index: number, multiplier = 4): void {
    this.write(NOTIFY + index * multiplier, 2, index);
  }

  /** Vectors pending at the guest, taken. */
  takeVectors(): number[] {
    const taken: number[] = [];
    for (let vector = this.vectors.take(); vector >= 0; vector = this.vectors.take()) taken.push(vector);
    return taken;
  }
}
