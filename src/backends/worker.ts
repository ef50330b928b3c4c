// What a pool thread runs: one job is one run of the data plane, from start to stop. Its result says it ended well, its rejection that it did not.

import type { RunResult, WorkerJob } from './worker-job.ts';
import { WorkerLoop } from './worker-loop.ts';

export default function serve(job: WorkerJob): RunResult {
  return new WorkerLoop(job).run();
}
