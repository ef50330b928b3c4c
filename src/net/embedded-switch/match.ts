// What a flow rule matches, as an embedder writes it, turned into the words of a mask and a key (layout.ts). Every field that is named must be as it says; a field implies that its header is
// there (a port that the frame is TCP, UDP or SCTP and no later fragment).

import { EmbeddedSwitchError } from './errors.ts';
import * as k from './layout.ts';

/** An address with a mask: `02:00:00:00:00:01`, `02:00:00:00:00:00/ff:ff:00:00:00:00`. */
type MacPattern = string;
/** `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1/255.0.0.255`; `fd00::1`, `fd00::/8`. */
type IpPattern = string;
/** A value, or the bits of it that count. */
export type Masked = number | { readonly value: number; readonly mask: number };

interface VlanMatch {
  readonly id?: Masked;
  readonly priority?: number;
}

export interface FlowMatch {
  /** The port that the frame came from; of an egress rule the one that it goes to. */
  readonly port?: string;
  readonly destinationMac?: MacPattern;
  readonly sourceMac?: MacPattern;
  /** The outer tag; 'none': untagged. */
  readonly vlan?: VlanMatch | 'none';
  readonly innerVlan?: VlanMatch | 'none';
  /** The outer tag is an S-tag (IEEE 802.1ad). */
  readonly serviceTag?: boolean;
  /** Behind the tags. */
  readonly etherType?: number;
  readonly source?: IpPattern;
  readonly destination?: IpPattern;
  /** Of either version, if no address says which. */
  readonly protocol?: number;
  readonly dscp?: number;
  readonly ttl?: Masked;
  /** 'none', 'first' (of several), 'later', or 'any' fragment. */
  readonly fragment?: 'none' | 'first' | 'later' | 'any';
  readonly sourcePort?: Masked;
  readonly destinationPort?: Masked;
  /** FIN 1, SYN 2, RST 4, PSH 8, ACK 16, ... */
  readonly tcpFlags?: Masked;
  readonly icmpType?: number;
  readonly icmpCode?: number;
  /** Of the tunnel that the frame is in, or was in before it was decapsulated. */
  readonly tunnel?: { readonly kind?: 'vxlan' | 'geneve'; readonly vni?: number; readonly source?: IpPattern; readonly destination?: IpPattern };
}

export interface MatchWords {
  readonly mask: Int32Array;
  readonly key: Int32Array;
}

export function matchWords(match: FlowMatch, portNumber: (name: string) => number): MatchWords {
  const words = new Writer();
  if (match.port !== undefined) words.put(k.KEY_PORT, 0, 0xffff, portNumber(match.port));
  if (match.destinationMac !== undefined) words.mac(k.KEY_TO_LOW, 0, match.destinationMac);
  if (match.sourceMac !== undefined) words.mac(k.KEY_FROM_LOW, 16, match.sourceMac);
  if (match.vlan !== undefined) words.vlan(match.vlan, 0, k.HAS_TAG);
  if (match.innerVlan !== undefined) words.vlan(match.innerVlan, 16, k.HAS_INNER_TAG);
  if (match.serviceTag !== undefined) {
    words.has(k.HAS_TAG, true);
    words.has(k.HAS_SERVICE_TAG, match.serviceTag);
  }
  if (match.etherType !== undefined) words.put(k.KEY_TYPE, 0, 0xffff, number('etherType', match.etherType, 0xffff));
  if (match.source !== undefined) words.address(k.KEY_SOURCE, match.source, true);
  if (match.destination !== undefined) words.address(k.KEY_DESTINATION, match.destination, true);
  if (match.protocol !== undefined) words.ip(0, 0xff, number('protocol', match.protocol, 255));
  if (match.dscp !== undefined) words.ip(8, 0xfc, number('dscp', match.dscp, 63) << 2);
  if (match.ttl !== undefined) words.maskedIp(16, 'ttl', match.ttl);
  if (match.fragment !== undefined) words.fragment(match.fragment);
  if (match.sourcePort !== undefined) words.portNumber(16, 'sourcePort', match.sourcePort);
  if (match.destinationPort !== undefined) words.portNumber(0, 'destinationPort', match.destinationPort);
  if (match.tcpFlags !== undefined) {
    words.ip(0, 0xff, 6);
    words.has(k.HAS_PORTS, true);
    words.maskedIp(24, 'tcpFlags', match.tcpFlags);
  }
  if (match.icmpType !== undefined || match.icmpCode !== undefined) words.has(k.HAS_ICMP, true);
  if (match.icmpType !== undefined) words.put(k.KEY_PORTS, 8, 0xff, number('icmpType', match.icmpType, 255));
  if (match.icmpCode !== undefined) words.put(k.KEY_PORTS, 0, 0xff, number('icmpCode', match.icmpCode, 255));
  if (match.tunnel !== undefined) words.tunnel(match.tunnel);
  return words;
}

class Writer implements MatchWords {
  readonly mask = new Int32Array(k.KEY_WORDS);
  readonly key = new Int32Array(k.KEY_WORDS);
  /** 0: not said; 4, 6. */
  #version = 0;

  /** `bits` of the word, counted from bit `shift` on, are to be `value`. @throws when they are to be something else already */
  put(word: number, shift: number, bits: number, value: number): void {
    const mask = bits << shift;
    const want = (value & bits) << shift;
    const both = (this.mask[word] as number) & mask;
    if (((this.key[word] as number) & both) !== (want & both)) throw bad('two fields contradict each other: no frame has both');
    this.mask[word] = (this.mask[word] as number) | mask;
    this.key[word] = (this.key[word] as number) | want;
  }

  has(flag: number, yes: boolean): void {
    this.put(k.KEY_TYPE, 16, flag, yes ? flag : 0);
  }

  mac(low: number, highShift: number, pattern: MacPattern): void {
    const [address, mask] = macPattern(pattern);
    this.put(low, 0, low32(mask), low32(address));
    this.put(k.KEY_HIGHS, highShift, high16(mask), high16(address));
  }

  vlan(vlan: VlanMatch | 'none', shift: number, flag: number): void {
    this.has(flag, vlan !== 'none');
    if (vlan === 'none') return;
    if (vlan.id !== undefined) {
      const { value, mask } = masked('vlan id', vlan.id, 0xfff);
      this.put(k.KEY_TAGS, shift, mask, value);
    }
    if (vlan.priority !== undefined) this.put(k.KEY_TAGS, shift, 0xe000, number('vlan priority', vlan.priority, 7) << 13);
  }

  /** Bits of the IP word: of either version. */
  ip(shift: number, bits: number, value: number): void {
    this.has(k.HAS_IP, true);
    this.put(k.KEY_IP, shift, bits, value);
  }

  maskedIp(shift: number, name: string, field: Masked): void {
    const { value, mask } = masked(name, field, 255);
    this.ip(shift, mask, value);
  }

  fragment(which: 'none' | 'first' | 'later' | 'any'): void {
    this.has(k.HAS_IP, true);
    this.has(k.HAS_FRAGMENT, which !== 'none');
    if (which === 'first' || which === 'later') this.has(k.HAS_LATER_FRAGMENT, which === 'later');
  }

  portNumber(shift: number, name: string, field: Masked): void {
    const { value, mask } = masked(name, field, 0xffff);
    this.has(k.HAS_PORTS, true);
    this.put(k.KEY_PORTS, shift, mask, value);
  }

  address(word: number, pattern: IpPattern, frame: boolean): void {
    const { version, address, mask } = ipPattern(pattern);
    if (frame) {
      if (this.#version !== 0 && this.#version !== version) throw bad('one address is IPv4, the other IPv6');
      this.#version = version;
      this.has(version === 4 ? k.HAS_IPV4 : k.HAS_IPV6, true);
    }
    for (let i = 0; i < 4; i++) this.put(word + i, 0, mask[i] as number, address[i] as number);
  }

  tunnel({ kind, vni, source, destination }: NonNullable<FlowMatch['tunnel']>): void {
    if (kind === undefined) throw bad('a tunnel match says its kind: vxlan or geneve');
    this.put(k.KEY_TUNNEL, 24, 0xff, kind === 'vxlan' ? k.TUNNEL_VXLAN : k.TUNNEL_GENEVE);
    if (vni !== undefined) this.put(k.KEY_TUNNEL, 0, 0xffffff, number('vni', vni, 0xffffff));
    if (source !== undefined) this.address(k.KEY_TUNNEL_SOURCE, source, false);
    if (destination !== undefined) this.address(k.KEY_TUNNEL_DESTINATION, destination, false);
  }
}

function bad(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-match', message);
}

function number(name: string, value: number, most: number): number {
  if (!(Number.isInteger(value) && value >= 0 && value <= most)) throw bad(`${name} ${value}: 0 to ${most}`);
  return value;
}

function masked(name: string, field: Masked, most: number): { value: number; mask: number } {
  if (typeof field === 'number') return { value: number(name, field, most), mask: most };
  const { value, mask } = field;
  number(name, value, most);
  number(`${name} mask`, mask, most);
  if ((value & ~mask) !== 0) throw bad(`${name} ${value} has bits that its mask ${mask} does not`);
  return { value, mask };
}

export function low32(mac: Uint8Array): number {
  return (mac[0] as number) | ((mac[1] as number) << 8) | ((mac[2] as number) << 16) | ((mac[3] as number) << 24);
}

export function high16(mac: Uint8Array): number {
  return (mac[4] as number) | ((mac[5] as number) << 8);
}

/** Six bytes of an address as it is written. @throws EmbeddedSwitchError */
export function macBytes(text: string, wrong: (message: string) => Error = bad): Uint8Array {
  const parts = text.split(':');
  if (parts.length !== 6 || !parts.every((part) => /^[0-9a-f]{1,2}$/i.test(part)))
    throw wrong(`MAC address ${text}: six bytes in hexadecimal with colons between`);
  return Uint8Array.from(parts, (part) => Number.parseInt(part, 16));
}

function macPattern(pattern: string): [Uint8Array, Uint8Array] {
  const [address = '', mask] = pattern.split('/');
  const bits = mask === undefined ? new Uint8Array(6).fill(255) : macBytes(mask);
  const bytes = macBytes(address);
  if (bytes.some((byte, i) => (byte & ~(bits[i] as number)) !== 0)) throw bad(`${pattern} has bits that its mask does not`);
  return [bytes, bits];
}

/** An IP address in four words, most significant first (IPv4: the first). @throws EmbeddedSwitchError */
export function ipWords(text: string, wrong: (message: string) => Error = bad): { version: 4 | 6; words: Int32Array } {
  const words = new Int32Array(4);
  if (!text.includes(':')) {
    const parts = text.split('.');
    if (parts.length !== 4 || !parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) < 256))
      throw wrong(`IP address ${text}: four numbers with dots between, or IPv6`);
    words[0] = parts.reduce((sum, part) => (sum << 8) | Number(part), 0);
    return { version: 4, words };
  }
  const halves = text.split('::');
  const groups = (half: string): string[] => (half === '' ? [] : half.split(':'));
  const [head, tail] = [groups(halves[0] ?? ''), groups(halves[1] ?? '')];
  const missing = 8 - head.length - tail.length;
  const all = halves.length === 2 ? [...head, ...new Array<string>(Math.max(0, missing)).fill('0'), ...tail] : head;
  if (halves.length > 2 || all.length !== 8 || (halves.length === 2 && missing < 1) || !all.every((group) => /^[0-9a-f]{1,4}$/i.test(group)))
    throw wrong(`IP address ${text}: eight groups of hexadecimal digits with colons between, one run of zeroes as ::`);
  all.forEach((group, i) => {
    words[i >> 1] = (words[i >> 1] as number) | (Number.parseInt(group, 16) << (i % 2 === 0 ? 16 : 0));
  });
  return { version: 6, words };
}

function ipPattern(pattern: string): { version: 4 | 6; address: Int32Array; mask: Int32Array } {
  const [text = '', suffix] = pattern.split('/');
  const { version, words } = ipWords(text);
  const most = version === 4 ? 32 : 128;
  let mask = new Int32Array(4);
  if (suffix === undefined || /^\d+$/.test(suffix)) {
    const length = suffix === undefined ? most : number(`${pattern}: prefix length`, Number(suffix), most);
    for (let i = 0; i < 4; i++) {
      const bits = Math.min(32, Math.max(0, length - 32 * i));
      mask[i] = bits === 0 ? 0 : -1 << (32 - bits);
    }
  } else {
    const parsed = ipWords(suffix);
    if (parsed.version !== version) throw bad(`${pattern}: the mask is of the other IP version`);
    mask = parsed.words as Int32Array<ArrayBuffer>;
  }
  if (words.some((word, i) => (word & ~(mask[i] as number)) !== 0)) throw bad(`${pattern} has bits that its mask does not`);
  return { version, address: words, mask };
}
