// Runs the experiment: each path with each number of pairs in each setting, on machines of its own.

import type { OffloadCosts } from './sriov-costs.ts';
import { measureModel } from './sriov-model.ts';
import {
  failedRow,
  type Guests,
  type Measured,
  type Mode,
  type OffloadListener,
  type OffloadRow,
  PATHS,
  type Path,
  type Setting,
  type SoftwareSwitch,
} from './sriov-offload.ts';
import { measureInRealTime } from './sriov-world.ts';

/** Of each measurement's time, before it; and before the first on new threads, whose code is to be compiled. */
const WARM_UP = 0.5;
const FIRST_WARM_UP = 2;

export interface SriovOffloadOptions {
  readonly modes: readonly Mode[];
  readonly guests: readonly Guests[];
  readonly paths: readonly Path[];
  readonly pairs: readonly number[];
  /** Frame sizes with FCS. */
  readonly sizes: readonly number[];
  readonly software: SoftwareSwitch;
  /** Real time: of each stream, and of each measurement of round trips. */
  readonly seconds: number;
  /** Real time: nanoseconds that a guest's kernel is said to take for each frame on its bridge, beside what the bridge here takes. Default 0. */
  readonly bridgeCost?: number;
  /** Model: processors of each guest, and what steps take. */
  readonly vcpus: readonly number[];
  readonly costs: OffloadCosts;
  readonly signal: AbortSignal;
  readonly on: OffloadListener;
}

function settings({ modes, guests, vcpus }: SriovOffloadOptions): Setting[] {
  return modes.flatMap((mode) => (mode === 'wall' ? [1] : vcpus).flatMap((count) => guests.map((number) => ({ mode, guests: number, vcpus: count }))));
}

/** What went wrong on a path is in its rows, and the others go on. @throws AbortError after `signal` */
export async function runSriovOffload(options: SriovOffloadOptions): Promise<OffloadRow[]> {
  const { pairs, sizes, signal, on } = options;
  const rows: OffloadRow[] = [];
  const paths = PATHS.filter((path) => options.paths.includes(path));
  const steps = settings(options).flatMap((setting) => pairs.flatMap((count) => paths.map((path) => ({ setting, path, count }))));
  for (const [done, { setting, path, count }] of steps.entries()) {
    on.starts(setting, path, count, done, steps.length);
    try {
      const measured = await measure(options, setting, path, count);
      rows.push(...measured.map((one) => ({ ...setting, path, ...one })));
    } catch (error) {
      signal.throwIfAborted();
      const message = error instanceof Error ? error.message : String(error);
      rows.push(...sizes.map((size) => failedRow(setting, path, size, count, message)));
    }
  }
  return rows;
}

function measure(options: SriovOffloadOptions, { mode, guests, vcpus }: Setting, path: Path, pairs: number): Promise<Measured[]> {
  const { software, bridgeCost = 0, sizes, seconds, costs, signal } = options;
  const placement = { path, pairs, guests, software, sizes, signal };
  if (mode === 'model') return measureModel({ ...placement, vcpus, costs });
  return measureInRealTime({ ...placement, bridgeCost, seconds, warmUp: seconds * WARM_UP, firstWarmUp: seconds * FIRST_WARM_UP });
}
