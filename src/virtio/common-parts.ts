// The device parts that every device on PCI has (virtio 1.4 2.14.1), read from and written to its saved registers (saved-pci.ts), whose checks then say whether a driver could have
// brought the whole about. There is no part for where a device stands in a ring: ring-index.ts.
//
// Our reading of PCI_COMMON_CFG: fields that a driver can write are set (selectors, the configuration vector, and the generation, which it may be holding against), the others are held
// against what this device has, and refused if they differ (2.12.1.4.4.1, device SHOULD).

import type { VirtioDevice } from './device.ts';
import type { DevicePart } from './device-parts.ts';
import * as wire from './device-parts.ts';
import { VIRTIO_STATUS_DRIVER_OK, VIRTIO_STATUS_FEATURES_OK } from './device-status.ts';
import { FeatureSet } from './features.ts';
import { acceptableLegacy } from './negotiation.ts';
import { VIRTIO_MSI_NO_VECTOR } from './pci-layout.ts';
import { QueueRecord } from './queue-record.ts';
import type { ControlState } from './saved-control.ts';
import type { PciState } from './saved-pci.ts';

const FEATURES = 16;
const VQ_CFG = 32;
const VQ_NOTIFY_CFG = 8;

// Fields of struct virtio_pci_common_cfg.
const DEVICE_FEATURE_SELECT = 0;
const DRIVER_FEATURE_SELECT = 8;
const CONFIG_VECTOR = 16;
const NUM_QUEUES = 18;
const GENERATION = 21;
const QUEUE_SELECT = 22;
const FIELD_BYTES: ReadonlyMap<number, number> = new Map([
  [DEVICE_FEATURE_SELECT, 4],
  [DRIVER_FEATURE_SELECT, 4],
  [CONFIG_VECTOR, 2],
  [NUM_QUEUES, 2],
  [GENERATION, 1],
  [QUEUE_SELECT, 2],
]);

/** What is the same for the device's life. */
export interface PartsShape {
  readonly device: VirtioDevice;
  readonly offered: FeatureSet;
  readonly vectors: number;
  /** queue_notify_off and queue_notif_config_data of a queue, under these features. */
  readonly notify: (index: number, features: FeatureSet) => readonly [offset: number, data: number];
  readonly numQueues: number;
}

function settled({ interface: through, status }: ControlState): boolean {
  return through === 'legacy' || (status & VIRTIO_STATUS_FEATURES_OK) !== 0;
}

function words(value: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * value.length);
  const view = new DataView(bytes.buffer);
  for (const [i, word] of value.entries()) view.setUint32(4 * i, word, true);
  return bytes;
}

function little(value: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
}

function number(bytes: Uint8Array): number {
  return bytes.reduce((sum, byte, i) => sum + byte * 2 ** (8 * i), 0);
}

const NONE = wire.partSelector();

/** All parts of a device whose registers are `state`, in order. */
export function readParts(state: PciState, shape: PartsShape): DevicePart[] {
  const { control, interrupts } = state;
  const negotiated = new FeatureSet(control.negotiated);
  const part = (type: number, selector: Uint8Array, value: Uint8Array, optional = false): DevicePart => ({ type, optional, selector, value });
  const legacy = control.interface === 'legacy';
  const fields: readonly [number, number][] = [
    [DEVICE_FEATURE_SELECT, state.selectors.deviceFeature],
    [DRIVER_FEATURE_SELECT, state.selectors.driverFeature],
    [CONFIG_VECTOR, interrupts.configVector],
    [NUM_QUEUES, shape.numQueues],
    [GENERATION, control.generation],
    [QUEUE_SELECT, legacy ? state.legacyQueue : state.selectors.queue],
  ];
  const present = control.queues.map((queue, index) => ({ queue, index })).filter(({ queue }) => queue.size > 0);
  const queueSelector = (index: number): Uint8Array => wire.partSelector(index & 0xff, index >>> 8);
  return [
    part(wire.VIRTIO_DEV_PART_DEV_FEATURES, NONE, words(shape.offered.words), true),
    part(wire.VIRTIO_DEV_PART_DRV_FEATURES, NONE, words(control.driver)),
    ...fields.map(([offset, value]) => part(wire.VIRTIO_DEV_PART_PCI_COMMON_CFG, wire.partSelector(offset), little(value, FIELD_BYTES.get(offset) as number))),
    part(wire.VIRTIO_DEV_PART_DEVICE_STATUS, NONE, Uint8Array.of(control.status)),
    ...present.map(({ queue, index }) => {
      const value = new Uint8Array(VQ_CFG);
      const view = new DataView(value.buffer);
      view.setUint16(0, queue.size, true);
      view.setUint16(2, interrupts.queueVectors[index] as number, true);
      view.setUint16(4, queue.enabled ? 1 : 0, true);
      value.set(words(queue.addresses), 8);
      return part(wire.VIRTIO_DEV_PART_VQ_CFG, queueSelector(index), value);
    }),
    ...present.map(({ index }) => {
      const value = new Uint8Array(VQ_NOTIFY_CFG);
      const [offset, data] = shape.notify(index, negotiated);
      value.set([...little(offset, 2), ...little(data, 2)]);
      return part(wire.VIRTIO_DEV_PART_VQ_NOTIFY_CFG, queueSelector(index), value);
    }),
    ...(settled(control) ? (shape.device.parts?.read(control.device, negotiated) ?? []) : []),
  ];
}

/** Whether these are parts of a whole device, and not some to be changed. */
export function isWhole(parts: readonly DevicePart[]): boolean {
  return [wire.VIRTIO_DEV_PART_DRV_FEATURES, wire.VIRTIO_DEV_PART_DEVICE_STATUS].every((type) => parts.some((part) => part.type === type));
}

/** `state` with `parts` set, or undefined when one of them is none of this device, of another length, or says what cannot be. Nothing is final before the state has been checked whole. */
export function writeParts(state: PciState, parts: readonly DevicePart[], shape: PartsShape): PciState | undefined {
  const draft = settle(state, parts, shape);
  if (draft === undefined) return undefined;
  let next: PciState = draft;
  for (const part of parts) {
    const written = writePart(next, part, shape);
    // (device MAY): what it does not know and can do without.
    if (written === undefined && !(part.optional && !isKnown(part))) return undefined;
    next = written ?? next;
  }
  return next;
}

function isKnown({ type }: DevicePart): boolean {
  return type >= wire.VIRTIO_DEV_PART_DEV_FEATURES && type <= wire.VIRTIO_DEV_PART_VQ_NOTIFY_CFG;
}

/** Driver features and status first, as everything else hangs on them; with other features than before, queues and device start from what a reset leaves. */
function settle(state: PciState, parts: readonly DevicePart[], shape: PartsShape): PciState | undefined {
  const driverPart = parts.find(({ type }) => type === wire.VIRTIO_DEV_PART_DRV_FEATURES);
  const statusPart = parts.find(({ type }) => type === wire.VIRTIO_DEV_PART_DEVICE_STATUS);
  if ((driverPart !== undefined && driverPart.value.length !== FEATURES) || (statusPart !== undefined && statusPart.value.length !== 1)) return undefined;
  if (driverPart === undefined && statusPart === undefined) return state;
  const { control } = state;
  const view = driverPart && new DataView(driverPart.value.buffer, driverPart.value.byteOffset);
  const driver = view ? [0, 4, 8, 12].map((at) => view.getUint32(at, true)) : control.driver;
  const status = statusPart?.value[0] ?? control.status;
  const enables = parts.some(({ type, value }) => type === wire.VIRTIO_DEV_PART_VQ_CFG && (value[4] ?? 0) !== 0);
  const through = interfaceOf(status, driver, enables);
  const live = (status & VIRTIO_STATUS_DRIVER_OK) !== 0;
  const { device, offered } = shape;
  const negotiated =
    through === 'legacy'
      ? acceptableLegacy(driver[0] as number, offered, device)
      : (status & VIRTIO_STATUS_FEATURES_OK) !== 0
        ? new FeatureSet(driver)
        : undefined;
  const next: ControlState = {
    ...control,
    driver,
    status,
    interface: through,
    legacyLive: through === 'legacy' && live,
    negotiated: [...(negotiated ?? new FeatureSet()).words],
  };
  const same = settled(control) === (negotiated !== undefined) && new FeatureSet(control.negotiated).equals(new FeatureSet(next.negotiated));
  const fresh = device.parts?.negotiated(control.device, negotiated ?? new FeatureSet()) as ControlState['device'];
  // A whole image is of a driver of its own: nothing of the one that was here before goes along.
  if (same) return { ...state, control: isWhole(parts) ? { ...next, device: fresh } : next };
  if (negotiated !== undefined && !negotiated.without(offered).empty) return undefined;
  const trial = new QueueRecord();
  const queues = control.queues.map((_, index) => {
    trial.clear(device.queueMaxSize(index, negotiated));
    return trial.save();
  });
  return {
    ...state,
    control: { ...next, queues, device: fresh },
    interrupts: { ...state.interrupts, queueVectors: state.interrupts.queueVectors.map(() => VIRTIO_MSI_NO_VECTOR) },
  };
}

/**
 * Which interface the driver uses is in no part. A modern driver has FEATURES_OK before it enables a queue or sets DRIVER_OK; and VERSION_1 among its features, once it has written them.
 */
function interfaceOf(status: number, driver: readonly number[], enables: boolean): ControlState['interface'] {
  if ((status & VIRTIO_STATUS_FEATURES_OK) !== 0) return 'modern';
  if (status === 0) return 'none';
  return enables || (status & VIRTIO_STATUS_DRIVER_OK) !== 0 || (driver[0] !== 0 && driver[1] === 0) ? 'legacy' : 'none';
}

function writePart(state: PciState, part: DevicePart, shape: PartsShape): PciState | undefined {
  const { control } = state;
  switch (part.type) {
    case wire.VIRTIO_DEV_PART_DEV_FEATURES:
      // (device MUST): verified, not set.
      return part.value.length === FEATURES && words(shape.offered.words).every((byte, i) => byte === part.value[i]) ? state : undefined;
    case wire.VIRTIO_DEV_PART_DRV_FEATURES:
    case wire.VIRTIO_DEV_PART_DEVICE_STATUS:
      return state;
    case wire.VIRTIO_DEV_PART_PCI_COMMON_CFG:
      return writeField(state, part, shape);
    case wire.VIRTIO_DEV_PART_VQ_CFG:
      return writeQueue(state, part, shape);
    case wire.VIRTIO_DEV_PART_VQ_NOTIFY_CFG: {
      const index = queueOf(part, control);
      if (index === undefined || part.value.length !== VQ_NOTIFY_CFG) return undefined;
      const [offset, data] = shape.notify(index, new FeatureSet(control.negotiated));
      return number(part.value.subarray(0, 2)) === offset && number(part.value.subarray(2, 4)) === data ? state : undefined;
    }
    default: {
      if (part.type < wire.DEVICE_TYPE_PARTS || !settled(control)) return undefined;
      const device = shape.device.parts?.write(control.device, part, new FeatureSet(control.negotiated));
      return device === undefined ? undefined : { ...state, control: { ...control, device: device as ControlState['device'] } };
    }
  }
}

function isVector(value: number, vectors: number): boolean {
  return value < vectors || value === VIRTIO_MSI_NO_VECTOR;
}

function writeField(state: PciState, { selector, value }: DevicePart, shape: PartsShape): PciState | undefined {
  const offset = number(selector.subarray(0, 4));
  if (FIELD_BYTES.get(offset) !== value.length) return undefined;
  const written = number(value);
  const { selectors, interrupts, control } = state;
  switch (offset) {
    case DEVICE_FEATURE_SELECT:
      return { ...state, selectors: { ...selectors, deviceFeature: written } };
    case DRIVER_FEATURE_SELECT:
      return { ...state, selectors: { ...selectors, driverFeature: written } };
    case CONFIG_VECTOR:
      return isVector(written, shape.vectors) ? { ...state, interrupts: { ...interrupts, configVector: written } } : undefined;
    case GENERATION:
      return { ...state, control: { ...control, generation: written } };
    case QUEUE_SELECT:
      return { ...state, selectors: { ...selectors, queue: written }, legacyQueue: control.interface === 'legacy' ? written : 0 };
    default:
      return written === shape.numQueues ? state : undefined;
  }
}

/** The queue a part is about, if these features have it. */
function queueOf({ selector }: DevicePart, control: ControlState): number | undefined {
  const index = number(selector.subarray(0, 2));
  return (control.queues[index]?.size ?? 0) > 0 ? index : undefined;
}

function writeQueue(state: PciState, part: DevicePart, shape: PartsShape): PciState | undefined {
  const { control, interrupts } = state;
  const index = queueOf(part, control);
  if (index === undefined || part.value.length !== VQ_CFG) return undefined;
  const view = new DataView(part.value.buffer, part.value.byteOffset);
  const [size, vector, enabled] = [0, 2, 4].map((at) => view.getUint16(at, true)) as [number, number, number];
  const most = shape.device.queueMaxSize(index, settled(control) ? new FeatureSet(control.negotiated) : undefined);
  if (size === 0 || size > most || enabled > 1 || !isVector(vector, shape.vectors)) return undefined;
  const addresses = [0, 1, 2, 3, 4, 5].map((word) => view.getUint32(8 + 4 * word, true));
  return {
    ...state,
    control: { ...control, queues: control.queues.with(index, { size, enabled: enabled === 1, addresses }) },
    interrupts: { ...interrupts, queueVectors: interrupts.queueVectors.with(index, vector) },
  };
}
