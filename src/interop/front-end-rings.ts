// The rings of a vhost-user front end: what is known of each, and how a back end is told of it and of the memory it lies in.

import type { Call } from '#core/interrupts';
import type { VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { errorName, InteropError } from './interop-error.ts';
import type { SharedRegion } from './memory-file.ts';
import type { Native } from './native.ts';
import { REGION_BYTES } from './vhost-user-protocol.ts';

/** Ring addresses go as addresses of the front end's process: any will do that are not 0 and map back. */
const USER_BASE = 2 ** 40;

export interface FrontEndRing {
  readonly kick: number;
  readonly called: number;
  readonly failed: number;
  call: Call | undefined;
  setup: QueueSetup | undefined;
  /** Where it starts, or has stopped. */
  position: VringPosition;
  state: VringState;
  /** The present back end has been given it. */
  told: boolean;
  enabled: boolean;
}

/** @throws InteropError when the descriptors cannot be had; none is left then. */
export function makeRings(native: Native, count: number, owner: string): FrontEndRing[] {
  const events: number[] = [];
  for (let i = 0; i < 3 * count; i++) {
    const fd = native.events.eventfd();
    if (fd >= 0) events.push(fd);
    else {
      for (const other of events) native.close(other);
      throw new InteropError('NICBOX_NATIVE_CALL', `${owner}: cannot make event descriptors: ${errorName(fd)}`);
    }
  }
  return Array.from({ length: count }, (_, index) => {
    const [kick, called, failed] = events.slice(3 * index) as [number, number, number];
    const position = { available: 0, used: 0 };
    return { kick, called, failed, call: undefined, setup: undefined, position, state: 'stopped', told: false, enabled: false };
  });
}

/** Payload of SET_MEM_TABLE; the descriptors go along. */
export function memoryTable(regions: readonly SharedRegion[]): Uint8Array {
  const table = new DataView(new ArrayBuffer(8 + REGION_BYTES * regions.length));
  table.setUint32(0, regions.length, true);
  regions.forEach(({ guestAddress, size, fileOffset }, i) => {
    [guestAddress, size, USER_BASE + guestAddress, fileOffset].forEach((value, field) => {
      table.setBigUint64(8 + REGION_BYTES * i + 8 * field, BigInt(value), true);
    });
  });
  return new Uint8Array(table.buffer);
}

export function descriptorsOf(regions: readonly SharedRegion[]): number[] {
  return regions.map(({ fd }) => fd);
}

/** Payload of SET_VRING_ADDR. */
export function ringAddresses(index: number, { descriptorArea, driverArea, deviceArea }: QueueSetup): Uint8Array {
  const addresses = new DataView(new ArrayBuffer(40));
  addresses.setUint32(0, index, true);
  [descriptorArea, deviceArea, driverArea].forEach((address, i) => {
    addresses.setBigUint64(8 + 8 * i, BigInt(USER_BASE + address), true);
  });
  return new Uint8Array(addresses.buffer);
}

/** A position as SET_VRING_BASE has it. */
export function ringBase({ available, used }: VringPosition, packed: boolean): number {
  return packed ? (available | (used << 16)) >>> 0 : available;
}
