// What the experiment's guest and whoever started it say to each other.

import type { GuestBusShare } from '#core/exit-channel';
import type { OffloadRow, Path } from './sriov-offload.ts';

export interface SriovGuestStart {
  readonly bus: GuestBusShare;
  readonly path: Path;
  /** Container 2n sends to container 2n + 1. */
  readonly pairs: number;
  /** Nanoseconds of the guest's processor for each frame on its bridge, beside what the bridge's own code takes. */
  readonly bridgeCost: number;
  /** One Int32 word: not 0 ends whatever is measured. */
  readonly stop: SharedArrayBuffer;
}

export interface MeasureRequest {
  readonly size: number;
  readonly seconds: number;
  readonly warmUp: number;
}

export type FromSriovGuest =
  | { readonly kind: 'ready' }
  | { readonly kind: 'measured'; readonly row: OffloadRow }
  | { readonly kind: 'failed'; readonly message: string };
