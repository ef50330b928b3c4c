// Changes to a frame's headers in a switch's own copy: VLAN tags, addresses, ports, traffic class, TTL, tunnels. Checksums are brought up to date by what changed (RFC 1624); one that is still to be filled in holds
// a pseudo header's sum, and follows the addresses alone. Offload columns move with the headers they point at.

import { fold, pseudoHeaderSum, storeChecksum, storeSum, sumBytes, swap16 } from '../checksum.ts';
import { PROTOCOL_TCP, PROTOCOL_UDP } from '../headers.ts';
import { TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET } from '../offload-request.ts';
import {
  ACCEPTS_CSUM,
  ACCEPTS_UDP_TUNNEL,
  ACCEPTS_UDP_TUNNEL_CSUM,
  FRAME_DATA_VALID,
  FRAME_NEEDS_CSUM,
  FRAME_UDP_TUNNEL_CSUM,
  GSO_ECN,
  GSO_UDP,
  GSO_UDP_TUNNEL,
  GSO_UDP_TUNNEL_IPV4,
  GSO_UDP_TUNNEL_IPV6,
} from '../port.ts';
import { type FrameKey, PROTOCOL_ICMPV6 } from './frame-key.ts';
import { type SwitchTables, TUNNEL_CHECKSUM, TUNNEL_HEADERS, TUNNEL_LENGTH, TUNNEL_NETWORK, TUNNEL_TRANSPORT, TUNNEL_VERSION, TUNNEL_WORDS } from './layout.ts';
import type { WorkFrames } from './work-frames.ts';

const MACS = 12;
const TAG = 4;
const ICMPV6_CHECKSUM = 2;
const LONGEST_PACKET = 0xffff;
const UDP_OPTIONS = { zeroIsNone: true } as const;
const IP_OPTIONS = { zeroIsNone: false } as const;

/** What became of a change. */
export const DONE = 0;
/** There is nothing that it applies to, or no room for it. */
const NOT_APPLICABLE = 1;
/** Not to this frame as a whole: to what it is cut into. */
export const CUT_FIRST = 2;

export class Rewriter {
  readonly #work: WorkFrames;
  readonly #tables: SwitchTables;
  /** Identification of outer IPv4 packets. */
  #identification = 0;

  constructor(work: WorkFrames, tables: SwitchTables) {
    this.#work = work;
    this.#tables = tables;
  }

  pushVlan(place: number, tpid: number, tci: number): number {
    const { bytes, start, output } = this.#work;
    // A checksum's place is 16 bits: it must not come round to the headers. Without a request the driver may have left anything there (virtio 1.4 5.1.9.2.2, device MUST NOT).
    const request = ((output.flags[place] as number) & FRAME_NEEDS_CSUM) !== 0 ? (output.csumStart[place] as number) : 0;
    if (this.#work.headroom(place) < TAG || request + TAG > LONGEST_PACKET) return NOT_APPLICABLE;
    const from = start[place] as number;
    bytes.copyWithin(from - TAG, from, from + MACS);
    write16(bytes, from - TAG + MACS, tpid);
    write16(bytes, from - TAG + MACS + 2, tci);
    start[place] = from - TAG;
    output.length[place] = (output.length[place] as number) + TAG;
    this.#moved(place, TAG);
    return DONE;
  }

  popVlan(place: number): void {
    const { bytes, start, output } = this.#work;
    const from = start[place] as number;
    bytes.copyWithin(from + TAG, from, from + MACS);
    start[place] = from + TAG;
    output.length[place] = (output.length[place] as number) - TAG;
    this.#moved(place, -TAG);
  }

  /** The outer tag, which is there. */
  setVlan(place: number, mask: number, value: number): void {
    const { bytes, start } = this.#work;
    const at = (start[place] as number) + MACS + 2;
    write16(bytes, at, (read16(bytes, at) & ~mask) | value);
  }

  setMac(place: number, offset: number, low: number, high: number): void {
    const { bytes, start } = this.#work;
    const at = (start[place] as number) + offset;
    for (let i = 0; i < 4; i++) bytes[at + i] = low >>> (8 * i);
    bytes[at + 4] = high;
    bytes[at + 5] = high >>> 8;
  }

  /** @param address four words in `from` at `at` */
  setAddress(place: number, key: FrameKey, isSource: boolean, from: Int32Array, at: number): void {
    const { bytes, memory } = this.#work;
    const length = key.version === 4 ? 4 : 16;
    const field = key.network + (key.version === 4 ? (isSource ? 12 : 16) : isSource ? 8 : 24);
    const before = sumBytes(memory, field, length);
    for (let i = 0; i < length; i++) bytes[field + i] = (from[at + (i >>> 2)] as number) >>> (24 - 8 * (i & 3));
    const after = sumBytes(memory, field, length);
    // `sumBytes` sums from the field on, whatever its place in memory: both sums are of the same kind.
    if (key.version === 4) adjust(bytes, key.network + 10, before, after, false);
    if (key.transport === 0 || (key.routed && !isSource)) return;
    const checksum = this.#transportChecksum(key);
    if (checksum < 0 || (key.protocol === PROTOCOL_UDP && this.#noChecksum(place, key, checksum))) return;
    if (this.#isSeed(place, key)) storeSum(bytes, checksum, fold(load(bytes, checksum) + after + (~before & 0xffff)));
    else adjust(bytes, checksum, before, after, key.protocol === PROTOCOL_UDP);
  }

  setPort(place: number, key: FrameKey, isSource: boolean, port: number): void {
    const { bytes } = this.#work;
    const field = key.transport + (isSource ? 0 : 2);
    const before = load(bytes, field);
    write16(bytes, field, port);
    const checksum = this.#transportChecksum(key);
    if (checksum < 0 || (key.protocol === PROTOCOL_UDP && this.#noChecksum(place, key, checksum)) || this.#isSeed(place, key)) return;
    adjust(bytes, checksum, before, load(bytes, field), key.protocol === PROTOCOL_UDP);
  }

  setDscp(key: FrameKey, dscp: number): void {
    const { bytes } = this.#work;
    if (key.version === 4) {
      const at = key.network;
      const before = load(bytes, at);
      bytes[at + 1] = ((bytes[at + 1] as number) & 3) | (dscp << 2);
      adjust(bytes, at + 10, before, load(bytes, at), false);
    } else write16(bytes, key.network, (read16(bytes, key.network) & 0xf03f) | (dscp << 6));
  }

  ttl(key: FrameKey): number {
    return this.#work.bytes[key.network + (key.version === 4 ? 8 : 7)] as number;
  }

  setTtl(key: FrameKey, ttl: number): void {
    const { bytes } = this.#work;
    const at = key.network + (key.version === 4 ? 8 : 6);
    const before = load(bytes, at);
    bytes[key.network + (key.version === 4 ? 8 : 7)] = ttl;
    if (key.version === 4) adjust(bytes, key.network + 10, before, load(bytes, at), false);
  }

  /** Puts a tunnel's headers in front. `key` is the frame's own. */
  encapsulate(place: number, key: FrameKey, tunnel: number, entropy: number): number {
    const { output, bytes, memory, start } = this.#work;
    const { tunnels, tunnelHeaders } = this.#tables;
    const at = tunnel * TUNNEL_WORDS;
    const length = tunnels[at + TUNNEL_LENGTH] as number;
    const type = output.gsoType[place] as number;
    const inner = output.length[place] as number;
    const version = tunnels[at + TUNNEL_VERSION] as number;
    const network = tunnels[at + TUNNEL_NETWORK] as number;
    const transport = tunnels[at + TUNNEL_TRANSPORT] as number;
    if (this.#work.headroom(place) < length) return NOT_APPLICABLE;
    // No tunnel GSO type says fragments, a tunnel in a tunnel, or a packet longer than its length field: such frames are cut first.
    if (type !== 0 && ((type & GSO_UDP_TUNNEL) !== 0 || (type & ~GSO_ECN) === GSO_UDP)) return CUT_FIRST;
    const request = ((output.flags[place] as number) & FRAME_NEEDS_CSUM) !== 0 ? (output.csumStart[place] as number) : 0;
    if (Math.max(inner - network, request) + length > LONGEST_PACKET) return type === 0 ? NOT_APPLICABLE : CUT_FIRST;
    const from = (start[place] as number) - length;
    for (let i = 0; i < length; i++) bytes[from + i] = tunnelHeaders[tunnel * TUNNEL_HEADERS + i] as number;
    const ip = from + network;
    const udp = from + transport;
    if (version === 4) {
      write16(bytes, ip + 2, length - network + inner);
      this.#identification = (this.#identification + 1) & 0xffff;
      write16(bytes, ip + 4, this.#identification);
      storeSum(bytes, ip + 10, 0);
      storeChecksum(bytes, ip + 10, sumBytes(memory, ip, 20), IP_OPTIONS);
    } else write16(bytes, ip + 4, length - network - 40 + inner);
    // RFC 7348 5, RFC 8926 3.3: from the inner headers, so that a flow keeps to one path; from the dynamic range.
    write16(bytes, udp, 0xc000 | (entropy & 0x3fff));
    const datagram = length - transport + inner;
    write16(bytes, udp + 4, datagram);
    start[place] = from;
    output.length[place] = inner + length;
    this.#moved(place, length);
    const flags = (output.flags[place] as number) & ~FRAME_DATA_VALID;
    output.flags[place] = flags;
    const checksum = tunnels[at + TUNNEL_CHECKSUM] !== 0;
    const seed = checksum ? fold(pseudoHeaderSum(memory, ip, version, PROTOCOL_UDP) + swap16(datagram)) : 0;
    if (type !== 0) {
      output.gsoType[place] = type | (key.version === 4 ? GSO_UDP_TUNNEL_IPV4 : GSO_UDP_TUNNEL_IPV6);
      output.outerTransport[place] = transport;
      output.innerNetwork[place] = length + key.network - key.frame;
      this.#work.needs[place] = (this.#work.needs[place] as number) | ACCEPTS_UDP_TUNNEL | (checksum ? ACCEPTS_UDP_TUNNEL_CSUM : 0);
      if (checksum) output.flags[place] = flags | FRAME_UDP_TUNNEL_CSUM;
      storeSum(bytes, udp + UDP_CHECKSUM_OFFSET, seed);
      return DONE;
    }
    if (!checksum) return DONE;
    if ((flags & FRAME_NEEDS_CSUM) === 0) {
      // Nothing else is to be filled in: this one can be, by whoever can do it best.
      storeSum(bytes, udp + UDP_CHECKSUM_OFFSET, seed);
      output.flags[place] = flags | FRAME_NEEDS_CSUM;
      output.csumStart[place] = transport;
      output.csumOffset[place] = UDP_CHECKSUM_OFFSET;
      this.#work.needs[place] = (this.#work.needs[place] as number) | ACCEPTS_CSUM;
      return DONE;
    }
    // The inner checksum is still to be filled in, and there is one request only. What it covers will sum up to the complement of what its field holds now, whatever the payload is: so the outer one
    // is known without reading any.
    const csumStart = output.csumStart[place] as number;
    const field = from + csumStart + (output.csumOffset[place] as number);
    if (field + 2 > (this.#work.end[place] as number)) return NOT_APPLICABLE;
    const headers = csumStart - transport;
    const covered = ~load(bytes, field) & 0xffff;
    const sum = sumBytes(memory, udp, headers) + ((headers & 1) === 0 ? covered : swap16(covered));
    storeChecksum(bytes, udp + UDP_CHECKSUM_OFFSET, seed + sum, UDP_OPTIONS);
    return DONE;
  }

  /** Takes off what is in front of the inner frame. */
  decapsulate(place: number, key: FrameKey): void {
    const { output, start, end, needs } = this.#work;
    const length = key.inner - key.frame;
    const type = output.gsoType[place] as number;
    let flags = (output.flags[place] as number) & ~(FRAME_UDP_TUNNEL_CSUM | FRAME_DATA_VALID);
    start[place] = key.inner;
    if ((end[place] as number) < key.inner) end[place] = key.inner;
    output.length[place] = (output.length[place] as number) - length;
    if ((flags & FRAME_NEEDS_CSUM) !== 0 && (output.csumStart[place] as number) < length) {
      // The outer checksum was to be filled in, and is gone.
      flags &= ~FRAME_NEEDS_CSUM;
      output.csumStart[place] = 0;
      output.csumOffset[place] = 0;
      needs[place] = (needs[place] as number) & ~ACCEPTS_CSUM;
    }
    output.flags[place] = flags;
    output.gsoType[place] = type & ~GSO_UDP_TUNNEL;
    needs[place] = (needs[place] as number) & ~(ACCEPTS_UDP_TUNNEL | ACCEPTS_UDP_TUNNEL_CSUM);
    this.#moved(place, -length);
    output.outerTransport[place] = 0;
    output.innerNetwork[place] = 0;
  }

  /** Whatever came before the headers grew by so many bytes. */
  #moved(place: number, by: number): void {
    const { output } = this.#work;
    output.hashedBy[place] = 0;
    if (((output.flags[place] as number) & FRAME_NEEDS_CSUM) !== 0) output.csumStart[place] = (output.csumStart[place] as number) + by;
    const type = output.gsoType[place] as number;
    if (type === 0) return;
    output.headerLength[place] = (output.headerLength[place] as number) + by;
    if ((type & GSO_UDP_TUNNEL) === 0) return;
    output.outerTransport[place] = (output.outerTransport[place] as number) + by;
    output.innerNetwork[place] = (output.innerNetwork[place] as number) + by;
  }

  /** Where a frame's transport checksum is; -1: it has none that the addresses or ports go into. */
  #transportChecksum(key: FrameKey): number {
    if (key.protocol === PROTOCOL_TCP) return key.transport + TCP_CHECKSUM_OFFSET;
    if (key.protocol === PROTOCOL_UDP) return key.transport + UDP_CHECKSUM_OFFSET;
    return key.protocol === PROTOCOL_ICMPV6 && key.version === 6 ? key.transport + ICMPV6_CHECKSUM : -1;
  }

  /** RFC 768: 0 is none, unless it is still to be filled in. */
  #noChecksum(place: number, key: FrameKey, checksum: number): boolean {
    return load(this.#work.bytes, checksum) === 0 && !this.#isSeed(place, key);
  }

  /** The checksum's field holds the pseudo header's sum: somebody fills it in later. */
  #isSeed(place: number, key: FrameKey): boolean {
    const { output } = this.#work;
    const flags = output.flags[place] as number;
    const transport = key.transport - key.frame;
    if ((flags & FRAME_NEEDS_CSUM) !== 0 && output.csumStart[place] === transport) return true;
    return (flags & FRAME_UDP_TUNNEL_CSUM) !== 0 && output.outerTransport[place] === transport;
  }
}

/** RFC 1624 3, equation 3, on sums as the bytes lie. */
function adjust(bytes: Uint8Array, at: number, before: number, after: number, zeroIsNone: boolean): void {
  const sum = fold((~load(bytes, at) & 0xffff) + (~before & 0xffff) + after);
  storeChecksum(bytes, at, sum, zeroIsNone ? UDP_OPTIONS : IP_OPTIONS);
}

/** A 16-bit field as checksum.ts sums it: low byte first. */
function load(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
