// Set-up for the capability tests: finding capabilities as a guest does, a bench with its clock and log at hand, and a port with a device below it.
import { SimClock } from '#core/clock';
import { Log } from '#core/log';
import type { Capability } from '#pci/capability';
import { Express, type ExpressOptions } from '#pci/express';
import type { Fabric, FabricOptions } from '#pci/fabric';
import type { PciFunction } from '#pci/function';
import { type Bench, bdf, COMMAND, makeBench, makeDevice, makePort, programBridge } from './fabric-kit.ts';

/** Offset of a capability by walking the list (0: none). */
export function findCapability(fabric: Fabric, at: number, id: number): number {
  let offset = fabric.configRead(at, 0x34, 1);
  for (let n = 0; n < 48 && offset >= 0x40; n++) {
    if (fabric.configRead(at, offset, 1) === id) return offset;
    offset = fabric.configRead(at, offset + 1, 1);
  }
  return 0;
}

export function findExtended(fabric: Fabric, at: number, id: number): number {
  let offset = 0x100;
  for (let n = 0; n < 960 && offset >= 0x100; n++) {
    const header = fabric.configRead(at, offset, 4);
    if ((header & 0xffff) === id) return offset;
    offset = header >>> 20;
  }
  return 0;
}

export interface TimedBench extends Bench {
  readonly clock: SimClock;
  readonly log: Log;
}

export function makeTimedBench(options: Partial<FabricOptions> = {}): TimedBench {
  const clock = new SimClock();
  const log = new Log();
  return { ...makeBench({ clock, log, ...options }), clock, log };
}

export interface PortBench extends TimedBench {
  readonly port: PciFunction;
  readonly express: Express;
  /** Where the port is, and where its first device is. */
  readonly portAt: number;
  readonly deviceAt: number;
  /** Offsets of the PCI Express capability in the port. */
  readonly portExpress: number;
}

/** A root port at 00:01.0 that software has given bus 1, with `device` below it if there is one. */
export function makePortBench(
  device?: PciFunction,
  options: ExpressOptions = {},
  more: readonly Capability[] = [],
  fabricOptions: Partial<FabricOptions> = {},
): PortBench {
  const bench = makeTimedBench(fabricOptions);
  const express = new Express(options);
  const port = makePort('root-port', [express, ...more]);
  bench.fabric.attach(bench.fabric.root, port, 1);
  const portAt = bdf(0, 1);
  programBridge(bench.fabric, portAt, [0, 1, 1], { memory: [0xe000_0000, 0xe0ff_ffff], prefetchable: [0x10_0000_0000, 0x10_ffff_ffff] });
  if (device) bench.fabric.attach(port, device);
  return { ...bench, port, express, portAt, deviceAt: bdf(1, 0), portExpress: findCapability(bench.fabric, portAt, 0x10) };
}

/** A function with these capabilities at 00:03.0, mastering. */
export function makeLoneBench(capabilities: readonly Capability[], more: Parameters<typeof makeDevice>[2] = {}): TimedBench & { fn: PciFunction; at: number } {
  const bench = makeTimedBench();
  const fn = makeDevice('toy', [], { pcieType: 'root-complex-endpoint', capabilities, ...more });
  bench.fabric.attach(bench.fabric.root, fn, 3);
  const at = bdf(0, 3);
  bench.fabric.configWrite(at, COMMAND, 2, 7);
  return { ...bench, fn, at };
}
