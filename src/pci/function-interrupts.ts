// A function's InterruptPort: which of INTx, MSI and MSI-X it is in, and the level of its pin. The pin is the wired-or of the device's own line and of
// sources inside the function (hot plug, AER, PME). PCIe 4.0 6.1.

import type { Capability, MessageInterrupts } from './capability.ts';
import type { InterruptPort, MsiMessage } from './ports.ts';

/** What a pin needs to know of its function. */
export interface PinHost {
  readonly intxAllowed: boolean;
  readonly mayMaster: boolean;
  /** Interrupt Status in the Status register. */
  setInterruptStatus(pending: boolean): void;
  /** The level at the pin changed. */
  drivePin(asserted: boolean): void;
  /** A vector the device has but nothing to send it by. */
  dropped(vector: number, mode: string): void;
}

const DEVICE = {};

export class FunctionInterrupts implements InterruptPort {
  onRouteChange: (() => void) | undefined;
  readonly #host: PinHost;
  readonly #msi: MessageInterrupts | undefined;
  readonly #msix: MessageInterrupts | undefined;
  readonly #asserted = new Set<object>();
  #pin = false;

  constructor(host: PinHost, capabilities: readonly Capability[]) {
    this.#host = host;
    this.#msi = capabilities.find((c) => c.messages?.mode === 'msi')?.messages;
    this.#msix = capabilities.find((c) => c.messages?.mode === 'msix')?.messages;
  }

  get #active(): MessageInterrupts | undefined {
    if (this.#msix?.enabled) return this.#msix;
    return this.#msi?.enabled ? this.#msi : undefined;
  }

  get mode(): 'intx' | 'msi' | 'msix' {
    return this.#active?.mode ?? 'intx';
  }

  raise(vector: number): void {
    const active = this.#active;
    if (active === undefined) return;
    if (Number.isInteger(vector) && vector >= 0) active.raise(vector);
    else this.#host.dropped(vector, active.mode);
  }

  message(vector: number): MsiMessage | null {
    return this.#host.mayMaster ? (this.#active?.message(vector) ?? null) : null;
  }

  setLine(asserted: boolean): void {
    this.setSource(DEVICE, asserted);
  }

  get line(): boolean {
    return this.#asserted.has(DEVICE);
  }

  setSource(source: object, asserted: boolean): void {
    if (this.#asserted.has(source) === asserted) return;
    if (asserted) this.#asserted.add(source);
    else this.#asserted.delete(source);
    this.#host.setInterruptStatus(this.#asserted.size > 0);
    this.updatePin();
  }

  /** Derives the pin anew after anything that gates it changed. */
  updatePin(): void {
    const asserted = this.#asserted.size > 0 && this.#host.intxAllowed && this.#active === undefined;
    if (asserted === this.#pin) return;
    this.#pin = asserted;
    this.#host.drivePin(asserted);
  }

  /** A reset: every source is low until its owner says otherwise. */
  clear(): void {
    this.#asserted.clear();
    this.#host.setInterruptStatus(false);
    this.updatePin();
  }

  masteringRestored(): void {
    this.#active?.masteringRestored();
  }
}
