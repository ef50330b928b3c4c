// The guest's driver for an Intel 82576's physical function, from the datasheet: initialisation in the order of 4.5, pairs of queues, NAPI style, with MSI-X, MSI or the line; statistics, a watchdog. With virtual functions enabled it keeps the last pool to itself and serves theirs (igb-vfs.ts).

import type { GuestBus } from '#core/guest-bus';
import { AdvancedPairs } from './advanced-pairs.ts';
import type { AdvancedReceiveQueue } from './advanced-receive.ts';
import { ADVANCED_OFFLOADS, type AdvancedTransmitQueue } from './advanced-transmit.ts';
import type { GuestArena } from './arena.ts';
import { INTEL_VENDOR } from './e1000-constants.ts';
import { permanentAddress, resetDevice, setUpLink } from './igb-bring-up.ts';
import * as k from './igb-constants.ts';
import { FIRST_PAIR_VECTOR, IgbInterrupts } from './igb-interrupts.ts';
import { multicastHash } from './igb-mailbox.ts';
import { checkAdvancedOptions, checkVlan, type IgbOptions, MOST_PAIRS } from './igb-options.ts';
import { IgbRegisters } from './igb-registers.ts';
import { IgbRss } from './igb-rss.ts';
import { IgbSwitch } from './igb-switch.ts';
import { IgbVfs, type VfPolicy } from './igb-vfs.ts';
import type { VectorSpace } from './msix.ts';
import type { FrameSink } from './net-receive.ts';
import type { Nic } from './nic.ts';
import type { ConfigAccess } from './pci-config.ts';
import { CFG, COMMAND_MASTER, COMMAND_MEMORY } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';
import { type Delay, disableVirtualFunctions, enableVirtualFunctions } from './pci-sriov.ts';
import { StatisticsCounters } from './statistics-counters.ts';

const { CAUSE, REG } = k;
const LONG_MTU = 1500;
/** Header, FCS and two tags. */
const OVERHEAD = 26;
/** Nanoseconds between two looks of the watchdog, and polls between two looks at the clock. */
const WATCHDOG_PERIOD = 2e9;
const POLLS_PER_LOOK = 1024;
/** One pool stays the physical function's own. */
const MOST_VFS = k.POOLS - 1;

export function isIgb(device: PciDevice): boolean {
  return device.vendor === INTEL_VENDOR && k.IGB_DEVICES.has(device.device);
}

export interface IgbParts {
  readonly bus: GuestBus;
  readonly config: ConfigAccess;
  readonly device: PciDevice;
  readonly arena: GuestArena;
  readonly vectors: VectorSpace;
  readonly options?: IgbOptions;
}

export class Igb implements Nic {
  readonly registers: IgbRegisters;
  readonly statistics: StatisticsCounters;
  readonly rid: number;
  configuration: { readonly mac: Uint8Array; readonly mtu: number; readonly linkUp: boolean };
  /** Receive-side scaling, with more than one pair or when asked for. */
  steering: IgbRss | undefined;
  /** While virtual functions are enabled. */
  vfs: IgbVfs | undefined;
  /** Why the driver gave the device up, or ''. */
  broken = '';
  readonly #parts: IgbParts;
  readonly #options: IgbOptions;
  readonly #interrupts: IgbInterrupts;
  #pairs: AdvancedPairs | undefined;
  #switch: IgbSwitch | undefined;
  #multicast: readonly number[] = [];
  #vlans: Set<number> | undefined;
  #polls = 0;
  #looked = 0;

  /** Opens the device and brings it up. @throws RangeError for options, IgbError when the device does not do what the datasheet says */
  constructor(parts: IgbParts) {
    const { bus, config, device, options = {} } = parts;
    checkAdvancedOptions(options, MOST_PAIRS);
    this.#parts = parts;
    this.#options = options;
    this.rid = device.rid;
    this.#vlans = options.vlans ? new Set(options.vlans) : undefined;
    config.write(device.rid, CFG.COMMAND, 2, config.read(device.rid, CFG.COMMAND, 2) | COMMAND_MEMORY | COMMAND_MASTER);
    this.registers = new IgbRegisters(bus, device);
    const onCauses = (causes: number): void => this.#onCauses(causes);
    this.#interrupts = new IgbInterrupts({ ...parts, registers: this.registers, onCauses, style: options.interrupts });
    this.statistics = new StatisticsCounters(this.registers, k.STATISTICS);
    resetDevice(this.registers);
    this.registers.eepromWords();
    this.configuration = { mac: permanentAddress(this.registers), mtu: options.mtu ?? LONG_MTU, linkUp: false };
    this.#bringUp();
  }

  #bringUp(): void {
    try {
      const { registers } = this;
      const { flowControl = true, itr = 0 } = this.#options;
      setUpLink(registers, { flowControl, tags: this.#vlans !== undefined || this.vfs !== undefined });
      this.statistics.clear();
      const pairs = this.#makePairs();
      this.#setUpReceive(pairs);
      this.#setUpTransmit(pairs);
      this.#interrupts.start(pairs, (pair) => this.#queue(pair), itr);
      registers.change(REG.CTRL_EXT, k.CTRL_EXT_DRV_LOAD);
      this.vfs?.release();
      this.checkLink();
      this.#looked = this.#parts.bus.now();
      pairs.scheduleAll();
      this.#interrupts.open();
    } catch (error) {
      this.shutDown();
      throw error;
    }
  }

  /** The pool this function uses: the one behind those of the virtual functions; 0 without. */
  get pool(): number {
    return this.vfs?.count ?? 0;
  }

  /** The queue of a pair: with pools, one of this function's pool's two (7.10.1). */
  #queue(pair: number): number {
    return this.vfs ? this.pool + k.POOL_QUEUE_STEP * pair : pair;
  }

  #makePairs(): AdvancedPairs {
    const { pairs = 1, flowControl = true } = this.#options;
    const queues = Array.from({ length: pairs }, (_, i) => this.#queue(i));
    this.#pairs = new AdvancedPairs({
      arena: this.#parts.arena,
      registers: this.registers,
      options: this.#options,
      // A full ring holds up what comes for the others: with PAUSE frames that is the sender's to wait for, but not virtual functions'.
      drop: this.vfs !== undefined || (pairs > 1 && !flowControl),
      blocks: queues.map((q) => ({ receive: REG.RX_QUEUE + k.QUEUE_STRIDE * q, transmit: REG.TX_QUEUE + k.QUEUE_STRIDE * q })),
      vector: FIRST_PAIR_VECTOR,
      arm: (pair) => this.#interrupts.arm(pair),
    });
    return this.#pairs;
  }

  /** 4.5.9: filters, what is done to a frame, queues, the receiver, and only then descriptors. */
  #setUpReceive(pairs: AdvancedPairs): void {
    const { registers, vfs } = this;
    const { mtu } = this.configuration;
    const { promiscuous, splitHeaders, rss, pairs: count = 1 } = this.#options;
    this.steering = count > 1 || rss ? new IgbRss(rss ?? {}, count) : undefined;
    this.#switch?.program();
    if (vfs) this.#setUpPools();
    else this.#setUpAddresses();
    if (splitHeaders) registers.write(REG.PSRTYPE + 4 * this.pool, k.PSRTYPE_ALL);
    registers.write(REG.RXCSUM, k.RXCSUM_IPOFLD | k.RXCSUM_TUOFLD | k.RXCSUM_CRCOFL | k.RXCSUM_PCSD);
    registers.write(REG.RFCTL, 0);
    registers.write(REG.RLPML, vfs ? k.VMOLR_RLPML : mtu + OVERHEAD);
    for (const queue of pairs.receive) queue.start();
    let rctl = k.RCTL_EN | k.RCTL_BAM | k.RCTL_SECRC;
    if (mtu > LONG_MTU || vfs) rctl |= k.RCTL_LPE;
    if (promiscuous) rctl |= k.RCTL_UPE | k.RCTL_MPE;
    if (vfs || (this.#vlans && !promiscuous)) rctl |= k.RCTL_VFE;
    registers.write(REG.RCTL, rctl);
    for (const queue of pairs.receive) queue.stock();
  }

  #setUpAddresses(): void {
    const { registers, steering } = this;
    const { mac } = this.configuration;
    registers.write(REG.VT_CTL, 0);
    registers.write(REG.DTXSWC, 0);
    registers.write(REG.QDE, 0);
    registers.write(REG.RAL, (mac[0] as number) | ((mac[1] as number) << 8) | ((mac[2] as number) << 16) | ((mac[3] as number) << 24));
    registers.write(REG.RAH, (mac[4] as number) | ((mac[5] as number) << 8) | k.RAH_AV);
    for (let i = 1; i < k.ADDRESS_ENTRIES; i++) registers.write(k.addressEntry(i) + 4, 0);
    for (let i = 0; i < 128; i++) registers.write(REG.VFTA + 4 * i, 0);
    for (const id of this.#vlans ?? []) this.#writeVlan(id, true);
    this.#writeMulticast();
    steering?.program(registers, 1);
    registers.write(REG.MRQC, steering ? k.MRQC_RSS | steering.fields : 0);
  }

  /** 4.5.11, 7.10.3: pools by address and VLAN, copies for all that a group frame is for, frames between pools switched here. */
  #setUpPools(): void {
    const { registers, pool } = this;
    const { promiscuous = false, pairs = 1, rss } = this.#options;
    for (const id of this.#vlans ?? []) this.#switch?.setVlan(pool, id, true);
    this.#setPoolRules();
    // RSS decides in those pools whose VMOLR.RSSE says so: a virtual function's may, where this one has a single pair.
    const spread = pairs > 1 && this.steering ? this.steering : new IgbRss({ ...rss, table: [0, 1] }, 2);
    spread.program(registers, k.POOL_QUEUE_STEP);
    registers.write(REG.MRQC, k.MRQC_POOLS_RSS | spread.fields);
    registers.write(REG.VT_CTL, (pool << k.VT_CTL_DEFAULT_SHIFT) | k.VT_CTL_REPLICATION | (promiscuous ? 0 : k.VT_CTL_NO_DEFAULT));
    registers.change(REG.DTXSWC, k.DTXSWC_LOOPBACK);
    registers.write(REG.VFRE, 1 << pool);
    registers.write(REG.VFTE, 1 << pool);
  }

  #setPoolRules(): void {
    const { pool } = this;
    const { promiscuous = false, pairs = 1 } = this.#options;
    this.#switch?.setMulticast(pool, this.#multicast);
    this.#switch?.setRules(pool, {
      longest: this.configuration.mtu + OVERHEAD,
      untagged: true,
      stripTags: this.#vlans !== undefined,
      twoQueues: pairs > 1,
      hashedMulticast: this.#multicast.length > 0,
      allMulticast: promiscuous,
      strayUnicast: promiscuous,
      insert: -1,
      checkSource: false,
      rate: 0,
    });
  }

  /** 4.5.10. */
  #setUpTransmit(pairs: AdvancedPairs): void {
    for (const queue of pairs.transmit) queue.start();
    this.registers.write(REG.TCTL, k.TCTL_EN | k.TCTL_PSP | k.TCTL_CT | k.TCTL_COLD_FD);
  }

  // ---- Nic ----

  get receive(): readonly AdvancedReceiveQueue[] {
    return this.#pairs?.receive ?? [];
  }

  get transmit(): readonly AdvancedTransmitQueue[] {
    return this.#pairs?.transmit ?? [];
  }

  has(feature: number): boolean {
    return ADVANCED_OFFLOADS.has(feature);
  }

  get usesIntx(): boolean {
    return this.#interrupts.style === 'intx';
  }

  onIntx(): void {
    if (this.broken === '') this.#interrupts.onLine();
  }

  get interrupts(): number {
    return this.#interrupts.count + (this.#pairs?.interrupts ?? 0);
  }

  get kicks(): number {
    return this.#pairs?.kicks ?? 0;
  }

  #onCauses(causes: number): void {
    if (this.broken !== '') return;
    if (causes === 0xffff_ffff) {
      this.#giveUp('the device is gone: ICR reads all ones');
      return;
    }
    if ((causes & CAUSE.LSC) !== 0) {
      this.checkLink();
      this.vfs?.ping();
    }
    if ((causes & CAUSE.VMMB) !== 0) this.vfs?.service();
  }

  /** One round of polling. True when there may be more to do right away; false: wait for an interrupt. Never throws for what a device did. */
  poll(sink: FrameSink): boolean {
    const pairs = this.#pairs;
    if (this.broken !== '' || !pairs) return false;
    if (++this.#polls % POLLS_PER_LOOK === 0) this.#watch();
    if (this.vfs?.waiting) this.vfs.service();
    const more = pairs.poll(sink);
    if (pairs.broken !== '') this.#giveUp(pairs.broken);
    return more && this.broken === '';
  }

  /** Reads the link state. */
  checkLink(): void {
    const status = this.registers.read(REG.STATUS);
    if (status === 0xffff_ffff) this.#giveUp('the device is gone: STATUS reads all ones');
    else this.configuration = { ...this.configuration, linkUp: (status & k.STATUS_LU) !== 0 };
  }

  #watch(): void {
    const now = this.#parts.bus.now();
    if (now - this.#looked < WATCHDOG_PERIOD) return;
    this.#looked = now;
    this.watchdog();
  }

  /** What a driver does every two seconds: link, statistics, transmitters that got nothing done although the link is up, virtual functions caught or waiting. */
  watchdog(): void {
    if (this.broken !== '') return;
    this.checkLink();
    this.statistics.collect();
    this.vfs?.service();
    this.vfs?.watch();
    const trouble = this.configuration.linkUp ? this.#pairs?.watch() : '';
    if (trouble) this.#giveUp(trouble);
  }

  // ---- Filters ----

  /** Group addresses to receive besides broadcast. */
  setMulticast(addresses: readonly Uint8Array[]): void {
    this.#multicast = addresses.map(multicastHash);
    if (this.#switch) this.#setPoolRules();
    else this.#writeMulticast();
  }

  #writeMulticast(): void {
    const table = new Uint32Array(128);
    for (const hash of this.#multicast) table[hash >>> 5] = (table[hash >>> 5] as number) | (1 << (hash & 31));
    table.forEach((word, i) => {
      this.registers.write(REG.MTA + 4 * i, word);
    });
  }

  /** Joins a VLAN, or leaves it. False: the device has no room for one more. @throws RangeError */
  setVlan(id: number, on: boolean): boolean {
    checkVlan(id);
    this.#vlans ??= new Set();
    if (this.#switch && !this.#switch.setVlan(this.pool, id, on)) return false;
    if (on) this.#vlans.add(id);
    else this.#vlans.delete(id);
    if (!this.#switch) this.#writeVlan(id, on);
    return true;
  }

  #writeVlan(id: number, on: boolean): void {
    const bit = 1 << (id & 31);
    this.registers.change(REG.VFTA + 4 * (id >>> 5), on ? bit : 0, on ? 0 : bit);
  }

  // ---- Virtual functions ----

  /**
   * Enables virtual functions and takes over the switch between them; frames in flight are lost. Returns those that answer. @throws RangeError for a count beyond 7 (one pool is
   * this function's) or more pairs than a pool has queues, IgbError
   */
  enableVfs(count: number, delay: Delay): PciDevice[] {
    if (this.vfs) throw new RangeError('virtual functions are enabled already: disable them first');
    if (!(count >= 1 && count <= MOST_VFS)) throw new RangeError(`${count} virtual functions: give 1 to ${MOST_VFS}, as the physical function keeps a pool`);
    if (this.#interrupts.style !== 'msix') throw new RangeError('with virtual functions the physical one has to use MSI-X');
    if ((this.#options.pairs ?? 1) > 2) throw new RangeError('with virtual functions the physical one has at most 2 queue pairs');
    const { config, device } = this.#parts;
    this.shutDown();
    const found = enableVirtualFunctions(config, device, count, delay);
    const pools = new IgbSwitch(this.registers);
    this.#switch = pools;
    this.vfs = new IgbVfs(this.registers, pools, this.configuration.mac, count);
    pools.addAddress(this.configuration.mac, count);
    this.#startOver();
    return found;
  }

  /** The virtual functions are gone when this returns. @throws IgbError */
  disableVfs(delay: Delay): void {
    if (!this.vfs) return;
    const { config, device } = this.#parts;
    this.shutDown();
    disableVirtualFunctions(config, device, delay);
    this.vfs = undefined;
    this.#switch = undefined;
    this.#startOver();
  }

  /** Decides about one virtual function. @throws RangeError */
  setVf(vf: number, policy: VfPolicy): void {
    if (!this.vfs) throw new RangeError('no virtual functions are enabled');
    this.vfs.setPolicy(vf, policy);
  }

  // ---- Ends and beginnings ----

  #giveUp(why: string): void {
    if (this.broken !== '') return;
    this.broken = why;
    this.registers.write(REG.EIMC, k.INTERRUPT_ALL);
    this.registers.write(REG.IMC, k.INTERRUPT_ALL);
  }

  #startOver(): void {
    resetDevice(this.registers);
    this.vfs?.forget();
    this.#bringUp();
  }

  /** Resets the device and brings it up again. Frames in flight are lost; virtual functions are told and come back when their drivers reset them. @throws IgbError */
  recover(): void {
    this.shutDown();
    this.broken = '';
    this.#startOver();
  }

  /** Resets the device, then takes all memory back. Virtual functions stay enabled, and dead. */
  shutDown(): void {
    resetDevice(this.registers);
    this.#interrupts.stop();
    this.#pairs?.dispose();
    this.#pairs = undefined;
  }
}
