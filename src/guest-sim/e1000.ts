// The guest's e1000 driver, from the 8254x manual: initialisation in the order of chapter 14, frames NAPI style (an interrupt turns receive causes off and schedules
// polling, an empty ring turns them on again), statistics, and a watchdog for the link and for transmitters that hang. The device has one interrupt line and one queue each way.

import type { GuestBus } from '#core/guest-bus';
import type { GuestArena } from './arena.ts';
import * as k from './e1000-constants.ts';
import { SharedBlock } from './e1000-csb.ts';
import { checkE1000Options, type E1000Options } from './e1000-options.ts';
import { E1000ReceiveQueue } from './e1000-receive.ts';
import { E1000Error, E1000Registers } from './e1000-registers.ts';
import { E1000TransmitQueue } from './e1000-transmit.ts';
import { PHY_ADVERTISE, PHY_ADVERTISE_PAUSE, PHY_AUTONEG_ENABLE, PHY_AUTONEG_RESTART, PHY_CONTROL, PHY_ID1 } from './intel-registers.ts';
import type { FrameSink } from './net-receive.ts';
import type { Nic } from './nic.ts';
import type { ConfigAccess } from './pci-config.ts';
import { CFG, COMMAND_INTX_DISABLE, COMMAND_MASTER, COMMAND_MEMORY } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';
import { StatisticsCounters } from './statistics-counters.ts';
import { VIRTIO_NET_F } from './virtio-constants.ts';

const POLL_BUDGET = 64;
const { CAUSE, REG } = k;
const RECEIVE_CAUSES = CAUSE.RXT0 | CAUSE.RXDMT0 | CAUSE.RXO;
// Not TXQE, which knows no delay: every tail write would end in an interrupt.
const TRANSMIT_CAUSES = CAUSE.TXDW;
const OTHER_CAUSES = CAUSE.LSC | CAUSE.RXSEQ;
const LONG_MTU = 1500;
const ETHERNET_BYTES = 14;
const SUBSYSTEM_ID = 0x2e;
const RESET_LOOKS = 1000;
/** Nanoseconds between two looks of the watchdog, and polls between two looks at the clock. */
const WATCHDOG_PERIOD = 2e9;
/** A transmitter that got nothing done from one look to the next, so many times in a row, hangs: six seconds, as operating systems give it. */
const HANG_LOOKS = 3;
const POLLS_PER_LOOK = 1024;
/** PAUSE when this many KiB of the receive packet buffer are taken, and go on at that. */
const PAUSE_ABOVE = 0xa000;
const PAUSE_BELOW = 0x8000;
const PAUSE_QUANTA = 0x0680;

export function isE1000(device: PciDevice): boolean {
  return device.vendor === k.INTEL_VENDOR && k.E1000_DEVICES.has(device.device);
}

export class E1000 implements Nic {
  readonly registers: E1000Registers;
  readonly statistics: StatisticsCounters;
  readonly rid: number;
  configuration: { readonly mac: Uint8Array; readonly mtu: number; readonly linkUp: boolean };
  receive: readonly E1000ReceiveQueue[] = [];
  transmit: readonly E1000TransmitQueue[] = [];
  interrupts = 0;
  /** Why the driver gave the device up, or ''. */
  broken = '';
  readonly usesIntx = true;
  readonly steering = undefined;
  /** The device and the driver share a block. */
  readonly usesCsb: boolean;
  readonly #arena: GuestArena;
  readonly #bus: GuestBus;
  readonly #options: E1000Options;
  #csb: SharedBlock | undefined;
  #scheduled = false;
  #idle = 0;
  #polls = 0;
  #looked = 0;
  /** Frames done when the watchdog looked last and some were under way; -1: none were. */
  #reclaimed = -1;
  #stuck = 0;

  /** Opens the device and brings it up. @throws RangeError for options, E1000Error when the device does not do what the manual says */
  constructor(parts: {
    readonly bus: GuestBus;
    readonly config: ConfigAccess;
    readonly device: PciDevice;
    readonly arena: GuestArena;
    readonly options?: E1000Options;
  }) {
    const { bus, config, device, options = {} } = parts;
    checkE1000Options(options);
    this.#arena = parts.arena;
    this.#bus = bus;
    this.#options = options;
    this.rid = device.rid;
    const command = config.read(device.rid, CFG.COMMAND, 2);
    config.write(device.rid, CFG.COMMAND, 2, (command | COMMAND_MEMORY | COMMAND_MASTER) & ~COMMAND_INTX_DISABLE);
    const paravirtual = config.read(device.rid, SUBSYSTEM_ID, 2) === k.CSB_SUBSYSTEM;
    if (options.csb && !paravirtual) throw new E1000Error('ERR_E1000_CSB', 'this e1000 has no shared block (its subsystem id is not 0x1101)');
    this.usesCsb = options.csb === true;
    this.registers = new E1000Registers(bus, device);
    this.statistics = new StatisticsCounters(this.registers, k.STATISTICS);
    this.#reset();
    this.configuration = { mac: this.#permanentAddress(), mtu: options.mtu ?? LONG_MTU, linkUp: false };
    this.#bringUp();
  }

  /** 14.3: causes off before and after, as reset turns none on but may leave one pending. */
  #reset(): void {
    const { registers } = this;
    registers.write(REG.IMC, k.INTERRUPT_ALL);
    registers.write(REG.RCTL, 0);
    registers.write(REG.TCTL, k.TCTL_PSP);
    registers.flush();
    registers.write(REG.CTRL, registers.read(REG.CTRL) | k.CTRL_RST);
    let looks = 0;
    while ((registers.read(REG.CTRL) & k.CTRL_RST) !== 0) if (++looks > RESET_LOOKS) throw new E1000Error('ERR_E1000_RESET', 'CTRL.RST does not clear itself');
    registers.write(REG.IMC, k.INTERRUPT_ALL);
    registers.read(REG.ICR);
  }

  #permanentAddress(): Uint8Array {
    const words = this.registers.eepromWords();
    const mac = new Uint8Array(6);
    for (let i = 0; i < 6; i++) mac[i] = (words[i >> 1] as number) >>> (8 * (i & 1));
    if (((mac[0] as number) & 1) !== 0 || mac.every((byte) => byte === 0)) throw new E1000Error('ERR_E1000_MAC', 'the EEPROM holds no station address');
    return mac;
  }

  #bringUp(): void {
    try {
      if (this.usesCsb) this.#shareBlock();
      this.#setUpLink();
      this.#setUpReceive();
      this.#setUpTransmit();
      this.statistics.clear();
      this.checkLink();
      this.#looked = this.#bus.now();
      this.#reclaimed = -1;
      this.#stuck = 0;
      this.#listen();
    } catch (error) {
      this.shutDown();
      throw error;
    }
  }

  #shareBlock(): void {
    const csb = new SharedBlock(this.#arena);
    this.#csb = csb;
    csb.set(k.CSB.guest_csb_on, 1);
    this.registers.write(REG.CSBAH, Math.floor(csb.address / 2 ** 32));
    this.registers.write(REG.CSBAL, csb.address % 2 ** 32);
  }

  /** 14.3, 13.4.5 to 13.4.8: speed and duplex from the PHY, flow control as both ends agree. */
  #setUpLink(): void {
    const { registers } = this;
    const { flowControl = true, vlans } = this.#options;
    let ctrl = registers.read(REG.CTRL) & ~(k.CTRL_LRST | k.CTRL_ILOS | k.CTRL_PHY_RST | k.CTRL_RFCE | k.CTRL_TFCE | k.CTRL_VME);
    ctrl |= k.CTRL_SLU | k.CTRL_ASDE | k.CTRL_FD;
    if (flowControl) ctrl |= k.CTRL_RFCE | k.CTRL_TFCE;
    if (vlans) ctrl |= k.CTRL_VME;
    registers.write(REG.CTRL, ctrl);
    registers.write(REG.FCAL, k.PAUSE_LOW);
    registers.write(REG.FCAH, k.PAUSE_HIGH);
    registers.write(REG.FCT, k.PAUSE_TYPE);
    registers.write(REG.FCTTV, flowControl ? PAUSE_QUANTA : 0);
    registers.write(REG.FCRTH, flowControl ? PAUSE_ABOVE : 0);
    registers.write(REG.FCRTL, flowControl ? PAUSE_BELOW : 0);
    registers.write(REG.VET, 0x8100);
    if (registers.phyRead(PHY_ID1) === 0xffff) throw new E1000Error('ERR_E1000_PHY', 'no PHY answers');
    const advertise = registers.phyRead(PHY_ADVERTISE) & ~PHY_ADVERTISE_PAUSE;
    registers.phyWrite(PHY_ADVERTISE, advertise | (flowControl ? PHY_ADVERTISE_PAUSE : 0));
    registers.phyWrite(PHY_CONTROL, registers.phyRead(PHY_CONTROL) | PHY_AUTONEG_ENABLE | PHY_AUTONEG_RESTART);
  }

  /** 14.4. */
  #setUpReceive(): void {
    const { registers } = this;
    const { mac, mtu } = this.configuration;
    const { ringSize = 256, moderation = {}, promiscuous, vlans } = this.#options;
    const { rdtr = 0, radv = 0, itr = 0 } = moderation;
    registers.write(REG.RAL, (mac[0] as number) | ((mac[1] as number) << 8) | ((mac[2] as number) << 16) | ((mac[3] as number) << 24));
    registers.write(REG.RAH, (mac[4] as number) | ((mac[5] as number) << 8) | k.RAH_AV);
    for (let i = 1; i < 16; i++) registers.write(REG.RAH + 8 * i, 0);
    this.setMulticast([]);
    for (let i = 0; i < 128; i++) registers.write(REG.VFTA + 4 * i, 0);
    for (const id of vlans ?? []) this.setVlan(id, true);
    registers.write(REG.RDTR, rdtr);
    registers.write(REG.RADV, radv);
    registers.write(REG.ITR, itr);
    const queue = new E1000ReceiveQueue({ arena: this.#arena, registers, size: ringSize, csb: this.#csb });
    this.receive = [queue];
    queue.program();
    registers.write(REG.RXCSUM, ETHERNET_BYTES | k.RXCSUM_IPOFL | k.RXCSUM_TUOFL);
    let rctl = k.RCTL_EN | k.RCTL_BAM | k.RCTL_SECRC;
    if (mtu > LONG_MTU) rctl |= k.RCTL_LPE;
    if (promiscuous) rctl |= k.RCTL_UPE | k.RCTL_MPE;
    if (vlans && !promiscuous) rctl |= k.RCTL_VFE;
    registers.write(REG.RCTL, rctl);
    queue.stock();
  }

  /** 14.5. */
  #setUpTransmit(): void {
    const { registers } = this;
    const { ringSize = 256, moderation = {}, sendCombining = false } = this.#options;
    const { tidv = 0, tadv = 0 } = moderation;
    const queue = new E1000TransmitQueue({
      arena: this.#arena,
      registers,
      size: ringSize,
      csb: this.#csb,
      combining: sendCombining,
      delayed: tidv !== 0,
      busyPolls: this.#options.busyPolls ?? 0,
    });
    this.transmit = [queue];
    queue.program();
    registers.write(REG.TIDV, tidv);
    registers.write(REG.TADV, tadv);
    registers.write(REG.TIPG, k.TIPG_COPPER);
    registers.write(REG.TCTL, k.TCTL_EN | k.TCTL_PSP | k.TCTL_CT | k.TCTL_COLD_FD);
  }

  /** Interrupts on, and polling once for what came before. */
  #listen(): void {
    const csb = this.#csb;
    this.registers.write(REG.IMS, OTHER_CAUSES | TRANSMIT_CAUSES | RECEIVE_CAUSES);
    csb?.set(k.CSB.guest_need_rxkick, 1);
    this.#scheduled = true;
    this.#idle = 0;
    if (csb) csb.set(k.CSB.guest_need_rxkick, 0);
    else this.registers.write(REG.IMC, RECEIVE_CAUSES);
  }

  /** Checksums and TCP segmentation (3.5), asked for as of a virtio device. */
  has(feature: number): boolean {
    return feature === VIRTIO_NET_F.CSUM || feature === VIRTIO_NET_F.HOST_TSO4 || feature === VIRTIO_NET_F.HOST_TSO6;
  }

  /** The line is up. It may be another function's: then ICR reads 0. */
  onIntx(): void {
    if (this.broken !== '') return;
    const causes = this.registers.read(REG.ICR);
    if (causes === 0) return;
    if (causes === 0xffff_ffff) {
      this.#giveUp('the device is gone: ICR reads all ones');
      return;
    }
    this.interrupts++;
    if ((causes & OTHER_CAUSES) !== 0) this.checkLink();
    if ((causes & TRANSMIT_CAUSES) !== 0) {
      this.#csb?.set(k.CSB.guest_need_txkick, 0);
      for (const queue of this.transmit) queue.onInterrupt();
    }
    if ((causes & RECEIVE_CAUSES) !== 0) this.#schedule();
  }

  #schedule(): void {
    this.#idle = 0;
    if (this.#scheduled) return;
    this.#scheduled = true;
    if (this.#csb) this.#csb.set(k.CSB.guest_need_rxkick, 0);
    else this.registers.write(REG.IMC, RECEIVE_CAUSES);
  }

  /** One round of polling. True when there may be more to do right away; false: wait for an interrupt. Never throws for what a device did. */
  poll(sink: FrameSink): boolean {
    if (this.broken !== '') return false;
    if (++this.#polls % POLLS_PER_LOOK === 0) this.#watch();
    const queue = this.receive[0];
    if (!queue) return false;
    let more = false;
    if (this.#scheduled) {
      const taken = queue.poll(POLL_BUDGET, sink);
      this.#idle = taken > 0 ? 0 : this.#idle + 1;
      if (taken === POLL_BUDGET || this.#idle <= (this.#options.busyPolls ?? 0)) more = true;
      else {
        this.#scheduled = false;
        if (this.#csb) this.#csb.set(k.CSB.guest_need_rxkick, 1);
        else this.registers.write(REG.IMS, RECEIVE_CAUSES);
        // The re-check that closes the window between the last poll and turning interrupts on.
        if (queue.pending) {
          this.#schedule();
          more = true;
        }
      }
    }
    const trouble = queue.broken || (this.transmit[0] as E1000TransmitQueue).broken;
    if (trouble !== '') this.#giveUp(trouble);
    return more && this.broken === '';
  }

  /** Reads the link state. */
  checkLink(): void {
    const status = this.registers.read(REG.STATUS);
    if (status === 0xffff_ffff) this.#giveUp('the device is gone: STATUS reads all ones');
    else this.configuration = { ...this.configuration, linkUp: (status & k.STATUS_LU) !== 0 };
  }

  #watch(): void {
    const now = this.#bus.now();
    if (now - this.#looked < WATCHDOG_PERIOD) return;
    this.#looked = now;
    this.watchdog();
  }

  /** What a driver does every two seconds: link, statistics, and a transmitter that got nothing done although the link is up. */
  watchdog(): void {
    if (this.broken !== '') return;
    this.checkLink();
    this.statistics.collect();
    const queue = this.transmit[0];
    if (!queue || !this.configuration.linkUp) return;
    queue.reclaim();
    const done = queue.frames - queue.outstanding;
    this.#stuck = queue.outstanding > 0 && done === this.#reclaimed ? this.#stuck + 1 : 0;
    if (this.#stuck >= HANG_LOOKS) this.#giveUp(`the transmitter hangs with ${queue.outstanding} descriptors`);
    this.#reclaimed = queue.outstanding > 0 ? done : -1;
  }

  /** The multicast hash table (13.5.1) with RCTL.MO 0: bits 47:36 of the address. */
  setMulticast(addresses: readonly Uint8Array[]): void {
    const table = new Uint32Array(128);
    for (const address of addresses) {
      const hash = (((address[4] as number) >>> 4) | ((address[5] as number) << 4)) & 0xfff;
      table[hash >>> 5] = (table[hash >>> 5] as number) | (1 << (hash & 31));
    }
    table.forEach((word, i) => {
      this.registers.write(REG.MTA + 4 * i, word);
    });
  }

  setVlan(id: number, on: boolean): void {
    const at = REG.VFTA + 4 * (id >>> 5);
    const word = this.registers.read(at);
    this.registers.write(at, on ? word | (1 << (id & 31)) : word & ~(1 << (id & 31)));
  }

  #giveUp(why: string): void {
    if (this.broken !== '') return;
    this.broken = why;
    this.registers.write(REG.IMC, k.INTERRUPT_ALL);
  }

  /** Notifications to the device: writes of a tail. */
  get kicks(): number {
    let total = 0;
    for (const queue of this.receive) total += queue.kicks;
    for (const queue of this.transmit) total += queue.kicks;
    return total;
  }

  get transmitOutstanding(): number {
    let total = 0;
    for (const queue of this.transmit) total += queue.outstanding;
    return total;
  }

  /** Resets the device and brings it up again. Frames in flight are lost. @throws E1000Error */
  recover(): void {
    this.shutDown();
    this.broken = '';
    this.#bringUp();
  }

  /** Resets the device, then takes all memory back. */
  shutDown(): void {
    if (this.#csb) {
      this.#csb.set(k.CSB.guest_csb_on, 0);
      this.registers.write(REG.CSBAL, 0);
      this.registers.write(REG.CSBAH, 0);
    }
    this.#reset();
    for (const queue of this.receive) queue.dispose();
    for (const queue of this.transmit) queue.dispose();
    this.#csb?.dispose();
    this.#csb = undefined;
    this.receive = [];
    this.transmit = [];
    this.#scheduled = false;
  }
}
