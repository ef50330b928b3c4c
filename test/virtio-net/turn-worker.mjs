// A data plane's turns without the data: enters, watches the policy words for a while, leaves; counts turns in which they moved.
import { workerData } from 'node:worker_threads';
import { DmaSpace } from '#core/dma-space';
import { NetPolicy } from '#virtio/net-policy';

const { space: share, policy: words, counters: buffer } = workerData;
const space = DmaSpace.open(share);
const policy = new NetPolicy(words);
const counters = new Int32Array(buffer); // [turns, turns with a change, stop]
while (Atomics.load(counters, 2) === 0) {
  space.enter();
  const before = policy.generation;
  const until = performance.now() + 0.2;
  while (performance.now() < until);
  if (policy.generation !== before || (before & 1) !== 0) Atomics.add(counters, 1, 1);
  space.leave();
  Atomics.add(counters, 0, 1);
  Atomics.notify(counters, 0);
}
space.close();
