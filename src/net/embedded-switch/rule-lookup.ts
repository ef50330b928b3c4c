// The data side of the flow rules: the first rule of a chain that a frame's key fits. One hash lookup a mask, at most 32 masks, at most eight rules each; nothing is allocated.

import { BUCKET_DEPTH, CONFIG_HASH_SEED, MASK_WORDS, MASKS_IN_CHAIN, RULE_KEY, RULE_MASK, RULE_NEXT, RULE_WORDS, type SwitchTables } from './layout.ts';

/** Which bucket rules of this mask with this key are in. @param seed the switch's: nobody can tell beforehand which rules meet in one, and keep a neighbour's flow from having one */
export function bucketOf(seed: number, mask: number, bits: Int32Array, key: Int32Array, bucketMask: number): number {
  let hash = start(seed, mask);
  for (let word = 0; word < bits.length; word++) if (bits[word] !== 0) hash = mix(hash, (key[word] as number) & (bits[word] as number));
  return finish(hash) & bucketMask;
}

function start(seed: number, mask: number): number {
  return Math.imul(mask + 1, 0x9e3779b1) ^ seed;
}

function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

function finish(hash: number): number {
  const mixed = Math.imul(hash, 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

export class RuleLookup {
  readonly #tables: SwitchTables;
  readonly #bucketMask: number;
  readonly #seed: number;

  constructor(tables: SwitchTables) {
    this.#tables = tables;
    this.#seed = tables.config[CONFIG_HASH_SEED] as number;
    this.#bucketMask = tables.buckets.length - 1;
  }

  /** Whether a chain has any rule. */
  has(chain: number): boolean {
    return this.#tables.chains[this.#tables.chainAt(chain)] !== 0;
  }

  /** The rule's number, or -1. */
  find(chain: number, key: Int32Array): number {
    const { chains, ranks, bestRank } = this.#tables;
    const at = this.#tables.chainAt(chain);
    const count = Math.min(chains[at] as number, MASKS_IN_CHAIN);
    let found = -1;
    let rank = -1;
    for (let i = 1; i <= count; i++) {
      const mask = chains[at + i] as number;
      if ((bestRank[mask] as number) < rank) break;
      const rule = this.#inMask(mask, key);
      if (rule < 0 || (ranks[rule] as number) < rank) continue;
      found = rule;
      rank = ranks[rule] as number;
    }
    return found;
  }

  #inMask(mask: number, key: Int32Array): number {
    const { masks, rules, buckets } = this.#tables;
    const at = mask * MASK_WORDS;
    const end = at + 1 + 2 * (masks[at] as number);
    let hash = start(this.#seed, mask);
    for (let pair = at + 1; pair < end; pair += 2) hash = mix(hash, (key[masks[pair] as number] as number) & (masks[pair + 1] as number));
    let next = buckets[finish(hash) & this.#bucketMask] as number;
    for (let depth = 0; next > 0 && depth < BUCKET_DEPTH; depth++) {
      const rule = (next - 1) * RULE_WORDS;
      if (rules[rule + RULE_MASK] === mask + 1) {
        let pair = at + 1;
        for (; pair < end; pair += 2) {
          const word = masks[pair] as number;
          if (((key[word] as number) & (masks[pair + 1] as number)) !== rules[rule + RULE_KEY + word]) break;
        }
        if (pair === end) return next - 1;
      }
      next = rules[rule + RULE_NEXT] as number;
    }
    return -1;
  }
}
