// VLANs and who is in them: VFTA says which tags pass at all while RCTL.VFE is set, the 32 entries of VLVF which pools are in a VLAN and which VLANs stay inside (82576 7.10.3.3, 8.14).

import { AT, RCTL_VFE } from '../registers.ts';
import type { FrameHeader } from './frame-header.ts';

const { RCTL, VFTA, VLVF } = AT;

const ENTRIES = 32;
const VALID = 0x8000_0000;
const LOCAL = 1 << 20;
const CFIEN = 1 << 19;

export class VlanTable {
  readonly #words: Uint32Array;
  readonly #members = new Uint8Array(4096);
  /** Entries of VLVF for each VLAN, a bit each. */
  readonly #entries = new Uint32Array(4096);
  readonly #local = new Uint8Array(4096);
  readonly #used = new Uint16Array(ENTRIES);
  #usedCount = 0;
  /** RCTL.VFE. */
  filters = false;
  #control = 0;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  rebuild(): void {
    for (let i = 0; i < this.#usedCount; i++) {
      const id = this.#used[i] as number;
      this.#members[id] = 0;
      this.#entries[id] = 0;
      this.#local[id] = 0;
    }
    this.#usedCount = 0;
    this.#control = this.#words[RCTL] as number;
    this.filters = (this.#control & RCTL_VFE) !== 0;
    for (let i = 0; i < ENTRIES; i++) {
      const entry = this.#words[VLVF + i] as number;
      if ((entry & VALID) === 0) continue;
      const id = entry & 0xfff;
      this.#used[this.#usedCount++] = id;
      this.#members[id] = (this.#members[id] as number) | ((entry >>> 12) & 0xff);
      this.#entries[id] = (this.#entries[id] as number) | (1 << i);
      if ((entry & LOCAL) !== 0) this.#local[id] = 1;
    }
  }

  /** The filter of the port as a whole: an untagged frame passes, a tagged one by its VFTA bit, and by its CFI bit if that is looked at. */
  passes(header: FrameHeader): boolean {
    if (!this.filters || !header.tagged) return true;
    if ((this.#control & CFIEN) !== 0 && ((header.tci >>> 12) & 1) !== ((this.#control >>> 20) & 1)) return false;
    return (((this.#words[VFTA + (header.vlan >>> 5)] as number) >>> (header.vlan & 31)) & 1) !== 0;
  }

  /** Pools in the tag's VLAN. */
  members(vlan: number): number {
    return this.#members[vlan] as number;
  }

  /** VLVF entries that name the VLAN, a bit each. */
  entries(vlan: number): number {
    return this.#entries[vlan] as number;
  }

  /** VLVF.LVLAN: the VLAN does not reach the network. */
  staysInside(header: FrameHeader): boolean {
    return header.tagged && this.#local[header.vlan] === 1;
  }
}
