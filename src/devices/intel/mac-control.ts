// MAC control frames that arrive (IEEE 802.3 31; 8254x 8.7.1, 82576 7.6): which are addressed to MAC control, PAUSE, and which of them go on to the host.

import type { AddressFilter } from './address-filter.ts';
import { COUNT, count } from './statistics.ts';

const CTRL_RFCE = 1 << 27;
const RCTL_DPF = 1 << 22;
const RCTL_PMCF = 1 << 23;

const SHORTEST_ON_WIRE = 64;
const OPCODE_PAUSE = 1;

/** Where the registers are in the words. */
export interface MacControlLayout {
  readonly CTRL: number;
  readonly RCTL: number;
  readonly FCAL: number;
  readonly FCAH: number;
}

export interface MacControlState {
  readonly registers: Uint32Array;
  readonly statistics: Float64Array;
  /** Of the last PAUSE frame that was obeyed. */
  pauseQuanta: number;
}

export class MacControl {
  readonly #state: MacControlState;
  readonly #at: MacControlLayout;
  readonly #filter: AddressFilter;
  readonly #paused: () => void;
  #control = 0;
  #pausable = false;

  /** @param paused a PAUSE frame came */
  constructor(state: MacControlState, at: MacControlLayout, filter: AddressFilter, paused: () => void) {
    this.#state = state;
    this.#at = at;
    this.#filter = filter;
    this.#paused = paused;
  }

  /** The control plane changed something. */
  configure(): void {
    const { registers } = this.#state;
    this.#control = registers[this.#at.RCTL] as number;
    this.#pausable = ((registers[this.#at.CTRL] as number) & CTRL_RFCE) !== 0;
  }

  /** Those of them that no filter takes go to the host all the same. */
  get passes(): boolean {
    return (this.#control & RCTL_PMCF) !== 0;
  }

  /** The frame at `at`, whose type says so, is addressed to MAC control: to the flow control address, or the station's own (IEEE 802.3 31B). */
  addressed(bytes: Uint8Array, at: number): boolean {
    const { registers: words } = this.#state;
    const { FCAL, FCAH } = this.#at;
    const low = ((bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
    const high = (bytes[at + 4] as number) | ((bytes[at + 5] as number) << 8);
    return (words[FCAL] === low && words[FCAH] === high) || this.#filter.isStation(low, high);
  }

  /** Obeys it. True: it goes no further. */
  take(bytes: Uint8Array, at: number, onWire: number): boolean {
    const state = this.#state;
    const opcode = read16(bytes, at + 14);
    if (opcode !== OPCODE_PAUSE || onWire < SHORTEST_ON_WIRE) {
      count(state.statistics, COUNT.FCRUC);
      return !this.passes;
    }
    if (!this.#pausable) return (this.#control & RCTL_DPF) !== 0;
    state.pauseQuanta = read16(bytes, at + 16);
    count(state.statistics, state.pauseQuanta === 0 ? COUNT.XONRXC : COUNT.XOFFRXC);
    this.#paused();
    return (this.#control & RCTL_DPF) !== 0;
  }
}

function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}
