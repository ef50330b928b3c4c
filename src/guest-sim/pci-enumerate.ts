// What firmware and an operating system do with a PCI Express hierarchy: number the buses depth first, enable ARI where both ends have it, reserve
// bus numbers for virtual functions, size every BAR and place it, program the bridge windows. The fabric is not trusted: every walk is bounded.

import type { GuestBus } from '#core/guest-bus';
import { type Bar, placeBar, type Resource, sizeBars } from './pci-bars.ts';
import { type Capability, type ConfigAccess, capabilities, EcamAccess, extendedCapabilities } from './pci-config.ts';
import {
  CAP_PCIE,
  CFG,
  COMMAND_IO,
  COMMAND_MASTER,
  COMMAND_MEMORY,
  EXT_CAP_ARI,
  EXT_CAP_SRIOV,
  HEADER_MULTIFUNCTION,
  PCIE_ARI_FORWARDING,
  PCIE_DEVICE_CAPABILITIES_2,
  PCIE_DEVICE_CONTROL_2,
  PCIE_FLAGS,
  PCIE_TYPE_DOWNSTREAM,
  PCIE_TYPE_ROOT_PORT,
  SRIOV,
  SRIOV_ARI_HIERARCHY,
} from './pci-constants.ts';
import { type SriovInfo, vfRid } from './pci-sriov.ts';
import { closeWindows, emptyLists, openWindow, placeAll, RESOURCE_KINDS, type ResourceLists, windowOver } from './pci-windows.ts';

export interface PciDevice {
  readonly rid: number;
  readonly vendor: number;
  readonly device: number;
  readonly classCode: number;
  readonly bars: readonly Bar[];
  readonly capabilities: readonly Capability[];
  readonly extendedCapabilities: readonly Capability[];
  /** PCIe device/port type, -1 for a conventional function. */
  readonly portType: number;
  readonly bridge: PciBus | undefined;
  readonly sriov: SriovInfo | undefined;
  /** For a virtual function: its physical one. */
  readonly physical: PciDevice | undefined;
}

export interface PciBus {
  readonly number: number;
  subordinate: number;
  readonly devices: PciDevice[];
}

export interface PciTree {
  readonly root: PciBus;
  /** Every function, in the order found. */
  readonly devices: PciDevice[];
  /** Resources (BARs, or whole bridge windows) that found no place. */
  readonly unplaced: number;
}

export interface EnumerateOptions {
  /** Default: ECAM. */
  readonly config?: ConfigAccess;
}

/** How a bus hangs from its bridge: what decides which functions may exist on it. */
interface Parent {
  readonly rid: number;
  readonly portType: number;
  readonly pcie: number;
}

class Enumerator {
  readonly config: ConfigAccess;
  readonly devices: PciDevice[] = [];
  #nextBus: number;

  constructor(config: ConfigAccess) {
    this.config = config;
    this.#nextBus = config.firstBus + 1;
  }

  /** Scans one bus and everything behind it; fills `lists` with what its functions and bridges want. */
  scan(bus: PciBus, parent: Parent | undefined, lists: ResourceLists, wide: boolean): void {
    const bridges: { rid: number; type: number; caps: Capability[]; header: { vendor: number; device: number; classCode: number } }[] = [];
    let vfEnd = 0;
    for (const { rid, ari } of this.#functions(bus.number, parent)) {
      const { config } = this;
      const id = config.read(rid, CFG.VENDOR_ID, 4);
      const header = { vendor: id & 0xffff, device: id >>> 16, classCode: config.read(rid, CFG.REVISION, 4) >>> 8 };
      const type = config.read(rid, CFG.HEADER_TYPE, 1) & 0x7f;
      // Decoding off before a BAR is written all ones.
      config.write(rid, CFG.COMMAND, 2, config.read(rid, CFG.COMMAND, 2) & ~(COMMAND_IO | COMMAND_MEMORY));
      const caps = capabilities(config, rid);
      const pcie = caps.find((c) => c.id === CAP_PCIE)?.offset ?? 0;
      const portType = pcie === 0 ? -1 : (config.read(rid, pcie + PCIE_FLAGS, 2) >>> 4) & 15;
      if (type === 1) {
        // Bridges wait until this bus's own functions are known: virtual functions take bus numbers right after this bus.
        bridges.push({ rid, type: portType, caps, header });
        continue;
      }
      if (type !== 0) continue;
      const bars = sizeBars(config, rid, CFG.BAR0, 6);
      for (const bar of bars) this.#want(lists, wide, bar, bar.size, (address) => placeBar(config, rid, CFG.BAR0, bar, address));
      const extended = pcie === 0 ? [] : extendedCapabilities(config, rid);
      const at = extended.find((c) => c.id === EXT_CAP_SRIOV)?.offset ?? 0;
      const sriov = at === 0 ? undefined : this.#sriov(rid, at, ari);
      if (sriov) {
        for (const bar of sriov.bars)
          this.#want(lists, wide, bar, bar.size * sriov.totalVfs, (address) => placeBar(config, rid, at + SRIOV.VF_BAR0, bar, address));
        vfEnd = Math.max(vfEnd, sriov.lastBus);
      }
      this.#add(bus, { rid, ...header, bars, capabilities: caps, extendedCapabilities: extended, portType, bridge: undefined, sriov, physical: undefined });
    }
    // Buses that only virtual functions live on: no bridge leads to them, the one above this bus must just cover them.
    if (vfEnd >= this.#nextBus) this.#nextBus = Math.min(vfEnd, this.config.lastBus) + 1;
    for (const bridge of bridges) this.#bridge(bus, bridge.rid, bridge.type, bridge.caps, bridge.header, lists, wide);
    bus.subordinate = this.#nextBus - 1;
  }

  #add(bus: PciBus, device: PciDevice): void {
    bus.devices.push(device);
    this.devices.push(device);
  }

  #want(lists: ResourceLists, wide: boolean, bar: Bar, size: number, place: (address: number) => void): void {
    const resource: Resource = { size, alignment: bar.size, place };
    lists[bar.io ? 'io' : bar.wide && bar.prefetchable && wide ? 'prefetchable' : 'memory'].push(resource);
  }

  #bridge(
    bus: PciBus,
    rid: number,
    portType: number,
    caps: Capability[],
    header: { vendor: number; device: number; classCode: number },
    lists: ResourceLists,
    wide: boolean,
  ): void {
    const { config } = this;
    const bars = sizeBars(config, rid, CFG.BAR0, 2);
    for (const bar of bars) this.#want(lists, wide, bar, bar.size, (address) => placeBar(config, rid, CFG.BAR0, bar, address));
    const windows = closeWindows(config, rid);
    if (this.#nextBus > config.lastBus) return; // no bus number left: what is behind it stays out of reach
    const number = this.#nextBus++;
    const behind: PciBus = { number, subordinate: number, devices: [] };
    // Everything above passes while the bus behind is being explored; the real end is known afterwards.
    config.write(rid, CFG.PRIMARY_BUS, 1, bus.number);
    config.write(rid, CFG.SECONDARY_BUS, 1, number);
    config.write(rid, CFG.SUBORDINATE_BUS, 1, config.lastBus);
    this.#add(bus, {
      rid,
      ...header,
      bars,
      capabilities: caps,
      extendedCapabilities: portType < 0 ? [] : extendedCapabilities(config, rid),
      portType,
      bridge: behind,
      sriov: undefined,
      physical: undefined,
    });
    const inner = emptyLists();
    this.scan(behind, { rid, portType, pcie: caps.find((c) => c.id === CAP_PCIE)?.offset ?? 0 }, inner, wide && windows.prefetchable);
    config.write(rid, CFG.SUBORDINATE_BUS, 1, behind.subordinate);
    for (const kind of RESOURCE_KINDS) {
      if (kind === 'io' && !windows.io) continue;
      const window = windowOver(kind, inner[kind], (base, size) => openWindow(config, rid, kind, base, size));
      if (window) lists[kind].push(window);
    }
    config.write(rid, CFG.COMMAND, 2, config.read(rid, CFG.COMMAND, 2) | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER);
  }

  /** The functions present on a bus. `ari`: routing ids there are bus and an 8-bit function. */
  #functions(bus: number, parent: Parent | undefined): { rid: number; ari: boolean }[] {
    const { config } = this;
    const found: { rid: number; ari: boolean }[] = [];
    const present = (rid: number): boolean => {
      const vendor = config.read(rid, CFG.VENDOR_ID, 2);
      return vendor !== 0xffff && vendor !== 0;
    };
    // A root or downstream port's link has one device at its other end (PCIe 4.0 7.3.1).
    const single = parent !== undefined && (parent.portType === PCIE_TYPE_ROOT_PORT || parent.portType === PCIE_TYPE_DOWNSTREAM);
    if (single && present(bus << 8)) {
      const ari = this.#enableAri(bus << 8, parent);
      if (ari !== 0) {
        // PCIe 4.0 7.8.6: each function names the next higher one; 0 ends the list.
        let fn = 0;
        for (let last = -1; fn > last; ) {
          found.push({ rid: (bus << 8) | fn, ari: true });
          last = fn;
          const at = fn === 0 ? ari : extendedCapabilities(config, (bus << 8) | fn).find((c) => c.id === EXT_CAP_ARI)?.offset;
          if (!at) break;
          fn = (config.read((bus << 8) | fn, at + 4, 2) >>> 8) & 0xff;
        }
        return found;
      }
    }
    for (let device = 0; device < (single ? 1 : 32); device++) {
      const rid = (bus << 8) | (device << 3);
      if (!present(rid)) continue;
      found.push({ rid, ari: false });
      if ((config.read(rid, CFG.HEADER_TYPE, 1) & HEADER_MULTIFUNCTION) === 0) continue;
      for (let fn = 1; fn < 8; fn++) if (present(rid | fn)) found.push({ rid: rid | fn, ari: false });
    }
    return found;
  }

  /** Turns ARI forwarding on in the port above when function 0 has the capability; its offset there, or 0. */
  #enableAri(rid: number, parent: Parent): number {
    const { config } = this;
    if (parent.pcie === 0 || (config.read(parent.rid, parent.pcie + PCIE_DEVICE_CAPABILITIES_2, 4) & PCIE_ARI_FORWARDING) === 0) return 0;
    const at = extendedCapabilities(config, rid).find((c) => c.id === EXT_CAP_ARI)?.offset ?? 0;
    if (at === 0) return 0;
    const control = parent.pcie + PCIE_DEVICE_CONTROL_2;
    config.write(parent.rid, control, 2, config.read(parent.rid, control, 2) | PCIE_ARI_FORWARDING);
    return at;
  }

  #sriov(rid: number, at: number, ari: boolean): SriovInfo | undefined {
    const { config } = this;
    const totalVfs = config.read(rid, at + SRIOV.TOTAL_VFS, 2);
    if (totalVfs === 0 || totalVfs === 0xffff) return undefined;
    // ARI Capable Hierarchy and NumVFs first: offset and stride may depend on both (SR-IOV 1.1 3.3.3.5, 3.3.9, 3.3.10).
    if (ari) config.write(rid, at + SRIOV.CONTROL, 2, SRIOV_ARI_HIERARCHY);
    config.write(rid, at + SRIOV.NUM_VFS, 2, totalVfs);
    const offset = config.read(rid, at + SRIOV.FIRST_VF_OFFSET, 2);
    const stride = config.read(rid, at + SRIOV.VF_STRIDE, 2);
    config.write(rid, at + SRIOV.NUM_VFS, 2, 0);
    // 4 KiB pages, which every device supports (bit 0): VF BARs are sized in them.
    config.write(rid, at + SRIOV.SYSTEM_PAGE_SIZE, 4, 1);
    const bars = sizeBars(config, rid, at + SRIOV.VF_BAR0, 6).filter((b) => !b.io);
    return { at, totalVfs, vfDevice: config.read(rid, at + SRIOV.VF_DEVICE_ID, 2), bars, lastBus: vfRid(rid, offset, stride, totalVfs - 1) >> 8 };
  }
}

/** Enumerates the whole fabric and leaves memory and I/O decoding on in every function whose BARs all have an address; bus mastering is the drivers' business. */
export function enumeratePci(bus: GuestBus, options: EnumerateOptions = {}): PciTree {
  const config = options.config ?? new EcamAccess(bus);
  const { io, memory32, memory64 } = bus.platform;
  const enumerator = new Enumerator(config);
  const root: PciBus = { number: config.firstBus, subordinate: config.firstBus, devices: [] };
  const lists = emptyLists();
  enumerator.scan(root, undefined, lists, memory64.size > 0);
  let unplaced = placeAll(lists.io, io.base, io.size);
  unplaced += placeAll(lists.memory, memory32.base, memory32.size);
  unplaced += placeAll(lists.prefetchable, memory64.base, memory64.size);
  for (const device of enumerator.devices) {
    let decode = 0;
    for (const bar of device.bars) if (bar.address !== undefined) decode |= bar.io ? COMMAND_IO : COMMAND_MEMORY;
    // An unplaced BAR would decode at whatever address it happens to hold.
    for (const bar of device.bars) if (bar.address === undefined) decode &= bar.io ? ~COMMAND_IO : ~COMMAND_MEMORY;
    if (decode !== 0) config.write(device.rid, CFG.COMMAND, 2, config.read(device.rid, CFG.COMMAND, 2) | decode);
  }
  return { root, devices: enumerator.devices, unplaced };
}
