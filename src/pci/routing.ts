// Who answers to a bus, device and function number. Configuration requests go down by bus numbers as type 1 and become type 0 at the bridge whose secondary
// bus it is (PCIe 4.0 7.3.3); a port passes device number 0 only, unless ARI forwarding makes device and function one 8-bit number (6.13); VFs whose
// routing id lies on a later bus number take what no bridge claims of the buses passed down to their device (PCIe 4.0 9.2.1.2).

import type { Bus } from './bus.ts';
import type { PciFunction } from './function.ts';

type Slots = readonly (PciFunction | null)[];

const NOBODY: Slots = new Array<null>(256).fill(null);

export interface DeadEnd {
  readonly bridge: PciFunction;
  /** The bus below the bridge is the one asked for: the request became type 0. */
  readonly arrived: boolean;
}

export class Routing {
  readonly #root: Bus;
  readonly #lastBus: number;
  /** Per bus number, worked out when first asked for. Anything the guest programs ends within the depth of the tree. */
  readonly #known: (Slots | undefined)[] = new Array(256).fill(undefined);

  constructor(root: Bus, lastBus: number) {
    this.#root = root;
    this.#lastBus = lastBus;
  }

  invalidate(): void {
    this.#known.fill(undefined);
  }

  /** The function at `bdf` (16 bits), or null. */
  find(bdf: number): PciFunction | null {
    const slots = this.#known[(bdf >>> 8) & 0xff] ?? this.#resolve((bdf >>> 8) & 0xff);
    return slots[bdf & 0xff] as PciFunction | null;
  }

  /** Where a request for `bdf`, which nobody answers, ends: the last bridge it met. Undefined: it never left the root bus. */
  deadEnd(bdf: number): DeadEnd | undefined {
    const number = (bdf >>> 8) & 0xff;
    if (number < this.#root.number || number > this.#lastBus) return undefined;
    let at = this.#root;
    for (;;) {
      const arrived = at.number === number;
      const next = arrived ? undefined : at.functions.find((fn) => fn.bridge?.claims(number));
      if (next === undefined) return at.bridge && { bridge: at.bridge, arrived };
      if (!next.forwards) return { bridge: next, arrived: false };
      at = next.secondaryBus as Bus;
    }
  }

  #resolve(number: number): Slots {
    const slots = number >= this.#root.number && number <= this.#lastBus ? slotsOf(this.#root, number) : NOBODY;
    this.#known[number] = slots;
    return slots;
  }
}

/** Who answers to bus `number` at or below `bus`. */
function slotsOf(bus: Bus, number: number): Slots {
  let at = bus;
  while (at.number !== number) {
    // The first bridge that claims the number has it, whatever its siblings are programmed to.
    const bridge = at.functions.find((fn) => fn.bridge?.claims(number));
    if (bridge === undefined) return virtualSlots(at, number, new Array(256).fill(null));
    if (!bridge.forwards) return NOBODY;
    at = bridge.secondaryBus as Bus;
  }
  const slots: (PciFunction | null)[] = new Array(256).fill(null);
  const single = at.kind === 'link' && at.bridge?.ariForwarding !== true;
  for (const fn of at.functions) if (!single || fn.devfn < 8) slots[fn.devfn] = fn;
  virtualSlots(at, number, slots);
  if (single) slots.fill(null, 8);
  return slots;
}

/** Adds the enabled VFs of the PFs on `bus` whose routing ids lie on bus `number`. */
function virtualSlots(bus: Bus, number: number, slots: (PciFunction | null)[]): Slots {
  for (const fn of bus.functions) {
    const virtual = fn.virtualFunctions;
    if (virtual === undefined) continue;
    const first = fn.routingId + virtual.firstOffset;
    for (let i = 0; i < virtual.enabled; i++) {
      const id = first + i * virtual.stride;
      if (id >>> 8 !== number || id > 0xffff) continue;
      slots[id & 0xff] ??= virtual.functions[i] ?? null;
    }
  }
  return slots;
}
