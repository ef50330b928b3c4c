// The part of the policy words (net-policy.ts) that says how received frames are hashed and spread: RSS configurations - number 0 is the default one, those above it are RSS contexts -
// each with its own key and indirection table, and which queues there are to spread over. Written and read under the same generation.

import { HASH_KEY_BYTES, type HashParameters } from '#net/hash-types';

/** What a driver says of hashing (virtio 1.4 5.1.9.5.6.4, struct virtio_net_hash_config), checked. */
export interface HashConfiguration {
  /** HASH_TYPE_* bits. */
  readonly types: number;
  readonly key: Uint8Array;
}

/** And of spreading (virtio 1.4 5.1.9.5.7, struct virtio_net_rss_config), checked. */
export interface RssConfiguration extends HashConfiguration {
  /** Pair of each value of (hash and length - 1); a power of two long. */
  readonly table: Uint16Array;
  /** Pair for frames that have no hash. */
  readonly unclassified: number;
  /** Transmit queues in use: pairs 0 .. maxTxVq - 1. */
  readonly maxTxVq: number;
}

export interface RssLimits {
  /** Most entries of an indirection table, a power of two. */
  readonly tableLength: number;
  /** Most RSS contexts, with ids from 1 on. */
  readonly contexts: number;
}

const TUNNELS = 0;
const LIVE = 1; // two words, one bit a pair
const CONFIGURATIONS = 3;
// Of a configuration: whether frames are hashed, hash types, key; entries (0: frames are not spread), unclassified queue; the entries, two a word.
const HASHED = 0;
const TYPES = 1;
const KEY = 2;
const ENTRIES = KEY + HASH_KEY_BYTES / 4;
const UNCLASSIFIED = ENTRIES + 1;
const TABLE = UNCLASSIFIED + 1;

const configurationWords = (limits: RssLimits): number => TABLE + limits.tableLength / 2;

/** Words that `limits` take. */
export function rssPolicyWords(limits: RssLimits): number {
  return CONFIGURATIONS + (1 + limits.contexts) * configurationWords(limits);
}

export class RssPolicy {
  readonly limits: RssLimits;
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;

  constructor(buffer: SharedArrayBuffer, byteOffset: number, limits: RssLimits) {
    this.limits = limits;
    const words = rssPolicyWords(limits);
    this.#words = new Int32Array(buffer, byteOffset, words);
    this.#halves = new Uint16Array(buffer, byteOffset, 2 * words);
    this.#bytes = new Uint8Array(buffer, byteOffset, 4 * words);
  }

  /** HASH_TUNNEL_* bits, for all configurations. */
  get tunnels(): number {
    return this.#words[TUNNELS] as number;
  }
  set tunnels(bits: number) {
    this.#words[TUNNELS] = bits;
  }

  /** Receive queues that the driver has: enabled and not under reset. Bit `pair & 31` of word `pair >>> 5`. */
  get live(): readonly [number, number] {
    return [this.#words[LIVE] as number, this.#words[LIVE + 1] as number];
  }
  set live([low, high]: readonly [number, number]) {
    this.#words[LIVE] = low;
    this.#words[LIVE + 1] = high;
  }

  /** Writes configuration `id`. Without `rss` frames are hashed and not spread; without `hash` there is no such configuration. */
  set(id: number, hash: HashConfiguration | undefined, rss: RssConfiguration | undefined): void {
    const at = this.#at(id);
    const words = this.#words;
    words[at + HASHED] = hash === undefined ? 0 : 1;
    words[at + ENTRIES] = 0;
    if (hash === undefined) return;
    words[at + TYPES] = hash.types;
    for (let i = 0; i < HASH_KEY_BYTES; i++) this.#bytes[4 * (at + KEY) + i] = hash.key[i] ?? 0;
    if (rss === undefined) return;
    words[at + ENTRIES] = rss.table.length;
    words[at + UNCLASSIFIED] = rss.unclassified;
    this.#halves.set(rss.table, 2 * (at + TABLE));
  }

  /** All that is said of configuration `id`. */
  configuration(id: number): Int32Array {
    const at = this.#at(id);
    return this.#words.subarray(at, at + configurationWords(this.limits));
  }

  /** How configuration `id` hashes frames; undefined: not at all. */
  parameters(id: number): HashParameters | undefined {
    const at = this.#at(id);
    if (this.#words[at + HASHED] === 0) return undefined;
    const key = this.#bytes.slice(4 * (at + KEY), 4 * (at + KEY) + HASH_KEY_BYTES);
    return { types: this.#words[at + TYPES] as number, tunnels: this.tunnels, key };
  }

  /** Frames are spread by configuration `id`. */
  spreads(id: number): boolean {
    return this.#words[this.#at(id) + ENTRIES] !== 0;
  }

  /** The indirection table of configuration `id`; empty: it spreads nothing. */
  table(id: number): Uint16Array {
    const at = this.#at(id);
    const length = Math.min(this.#words[at + ENTRIES] as number, this.limits.tableLength);
    return this.#halves.slice(2 * (at + TABLE), 2 * (at + TABLE) + length);
  }

  /** Pair for frames without a hash, of a configuration that spreads. */
  unclassified(id: number): number {
    return this.#words[this.#at(id) + UNCLASSIFIED] as number;
  }

  #at(id: number): number {
    return CONFIGURATIONS + id * configurationWords(this.limits);
  }
}
