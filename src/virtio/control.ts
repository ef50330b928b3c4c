// The control plane that every virtio device shares (virtio 1.4 2.1, 2.4, 3.1): the status machine, for both interfaces, suspend (3.4), a stop by the owner of its group. What features are
// settled on is in negotiation.ts, the queues' set-up and reset in driver-queues.ts. It knows neither registers nor packets.

import { ConfigGeneration } from './config-generation.ts';
import { BusyError, type VirtioDevice, type VirtioHost } from './device.ts';
import {
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_BITS,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
} from './device-status.ts';
import { DriverQueues } from './driver-queues.ts';
import { FeatureSet, VIRTIO_F_SUSPEND } from './features.ts';
import { Negotiation } from './negotiation.ts';
import type { QueueRecord } from './queue-record.ts';
import { type ControlState, checkControlState, checkNegotiation, type DriverInterface } from './saved-control.ts';

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
  readonly negotiation: Negotiation;
  readonly queues: DriverQueues;
  readonly #transport: ControlTransport;
  #status = 0;
  #resetting = false;
  /** Suspend was asked for; queues still stop. */
  #suspending = false;
  /** What the driver uses: the interface of its first status write, until a reset. The other one is then without effect. */
  #interface: DriverInterface = 'none';
  /** A legacy driver used the device, with DRIVER_OK or before. */
  #legacyLive = false;
  readonly #generation = new ConfigGeneration();
  #frozen = false;

  constructor(device: VirtioDevice, transport: ControlTransport) {
    this.device = device;
    this.#transport = transport;
    this.negotiation = new Negotiation(device, device.offered.or(transport.features));
    this.queues = new DriverQueues(device, this, transport);
    const control = this;
    device.attach({
      memory: transport.memory,
      clock: transport.clock,
      log: transport.log,
      get features() {
        return control.features;
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
      queueEnabled: (index) => this.queues.live(index),
      queueSetup: (index) => (this.queues.records[index] as QueueRecord).setup,
      call: (index) => transport.call(index),
      configChanged: () => this.configChanged(),
      configMoved: () => this.#generation.moved(),
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

  get resetting(): boolean {
    return this.#resetting;
  }

  get featuresOk(): boolean {
    return (this.#status & VIRTIO_STATUS_FEATURES_OK) !== 0;
  }

  /** Negotiated features; empty before FEATURES_OK. */
  get features(): FeatureSet {
    return this.negotiation.settled;
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

  #acceptLegacy(value: number): void {
    this.negotiation.settleLegacy(value);
    this.queues.resize(this.features);
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

  /** As `DriverQueues.placeLegacy`, over when it returns. */
  placeLegacyQueue(index: number, areas: readonly [number, number, number] | undefined): void {
    if (this.queues.placeLegacy(index, areas) === 'resetting') this.#await(() => !this.queues.resetting(index));
  }

  notifyLegacy(index: number): void {
    if (this.legacy && !this.#resetting && this.queues.at(index)?.enabled) this.#legacyUse();
    this.queues.notify(index);
  }

  // ---- suspend: virtio 1.4 3.4 ----

  get suspended(): boolean {
    return (this.#status & VIRTIO_STATUS_SUSPEND) !== 0;
  }

  #suspend(): void {
    // (device MUST): ignored before initialization is complete.
    if (!this.driverOk || !this.features.has(VIRTIO_F_SUSPEND)) {
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
    const reason = this.#refusal() ?? this.negotiation.settle();
    // virtio 1.4 2.2.2 (device MUST): an unacceptable set leaves FEATURES_OK clear.
    if (reason !== undefined) {
      this.#transport.log.guestError(`features refused: ${reason}`);
      return;
    }
    this.#status |= VIRTIO_STATUS_FEATURES_OK;
    this.queues.clear(this.features);
    this.device.negotiated();
  }

  /** Why no set can be accepted now. */
  #refusal(): string | undefined {
    if ((this.#status & VIRTIO_STATUS_DRIVER) === 0) return 'DRIVER is not set';
    // A driver that is refused here gives up. Refused its rings later, it may wait for its first command's answer for ever, as Linux does.
    if (this.#transport.memory.remote?.everything) return 'all memory is reached by message, where no virtqueue can be (a QEMU guest: share=on for its RAM)';
    return undefined;
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
    this.queues.poll();
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
    this.negotiation.clear();
    this.queues.clear(undefined);
    this.device.reset();
    this.#transport.cleared();
  }

  needsReset(reason: string): void {
    if ((this.#status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0 || this.#resetting) return;
    this.#transport.log.guestError(`needs reset: ${reason}`);
    this.#status |= VIRTIO_STATUS_DEVICE_NEEDS_RESET;
    this.#halt();
    // virtio 1.4 2.1.2 (device MUST): with DRIVER_OK set, the driver is told.
    if ((this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#notifyConfig();
  }

  // ---- features ----

  writeDriverFeatures(selector: number, value: number): void {
    if ((this.#status & VIRTIO_STATUS_FEATURES_OK) !== 0 || this.#resetting || this.legacy) {
      this.#transport.log.guestError('features written after FEATURES_OK', { selector });
      return;
    }
    this.negotiation.acknowledge(selector, value);
  }

  // ---- configuration ----

  get generation(): number {
    return this.#generation.value;
  }

  readConfig(offset: number, size: number): number {
    this.#generation.read();
    return this.device.configRead(offset, size);
  }

  /** (device SHOULD): without effect while suspended. */
  writeConfig(offset: number, size: number, value: number): void {
    if (this.suspended) this.#transport.log.guestError('configuration written while suspended', { offset });
    else this.device.configWrite(offset, size, value);
  }

  configChanged(): void {
    this.#generation.moved();
    if (this.driverOk) this.#notifyConfig();
  }

  // ---- stopped by the owner of its group: virtio 1.4 2.12.1.4 ----

  /** Nothing is notified any more; queues and configuration space are the device's to stop. */
  get frozen(): boolean {
    return this.#frozen;
  }

  freeze(): void {
    this.#frozen = true;
    this.device.freeze();
  }

  thaw(): void {
    if (!this.#frozen) return;
    this.#frozen = false;
    if ((this.#status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0 && (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#notifyConfig();
    this.device.thaw();
  }

  /** A reset, of the device or of a queue, or a suspend is under way. */
  get busy(): boolean {
    this.poll();
    return this.#resetting || this.queues.resets > 0 || this.#suspending;
  }

  #notifyConfig(): void {
    if (!this.#frozen) this.#transport.notifyConfig();
  }

  // ---- saved state ----

  /** @throws BusyError during a reset or a suspend. */
  save(): ControlState {
    if (this.busy) throw new BusyError('a reset or a suspend is under way: save when it is over');
    return this.state(this.device.save());
  }

  /** With the device's own part, as `save` has it. */
  state(device: ControlState['device']): ControlState {
    return {
      ...this.negotiation.save(),
      status: this.#status,
      interface: this.#interface,
      legacyLive: this.#legacyLive,
      frozen: this.#frozen,
      generation: this.generation,
      queues: this.queues.records.map((queue) => queue.save()),
      device,
    };
  }

  /** Checks all of it, the device's part too, changing nothing; returns what takes it over. @throws RestoreError */
  check(saved: unknown): (paused: boolean) => void {
    const state = checkControlState(saved, this.negotiation.offered, this.queues.records.length, this.#transport.transitional);
    const negotiated = checkNegotiation(state, this.device);
    const features = state.interface === 'legacy' || (state.status & VIRTIO_STATUS_FEATURES_OK) !== 0 ? negotiated : undefined;
    const takeOver = this.device.restore(state.device, negotiated);
    return (paused) => {
      takeOver(paused);
      this.#resetting = false;
      this.#suspending = false;
      this.#status = state.status;
      this.#interface = state.interface;
      this.#legacyLive = state.legacyLive;
      this.negotiation.restore(state.driver, negotiated);
      this.#generation.restore(state.generation);
      this.queues.restore(features, state.queues);
      if (state.frozen) this.freeze();
      else this.thaw();
    };
  }

  /** A state that need not hold together yet: well-formed, and of this device. @throws RestoreError */
  checkForm(saved: unknown): ControlState {
    const state = checkControlState(saved, this.negotiation.offered, this.queues.records.length, this.#transport.transitional);
    this.device.restore(state.device, new FeatureSet(state.negotiated));
    return state;
  }

  /** Leaves the device paused. Nothing has changed when it throws. @throws RestoreError, BusyError */
  restore(saved: unknown): void {
    const takeOver = this.check(saved);
    if (!this.device.stopped) throw new BusyError('the device runs: pause or reset it, then restore');
    takeOver(true);
  }
}
