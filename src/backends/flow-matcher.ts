// Flow filter rules applied to frames (virtio 1.4 5.1.9.6): which of the rules in the policy words comes first for a frame. At most FLOW_RULES rules and three headers are looked
// at for a frame, and an IPv6 chain of at most eight extension headers; nothing is allocated.
//
// Our reading: the 14 bytes of the Ethernet selector are the frame's first 14, so a tagged frame's EtherType is its tag's and no IP selector applies to it. A fragment other than
// the first has no transport header to match.

import type { FrameBatch } from '#net/port';
import * as flow from '#virtio/flow-rules';
import type { NetPolicy } from '#virtio/net-policy';
import { frameByte } from './receive-filter.ts';

const ETHERNET_HEADER = 14;
const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const TCP_HEADER = 20;
const UDP_HEADER = 8;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const TCP = 6;
const UDP = 17;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const DESTINATION = 60;
const LONGEST_CHAIN = 8;
const NO_PROTOCOL = 256;

export class FlowMatcher {
  #table: Int32Array = new Int32Array(flow.FLOW_TABLE_WORDS);
  /** Headers of the frame in hand, as in the rules. */
  readonly #words = new Int32Array(flow.FLOW_HEADER_WORDS);
  readonly #bytes = new Uint8Array(this.#words.buffer);
  #network = 0;
  #transport = 0;
  // Where the frame in hand lies when its first segment holds all that is looked at; undefined: byte by byte.
  #u8: Uint8Array | undefined;
  #offset = 0;

  open(policy: NetPolicy): void {
    this.#table = policy.flowRules;
  }

  /** There are rules. */
  get active(): boolean {
    return (this.#table[0] as number) > 0;
  }

  /** The queue pair for frame `f`, of at least 14 bytes, FLOW_DROP or FLOW_NONE. */
  match(batch: FrameBatch, f: number): number {
    const table = this.#table;
    const rules = Math.min(table[0] as number, flow.FLOW_RULES);
    this.#read(batch, f);
    for (let i = 0; i < rules; i++) if (this.#applies(1 + i * flow.FLOW_RULE_WORDS)) return table[1 + i * flow.FLOW_RULE_WORDS + flow.FLOW_ACTION] as number;
    return flow.FLOW_NONE;
  }

  #applies(rule: number): boolean {
    const table = this.#table;
    const network = table[rule + flow.FLOW_NETWORK] as number;
    if (network !== 0 && network !== this.#network) return false;
    const transport = table[rule + flow.FLOW_TRANSPORT] as number;
    if (transport !== 0 && transport !== this.#transport) return false;
    const words = this.#words;
    const last = Math.min(table[rule + flow.FLOW_LAST] as number, flow.FLOW_HEADER_WORDS - 1);
    const mask = rule + flow.FLOW_MASK;
    const key = rule + flow.FLOW_KEY;
    for (let word = table[rule + flow.FLOW_FIRST] as number; word <= last; word++)
      if (((words[word] as number) & (table[mask + word] as number)) !== table[key + word]) return false;
    return true;
  }

  /** Lays the frame's headers out. */
  #read(batch: FrameBatch, f: number): void {
    const length = batch.length[f] as number;
    const first = batch.firstSegment[f] as number;
    const { segments } = batch;
    const whole = (segments.length[first] as number) >= Math.min(length, 256);
    this.#u8 = whole ? segments.views[first]?.u8 : undefined;
    this.#offset = segments.offset[first] as number;
    this.#network = 0;
    this.#transport = 0;
    this.#copy(batch, f, 0, flow.FLOW_ETHERNET_WORD, ETHERNET_HEADER);
    const type = ((this.#bytes[12] as number) << 8) | (this.#bytes[13] as number);
    if (type === ETHERTYPE_IPV4) this.#ipv4(batch, f, length);
    else if (type === ETHERTYPE_IPV6) this.#ipv6(batch, f, length);
  }

  #ipv4(batch: FrameBatch, f: number, length: number): void {
    if (length < ETHERNET_HEADER + IPV4_HEADER) return;
    this.#copy(batch, f, ETHERNET_HEADER, flow.FLOW_NETWORK_WORD, IPV4_HEADER);
    const bytes = this.#bytes;
    const at = 4 * flow.FLOW_NETWORK_WORD;
    const version = bytes[at] as number;
    if (version >>> 4 !== 4) return;
    this.#network = 4;
    const header = (version & 15) * 4;
    const fragment = (((bytes[at + 6] as number) & 0x1f) << 8) | (bytes[at + 7] as number);
    if (header >= IPV4_HEADER && fragment === 0) this.#transportAt(batch, f, length, ETHERNET_HEADER + header, bytes[at + 9] as number);
  }

  #ipv6(batch: FrameBatch, f: number, length: number): void {
    if (length < ETHERNET_HEADER + IPV6_HEADER) return;
    this.#copy(batch, f, ETHERNET_HEADER, flow.FLOW_NETWORK_WORD, IPV6_HEADER);
    const bytes = this.#bytes;
    const base = 4 * flow.FLOW_NETWORK_WORD;
    if ((bytes[base] as number) >>> 4 !== 6) return;
    this.#network = 6;
    let next = bytes[base + 6] as number;
    let at = ETHERNET_HEADER + IPV6_HEADER;
    let laterFragment = false;
    for (let header = 0; isExtension(next); header++) {
      // A chain that is cut off or has no end: whatever follows is not known.
      if (header === LONGEST_CHAIN || at + 8 > length) {
        next = NO_PROTOCOL;
        break;
      }
      const kind = next;
      next = this.#byte(batch, f, at);
      if (kind === FRAGMENT) {
        laterFragment ||= ((this.#byte(batch, f, at + 2) << 8) | (this.#byte(batch, f, at + 3) & 0xf8)) !== 0;
        at += 8;
      } else at += kind === AUTHENTICATION ? 4 * (this.#byte(batch, f, at + 1) + 2) : 8 * (this.#byte(batch, f, at + 1) + 1);
    }
    // virtio 1.4 5.1.9.6.2.2: Next Header is that of the last extension header.
    if (next !== NO_PROTOCOL) bytes[base + 6] = next;
    if (!laterFragment) this.#transportAt(batch, f, length, at, next);
  }

  #transportAt(batch: FrameBatch, f: number, length: number, at: number, protocol: number): void {
    const size = protocol === TCP ? TCP_HEADER : protocol === UDP ? UDP_HEADER : 0;
    if (size === 0 || at + size > length) return;
    this.#copy(batch, f, at, flow.FLOW_TRANSPORT_WORD, size);
    this.#transport = protocol;
  }

  #copy(batch: FrameBatch, f: number, from: number, word: number, count: number): void {
    const bytes = this.#bytes;
    const to = 4 * word;
    const u8 = this.#u8;
    if (u8 !== undefined && from + count <= 256) {
      const start = this.#offset + from;
      for (let i = 0; i < count; i++) bytes[to + i] = u8[start + i] as number;
    } else for (let i = 0; i < count; i++) bytes[to + i] = frameByte(batch, f, from + i);
  }

  #byte(batch: FrameBatch, f: number, at: number): number {
    return this.#u8 !== undefined && at < 256 ? (this.#u8[this.#offset + at] as number) : frameByte(batch, f, at);
  }
}

function isExtension(next: number): boolean {
  return next === HOP_BY_HOP || next === ROUTING || next === FRAGMENT || next === AUTHENTICATION || next === DESTINATION;
}
