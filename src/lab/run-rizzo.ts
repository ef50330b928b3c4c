// Runs the experiment: all sixteen combinations, in the modes asked for; in real time also guests that poll.

import { COMBINATIONS, loadsFor, type Measurement, type Mode, POLLING, type RizzoListener, type Techniques } from './rizzo.ts';
import { type ModelCosts, measureModel } from './rizzo-model.ts';
import { measureWall } from './rizzo-wall.ts';

export interface RizzoOptions {
  readonly modes: readonly Mode[];
  /** Of each load of each combination, in wall-clock mode. */
  readonly seconds: number;
  /** Frame sizes with FCS. */
  readonly sizes: readonly number[];
  readonly costs: ModelCosts;
  readonly signal: AbortSignal;
  readonly on: RizzoListener;
}

/** @throws AbortError after `signal` */
export async function runRizzo({ modes, seconds, sizes, costs, signal, on }: RizzoOptions): Promise<Measurement[]> {
  const loads = loadsFor(sizes);
  const results: Measurement[] = [];
  const rows = (mode: Mode): readonly Techniques[] => (mode === 'wall' ? [...COMBINATIONS, POLLING] : COMBINATIONS);
  const total = modes.reduce((sum, mode) => sum + rows(mode).length, 0);
  let done = 0;
  for (const mode of modes) {
    for (const techniques of rows(mode)) {
      signal.throwIfAborted();
      on.starts(mode, techniques, done++, total);
      if (mode === 'wall') results.push(...(await measureWall(techniques, loads, seconds, signal)));
      else
        for (const load of loads) {
          results.push(await measureModel(techniques, load, costs));
          // Lets a Ctrl-C be heard.
          await new Promise((resolve) => setImmediate(resolve));
          signal.throwIfAborted();
        }
    }
  }
  return results;
}
