// Which queue a frame goes to, by what is in it (82576 7.1.1.4 to 7.1.2): Ethertype, SYN and 5-tuple filters, then RSS; and which of those filters ask for an interrupt at once or a time stamp (7.3.3.1). A filter with every
// field but the ports left out is what other parts call a 2-tuple filter.

import { FrameHasher } from '#net/frame-hash';
import * as types from '#net/hash-types';
import { PROTOCOL_TCP, PROTOCOL_UDP } from '#net/headers';
import type { FrameBatch } from '#net/port';
import { type PacketInfo, PROTOCOL_SCTP } from './packet-info.ts';
import { AT, MRQC_DEFAULT_QUEUE, MRQC_NONE, MRQC_RSS, MRQC_VMDQ_RSS } from './registers.ts';

const { DAQF, ETQF, FTQF, IMIR, IMIREXT, IMIRVP, MRQC, RETA, RFCTL, RSSRK, SAQF, SPQF, SYNQF } = AT;

const FILTERS = 8;
const ETQF_ENABLE = 1 << 26;
const ETQF_IMMEDIATE = 1 << 29;
const ETQF_TIMESTAMP = 1 << 30;
const ETQF_QUEUE = 1 << 31;
const FTQF_QUEUE = 1 << 8;
const FTQF_ANY_POOL = 1 << 15;
const FTQF_TIMESTAMP = 1 << 27;
const ANY_PROTOCOL = 1 << 28;
const ANY_SOURCE = 1 << 29;
const ANY_DESTINATION = 1 << 30;
const ANY_SOURCE_PORT = 1 << 31;
const IMIR_IMMEDIATE = 1 << 16;
const IMIR_ANY_PORT = 1 << 17;
const ANY_SIZE = 1 << 12;
const ANY_FLAGS = 1 << 19;
const SYN_BEFORE_TUPLES = 1 << 19;
const TCP_SYN = 2;
const VLAN_ENABLE = 8;

/** MRQC 24:16, lowest bit first. */
const FIELDS = [
  types.HASH_TYPE_TCPv4,
  types.HASH_TYPE_IPv4,
  types.HASH_TYPE_TCP_EX,
  types.HASH_TYPE_IP_EX,
  types.HASH_TYPE_IPv6,
  types.HASH_TYPE_TCPv6,
  types.HASH_TYPE_UDPv4,
  types.HASH_TYPE_UDPv6,
  types.HASH_TYPE_UDP_EX,
] as const;

/** RSS type of a descriptor, by HASH_REPORT_* (7.1.6.2). */
const RSS_TYPES: Readonly<Record<number, number>> = {
  [types.HASH_REPORT_NONE]: 0,
  [types.HASH_REPORT_TCPv4]: 1,
  [types.HASH_REPORT_IPv4]: 2,
  [types.HASH_REPORT_TCPv6]: 3,
  [types.HASH_REPORT_IPv6_EX]: 4,
  [types.HASH_REPORT_IPv6]: 5,
  [types.HASH_REPORT_TCPv6_EX]: 6,
  [types.HASH_REPORT_UDPv4]: 7,
  [types.HASH_REPORT_UDPv6]: 8,
  [types.HASH_REPORT_UDPv6_EX]: 9,
};
const TYPE_OF_REPORT = Uint8Array.from({ length: 10 }, (_, report) => RSS_TYPES[report] as number);

const TYPE_ALL_FLAGS = 0x3f;

export class Steering {
  // Of the frame looked at last.
  /** The queue a filter chose, -1: none did. */
  queue = -1;
  /** Pools for which that holds; a 5-tuple filter may be one pool's. */
  pools = 0xff;
  /** The Ethertype filter that matched, -1: none. */
  etherType = -1;
  immediate = false;
  /** A filter says that it is a packet of the time protocol: on Ethernet, over UDP. */
  timeL2 = false;
  timeL4 = false;
  /** Receive hash and its type, 0: none. */
  hash = 0;
  rssType = 0;
  readonly #words: Uint32Array;
  readonly #hasher = new FrameHasher();
  readonly #key = new Uint8Array(types.HASH_KEY_BYTES);
  #mode = 0;
  /** Some filter is on. */
  filters = false;
  #hashes = false;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** Registers were changed. */
  configure(): void {
    const words = this.#words;
    const control = words[MRQC] as number;
    this.#forget();
    this.#mode = control & 7;
    let wanted = 0;
    for (const [bit, type] of FIELDS.entries()) if ((control & (1 << (16 + bit))) !== 0) wanted |= type;
    this.#hashes = (this.#mode === MRQC_RSS || this.#mode === MRQC_VMDQ_RSS) && wanted !== 0;
    for (let i = 0; i < this.#key.length; i++) this.#key[i] = (words[RSSRK + (i >>> 2)] as number) >>> (8 * (i & 3));
    this.#hasher.configure(this.#hashes ? { key: this.#key.slice(), types: wanted, tunnels: 0 } : undefined);
    this.filters = ((words[SYNQF] as number) & 1) !== 0 || ((words[IMIRVP] as number) & VLAN_ENABLE) !== 0;
    for (let n = 0; n < FILTERS; n++) if (((words[ETQF + n] as number) & ETQF_ENABLE) !== 0 || this.#tupleInUse(n)) this.filters = true;
  }

  /** Lets go of what the hash's parameters stand for. */
  close(): void {
    this.#hasher.configure(undefined);
  }

  /** Hashes frames that are looked at soon, all at a time. */
  hashAll(batch: FrameBatch, from: number, to: number): void {
    if (this.#hashes) this.#hasher.hash(batch, from, to);
  }

  #tupleInUse(n: number): boolean {
    const words = this.#words;
    return ((words[FTQF + n] as number) & (FTQF_QUEUE | FTQF_TIMESTAMP)) !== 0 || ((words[IMIR + n] as number) & IMIR_IMMEDIATE) !== 0;
  }

  #forget(): void {
    this.queue = -1;
    this.pools = 0xff;
    this.etherType = -1;
    this.immediate = false;
    this.timeL2 = false;
    this.timeL4 = false;
    this.hash = 0;
    this.rssType = 0;
  }

  /** Looks at a frame whose headers were read. @param tag its VLAN tag, -1: none. @param pools it is for, 0 while there are none */
  look(batch: FrameBatch, frame: number, info: PacketInfo, tag: number, pools: number): void {
    this.#forget();
    this.lookUsual(batch, frame);
    if (this.filters) this.#filter(batch, frame, info, tag, pools);
  }

  /** The same while no filter is on. */
  lookUsual(batch: FrameBatch, frame: number): void {
    if (!this.#hashes) return;
    this.#hasher.hash(batch, frame, frame + 1);
    this.hash = batch.hash[frame] as number;
    this.rssType = TYPE_OF_REPORT[batch.hashReport[frame] as number] as number;
  }

  /** The queue outside of pools. */
  queueOf(): number {
    if (this.queue >= 0) return this.queue;
    if (this.#mode === MRQC_RSS) return this.rssType === 0 ? 0 : this.#indirect() & 15;
    if (this.#mode === MRQC_NONE || this.#mode === MRQC_DEFAULT_QUEUE) return ((this.#words[MRQC] as number) >>> 3) & 7;
    return 0;
  }

  /** The queue in a pool: its first or, where RSS is on in the pool and says so, its second (bit 3 of the entry, 7.10.2.7.3). A filter chooses only among the pool's own. */
  queueIn(pool: number, rss: boolean): number {
    if (this.queue >= 0 && (this.queue & 7) === pool && (this.pools & (1 << pool)) !== 0) return this.queue;
    return rss && this.#mode === MRQC_VMDQ_RSS && this.rssType !== 0 ? pool | (this.#indirect() & 8) : pool;
  }

  #indirect(): number {
    const index = this.hash & 0x7f;
    return (this.#words[RETA + (index >>> 2)] as number) >>> (8 * (index & 3));
  }

  #filter(batch: FrameBatch, frame: number, info: PacketInfo, tag: number, pools: number): void {
    const words = this.#words;
    if (tag >= 0 && ((words[IMIRVP] as number) & VLAN_ENABLE) !== 0 && tag >>> 13 >= ((words[IMIRVP] as number) & 7)) this.immediate = true;
    if (this.#byEtherType(info)) return;
    const synFirst = ((words[RFCTL] as number) & SYN_BEFORE_TUPLES) !== 0;
    const tuple = this.#byTuple(batch.length[frame] as number, info, pools);
    const syn = ((words[SYNQF] as number) & 1) !== 0 && info.tcpFlags >= 0 && (info.tcpFlags & TCP_SYN) !== 0;
    if (syn && (synFirst || !tuple)) {
      this.queue = ((words[SYNQF] as number) >>> 1) & 15;
      this.pools = 0xff;
    }
  }

  #byEtherType(info: PacketInfo): boolean {
    for (let n = 0; n < FILTERS; n++) {
      const filter = this.#words[ETQF + n] as number;
      if ((filter & ETQF_ENABLE) === 0 || (filter & 0xffff) !== info.headers.etherType) continue;
      this.etherType = n;
      if ((filter & ETQF_IMMEDIATE) !== 0) this.immediate = true;
      if ((filter & ETQF_TIMESTAMP) !== 0) this.timeL2 = true;
      if ((filter & ETQF_QUEUE) !== 0) this.queue = (filter >>> 16) & 15;
      return true;
    }
    return false;
  }

  /** True: one of those that match chose the queue, by priority (7.1.1.5). */
  #byTuple(length: number, info: PacketInfo, pools: number): boolean {
    const words = this.#words;
    let best = -1;
    for (let n = 0; n < FILTERS; n++) {
      if (!this.#tupleInUse(n) || !this.#matches(n, length, info, pools)) continue;
      const filter = words[FTQF + n] as number;
      if (((words[IMIR + n] as number) & IMIR_IMMEDIATE) !== 0) this.immediate = true;
      if ((filter & FTQF_TIMESTAMP) !== 0) this.timeL4 = true;
      const priority = (words[IMIR + n] as number) >>> 29;
      if ((filter & FTQF_QUEUE) === 0 || priority <= best) continue;
      best = priority;
      this.queue = (filter >>> 16) & 15;
      this.pools = (filter & FTQF_ANY_POOL) !== 0 ? 0xff : 1 << ((filter >>> 12) & 7);
    }
    return best >= 0;
  }

  #matches(n: number, length: number, info: PacketInfo, pools: number): boolean {
    const words = this.#words;
    const { headers, copied } = info;
    const { u8 } = copied;
    const filter = words[FTQF + n] as number;
    const port = words[IMIR + n] as number;
    const more = words[IMIREXT + n] as number;
    if (headers.version === 0 || headers.fragment) return false;
    if (pools !== 0 && (filter & FTQF_ANY_POOL) === 0 && (pools & (1 << ((filter >>> 12) & 7))) === 0) return false;
    if ((filter & ANY_PROTOCOL) === 0 && (filter & 0xff) !== headers.protocol) return false;
    const anyAddress = ANY_SOURCE | ANY_DESTINATION;
    if ((filter & anyAddress) !== anyAddress && headers.version !== 4) return false;
    // Addresses and ports are in the registers in the order of the network, lowest byte first.
    if ((filter & ANY_SOURCE) === 0 && word(u8, headers.network + 12) !== words[SAQF + n]) return false;
    if ((filter & ANY_DESTINATION) === 0 && word(u8, headers.network + 16) !== words[DAQF + n]) return false;
    const { protocol } = headers;
    const hasPorts = info.sourcePort >= 0 && (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP);
    if ((filter & ANY_SOURCE_PORT) === 0 && (!hasPorts || swap(info.sourcePort) !== ((words[SPQF + n] as number) & 0xffff))) return false;
    if ((port & IMIR_ANY_PORT) === 0 && (!hasPorts || swap(info.destinationPort) !== (port & 0xffff))) return false;
    if ((more & ANY_SIZE) === 0 && length >= (more & 0xfff)) return false;
    return (more & ANY_FLAGS) !== 0 || (info.tcpFlags >= 0 && flagsMatch(info.tcpFlags, (more >>> 13) & TYPE_ALL_FLAGS));
  }
}

/** IMIREXT 18:13 name URG, ACK, PSH, RST, SYN, FIN; one of those named is enough. */
function flagsMatch(flags: number, named: number): boolean {
  const urg = (flags >>> 5) & 1;
  const ack = (flags >>> 4) & 1;
  const psh = (flags >>> 3) & 1;
  const rst = (flags >>> 2) & 1;
  const syn = (flags >>> 1) & 1;
  const fin = flags & 1;
  return ((urg | (ack << 1) | (psh << 2) | (rst << 3) | (syn << 4) | (fin << 5)) & named) !== 0;
}

function word(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
}

function swap(port: number): number {
  return ((port & 0xff) << 8) | (port >>> 8);
}
