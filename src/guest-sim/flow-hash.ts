// Which hash a received frame has (virtio 1.4 5.1.9.4.3, 5.1.9.4.4), computed from its bytes: the guest's own opinion beside the one the device reports.
// IPv4 and IPv6 with extension headers under up to two VLAN tags, and the inner headers of one level of the nine encapsulations.

import { get16 } from './packets.ts';
import { Toeplitz } from './toeplitz.ts';
import { NET_HASH_REPORT_NONE, NET_HASH_TUNNEL, NET_HASH_TYPE } from './virtio-constants.ts';

const IPV4 = 0x0800;
const IPV6 = 0x86dd;
const BRIDGED = 0x6558;
const UDP = 17;
const TCP = 6;
const T = NET_HASH_TYPE;
const U = NET_HASH_TUNNEL;

export interface FlowHashOptions {
  readonly key: Uint8Array;
  /** NET_HASH_TYPE bits. */
  readonly hashTypes: number;
  /** NET_HASH_TUNNEL bits. Default 0. */
  readonly tunnels?: number;
}

export class FlowHash {
  /** Of the last frame: the hash and its kind as in the frame's header; 0 and 0 for none. */
  value = 0;
  report: number = NET_HASH_REPORT_NONE;
  readonly #toeplitz: Toeplitz;
  readonly #types: number;
  readonly #tunnels: number;
  /** What the walk over a frame's network header found; offsets into the bytes. */
  #version = 0;
  #source = 0;
  #destination = 0;
  #protocol = 0;
  /** Start of the transport header; -1 for a fragment. */
  #transport = 0;
  #end = 0;
  #extended = false;
  /** Source address in the fixed IPv6 header, whatever an extension header says. */
  #fixed = 0;
  /** Ethertype of an encapsulation's payload: BRIDGED for a whole frame. */
  #innerType = 0;

  constructor(options: FlowHashOptions) {
    this.#toeplitz = new Toeplitz(options.key);
    this.#types = options.hashTypes;
    this.#tunnels = options.tunnels ?? 0;
  }

  /** Hashes the frame of `length` bytes at `at`. True when there is a hash. */
  compute(u8: Uint8Array, at: number, length: number): boolean {
    this.value = 0;
    this.report = NET_HASH_REPORT_NONE;
    if (!this.#ethernet(u8, at, at + length)) return false;
    if (this.#tunnels !== 0) {
      const inner = this.#encapsulation(u8);
      // 5.1.9.4.4 (device MUST): the outer header unless an enabled encapsulation is met, then only the inner one.
      if (inner >= 0 && !this.#walkPayload(u8, inner)) return false;
    }
    return this.#hash(u8);
  }

  #ethernet(u8: Uint8Array, at: number, end: number): boolean {
    let type = at + 12;
    for (let tags = 0; tags < 2 && type + 2 <= end; tags++) {
      const value = get16(u8, type);
      if (value !== 0x8100 && value !== 0x88a8) break;
      type += 4;
    }
    return type + 2 <= end && this.#network(u8, get16(u8, type), type + 2, end);
  }

  #network(u8: Uint8Array, type: number, ip: number, end: number): boolean {
    if (type === IPV4) return this.#ipv4(u8, ip, end);
    return type === IPV6 && this.#ipv6(u8, ip, end);
  }

  #ipv4(u8: Uint8Array, ip: number, end: number): boolean {
    if (ip + 20 > end || (u8[ip] as number) >>> 4 !== 4) return false;
    const header = ((u8[ip] as number) & 15) * 4;
    const total = get16(u8, ip + 2);
    if (header < 20 || total < header || ip + total > end) return false;
    this.#version = 4;
    this.#source = ip + 12;
    this.#destination = ip + 16;
    this.#protocol = u8[ip + 9] as number;
    this.#extended = false;
    this.#end = ip + total;
    this.#transport = (get16(u8, ip + 6) & 0x3fff) !== 0 ? -1 : ip + header;
    return true;
  }

  #ipv6(u8: Uint8Array, ip: number, end: number): boolean {
    if (ip + 40 > end || (u8[ip] as number) >>> 4 !== 6) return false;
    const packetEnd = ip + 40 + get16(u8, ip + 4);
    if (packetEnd > end) return false;
    this.#version = 6;
    this.#fixed = ip + 8;
    this.#source = ip + 8;
    this.#destination = ip + 24;
    this.#end = packetEnd;
    this.#extended = false;
    let next = u8[ip + 6] as number;
    let at = ip + 40;
    let fragment = false;
    // Each header is at least 8 bytes long, so this ends. 0 hop-by-hop, 43 routing, 44 fragment, 60 destination options, 135 mobility.
    while ((next === 0 || next === 43 || next === 44 || next === 60 || next === 135) && at + 8 <= packetEnd) {
      const length = next === 44 ? 8 : 8 + (u8[at + 1] as number) * 8;
      if (at + length > packetEnd) break;
      this.#extended = true;
      if (next === 44) fragment = true;
      // A type 2 routing header carries the home address of the destination (RFC 6275 6.4).
      if (next === 43 && u8[at + 2] === 2 && length === 24) this.#destination = at + 8;
      if (next === 60) this.#homeAddress(u8, at + 2, at + length);
      next = u8[at] as number;
      at += length;
    }
    this.#protocol = next;
    this.#transport = fragment ? -1 : at;
    return true;
  }

  /** The home address option (RFC 6275 6.3): type 201, 16 bytes. */
  #homeAddress(u8: Uint8Array, at: number, end: number): void {
    while (at < end) {
      const type = u8[at] as number;
      if (type === 0) {
        at++;
        continue;
      }
      if (at + 2 > end) return;
      const length = u8[at + 1] as number;
      if (type === 201 && length === 16 && at + 18 <= end) this.#source = at + 2;
      at += 2 + length;
    }
  }

  /** Where the payload of an enabled encapsulation starts; -1: the packet is none. */
  #encapsulation(u8: Uint8Array): number {
    const at = this.#transport;
    if (at < 0) return -1;
    if (this.#protocol === 47) return this.#gre(u8, at, this.#version === 6 ? U.GRE_7676 : 0, true);
    if (this.#protocol === 4 && this.#version === 4 && (this.#tunnels & U.IPIP) !== 0) {
      this.#innerType = IPV4;
      return at;
    }
    return this.#protocol === UDP && at + 16 <= this.#end ? this.#udpTunnel(u8, at) : -1;
  }

  #gre(u8: Uint8Array, at: number, also: number, named: boolean): number {
    if (at + 4 > this.#end) return -1;
    const flags = get16(u8, at);
    // Version 0 without routing (RFC 2784 2.3 lets a receiver discard the rest).
    if ((flags & 0x4007) !== 0) return -1;
    const type = get16(u8, at + 2);
    const keyed = (flags & 0x3000) !== 0;
    let kinds = also;
    if (named) {
      kinds |= keyed ? U.GRE_2890 : U.GRE_2784;
      if (type === IPV6) kinds |= U.GRE_7676;
      if (type === BRIDGED && (flags & 0xb000) === 0x2000) kinds |= U.NVGRE;
    }
    if ((kinds & this.#tunnels) === 0) return -1;
    this.#innerType = type;
    return at + 4 + ((flags & 0x8000) !== 0 ? 4 : 0) + ((flags & 0x2000) !== 0 ? 4 : 0) + ((flags & 0x1000) !== 0 ? 4 : 0);
  }

  #udpTunnel(u8: Uint8Array, udp: number): number {
    const at = udp + 8;
    switch (get16(u8, udp + 2)) {
      case 4754:
        return (this.#tunnels & U.GRE_UDP) !== 0 ? this.#gre(u8, at, U.GRE_UDP, false) : -1;
      case 4789:
        if ((this.#tunnels & U.VXLAN) === 0 || ((u8[at] as number) & 8) === 0) return -1;
        this.#innerType = BRIDGED;
        return at + 8;
      case 4790: {
        if ((this.#tunnels & U.VXLAN_GPE) === 0 || ((u8[at] as number) & 0x0c) !== 0x0c) return -1;
        const next = u8[at + 3] as number;
        this.#innerType = next === 1 ? IPV4 : next === 2 ? IPV6 : next === 3 ? BRIDGED : 0;
        return at + 8;
      }
      case 6081:
        if ((this.#tunnels & U.GENEVE) === 0 || (u8[at] as number) >>> 6 !== 0) return -1;
        this.#innerType = get16(u8, at + 2);
        return at + 8 + ((u8[at] as number) & 63) * 4;
      default:
        return -1;
    }
  }

  #walkPayload(u8: Uint8Array, at: number): boolean {
    const end = this.#end;
    if (this.#innerType === BRIDGED) return this.#ethernet(u8, at, end);
    return this.#network(u8, this.#innerType, at, end);
  }

  #hash(u8: Uint8Array): boolean {
    const types = this.#types;
    const at = this.#transport;
    const tcp = at >= 0 && this.#protocol === TCP && at + 20 <= this.#end;
    const udp = at >= 0 && this.#protocol === UDP && at + 8 <= this.#end;
    if (this.#version === 4) return this.#pick(u8, tcp && (types & T.TCPv4) !== 0, udp && (types & T.UDPv4) !== 0, (types & T.IPv4) !== 0, 1);
    if (this.#extended) {
      if (this.#pick(u8, tcp && (types & T.TCP_EX) !== 0, udp && (types & T.UDP_EX) !== 0, (types & T.IP_EX) !== 0, 7)) return true;
      // None enabled: as if there were no extension headers, so with the addresses of the fixed header.
      this.#source = this.#fixed;
      this.#destination = this.#fixed + 16;
    }
    return this.#pick(u8, tcp && (types & T.TCPv6) !== 0, udp && (types & T.UDPv6) !== 0, (types & T.IPv6) !== 0, 4);
  }

  /** Kinds come in threes: addresses alone, then TCP, then UDP. */
  #pick(u8: Uint8Array, tcp: boolean, udp: boolean, addresses: boolean, first: number): boolean {
    if (!tcp && !udp && !addresses) return false;
    const width = this.#version === 4 ? 4 : 16;
    const toeplitz = this.#toeplitz;
    let hash = toeplitz.add(0, 0, u8, this.#source, width);
    hash = toeplitz.add(hash, width, u8, this.#destination, width);
    if (tcp || udp) hash = toeplitz.add(hash, 2 * width, u8, this.#transport, 4);
    this.value = hash >>> 0;
    this.report = first + (tcp ? 1 : udp ? 2 : 0);
    return true;
  }
}
