// Legacy interrupt wires: each function's pin goes up through the bridges, turned by the device number at each (PCIe 4.0 2.2.8.1, P2P bridge 1.2 9.1),
// and once more at the root, as PC chipsets route slots to INTA..INTD. Four lines at the root, each the wired-or of all pins on it.

import type { PciFunction } from './function.ts';
import type { IntxSink } from './ports.ts';

export class IntxWires {
  readonly #sink: IntxSink;
  /** Pins that hold each line. */
  readonly #holders = [0, 0, 0, 0];

  constructor(sink: IntxSink) {
    this.#sink = sink;
  }

  /** A function's pin rose or fell (each change once). */
  drive(fn: PciFunction, asserted: boolean): void {
    this.#sink.setPin?.(fn.routingId, fn.config.get8(0x3d), asserted);
    const line = rootLine(fn);
    const before = this.#holders[line] as number;
    const now = before + (asserted ? 1 : -1);
    this.#holders[line] = now;
    if ((before === 0) !== (now === 0)) this.#sink.setIntx(line, asserted);
  }
}

/** The root line, 0..3, that a function's pin (1..4) ends at. */
function rootLine(fn: PciFunction): number {
  let line = (fn.config.get8(0x3d) - 1) & 3;
  let at: PciFunction | undefined = fn;
  while (at !== undefined) {
    // Below a port the device number is 0, whatever ARI makes of the bits.
    const device: number = at.bus?.kind === 'link' ? 0 : at.devfn >>> 3;
    line = (line + device) & 3;
    at = at.upstream;
  }
  return line;
}
