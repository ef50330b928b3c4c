// What steering is measured beside (bench/steering.ts): the same data plane with as many queues open, which deals frames out in turn, by their place in the batch, and looks into none of them. A device
// says by its key that it wants that. Loaded by the bench for the inline data plane, and run as a worker's entry module for the other.

import { ReceiveSteering } from '#backends/receive-steering';
import type { RunResult, WorkerJob } from '#backends/worker-job';
import { WorkerLoop } from '#backends/worker-loop';
import { acquireHashIdentity } from '#net/hash-identity';
import { ALL_HASH_TYPES } from '#net/hash-types';

export const QUEUES = 16;
/** No frame is hashed with it. */
export const UNSTEERED_KEY = new Uint8Array(40).fill(0xa5);

const unsteered = acquireHashIdentity({ types: ALL_HASH_TYPES, tunnels: 0, key: UNSTEERED_KEY });
const { hash, choose } = ReceiveSteering.prototype;

ReceiveSteering.prototype.hash = function (batch, from, to) {
  if (this.reported !== unsteered) hash.call(this, batch, from, to);
};

ReceiveSteering.prototype.choose = function (batch, from, to, pairs) {
  if (this.reported !== unsteered) choose.call(this, batch, from, to, pairs);
  else for (let f = from; f < to; f++) pairs[f] = f % QUEUES;
};

export default function serve(job: WorkerJob): RunResult {
  return new WorkerLoop(job).run();
}
