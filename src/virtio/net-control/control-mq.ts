// Commands that say which queues frames go to and how they are hashed: VIRTIO_NET_CTRL_MQ (virtio 1.4 5.1.9.5.6, 5.1.9.5.7), VIRTIO_NET_CTRL_HASH_TUNNEL (5.1.9.4.4) and
// VIRTNET_RSS_CTX_CTRL (5.1.9.5.8). Everything a command names is held against what configuration space says before any of it is taken over.

import { ALL_HASH_TUNNELS, ALL_HASH_TYPES } from '#net/hash-types';
import { isPowerOfTwo } from '../device-status.ts';
import type { FeatureSet } from '../features.ts';
import * as net from '../net-features.ts';
import type { HashConfiguration, RssConfiguration } from '../rss-policy.ts';
import type { ChainReader } from './chain-reader.ts';
import type { ChainWriter } from './chain-writer.ts';
import type { ReceiveState } from './receive-state.ts';
import type { SteeringLimits, SteeringState } from './steering-state.ts';
import { CTX_ADD, CTX_CAP_GET, CTX_DEL, CTX_MOD, HASH_TUNNEL_SET, MQ_HASH_CONFIG, MQ_RSS_CONFIG, MQ_VQ_PAIRS_SET } from './wire.ts';

const HASH_CONFIG_RESERVED = 4;
const CONTEXT_RESERVED_BYTES = 6;

export interface SteeringContext {
  readonly features: FeatureSet;
  readonly state: ReceiveState;
  readonly steering: SteeringState;
}

export function runMqCommand(reader: ChainReader, command: number, { features, state, steering }: SteeringContext): boolean {
  switch (command) {
    case MQ_VQ_PAIRS_SET:
      return features.has(net.VIRTIO_NET_F_MQ) && setPairs(reader, state, steering);
    case MQ_RSS_CONFIG: {
      const rss = features.has(net.VIRTIO_NET_F_RSS) ? readRss(reader, steering.limits) : undefined;
      if (rss === undefined) return false;
      steering.rss = rss;
      steering.hash = rss;
      return true;
    }
    case MQ_HASH_CONFIG: {
      const hash = features.has(net.VIRTIO_NET_F_HASH_REPORT) ? readHash(reader, steering.limits) : undefined;
      if (hash === undefined) return false;
      steering.rss = undefined;
      steering.hash = hash;
      return true;
    }
    default:
      return false;
  }
}

function setPairs(reader: ChainReader, state: ReceiveState, steering: SteeringState): boolean {
  const pairs = reader.u16();
  // virtio 1.4 5.1.9.5.6.1 (driver MUST): 1 to max_virtqueue_pairs; 5.1.9.5.8 (driver MUST NOT): not while there is an RSS context.
  if (pairs < 1 || pairs > steering.limits.pairs || steering.contexts.size > 0) return false;
  state.pairs = pairs;
  steering.rss = undefined;
  return true;
}

/** struct virtio_net_hash_config, or undefined. */
function readHash(reader: ChainReader, limits: SteeringLimits): HashConfiguration | undefined {
  const types = reader.u32();
  for (let i = 0; i < HASH_CONFIG_RESERVED; i++) if (reader.u16() !== 0) return undefined;
  return readKey(reader, types, limits);
}

/** struct virtio_net_rss_config, or undefined. */
function readRss(reader: ChainReader, limits: SteeringLimits): RssConfiguration | undefined {
  const types = reader.u32();
  const length = reader.u16() + 1;
  const unclassified = reader.u16();
  // A mask of 0xffff is a table of 65536 entries, not of none (cd76e8fcbe).
  if (length < 1 || length > limits.tableLength || !isPowerOfTwo(length)) return undefined;
  // Bit 15 of a queue id is reserved: an id with it is above any pair.
  if (unclassified < 0 || unclassified >= limits.pairs || 2 * length > reader.remaining) return undefined;
  const table = new Uint16Array(length);
  for (let i = 0; i < length; i++) {
    const pair = reader.u16();
    if (pair >= limits.pairs) return undefined;
    table[i] = pair;
  }
  const maxTxVq = reader.u16();
  if (maxTxVq < 1 || maxTxVq > limits.pairs) return undefined;
  const hash = readKey(reader, types, limits);
  return hash && { ...hash, table, unclassified, maxTxVq };
}

function readKey(reader: ChainReader, types: number, limits: SteeringLimits): HashConfiguration | undefined {
  const length = reader.u8();
  if (types < 0 || (types & ~ALL_HASH_TYPES) !== 0 || length < 0 || length > limits.keySize) return undefined;
  // Without a key there is nothing to hash with.
  if (length === 0 && types !== 0) return undefined;
  const key = reader.bytes(length);
  return key && { types, key };
}

export function runHashTunnelCommand(reader: ChainReader, command: number, { features, steering }: SteeringContext): boolean {
  if (command !== HASH_TUNNEL_SET || !features.has(net.VIRTIO_NET_F_HASH_TUNNEL)) return false;
  const tunnels = reader.u32();
  // virtio 1.4 5.1.9.4.4 (device SHOULD): what supported_tunnel_types does not have is answered ERR.
  if (tunnels < 0 || (tunnels & ~ALL_HASH_TUNNELS) !== 0) return false;
  steering.tunnels = tunnels;
  return true;
}

export function runRssContextCommand(reader: ChainReader, reply: ChainWriter, command: number, { features, steering }: SteeringContext): boolean {
  const { limits, contexts } = steering;
  if (!features.has(net.VIRTIO_NET_F_RSS_CONTEXT)) return false;
  if (command === CTX_CAP_GET) {
    if (reply.remaining < 2) return false;
    reply.u16(limits.contexts);
    return true;
  }
  const id = reader.u16();
  if (id < 1 || id > limits.contexts) return false;
  switch (command) {
    case CTX_ADD:
    case CTX_MOD: {
      if (contexts.has(id) !== (command === CTX_MOD)) return false;
      reader.skip(CONTEXT_RESERVED_BYTES);
      const rss = readRss(reader, limits);
      if (rss === undefined) return false;
      contexts.set(id, rss);
      return true;
    }
    case CTX_DEL:
      return contexts.delete(id);
    default:
      return false;
  }
}
