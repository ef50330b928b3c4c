// Finds the functions of a machine by configuration reads alone: buses below bridges, multi-function devices, the ARI chain, and virtual functions,
// which have no vendor id to be found by and are computed from their physical function's SR-IOV capability (PCIe 4.0 9.2.1.2).

import { type ConfigRead, FunctionView } from './text.ts';

/** A function and, for a bridge, the bus below it with what is on it. */
export interface FoundFunction {
  readonly bdf: number;
  readonly view: FunctionView;
  /** Routing id of the physical function, when this is a virtual one. */
  readonly virtualOf: number | undefined;
  readonly below: FoundBus | undefined;
}

export interface FoundBus {
  readonly bus: number;
  readonly subordinate: number;
  readonly functions: readonly FoundFunction[];
}

interface Walk {
  readonly read: ConfigRead;
  readonly visited: Set<number>;
}

/** Walks each root bus. Every bus is visited at most once, so bridges whose bus numbers loop cannot trap the walk. */
export function scan(read: ConfigRead, roots: readonly number[] = [0]): FoundBus[] {
  const walk: Walk = { read, visited: new Set() };
  const found: FoundBus[] = [];
  for (const bus of roots) {
    const tree = scanBus(walk, bus, bus, false);
    if (tree) found.push(tree);
  }
  return found;
}

/** All functions of a scan in routing-id order. */
export function flatten(buses: readonly FoundBus[]): FoundFunction[] {
  const all: FoundFunction[] = [];
  const visit = (bus: FoundBus): void => {
    for (const f of bus.functions) {
      all.push(f);
      if (f.below) visit(f.below);
    }
  };
  buses.forEach(visit);
  return all.sort((a, b) => a.bdf - b.bdf);
}

function scanBus(walk: Walk, bus: number, subordinate: number, forwarding: boolean): FoundBus | undefined {
  if (walk.visited.has(bus)) return undefined;
  walk.visited.add(bus);
  const functions: FoundFunction[] = [];
  for (let device = 0; device < 32; device++) {
    const first = (bus << 8) | (device << 3);
    if (!present(walk.read, first)) continue;
    for (const bdf of deviceFunctions(walk.read, first, forwarding)) addFunction(walk, functions, bdf);
  }
  functions.sort((a, b) => a.bdf - b.bdf);
  return { bus, subordinate, functions };
}

function present(read: ConfigRead, bdf: number): boolean {
  const vendor = read(bdf, 0, 2);
  return vendor !== 0xffff && vendor !== 0;
}

/** Functions of the device whose function 0 is at `first`: by the header's multi-function bit, or by the ARI chain where the port forwards ARI. */
function deviceFunctions(read: ConfigRead, first: number, forwarding: boolean): number[] {
  const found = new Set([first]);
  if ((read(first, 0x0e, 1) & 0x80) !== 0) {
    for (let f = 1; f < 8; f++) if (present(read, first + f)) found.add(first + f);
  }
  if (forwarding && (first & 0xff) === 0) {
    for (let at = first, steps = 0; steps < 256; steps++) {
      const view = new FunctionView(read, at);
      const ari = view.extendedCapability(0x0e);
      const next = ari === 0 ? 0 : view.u8(ari + 5);
      at = (first & 0xff00) | next;
      if (next === 0 || found.has(at) || !present(read, at)) break;
      found.add(at);
    }
  }
  return [...found];
}

function addFunction(walk: Walk, functions: FoundFunction[], bdf: number): void {
  const view = new FunctionView(walk.read, bdf);
  functions.push({ bdf, view, virtualOf: undefined, below: view.headerType === 1 ? below(walk, view) : undefined });
  const sriov = view.extendedCapability(0x10);
  if (sriov === 0 || (view.u16(sriov + 8) & 1) === 0) return;
  const count = Math.min(view.u16(sriov + 16), view.u16(sriov + 14));
  const offset = view.u16(sriov + 20);
  const stride = view.u16(sriov + 22);
  for (let n = 0; n < count; n++) {
    const vf = bdf + offset + n * stride;
    if (vf > 0xffff) break;
    const vfView = new FunctionView(walk.read, vf);
    // The header type of a virtual function reads 0; nothing answering reads all ones.
    if (vfView.u32(0x0c) === 0xffffffff) continue;
    functions.push({ bdf: vf, view: vfView, virtualOf: bdf, below: undefined });
  }
}

function below(walk: Walk, bridge: FunctionView): FoundBus | undefined {
  const secondary = bridge.u8(0x19);
  const subordinate = bridge.u8(0x1a);
  if (secondary === 0 || secondary <= bridge.bdf >>> 8 || subordinate < secondary) return undefined;
  const express = bridge.capability(0x10);
  const forwarding = express !== 0 && (bridge.u16(express + 2) & 15) >= 2 && (bridge.u16(express + 40) & 0x20) !== 0;
  return scanBus(walk, secondary, subordinate, forwarding);
}
