// What an embedded switch in switchdev mode does, written down to be read: frames are arrays of bytes, taken apart and put together again at every step, rules are gone through one by one. It shares types with the
// product and no code.

import type { FlowAction } from '#net/embedded-switch/actions';
import type { FlowRuleSpec } from '#net/embedded-switch/domain';
import type { FlowMatch, Masked } from '#net/embedded-switch/match';
import { onesComplementSum } from '../frames.ts';

interface Tag {
  readonly tpid: number;
  readonly tci: number;
}

interface Tunnel {
  readonly kind: 'vxlan' | 'geneve';
  readonly vni: number;
  readonly version: 4 | 6;
  readonly source: number[];
  readonly destination: number[];
}

/** A frame taken apart. */
export interface Headers {
  readonly to: number[];
  readonly from: number[];
  /** Two at most. */
  readonly tags: Tag[];
  /** Missing when the frame ends in a tag. */
  readonly type?: number;
  /** Where the network header starts. */
  readonly network: number;
  readonly ip?: {
    readonly version: 4 | 6;
    readonly source: number[];
    readonly destination: number[];
    readonly protocol: number;
    readonly dscp: number;
    readonly ttl: number;
    readonly fragment: 'none' | 'first' | 'later';
    /** Where what it carries starts; missing when that is not to be known. */
    readonly body?: number;
  };
  readonly ports?: { readonly source: number; readonly destination: number; readonly flags: number };
  readonly icmp?: { readonly type: number; readonly code: number };
  readonly tunnel?: Tunnel & { readonly inner: number };
}

const at16 = (bytes: readonly number[], at: number): number => (bytes[at] as number) * 256 + (bytes[at + 1] as number);
const u16 = (value: number): number[] => [(value >> 8) & 255, value & 255];

export function takeApart(bytes: readonly number[]): Headers {
  const tags: Tag[] = [];
  let at = 12;
  while (tags.length < 2 && [0x8100, 0x88a8].includes(at16(bytes, at))) {
    if (at + 6 > bytes.length) return { to: bytes.slice(0, 6), from: bytes.slice(6, 12), tags, network: 0 };
    tags.push({ tpid: at16(bytes, at), tci: at16(bytes, at + 2) });
    at += 4;
  }
  const type = at16(bytes, at);
  const network = at + 2;
  const base = { to: bytes.slice(0, 6), from: bytes.slice(6, 12), tags, type, network };
  const ip = type === 0x0800 ? ipv4(bytes, network) : type === 0x86dd ? ipv6(bytes, network) : undefined;
  if (ip === undefined) return base;
  const { body, protocol } = ip;
  if (body === undefined) return { ...base, ip };
  const left = bytes.length - body;
  if ([1, 58].includes(protocol)) return left < 4 ? { ...base, ip } : { ...base, ip, icmp: { type: bytes[body] as number, code: bytes[body + 1] as number } };
  const least = { 6: 20, 17: 8, 132: 12 }[protocol];
  if (least === undefined || left < least) return { ...base, ip };
  const ports = { source: at16(bytes, body), destination: at16(bytes, body + 2), flags: protocol === 6 ? (bytes[body + 13] as number) : 0 };
  const tunnel = protocol === 17 && ip.fragment === 'none' ? tunnelIn(bytes, body + 8, ports.destination, ip) : undefined;
  return { ...base, ip, ports, ...(tunnel && { tunnel }) };
}

function ipv4(bytes: readonly number[], at: number): Headers['ip'] {
  const length = ((bytes[at] ?? 0) & 15) * 4;
  if (bytes.length < at + 20 || (bytes[at] as number) >> 4 !== 4 || length < 20 || bytes.length < at + length) return undefined;
  const place = at16(bytes, at + 6);
  const fragment = (place & 0x1fff) !== 0 ? 'later' : (place & 0x2000) !== 0 ? 'first' : 'none';
  return {
    version: 4,
    source: bytes.slice(at + 12, at + 16),
    destination: bytes.slice(at + 16, at + 20),
    protocol: bytes[at + 9] as number,
    dscp: (bytes[at + 1] as number) >> 2,
    ttl: bytes[at + 8] as number,
    fragment,
    ...(fragment !== 'later' && { body: at + length }),
  };
}

function ipv6(bytes: readonly number[], start: number): Headers['ip'] {
  if (bytes.length < start + 40 || (bytes[start] as number) >> 4 !== 6) return undefined;
  let protocol = bytes[start + 6] as number;
  let at = start + 40;
  let fragment: 'none' | 'first' | 'later' = 'none';
  let known = true;
  for (let header = 0; known && fragment !== 'later' && [0, 43, 44, 51, 60].includes(protocol); header++) {
    const length = protocol === 44 ? 8 : protocol === 51 ? ((bytes[at + 1] ?? 0) + 2) * 4 : ((bytes[at + 1] ?? 0) + 1) * 8;
    known = header < 8 && at + 8 <= bytes.length && at + length <= bytes.length;
    if (!known) break;
    if (protocol === 44) {
      const place = at16(bytes, at + 2);
      if ((place & 0xfff8) !== 0) fragment = 'later';
      else if ((place & 1) !== 0) fragment = 'first';
    }
    protocol = bytes[at] as number;
    at += length;
  }
  return {
    version: 6,
    source: bytes.slice(start + 8, start + 24),
    destination: bytes.slice(start + 24, start + 40),
    protocol,
    dscp: (at16(bytes, start) >> 6) & 63,
    ttl: bytes[start + 7] as number,
    fragment,
    ...(known && fragment !== 'later' && { body: at }),
  };
}

function tunnelIn(bytes: readonly number[], at: number, port: number, ip: NonNullable<Headers['ip']>): Headers['tunnel'] {
  if (bytes.length < at + 8 + 14) return undefined;
  const about = { vni: (bytes[at + 4] as number) * 65536 + at16(bytes, at + 5), version: ip.version, source: ip.source, destination: ip.destination };
  if (port === 4789) return ((bytes[at] as number) & 8) === 0 ? undefined : { kind: 'vxlan', ...about, inner: at + 8 };
  if (port !== 6081) return undefined;
  const inner = at + 8 + ((bytes[at] as number) & 63) * 4;
  if ((bytes[at] as number) >> 6 !== 0 || ((bytes[at + 1] as number) & 0x40) !== 0 || at16(bytes, at + 2) !== 0x6558 || bytes.length < inner + 14)
    return undefined;
  return { kind: 'geneve', ...about, inner };
}

// ---- matches ----

const macBytes = (text: string): number[] => text.split(':').map((byte) => Number.parseInt(byte, 16));

function ipBytes(text: string): number[] {
  if (!text.includes(':')) return text.split('.').map(Number);
  const [head = '', tail] = text.split('::');
  const words = (part: string): number[] =>
    part
      .split(':')
      .filter((word) => word !== '')
      .flatMap((word) => u16(Number.parseInt(word, 16)));
  const [before, after] = [words(head), words(tail ?? '')];
  return [...before, ...new Array<number>(16 - before.length - after.length).fill(0), ...after];
}

const fits = (value: readonly number[], want: readonly number[], mask: readonly number[]): boolean =>
  value.length === want.length && want.every((byte, i) => ((value[i] as number) & (mask[i] as number)) === byte);

function macFits(value: readonly number[], pattern: string): boolean {
  const [address = '', mask = 'ff:ff:ff:ff:ff:ff'] = pattern.split('/');
  return fits(value, macBytes(address), macBytes(mask));
}

function ipFits(value: readonly number[] | undefined, pattern: string): boolean {
  const [address = '', suffix] = pattern.split('/');
  const want = ipBytes(address);
  const prefix = (length: number): number[] => want.map((_, i) => (0xff00 >> Math.min(8, Math.max(0, length - 8 * i))) & 255);
  const mask = suffix === undefined ? want.map(() => 255) : /^\d+$/.test(suffix) ? prefix(Number(suffix)) : ipBytes(suffix);
  return value !== undefined && fits(value, want, mask);
}

const numberFits = (value: number | undefined, want: Masked): boolean =>
  value !== undefined && (typeof want === 'number' ? value === want : (value & want.mask) === want.value);

function tagFits(tag: Tag | undefined, want: NonNullable<FlowMatch['vlan']>): boolean {
  if (want === 'none') return tag === undefined;
  return (
    tag !== undefined && (want.id === undefined || numberFits(tag.tci & 0xfff, want.id)) && (want.priority === undefined || tag.tci >> 13 === want.priority)
  );
}

function matches(match: FlowMatch, port: string, h: Headers, was: Tunnel | undefined): boolean {
  const { ip, ports, icmp } = h;
  const tunnel = h.tunnel ?? was;
  const version = (pattern: string): 4 | 6 => (pattern.includes(':') ? 6 : 4);
  const checks: { [field in keyof FlowMatch]-?: (want: NonNullable<FlowMatch[field]>) => boolean } = {
    port: (want) => want === port,
    destinationMac: (want) => macFits(h.to, want),
    sourceMac: (want) => macFits(h.from, want),
    vlan: (want) => tagFits(h.tags[0], want),
    innerVlan: (want) => tagFits(h.tags[1], want),
    serviceTag: (want) => h.tags[0] !== undefined && (h.tags[0].tpid === 0x88a8) === want,
    etherType: (want) => h.type === want,
    source: (want) => ip?.version === version(want) && ipFits(ip.source, want),
    destination: (want) => ip?.version === version(want) && ipFits(ip.destination, want),
    protocol: (want) => ip?.protocol === want,
    dscp: (want) => ip?.dscp === want,
    ttl: (want) => numberFits(ip?.ttl, want),
    fragment: (want) => ip !== undefined && (want === 'any' ? ip.fragment !== 'none' : ip.fragment === want),
    sourcePort: (want) => numberFits(ports?.source, want),
    destinationPort: (want) => numberFits(ports?.destination, want),
    tcpFlags: (want) => ip?.protocol === 6 && ports !== undefined && numberFits(ports.flags, want),
    icmpType: (want) => icmp?.type === want,
    icmpCode: (want) => icmp?.code === want,
    tunnel: ({ kind, vni, source, destination }) =>
      tunnel !== undefined &&
      tunnel.kind === kind &&
      (vni === undefined || tunnel.vni === vni) &&
      (source === undefined || (tunnel.version === version(source) && ipFits(tunnel.source, source))) &&
      (destination === undefined || (tunnel.version === version(destination) && ipFits(tunnel.destination, destination))),
  };
  return (Object.keys(match) as (keyof FlowMatch)[]).every(
    (field) => match[field] === undefined || (checks[field] as (want: unknown) => boolean)(match[field]),
  );
}

// ---- changes ----

/** Checksums all over again, of a frame whose headers are whole. */
export function withChecksums(bytes: readonly number[]): number[] {
  const made = [...bytes];
  const { ip, network, ports, icmp } = takeApart(made);
  if (ip === undefined) return made;
  if (ip.version === 4) {
    const length = ((made[network] as number) & 15) * 4;
    made.splice(network + 10, 2, 0, 0);
    made.splice(network + 10, 2, ...u16(~onesComplementSum(made.slice(network, network + length)) & 0xffff));
  }
  const { body, protocol } = ip;
  if (body === undefined || ip.fragment !== 'none' || (ports === undefined && icmp === undefined) || protocol === 132) return made;
  const field = body + (protocol === 6 ? 16 : protocol === 17 ? 6 : 2);
  if (protocol === 17 && at16(made, field) === 0) return made;
  made.splice(field, 2, 0, 0);
  const covered = made.slice(body);
  const pseudo = protocol === 1 || (protocol === 58 && ip.version === 4) ? [] : [...ip.source, ...ip.destination, 0, 0, ...u16(covered.length), 0, protocol];
  const sum = ~onesComplementSum([...pseudo, ...covered]) & 0xffff;
  made.splice(field, 2, ...u16(sum === 0 && protocol === 17 ? 0xffff : sum));
  return made;
}

/** A frame without its tags, however many: rules put on more than are looked behind. */
export function behindTags(bytes: readonly number[]): number[] {
  let at = 12;
  while (at + 6 <= bytes.length && [0x8100, 0x88a8].includes(at16(bytes, at))) at += 4;
  return [...bytes.slice(0, 12), ...bytes.slice(at)];
}

/** With fields that are the encapsulating side's to choose, and checksums, at 0: for comparison. */
export function plainly(bytes: readonly number[]): number[] {
  const made = behindTags(bytes);
  if (made.length < bytes.length) return [...bytes.slice(0, 12 + bytes.length - made.length), ...plainly(made).slice(12)];
  const { ip, network, ports, icmp, tunnel } = takeApart(made);
  if (ip === undefined) return made;
  if (ip.version === 4) made.splice(network + 10, 2, 0, 0);
  const { body, protocol } = ip;
  if (body === undefined || (ports === undefined && icmp === undefined) || protocol === 132) return made;
  made.splice(body + (protocol === 6 ? 16 : protocol === 17 ? 6 : 2), 2, 0, 0);
  if (tunnel === undefined) return made;
  if (ip.version === 4) made.splice(network + 4, 2, 0, 0);
  made.splice(body, 2, 0, 0);
  return [...made.slice(0, tunnel.inner), ...plainly(made.slice(tunnel.inner))];
}

function set(bytes: readonly number[], action: Extract<FlowAction, { kind: 'set' }>): number[] {
  const made = [...bytes];
  const { ip, network, ports } = takeApart(made);
  const put = (at: number, value: readonly number[]): void => void made.splice(at, value.length, ...value);
  if (action.destinationMac !== undefined) put(0, macBytes(action.destinationMac));
  if (action.sourceMac !== undefined) put(6, macBytes(action.sourceMac));
  if (ip === undefined) return made;
  const fields = { source: ip.version === 4 ? 12 : 8, destination: ip.version === 4 ? 16 : 24 };
  for (const which of ['source', 'destination'] as const) {
    const address = action[which];
    if (address !== undefined && ipBytes(address).length === ip[which].length) put(network + fields[which], ipBytes(address));
  }
  if (ports !== undefined && ip.body !== undefined) {
    if (action.sourcePort !== undefined) put(ip.body, u16(action.sourcePort));
    if (action.destinationPort !== undefined) put(ip.body + 2, u16(action.destinationPort));
  }
  if (action.dscp !== undefined) {
    if (ip.version === 4) put(network + 1, [(action.dscp << 2) | ((made[network + 1] as number) & 3)]);
    else put(network, u16((at16(made, network) & 0xf03f) | (action.dscp << 6)));
  }
  if (action.ttl !== undefined) put(network + (ip.version === 4 ? 8 : 7), [action.ttl]);
  return made;
}

export interface Endpoint {
  readonly kind: 'vxlan' | 'geneve';
  readonly vni: number;
  readonly source: string;
  readonly destination: string;
  readonly sourceMac: string;
  readonly destinationMac: string;
}

function encapsulate(inner: readonly number[], { kind, vni, source, destination, sourceMac, destinationMac }: Endpoint): number[] {
  const shim = kind === 'vxlan' ? [8, 0, 0, 0] : [0, 0, 0x65, 0x58];
  const datagram = [...shim, vni >> 16, ...u16(vni), 0, ...inner];
  const udp = [0, 0, ...u16(kind === 'vxlan' ? 4789 : 6081), ...u16(8 + datagram.length), 0, 0, ...datagram];
  const addresses = [...ipBytes(source), ...ipBytes(destination)];
  const ip =
    addresses.length === 8
      ? [0x45, 0, ...u16(20 + udp.length), 0, 0, 0x40, 0, 64, 17, 0, 0, ...addresses]
      : [0x60, 0, 0, 0, ...u16(udp.length), 17, 64, ...addresses];
  return [...macBytes(destinationMac), ...macBytes(sourceMac), ...(addresses.length === 8 ? [8, 0] : [0x86, 0xdd]), ...ip, ...udp];
}

// ---- the switch ----

export interface ReferenceRule {
  readonly spec: FlowRuleSpec;
  frames: number;
  bytes: number;
}

interface Copy {
  readonly port: string;
  readonly bytes: readonly number[];
}

export interface Outcome {
  /** Where it went, in order. */
  readonly copies: Copy[];
  /** Of these, those that are not mirrors'. */
  readonly forwarded: number;
}

export class ReferenceSwitch {
  readonly rules: ReferenceRule[] = [];
  readonly #endpoints: Readonly<Record<string, Endpoint>>;

  constructor(endpoints: Readonly<Record<string, Endpoint>>) {
    this.#endpoints = endpoints;
  }

  add(spec: FlowRuleSpec): ReferenceRule {
    const rule = { spec, frames: 0, bytes: 0 };
    this.rules.push(rule);
    return rule;
  }

  #first(table: string, chain: number, port: string, bytes: readonly number[], was: Tunnel | undefined): ReferenceRule | undefined {
    let best: ReferenceRule | undefined;
    for (const rule of this.rules) {
      const { spec } = rule;
      if ((spec.table ?? 'forward') !== table || (spec.chain ?? 0) !== chain || !matches(spec.match, port, takeApart(bytes), was)) continue;
      // Rules are in the order of their installation: of equals the first one stays.
      if (best === undefined || (spec.priority ?? 0) > (best.spec.priority ?? 0)) best = rule;
    }
    if (best === undefined) return undefined;
    best.frames++;
    best.bytes += bytes.length;
    return best;
  }

  /** What becomes of a frame that comes from a port. */
  send(port: string, frame: Uint8Array): Outcome {
    let bytes: readonly number[] = [...frame];
    let was: Tunnel | undefined;
    const copies: Copy[] = [];
    let forwarded = 0;
    const mirror = (to: string): void => void copies.push({ port: to, bytes });
    const deliver = (to: string): void => {
      if (to === port) return;
      const list = to.endsWith('-rep') ? undefined : this.#first('egress', 0, to, bytes, was);
      for (const action of list?.spec.actions ?? []) {
        if (action.kind === 'drop') return;
        if (action.kind === 'mirror') mirror(action.to);
      }
      copies.push({ port: to, bytes });
      forwarded++;
    };
    for (const action of this.#first('ingress', 0, port, bytes, was)?.spec.actions ?? []) {
      if (action.kind === 'drop') return { copies, forwarded };
      if (action.kind === 'mirror') mirror(action.to);
    }
    let chain: number | undefined = 0;
    while (chain !== undefined) {
      const rule = this.#first('forward', chain, port, bytes, was);
      chain = undefined;
      for (const action of rule?.spec.actions ?? [{ kind: 'miss' } as const]) {
        const h = takeApart(bytes);
        const tag = h.tags[0];
        if (action.kind === 'drop') break;
        else if (action.kind === 'miss') {
          copies.push({ port: `${port}-rep`, bytes });
          forwarded++;
        } else if (action.kind === 'jump') ({ chain } = action);
        else if (action.kind === 'forward') for (const to of typeof action.to === 'string' ? [action.to] : [...action.to]) deliver(to);
        else if (action.kind === 'mirror') mirror(action.to);
        else if (action.kind === 'push-vlan')
          bytes = [
            ...bytes.slice(0, 12),
            ...u16(action.protocol === '802.1ad' ? 0x88a8 : 0x8100),
            ...u16(action.id | ((action.priority ?? 0) << 13)),
            ...bytes.slice(12),
          ];
        else if (action.kind === 'pop-vlan') bytes = tag === undefined ? bytes : [...bytes.slice(0, 12), ...bytes.slice(16)];
        else if (action.kind === 'set-vlan') {
          if (tag === undefined) continue;
          const tci = (((action.priority ?? tag.tci >> 13) & 7) << 13) | (tag.tci & 0x1000) | (action.id ?? tag.tci & 0xfff);
          bytes = [...bytes.slice(0, 14), ...u16(tci), ...bytes.slice(16)];
        } else if (action.kind === 'set') bytes = set(bytes, action);
        else if (action.kind === 'decrement-ttl') {
          if (h.ip === undefined) continue;
          if (h.ip.ttl <= 1) break;
          bytes = set(bytes, { kind: 'set', ttl: h.ip.ttl - 1 });
        } else if (action.kind === 'encapsulate') bytes = encapsulate(bytes, this.#endpoints[action.tunnel] as Endpoint);
        else if (action.kind === 'decapsulate') {
          if (h.tunnel === undefined) break;
          was = h.tunnel;
          bytes = bytes.slice(h.tunnel.inner);
        } else throw new Error(`the reference knows no ${action.kind}`);
      }
    }
    return { copies, forwarded };
  }
}
