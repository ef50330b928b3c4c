// What happens to one frame: checks at the port it comes from, the ingress list, the bridge (legacy) or the rules (switchdev), the egress list of every port it is for. The outcome is a list of copies, each a
// port and a place in the work frames; or why there is none. Nothing is sent here, and nothing counted that a refusal could not take back.

import type { Nanos } from '#core/clock';
import { FRAME_MALFORMED, type FrameBatch, GSO_UDP_TUNNEL } from '../port.ts';
import type { Effects } from './effects.ts';
import { FlowCache, MOST_MET } from './flow-cache.ts';
import { FOLLOW_FLOW, FOLLOW_LINK, FOLLOW_NOTHING } from './followers.ts';
import { FrameKey } from './frame-key.ts';
import * as k from './layout.ts';
import { LegacyBridge, TAG_AS_IT_IS, TAG_PUSH, TAG_REPLACE, tagOf } from './legacy.ts';
import type { LinkGroup } from './link-group.ts';
import { MISSED, Program, STOPPED } from './program.ts';
import { CUT_FIRST, DONE, Rewriter } from './rewrite.ts';
import { RuleLookup } from './rule-lookup.ts';
import { isSound, isSoundAtSight } from './soundness.ts';
import { WORK_FRAMES, type WorkFrames } from './work-frames.ts';

const SHORTEST = 14;
const MOST_COPIES = 2048;
// What `#recall` says.
const NOT_SOUGHT = 0;
const SOUGHT = 1;
const KNOWN = 2;

/** Which ports are on the segment. */
export interface Reach {
  /** Whether a port (or, from `ports` on, a representor) is attached. */
  attached(port: number): boolean;
}

export class Pipeline {
  // ---- the outcome ----
  /** Of each copy: the port it is for, its place, and whether it is a mirror's. */
  readonly port = new Int32Array(MOST_COPIES);
  readonly placeOf = new Int32Array(MOST_COPIES);
  readonly isMirror = new Uint8Array(MOST_COPIES);
  copies = 0;
  /** Of these, those that are no mirror's. */
  primaries = 0;
  /** WHY_*, when there are none. */
  why = 0;
  /** The frame has to be cut first: what was found out so far is void. */
  cut = false;
  /** Nothing was changed, charged or mirrored, nor looked at whether to do so. */
  plain = false;
  /** FOLLOW_*: by what those that come after it are known to go the same way. */
  follow = FOLLOW_NOTHING;

  // ---- the frame in hand ----
  readonly key: FrameKey;
  readonly rewrite: Rewriter;
  /** Where its present form is. */
  place = 0;
  source = 0;
  now: Nanos = 0;
  readonly #tables: k.SwitchTables;
  readonly #work: WorkFrames;
  readonly #effects: Effects;
  readonly #reach: Reach;
  readonly #group: LinkGroup;
  readonly #flows: FlowCache;
  readonly #met = new Int32Array(MOST_MET);
  readonly #lookup: RuleLookup;
  readonly #program: Program;
  readonly #bridge: LegacyBridge;
  readonly #ports: number;
  readonly #uplinks: number;
  #batch: FrameBatch;
  #frame = 0;
  #next = 0;
  /** The key is of the frame's present form. */
  #fresh = false;
  /** Some copy is the present form. */
  #shared = false;
  /** A tunnel was taken off: its words stay in the key. */
  #decapsulated = false;
  #inPort = 0;

  constructor(tables: k.SwitchTables, work: WorkFrames, effects: Effects, reach: Reach, group: LinkGroup) {
    this.#tables = tables;
    this.#work = work;
    this.#effects = effects;
    this.#reach = reach;
    this.#group = group;
    this.#ports = tables.ports;
    this.#uplinks = tables.share.uplinks;
    this.key = new FrameKey(tables.config[k.CONFIG_VXLAN_PORT] as number, tables.config[k.CONFIG_GENEVE_PORT] as number);
    this.rewrite = new Rewriter(work, tables);
    this.#flows = new FlowCache(tables);
    this.#lookup = new RuleLookup(tables);
    this.#program = new Program(tables, work, effects, this);
    this.#bridge = new LegacyBridge(tables);
    this.#batch = work.output;
  }

  /** Frames of a port are to be looked at, inside a turn. */
  begin(source: number, now: Nanos): void {
    this.source = source;
    this.now = now;
    this.#flows.refresh();
  }

  /** Ports came or went. */
  rearranged(): void {
    this.#flows.forget();
  }

  /** @param place where to begin; those after it are free @param needs of the frame */
  take(batch: FrameBatch, frame: number, place: number, needs: number): void {
    if (!this.#load(batch, frame, place, needs)) return;
    const known = this.#recall(needs);
    if (known === KNOWN) return;
    const { pending } = this.#effects;
    // What is sent into a representor comes out of its port: the software has decided.
    if (this.source < this.#ports) this.#fromPort();
    else {
      this.#inPort = this.source - this.#ports;
      this.deliver(this.#inPort);
    }
    if (known === SOUGHT && this.plain && this.copies === 1 && this.primaries === 1 && !this.cut) {
      const met = this.#effects.metSince(pending, this.#met);
      if (met >= 0) this.#flows.keep(this.port[0] as number, this.#met, met);
    }
  }

  /** Whether frames like this one have passed: then its one copy is made, and its rules have been met. */
  #recall(needs: number): number {
    const flows = this.#flows;
    if (flows.off || this.source >= this.#ports) return NOT_SOUGHT;
    const { key, place } = this;
    this.#inPort = this.source;
    let whole = flows.deep;
    if (!whole) {
      key.readLink(this.#work.bytes, this.#work.start[place] as number, this.#work.end[place] as number, false);
      if (key.cut) return NOT_SOUGHT;
      key.words[k.KEY_PORT] = this.source;
      whole = needs !== 0 && !isSoundAtSight(this.#work, place, key);
    }
    if (whole) {
      this.freshKey();
      // Refused by who comes after this, in its turn.
      if (needs !== 0 && !this.#sound()) return NOT_SOUGHT;
    }
    const target = flows.find(key.words);
    if (target < 0) return SOUGHT;
    const length = this.#work.output.length[place] as number;
    for (let i = 0; i < flows.met; i++) this.#effects.hit(flows.rule(i), length);
    this.#add(target, false);
    this.follow = !flows.deep ? FOLLOW_LINK : key.mayTunnel ? FOLLOW_NOTHING : FOLLOW_FLOW;
    return KNOWN;
  }

  /** `count` frames, from `frame` on, in the places from `place` on, follow the one that was taken: they meet the same rules. */
  followed(frame: number, place: number, count: number): void {
    const flows = this.#flows;
    if (flows.met === 0) return;
    const effects = this.#effects;
    for (let i = 0; i < count; i++) {
      effects.frame = frame + i;
      for (let rule = 0; rule < flows.met; rule++) effects.hit(flows.rule(rule), this.#work.output.length[place + i] as number);
    }
  }

  /** False: it is no frame. */
  #load(batch: FrameBatch, frame: number, place: number, needs: number): boolean {
    this.#batch = batch;
    this.#frame = frame;
    this.copies = 0;
    this.primaries = 0;
    this.why = k.WHY_MALFORMED;
    this.cut = false;
    this.follow = FOLLOW_NOTHING;
    this.place = place;
    this.#next = place + 1;
    this.#fresh = false;
    this.#shared = false;
    this.#decapsulated = false;
    this.plain = true;
    if ((batch.length[frame] as number) < SHORTEST || (needs & FRAME_MALFORMED) !== 0) return false;
    this.#work.load(batch, frame, place, needs);
    return true;
  }

  #fromPort(): void {
    const { config, port } = this.#tables;
    const { source } = this;
    const at = source * k.PORT_WORDS;
    if (((port[at + k.PORT_FLAGS] as number) & k.PORT_LINK_UP) === 0) {
      this.why = k.WHY_LINK_DOWN;
      return;
    }
    if (source < this.#uplinks && !this.#group.receives(source)) {
      this.why = k.WHY_BACKUP;
      return;
    }
    this.#inPort = source < this.#uplinks ? this.#group.port(source) : source;
    const legacy = config[k.CONFIG_MODE] === k.MODE_LEGACY;
    this.freshKey();
    if (!this.#sound()) return;
    if (config[k.CONFIG_MIRRORS] !== 0) this.mirror((port[at + k.PORT_MIRROR_INGRESS] as number) - 1);
    if (legacy) {
      this.why = this.#bridge.admit(this.#inPort, this.key);
      if (this.why >= 0) return;
    }
    if (this.#lookup.has(this.#tables.ingressChain) && !this.#passes(this.#tables.ingressChain, k.WHY_INGRESS_ACL)) return;
    if (legacy) this.#bridged();
    else this.#ruled();
  }

  /** An access list: what no rule throws away goes on. */
  #passes(chain: number, why: number): boolean {
    const rule = this.#lookup.find(chain, this.key.words);
    if (rule < 0) return true;
    this.why = why;
    this.#effects.hit(rule, this.#work.output.length[this.place] as number);
    return this.#program.run(rule) !== STOPPED;
  }

  #ruled(): void {
    this.why = k.WHY_RULE;
    for (let chain = 0, chains = 0; chains < this.#tables.limits.chains; chains++) {
      this.freshKey();
      const rule = this.#lookup.find(chain, this.key.words);
      if (rule < 0) {
        this.#miss();
        return;
      }
      this.#effects.hit(rule, this.#work.output.length[this.place] as number);
      const next = this.#program.run(rule);
      if (next === MISSED) this.#miss();
      if (next < 0) return;
      chain = next;
    }
  }

  /** To the representor of the port it came from, as it has become by then. */
  #miss(): void {
    const representor = this.#ports + this.#inPort;
    if (!this.#reach.attached(representor)) {
      this.why = k.WHY_NO_REPRESENTOR;
      return;
    }
    this.#effects.account(this.#inPort * k.ACCOUNT_FLOATS + k.ACCOUNT_MISSES);
    this.#add(representor, false);
  }

  #bridged(): void {
    const bridge = this.#bridge;
    const { port } = this.#tables;
    bridge.decide(this.#inPort, this.key, this.now);
    this.why = bridge.why;
    if (bridge.count === 0) return;
    // Put on for the way through and taken off at its end: where nobody looks in between, the frame stays as it is.
    if (bridge.tag === TAG_PUSH && bridge.count === 1 && bridge.strips(bridge.targets[0] as number) && !this.#watched) {
      this.deliver(bridge.targets[0] as number);
      return;
    }
    if (bridge.tag !== TAG_AS_IT_IS) {
      // Of the sender's own tag its priority is kept, and nothing else; an untagged frame has the port's.
      const at = this.#inPort * k.PORT_WORDS;
      const tci = port[at + k.PORT_TCI] as number;
      if (!this.own()) return;
      const replaces = bridge.tag === TAG_REPLACE;
      if (replaces) this.rewrite.popVlan(this.place);
      if (!this.went(this.rewrite.pushVlan(this.place, port[at + k.PORT_TPID] as number, replaces ? (tagOf(this.key) & 0xe000) | (tci & 0xfff) : tci))) return;
      this.changed();
    }
    const tagged = this.place;
    let stripped = -1;
    for (let i = 0; i < bridge.count; i++) {
      const target = bridge.targets[i] as number;
      if (!bridge.strips(target)) {
        this.deliver(target);
        continue;
      }
      if (!this.#lets(target)) continue;
      // Marked on its way out to this port: a copy of its own already.
      const own = this.place !== tagged;
      if (own || stripped < 0) {
        if (!own && !this.#cloned()) {
          this.#refused(target, this.why);
          continue;
        }
        this.rewrite.popVlan(this.place);
        this.changed();
        if (!own) stripped = this.place;
      } else this.place = stripped;
      this.#send(target);
      this.#goBack(tagged);
    }
  }

  /** Somebody may see frames between their tagging and their end, by a list or a mirror. */
  get #watched(): boolean {
    return this.#tables.config[k.CONFIG_MIRRORS] !== 0 || this.#lookup.has(this.#tables.egressChain);
  }

  /** The frame in hand is the one at `place` again, which others may have a copy of. */
  #goBack(place: number): void {
    if (this.place === place) return;
    this.place = place;
    this.#shared = true;
    this.#fresh = false;
  }

  /** A copy of the frame as it is now for a port, if that port's egress list lets it. */
  deliver(to: number): void {
    let target = to;
    if (target < this.#uplinks) {
      target = this.#uplink(target);
      if (target < 0) {
        this.why = k.WHY_LINK_DOWN;
        return;
      }
    }
    const { place } = this;
    if (this.#lets(target)) this.#send(target);
    this.#goBack(place);
  }

  #uplink(uplink: number): number {
    if (!this.#group.active) return uplink;
    this.freshKey();
    return this.#group.pick(uplink, this.key);
  }

  /** Whether a frame may leave by a port. */
  #lets(target: number): boolean {
    const { port: ports, egressChain } = this.#tables;
    if (target >= this.#ports) {
      if (this.#reach.attached(target)) return true;
      this.why = k.WHY_NO_REPRESENTOR;
      return false;
    }
    const flags = ports[target * k.PORT_WORDS + k.PORT_FLAGS] as number;
    const port = target < this.#uplinks ? this.#group.port(target) : target;
    if (this.#inPort === port && this.source < this.#ports && (flags & k.PORT_HAIRPIN) === 0) return this.#refused(target, k.WHY_SAME_PORT);
    if ((flags & k.PORT_LINK_UP) === 0) return this.#refused(target, k.WHY_LINK_DOWN);
    if (!this.#reach.attached(target)) return this.#refused(target, k.WHY_NO_PORT);
    if (!this.#lookup.has(egressChain)) return true;
    this.freshKey();
    const { words } = this.key;
    const before = words[k.KEY_PORT] as number;
    words[k.KEY_PORT] = port;
    // What is marked for this port is not so for the next one.
    const shared = this.#shared;
    const { place, copies } = this;
    this.#shared = true;
    const passes = this.#passes(egressChain, k.WHY_EGRESS_ACL);
    // A mirror of the list's has a copy of the frame as it is here.
    if (this.place === place && this.copies === copies) this.#shared = shared;
    if (!passes) this.#goBack(place);
    words[k.KEY_PORT] = before;
    return passes || this.#refused(target, this.why);
  }

  #refused(target: number, why: number): boolean {
    this.why = why;
    this.#effects.account(target * k.ACCOUNT_FLOATS + k.ACCOUNT_RECEIVED_DROPS + why);
    return false;
  }

  #send(target: number): void {
    this.#add(target, false);
    if (target < this.#ports && this.#tables.config[k.CONFIG_MIRRORS] !== 0)
      this.mirror((this.#tables.port[target * k.PORT_WORDS + k.PORT_MIRROR_EGRESS] as number) - 1);
  }

  /** A copy for who watches, whatever the egress list says. -1: nobody. */
  mirror(to: number): void {
    if (to < 0) return;
    this.plain = false;
    let target = to;
    if (target < this.#uplinks) {
      target = this.#uplink(target);
      if (target < 0) return;
    }
    if (!this.#reach.attached(target)) return;
    if (target < this.#ports && ((this.#tables.port[target * k.PORT_WORDS + k.PORT_FLAGS] as number) & k.PORT_LINK_UP) === 0) return;
    this.#add(target, true);
  }

  #add(target: number, mirror: boolean): void {
    if (this.copies === MOST_COPIES) return;
    const at = this.copies++;
    this.port[at] = target;
    this.placeOf[at] = this.place;
    this.isMirror[at] = mirror ? 1 : 0;
    if (!mirror) this.primaries++;
    this.#shared = true;
  }

  // ---- for programs ----

  /** The key is of the frame as it is now. */
  freshKey(): void {
    if (this.#fresh) return;
    const { bytes, start, end, output } = this.#work;
    const { key, place } = this;
    const type = output.gsoType[place] as number;
    // Of a datagram that will be cut only the first piece would be what it looks like.
    const tunnels = type === 0 || (type & GSO_UDP_TUNNEL) !== 0;
    do key.read(bytes, start[place] as number, end[place] as number, tunnels, this.#decapsulated);
    while (key.cut && this.#work.extend(this.#batch, this.#frame, place));
    key.words[k.KEY_PORT] = this.#inPort;
    this.#fresh = true;
  }

  /** Makes the frame one that no copy is yet, to be changed. False: there is no room for another one. */
  own(): boolean {
    return !this.#shared || this.#cloned();
  }

  #cloned(): boolean {
    if (this.#next >= WORK_FRAMES) {
      this.why = k.WHY_NOT_APPLICABLE;
      return false;
    }
    this.#work.clone(this.place, this.#next);
    this.place = this.#next++;
    this.#shared = false;
    this.#fresh = false;
    return true;
  }

  /** Headers moved or changed. */
  changed(): void {
    this.plain = false;
    this.#fresh = false;
    this.#work.output.hashedBy[this.place] = 0;
  }

  /** False: what came out goes no further. */
  decapsulated(): boolean {
    this.#decapsulated = true;
    this.changed();
    this.freshKey();
    return this.#sound();
  }

  /** Whether what its sender still asks for is sound. */
  #sound(): boolean {
    if (isSound(this.#work, this.place, this.key)) return true;
    this.why = k.WHY_MALFORMED;
    return false;
  }

  /** `result` of a change. False: the frame does not go on. */
  went(result: number): boolean {
    if (result === DONE) return true;
    if (result === CUT_FIRST) this.cut = true;
    this.why = k.WHY_NOT_APPLICABLE;
    return false;
  }
}
