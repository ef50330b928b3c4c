// The control plane that every virtio device shares (virtio 1.4 2.1, 2.2, 2.4, 2.6.1, 3.1): the status machine, feature negotiation, the queues' set-up and reset, the
// configuration generation, suspend (3.4). It knows neither registers nor packets.

import type { Doorbell } from '#core/doorbell';
import { RestoreError } from '#core/saved';
import type { VirtioDevice, VirtioHost } from './device.ts';
import {
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_BITS,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
} from './device-status.ts';
import { FeatureSet, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND, VIRTIO_F_VERSION_1 } from './features.ts';
import { QueueRecord } from './queue-record.ts';
import { type ControlState, checkControlState, type DriverInterface } from './saved-control.ts';

const NO_FEATURES = new FeatureSet();
/** Driver states in which the device must do nothing more. */
const DEAD = VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED;

/** How long a legacy driver's reset may keep the machine's thread, in milliseconds: many turns of a busy worker. */
const LEGACY_PATIENCE = 100;

/** What the transport does for the control plane. */
export interface ControlTransport extends Pick<VirtioHost, 'memory' | 'clock' | 'log' | 'call'> {
  /** Feature bits of the transport itself, added to what the device offers. */
  readonly features: FeatureSet;
  /** The legacy interface is there as well. */
  readonly transitional: boolean;
  /** Sends a configuration change notification. */
  notifyConfig(): void;
  /** Delivers what queues have called for and is still on its way through this thread. */
  deliverCalls(): void;
  /** Queue `index` is back in its reset state (its vector too). */
  queueCleared(index: number): void;
  /** The whole device is. */
  cleared(): void;
}

export class VirtioControl {
  readonly device: VirtioDevice;
  readonly offered: FeatureSet;
  readonly queues: readonly QueueRecord[];
  readonly #transport: ControlTransport;
  #status = 0;
  #resetting = false;
  /** Suspend was asked for; queues still stop. */
  #suspending = false;
  #queueResets = 0;
  /** What the driver uses: the interface of its first status write, until a reset. The other one is then without effect. */
  #interface: DriverInterface = 'none';
  /** A legacy driver used the device, with DRIVER_OK or before. */
  #legacyLive = false;
  #driverWords = [0, 0, 0, 0];
  /** The driver acknowledged something past bit 127, where nothing is. */
  #beyond = false;
  #negotiated = NO_FEATURES;
  #generation = 0;
  #readSinceChange = false;

  constructor(device: VirtioDevice, transport: ControlTransport) {
    this.device = device;
    this.#transport = transport;
    this.offered = device.offered.or(transport.features);
    this.queues = Array.from({ length: device.queueCount }, () => new QueueRecord());
    this.#clearQueues();
    const control = this;
    device.attach({
      memory: transport.memory,
      clock: transport.clock,
      log: transport.log,
      get features() {
        return control.#negotiated;
      },
      get driverOk() {
        return control.driverOk;
      },
      get suspended() {
        return control.suspended;
      },
      get legacy() {
        return control.legacy;
      },
      queueEnabled: (index) => {
        const queue = this.queues[index];
        return queue?.enabled === true && !queue.resetting;
      },
      queueSetup: (index) => (this.queues[index] as QueueRecord).setup,
      call: (index) => transport.call(index),
      configChanged: () => this.configChanged(),
      configMoved: () => this.configMoved(),
      needsReset: (reason) => this.needsReset(reason),
    });
  }

  // ---- status ----

  /** virtio 1.4 2.4 (device MUST): 0 once a reset is over, and not before. Reading is how a driver waits, so reading is when the backend is looked at. */
  readStatus(): number {
    this.poll();
    return this.#status;
  }

  get driverOk(): boolean {
    return (this.#legacyLive || (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0) && (this.#status & DEAD) === 0 && !this.#resetting;
  }

  /** Negotiated features; empty before FEATURES_OK. */
  get features(): FeatureSet {
    return this.#negotiated;
  }

  writeStatus(value: number): void {
    this.poll();
    if (value === 0) {
      this.beginReset();
      return;
    }
    if (this.#resetting) {
      this.#transport.log.guestError('status written before the reset was over', { value });
      return;
    }
    if (!this.#claim('modern')) return;
    // virtio 1.4 2.1.1 (driver MUST NOT): bits are only cleared by a reset.
    if ((this.#status & ~value & VIRTIO_STATUS_DRIVER_BITS) !== 0) this.#transport.log.guestError('status bits cleared without a reset', { value });
    const added = value & ~this.#status & VIRTIO_STATUS_DRIVER_BITS;
    this.#status |= added & ~(VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
    if ((added & VIRTIO_STATUS_FEATURES_OK) !== 0) this.#acceptFeatures();
    if ((added & VIRTIO_STATUS_FAILED) !== 0) this.#halt();
    else if (this.suspended) {
      if ((added & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#resume();
    } else if ((added & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#driverOk();
    else if ((value & VIRTIO_STATUS_SUSPEND) !== 0) this.#suspend();
  }

  /** Whether a driver may write through `through`: the first to write decides. */
  #claim(through: DriverInterface): boolean {
    if (this.#interface === 'none') this.#interface = through;
    if (this.#interface === through) return true;
    this.#transport.log.guestError(`written through the ${through} interface while the driver uses the other one`);
    return false;
  }

  /** The device does nothing more until it is reset. */
  #halt(): void {
    this.#suspending = false;
    this.device.stop();
  }

  // ---- the legacy interface: virtio 1.4 2.2.3, 3.1.2, 4.1.4.10. No FEATURES_OK: features are settled by first use, and use may come before DRIVER_OK ----

  get legacy(): boolean {
    return this.#interface === 'legacy';
  }

  get legacyFeatures(): number {
    return ((this.offered.words[0] as number) | (1 << VIRTIO_F_ANY_LAYOUT)) >>> 0;
  }

  writeLegacyStatus(value: number): void {
    this.poll();
    if (value === 0) {
      this.beginReset();
      this.#await(() => !this.#resetting);
      return;
    }
    const first = this.#interface === 'none';
    if (this.#resetting || !this.#claim('legacy')) return;
    if (first) this.#acceptLegacy(0);
    const added = value & ~this.#status & VIRTIO_STATUS_DRIVER_BITS & ~VIRTIO_STATUS_FEATURES_OK;
    this.#status |= added;
    if ((added & VIRTIO_STATUS_FAILED) !== 0) this.#halt();
    else if ((added & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#legacyUse();
  }

  writeLegacyFeatures(value: number): void {
    if (this.legacy && !this.#legacyLive && !this.#resetting) this.#acceptLegacy(value);
    else this.#transport.log.guestError('features written after the device was used, or by nobody');
  }

  /** A legacy driver cannot be refused: of what it acknowledged, as much is taken as goes together. */
  #acceptLegacy(value: number): void {
    this.#driverWords = [value >>> 0, 0, 0, 0];
    const asked = new FeatureSet([value]).and(this.offered).bits();
    let features = NO_FEATURES;
    for (let before = -1; before !== features.bits().length; ) {
      before = features.bits().length;
      for (const bit of asked) if (this.device.refuses(features.or(FeatureSet.of(bit))) === undefined) features = features.or(FeatureSet.of(bit));
    }
    this.#negotiated = features;
    this.queues.forEach((queue, index) => {
      if (!queue.enabled) queue.clear(this.device.queueMaxSize(index, features));
    });
    this.device.negotiated();
  }

  /** A legacy driver does not look whether it is over, it just goes on. In vain when who serves the rings is gone, or when this is inside its turn. */
  #await(over: () => boolean): void {
    for (const deadline = performance.now() + LEGACY_PATIENCE; !over() && performance.now() < deadline; ) this.poll();
  }

  /** (device MUST): a driver may use the device before DRIVER_OK. */
  #legacyUse(): void {
    if (this.#legacyLive || (this.#status & DEAD) !== 0) return;
    this.#legacyLive = true;
    this.device.start();
  }

  /** `areas` of the descriptor, driver and device areas; undefined: page number 0, which takes the queue away. */
  placeLegacyQueue(index: number, areas: readonly [number, number, number] | undefined): void {
    const queue = this.queue(index);
    if (queue === undefined || !this.legacy || this.#resetting || queue.resetting) return;
    if (areas === undefined) {
      if (!queue.enabled) return;
      this.#resetQueue(index, queue);
      this.#await(() => !queue.resetting);
      return;
    }
    if (queue.enabled) {
      this.#transport.log.guestError('a queue that has an address was given another', { queue: index });
      return;
    }
    queue.addresses.set(areas.flatMap((address) => [address % 2 ** 32, Math.floor(address / 2 ** 32)]));
    queue.enabled = true;
    if (this.driverOk) this.device.startQueue(index);
  }

  notifyLegacy(index: number): void {
    if (this.legacy && !this.#resetting && this.queue(index)?.enabled) this.#legacyUse();
    this.notify(index);
  }

  // ---- suspend: virtio 1.4 3.4 ----

  get suspended(): boolean {
    return (this.#status & VIRTIO_STATUS_SUSPEND) !== 0;
  }

  #suspend(): void {
    // (device MUST): ignored before initialization is complete.
    if (!this.driverOk || !this.#negotiated.has(VIRTIO_F_SUSPEND)) {
      this.#transport.log.guestError('SUSPEND without VIRTIO_F_SUSPEND or DRIVER_OK');
      return;
    }
    if (this.#suspending) return;
    this.#suspending = true;
    this.device.suspend();
    this.#pollSuspend();
  }

  /** (device SHOULD): shown when no buffer is in hand any more and the driver has been told of those it used. */
  #pollSuspend(): void {
    if (!this.#suspending || !this.device.quiet) return;
    this.#suspending = false;
    this.#transport.deliverCalls();
    this.#status = (this.#status & ~VIRTIO_STATUS_DRIVER_OK) | VIRTIO_STATUS_SUSPEND;
  }

  #resume(): void {
    this.#status = (this.#status & ~VIRTIO_STATUS_SUSPEND) | VIRTIO_STATUS_DRIVER_OK;
    if ((this.#status & DEAD) === 0) this.device.unsuspend();
  }

  #acceptFeatures(): void {
    const features = new FeatureSet(this.#driverWords);
    const reason = this.#refusal(features);
    // virtio 1.4 2.2.2 (device MUST): an unacceptable set leaves FEATURES_OK clear.
    if (reason !== undefined) {
      this.#transport.log.guestError(`features refused: ${reason}`);
      return;
    }
    this.#negotiated = features;
    this.#status |= VIRTIO_STATUS_FEATURES_OK;
    this.queues.forEach((queue, index) => {
      queue.clear(this.device.queueMaxSize(index, features));
    });
    this.device.negotiated();
  }

  #refusal(features: FeatureSet): string | undefined {
    if ((this.#status & VIRTIO_STATUS_DRIVER) === 0) return 'DRIVER is not set';
    if (this.#beyond || !features.without(this.offered).empty) return 'bits that are not offered';
    if (!features.has(VIRTIO_F_VERSION_1)) return 'VERSION_1 is not acknowledged';
    // A driver that is refused here gives up. Refused its rings later, it may wait for its first command's answer for ever, as Linux does.
    if (this.#transport.memory.remote?.everything) return 'all memory is reached by message, where no virtqueue can be (a QEMU guest: share=on for its RAM)';
    return this.device.refuses(features);
  }

  #driverOk(): void {
    if ((this.#status & VIRTIO_STATUS_FEATURES_OK) === 0) {
      this.#transport.log.guestError('DRIVER_OK without FEATURES_OK');
      return;
    }
    this.#status |= VIRTIO_STATUS_DRIVER_OK;
    if ((this.#status & DEAD) === 0) this.device.start();
  }

  /** Looks for what happened behind the registers: a reset that is over, a queue that has stopped, a ring that broke. */
  poll(): void {
    if (this.#resetting) {
      if (this.device.stopped) this.#finishReset();
      return;
    }
    this.device.poll();
    if (this.#queueResets > 0) this.#pollQueueResets();
    if (this.#suspending) this.#pollSuspend();
  }

  /** Status 0, or a reset of the function. */
  beginReset(): void {
    this.#resetting = true;
    this.#halt();
    this.poll();
  }

  #finishReset(): void {
    this.#resetting = false;
    this.#status = 0;
    this.#interface = 'none';
    this.#legacyLive = false;
    this.#driverWords = [0, 0, 0, 0];
    this.#beyond = false;
    this.#negotiated = NO_FEATURES;
    this.#clearQueues();
    this.device.reset();
    this.#transport.cleared();
  }

  #clearQueues(): void {
    this.#queueResets = 0;
    this.queues.forEach((queue, index) => {
      queue.clear(this.device.queueMaxSize(index, undefined));
    });
  }

  needsReset(reason: string): void {
    if ((this.#status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0 || this.#resetting) return;
    this.#transport.log.guestError(`needs reset: ${reason}`);
    this.#status |= VIRTIO_STATUS_DEVICE_NEEDS_RESET;
    this.#halt();
    // virtio 1.4 2.1.2 (device MUST): with DRIVER_OK set, the driver is told.
    if ((this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#transport.notifyConfig();
  }

  // ---- features ----

  deviceFeatures(selector: number): number {
    return this.offered.words[selector] ?? 0;
  }

  driverFeatures(selector: number): number {
    return this.#driverWords[selector] ?? 0;
  }

  writeDriverFeatures(selector: number, value: number): void {
    if ((this.#status & VIRTIO_STATUS_FEATURES_OK) !== 0 || this.#resetting || this.legacy) {
      this.#transport.log.guestError('features written after FEATURES_OK', { selector });
      return;
    }
    if (selector < this.#driverWords.length) this.#driverWords[selector] = value >>> 0;
    else this.#beyond = value !== 0;
  }

  // ---- queues ----

  /** Administration queues: the last ones. */
  get adminQueues(): { readonly first: number; readonly count: number } {
    const count = this.device.adminQueueCount ?? 0;
    return { first: this.queues.length - count, count };
  }

  /** The queue, if these features have it; every other index reads as size 0. */
  queue(index: number): QueueRecord | undefined {
    const queue = this.queues[index];
    return queue !== undefined && queue.maxSize > 0 ? queue : undefined;
  }

  /** The queue, if the driver may set it up now. */
  writableQueue(index: number): QueueRecord | undefined {
    const queue = this.queue(index);
    if (queue !== undefined && !queue.enabled && !queue.resetting && !this.#resetting && !this.suspended && !this.legacy) return queue;
    this.#transport.log.guestError('a queue that is enabled, suspended or not there was written', { queue: index });
    return undefined;
  }

  writeQueueSize(index: number, size: number): void {
    const powerOfTwo = !this.#negotiated.has(VIRTIO_F_RING_PACKED);
    if (this.writableQueue(index)?.writeSize(size, powerOfTwo) === false) this.#transport.log.guestError('queue size refused', { queue: index, size });
  }

  enableQueue(index: number): void {
    const queue = this.writableQueue(index);
    if (queue === undefined) return;
    if ((this.#status & VIRTIO_STATUS_FEATURES_OK) === 0) {
      this.#transport.log.guestError('queue enabled before FEATURES_OK', { queue: index });
      return;
    }
    queue.enabled = true;
    if (this.driverOk) this.device.startQueue(index);
  }

  /** virtio 1.4 2.6.1: resets one queue; over when `queueResetting` says so. */
  resetQueue(index: number): void {
    const queue = this.queue(index);
    if (queue === undefined || queue.resetting || this.#resetting) return;
    if (!this.#negotiated.has(VIRTIO_F_RING_RESET) || this.suspended) {
      this.#transport.log.guestError('queue reset without RING_RESET, or while suspended', { queue: index });
      return;
    }
    this.#resetQueue(index, queue);
  }

  #resetQueue(index: number, queue: QueueRecord): void {
    queue.resetting = true;
    this.#queueResets++;
    this.device.stopQueue(index);
    this.#pollQueueResets();
  }

  queueResetting(index: number): boolean {
    if (this.#queueResets > 0) this.#pollQueueResets();
    return this.queue(index)?.resetting === true;
  }

  #pollQueueResets(): void {
    for (let index = 0; index < this.queues.length && this.#queueResets > 0; index++) {
      const queue = this.queues[index] as QueueRecord;
      if (!queue.resetting || !this.device.queueStopped(index)) continue;
      queue.clear();
      this.#queueResets--;
      this.#transport.queueCleared(index);
    }
  }

  /** The doorbell a guest may ring in place of notifying queue `index`, while it is live. */
  kickDoorbell(index: number): Doorbell | undefined {
    const queue = this.queues[index];
    return this.driverOk && queue?.enabled && !queue.resetting ? this.device.kickDoorbell(index) : undefined;
  }

  /** Looks at every live queue: notifications may have come to nothing while the function could not master the bus. */
  notifyAll(): void {
    if (!this.driverOk) return;
    this.queues.forEach((queue, index) => {
      if (queue.enabled && !queue.resetting && this.driverOk) this.device.notify(index);
    });
  }

  /** virtio 1.4 2.1.1 (device MUST NOT): no buffer is consumed before DRIVER_OK, whatever is notified. */
  notify(index: number): void {
    const queue = this.queues[index];
    if (this.driverOk && queue?.enabled && !queue.resetting) this.device.notify(index);
    else this.#transport.log.guestError('notification for a queue that is not live', { queue: index });
  }

  // ---- configuration ----

  /**
   * virtio 1.4 4.1.4.3.1 (device MUST): differs once a field that changed had been read. Moving only then also keeps 256 changes in a row from bringing it back to a value
   * that the driver saw before them.
   */
  get generation(): number {
    return this.#generation;
  }

  readConfig(offset: number, size: number): number {
    this.#readSinceChange = true;
    return this.device.configRead(offset, size);
  }

  /** (device SHOULD): without effect while suspended. */
  writeConfig(offset: number, size: number, value: number): void {
    if (this.suspended) this.#transport.log.guestError('configuration written while suspended', { offset });
    else this.device.configWrite(offset, size, value);
  }

  configMoved(): void {
    if (!this.#readSinceChange) return;
    this.#readSinceChange = false;
    this.#generation = (this.#generation + 1) & 0xff;
  }

  configChanged(): void {
    this.configMoved();
    if (this.driverOk) this.#transport.notifyConfig();
  }

  // ---- saved state ----

  save(): ControlState {
    this.poll();
    if (this.#resetting || this.#queueResets > 0 || this.#suspending) throw new BusyError('a reset or a suspend is under way: save when it is over');
    return {
      offered: [...this.offered.words],
      status: this.#status,
      interface: this.#interface,
      legacyLive: this.#legacyLive,
      driver: [...this.#driverWords],
      negotiated: [...this.#negotiated.words],
      generation: this.#generation,
      queues: this.queues.map((queue) => queue.save()),
      device: this.device.save(),
    };
  }

  /** Checks all of it, then lets the device check and take its part, then takes the rest: nothing has changed when it throws. @throws RestoreError */
  restore(saved: unknown): void {
    const state = checkControlState(saved, this.offered, this.queues.length, this.#transport.transitional);
    const legacy = state.interface === 'legacy';
    const negotiated = new FeatureSet(state.negotiated);
    if (legacy || (state.status & VIRTIO_STATUS_FEATURES_OK) !== 0) {
      const reason = legacy || negotiated.has(VIRTIO_F_VERSION_1) ? this.device.refuses(negotiated) : 'VERSION_1 is missing';
      if (reason !== undefined) throw new RestoreError(`saved features cannot have been negotiated: ${reason}`);
    } else if (!negotiated.empty) throw new RestoreError('saved state has negotiated features without FEATURES_OK');
    const features = legacy || (state.status & VIRTIO_STATUS_FEATURES_OK) !== 0 ? negotiated : undefined;
    const powerOfTwo = !negotiated.has(VIRTIO_F_RING_PACKED);
    state.queues.forEach((queue, index) => {
      const trial = new QueueRecord();
      trial.clear(this.device.queueMaxSize(index, features));
      const exists = trial.maxSize > 0;
      if (exists ? !trial.writeSize(queue.size, powerOfTwo) : queue.size !== 0 || queue.enabled)
        throw new RestoreError(`saved queue ${index} has size ${queue.size}; at most ${trial.maxSize} is possible`);
      if (queue.enabled && features === undefined) throw new RestoreError(`saved queue ${index} is enabled before FEATURES_OK`);
    });
    const takeOver = this.device.restore(state.device, negotiated);
    if (!this.device.stopped) throw new BusyError('the device runs: pause or reset it, then restore');
    takeOver();
    this.#resetting = false;
    this.#suspending = false;
    this.#queueResets = 0;
    this.#status = state.status;
    this.#interface = state.interface;
    this.#legacyLive = state.legacyLive;
    this.#driverWords = [...state.driver];
    this.#beyond = false;
    this.#negotiated = negotiated;
    this.#generation = state.generation;
    // Whatever was read before the save counts as read.
    this.#readSinceChange = true;
    this.queues.forEach((queue, index) => {
      queue.clear(this.device.queueMaxSize(index, features));
      queue.restore(state.queues[index] as ControlState['queues'][number]);
    });
  }
}

/** Something still runs that must have stopped first. `code` is stable. */
export class BusyError extends Error {
  readonly code = 'NICBOX_BUSY';
}
