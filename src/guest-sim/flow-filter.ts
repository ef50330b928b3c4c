// Flow filters (virtio 1.4 5.1.9.6): groups of rules that send matching frames to a receive queue or drop them, made as resource objects through the
// administration queue. Identifiers are the driver's; limits, masks and orders the specification puts on a driver are kept here.

import { ADMIN_STATUS, type AdminAnswer, type AdminQueue } from './admin-queue.ts';
import { VirtioError } from './virtio-pci.ts';

const CAP = { RESOURCE: 0x800, SELECTOR: 0x801, ACTION: 0x802 } as const;
const OBJECT = { GROUP: 0x200, CLASSIFIER: 0x201, RULE: 0x202 } as const;

/** Headers a selector matches, and how many of their bytes. */
export const FF_SELECTOR = { ETH: 1, IPV4: 2, IPV6: 3, TCP: 4, UDP: 5 } as const;
const SELECTOR_LENGTH: Readonly<Record<number, number>> = { 1: 14, 2: 20, 3: 40, 4: 20, 5: 8 };
const PARTIAL_MASK = 1;
export const FF_ACTION = { DROP: 1, DIRECT_RX_VQ: 2 } as const;

export interface FlowFilterLimits {
  readonly groups: number;
  readonly classifiers: number;
  readonly rules: number;
  readonly rulesPerGroup: number;
  /** Rules have priorities below this one. */
  readonly lastRulePriority: number;
  readonly selectorsPerClassifier: number;
}

/** Part of a match: the bits of one header that count, and what they have to be. */
export interface Selector {
  readonly type: number;
  readonly mask: Uint8Array;
  readonly key: Uint8Array;
}

/** Fields to match; what is left out matches anything. */
export interface FlowMatch {
  readonly destination?: readonly number[];
  readonly source?: readonly number[];
  readonly etherType?: number;
  readonly version?: 4 | 6;
  readonly from?: readonly number[];
  readonly to?: readonly number[];
  readonly protocol?: 'tcp' | 'udp';
  readonly fromPort?: number;
  readonly toPort?: number;
}

/** Selectors for a match, outermost first, each naming the next one's header as the specification wants. */
export function flowMatch(match: FlowMatch): Selector[] {
  const version = match.version ?? (match.protocol || match.from || match.to ? 4 : undefined);
  const eth = selector(FF_SELECTOR.ETH);
  if (match.destination) fill(eth, 0, match.destination);
  if (match.source) fill(eth, 6, match.source);
  const etherType = version === undefined ? match.etherType : version === 4 ? 0x0800 : 0x86dd;
  if (etherType !== undefined) fill(eth, 12, [etherType >> 8, etherType & 0xff]);
  if (version === undefined) return [eth];
  const ip = selector(version === 4 ? FF_SELECTOR.IPV4 : FF_SELECTOR.IPV6);
  if (match.from) fill(ip, version === 4 ? 12 : 8, match.from);
  if (match.to) fill(ip, version === 4 ? 16 : 24, match.to);
  if (!match.protocol) return [eth, ip];
  fill(ip, version === 4 ? 9 : 6, [match.protocol === 'tcp' ? 6 : 17]);
  const transport = selector(match.protocol === 'tcp' ? FF_SELECTOR.TCP : FF_SELECTOR.UDP);
  if (match.fromPort !== undefined) fill(transport, 0, [match.fromPort >> 8, match.fromPort & 0xff]);
  if (match.toPort !== undefined) fill(transport, 2, [match.toPort >> 8, match.toPort & 0xff]);
  return [eth, ip, transport];
}

function selector(type: number): Selector {
  const length = SELECTOR_LENGTH[type] as number;
  return { type, mask: new Uint8Array(length), key: new Uint8Array(length) };
}

function fill(into: Selector, at: number, bytes: readonly number[]): void {
  into.mask.fill(0xff, at, at + bytes.length);
  into.key.set(bytes, at);
}

export interface FlowRule {
  readonly group: number;
  /** From `addClassifier`. */
  readonly classifier: number;
  /** Highest first, below `limits.lastRulePriority`; different within a group where two rules can match one frame. */
  readonly priority: number;
  /** The keys of the classifier's selectors, one after another. */
  readonly selectors: readonly Selector[];
  /** A receive queue, or 'drop'. */
  readonly action: number | 'drop';
}

export class FlowFilter {
  readonly limits: FlowFilterLimits;
  readonly actions: ReadonlySet<number>;
  /** Masks the device can match with, by selector type, and whether they may cover parts of fields. */
  readonly selectors: ReadonlyMap<number, { readonly mask: Uint8Array; readonly partial: boolean }>;
  readonly #admin: AdminQueue;
  readonly #groups = new Map<number, number>();
  readonly #classifiers = new Map<number, { readonly lengths: number; uses: number }>();
  readonly #rules = new Map<number, { readonly group: number; readonly classifier: number }>();
  /** Why the device refused the last command that it refused. */
  refusal: AdminAnswer | undefined;

  private constructor(admin: AdminQueue, limits: FlowFilterLimits, actions: ReadonlySet<number>, selectors: FlowFilter['selectors']) {
    this.#admin = admin;
    this.limits = limits;
    this.actions = actions;
    this.selectors = selectors;
  }

  /** Reads the three capabilities and enables them as they are. Undefined: the device has no flow filter. @throws VirtioError when it refuses its own capabilities */
  static open(admin: AdminQueue): FlowFilter | undefined {
    if (!admin.useAll()) return undefined;
    const known = admin.capabilities();
    if (![CAP.RESOURCE, CAP.SELECTOR, CAP.ACTION].every((id) => known.has(id))) return undefined;
    const resource = admin.deviceCapability(CAP.RESOURCE, 20);
    const selector = admin.deviceCapability(CAP.SELECTOR, 1024);
    const action = admin.deviceCapability(CAP.ACTION, 264);
    if (!resource || !selector || !action) return undefined;
    const r = new DataView(resource.buffer, resource.byteOffset, 20);
    const limits = {
      groups: r.getUint32(0, true),
      classifiers: r.getUint32(4, true),
      rules: r.getUint32(8, true),
      rulesPerGroup: r.getUint32(12, true),
      lastRulePriority: r.getUint8(16),
      selectorsPerClassifier: r.getUint8(17),
    };
    const selectors = readSelectors(selector);
    const actions = new Set([...action.subarray(8, 8 + (action[0] as number))].filter((a) => a === FF_ACTION.DROP || a === FF_ACTION.DIRECT_RX_VQ));
    // virtio 1.4 2.13.2.2 (driver MUST NOT): within what the device offers, and only what is understood here.
    for (const [id, value] of [
      [CAP.RESOURCE, resource],
      [CAP.SELECTOR, encodeSelectors([...selectors].map(([type, { mask, partial }]) => ({ type, mask, flags: partial ? PARTIAL_MASK : 0 })))],
      [CAP.ACTION, Uint8Array.from([actions.size, 0, 0, 0, 0, 0, 0, 0, ...[...actions].sort((a, b) => a - b)])],
    ] as const) {
      const status = admin.setDriverCapability(id, value);
      if (status !== ADMIN_STATUS.OK)
        throw new VirtioError('ERR_VIRTIO_ADMIN', `the device refused its own capability 0x${id.toString(16)} with status ${status}`);
    }
    return new FlowFilter(admin, limits, actions, selectors);
  }

  #done(answer: AdminAnswer): boolean {
    if (answer.status !== ADMIN_STATUS.OK) this.refusal = answer;
    return answer.status === ADMIN_STATUS.OK;
  }

  /** A group of rules; those of the highest priority are tried first. Its identifier, or -1 when there is no more room or the device refused. */
  addGroup(priority: number): number {
    const id = freeId(this.#groups, this.limits.groups);
    if (id < 0 || !this.#done(this.#admin.createObject(OBJECT.GROUP, id, Uint8Array.of(priority & 0xff, priority >>> 8)))) return -1;
    this.#groups.set(id, 0);
    return id;
  }

  /** Which fields rules look at: the masks of `selectors`. @throws RangeError for what no driver may ask of this device */
  addClassifier(selectors: readonly Selector[]): number {
    this.#checkSelectors(selectors);
    const id = freeId(this.#classifiers, this.limits.classifiers);
    if (id < 0) return -1;
    const value = encodeSelectors(selectors.map(({ type, mask }) => ({ type, mask, flags: this.selectors.get(type)?.partial ? PARTIAL_MASK : 0 })));
    if (!this.#done(this.#admin.createObject(OBJECT.CLASSIFIER, id, value))) return -1;
    this.#classifiers.set(id, { lengths: selectors.reduce((n, s) => n + s.mask.length, 0), uses: 0 });
    return id;
  }

  #checkSelectors(selectors: readonly Selector[]): void {
    const [eth, ip, transport] = selectors;
    if (eth?.type !== FF_SELECTOR.ETH || selectors.length > Math.min(3, this.limits.selectorsPerClassifier))
      throw new RangeError(`a classifier begins with Ethernet and has at most ${Math.min(3, this.limits.selectorsPerClassifier)} selectors`);
    if (ip && ip.type !== FF_SELECTOR.IPV4 && ip.type !== FF_SELECTOR.IPV6) throw new RangeError('the second selector of a classifier is IPv4 or IPv6');
    if (transport && transport.type !== FF_SELECTOR.TCP && transport.type !== FF_SELECTOR.UDP)
      throw new RangeError('the third selector of a classifier is TCP or UDP');
    if (ip && !(eth.mask[12] === 0xff && eth.mask[13] === 0xff)) throw new RangeError('the Ethernet selector has to match the whole EtherType');
    if (ip && transport && ip.mask[ip.type === FF_SELECTOR.IPV4 ? 9 : 6] !== 0xff) throw new RangeError('the IP selector has to match the protocol');
    for (const { type, mask } of selectors) {
      const can = this.selectors.get(type);
      if (!can || mask.length !== SELECTOR_LENGTH[type] || mask.some((m, i) => (m & ~(can.mask[i] as number)) !== 0))
        throw new RangeError(`the device cannot match these fields of selector type ${type}`);
    }
  }

  /** A rule's identifier, or -1 when there is no more room or the device refused. @throws RangeError for what no driver may ask of this device */
  addRule(rule: FlowRule): number {
    const { groups, limits } = { groups: this.#groups, limits: this.limits };
    const classifier = this.#classifiers.get(rule.classifier);
    const inGroup = groups.get(rule.group);
    const keys = rule.selectors.flatMap((s) => [...s.key]);
    if (!classifier || inGroup === undefined) throw new RangeError(`there is no group ${rule.group} or no classifier ${rule.classifier}`);
    if (keys.length !== classifier.lengths) throw new RangeError(`a key of ${keys.length} bytes for a classifier of ${classifier.lengths}`);
    if (rule.priority >= limits.lastRulePriority) throw new RangeError(`rule priority ${rule.priority} is not below ${limits.lastRulePriority}`);
    const action = rule.action === 'drop' ? FF_ACTION.DROP : FF_ACTION.DIRECT_RX_VQ;
    if (!this.actions.has(action)) throw new RangeError(`the device has no action ${action}`);
    // Identifiers stay below both limits, which 5.1.9.6.4 (device SHOULD fail) asks for.
    const id = freeId(this.#rules, Math.min(limits.rules, limits.rulesPerGroup));
    if (id < 0 || inGroup >= limits.rulesPerGroup) return -1;
    const value = new Uint8Array(16 + keys.length);
    const view = new DataView(value.buffer);
    view.setUint32(0, rule.group, true);
    view.setUint32(4, rule.classifier, true);
    value[8] = rule.priority;
    value[9] = keys.length;
    value[10] = action;
    if (rule.action !== 'drop') view.setUint16(12, 2 * rule.action, true);
    value.set(keys, 16);
    if (!this.#done(this.#admin.createObject(OBJECT.RULE, id, value))) return -1;
    this.#rules.set(id, rule);
    groups.set(rule.group, inGroup + 1);
    classifier.uses++;
    return id;
  }

  /** False also for one that is not there. */
  removeRule(id: number): boolean {
    const rule = this.#rules.get(id);
    if (!rule || !this.#done(this.#admin.destroyObject(OBJECT.RULE, id))) return false;
    this.#rules.delete(id);
    this.#groups.set(rule.group, (this.#groups.get(rule.group) as number) - 1);
    const classifier = this.#classifiers.get(rule.classifier);
    if (classifier) classifier.uses--;
    return true;
  }

  /** False while rules depend on it: virtio 1.4 5.1.9.6.5 (driver SHOULD NOT). */
  removeGroup(id: number): boolean {
    if (this.#groups.get(id) !== 0 || !this.#done(this.#admin.destroyObject(OBJECT.GROUP, id))) return false;
    return this.#groups.delete(id);
  }

  removeClassifier(id: number): boolean {
    if (this.#classifiers.get(id)?.uses !== 0 || !this.#done(this.#admin.destroyObject(OBJECT.CLASSIFIER, id))) return false;
    return this.#classifiers.delete(id);
  }
}

function freeId(used: ReadonlyMap<number, unknown>, limit: number): number {
  for (let id = 0; id < limit; id++) if (!used.has(id)) return id;
  return -1;
}

function encodeSelectors(selectors: readonly { readonly type: number; readonly mask: Uint8Array; readonly flags: number }[]): Uint8Array {
  const bytes = new Uint8Array(8 + selectors.reduce((n, s) => n + 8 + s.mask.length, 0));
  bytes[0] = selectors.length;
  let at = 8;
  for (const { type, mask, flags } of selectors) {
    bytes[at] = type;
    bytes[at + 1] = flags;
    bytes[at + 4] = mask.length;
    bytes.set(mask, at + 8);
    at += 8 + mask.length;
  }
  return bytes;
}

/** The selectors of a capability that are known here and as long as they should be. */
function readSelectors(bytes: Uint8Array): Map<number, { mask: Uint8Array; partial: boolean }> {
  const selectors = new Map<number, { mask: Uint8Array; partial: boolean }>();
  let at = 8;
  for (let left = bytes[0] as number; left > 0 && at + 8 <= bytes.length; left--) {
    const type = bytes[at] as number;
    const length = bytes[at + 4] as number;
    if (at + 8 + length > bytes.length) break;
    if (SELECTOR_LENGTH[type] === length)
      selectors.set(type, { mask: bytes.slice(at + 8, at + 8 + length), partial: ((bytes[at + 1] as number) & PARTIAL_MASK) !== 0 });
    at += 8 + length;
  }
  return selectors;
}
