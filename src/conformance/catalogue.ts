// The catalogue: every statement of VIRTIO 1.4 about a network device over PCI and its driver that can be told true or false, in own words, each with the section it stands
// in. Statements without an RFC 2119 keyword that are testable all the same have the strength DESC.

import { ADMIN_CLAUSES } from './catalogue/admin.ts';
import { BASIC_CLAUSES } from './catalogue/basic.ts';
import { LEGACY_CLAUSES } from './catalogue/legacy.ts';
import { NET_CLAUSES } from './catalogue/net.ts';
import { NET_MORE_CLAUSES } from './catalogue/net-more.ts';
import { PCI_CLAUSES } from './catalogue/pci.ts';

export type Party = 'device' | 'driver';
export type Strength = 'MUST' | 'MUST NOT' | 'SHOULD' | 'SHOULD NOT' | 'MAY' | 'DESC';

export interface Clause {
  /** Short and stable: area and place in it, "split.12"; DESC rows are counted apart, "split.D3". */
  readonly key: string;
  /** Where it stands: party and section as the specification labels them, and the ordinal in that block. */
  readonly id: string;
  readonly party: Party;
  readonly strength: Strength;
  readonly area: string;
  /** In own words. */
  readonly summary: string;
  /** Who can be tested for it: of a MAY, whoever has to bear with it. 'no': cannot be seen from outside. */
  readonly observable: Party | 'no';
  /** Feature bits it depends on, as an expression; empty: none. */
  readonly features: string;
}

const STRENGTHS: readonly string[] = ['MUST', 'MUST NOT', 'SHOULD', 'SHOULD NOT', 'MAY', 'DESC'];

function parse(text: string): Clause[] {
  const clauses: Clause[] = [];
  let area = '';
  let party: Party = 'device';
  let section = '';
  let suffix = '';
  let count = 0;
  let described = 0;
  for (const line of text.trim().split('\n')) {
    if (line.startsWith('@ ')) {
      area = line.slice(2);
      count = 0;
      described = 0;
    } else if (line.startsWith('= ')) {
      const [who, label] = line.slice(2).split('|') as [Party, string];
      party = who;
      suffix = /\.(?:dev|drv)$/.exec(label)?.[0] ?? '';
      section = label.slice(0, label.length - suffix.length);
    } else {
      const [ordinal, strength, observable, features, summary] = line.split('|') as [string, Strength, Party | 'no', string, string];
      if (!STRENGTHS.includes(strength) || summary === undefined) throw new Error(`catalogue: ${line}`);
      const key = strength === 'DESC' ? `${area}.D${++described}` : `${area}.${++count}`;
      clauses.push({ key, id: `${section}#${ordinal}${suffix}`, party, strength, area, summary, observable, features });
    }
  }
  return clauses;
}

/** In the catalogue's order: by area, then by place in the specification. */
export const CLAUSES: readonly Clause[] = [BASIC_CLAUSES, PCI_CLAUSES, NET_CLAUSES, NET_MORE_CLAUSES, ADMIN_CLAUSES, LEGACY_CLAUSES].flatMap(parse);

export const AREAS: readonly string[] = [...new Set(CLAUSES.map((clause) => clause.area))];

const byKey = new Map(CLAUSES.map((clause) => [clause.key, clause]));
const byId = new Map(CLAUSES.map((clause) => [clause.id, clause]));

/** By key or by id; undefined: there is none. */
export function findClause(name: string): Clause | undefined {
  return byKey.get(name) ?? byId.get(name);
}

/** What a failure of it means: the implementation is wrong. */
export function isBinding(clause: Clause): boolean {
  return clause.strength === 'MUST' || clause.strength === 'MUST NOT';
}
