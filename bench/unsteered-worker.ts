// What steering is measured beside (bench/steering.ts): the same data plane, which sends every frame where RSS would, and looks into none of them. Where that is it knows by the transmit slot, as
// the frame in each stays what it is: of the first in each it was told by RSS. A device that hashes IPIP by what is inside wants that; there is none here.
// Loaded by the bench for the inline data plane, and run as a worker's entry module for the other.

import { ReceiveSteering } from '#backends/receive-steering';
import type { RunResult, WorkerJob } from '#backends/worker-job';
import { WorkerLoop } from '#backends/worker-loop';
import { acquireHashIdentity } from '#net/hash-identity';
import { ALL_HASH_TYPES, HASH_TUNNEL_IPIP } from '#net/hash-types';
import type { FrameBatch } from '#net/port';

export const KEY = Uint8Array.from({ length: 40 }, (_, i) => (i * 73 + 29) & 0xff);
export const UNSTEERED_TUNNELS = HASH_TUNNEL_IPIP;
export const TRANSMIT_SLOTS = 1024;

const unsteered = acquireHashIdentity({ types: ALL_HASH_TYPES, tunnels: UNSTEERED_TUNNELS, key: KEY });
const { hash, choose } = ReceiveSteering.prototype;
const places = new Int8Array(TRANSMIT_SLOTS).fill(-1);

function learn(steering: ReceiveSteering, batch: FrameBatch, from: number, to: number, pairs: Int8Array): void {
  hash.call(steering, batch, from, to);
  choose.call(steering, batch, from, to, pairs);
  for (let f = from; f < to; f++) places[(batch.token[f] as number) & (TRANSMIT_SLOTS - 1)] = pairs[f] as number;
}

ReceiveSteering.prototype.hash = function (batch, from, to) {
  if (this.reported !== unsteered) hash.call(this, batch, from, to);
};

ReceiveSteering.prototype.choose = function (batch, from, to, pairs) {
  if (this.reported !== unsteered) {
    choose.call(this, batch, from, to, pairs);
    return;
  }
  const { token } = batch;
  for (let f = from; f < to; f++) {
    const pair = places[(token[f] as number) & (TRANSMIT_SLOTS - 1)] as number;
    if (pair < 0) {
      learn(this, batch, from, to, pairs);
      return;
    }
    pairs[f] = pair;
  }
};

export default function serve(job: WorkerJob): RunResult {
  return new WorkerLoop(job).run();
}
