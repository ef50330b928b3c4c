// The catalogue is whole and can be referred to: counts as taken from the specification, keys and ids that name one clause each, cases that name clauses there are.

import { describe, expect, it } from 'vitest';
import { CASES } from '#conformance/cases';
import { AREAS, CLAUSES, findClause } from '#conformance/catalogue';

describe('the catalogue', () => {
  it('has 850 statements under a keyword and 140 without one', () => {
    expect(CLAUSES.filter(({ strength }) => strength !== 'DESC')).toHaveLength(850);
    expect(CLAUSES.filter(({ strength }) => strength === 'DESC')).toHaveLength(140);
    expect(AREAS).toHaveLength(31);
  });

  it('splits as the specification does between parties and strengths', () => {
    const normative = CLAUSES.filter(({ strength }) => strength !== 'DESC');
    const count = (test: (clause: (typeof CLAUSES)[number]) => boolean): number => normative.filter(test).length;
    expect([count(({ party }) => party === 'device'), count(({ party }) => party === 'driver')]).toEqual([470, 380]);
    expect(['MUST', 'MUST NOT', 'SHOULD', 'SHOULD NOT', 'MAY'].map((strength) => count((clause) => clause.strength === strength))).toEqual([
      437, 157, 105, 37, 114,
    ]);
    expect(['device', 'driver', 'no'].map((who) => count(({ observable }) => observable === who))).toEqual([448, 359, 43]);
  });

  it('names each clause once', () => {
    expect(new Set(CLAUSES.map(({ key }) => key)).size).toBe(CLAUSES.length);
    expect(new Set(CLAUSES.map(({ id }) => id)).size).toBe(CLAUSES.length);
    expect(findClause('pci.33')).toBe(
      findClause('dev:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / Common configuration structure layout#3'),
    );
    expect(findClause('pci.0')).toBeUndefined();
  });
});

describe('the cases', () => {
  it('have names of their own and check clauses that a device can be tested for', () => {
    expect(new Set(CASES.map(({ name }) => name)).size).toBe(CASES.length);
    for (const { name, clauses } of CASES)
      for (const key of clauses) expect({ name, key, observable: findClause(key)?.observable }).toEqual({ name, key, observable: 'device' });
  });
});
