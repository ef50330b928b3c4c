// What a judge found out about a driver: which clauses were looked at, and where they did not hold. Bounded, however long a driver is watched.

import { type Check, same, show } from '../session.ts';

const REMEMBERED = 8;

export class Findings {
  /** How often each clause was looked at. */
  readonly looked = new Map<string, number>();
  /** How often it did not hold. */
  readonly broken = new Map<string, number>();
  /** Checks that did not hold: the first few of each clause, each wording once. */
  readonly failures: Check[] = [];
  /** What waits for `settle`. */
  #held: (() => void)[] | undefined;

  /** What is found out from here on counts only if `settle` says so: it was read from memory that somebody may have been writing. */
  hold(): void {
    this.#held = [];
  }

  settle(counts: boolean): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    if (counts) for (const act of held) act();
  }

  check(clause: string, what: string, seen: unknown, expected: unknown): boolean {
    const holds = same(seen, expected);
    return this.#add(clause, what, holds, holds ? '' : show(expected), holds ? '' : show(seen));
  }

  /** The same where what is expected is a condition, in words. */
  that(clause: string, what: string, holds: boolean, expected: string, seen: unknown): boolean {
    return this.#add(clause, what, holds, expected, holds ? '' : show(seen));
  }

  #add(clause: string, what: string, holds: boolean, expected: string, seen: string): boolean {
    const act = (): void => {
      this.#count(clause, holds);
      if (!holds) this.#fail(clause, what, expected, seen);
    };
    if (this.#held) this.#held.push(act);
    else act();
    return holds;
  }

  #count(clause: string, holds: boolean): void {
    this.looked.set(clause, (this.looked.get(clause) ?? 0) + 1);
    if (!holds) this.broken.set(clause, (this.broken.get(clause) ?? 0) + 1);
  }

  #fail(clause: string, what: string, expected: string, seen: string): void {
    const known = this.failures.filter((check) => check.clause === clause);
    if (known.length < REMEMBERED && !known.some((check) => check.what === what)) this.failures.push({ clause, what, expected, seen, holds: false });
  }

  /** Clauses that were looked at and always held. */
  get held(): string[] {
    return [...this.looked.keys()].filter((clause) => !this.broken.has(clause));
  }
}
