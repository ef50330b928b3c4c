// Which receive queue a frame goes to: by RSS (virtio 1.4 5.1.9.5.7.3) or by automatic steering (5.1.9.5.6), as the last CTRL_MQ command said; and the hashes that reports need in either
// mode; before either, by the flow filter's rules. Rings that do not run just now are told from those the driver has not got, or is resetting: for the former a frame waits, for the latter it is dropped.

import { FrameHasher } from '#net/frame-hash';
import type { HashParameters } from '#net/hash-types';
import type { FrameBatch } from '#net/port';
import { FLOW_DROP, FLOW_NONE } from '#virtio/flow-rules';
import type { NetPolicy } from '#virtio/net-policy';
import type { RssPolicy } from '#virtio/rss-policy';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import { FlowMatcher } from './flow-matcher.ts';
import type { FlowTable } from './steering.ts';
import type { Vring } from './vring.ts';

/** In place of a pair. */
const PAIR_NONE = -1;
export const PAIR_LATER = -2;
/** A flow rule says so. */
export const PAIR_DROP = -3;

const MINIMUM_FRAME = 14;

/** One RSS configuration in use. */
interface Spread {
  readonly parameters: HashParameters | undefined;
  /** Length a power of two, or 0: nothing is spread. */
  readonly table: Uint16Array;
  readonly unclassified: number;
}

/** What the policy words say of steering, read as one. */
export interface SteeringSettings {
  readonly spread: Spread;
  readonly live: readonly [number, number];
}

export function readSteering(rss: RssPolicy): SteeringSettings {
  // Nothing that drivers can set up sends frames to an RSS context yet: those stay words.
  return { spread: { parameters: rss.parameters(0), table: rss.table(0), unclassified: rss.unclassified(0) }, live: rss.live };
}

export class ReceiveSteering {
  readonly #flows: FlowTable;
  readonly #rules = new FlowMatcher();
  #filters = false;
  #reports = false;
  readonly #hasher = new FrameHasher();
  #table: Uint16Array = new Uint16Array(0);
  /** By the same index: what to do with a frame there. One look a frame, not two (measured: bench/steering.ts). */
  #routes: Int8Array = new Int8Array(0);
  #unclassified = 0;
  #live: readonly [number, number] = [-1, -1];
  /** By pair; undefined: that ring is not running. */
  #rings: readonly (Vring | undefined)[] = [];
  #broken = false;
  /** What to do by pair: the pair itself, PAIR_NONE or PAIR_LATER. */
  readonly #places = new Int8Array(MAX_QUEUE_PAIRS).fill(PAIR_LATER);
  /** The same for frames that any ring will do for; and by pair for those that another will do for (virtio 1.4 5.1.9.5.6.2, device SHOULD: a queue under reset is such). */
  #anywhere = PAIR_LATER;
  readonly #detours = new Int8Array(MAX_QUEUE_PAIRS).fill(PAIR_LATER);

  constructor(flows: FlowTable) {
    this.#flows = flows;
  }

  open(policy: NetPolicy): void {
    this.#rules.open(policy);
  }

  /** @param reports the driver gets hashes with its frames */
  configure({ spread, live }: SteeringSettings, reports: boolean): void {
    this.#reports = reports;
    this.#hasher.configure(spread.parameters);
    this.#table = spread.table;
    this.#unclassified = spread.unclassified;
    this.#live = live;
    this.#filters = this.#rules.active;
    this.#place();
  }

  /** @param broken a driver that broke a ring gets nothing more on it: what is missing will not come back */
  arrange(rings: readonly (Vring | undefined)[], broken: boolean): void {
    this.#rings = rings;
    this.#broken = broken;
    this.#place();
  }

  #place(): void {
    const rings = this.#rings;
    this.#anywhere = PAIR_NONE;
    for (let pair = 0; pair < rings.length; pair++) {
      const live = ((this.#live[pair >>> 5] as number) & (1 << (pair & 31))) !== 0;
      this.#places[pair] = rings[pair] !== undefined ? pair : live && !this.#broken ? PAIR_LATER : PAIR_NONE;
    }
    // Best a ring that runs, then one that will.
    for (let pair = rings.length - 1; pair >= 0; pair--) {
      const place = this.#places[pair] as number;
      if (place === pair || (place === PAIR_LATER && this.#anywhere === PAIR_NONE)) this.#anywhere = place;
    }
    for (let pair = 0; pair < rings.length; pair++) this.#detours[pair] = (this.#places[pair] as number) >= 0 ? pair : this.#anywhere;
    if (this.#routes.length !== this.#table.length) this.#routes = new Int8Array(this.#table.length);
    for (let i = 0; i < this.#table.length; i++) this.#routes[i] = this.#places[this.#table[i] as number] as number;
  }

  /** By indirection table; false: automatic. */
  get spreads(): boolean {
    return this.#table.length > 0;
  }

  /** There are flow rules: a single ring does not get every frame. */
  get filters(): boolean {
    return this.#filters;
  }

  /** What `FrameBatch.hashedBy` says of frames whose hash this driver gets; -1: it gets none. */
  get reported(): number {
    const { identity } = this.#hasher;
    return identity === 0 ? -1 : identity;
  }

  /** Some ring runs, or frames would be dropped: offering them makes sense. */
  get ready(): boolean {
    return this.#anywhere !== PAIR_LATER;
  }

  /** Computes the hashes of frames from .. to - 1 that are not known yet, if this driver gets them; `choose` computes those that only say which queue. */
  hash(batch: FrameBatch, from: number, to: number): void {
    if (this.#reports) this.#hasher.hash(batch, from, to);
  }

  /** Puts the pair of each of these frames into `pairs`, by its index: one whose ring runs, PAIR_NONE PAIR_LATER or PAIR_DROP. After `hash`. */
  choose(batch: FrameBatch, from: number, to: number, pairs: Int8Array): void {
    if (this.spreads) this.#hasher.route(batch, from, to, this.#routes, this.#places[this.#unclassified] as number, pairs);
    else this.#flows.choose(batch, from, to, this.#rings.length, this.#detours, pairs);
    if (this.#filters) this.#byRules(batch, from, to, pairs);
  }

  /** virtio 1.4 5.1.9.6.4 (device MUST): a rule that applies takes the place of steering. Its queue may be under reset, or not one of the active: the frame is dropped. */
  #byRules(batch: FrameBatch, from: number, to: number, pairs: Int8Array): void {
    for (let f = from; f < to; f++) {
      if ((batch.length[f] as number) < MINIMUM_FRAME) continue;
      const pair = this.#rules.match(batch, f);
      if (pair === FLOW_NONE) continue;
      if (pair === FLOW_DROP) pairs[f] = PAIR_DROP;
      else pairs[f] = pair < this.#rings.length ? (this.#places[pair] as number) : PAIR_NONE;
    }
  }

  /** Lets go of what it shares with others. */
  close(): void {
    this.#hasher.configure(undefined);
  }
}
