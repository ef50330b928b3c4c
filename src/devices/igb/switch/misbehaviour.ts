// What a pool's driver does that it should not (82576 7.10.3.8): sending with an address or a VLAN that is not its own, when DTXSWC guards the pool, and descriptors that no driver writes. Which queue, in
// WVBR; what it was last, in LVMMC; with DTXCTL's consent the pool is stopped (MDFB) until the physical function lets it go, and an interrupt tells of it.

import { AT } from '../registers.ts';
import type { AddressTable } from './address-table.ts';
import type { FrameHeader } from './frame-header.ts';
import type { VlanTable } from './vlan-table.ts';

const { DTXCTL, DTXSWC, LVMMC, MDFB, WVBR } = AT;

const DTXCTL_ENABLE_SPOOF_QUEUE = 1 << 1;
const DTXCTL_MDP_EN = 1 << 5;
const DTXCTL_SPOOF_INT = 1 << 6;

/** LVMMC: what it was; 31:29 say which pool. */
const LVMMC_MAC_SPOOF = 1 << 0;
const LVMMC_VLAN_SPOOF = 1 << 1;
export const LVMMC_DESCRIPTOR = 1 << 2;

export class Misbehaviour {
  readonly #words: Uint32Array;
  readonly #addresses: AddressTable;
  readonly #vlans: VlanTable;

  constructor(words: Uint32Array, addresses: AddressTable, vlans: VlanTable) {
    this.#words = words;
    this.#addresses = addresses;
    this.#vlans = vlans;
  }

  /** DTXSWC wants the pool's frames looked at. */
  guards(pool: number): boolean {
    return ((this.#words[DTXSWC] as number) & (0x101 << pool)) !== 0;
  }

  /** What is wrong with who the frame says it is from; 0: nothing. */
  judge(header: FrameHeader, pool: number): number {
    const control = this.#words[DTXSWC] as number;
    const bit = 1 << pool;
    if ((control & bit) !== 0 && (this.#addresses.ownersOfSource(header) & bit) === 0) return LVMMC_MAC_SPOOF;
    // An untagged frame says nothing of a VLAN.
    if ((control & (bit << 8)) !== 0 && header.tagged && (this.#vlans.members(header.vlan) & bit) === 0) return LVMMC_VLAN_SPOOF;
    return 0;
  }

  /** Records it. True: the physical function is to be told (ICR.DOUTSYNC). */
  record(queue: number, cause: number): boolean {
    const words = this.#words;
    const pool = queue & 7;
    words[LVMMC] = ((pool << 29) | cause) >>> 0;
    const control = words[DTXCTL] as number;
    const descriptor = cause === LVMMC_DESCRIPTOR;
    if (!descriptor) words[WVBR] = (words[WVBR] as number) | (1 << queue);
    if ((control & (descriptor ? DTXCTL_MDP_EN : DTXCTL_ENABLE_SPOOF_QUEUE)) !== 0) words[MDFB] = (words[MDFB] as number) | (1 << pool);
    return (control & (descriptor ? DTXCTL_MDP_EN : DTXCTL_SPOOF_INT)) !== 0;
  }
}
