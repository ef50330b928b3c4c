// What a pool thread runs: one job is one run of the data plane, from start to stop. Its result says it ended well, its rejection that it did not. Here the ring loop meets the devices that are ports
// of their own.

import type { RunResult, WorkerJob } from '#backends/worker-job';
import { WorkerLoop } from '#backends/worker-loop';
import { E1000_PORT, openE1000Port } from '#devices/e1000/worker-port';
import type { PortOpeners } from '#net/port';

const OPENERS: PortOpeners = { [E1000_PORT]: openE1000Port };

export default function serve(job: WorkerJob): RunResult {
  return new WorkerLoop(job, OPENERS).run();
}
