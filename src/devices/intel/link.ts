// What the MAC of an Intel part knows of its link (8254x 8.6, 82576 3.5, 8.2): LU needs the PHY's link and CTRL.SLU; speed and duplex come from the PHY unless forced; MDIC reaches the PHY; PAUSE stops the transmitter for a
// time. A part says where its registers are, which flags its engines look at and which causes its ICR has for what happens here.

import type { Clock, Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';
import { Phy, type SavedPhy } from './phy.ts';

const CTRL_FD = 1 << 0;
const CTRL_SLU = 1 << 6;
const CTRL_FRCSPD = 1 << 11;
const CTRL_FRCDPLX = 1 << 12;
const STATUS_FD = 1 << 0;
const STATUS_LU = 1 << 1;
const STATUS_TXOFF = 1 << 4;

const PHY_ADDRESS = 1;
const MDIC_WRITE = 1;
const MDIC_READ = 2;
const MDIC_READY = 1 << 28;
const MDIC_INTERRUPT = 1 << 29;
const MDIC_ERROR = 1 << 30;

/** 512 bit times at 1000 Mb/s; a hundred times that at 10 Mb/s. */
const QUANTUM: Nanos = 512;
const LONGEST_PAUSE: Nanos = 0xffff * QUANTUM * 100;

/** What engines look at. */
interface LinkState {
  readonly registers: Uint32Array;
  readonly flags: number;
  /** Of the PAUSE frame that came last. */
  readonly pauseQuanta: number;
  setFlag(flag: number, on: boolean): void;
}

/** What differs between parts. */
interface LinkPart {
  /** Where CTRL, RCTL and MDIC are in the registers. */
  readonly at: { readonly CTRL: number; readonly RCTL: number; readonly MDIC: number };
  /** Frames pass; they go to this device's own receiver; the peer asked for a pause. */
  readonly flags: { readonly link: number; readonly loopback: number; readonly paused: number };
  /** Of ICR: the link changed, a command of MDIC that asked for it is done, the PHY has an interrupt. */
  readonly causes: { readonly changed: number; readonly managed: number; readonly phy: number };
  /** IGP_PHY, or absent (phy.ts). */
  readonly phyKind?: number;
}

export interface LinkOptions {
  readonly clock: Clock;
  readonly part: LinkPart;
  readonly state: LinkState;
  readonly phyId: readonly [number, number];
  readonly negotiation: Nanos;
  readonly cable: boolean;
  /** As the PHY's. */
  readonly served?: boolean;
  readonly raise: (causes: number) => void;
  /** Flags changed: whoever serves the port looks again. */
  readonly wake: () => void;
  /** The cable's link changed, whatever the MAC makes of it. */
  readonly changed: () => void;
}

export interface SavedLink {
  readonly phy: SavedPhy;
  readonly up: boolean;
  /** -1: no pause. */
  readonly pauseEnds: Nanos;
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
    const { clock, part, phyId: id, negotiation, cable, served = true } = options;
    const onInterrupt = (): void => options.raise(part.causes.phy);
    const kind = part.phyKind === undefined ? {} : { kind: part.phyKind };
    this.phy = new Phy({ clock, id, ...kind, negotiation, served, onChange: () => this.#phyChanged(), onInterrupt }, cable);
    this.update();
  }

  #phyChanged(): void {
    this.update();
    this.#options.changed();
  }

  /** Derives everything from CTRL, RCTL and the PHY. */
  update(): void {
    const { state, part } = this.#options;
    // While the PHY is being made.
    if ((this.phy as Phy | undefined) === undefined) return;
    const up = this.#linked;
    const mode = ((this.#words[part.at.RCTL] as number) >>> 6) & 3;
    state.setFlag(part.flags.link, up);
    // RCTL.LBM: 01 the MAC turns frames around, 11 what is behind it does.
    state.setFlag(part.flags.loopback, mode === 1 || mode === 3 || this.phy.loopback);
    const changed = up !== this.#up;
    this.#up = up;
    if (changed) this.#options.raise(part.causes.changed);
    this.#options.wake();
  }

  get #control(): number {
    return this.#words[this.#options.part.at.CTRL] as number;
  }

  get #linked(): boolean {
    return this.phy.linkUp && (this.#control & CTRL_SLU) !== 0;
  }

  /** What STATUS says of the link. */
  get status(): number {
    const control = this.#control;
    const speed = (control & CTRL_FRCSPD) !== 0 ? (control >>> 8) & 3 : this.phy.speed;
    const fullDuplex = (control & CTRL_FRCDPLX) !== 0 ? (control & CTRL_FD) !== 0 : this.phy.fullDuplex;
    const paused = (this.#options.state.flags & this.#options.part.flags.paused) !== 0;
    return (fullDuplex ? STATUS_FD : 0) | (this.#up ? STATUS_LU : 0) | (paused ? STATUS_TXOFF : 0) | (speed << 6) | (this.phy.speed << 8);
  }

  /** A command to the management interface, done at once (8254x 13.4.7, 82576 8.2.4). It is one dword: of a write of some of its bytes nothing is taken, since half a command would start another one. */
  manage(value: number, lanes: number): void {
    if (lanes >>> 0 !== 0xffff_ffff) return;
    const { part, raise } = this.#options;
    const register = (value >>> 16) & 31;
    const operation = (value >>> 26) & 3;
    let result = (value & (0x0fff_ffff | MDIC_INTERRUPT)) | MDIC_READY;
    if (((value >>> 21) & 31) !== PHY_ADDRESS || (operation !== MDIC_READ && operation !== MDIC_WRITE)) result |= MDIC_ERROR;
    else if (operation === MDIC_READ) result = (result & ~0xffff) | this.phy.read(register);
    else this.phy.write(register, value & 0xffff);
    this.#words[part.at.MDIC] = result;
    if ((value & MDIC_INTERRUPT) !== 0) raise(part.causes.managed);
  }

  /** A PAUSE frame came (IEEE 802.3 31B.3.3). */
  paused(): void {
    const { state, clock, part } = this.#options;
    const quanta = state.pauseQuanta;
    if (quanta === 0) {
      this.#pause.cancel();
      this.#resume();
      return;
    }
    state.setFlag(part.flags.paused, true);
    this.#pause.arm(clock.now() + quanta * QUANTUM * 10 ** (2 - Math.min(2, this.phy.speed)));
  }

  #resume(): void {
    this.#options.state.setFlag(this.#options.part.flags.paused, false);
    this.#options.wake();
  }

  /** The MAC's own reset; the PHY goes on (8254x 14.3, 82576 4.2.1). */
  reset(): void {
    this.#pause.cancel();
    this.#options.state.setFlag(this.#options.part.flags.paused, false);
    // The link goes down with SLU, which is no event for a driver that asked for it.
    this.#up = this.#linked;
    this.update();
  }

  stop(): void {
    this.#pause.cancel();
  }

  save(): SavedLink {
    return { phy: this.phy.save(), up: this.#up, pauseEnds: this.#pause.deadline ?? -1 };
  }

  /** @throws RestoreError, having changed nothing */
  check(saved: Partial<SavedLink> | undefined): asserts saved is SavedLink {
    this.phy.check(saved?.phy);
    const { up, pauseEnds } = saved ?? {};
    if (typeof up !== 'boolean' || !(Number.isFinite(pauseEnds) && (pauseEnds as number) >= -1)) throw new RestoreError('saved link is malformed');
  }

  /** A pause that no frame could have asked for is as long as the longest one. */
  restore(saved: SavedLink): void {
    const { state, clock, part } = this.#options;
    this.#up = saved.up;
    this.phy.restore(saved.phy);
    this.#pause.cancel();
    state.setFlag(part.flags.paused, saved.pauseEnds >= 0);
    if (saved.pauseEnds >= 0) this.#pause.arm(Math.min(saved.pauseEnds, clock.now() + LONGEST_PAUSE));
    this.update();
  }
}
