// The PCI Express fabric of one machine: a root complex, the tree of functions below it, and every access to them. Accesses by address (memory, I/O), by
// bus, device and function number (configuration), and by BAR (for hosts that decode themselves). Nothing a guest does throws: what nobody answers
// reads as all ones and is dropped when written. Memory below a BAR is the embedder's to route first: RAM never reaches the fabric.

import type { Clock } from '#core/clock';
import { DmaSpace } from '#core/dma-space';
import type { GuestMemory } from '#core/guest-memory';
import type { Iommu } from '#core/iommu';
import { Log } from '#core/log';
import { type AccessSize, allOnes, type FastDoorbell } from '#core/region';
import type { Envelope, Saved } from '#core/saved';
import { readBar, writeBar } from './bar-access.ts';
import { Bus } from './bus.ts';
import {
  EFFECT_DECODE,
  EFFECT_FUNCTION_RESET,
  EFFECT_INTERRUPTS,
  EFFECT_MASTERING,
  EFFECT_NONE,
  EFFECT_ROUTING,
  EFFECT_SECONDARY_RESET,
  EFFECT_SOFT_RESET,
} from './capability.ts';
import { CONFIG_ADDRESS_PORT, ConfigPorts, type ConfigTarget, EcamWindow } from './config-windows.ts';
import { AddressMap, type AddressSpace, type Decoded } from './decode.ts';
import { below, updateMastering, updateRequesters } from './derive.ts';
import { restoreFabric, saveFabric } from './fabric-state.ts';
import type { FabricSide, PciFunction } from './function.ts';
import { IntxWires } from './intx-wires.ts';
import { checkPlacement } from './placement.ts';
import type { IntxSink, MsiMessage, MsiSink } from './ports.ts';
import { powerOn, resetBus } from './resets.ts';
import { Routing } from './routing.ts';
import { refuseConfig } from './unclaimed.ts';

export interface FabricOptions {
  readonly memory: GuestMemory;
  readonly clock: Clock;
  readonly log?: Log;
  /** Where message interrupts go. Called inside the access or the device's call that raised them; must not call back into the fabric. */
  readonly msi: MsiSink;
  /** Where INTA..INTD of the root go: levels. Same rule; a lowered line must be visible to the guest at once. */
  readonly intx: IntxSink;
  /** The memory-mapped configuration window: its address, its first bus (default 0) and how many buses (1..256, default 256). Without it the buses are 0..255. */
  readonly ecam?: { readonly base: number; readonly firstBus?: number; readonly buses?: number };
  /** Answer at I/O ports CF8..CFF (default true). */
  readonly configPorts?: boolean;
  /** Message writes to this range are interrupts (default 1 MiB at FEE00000); a message programmed to another address is a write to memory there. */
  readonly msiWindow?: { readonly base: number; readonly size: number };
  /** Decode BARs at address 0 too (default false: 0 is "unassigned", as every firmware takes it). */
  readonly zeroDecodes?: boolean;
  /** Translates what functions ask of memory, by requester id; without it their addresses are the guest's physical ones. */
  readonly iommu?: Iommu;
}

const RESETS = EFFECT_FUNCTION_RESET | EFFECT_SOFT_RESET | EFFECT_SECONDARY_RESET;
const EVERYTHING = EFFECT_DECODE | EFFECT_INTERRUPTS | EFFECT_MASTERING | EFFECT_ROUTING;

export class Fabric implements ConfigTarget, Saved<Envelope> {
  /** The root complex's own bus: root ports, integrated endpoints, conventional devices of the chipset. */
  readonly root: Bus;
  /** CONFIG_ADDRESS, when the ports are there. */
  readonly configPorts: ConfigPorts | undefined;
  readonly log: Log;
  readonly #options: FabricOptions;
  readonly #routing: Routing;
  readonly #wires: IntxWires;
  readonly #memory: AddressMap;
  readonly #io: AddressMap;
  #ecamBase = 0;
  #ecamEnd = 0;
  #ecamFunction = 0;
  readonly #msiBase: number;
  readonly #msiEnd: number;
  readonly #side: FabricSide;
  #generation = 0;
  #listeners: (() => void)[] = [];

  /** @throws RangeError on an ECAM window that cannot be. */
  constructor(options: FabricOptions) {
    this.#options = options;
    this.log = options.log ?? new Log('pci');
    const firstBus = options.ecam?.firstBus ?? 0;
    const buses = options.ecam?.buses ?? 256 - firstBus;
    if (!(Number.isInteger(firstBus) && firstBus >= 0 && Number.isInteger(buses) && buses >= 1 && firstBus + buses <= 256))
      throw new RangeError(`ECAM of ${buses} buses from bus ${firstBus}: bus numbers are 0..255`);
    this.root = new Bus('root', undefined, firstBus);
    this.#routing = new Routing(this.root, firstBus + buses - 1);
    const decoding = { zeroDecodes: options.zeroDecodes ?? false, reportOverlap: (message: string): void => this.log.guestError(message) };
    this.#memory = new AddressMap('memory', this.root, decoding);
    this.#io = new AddressMap('io', this.root, decoding);
    if (options.ecam) {
      if (!(Number.isSafeInteger(options.ecam.base) && options.ecam.base >= 0 && options.ecam.base % 2 ** 20 === 0))
        throw new RangeError(`ECAM at ${options.ecam.base}: the base is a multiple of 1 MiB`);
      this.#ecamBase = options.ecam.base;
      this.#ecamEnd = options.ecam.base + buses * 2 ** 20;
      this.#ecamFunction = firstBus << 8;
      this.#memory.addHost(options.ecam.base, new EcamWindow(this, firstBus, buses));
    }
    this.configPorts = (options.configPorts ?? true) ? new ConfigPorts(this) : undefined;
    if (this.configPorts) this.#io.addHost(CONFIG_ADDRESS_PORT, this.configPorts);
    this.#msiBase = options.msiWindow?.base ?? 0xfee0_0000;
    this.#msiEnd = this.#msiBase + (options.msiWindow?.size ?? 2 ** 20);
    this.#wires = new IntxWires(options.intx);
    this.#side = {
      act: (fn, effects) => this.#act(fn, effects),
      sendMessage: (fn, message) => this.#sendMessage(fn, message),
      drivePin: (fn, asserted) => this.#wires.drive(fn, asserted),
    };
  }

  // ---- building and hot plug ----

  /**
   * Attaches a device: one function, or several by function number (on a link up to 256, for ARI), to the root bus or below a bridge that is attached itself. At run
   * time this is a hot plug: the port's slot is told. @throws TypeError or RangeError when it cannot be there; nothing has changed then.
   */
  attach(under: Bus | PciFunction, device: PciFunction | readonly (PciFunction | undefined)[], deviceNumber = 0): void {
    const bus = under instanceof Bus ? under : under.secondaryBus;
    if (bus === undefined) throw new TypeError('only a bridge has something below it');
    if (bus !== this.root && bus.bridge?.attachment?.fabric !== this.#side) throw new TypeError(`attach ${bus.bridge?.name ?? 'the bus'} to this fabric first`);
    const functions: readonly (PciFunction | undefined)[] = Array.isArray(device) ? device : [device as PciFunction];
    checkPlacement(bus, functions, deviceNumber);
    const several = functions.filter((fn) => fn !== undefined).length > 1;
    for (const [number, fn] of functions.entries()) {
      if (fn === undefined) continue;
      fn.multiFunction = several;
      this.#place(fn, bus, (deviceNumber << 3) + number);
      const after = bus.functions.findIndex((other) => other.devfn > fn.devfn);
      bus.functions.splice(after < 0 ? bus.functions.length : after, 0, fn);
    }
    this.#treeChanged(bus);
    if (bus.bridge) for (const capability of bus.bridge.capabilities) capability.presenceChanged?.(true);
  }

  /** Takes the whole device that `fn` belongs to away, and all below it: a surprise removal. The functions can be attached again, as after power-on. */
  detach(fn: PciFunction): void {
    const bus = fn.bus;
    if (bus === undefined || fn.attachment?.fabric !== this.#side) throw new TypeError(`${fn.name} is not attached to this fabric`);
    const leaving = fn.virtual ? [] : bus.functions.filter((other) => bus.kind === 'link' || other.devfn >>> 3 === fn.devfn >>> 3);
    if (leaving.length === 0) throw new TypeError(`${fn.name} is a virtual function: detach its PF`);
    for (const gone of leaving) this.#remove(gone);
    this.#treeChanged(bus);
    if (bus.bridge && bus.functions.length === 0) for (const capability of bus.bridge.capabilities) capability.presenceChanged?.(false);
  }

  #place(fn: PciFunction, bus: Bus, devfn: number): void {
    for (const each of [fn, ...(fn.virtualFunctions?.functions ?? [])]) {
      const dma = DmaSpace.create(this.#options.memory, { busMaster: false, ...(this.#options.iommu === undefined && { mappings: 0 }) });
      const log = this.log.child(`${each.name} ${(devfn >>> 3).toString(16).padStart(2, '0')}.${devfn & 7}`);
      each.place({ fabric: this.#side, bus, devfn, services: { dma, clock: this.#options.clock, log } });
      dma.requester = each.requesterId;
      this.#options.iommu?.connect(dma);
    }
  }

  #remove(fn: PciFunction): void {
    if (fn.secondaryBus) for (const child of [...fn.secondaryBus.functions]) this.#remove(child);
    fn.powerOn();
    for (const each of [fn, ...(fn.virtualFunctions?.functions ?? [])]) if (each.services) this.#options.iommu?.disconnect(each.services.dma);
    for (const vf of fn.virtualFunctions?.functions ?? []) vf.place(undefined);
    const bus = fn.bus as Bus;
    bus.functions.splice(bus.functions.indexOf(fn), 1);
    fn.place(undefined);
  }

  #treeChanged(bus: Bus): void {
    if (bus.bridge) this.#act(bus.bridge, EVERYTHING);
    else for (const fn of [...bus.functions]) this.#act(fn, EVERYTHING);
    this.#routing.invalidate();
    this.#decodeChanged();
  }

  /** Every attached function, VFs included (enabled or not), depth first. */
  functions(): PciFunction[] {
    return [...below(this.root)];
  }

  /** The function that answers to `bdf` now. Its `configRead` looks at it from outside: no request is made, so that none is refused. */
  functionAt(bdf: number): PciFunction | undefined {
    return this.#routing.find(bdf & 0xffff) ?? undefined;
  }

  // ---- configuration ----

  /** @param bdf 16 bits. @param offset 0..4095. */
  configRead(bdf: number, offset: number, size: AccessSize): number {
    if (size !== 4 && size !== 2 && size !== 1) return allOnes(size);
    const fn = this.#routing.find(bdf);
    if (fn !== null) return fn.configRead(offset, size);
    this.#refuse(bdf, offset, size, false);
    return allOnes(size);
  }

  configWrite(bdf: number, offset: number, size: AccessSize, value: number): void {
    if (size !== 4 && size !== 2 && size !== 1) return;
    const fn = this.#routing.find(bdf);
    if (fn === null) {
      this.#refuse(bdf, offset, size, true);
      return;
    }
    const effects = fn.configWrite(offset, size, value);
    if (effects !== EFFECT_NONE) this.#act(fn, effects);
  }

  #refuse(bdf: number, offset: number, size: AccessSize, writes: boolean): void {
    const place = this.#routing.deadEnd(bdf);
    if (place) refuseConfig(place, bdf, offset, size, writes);
  }

  // ---- memory and I/O by address ----

  /** 8 bytes are two accesses of 4, low half first; the value is then exact below 2^53. */
  mmioRead(address: number, size: AccessSize | 8): number {
    // The window is also in the memory map; asked first, a configuration read takes half the time (measured: bench/register-access).
    if (address >= this.#ecamBase && address < this.#ecamEnd && size !== 8 && (address & (size - 1)) === 0) {
      const offset = address - this.#ecamBase;
      return this.configRead(this.#ecamFunction + (offset >>> 12), offset & 0xfff, size);
    }
    return this.#memory.read(address, size);
  }

  mmioWrite(address: number, size: AccessSize | 8, value: number): void {
    this.#memory.write(address, size, value);
  }

  ioRead(port: number, size: AccessSize): number {
    return this.#io.read(port, size);
  }

  ioWrite(port: number, size: AccessSize, value: number): void {
    this.#io.write(port, size, value);
  }

  /** The doorbell a guest thread may ring in place of this write, if its region names one. */
  doorbell(address: number, size: AccessSize, value: number): FastDoorbell | undefined {
    return this.#memory.doorbell(address, size, value);
  }

  // ---- for hosts that decode themselves ----

  /** What decodes now, in address order: memory, then I/O. Windows, enables, D-states, VF MSE and overlaps have been applied. */
  decoded(): Decoded[] {
    return [...this.#memory.decoded(), ...this.#io.decoded()];
  }

  /** Who answers at an address, for hosts that hand over one big window. */
  lookup(space: AddressSpace, address: number): { readonly bdf: number; readonly bar: number; readonly offset: number } | undefined {
    return (space === 'memory' ? this.#memory : this.#io).lookup(address);
  }

  /** Moves whenever what an address means may have changed. */
  get decodeGeneration(): number {
    return this.#generation;
  }

  /** Calls `listener` after each such change, inside the access that caused it. Returns a function that stops it. */
  onDecodeChange(listener: () => void): () => void {
    this.#listeners = [...this.#listeners, listener];
    return () => {
      this.#listeners = this.#listeners.filter((l) => l !== listener);
    };
  }

  /** An access to `offset` of a BAR that decodes; all ones otherwise. */
  barRead(bdf: number, bar: number, offset: number, size: AccessSize | 8): number {
    return readBar(this.#routing.find(bdf & 0xffff), bar, offset, size);
  }

  barWrite(bdf: number, bar: number, offset: number, size: AccessSize | 8, value: number): void {
    writeBar(this.#routing.find(bdf & 0xffff), bar, offset, size, value);
  }

  #decodeChanged(): void {
    this.#memory.invalidate();
    this.#io.invalidate();
    this.#generation++;
    for (const listener of this.#listeners) listener();
  }

  // ---- resets ----

  /** Power-on or platform reset: every function, sticky bits too. */
  reset(): void {
    if (this.configPorts) this.configPorts.address = 0;
    for (const fn of this.root.functions) powerOn(fn);
    for (const fn of this.root.functions) this.#act(fn, EVERYTHING);
  }

  /** Resets one function as an FLR does. */
  resetFunction(fn: PciFunction): void {
    this.#act(fn, EFFECT_FUNCTION_RESET);
  }

  /** One function as after power-on, sticky bits too: whoever used it is gone, and the next one must find nothing of theirs. */
  powerCycle(fn: PciFunction): void {
    powerOn(fn);
    this.#act(fn, EVERYTHING);
  }

  /** Hot reset of everything below a bridge. */
  resetBelow(bridge: PciFunction): void {
    this.#act(bridge, EFFECT_SECONDARY_RESET);
  }

  // ---- effects ----

  #act(fn: PciFunction, reported: number): void {
    if (fn.attachment?.fabric !== this.#side) return;
    let effects = reported;
    if ((effects & RESETS) !== 0) {
      if ((effects & EFFECT_SECONDARY_RESET) !== 0 && fn.secondaryBus) resetBus(fn.secondaryBus);
      if ((effects & EFFECT_FUNCTION_RESET) !== 0) fn.reset('function');
      else if ((effects & EFFECT_SOFT_RESET) !== 0) fn.reset('d3hot');
      effects |= EVERYTHING;
    }
    // A bridge outside D0 passes no type 1 request (PCIe 4.0 5.3.1.4), so its power state is a matter of routing as well.
    if (fn.bridge) this.#routing.invalidate();
    if ((effects & EFFECT_ROUTING) !== 0) {
      this.#routing.invalidate();
      if (updateRequesters(fn)) this.#options.iommu?.requestersChanged();
    }
    if ((effects & (EFFECT_MASTERING | EFFECT_ROUTING)) !== 0) updateMastering(fn);
    fn.interrupts.updatePin();
    if ((effects & EFFECT_INTERRUPTS) !== 0) fn.interrupts.onRouteChange?.();
    if ((effects & (EFFECT_DECODE | EFFECT_ROUTING)) !== 0) this.#decodeChanged();
  }

  #sendMessage(fn: PciFunction, message: MsiMessage): void {
    const address = message.addressHigh * 2 ** 32 + message.addressLow;
    if (address >= this.#msiBase && address < this.#msiEnd) this.#options.msi.message(message, fn.requesterId);
    // A message is a memory write; software may well aim it at memory and poll there (PCIe 4.0 6.1.4).
    else fn.services?.dma.store32(address, message.data);
  }

  // ---- saved state ----

  save(): Envelope {
    return saveFabric(this);
  }

  /** @throws RestoreError when the tree is not the one that was saved. */
  restore(envelope: Envelope): void {
    restoreFabric(this, envelope);
    this.#routing.invalidate();
    for (const fn of this.root.functions) this.#act(fn, EVERYTHING);
    for (const fn of below(this.root)) {
      fn.interrupts.updatePin();
      fn.interrupts.onRouteChange?.();
    }
  }
}
