// A VF as a member of its PF's group (virtio 1.4 2.12): its legacy interface, its device parts, and being stopped by the owner. Parts are read from and written to a copy of the saved
// registers; the copy is in force once the owner lets the device go on, through the checks of any restore. Where its queues stand, it then finds in their rings (ring-index.ts).

import { RestoreError } from '#core/saved';
import { type AdminMember, type LegacyArea, partsBound } from './admin-sriov.ts';
import { isWhole, type PartsShape, readParts, writeParts } from './common-parts.ts';
import type { DevicePartsSource } from './device.ts';
import type { DevicePart } from './device-parts.ts';
import { VIRTIO_STATUS_DEVICE_NEEDS_RESET, VIRTIO_STATUS_DRIVER_OK, VIRTIO_STATUS_FAILED, VIRTIO_STATUS_SUSPEND } from './device-status.ts';
import { FeatureSet, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_RING_PACKED } from './features.ts';
import { notifyConfigData } from './pci-common.ts';
import { LEGACY_NOTIFY_OFFSET } from './pci-layout.ts';
import type { PluggedDevice } from './pci-plugged.ts';
import { QueueRecord } from './queue-record.ts';
import { findIndex, leaveIndex } from './ring-index.ts';
import type { PciState } from './saved-pci.ts';
import type { VringPosition } from './virtqueue.ts';

const DEAD = VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED;
const COMMON_FIELDS = 6;
const COMMON_BYTES = 16 + 16 + 4 + 4 + 2 + 2 + 1 + 2 + 1;
const QUEUE_BYTES = 32 + 8;

/** The most that the parts of a device with so many queues come to. */
export function memberPartsBound(queues: number, own: DevicePartsSource['bounds']): number {
  return partsBound(3 + COMMON_FIELDS + 2 * queues + own.parts, COMMON_BYTES + QUEUE_BYTES * queues + own.bytes);
}

export class PciMember implements AdminMember {
  readonly #at: PluggedDevice;
  readonly #shape: PartsShape;
  readonly #bar: number;
  readonly #mayMaster: () => boolean;
  /** What was set since the device was stopped. */
  #staged: PciState | undefined;
  /** Stopped, and its rings say where. */
  #settled = false;

  constructor(
    at: PluggedDevice,
    options: { readonly vectors: number; readonly notifyPerQueue: boolean; readonly bar: number; readonly mayMaster: () => boolean },
  ) {
    const { control, device } = at;
    this.#at = at;
    this.#bar = options.bar;
    this.#mayMaster = options.mayMaster;
    this.#shape = {
      device,
      offered: control.negotiation.offered,
      vectors: options.vectors,
      notify: (index, features) => [options.notifyPerQueue ? index : 0, features.has(VIRTIO_F_NOTIF_CONFIG_DATA) ? notifyConfigData(index) : 0],
      numQueues: control.queues.administration.first,
    };
  }

  // ---- legacy interface ----

  readLegacy(area: LegacyArea, offset: number, length: number): Uint8Array | undefined {
    return this.#at.legacy?.readField(area, offset, length);
  }

  writeLegacy(area: LegacyArea, offset: number, data: Uint8Array): boolean {
    return this.#at.legacy?.writeField(area, offset, data) === true;
  }

  get legacyNotify(): { readonly bar: number; readonly offset: number } {
    return { bar: this.#bar, offset: LEGACY_NOTIFY_OFFSET };
  }

  // ---- parts ----

  get partsBound(): number {
    const { device } = this.#shape;
    return memberPartsBound(device.queueCount, device.parts?.bounds ?? { bytes: 0, parts: 0 });
  }

  get #present(): PciState {
    const { control, device } = this.#at;
    return this.#at.state(control.state((device.parts as DevicePartsSource).state()));
  }

  parts(): readonly DevicePart[] | 'later' {
    if (this.#at.control.busy) return 'later';
    return readParts(this.#staged ?? this.#present, this.#shape);
  }

  get busy(): boolean {
    return this.#at.control.busy;
  }

  setParts(parts: readonly DevicePart[]): 'done' | 'running' | 'refused' | 'later' {
    const { control } = this.#at;
    // virtio 1.4 2.12.1.4.4.1 (device MUST): answered when a reset that is under way is over.
    if (control.busy) return 'later';
    if (!control.frozen) return 'running';
    if (this.#stop() === 'later') return 'later';
    const next = writeParts(this.#staged ?? this.#present, parts, this.#shape);
    if (next === undefined || accepted(() => control.checkForm(next.control)) === undefined) return 'refused';
    // A whole image has to hold together at once; pieces may in the end.
    if (isWhole(parts) && this.#check(next, []) === undefined) return 'refused';
    this.#staged = next;
    return 'done';
  }

  #check(state: PciState, positions: readonly (VringPosition | null)[]): ((paused: boolean) => void) | undefined {
    const { control, device } = this.#at;
    const placed = (device.parts as DevicePartsSource).place(state.control.device, positions, new FeatureSet(state.control.negotiated));
    return accepted(() => control.check({ ...state.control, frozen: true, device: placed }));
  }

  // ---- mode ----

  setStopped(stopped: boolean): 'done' | 'refused' | 'unreachable' | 'later' {
    const { control } = this.#at;
    if (control.busy) return 'later';
    if (stopped) return this.#stop();
    if (this.#staged !== undefined) {
      const taken = this.#takeStaged(this.#staged);
      if (taken !== 'done') return taken;
    }
    this.#settled = false;
    control.thaw();
    return 'done';
  }

  /** (device MUST): complete when nothing is under way, and what was used has been told. */
  #stop(): 'done' | 'later' {
    const { control, device, interrupts, memory } = this.#at;
    if (!control.frozen) {
      this.#settled = false;
      control.freeze();
    }
    if (this.#settled) return 'done';
    if (!device.quiet) return 'later';
    interrupts.serviceRelays();
    for (let index = 0; index < control.queues.records.length; index++) {
      const position = control.queues.live(index) ? device.parts?.position(index) : undefined;
      if (position) leaveIndex((control.queues.records[index] as QueueRecord).setup, position, control.features, memory);
    }
    this.#settled = true;
    return 'done';
  }

  #takeStaged(state: PciState): 'done' | 'refused' | 'unreachable' {
    const { control } = state;
    const { memory } = this.#at;
    const runs = (control.status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_SUSPEND)) !== 0 && (control.status & DEAD) === 0;
    const live = runs && control.queues.some(({ enabled }) => enabled);
    // Its rings are in memory it may not look at yet: Bus Master Enable comes first.
    if (live && !this.#mayMaster()) return 'unreachable';
    const features = new FeatureSet(control.negotiated);
    const positions = control.queues.map((queue, index) => {
      if (!runs || !queue.enabled) return null;
      const record = new QueueRecord();
      record.restore(queue);
      return this.#held(index, record, features) ?? findIndex(record.setup, features, memory);
    });
    const takeOver = this.#check(state, positions);
    if (takeOver === undefined) return 'refused';
    takeOver(false);
    this.#at.registers = state;
    this.#staged = undefined;
    return 'done';
  }

  /** Where the very packed ring stands that the device has, started perhaps after the stop: no place in it has been left then. A split one tells it itself. */
  #held(index: number, { setup }: QueueRecord, features: FeatureSet): VringPosition | undefined {
    const { control, device } = this.#at;
    const own = control.queues.live(index) ? control.queues.records[index]?.setup : undefined;
    const same =
      own !== undefined &&
      own.size === setup.size &&
      own.descriptorArea === setup.descriptorArea &&
      own.driverArea === setup.driverArea &&
      own.deviceArea === setup.deviceArea &&
      features.has(VIRTIO_F_RING_PACKED) &&
      control.features.has(VIRTIO_F_RING_PACKED);
    return same ? device.parts?.position(index) : undefined;
  }

  // ---- life and saved state ----

  /** The driver has reset the device: nothing is left of what was set (device MUST). */
  cleared(): void {
    this.#staged = undefined;
  }

  get staged(): PciState | null {
    return this.#staged ?? null;
  }

  /** The function was reset: it is not stopped any more either. */
  reset(): void {
    this.#staged = undefined;
    this.#settled = false;
    this.#at.control.thaw();
  }

  /** As saved, checked; of a device that stands still. */
  restore(staged: PciState | null): void {
    this.#staged = staged ?? undefined;
    // Perhaps saved in the midst of a stop: what is left to do then is done when it matters, once more if it was.
    this.#settled = false;
  }
}

/** What a check returns; undefined when it refuses. */
function accepted<T>(check: () => T): T | undefined {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof RestoreError)) throw error;
    return undefined;
  }
}
