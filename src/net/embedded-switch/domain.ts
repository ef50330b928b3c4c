// A control domain: who may make rules about which ports. The switch has one for all ports; others are about some of them, and their rules match and send to nothing else. Meters, counters and tunnels are each domain's own.

import type { Clock, Nanos } from '#core/clock';
import { type ActionNames, actionWords, type FlowAction } from './actions.ts';
import { EmbeddedSwitchError } from './errors.ts';
import { CONFIG_MODE, HIT_FLOATS, METER_FLOATS, METER_GREEN, METER_RED, METER_YELLOW, MODE_SWITCHDEV, type SwitchTables } from './layout.ts';
import { type FlowMatch, matchWords } from './match.ts';
import { type MeterSettings, writeMeter } from './meters.ts';
import { HIGHEST_PRIORITY, type RuleTable } from './rule-table.ts';
import { type TunnelSettings, writeTunnel } from './tunnels.ts';

export interface FlowRuleSpec {
  /** forward (switchdev mode only): where frames go. ingress, egress: access lists, before and after that. Default forward. */
  readonly table?: 'forward' | 'ingress' | 'egress';
  /** Of the forward table. A frame begins in chain 0, which is the default. */
  readonly chain?: number;
  /** The larger comes first; of two alike the one that is older. Default 0. */
  readonly priority?: number;
  readonly match: FlowMatch;
  readonly actions: readonly FlowAction[];
  /** Removed by `age` when no frame has met it for so long. Default never. */
  readonly idleTimeout?: Nanos;
}

export interface FrameCount {
  readonly frames: number;
  readonly bytes: number;
}

/** A rule in force, until it is removed. */
export class FlowRule {
  readonly spec: FlowRuleSpec;
  readonly index: number;
  readonly domain: ControlDomain;
  /** When it was last seen to have been met, or made. */
  lastUsed: Nanos;
  #seen = 0;
  #final: FrameCount | undefined;
  readonly #hits: Float64Array;

  constructor(domain: ControlDomain, spec: FlowRuleSpec, index: number, hits: Float64Array, now: Nanos) {
    this.domain = domain;
    this.spec = spec;
    this.index = index;
    this.lastUsed = now;
    this.#hits = hits;
  }

  /** What has met it; after it was removed, what had. */
  get count(): FrameCount {
    return this.#final ?? countAt(this.#hits, this.index);
  }

  get installed(): boolean {
    return this.#final === undefined;
  }

  /** Takes note of use since the last look. Ages are by looks, so that no two threads' clocks are ever compared. */
  look(now: Nanos): void {
    const { frames } = this.count;
    if (frames === this.#seen) return;
    this.#seen = frames;
    this.lastUsed = now;
  }

  remove(): void {
    this.domain.removeRule(this);
  }

  /** For its domain: it is gone, and its count is what it is. */
  end(): void {
    this.#final = countAt(this.#hits, this.index);
  }
}

function countAt(floats: Float64Array, index: number): FrameCount {
  return { frames: floats[HIT_FLOATS * index] as number, bytes: floats[HIT_FLOATS * index + 1] as number };
}

/** Named things of a fixed number of places, owned by domains. */
export class NamedPlaces {
  readonly #kind: string;
  readonly #free: number[];
  readonly #taken = new Map<string, { readonly place: number; readonly owner: ControlDomain }>();

  constructor(kind: string, places: number) {
    this.#kind = kind;
    this.#free = Array.from({ length: places }, (_, i) => places - 1 - i);
  }

  /** The place of a new one. @throws EmbeddedSwitchError */
  free(name: string): number {
    if (this.#taken.has(name)) throw new EmbeddedSwitchError('in-use', `there is a ${this.#kind} ${name} already`);
    const place = this.#free.at(-1);
    if (place === undefined) throw new EmbeddedSwitchError('limit', `all ${this.#taken.size} ${this.#kind}s are in use`);
    return place;
  }

  take(name: string, owner: ControlDomain): void {
    this.#taken.set(name, { place: this.#free.pop() as number, owner });
  }

  find(name: string, owner: ControlDomain): number {
    const found = this.#taken.get(name);
    if (found === undefined) throw new EmbeddedSwitchError('unknown', `there is no ${this.#kind} ${name}`);
    if (found.owner !== owner) throw new EmbeddedSwitchError('not-owner', `${this.#kind} ${name} is of domain ${found.owner.name}, not of ${owner.name}`);
    return found.place;
  }

  release(name: string, owner: ControlDomain): void {
    this.#free.push(this.find(name, owner));
    this.#taken.delete(name);
  }
}

/** What all domains of a switch share. */
export interface DomainParts {
  readonly tables: SwitchTables;
  readonly rules: RuleTable;
  readonly clock: Clock;
  readonly meters: NamedPlaces;
  readonly counters: NamedPlaces;
  readonly tunnels: NamedPlaces;
  /** A port's or representor's number. @throws EmbeddedSwitchError 'unknown' */
  readonly portNumber: (name: string) => number;
}

export class ControlDomain {
  readonly name: string;
  /** undefined: all of them. */
  readonly ports: ReadonlySet<string> | undefined;
  readonly #parts: DomainParts;
  readonly #rules = new Set<FlowRule>();
  readonly #names: ActionNames;

  /** Made by `EmbeddedSwitch.domain`. */
  constructor(name: string, ports: readonly string[] | undefined, parts: DomainParts) {
    this.name = name;
    this.ports = ports && new Set(ports);
    this.#parts = parts;
    this.#names = {
      ports: parts.tables.ports,
      port: (port) => this.#portNumber(port),
      meter: (meter) => parts.meters.find(meter, this),
      counter: (counter) => parts.counters.find(counter, this),
      tunnel: (tunnel) => parts.tunnels.find(tunnel, this),
    };
  }

  #portNumber(name: string): number {
    const number = this.#parts.portNumber(name);
    if (this.ports !== undefined && !this.ports.has(name)) throw new EmbeddedSwitchError('not-owner', `${name} is no port of domain ${this.name}`);
    return number;
  }

  /** What is sent into a representor goes to its port without being looked at, and what comes out of one was looked at as its port's. */
  #matchedPort(name: string): number {
    const number = this.#portNumber(name);
    if (number >= this.#names.ports) throw new EmbeddedSwitchError('bad-match', `no rule is about what passes a representor: ${name}`);
    return number;
  }

  /** @throws EmbeddedSwitchError, having changed nothing */
  addRule(spec: FlowRuleSpec): FlowRule {
    const { tables, rules, clock } = this.#parts;
    const { table = 'forward', priority = 0, chain = 0, idleTimeout } = spec;
    if (!(Number.isInteger(priority) && priority >= 0 && priority <= HIGHEST_PRIORITY)) throw bad(`priority ${priority}: 0 to ${HIGHEST_PRIORITY}`);
    if (idleTimeout !== undefined && !(idleTimeout > 0)) throw bad(`idleTimeout ${idleTimeout}: nanoseconds above 0`);
    // A match without a port would be about everybody's frames.
    if (this.ports !== undefined && spec.match.port === undefined)
      throw new EmbeddedSwitchError('not-owner', `a rule of domain ${this.name} names the port that it is about`);
    if (table === 'forward' && tables.config[CONFIG_MODE] !== MODE_SWITCHDEV)
      throw new EmbeddedSwitchError('mode', 'in legacy mode addresses say where frames go: only ingress and egress lists have rules');
    if (!(Number.isInteger(chain) && chain >= 0 && chain < tables.limits.chains))
      throw new EmbeddedSwitchError('limit', `chain ${chain}: 0 to ${tables.limits.chains - 1}`);
    if (table !== 'forward' && chain !== 0) throw bad(`the ${table} list has no chains`);
    const { mask, key } = matchWords(spec.match, (name) => this.#matchedPort(name));
    const actions = actionWords(spec.actions, this.#names, table === 'forward' ? chain : -1, tables.limits.chains);
    const place = table === 'forward' ? chain : table === 'ingress' ? tables.ingressChain : tables.egressChain;
    const index = rules.install({ chain: place, priority, mask, key, actions });
    const rule = new FlowRule(this, spec, index, tables.hits, clock.now());
    this.#rules.add(rule);
    return rule;
  }

  removeRule(rule: FlowRule): void {
    if (!this.#rules.delete(rule)) throw new EmbeddedSwitchError('unknown', `that is no rule of domain ${this.name}, or not any more`);
    // Out of force first: what it counts until then is in its count.
    this.#parts.rules.remove(rule.index);
    rule.end();
  }

  get rules(): readonly FlowRule[] {
    return [...this.#rules];
  }

  /** Removes the rules that nothing has met for their idle time, and returns them. Call it now and then: use is noticed by these calls. */
  age(): FlowRule[] {
    const now = this.#parts.clock.now();
    const old: FlowRule[] = [];
    for (const rule of this.#rules) {
      const { idleTimeout } = rule.spec;
      if (idleTimeout === undefined) continue;
      rule.look(now);
      if (now - rule.lastUsed >= idleTimeout) old.push(rule);
    }
    for (const rule of old) this.removeRule(rule);
    return old;
  }

  addMeter(name: string, settings: MeterSettings): void {
    writeMeter(this.#parts.tables, this.#parts.meters.free(name), settings);
    this.#parts.meters.take(name, this);
  }

  /** With other settings from now on, its buckets full and its counts at 0. */
  changeMeter(name: string, settings: MeterSettings): void {
    writeMeter(this.#parts.tables, this.#parts.meters.find(name, this), settings);
  }

  /** Frames by colour. */
  meter(name: string): { readonly green: number; readonly yellow: number; readonly red: number } {
    const at = this.#parts.meters.find(name, this) * METER_FLOATS;
    const { meters } = this.#parts.tables;
    return { green: meters[at + METER_GREEN] as number, yellow: meters[at + METER_YELLOW] as number, red: meters[at + METER_RED] as number };
  }

  removeMeter(name: string): void {
    this.#checkUnused('meter', name);
    this.#parts.meters.release(name, this);
  }

  addCounter(name: string): void {
    const { tables, counters } = this.#parts;
    const at = HIT_FLOATS * counters.free(name);
    tables.change(() => tables.counters.fill(0, at, at + HIT_FLOATS));
    counters.take(name, this);
  }

  counter(name: string): FrameCount {
    return countAt(this.#parts.tables.counters, this.#parts.counters.find(name, this));
  }

  removeCounter(name: string): void {
    this.#checkUnused('counter', name);
    this.#parts.counters.release(name, this);
  }

  addTunnel(name: string, settings: TunnelSettings): void {
    writeTunnel(this.#parts.tables, this.#parts.tunnels.free(name), settings);
    this.#parts.tunnels.take(name, this);
  }

  removeTunnel(name: string): void {
    this.#checkUnused('tunnel', name);
    this.#parts.tunnels.release(name, this);
  }

  #checkUnused(kind: 'meter' | 'counter' | 'tunnel', name: string): void {
    for (const { spec } of this.#rules)
      for (const action of spec.actions)
        if ((action as Readonly<Record<string, unknown>>)[kind] === name) throw new EmbeddedSwitchError('in-use', `a rule still uses ${kind} ${name}`);
  }
}

function bad(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-setting', `rule: ${message}`);
}
