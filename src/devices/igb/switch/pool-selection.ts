// Which pools a frame is for (82576 7.10.3.3): by address, broadcast, the two hashes and multicast promiscuity; then the VLAN; then the default pool; then VFRE. With replication (VT_CTL.REPL_EN) every
// pool that qualifies gets a copy; without it one does, and group frames that no exact address names are the default pool's.
//
// Before that a frame has to pass the port's own filters (7.1.1.1): some entry, hash or mode takes its address, and VFTA its tag. One that passes by RCTL's modes alone has no pool: the default one gets it.

import { AT } from '../registers.ts';
import { AddressTable } from './address-table.ts';
import type { FrameHeader } from './frame-header.ts';
import { VlanTable } from './vlan-table.ts';

const { DTXSWC, RCTL, STATUS, VFRE, VMOLR, VT_CTL } = AT;

const UPE = 1 << 3;
const MPE = 1 << 4;
const BAM = 1 << 15;

const IGNORE_MAC = 1 << 28;
const DIS_DEF_POOL = 1 << 29;
const REPL_EN = 1 << 30;

const VMOLR_AUPE = 1 << 24;
const VMOLR_ROMPE = 1 << 25;
const VMOLR_ROPE = 1 << 26;
const VMOLR_BAM = 1 << 27;
const VMOLR_MPME = 1 << 28;

const EVERY_POOL = 0xff;

export class PoolSelection {
  readonly addresses: AddressTable;
  readonly vlans: VlanTable;
  readonly #words: Uint32Array;
  #control = 0;
  #acceptsBroadcast = 0;
  #acceptsMulticastHash = 0;
  #acceptsUnicastHash = 0;
  #acceptsMulticast = 0;
  #acceptsUntagged = 0;
  #mayHearItself = 0;
  #default = 0;
  #ignoresMac = false;
  #taken = false;
  replicates = false;
  /** Of the last `select`, a single address: pools whose own it is and that may have it by its VLAN, the sender among them. */
  exact = 0;
  /** Of the last `select`: pools that were for it, and whose VF may not receive (VFRE). */
  disabled = 0;

  constructor(words: Uint32Array) {
    this.#words = words;
    this.addresses = new AddressTable(words);
    this.vlans = new VlanTable(words);
  }

  rebuild(): void {
    const words = this.#words;
    this.#control = words[RCTL] as number;
    const virtualization = words[VT_CTL] as number;
    this.replicates = (virtualization & REPL_EN) !== 0;
    this.#ignoresMac = (virtualization & IGNORE_MAC) !== 0;
    this.#default = (virtualization & DIS_DEF_POOL) !== 0 ? 0 : 1 << ((virtualization >>> 7) & 7);
    this.#acceptsBroadcast = this.#poolsWith(VMOLR_BAM);
    this.#acceptsMulticastHash = this.#poolsWith(VMOLR_ROMPE);
    this.#acceptsUnicastHash = this.#poolsWith(VMOLR_ROPE);
    this.#acceptsMulticast = this.#poolsWith(VMOLR_MPME);
    this.#acceptsUntagged = this.#poolsWith(VMOLR_AUPE);
    this.#mayHearItself = ((words[DTXSWC] as number) >>> 16) & EVERY_POOL;
    this.addresses.rebuild();
    this.vlans.rebuild();
  }

  /** Pools that may receive: VFRE speaks of enabled VFs, a pool of the PF's own is not held back by it. Read where it is, as a VF that resets itself changes it. */
  get enabled(): number {
    const virtual = (1 << (((this.#words[STATUS] as number) >>> 14) & 15)) - 1;
    return ((this.#words[VFRE] as number) | ~virtual) & EVERY_POOL;
  }

  #poolsWith(bit: number): number {
    let pools = 0;
    for (let pool = 0; pool < 8; pool++) if (((this.#words[VMOLR + pool] as number) & bit) !== 0) pools |= 1 << pool;
    return pools;
  }

  /** Pools for a frame from the network (`source` below 0) or from a pool. */
  select(header: FrameHeader, source: number): number {
    this.exact = 0;
    this.disabled = 0;
    if (!this.vlans.passes(header)) return 0;
    let pools = this.#byAddress(header);
    if (!this.#taken) return 0;
    let allowed = EVERY_POOL;
    if (this.vlans.filters) allowed = header.tagged ? this.vlans.members(header.vlan) : this.#acceptsUntagged;
    this.exact &= allowed;
    const others = source < 0 ? EVERY_POOL : ~(1 << source) | this.#mayHearItself;
    pools &= allowed & others;
    // 7.10.3.4: of what was sent here the default pool gets only what is for many.
    if (pools === 0 && (source < 0 || header.group)) pools = this.#default & others;
    if (!this.replicates) pools &= -pools;
    const { enabled } = this;
    this.disabled = pools & ~enabled;
    return pools & enabled;
  }

  /** Candidates by address; `#taken`: the port takes the frame at all. */
  #byAddress(header: FrameHeader): number {
    const { addresses } = this;
    const control = this.#control;
    let pools = addresses.match(header);
    this.#taken = addresses.matched;
    if (!header.group) {
      this.exact = pools;
      if (pools === 0 && addresses.inUnicastHash(header)) {
        pools = this.#acceptsUnicastHash;
        this.#taken = true;
      }
      if ((control & UPE) !== 0) this.#taken = true;
    } else if (header.broadcast) {
      if (this.replicates) pools |= this.#acceptsBroadcast;
      if ((control & BAM) !== 0 || this.#acceptsBroadcast !== 0) this.#taken = true;
    } else {
      if (pools === 0 && addresses.inMulticastHash(header)) {
        if (this.replicates) pools = this.#acceptsMulticastHash;
        this.#taken = true;
      }
      if (this.replicates) pools |= this.#acceptsMulticast;
      if ((control & MPE) !== 0 || this.#acceptsMulticast !== 0) this.#taken = true;
    }
    if (!this.#ignoresMac) return pools;
    this.#taken = true;
    this.exact = 0;
    return EVERY_POOL;
  }
}
