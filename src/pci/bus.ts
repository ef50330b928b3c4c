// A bus as the tree of functions has it: slots by device and function number and the bridge above. Three kinds: the root complex's own bus and the bus inside a
// switch hold 32 devices; a link below a port holds one device, number 0, whose functions reach 255 with ARI; a conventional bus holds 32 devices of 8.

import type { PciFunction } from './function.ts';

export type BusKind = 'root' | 'internal' | 'link' | 'conventional';

export class Bus {
  readonly kind: BusKind;
  /** The bridge whose secondary side this is; undefined for the root bus. */
  readonly bridge: PciFunction | undefined;
  /** Attached functions, ascending by device and function number. */
  readonly functions: PciFunction[] = [];
  readonly #rootNumber: number;

  constructor(kind: BusKind, bridge: PciFunction | undefined, rootNumber = 0) {
    this.kind = kind;
    this.bridge = bridge;
    this.#rootNumber = rootNumber;
  }

  /** The number software gave it (0 while it has none), or the root's own. */
  get number(): number {
    return this.bridge?.bridge ? this.bridge.bridge.secondary : this.#rootNumber;
  }

  /** False while what is below the bridge above cannot be reached: link down, slot off, secondary bus in reset. */
  get linked(): boolean {
    return this.bridge === undefined || this.bridge.forwards;
  }

  at(devfn: number): PciFunction | undefined {
    return this.functions.find((fn) => fn.devfn === devfn);
  }
}
