// What the thread that runs the experiment's guests and whoever started it say to each other.

import type { GuestBusShare } from '#core/exit-channel';
import type { MeasureRequest } from './container-pairs.ts';
import type { Measured, Path } from './sriov-offload.ts';

export interface SriovGuestStart {
  /** Of one guest, or of two. */
  readonly buses: readonly GuestBusShare[];
  readonly path: Path;
  /** With one guest container 2n sends to container 2n + 1, with two container n to the other's container n. */
  readonly pairs: number;
  /** Nanoseconds of the thread's time for each frame on each guest's bridge, beside what the bridge's own code takes. */
  readonly bridgeCost: number;
  /** One Int32 word: not 0 ends whatever is measured. */
  readonly stop: SharedArrayBuffer;
}

export type ToSriovGuest = MeasureRequest | 'close';

export type FromSriovGuest =
  | { readonly kind: 'ready' }
  | { readonly kind: 'measured'; readonly measured: Measured }
  | { readonly kind: 'failed'; readonly message: string };
