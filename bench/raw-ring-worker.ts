// The other thread of the raw bounds: moves slots from one shared-memory ring to another, copying, until told to stop. No descriptors, no checks.

import { parentPort, workerData } from 'node:worker_threads';
import { copyBytes } from '#core/copy';
import { viewsOf } from '#core/guest-memory';

export interface RawJob {
  readonly control: SharedArrayBuffer;
  readonly from: SharedArrayBuffer;
  readonly to: SharedArrayBuffer;
  readonly slots: number;
  readonly stride: number;
  readonly bytes: number;
}

/** Words: 0 stop, 16 produced, 32 taken, 48 delivered, 64 consumed. */
export const STOP = 0;
export const PRODUCED = 16;
export const TAKEN = 32;
export const DELIVERED = 48;
export const CONSUMED = 64;

if (parentPort !== null) {
  const { control, from, to, slots, stride, bytes } = workerData as RawJob;
  const words = new Int32Array(control);
  const source = viewsOf(from);
  const target = viewsOf(to);
  const mask = slots - 1;
  let at = 0;
  while (Atomics.load(words, STOP) === 0) {
    const there = (Atomics.load(words, PRODUCED) - at) | 0;
    const room = (Atomics.load(words, CONSUMED) + slots - at) | 0;
    const n = Math.min(there, room, 64);
    if (n <= 0) continue;
    for (let i = 0; i < n; i++) {
      const offset = ((at + i) & mask) * stride;
      copyBytes(target, offset, source, offset, bytes);
    }
    at = (at + n) | 0;
    Atomics.store(words, DELIVERED, at);
    Atomics.store(words, TAKEN, at);
  }
  parentPort.postMessage('stopped');
}
