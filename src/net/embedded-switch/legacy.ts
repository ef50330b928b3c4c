// Legacy mode: a bridge between functions and the wire by address and VLAN (what `ip link set vf` sets up). What a port may send, what VLAN its frames are in, and which ports a frame is for. Tags inside the
// switch are as on the wire: a port VLAN's tag is put on as a frame comes in and taken off as it goes out.

import type { Nanos } from '#core/clock';
import { AddressSearch } from './addresses.ts';
import type { FrameKey } from './frame-key.ts';
import {
  CONFIG_LEARNING,
  CONFIG_MULTICAST_FLOOD,
  CONFIG_PROMISCUOUS,
  CONFIG_VEPA,
  HAS_INNER_TAG,
  HAS_SERVICE_TAG,
  HAS_TAG,
  KEY_FROM_LOW,
  KEY_HIGHS,
  KEY_TAGS,
  KEY_TO_LOW,
  KEY_TYPE,
  PORT_ALL_MULTICAST,
  PORT_CHECK_MAC,
  PORT_CHECK_VLAN,
  PORT_FLAGS,
  PORT_HAIRPIN,
  PORT_HAS_VLAN,
  PORT_LEARNS,
  PORT_PROMISCUOUS,
  PORT_TCI,
  PORT_TPID,
  PORT_VLAN_FILTER,
  PORT_VLANS,
  PORT_WORDS,
  type SwitchTables,
  WHY_RESERVED,
  WHY_SAME_PORT,
  WHY_SPOOFED_MAC,
  WHY_SPOOFED_VLAN,
  WHY_UNKNOWN,
  WHY_VLAN,
} from './layout.ts';

const BROADCAST_LOW = -1;
const BROADCAST_HIGH = 0xffff;
/** IEEE 802.1Q 8.6.3: 01-80-C2-00-00-00 to -0F are for the link. */
const RESERVED_LOW = 0x00c28001;
const TPID_SERVICE = 0x88a8;
/** Beside a VLAN id: of S-tags. */
export const SERVICE_VLAN = 0x1000;

// What `admit` says is to be done to a frame's tag.
export const TAG_AS_IT_IS = 0;
export const TAG_PUSH = 1;
export const TAG_REPLACE = 2;

export class LegacyBridge {
  /** Ports that the last frame is for. */
  readonly targets: Int32Array;
  count = 0;
  /** Why there are none: WHY_*. */
  why = WHY_UNKNOWN;
  /** TAG_*. */
  tag = TAG_AS_IT_IS;
  #vlan = 0;
  /** Its tag has a priority and no VLAN, and there is another behind it: the VLAN that a receiver may take it to be in is none that was looked at. */
  #hidden = false;
  #service = false;
  readonly #tables: SwitchTables;
  readonly #search: AddressSearch;
  readonly #uplinks: number;
  /** The physical function's port. */
  readonly #physical: number;

  constructor(tables: SwitchTables) {
    this.#tables = tables;
    this.#search = new AddressSearch(tables);
    this.#uplinks = tables.share.uplinks;
    this.#physical = this.#uplinks;
    this.targets = new Int32Array(tables.ports);
  }

  /** Whether a frame may come in at all, and in which VLAN it is: -1, or why not. */
  admit(source: number, key: FrameKey): number {
    const { port } = this.#tables;
    const at = source * PORT_WORDS;
    const flags = port[at + PORT_FLAGS] as number;
    const { words } = key;
    if ((flags & PORT_CHECK_MAC) !== 0) {
      // A group that it listens to is no station.
      const low = words[KEY_FROM_LOW] as number;
      if ((low & 1) !== 0 || !this.#owns(source, low, (words[KEY_HIGHS] as number) >>> 16)) return WHY_SPOOFED_MAC;
    }
    const type = words[KEY_TYPE] as number;
    const tagged = (type & (HAS_TAG << 16)) !== 0;
    // Of VLAN 0 is a tag that has a priority and no VLAN (IEEE 802.1Q 6.9.1).
    const id = tagged ? key.vlan : 0;
    this.#hidden = tagged && id === 0 && (type & (HAS_INNER_TAG << 16)) !== 0;
    this.tag = TAG_AS_IT_IS;
    if ((flags & PORT_HAS_VLAN) !== 0) {
      this.#service = port[at + PORT_TPID] === TPID_SERVICE;
      this.#vlan = (port[at + PORT_TCI] as number) & 0xfff;
      // Who has a port VLAN cannot be in another one; under an S-tag what it has of its own goes along.
      if ((id !== 0 || this.#hidden) && !this.#service) return WHY_SPOOFED_VLAN;
      this.#hidden = false;
      this.tag = tagged && !this.#service ? TAG_REPLACE : TAG_PUSH;
      return -1;
    }
    this.#vlan = id;
    this.#service = (type & (HAS_SERVICE_TAG << 16)) !== 0;
    const checked = (flags & (PORT_VLAN_FILTER | PORT_CHECK_VLAN)) === (PORT_VLAN_FILTER | PORT_CHECK_VLAN);
    if (checked && (this.#hidden || (id !== 0 && !this.#hasVlan(at, id)))) return source < this.#uplinks ? WHY_VLAN : WHY_SPOOFED_VLAN;
    return -1;
  }

  /** Finds where a frame that was admitted goes, and learns where it is from. */
  decide(source: number, key: FrameKey, now: Nanos): void {
    const { config, port, stations } = this.#tables;
    const { words } = key;
    const low = words[KEY_TO_LOW] as number;
    const high = (words[KEY_HIGHS] as number) & 0xffff;
    const fromLow = words[KEY_FROM_LOW] as number;
    const fromHigh = (words[KEY_HIGHS] as number) >>> 16;
    this.count = 0;
    this.why = WHY_UNKNOWN;
    const flags = port[source * PORT_WORDS + PORT_FLAGS] as number;
    if (config[CONFIG_LEARNING] !== 0 && (flags & PORT_LEARNS) !== 0 && (fromLow & 1) === 0 && (fromLow | fromHigh) !== 0)
      stations.learn(fromLow, fromHigh | this.#stationVlan, source, now);
    const fromWire = source < this.#uplinks;
    if (low === RESERVED_LOW && (high & 0xf0ff) === 0) {
      // For the station at the other end of the link, which is the host.
      this.why = WHY_RESERVED;
      if (fromWire) this.#add(this.#physical, source);
      else if (source === this.#physical) this.#add(0, source);
      return;
    }
    if (config[CONFIG_VEPA] !== 0 && !fromWire) {
      // IEEE 802.1Qbg: everything by way of the neighbour, who sends back what is for here.
      this.#add(0, source);
      return;
    }
    if ((low & 1) === 0) this.#unicast(source, low, high, now);
    else if (low === BROADCAST_LOW && high === BROADCAST_HIGH) this.#everyone(source);
    else this.#multicast(source, low, high);
    // What the neighbour has sent back does not return to who sent it.
    if (config[CONFIG_VEPA] !== 0) this.#prune(fromLow, fromHigh);
  }

  /** Whether a port gets frames of the VLAN of the last frame. */
  member(target: number): boolean {
    const { port } = this.#tables;
    const at = target * PORT_WORDS;
    const flags = port[at + PORT_FLAGS] as number;
    if ((flags & PORT_HAS_VLAN) !== 0)
      return ((port[at + PORT_TCI] as number) & 0xfff) === this.#vlan && (port[at + PORT_TPID] === TPID_SERVICE) === this.#service;
    return (flags & PORT_VLAN_FILTER) === 0 || (this.#vlan === 0 ? !this.#hidden : this.#hasVlan(at, this.#vlan));
  }

  /** Whether the tag is taken off for this port. */
  strips(target: number): boolean {
    return ((this.#tables.port[target * PORT_WORDS + PORT_FLAGS] as number) & PORT_HAS_VLAN) !== 0;
  }

  /** The VLAN of the last frame as the station table has it: one that S-tags say is another than the one that C-tags do. */
  get #stationVlan(): number {
    return (this.#service && this.#vlan !== 0 ? this.#vlan | SERVICE_VLAN : this.#vlan) << 16;
  }

  #hasVlan(at: number, id: number): boolean {
    return ((this.#tables.port[at + PORT_VLANS + (id >>> 5)] as number) & (1 << (id & 31))) !== 0;
  }

  #owns(source: number, low: number, high: number): boolean {
    this.#search.begin(low, high);
    for (let owner = this.#search.next(); owner >= 0; owner = this.#search.next()) if (owner === source) return true;
    return false;
  }

  #add(target: number, source: number): void {
    const flags = this.#tables.port[target * PORT_WORDS + PORT_FLAGS] as number;
    if (target === source && (flags & PORT_HAIRPIN) === 0) {
      this.why = WHY_SAME_PORT;
      return;
    }
    if (!this.member(target)) {
      this.why = WHY_VLAN;
      return;
    }
    for (let i = 0; i < this.count; i++) if (this.targets[i] === target) return;
    this.targets[this.count++] = target;
  }

  #unicast(source: number, low: number, high: number, now: Nanos): void {
    const { config } = this.#tables;
    let known = false;
    this.#search.begin(low, high);
    for (let owner = this.#search.next(); owner >= 0; owner = this.#search.next()) {
      // The same address in two VLANs is two stations.
      if (!this.member(owner)) {
        if (!known) this.why = WHY_VLAN;
        continue;
      }
      known = true;
      this.#add(owner, source);
    }
    if (!known) {
      const station = config[CONFIG_LEARNING] === 0 ? -1 : this.#tables.stations.find(low, high | this.#stationVlan, now);
      // Where it was heard may have left the VLAN since.
      if (station >= 0 && this.member(station)) this.#add(station, source);
      // A stranger is out on the wire.
      else if (source >= this.#uplinks) this.#add(0, source);
    }
    if (config[CONFIG_PROMISCUOUS] !== 0) this.#addAll(source, PORT_PROMISCUOUS);
  }

  #multicast(source: number, low: number, high: number): void {
    if (source >= this.#uplinks) this.#add(0, source);
    if (this.#tables.config[CONFIG_MULTICAST_FLOOD] !== 0) {
      this.#everyone(source);
      return;
    }
    this.#search.begin(low, high);
    for (let member = this.#search.next(); member >= 0; member = this.#search.next()) this.#add(member, source);
    this.#addAll(source, PORT_ALL_MULTICAST);
  }

  #everyone(source: number): void {
    if (source >= this.#uplinks) this.#add(0, source);
    this.#addAll(source, 0);
  }

  /** Functions that have a flag, or all of them. */
  #addAll(source: number, flag: number): void {
    const { port, ports } = this.#tables;
    // One walk, so nothing but a target before this one needs to be looked for.
    const before = this.count;
    for (let target = this.#uplinks; target < ports; target++) {
      if (target === source || (flag !== 0 && ((port[target * PORT_WORDS + PORT_FLAGS] as number) & flag) === 0) || !this.member(target)) continue;
      let there = false;
      for (let i = 0; i < before; i++) if (this.targets[i] === target) there = true;
      if (!there) this.targets[this.count++] = target;
    }
  }

  #prune(low: number, high: number): void {
    let kept = 0;
    for (let i = 0; i < this.count; i++) {
      const target = this.targets[i] as number;
      if (target >= this.#uplinks && this.#owns(target, low, high)) this.why = WHY_SAME_PORT;
      else this.targets[kept++] = target;
    }
    this.count = kept;
  }
}

/** The TCI of a frame's outer tag. */
export function tagOf(key: FrameKey): number {
  return (key.words[KEY_TAGS] as number) & 0xffff;
}
