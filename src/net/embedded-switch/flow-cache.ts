// Where frames like this one went: an exact match on what decides it, in place of the walk through bridge, lists and rules. Kept is only what those do in the plainest case: one copy for one port, the frame as it
// is, with nothing counted but rules. An entry holds while the tables are as they were (their generation) and the same ports are attached. Private to the thread that looks, bounded, and nothing is allocated;
// a hash with a seed of its own, so that no sender can aim at the places of another's flows.

import * as k from './layout.ts';

const PLACES = 1024;
/** Rules that a frame may have met on its way: one a chain or list. */
export const MOST_MET = 4;
// An entry: the epoch it is of, the port, how many rules were met, and which; then the words that were looked at.
const EPOCH = 0;
const TARGET = 1;
const MET = 2;
const RULES = 3;
const WORDS = RULES + MOST_MET;
const ENTRY = WORDS + k.KEY_WORDS;
/** Of the words of layer 2 and the sender's port all bits, of the type those that say which tags there are: what the bridge of legacy mode goes by. */
const LINK_WORDS = [k.KEY_TO_LOW, k.KEY_FROM_LOW, k.KEY_HIGHS, k.KEY_TAGS];
const TAG_BITS = (k.HAS_TAG | k.HAS_INNER_TAG | k.HAS_SERVICE_TAG) << 16;
const LINK_TYPE = TAG_BITS | 0xffff;

export class FlowCache {
  /** Nothing is to be looked up or kept: what becomes of a frame is not a matter of its headers and the tables alone. */
  off = true;
  /** What decides lies behind the Ethernet header as well. */
  deep = false;
  readonly #tables: k.SwitchTables;
  readonly #entries = new Int32Array(PLACES * ENTRY);
  readonly #seed = (Math.random() * 2 ** 32) | 0;
  #generation = -1;
  #epoch = 1;
  // The words that decide and their bits.
  #count = 0;
  readonly #word = new Int32Array(k.KEY_WORDS);
  readonly #bits = new Int32Array(k.KEY_WORDS);
  /** Of the last `find`: what was looked for, and its place. */
  readonly #sought = new Int32Array(k.KEY_WORDS);
  #at = -1;

  constructor(tables: k.SwitchTables) {
    this.#tables = tables;
  }

  /** Before the frames of a batch, inside the turn: looks whether the tables have changed. */
  refresh(): void {
    const { generation } = this.#tables;
    if (generation === this.#generation) return;
    this.#generation = generation;
    this.forget();
    this.#learnWhatDecides();
  }

  /** Forgets all: ports came or went. */
  forget(): void {
    if (++this.#epoch < 0x7fffffff) return;
    this.#entries.fill(0);
    this.#epoch = 1;
  }

  #learnWhatDecides(): void {
    const { config, chains, masks, egressChain } = this.#tables;
    const legacy = config[k.CONFIG_MODE] === k.MODE_LEGACY;
    // Stations come and go by themselves, and so do the members of a link group.
    this.off = (legacy && config[k.CONFIG_LEARNING] !== 0) || config[k.CONFIG_LAG] !== k.LAG_OFF;
    const bits = new Int32Array(k.KEY_WORDS);
    bits[k.KEY_PORT] = -1;
    if (legacy) {
      for (const word of LINK_WORDS) bits[word] = -1;
      bits[k.KEY_TYPE] = TAG_BITS;
    }
    this.deep = false;
    for (let chain = 0; chain <= egressChain; chain++) {
      const at = this.#tables.chainAt(chain);
      const count = Math.min(chains[at] as number, k.MASKS_IN_CHAIN);
      for (let i = 1; i <= count; i++) {
        const mask = (chains[at + i] as number) * k.MASK_WORDS;
        for (let pair = 0; pair < (masks[mask] as number); pair++) {
          const word = masks[mask + 1 + 2 * pair] as number;
          bits[word] = (bits[word] as number) | (masks[mask + 2 + 2 * pair] as number);
          const shallow =
            word === k.KEY_PORT || LINK_WORDS.includes(word) || (word === k.KEY_TYPE && ((masks[mask + 2 + 2 * pair] as number) & ~LINK_TYPE) === 0);
          if (!shallow) this.deep = true;
        }
      }
    }
    this.#at = -1;
    this.#count = 0;
    for (let word = 0; word < k.KEY_WORDS; word++) {
      if (bits[word] === 0) continue;
      this.#word[this.#count] = word;
      this.#bits[this.#count++] = bits[word] as number;
    }
  }

  /** The port for frames of this key, or -1: nothing is known, and `keep` may say. */
  find(key: Int32Array): number {
    const count = this.#count;
    const word = this.#word;
    const bits = this.#bits;
    const sought = this.#sought;
    // Frames of one flow come in runs: no place is to be found for one like the one before.
    let other = 0;
    for (let i = 0; i < count; i++) {
      const value = (key[word[i] as number] as number) & (bits[i] as number);
      other |= value ^ (sought[i] as number);
      sought[i] = value;
    }
    if (other !== 0 || this.#at < 0) this.#at = this.#place(count);
    const at = this.#at;
    const entries = this.#entries;
    if (entries[at + EPOCH] !== this.#epoch) return -1;
    for (let i = 0; i < count; i++) if (entries[at + WORDS + i] !== sought[i]) return -1;
    return entries[at + TARGET] as number;
  }

  #place(count: number): number {
    const sought = this.#sought;
    let hash = this.#seed;
    for (let i = 0; i < count; i++) {
      hash = Math.imul(hash ^ (sought[i] as number), 0x85ebca6b);
      hash ^= hash >>> 15;
    }
    hash = Math.imul(hash, 0xc2b2ae35);
    return ((hash ^ (hash >>> 16)) & (PLACES - 1)) * ENTRY;
  }

  /** Rules that frames of what was found last meet: how many, and the `i`th. */
  get met(): number {
    return this.#entries[this.#at + MET] as number;
  }

  rule(i: number): number {
    return this.#entries[this.#at + RULES + i] as number;
  }

  /** What was sought last goes to this port, meeting these rules, MOST_MET at most. */
  keep(target: number, rules: Int32Array, met: number): void {
    const entries = this.#entries;
    const at = this.#at;
    entries[at + EPOCH] = this.#epoch;
    entries[at + TARGET] = target;
    entries[at + MET] = met;
    for (let i = 0; i < met; i++) entries[at + RULES + i] = rules[i] as number;
    for (let i = 0; i < this.#count; i++) entries[at + WORDS + i] = this.#sought[i] as number;
  }
}
