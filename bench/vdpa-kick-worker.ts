// A guest on a thread of its own that notifies its transmit queue again and again (bench/vdpa.ts): what a notification costs the guest, and whether it left it. One after the other,
// which a data plane that polls takes in between; or, `apart`, each when the data plane has had the time to fall asleep.

import { parentPort, workerData } from 'node:worker_threads';
import { type GuestBusShare, openGuestBus } from '#core/exit-channel';
import { Guest } from '#guest-sim/guest';
import { median, nanosPerCall } from './measure.js';

export interface KickCost {
  readonly nanos: number;
  readonly exits: number;
  readonly fastKicks: number;
  /** Of them, those that found the data plane asleep. */
  readonly wakes: number;
}

const { share, calls, samples, apart } = workerData as { share: GuestBusShare; calls: number; samples: number; apart: number };
const bus = openGuestBus(share);
const guest = new Guest(bus);
const kick = guest.net.transmit[0]?.kick;
if (kick === undefined) throw new Error('the guest has no transmit queue');
// The first one is an exit wherever there is a word to learn of.
kick.ring(0);
const before = { ...bus.counts };
/** The median of single kicks, `apart` milliseconds after each other, by a clock that costs some 30 ns itself. */
function rarely(): number {
  const times: number[] = [];
  for (let i = 0; i < samples; i++) {
    const from = performance.now() + apart;
    while (performance.now() < from);
    const start = performance.now();
    kick?.ring(0);
    times.push((performance.now() - start) * 1e6);
  }
  return median(times);
}

function often(): number {
  return nanosPerCall(
    (i) => {
      kick?.ring(0);
      return i;
    },
    calls,
    samples,
  );
}

const nanos = apart > 0 ? rarely() : often();
const { counts } = bus;
const cost: KickCost = {
  nanos,
  exits: counts.exits - before.exits,
  fastKicks: counts.fastKicks - before.fastKicks,
  wakes: counts.fastKickWakes - before.fastKickWakes,
};
parentPort?.postMessage(cost);
