// The tables that the 82576's pools share (7.10.3): station addresses with the pools they belong to, VLAN ids with theirs, the multicast table, what each pool takes and may do,
// how fast it may send. Kept here as they ought to be, so that a reset of the device is followed by writing all of it again.

import * as k from './igb-constants.ts';
import type { IgbRegisters } from './igb-registers.ts';

const { REG } = k;

/** What a pool takes and may do. */
export interface PoolRules {
  /** Bytes of the longest frame, FCS and one tag included. */
  readonly longest: number;
  readonly untagged: boolean;
  readonly stripTags: boolean;
  /** Frames are spread over the pool's two queues. */
  readonly twoQueues: boolean;
  /** Multicast by the table; all of it; unicast that is nobody's. */
  readonly hashedMulticast: boolean;
  readonly allMulticast: boolean;
  readonly strayUnicast: boolean;
  /** Tag the device puts into all that is sent, or -1. */
  readonly insert: number;
  readonly checkSource: boolean;
  /** Mbit/s in all; 0: no limit. */
  readonly rate: number;
}

interface VlanEntry {
  readonly id: number;
  pools: number;
}

const MTA_WORDS = 128;

export class IgbSwitch {
  readonly #registers: IgbRegisters;
  /** Pools by entry of the address table, and which address it is. */
  readonly #addresses: ({ readonly mac: Uint8Array; readonly pool: number } | undefined)[] = new Array(k.ADDRESS_ENTRIES).fill(undefined);
  readonly #vlans: (VlanEntry | undefined)[] = new Array(k.VLVF_ENTRIES).fill(undefined);
  /** Multicast hashes each pool asked for. */
  readonly #hashes: (readonly number[])[] = Array.from({ length: k.POOLS }, () => []);
  readonly #rules: (PoolRules | undefined)[] = new Array(k.POOLS).fill(undefined);
  #strays = false;

  constructor(registers: IgbRegisters) {
    this.#registers = registers;
  }

  /** Writes everything into a device that was reset. */
  program(): void {
    for (let i = 0; i < k.ADDRESS_ENTRIES; i++) this.#writeAddress(i);
    for (let i = 0; i < k.VLVF_ENTRIES; i++) this.#writeVlan(i);
    for (let i = 0; i < MTA_WORDS; i++) this.#registers.write(REG.VFTA + 4 * i, 0);
    for (const entry of this.#vlans) if (entry) this.#writeVfta(entry.id, true);
    this.#writeMulticast();
    this.#writeStrays();
    for (let pool = 0; pool < k.POOLS; pool++) this.#writeRules(pool);
    this.#registers.write(REG.RPLOLR, k.RPLOLR_STRVLAN | k.RPLOLR_STRCRC);
  }

  // ---- Addresses ----

  /** An entry of the table for `pool`. False: it is another pool's, or the table is full. */
  addAddress(mac: Uint8Array, pool: number): boolean {
    const same = this.#addresses.find((a) => a?.mac.every((byte, i) => byte === mac[i]));
    if (same) return same.pool === pool;
    const free = this.#addresses.indexOf(undefined);
    if (free < 0) return false;
    this.#addresses[free] = { mac: mac.slice(), pool };
    this.#writeAddress(free);
    return true;
  }

  /** Takes a pool's addresses out of the table, but for one. */
  removeAddresses(pool: number, but?: Uint8Array): void {
    this.#addresses.forEach((entry, i) => {
      if (entry?.pool !== pool || (but && entry.mac.every((byte, n) => byte === but[n]))) return;
      this.#addresses[i] = undefined;
      this.#writeAddress(i);
    });
  }

  #writeAddress(index: number): void {
    const entry = this.#addresses[index];
    const at = k.addressEntry(index);
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = entry?.mac ?? [];
    // The half with the valid bit goes first when the entry goes, last when it comes.
    if (!entry) this.#registers.write(at + 4, 0);
    this.#registers.write(at, a | (b << 8) | (c << 16) | (d << 24));
    if (entry) this.#registers.write(at + 4, e | (f << 8) | (1 << (k.RAH_POOL_SHIFT + entry.pool)) | k.RAH_AV);
  }

  /** Multicast hashes a pool asks for. */
  setMulticast(pool: number, hashes: readonly number[]): void {
    this.#hashes[pool] = hashes;
    this.#writeMulticast();
  }

  #writeMulticast(): void {
    const table = new Uint32Array(MTA_WORDS);
    for (const hash of this.#hashes.flat()) table[(hash & 0xfff) >>> 5] = (table[(hash & 0xfff) >>> 5] as number) | (1 << (hash & 31));
    table.forEach((word, i) => {
      this.#registers.write(REG.MTA + 4 * i, word);
    });
  }

  /** Unicast frames that are nobody's pass the first filter when a pool wants them (8.10.17: every hash of UTA). */
  #writeStrays(): void {
    for (let i = 0; i < MTA_WORDS; i++) this.#registers.write(REG.UTA + 4 * i, this.#strays ? 0xffff_ffff : 0);
  }

  // ---- VLANs ----

  /** Makes a pool a member of a VLAN, or no more. False: all entries are taken. */
  setVlan(pool: number, id: number, member: boolean): boolean {
    let index = this.#vlans.findIndex((v) => v?.id === id);
    if (index < 0) {
      if (!member) return true;
      index = this.#vlans.indexOf(undefined);
      if (index < 0) return false;
      this.#vlans[index] = { id, pools: 0 };
      this.#writeVfta(id, true);
    }
    const entry = this.#vlans[index] as VlanEntry;
    entry.pools = member ? entry.pools | (1 << pool) : entry.pools & ~(1 << pool);
    if (entry.pools === 0) {
      this.#vlans[index] = undefined;
      this.#writeVfta(id, false);
    }
    this.#writeVlan(index);
    return true;
  }

  leaveVlans(pool: number): void {
    for (const entry of this.#vlans.slice()) if (entry && ((entry.pools >>> pool) & 1) === 1) this.setVlan(pool, entry.id, false);
  }

  #writeVlan(index: number): void {
    const entry = this.#vlans[index];
    this.#registers.write(REG.VLVF + 4 * index, entry ? entry.id | (entry.pools << k.VLVF_POOL_SHIFT) | k.VLVF_ENABLE : 0);
  }

  #writeVfta(id: number, on: boolean): void {
    const bit = 1 << (id & 31);
    this.#registers.change(REG.VFTA + 4 * (id >>> 5), on ? bit : 0, on ? 0 : bit);
  }

  // ---- Pools ----

  setRules(pool: number, rules: PoolRules): void {
    this.#rules[pool] = rules;
    this.#writeRules(pool);
    const strays = this.#rules.some((r) => r?.strayUnicast);
    if (strays === this.#strays) return;
    this.#strays = strays;
    this.#writeStrays();
  }

  #writeRules(pool: number): void {
    const registers = this.#registers;
    const rules = this.#rules[pool];
    let word = 0;
    if (rules) {
      word = Math.min(rules.longest, k.VMOLR_RLPML) | k.VMOLR_LPE | k.VMOLR_BAM | k.VMOLR_STRCRC;
      if (rules.twoQueues) word |= k.VMOLR_RSSE;
      if (rules.untagged) word |= k.VMOLR_AUPE;
      if (rules.stripTags) word |= k.VMOLR_STRVLAN;
      if (rules.hashedMulticast) word |= k.VMOLR_ROMPE;
      if (rules.allMulticast) word |= k.VMOLR_MPME;
      if (rules.strayUnicast) word |= k.VMOLR_ROPE;
    }
    registers.write(REG.VMOLR + 4 * pool, word);
    registers.write(REG.VMVIR + 4 * pool, rules && rules.insert >= 0 ? rules.insert | k.VMVIR_DEFAULT : 0);
    const checks = (1 << (k.DTXSWC_MAC_SHIFT + pool)) | (1 << (k.DTXSWC_VLAN_SHIFT + pool));
    registers.change(REG.DTXSWC, rules?.checkSource ? checks : 0, rules?.checkSource ? 0 : checks);
    const share = (rules?.rate ?? 0) / (rules?.twoQueues ? 2 : 1);
    this.#limit(pool, share);
    this.#limit(pool + k.POOL_QUEUE_STEP, share);
  }

  /** 8.12.17: the factor by which a frame's time at line speed is to be longer, in 14.14 bits. */
  #limit(queue: number, megabits: number): void {
    const registers = this.#registers;
    const speed = [10, 100, 1000, 1000][(registers.read(REG.STATUS) >>> 6) & 3] as number;
    registers.write(REG.RTTDQSEL, queue);
    registers.write(REG.RTTBCNRM, k.RTTBCNRM_WINDOW);
    const factor = megabits > 0 && megabits < speed ? Math.round((speed / megabits) * 2 ** k.RTTBCNRC_INTEGER_SHIFT) : 0;
    registers.write(REG.RTTBCNRC, factor > 0 ? k.RTTBCNRC_ENABLE | factor : 0);
  }
}
