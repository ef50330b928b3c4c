// The flow filter (virtio 1.4 5.1.6.6) as cases drive it: its capabilities, and its objects as bytes.

import { ADMIN, ADMIN_STATUS, outcome } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { get32le, le16, le32 } from '../bytes.ts';
import type { Session } from '../session.ts';
import { plainFrame } from './frames.ts';

export const FF_CAP = { RESOURCE: 0x800, SELECTOR: 0x801, ACTION: 0x802 } as const;
export const FF_OBJECT = { GROUP: 0x200, CLASSIFIER: 0x201, RULE: 0x202 } as const;
export const FF_TYPE = { ETH: 1, IPV4: 2, IPV6: 3, TCP: 4, UDP: 5 } as const;
export const FF_ACTION = { DROP: 1, DIRECT: 2 } as const;
export const FF_PARTIAL = 1;
export const OBJECT_COMMANDS: readonly number[] = [ADMIN.CREATE, ADMIN.QUERY, ADMIN.MODIFY, ADMIN.DESTROY];
export const CAP_COMMANDS: readonly number[] = [ADMIN.CAP_ID_LIST, ADMIN.CAP_GET, ADMIN.CAP_SET];
const FF_CAPS: readonly number[] = Object.values(FF_CAP);

export interface Limits {
  readonly groups: number;
  readonly classifiers: number;
  readonly rules: number;
  readonly rulesPerGroup: number;
  readonly lastPriority: number;
  readonly selectors: number;
}

export function parseLimits(bytes: Uint8Array): Limits {
  return {
    groups: get32le(bytes, 0),
    classifiers: get32le(bytes, 4),
    rules: get32le(bytes, 8),
    rulesPerGroup: get32le(bytes, 12),
    lastPriority: bytes[16] ?? 0,
    selectors: bytes[17] ?? 0,
  };
}

/** struct virtio_net_ff_cap_data. */
export function limitBytes({ groups, classifiers, rules, rulesPerGroup, lastPriority, selectors }: Limits): number[] {
  return [...le32(groups), ...le32(classifiers), ...le32(rules), ...le32(rulesPerGroup), lastPriority, selectors, 0, 0];
}

export interface Selector {
  readonly type: number;
  readonly mask: readonly number[];
  readonly flags?: number;
}

const selectorBytes = ({ type, mask, flags = 0 }: Selector): number[] => [type, flags, 0, 0, mask.length, 0, 0, 0, ...mask];

/** struct virtio_net_resource_obj_ff_classifier; the capability has the same form. */
export const classifierBytes = (...selectors: readonly Selector[]): number[] => [selectors.length, 0, 0, 0, 0, 0, 0, 0, ...selectors.flatMap(selectorBytes)];

export function parseSelectors(bytes: Uint8Array): Selector[] {
  const selectors: Selector[] = [];
  for (let at = 8; selectors.length < (bytes[0] ?? 0) && at + 8 <= bytes.length; ) {
    const length = bytes[at + 4] as number;
    selectors.push({ type: bytes[at] as number, flags: bytes[at + 1] as number, mask: [...bytes.subarray(at + 8, at + 8 + length)] });
    at += 8 + length;
  }
  return selectors;
}

export interface Rule {
  readonly group: number;
  readonly classifier: number;
  readonly key: readonly number[];
  readonly priority?: number;
  /** Default: DIRECT. */
  readonly action?: number;
  /** A virtqueue's index. */
  readonly queue?: number;
}

/** struct virtio_net_resource_obj_ff_rule. */
export function ruleBytes({ group, classifier, key, priority = 0, action = FF_ACTION.DIRECT, queue = 0 }: Rule): number[] {
  return [...le32(group), ...le32(classifier), priority, key.length, action, 0, ...le16(queue), 0, 0, ...key];
}

/** Source addresses alone. */
export const BY_SOURCE: Selector = { type: FF_TYPE.ETH, mask: [0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0] };
/** Destination and source. */
export const BY_ADDRESSES: Selector = { type: FF_TYPE.ETH, mask: [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0] };

const source = (n: number): number[] => [0x52, 0x54, 0, 0, 1, n];
export const sourceKey = (n: number): number[] => [0, 0, 0, 0, 0, 0, ...source(n), 0, 0];

/** A frame from station `n`. */
export function frameFrom(n: number, number = n, destination?: readonly number[]): Uint8Array {
  const frame = plainFrame(number, destination);
  frame.set(source(n), 6);
  return frame;
}

/** Opens the self group and sets the three capabilities to all that the device has, or the limits to these. Skips the case where it has no flow filter. */
export async function openFlowFilter(b: Bench, s: Session, limits: Partial<Limits> = {}): Promise<Limits> {
  await b.admin.open([...CAP_COMMANDS, ...OBJECT_COMMANDS]);
  const known = await b.admin.capabilities();
  if (!FF_CAPS.every((id) => known.has(id))) s.skip('the device has no flow filter');
  const chosen = { ...parseLimits(await b.admin.capability(FF_CAP.RESOURCE)), ...limits };
  const values = new Map([
    [FF_CAP.RESOURCE, limitBytes(chosen)],
    [FF_CAP.SELECTOR, [...(await b.admin.capability(FF_CAP.SELECTOR))]],
    [FF_CAP.ACTION, [...(await b.admin.capability(FF_CAP.ACTION))]],
  ] as const);
  for (const [id, value] of values) {
    const reply = await b.admin.setCapability(id, value);
    s.ensure(reply.status === ADMIN_STATUS.OK, `DRIVER_CAP_SET of capability 0x${id.toString(16)} was refused`, outcome(reply));
  }
  return chosen;
}

/** Creates an object that has to be there for the case to go on. */
export async function make(b: Bench, s: Session, type: number, id: number, value: readonly number[]): Promise<void> {
  const reply = await b.admin.create(type, id, value);
  s.ensure(reply.status === ADMIN_STATUS.OK, `creating object ${id} of type 0x${type.toString(16)} was refused`, outcome(reply));
}

/** How many frames came in on each pair since the last call. */
export async function counts(b: Bench): Promise<number[]> {
  const out: number[] = [];
  for (let pair = 0; pair < b.net.pairs; pair++) out.push((await b.net.received(pair)).length);
  return out;
}

/** The pair a frame comes in on; undefined: none. */
export async function pairOf(b: Bench, frame: Uint8Array): Promise<number | undefined> {
  await b.session.send(frame);
  const at = (await counts(b)).findIndex((n) => n > 0);
  return at < 0 ? undefined : at;
}
