// Carries out what a rule does to the frame in hand (actions.ts), word by word.

import * as op from './actions.ts';
import type { Effects } from './effects.ts';
import {
  HAS_TAG,
  KEY_TYPE,
  MAXIMUM_ACTION_WORDS,
  METER_DROP,
  METER_REMARK,
  RULE_ACTION_WORDS,
  RULE_ACTIONS,
  RULE_WORDS,
  type SwitchTables,
  WHY_METER,
  WHY_NOT_APPLICABLE,
  WHY_TTL,
} from './layout.ts';
import { charge } from './meters.ts';
import type { Pipeline } from './pipeline.ts';
import type { WorkFrames } from './work-frames.ts';

// What `run` says beside the chain to go on in.
/** Whatever was to be sent has been. */
const ENDED = -1;
/** To the representor. */
export const MISSED = -2;
/** The frame goes no further. */
export const STOPPED = -3;

export class Program {
  readonly #tables: SwitchTables;
  readonly #work: WorkFrames;
  readonly #effects: Effects;
  readonly #frame: Pipeline;

  constructor(tables: SwitchTables, work: WorkFrames, effects: Effects, frame: Pipeline) {
    this.#tables = tables;
    this.#work = work;
    this.#effects = effects;
    this.#frame = frame;
  }

  /** Runs a rule's program. Returns a chain, or ENDED, MISSED, STOPPED (`why` says why, when it is not the rule itself). */
  run(rule: number): number {
    const { rules } = this.#tables;
    const frame = this.#frame;
    const from = rule * RULE_WORDS + RULE_ACTIONS;
    const end = from + Math.min(rules[rule * RULE_WORDS + RULE_ACTION_WORDS] as number, MAXIMUM_ACTION_WORDS);
    for (let at = from; at < end; ) {
      switch (rules[at]) {
        case op.OP_DROP:
          return STOPPED;
        case op.OP_ACCEPT:
          return ENDED;
        case op.OP_MISS:
          return MISSED;
        case op.OP_JUMP:
          return rules[at + 1] as number;
        case op.OP_FORWARD:
          frame.deliver(rules[at + 1] as number);
          at += 2;
          break;
        case op.OP_FORWARD_SET:
          at = this.#forwardSet(at + 1);
          break;
        case op.OP_MIRROR:
          frame.mirror(rules[at + 1] as number);
          at += 2;
          break;
        case op.OP_METER:
          if (!this.#meter(rules[at + 1] as number)) return STOPPED;
          at += 2;
          break;
        case op.OP_COUNT:
          this.#effects.count(rules[at + 1] as number, this.#work.output.length[frame.place] as number);
          at += 2;
          break;
        default: {
          const operands = this.#change(at);
          if (operands < 0) return STOPPED;
          at += 1 + operands;
        }
      }
    }
    return ENDED;
  }

  #forwardSet(from: number): number {
    const { rules, ports } = this.#tables;
    for (let port = 0; port < ports; port++) if (((rules[from + (port >>> 5)] as number) & (1 << (port & 31))) !== 0) this.#frame.deliver(port);
    return from + Math.ceil(ports / 32);
  }

  #meter(meter: number): boolean {
    const frame = this.#frame;
    frame.plain = false;
    const verdict = charge(this.#tables, meter, this.#work.output.length[frame.place] as number, frame.now, this.#effects) | 0;
    if (verdict === METER_DROP) {
      frame.why = WHY_METER;
      return false;
    }
    if ((verdict & 0xff) !== METER_REMARK) return true;
    frame.freshKey();
    // A frame that is not IP has nothing to be marked in.
    if (frame.key.version === 0) return true;
    if (!frame.own()) return false;
    frame.freshKey();
    frame.rewrite.setDscp(frame.key, verdict >>> 8);
    frame.changed();
    return true;
  }

  /** An operation that changes the frame. Returns how many operands it has, -1 when the frame goes no further. */
  #change(at: number): number {
    const frame = this.#frame;
    const { rules } = this.#tables;
    frame.plain = false;
    if (!frame.own()) return -1;
    frame.freshKey();
    const { key, rewrite, place } = frame;
    const first = rules[at + 1] as number;
    const second = rules[at + 2] as number;
    switch (rules[at]) {
      case op.OP_PUSH_VLAN:
        if (!frame.went(rewrite.pushVlan(place, first, second))) return -1;
        frame.changed();
        return 2;
      case op.OP_POP_VLAN:
        if (this.#tagged()) {
          rewrite.popVlan(place);
          frame.changed();
        }
        return 0;
      case op.OP_SET_VLAN:
        if (this.#tagged()) {
          rewrite.setVlan(place, first, second);
          frame.changed();
        }
        return 2;
      case op.OP_SET_TO:
      case op.OP_SET_FROM:
        rewrite.setMac(place, rules[at] === op.OP_SET_TO ? 0 : 6, first, second);
        frame.changed();
        return 2;
      case op.OP_SET_SOURCE:
      case op.OP_SET_DESTINATION:
        if (key.version === first) {
          rewrite.setAddress(place, key, rules[at] === op.OP_SET_SOURCE, rules, at + 2);
          frame.changed();
        }
        return 5;
      case op.OP_SET_SOURCE_PORT:
      case op.OP_SET_DESTINATION_PORT:
        if (key.hasPorts) {
          rewrite.setPort(place, key, rules[at] === op.OP_SET_SOURCE_PORT, first);
          frame.changed();
        }
        return 1;
      case op.OP_SET_DSCP:
        if (key.version !== 0) {
          rewrite.setDscp(key, first);
          frame.changed();
        }
        return 1;
      case op.OP_SET_TTL:
        if (key.version !== 0) {
          rewrite.setTtl(key, first);
          frame.changed();
        }
        return 1;
      case op.OP_DECREMENT_TTL:
        if (key.version === 0) return 0;
        if (rewrite.ttl(key) <= 1) {
          frame.why = WHY_TTL;
          return -1;
        }
        rewrite.setTtl(key, rewrite.ttl(key) - 1);
        frame.changed();
        return 0;
      case op.OP_ENCAPSULATE:
        if (!frame.went(rewrite.encapsulate(place, key, first, key.flowHash()))) return -1;
        frame.changed();
        return 1;
      case op.OP_DECAPSULATE:
        // Not a tunnel: what the rule is about is not there.
        if (key.inner === 0) {
          frame.why = WHY_NOT_APPLICABLE;
          return -1;
        }
        rewrite.decapsulate(place, key);
        return frame.decapsulated() ? 0 : -1;
      default:
        return -1;
    }
  }

  #tagged(): boolean {
    return ((this.#frame.key.words[KEY_TYPE] as number) & (HAS_TAG << 16)) !== 0;
  }
}
