// The mailboxes between the physical function and each of its VFs (82576 7.10.2.9, 8.14.2 to 8.14.6): sixteen dwords, who has them, and what each tells the other. All state is the words of V2PMAILBOX,
// VMBMEM and MBVFICR; P2VMAILBOX is another view of the first.
//
// Who has the buffer is exact: one bit, VFU or PFU, is granted while the other is clear, and while one side has it the other cannot write to the buffer.

import { AT } from './registers.ts';

const { MBVFICR, MBVFIMR, V2PMAILBOX, VMBMEM } = AT;

/** Dwords of a mailbox. */
export const MAILBOX_DWORDS = 16;

// P2VMAILBOX.
const P2V_STS = 1 << 0;
const P2V_ACK = 1 << 1;
const P2V_RVFU = 1 << 4;
// V2PMAILBOX.
const V2P_REQ = 1 << 0;
const V2P_ACK = 1 << 1;
const V2P_PFSTS = 1 << 4;
const V2P_PFACK = 1 << 5;
const V2P_RSTI = 1 << 6;
const V2P_RSTD = 1 << 7;
// Both.
const VFU = 1 << 2;
const PFU = 1 << 3;

const TAKEN_BY_READING = V2P_PFSTS | V2P_PFACK | V2P_RSTD;

export interface MailboxHost {
  readonly words: Uint32Array;
  /** The PF is to hear of it (ICR.VMMB). The last thing done. */
  interruptPf(): void;
  /** VF `vf` is to hear of it, by the vector in its VTIVAR_MISC. The last thing done. */
  interruptVf(vf: number): void;
}

export class Mailboxes {
  readonly #words: Uint32Array;
  readonly #host: MailboxHost;

  constructor(host: MailboxHost) {
    this.#words = host.words;
    this.#host = host;
  }

  #state(vf: number): number {
    return this.#words[V2PMAILBOX + vf] as number;
  }

  #set(vf: number, value: number): void {
    this.#words[V2PMAILBOX + vf] = value;
  }

  // ---- the physical function's side ----

  /** P2VMAILBOX: who has the buffer. */
  readPf(vf: number): number {
    return this.#state(vf) & (VFU | PFU);
  }

  writePf(vf: number, value: number): void {
    let state = this.#state(vf);
    // What the VF said before it was thrown out is not pending any more.
    if ((value & P2V_RVFU) !== 0) {
      state &= ~VFU;
      this.#forget(vf);
    }
    if ((value & PFU) === 0) state &= ~PFU;
    else if ((state & VFU) === 0) state |= PFU;
    if ((value & P2V_STS) !== 0) state |= V2P_PFSTS;
    if ((value & P2V_ACK) !== 0) state |= V2P_PFACK;
    this.#set(vf, state);
    if ((value & (P2V_STS | P2V_ACK)) !== 0) this.#host.interruptVf(vf);
  }

  /** VMBMEM as the PF sees it: all mailboxes in a row. */
  writeMemoryPf(dword: number, value: number): void {
    const vf = Math.floor(dword / MAILBOX_DWORDS);
    if ((this.#state(vf) & VFU) === 0) this.#words[VMBMEM + dword] = value;
  }

  // ---- a VF's side ----

  /** V2PMAILBOX without what reading does. */
  peekVf(vf: number): number {
    return this.#state(vf);
  }

  readVf(vf: number): number {
    const state = this.#state(vf);
    this.#set(vf, state & ~TAKEN_BY_READING);
    return state;
  }

  writeVf(vf: number, value: number): void {
    let state = this.#state(vf);
    if ((value & VFU) === 0) state &= ~VFU;
    else if ((state & PFU) === 0) state |= VFU;
    this.#set(vf, state);
    let causes = 0;
    if ((value & V2P_REQ) !== 0) causes |= 1 << vf;
    if ((value & V2P_ACK) !== 0) causes |= 0x1_0000 << vf;
    if (causes === 0) return;
    this.#words[MBVFICR] = (this.#words[MBVFICR] as number) | causes;
    if ((((this.#words[MBVFIMR] as number) >>> vf) & 1) !== 0) this.#host.interruptPf();
  }

  readMemoryVf(vf: number, dword: number): number {
    return this.#words[VMBMEM + vf * MAILBOX_DWORDS + dword] as number;
  }

  writeMemoryVf(vf: number, dword: number, value: number): void {
    if ((this.#state(vf) & PFU) === 0) this.#words[VMBMEM + vf * MAILBOX_DWORDS + dword] = value;
  }

  // ---- resets ----

  #forget(vf: number): void {
    this.#words[MBVFICR] = (this.#words[MBVFICR] as number) & ~(0x1_0001 << vf);
  }

  /** The VF lets go of everything; whether the PF is ready stays as it is. With `wipe` another driver may be next, and finds nothing of this one's. */
  resetVf(vf: number, wipe: boolean): void {
    this.#set(vf, this.#state(vf) & (V2P_RSTI | V2P_RSTD));
    this.#forget(vf);
    if (wipe) this.#words.fill(0, VMBMEM + vf * MAILBOX_DWORDS, VMBMEM + (vf + 1) * MAILBOX_DWORDS);
  }

  /** 7.10.2.2: the port was reset and its driver is not ready: every VF sees RSTI. */
  resetAll(): void {
    this.#words.fill(V2P_RSTI, V2PMAILBOX, V2PMAILBOX + 8);
    this.#words[MBVFICR] = 0;
  }

  /** CTRL_EXT.PFRSTD: the PF's driver is ready. */
  pfReady(): void {
    for (let vf = 0; vf < 8; vf++) this.#set(vf, (this.#state(vf) & ~V2P_RSTI) | V2P_RSTD);
  }
}
