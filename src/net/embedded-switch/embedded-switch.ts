// The embedded switch of a physical NIC in software, as the host controls it: uplinks, a physical function, virtual functions, and a representor for each. Made on the machine's thread; the frames pass through `forwarding`
// (a segment of this thread) or `share` (one of another thread), whose ports are joined by name: uplink0, pf, vf0, vf0-rep, ... docs/switch.md has the model.

import { type Clock, type Nanos, WallClock } from '#core/clock';
import type { Station } from '../mac-table.ts';
import { type PortAddress, writeAddresses } from './addresses.ts';
import { ControlDomain, type DomainParts, type FlowRule, NamedPlaces } from './domain.ts';
import { EmbeddedSwitchError } from './errors.ts';
import { EmbeddedForwarding } from './forwarding.ts';
import * as k from './layout.ts';
import { SERVICE_VLAN } from './legacy.ts';
import { functionName, PHYSICAL_FUNCTION, representorOf, uplinkName } from './port-names.ts';
import { addressesOf, changedSettings, DEFAULT_SETTINGS, type PortSettings, writePort, writeRates } from './port-settings.ts';
import { RuleTable } from './rule-table.ts';

export type SwitchMode = 'legacy' | 'switchdev';

/** off: each uplink a port of its own. Otherwise all of them are one port, uplink0 to rules. */
export type LagSettings =
  | 'off'
  | { readonly mode: 'hash'; readonly by?: 'addresses' | 'flows' }
  | { readonly mode: 'active-backup'; readonly primary?: string };

export interface EmbeddedSwitchOptions {
  /** Virtual functions, up to 255. */
  readonly functions: number;
  /** Ports to the wire, 1 to 8. Default 1. */
  readonly uplinks?: number;
  readonly mode?: SwitchMode;
  /** Of what is on this thread: ages of rules, `forwarding`. */
  readonly clock?: Clock;
  /** Legacy: everything that functions send goes to the wire, also what is for each other (IEEE 802.1Qbg VEPA). Default veb: between functions inside. */
  readonly bridge?: 'veb' | 'vepa';
  /** Legacy: addresses are learnt from frames. Default false: ports have the addresses they are given. */
  readonly learning?: boolean;
  /** How long a silent station is remembered. Default 300 s. */
  readonly ageing?: Nanos;
  /** Legacy: multicast frames go to the ports that listen (filter, the default), or to all in the VLAN (flood). */
  readonly multicast?: 'filter' | 'flood';
  /** Bits a second that all functions together may send; what minimum rates are parts of. Default 0: any. */
  readonly transmitRate?: number;
  readonly lag?: LagSettings;
  /** UDP ports that tunnels are known by. Default 4789 and 6081. */
  readonly vxlanPort?: number;
  readonly genevePort?: number;
  readonly limits?: Partial<k.SwitchLimits>;
}

const DEFAULT_LIMITS: k.SwitchLimits = { rules: 4096, chains: 16, masks: 256, meters: 256, counters: 256, tunnels: 64, addresses: 2048, stations: 8192 };
const MOST: k.SwitchLimits = { rules: 65536, chains: 64, masks: 2048, meters: 65536, counters: 65536, tunnels: 4096, addresses: 16384, stations: 2 ** 20 };
const DEFAULT_AGEING: Nanos = 300e9;
const MOST_FUNCTIONS = 255;
const MOST_UPLINKS = 8;

export interface SwitchPortStatistics {
  /** Frames that it sent (a frame that was cut counts as what it became): forwarded and dropped make them all. */
  readonly frames: number;
  readonly forwarded: number;
  readonly dropped: number;
  /** Of the forwarded ones those that no rule fitted. */
  readonly misses: number;
  /** Why its frames went nowhere; reasons that never occurred are left out. */
  readonly drops: Readonly<Partial<Record<k.SwitchDropReason, number>>>;
  /** Why copies that were for it did not go to it. */
  readonly withheld: Readonly<Partial<Record<k.SwitchDropReason, number>>>;
}

export class EmbeddedSwitch {
  /** Names of its ports without representors. */
  readonly ports: readonly string[];
  /** The control domain of all ports. */
  readonly root: ControlDomain;
  readonly clock: Clock;
  /** Told when a port's link (as a driver sees it) changes. */
  onLink: ((port: string, up: boolean) => void) | undefined;
  readonly #tables: k.SwitchTables;
  readonly #parts: DomainParts;
  readonly #domains = new Map<string, ControlDomain>();
  readonly #numbers = new Map<string, number>();
  #settings: readonly PortSettings[] = [];
  #up: readonly boolean[];
  readonly #uplinks: number;
  #transmitRate = 0;

  constructor(options: EmbeddedSwitchOptions) {
    const { functions, uplinks = 1, ageing = DEFAULT_AGEING, transmitRate = 0, vxlanPort = 4789, genevePort = 6081 } = options;
    check('functions', functions, 0, MOST_FUNCTIONS);
    check('uplinks', uplinks, 1, MOST_UPLINKS);
    check('vxlanPort', vxlanPort, 1, 0xffff);
    check('genevePort', genevePort, 1, 0xffff);
    if (vxlanPort === genevePort) throw bad(`vxlanPort and genevePort are both ${vxlanPort}`);
    if (!(Number.isFinite(transmitRate) && transmitRate >= 0)) throw bad(`transmitRate ${transmitRate}: bits a second, 0 for any`);
    if (!(ageing > 0)) throw bad(`ageing ${ageing}: nanoseconds above 0`);
    const limits = { ...DEFAULT_LIMITS, ...options.limits };
    for (const [name, most] of Object.entries(MOST)) check(`limits.${name}`, limits[name as keyof k.SwitchLimits], 1, most);
    this.clock = options.clock ?? new WallClock();
    this.#uplinks = uplinks;
    this.ports = [
      ...Array.from({ length: uplinks }, (_, i) => uplinkName(i)),
      PHYSICAL_FUNCTION,
      ...Array.from({ length: functions }, (_, i) => functionName(i)),
    ];
    this.ports.forEach((name, number) => {
      this.#numbers.set(name, number);
      this.#numbers.set(representorOf(name), this.ports.length + number);
    });
    this.#tables = k.SwitchTables.create({ limits, names: this.ports, uplinks, ageing });
    this.#up = this.ports.map(() => true);
    this.#transmitRate = transmitRate;
    const { config } = this.#tables;
    config[k.CONFIG_MODE] = options.mode === 'switchdev' ? k.MODE_SWITCHDEV : k.MODE_LEGACY;
    config[k.CONFIG_VEPA] = options.bridge === 'vepa' ? 1 : 0;
    config[k.CONFIG_LEARNING] = options.learning === true ? 1 : 0;
    config[k.CONFIG_MULTICAST_FLOOD] = options.multicast === 'flood' ? 1 : 0;
    config[k.CONFIG_VXLAN_PORT] = vxlanPort;
    config[k.CONFIG_GENEVE_PORT] = genevePort;
    config[k.CONFIG_HASH_SEED] = Math.random() * 2 ** 32;
    this.#parts = {
      tables: this.#tables,
      rules: new RuleTable(this.#tables),
      clock: this.clock,
      meters: new NamedPlaces('meter', limits.meters),
      counters: new NamedPlaces('counter', limits.counters),
      tunnels: new NamedPlaces('tunnel', limits.tunnels),
      portNumber: (name) => this.#number(name),
    };
    this.root = new ControlDomain('root', undefined, this.#parts);
    this.#domains.set('root', this.root);
    this.#write(this.ports.map(() => DEFAULT_SETTINGS));
    this.setLag(options.lag ?? 'off');
  }

  // ---- the data side ----

  /** For a segment that this thread serves. */
  forwarding(): EmbeddedForwarding {
    return new EmbeddedForwarding(this.#tables, this.clock);
  }

  /** For a segment on a worker: `worker.segment({ kind: nic.share })`. */
  get share(): k.SwitchShare {
    return this.#tables.share;
  }

  // ---- ports ----

  /** Changes some of a port's settings. In force for every batch after this has returned. @throws EmbeddedSwitchError, having changed nothing */
  configurePort(port: string, change: Partial<PortSettings>): void {
    const number = this.#plainNumber(port);
    const before = this.#settings[number] as PortSettings;
    const after = changedSettings(port, before, change);
    if (number < this.#uplinks) checkUplink(port, change);
    // A driver that is reset over and over says the same each time: the frames of its neighbours do not wait for that, nor are their ways forgotten.
    if (JSON.stringify(after) === JSON.stringify(before)) return;
    this.#write(this.#settings.with(number, after));
  }

  settings(port: string): PortSettings {
    return this.#settings[this.#plainNumber(port)] as PortSettings;
  }

  /** Whether a port's link is up, as its driver is to see it: of auto whether some uplink's is. */
  linkUp(port: string): boolean {
    return this.#up[this.#plainNumber(port)] as boolean;
  }

  #write(settings: readonly PortSettings[]): void {
    const { config } = this.#tables;
    const addresses = settings.flatMap((one, port) => addressesOf(port, one));
    this.#checkAddresses(settings, addresses);
    const rates = settings.reduce((sum, { minimumRate }) => sum + minimumRate, 0);
    if (this.#transmitRate > 0 && rates > this.#transmitRate)
      throw new EmbeddedSwitchError(
        'bad-setting',
        `minimum rates of ${rates} bits a second together are more than the transmit scheduler has (${this.#transmitRate})`,
      );
    const mirrors = settings.map(({ mirror }, port) => this.#mirrorNumbers(mirror, port));
    const carrier = settings.some(({ link }, port) => port < this.#uplinks && link !== 'disable');
    const up = settings.map(({ link }, port) => (port < this.#uplinks ? link !== 'disable' : link === 'enable' || (link === 'auto' && carrier)));
    this.#tables.change(() => {
      settings.forEach((one, port) => {
        if (one !== this.#settings[port] || up[port] !== this.#up[port])
          writePort(this.#tables, port, one, up[port] as boolean, mirrors[port] as { ingress: number; egress: number });
        writeRates(this.#tables, port, { maximum: one.maximumRate, minimum: one.minimumRate });
        // Who was heard there is not there now.
        if (this.#up[port] === true && !up[port] && config[k.CONFIG_LEARNING] !== 0) this.#tables.stations.forgetPort(port);
      });
      writeRates(this.#tables, this.ports.length, { maximum: this.#transmitRate, minimum: Math.max(0, this.#transmitRate - rates) });
      writeAddresses(this.#tables, addresses);
      config[k.CONFIG_MIRRORS] = mirrors.some(({ ingress, egress }) => ingress >= 0 || egress >= 0) ? 1 : 0;
      config[k.CONFIG_RATES] = this.#transmitRate > 0 || settings.some(({ maximumRate }) => maximumRate > 0) ? 1 : 0;
      config[k.CONFIG_PROMISCUOUS] = settings.some(({ promiscuous, trust }) => promiscuous && trust) ? 1 : 0;
    });
    const changed = this.ports.flatMap((name, port) => (up[port] === this.#up[port] ? [] : [{ name, port }]));
    this.#settings = settings;
    this.#up = up;
    // Who is told may change settings in turn.
    for (const { name, port } of changed) if (this.#up[port] === up[port]) this.onLink?.(name, up[port] as boolean);
  }

  #checkAddresses(settings: readonly PortSettings[], addresses: readonly PortAddress[]): void {
    const { limits } = this.#tables;
    if (addresses.length > limits.addresses)
      throw new EmbeddedSwitchError('limit', `${addresses.length} addresses: the switch has room for ${limits.addresses}`);
    const owners = new Map<string, string>();
    for (const { low, high, port } of addresses) {
      if ((low & 1) !== 0) continue;
      const { vlan } = settings[port] as PortSettings;
      const station = `${low} ${high} ${vlan === undefined ? '' : `${vlan.id} ${vlan.protocol ?? ''}`}`;
      const owner = owners.get(station);
      if (owner !== undefined) throw new EmbeddedSwitchError('address-in-use', `${this.ports[port]}: an address of its is one of ${owner} in the same VLAN`);
      owners.set(station, this.ports[port] as string);
    }
  }

  #mirrorNumbers(mirror: PortSettings['mirror'], port: number): { ingress: number; egress: number } {
    const number = (name: string | undefined): number => {
      if (name === undefined) return -1;
      const to = this.#number(name);
      if (to === port) throw new EmbeddedSwitchError('bad-setting', `${name} cannot mirror itself`);
      return to;
    };
    return { ingress: number(mirror.ingress), egress: number(mirror.egress) };
  }

  /** Of a representor: what the software sent into it. */
  portStatistics(port: string): SwitchPortStatistics {
    const { accounts } = this.#tables;
    const at = this.#number(port) * k.ACCOUNT_FLOATS;
    const reasons = (base: number): Partial<Record<k.SwitchDropReason, number>> => {
      const found: Partial<Record<k.SwitchDropReason, number>> = {};
      k.SWITCH_DROP_REASONS.forEach((reason, i) => {
        const count = accounts[at + base + i] as number;
        if (count > 0) found[reason] = count;
      });
      return found;
    };
    return {
      frames: accounts[at + k.ACCOUNT_FRAMES] as number,
      forwarded: accounts[at + k.ACCOUNT_FORWARDED] as number,
      dropped: accounts[at + k.ACCOUNT_DROPPED] as number,
      misses: accounts[at + k.ACCOUNT_MISSES] as number,
      drops: reasons(k.ACCOUNT_SENT_DROPS),
      withheld: reasons(k.ACCOUNT_RECEIVED_DROPS),
    };
  }

  // ---- the switch ----

  get mode(): SwitchMode {
    return this.#tables.config[k.CONFIG_MODE] === k.MODE_SWITCHDEV ? 'switchdev' : 'legacy';
  }

  /** @throws EmbeddedSwitchError 'in-use' while there are forwarding rules */
  set mode(mode: SwitchMode) {
    const forwarding = [...this.#domains.values()].flatMap(({ rules }) => rules).filter(({ spec }) => (spec.table ?? 'forward') === 'forward');
    if (mode === 'legacy' && forwarding.length > 0)
      throw new EmbeddedSwitchError('in-use', `${forwarding.length} forwarding rules are in force: remove them first`);
    this.#tables.change(() => {
      this.#tables.config[k.CONFIG_MODE] = mode === 'switchdev' ? k.MODE_SWITCHDEV : k.MODE_LEGACY;
    });
  }

  setLag(lag: LagSettings): void {
    const { config } = this.#tables;
    if (lag !== 'off' && this.#uplinks < 2) throw bad('a link group has two uplinks or more');
    const primary = lag !== 'off' && lag.mode === 'active-backup' && lag.primary !== undefined ? this.#plainNumber(lag.primary) : 0;
    if (primary >= this.#uplinks) throw bad(`${this.ports[primary]} is no uplink`);
    this.#tables.change(() => {
      config[k.CONFIG_LAG] = lag === 'off' ? k.LAG_OFF : lag.mode === 'active-backup' ? k.LAG_BACKUP : lag.by === 'addresses' ? k.LAG_HASH_L2 : k.LAG_HASH_L34;
      config[k.CONFIG_LAG_PRIMARY] = primary;
    });
  }

  /** A control domain of some ports, whose representors it may send to as well. */
  domain(name: string, ports: readonly string[]): ControlDomain {
    if (this.#domains.has(name)) throw new EmbeddedSwitchError('in-use', `there is a domain ${name} already`);
    for (const port of ports) this.#plainNumber(port);
    const domain = new ControlDomain(
      name,
      ports.flatMap((port) => [port, representorOf(port)]),
      this.#parts,
    );
    this.#domains.set(name, domain);
    return domain;
  }

  /** Removes and returns rules that have not been met for their idle time, of all domains. */
  age(): FlowRule[] {
    return [...this.#domains.values()].flatMap((domain) => domain.age());
  }

  /** Stations learnt in legacy mode, as of the last batch. */
  stations(): (Omit<Station, 'port'> & { readonly port: string; readonly serviceTag: boolean })[] {
    const { stations, time } = this.#tables;
    return stations.stations(time[0] as number).map((station) => ({
      ...station,
      vlan: station.vlan & ~SERVICE_VLAN,
      serviceTag: (station.vlan & SERVICE_VLAN) !== 0,
      port: this.ports[station.port] as string,
    }));
  }

  /** Forgets learnt stations, of one port or of all. */
  flushStations(port?: string): void {
    const number = port === undefined ? 0 : this.#plainNumber(port);
    this.#tables.change(() => {
      if (port === undefined) this.#tables.stations.clear();
      else this.#tables.stations.forgetPort(number);
    });
  }

  #number(name: string): number {
    const number = this.#numbers.get(name);
    if (number === undefined)
      throw new EmbeddedSwitchError(
        'unknown',
        `there is no port ${name}; there are ${this.ports.join(', ')}, each with a representor (${representorOf(this.ports[0] as string)}, ...)`,
      );
    return number;
  }

  #plainNumber(name: string): number {
    const number = this.#number(name);
    if (number >= this.ports.length) throw new EmbeddedSwitchError('unknown', `${name} is a representor: what can be set is set of its port`);
    return number;
  }
}

/** What makes no sense of the way to the wire. */
function checkUplink(port: string, change: Partial<PortSettings>): void {
  for (const key of ['mac', 'addresses', 'multicast', 'spoofCheck', 'vlan', 'promiscuous', 'allMulticast', 'trust', 'maximumRate', 'minimumRate'] as const)
    if (change[key] !== undefined) throw new EmbeddedSwitchError('bad-setting', `${port}: ${key} is of functions, not of an uplink`);
}

function check(name: string, value: number, least: number, most: number): void {
  if (!(Number.isInteger(value) && value >= least && value <= most)) throw bad(`${name} ${value}: ${least} to ${most}`);
}

function bad(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-option', message);
}
