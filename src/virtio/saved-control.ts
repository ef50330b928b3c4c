// Checks of a saved control plane: saved state is untrusted input, and a derived value in it may lie.

import { type Envelope, RestoreError } from '#core/saved';
import type { VirtioDevice } from './device.ts';
import {
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER_BITS,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
} from './device-status.ts';
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_SUSPEND, VIRTIO_F_VERSION_1 } from './features.ts';
import type { SavedNegotiation } from './negotiation.ts';
import { QueueRecord, type SavedQueue } from './queue-record.ts';

/** Which interface a driver uses; 'none' before its first write. */
export type DriverInterface = 'none' | 'modern' | 'legacy';

export interface ControlState extends SavedNegotiation {
  readonly status: number;
  readonly interface: DriverInterface;
  /** A legacy driver uses the device, with DRIVER_OK or before. */
  readonly legacyLive: boolean;
  /** Stopped by the owner of its group. */
  readonly frozen: boolean;
  readonly generation: number;
  readonly queues: readonly SavedQueue[];
  readonly device: Envelope;
}

/** An integer of `0..limit`. @throws RestoreError */
export function savedInteger(value: unknown, limit: number, what: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= limit) return value;
  throw new RestoreError(`saved ${what} is ${String(value)}; it must be an integer of 0..${limit}`);
}

/** `length` integers of `0..limit`. @throws RestoreError */
export function savedIntegers(value: unknown, length: number, limit: number, what: string): number[] {
  if (!Array.isArray(value) || value.length !== length) throw new RestoreError(`saved ${what} must be ${length} integers`);
  return value.map((v) => savedInteger(v, limit, what));
}

export function savedBoolean(value: unknown, what: string): boolean {
  if (typeof value === 'boolean') return value;
  throw new RestoreError(`saved ${what} must be true or false`);
}

/** A plain object to look into. @throws RestoreError */
export function savedRecord(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null) return value as Readonly<Record<string, unknown>>;
  throw new RestoreError(`saved ${what} is missing`);
}

export function checkControlState(saved: unknown, offered: FeatureSet, queueCount: number, transitional: boolean): ControlState {
  const record = savedRecord(saved, 'control plane');
  const words = savedIntegers(record.offered, 4, 0xffffffff, 'offered features');
  if (!new FeatureSet(words).equals(offered)) throw new RestoreError('saved state is of a device that offered other features');
  const status = savedInteger(record.status, 0xff, 'status');
  if ((status & ~(VIRTIO_STATUS_DRIVER_BITS | VIRTIO_STATUS_SUSPEND | VIRTIO_STATUS_DEVICE_NEEDS_RESET)) !== 0)
    throw new RestoreError(`saved status 0x${status.toString(16)} has unknown bits`);
  const through = record.interface;
  if (through !== 'none' && through !== 'modern' && !(through === 'legacy' && transitional))
    throw new RestoreError(`saved state is of the interface ${String(through)}, which this device does not have`);
  const legacy = through === 'legacy';
  if (!legacy && (status & VIRTIO_STATUS_DRIVER_OK) !== 0 && (status & VIRTIO_STATUS_FEATURES_OK) === 0)
    throw new RestoreError('saved status has DRIVER_OK without FEATURES_OK');
  const legacyLive = savedBoolean(record.legacyLive, 'use of the legacy interface');
  if (legacy ? (status & VIRTIO_STATUS_FEATURES_OK) !== 0 || ((status & VIRTIO_STATUS_DRIVER_OK) !== 0 && !legacyLive) : legacyLive)
    throw new RestoreError('saved status is not one of its interface');
  const negotiated = savedIntegers(record.negotiated, 4, 0xffffffff, 'negotiated features');
  if (!new FeatureSet(negotiated).without(offered).empty) throw new RestoreError('saved state negotiated features that are not offered');
  if (legacy && negotiated.slice(1).some((word) => word !== 0)) throw new RestoreError('saved state has features a legacy driver cannot see');
  if ((status & VIRTIO_STATUS_SUSPEND) !== 0 && ((status & VIRTIO_STATUS_DRIVER_OK) !== 0 || !new FeatureSet(negotiated).has(VIRTIO_F_SUSPEND)))
    throw new RestoreError('saved status has SUSPEND with DRIVER_OK, or without VIRTIO_F_SUSPEND');
  const queues = record.queues;
  if (!Array.isArray(queues) || queues.length !== queueCount) throw new RestoreError(`saved state must have ${queueCount} queues`);
  return {
    offered: words,
    status,
    interface: through,
    legacyLive,
    frozen: savedBoolean(record.frozen, 'stop by the owner'),
    driver: savedIntegers(record.driver, 4, 0xffffffff, 'driver features'),
    negotiated,
    generation: savedInteger(record.generation, 0xff, 'configuration generation'),
    queues: queues.map((q: unknown) => {
      const queue = savedRecord(q, 'queue');
      return {
        size: savedInteger(queue.size, 32768, 'queue size'),
        enabled: savedBoolean(queue.enabled, 'queue enable'),
        addresses: savedIntegers(queue.addresses, 6, 0xffffffff, 'queue addresses'),
      };
    }),
    device: record.device as Envelope,
  };
}

/** Whether the features can have been negotiated, and the queues be those of such a device; returns the features. @throws RestoreError */
export function checkNegotiation(state: ControlState, device: VirtioDevice): FeatureSet {
  const legacy = state.interface === 'legacy';
  const settled = legacy || (state.status & VIRTIO_STATUS_FEATURES_OK) !== 0;
  const negotiated = new FeatureSet(state.negotiated);
  if (settled) {
    const reason = legacy || negotiated.has(VIRTIO_F_VERSION_1) ? device.refuses(negotiated, legacy) : 'VERSION_1 is missing';
    if (reason !== undefined) throw new RestoreError(`saved features cannot have been negotiated: ${reason}`);
  } else if (!negotiated.empty) throw new RestoreError('saved state has negotiated features without FEATURES_OK');
  const powerOfTwo = !negotiated.has(VIRTIO_F_RING_PACKED);
  state.queues.forEach((queue, index) => {
    const trial = new QueueRecord();
    trial.clear(device.queueMaxSize(index, settled ? negotiated : undefined));
    if (trial.maxSize > 0 ? !trial.writeSize(queue.size, powerOfTwo) : queue.size !== 0 || queue.enabled)
      throw new RestoreError(`saved queue ${index} has size ${queue.size}; at most ${trial.maxSize} is possible`);
    if (queue.enabled && !settled) throw new RestoreError(`saved queue ${index} is enabled before FEATURES_OK`);
  });
  return negotiated;
}
