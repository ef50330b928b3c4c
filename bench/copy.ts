// What copyBytes takes beside the engine's own copy, by how the two sides lie to each other within eight bytes, in shared memory and in private: the thresholds in core/copy.ts are from here.

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { nanosPerCall, printTable } from './measure.js';

const HALF = 1 << 17;
const SKEWS = [0, 4, 1];

function row(memory: string, views: ByteViews, length: number, skew: number): (string | number)[] {
  const at = HALF + skew;
  const ours = nanosPerCall(
    () => {
      copyBytes(views, at, views, 0, length);
      return length;
    },
    20_000,
    9,
  );
  const engine = nanosPerCall(
    () => {
      views.u8.copyWithin(at, 0, length);
      return length;
    },
    20_000,
    9,
  );
  return [memory, length, skew, ours.toFixed(0), engine.toFixed(0), (ours / engine).toFixed(2)];
}

const memories: [string, ByteViews][] = [
  ['shared', viewsOf(new SharedArrayBuffer(2 * HALF))],
  ['private', viewsOf(new ArrayBuffer(2 * HALF))],
];
printTable(
  ['memory', 'bytes', 'skew', 'copyBytes ns', 'copyWithin ns', 'ratio'],
  memories.flatMap(([name, views]) => [64, 256, 1500, 65_536].flatMap((length) => SKEWS.map((skew) => row(name, views, length, skew)))),
);
