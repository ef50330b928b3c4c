// What follows from the registers and is told to functions rather than asked for: requester ids, which move with the bus numbers, and the right to master, which
// needs Bus Master Enable in the function and in every bridge above it (PCIe 4.0 7.5.1.1.3), links that are up, and ACS letting the requester pass.

import type { Bus } from './bus.ts';
import type { PciFunction } from './function.ts';

/** `fn` and everything below it, VFs included. */
function* subtree(fn: PciFunction): Generator<PciFunction> {
  yield fn;
  yield* fn.virtualFunctions?.functions ?? [];
  if (fn.secondaryBus) yield* below(fn.secondaryBus);
}

/** Everything on `bus` and below. */
export function* below(bus: Bus): Generator<PciFunction> {
  for (const fn of bus.functions) yield* subtree(fn);
}

/** Writes present requester ids into the DMA spaces from `fn` down; says whether any was another before. */
export function updateRequesters(fn: PciFunction): boolean {
  let moved = false;
  for (const each of subtree(fn)) {
    const dma = each.services?.dma;
    if (dma === undefined || dma.requester === each.requesterId) continue;
    dma.requester = each.requesterId;
    moved = true;
  }
  return moved;
}

/** Works out the right to master from `fn` down. */
export function updateMastering(fn: PciFunction): void {
  const path: PciFunction[] = [];
  let open = true;
  for (let bridge = fn.upstream; bridge !== undefined; bridge = bridge.upstream) {
    path.push(bridge);
    open &&= bridge.masterEnabled && bridge.forwards;
  }
  grant(fn, path, open);
}

function grant(fn: PciFunction, path: PciFunction[], open: boolean): void {
  fn.setMastering(open && fn.masterEnabled && passes(fn, path));
  const virtual = fn.virtualFunctions;
  virtual?.functions.forEach((vf, i) => {
    vf.setMastering(open && i < virtual.enabled && vf.masterEnabled && passes(vf, path));
  });
  if (fn.secondaryBus === undefined) return;
  const openBelow = open && fn.masterEnabled && fn.forwards;
  path.push(fn);
  for (const child of fn.secondaryBus.functions) grant(child, path, openBelow);
  path.pop();
}

function passes(fn: PciFunction, path: readonly PciFunction[]): boolean {
  for (const port of path) for (const capability of port.capabilities) if (capability.blocksRequester?.(fn.requesterId) === true) return false;
  return true;
}
