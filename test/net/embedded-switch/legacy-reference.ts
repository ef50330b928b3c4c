// What an embedded switch in legacy mode does, written down to be read: settings of ports, and for a frame the ports that get it. It shares types with the product and no code.

import type { PortSettings } from '#net/embedded-switch/port-settings';

export interface LegacyOptions {
  readonly bridge: 'veb' | 'vepa';
  readonly learning: boolean;
  readonly multicast: 'filter' | 'flood';
}

interface Vlan {
  readonly id: number;
  readonly service: boolean;
  readonly hidden: boolean;
}

const mac = (bytes: Iterable<number>): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');

export class LegacyReference {
  readonly settings: Map<string, PortSettings>;
  readonly #options: LegacyOptions;
  readonly #stations = new Map<string, string>();

  constructor(ports: readonly string[], defaults: PortSettings, options: LegacyOptions) {
    this.settings = new Map(ports.map((port) => [port, defaults]));
    this.#options = options;
  }

  configure(port: string, change: Partial<PortSettings>): void {
    const linked = [...this.settings.keys()].filter((name) => this.#up(name));
    this.settings.set(port, { ...this.#of(port), ...change });
    // Stations behind a port that has lost its link are forgotten.
    for (const [station, heard] of this.#stations) if (linked.includes(heard) && !this.#up(heard)) this.#stations.delete(station);
  }

  /** A station is an address in a VLAN; C-tags and S-tags say different ones. */
  #station(address: string, { id, service }: Vlan): string {
    return `${address} ${id} ${service && id !== 0}`;
  }

  #of(port: string): PortSettings {
    return this.settings.get(port) as PortSettings;
  }

  #up(port: string): boolean {
    const { link } = this.#of(port);
    if (port === 'uplink0') return link !== 'disable';
    return link === 'enable' || (link === 'auto' && this.#up('uplink0'));
  }

  #has(port: string, address: string): boolean {
    const settings = this.#of(port);
    return settings.mac === address || settings.addresses.includes(address) || settings.multicast.includes(address);
  }

  #member(port: string, vlan: Vlan): boolean {
    const settings = this.#of(port);
    if (settings.vlan !== undefined) return settings.vlan.id === vlan.id && (settings.vlan.protocol === '802.1ad') === vlan.service;
    // Behind a priority tag there is another: a VLAN, whichever it is, that nobody has looked at.
    if (vlan.hidden) return settings.vlans === 'all';
    return vlan.id === 0 || settings.vlans === 'all' || settings.vlans.includes(vlan.id);
  }

  /** The frame inside the switch and the VLAN it is in; undefined: it does not come in. */
  #admitted(source: string, frame: readonly number[]): { frame: number[]; vlan: Vlan } | undefined {
    const settings = this.#of(source);
    if (!this.#up(source)) return undefined;
    if (settings.spoofCheck && (((frame[6] as number) & 1) === 1 || !this.#has(source, mac(frame.slice(6, 12))))) return undefined;
    const type = (frame[12] as number) * 256 + (frame[13] as number);
    const tagged = type === 0x8100 || type === 0x88a8;
    const tci = tagged ? (frame[14] as number) * 256 + (frame[15] as number) : 0;
    const id = tci & 0xfff;
    const behind = (frame[16] as number) * 256 + (frame[17] as number);
    const hidden = tagged && id === 0 && (behind === 0x8100 || behind === 0x88a8);
    if (settings.vlan === undefined) {
      if ((hidden || (id !== 0 && settings.vlans !== 'all' && !settings.vlans.includes(id))) && settings.vlanSpoofCheck && settings.vlans !== 'all')
        return undefined;
      return { frame: [...frame], vlan: { id, service: type === 0x88a8, hidden } };
    }
    const service = settings.vlan.protocol === '802.1ad';
    if (!service && (id !== 0 || hidden)) return undefined;
    const kept = tagged && !service;
    const priority = kept ? tci >> 13 : (settings.vlan.priority ?? 0);
    const tag = [...(service ? [0x88, 0xa8] : [0x81, 0x00]), (priority << 5) | (settings.vlan.id >> 8), settings.vlan.id & 255];
    return { frame: [...frame.slice(0, 12), ...tag, ...frame.slice(kept ? 16 : 12)], vlan: { id: settings.vlan.id, service, hidden: false } };
  }

  /** Which ports get a frame, and what they get. */
  send(source: string, bytes: Uint8Array): Map<string, number[]> {
    const got = new Map<string, number[]>();
    const admitted = this.#admitted(source, [...bytes]);
    if (admitted === undefined) return got;
    const { frame, vlan } = admitted;
    for (const port of this.#targets(source, frame, vlan)) {
      const settings = this.#of(port);
      if (!this.#member(port, vlan) || !this.#up(port) || (port === source && !settings.hairpin)) continue;
      got.set(port, settings.vlan === undefined ? frame : [...frame.slice(0, 12), ...frame.slice(16)]);
    }
    return got;
  }

  #targets(source: string, frame: readonly number[], vlan: Vlan): Set<string> {
    const to = mac(frame.slice(0, 6));
    const from = mac(frame.slice(6, 12));
    const ports = [...this.settings.keys()];
    const functions = ports.filter((port) => port !== 'uplink0');
    const others = functions.filter((port) => port !== source);
    const isGroup = ((frame[0] as number) & 1) === 1;
    const vepa = this.#options.bridge === 'vepa';
    const wire = source === 'uplink0' ? [] : ['uplink0'];
    if (this.#options.learning && this.#of(source).learning && ((frame[6] as number) & 1) === 0 && from !== '00:00:00:00:00:00')
      this.#stations.set(this.#station(from, vlan), source);
    if (/^01:80:c2:00:00:0.$/.test(to)) return new Set(source === 'uplink0' ? ['pf'] : source === 'pf' ? ['uplink0'] : []);
    if (vepa && source !== 'uplink0') return new Set(['uplink0']);
    const targets = new Set<string>();
    const add = (list: readonly string[]): void => {
      for (const port of list) targets.add(port);
    };
    if (to === 'ff:ff:ff:ff:ff:ff' || (isGroup && this.#options.multicast === 'flood')) add([...wire, ...others]);
    else if (isGroup) {
      add([...wire, ...ports.filter((port) => this.#has(port, to))]);
      add(others.filter((port) => this.#of(port).trust && this.#of(port).allMulticast));
    } else {
      const owners = ports.filter((port) => this.#has(port, to) && this.#member(port, vlan));
      const station = this.#options.learning ? this.#stations.get(this.#station(to, vlan)) : undefined;
      // In a VLAN that its port is not in any more it is a stranger.
      add(owners.length > 0 ? owners : station !== undefined && this.#member(station, vlan) ? [station] : wire);
      add(others.filter((port) => this.#of(port).trust && this.#of(port).promiscuous));
    }
    if (vepa) for (const port of functions) if (this.#has(port, from)) targets.delete(port);
    return targets;
  }
}
