// What the MAC knows of its link (8254x 8.6): LU needs the PHY's link and CTRL.SLU; speed and duplex come from the PHY unless forced; MDIC reaches the PHY; PAUSE stops the transmitter for a time.

import type { Clock, Nanos, Timer } from '#core/clock';
import { Phy, type SavedPhy } from '#devices/intel/phy';
import { type EngineState, FLAG_LINK, FLAG_LOOPBACK, FLAG_PAUSED } from './engine-state.ts';
import { AT, CTRL_FRCDPLX, CTRL_FRCSPD, CTRL_SLU, ICR_LSC, ICR_MDAC, ICR_PHYINT } from './registers.ts';

const STATUS_FD = 1 << 0;
const STATUS_LU = 1 << 1;
const STATUS_TXOFF = 1 << 4;

const PHY_ADDRESS = 1;
const MDIC_WRITE = 1;
const MDIC_READ = 2;
const MDIC_READY = 1 << 28;
const MDIC_INTERRUPT = 1 << 29;
const MDIC_ERROR = 1 << 30;

/** 512 bit times at 1000 Mb/s. */
const QUANTUM: Nanos = 512;

export interface LinkOptions {
  readonly clock: Clock;
  readonly state: EngineState;
  readonly phyId: readonly [number, number];
  readonly negotiation: Nanos;
  readonly cable: boolean;
  readonly raise: (causes: number) => void;
  /** Flags changed: whoever serves the port looks again. */
  readonly wake: () => void;
  /** The cable's link changed, whatever the MAC makes of it. */
  readonly changed: () => void;
}

export class Link {
  readonly phy: Phy;
  readonly #options: LinkOptions;
  readonly #words: Uint32Array;
  readonly #pause: Timer;
  #up = false;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#words = options.state.registers;
    this.#pause = options.clock.timer(() => this.#resume());
    const { clock, phyId: id, negotiation, cable } = options;
    this.phy = new Phy({ clock, id, negotiation, onChange: () => this.#phyChanged(), onInterrupt: () => options.raise(ICR_PHYINT) }, cable);
    this.update();
  }

  #phyChanged(): void {
    this.update();
    this.#options.changed();
  }

  /** Derives everything from CTRL, RCTL and the PHY. */
  update(): void {
    const { state } = this.#options;
    // While the PHY is being made.
    if ((this.phy as Phy | undefined) === undefined) return;
    const up = this.phy.linkUp && ((this.#words[AT.CTRL] as number) & CTRL_SLU) !== 0;
    const mode = ((this.#words[AT.RCTL] as number) >>> 6) & 3;
    state.setFlag(FLAG_LINK, up);
    // RCTL.LBM: 01 the MAC turns frames around, 11 what is behind it does.
    state.setFlag(FLAG_LOOPBACK, mode === 1 || mode === 3 || this.phy.loopback);
    const changed = up !== this.#up;
    this.#up = up;
    if (changed) this.#options.raise(ICR_LSC);
    this.#options.wake();
  }

  /** STATUS as a driver reads it. */
  get status(): number {
    const control = this.#words[AT.CTRL] as number;
    const speed = (control & CTRL_FRCSPD) !== 0 ? (control >>> 8) & 3 : this.phy.speed;
    const fullDuplex = (control & CTRL_FRCDPLX) !== 0 ? (control & STATUS_FD) !== 0 : this.phy.fullDuplex;
    const paused = (this.#options.state.flags & FLAG_PAUSED) !== 0;
    return (fullDuplex ? STATUS_FD : 0) | (this.#up ? STATUS_LU : 0) | (paused ? STATUS_TXOFF : 0) | (speed << 6) | (this.phy.speed << 8);
  }

  /** A command to the management interface: done at once (8254x 13.4.7). */
  manage(value: number): void {
    const register = (value >>> 16) & 31;
    const operation = (value >>> 26) & 3;
    let result = (value & (0x0fff_ffff | MDIC_INTERRUPT)) | MDIC_READY;
    if (((value >>> 21) & 31) !== PHY_ADDRESS || (operation !== MDIC_READ && operation !== MDIC_WRITE)) result |= MDIC_ERROR;
    else if (operation === MDIC_READ) result = (result & ~0xffff) | this.phy.read(register);
    else this.phy.write(register, value & 0xffff);
    this.#words[AT.MDIC] = result;
    if ((value & MDIC_INTERRUPT) !== 0) this.#options.raise(ICR_MDAC);
  }

  /** A PAUSE frame came (IEEE 802.3 31B.3.3). */
  paused(): void {
    const { state, clock } = this.#options;
    const quanta = state.pauseQuanta;
    if (quanta === 0) {
      this.#pause.cancel();
      this.#resume();
      return;
    }
    state.setFlag(FLAG_PAUSED, true);
    this.#pause.arm(clock.now() + quanta * QUANTUM * 10 ** (2 - Math.min(2, this.phy.speed)));
  }

  #resume(): void {
    this.#options.state.setFlag(FLAG_PAUSED, false);
    this.#options.wake();
  }

  /** The MAC's own reset; the PHY goes on (8254x 14.3). */
  reset(): void {
    this.#pause.cancel();
    this.#options.state.setFlag(FLAG_PAUSED, false);
    // The link goes down with SLU, which is no event for a driver that asked for it.
    this.#up = this.phy.linkUp && ((this.#words[AT.CTRL] as number) & CTRL_SLU) !== 0;
    this.update();
  }

  stop(): void {
    this.#pause.cancel();
  }

  save(): { readonly phy: SavedPhy; readonly up: boolean; readonly pauseEnds: Nanos } {
    return { phy: this.phy.save(), up: this.#up, pauseEnds: this.#pause.deadline ?? -1 };
  }

  restore(saved: ReturnType<Link['save']>): void {
    this.#up = saved.up;
    this.phy.restore(saved.phy);
    this.#pause.cancel();
    this.#options.state.setFlag(FLAG_PAUSED, saved.pauseEnds >= 0);
    if (saved.pauseEnds >= 0) this.#pause.arm(saved.pauseEnds);
    this.update();
  }
}
