// Receive-side scaling as the driver configures it (virtio 1.4 5.1.9.5.7): the RSS and hash configuration records, contexts beside the default one, and
// what a guest gets who asked for nothing in particular.

import type { NetConfiguration, RssOptions } from './net-options.ts';
import { DEFAULT_RSS_KEY } from './toeplitz.ts';
import { NET_HASH_TYPES_ALL } from './virtio-constants.ts';

/** A configuration as the device is to have it. Queue numbers count receive queues from 0. */
export interface RssConfig {
  readonly hashTypes: number;
  /** A power of two of entries. */
  readonly table: readonly number[];
  readonly unclassified: number;
  readonly maxTransmitQueues: number;
  readonly key: Uint8Array;
}

const DEFAULT_TABLE = 128;

/** Fills in what `options` leave out, for a device that reads `configuration`. @throws RangeError for a table or key the device cannot take. */
export function rssConfig(options: RssOptions, configuration: NetConfiguration, pairs: number): RssConfig {
  const most = configuration.rssMaxTable;
  const entries = 2 ** (31 - Math.clz32(Math.max(1, Math.min(DEFAULT_TABLE, most))));
  const table = options.table ?? Array.from({ length: entries }, (_, i) => i % pairs);
  const key = options.key ?? DEFAULT_RSS_KEY.subarray(0, configuration.rssMaxKeySize);
  // virtio 1.4 5.1.9.5.7.2 (driver MUST): a power of two of entries, fewer than the device's limit, of enabled queues only.
  if (table.length === 0 || (table.length & (table.length - 1)) !== 0 || table.length > most)
    throw new RangeError(`an RSS table of ${table.length} entries is not a power of two up to the ${most} the device takes`);
  const unclassified = options.unclassified ?? 0;
  for (const queue of [...table, unclassified])
    if (!(Number.isInteger(queue) && queue >= 0 && queue < pairs))
      throw new RangeError(`receive queue ${queue} of an RSS table is not among the ${pairs} in use`);
  if (key.length > configuration.rssMaxKeySize)
    throw new RangeError(`an RSS key of ${key.length} bytes is longer than the ${configuration.rssMaxKeySize} the device takes`);
  return {
    hashTypes: (options.hashTypes ?? NET_HASH_TYPES_ALL) & configuration.hashTypes,
    table,
    unclassified,
    maxTransmitQueues: options.maxTransmitQueues ?? pairs,
    key,
  };
}

/** struct virtio_net_rss_config. A queue id is its virtqueue's index without the lowest bit, which is the number of the receive queue. */
export function encodeRss(config: RssConfig): Uint8Array {
  const { table, key } = config;
  const bytes = new Uint8Array(8 + 2 * table.length + 3 + key.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, config.hashTypes, true);
  view.setUint16(4, table.length - 1, true);
  view.setUint16(6, config.unclassified, true);
  for (const [i, queue] of table.entries()) view.setUint16(8 + 2 * i, queue, true);
  const tail = 8 + 2 * table.length;
  view.setUint16(tail, config.maxTransmitQueues, true);
  bytes[tail + 2] = key.length;
  bytes.set(key, tail + 3);
  return bytes;
}

/** struct virtio_net_hash_config: hashes reported, queues chosen by the device. */
export function encodeHash(hashTypes: number, key: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(13 + key.length);
  new DataView(bytes.buffer).setUint32(0, hashTypes, true);
  bytes[12] = key.length;
  bytes.set(key, 13);
  return bytes;
}

/** struct virtnet_rss_ctx_add_modify. */
export function encodeRssContext(id: number, config: RssConfig): Uint8Array {
  const rss = encodeRss(config);
  const bytes = new Uint8Array(8 + rss.length);
  bytes[0] = id;
  bytes[1] = id >>> 8;
  bytes.set(rss, 8);
  return bytes;
}
