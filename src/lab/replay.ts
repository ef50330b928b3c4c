// One measured pass of the tour: a capture replayed from one guest to another, compared byte by byte where it arrives, then request and response, over one data plane
// and one ring format.

import type { GuestReport } from '#guest-sim/guest';
import type { FrameStore, PackedFrames } from '#guest-sim/index';
import { type DataPlane, Lab } from './lab.ts';
import type { LabDescription } from './lab-file.ts';

export interface PassOptions {
  readonly lab: LabDescription;
  readonly plane: DataPlane;
  readonly ring: 'split' | 'packed';
  readonly frames: PackedFrames;
  /** Times the whole capture is sent. */
  readonly repeat: number;
  readonly pings: number;
  /** Filled with what the receiver got. */
  readonly store: FrameStore;
  readonly onProgress: (done: number, total: number) => void;
  readonly signal: AbortSignal;
}

/** Costs are of both guests together, for each frame of the capture that was sent. */
export interface PassResult {
  readonly plane: DataPlane;
  readonly ring: 'split' | 'packed';
  readonly frames: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly framesPerSecond: number;
  readonly exitsPerFrame: number;
  readonly kicksPerFrame: number;
  readonly interruptsPerFrame: number;
  /** Sleeping threads woken: guests, and the data plane. */
  readonly wakesPerFrame: number;
  readonly roundTrip: { readonly count: number; readonly p50: number; readonly p99: number };
  /** What did not arrive as it was sent; empty when every byte did. */
  readonly errors: readonly string[];
}

const PROGRESS_INTERVAL = 100;

/** @throws whatever a part that cannot be built or started throws; a pass that ran but did not verify returns with `errors`. */
export async function runPass(options: PassOptions): Promise<PassResult> {
  const { lab: description, plane, ring, frames, repeat, signal } = options;
  const lab = new Lab(description, plane);
  const guests: { stop(): void }[] = [];
  const stop = (): void => {
    for (const guest of guests) guest.stop();
  };
  signal.addEventListener('abort', stop);
  try {
    const net = { ring, promiscuous: true } as const;
    const sender = await lab.guest(0, { net });
    const receiver = await lab.guest(1, { net });
    guests.push(sender, receiver);
    signal.throwIfAborted();

    const total = frames.count * repeat;
    const timer = setInterval(() => options.onProgress(receiver.framesReceived, total), PROGRESS_INTERVAL);
    const [sent, received] = await bothDone(
      sender.run({ kind: 'replay', frames, repeat }),
      receiver.run({ kind: 'compare', frames, repeat, store: options.store }),
      stop,
      () => receiver.framesReceived,
    ).finally(() => clearInterval(timer));
    signal.throwIfAborted();

    const echo = receiver.run({ kind: 'echo', count: options.pings });
    const ping = await sender.run({ kind: 'ping', count: options.pings });
    receiver.stop();
    await echo;
    signal.throwIfAborted();
    return summarize(plane, ring, sent, received, ping);
  } finally {
    signal.removeEventListener('abort', stop);
    await lab.close();
  }
}

/** Longest time without a single frame arriving, in milliseconds, after which the pass counts as stuck. */
export const STALL = 10_000;

/** Waits for sender and receiver. A receiver that gets nothing more is stopped, and says what it misses. */
async function bothDone(
  sending: Promise<GuestReport>,
  receiving: Promise<GuestReport>,
  stop: () => void,
  received: () => number,
): Promise<[GuestReport, GuestReport]> {
  let last = -1;
  let since = performance.now();
  const watch = setInterval(() => {
    const now = received();
    if (now !== last) {
      last = now;
      since = performance.now();
    } else if (performance.now() - since > STALL) stop();
  }, 250);
  try {
    return await Promise.all([sending, receiving]);
  } finally {
    clearInterval(watch);
  }
}

function summarize(plane: DataPlane, ring: 'split' | 'packed', sent: GuestReport, received: GuestReport, ping: GuestReport): PassResult {
  const both = (pick: (report: GuestReport) => number): number => (pick(sent) + pick(received)) / Math.max(sent.framesSent, 1);
  const errors = [...sent.errors, ...received.errors, ...ping.errors];
  for (const [who, report] of [
    ['sender', sent],
    ['receiver', received],
    ['ping', ping],
  ] as const) {
    if (report.broken !== '') errors.push(`${who}: the driver gave its device up: ${report.broken}`);
    if (!report.done) errors.push(`${who}: not finished (${report.framesSent} frames sent, ${report.framesReceived} received)`);
  }
  const seconds = Math.max(sent.seconds, received.seconds);
  return {
    plane,
    ring,
    frames: received.framesReceived,
    bytes: received.bytesReceived,
    seconds,
    framesPerSecond: received.framesReceived / seconds,
    exitsPerFrame: both((r) => r.exits),
    kicksPerFrame: both((r) => r.kicks),
    interruptsPerFrame: both((r) => r.interrupts),
    wakesPerFrame: both((r) => r.wakes + r.fastKickWakes),
    roundTrip: { count: ping.framesReceived, p50: ping.details.p50 ?? Number.NaN, p99: ping.details.p99 ?? Number.NaN },
    errors,
  };
}
