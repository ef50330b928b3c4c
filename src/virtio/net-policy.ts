// What a virtio-net control plane tells the data plane besides the rings: receive filters, guest offloads, active queue pairs, link state, notification
// coalescing. Shared words that
// the device writes and the data plane reads at the start of a turn, when the generation has moved. One writer (the machine's thread).

import { FLOW_TABLE_WORDS, type FlowRule, writeFlowRules } from './flow-rules.ts';
import { type RssLimits, RssPolicy, rssPolicyWords } from './rss-policy.ts';

export const POLICY_LINK_UP = 1;
export const POLICY_PROMISCUOUS = 2;
export const POLICY_ALL_MULTICAST = 4;
export const POLICY_ALL_UNICAST = 8;
export const POLICY_NO_MULTICAST = 16;
export const POLICY_NO_UNICAST = 32;
export const POLICY_NO_BROADCAST = 64;
/** Frames with a VLAN tag pass only for ids in the table (VIRTIO_NET_F_CTRL_VLAN negotiated). */
export const POLICY_VLAN_FILTER = 128;
/** DRIVER_OK is set and the device is not suspended or in need of reset. */
export const POLICY_ACTIVE = 256;

/** MAC filter entries of each kind; a table that overflows is set as all-unicast or all-multicast by the device. */
export const POLICY_MAC_ENTRIES = 64;

const GENERATION = 0;
const FLAGS = 1;
const ACCEPTS = 2;
const HEADER_LENGTH = 3;
const ACTIVE_PAIRS = 4;
const MAXIMUM_FRAME = 5;
const MAC = 6; // two words: bytes 0-3, bytes 4-5
const UNICAST_COUNT = 8;
const MULTICAST_COUNT = 9;
const UNICAST = 16;
const MULTICAST = UNICAST + 2 * POLICY_MAC_ENTRIES;
const VLAN = MULTICAST + 2 * POLICY_MAC_ENTRIES;
/** Two words a data ring: max_packets, max_usecs. */
const COALESCING = VLAN + 128;
const MOST_RINGS = 128;
const FLOW = COALESCING + 2 * MOST_RINGS;
const RSS_TABLE_LENGTH = FLOW + FLOW_TABLE_WORDS;
const RSS_CONTEXTS = RSS_TABLE_LENGTH + 1;
const RSS = RSS_CONTEXTS + 1;

const DEFAULT_LIMITS: RssLimits = { tableLength: 128, contexts: 0 };

export class NetPolicy {
  readonly buffer: SharedArrayBuffer;
  readonly rss: RssPolicy;
  readonly #words: Int32Array;
  /** The flow filter's table (flow-rules.ts). */
  readonly flowRules: Int32Array;
  /** Both tables of addresses, with how many there are in each. */
  readonly tableWords: Int32Array;
  /** The VLAN table: bit `id & 31` of word `id >>> 5`. */
  readonly vlanWords: Int32Array;

  /** New words with room for these tables, or a view of another thread's. */
  constructor(source: RssLimits | SharedArrayBuffer = DEFAULT_LIMITS) {
    if (source instanceof SharedArrayBuffer) {
      this.buffer = source;
      this.#words = new Int32Array(source);
    } else {
      this.buffer = new SharedArrayBuffer(4 * (RSS + rssPolicyWords(source)));
      this.#words = new Int32Array(this.buffer);
      this.#words[RSS_TABLE_LENGTH] = source.tableLength;
      this.#words[RSS_CONTEXTS] = source.contexts;
    }
    this.flowRules = this.#words.subarray(FLOW, FLOW + FLOW_TABLE_WORDS);
    this.tableWords = this.#words.subarray(UNICAST_COUNT, VLAN);
    this.vlanWords = this.#words.subarray(VLAN, COALESCING);
    const limits = { tableLength: this.#words[RSS_TABLE_LENGTH] as number, contexts: this.#words[RSS_CONTEXTS] as number };
    this.rss = new RssPolicy(this.buffer, 4 * RSS, limits);
    // Until somebody says which queues there are, all of them.
    if (!(source instanceof SharedArrayBuffer)) this.rss.live = [-1, -1];
  }

  /** These words with nothing said in them, or new ones where these have other room: for whose driver may come and go as often as it likes. */
  cleared(limits: RssLimits): NetPolicy {
    const own = this.rss.limits;
    if (own.tableLength !== limits.tableLength || own.contexts !== limits.contexts) return new NetPolicy(limits);
    this.update(() => {
      this.#words.fill(0, FLAGS, RSS_TABLE_LENGTH);
      this.#words.fill(0, RSS);
      this.rss.live = [-1, -1];
    });
    return this;
  }

  /** All of another's, with the same room. */
  copy(other: NetPolicy): void {
    this.#words.set(other.#words);
  }

  get generation(): number {
    return Atomics.load(this.#words, GENERATION);
  }

  /** Writes fields, then moves the generation: a reader sees all of a change or none of it (it re-reads when the generation is odd or moved). */
  update(write: (policy: NetPolicy) => void): void {
    Atomics.add(this.#words, GENERATION, 1);
    write(this);
    Atomics.add(this.#words, GENERATION, 1);
  }

  get flags(): number {
    return this.#words[FLAGS] as number;
  }
  set flags(bits: number) {
    this.#words[FLAGS] = bits;
  }

  /** ACCEPTS_* bits (net/port.ts) the guest takes on receive. */
  get accepts(): number {
    return this.#words[ACCEPTS] as number;
  }
  set accepts(bits: number) {
    this.#words[ACCEPTS] = bits;
  }

  /** Bytes of virtio_net_hdr in front of every frame. */
  get headerLength(): number {
    return this.#words[HEADER_LENGTH] as number;
  }
  set headerLength(bytes: number) {
    this.#words[HEADER_LENGTH] = bytes;
  }

  /** Pairs whose transmit queues are served and, under automatic steering, whose receive queues get frames. */
  get activePairs(): number {
    return this.#words[ACTIVE_PAIRS] as number;
  }
  set activePairs(pairs: number) {
    this.#words[ACTIVE_PAIRS] = pairs;
  }

  /** Longest frame the device may put to the guest when it is not a GSO frame: Ethernet header, one VLAN tag, MTU. 0: no limit. */
  get maximumFrame(): number {
    return this.#words[MAXIMUM_FRAME] as number;
  }
  set maximumFrame(bytes: number) {
    this.#words[MAXIMUM_FRAME] = bytes;
  }

  /** The MAC address as (bytes 0-3 little-endian, bytes 4-5 little-endian). */
  get macLow(): number {
    return this.#words[MAC] as number;
  }
  get macHigh(): number {
    return this.#words[MAC + 1] as number;
  }
  setMac(mac: Uint8Array): void {
    this.#setAddress(MAC, mac);
  }

  setTable(kind: 'unicast' | 'multicast', addresses: readonly Uint8Array[]): void {
    const base = kind === 'unicast' ? UNICAST : MULTICAST;
    const count = Math.min(addresses.length, POLICY_MAC_ENTRIES);
    for (let i = 0; i < count; i++) this.#setAddress(base + 2 * i, addresses[i] as Uint8Array);
    this.#words[kind === 'unicast' ? UNICAST_COUNT : MULTICAST_COUNT] = count;
  }

  /** The addresses of a table, as bytes. */
  table(kind: 'unicast' | 'multicast'): Uint8Array[] {
    const base = kind === 'unicast' ? UNICAST : MULTICAST;
    const count = Math.min(this.#words[kind === 'unicast' ? UNICAST_COUNT : MULTICAST_COUNT] as number, POLICY_MAC_ENTRIES);
    return Array.from({ length: count }, (_, i) => this.#address(base + 2 * i));
  }

  get mac(): Uint8Array {
    return this.#address(MAC);
  }

  /** True when the address (same two words as macLow, macHigh) is in the table of its kind. */
  inTable(low: number, high: number): boolean {
    const multicast = (low & 1) !== 0;
    const base = multicast ? MULTICAST : UNICAST;
    const count = Math.min(this.#words[multicast ? MULTICAST_COUNT : UNICAST_COUNT] as number, POLICY_MAC_ENTRIES);
    for (let i = 0; i < count; i++) if (this.#words[base + 2 * i] === low && this.#words[base + 2 * i + 1] === high) return true;
    return false;
  }

  setVlan(id: number, on: boolean): void {
    const word = VLAN + ((id & 0xfff) >>> 5);
    const bit = 1 << (id & 31);
    this.#words[word] = on ? (this.#words[word] as number) | bit : (this.#words[word] as number) & ~bit;
  }

  hasVlan(id: number): boolean {
    return ((this.#words[VLAN + ((id & 0xfff) >>> 5)] as number) & (1 << (id & 31))) !== 0;
  }

  /** All of the table: bit `id & 31` of word `id >>> 5`. */
  setVlans(bits: Uint32Array): void {
    for (let i = 0; i < 128; i++) this.#words[VLAN + i] = bits[i] ?? 0;
  }

  clearVlans(): void {
    this.#words.fill(0, VLAN, VLAN + 128);
  }

  /** Tried in this order. */
  setFlowRules(rules: readonly FlowRule[]): void {
    writeFlowRules(this.flowRules, rules);
  }

  /** Notification coalescing of data ring `index` (virtio 1.4 5.1.9.5.10): both 32 bits wide; either 0 is none. */
  setCoalescing(index: number, maxPackets: number, maxUsecs: number): void {
    this.#words[COALESCING + 2 * index] = maxPackets;
    this.#words[COALESCING + 2 * index + 1] = maxUsecs;
  }

  maxPackets(index: number): number {
    return (this.#words[COALESCING + 2 * index] as number) >>> 0;
  }

  maxUsecs(index: number): number {
    return (this.#words[COALESCING + 2 * index + 1] as number) >>> 0;
  }

  #address(at: number): Uint8Array {
    const [low, high] = [this.#words[at] as number, this.#words[at + 1] as number];
    return Uint8Array.of(low, low >>> 8, low >>> 16, low >>> 24, high, high >>> 8);
  }

  #setAddress(at: number, mac: Uint8Array): void {
    this.#words[at] = (mac[0] as number) | ((mac[1] as number) << 8) | ((mac[2] as number) << 16) | ((mac[3] as number) << 24);
    this.#words[at + 1] = (mac[4] as number) | ((mac[5] as number) << 8);
  }
}
