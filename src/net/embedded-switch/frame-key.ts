// A frame's headers as the words that rules match (layout.ts), read from a private copy of its first bytes, with where each header starts. Two VLAN tags, IPv4, IPv6 with its
// common extension headers, TCP, UDP, ICMP, and whether UDP carries VXLAN or Geneve with an Ethernet frame inside. A header that is cut short, or shorter than it can be, is not there; lengths of packets and
// datagrams are not held against the frame's, which is what goes on.

import { ETHERTYPE_QINQ, ETHERTYPE_VLAN, PROTOCOL_TCP, PROTOCOL_UDP } from '../headers.ts';
import { TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET } from '../offload-request.ts';
import {
  HAS_FRAGMENT,
  HAS_ICMP,
  HAS_INNER_TAG,
  HAS_IP,
  HAS_IPV4,
  HAS_IPV6,
  HAS_LATER_FRAGMENT,
  HAS_PORTS,
  HAS_SERVICE_TAG,
  HAS_TAG,
  KEY_DESTINATION,
  KEY_FROM_LOW,
  KEY_HIGHS,
  KEY_IP,
  KEY_PORTS,
  KEY_SOURCE,
  KEY_TAGS,
  KEY_TO_LOW,
  KEY_TUNNEL,
  KEY_TUNNEL_DESTINATION,
  KEY_TUNNEL_SOURCE,
  KEY_TYPE,
  KEY_WORDS,
  TUNNEL_GENEVE,
  TUNNEL_VXLAN,
} from './layout.ts';

export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_IPV6 = 0x86dd;
/** An Ethernet frame inside Geneve (RFC 8926 3.4). */
const ETHERTYPE_BRIDGED = 0x6558;
const PROTOCOL_ICMP = 1;
export const PROTOCOL_ICMPV6 = 58;
const PROTOCOL_SCTP = 132;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const DESTINATION_OPTIONS = 60;
const LONGEST_CHAIN = 8;
const ETHERNET = 14;

export class FrameKey {
  readonly words = new Int32Array(KEY_WORDS);
  /** Where the frame, its network and its transport header start; 0: there is none. */
  frame = 0;
  network = 0;
  transport = 0;
  protocol = 0;
  /** 4, 6, or 0. */
  version = 0;
  vlan = 0;
  /** Where what was read ends, but for the transport header. */
  body = 0;
  /** Where the frame in the tunnel starts; 0: this is no tunnel. */
  inner = 0;
  /** IPv6 with segments left to visit: the destination is not the one that checksums count. */
  routed = false;
  /** A header went on past the end. */
  cut = false;
  /** The last frame was IPv6. */
  #long = false;
  readonly #vxlanPort: number;
  readonly #genevePort: number;

  constructor(vxlanPort: number, genevePort: number) {
    this.#vxlanPort = vxlanPort;
    this.#genevePort = genevePort;
  }

  /**
   * The frame in bytes[from] .. bytes[end - 1], at least 14 of them. `tunnels`: UDP may be looked into (one datagram, not several that are still to be cut). `decapsulated`: the tunnel's words stay
   * what they are.
   */
  read(bytes: Uint8Array, from: number, end: number, tunnels: boolean, decapsulated: boolean): void {
    this.readLink(bytes, from, end, decapsulated);
    if (this.cut) return;
    const { words } = this;
    const at = this.body;
    const type = (words[KEY_TYPE] as number) & 0xffff;
    let has = (words[KEY_TYPE] as number) >>> 16;
    if (type === ETHERTYPE_IPV4) has |= this.#ipv4(bytes, at, end);
    else if (type === ETHERTYPE_IPV6) has |= this.#ipv6(bytes, at, end);
    else return;
    if (tunnels && this.protocol === PROTOCOL_UDP && (has & (HAS_PORTS | HAS_FRAGMENT)) === HAS_PORTS) this.#tunnel(bytes, end);
    words[KEY_TYPE] = type | (has << 16);
  }

  /** The same of the Ethernet header and its tags alone: the rest is as of a frame that has nothing behind them. */
  readLink(bytes: Uint8Array, from: number, end: number, decapsulated: boolean): void {
    const { words } = this;
    this.frame = from;
    this.network = 0;
    this.transport = 0;
    this.protocol = 0;
    this.version = 0;
    this.inner = 0;
    this.routed = false;
    this.cut = false;
    words[KEY_TO_LOW] =
      (bytes[from] as number) | ((bytes[from + 1] as number) << 8) | ((bytes[from + 2] as number) << 16) | ((bytes[from + 3] as number) << 24);
    words[KEY_FROM_LOW] =
      (bytes[from + 6] as number) | ((bytes[from + 7] as number) << 8) | ((bytes[from + 8] as number) << 16) | ((bytes[from + 9] as number) << 24);
    words[KEY_HIGHS] =
      (bytes[from + 4] as number) | ((bytes[from + 5] as number) << 8) | ((bytes[from + 10] as number) << 16) | ((bytes[from + 11] as number) << 24);
    words[KEY_TAGS] = 0;
    words[KEY_IP] = 0;
    words[KEY_PORTS] = 0;
    words[KEY_SOURCE] = 0;
    words[KEY_DESTINATION] = 0;
    // The rest is 0 but after a frame that had it.
    if (this.#long) words.fill(0, KEY_SOURCE, KEY_TUNNEL);
    this.#long = false;
    if (!decapsulated && words[KEY_TUNNEL] !== 0) words.fill(0, KEY_TUNNEL, KEY_WORDS);
    let at = from + 12;
    let type = read16(bytes, at);
    let has = 0;
    for (let tag = 0; tag < 2 && (type === ETHERTYPE_VLAN || type === ETHERTYPE_QINQ); tag++) {
      if (at + 6 > end) {
        this.cut = true;
        break;
      }
      const tci = read16(bytes, at + 2);
      if (tag === 0) {
        words[KEY_TAGS] = tci;
        has = type === ETHERTYPE_QINQ ? HAS_TAG | HAS_SERVICE_TAG : HAS_TAG;
      } else {
        words[KEY_TAGS] = (words[KEY_TAGS] as number) | (tci << 16);
        has |= HAS_INNER_TAG;
      }
      at += 4;
      type = read16(bytes, at);
    }
    this.vlan = (words[KEY_TAGS] as number) & 0xfff;
    this.body = at + 2;
    words[KEY_TYPE] = type | (has << 16);
  }

  /** UDP to a port that is for tunnels. */
  get mayTunnel(): boolean {
    const port = (this.words[KEY_PORTS] as number) & 0xffff;
    return this.protocol === PROTOCOL_UDP && (port === this.#vxlanPort || port === this.#genevePort);
  }

  /** TCP, UDP or SCTP, with its ports at hand. */
  get hasPorts(): boolean {
    return ((this.words[KEY_TYPE] as number) & (HAS_PORTS << 16)) !== 0;
  }

  /**
   * Whether a checksum may be filled in so, by whoever comes after: where it changes nothing that rules or checks have looked at. One of a frame in a tunnel is looked at when that frame is. Positions are the frame's.
   */
  allowsChecksum(start: number, offset: number): boolean {
    const at = this.frame + start;
    // The tunnel header and the inner addresses are what rules look at, too.
    if (this.inner > 0) return at === this.transport ? offset === UDP_CHECKSUM_OFFSET : at >= this.inner + ETHERNET;
    if (this.transport === 0) return at >= this.body;
    if (this.protocol === PROTOCOL_TCP) return at === this.transport ? offset === TCP_CHECKSUM_OFFSET : at >= this.transport + 20;
    if (this.protocol === PROTOCOL_UDP) return at === this.transport ? offset === UDP_CHECKSUM_OFFSET : at >= this.transport + 8;
    // Of SCTP the ports, of ICMP type and code.
    return at >= this.transport && at + offset >= this.transport + (this.protocol === PROTOCOL_SCTP ? 4 : 2);
  }

  /** Of layer 2, 32 bits. */
  addressHash(): number {
    const { words } = this;
    return finish(mix(mix(mix(0, words[KEY_TO_LOW] as number), words[KEY_FROM_LOW] as number), words[KEY_HIGHS] as number));
  }

  /** Of layers 3 and 4; of a frame without IP of layer 2. A fragment goes by its addresses, all of them alike. */
  flowHash(): number {
    if (this.version === 0) return this.addressHash();
    const { words } = this;
    let hash = 0;
    for (let i = 0; i < 4; i++) hash = mix(mix(hash, words[KEY_SOURCE + i] as number), words[KEY_DESTINATION + i] as number);
    return finish(((words[KEY_TYPE] as number) & (HAS_FRAGMENT << 16)) !== 0 ? hash : mix(hash, words[KEY_PORTS] as number));
  }

  #ipv4(bytes: Uint8Array, at: number, end: number): number {
    if (at + 20 > end) {
      this.cut = true;
      return 0;
    }
    const first = bytes[at] as number;
    const length = (first & 15) * 4;
    if (first >>> 4 !== 4 || length < 20) return 0;
    if (at + length > end) {
      this.cut = true;
      return 0;
    }
    const { words } = this;
    this.network = at;
    this.version = 4;
    this.protocol = bytes[at + 9] as number;
    words[KEY_IP] = this.protocol | ((bytes[at + 1] as number) << 8) | ((bytes[at + 8] as number) << 16);
    words[KEY_SOURCE] = read32(bytes, at + 12);
    words[KEY_DESTINATION] = read32(bytes, at + 16);
    this.body = at + length;
    const fragment = read16(bytes, at + 6) & 0x3fff;
    if ((fragment & 0x1fff) !== 0) return HAS_IP | HAS_IPV4 | HAS_FRAGMENT | HAS_LATER_FRAGMENT;
    return HAS_IP | HAS_IPV4 | (fragment !== 0 ? HAS_FRAGMENT : 0) | this.#upper(bytes, at + length, end);
  }

  #ipv6(bytes: Uint8Array, start: number, end: number): number {
    if (start + 40 > end) {
      this.cut = true;
      return 0;
    }
    if ((bytes[start] as number) >>> 4 !== 6) return 0;
    const { words } = this;
    this.network = start;
    this.version = 6;
    this.body = start + 40;
    this.#long = true;
    for (let i = 0; i < 4; i++) {
      words[KEY_SOURCE + i] = read32(bytes, start + 8 + 4 * i);
      words[KEY_DESTINATION + i] = read32(bytes, start + 24 + 4 * i);
    }
    const trafficClass = (read16(bytes, start) >>> 4) & 0xff;
    const rest = (trafficClass << 8) | ((bytes[start + 7] as number) << 16);
    let protocol = bytes[start + 6] as number;
    let at = start + 40;
    let has = HAS_IP | HAS_IPV6;
    for (let header = 0; isExtension(protocol); header++) {
      // A chain without an end: what follows is not known.
      if (header === LONGEST_CHAIN) {
        words[KEY_IP] = protocol | rest;
        this.protocol = protocol;
        return has;
      }
      const units = at + 8 <= end ? (bytes[at + 1] as number) : 0;
      const length = protocol === FRAGMENT ? 8 : protocol === AUTHENTICATION ? (units + 2) * 4 : (units + 1) * 8;
      if (at + 8 > end || at + length > end) {
        this.cut = true;
        words[KEY_IP] = protocol | rest;
        this.protocol = protocol;
        return has;
      }
      if (protocol === ROUTING && (bytes[at + 3] as number) > 0) this.routed = true;
      if (protocol === FRAGMENT) {
        const place = read16(bytes, at + 2);
        if ((place & 0xfff9) !== 0) has |= HAS_FRAGMENT;
        if ((place & 0xfff8) !== 0) has |= HAS_LATER_FRAGMENT;
      }
      protocol = bytes[at] as number;
      at += length;
      this.body = at;
      if ((has & HAS_LATER_FRAGMENT) !== 0) break;
    }
    this.protocol = protocol;
    words[KEY_IP] = protocol | rest;
    return (has & HAS_LATER_FRAGMENT) !== 0 ? has : has | this.#upper(bytes, at, end);
  }

  #upper(bytes: Uint8Array, at: number, end: number): number {
    const { protocol, words } = this;
    if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP) {
      if (at + (protocol === PROTOCOL_TCP ? 20 : protocol === PROTOCOL_UDP ? 8 : 12) > end) {
        this.cut = true;
        return 0;
      }
      this.transport = at;
      words[KEY_PORTS] = read32(bytes, at);
      if (protocol === PROTOCOL_TCP) words[KEY_IP] = (words[KEY_IP] as number) | ((bytes[at + 13] as number) << 24);
      return HAS_PORTS;
    }
    if (protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMPV6) {
      if (at + 4 > end) {
        this.cut = true;
        return 0;
      }
      this.transport = at;
      words[KEY_PORTS] = read16(bytes, at);
      return HAS_ICMP;
    }
    return 0;
  }

  #tunnel(bytes: Uint8Array, end: number): void {
    const { words } = this;
    const port = (words[KEY_PORTS] as number) & 0xffff;
    if (port !== this.#vxlanPort && port !== this.#genevePort) return;
    const at = this.transport + 8;
    if (at + 8 + ETHERNET > end) {
      this.cut = true;
      return;
    }
    let inner = at + 8;
    let kind = TUNNEL_VXLAN;
    if (port === this.#vxlanPort) {
      // RFC 7348 5: the flag that says that the VNI is valid is always set.
      if (((bytes[at] as number) & 8) === 0) return;
    } else {
      // RFC 8926 3.4: version 0, an Ethernet frame inside; 3.5: with an option that has to be understood, which we do not, the packet is not ours to open.
      const first = bytes[at] as number;
      if (first >>> 6 !== 0 || ((bytes[at + 1] as number) & 0x40) !== 0 || read16(bytes, at + 2) !== ETHERTYPE_BRIDGED) return;
      inner += (first & 0x3f) * 4;
      kind = TUNNEL_GENEVE;
      if (inner + ETHERNET > end) {
        this.cut = true;
        return;
      }
    }
    this.inner = inner;
    words[KEY_TUNNEL] = (kind << 24) | ((bytes[at + 4] as number) << 16) | read16(bytes, at + 5);
    for (let i = 0; i < 4; i++) {
      words[KEY_TUNNEL_SOURCE + i] = words[KEY_SOURCE + i] as number;
      words[KEY_TUNNEL_DESTINATION + i] = words[KEY_DESTINATION + i] as number;
    }
  }
}

function isExtension(protocol: number): boolean {
  return protocol === HOP_BY_HOP || protocol === ROUTING || protocol === FRAGMENT || protocol === AUTHENTICATION || protocol === DESTINATION_OPTIONS;
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function read32(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 24) | ((bytes[at + 1] as number) << 16) | ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number);
}

function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x9e3779b1);
  return mixed ^ (mixed >>> 15);
}

function finish(hash: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 13), 0x85ebca6b);
  return mixed ^ (mixed >>> 16);
}
