// Classifiers and rules of the flow filter (virtio 1.4 5.1.9.6) as a driver makes them: headers in order, each saying which the next one is; whole fields; no two rules of one priority for the
// same frame.

import { FF_PARTIAL, FF_TYPE, parseSelectors, type Selector } from '../cases/flow-filter-bench.ts';
import type { Findings } from './findings.ts';

/** Bits of each field of a header, in order. */
const FIELDS: Readonly<Record<number, readonly number[]>> = {
  [FF_TYPE.ETH]: [48, 48, 16],
  [FF_TYPE.IPV4]: [4, 4, 8, 16, 16, 3, 13, 8, 8, 16, 32, 32],
  [FF_TYPE.IPV6]: [4, 8, 20, 16, 8, 8, 128, 128],
  [FF_TYPE.TCP]: [16, 16, 32, 32, 4, 4, 8, 16, 16, 16],
  [FF_TYPE.UDP]: [16, 16, 16, 16],
};
/** Where the next header is named: Protocol, Next Header. */
const PROTOCOL: Readonly<Record<number, number>> = { [FF_TYPE.IPV4]: 9, [FF_TYPE.IPV6]: 6 };
const ETHER_TYPE = 12;
const KEY = 16;

interface Made {
  readonly id: number;
  readonly value: Uint8Array;
}

/** What a rule looks at, byte by byte over all its headers, and what it wants there. */
interface Match {
  readonly types: readonly number[];
  readonly mask: readonly number[];
  readonly key: readonly number[];
}

export class FlowFilterJudge {
  readonly #findings: Findings;

  constructor(findings: Findings) {
    this.#findings = findings;
  }

  classifier(id: number, value: Uint8Array): void {
    const findings = this.#findings;
    const selectors = parseSelectors(value);
    const [eth, ip, transport] = selectors;
    const what = `classifier ${id}`;
    findings.check('net-ff.35', `${what}: first selector`, eth?.type, FF_TYPE.ETH);
    if (ip) {
      findings.that('net-ff.36', `${what}: second selector`, ip.type === FF_TYPE.IPV4 || ip.type === FF_TYPE.IPV6, 'IPv4 or IPv6', ip.type);
      findings.check('net-ff.38', `${what}: mask of the EtherType`, eth?.mask.slice(ETHER_TYPE, ETHER_TYPE + 2), [255, 255]);
    }
    if (transport) {
      findings.that('net-ff.37', `${what}: third selector`, transport.type === FF_TYPE.TCP || transport.type === FF_TYPE.UDP, 'TCP or UDP', transport.type);
      findings.check('net-ff.39', `${what}: mask of the protocol`, ip?.mask[PROTOCOL[ip.type] ?? 0], 255);
    }
    for (const selector of selectors)
      if (((selector.flags ?? 0) & FF_PARTIAL) === 0)
        findings.check('net-ff.42', `${what}: fields of selector ${selector.type} masked in part`, partial(selector), []);
  }

  rule(value: Uint8Array, classifiers: readonly Made[], rules: readonly Made[]): void {
    const findings = this.#findings;
    const match = matchOf(value, classifiers);
    if (match === undefined) return;
    const [, ip, transport] = match.types;
    const keyAt = (at: number): number | undefined => match.key[at];
    if (ip !== undefined) findings.check('net-ff.40', 'EtherType of a rule', [keyAt(12), keyAt(13)], ip === FF_TYPE.IPV6 ? [0x86, 0xdd] : [0x08, 0x00]);
    if (ip !== undefined && transport !== undefined)
      findings.check('net-ff.41', 'protocol of a rule', keyAt(14 + (PROTOCOL[ip] ?? 0)), transport === FF_TYPE.TCP ? 6 : 17);
    const rivals = rules.filter((other) => sameGroup(other.value, value) && other.value[8] === value[8]);
    const both = rivals.filter((other) => overlaps(match, matchOf(other.value, classifiers))).map(({ id }) => id);
    for (const clause of ['net-ff.32', 'net-ff.34'])
      findings.check(clause, `rules of priority ${value[8]} in its group that match frames a new one does`, both, []);
  }
}

/** Fields of which some bits count and others do not, by number. */
function partial({ type, mask }: Selector): number[] {
  const odd: number[] = [];
  let at = 0;
  for (const [field, width] of (FIELDS[type] ?? []).entries()) {
    let set = 0;
    for (let bit = at; bit < at + width; bit++) set += ((mask[bit >>> 3] ?? 0) >>> (7 - (bit & 7))) & 1;
    if (set !== 0 && set !== width) odd.push(field);
    at += width;
  }
  return odd;
}

const u32 = (bytes: Uint8Array, at: number): number => new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
const sameGroup = (a: Uint8Array, b: Uint8Array): boolean => a.length >= KEY && b.length >= KEY && u32(a, 0) === u32(b, 0);

function matchOf(rule: Uint8Array, classifiers: readonly Made[]): Match | undefined {
  const classifier = rule.length < KEY ? undefined : classifiers.find(({ id }) => id === u32(rule, 4));
  if (classifier === undefined) return undefined;
  const selectors = parseSelectors(classifier.value);
  return { types: selectors.map(({ type }) => type), mask: selectors.flatMap(({ mask }) => [...mask]), key: [...rule.subarray(KEY)] };
}

/** Whether some frame is matched by both: as far as both go through the same headers they want nothing different. */
function overlaps(a: Match, b: Match | undefined): boolean {
  if (b === undefined) return false;
  const depth = Math.min(a.types.length, b.types.length);
  // Headers that differ are told apart by the field that names them, which both keys have.
  if (a.types.slice(0, depth).some((type, i) => type !== b.types[i])) return false;
  const length = Math.min(a.mask.length, b.mask.length);
  for (let i = 0; i < length; i++) if ((((a.key[i] ?? 0) ^ (b.key[i] ?? 0)) & (a.mask[i] as number) & (b.mask[i] as number)) !== 0) return false;
  return true;
}
