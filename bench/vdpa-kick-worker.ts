// A guest on a thread of its own that notifies its transmit queue again and again (bench/vdpa.ts): what a notification costs the guest, and whether it left it.

import { parentPort, workerData } from 'node:worker_threads';
import { type GuestBusShare, openGuestBus } from '#core/exit-channel';
import { Guest } from '#guest-sim/guest';
import { nanosPerCall } from './measure.js';

export interface KickCost {
  readonly nanos: number;
  readonly exits: number;
  readonly fastKicks: number;
}

const { share, calls, samples } = workerData as { share: GuestBusShare; calls: number; samples: number };
const bus = openGuestBus(share);
const guest = new Guest(bus);
const kick = guest.net.transmit[0]?.kick;
if (kick === undefined) throw new Error('the guest has no transmit queue');
// The first one is an exit wherever there is a word to learn of.
kick.ring(0);
const before = { ...bus.counts };
const nanos = nanosPerCall(
  (i) => {
    kick.ring(0);
    return i;
  },
  calls,
  samples,
);
const cost: KickCost = { nanos, exits: bus.counts.exits - before.exits, fastKicks: bus.counts.fastKicks - before.fastKicks };
parentPort?.postMessage(cost);
