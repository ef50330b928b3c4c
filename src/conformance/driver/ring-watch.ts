// A virtqueue as its judge follows it: what both formats have in common. A watch reads the rings in the driver's memory and hands on each buffer that was made available; the device's
// side moves on in `served`. What is in flight is remembered, so that it can be seen when the driver touches it.

import type { FeatureBits } from '../features.ts';
import type { Findings } from './findings.ts';
import type { Chain, DriverMemory, QueueSetup } from './view.ts';

export interface RingWatch {
  readonly setup: QueueSetup;
  /** Buffers the device has. */
  readonly inFlight: number;
  /** Buffers made available since the queue was enabled. */
  readonly exposed: number;
  /** Where the driver goes on: the next available index, or slot. */
  readonly next: number;
  /** Before the device is at work: takes what is new. */
  look(): void;
  /** After it. */
  served(): void;
  /** The queue was notified, after a `look`. With NOTIFICATION_DATA `position` is what the upper half said. */
  notified(position: number | undefined): void;
  /** The driver has done what it had to do for now: a notification that is still owed is missing. */
  quiet(): void;
  /** What is in flight lies where it was put. */
  intact(why: string): void;
}

export interface RingContext {
  readonly queue: number;
  readonly memory: DriverMemory;
  readonly features: FeatureBits;
  readonly findings: Findings;
  /** The device does nothing between `look` and `served` but what is announced: then owed and needless notifications can be told. */
  readonly exact: boolean;
  chain(chain: Chain): void;
  /** A buffer came back. `lengthAt`: where the used length stands. */
  used(chain: Chain, lengthAt: number): void;
}

/** vq.6 as read here: no more descriptors than one for 64 bytes, and four. */
export function judgeShape(context: RingContext, chain: Chain, clauses: readonly string[]): void {
  const { findings, queue } = context;
  const order = chain.pieces.map(({ writable }) => (writable ? 'w' : 'r')).join('');
  for (const clause of clauses) findings.that(clause, `queue ${queue}: readable and writable pieces`, !order.includes('wr'), 'readable ones first', order);
  const bytes = chain.readable + chain.writable;
  findings.that(
    'vq.6',
    `queue ${queue}: descriptors of a buffer of ${bytes} bytes`,
    chain.pieces.length <= 4 + Math.ceil(bytes / 64),
    'not excessively many',
    chain.pieces.length,
  );
}
