// What passes between a PCI function, its device and the fabric. See config-space.ts and function.ts for the classes.

import type { Clock } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import type { Log } from '#core/log';

/** conventional: power-on or hot reset through the bridge; function: FLR; d3hot: the internal reset of D3hot -> D0 without NoSoftReset. */
export type ResetKind = 'conventional' | 'function' | 'd3hot';

export interface MsiMessage {
  readonly addressLow: number;
  readonly addressHigh: number;
  readonly data: number;
}

/** A function's interrupts, in whichever mode the guest put it. Never throws; out-of-range vectors are dropped and logged. */
export interface InterruptPort {
  readonly mode: 'intx' | 'msi' | 'msix';
  /** MSI or MSI-X: sends vector's message, or sets its pending bit while masked. In INTx mode nothing: levels are setLine's. */
  raise(vector: number): void;
  /** INTx level as the device wants it (Interrupt Status); reaches the pin unless Interrupt Disable, MSI or MSI-X is on. */
  setLine(asserted: boolean): void;
  /** The message `vector` would send now, or null while it may send none (disabled, masked, no bus mastering). */
  message(vector: number): MsiMessage | null;
  /** Called after a guest changed mode, masks or a message, so that direct routes can be re-derived. */
  onRouteChange: (() => void) | undefined;
}

/** What a device is given when it is attached, and nothing else. */
export interface FunctionServices {
  readonly dma: DmaSpace;
  readonly interrupts: InterruptPort;
  readonly clock: Clock;
  readonly log: Log;
}

/** Where MSI and MSI-X writes end up: the platform's interrupt controller, or the embedder's sink. */
export interface MsiSink {
  /** A message write by `requester` (its 16-bit BDF). */
  message(message: MsiMessage, requester: number): void;
}

/** Legacy interrupts at the root: `line` 0..3 is INTA..INTD after swizzling, wired-or over all devices. A level, idempotent. */
export interface IntxSink {
  setIntx(line: number, asserted: boolean): void;
  /** Besides, every change of one function's own pin, for hosts that have a wire for each: by its 16-bit BDF, `pin` 1..4 being INTA..INTD. */
  setPin?(bdf: number, pin: number, asserted: boolean): void;
}
