// Where a scenario takes place: our device, provoked as the scenario wants, a driver on it, and the watch between them. One thread: the device is at work only inside the driver's stores and
// in its turns, so that what is seen in between stands still.

import type { GuestBus } from '#core/guest-bus';
import { udpFrame } from '../cases/frames.ts';
import { WatchedBus } from '../driver-watch.ts';
import { FEATURE, wordOf } from '../features.ts';
import { STATUS } from '../layout.ts';
import { Skip } from '../session.ts';
import type { WireOffload } from '../target.ts';
import type { Findings } from './findings.ts';
import type { Role } from './judge.ts';
import { type Provocation, ProvokedBus } from './provoked-bus.ts';
import type { DeviceWish, DriverHandle, DriverMaker, DriverScenario, DriverWish } from './scenario.ts';
import { type Chain, gather } from './view.ts';

/** A network device on a bus of its own, at work only when it is told to be, or inside accesses. */
export interface StageDevice {
  readonly bus: GuestBus;
  /** Its bus, device and function number. */
  readonly rid: number;
  /** Everything it can do now, and interrupts. */
  work(): void;
  /** Interrupts of what it did inside accesses. */
  deliver(): void;
  put(frame: Uint8Array, offload?: WireOffload): void;
  sent(): Uint8Array[];
  setLink(up: boolean): void;
  announce(): void;
  close(): Promise<void>;
}

export type StageDeviceMaker = (wish: DeviceWish) => StageDevice;

/** The device's answer to an administration command, before the driver sees it. */
export interface AdminAnswer {
  /** command_specific_data of what is answered. */
  readonly data: Uint8Array;
  /** The whole writable part. */
  readonly bytes: Uint8Array;
  /** A used length. */
  setLength(bytes: number): void;
}

/** Turns of driver and device after which nothing more is to be expected. */
const TURNS = 60;

/** The bus a driver gets: the watched one, or one between it and the driver that does things wrong. */
export interface DriverSideBus extends GuestBus {
  /** The driver has done what it had to do for now. */
  quiet(): void;
  /** The driver is about to look at what the device did. */
  before?(): void;
}

export type BusWrap = (stage: Stage) => DriverSideBus;

export class Stage {
  readonly ring: 'split' | 'packed';
  readonly watched: WatchedBus;
  readonly bus: DriverSideBus;
  readonly findings: Findings;
  readonly provocation: Provocation;
  readonly #device: StageDevice;
  readonly #scenario: DriverScenario;
  readonly #make: DriverMaker;
  #driver: DriverHandle | undefined;
  #receivedHook: ((header: Uint8Array, setLength: (bytes: number) => void, chain: Chain) => void) | undefined;
  #answeredHook: ((bytes: Uint8Array, setLength: (bytes: number) => void) => void) | undefined;
  #administeredHook: ((opcode: number, answer: AdminAnswer) => void) | undefined;
  /** Why the driver did not come up, or ''. */
  refused = '';
  /** The device does nothing of its own accord while this is set. */
  stalled = false;

  constructor(scenario: DriverScenario, ring: 'split' | 'packed', device: StageDeviceMaker, make: DriverMaker, wrap: BusWrap = (stage) => stage.watched) {
    this.#scenario = scenario;
    this.#make = make;
    this.ring = ring;
    this.#device = device(scenario.device ?? {});
    const { bus, rid } = this.#device;
    const provoked = new ProvokedBus(bus, bus.platform.ecam.base + (rid - (bus.platform.ecam.firstBus << 8)) * 4096);
    this.provocation = provoked.provocation;
    this.watched = new WatchedBus(provoked, rid, (address, size) => provoked.peek(address, size));
    provoked.placeAt = (address) => this.watched.placeAt(address);
    this.findings = this.watched.findings;
    this.#offer();
    this.watched.rings.onUsed.push((_queue, role, chain, lengthAt) => this.#used(role, chain, lengthAt));
    this.bus = wrap(this);
  }

  /** Feature bits the driver is shown more or less of, which the device does not hear of. */
  #offer(): void {
    const { offer = [], withhold = [] } = this.#scenario.device ?? {};
    const extra = new Set(offer.map((bit) => (typeof bit === 'number' ? bit : FEATURE[bit])));
    const less = new Set<number>([...withhold.map((name) => FEATURE[name]), ...(this.ring === 'split' ? [FEATURE.RING_PACKED] : [])]);
    let shown = 0;
    let answered = 0;
    const own = new Map<number, number>();
    this.provocation.read = ({ field }, _size, value) => {
      if (field === 'device_feature') own.set(shown, value);
      return field === 'device_feature' ? ((value | wordOf(extra, shown)) & ~wordOf(less, shown)) >>> 0 : value;
    };
    this.provocation.write = ({ field }, _size, value) => {
      if (field === 'device_feature_select') shown = value;
      if (field === 'driver_feature_select') answered = value;
      return field === 'driver_feature' ? (value & ~(wordOf(extra, answered) & ~(own.get(answered) ?? 0))) >>> 0 : value;
    };
  }

  /** Adds to what loads return. */
  answer(read: NonNullable<Provocation['read']>): void {
    const before = this.provocation.read;
    this.provocation.read = (place, size, value) => read(place, size, before ? before(place, size, value) : value);
  }

  /** Adds to what loads from the I/O BAR return, by their offset in it. */
  answerPort(read: (offset: number, size: number, value: number) => number): void {
    this.provocation.readPort = (port, size, value) => {
      const offset = this.watched.portOffset(port);
      return offset < 0 ? value : read(offset, size, value) >>> 0;
    };
  }

  check(clause: string, what: string, seen: unknown, expected: unknown): boolean {
    return this.findings.check(clause, what, seen, expected);
  }

  // ---- the driver ----

  /** Brings it up. False: it gave up, as `refused` tells. */
  start(wish: DriverWish = {}): boolean {
    try {
      this.#driver = this.#make(this.ring, { ...this.#scenario.driver, ...wish }, this.bus);
      this.refused = '';
    } catch (error) {
      this.refused = (error as Error).message;
      return false;
    }
    this.turn();
    return true;
  }

  get driver(): DriverHandle {
    if (this.#driver === undefined) throw new Skip(`the driver did not come up: ${this.refused}`);
    return this.#driver;
  }

  get running(): boolean {
    return (this.watched.status & (STATUS.DRIVER_OK | STATUS.FAILED)) === STATUS.DRIVER_OK;
  }

  // ---- time ----

  /** One turn: the driver, then the device. */
  turn(): void {
    this.bus.before?.();
    this.#driver?.step();
    this.bus.quiet();
    if (this.stalled) return;
    this.#device.work();
    this.#served();
  }

  /** The device was at work. */
  #served(): void {
    this.#device.deliver();
    this.provocation.served?.();
    this.watched.rings.served();
  }

  turns(count = TURNS): void {
    for (let n = 0; n < count; n++) this.turn();
  }

  /** Frames come in from the wire. */
  put(bytes: Uint8Array, offload?: WireOffload): void {
    this.#device.put(bytes, offload);
    this.#served();
  }

  /** Frames out of the wire since the last call. */
  sent(): Uint8Array[] {
    return this.#device.sent();
  }

  /** Whether the driver takes frames and sends others: as many as are put in come back. */
  echoes(count = 8, length = 100): boolean {
    this.driver.echo();
    this.sent();
    this.driver.taken();
    for (let i = 0; i < count; i++) this.put(udpFrame({ payload: length + i, fromPort: 1000 + i }).bytes);
    let back = 0;
    for (let n = 0; n < TURNS && back < count; n++) {
      this.turn();
      back += this.sent().length;
    }
    return back === count;
  }

  // ---- the device ----

  setLink(up: boolean): void {
    this.#device.setLink(up);
    this.#served();
  }

  announce(): void {
    this.#device.announce();
    this.#served();
  }

  /** What the device writes into receive buffers is changed: `header` is what a driver will find there, `setLength` the used length. */
  received(change: ((header: Uint8Array, setLength: (bytes: number) => void, chain: Chain) => void) | undefined): void {
    this.#receivedHook = change;
  }

  /** The same of answers to commands: the writable bytes, the ack somewhere among them. */
  answered(change: ((bytes: Uint8Array, setLength: (bytes: number) => void) => void) | undefined): void {
    this.#answeredHook = change;
  }

  /** The same of answers to administration commands. */
  administered(change: ((opcode: number, answer: AdminAnswer) => void) | undefined): void {
    this.#administeredHook = change;
  }

  #used(role: Role | undefined, chain: Chain, lengthAt: number): void {
    const { view } = this.watched.rings.memory;
    const piece = chain.pieces.find(({ writable }) => writable);
    if (piece === undefined) return;
    const bytes = view.bytes(piece.address, role === 'receive' ? Math.min(piece.length, this.watched.rings.headerSize) : piece.length);
    const length = view.bytes(lengthAt, 4);
    if (bytes === undefined || length === undefined) return;
    const setLength = (value: number): void => length.set([value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]);
    if (role === 'receive') this.#receivedHook?.(bytes, setLength, chain);
    if (role === 'admin') {
      const command = gather(this.watched.rings.memory, chain, false, chain.readable);
      this.#administeredHook?.((command[0] ?? 0) | ((command[1] ?? 0) << 8), { data: command.subarray(24), bytes, setLength });
    }
    if (role === 'control') this.#answeredHook?.(bytes, setLength);
  }

  /** Every interrupt there can be, for no reason. */
  interruptAll(): void {
    for (let vector = 0; vector < 256; vector++) this.bus.vectors.post(vector);
  }

  /** Configuration space from here on: a capability more, before all others, at a free place. */
  addCapability(at: number, bytes: readonly number[]): void {
    const { config } = this.provocation;
    const first = config.get(0x34) ?? this.watched.configByte(0x34);
    for (const [i, byte] of bytes.entries()) config.set(at + i, byte);
    config.set(at + 1, first);
    config.set(0x34, at);
  }

  /** The offset of the device's own capability of this type. */
  capability(type: number): number {
    return this.watched.inspect().of(type)?.at ?? 0;
  }

  close(): Promise<void> {
    return this.#device.close();
  }
}
