// The commands of the control virtqueue as bytes (virtio 1.4 5.1.9.5): classes, commands, and what the longer ones consist of. Read by control-commands.ts and its neighbours; written where
// a control plane says to a device what it has set up itself.

import type { FeatureSet } from '../features.ts';
import { MAC_BYTES } from '../net-features.ts';
import { POLICY_MAC_ENTRIES } from '../net-policy.ts';
import type { HashConfiguration, RssConfiguration } from '../rss-policy.ts';

export const CLASS_RX = 0;
export const CLASS_MAC = 1;
export const CLASS_VLAN = 2;
export const CLASS_ANNOUNCE = 3;
export const CLASS_MQ = 4;
export const CLASS_GUEST_OFFLOADS = 5;
export const CLASS_NOTF_COAL = 6;
export const CLASS_HASH_TUNNEL = 7;
export const CLASS_STATS = 8;
export const CLASS_RSS_CTX = 9;

export const RX_ALLMULTI = 1;
export const MAC_TABLE_SET = 0;
export const MAC_ADDR_SET = 1;
export const VLAN_ADD = 0;
export const VLAN_DEL = 1;
export const ANNOUNCE_ACK = 0;
export const MQ_VQ_PAIRS_SET = 0;
export const MQ_RSS_CONFIG = 1;
export const MQ_HASH_CONFIG = 2;
export const GUEST_OFFLOADS_SET = 0;
export const NOTF_COAL_TX_SET = 0;
export const NOTF_COAL_RX_SET = 1;
export const NOTF_COAL_VQ_SET = 2;
export const NOTF_COAL_VQ_GET = 3;
export const HASH_TUNNEL_SET = 0;
export const STATS_QUERY = 0;
export const STATS_GET = 1;
export const CTX_CAP_GET = 0;
export const CTX_ADD = 1;
export const CTX_MOD = 2;
export const CTX_DEL = 3;

/** What a command is answered with first. */
export const VIRTIO_NET_OK = 0;
export const VIRTIO_NET_ERR = 1;

export const u16 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
export const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)];

/** One of MAC_TABLE_SET's two. Of a list that was longer than there is room for, only that is known: one that is longer says the same. */
export function macTable(addresses: readonly Uint8Array[], overflow: boolean): number[] {
  const listed = overflow ? Array.from({ length: POLICY_MAC_ENTRIES + 1 }, () => new Uint8Array(MAC_BYTES)) : addresses;
  return [...u32(listed.length), ...listed.flatMap((address) => [...address])];
}

/** struct virtio_net_hash_config. */
export function hashConfig({ types, key }: HashConfiguration): number[] {
  return [...u32(types), 0, 0, 0, 0, 0, 0, 0, 0, key.length, ...key];
}

/** struct virtio_net_rss_config. */
export function rssConfig({ types, key, table, unclassified, maxTxVq }: RssConfiguration): number[] {
  return [...u32(types), ...u16(table.length - 1), ...u16(unclassified), ...[...table].flatMap(u16), ...u16(maxTxVq), key.length, ...key];
}

/** Its bytes with tables and keys of these lengths. */
export function rssConfigBytes(tableLength: number, keySize: number): number {
  return 11 + 2 * tableLength + keySize;
}

/** GUEST_OFFLOADS_SET's mask has the features' own numbers, but for 65 and 66, which are its bits 46 and 47: those of features that no network device has. */
export function offloadsMask(offloads: FeatureSet): number[] {
  const [low, high, third] = offloads.words;
  return [...u32(low), ...u32((high | ((third & 6) << 13)) >>> 0)];
}

/** In front of an RSS context's configuration: its id, and reserved bytes. */
export function contextHeader(id: number): number[] {
  return [...u16(id), 0, 0, 0, 0, 0, 0];
}
