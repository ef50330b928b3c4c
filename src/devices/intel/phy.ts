// The copper transceiver behind MDIC: IEEE 802.3 clause 22 registers and, beyond, those of the M88E1011 family (8254x 13.4.7, chapter 11, 8254x 13.6) or of the IGP one in an 82576 (82576 3.5.8), whose upper registers come in pages. Autonegotiation takes time on the clock. The partner at
// the other end of the cable offers everything, so that what both can do is what this end advertises.

import type { Clock, Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';

const PHY_CONTROL = 0;
const PHY_STATUS = 1;
const PHY_ID1 = 2;
const PHY_ID2 = 3;
const ADVERTISEMENT = 4;
const PARTNER_ABILITY = 5;
const EXPANSION = 6;
const NEXT_PAGE = 7;
const GIGABIT_CONTROL = 9;
const GIGABIT_STATUS = 10;
const EXTENDED_STATUS = 15;
const SPECIFIC_CONTROL = 16;
const SPECIFIC_STATUS = 17;
const INTERRUPT_ENABLE = 18;
const INTERRUPT_STATUS = 19;
const EXTENDED_CONTROL = 20;
const RECEIVE_ERRORS = 21;

const RESET = 0x8000;
const LOOPBACK = 0x4000;
const AUTONEGOTIATE = 0x1000;
const POWER_DOWN = 0x0800;
const RESTART = 0x0200;
const FULL_DUPLEX = 0x0100;

const STATUS_COMPLETE = 0x20;
const STATUS_LINK = 0x04;
const INTERRUPT_COMPLETE = 0x0800;
const INTERRUPT_LINK = 0x0400;

/** Bits software may change; what is not here is read-only. */
const WRITABLE: Readonly<Record<number, number>> = {
  [PHY_CONTROL]: 0x7dc0,
  [ADVERTISEMENT]: 0xafff,
  [NEXT_PAGE]: 0xafff,
  [GIGABIT_CONTROL]: 0xff00,
  [SPECIFIC_CONTROL]: 0xffff,
  [INTERRUPT_ENABLE]: 0xffff,
  [EXTENDED_CONTROL]: 0xffff,
  // Test registers behind which drivers reach the analogue part.
  29: 0xffff,
  30: 0xffff,
  31: 0xffff,
};

/** Values that a reset brings back; of 0 and 4 to 20 only, the rest is fixed or read from the state of the link. */
const RESET_VALUES: Readonly<Record<number, number>> = {
  [PHY_CONTROL]: AUTONEGOTIATE | FULL_DUPLEX | 0x40,
  [ADVERTISEMENT]: 0x0de1,
  [NEXT_PAGE]: 0x2001,
  [GIGABIT_CONTROL]: 0x0e00,
  [EXTENDED_STATUS]: 0x3000,
  [SPECIFIC_CONTROL]: 0x0068,
  [EXTENDED_CONTROL]: 0x0c60,
};

/** 10 and 100 Mb/s in both duplexes, autonegotiation, extended status, preamble suppression. */
const STATUS_ABILITIES = 0x7949;
const ALL_BITS = 0xffff;
const PARTNER = 0x4de1;
const REGISTERS = 32;

/** `kind`: its registers from 16 on are of the IGP family. */
export const IGP_PHY = 1;

/** IGP: register 31 chooses a page for the others, and holds what a driver calls the register's whole number. */
const PAGE_SELECT = 31;
const PAGE_SHIFT = 5;
const PORT_STATUS = 17;
/** Pages with the automatic gain of the four pairs, by which drivers guess the cable's length: of a short one. */
const GAIN_PAGES = [0x8d, 0x95, 0xa5, 0xc5] as const;
const GAIN_SHORT = 4 << 9;

export interface PhyOptions {
  readonly clock: Clock;
  /** IGP_PHY; absent: of the M88E1011 family. */
  readonly kind?: number;
  /** Identifier words. */
  readonly id: readonly [number, number];
  /** How long autonegotiation takes. */
  readonly negotiation: Nanos;
  /** Whoever carries frames over the cable has taken this end up; until then (`served`) there is nobody to negotiate with. Default true. */
  readonly served?: boolean;
  /** Link, speed or duplex as the MAC sees them may have changed. */
  readonly onChange: () => void;
  /** An enabled interrupt condition came up. */
  readonly onInterrupt: () => void;
}

export interface SavedPhy {
  readonly registers: Uint16Array;
  readonly cable: boolean;
  readonly complete: boolean;
  readonly linkWasLost: boolean;
  /** When autonegotiation ends; -1: it does not run. */
  readonly ends: Nanos;
}

export class Phy {
  readonly #options: PhyOptions;
  readonly #registers = new Uint16Array(REGISTERS);
  readonly #timer: Timer;
  #cable: boolean;
  #served: boolean;
  #complete = false;
  /** Latched low until read (IEEE 802.3 22.2.4.2). */
  #linkWasLost = true;

  constructor(options: PhyOptions, cable: boolean) {
    this.#options = options;
    this.#cable = cable;
    this.#served = options.served ?? true;
    this.#timer = options.clock.timer(() => this.#negotiated());
    this.#load();
  }

  /** The cable is in and its far end alive. */
  get cable(): boolean {
    return this.#cable;
  }

  set cable(on: boolean) {
    this.#connect(on, this.#served);
  }

  set served(on: boolean) {
    this.#connect(this.#cable, on);
  }

  get #connected(): boolean {
    return this.#cable && this.#served;
  }

  #connect(cable: boolean, served: boolean): void {
    const was = this.#connected;
    const before = this.linkUp;
    this.#cable = cable;
    this.#served = served;
    if (this.#connected === was) return;
    this.#complete = false;
    if (was) this.#timer.cancel();
    else this.#begin();
    this.#tell(before);
  }

  get loopback(): boolean {
    return (this.#control & LOOPBACK) !== 0;
  }

  /** As the MAC's link input has it. A PHY in loopback has a link with itself. */
  get linkUp(): boolean {
    if ((this.#control & POWER_DOWN) !== 0) return false;
    if (this.loopback) return true;
    return this.#connected && (this.#complete || (this.#control & AUTONEGOTIATE) === 0);
  }

  /** 0: 10, 1: 100, 2: 1000 Mb/s, the encoding of STATUS.SPEED. */
  get speed(): number {
    if ((this.#control & AUTONEGOTIATE) === 0) return (this.#control & 0x40) !== 0 ? 2 : (this.#control & 0x2000) !== 0 ? 1 : 0;
    if ((this.#at(GIGABIT_CONTROL) & 0x0300) !== 0) return 2;
    return (this.#at(ADVERTISEMENT) & 0x0380) !== 0 ? 1 : 0;
  }

  get fullDuplex(): boolean {
    if ((this.#control & AUTONEGOTIATE) === 0) return (this.#control & FULL_DUPLEX) !== 0;
    const speed = this.speed;
    if (speed === 2) return (this.#at(GIGABIT_CONTROL) & 0x0200) !== 0;
    return (this.#at(ADVERTISEMENT) & (speed === 1 ? 0x0100 : 0x0040)) !== 0;
  }

  /** The hardware reset pin: everything at its default; autonegotiation begins. */
  reset(): void {
    const before = this.linkUp;
    this.#load();
    this.#tell(before);
  }

  #load(): void {
    this.#registers.fill(0);
    for (const [register, value] of Object.entries(RESET_VALUES))
      if (this.#options.kind !== IGP_PHY || Number(register) < 16) this.#registers[Number(register)] = value;
    this.#complete = false;
    this.#timer.cancel();
    this.#begin();
  }

  #begin(): void {
    if (!this.#connected || (this.#control & AUTONEGOTIATE) === 0 || (this.#control & POWER_DOWN) !== 0) return;
    this.#timer.arm(this.#options.clock.now() + this.#options.negotiation);
  }

  #negotiated(): void {
    const before = this.linkUp;
    this.#complete = true;
    this.#note(INTERRUPT_COMPLETE);
    this.#tell(before);
  }

  #tell(before: boolean): void {
    if (before !== this.linkUp) {
      if (before) this.#linkWasLost = true;
      this.#note(INTERRUPT_LINK);
    }
    this.#options.onChange();
  }

  #note(condition: number): void {
    if (this.#options.kind === IGP_PHY) return;
    this.#registers[INTERRUPT_STATUS] = this.#at(INTERRUPT_STATUS) | condition;
    if ((this.#at(INTERRUPT_ENABLE) & condition) !== 0) this.#options.onInterrupt();
  }

  #at(register: number): number {
    return this.#registers[register] as number;
  }

  get #control(): number {
    return this.#at(PHY_CONTROL);
  }

  read(register: number): number {
    if (this.#options.kind === IGP_PHY && register >= 16) return this.#readIgp(register);
    switch (register) {
      case PHY_STATUS: {
        const link = this.linkUp && !this.#linkWasLost;
        if (this.linkUp) this.#linkWasLost = false;
        return STATUS_ABILITIES | (this.#complete ? STATUS_COMPLETE : 0) | (link ? STATUS_LINK : 0);
      }
      case PHY_ID1:
        return this.#options.id[0];
      case PHY_ID2:
        return this.#options.id[1];
      case PARTNER_ABILITY:
        return this.#complete ? PARTNER : 0;
      case EXPANSION:
        return this.#complete ? 0x0f : 0x04;
      case GIGABIT_STATUS:
        // Local and remote receivers fine, partner can do 1000BASE-T in both duplexes, this end is slave.
        return this.linkUp && this.speed === 2 ? 0x3c00 : 0;
      case SPECIFIC_STATUS:
        return this.#specificStatus();
      case INTERRUPT_STATUS:
      case RECEIVE_ERRORS: {
        const value = this.#at(register);
        this.#registers[register] = 0;
        return value;
      }
      default:
        return this.#at(register & 31);
    }
  }

  /** Speed, duplex, resolved, link in real time (8254x 11, PSTAT). */
  #specificStatus(): number {
    const { linkUp } = this;
    const resolved = this.#complete || (this.#control & AUTONEGOTIATE) === 0;
    return (resolved ? (this.speed << 14) | (this.fullDuplex ? 0x2000 : 0) | 0x0800 : 0) | (linkUp ? 0x0400 | (1 << 7) : 0);
  }

  /** Page 0: control registers that are stored, and the port's status. Of other pages only the gains are there. */
  #readIgp(register: number): number {
    if (register === PAGE_SELECT) return this.#at(PAGE_SELECT);
    const page = this.#at(PAGE_SELECT) >>> PAGE_SHIFT;
    if (page !== 0) return (GAIN_PAGES as readonly number[]).includes(page) && register === PORT_STATUS ? GAIN_SHORT : 0;
    if (register !== PORT_STATUS) return this.#at(register);
    // Speed 15:14 (1: 10, 2: 100, 3: 1000), link 10, duplex 9.
    return this.linkUp ? ((this.speed + 1) << 14) | 0x0400 | (this.fullDuplex ? 0x0200 : 0) : 0;
  }

  write(register: number, value: number): void {
    if (this.#options.kind === IGP_PHY && register >= 16 && register !== PAGE_SELECT && this.#at(PAGE_SELECT) >>> PAGE_SHIFT !== 0) return;
    const mask = this.#options.kind === IGP_PHY && register >= 16 ? ALL_BITS : (WRITABLE[register & 31] ?? 0);
    const before = this.linkUp;
    const old = this.#at(register & 31);
    this.#registers[register & 31] = (old & ~mask) | (value & mask);
    if (register !== PHY_CONTROL) return;
    if ((value & RESET) !== 0) this.#softReset();
    else if ((value & AUTONEGOTIATE) !== 0 && ((value & RESTART) !== 0 || (old & AUTONEGOTIATE) === 0 || (old & ~value & POWER_DOWN) !== 0)) {
      this.#complete = false;
      this.#begin();
    } else if ((value & AUTONEGOTIATE) === 0 || (value & POWER_DOWN) !== 0) {
      this.#complete = false;
      this.#timer.cancel();
    }
    this.#tell(before);
  }

  /** Self-clearing. What was written along with it stays: it takes effect now (8254x 11.1.3). */
  #softReset(): void {
    this.#complete = false;
    this.#timer.cancel();
    this.#begin();
  }

  save(): SavedPhy {
    return {
      registers: this.#registers.slice(),
      cable: this.#cable,
      complete: this.#complete,
      linkWasLost: this.#linkWasLost,
      ends: this.#timer.deadline ?? -1,
    };
  }

  /** @throws RestoreError, having changed nothing */
  check(saved: Partial<SavedPhy> | undefined): asserts saved is SavedPhy {
    const { registers, cable, complete, linkWasLost, ends } = saved ?? {};
    if (!(registers instanceof Uint16Array) || registers.length !== REGISTERS) throw new RestoreError(`saved PHY needs ${REGISTERS} registers`);
    if (![cable, complete, linkWasLost].every((flag) => typeof flag === 'boolean')) throw new RestoreError('saved PHY state is malformed');
    if (!(Number.isFinite(ends) && (ends as number) >= -1)) throw new RestoreError(`saved PHY ends autonegotiation at ${ends}`);
    registers.forEach((value, register) => {
      const upper = this.#options.kind === IGP_PHY && register >= 16;
      const fixed = upper ? 0 : ~((WRITABLE[register] ?? 0) | (RESET_VALUES[register] ?? 0));
      if (register !== INTERRUPT_STATUS && (value & fixed) !== 0) throw new RestoreError(`saved PHY register ${register} holds ${value}`);
    });
  }

  restore(saved: SavedPhy): void {
    this.#registers.set(saved.registers);
    this.#cable = saved.cable;
    this.#complete = saved.complete;
    this.#linkWasLost = saved.linkWasLost;
    this.#timer.cancel();
    const { clock, negotiation } = this.#options;
    if (saved.ends >= 0) this.#timer.arm(Math.min(saved.ends, clock.now() + negotiation));
    // A record of an end that was not served yet.
    else if (!saved.complete) this.#begin();
  }
}
