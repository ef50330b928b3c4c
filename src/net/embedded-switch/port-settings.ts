// What can be set of a port (the `ip link set vf` model), checked, and written into the tables. Settings may change at any time while traffic runs; a change is in force for every batch after it.

import { EmbeddedSwitchError } from './errors.ts';
import * as k from './layout.ts';
import { high16, low32, macBytes } from './match.ts';

export interface PortVlan {
  readonly id: number;
  /** Of frames that have no priority of their own. Default 0. */
  readonly priority?: number;
  /** 802.1ad: an S-tag, under which the port may have tags of its own. Default 802.1Q. */
  readonly protocol?: '802.1Q' | '802.1ad';
}

export interface PortSettings {
  /** The port's own address. */
  readonly mac: string | undefined;
  /** More of them, if the port is trusted or they are given to it: single ones. */
  readonly addresses: readonly string[];
  /** Multicast addresses that it listens to. */
  readonly multicast: readonly string[];
  /** Put on what it sends and taken off what it gets; it has no other. */
  readonly vlan: PortVlan | undefined;
  /** VLANs that it is in besides untagged traffic. Default all. */
  readonly vlans: readonly number[] | 'all';
  /** What it sends is from an address of its own, or goes nowhere. */
  readonly spoofCheck: boolean;
  /** What it sends is in a VLAN of its own, or goes nowhere. */
  readonly vlanSpoofCheck: boolean;
  /** May be promiscuous, and in all multicast groups. */
  readonly trust: boolean;
  /** Asked for; in force while trusted: single addresses that are not its own as well, in its VLANs. */
  readonly promiscuous: boolean;
  /** Asked for; in force while trusted. */
  readonly allMulticast: boolean;
  /** auto: up while some uplink is. Of an uplink: its carrier. */
  readonly link: 'auto' | 'enable' | 'disable';
  /** Bits a second that it may send; 0: any. */
  readonly maximumRate: number;
  /** Bits a second that it may send however busy the device's transmit scheduler is. */
  readonly minimumRate: number;
  /** A frame may go back where it came from. */
  readonly hairpin: boolean;
  /** Addresses are learnt from what it sends (if the switch learns at all). */
  readonly learning: boolean;
  /** Ports that get copies of what comes from it, and of what goes to it. */
  readonly mirror: { readonly ingress?: string | undefined; readonly egress?: string | undefined };
}

export const DEFAULT_SETTINGS: PortSettings = {
  mac: undefined,
  addresses: [],
  multicast: [],
  vlan: undefined,
  vlans: 'all',
  spoofCheck: false,
  vlanSpoofCheck: true,
  trust: false,
  promiscuous: false,
  allMulticast: false,
  link: 'auto',
  maximumRate: 0,
  minimumRate: 0,
  hairpin: false,
  learning: true,
  mirror: {},
};

const MOST_ADDRESSES = 256;
/** A burst is this much time's worth, but no less than so many bytes: a large frame passes. */
const BURST_TIME = 1e6;
const LEAST_BURST = 65_536;

/** Settings with some of them changed. @throws EmbeddedSwitchError, having changed nothing */
export function changedSettings(name: string, before: PortSettings, change: Partial<PortSettings>): PortSettings {
  const known = Object.keys(DEFAULT_SETTINGS);
  const strange = Object.keys(change).find((key) => !known.includes(key));
  if (strange !== undefined) throw bad(name, `there is no setting ${strange}; there are: ${known.join(', ')}`);
  // A copy: lists are the caller's to go on with.
  const settings = { ...before, ...structuredClone(change) };
  const { mac, addresses, multicast, vlan, vlans, link, maximumRate, minimumRate } = settings;
  for (const address of [...(mac === undefined ? [] : [mac]), ...addresses])
    if (((bytesOf(name, address)[0] as number) & 1) !== 0) throw bad(name, `${address} is a group address, and no station's`);
  for (const address of multicast) if (((bytesOf(name, address)[0] as number) & 1) === 0) throw bad(name, `${address} is no multicast address`);
  if (addresses.length + multicast.length > MOST_ADDRESSES) throw bad(name, `${addresses.length + multicast.length} addresses: ${MOST_ADDRESSES} at most`);
  if (vlan !== undefined) {
    checkVlan(name, vlan.id);
    if (!(Number.isInteger(vlan.priority ?? 0) && (vlan.priority ?? 0) >= 0 && (vlan.priority ?? 0) <= 7))
      throw bad(name, `VLAN priority ${vlan.priority}: 0 to 7`);
    if (!['802.1Q', '802.1ad', undefined].includes(vlan.protocol)) throw bad(name, `VLAN protocol ${vlan.protocol}: 802.1Q or 802.1ad`);
  }
  if (vlans !== 'all') for (const id of vlans) checkVlan(name, id);
  if (!['auto', 'enable', 'disable'].includes(link)) throw bad(name, `link ${link}: auto, enable or disable`);
  for (const [what, rate] of Object.entries({ maximumRate, minimumRate }))
    if (!(Number.isFinite(rate) && rate >= 0)) throw bad(name, `${what} ${rate}: bits a second, 0 for none`);
  if (maximumRate > 0 && minimumRate > maximumRate) throw bad(name, `minimumRate ${minimumRate} is above maximumRate ${maximumRate}`);
  return settings;
}

function checkVlan(name: string, id: number): void {
  if (!(Number.isInteger(id) && id >= 1 && id <= 4094)) throw bad(name, `VLAN ${id}: 1 to 4094`);
}

function bytesOf(name: string, mac: string): Uint8Array {
  return macBytes(mac, (message) => bad(name, message));
}

function bad(name: string, message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-setting', `${name}: ${message}`);
}

/** A port's addresses, as the address table has them. */
export function addressesOf(port: number, { mac, addresses, multicast }: PortSettings): { low: number; high: number; port: number }[] {
  const all = new Set([...(mac === undefined ? [] : [mac]), ...addresses, ...multicast].map((text) => [...macBytes(text)].join()));
  return [...all].map((text) => {
    const bytes = Uint8Array.from(text.split(','), Number);
    return { low: low32(bytes), high: high16(bytes), port };
  });
}

/** Writes a port's record, but for its addresses. Inside a change. */
export function writePort(tables: k.SwitchTables, port: number, settings: PortSettings, linkUp: boolean, mirrors: { ingress: number; egress: number }): void {
  const { port: words } = tables;
  const at = port * k.PORT_WORDS;
  const { vlan, vlans } = settings;
  let flags = 0;
  const set = (on: boolean, flag: number): void => {
    if (on) flags |= flag;
  };
  set(linkUp, k.PORT_LINK_UP);
  set(settings.spoofCheck, k.PORT_CHECK_MAC);
  set(settings.vlanSpoofCheck, k.PORT_CHECK_VLAN);
  set(settings.promiscuous && settings.trust, k.PORT_PROMISCUOUS);
  set(settings.allMulticast && settings.trust, k.PORT_ALL_MULTICAST);
  set(settings.hairpin, k.PORT_HAIRPIN);
  set(settings.learning, k.PORT_LEARNS);
  set(vlans !== 'all', k.PORT_VLAN_FILTER);
  set(vlan !== undefined, k.PORT_HAS_VLAN);
  words[at + k.PORT_FLAGS] = flags;
  words[at + k.PORT_TCI] = vlan === undefined ? 0 : vlan.id | ((vlan.priority ?? 0) << 13);
  words[at + k.PORT_TPID] = vlan?.protocol === '802.1ad' ? 0x88a8 : 0x8100;
  words[at + k.PORT_MIRROR_INGRESS] = mirrors.ingress + 1;
  words[at + k.PORT_MIRROR_EGRESS] = mirrors.egress + 1;
  words.fill(0, at + k.PORT_VLANS, at + k.PORT_WORDS);
  if (vlans !== 'all') for (const id of vlans) words[at + k.PORT_VLANS + (id >>> 5)] = (words[at + k.PORT_VLANS + (id >>> 5)] as number) | (1 << (id & 31));
}

/** Writes a rate record; its buckets are full again only if the rates changed. Inside a change. @param rates bits a second */
export function writeRates({ rates: floats }: k.SwitchTables, record: number, rates: { maximum: number; minimum: number }): void {
  const at = record * k.RATE_FLOATS;
  const maximum = rates.maximum / 8e9;
  const minimum = rates.minimum / 8e9;
  if (floats[at + k.RATE_MAXIMUM] === maximum && floats[at + k.RATE_MINIMUM] === minimum && (floats[at + k.RATE_BURST] as number) > 0) return;
  floats[at + k.RATE_MAXIMUM] = maximum;
  floats[at + k.RATE_MINIMUM] = minimum;
  floats[at + k.RATE_BURST] = Math.max(LEAST_BURST, Math.max(maximum, minimum) * BURST_TIME);
  floats[at + k.RATE_STAMP] = -1;
}
