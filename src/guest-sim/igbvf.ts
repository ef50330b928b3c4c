// The guest's driver for a virtual function of an Intel 82576 (datasheet 7.10.2, 8.27; SR-IOV companion guide). It needs its physical function to be reset, and asks it for
// everything that is not its own queues: addresses, VLANs, long frames. What a physical function refuses it does without, so that it also runs over ones that grant less or more.

import type { GuestBus } from '#core/guest-bus';
import { AdvancedPairs } from './advanced-pairs.ts';
import type { AdvancedReceiveQueue } from './advanced-receive.ts';
import { ADVANCED_OFFLOADS, type AdvancedTransmitQueue } from './advanced-transmit.ts';
import type { GuestArena } from './arena.ts';
import { INTEL_VENDOR } from './e1000-constants.ts';
import * as k from './igb-constants.ts';
import * as m from './igb-mailbox.ts';
import { checkAdvancedOptions, checkVlan, type IgbvfOptions, MOST_VF_PAIRS } from './igb-options.ts';
import { IgbError, openRegisters } from './igb-registers.ts';
import { type VfExtensions, VfRequests } from './igbvf-requests.ts';
import { lookFor, type RegisterWindow } from './intel-registers.ts';
import { Msix, type VectorSpace } from './msix.ts';
import type { FrameSink } from './net-receive.ts';
import type { Nic } from './nic.ts';
import type { ConfigAccess } from './pci-config.ts';
import { CFG, COMMAND_MASTER } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';
import { type Delay, sleepOn } from './pci-sriov.ts';

const { VF_REG } = k;
/** The vector behind those of two pairs: the mailbox's. */
const MAILBOX_VECTOR = 2;
const BAR_BYTES = 0x4000;
const LONG_MTU = 1500;
const WATCHDOG_PERIOD = 2e9;
const POLLS_PER_LOOK = 64;
/** Between two looks at the mailbox while waiting, and how often. */
const LOOK_NANOS = 100_000;
const PATIENCE_NANOS = 5e9;

export function isIgbvf(device: PciDevice): boolean {
  return device.vendor === INTEL_VENDOR && k.IGBVF_DEVICES.has(device.device);
}

export interface IgbvfParts {
  readonly bus: GuestBus;
  readonly config: ConfigAccess;
  readonly device: PciDevice;
  readonly arena: GuestArena;
  readonly vectors: VectorSpace;
  readonly options?: IgbvfOptions;
  /** Lets time pass while the physical function's driver is to answer. Default: sleeps, which suits a guest on a thread of its own. */
  readonly delay?: Delay;
}

export class Igbvf implements Nic {
  readonly rid: number;
  configuration: { readonly mac: Uint8Array; readonly mtu: number; readonly linkUp: boolean };
  readonly steering = undefined;
  readonly usesIntx = false;
  broken = '';
  /** Times it was reset because the physical function was, or asked for it. */
  restarts = 0;
  readonly #parts: IgbvfParts;
  readonly #options: IgbvfOptions;
  readonly #registers: RegisterWindow;
  readonly #msix: Msix;
  readonly #mailbox: m.VfMailbox;
  readonly #requests: VfRequests;
  readonly #delay: Delay;
  /** 'waiting': for the physical function to be ready; 'asking': for its answer to the reset. */
  #state: 'waiting' | 'asking' | 'up' | 'down' = 'down';
  #restartDue = false;
  #pairs: AdvancedPairs | undefined;
  #interrupts = 0;
  #polls = 0;
  #looked = 0;

  /** Opens the function and brings it up. @throws RangeError for options, IgbError when it, or its physical function's driver, does not answer */
  constructor(parts: IgbvfParts) {
    const { bus, config, device, options = {} } = parts;
    checkAdvancedOptions(options, MOST_VF_PAIRS);
    if (options.mac && !m.isUnicast(options.mac)) throw new RangeError('the address asked for is not a station address');
    this.#parts = parts;
    this.#options = options;
    this.#delay = parts.delay ?? sleepOn(bus);
    this.rid = device.rid;
    // Memory decoding is the physical function's to turn on (SR-IOV 1.1 3.4.1.3).
    config.write(device.rid, CFG.COMMAND, 2, config.read(device.rid, CFG.COMMAND, 2) | COMMAND_MASTER);
    const msix = Msix.find(bus, config, device, parts.vectors);
    if (!msix) throw new IgbError('ERR_IGB_MSIX', 'the virtual function has no usable MSI-X capability');
    this.#msix = msix;
    this.#registers = openRegisters(bus, device, BAR_BYTES);
    this.#mailbox = new m.VfMailbox(
      this.#registers,
      () => bus.now(),
      (clearToSend) => this.#onControl(clearToSend),
    );
    const { mtu = LONG_MTU, mac, vlans = [], promiscuous = false } = options;
    this.configuration = { mac: localAddress(device.rid), mtu, linkUp: false };
    const onAddress = (address: Uint8Array): void => {
      this.configuration = { ...this.configuration, mac: address };
    };
    this.#requests = new VfRequests({ mailbox: this.#mailbox, mtu, mac, vlans, promiscuous, onAddress });
    this.#reset();
    if (!this.#wait(() => this.#state === 'up')) {
      this.shutDown();
      throw new IgbError('ERR_IGB_MAILBOX', 'the physical function does not answer a reset of its virtual function');
    }
  }

  /** Resets the function (4.6.4): its queues stop, its interrupts are off, its physical function is told. */
  #reset(): void {
    const registers = this.#registers;
    registers.write(VF_REG.EIMC, k.INTERRUPT_ALL);
    registers.write(VF_REG.CTRL, registers.read(VF_REG.CTRL) | k.CTRL_RST);
    if (!lookFor(registers, VF_REG.CTRL, k.CTRL_RST, 0)) throw new IgbError('ERR_IGB_RESET', 'the virtual function’s CTRL.RST does not clear itself');
    registers.write(VF_REG.EIMC, k.INTERRUPT_ALL);
    this.#mailbox.clear();
    this.#restartDue = false;
    this.#state = 'waiting';
  }

  /** Lets time pass until `done`. False: it does not come. */
  #wait(done: () => boolean): boolean {
    for (let waited = 0; waited < PATIENCE_NANOS; waited += LOOK_NANOS) {
      this.#advance();
      if (done()) return true;
      this.#delay(LOOK_NANOS);
    }
    return false;
  }

  /** Does what can be done now: nothing here waits. */
  #advance(): void {
    const mailbox = this.#mailbox;
    mailbox.service();
    if (this.#state === 'waiting') {
      // 7.10.2.9.1: no message before the physical function's reset is over.
      if (mailbox.resetting) return;
      mailbox.resetSeen = false;
      this.#state = 'asking';
      mailbox.ask([m.MESSAGE.RESET], (answer) => this.#onResetAnswer(answer));
      mailbox.service();
    } else if (this.#state !== 'down' && (mailbox.resetSeen || this.#restartDue)) this.#restart();
  }

  #onResetAnswer(answer: Uint32Array | undefined): void {
    if (!answer) {
      this.#restartDue = true;
      return;
    }
    const granted = ((answer[0] as number) & m.MESSAGE_ACK) !== 0;
    // One without an address of its own is to bring one.
    const mac = granted ? m.addressOf(answer[1] as number, answer[2] as number) : this.configuration.mac;
    this.configuration = { ...this.configuration, mac: m.isUnicast(mac) ? mac : this.configuration.mac };
    if (!granted) this.#requests.ownAddress(this.configuration.mac);
    try {
      this.#bringUp();
    } catch (error) {
      // Also when a message came in the middle of a guest's work: a device that breaks the rules breaks its driver, not the guest.
      this.#giveUp((error as Error).message);
    }
  }

  #bringUp(): void {
    const registers = this.#registers;
    const { pairs: count = 1, splitHeaders, itr = 0 } = this.#options;
    this.#pairs?.dispose();
    const pairs = new AdvancedPairs({
      arena: this.#parts.arena,
      registers,
      options: this.#options,
      drop: true,
      blocks: Array.from({ length: count }, (_, i) => ({
        receive: VF_REG.RX_QUEUE + k.VF_QUEUE_STRIDE * i,
        transmit: VF_REG.TX_QUEUE + k.VF_QUEUE_STRIDE * i,
      })),
      vector: 0,
      arm: (pair) => registers.write(VF_REG.EIMS, 1 << pair),
    });
    this.#pairs = pairs;
    if (splitHeaders) registers.write(VF_REG.PSRTYPE, k.PSRTYPE_ALL);
    for (const queue of pairs.receive) {
      queue.start();
      queue.stock();
    }
    for (const queue of pairs.transmit) queue.start();
    this.#msix.disable();
    this.#msix.begin();
    pairs.route(this.#msix);
    if (!this.#msix.route(MAILBOX_VECTOR, () => this.#onMailbox())) throw new IgbError('ERR_IGB_VECTORS', 'there is no MSI-X vector for the mailbox');
    this.#msix.finish();
    let ivar = 0;
    for (let i = 0; i < count; i++) ivar |= (i | k.IVAR_VALID | ((i | k.IVAR_VALID) << 8)) << (16 * i);
    registers.write(VF_REG.IVAR, ivar);
    registers.write(VF_REG.IVAR_MISC, MAILBOX_VECTOR | k.IVAR_VALID);
    for (let i = 0; i < count; i++) registers.write(VF_REG.EITR + 4 * i, itr << k.EITR_SHIFT);
    const mask = pairs.vectors | (1 << MAILBOX_VECTOR);
    registers.write(VF_REG.EIAC, mask);
    registers.write(VF_REG.EIAM, mask);
    this.#state = 'up';
    this.#looked = this.#parts.bus.now();
    this.#requests.askAgain();
    this.checkLink();
    pairs.scheduleAll();
    registers.write(VF_REG.EIMS, 1 << MAILBOX_VECTOR);
  }

  // ---- Requests ----

  /** What the physical function granted beyond the base set. */
  get extensions(): VfExtensions {
    return this.#requests.extensions;
  }

  /** Requests of the base set that were refused: an address, a VLAN, long frames. */
  get refused(): number {
    return this.#requests.refused;
  }

  /** Asks and lets time pass until the answer. False: refused, or none came. */
  #request(ask: (answered: (granted: boolean) => void) => void): boolean {
    if (this.#state !== 'up') return false;
    let result: boolean | undefined;
    ask((granted) => {
      result = granted;
    });
    this.#wait(() => result !== undefined || this.broken !== '');
    return result ?? false;
  }

  /** Takes another station address, if the physical function lets it. */
  setMac(mac: Uint8Array): boolean {
    if (!m.isUnicast(mac)) throw new RangeError('that is not a station address');
    return this.#request((answered) => this.#requests.setMac(mac, answered));
  }

  /** One more address to receive. */
  addMac(mac: Uint8Array): boolean {
    if (!m.isUnicast(mac)) throw new RangeError('that is not a station address');
    return this.#request((answered) => this.#requests.addMac(mac, answered));
  }

  /** Joins a VLAN, or leaves it. @throws RangeError */
  setVlan(id: number, on: boolean): boolean {
    checkVlan(id);
    return this.#request((answered) => this.#requests.setVlan(id, on, answered));
  }

  /** Group addresses to receive besides broadcast, at most 30. @throws RangeError */
  setMulticast(addresses: readonly Uint8Array[]): boolean {
    if (addresses.length > m.MOST_HASHES) throw new RangeError(`${addresses.length} group addresses: a message holds ${m.MOST_HASHES}`);
    this.#requests.multicast = addresses.map(m.multicastHash);
    return this.#request((answered) => this.#requests.askMulticast(answered));
  }

  setPromiscuous(on: boolean): boolean {
    this.#requests.promiscuous = on;
    return this.#request((answered) => this.#requests.askPromiscuous(answered));
  }

  /** Any message, as a driver of another kind might send it. True: granted. @internal for those who try a physical function out */
  ask(words: readonly number[]): boolean {
    return this.#request((answered) => this.#requests.ask(words, answered));
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

  onIntx(): void {
    throw new Error('this driver uses MSI-X only');
  }

  get interrupts(): number {
    return this.#interrupts + (this.#pairs?.interrupts ?? 0);
  }

  get kicks(): number {
    return this.#pairs?.kicks ?? 0;
  }

  /** Frames go; the physical function's driver has let it. */
  get isUp(): boolean {
    return this.#state === 'up';
  }

  #onMailbox(): void {
    this.#interrupts++;
    this.#safely(() => this.#advance());
    if (this.#state === 'up') this.#registers.write(VF_REG.EIMS, 1 << MAILBOX_VECTOR);
  }

  /** The physical function spoke: with clear-to-send something changed, without it wants a reset. */
  #onControl(clearToSend: boolean): void {
    if (this.#state !== 'up') return;
    if (clearToSend) this.checkLink();
    else this.#restartDue = true;
  }

  #restart(): void {
    this.restarts++;
    this.#pairs?.hold();
    this.configuration = { ...this.configuration, linkUp: false };
    this.#reset();
  }

  /** A device that breaks the rules never throws into the guest's work. */
  #safely(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#giveUp((error as Error).message);
    }
  }

  /** One round of polling. True when there may be more to do right away; false: wait for an interrupt. Never throws for what a device did. */
  poll(sink: FrameSink): boolean {
    const pairs = this.#pairs;
    if (this.broken !== '' || !pairs) return false;
    if (++this.#polls % POLLS_PER_LOOK === 0) this.#watch();
    // Not by interrupt alone: those are off during a reset, and a mailbox taken by the other end is tried again.
    if (this.#state !== 'up' || this.#restartDue || this.#mailbox.pending > 0) this.#safely(() => this.#advance());
    if (this.#state !== 'up') return false;
    const more = pairs.poll(sink);
    if (pairs.broken !== '') this.#giveUp(pairs.broken);
    return more && this.broken === '';
  }

  /** Reads the link state, which is the physical function's. */
  checkLink(): void {
    const status = this.#registers.read(VF_REG.STATUS);
    if (status === 0xffff_ffff) this.#giveUp('the virtual function is gone: STATUS reads all ones');
    else this.configuration = { ...this.configuration, linkUp: this.#state === 'up' && (status & k.STATUS_LU) !== 0 };
  }

  #watch(): void {
    const now = this.#parts.bus.now();
    if (now - this.#looked < WATCHDOG_PERIOD) return;
    this.#looked = now;
    this.watchdog();
  }

  /** What a driver does every two seconds: the mailbox in case an interrupt was lost, the link, transmitters that got nothing done. */
  watchdog(): void {
    if (this.broken !== '') return;
    this.#safely(() => this.#advance());
    if (this.#state !== 'up') return;
    this.checkLink();
    const trouble = this.configuration.linkUp ? this.#pairs?.watch() : '';
    if (trouble) this.#restartDue = true;
  }

  /** The function's counters, which the device wraps at 2^32 and never clears (8.27.5). */
  statistics(): Readonly<Record<string, number>> {
    return Object.fromEntries(k.VF_STATISTICS.map(([name, offset]) => [name, this.#registers.read(offset)]));
  }

  #giveUp(why: string): void {
    if (this.broken !== '') return;
    this.broken = why;
    this.#pairs?.hold();
    this.#registers.write(VF_REG.EIMC, k.INTERRUPT_ALL);
  }

  /** Resets the function and waits until it is up again. Frames in flight are lost. @throws IgbError */
  recover(): void {
    this.broken = '';
    this.#restart();
    if (!this.#wait(() => this.#state === 'up')) throw new IgbError('ERR_IGB_MAILBOX', 'the physical function does not answer a reset of its virtual function');
  }

  /** The same without waiting: polling goes on with it. Frames in flight are lost. @throws IgbError */
  beginRecovery(): void {
    this.broken = '';
    this.#restart();
  }

  /** Resets the function, then takes all memory back. */
  shutDown(): void {
    this.#reset();
    this.#state = 'down';
    this.#msix.disable();
    this.#pairs?.dispose();
    this.#pairs = undefined;
    this.configuration = { ...this.configuration, linkUp: false };
  }
}

/** For a physical function that gives none: locally administered, and another for each function of a fabric. */
function localAddress(rid: number): Uint8Array {
  return Uint8Array.of(0x02, 0x82, 0x57, 0x60, rid >>> 8, rid);
}
