// A link's registers and state (PCIe 4.0 7.5.3.6-7.5.3.8, 7.5.3.18-20): speed and width as negotiated between both ends, training, retraining, disabling, data
// link layer active. There is no physical layer: training takes a fixed time on the clock and always succeeds. Left out: ASPM, equalization, compliance.

import type { Nanos, Timer } from '#core/clock';
import { type CapabilityArea, EFFECT_DECODE, EFFECT_MASTERING, EFFECT_NONE, EFFECT_ROUTING, EFFECT_SECONDARY_RESET } from './capability.ts';

/** Link speeds by their register code: 1 = 2.5 GT/s, 2 = 5, 3 = 8, 4 = 16, 5 = 32, 6 = 64. */
export type LinkSpeed = 1 | 2 | 3 | 4 | 5 | 6;

export interface LinkOptions {
  readonly maxSpeed?: LinkSpeed;
  readonly maxWidth?: 1 | 2 | 4 | 8 | 12 | 16 | 32;
  readonly portNumber?: number;
  /** How long training and retraining take; default 100 microseconds. */
  readonly trainingTime?: Nanos;
}

const CAPABILITIES = 12;
const CONTROL = 16;
const STATUS = 18;
const CAPABILITIES_2 = 44;
const CONTROL_2 = 48;
const DISABLE = 0x10;
const RETRAIN = 0x20;
const BANDWIDTH_INTERRUPT = 0x400;
const AUTONOMOUS_INTERRUPT = 0x800;
const TRAINING = 0x800;
const LAYER_ACTIVE = 0x2000;
const BANDWIDTH_STATUS = 0x4000;
const AUTONOMOUS_STATUS = 0x8000;
const LINK_MOVED = EFFECT_ROUTING | EFFECT_DECODE | EFFECT_MASTERING;

/** What a link asks of the capability it belongs to. */
export interface LinkOwner {
  /** Slot power; true without a slot. */
  readonly powered: boolean;
  /** The data link layer came up or went down. */
  layerChanged(): void;
  /** Interrupt levels may have changed. */
  update(): void;
}

export interface LinkState {
  readonly up: boolean;
  readonly training: Nanos;
}

export class Link {
  /** A port with a link below it, as opposed to the upper end of one. */
  readonly downstream: boolean;
  readonly #area: CapabilityArea;
  readonly #owner: LinkOwner;
  readonly #speed: LinkSpeed;
  readonly #width: number;
  readonly #trainingTime: Nanos;
  #present = false;
  #up = false;
  #partner: Link | undefined;
  #timer: Timer | undefined;

  constructor(area: CapabilityArea, options: LinkOptions, downstream: boolean, owner: LinkOwner) {
    this.#area = area;
    this.#owner = owner;
    this.downstream = downstream;
    this.#speed = options.maxSpeed ?? 4;
    this.#width = options.maxWidth ?? 16;
    this.#trainingTime = options.trainingTime ?? 100e3;
    // ASPM optionality compliance (22) is required; DLL active (20) and bandwidth notification (21) belong to the lower end's controller, the port.
    const port = downstream ? 0x30_0000 : 0;
    area.set32(CAPABILITIES, this.#speed | (this.#width << 4) | 0x40_0000 | port | ((options.portNumber ?? 0) << 24));
    area.set32(CAPABILITIES_2, (2 ** this.#speed - 1) << 1);
    // PCIe 4.0 9.3.5.6-9.3.5.9: a VF's link registers are its PF's to show and to write.
    if (area.host.virtual) return;
    area.set16(CONTROL_2, this.#speed);
    // RCB is a root's own and read-only there (7.5.3.7).
    area.permitWrite(CONTROL, 2, downstream ? 0x02c3 | DISABLE | BANDWIDTH_INTERRUPT | AUTONOMOUS_INTERRUPT : 0x02cb);
    // 6.6.2: what concerns the physical link outlives a function-level reset.
    area.keepOverFunctionReset(CONTROL, 2, 0x0fff);
    if (downstream) area.permitClear(STATUS, 2, BANDWIDTH_STATUS | AUTONOMOUS_STATUS);
    area.permitWrite(CONTROL_2, 2, 0xffbf);
    area.keepSticky(CONTROL_2, 2, 0xffbf);
    if (!downstream) this.#show();
    else area.set16(STATUS, 1);
  }

  get up(): boolean {
    return !this.downstream || this.#up;
  }

  get interrupting(): boolean {
    const control = this.#area.get16(CONTROL);
    const status = this.#area.get16(STATUS);
    return (
      ((control & BANDWIDTH_INTERRUPT) !== 0 && (status & BANDWIDTH_STATUS) !== 0) ||
      ((control & AUTONOMOUS_INTERRUPT) !== 0 && (status & AUTONOMOUS_STATUS) !== 0)
    );
  }

  /** The upper end of the link came into being (or went away); function 0's registers and its siblings' all show the same link. */
  pair(port: Link | undefined): void {
    const before = this.#partner;
    if (port === undefined && before !== undefined && before.#partner === this) before.#partner = undefined;
    this.#partner = port;
    if (port !== undefined) {
      port.#partner = this;
      if (port.#up) port.#show();
    }
    this.#show();
  }

  /** A device is below, or none. `hot`: the guest is running, so training takes its time. */
  setPresent(present: boolean, hot: boolean): void {
    this.#present = present;
    this.settle(hot);
  }

  /** Brings the link to what presence, slot power and Link Disable ask for. Returns the effects of going down. */
  settle(hot: boolean): number {
    if (!this.downstream) return EFFECT_NONE;
    const wanted = this.#present && this.#owner.powered && (this.#area.get16(CONTROL) & DISABLE) === 0;
    if (!wanted) {
      this.#timer?.cancel();
      this.#status(TRAINING, false);
      if (!this.#up) return EFFECT_NONE;
      this.#turn(false);
      return LINK_MOVED | EFFECT_SECONDARY_RESET;
    }
    if (this.#up) return EFFECT_NONE;
    if (hot) this.#train();
    else this.#turn(true);
    return EFFECT_NONE;
  }

  #turn(up: boolean): void {
    this.#up = up;
    this.#show();
    this.#owner.layerChanged();
    this.#area.host.report(LINK_MOVED);
  }

  #train(): void {
    const clock = this.#area.host.services?.clock;
    if (clock === undefined) {
      this.#trained();
      return;
    }
    this.#status(TRAINING, true);
    this.#timer ??= clock.timer(() => this.#trained());
    this.#timer.arm(clock.now() + this.#trainingTime);
  }

  #trained(): void {
    this.#status(TRAINING, false);
    if (!this.#up) {
      this.#turn(true);
      return;
    }
    // 7.5.3.8: set when a retraining that software asked for has completed.
    this.#show();
    this.#status(BANDWIDTH_STATUS, true);
    this.#owner.update();
  }

  #status(bits: number, on: boolean): void {
    const status = this.#area.get16(STATUS);
    this.#area.set16(STATUS, on ? status | bits : status & ~bits);
  }

  /** Speed and width both ends can do, within the port's target speed. */
  #show(): void {
    const keep = this.#area.get16(STATUS) & (TRAINING | BANDWIDTH_STATUS | AUTONOMOUS_STATUS);
    if (this.downstream && !this.#up) {
      this.#area.set16(STATUS, keep | 1);
      return;
    }
    const port = this.downstream ? this : this.#partner;
    const target = port === undefined ? this.#speed : Math.max(1, port.#area.get16(CONTROL_2) & 15);
    const partner = this.#partner ?? this;
    const speed = Math.min(this.#speed, partner.#speed, target);
    const width = Math.min(this.#width, partner.#width);
    // A VF's link status is its PF's to show (PCIe 4.0 9.3.5.7).
    if (!this.#area.host.virtual) this.#area.set16(STATUS, keep | speed | (width << 4) | (this.downstream ? LAYER_ACTIVE : 0));
    if (this.downstream && this.#partner) this.#partner.#show();
  }

  /** Software wrote link control (lower half of the dword). */
  written(old: number, written: number): number {
    if (!this.downstream) return EFFECT_NONE;
    const effects = ((old ^ this.#area.get16(CONTROL)) & DISABLE) !== 0 ? this.settle(true) : EFFECT_NONE;
    if ((written & RETRAIN) !== 0 && this.#up) this.#train();
    return effects;
  }

  /** After a reset of the port itself: control is back to its defaults, the device below is still there. */
  reset(): void {
    this.#timer?.cancel();
    if (this.downstream) {
      this.#show();
      this.settle(false);
    } else this.#show();
  }

  detached(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  save(): LinkState {
    return { up: this.#up, training: this.#timer?.deadline ?? -1 };
  }

  restore(state: LinkState): void {
    this.#up = state.up;
    this.#timer?.cancel();
    const clock = this.#area.host.services?.clock;
    if (state.training < 0 || clock === undefined) return;
    this.#timer ??= clock.timer(() => this.#trained());
    this.#timer.arm(state.training);
  }
}
