// The mailbox between a physical function's driver and a virtual one's (82576 7.10.2.9, SR-IOV companion guide): 64 bytes of memory that one side at a time owns, a bit to ring
// the other, a bit to say that it was read. What the messages mean is an agreement between drivers; both ends' words for it are here.

import * as k from './igb-constants.ts';
import type { RegisterBlock } from './intel-registers.ts';

const { REG, VF_REG } = k;

/** Message numbers: the low 16 bits of the first word. From the virtual function, and PF_CONTROL from the physical one. */
export const MESSAGE = { RESET: 1, SET_MAC_ADDR: 2, SET_MULTICAST: 3, SET_VLAN: 4, SET_LPE: 5, SET_PROMISC: 6, PF_CONTROL: 0x100 } as const;
export const MESSAGE_ACK = 0x8000_0000;
export const MESSAGE_NACK = 0x4000_0000;
/** Clear to send: the physical function's driver is up and takes requests. */
export const MESSAGE_CTS = 0x2000_0000;
export const MESSAGE_NUMBER = 0xffff;
export const INFO_SHIFT = 16;
export const INFO_MASK = 0xff;
export const INFO_VLAN_ADD = 1;
export const INFO_MAC_CLEAR = 1;
export const INFO_MAC_ADD = 2;
export const INFO_PROMISC_UNICAST = 1;
export const INFO_PROMISC_MULTICAST = 2;
/** Hashes of 12 bits, two a word, behind the first word. */
export const MOST_HASHES = 2 * (k.MAILBOX_WORDS - 1);

/** An address as the second and third word of a message. */
export function addressWords(mac: Uint8Array): [number, number] {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = mac;
  return [(a | (b << 8) | (c << 16) | (d << 24)) >>> 0, e | (f << 8)];
}

export function addressOf(low: number, high: number): Uint8Array {
  return Uint8Array.of(low, low >>> 8, low >>> 16, low >>> 24, high, high >>> 8);
}

/** The multicast table's index of an address with RCTL.MO 0 (8.10.15): bits 47:36. */
export function multicastHash(address: Uint8Array): number {
  return (((address[4] as number) >>> 4) | ((address[5] as number) << 4)) & 0xfff;
}

/** Can be a station's: not a group's, not zero. */
export function isUnicast(mac: Uint8Array): boolean {
  return mac.length === 6 && ((mac[0] as number) & 1) === 0 && mac.some((byte) => byte !== 0);
}

/** The physical function's end of all mailboxes. */
export class PfMailbox {
  readonly message = new Uint32Array(k.MAILBOX_WORDS);
  readonly #registers: RegisterBlock;

  constructor(registers: RegisterBlock) {
    this.#registers = registers;
  }

  /** Makes the memory ours. False: the virtual function has it now. */
  #lock(vf: number): boolean {
    const at = REG.P2VMAILBOX + 4 * vf;
    this.#registers.write(at, k.P2V_PFU);
    return (this.#registers.read(at) & k.P2V_PFU) !== 0;
  }

  /** Takes what the virtual function wrote into `message`, and says so. False: it has the memory still. */
  take(vf: number): boolean {
    if (!this.#lock(vf)) return false;
    for (let i = 0; i < k.MAILBOX_WORDS; i++) this.message[i] = this.#registers.read(REG.VMBMEM + k.MAILBOX_STRIDE * vf + 4 * i);
    this.#registers.write(REG.P2VMAILBOX + 4 * vf, k.P2V_ACK);
    return true;
  }

  /** False: the virtual function has the memory now. */
  send(vf: number, words: readonly number[]): boolean {
    if (!this.#lock(vf)) return false;
    words.forEach((word, i) => {
      this.#registers.write(REG.VMBMEM + k.MAILBOX_STRIDE * vf + 4 * i, word);
    });
    this.#registers.write(REG.P2VMAILBOX + 4 * vf, k.P2V_STS);
    return true;
  }

  /** Takes the memory from a virtual function, which was reset or keeps it (8.14.2 RVFU). */
  revoke(vf: number): void {
    this.#registers.write(REG.P2VMAILBOX + 4 * vf, k.P2V_RVFU);
  }
}

/** Told of what a virtual function's mailbox brings. The answer's words are valid during the call; none: no answer came in time. */
export type Answered = (answer: Uint32Array | undefined) => void;

interface Request {
  readonly words: readonly number[];
  readonly answered: Answered;
}

/** Nanoseconds an answer may take. */
const PATIENCE = 2e9;

/** The virtual function's end: requests go out one at a time, each after the answer to the one before. Nothing here waits; `service` does what can be done now. */
export class VfMailbox {
  /** The physical function is being reset, or has been since this was last cleared. */
  resetSeen = false;
  /** It is not ready yet (V2PMAILBOX.RSTI at the last look). */
  resetting = false;
  readonly #registers: RegisterBlock;
  readonly #now: () => number;
  readonly #control: (clearToSend: boolean) => void;
  readonly #message = new Uint32Array(k.MAILBOX_WORDS);
  readonly #queue: Request[] = [];
  /** The request an answer is awaited for, and until when. */
  #asked: Request | undefined;
  #deadline = 0;
  /** Reading clears PFSTS, PFACK and RSTD (8.14.3): what was seen is kept. */
  #seen = 0;

  constructor(registers: RegisterBlock, now: () => number, control: (clearToSend: boolean) => void) {
    this.#registers = registers;
    this.#now = now;
    this.#control = control;
  }

  /** Requests that have no answer yet. */
  get pending(): number {
    return this.#queue.length + (this.#asked ? 1 : 0);
  }

  /** Gives all requests up, as unanswered: both ends were reset. */
  clear(): void {
    const given = this.#asked ? [this.#asked, ...this.#queue] : this.#queue.slice();
    this.#queue.length = 0;
    this.#asked = undefined;
    this.#seen = 0;
    this.resetSeen = false;
    for (const request of given) request.answered(undefined);
  }

  ask(words: readonly number[], answered: Answered): void {
    this.#queue.push({ words, answered });
  }

  #look(): number {
    const value = this.#registers.read(VF_REG.V2PMAILBOX);
    this.resetting = (value & k.V2P_RSTI) !== 0;
    if ((value & (k.V2P_RSTI | k.V2P_RSTD)) !== 0) this.resetSeen = true;
    this.#seen |= value & k.V2P_PFSTS;
    return value;
  }

  #lock(): boolean {
    this.#registers.write(VF_REG.V2PMAILBOX, k.V2P_VFU);
    return (this.#look() & k.V2P_VFU) !== 0;
  }

  /** Takes a message that came, sends a request that waits. */
  service(): void {
    if (this.#look() === 0xffff_ffff) return;
    if (this.#seen !== 0 && this.#lock()) this.#take();
    if (this.#asked && this.#now() > this.#deadline) this.#settle(undefined);
    if (this.#asked || this.#queue.length === 0 || this.resetting || this.#seen !== 0 || !this.#lock()) return;
    // One may have come before the memory became ours: it is taken first, and the request goes out next time.
    if (this.#seen !== 0) {
      this.#take();
      return;
    }
    const request = this.#queue.shift() as Request;
    request.words.forEach((word, i) => {
      this.#registers.write(VF_REG.VMBMEM + 4 * i, word);
    });
    this.#asked = request;
    this.#deadline = this.#now() + PATIENCE;
    this.#registers.write(VF_REG.V2PMAILBOX, k.V2P_REQ);
  }

  /** The memory is ours and holds a message. */
  #take(): void {
    for (let i = 0; i < k.MAILBOX_WORDS; i++) this.#message[i] = this.#registers.read(VF_REG.VMBMEM + 4 * i);
    this.#seen = 0;
    this.#registers.write(VF_REG.V2PMAILBOX, k.V2P_ACK);
    const head = this.#message[0] as number;
    const number = head & MESSAGE_NUMBER;
    if (this.#asked && number === ((this.#asked.words[0] as number) & MESSAGE_NUMBER) && (head & (MESSAGE_ACK | MESSAGE_NACK)) !== 0)
      this.#settle(this.#message);
    else if (number === MESSAGE.PF_CONTROL) this.#control((head & MESSAGE_CTS) !== 0);
  }

  #settle(answer: Uint32Array | undefined): void {
    const { answered } = this.#asked as Request;
    this.#asked = undefined;
    answered(answer);
  }
}
