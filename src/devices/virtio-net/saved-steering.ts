// Checks of a saved hash and RSS state: what a control command could not have set is refused.

import { RestoreError } from '#core/saved';
import { ALL_HASH_TUNNELS, ALL_HASH_TYPES } from '#net/hash-types';
import { isPowerOfTwo } from '#virtio/device-status';
import type { FeatureSet } from '#virtio/features';
import type { RssSnapshot, SteeringLimits, SteeringSnapshot } from '#virtio/net-control/steering-state';
import { VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_HASH_TUNNEL, VIRTIO_NET_F_RSS, VIRTIO_NET_F_RSS_CONTEXT } from '#virtio/net-features';
import { savedInteger, savedRecord } from '#virtio/saved-control';

/** @throws RestoreError */
export function savedSteering(value: unknown, limits: SteeringLimits, features: FeatureSet): SteeringSnapshot {
  const state = savedRecord(value, 'steering state');
  const hash = state.hash === null ? null : savedHash(state.hash, limits);
  const rss = state.rss === null ? null : savedRss(state.rss, limits);
  const tunnels = savedInteger(state.tunnels, ALL_HASH_TUNNELS, 'hash tunnel types');
  if (!Array.isArray(state.contexts) || state.contexts.length > limits.contexts) throw new RestoreError('saved RSS contexts are too many');
  const contexts = state.contexts.map((entry: unknown) => {
    const context = savedRecord(entry, 'RSS context');
    const id = savedInteger(context.id, limits.contexts, 'RSS context id');
    if (id === 0) throw new RestoreError('saved RSS context has id 0');
    return { id, rss: savedRss(context.rss, limits) };
  });
  if (new Set(contexts.map(({ id }) => id)).size !== contexts.length) throw new RestoreError('saved RSS contexts share an id');
  const needs = [
    [hash !== null, VIRTIO_NET_F_RSS, VIRTIO_NET_F_HASH_REPORT],
    [rss !== null, VIRTIO_NET_F_RSS, VIRTIO_NET_F_RSS],
    [tunnels !== 0, VIRTIO_NET_F_HASH_TUNNEL, VIRTIO_NET_F_HASH_TUNNEL],
    [contexts.length > 0, VIRTIO_NET_F_RSS_CONTEXT, VIRTIO_NET_F_RSS_CONTEXT],
  ] as const;
  for (const [present, one, other] of needs)
    if (present && !features.has(one) && !features.has(other))
      throw new RestoreError(`saved steering state needs feature bit ${one}, which was not negotiated`);
  if (rss !== null && hash === null) throw new RestoreError('saved RSS state has no hash parameters');
  return { hash, rss, tunnels, contexts };
}

function savedHash(value: unknown, limits: SteeringLimits): { types: number; key: Uint8Array } {
  const state = savedRecord(value, 'hash parameters');
  const types = savedInteger(state.types, ALL_HASH_TYPES, 'hash types');
  const { key } = state;
  if (!(key instanceof Uint8Array) || key.length > limits.keySize || (key.length === 0 && types !== 0))
    throw new RestoreError('saved hash key has the wrong size');
  return { types, key: key.slice() };
}

function savedRss(value: unknown, limits: SteeringLimits): RssSnapshot {
  const state = savedRecord(value, 'RSS configuration');
  const { table } = state;
  if (!(table instanceof Uint16Array) || table.length > limits.tableLength || !isPowerOfTwo(table.length))
    throw new RestoreError(`saved indirection table must have a power of two of entries, up to ${limits.tableLength}`);
  if (table.some((pair) => pair >= limits.pairs)) throw new RestoreError('saved indirection table names a queue that there is not');
  const maxTxVq = savedInteger(state.maxTxVq, limits.pairs, 'max_tx_vq');
  if (maxTxVq === 0) throw new RestoreError('saved max_tx_vq is 0');
  return { ...savedHash(value, limits), table: table.slice(), unclassified: savedInteger(state.unclassified, limits.pairs - 1, 'unclassified queue'), maxTxVq };
}
