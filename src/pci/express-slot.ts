// The slot registers of a root or downstream port: native hot plug (PCIe 4.0 6.7, 7.5.3.9-7.5.3.11). Events set status bits; commands written to slot control
// complete at once. Left out: the electromechanical interlock. What plugging does to the tree is hotplug.ts; the link is express-link.ts.

import type { CapabilityArea } from './capability.ts';

export interface SlotOptions {
  /** Physical slot number, 0..8191. */
  readonly number?: number;
  readonly attentionButton?: boolean;
  readonly powerController?: boolean;
  readonly mrlSensor?: boolean;
  readonly attentionIndicator?: boolean;
  readonly powerIndicator?: boolean;
  /** Devices may vanish without notice (Hot-Plug Surprise). */
  readonly surprise?: boolean;
  /** Commands complete silently (No Command Completed Support). */
  readonly noCommandCompleted?: boolean;
}

export const Indicator = { on: 1, blink: 2, off: 3 } as const;
export type Indicator = (typeof Indicator)[keyof typeof Indicator];

export const SlotEvent = {
  attentionButton: 1,
  powerFault: 2,
  mrlSensorChanged: 4,
  presenceChanged: 8,
  commandCompleted: 16,
  linkStateChanged: 256,
} as const;
export type SlotEvent = (typeof SlotEvent)[keyof typeof SlotEvent];

const CAPABILITIES = 20;
const CONTROL = 24;
const STATUS = 26;
const HOT_PLUG_CAPABLE = 0x40;
const EVENTS = 0x11f;
const MRL_OPEN = 0x20;
const PRESENT = 0x40;
const HOT_PLUG_INTERRUPT = 0x20;
const LINK_STATE_ENABLE = 0x1000;
const POWER_OFF = 0x400;

export class SlotRegisters {
  readonly options: SlotOptions;
  /** Told after each command: the hot plug API waits for power and indicator. */
  onCommand: (() => void) | undefined;
  readonly #area: CapabilityArea;
  #present = false;

  /** @throws RangeError on a slot number that does not fit. */
  constructor(area: CapabilityArea, options: SlotOptions) {
    this.#area = area;
    this.options = options;
    const number = options.number ?? 0;
    if (!Number.isInteger(number) || number < 0 || number > 0x1fff) throw new RangeError(`slot number ${number} is not within 0..8191`);
    const bit = (on: boolean | undefined, position: number): number => (on ? 1 << position : 0);
    area.set32(
      CAPABILITIES,
      bit(options.attentionButton, 0) |
        bit(options.powerController, 1) |
        bit(options.mrlSensor, 2) |
        bit(options.attentionIndicator, 3) |
        bit(options.powerIndicator, 4) |
        bit(options.surprise, 5) |
        HOT_PLUG_CAPABLE |
        bit(options.noCommandCompleted, 18) |
        (number << 19),
    );
    area.permitWrite(
      CONTROL,
      2,
      bit(options.attentionButton, 0) |
        bit(options.powerController, 1) |
        bit(options.mrlSensor, 2) |
        8 |
        bit(!options.noCommandCompleted, 4) |
        HOT_PLUG_INTERRUPT |
        (options.attentionIndicator ? 0xc0 : 0) |
        (options.powerIndicator ? 0x300 : 0) |
        (options.powerController ? POWER_OFF : 0) |
        LINK_STATE_ENABLE,
    );
    area.permitClear(STATUS, 2, EVENTS);
    this.settle();
  }

  /** Power as it is at reset: on where a device sits, off in an empty slot. */
  settle(): void {
    const { powerController, powerIndicator, attentionIndicator } = this.options;
    const power = this.#present ? Indicator.on : Indicator.off;
    this.#area.set16(
      CONTROL,
      (this.#area.get16(CONTROL) & 0xf83f) |
        (attentionIndicator ? Indicator.off << 6 : 0) |
        (powerIndicator ? power << 8 : 0) |
        (powerController && !this.#present ? POWER_OFF : 0),
    );
    this.#setStatus(PRESENT, this.#present);
  }

  get present(): boolean {
    return this.#present;
  }

  /** A device is in the slot or gone. Cold (before the guest ran): no event, and power is on. */
  setPresent(present: boolean, hot: boolean): void {
    if (present === this.#present) return;
    this.#present = present;
    this.#setStatus(PRESENT, present);
    if (hot) this.event(SlotEvent.presenceChanged);
    else this.settle();
  }

  setLatch(open: boolean): void {
    if (((this.#area.get16(STATUS) & MRL_OPEN) !== 0) === open) return;
    this.#setStatus(MRL_OPEN, open);
    this.event(SlotEvent.mrlSensorChanged);
  }

  event(event: SlotEvent): void {
    this.#setStatus(event, true);
  }

  #setStatus(bits: number, on: boolean): void {
    const status = this.#area.get16(STATUS);
    this.#area.set16(STATUS, on ? status | bits : status & ~bits);
  }

  get powered(): boolean {
    return !this.options.powerController || (this.#area.get16(CONTROL) & POWER_OFF) === 0;
  }

  get powerIndicator(): Indicator {
    return ((this.#area.get16(CONTROL) >>> 8) & 3) as Indicator;
  }

  get attentionIndicator(): Indicator {
    return ((this.#area.get16(CONTROL) >>> 6) & 3) as Indicator;
  }

  /** PCIe 4.0 6.7.3.4: interrupt enable and any event with its own enable. Events 0..4 have like-numbered enables; the link's is bit 12. */
  get interrupting(): boolean {
    const control = this.#area.get16(CONTROL);
    const status = this.#area.get16(STATUS);
    if ((control & HOT_PLUG_INTERRUPT) === 0) return false;
    return (control & status & 0x1f) !== 0 || ((control & LINK_STATE_ENABLE) !== 0 && (status & SlotEvent.linkStateChanged) !== 0);
  }

  /** Software wrote to slot control. `old` is the dword before. Returns whether power changed. */
  command(old: number): boolean {
    // 7.5.3.10: the reserved indicator encoding leaves the indicator as it was.
    const before = old & 0xffff;
    let now = this.#area.get16(CONTROL);
    if ((now & 0xc0) === 0) now |= before & 0xc0;
    if ((now & 0x300) === 0) now |= before & 0x300;
    this.#area.set16(CONTROL, now);
    // 6.7.3.2: any write to slot control is one command.
    if (!this.options.noCommandCompleted) this.event(SlotEvent.commandCompleted);
    return ((before ^ now) & POWER_OFF) !== 0;
  }

  save(): boolean {
    return this.#present;
  }

  restore(present: boolean): void {
    this.#present = present;
  }
}
