// The guest's own thread: a CPU that runs its workload, polls a little when there is nothing to do, and then halts until an interrupt. Started by
// guest-thread.ts.

import { parentPort, workerData } from 'node:worker_threads';
import { openGuestBus } from '#core/exit-channel';
import type { E1000 } from './e1000.ts';
import { Guest } from './guest.ts';
import { type FromGuest, type GuestStart, PROGRESS_JOBS, PROGRESS_RECEIVED, PROGRESS_SENT, PROGRESS_STOP, type ToGuest } from './guest-protocol.ts';
import type { Igb } from './igb.ts';
import { VirtioNet } from './virtio-net.ts';
import type { Job } from './workload.ts';

/** A halted guest looks around this often even when nothing wakes it, so that a stop asked of it is never missed for long. */
const LONGEST_HALT_MS = 50;

const start = workerData as GuestStart;
const progress = new Int32Array(start.progress);
const port = parentPort;
if (!port) throw new Error('guest-worker runs as a worker thread only');

function tell(message: FromGuest): void {
  port?.postMessage(message);
}

function tellFailure(error: unknown): void {
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'ERR_GUEST';
  tell({ kind: 'failed', message: error instanceof Error ? error.message : String(error), code });
}

function run(guest: Guest, job: Job): void {
  const workload = guest.start(job);
  let idle = 0;
  while (!workload.done && guest.nic.broken === '' && Atomics.load(progress, PROGRESS_STOP) === 0) {
    const busy = guest.step();
    progress[PROGRESS_SENT] = workload.framesSent;
    progress[PROGRESS_RECEIVED] = workload.framesReceived;
    if (busy) idle = 0;
    else if (++idle > start.idleSteps) guest.bus.waitForInterrupt(guest.sleepTime(LONGEST_HALT_MS));
  }
  // The receive queues stay armed for the next job; what the last poll left unpublished goes out now.
  guest.step();
  Atomics.add(progress, PROGRESS_JOBS, 1);
  tell({ kind: 'report', report: guest.report() });
}

try {
  const guest = new Guest(openGuestBus(start.bus), start.options);
  const { nic } = guest;
  port.on('message', (message: ToGuest) => {
    try {
      if (message.kind === 'run') run(guest, message.job);
      else nic.shutDown();
    } catch (error) {
      tellFailure(error);
    }
    if (message.kind === 'close') port.close();
  });
  tell({
    kind: 'ready',
    summary: {
      functions: guest.tree.devices.length,
      unplaced: guest.tree.unplaced,
      mac: [...nic.configuration.mac],
      linkUp: nic.configuration.linkUp,
      ...(nic instanceof VirtioNet
        ? { rid: nic.transport.rid, features: nic.features, packed: nic.packed, pairs: nic.pairs }
        : { rid: (nic as E1000 | Igb).rid, features: 0n, packed: false, pairs: nic.transmit.length }),
    },
  });
} catch (error) {
  tellFailure(error);
  port.close();
}
