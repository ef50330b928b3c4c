// MAC control frames that arrive (IEEE 802.3 31; 82576 7.6): which are addressed to MAC control, PAUSE, and which of them go on to the host.

import { count } from '#devices/intel/statistics';
import type { PortState } from './port-state.ts';
import { AT, CTRL_RFCE, RCTL_DPF, RCTL_PMCF } from './registers.ts';
import { COUNT } from './statistics.ts';

const { CTRL, FCAH, FCAL, RAH, RAL, RCTL } = AT;

const SHORTEST_ON_WIRE = 64;
const OPCODE_PAUSE = 1;

export class MacControl {
  readonly #state: PortState;
  readonly #paused: () => void;
  #control = 0;
  #pausable = false;

  /** @param paused a PAUSE frame came */
  constructor(state: PortState, paused: () => void) {
    this.#state = state;
    this.#paused = paused;
  }

  configure(): void {
    const { registers } = this.#state;
    this.#control = registers[RCTL] as number;
    this.#pausable = ((registers[CTRL] as number) & CTRL_RFCE) !== 0;
  }

  /** Those of them that no filter takes go to the host all the same. */
  get passes(): boolean {
    return (this.#control & RCTL_PMCF) !== 0;
  }

  /** The frame at `at`, whose type says so, is addressed to MAC control: to the flow control address, or the station's own (IEEE 802.3 31B). */
  addressed(bytes: Uint8Array, at: number): boolean {
    const words = this.#state.registers;
    const low = ((bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
    const high = (bytes[at + 4] as number) | ((bytes[at + 5] as number) << 8);
    return (words[FCAL] === low && words[FCAH] === high) || (words[RAL] === low && ((words[RAH] as number) & 0x8000_ffff) >>> 0 === (0x8000_0000 | high) >>> 0);
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
