// What the control queue has set up of hashing and spreading (virtio 1.4 5.1.9.5.6 to 5.1.9.5.8): hash parameters, the default RSS configuration, RSS contexts, tunnel types; and its
// translation into the words the data plane reads.
//
// Our reading of "the last command wins": RSS_CONFIG spreads by its table, VQ_PAIRS_SET and HASH_CONFIG go (back) to automatic steering over the pairs set last. Hash parameters, which
// reports need in either mode, are those of the last command that had any.

import { FeatureSet } from '../features.ts';
import { VIRTIO_NET_F_HASH_REPORT } from '../net-features.ts';
import type { NetPolicy } from '../net-policy.ts';
import type { HashConfiguration, RssConfiguration, RssLimits } from '../rss-policy.ts';

/** What a device takes of RSS, beside the hash and tunnel types, which it takes all of. */
export interface SteeringLimits extends RssLimits {
  /** Most bytes of a key. */
  readonly keySize: number;
  readonly pairs: number;
}

export interface RssSnapshot {
  readonly types: number;
  readonly key: Uint8Array;
  readonly table: Uint16Array;
  readonly unclassified: number;
  readonly maxTxVq: number;
}

export interface SteeringSnapshot {
  readonly hash: { readonly types: number; readonly key: Uint8Array } | null;
  readonly rss: RssSnapshot | null;
  readonly tunnels: number;
  readonly contexts: readonly { readonly id: number; readonly rss: RssSnapshot }[];
}

export class SteeringState {
  readonly limits: SteeringLimits;
  /** How reported hashes are computed. */
  hash: HashConfiguration | undefined;
  /** In force: the last CTRL_MQ command was RSS_CONFIG. */
  rss: RssConfiguration | undefined;
  /** HASH_TUNNEL_* bits. */
  tunnels = 0;
  readonly contexts = new Map<number, RssConfiguration>();
  #features = new FeatureSet();

  constructor(limits: SteeringLimits) {
    this.limits = limits;
  }

  /** virtio 1.4 5.1.9.4.4, 5.1.9.5.8 (device MUST): after a reset nothing is hashed or spread, and there are no contexts. */
  clear(features = new FeatureSet()): void {
    this.hash = undefined;
    this.rss = undefined;
    this.tunnels = 0;
    this.contexts.clear();
    this.#features = features;
  }

  /** Inside an update of the policy. @param pairs those that automatic steering uses. @param live receive queues that the driver has, a bit a pair */
  publish(policy: NetPolicy, pairs: number, live: readonly [number, number]): void {
    const { rss } = policy;
    rss.tunnels = this.tunnels;
    rss.live = live;
    // Who neither reports a hash nor spreads by it need not compute it.
    const hashes = this.rss !== undefined || this.#features.has(VIRTIO_NET_F_HASH_REPORT);
    rss.set(0, hashes ? this.hash : undefined, this.rss);
    for (let id = 1; id <= this.limits.contexts; id++) rss.set(id, this.contexts.get(id), this.contexts.get(id));
    policy.activePairs = this.rss?.maxTxVq ?? pairs;
  }

  save(): SteeringSnapshot {
    return {
      hash: this.hash === undefined ? null : { types: this.hash.types, key: this.hash.key.slice() },
      rss: this.rss === undefined ? null : copyOf(this.rss),
      tunnels: this.tunnels,
      contexts: [...this.contexts].map(([id, rss]) => ({ id, rss: copyOf(rss) })),
    };
  }

  /** `snapshot` has been checked. */
  load(snapshot: SteeringSnapshot, features: FeatureSet): void {
    this.clear(features);
    this.hash = snapshot.hash ?? undefined;
    this.rss = snapshot.rss ?? undefined;
    this.tunnels = snapshot.tunnels;
    for (const { id, rss } of snapshot.contexts) this.contexts.set(id, rss);
  }
}

function copyOf({ types, key, table, unclassified, maxTxVq }: RssConfiguration): RssSnapshot {
  return { types, key: key.slice(), table: table.slice(), unclassified, maxTxVq };
}
