// The bridges of an ordinary tree, with the capabilities software expects of them: root ports, switches, the PCIe-to-PCI bridge. PCIe 4.0 7.5.3.2 for what each type
// carries. Anything else is a PciFunction with `bridge` and another capability list.

import type { BridgeOptions } from './bridge-registers.ts';
import { Express, type ExpressOptions } from './express.ts';
import { type PcieType, PciFunction, type PlacedCapability } from './function.ts';
import { Msi } from './msi.ts';
import { PowerManagement } from './pm.ts';

export interface BridgeFunctionOptions {
  readonly name?: string;
  readonly vendorId?: number;
  readonly deviceId?: number;
  /** Link, slot (hot plug) and error reporting of the port. */
  readonly express?: ExpressOptions;
  /** Further capabilities: AER, ACS, a serial number. */
  readonly capabilities?: readonly PlacedCapability[];
  readonly bridge?: BridgeOptions;
}

// Ids of generic emulated bridges (Red Hat's block, published for this use), which drivers match by class alone.
const VENDOR = 0x1b36;
const ROOT_PORT = 0x000c;
const UPSTREAM_PORT = 0x000d;
const DOWNSTREAM_PORT = 0x000f;
const PCI_BRIDGE = 0x000e;
const BRIDGE_CLASS = 0x060400;

function makeBridge(pcieType: PcieType, deviceId: number, options: BridgeFunctionOptions): PciFunction {
  return new PciFunction({
    name: options.name ?? pcieType,
    identity: { vendorId: options.vendorId ?? VENDOR, deviceId: options.deviceId ?? deviceId, classCode: BRIDGE_CLASS, interruptPin: 1, pcieType },
    bridge: options.bridge ?? {},
    capabilities: [new PowerManagement(), new Msi(), new Express(options.express), ...(options.capabilities ?? [])],
  });
}

/** Sits on the root bus; one device goes below. */
export function rootPort(options: BridgeFunctionOptions = {}): PciFunction {
  return makeBridge('root-port', ROOT_PORT, options);
}

/** A switch's upper side: goes below a port; downstream ports go below it. */
export function upstreamPort(options: BridgeFunctionOptions = {}): PciFunction {
  return makeBridge('upstream-port', UPSTREAM_PORT, options);
}

/** One of a switch's lower ports: goes below an upstream port; one device goes below. */
export function downstreamPort(options: BridgeFunctionOptions = {}): PciFunction {
  return makeBridge('downstream-port', DOWNSTREAM_PORT, options);
}

/** A PCIe-to-PCI bridge: conventional devices go below, which answer 256 bytes and whose requests carry the bridge's secondary bus number. */
export function pciBridge(options: BridgeFunctionOptions = {}): PciFunction {
  return makeBridge('pcie-to-pci-bridge', PCI_BRIDGE, options);
}
