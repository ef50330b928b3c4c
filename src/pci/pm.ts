// The power management capability (PCI PM 1.2 3.2, PCIe 4.0 7.5.2): D-states with their transition rules and PME. Outside D0 the function decodes nothing but
// configuration space and masters nothing (the fabric sees to it through `powerState`). Left out: D3cold (that is detaching), the data register.

import type { Nanos, Timer } from '#core/clock';
import { type Capability, type CapabilityArea, EFFECT_DECODE, EFFECT_INTERRUPTS, EFFECT_MASTERING, EFFECT_NONE, EFFECT_SOFT_RESET } from './capability.ts';
import { rootPortAbove } from './express.ts';
import type { ResetKind } from './ports.ts';

export type PowerState = 0 | 1 | 2 | 3;

export interface PowerManagementOptions {
  readonly d1?: boolean;
  readonly d2?: boolean;
  /** D3hot -> D0 keeps the function's state (No_Soft_Reset); otherwise it is an internal reset. Default false. */
  readonly noSoftReset?: boolean;
  /** States from which PME can be signalled; default none. */
  readonly pmeFrom?: readonly ('d0' | 'd1' | 'd2' | 'd3hot' | 'd3cold')[];
  /** Software moved the function to another state. */
  readonly onMove?: (state: PowerState) => void;
}

const CAPABILITIES = 2;
const CONTROL = 4;
const STATE = 3;
const NO_SOFT_RESET = 8;
const PME_ENABLE = 0x100;
const PME_STATUS = 0x8000;
const PME_CONTEXT = PME_ENABLE | PME_STATUS;
const VERSION = 3;
const PME_STATES = ['d0', 'd1', 'd2', 'd3hot', 'd3cold'] as const;
/** PCIe 4.0 5.3.3.3.1: an unserviced PME message is repeated every 100 ms. */
const PME_SERVICE_TIMEOUT: Nanos = 100e6;
const MOVED = EFFECT_DECODE | EFFECT_MASTERING | EFFECT_INTERRUPTS;

export class PowerManagement implements Capability {
  readonly id = 0x01;
  readonly size = 8;
  readonly #options: PowerManagementOptions;
  #area!: CapabilityArea;
  #pmeContext = 0;
  #repeat: Timer | undefined;

  constructor(options: PowerManagementOptions = {}) {
    this.#options = options;
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    const { d1, d2, noSoftReset, pmeFrom = [] } = this.#options;
    const pme = PME_STATES.reduce((all, state, i) => all | (pmeFrom.includes(state) ? 0x800 << i : 0), 0);
    area.set16(CAPABILITIES, VERSION | (d1 ? 0x200 : 0) | (d2 ? 0x400 : 0) | pme);
    area.set16(CONTROL, noSoftReset ? NO_SOFT_RESET : 0);
    area.permitWrite(CONTROL, 2, pme === 0 ? STATE : STATE | PME_ENABLE);
    if (pme === 0) return;
    area.permitClear(CONTROL, 2, PME_STATUS);
    // PCI PM 1.2 3.2.4: with PME from D3cold both bits outlive every reset.
    if (pmeFrom.includes('d3cold')) area.keepSticky(CONTROL, 2, PME_CONTEXT);
  }

  get powerState(): PowerState {
    return (this.#area.get16(CONTROL) & STATE) as PowerState;
  }

  /** The function wants attention (a wake event). Reaches the root port while PME is enabled and the present state may signal it. */
  assertPme(): void {
    if ((this.#area.get16(CAPABILITIES) & (0x800 << this.powerState)) === 0) return;
    this.#area.set16(CONTROL, this.#area.get16(CONTROL) | PME_STATUS);
    this.#pmeContext = this.#area.get16(CONTROL) & PME_CONTEXT;
    this.#signal();
  }

  /** Sends PM_PME while status and enable are both set, and again until software clears one of them. */
  #signal(): void {
    if ((this.#area.get16(CONTROL) & PME_CONTEXT) !== PME_CONTEXT) {
      this.#repeat?.cancel();
      return;
    }
    const { host } = this.#area;
    const clock = host.services?.clock;
    if (clock === undefined) return;
    rootPortAbove(host)?.receivePme(host.routingId);
    this.#repeat ??= clock.timer(() => this.#signal());
    this.#repeat.arm(clock.now() + PME_SERVICE_TIMEOUT);
  }

  afterWrite(register: number, old: number, _written: number, _lanes: number): number {
    if (register !== CONTROL) return EFFECT_NONE;
    const area = this.#area;
    const from = old & STATE;
    let to = area.get16(CONTROL) & STATE;
    if (!this.#mayMove(from, to)) {
      // PCI PM 1.2 3.2.4: the write completes, the state does not change.
      area.set16(CONTROL, (area.get16(CONTROL) & ~STATE) | from);
      area.host.services?.log.guestError(`power state D${to} refused in D${from}`);
      to = from;
    }
    this.#pmeContext = area.get16(CONTROL) & PME_CONTEXT;
    if (((old ^ this.#pmeContext) & PME_CONTEXT) !== 0) this.#signal();
    if (from === to) return EFFECT_NONE;
    this.#options.onMove?.(to as PowerState);
    if (from === 3 && to === 0 && !this.#options.noSoftReset) return MOVED | EFFECT_SOFT_RESET;
    return MOVED;
  }

  /** PCI PM 1.2 5.2-5.4: deeper from anywhere, otherwise only back to D0; D1 and D2 where declared. */
  #mayMove(from: number, to: number): boolean {
    if (to === 1 && !this.#options.d1) return false;
    if (to === 2 && !this.#options.d2) return false;
    return to === 0 || to >= from;
  }

  reset(kind: ResetKind): void {
    // PCI PM 1.2 5.4: the internal reset of D3hot -> D0 keeps the PME context.
    if (kind === 'd3hot') this.#area.set16(CONTROL, (this.#area.get16(CONTROL) & ~PME_CONTEXT) | this.#pmeContext);
    this.#pmeContext = this.#area.get16(CONTROL) & PME_CONTEXT;
    if (this.#pmeContext !== PME_CONTEXT) this.#repeat?.cancel();
  }

  detached(): void {
    this.#repeat?.cancel();
    this.#repeat = undefined;
  }

  save(): number {
    return this.#repeat?.deadline ?? -1;
  }

  restore(state: unknown): void {
    this.#pmeContext = this.#area.get16(CONTROL) & PME_CONTEXT;
    this.#repeat?.cancel();
    const clock = this.#area.host.services?.clock;
    if (typeof state !== 'number' || !Number.isFinite(state) || state < 0 || clock === undefined) return;
    this.#repeat ??= clock.timer(() => this.#signal());
    this.#repeat.arm(state);
  }
}
