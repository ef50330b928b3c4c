// The software beside an embedded switch in switchdev mode: what comes out of the representors of ports is looked at here, frame by frame, sent on through representors, and where a rule can do the same from now on,
// one is installed. A learning bridge by default; a program of the embedder's may decide instead. Serves as the forwarding of a segment (of the switch's own thread) whose ports are the far ends of representors, by
// their names: vf0-rep, uplink0-rep, ...
//
// Each flow's count is what went this way and what its rules have met, also those that are gone. A frame that is still on its way here when its flow's rule comes into force may be overtaken.

import type { Nanos, Timer } from '#core/clock';
import { DROP_FILTERED, DROP_MALFORMED, DROP_NOT_READY } from '../counters.ts';
import { gatherHeader } from '../headers.ts';
import { MacTable } from '../mac-table.ts';
import { FRAME_MALFORMED, type FrameBatch, type NetPort } from '../port.ts';
import type { Forwarding, Segment } from '../segment.ts';
import type { FlowRule, FlowRuleSpec, FrameCount } from './domain.ts';
import type { EmbeddedSwitch } from './embedded-switch.ts';
import { EmbeddedSwitchError } from './errors.ts';
import { representorOf } from './port-names.ts';

/** A frame that no rule fitted. */
export interface Miss {
  /** The port that it came from. */
  readonly port: string;
  /** Its first bytes, a copy: 256 at most. */
  readonly header: Uint8Array;
  readonly length: number;
}

/** What is to become of a frame, and of those like it. */
export interface Decision {
  /** Ports that it goes to; none: nowhere. */
  readonly to: readonly string[];
  /** A rule that does so without the software; its actions are the program's to say. */
  readonly rule?: FlowRuleSpec;
  /** What the rule's flow is known by, to `flows`. */
  readonly flow?: string;
}

export interface SlowPathOptions {
  /** Decides in the bridge's place. undefined: the bridge decides. */
  readonly program?: (miss: Miss) => Decision | undefined;
  /** How long a rule stays that nothing meets, and a station is remembered that says nothing. Default 10 s. */
  readonly idleTimeout?: Nanos;
  /** Rules of this path at a time, of all ports together. Default 1024. */
  readonly maximumRules?: number;
  /** Of the bridge's rules. Default 0: anything else the embedder installs comes before them. */
  readonly priority?: number;
  /** Told what a program threw (its frame goes nowhere), and what is wrong with a rule of its. */
  readonly onError?: (error: unknown) => void;
}

export interface SlowFlow {
  /** Frames that the software dealt with. */
  readonly slow: FrameCount;
  /** Frames that its rules did. */
  readonly fast: FrameCount;
  readonly offloaded: boolean;
}

interface Flow {
  /** The port that its frames come from. */
  readonly port: number;
  slowFrames: number;
  slowBytes: number;
  /** Of rules that are gone. */
  fastFrames: number;
  fastBytes: number;
  rule: FlowRule | undefined;
  lastUsed: Nanos;
  /** The bridge's: the stations that it is between, and their ports, as they were. */
  stations: Stations | undefined;
}

interface Stations {
  readonly from: Station;
  readonly to: Station;
}

interface BridgeDecision extends Decision {
  readonly stations?: Stations;
}

interface Station {
  readonly low: number;
  readonly high: number;
  readonly port: number;
}

const SHORTEST = 14;
const LOOKED_AT = 256;
const TAGGED = new Set([0x8100, 0x88a8]);
/** Flows that have a count of their own. */
const MOST_FLOWS = 65_536;
/** Looks at rules in one idle time. */
const LOOKS = 4;

/** A number of places that ports share: none takes more than it leaves, so that one that makes up flows without end takes half at most, and the others always find some. */
class SharedPlaces {
  readonly #places: number;
  readonly #taken: Int32Array;
  #all = 0;

  constructor(places: number, ports: number) {
    this.#places = places;
    this.#taken = new Int32Array(ports);
  }

  take(port: number): boolean {
    if ((this.#taken[port] as number) >= this.#places - this.#all) return false;
    this.#taken[port] = (this.#taken[port] as number) + 1;
    this.#all++;
    return true;
  }

  giveBack(port: number): void {
    this.#taken[port] = (this.#taken[port] as number) - 1;
    this.#all--;
  }
}

export class SlowPath implements Forwarding {
  readonly maximumPorts = 1024;
  readonly #nic: EmbeddedSwitch;
  readonly #program: ((miss: Miss) => Decision | undefined) | undefined;
  readonly #idle: Nanos;
  readonly #places: { readonly flows: SharedPlaces; readonly rules: SharedPlaces };
  readonly #priority: number;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #stations: MacTable;
  readonly #flows = new Map<string, Flow>();
  /** Those that have a rule: no more than the switch has room for, however many flows there are. */
  readonly #loaded = new Set<Flow>();
  readonly #ended = { slowFrames: 0, slowBytes: 0, fastFrames: 0, fastBytes: 0 };
  /** The port of each index on the segment, as a number of the switch's; -1: none of its. */
  readonly #ports: number[] = [];
  readonly #indexes: number[];
  readonly #timer: Timer;
  readonly #header = new Uint8Array(LOOKED_AT);
  #refused = 0;

  /** @throws EmbeddedSwitchError unless the switch is in switchdev mode */
  constructor(nic: EmbeddedSwitch, options: SlowPathOptions = {}) {
    if (nic.mode !== 'switchdev') throw new EmbeddedSwitchError('mode', 'a slow path is for switchdev mode: in legacy mode nothing misses');
    const { idleTimeout = 10e9, maximumRules = 1024, priority = 0 } = options;
    if (!(idleTimeout > 0)) throw new EmbeddedSwitchError('bad-option', `idleTimeout ${idleTimeout}: nanoseconds above 0`);
    if (!(Number.isInteger(maximumRules) && maximumRules >= 0)) throw new EmbeddedSwitchError('bad-option', `maximumRules ${maximumRules}: 0 or more`);
    this.#nic = nic;
    this.#program = options.program;
    this.#idle = idleTimeout;
    const { length } = nic.ports;
    this.#places = { flows: new SharedPlaces(MOST_FLOWS, length), rules: new SharedPlaces(maximumRules, length) };
    this.#priority = priority;
    this.#onError = options.onError;
    this.#stations = new MacTable(8192, idleTimeout);
    this.#indexes = nic.ports.map(() => -1);
    this.#timer = nic.clock.timer(() => this.age());
  }

  // ---- what it has done ----

  /** By what each is known by: of the bridge `<port> <source> > <destination> <VLAN>`. */
  get flows(): ReadonlyMap<string, SlowFlow> {
    const flows = new Map<string, SlowFlow>();
    for (const [name, flow] of this.#flows)
      flows.set(name, { slow: { frames: flow.slowFrames, bytes: flow.slowBytes }, fast: fastCount(flow), offloaded: flow.rule !== undefined });
    return flows;
  }

  /** Over all flows there ever were. */
  get totals(): { readonly slow: FrameCount; readonly fast: FrameCount; readonly rules: number; readonly refused: number } {
    const { slowFrames, slowBytes, fastFrames, fastBytes } = this.#ended;
    let slow = { frames: slowFrames, bytes: slowBytes };
    let fast = { frames: fastFrames, bytes: fastBytes };
    for (const flow of this.#flows.values()) {
      slow = { frames: slow.frames + flow.slowFrames, bytes: slow.bytes + flow.slowBytes };
      const more = fastCount(flow);
      fast = { frames: fast.frames + more.frames, bytes: fast.bytes + more.bytes };
    }
    return { slow, fast, rules: this.#loaded.size, refused: this.#refused };
  }

  /** Takes out the rules and flows that nothing has used for their idle time. Called by a timer while there are any. */
  age(): void {
    const now = this.#nic.clock.now();
    for (const [name, flow] of this.#flows) {
      if (flow.rule !== undefined) {
        flow.rule.look(now);
        if (flow.rule.lastUsed > flow.lastUsed) {
          flow.lastUsed = flow.rule.lastUsed;
          // Who sends past the bridge is still there; unless it has been heard somewhere else since.
          const from = flow.stations?.from;
          const known = from === undefined ? -1 : this.#stations.find(from.low, from.high, now);
          if (from !== undefined && (known < 0 || known === from.port)) this.#stations.learn(from.low, from.high, from.port, flow.lastUsed);
        }
      }
      if (now - flow.lastUsed >= this.#idle) this.#end(name, flow);
    }
    this.#arm();
  }

  /** Takes out all of its rules; no timer of its is left. */
  close(): void {
    for (const [name, flow] of this.#flows) this.#end(name, flow);
    this.#timer.cancel();
  }

  #arm(): void {
    // Not put off by whatever comes meanwhile.
    if (this.#flows.size > 0 && this.#timer.deadline === undefined) this.#timer.arm(this.#nic.clock.now() + this.#idle / LOOKS);
  }

  #unload(flow: Flow): void {
    if (flow.rule === undefined) return;
    if (flow.rule.installed) flow.rule.remove();
    flow.fastFrames += flow.rule.count.frames;
    flow.fastBytes += flow.rule.count.bytes;
    flow.rule = undefined;
    this.#loaded.delete(flow);
    this.#places.rules.giveBack(flow.port);
  }

  #end(name: string, flow: Flow): void {
    this.#unload(flow);
    this.#flows.delete(name);
    this.#places.flows.giveBack(flow.port);
    for (const key of ['slowFrames', 'slowBytes', 'fastFrames', 'fastBytes'] as const) this.#ended[key] += flow[key];
  }

  // ---- its segment ----

  attach(index: number, port: NetPort): void {
    const number = this.#nic.ports.findIndex((name) => representorOf(name) === port.name);
    this.#ports[index] = number;
    if (number >= 0) this.#indexes[number] = index;
  }

  detach(index: number): void {
    const number = this.#ports[index] ?? -1;
    this.#ports[index] = -1;
    if (number < 0 || this.#indexes[number] !== index) return;
    this.#indexes[number] = -1;
    this.#stations.forgetPort(number);
    for (const [name, flow] of this.#flows) if (flow.stations?.to.port === number || flow.stations?.from.port === number) this.#end(name, flow);
  }

  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number {
    const port = this.#ports[source] ?? -1;
    if (port < 0) {
      segment.dropSent(batch, 0, batch.count, source, DROP_NOT_READY);
      return batch.count;
    }
    for (let frame = 0; frame < batch.count; frame++) {
      const length = batch.length[frame] as number;
      if (length < SHORTEST || (needs !== 0 && ((batch.needs[frame] as number) & FRAME_MALFORMED) !== 0)) {
        segment.dropSent(batch, frame, frame + 1, source, DROP_MALFORMED);
        continue;
      }
      const header = this.#header.subarray(0, gatherHeader(batch, frame, this.#header, 0, LOOKED_AT));
      const decision = this.#decide(port, header, length);
      if (!this.#send(decision, batch, needs, frame, source, segment)) return frame;
      this.#record(port, decision, length);
    }
    return batch.count;
  }

  #decide(port: number, header: Uint8Array, length: number): BridgeDecision {
    try {
      return this.#program?.({ port: this.#nic.ports[port] as string, header: header.slice(), length }) ?? this.#bridge(port, header);
    } catch (error) {
      this.#onError?.(error);
      return { to: [] };
    }
  }

  /** False: the one port that the frame is for does not take it now. */
  #send({ to }: Decision, batch: FrameBatch, needs: number, frame: number, source: number, segment: Segment): boolean {
    const targets = to.map((name) => this.#indexes[this.#nic.ports.indexOf(name)] ?? -1).filter((index) => index >= 0);
    if (targets.length === 0) segment.dropSent(batch, frame, frame + 1, source, DROP_FILTERED);
    else if (targets.length === 1) return segment.offer(batch, needs, frame, frame + 1, source, targets[0] as number) === 1;
    else for (const target of targets) segment.copy(batch, needs, frame, frame + 1, source, target);
    return true;
  }

  #record(port: number, { rule, flow: name, stations }: BridgeDecision, length: number): void {
    if (name === undefined) return;
    const now = this.#nic.clock.now();
    let flow = this.#flows.get(name);
    if (flow === undefined) {
      if (!this.#places.flows.take(port)) {
        this.#ended.slowFrames++;
        this.#ended.slowBytes += length;
        return;
      }
      flow = { port, slowFrames: 0, slowBytes: 0, fastFrames: 0, fastBytes: 0, rule: undefined, lastUsed: now, stations };
      this.#flows.set(name, flow);
      this.#arm();
    }
    flow.slowFrames++;
    flow.slowBytes += length;
    flow.lastUsed = now;
    flow.stations = stations;
    // Somebody else may have taken it out: the switch's `age`.
    if (flow.rule?.installed === false) this.#unload(flow);
    if (rule !== undefined && flow.rule === undefined) this.#offload(flow, rule);
  }

  #offload(flow: Flow, spec: FlowRuleSpec): void {
    try {
      if (this.#places.rules.take(flow.port)) {
        flow.rule = this.#nic.root.addRule(spec);
        this.#loaded.add(flow);
        return;
      }
    } catch (error) {
      this.#places.rules.giveBack(flow.port);
      // Without room the flow goes on through here. Anything else is a mistake in a program's rule.
      if (!(error instanceof EmbeddedSwitchError && error.code === 'limit')) this.#onError?.(error);
    }
    this.#refused++;
  }

  // ---- the bridge ----

  #bridge(port: number, header: Uint8Array): BridgeDecision {
    const now = this.#nic.clock.now();
    const name = this.#nic.ports[port] as string;
    const type = ((header[12] as number) << 8) | (header[13] as number);
    const tagged = TAGGED.has(type) && header.length >= 16;
    const vlan = tagged ? (((header[14] as number) & 15) << 8) | (header[15] as number) : 0;
    const [low, high] = addressAt(header, 0, vlan);
    const [fromLow, fromHigh] = addressAt(header, 6, vlan);
    if ((fromLow & 1) === 0) this.#learn(fromLow, fromHigh, port, now);
    // IEEE 802.1Q 8.6.3: not past a bridge.
    if (low === 0x00c28001 && (high & 0xf0ff) === 0) return { to: [] };
    const to = (low & 1) === 0 ? this.#stations.find(low, high, now) : -1;
    if (to === port) return { to: [] };
    if (to < 0) return { to: this.#nic.ports.filter((_, other) => other !== port && (this.#indexes[other] as number) >= 0) };
    const target = this.#nic.ports[to] as string;
    const [sourceMac, destinationMac] = [macAt(header, 6), macAt(header, 0)];
    const serviceTag = type === 0x88a8;
    return {
      to: [target],
      flow: `${name} ${sourceMac} > ${destinationMac} ${vlan}`,
      stations: { from: { low: fromLow, high: fromHigh, port }, to: { low, high, port: to } },
      rule: {
        priority: this.#priority,
        match: { port: name, sourceMac, destinationMac, ...(tagged ? { vlan: { id: vlan }, serviceTag } : { vlan: 'none' as const }) },
        actions: [{ kind: 'forward', to: target }],
        idleTimeout: this.#idle,
      },
    };
  }

  /** A station that moved takes the rules to where it was with it. */
  #learn(low: number, high: number, port: number, now: Nanos): void {
    const before = this.#stations.find(low, high, now);
    this.#stations.learn(low, high, port, now);
    if (before < 0 || before === port) return;
    for (const flow of this.#loaded) {
      const to = flow.stations?.to;
      if (to !== undefined && to.low === low && to.high === high && to.port === before) this.#unload(flow);
    }
  }
}

function fastCount({ fastFrames, fastBytes, rule }: Flow): FrameCount {
  return { frames: fastFrames + (rule?.count.frames ?? 0), bytes: fastBytes + (rule?.count.bytes ?? 0) };
}

function addressAt(header: Uint8Array, at: number, vlan: number): [number, number] {
  const byte = (i: number): number => header[at + i] as number;
  return [byte(0) | (byte(1) << 8) | (byte(2) << 16) | (byte(3) << 24), byte(4) | (byte(5) << 8) | (vlan << 16)];
}

function macAt(header: Uint8Array, at: number): string {
  return [...header.subarray(at, at + 6)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
