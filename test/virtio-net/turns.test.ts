// virtio 1.4 5.1.9.5 (device MUST): a command's effect is in force before its buffer is used - also for a data plane on another thread, in the middle of a turn.
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { RecordingBackend } from '../virtio-pci/bench.ts';
import { ControlBench, OK } from './control-bench.ts';

const TURNS = 50;

/** Waits until the worker has made `count` turns in all. */
async function turns(counters: Int32Array, count: number): Promise<void> {
  const deadline = performance.now() + 20_000;
  for (let made = Atomics.load(counters, 0); made < count; made = Atomics.load(counters, 0)) {
    if (performance.now() > deadline) throw new Error(`waited 20 s for ${count} turns of the worker; it made ${made}`);
    const changed = Atomics.waitAsync(counters, 0, made, 1000);
    if (changed.async) await changed.value;
  }
}

describe('policy changes', () => {
  it('happen between turns', async () => {
    const bench = new ControlBench({ backend: new RecordingBackend() });
    const session = bench.backend.session;
    if (session === undefined) throw new Error('no session');
    const counters = new Int32Array(new SharedArrayBuffer(12));
    const worker = new Worker(new URL('./turn-worker.mjs', import.meta.url), {
      workerData: { space: session.memory.share(), policy: session.policy.buffer, counters: counters.buffer },
    });
    const ended = new Promise<number>((resolve, reject) => {
      worker.once('exit', resolve);
      worker.once('error', reject);
    });
    await Promise.race([turns(counters, 1), ended]);
    for (let i = 0; i < TURNS; i++) {
      expect(bench.command([0, 0, i & 1]).ack).toBe(OK);
      await turns(counters, i + 2);
    }
    Atomics.store(counters, 2, 1);
    await ended;
    expect(counters[0]).toBeGreaterThan(TURNS);
    expect(counters[1]).toBe(0);
  });
});
