// What a flow rule does, as an embedder writes it, turned into the words of a program (layout.ts: RULE_ACTIONS). A program runs from its first word to its end, to a drop, a miss or a jump; each
// operation is one word, its operands those that follow.

import { EmbeddedSwitchError } from './errors.ts';
import { MAXIMUM_ACTION_WORDS } from './layout.ts';
import { high16, ipWords, low32, macBytes } from './match.ts';

// Operations and how many operands each has.
export const OP_DROP = 1;
/** Out of this table's business: an ACL lets the frame go on. */
export const OP_ACCEPT = 2;
/** To the representor of the port that the frame came from. */
export const OP_MISS = 3;
/** Port. */
export const OP_FORWARD = 4;
/** Bits of ports. */
export const OP_FORWARD_SET = 5;
/** Port. */
export const OP_MIRROR = 6;
/** TPID, TCI. */
export const OP_PUSH_VLAN = 7;
export const OP_POP_VLAN = 8;
/** Mask, value of the outer TCI. */
export const OP_SET_VLAN = 9;
/** Low, high. */
export const OP_SET_TO = 10;
export const OP_SET_FROM = 11;
/** IP version, four words. */
export const OP_SET_SOURCE = 12;
export const OP_SET_DESTINATION = 13;
export const OP_SET_SOURCE_PORT = 14;
export const OP_SET_DESTINATION_PORT = 15;
export const OP_SET_DSCP = 16;
export const OP_SET_TTL = 17;
export const OP_DECREMENT_TTL = 18;
/** Tunnel. */
export const OP_ENCAPSULATE = 19;
export const OP_DECAPSULATE = 20;
/** Meter. */
export const OP_METER = 21;
/** Counter. */
export const OP_COUNT = 22;
/** Chain. */
export const OP_JUMP = 23;

export type FlowAction =
  | { readonly kind: 'drop' | 'accept' | 'miss' | 'pop-vlan' | 'decrement-ttl' | 'decapsulate' }
  | { readonly kind: 'forward'; readonly to: string | readonly string[] }
  | { readonly kind: 'mirror'; readonly to: string }
  | { readonly kind: 'push-vlan'; readonly id: number; readonly priority?: number; readonly protocol?: '802.1Q' | '802.1ad' }
  | { readonly kind: 'set-vlan'; readonly id?: number; readonly priority?: number }
  | {
      readonly kind: 'set';
      readonly destinationMac?: string;
      readonly sourceMac?: string;
      readonly source?: string;
      readonly destination?: string;
      readonly sourcePort?: number;
      readonly destinationPort?: number;
      readonly dscp?: number;
      readonly ttl?: number;
    }
  | { readonly kind: 'encapsulate'; readonly tunnel: string }
  | { readonly kind: 'meter'; readonly meter: string }
  | { readonly kind: 'count'; readonly counter: string }
  | { readonly kind: 'jump'; readonly chain: number };

/** Names to numbers, for whoever installs the rule: its control domain. Each throws when there is no such thing, or not for this domain. */
export interface ActionNames {
  port(name: string): number;
  meter(name: string): number;
  counter(name: string): number;
  tunnel(name: string): number;
  /** Ports that a set may name: the words of OP_FORWARD_SET. */
  readonly ports: number;
}

/** What an ACL's rules may do. */
const ACL_KINDS = new Set(['drop', 'accept', 'meter', 'count', 'mirror']);
const FINAL_KINDS = new Set(['drop', 'accept', 'miss', 'jump']);

/** @param chain of the rule, -1 for an ACL @param chains how many there are */
export function actionWords(actions: readonly FlowAction[], names: ActionNames, chain: number, chains: number): Int32Array {
  const words: number[] = [];
  if (actions.length === 0) throw bad('a rule without actions: to throw frames away say drop');
  actions.forEach((action, i) => {
    if (chain < 0 && !ACL_KINDS.has(action.kind)) throw bad(`an access control list cannot ${action.kind}: drop, accept, meter, count and mirror it can`);
    if (FINAL_KINDS.has(action.kind) && i < actions.length - 1) throw bad(`${action.kind} ends a rule: nothing comes after it`);
    if (action.kind === 'accept' && chain >= 0) throw bad('accept is for access control lists: a forwarding rule says where to');
    words.push(...encode(action, names, chain, chains));
  });
  if (words.length > MAXIMUM_ACTION_WORDS)
    throw new EmbeddedSwitchError('limit', `the rule's actions take ${words.length} words of ${MAXIMUM_ACTION_WORDS}: go on in another chain`);
  return Int32Array.from(words);
}

function encode(action: FlowAction, names: ActionNames, chain: number, chains: number): number[] {
  switch (action.kind) {
    case 'drop':
      return [OP_DROP];
    case 'accept':
      return [OP_ACCEPT];
    case 'miss':
      return [OP_MISS];
    case 'pop-vlan':
      return [OP_POP_VLAN];
    case 'decrement-ttl':
      return [OP_DECREMENT_TTL];
    case 'decapsulate':
      return [OP_DECAPSULATE];
    case 'forward':
      return forward(typeof action.to === 'string' ? [action.to] : action.to, names);
    case 'mirror':
      return [OP_MIRROR, names.port(action.to)];
    case 'push-vlan': {
      const tci = number('VLAN id', action.id, 1, 4094) | (number('priority', action.priority ?? 0, 0, 7) << 13);
      return [OP_PUSH_VLAN, action.protocol === '802.1ad' ? 0x88a8 : 0x8100, tci];
    }
    case 'set-vlan':
      return setVlan(action.id, action.priority);
    case 'set':
      return set(action);
    case 'encapsulate':
      return [OP_ENCAPSULATE, names.tunnel(action.tunnel)];
    case 'meter':
      return [OP_METER, names.meter(action.meter)];
    case 'count':
      return [OP_COUNT, names.counter(action.counter)];
    case 'jump':
      // Only onwards: no frame goes round, and none visits more chains than there are.
      if (!(Number.isInteger(action.chain) && action.chain > chain && action.chain < chains))
        throw bad(`chain ${action.chain}: a rule in chain ${chain} jumps to a chain above its own, ${chains - 1} at most`);
      return [OP_JUMP, action.chain];
  }
}

function forward(to: readonly string[], names: ActionNames): number[] {
  if (to.length === 0) throw bad('forward to no port: to throw frames away say drop');
  const numbers = to.map((name) => names.port(name));
  if (new Set(numbers).size < numbers.length) throw bad(`forward to ${to.join(', ')}: a port twice`);
  const setWords = Math.ceil(names.ports / 32);
  if (2 * numbers.length <= setWords + 1 || numbers.some((port) => port >= names.ports)) return numbers.flatMap((port) => [OP_FORWARD, port]);
  const set = new Array<number>(setWords).fill(0);
  for (const port of numbers) set[port >>> 5] = (set[port >>> 5] as number) | (1 << (port & 31));
  return [OP_FORWARD_SET, ...set];
}

function setVlan(id: number | undefined, priority: number | undefined): number[] {
  if (id === undefined && priority === undefined) throw bad('set-vlan names an id, a priority, or both');
  const mask = (id === undefined ? 0 : 0xfff) | (priority === undefined ? 0 : 0xe000);
  const value = (id === undefined ? 0 : number('VLAN id', id, 1, 4094)) | (priority === undefined ? 0 : number('priority', priority, 0, 7) << 13);
  return [OP_SET_VLAN, mask, value];
}

function set(action: Extract<FlowAction, { kind: 'set' }>): number[] {
  const words: number[] = [];
  if (action.destinationMac !== undefined) words.push(OP_SET_TO, ...macWords(action.destinationMac));
  if (action.sourceMac !== undefined) words.push(OP_SET_FROM, ...macWords(action.sourceMac));
  if (action.source !== undefined) words.push(OP_SET_SOURCE, ...addressWords(action.source));
  if (action.destination !== undefined) words.push(OP_SET_DESTINATION, ...addressWords(action.destination));
  if (action.sourcePort !== undefined) words.push(OP_SET_SOURCE_PORT, number('sourcePort', action.sourcePort, 0, 0xffff));
  if (action.destinationPort !== undefined) words.push(OP_SET_DESTINATION_PORT, number('destinationPort', action.destinationPort, 0, 0xffff));
  if (action.dscp !== undefined) words.push(OP_SET_DSCP, number('dscp', action.dscp, 0, 63));
  if (action.ttl !== undefined) words.push(OP_SET_TTL, number('ttl', action.ttl, 1, 255));
  if (words.length === 0) throw bad('set names no field');
  return words;
}

function macWords(text: string): number[] {
  const bytes = macBytes(text, bad);
  return [low32(bytes), high16(bytes)];
}

function addressWords(text: string): number[] {
  const { version, words } = ipWords(text, bad);
  return [version, ...words];
}

function bad(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-action', message);
}

function number(name: string, value: number, least: number, most: number): number {
  if (!(Number.isInteger(value) && value >= least && value <= most)) throw bad(`${name} ${value}: ${least} to ${most}`);
  return value;
}
