// The embedded switch once more, in sentences: sets of pools instead of masks, lists searched from the front, written from the datasheet's steps (82576 7.10.3) and not from the code. Slow and plain.

import { RegisterFile } from '#core/register-file';
import { IGB_REGISTERS } from '#devices/igb/registers';

export const MACS = [
  '02:00:00:00:00:01',
  '02:00:00:00:00:02',
  '02:00:00:00:10:01',
  '02:00:00:00:20:03',
  '01:00:5e:00:00:01',
  '33:33:00:00:40:02',
  'ff:ff:ff:ff:ff:ff',
];
export const SINGLE = MACS.slice(0, 4);

export interface ModelPool {
  readonly untagged: boolean;
  readonly multicastHash: boolean;
  readonly unicastHash: boolean;
  readonly broadcast: boolean;
  readonly multicast: boolean;
  /** RLPML, if LPE. */
  readonly longest: number | null;
  readonly hearsItself: boolean;
  readonly macGuard: boolean;
  readonly vlanGuard: boolean;
}

interface ModelRule {
  readonly pools: readonly number[] | null;
  readonly vlanEntries: readonly number[] | null;
  readonly uplink: boolean;
  readonly downlink: boolean;
  readonly observer: number;
}

export interface ModelConfig {
  readonly replication: boolean;
  readonly ignoreMac: boolean;
  readonly defaultPool: number;
  readonly noDefaultPool: boolean;
  readonly unicastPromiscuous: boolean;
  readonly multicastPromiscuous: boolean;
  readonly broadcastAccept: boolean;
  readonly offset: 0 | 1 | 2 | 3;
  readonly vlanFilter: boolean;
  readonly vfta: readonly number[];
  readonly vlvf: readonly { readonly vlan: number; readonly pools: readonly number[]; readonly local: boolean; readonly valid: boolean }[];
  readonly exact: readonly { readonly mac: string; readonly pools: readonly number[]; readonly bySource: boolean; readonly valid: boolean }[];
  readonly multicastHash: readonly string[];
  readonly unicastHash: readonly string[];
  readonly pools: readonly ModelPool[];
  readonly vfs: number;
  readonly vfre: readonly number[];
  readonly loopback: boolean;
  readonly rules: readonly ModelRule[];
}

export interface ModelFrame {
  readonly to: string;
  readonly from: string;
  readonly vlan: number | null;
  readonly length: number;
}

export interface ModelAnswer {
  readonly pools: number[];
  readonly wire: boolean;
  readonly spoofed: boolean;
}

const ALL = [0, 1, 2, 3, 4, 5, 6, 7];

function octets(mac: string): number[] {
  return mac.split(':').map((part) => Number.parseInt(part, 16));
}

export function frameBytes(frame: ModelFrame): Uint8Array {
  const tag = frame.vlan === null ? [] : [0x81, 0, frame.vlan >> 8, frame.vlan & 0xff];
  return Uint8Array.from([...octets(frame.to), ...octets(frame.from), ...tag, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/** The twelve bits of the address that pick one of 4096. */
function hashOf(mac: string, offset: number): number {
  const value = octets(mac).reduceRight((sum, octet) => sum * 256n + BigInt(octet), 0n);
  const lowest = [36n, 35n, 34n, 32n][offset] as bigint;
  return Number((value >> lowest) & 0xfffn);
}

function isGroup(mac: string): boolean {
  return ((octets(mac)[0] as number) & 1) === 1;
}

const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** Steps up to VFRE. `source`: a pool, or null for the network. */
function choose(c: ModelConfig, f: ModelFrame, source: number | null): { pools: number[]; exactHere: boolean } {
  const nobody = { pools: [], exactHere: false };
  if (c.vlanFilter && f.vlan !== null && !c.vfta.includes(f.vlan)) return nobody;
  const entries = c.exact.filter((entry) => entry.valid && entry.mac === (entry.bySource ? f.from : f.to));
  const named = ALL.filter((pool) => entries.some((entry) => entry.pools.includes(pool)));
  const inHash = (table: readonly string[]) => table.some((mac) => hashOf(mac, c.offset) === hashOf(f.to, c.offset));
  const having = (what: keyof ModelPool) => ALL.filter((pool) => c.pools[pool]?.[what] === true);
  let taken = entries.length > 0 || c.ignoreMac;
  let list = [...named];
  if (f.to === BROADCAST) {
    taken ||= c.broadcastAccept || having('broadcast').length > 0;
    if (c.replication) list.push(...having('broadcast'));
  } else if (isGroup(f.to)) {
    if (named.length === 0 && inHash(c.multicastHash)) {
      taken = true;
      if (c.replication) list.push(...having('multicastHash'));
    }
    taken ||= c.multicastPromiscuous || having('multicast').length > 0;
    if (c.replication) list.push(...having('multicast'));
  } else {
    if (named.length === 0 && inHash(c.unicastHash)) {
      taken = true;
      list.push(...having('unicastHash'));
    }
    taken ||= c.unicastPromiscuous;
  }
  if (c.ignoreMac) list = [...ALL];
  if (!taken) return nobody;
  const inVlan = (pool: number) => {
    if (!c.vlanFilter) return true;
    if (f.vlan === null) return c.pools[pool]?.untagged === true;
    return c.vlvf.some((entry) => entry.valid && entry.vlan === f.vlan && entry.pools.includes(pool));
  };
  const notBack = (pool: number) => pool !== source || c.pools[pool]?.hearsItself === true;
  const exactHere = !isGroup(f.to) && !c.ignoreMac && named.some(inVlan);
  list = list.filter((pool) => inVlan(pool) && notBack(pool));
  if (list.length === 0 && !c.noDefaultPool && (source === null || isGroup(f.to)) && notBack(c.defaultPool)) list = [c.defaultPool];
  if (!c.replication) list = list.length > 0 ? [Math.min(...list)] : [];
  return { pools: list.filter((pool) => mayReceive(c, pool)), exactHere };
}

function mayReceive(c: ModelConfig, pool: number): boolean {
  return pool >= c.vfs || c.vfre.includes(pool);
}

function finish(c: ModelConfig, f: ModelFrame, chosen: number[], uplink: boolean, downlink: boolean): number[] {
  const list = new Set(chosen);
  if (c.replication && (chosen.length > 0 || downlink))
    for (const rule of c.rules) {
      const byPool = rule.pools?.some((pool) => chosen.includes(pool)) === true;
      const byVlan = f.vlan !== null && rule.vlanEntries?.some((i) => c.vlvf[i]?.valid === true && c.vlvf[i]?.vlan === f.vlan) === true;
      if ((byPool || byVlan || (rule.uplink && uplink) || (rule.downlink && downlink)) && mayReceive(c, rule.observer)) list.add(rule.observer);
    }
  const size = f.length + 4;
  return [...list].filter((pool) => size <= (c.pools[pool]?.longest ?? 1518 + (f.vlan === null ? 0 : 4))).sort((a, b) => a - b);
}

export function modelReceive(c: ModelConfig, f: ModelFrame): number[] {
  return finish(c, f, choose(c, f, null).pools, true, false);
}

export function modelTransmit(c: ModelConfig, f: ModelFrame, pool: number): ModelAnswer {
  const owned = c.exact.some((entry) => entry.valid && !entry.bySource && entry.mac === f.from && entry.pools.includes(pool));
  const member = f.vlan === null || c.vlvf.some((entry) => entry.valid && entry.vlan === f.vlan && entry.pools.includes(pool));
  if ((c.pools[pool]?.macGuard === true && !owned) || (c.pools[pool]?.vlanGuard === true && !member)) return { pools: [], wire: false, spoofed: true };
  if (!c.loopback) return { pools: [], wire: true, spoofed: false };
  const { pools, exactHere } = choose(c, f, pool);
  const stays = f.vlan !== null && c.vlvf.some((entry) => entry.valid && entry.local && entry.vlan === f.vlan);
  const wire = !stays && (isGroup(f.to) || !exactHere);
  return { pools: finish(c, f, pools, false, wire), wire, spoofed: false };
}

function mask(pools: readonly number[]): number {
  return pools.reduce((bits, pool) => bits | (1 << pool), 0);
}

/** Made once: its table is large. */
const file = new RegisterFile(IGB_REGISTERS, { size: 0x2_0000 });

/** The words of registers that say the same. */
export function registersOf(c: ModelConfig): Uint32Array {
  file.reset();
  const on = (bit: number, value: boolean) => (value ? 2 ** bit : 0);
  file.set('MRQC', 3);
  file.set('RCTL', 2 + on(3, c.unicastPromiscuous) + on(4, c.multicastPromiscuous) + on(15, c.broadcastAccept) + c.offset * 2 ** 12 + on(18, c.vlanFilter));
  file.set('VT_CTL', c.defaultPool * 2 ** 7 + on(28, c.ignoreMac) + on(29, c.noDefaultPool) + on(30, c.replication));
  file.set('STATUS', c.vfs * 2 ** 14 + on(18, c.vfs > 0));
  file.set('VFRE', mask(c.vfre));
  for (const vlan of c.vfta) file.set('VFTA', (file.get('VFTA', vlan >> 5) | (1 << (vlan & 31))) >>> 0, vlan >> 5);
  c.vlvf.forEach((entry, i) => {
    file.set('VLVF', entry.vlan + mask(entry.pools) * 2 ** 12 + on(20, entry.local) + on(31, entry.valid), i);
  });
  c.exact.forEach((entry, i) => {
    const [a, b, d, e, g, h] = octets(entry.mac) as [number, number, number, number, number, number];
    const low = a + b * 2 ** 8 + d * 2 ** 16 + e * 2 ** 24;
    const high = g + h * 2 ** 8 + on(16, entry.bySource) + mask(entry.pools) * 2 ** 18 + on(31, entry.valid);
    // Some in RA, some in RA2.
    if (i % 2 === 0) {
      file.set('RAL', low, i);
      file.set('RAH', high, i);
    } else {
      file.set('RAL2', low, i);
      file.set('RAH2', high, i);
    }
  });
  const hash = (name: 'MTA' | 'UTA', macs: readonly string[]) => {
    for (const mac of macs) {
      const bit = hashOf(mac, c.offset);
      file.set(name, (file.get(name, bit >> 5) | (1 << (bit & 31))) >>> 0, bit >> 5);
    }
  };
  hash('MTA', c.multicastHash);
  hash('UTA', c.unicastHash);
  c.pools.forEach((pool, i) => {
    file.set(
      'VMOLR',
      (pool.longest ?? 0x2600) +
        on(16, pool.longest !== null) +
        on(24, pool.untagged) +
        on(25, pool.multicastHash) +
        on(26, pool.unicastHash) +
        on(27, pool.broadcast) +
        on(28, pool.multicast),
      i,
    );
  });
  const having = (what: keyof ModelPool) => mask(ALL.filter((pool) => c.pools[pool]?.[what] === true));
  file.set('DTXSWC', having('macGuard') + having('vlanGuard') * 2 ** 8 + having('hearsItself') * 2 ** 16 + on(31, c.loopback));
  c.rules.forEach((rule, i) => {
    file.set('VMRCTL', on(0, rule.pools !== null) + on(1, rule.uplink) + on(2, rule.downlink) + on(3, rule.vlanEntries !== null) + rule.observer * 2 ** 8, i);
    file.set('VMRVM', mask(rule.pools ?? []), i);
    file.set('VMRVLAN', mask(rule.vlanEntries ?? []) >>> 0, i);
  });
  return file.state.slice();
}
