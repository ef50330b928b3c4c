// The tables of an embedded switch as shared words: written by the control side (the machine's thread), read by the thread that serves the segment. A change is made
// while no batch is being looked up, and is in force for every batch after it (`SwitchTables.change`): the same lock that a DMA space's table has. Counters, meters' buckets and learnt
// stations are written by the data side alone, but for resets and flushes, which are changes.

import { DmaTable, makeBuffer } from '#core/dma-table';
import { MacTable } from '../mac-table.ts';

// ---- numbers ----

export const MODE_LEGACY = 0;
export const MODE_SWITCHDEV = 1;

// `config`
export const CONFIG_MODE = 0;
export const CONFIG_VEPA = 1;
export const CONFIG_LEARNING = 2;
export const CONFIG_MULTICAST_FLOOD = 3;
/** LAG_*. */
export const CONFIG_LAG = 4;
export const CONFIG_LAG_PRIMARY = 5;
/** Any port has a mirror, a rate. */
export const CONFIG_MIRRORS = 7;
export const CONFIG_RATES = 8;
export const CONFIG_VXLAN_PORT = 9;
export const CONFIG_GENEVE_PORT = 10;
/** Any port that gets unicast frames that are for others. */
export const CONFIG_PROMISCUOUS = 11;
/** What the hash of rules starts from: a number of this switch's own. */
export const CONFIG_HASH_SEED = 12;
const CONFIG_WORDS = 16;

export const LAG_OFF = 0;
export const LAG_HASH_L2 = 1;
export const LAG_HASH_L34 = 2;
export const LAG_BACKUP = 3;

// `ports`, a record a port
export const PORT_FLAGS = 0;
export const PORT_TCI = 1;
export const PORT_TPID = 2;
export const PORT_MIRROR_INGRESS = 3;
export const PORT_MIRROR_EGRESS = 4;
export const PORT_VLANS = 8;
export const PORT_WORDS = PORT_VLANS + 128;

export const PORT_LINK_UP = 1;
export const PORT_CHECK_MAC = 2;
export const PORT_CHECK_VLAN = 4;
export const PORT_PROMISCUOUS = 8;
export const PORT_ALL_MULTICAST = 16;
export const PORT_HAIRPIN = 32;
export const PORT_LEARNS = 64;
export const PORT_VLAN_FILTER = 128;
/** A port VLAN is inserted and stripped. */
export const PORT_HAS_VLAN = 256;

// `rates`, a record a port and one for the transmit scheduler as a whole (its minimum: what no port's takes): bytes a nanosecond (0: none), burst in bytes; then the buckets, the data side's.
export const RATE_MAXIMUM = 0;
export const RATE_MINIMUM = 1;
export const RATE_BURST = 2;
export const RATE_TOKENS = 3;
export const RATE_GUARANTEED = 4;
export const RATE_STAMP = 5;
export const RATE_FLOATS = 8;

/** Why a frame went nowhere, or not to a destination. */
export const SWITCH_DROP_REASONS = [
  'link-down',
  'malformed',
  'spoofed-mac',
  'spoofed-vlan',
  'vlan',
  'reserved-address',
  'same-port',
  'unknown-destination',
  'ingress-acl',
  'egress-acl',
  'rule',
  'meter',
  'ttl',
  'no-representor',
  'no-port',
  'backup-link',
  'not-applicable',
] as const;
export type SwitchDropReason = (typeof SWITCH_DROP_REASONS)[number];
export const WHY_LINK_DOWN = 0;
export const WHY_MALFORMED = 1;
export const WHY_SPOOFED_MAC = 2;
export const WHY_SPOOFED_VLAN = 3;
export const WHY_VLAN = 4;
export const WHY_RESERVED = 5;
export const WHY_SAME_PORT = 6;
export const WHY_UNKNOWN = 7;
export const WHY_INGRESS_ACL = 8;
export const WHY_EGRESS_ACL = 9;
export const WHY_RULE = 10;
export const WHY_METER = 11;
export const WHY_TTL = 12;
export const WHY_NO_REPRESENTOR = 13;
export const WHY_NO_PORT = 14;
export const WHY_BACKUP = 15;
export const WHY_NOT_APPLICABLE = 16;
/** `accounts`, a record a port: frames it sent that were looked at, frames of them that went nowhere, misses; then drops by reason as a source, and as a destination. */
export const ACCOUNT_FRAMES = 0;
export const ACCOUNT_FORWARDED = 1;
export const ACCOUNT_DROPPED = 2;
export const ACCOUNT_MISSES = 3;
export const ACCOUNT_SENT_DROPS = 8;
export const ACCOUNT_RECEIVED_DROPS = ACCOUNT_SENT_DROPS + 24;
export const ACCOUNT_FLOATS = ACCOUNT_RECEIVED_DROPS + 24;

// A frame's match key, in words.
export const KEY_PORT = 0;
/** Addresses as mac-table.ts has them: bytes 0-3, and bytes 4-5, little-endian. */
export const KEY_TO_LOW = 1;
export const KEY_FROM_LOW = 2;
/** Destination's bytes 4-5 in the lower half, source's above. */
export const KEY_HIGHS = 3;
/** Outer TCI in the lower half, inner above. */
export const KEY_TAGS = 4;
/** EtherType behind the tags in the lower half, HAS_* above. */
export const KEY_TYPE = 5;
/** From the lowest byte: protocol, traffic class, TTL, TCP flags. */
export const KEY_IP = 6;
/** Source port above, destination port below; of ICMP type and code in the lower half. */
export const KEY_PORTS = 7;
/** Four words each, most significant first; an IPv4 address is the first one. */
export const KEY_SOURCE = 8;
export const KEY_DESTINATION = 12;
/** VNI, and above it 1 for VXLAN, 2 for Geneve: of the tunnel the frame is in, or was in before it was decapsulated. */
export const KEY_TUNNEL = 16;
export const KEY_TUNNEL_SOURCE = 17;
export const KEY_TUNNEL_DESTINATION = 21;
export const KEY_WORDS = 25;

export const HAS_TAG = 1;
export const HAS_INNER_TAG = 2;
/** The outer tag is an S-tag. */
export const HAS_SERVICE_TAG = 4;
export const HAS_IPV4 = 8;
export const HAS_IPV6 = 16;
export const HAS_FRAGMENT = 32;
/** A fragment without the transport header. */
export const HAS_LATER_FRAGMENT = 64;
export const HAS_PORTS = 128;
export const HAS_ICMP = 256;
/** IP of either version. */
export const HAS_IP = 512;

export const TUNNEL_VXLAN = 1;
export const TUNNEL_GENEVE = 2;

// A rule's words.
/** Mask number + 1; 0: no rule. */
export const RULE_MASK = 0;
/** The next rule of its bucket + 1. */
export const RULE_NEXT = 1;
export const RULE_ACTION_WORDS = 2;
export const RULE_KEY = 4;
export const RULE_ACTIONS = RULE_KEY + KEY_WORDS;
export const MAXIMUM_ACTION_WORDS = 43;
export const RULE_WORDS = RULE_ACTIONS + MAXIMUM_ACTION_WORDS;
/** Frames and bytes. */
export const HIT_FLOATS = 2;

/** Rules in one bucket: what bounds a lookup in one mask. */
export const BUCKET_DEPTH = 8;
/** A mask's words: how many key words it looks at, then pairs of which and its bits. */
export const MASK_WORDS = 1 + 2 * KEY_WORDS;
/** Masks of one chain: what bounds a lookup. */
export const MASKS_IN_CHAIN = 32;
const CHAIN_WORDS = 1 + MASKS_IN_CHAIN;
/** Chains beside the numbered ones. */
const EXTRA_CHAINS = 2;

// A meter.
export const METER_RATE = 0;
export const METER_BURST = 1;
export const METER_EXCESS_BURST = 2;
/** METER_*: what happens to a frame of each colour; with a DSCP above. */
export const METER_EXCEED = 3;
export const METER_VIOLATE = 4;
/** 1: counts frames, not bytes. */
export const METER_COUNTS_FRAMES = 5;
export const METER_COMMITTED = 6;
export const METER_EXCESS = 7;
export const METER_STAMP = 8;
/** Frames by colour. */
export const METER_GREEN = 9;
export const METER_YELLOW = 10;
export const METER_RED = 11;
export const METER_FLOATS = 12;
export const METER_PASS = 0;
export const METER_DROP = 1;
export const METER_REMARK = 2;

// A tunnel endpoint: length of its headers, where in them IP and UDP start, IP version, flags; then the headers.
export const TUNNEL_LENGTH = 0;
export const TUNNEL_NETWORK = 1;
export const TUNNEL_TRANSPORT = 2;
export const TUNNEL_VERSION = 3;
export const TUNNEL_CHECKSUM = 4;
export const TUNNEL_WORDS = 5;
export const TUNNEL_HEADERS = 80;

// ---- the tables ----

export interface SwitchLimits {
  /** Flow rules. */
  readonly rules: number;
  /** Chains 0 to `chains` - 1. */
  readonly chains: number;
  /** Different masks in all chains together; each chain has 32 at most. */
  readonly masks: number;
  readonly meters: number;
  readonly counters: number;
  readonly tunnels: number;
  /** Addresses of ports, multicast ones included. */
  readonly addresses: number;
  /** Learnt stations. */
  readonly stations: number;
}

/** What another thread opens a switch's data side from. Structured-cloneable. */
export interface SwitchShare {
  readonly kind: 'embedded-switch';
  readonly buffer: SharedArrayBuffer;
  readonly lock: SharedArrayBuffer;
  readonly limits: SwitchLimits;
  /** Ports without representors: uplinks, the physical function, virtual functions. */
  readonly names: readonly string[];
  readonly uplinks: number;
  readonly ageing: number;
}

export class SwitchTables {
  readonly share: SwitchShare;
  readonly limits: SwitchLimits;
  /** Ports without representors. */
  readonly ports: number;
  readonly config: Int32Array;
  readonly port: Int32Array;
  readonly rates: Float64Array;
  /** When the data side last looked, by its clock. */
  readonly time: Float64Array;
  readonly accounts: Float64Array;
  /** Triples: address low, high, port + 1 (0: free). */
  readonly addresses: Int32Array;
  readonly rules: Int32Array;
  /** Priority, then age: the larger comes first. */
  readonly ranks: Float64Array;
  readonly hits: Float64Array;
  /** First rule + 1. */
  readonly buckets: Int32Array;
  readonly masks: Int32Array;
  /** The best rank among a mask's rules. */
  readonly bestRank: Float64Array;
  /** A count, then mask numbers, best rank first. */
  readonly chains: Int32Array;
  readonly meters: Float64Array;
  readonly counters: Float64Array;
  readonly tunnels: Int32Array;
  readonly tunnelHeaders: Uint8Array;
  readonly stations: MacTable;
  readonly #lock: DmaTable;
  readonly #reader: Int32Array | undefined;

  /** @param reader one shared word for what this thread is as a reader: what to `expel` should it die */
  constructor(share: SwitchShare, reader?: Int32Array) {
    this.share = share;
    this.#reader = reader;
    const { limits } = share;
    this.limits = limits;
    this.ports = share.names.length;
    const layout = new Layout(share.buffer);
    this.stations = new MacTable(limits.stations, share.ageing, layout.bytes(MacTable.bytes(limits.stations)));
    this.rates = layout.floats((this.ports + 1) * RATE_FLOATS);
    this.time = layout.floats(1);
    this.accounts = layout.floats(2 * this.ports * ACCOUNT_FLOATS);
    this.ranks = layout.floats(limits.rules);
    this.hits = layout.floats(limits.rules * HIT_FLOATS);
    this.bestRank = layout.floats(limits.masks);
    this.meters = layout.floats(limits.meters * METER_FLOATS);
    this.counters = layout.floats(limits.counters * HIT_FLOATS);
    this.config = layout.words(CONFIG_WORDS);
    this.port = layout.words(this.ports * PORT_WORDS);
    this.addresses = layout.words(3 * addressSlots(limits.addresses));
    this.rules = layout.words(limits.rules * RULE_WORDS);
    this.buckets = layout.words(bucketsFor(limits.rules));
    this.masks = layout.words(limits.masks * MASK_WORDS);
    this.chains = layout.words((limits.chains + EXTRA_CHAINS) * CHAIN_WORDS);
    this.tunnels = layout.words(limits.tunnels * TUNNEL_WORDS);
    const { buffer, offset, length } = layout.bytes(limits.tunnels * TUNNEL_HEADERS);
    this.tunnelHeaders = new Uint8Array(buffer, offset, length);
    this.#lock = new DmaTable(share.lock);
  }

  /** New tables, all of them empty. */
  static create(share: Omit<SwitchShare, 'buffer' | 'lock' | 'kind'>): SwitchTables {
    return new SwitchTables({ ...share, kind: 'embedded-switch', buffer: new SharedArrayBuffer(Layout.size(share)), lock: makeBuffer(0) });
  }

  /** Control side: runs `write` while no batch is being looked up. */
  change(write: () => void): void {
    this.#lock.change(write);
  }

  /** Data side: from here to `leave` nothing changes. */
  enter(): void {
    this.#lock.enter();
    const reader = this.#reader;
    if (reader !== undefined && reader[0] !== this.#lock.reader) reader[0] = this.#lock.reader;
  }

  /** Of the tables: another one after every change. */
  get generation(): number {
    return this.#lock.generation;
  }

  /** The thread that was this reader is dead: no change waits for it. */
  static expel(share: SwitchShare, reader: number): void {
    new DmaTable(share.lock).expel(reader);
  }

  leave(): void {
    this.#lock.leave();
  }

  get ingressChain(): number {
    return this.limits.chains;
  }

  get egressChain(): number {
    return this.limits.chains + 1;
  }

  /** Where a chain's words begin: its count, then its masks. */
  chainAt(chain: number): number {
    return chain * CHAIN_WORDS;
  }
}

function bucketsFor(rules: number): number {
  return 2 ** Math.ceil(Math.log2(2 * rules));
}

function addressSlots(addresses: number): number {
  return 2 ** Math.ceil(Math.log2(4 * addresses));
}

/** Hands out a buffer from its start, eight bytes at a time. */
class Layout {
  readonly #buffer: SharedArrayBuffer;
  #at = 0;

  constructor(buffer: SharedArrayBuffer) {
    this.#buffer = buffer;
  }

  static size({ limits, names }: { readonly limits: SwitchLimits; readonly names: readonly string[] }): number {
    const ports = names.length;
    const floats =
      (ports + 1) * RATE_FLOATS +
      1 +
      2 * ports * ACCOUNT_FLOATS +
      limits.rules * (1 + HIT_FLOATS) +
      limits.masks +
      limits.meters * METER_FLOATS +
      limits.counters * HIT_FLOATS;
    const words =
      CONFIG_WORDS +
      ports * PORT_WORDS +
      3 * addressSlots(limits.addresses) +
      limits.rules * RULE_WORDS +
      bucketsFor(limits.rules) +
      limits.masks * MASK_WORDS +
      (limits.chains + EXTRA_CHAINS) * CHAIN_WORDS +
      limits.tunnels * TUNNEL_WORDS;
    // Each table may begin up to seven bytes after the one before.
    return MacTable.bytes(limits.stations) + 8 * floats + 4 * words + limits.tunnels * TUNNEL_HEADERS + 8 * 20;
  }

  bytes(length: number): { buffer: SharedArrayBuffer; offset: number; length: number } {
    const offset = this.#at;
    this.#at = (offset + length + 7) & ~7;
    return { buffer: this.#buffer, offset, length };
  }

  words(count: number): Int32Array {
    return new Int32Array(this.#buffer, this.bytes(4 * count).offset, count);
  }

  floats(count: number): Float64Array {
    return new Float64Array(this.#buffer, this.bytes(8 * count).offset, count);
  }
}
