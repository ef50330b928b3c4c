// What a guest asks of its network device, the features it accepts for that, and what the device's configuration structure says (virtio 1.4 5.1.4): read whole, between two equal generations.

import { chooseFeatures, DRIVER_FEATURES, featureMask, hasFeature, LEGACY_FEATURES } from './features.ts';
import type { GuestAddresses } from './net-announce.ts';
import { NET_CFG, NET_HASH_TUNNELS_ALL, NET_HASH_TYPES_ALL, NET_STATUS_ANNOUNCE, NET_STATUS_LINK_UP, VIRTIO_F, VIRTIO_NET_F } from './virtio-constants.ts';
import { VirtioError, type VirtioTransport } from './virtio-pci.ts';

/** How the guest drives its device. Plain cloneable data. */
export interface VirtioNetOptions {
  /** Ring format; packed needs the device to offer it. Default: packed if offered. */
  readonly ring?: 'split' | 'packed';
  /** Wanted queue size; a device with smaller queues wins. Default 256. */
  readonly queueSize?: number;
  /** Queue pairs to use, at most what the device has. Default 1. */
  readonly pairs?: number;
  /** Feature bits to accept beyond those the driver takes anyway: of `OPTIONAL_FEATURES`. */
  readonly with?: readonly number[];
  /** Accept VIRTIO_NET_F_RSS and spread received frames with it. An empty record takes the defaults. */
  readonly rss?: RssOptions;
  /** Accept VIRTIO_NET_F_HASH_REPORT: received frames carry `hashValue` and `hashReport`. With RSS its key and types are hashed with, else these. */
  readonly hashReport?: HashOptions;
  /** Drive a transitional device through its legacy interface: the I/O BAR, split rings, 32 feature bits. */
  readonly legacy?: boolean;
  /** How the commands that modify and query objects are numbered, where the specification says both. Default 'table'. */
  readonly objectOpcodes?: 'table' | 'text';
  /** Let the driver choose each receive queue's interrupt moderation by its load (needs VQ_NOTF_COAL). */
  readonly moderation?: 'adaptive';
  /** What the guest announces when the device asks for it (GUEST_ANNOUNCE). */
  readonly addresses?: GuestAddresses;
  /** Feature bits not to accept although the driver knows them. */
  readonly without?: readonly number[];
  /** Feature bits without which to give up. */
  readonly require?: readonly number[];
  /** A vector per queue, one for all, or the legacy line. A device short of vectors gets what it has. Default 'per-queue'. */
  readonly interrupts?: 'per-queue' | 'shared' | 'intx';
  /** Empty polls of a scheduled queue before its interrupts are turned on again: 0 is an interrupt per burst, more trades CPU for latency. Default 0. */
  readonly busyPolls?: number;
  /** Bytes of a mergeable receive buffer. Default 2048. */
  readonly receiveBuffer?: number;
  /** The header of a transmitted frame in a descriptor of its own. */
  readonly separateHeader?: boolean;
  /** Turn promiscuous mode on, for guests that are to see frames addressed to others, as in a replayed capture. */
  readonly promiscuous?: boolean;
  /** Accept VIRTIO_F_SR_IOV, which has to precede enabling virtual functions. */
  readonly sriov?: boolean;
}

/** How a guest has its received frames hashed. */
export interface HashOptions {
  /** Default: DEFAULT_RSS_KEY. */
  readonly key?: Uint8Array;
  /** NET_HASH_TYPE bits; those the device does not support are left out. Default: all. */
  readonly hashTypes?: number;
  /** NET_HASH_TUNNEL bits whose inner headers are hashed, which asks for HASH_TUNNEL; those the device does not support are left out. Default 0. */
  readonly tunnels?: number;
}

/** What a guest asks of receive-side scaling; what is left out has a default that spreads evenly over all queues in use. */
export interface RssOptions extends HashOptions {
  /** Receive queues by the low bits of the hash: a power of two of entries. Default: the queues in turn, 128 entries or what the device has. */
  readonly table?: readonly number[];
  /** Where frames without a hash go. Default 0. */
  readonly unclassified?: number;
  /** How many transmit queues the driver may use. Default: its queue pairs. */
  readonly maxTransmitQueues?: number;
}

/**
 * What a driver with these options accepts of what is offered. @param sriov the function has the SR-IOV capability
 * @throws VirtioError when the device does not offer what the options ask for.
 */
export function acceptedFeatures(offered: bigint, options: VirtioNetOptions, sriov: boolean): bigint {
  const { ring, without = [], require = [], legacy = false, rss, hashReport } = options;
  const wanted = new Set([...(legacy ? LEGACY_FEATURES : DRIVER_FEATURES), ...(options.with ?? []), ...require]);
  // virtio 1.4 6.1 (driver MUST NOT): not of a device without the capability, whatever it offers.
  if (options.sriov && sriov) wanted.add(VIRTIO_F.SR_IOV);
  if (rss) wanted.add(VIRTIO_NET_F.RSS);
  if (hashReport) wanted.add(VIRTIO_NET_F.HASH_REPORT);
  if ((rss?.tunnels ?? hashReport?.tunnels ?? 0) !== 0) wanted.add(VIRTIO_NET_F.HASH_TUNNEL);
  if (ring === 'split') wanted.delete(VIRTIO_F.RING_PACKED);
  for (const bit of without) wanted.delete(bit);
  // 5.1.9.8 wants the header in a descriptor of its own without ANY_LAYOUT, and merged buffers have it with the frame.
  if (legacy && !(hasFeature(offered, VIRTIO_F.ANY_LAYOUT) && wanted.has(VIRTIO_F.ANY_LAYOUT))) wanted.delete(VIRTIO_NET_F.MRG_RXBUF);
  const accepted = chooseFeatures(offered, featureMask(wanted));
  const needed = [...(legacy ? [] : [VIRTIO_F.VERSION_1]), ...(ring === 'packed' ? [VIRTIO_F.RING_PACKED] : []), ...require];
  const missing = needed.filter((bit) => !hasFeature(accepted, bit));
  if (missing.length > 0)
    throw new VirtioError('ERR_VIRTIO_FEATURES', `the device does not offer feature bits ${missing.join(', ')}, which this guest was told to use`);
  return accepted;
}

export interface NetConfiguration {
  readonly mac: Uint8Array;
  readonly linkUp: boolean;
  readonly announce: boolean;
  readonly maxPairs: number;
  /** 0: the device has no opinion. */
  readonly mtu: number;
  /** Mbit/s, or undefined when unknown. */
  readonly speed: number | undefined;
  readonly fullDuplex: boolean | undefined;
  /** Longest RSS key and largest indirection table the device takes, and the hash and tunnel types it knows; 0 without the features. */
  readonly rssMaxKeySize: number;
  readonly rssMaxTable: number;
  readonly hashTypes: number;
  readonly tunnelTypes: number;
}

/** Before anything was read. */
export const NO_CONFIGURATION: NetConfiguration = {
  mac: new Uint8Array(6),
  linkUp: true,
  announce: false,
  maxPairs: 1,
  mtu: 0,
  speed: undefined,
  fullDuplex: undefined,
  rssMaxKeySize: 0,
  rssMaxTable: 0,
  hashTypes: 0,
  tunnelTypes: 0,
};

/** virtio 1.4 5.1.4.1 (device MUST): no smaller one is valid. */
const SMALLEST_MTU = 68;

/** Fields of features that were not negotiated are not touched; they get the value the spec tells a driver to assume. @throws VirtioError */
export function readNetConfiguration(transport: VirtioTransport, features: bigint): NetConfiguration {
  const has = (bit: number): boolean => hasFeature(features, bit);
  const hashes = has(VIRTIO_NET_F.RSS) || has(VIRTIO_NET_F.HASH_REPORT);
  return transport.readConfig((at) => {
    const mac = new Uint8Array(6);
    // virtio 1.4 5.1.4.2 (driver): the address in config, or a locally administered one.
    if (has(VIRTIO_NET_F.MAC)) for (let i = 0; i < 6; i++) mac[i] = at(NET_CFG.mac + i, 1);
    else mac.set([0x02, 0x6e, 0x62, 0x00, transport.rid >> 8, transport.rid & 0xff]);
    const status = has(VIRTIO_NET_F.STATUS) ? at(NET_CFG.status, 2) : NET_STATUS_LINK_UP;
    const speed = has(VIRTIO_NET_F.SPEED_DUPLEX) ? at(NET_CFG.speed, 4) : 0xffffffff;
    const mtu = has(VIRTIO_NET_F.MTU) ? at(NET_CFG.mtu, 2) : 0;
    const duplex = has(VIRTIO_NET_F.SPEED_DUPLEX) ? at(NET_CFG.duplex, 1) : 0xff;
    return {
      mac,
      linkUp: (status & NET_STATUS_LINK_UP) !== 0,
      announce: has(VIRTIO_NET_F.GUEST_ANNOUNCE) && (status & NET_STATUS_ANNOUNCE) !== 0,
      maxPairs: has(VIRTIO_NET_F.MQ) || has(VIRTIO_NET_F.RSS) ? at(NET_CFG.max_virtqueue_pairs, 2) : 1,
      mtu: mtu >= SMALLEST_MTU ? mtu : 0,
      // Values out of range mean unknown.
      speed: speed <= 0x7fffffff ? speed : undefined,
      fullDuplex: duplex <= 1 ? duplex === 1 : undefined,
      rssMaxKeySize: hashes ? at(NET_CFG.rss_max_key_size, 1) : 0,
      rssMaxTable: has(VIRTIO_NET_F.RSS) ? at(NET_CFG.rss_max_indirection_table_length, 2) : 0,
      hashTypes: hashes ? at(NET_CFG.supported_hash_types, 4) & NET_HASH_TYPES_ALL : 0,
      tunnelTypes: has(VIRTIO_NET_F.HASH_TUNNEL) ? at(NET_CFG.supported_tunnel_types, 4) & NET_HASH_TUNNELS_ALL : 0,
    };
  });
}
