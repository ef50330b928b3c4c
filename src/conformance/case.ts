// What a case is.

import type { Bench, Variant } from './bench.ts';
import type { FeatureName } from './features.ts';
import type { Session } from './session.ts';
import type { Model } from './target.ts';

export interface Case {
  /** "area/what-it-shows"; unique. */
  readonly name: string;
  /** Keys of the clauses it checks. */
  readonly clauses: readonly string[];
  /** Ring formats it runs over. Default: each. 'any': the format does not matter, it runs once. */
  readonly rings?: 'each' | 'split' | 'packed' | 'any';
  /** Sets of features to run over, beside what it negotiates itself. Default: none. */
  readonly over?: readonly (readonly FeatureName[])[];
  /** The device it needs. Default: the ordinary one. */
  readonly model?: Model;
  /** Why a clause of it is read the way it is, where the specification leaves a choice. */
  readonly reading?: string;
  /** A device that was just opened: its structures are found, nothing is negotiated. */
  run(bench: Bench, session: Session): Promise<void>;
}

export function variantsOf(test: Case): Variant[] {
  const rings = test.rings === 'any' ? (['split'] as const) : test.rings === 'split' || test.rings === 'packed' ? [test.rings] : (['split', 'packed'] as const);
  return rings.flatMap((ring) => (test.over ?? [[]]).map((features) => ({ ring, features })));
}

export function nameOf(test: Case, variant: Variant): string {
  const parts = [...(test.rings === 'any' ? [] : [variant.ring]), ...variant.features];
  return parts.length === 0 ? test.name : `${test.name} [${parts.join(' ')}]`;
}
