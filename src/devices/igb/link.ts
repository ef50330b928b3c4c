// What the MAC of an 82576 knows of its link (82576 3.5, 8.2): LU needs the PHY's link and CTRL.SLU; speed and duplex come from the PHY unless forced; MDIC reaches the PHY; PAUSE stops the transmitter for a time.

import type { Clock, Nanos, Timer } from '#core/clock';
import { IGP_PHY, Phy, type SavedPhy } from '#devices/intel/phy';
import { FLAG_LINK, FLAG_LOOPBACK, FLAG_PAUSED, type PortState } from './port-state.ts';
import { AT, CTRL_FRCDPLX, CTRL_FRCSPD, CTRL_SLU, ICR_GPHY, ICR_LSC } from './registers.ts';

const STATUS_FD = 1 << 0;
const STATUS_LU = 1 << 1;
const STATUS_TXOFF = 1 << 4;

/** IGP03 of the 82576, revision 1. */
const PHY_ID = [0x02a8, 0x0391] as const;
const PHY_ADDRESS = 1;
const MDIC_WRITE = 1;
const MDIC_READ = 2;
const MDIC_READY = 1 << 28;
const MDIC_INTERRUPT = 1 << 29;
const MDIC_ERROR = 1 << 30;
/** Of a command done: an interrupt of the management interface, 8.2.4 and the MDAC bit of ICR. */
const ICR_MDAC = 1 << 9;

/** 512 bit times at 1000 Mb/s. */
const QUANTUM: Nanos = 512;

export interface LinkOptions {
  readonly clock: Clock;
  readonly state: PortState;
  readonly negotiation: Nanos;
  readonly cable: boolean;
  readonly raise: (causes: number) => void;
  /** Flags changed: whoever serves the port looks again. */
  readonly wake: () => void;
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
    const { clock, negotiation, cable } = options;
    this.phy = new Phy({ clock, id: PHY_ID, kind: IGP_PHY, negotiation, onChange: () => this.update(), onInterrupt: () => options.raise(ICR_GPHY) }, cable);
    this.update();
  }

  /** Derives everything from CTRL, RCTL and the PHY. */
  update(): void {
    const { state } = this.#options;
    // While the PHY is being made.
    if ((this.phy as Phy | undefined) === undefined) return;
    const up = this.#linked;
    const mode = ((this.#words[AT.RCTL] as number) >>> 6) & 3;
    state.setFlag(FLAG_LINK, up);
    // RCTL.LBM: 01 the MAC turns frames around, 11 what is behind it does.
    state.setFlag(FLAG_LOOPBACK, mode === 1 || mode === 3 || this.phy.loopback);
    const changed = up !== this.#up;
    this.#up = up;
    if (changed) this.#options.raise(ICR_LSC);
    this.#options.wake();
  }

  get #linked(): boolean {
    return this.phy.linkUp && ((this.#words[AT.CTRL] as number) & CTRL_SLU) !== 0;
  }

  /** What STATUS says of the link. */
  get status(): number {
    const control = this.#words[AT.CTRL] as number;
    const speed = (control & CTRL_FRCSPD) !== 0 ? (control >>> 8) & 3 : this.phy.speed;
    const fullDuplex = (control & CTRL_FRCDPLX) !== 0 ? (control & STATUS_FD) !== 0 : this.phy.fullDuplex;
    const paused = (this.#options.state.flags & FLAG_PAUSED) !== 0;
    return (fullDuplex ? STATUS_FD : 0) | (this.#up ? STATUS_LU : 0) | (paused ? STATUS_TXOFF : 0) | (speed << 6) | (this.phy.speed << 8);
  }

  /** A command to the management interface: done at once (8.2.4). */
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

  /** The MAC's own reset; the PHY goes on (82576 4.2.1). */
  reset(): void {
    this.#pause.cancel();
    this.#options.state.setFlag(FLAG_PAUSED, false);
    // The link goes down with SLU, which is no event for a driver that asked for it.
    this.#up = this.#linked;
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
