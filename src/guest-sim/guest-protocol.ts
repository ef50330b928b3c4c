// What a guest's thread and the thread that started it say to each other: a start record, jobs, reports, and a few shared words for progress, so that
// nothing is posted per packet.

import type { GuestBusShare } from '#core/exit-channel';
import type { GuestOptions, GuestReport } from './guest.ts';
import type { Job } from './workload.ts';

export interface GuestStart {
  readonly bus: GuestBusShare;
  readonly options: GuestOptions;
  /** PROGRESS_WORDS Int32 words. */
  readonly progress: SharedArrayBuffer;
  /** Rounds without work before the guest sleeps. */
  readonly idleSteps: number;
}

/** Words of the progress block. Counters wrap at 2^32. */
export const PROGRESS_SENT = 0;
export const PROGRESS_RECEIVED = 1;
/** Jobs finished. */
export const PROGRESS_JOBS = 2;
/** Written by the starter: ends the present job. */
export const PROGRESS_STOP = 3;
export const PROGRESS_WORDS = 4;

/** What the guest found and agreed on, told once. */
export interface GuestSummary {
  readonly functions: number;
  readonly unplaced: number;
  readonly rid: number;
  readonly mac: readonly number[];
  /** Of a virtio device, as negotiated; 0 of others. */
  readonly features: bigint;
  readonly packed: boolean;
  readonly pairs: number;
  readonly linkUp: boolean;
}

export type ToGuest = { readonly kind: 'run'; readonly job: Job } | { readonly kind: 'close' };

export type FromGuest =
  | { readonly kind: 'ready'; readonly summary: GuestSummary }
  | { readonly kind: 'report'; readonly report: GuestReport }
  | { readonly kind: 'failed'; readonly message: string; readonly code: string };
