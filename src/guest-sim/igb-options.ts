// What a guest asks of its 82576, and of a virtual function of one. Plain cloneable data.

import { EITR_MOST, RETA_ENTRIES, RSS_KEY_BYTES } from './igb-constants.ts';

export interface IgbRssOptions {
  /** 40 bytes. Default DEFAULT_RSS_KEY. */
  readonly key?: Uint8Array;
  /** Pair by hash, up to 128 entries, repeated to fill the device's table. Default: round robin. */
  readonly table?: readonly number[];
  /** NET_HASH_TYPE bits. Default: IPv4, IPv6 and TCP and UDP over them, without the extension header kinds. */
  readonly hashTypes?: number;
}

/** What both kinds of function take. */
export interface AdvancedQueueOptions {
  /** Descriptors in each ring, a multiple of 8, 32 to 4096. Default 256. */
  readonly ringSize?: number;
  /** EITR: least microseconds between two interrupts of a vector; 0: no limit. Default 0. */
  readonly itr?: number;
  /** Payload bytes of the longest frame, 68 to 9710. Default 1500. */
  readonly mtu?: number;
  /** Headers of IP packets in buffers of their own. Default false. */
  readonly splitHeaders?: boolean;
  /** Completed transmit descriptors told by a head in memory. Default false. */
  readonly headWriteBack?: boolean;
  /** Empty polls before interrupts are turned on again. Default 0. */
  readonly busyPolls?: number;
}

/** An MSI-X vector for each pair and one for the rest; one MSI for all; the line for all. */
export type InterruptStyle = 'msix' | 'msi' | 'intx';

export interface IgbOptions extends AdvancedQueueOptions {
  /** Default: the first of these that the device has. Virtual functions can be enabled with MSI-X only. */
  readonly interrupts?: InterruptStyle;
  /** Queue pairs, 1 to 8; at most 2 while virtual functions are enabled. Default 1. */
  readonly pairs?: number;
  /** Spread received frames over the pairs. Default: with more than one pair, as said there. */
  readonly rss?: IgbRssOptions;
  readonly promiscuous?: boolean;
  /** VLAN ids to receive; tags are stripped by the device. Absent: tags are left alone. */
  readonly vlans?: readonly number[];
  /** Answer and send PAUSE frames. Default true. */
  readonly flowControl?: boolean;
}

export interface IgbvfOptions extends AdvancedQueueOptions {
  /** 1 or 2. Default 1. */
  readonly pairs?: number;
  /** Ask the PF for this address in place of the one it gave. */
  readonly mac?: Uint8Array;
  readonly vlans?: readonly number[];
  /** Asked of the PF; a PF that refuses leaves the function without, which is told by `extensions`. */
  readonly promiscuous?: boolean;
}

const STYLES: readonly InterruptStyle[] = ['msix', 'msi', 'intx'];
const SMALLEST_RING = 32;
const LARGEST_RING = 4096;
export const LARGEST_MTU = 9710;
export const MOST_PAIRS = 8;
export const MOST_VF_PAIRS = 2;

/** @throws RangeError */
export function checkAdvancedOptions(options: IgbOptions | IgbvfOptions, mostPairs: number): void {
  const { ringSize = 256, itr = 0, mtu = 1500, pairs = 1, vlans = [] } = options;
  if (!(Number.isInteger(ringSize) && ringSize >= SMALLEST_RING && ringSize <= LARGEST_RING && ringSize % 8 === 0))
    throw new RangeError(`ring size ${ringSize}: give a multiple of 8 from ${SMALLEST_RING} to ${LARGEST_RING}`);
  if (!(Number.isInteger(itr) && itr >= 0 && itr <= EITR_MOST)) throw new RangeError(`itr ${itr}: give 0 to ${EITR_MOST} microseconds`);
  if (!(Number.isInteger(mtu) && mtu >= 68 && mtu <= LARGEST_MTU)) throw new RangeError(`mtu ${mtu}: give 68 to ${LARGEST_MTU}`);
  if (!(Number.isInteger(pairs) && pairs >= 1 && pairs <= mostPairs)) throw new RangeError(`${pairs} queue pairs: give 1 to ${mostPairs}`);
  for (const id of vlans) checkVlan(id);
  const { interrupts = 'msix' } = options as IgbOptions;
  if (!STYLES.includes(interrupts)) throw new RangeError(`interrupts ${interrupts}: give one of ${STYLES.join(', ')}`);
}

/** @throws RangeError */
export function checkVlan(id: number): void {
  if (!(Number.isInteger(id) && id >= 0 && id <= 0xfff)) throw new RangeError(`VLAN id ${id}: give 0 to 4095`);
}

/** @throws RangeError */
export function checkRss({ key, table }: IgbRssOptions, pairs: number): void {
  if (key && key.length !== RSS_KEY_BYTES) throw new RangeError(`an RSS key of ${key.length} bytes: the device takes ${RSS_KEY_BYTES}`);
  if (!table) return;
  if (table.length === 0 || table.length > RETA_ENTRIES || RETA_ENTRIES % table.length !== 0)
    throw new RangeError(`an RSS table of ${table.length} entries: give a power of two up to ${RETA_ENTRIES}`);
  for (const pair of table)
    if (!(Number.isInteger(pair) && pair >= 0 && pair < pairs)) throw new RangeError(`pair ${pair} of an RSS table is not among the ${pairs} in use`);
}
