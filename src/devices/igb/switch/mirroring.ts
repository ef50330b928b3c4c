// The four mirroring rules (82576 7.10.3.6): each adds one pool, VMRCTL.MP, to where a frame goes, when it is for certain pools, in certain VLANs, from the network or to it. A frame that goes nowhere is
// not mirrored.

import { AT } from '../registers.ts';

const { VMRCTL, VMRVLAN, VMRVM } = AT;

const RULES = 4;
const VPME = 1;
const UPME = 2;
const DPME = 4;
const VLME = 8;

export class Mirroring {
  readonly #words: Uint32Array;
  #on = false;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  rebuild(): void {
    this.#on = false;
    for (let rule = 0; rule < RULES; rule++) if (((this.#words[VMRCTL + rule] as number) & 15) !== 0) this.#on = true;
  }

  /**
   * Pools that look on.
   * @param entries VLVF entries of the frame's VLAN, a bit each
   * @param uplink it came from the network
   * @param downlink it goes there
   */
  observers(pools: number, entries: number, uplink: boolean, downlink: boolean): number {
    if (!this.#on || (pools === 0 && !downlink)) return 0;
    const words = this.#words;
    let observers = 0;
    for (let rule = 0; rule < RULES; rule++) {
      const control = words[VMRCTL + rule] as number;
      const applies =
        ((control & VPME) !== 0 && (pools & (words[VMRVM + rule] as number)) !== 0) ||
        ((control & UPME) !== 0 && uplink) ||
        ((control & DPME) !== 0 && downlink) ||
        ((control & VLME) !== 0 && (entries & (words[VMRVLAN + rule] as number)) !== 0);
      if (applies) observers |= 1 << ((control >>> 8) & 7);
    }
    return observers;
  }
}
