// Virtqueues driven by hand: descriptors as the case wants them, also in ways an ordinary driver would not choose. What both formats share.

import type { Session } from './session.ts';

/** A piece of a buffer. Writable is the device's view. */
export interface Part {
  readonly address: number;
  readonly length: number;
  readonly writable?: boolean;
}

/** Where the three areas of a ring lie, and how many descriptors it has. */
export interface RingPlace {
  readonly size: number;
  /** Descriptor table, or descriptor ring. */
  readonly descriptors: number;
  /** Available ring, or driver event area. */
  readonly driver: number;
  /** Used ring, or device event area. */
  readonly device: number;
}

export interface AddOptions {
  /** All parts in an indirect table, or (split only) all but the first. */
  readonly indirect?: 'all' | 'tail';
  /** Flags to add to the descriptor that names the table. */
  readonly tableFlags?: number;
  /** Flags, id or next to add to each entry of the table, where the format says they do not matter. */
  readonly entryJunk?: boolean;
  /** Packed: an id that means nothing in all descriptors of a list but the last, whose id counts. Default: the same in all, as most drivers do. */
  readonly strayIds?: boolean;
}

/** A buffer that came back. */
export interface Used {
  /** What `add` returned for it. */
  readonly token: number;
  readonly length: number;
  /** Where it was found: used ring slot, or descriptor slot. */
  readonly slot: number;
  /** Packed: the used descriptor's flags. */
  readonly flags: number;
}

/** When the driver wants to be interrupted: always, never, or once used entry number `at` from the ring's beginning (counted without wrapping) has been written. */
export type InterruptWish = 'always' | 'never' | { readonly at: number };

export interface RawRing {
  readonly place: RingPlace;
  /** Writes a buffer's descriptors; the device may not look at them before `expose`. Returns what it is called by. */
  add(parts: readonly Part[], options?: AddOptions): Promise<number>;
  /** Makes everything that was added available at once. */
  expose(): Promise<void>;
  /** Takes what came back since the last call. */
  used(): Promise<Used[]>;
  setInterrupts(wish: InterruptWish): Promise<void>;
  /** Sees whether the device asks to be notified of what is made available next. */
  wantsKick(): Promise<boolean>;
  /** What a notification with NOTIFICATION_DATA says of it: next offset, and wrap counter (virtio 1.4 2.9). */
  position(): { readonly offset: number; readonly wrap: number };
}

export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
export const DESC_INDIRECT = 4;
export const DESC_BYTES = 16;

export interface Descriptor {
  readonly address: number;
  readonly length: number;
  /** Split: flags, next. Packed: id, flags. */
  readonly third: number;
  readonly fourth: number;
}

export function descriptorBytes(list: readonly Descriptor[]): Uint8Array {
  const bytes = new Uint8Array(DESC_BYTES * list.length);
  const view = new DataView(bytes.buffer);
  for (const [i, { address, length, third, fourth }] of list.entries()) {
    view.setUint32(16 * i, address % 2 ** 32, true);
    view.setUint32(16 * i + 4, Math.floor(address / 2 ** 32), true);
    view.setUint32(16 * i + 8, length, true);
    view.setUint16(16 * i + 12, third, true);
    view.setUint16(16 * i + 14, fourth, true);
  }
  return bytes;
}

export interface RingParts {
  readonly session: Session;
  readonly place: RingPlace;
  readonly eventIndex: boolean;
  readonly inOrder: boolean;
}
