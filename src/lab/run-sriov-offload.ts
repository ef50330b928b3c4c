// Runs the experiment: each path with each number of pairs, on a machine of its own.

import { failedRow, type OffloadListener, type OffloadRow, PATHS, type Path, type SoftwareSwitch } from './sriov-offload.ts';
import { measurePath } from './sriov-world.ts';

/** Of each measurement's time, before it; and before the first on new threads, whose code is to be compiled. */
const WARM_UP = 0.5;
const FIRST_WARM_UP = 2;

export interface SriovOffloadOptions {
  readonly paths: readonly Path[];
  readonly pairs: readonly number[];
  /** Frame sizes with FCS. */
  readonly sizes: readonly number[];
  /** Of each stream, and of each measurement of round trips. */
  readonly seconds: number;
  readonly software: SoftwareSwitch;
  /** Nanoseconds that the guest's kernel is said to take for each frame on its bridge, beside what the bridge here takes. Default 0. */
  readonly bridgeCost?: number;
  readonly signal: AbortSignal;
  readonly on: OffloadListener;
}

/** What went wrong on a path is in its rows, and the others go on. @throws AbortError after `signal` */
export async function runSriovOffload({ paths, pairs, sizes, seconds, software, bridgeCost = 0, signal, on }: SriovOffloadOptions): Promise<OffloadRow[]> {
  const rows: OffloadRow[] = [];
  const total = paths.length * pairs.length;
  let done = 0;
  for (const count of pairs)
    for (const path of PATHS) {
      if (!paths.includes(path)) continue;
      on.starts(path, count, done++, total);
      try {
        rows.push(
          ...(await measurePath({
            path,
            pairs: count,
            software,
            bridgeCost,
            sizes,
            seconds,
            warmUp: seconds * WARM_UP,
            firstWarmUp: seconds * FIRST_WARM_UP,
            signal,
          })),
        );
      } catch (error) {
        signal.throwIfAborted();
        const message = error instanceof Error ? error.message : String(error);
        rows.push(...sizes.map((size) => failedRow(path, size, count, message)));
      }
    }
  return rows;
}
