// Where in a frame the fields of its receive hash lie (virtio 1.4 5.1.9.4.3 to 5.1.9.4.5): VLAN tags, IPv4, IPv6 with extension headers, one level of tunnel. Reads in place, each byte once
// at most and none outside the range it is given, so that a frame whose sender changes it meanwhile can be hashed wrong and nothing worse.
//
// Our reading where the specification is silent: a fragment is hashed by its addresses, all of them alike; so is a packet whose TCP or UDP header is not all there. A packet
// that is of an enabled tunnel type and carries no IP is not hashed. RFC 7676 is GRE with IPv6 on either side, RFC 2890 GRE with a key or a sequence number.

import {
  HASH_TUNNEL_GENEVE,
  HASH_TUNNEL_GRE_2784,
  HASH_TUNNEL_GRE_2890,
  HASH_TUNNEL_GRE_7676,
  HASH_TUNNEL_GRE_UDP,
  HASH_TUNNEL_IPIP,
  HASH_TUNNEL_NVGRE,
  HASH_TUNNEL_VXLAN,
  HASH_TUNNEL_VXLAN_GPE,
} from './hash-types.ts';

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const ETHERTYPE_VLAN = 0x8100;
const ETHERTYPE_QINQ = 0x88a8;
/** Transparent Ethernet bridging: an Ethernet frame follows. */
const ETHERTYPE_TEB = 0x6558;
const MAXIMUM_TAGS = 2;

const IPIP = 4;
const TCP = 6;
const UDP = 17;
const GRE = 47;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const DESTINATION_OPTIONS = 60;
const MOBILITY = 135;
const HOST_IDENTITY = 139;
const SHIM6 = 140;
const HOME_ADDRESS_OPTION = 0xc9;
const ROUTING_TYPE_2 = 2;

const PORT_GRE_UDP = 4754;
const PORT_VXLAN = 4789;
const PORT_VXLAN_GPE = 4790;
const PORT_GENEVE = 6081;

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function isExtension(protocol: number): boolean {
  switch (protocol) {
    case HOP_BY_HOP:
    case ROUTING:
    case FRAGMENT:
    case AUTHENTICATION:
    case DESTINATION_OPTIONS:
    case MOBILITY:
    case HOST_IDENTITY:
    case SHIM6:
      return true;
    default:
      return false;
  }
}

export class HashHeaders {
  /** 4, 16, or 0: no IP packet to hash. */
  addressLength = 0;
  /** Positions in the bytes given. */
  source = 0;
  destination = 0;
  /** The same, but the home address and the type 2 routing header's where there are such. */
  extendedSource = 0;
  extendedDestination = 0;
  /** IPv6 with extension headers. */
  extended = false;
  /** Position of a whole TCP or UDP header, whose first four bytes are the ports; -1: none here. */
  ports = -1;
  tcp = false;
  /** Something that may be looked at lay past the end. */
  cut = false;
  /** Where the network header starts. */
  #network = 0;
  #protocol = 0;
  /** Where what the IP header carries starts; -1: a fragment, or not reached. */
  #upper = -1;
  #inner = 0;
  #innerType = 0;

  /** The frame's bytes from `start` to `end`. @param tunnels HASH_TUNNEL_* bits */
  read(bytes: Uint8Array, start: number, end: number, tunnels: number): void {
    this.cut = false;
    this.#packet(this.#ethernet(bytes, start, end), bytes, this.#network, end);
    if (tunnels === 0 || this.#upper < 0 || (this.#tunnel(bytes, end) & tunnels) === 0) return;
    if (this.#innerType === ETHERTYPE_TEB) this.#packet(this.#ethernet(bytes, this.#inner, end), bytes, this.#network, end);
    else this.#packet(this.#innerType, bytes, this.#inner, end);
  }

  /** Returns the type behind the tags, 0 when cut short. */
  #ethernet(bytes: Uint8Array, start: number, end: number): number {
    let at = start + 12;
    for (let tags = 0; ; tags++) {
      if (at + 2 > end) {
        this.cut = true;
        return 0;
      }
      const type = read16(bytes, at);
      if ((type !== ETHERTYPE_VLAN && type !== ETHERTYPE_QINQ) || tags === MAXIMUM_TAGS) {
        this.#network = at + 2;
        return type;
      }
      at += 4;
    }
  }

  #packet(type: number, bytes: Uint8Array, at: number, end: number): void {
    this.addressLength = 0;
    this.extended = false;
    this.ports = -1;
    this.#upper = -1;
    if (type === ETHERTYPE_IPV4) this.#ipv4(bytes, at, end);
    else if (type === ETHERTYPE_IPV6) this.#ipv6(bytes, at, end);
    if (this.#upper >= 0) this.#transport(end);
  }

  #ipv4(bytes: Uint8Array, at: number, end: number): void {
    if (at + 20 > end) {
      this.cut = true;
      return;
    }
    const first = bytes[at] as number;
    const length = (first & 15) * 4;
    if (first >>> 4 !== 4 || length < 20) return;
    if (at + length > end) {
      this.cut = true;
      return;
    }
    this.addressLength = 4;
    this.source = at + 12;
    this.destination = at + 16;
    this.#protocol = bytes[at + 9] as number;
    if ((read16(bytes, at + 6) & 0x3fff) === 0) this.#upper = at + length;
  }

  #ipv6(bytes: Uint8Array, start: number, end: number): void {
    if (start + 40 > end) {
      this.cut = true;
      return;
    }
    if ((bytes[start] as number) >>> 4 !== 6) return;
    this.addressLength = 16;
    this.source = start + 8;
    this.destination = start + 24;
    this.extendedSource = this.source;
    this.extendedDestination = this.destination;
    let protocol = bytes[start + 6] as number;
    // Each header is eight bytes at least: the frame bounds the walk.
    for (let at = start + 40; ; ) {
      if (!isExtension(protocol)) {
        this.#protocol = protocol;
        this.#upper = at;
        return;
      }
      this.extended = true;
      if (at + 8 > end) {
        this.cut = true;
        return;
      }
      const units = bytes[at + 1] as number;
      const length = protocol === FRAGMENT ? 8 : protocol === AUTHENTICATION ? (units + 2) * 4 : (units + 1) * 8;
      if (at + length > end) {
        this.cut = true;
        return;
      }
      if (protocol === FRAGMENT && (read16(bytes, at + 2) & 0xfff9) !== 0) return;
      if (protocol === DESTINATION_OPTIONS) this.#homeAddress(bytes, at + 2, at + length);
      if (protocol === ROUTING && length >= 24 && bytes[at + 2] === ROUTING_TYPE_2) this.extendedDestination = at + 8;
      protocol = bytes[at] as number;
      at += length;
    }
  }

  /** RFC 6275 6.3: the option that names the mobile node's home address. */
  #homeAddress(bytes: Uint8Array, from: number, end: number): void {
    for (let at = from; at + 2 <= end; ) {
      const option = bytes[at] as number;
      if (option === 0) {
        at++;
        continue;
      }
      const length = bytes[at + 1] as number;
      if (option === HOME_ADDRESS_OPTION && length === 16 && at + 18 <= end) {
        this.extendedSource = at + 2;
        return;
      }
      at += 2 + length;
    }
  }

  #transport(end: number): void {
    const protocol = this.#protocol;
    if (protocol !== TCP && protocol !== UDP) return;
    this.tcp = protocol === TCP;
    if (this.#upper + (this.tcp ? 20 : 8) <= end) this.ports = this.#upper;
    else this.cut = true;
  }

  /** Which tunnel types the outer headers match, HASH_TUNNEL_* bits; where the inner packet is, and of what type, is noted. */
  #tunnel(bytes: Uint8Array, end: number): number {
    if (this.#protocol === GRE) return this.#gre(bytes, this.#upper, end);
    if (this.#protocol === IPIP && this.addressLength === 4) {
      this.#inner = this.#upper;
      this.#innerType = ETHERTYPE_IPV4;
      return HASH_TUNNEL_IPIP;
    }
    if (this.#protocol !== UDP || this.ports < 0) return 0;
    const at = this.ports + 8;
    const port = read16(bytes, this.ports + 2);
    if (port === PORT_GRE_UDP) return this.#gre(bytes, at, end) === 0 ? 0 : HASH_TUNNEL_GRE_UDP;
    if (port !== PORT_VXLAN && port !== PORT_VXLAN_GPE && port !== PORT_GENEVE) return 0;
    if (at + 8 > end) {
      this.cut = true;
      return 0;
    }
    const flags = bytes[at] as number;
    this.#inner = at + 8;
    this.#innerType = ETHERTYPE_TEB;
    // RFC 7348 5: the flag that says the network identifier is valid is always set.
    if (port === PORT_VXLAN) return (flags & 8) === 0 ? 0 : HASH_TUNNEL_VXLAN;
    if (port === PORT_VXLAN_GPE) {
      if ((flags & 0x30) !== 0) return 0; // another version
      if ((flags & 4) !== 0) {
        const next = bytes[at + 3] as number;
        this.#innerType = next === 1 ? ETHERTYPE_IPV4 : next === 2 ? ETHERTYPE_IPV6 : next === 3 ? ETHERTYPE_TEB : 0;
      }
      return HASH_TUNNEL_VXLAN_GPE;
    }
    if (flags >>> 6 !== 0) return 0; // another version of Geneve
    this.#innerType = read16(bytes, at + 2);
    this.#inner += (flags & 0x3f) * 4;
    return HASH_TUNNEL_GENEVE;
  }

  #gre(bytes: Uint8Array, at: number, end: number): number {
    if (at + 4 > end) {
      this.cut = true;
      return 0;
    }
    const flags = read16(bytes, at);
    // Routing, strict source routes, recursion control and versions other than 0 are none of these types.
    if ((flags & 0x4c07) !== 0) return 0;
    const checksum = (flags & 0x8000) !== 0;
    const key = (flags & 0x2000) !== 0;
    const sequence = (flags & 0x1000) !== 0;
    const type = read16(bytes, at + 2);
    this.#inner = at + 4 + (checksum ? 4 : 0) + (key ? 4 : 0) + (sequence ? 4 : 0);
    this.#innerType = type;
    let matches = key || sequence ? HASH_TUNNEL_GRE_2890 : HASH_TUNNEL_GRE_2784;
    if (this.addressLength === 16 || type === ETHERTYPE_IPV6) matches |= HASH_TUNNEL_GRE_7676;
    // RFC 7637 3.2: always a key, no checksum and no sequence number.
    if (type === ETHERTYPE_TEB && key && !checksum && !sequence) matches |= HASH_TUNNEL_NVGRE;
    return matches;
  }
}
