// What a physical function's driver does for its virtual functions (82576 7.10, SR-IOV companion guide): a pool of the switch for each, resets seen and answered, requests from
// the mailbox granted as the policy of each allows, everything else refused.

import * as k from './igb-constants.ts';
import * as m from './igb-mailbox.ts';
import { checkVlan, LARGEST_MTU } from './igb-options.ts';
import type { IgbRegisters } from './igb-registers.ts';
import type { IgbSwitch } from './igb-switch.ts';

const { REG } = k;

/** What the owner of the physical function decides about a virtual one. What is not named stays as it is. */
export interface VfPolicy {
  /** The address it has; then it may choose another only if trusted. */
  readonly mac?: Uint8Array;
  /** All it sends and gets is in this VLAN and it sees no tags; 0: it chooses its own VLANs. */
  readonly vlan?: number;
  /** Priority of that tag, 0 to 7. */
  readonly priority?: number;
  /** Frames from addresses or in VLANs that are not its own are dropped. Default true. */
  readonly spoofCheck?: boolean;
  /** Mbit/s it may send; 0: no limit. */
  readonly rate?: number;
  /** It may change its address, have more of them, and be promiscuous. Default false. */
  readonly trust?: boolean;
  /** Receive queues that frames are spread over by RSS. Default 1. */
  readonly queues?: 1 | 2;
}

interface Vf {
  mac: Uint8Array;
  macIsGiven: boolean;
  vlan: number;
  priority: number;
  spoofCheck: boolean;
  rate: number;
  trust: boolean;
  queues: number;
  /** It was reset since the physical function was: its requests are taken. */
  clearToSend: boolean;
  /** What it asked for since. */
  longest: number;
  multicast: boolean;
  allMulticast: boolean;
  strayUnicast: boolean;
  /** An answer that could not be delivered yet. */
  answer: readonly number[] | undefined;
  /** It has not read the last control message. */
  unread: boolean;
}

/** Header, FCS and one tag. */
const OVERHEAD = 22;
const LONGEST = 1500 + OVERHEAD;
const HIGHEST_RATE = 1000;
/** Times in a row a mailbox may be found taken by its virtual function before it is taken from it. */
const PATIENCE = 16;

export class IgbVfs {
  readonly count: number;
  /** By virtual function: times its frames were seen dropped as not its own. */
  readonly spoofs: number[];
  /** Requests granted, and refused. */
  granted = 0;
  refused = 0;
  /** Resets of virtual functions seen. */
  resets = 0;
  readonly #registers: IgbRegisters;
  readonly #switch: IgbSwitch;
  readonly #mailbox: m.PfMailbox;
  readonly #vfs: Vf[];
  /** Virtual functions with a request that was not taken yet, and how often each was found keeping its mailbox. */
  #requests = 0;
  readonly #kept: number[];

  constructor(registers: IgbRegisters, pools: IgbSwitch, mac: Uint8Array, count: number) {
    this.count = count;
    this.#registers = registers;
    this.#switch = pools;
    this.#mailbox = new m.PfMailbox(registers);
    this.spoofs = new Array<number>(count).fill(0);
    this.#kept = new Array<number>(count).fill(0);
    this.#vfs = Array.from({ length: count }, (_, i) => ({
      mac: derivedAddress(mac, i),
      macIsGiven: false,
      vlan: 0,
      priority: 0,
      spoofCheck: true,
      rate: 0,
      trust: false,
      queues: 1,
      clearToSend: false,
      longest: LONGEST,
      multicast: false,
      allMulticast: false,
      strayUnicast: false,
      answer: undefined,
      unread: false,
    }));
  }

  /** The address virtual function `vf` has. */
  mac(vf: number): Uint8Array {
    return this.#vf(vf).mac;
  }

  /** It has been reset by its driver and may ask for things. */
  isUp(vf: number): boolean {
    return this.#vf(vf).clearToSend;
  }

  #vf(vf: number): Vf {
    const found = this.#vfs[vf];
    if (!found) throw new RangeError(`there is no virtual function ${vf} among the ${this.count} enabled`);
    return found;
  }

  /** The device was reset (or the virtual functions just enabled): all state of theirs is gone. Before the switch is programmed. */
  forget(): void {
    this.#requests = 0;
    for (const [i, vf] of this.#vfs.entries()) this.#clear(i, vf);
  }

  /** Lets virtual functions go on (8.2.3 PFRSTD), and tells those that were up. Last, when the physical function is ready. */
  release(): void {
    const all = (1 << this.count) - 1;
    const registers = this.#registers;
    // A ring without descriptors drops; it does not hold up the packet buffer that all share (7.10.3.8).
    registers.write(REG.QDE, all | (all << k.POOL_QUEUE_STEP));
    registers.write(REG.VFLRE, registers.read(REG.VFLRE));
    registers.write(REG.MBVFICR, registers.read(REG.MBVFICR));
    registers.write(REG.MBVFIMR, all);
    registers.change(k.REG.CTRL_EXT, k.CTRL_EXT_PFRSTD);
    this.ping();
  }

  /** What a virtual function asked for goes, what its owner decided stays. */
  #clear(index: number, vf: Vf): void {
    vf.clearToSend = false;
    vf.longest = LONGEST;
    vf.multicast = false;
    vf.allMulticast = false;
    vf.strayUnicast = false;
    vf.answer = undefined;
    vf.unread = false;
    this.#requests &= ~(1 << index);
    this.#switch.removeAddresses(index);
    this.#switch.addAddress(vf.mac, index);
    this.#switch.leaveVlans(index);
    if (vf.vlan !== 0) this.#switch.setVlan(index, vf.vlan, true);
    this.#switch.setMulticast(index, []);
    this.#apply(index, vf);
  }

  #apply(index: number, vf: Vf): void {
    this.#switch.setRules(index, {
      longest: vf.longest,
      untagged: vf.vlan === 0,
      stripTags: true,
      twoQueues: vf.queues === 2,
      hashedMulticast: vf.multicast,
      allMulticast: vf.allMulticast,
      strayUnicast: vf.strayUnicast,
      insert: vf.vlan === 0 ? -1 : (vf.priority << 13) | vf.vlan,
      checkSource: vf.spoofCheck,
      rate: vf.rate,
    });
  }

  /** Changes the policy of a virtual function; one that is up is told to start again, and finds the new state. @throws RangeError */
  setPolicy(index: number, policy: VfPolicy): void {
    const vf = this.#vf(index);
    const { mac, vlan = vf.vlan, priority = vf.priority, rate = vf.rate } = policy;
    checkVlan(vlan);
    if (mac && !m.isUnicast(mac)) throw new RangeError('the address of a virtual function is not a station address');
    if (mac && this.#vfs.some((other) => other !== vf && other.mac.every((byte, i) => byte === mac[i])))
      throw new RangeError('two virtual functions cannot have one address');
    if (!(Number.isInteger(priority) && priority >= 0 && priority <= 7)) throw new RangeError(`priority ${priority}: give 0 to 7`);
    if (!(rate >= 0 && rate <= HIGHEST_RATE)) throw new RangeError(`rate ${rate}: give 0 to ${HIGHEST_RATE} Mbit/s`);
    const restarts = mac !== undefined || vlan !== vf.vlan || priority !== vf.priority || (policy.queues ?? vf.queues) !== vf.queues;
    if (mac) {
      vf.mac = mac.slice();
      vf.macIsGiven = true;
    }
    vf.vlan = vlan;
    vf.priority = priority;
    vf.rate = rate;
    vf.spoofCheck = policy.spoofCheck ?? vf.spoofCheck;
    vf.trust = policy.trust ?? vf.trust;
    vf.queues = policy.queues ?? vf.queues;
    if (!restarts) {
      this.#apply(index, vf);
      return;
    }
    this.#stop(index);
    this.#clear(index, vf);
    this.#ping(index, vf);
  }

  /** Tells every virtual function that the physical one is there; without clear-to-send, that it has to start again. */
  ping(): void {
    for (const [i, vf] of this.#vfs.entries()) this.#ping(i, vf);
  }

  #ping(index: number, vf: Vf): void {
    // A request that lies in the memory, or an answer on its way there, tells it as well.
    if (vf.unread || vf.answer || ((this.#requests >>> index) & 1) === 1) return;
    vf.unread = this.#mailbox.send(index, [m.MESSAGE.PF_CONTROL | (vf.clearToSend ? m.MESSAGE_CTS : 0)]);
  }

  /** Neither sends nor receives (8.14.10, 8.14.11). */
  #stop(index: number): void {
    this.#registers.change(REG.VFRE, 0, 1 << index);
    this.#registers.change(REG.VFTE, 0, 1 << index);
  }

  /** Resets that happened, requests that came, answers that wait. Called for an interrupt (VMMB), and now and then. */
  service(): void {
    const registers = this.#registers;
    // Requests before resets: a request seen here was made after whatever reset is seen below, or is of no use to anyone any more.
    const events = registers.read(REG.MBVFICR);
    if (events === 0xffff_ffff) return;
    if (events !== 0) registers.write(REG.MBVFICR, events);
    const resets = registers.read(REG.VFLRE);
    if (resets !== 0) registers.write(REG.VFLRE, resets);
    for (const [i, vf] of this.#vfs.entries()) {
      if (((resets >>> i) & 1) === 1) this.#onReset(i, vf);
      if (((events >>> (k.MBVFICR_ACK_SHIFT + i)) & 1) === 1) vf.unread = false;
      if (((events >>> i) & 1) === 1) this.#requests |= 1 << i;
      this.#answer(i, vf);
      if (((this.#requests >>> i) & 1) === 1) this.#take(i, vf);
    }
  }

  /** Something waits for a mailbox that its virtual function keeps. */
  get waiting(): boolean {
    return this.#requests !== 0 || this.#vfs.some((vf) => vf.answer !== undefined);
  }

  #onReset(index: number, vf: Vf): void {
    this.resets++;
    this.#stop(index);
    this.#mailbox.revoke(index);
    this.#clear(index, vf);
  }

  #take(index: number, vf: Vf): void {
    if (!this.#mailbox.take(index)) {
      this.#patience(index);
      return;
    }
    this.#kept[index] = 0;
    this.#requests &= ~(1 << index);
    const { message } = this.#mailbox;
    const head = message[0] as number;
    if ((head & m.MESSAGE_NUMBER) === m.MESSAGE.RESET) {
      this.#clear(index, vf);
      vf.clearToSend = true;
      this.#registers.change(REG.VFRE, 1 << index);
      this.#registers.change(REG.VFTE, 1 << index);
      vf.answer = [m.MESSAGE.RESET | m.MESSAGE_ACK, ...m.addressWords(vf.mac)];
    } else {
      const granted = vf.clearToSend && this.#grant(index, vf, head, message);
      if (granted) this.granted++;
      else this.refused++;
      vf.answer = [
        (head & ~(m.MESSAGE_ACK | m.MESSAGE_NACK | m.MESSAGE_CTS)) | (granted ? m.MESSAGE_ACK : m.MESSAGE_NACK) | (vf.clearToSend ? m.MESSAGE_CTS : 0),
      ];
    }
    this.#answer(index, vf);
  }

  #answer(index: number, vf: Vf): void {
    if (!vf.answer) return;
    if (this.#mailbox.send(index, vf.answer)) {
      vf.answer = undefined;
      this.#kept[index] = 0;
    } else this.#patience(index);
  }

  /** One that keeps its mailbox only harms itself, but not for ever: its owner may want to reach it. */
  #patience(index: number): void {
    const times = (this.#kept[index] as number) + 1;
    this.#kept[index] = times % PATIENCE;
    if (times === PATIENCE) this.#mailbox.revoke(index);
  }

  /** Does what is asked, if it may be. `message` is the virtual function's: nothing in it is believed. */
  #grant(index: number, vf: Vf, head: number, message: Uint32Array): boolean {
    const info = (head >>> m.INFO_SHIFT) & m.INFO_MASK;
    const word1 = message[1] as number;
    switch (head & m.MESSAGE_NUMBER) {
      case m.MESSAGE.SET_MAC_ADDR:
        return this.#setAddress(index, vf, info, m.addressOf(word1, message[2] as number));
      case m.MESSAGE.SET_MULTICAST: {
        if (info > m.MOST_HASHES) return false;
        const hashes = Array.from({ length: info }, (_, i) => ((message[1 + (i >>> 1)] as number) >>> (16 * (i & 1))) & 0xfff);
        this.#switch.setMulticast(index, hashes);
        vf.multicast = hashes.length > 0;
        break;
      }
      case m.MESSAGE.SET_VLAN:
        if (vf.vlan !== 0 || word1 > 0xfff) return false;
        // The untagged are its own already, and priority tags count as such.
        return word1 === 0 || this.#switch.setVlan(index, word1, (info & m.INFO_VLAN_ADD) !== 0);
      case m.MESSAGE.SET_LPE:
        // The frame with its FCS; a tag comes on top.
        if (word1 < 64 || word1 > LARGEST_MTU + OVERHEAD) return false;
        vf.longest = word1 + 4;
        break;
      case m.MESSAGE.SET_PROMISC:
        if (!vf.trust || (info & ~(m.INFO_PROMISC_UNICAST | m.INFO_PROMISC_MULTICAST)) !== 0) return false;
        vf.strayUnicast = (info & m.INFO_PROMISC_UNICAST) !== 0;
        vf.allMulticast = (info & m.INFO_PROMISC_MULTICAST) !== 0;
        break;
      default:
        return false;
    }
    this.#apply(index, vf);
    return true;
  }

  #setAddress(index: number, vf: Vf, info: number, mac: Uint8Array): boolean {
    if (info === m.INFO_MAC_CLEAR) {
      this.#switch.removeAddresses(index, vf.mac);
      return true;
    }
    if (!m.isUnicast(mac)) return false;
    if (info === m.INFO_MAC_ADD) return vf.trust && this.#switch.addAddress(mac, index);
    if (info !== 0) return false;
    if (mac.every((byte, i) => byte === vf.mac[i])) return true;
    if (vf.macIsGiven && !vf.trust) return false;
    if (!this.#switch.addAddress(mac, index)) return false;
    vf.mac = mac;
    this.#switch.removeAddresses(index, mac);
    return true;
  }

  /** Whose frames were dropped as not their own since the last look (8.14.13: a bit for each queue, cleared by reading). */
  watch(): void {
    const caught = this.#registers.read(REG.WVBR);
    if (caught === 0 || caught === 0xffff_ffff) return;
    for (let i = 0; i < this.count; i++)
      if (((caught >>> i) & 1) === 1 || ((caught >>> (i + k.POOL_QUEUE_STEP)) & 1) === 1) this.spoofs[i] = (this.spoofs[i] as number) + 1;
  }
}

/** A locally administered address beside the physical function's own. */
function derivedAddress(mac: Uint8Array, index: number): Uint8Array {
  const derived = mac.slice();
  derived[0] = (derived[0] as number) | 2;
  derived[3] = ((derived[3] as number) + 0x10 * (index + 1)) & 0xff;
  return derived;
}
