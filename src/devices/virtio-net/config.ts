// Device configuration of a network device (virtio 1.4 5.1.4). Fields of features that are not offered read 0. The driver
// cannot write any of them; mac changes through the control queue only.

import { ALL_HASH_TUNNELS, ALL_HASH_TYPES } from '#net/hash-types';
import { VirtioOptionError } from '#virtio/device';
import { isPowerOfTwo } from '#virtio/device-status';
import type { FeatureSet } from '#virtio/features';
import {
  hasQueuePairs,
  MAC_BYTES,
  VIRTIO_NET_F_HASH_REPORT,
  VIRTIO_NET_F_HASH_TUNNEL,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_RSS,
  VIRTIO_NET_F_SPEED_DUPLEX,
  VIRTIO_NET_F_STATUS,
} from '#virtio/net-features';

const VIRTIO_NET_S_LINK_UP = 1;
const VIRTIO_NET_S_ANNOUNCE = 2;
/** Through supported_tunnel_types. */
export const NET_CONFIG_BYTES = 28;
/** Lengths of its fields: mac, status, max_virtqueue_pairs, mtu, speed, duplex, rss_max_key_size, rss_max_indirection_table_length, supported_hash_types, supported_tunnel_types. */
export const NET_CONFIG_FIELDS: readonly number[] = [6, 2, 2, 2, 4, 1, 1, 2, 4, 4];

/** Mbit/s, or 'unknown'. Duplex is coded as the field's description has it (1 full, 0 half); the device clause says the reverse (virtio-spec issue 75). */
export interface LinkSpeed {
  readonly speed: number | 'unknown';
  readonly duplex: 'full' | 'half' | 'unknown';
}

const DUPLEX = { half: 0, full: 1, unknown: 0xff } as const;
const LOWEST_MTU = 68;
const HIGHEST_MTU = 65535;
const HIGHEST_SPEED = 0x7fffffff;

/** @throws VirtioOptionError */
export function checkMac(mac: Uint8Array | string): Uint8Array {
  const bytes = typeof mac === 'string' ? parseMac(mac) : mac;
  if (bytes?.length !== MAC_BYTES || ((bytes[0] as number) & 1) !== 0 || bytes.every((b) => b === 0))
    throw new VirtioOptionError('NICBOX_MAC', `MAC address ${String(mac)}: give six bytes of a unicast address, such as 52:54:00:12:34:56`);
  return bytes.slice();
}

function parseMac(text: string): Uint8Array | undefined {
  return /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text) ? Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16)) : undefined;
}

/** virtio 1.4 5.1.4.1 (device MUST): 68 to 65535. @throws VirtioOptionError */
export function checkMtu(mtu: number): void {
  if (!Number.isInteger(mtu) || mtu < LOWEST_MTU || mtu > HIGHEST_MTU)
    throw new VirtioOptionError('NICBOX_MTU', `mtu ${mtu}: give ${LOWEST_MTU} to ${HIGHEST_MTU}`);
}

/** virtio 1.4 5.1.4.1 (device MUST): 0 to 0x7fffffff, or all ones. @throws VirtioOptionError */
export function checkSpeed({ speed, duplex }: LinkSpeed): void {
  if (speed !== 'unknown' && !(Number.isInteger(speed) && speed >= 0 && speed <= HIGHEST_SPEED))
    throw new VirtioOptionError('NICBOX_SPEED', `speed ${speed}: give Mbit/s up to ${HIGHEST_SPEED}, or 'unknown'`);
  if (!(duplex in DUPLEX)) throw new VirtioOptionError('NICBOX_SPEED', `duplex ${String(duplex)}: give 'full', 'half' or 'unknown'`);
}

/** What the device takes of RSS. */
export interface RssOptions {
  /** Most entries of an indirection table, a power of two of 128 (default) to 32768. Linux before 6.12 has room for 128 and does not look whether a device has more. */
  readonly tableLength?: number;
  /** Most bytes of a key, 40 (default) to 255; those after the fortieth change nothing. Linux takes no device that has more than 40. */
  readonly keySize?: number;
  /** RSS contexts, 1 to 1024 (default 16); with 0 RSS_CONTEXT is not offered. */
  readonly contexts?: number;
}

/** virtio 1.4 5.1.4.1 (device MUST): tables of 128 entries, keys of 40 bytes at least. @throws VirtioOptionError */
export function checkRss({ tableLength = 128, keySize = 40, contexts = 16 }: RssOptions): Required<RssOptions> {
  const refuse = (message: string): never => {
    throw new VirtioOptionError('NICBOX_RSS', message);
  };
  if (!Number.isInteger(tableLength) || tableLength < 128 || tableLength > 32768 || !isPowerOfTwo(tableLength))
    refuse(`rss.tableLength ${tableLength}: give a power of two of 128 to 32768`);
  if (!Number.isInteger(keySize) || keySize < 40 || keySize > 255) refuse(`rss.keySize ${keySize}: give 40 to 255`);
  if (!Number.isInteger(contexts) || contexts < 0 || contexts > 1024) refuse(`rss.contexts ${contexts}: give 0 to 1024`);
  return { tableLength, keySize, contexts };
}

interface ConfigOptions {
  readonly queuePairs: number;
  readonly mtu: number | undefined;
  readonly link: LinkSpeed | undefined;
  readonly rss: Required<RssOptions>;
}

export class NetConfig {
  readonly #bytes = new Uint8Array(NET_CONFIG_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #offered: FeatureSet;

  constructor(offered: FeatureSet, options: ConfigOptions) {
    this.#offered = offered;
    if (hasQueuePairs(offered)) this.#view.setUint16(8, options.queuePairs, true);
    if (offered.has(VIRTIO_NET_F_MTU)) this.#view.setUint16(10, options.mtu as number, true);
    if (offered.has(VIRTIO_NET_F_SPEED_DUPLEX) && options.link) {
      const { speed, duplex } = options.link;
      this.#view.setUint32(12, speed === 'unknown' ? 0xffffffff : speed, true);
      this.#view.setUint8(16, DUPLEX[duplex]);
    }
    if (offered.has(VIRTIO_NET_F_RSS) || offered.has(VIRTIO_NET_F_HASH_REPORT)) {
      this.#view.setUint8(17, options.rss.keySize);
      this.#view.setUint32(20, ALL_HASH_TYPES, true);
    }
    if (offered.has(VIRTIO_NET_F_RSS)) this.#view.setUint16(18, options.rss.tableLength, true);
    if (offered.has(VIRTIO_NET_F_HASH_TUNNEL)) this.#view.setUint32(24, ALL_HASH_TUNNELS, true);
  }

  set mac(mac: Uint8Array) {
    if (this.#offered.has(VIRTIO_NET_F_MAC)) this.#bytes.set(mac, 0);
  }

  set linkUp(up: boolean) {
    this.#setStatus(VIRTIO_NET_S_LINK_UP, up);
  }

  /** The driver is asked to announce itself (virtio 1.4 5.1.9.5.4). */
  set announce(asked: boolean) {
    this.#setStatus(VIRTIO_NET_S_ANNOUNCE, asked);
  }

  /** What the status field says now. */
  get shown(): { readonly linkUp: boolean; readonly announce: boolean } {
    const status = this.#view.getUint16(6, true);
    return { linkUp: (status & VIRTIO_NET_S_LINK_UP) !== 0, announce: (status & VIRTIO_NET_S_ANNOUNCE) !== 0 };
  }

  #setStatus(bit: number, on: boolean): void {
    if (!this.#offered.has(VIRTIO_NET_F_STATUS)) return;
    const status = this.#view.getUint16(6, true);
    this.#view.setUint16(6, on ? status | bit : status & ~bit, true);
  }

  read(offset: number, size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) value += (this.#bytes[offset + i] ?? 0) * 2 ** (8 * i);
    return value;
  }
}
