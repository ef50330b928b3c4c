// The receive hash of frames in a batch: Toeplitz over addresses and ports, by a table per key of what each value of each input byte contributes (the hash is linear: contributions
// are XORed). A frame is hashed once, however many receivers with the same parameters it reaches: the batch's columns say whose hash they hold.

import type { ByteViews } from '#core/guest-memory';
import { HashHeaders } from './hash-headers.ts';
import { acquireHashIdentity, releaseHashIdentity } from './hash-identity.ts';
import * as types from './hash-types.ts';
import { HASH_KEY_BYTES, type HashParameters } from './hash-types.ts';
import { gatherHeader } from './headers.ts';
import type { FrameBatch } from './port.ts';

/** Two IPv6 addresses and two ports. */
const LONGEST_INPUT = 36;
/** Bytes of a frame in pieces that are put together to look at: more than any headers in use. */
const GATHERED = 512;
/** HASH_TUNNEL_* whose outer header is UDP. */
const UDP_TUNNELS = types.HASH_TUNNEL_GRE_UDP | types.HASH_TUNNEL_VXLAN | types.HASH_TUNNEL_VXLAN_GPE | types.HASH_TUNNEL_GENEVE;
/** Ethernet, IPv4 without options, TCP or UDP. */
const TCPv4_HEADERS = 54;
const UDPv4_HEADERS = 42;
const TCP = 6;
const UDP = 17;
/** More bytes than a frame has. */
const NEVER = 0x7fffffff;
/** Two IPv4 addresses and two ports. */
const PLAIN_INPUT = 12;
/** Frames together that are worth putting the table at hand. */
const MANY = 64;

/**
 * The contributions to a plain IPv4 frame's hash of the key that was used last. One array for all hashers of a thread: the JIT then knows where it lies and how long it is, and checks no index
 * (measured: bench/steering.ts).
 */
const atHand = new Int32Array(PLAIN_INPUT * 256);
let whose: Int32Array | undefined;

/** Contribution of byte value `b` at input position `p`, at `p * 256 + b`. */
function contributions(key: Uint8Array): Int32Array {
  const table = new Int32Array(LONGEST_INPUT * 256);
  for (let p = 0; p < LONGEST_INPUT; p++) {
    const at = p * 256;
    const byte = (i: number): number => key[p + i] ?? 0;
    const window = (byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3);
    // The key's 32 bits from each bit of this byte on; bit 7 comes first.
    for (let bit = 0; bit < 8; bit++) table[at + (0x80 >>> bit)] = bit === 0 ? window : (window << bit) | (byte(4) >>> (8 - bit));
    for (let value = 1; value < 256; value++) {
      const rest = value & (value - 1);
      if (rest !== 0) table[at + value] = (table[at + rest] as number) ^ (table[at + (value ^ rest)] as number);
    }
  }
  return table;
}

/** Of a plain IPv4 frame, by the words its addresses and ports lie in: the latter half of `a`, `b`, `c`, and the former half of `d`, as little-endian loads have them. */
function plainHash(table: Int32Array, a: number, b: number, c: number, d: number): number {
  return (
    (table[(a >>> 16) & 0xff] as number) ^
    (table[256 | (a >>> 24)] as number) ^
    (table[512 | (b & 0xff)] as number) ^
    (table[768 | ((b >>> 8) & 0xff)] as number) ^
    (table[1024 | ((b >>> 16) & 0xff)] as number) ^
    (table[1280 | (b >>> 24)] as number) ^
    (table[1536 | (c & 0xff)] as number) ^
    (table[1792 | ((c >>> 8) & 0xff)] as number) ^
    (table[2048 | ((c >>> 16) & 0xff)] as number) ^
    (table[2304 | (c >>> 24)] as number) ^
    (table[2560 | (d & 0xff)] as number) ^
    (table[2816 | ((d >>> 8) & 0xff)] as number)
  );
}

export class FrameHasher {
  /** What `FrameBatch.hashedBy` says of frames hashed with these parameters. 0: nothing is hashed. */
  identity = 0;
  #parameters: HashParameters | undefined;
  #table: Int32Array = new Int32Array(0);
  #types = 0;
  #tunnels = 0;
  readonly #headers = new HashHeaders();
  readonly #gathered = new Uint8Array(GATHERED);

  /** From now on. Undefined: no hashing. */
  configure(parameters: HashParameters | undefined): void {
    const before = this.#parameters;
    this.#parameters = parameters;
    if (parameters === undefined) {
      if (this.identity !== 0) releaseHashIdentity(this.identity);
      this.identity = 0;
      return;
    }
    if (before !== undefined && sameKey(before.key, parameters.key)) {
      if (before.types === parameters.types && before.tunnels === parameters.tunnels) return;
    } else this.#table = contributions(parameters.key);
    this.#types = parameters.types;
    this.#tunnels = parameters.tunnels;
    const former = this.identity;
    this.identity = acquireHashIdentity(parameters);
    if (former !== 0) releaseHashIdentity(former);
  }

  /** Fills in `hash` and `hashReport` of frames from .. to - 1, where they do not hold this hash already. */
  hash(batch: FrameBatch, from: number, to: number): void {
    const { identity } = this;
    if (identity === 0) return;
    const { segments, firstSegment, hash, hashReport, hashedBy } = batch;
    const { offset, length, views } = segments;
    const table = this.#table;
    const plainTcp = this.#plainTcp;
    const plainUdp = this.#plainUdp;
    for (let f = from; f < to; f++) {
      if (hashedBy[f] === identity) continue;
      hashedBy[f] = identity;
      const s = firstSegment[f] as number;
      const { u8, i32 } = views[s] as ByteViews;
      const at = offset[s] as number;
      const size = length[s] as number;
      // The common frame, a word at a time: no tag, IPv4 without options, no fragment, TCP or UDP (measured: bench/steering.ts).
      if ((at & 3) === 0 && size >= UDPv4_HEADERS && ((i32[(at + 12) >> 2] as number) & 0xffffff) === 0x450008) {
        const word = i32[(at + 20) >> 2] as number;
        const protocol = word >>> 24;
        const tcp = plainTcp && protocol === TCP && size >= TCPv4_HEADERS;
        if ((word & 0xff3f) === 0 && (tcp || (plainUdp && protocol === UDP))) {
          const a = i32[(at + 24) >> 2] as number;
          const b = i32[(at + 28) >> 2] as number;
          const c = i32[(at + 32) >> 2] as number;
          const d = i32[(at + 36) >> 2] as number;
          hash[f] = plainHash(table, a, b, c, d);
          hashReport[f] = tcp ? types.HASH_REPORT_TCPv4 : types.HASH_REPORT_UDPv4;
          continue;
        }
      }
      this.#any(batch, f, u8, at, size);
    }
  }

  /**
   * Puts the entry of `routes` that each frame's hash leads to into `pairs`, or `unclassified` for a frame without one. Does not fill in `hash` of the common frames, unlike `hash`: it is for who
   * has no other use for it. `routes` has a power of two entries.
   */
  route(batch: FrameBatch, from: number, to: number, routes: Int8Array, unclassified: number, pairs: Int8Array): void {
    const { hash, hashReport } = batch;
    const mask = routes.length - 1;
    let f = from;
    if (from === to) return;
    if (this.identity !== 0 && this.#takeTable(to - from)) f = this.#routePlain(batch, f, to, routes, pairs);
    // From the first of another kind on: traffic is of one kind, or of many.
    this.hash(batch, f, to);
    for (; f < to; f++) pairs[f] = hashReport[f] === types.HASH_REPORT_NONE ? unclassified : (routes[(hash[f] as number) & mask] as number);
  }

  /** Whether the table is at hand, for so many frames. A few are not worth 12 KiB moved. */
  #takeTable(frames: number): boolean {
    if (whose === this.#table) return true;
    if (frames < MANY) return false;
    whose = this.#table;
    for (let i = 0; i < atHand.length; i++) atHand[i] = whose[i] as number;
    return true;
  }

  /** The common frames from `f` on, as `hash` knows them. Returns where they end. */
  #routePlain(batch: FrameBatch, f: number, to: number, routes: Int8Array, pairs: Int8Array): number {
    const { segments, firstSegment, hashedBy } = batch;
    const { offset, length, views } = segments;
    const { identity } = this;
    const mask = routes.length - 1;
    const tcpSize = this.#plainTcp ? TCPv4_HEADERS : NEVER;
    const udpSize = this.#plainUdp ? UDPv4_HEADERS : NEVER;
    const where = views[firstSegment[f] as number] as ByteViews;
    const { i32 } = where;
    while (f < to) {
      const s = firstSegment[f] as number;
      const at = offset[s] as number;
      const size = length[s] as number;
      if (views[s] !== where || (at & 3) !== 0 || size < UDPv4_HEADERS || hashedBy[f] === identity) break;
      const i = at >> 2;
      const word = i32[(i + 5) | 0] as number;
      if (((((i32[(i + 3) | 0] as number) & 0xffffff) ^ 0x450008) | (word & 0xff3f)) !== 0) break;
      const protocol = word >>> 24;
      if (size < (protocol === TCP ? tcpSize : protocol === UDP ? udpSize : NEVER)) break;
      const a = i32[(i + 6) | 0] as number;
      const b = i32[(i + 7) | 0] as number;
      const c = i32[(i + 8) | 0] as number;
      const d = i32[(i + 9) | 0] as number;
      pairs[f] = routes[plainHash(atHand, a, b, c, d) & mask] as number;
      f = (f + 1) | 0;
    }
    return f;
  }

  get #plainTcp(): boolean {
    return (this.#types & types.HASH_TYPE_TCPv4) !== 0;
  }

  get #plainUdp(): boolean {
    return (this.#types & types.HASH_TYPE_UDPv4) !== 0 && (this.#tunnels & UDP_TUNNELS) === 0;
  }

  /** A frame of any kind, whose first `size` bytes lie at `at`. */
  #any(batch: FrameBatch, f: number, bytes: Uint8Array, at: number, size: number): void {
    const headers = this.#headers;
    headers.read(bytes, at, at + size, this.#tunnels);
    let where = bytes;
    if (headers.cut && size < (batch.length[f] as number) && size < GATHERED) {
      where = this.#gathered;
      headers.read(where, 0, gatherHeader(batch, f, where, 0, GATHERED), this.#tunnels);
    }
    const report = this.#report();
    batch.hashReport[f] = report;
    if (report === types.HASH_REPORT_NONE) {
      batch.hash[f] = 0;
      return;
    }
    const extended = report >= types.HASH_REPORT_IPv6_EX;
    const { addressLength } = headers;
    let hash = this.#input(where, extended ? headers.extendedSource : headers.source, addressLength, 0);
    hash ^= this.#input(where, extended ? headers.extendedDestination : headers.destination, addressLength, addressLength);
    const addressesOnly = report === types.HASH_REPORT_IPv4 || report === types.HASH_REPORT_IPv6 || report === types.HASH_REPORT_IPv6_EX;
    batch.hash[f] = addressesOnly ? hash : hash ^ this.#input(where, headers.ports, 4, 2 * addressLength);
  }

  /** virtio 1.4 5.1.9.4.3: the first type, from particular to general, that is on and that the packet has the headers for. */
  #report(): number {
    const { addressLength, ports, tcp, extended } = this.#headers;
    const on = this.#types;
    const hasTcp = ports >= 0 && tcp;
    const hasUdp = ports >= 0 && !tcp;
    if (addressLength === 4) {
      if (hasTcp && (on & types.HASH_TYPE_TCPv4) !== 0) return types.HASH_REPORT_TCPv4;
      if (hasUdp && (on & types.HASH_TYPE_UDPv4) !== 0) return types.HASH_REPORT_UDPv4;
      return (on & types.HASH_TYPE_IPv4) !== 0 ? types.HASH_REPORT_IPv4 : types.HASH_REPORT_NONE;
    }
    if (addressLength === 0) return types.HASH_REPORT_NONE;
    if (extended) {
      if (hasTcp && (on & types.HASH_TYPE_TCP_EX) !== 0) return types.HASH_REPORT_TCPv6_EX;
      if (hasUdp && (on & types.HASH_TYPE_UDP_EX) !== 0) return types.HASH_REPORT_UDPv6_EX;
      if ((on & types.HASH_TYPE_IP_EX) !== 0) return types.HASH_REPORT_IPv6_EX;
    }
    if (hasTcp && (on & types.HASH_TYPE_TCPv6) !== 0) return types.HASH_REPORT_TCPv6;
    if (hasUdp && (on & types.HASH_TYPE_UDPv6) !== 0) return types.HASH_REPORT_UDPv6;
    return (on & types.HASH_TYPE_IPv6) !== 0 ? types.HASH_REPORT_IPv6 : types.HASH_REPORT_NONE;
  }

  /** What `length` bytes contribute that come `position` bytes into the input. */
  #input(bytes: Uint8Array, at: number, length: number, position: number): number {
    const table = this.#table;
    let hash = 0;
    for (let i = 0; i < length; i++) hash ^= table[((position + i) << 8) | (bytes[at + i] as number)] as number;
    return hash;
  }
}

function sameKey(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < HASH_KEY_BYTES; i++) if ((a[i] ?? 0) !== (b[i] ?? 0)) return false;
  return true;
}
