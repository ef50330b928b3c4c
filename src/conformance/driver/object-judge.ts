// Capabilities and resource objects (virtio 1.4 2.13.2, 2.13.3): said before they are used, within what the device offers; no object twice, none too many, none taken away that others need.

import { ADMIN, GROUP } from '../admin-bench.ts';
import { FF_CAP, FF_OBJECT, parseSelectors } from '../cases/flow-filter-bench.ts';
import type { AdminRequest } from './admin-judge.ts';
import type { Findings } from './findings.ts';
import { FlowFilterJudge } from './flow-filter-judge.ts';

const PARTS_CAP = 0;
const PARTS_OBJECT = 0;
const FILTER_CAPS: readonly number[] = Object.values(FF_CAP);
const FILTER_OBJECTS: readonly number[] = Object.values(FF_OBJECT);
/** Behind the header of every command on an object, and its flags. */
const VALUE = 16;
/** Objects, and members of a group, that are remembered. */
const REMEMBERED = 4096;

const bytesOf = (view: DataView, at: number): Uint8Array => new Uint8Array(view.buffer, view.byteOffset + Math.min(at, view.byteLength)).slice();

/** Numbers that are limits, in a capability of each kind: 2.13.2.6.1 and 5.1.9.6.1. */
function limitsOf(id: number, bytes: Uint8Array): number[] {
  if (id === PARTS_CAP) return [bytes[0] ?? 0, bytes[1] ?? 0];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (id !== FF_CAP.RESOURCE || bytes.length < 18) return [];
  return [0, 4, 8, 12].map((at) => view.getUint32(at, true)).concat(bytes[16] as number, bytes[17] as number);
}

/** Types of objects that depend on a capability. */
const objectsOf = (id: number): readonly number[] => (id === PARTS_CAP ? [PARTS_OBJECT] : FILTER_CAPS.includes(id) ? FILTER_OBJECTS : []);

interface Kept {
  readonly type: number;
  readonly id: number;
  readonly value: Uint8Array;
}

export class ObjectJudge {
  readonly #findings: Findings;
  readonly #filter: FlowFilterJudge;
  readonly #offered = new Map<number, Uint8Array>();
  readonly #set = new Map<number, Uint8Array>();
  /** By group, member, type and id. */
  readonly #live = new Map<string, Kept>();
  readonly #destroyed = new Set<string>();

  constructor(findings: Findings) {
    this.#findings = findings;
    this.#filter = new FlowFilterJudge(findings);
  }

  reset(): void {
    this.#offered.clear();
    this.#set.clear();
    this.#live.clear();
    this.#destroyed.clear();
  }

  command({ opcode, group, member, data }: AdminRequest): void {
    if (data.byteLength < 8) return;
    const type = data.getUint16(0, true);
    if (opcode === ADMIN.CAP_SET) this.#setCapability(type, bytesOf(data, 8));
    if (opcode < ADMIN.CREATE || opcode > ADMIN.DESTROY) return;
    const id = data.getUint32(4, true);
    const key = keyOf(group, member, type, id);
    if (opcode === ADMIN.CREATE) this.#create(group, member, type, id, bytesOf(data, VALUE));
    else this.#findings.check('objs.15', `object ${key}, destroyed, modified, queried or destroyed again`, this.#destroyed.has(key), false);
    if (opcode === ADMIN.DESTROY) this.#destroy(type, id, key);
  }

  #of(test: (kept: Kept) => boolean): Kept[] {
    return [...this.#live.values()].filter(test);
  }

  #create(group: number, member: number, type: number, id: number, value: Uint8Array): void {
    const findings = this.#findings;
    const key = keyOf(group, member, type, id);
    findings.check('objs.13', `object ${key} created while there is one`, this.#live.has(key), false);
    const filter = FILTER_OBJECTS.includes(type);
    const needed = filter ? FILTER_CAPS : type === PARTS_OBJECT ? [PARTS_CAP] : [];
    const missing = needed.filter((cap) => !this.#set.has(cap));
    for (const clause of ['caps.11', 'objs.19', ...(filter ? ['net-ff.27'] : [])])
      findings.check(clause, `object ${key} created: capabilities it needs that were not set`, missing, []);
    const most = this.#limit(type, value);
    if (most !== undefined) {
      const alike = [...this.#live].filter(
        ([other, { value: its }]) => other.startsWith(`${group}.${member}.${type}.`) && (filter || its[0] === value[0]),
      ).length;
      findings.that('objs.14', `objects of type ${type} with the one that is created`, alike < most, `at most ${most}`, alike + 1);
    }
    if (type === FF_OBJECT.CLASSIFIER) this.#filter.classifier(id, value);
    if (type === FF_OBJECT.RULE)
      this.#filter.rule(
        value,
        this.#of((kept) => kept.type === FF_OBJECT.CLASSIFIER),
        this.#of((kept) => kept.type === FF_OBJECT.RULE),
      );
  }

  /** What the driver said it would make at most. */
  #limit(type: number, value: Uint8Array): number | undefined {
    const cap = this.#set.get(type === PARTS_OBJECT ? PARTS_CAP : FF_CAP.RESOURCE);
    const limits = cap && limitsOf(type === PARTS_OBJECT ? PARTS_CAP : FF_CAP.RESOURCE, cap);
    return type === PARTS_OBJECT ? limits?.[value[0] === 0 ? 0 : 1] : limits?.[FILTER_OBJECTS.indexOf(type)];
  }

  #destroy(type: number, id: number, key: string): void {
    const at = type === FF_OBJECT.GROUP ? 0 : type === FF_OBJECT.CLASSIFIER ? 4 : undefined;
    if (at === undefined) return;
    const rules = this.#of((kept) => kept.type === FF_OBJECT.RULE && word(kept.value, at) === id).map((rule) => rule.id);
    for (const clause of ['objs.16', 'objs.17', ...(at === 0 ? ['net-ff.28', 'net-ff.29'] : ['net-ff.30', 'net-ff.31'])])
      this.#findings.check(clause, `object ${key} destroyed: rules that depend on it`, rules, []);
  }

  #setCapability(id: number, value: Uint8Array): void {
    const findings = this.#findings;
    const types = objectsOf(id);
    const live = this.#of((kept) => types.includes(kept.type)).length;
    findings.check('objs.18', `capability 0x${id.toString(16)} set: objects that depend on it`, live, 0);
    findings.check('caps.15', `capability 0x${id.toString(16)} disabled while objects depend on it`, live > 0 && value.every((byte) => byte === 0), false);
    const offered = this.#offered.get(id);
    if (offered === undefined) return;
    const most = limitsOf(id, offered);
    if (most.length > 0)
      findings.check(
        'caps.12',
        `limits of capability 0x${id.toString(16)} above the device's`,
        limitsOf(id, value).filter((limit, i) => limit > (most[i] ?? 0)),
        [],
      );
    if (id === FF_CAP.ACTION) {
      const actions = (bytes: Uint8Array): number[] => [...bytes.subarray(8, 8 + (bytes[0] ?? 0))];
      findings.check(
        'caps.14',
        'actions that the device does not have',
        actions(value).filter((action) => !actions(offered).includes(action)),
        [],
      );
    }
    if (id === FF_CAP.SELECTOR) this.#selectors(offered, value);
  }

  #selectors(offered: Uint8Array, value: Uint8Array): void {
    const theirs = parseSelectors(offered);
    for (const { type, flags = 0, mask } of parseSelectors(value)) {
      const device = theirs.find((selector) => selector.type === type);
      this.#findings.check('caps.14', `selector ${type} among the device's`, device !== undefined, true);
      if (device === undefined) continue;
      const more = mask.some((byte, i) => (byte & ~(device.mask[i] ?? 0)) !== 0);
      this.#findings.check(
        'caps.13',
        `selector ${type}: flags, and bits of its mask, that the device does not have`,
        [flags & ~(device.flags ?? 0), more],
        [0, false],
      );
    }
  }

  done({ opcode, group, member, data }: AdminRequest, result: DataView): void {
    if (data.byteLength < 8) return;
    const type = data.getUint16(0, true);
    if (opcode === ADMIN.CAP_GET) this.#offered.set(type, bytesOf(result, 0));
    if (opcode === ADMIN.CAP_SET) this.#set.set(type, bytesOf(data, 8));
    const id = data.getUint32(4, true);
    const key = keyOf(group, member, type, id);
    if (opcode === ADMIN.DESTROY && this.#live.delete(key) && this.#destroyed.size < REMEMBERED) this.#destroyed.add(key);
    if (opcode === ADMIN.CREATE || opcode === ADMIN.MODIFY) {
      this.#destroyed.delete(key);
      if (this.#live.has(key) || this.#live.size < REMEMBERED) this.#live.set(key, { type, id, value: bytesOf(data, VALUE) });
    }
  }
}

const keyOf = (group: number, member: number, type: number, id: number): string => `${group}.${group === GROUP.SELF ? 0 : member}.${type}.${id}`;

function word(bytes: Uint8Array, at: number): number {
  return bytes.length < at + 4 ? -1 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
}
