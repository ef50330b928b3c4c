// The flow filter's control side (virtio 1.4 5.1.9.6): its three capabilities, its objects - groups, classifiers, rules - and the table of rules they come to, in the order in
// which the data plane tries them. Objects are kept as the driver's own bytes, which QUERY gives back and a save stores; a restore says them all again, through the same checks.

import * as admin from '#virtio/admin';
import { type AdminData, type AdminOutcome, adminDone, adminFailed, adminInvalid, AdminData as Data } from '#virtio/admin';
import type { AdminObjects } from '#virtio/admin-objects';
import type { AdminCapability } from '#virtio/admin-self';
import { FLOW_DROP, FLOW_HEADER_WORDS, FLOW_RULES, type FlowRule } from '#virtio/flow-rules';
import * as sel from './flow-selectors.ts';

const VIRTIO_NET_FF_RESOURCE_CAP = 0x800;
const VIRTIO_NET_FF_SELECTOR_CAP = 0x801;
const VIRTIO_NET_FF_ACTION_CAP = 0x802;
const VIRTIO_NET_RESOURCE_OBJ_FF_GROUP = 0x200;
const VIRTIO_NET_RESOURCE_OBJ_FF_CLASSIFIER = 0x201;
const VIRTIO_NET_RESOURCE_OBJ_FF_RULE = 0x202;
const VIRTIO_NET_FF_ACTION_DROP = 1;
const VIRTIO_NET_FF_ACTION_DIRECT_RX_VQ = 2;

const GROUP_BYTES = 2;
const RULE_BYTES = 16;
const RESOURCE_BYTES = 20;
const ACTIONS = [VIRTIO_NET_FF_ACTION_DROP, VIRTIO_NET_FF_ACTION_DIRECT_RX_VQ];
const MOST_SELECTORS = 3;

/** What a driver may make. */
export interface FlowFilterLimits {
  /** 1 to 64 (default 16). */
  readonly groups: number;
  /** 1 to 64 (default 32). */
  readonly classifiers: number;
  /** 1 to 64 (default), in one group or all together. */
  readonly rules: number;
}

export const FLOW_FILTER_LIMITS: FlowFilterLimits = { groups: 16, classifiers: 32, rules: FLOW_RULES };

interface Group {
  readonly priority: number;
  readonly bytes: Uint8Array;
}

interface Classifier {
  readonly selectors: readonly sel.Selector[];
  readonly bytes: Uint8Array;
}

interface Rule {
  readonly group: number;
  readonly classifier: number;
  readonly priority: number;
  readonly action: number;
  readonly queue: number;
  readonly keys: Uint8Array;
  readonly bytes: Uint8Array;
}

interface Resources {
  readonly groups: number;
  readonly classifiers: number;
  readonly rules: number;
  readonly rulesPerGroup: number;
  readonly lastPriority: number;
  readonly selectors: number;
}

const NO_RESOURCES: Resources = { groups: 0, classifiers: 0, rules: 0, rulesPerGroup: 0, lastPriority: 0, selectors: 0 };

/** A saved capability or object: what the driver sent. */
export interface FlowRecord {
  readonly id: number;
  readonly data: Uint8Array;
}

export interface FlowFilterState {
  readonly capabilities: readonly FlowRecord[];
  readonly groups: readonly FlowRecord[];
  readonly classifiers: readonly FlowRecord[];
  readonly rules: readonly FlowRecord[];
}

export class FlowFilter {
  readonly capabilities: readonly AdminCapability[];
  readonly objects: readonly AdminObjects[];
  /** Receive queues there are under the negotiated features. */
  readonly #receiveQueues: () => number;
  // The driver's capabilities: until it sets one, that one is disabled.
  #resources = NO_RESOURCES;
  #selectors: readonly sel.Selector[] = [];
  #actions: readonly number[] = [];
  readonly #set = new Map<number, Uint8Array>();
  readonly #groups = new Map<number, Group>();
  readonly #classifiers = new Map<number, Classifier>();
  readonly #rules = new Map<number, Rule>();

  constructor(limits: FlowFilterLimits, receiveQueues: () => number) {
    this.#receiveQueues = receiveQueues;
    const device: Resources = { ...limits, rulesPerGroup: limits.rules, lastPriority: 255, selectors: MOST_SELECTORS };
    this.capabilities = [
      this.#capability(VIRTIO_NET_FF_RESOURCE_CAP, encodeResources(device), (data) => this.#setResources(data, device)),
      this.#capability(VIRTIO_NET_FF_SELECTOR_CAP, sel.encodeSelectors(sel.DEVICE_SELECTORS), (data) => this.#setSelectors(data)),
      this.#capability(VIRTIO_NET_FF_ACTION_CAP, Uint8Array.of(ACTIONS.length, 0, 0, 0, 0, 0, 0, 0, ...ACTIONS), (data) => this.#setActions(data)),
    ];
    this.objects = [
      this.#kind(VIRTIO_NET_RESOURCE_OBJ_FF_GROUP, this.#groups, {
        limit: () => Math.min(this.#resources.groups, this.#resources.rulesPerGroup),
        parse: (id, data) => this.#parseGroup(id, data),
        inUse: (id) => [...this.#rules.values()].some(({ group }) => group === id),
      }),
      this.#kind(VIRTIO_NET_RESOURCE_OBJ_FF_CLASSIFIER, this.#classifiers, {
        limit: () => this.#resources.classifiers,
        parse: (_id, data) => this.#parseClassifier(data),
        inUse: (id) => [...this.#rules.values()].some(({ classifier }) => classifier === id),
      }),
      this.#kind(VIRTIO_NET_RESOURCE_OBJ_FF_RULE, this.#rules, {
        limit: () => Math.min(this.#resources.rules, this.#resources.rulesPerGroup),
        parse: (id, data) => this.#parseRule(id, data),
        inUse: () => false,
      }),
    ];
  }

  /** (device MUST): a reset takes all of it away. */
  reset(): void {
    this.#resources = NO_RESOURCES;
    this.#selectors = [];
    this.#actions = [];
    this.#set.clear();
    this.#groups.clear();
    this.#classifiers.clear();
    this.#rules.clear();
  }

  // ---- capabilities ----

  #capability(id: number, device: Uint8Array, set: (data: AdminData) => Uint8Array | undefined): AdminCapability {
    return {
      id,
      device,
      set: (data) => {
        // virtio 1.4 2.12.1.2.2 (driver MUST NOT) while objects exist that go by it; (device SHOULD): EBUSY.
        if (this.#groups.size + this.#classifiers.size + this.#rules.size > 0) return adminFailed(admin.VIRTIO_ADMIN_STATUS_EBUSY);
        const taken = set(data);
        if (taken === undefined) return adminInvalid();
        this.#set.set(id, taken);
        return adminDone();
      },
    };
  }

  #setResources(data: AdminData, device: Resources): Uint8Array | undefined {
    const asked: Resources = {
      groups: data.u32(0),
      classifiers: data.u32(4),
      rules: data.u32(8),
      rulesPerGroup: data.u32(12),
      lastPriority: data.u8(16),
      selectors: data.u8(17),
    };
    for (const name of Object.keys(device) as (keyof Resources)[]) if (asked[name] > device[name]) return undefined;
    this.#resources = asked;
    return data.bytes(0, RESOURCE_BYTES);
  }

  #setSelectors(data: AdminData): Uint8Array | undefined {
    const decoded = sel.decodeSelectors(data, sel.DEVICE_SELECTORS.length, sel.DEVICE_SELECTORS);
    // Ordered by type, each once.
    if (decoded?.selectors.every(({ type }, i) => i === 0 || type > (decoded.selectors[i - 1] as sel.Selector).type) !== true) return undefined;
    this.#selectors = decoded.selectors;
    return data.bytes(0, decoded.length);
  }

  #setActions(data: AdminData): Uint8Array | undefined {
    const count = data.u8(0);
    if (count > ACTIONS.length) return undefined;
    const actions = [...data.bytes(8, count)];
    if (!actions.every((action, i) => ACTIONS.includes(action) && (i === 0 || action > (actions[i - 1] as number)))) return undefined;
    this.#actions = actions;
    return data.bytes(0, 8 + count);
  }

  get #enabled(): boolean {
    const { groups, classifiers, rules } = this.#resources;
    return groups > 0 && classifiers > 0 && rules > 0 && this.#selectors.length > 0 && this.#actions.length > 0;
  }

  // ---- objects ----

  #kind<T extends { readonly bytes: Uint8Array }>(
    type: number,
    live: Map<number, T>,
    kind: { limit(): number; parse(id: number, data: AdminData): T | AdminOutcome; inUse(id: number): boolean },
  ): AdminObjects {
    // (device SHOULD) without all three capabilities. The text names a status that is a qualifier: read as EINVAL with it.
    const disabled = (): AdminOutcome | undefined => (this.#enabled ? undefined : adminInvalid(admin.VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE));
    const put = (id: number, data: AdminData): AdminOutcome => {
      const parsed = kind.parse(id, data);
      if ('status' in parsed) return parsed;
      live.set(id, parsed);
      return adminDone();
    };
    const change = (id: number, act: () => AdminOutcome): AdminOutcome => {
      if (!live.has(id)) return adminFailed(admin.VIRTIO_ADMIN_STATUS_ENXIO);
      return kind.inUse(id) ? adminFailed(admin.VIRTIO_ADMIN_STATUS_EBUSY) : act();
    };
    return {
      type,
      create: (id, data) => {
        const refused = disabled();
        if (refused) return refused;
        if (live.has(id)) return adminFailed(admin.VIRTIO_ADMIN_STATUS_EEXIST);
        if (live.size >= kind.limit()) return adminFailed(admin.VIRTIO_ADMIN_STATUS_ENOSPC);
        return id < kind.limit() ? put(id, data) : adminInvalid();
      },
      modify: (id, data) => disabled() ?? change(id, () => put(id, data)),
      query: (id) => {
        const object = live.get(id);
        return disabled() ?? (object ? adminDone(object.bytes) : adminFailed(admin.VIRTIO_ADMIN_STATUS_ENXIO));
      },
      destroy: (id) =>
        disabled() ??
        change(id, () => {
          live.delete(id);
          return adminDone();
        }),
    };
  }

  #parseGroup(id: number, data: AdminData): Group | AdminOutcome {
    const priority = data.u16(0);
    // (device SHOULD): each has a priority of its own.
    for (const [other, group] of this.#groups) if (other !== id && group.priority === priority) return adminInvalid();
    return { priority, bytes: data.bytes(0, GROUP_BYTES) };
  }

  #parseClassifier(data: AdminData): Classifier | AdminOutcome {
    const decoded = sel.decodeSelectors(data, Math.min(MOST_SELECTORS, this.#resources.selectors), this.#selectors);
    if (decoded === undefined || !sel.isClassifier(decoded.selectors)) return adminInvalid();
    return { selectors: decoded.selectors, bytes: data.bytes(0, decoded.length) };
  }

  #parseRule(id: number, data: AdminData): Rule | AdminOutcome {
    const length = data.u8(9);
    const rule: Rule = {
      group: data.u32(0),
      classifier: data.u32(4),
      priority: data.u8(8),
      action: data.u8(10),
      queue: data.u16(12),
      keys: data.bytes(RULE_BYTES, length),
      bytes: data.bytes(0, RULE_BYTES + length),
    };
    const classifier = this.#classifiers.get(rule.classifier);
    if (!this.#groups.has(rule.group) || classifier === undefined) return adminInvalid();
    const { rulesPerGroup, lastPriority } = this.#resources;
    // (device SHOULD): the clause excludes last_rule_priority itself, though its description calls it the highest there is.
    if (rule.priority >= lastPriority || !this.#actions.includes(rule.action) || !fits(classifier.selectors, rule.keys)) return adminInvalid();
    if (rule.action === VIRTIO_NET_FF_ACTION_DIRECT_RX_VQ && ((rule.queue & 1) !== 0 || rule.queue >>> 1 >= this.#receiveQueues())) return adminInvalid();
    let others = 0;
    for (const [other, { group }] of this.#rules) if (other !== id && group === rule.group) others++;
    return others < rulesPerGroup ? rule : adminFailed(admin.VIRTIO_ADMIN_STATUS_ENOSPC);
  }

  // ---- the table ----

  /** In the order in which they are tried. */
  compile(): FlowRule[] {
    const ordered = [...this.#rules].sort(([idA, a], [idZ, z]) => this.#rank(z) - this.#rank(a) || z.priority - a.priority || idA - idZ);
    return ordered.map(([, rule]) => {
      const { selectors } = this.#classifiers.get(rule.classifier) as Classifier;
      return { action: rule.action === VIRTIO_NET_FF_ACTION_DIRECT_RX_VQ ? rule.queue >>> 1 : FLOW_DROP, ...match(selectors, rule.keys) };
    });
  }

  #rank(rule: Rule): number {
    return (this.#groups.get(rule.group) as Group).priority;
  }

  // ---- saved state ----

  save(): FlowFilterState {
    const records = (live: ReadonlyMap<number, { readonly bytes: Uint8Array }>): FlowRecord[] =>
      [...live].map(([id, { bytes }]) => ({ id, data: bytes.slice() }));
    return {
      capabilities: [...this.#set].map(([id, data]) => ({ id, data: data.slice() })),
      groups: records(this.#groups),
      classifiers: records(this.#classifiers),
      rules: records(this.#rules),
    };
  }

  /** Says everything in `state` to this filter, which has nothing yet; false when some of it is refused. */
  load(state: FlowFilterState): boolean {
    const [groups, classifiers, rules] = this.objects as [AdminObjects, AdminObjects, AdminObjects];
    const say = (records: readonly FlowRecord[], to: (record: FlowRecord) => AdminOutcome | undefined): boolean =>
      records.every((record) => to(record)?.status === admin.VIRTIO_ADMIN_STATUS_OK);
    return (
      say(state.capabilities, ({ id, data }) => this.capabilities.find((capability) => capability.id === id)?.set(new Data(data))) &&
      say(state.groups, ({ id, data }) => groups.create(id, new Data(data))) &&
      say(state.classifiers, ({ id, data }) => classifiers.create(id, new Data(data))) &&
      say(state.rules, ({ id, data }) => rules.create(id, new Data(data)))
    );
  }
}

function encodeResources({ groups, classifiers, rules, rulesPerGroup, lastPriority, selectors }: Resources): Uint8Array {
  const bytes = new Uint8Array(RESOURCE_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of [groups, classifiers, rules, rulesPerGroup].entries()) view.setUint32(4 * i, value, true);
  bytes[16] = lastPriority;
  bytes[17] = selectors;
  return bytes;
}

/** As long as the selectors' headers together, and each header naming the next. */
function fits(selectors: readonly sel.Selector[], keys: Uint8Array): boolean {
  if (keys.length !== selectors.reduce((sum, { mask }) => sum + mask.length, 0)) return false;
  const [ethernet, network, transport] = selectors;
  const kindOf = ({ type }: sel.Selector) => sel.SELECTOR_KINDS.get(type)?.named;
  const header = ethernet?.mask.length ?? 0;
  if (network && (((keys[sel.ETHERTYPE_AT] as number) << 8) | (keys[sel.ETHERTYPE_AT + 1] as number)) !== kindOf(network)) return false;
  return !network || !transport || keys[header + (sel.PROTOCOL_AT.get(network.type) as number)] === kindOf(transport);
}

/** Mask and key as the data plane compares them. */
function match(selectors: readonly sel.Selector[], keys: Uint8Array): Pick<FlowRule, 'network' | 'transport' | 'mask' | 'key'> {
  const mask = new Uint8Array(4 * FLOW_HEADER_WORDS);
  const key = new Uint8Array(4 * FLOW_HEADER_WORDS);
  let at = 0;
  for (const selector of selectors) {
    const word = 4 * (sel.SELECTOR_KINDS.get(selector.type)?.word ?? 0);
    mask.set(selector.mask, word);
    key.set(keys.subarray(at, at + selector.mask.length), word);
    at += selector.mask.length;
  }
  const type = selectors[1]?.type;
  const transport = selectors[2] ? (sel.SELECTOR_KINDS.get(selectors[2].type)?.named ?? 0) : 0;
  return { network: type === sel.TYPE_IPV4 ? 4 : type === sel.TYPE_IPV6 ? 6 : 0, transport, mask, key };
}
