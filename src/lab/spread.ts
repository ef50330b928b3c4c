// The tour's second half: the capture once more, spread over several receive queues by RSS with its hashes reported. The receiver computes every frame's hash from its
// bytes and checks both the device's value and the queue the frame came on.

import { VIRTIO_NET_F } from '#guest-sim/index';
import { type DataPlane, Lab } from './lab.ts';
import type { GuestDescription, LabDescription } from './lab-file.ts';
import { type PassOptions, STALL } from './replay.ts';

/** At least so many queue pairs, whatever the lab file says. */
const QUEUES = 4;

export interface SpreadResult {
  readonly plane: DataPlane;
  readonly ring: 'split' | 'packed';
  readonly frames: number;
  /** Frames whose hash and queue are the guest's own: all of them, or the step failed. */
  readonly agreed: number;
  /** Frames that came on each receive queue. */
  readonly queues: readonly number[];
  /** Frames of each hash type, by the specification's names; `none` of those with nothing to hash. */
  readonly hashTypes: Readonly<Record<string, number>>;
  /** What disagreed; empty when nothing did. */
  readonly errors: readonly string[];
}

/** The lab with what this step needs: several queue pairs and hash reports, which a device offers only when asked. */
function prepared(lab: LabDescription): LabDescription {
  const guest = (g: GuestDescription): GuestDescription => ({
    ...g,
    devices: g.devices.map((d) => ({ ...d, queuePairs: Math.max(d.queuePairs, QUEUES), features: { ...d.features, RSS: true, HASH_REPORT: true } })),
  });
  return { ...lab, guests: lab.guests.map(guest) };
}

/** @throws as runPass does; what ran but did not agree returns with `errors`. */
export async function runSpread(options: Omit<PassOptions, 'pings' | 'store'>): Promise<SpreadResult> {
  const { plane, ring, frames, repeat, signal } = options;
  const lab = new Lab(prepared(options.lab), plane);
  const guests: { stop(): void }[] = [];
  const stop = (): void => {
    for (const guest of guests) guest.stop();
  };
  signal.addEventListener('abort', stop);
  try {
    const sender = await lab.guest(0, { net: { ring, promiscuous: true } });
    guests.push(sender);
    const net = { ring, promiscuous: true, pairs: QUEUES, rss: {}, hashReport: {}, require: [VIRTIO_NET_F.RSS, VIRTIO_NET_F.HASH_REPORT] };
    const receiver = await lab.guest(1, { net });
    guests.push(receiver);
    signal.throwIfAborted();

    const spreading = receiver.run({ kind: 'spread' });
    const sent = await sender.run({ kind: 'replay', frames, repeat });
    // What was sent has been put into the receiver's rings: it has yet to look at the last of it.
    const deadline = performance.now() + STALL;
    while (receiver.framesReceived < sent.framesSent && performance.now() < deadline && !signal.aborted) {
      options.onProgress(receiver.framesReceived, sent.framesSent);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    receiver.stop();
    const received = await spreading;
    signal.throwIfAborted();

    const counts = Object.entries(received.details);
    const named = (prefix: string): [string, number][] =>
      counts.filter(([name]) => name.startsWith(prefix)).map(([name, count]) => [name.slice(prefix.length), count]);
    const agreed = received.details.agreed ?? 0;
    const errors = [...sent.errors, ...received.errors];
    if (received.framesReceived !== sent.framesSent) errors.push(`${sent.framesSent} frames sent, ${received.framesReceived} received`);
    else if (agreed !== received.framesReceived) errors.push(`the guest agrees with the hash and queue of ${agreed} of ${received.framesReceived} frames`);
    return {
      plane,
      ring,
      frames: received.framesReceived,
      agreed,
      queues: named('queue').map(([, count]) => count),
      hashTypes: Object.fromEntries(named('hash ')),
      errors,
    };
  } finally {
    signal.removeEventListener('abort', stop);
    await lab.close();
  }
}
