// The control side of the flow rules: which rule has which place in the tables, and what a lookup goes by. Rules with one mask are a hash table of their own; a chain's masks are tried in the order
// of the best rule of each, so that a lookup ends as soon as no later mask can better what it has. Limits are checked before anything is written.

import { EmbeddedSwitchError } from './errors.ts';
import {
  BUCKET_DEPTH,
  CONFIG_HASH_SEED,
  HIT_FLOATS,
  KEY_WORDS,
  MASK_WORDS,
  MASKS_IN_CHAIN,
  RULE_ACTION_WORDS,
  RULE_ACTIONS,
  RULE_KEY,
  RULE_MASK,
  RULE_NEXT,
  RULE_WORDS,
  type SwitchTables,
} from './layout.ts';
import { bucketOf } from './rule-lookup.ts';

/** Ranks are a priority and, among equals, how early the rule came: both exact in one float. */
const AGES = 2 ** 36;
export const HIGHEST_PRIORITY = 65535;

export interface NewRule {
  readonly chain: number;
  readonly priority: number;
  readonly mask: Int32Array;
  readonly key: Int32Array;
  readonly actions: Int32Array;
}

interface Mask {
  readonly number: number;
  readonly chain: number;
  readonly bits: Int32Array;
  readonly rules: Set<number>;
}

export class RuleTable {
  readonly #tables: SwitchTables;
  readonly #freeRules: number[];
  readonly #freeMasks: number[];
  readonly #masks: (Mask | undefined)[] = [];
  /** Of each chain, in the order that they are tried in. */
  readonly #chains: Mask[][];
  #installed = 0;

  constructor(tables: SwitchTables) {
    this.#tables = tables;
    const { rules, masks } = tables.limits;
    this.#freeRules = Array.from({ length: rules }, (_, i) => rules - 1 - i);
    this.#freeMasks = Array.from({ length: masks }, (_, i) => masks - 1 - i);
    this.#chains = Array.from({ length: tables.egressChain + 1 }, () => []);
  }

  /** Returns the rule's number. @throws EmbeddedSwitchError 'limit' */
  install(rule: NewRule): number {
    const { config, rules, ranks, hits, buckets, bestRank } = this.#tables;
    const index = this.#freeRules.at(-1);
    if (index === undefined) throw limit(`all ${this.#tables.limits.rules} rules are in use`);
    const chain = this.#chains[rule.chain] as Mask[];
    const known = chain.find(({ bits }) => bits.every((word, i) => word === rule.mask[i]));
    if (known === undefined && chain.length === MASKS_IN_CHAIN) throw limit(`the chain's rules have ${MASKS_IN_CHAIN} different masks already`);
    if (known === undefined && this.#freeMasks.length === 0) throw limit(`all ${this.#tables.limits.masks} masks are in use`);
    const number = known?.number ?? (this.#freeMasks.at(-1) as number);
    const bucket = bucketOf(config[CONFIG_HASH_SEED] as number, number, rule.mask, rule.key, buckets.length - 1);
    const queue = this.#queue(bucket);
    // Also what keeps whoever can make rules appear (a guest whose flows are offloaded) from choosing keys that all meet in one place.
    if (queue.length === BUCKET_DEPTH) throw limit(`${BUCKET_DEPTH} rules share this rule's place in the hash table`);
    const rank = rule.priority * AGES + (AGES - 1 - this.#installed++);
    this.#freeRules.pop();
    if (known === undefined) this.#freeMasks.pop();
    const mask: Mask = known ?? { number, chain: rule.chain, bits: rule.mask, rules: new Set() };
    mask.rules.add(index);
    this.#tables.change(() => {
      const at = index * RULE_WORDS;
      rules[at + RULE_MASK] = number + 1;
      rules[at + RULE_ACTION_WORDS] = rule.actions.length;
      for (let i = 0; i < KEY_WORDS; i++) rules[at + RULE_KEY + i] = (rule.key[i] as number) & (rule.mask[i] as number);
      rules.set(rule.actions, at + RULE_ACTIONS);
      ranks[index] = rank;
      hits.fill(0, index * HIT_FLOATS, (index + 1) * HIT_FLOATS);
      // Best first, so that the first that fits is the one.
      const place = queue.findIndex((other) => (ranks[other] as number) < rank);
      this.#link(bucket, place < 0 ? [...queue, index] : queue.toSpliced(place, 0, index));
      if (known === undefined) this.#addMask(mask);
      bestRank[number] = Math.max(known === undefined ? 0 : (bestRank[number] as number), rank);
      this.#sortChain(mask.chain);
    });
    return index;
  }

  remove(index: number): void {
    const { config, rules, ranks, buckets, bestRank } = this.#tables;
    const at = index * RULE_WORDS;
    const mask = this.#masks[(rules[at + RULE_MASK] as number) - 1] as Mask;
    const key = rules.subarray(at + RULE_KEY, at + RULE_KEY + KEY_WORDS);
    const bucket = bucketOf(config[CONFIG_HASH_SEED] as number, mask.number, mask.bits, key, buckets.length - 1);
    mask.rules.delete(index);
    this.#freeRules.push(index);
    this.#tables.change(() => {
      this.#link(
        bucket,
        this.#queue(bucket).filter((other) => other !== index),
      );
      rules[at + RULE_MASK] = 0;
      if (mask.rules.size === 0) this.#removeMask(mask);
      else if (ranks[index] === bestRank[mask.number]) {
        let best = 0;
        for (const rule of mask.rules) best = Math.max(best, ranks[rule] as number);
        bestRank[mask.number] = best;
      }
      this.#sortChain(mask.chain);
    });
  }

  /** Rules of a bucket, as they are tried. */
  #queue(bucket: number): number[] {
    const { rules, buckets } = this.#tables;
    const found: number[] = [];
    for (let next = buckets[bucket] as number; next > 0 && found.length < BUCKET_DEPTH; next = rules[(next - 1) * RULE_WORDS + RULE_NEXT] as number)
      found.push(next - 1);
    return found;
  }

  #link(bucket: number, queue: readonly number[]): void {
    const { rules, buckets } = this.#tables;
    buckets[bucket] = (queue[0] ?? -1) + 1;
    queue.forEach((index, i) => {
      rules[index * RULE_WORDS + RULE_NEXT] = (queue[i + 1] ?? -1) + 1;
    });
  }

  #addMask(mask: Mask): void {
    const { masks } = this.#tables;
    const at = mask.number * MASK_WORDS;
    let count = 0;
    mask.bits.forEach((bits, word) => {
      if (bits === 0) return;
      masks[at + 1 + 2 * count] = word;
      masks[at + 2 + 2 * count] = bits;
      count++;
    });
    masks[at] = count;
    this.#masks[mask.number] = mask;
    (this.#chains[mask.chain] as Mask[]).push(mask);
  }

  #removeMask(mask: Mask): void {
    this.#masks[mask.number] = undefined;
    this.#freeMasks.push(mask.number);
    const chain = this.#chains[mask.chain] as Mask[];
    chain.splice(chain.indexOf(mask), 1);
  }

  #sortChain(number: number): void {
    const { chains, bestRank } = this.#tables;
    const chain = this.#chains[number] as Mask[];
    chain.sort((a, b) => (bestRank[b.number] as number) - (bestRank[a.number] as number));
    const at = this.#tables.chainAt(number);
    chains[at] = chain.length;
    chain.forEach((mask, i) => {
      chains[at + 1 + i] = mask.number;
    });
  }
}

function limit(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('limit', `${message}: remove some, or make the switch with larger limits`);
}
