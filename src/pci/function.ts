// One PCI function, of any kind: header, BARs, capabilities, interrupts, virtual functions; a bridge is a function with bridge registers and a bus below.
// PCIe 4.0 7.5.1, PCIe 4.0 9.3.4.1 for what a VF's header leaves out. A device makes one, and gets its services when the function is attached to a fabric.

import type { Region } from '#core/region';
import { type BarOptions, Bars } from './bars.ts';
import { type BridgeOptions, BridgeRegisters } from './bridge-registers.ts';
import { Bus } from './bus.ts';
import { type Capability, EFFECT_DECODE, EFFECT_NONE, type FunctionHost, type VirtualFunctions } from './capability.ts';
import { placeCapabilities } from './capability-list.ts';
import { ConfigSpace } from './config-space.ts';
import { FunctionInterrupts } from './function-interrupts.ts';
import {
  COMMAND,
  COMMAND_INTX_DISABLE,
  COMMAND_IO,
  COMMAND_MASTER,
  COMMAND_MEMORY,
  commandEffects,
  HEADER_MULTI_FUNCTION,
  installHeader,
  STATUS_CAPABILITIES,
  STATUS_INTERRUPT,
} from './header.ts';
import type { FunctionServices, MsiMessage, ResetKind } from './ports.ts';

/** What the function is in the hierarchy. The PCI Express capability (pcie-capability) states it to software; this is what the fabric acts on. */
export type PcieType =
  | 'conventional'
  | 'endpoint'
  | 'legacy-endpoint'
  | 'root-complex-endpoint'
  | 'root-complex-event-collector'
  | 'root-port'
  | 'upstream-port'
  | 'downstream-port'
  | 'pcie-to-pci-bridge';

export interface PciIdentity {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly revision?: number;
  /** 24 bits: class, subclass, programming interface. */
  readonly classCode: number;
  /** Type 0 headers only; a bridge has a capability for it. */
  readonly subsystemVendorId?: number;
  readonly subsystemId?: number;
  /** 1..4 = INTA..INTD, 0 (default) = none. */
  readonly interruptPin?: number;
  /** Default 'endpoint'. 'conventional' has 256 bytes of configuration space and no extended capabilities. */
  readonly pcieType?: PcieType;
}

/** A capability, and where its header must be if that matters (a multiple of 4). */
export type PlacedCapability = Capability | { readonly capability: Capability; readonly offset: number };

export interface PciFunctionOptions {
  /** For logs and dumps: "virtio-net". */
  readonly name: string;
  readonly identity: PciIdentity;
  readonly bars?: readonly BarOptions[];
  /** Expansion ROM contents. */
  readonly rom?: Region;
  /** In chain order. */
  readonly capabilities?: readonly PlacedCapability[];
  /** Makes it a bridge (type 1 header). Port types need it; they differ in `identity.pcieType`. */
  readonly bridge?: BridgeOptions;
  /** An SR-IOV VF: ids read all ones, no BAR registers, no memory enable of its own. */
  readonly virtual?: boolean;
  /** Attached to a fabric: memory, interrupts, time and log may be used from now on. On the machine's thread, once per attachment. */
  readonly onAttach?: (services: FunctionServices) => void;
  /** Taken away: the services must not be used any more. */
  readonly onDetach?: () => void;
  /** The function was reset; its configuration registers already are. Return the device to its reset state; leave the INTx line low. */
  readonly onReset?: (kind: ResetKind) => void;
  /** Bus mastering was granted (true) or taken. Once it is taken no access of this device reaches memory. */
  readonly onMastering?: (granted: boolean) => void;
}

/** The fabric as an attached function uses it. */
export interface FabricSide {
  act(fn: PciFunction, effects: number): void;
  sendMessage(fn: PciFunction, message: MsiMessage): void;
  drivePin(fn: PciFunction, asserted: boolean): void;
}

/** Where an attached function is. */
export interface Attachment {
  readonly fabric: FabricSide;
  readonly bus: Bus;
  readonly devfn: number;
  readonly services: Omit<FunctionServices, 'interrupts'>;
}

export class PciFunction implements FunctionHost {
  readonly name: string;
  readonly identity: PciIdentity;
  readonly pcieType: PcieType;
  readonly virtual: boolean;
  readonly config: ConfigSpace;
  readonly bars: Bars;
  readonly bridge: BridgeRegisters | undefined;
  /** The bus below a bridge. */
  readonly secondaryBus: Bus | undefined;
  readonly capabilities: readonly Capability[];
  readonly virtualFunctions: VirtualFunctions | undefined;
  readonly interrupts: FunctionInterrupts;
  /** Set by the fabric: may send requests now. Use `mayMaster`. */
  mastering = false;
  #physical: PciFunction | undefined;
  #virtualIndex = 0;
  #attachment: Attachment | undefined;
  #services: FunctionServices | undefined;
  readonly #options: PciFunctionOptions;
  /** Owner of each dword: index of the capability + 1; 0 the header or nobody. */
  readonly #owners: Uint8Array;
  readonly #live: Uint8Array;
  readonly #offsets: readonly number[];

  /** @throws RangeError or TypeError when BARs or capabilities cannot be laid out as asked. */
  constructor(options: PciFunctionOptions) {
    const { identity } = options;
    this.#options = options;
    this.name = options.name;
    this.identity = identity;
    this.pcieType = identity.pcieType ?? 'endpoint';
    this.virtual = options.virtual ?? false;
    const express = this.pcieType !== 'conventional';
    this.config = new ConfigSpace(express ? 4096 : 256);
    const isBridge = options.bridge !== undefined;
    const busKind = secondaryKind(this.pcieType);
    if (isBridge !== (busKind !== undefined) && !(isBridge && this.pcieType === 'conventional'))
      throw new TypeError(`${options.name}: a ${this.pcieType} function ${isBridge ? 'has no' : 'needs'} bridge registers`);
    this.bars = new Bars(this.config, options.bars ?? [], options.rom, {
      count: isBridge ? 2 : 6,
      romRegister: isBridge ? 0x38 : 0x30,
      registers: !this.virtual,
    });
    installHeader(this.config, identity, { express, isBridge, virtual: this.virtual, hasIo: this.bars.hasIo, hasMemory: this.bars.hasMemory });
    this.bridge = options.bridge && new BridgeRegisters(this.config, options.bridge, express);
    this.secondaryBus = isBridge ? new Bus(busKind ?? 'conventional', this) : undefined;
    const placed = placeCapabilities(this, options.capabilities ?? []);
    this.capabilities = placed.capabilities;
    this.#offsets = placed.offsets;
    this.#owners = placed.owners;
    this.#live = placed.live;
    if (this.capabilities.some((c) => c.extended !== true)) this.config.bytes[6] = (this.config.bytes[6] as number) | STATUS_CAPABILITIES;
    this.config.captureInitial();
    this.virtualFunctions = this.capabilities.find((c) => c.virtualFunctions !== undefined)?.virtualFunctions;
    this.virtualFunctions?.functions.forEach((vf, index) => {
      vf.#physical = this;
      vf.#virtualIndex = index;
    });
    this.interrupts = this.#makeInterrupts();
  }

  #makeInterrupts(): FunctionInterrupts {
    const fn = this;
    return new FunctionInterrupts(
      {
        get intxAllowed() {
          return fn.#attachment !== undefined && fn.config.get8(0x3d) !== 0 && (fn.command & COMMAND_INTX_DISABLE) === 0 && fn.powered;
        },
        get mayMaster() {
          return fn.mastering;
        },
        setInterruptStatus(pending) {
          fn.config.bytes[6] = ((fn.config.bytes[6] as number) & ~STATUS_INTERRUPT) | (pending ? STATUS_INTERRUPT : 0);
        },
        drivePin(asserted) {
          fn.#attachment?.fabric.drivePin(fn, asserted);
        },
        dropped(vector, mode) {
          fn.#services?.log.guestError(`no ${mode} vector ${vector}: interrupt dropped`);
        },
      },
      this.capabilities,
    );
  }

  // ---- place ----

  get attachment(): Attachment | undefined {
    return this.#attachment;
  }

  get services(): FunctionServices | undefined {
    return this.#services;
  }

  get physical(): PciFunction | undefined {
    return this.#physical;
  }

  /** Device and function number on its bus; of a VF the low byte of its routing id. */
  get devfn(): number {
    return this.#physical ? this.routingId & 0xff : (this.#attachment?.devfn ?? 0);
  }

  get bus(): Bus | undefined {
    return this.#attachment?.bus;
  }

  get upstream(): PciFunction | undefined {
    return this.#attachment?.bus.bridge;
  }

  get routingId(): number {
    const physical = this.#physical;
    if (physical?.virtualFunctions !== undefined) {
      const { firstOffset, stride } = physical.virtualFunctions;
      return (physical.routingId + firstOffset + stride * this.#virtualIndex) & 0xffff;
    }
    return this.#attachment ? (this.#attachment.bus.number << 8) | this.#attachment.devfn : 0;
  }

  /**
   * The id its requests carry: its own, or behind a PCIe-to-PCI bridge that bridge's secondary bus number with device and function 0 (PCIe bridge 1.0 2.3),
   * however many conventional bridges lie between.
   */
  get requesterId(): number {
    let taken: Bus | undefined;
    for (let bus = this.#attachment?.bus; bus?.kind === 'conventional'; bus = bus.bridge?.bus) taken = bus;
    return taken ? taken.number << 8 : this.routingId;
  }

  /** Called by the fabric. `undefined` takes the function away. */
  place(attachment: Attachment | undefined): void {
    if (attachment === undefined) {
      this.interrupts.clear();
      this.mastering = false;
      this.#options.onDetach?.();
      for (const capability of this.capabilities) capability.detached?.();
      this.#services = undefined;
      this.#attachment = undefined;
      return;
    }
    this.#attachment = attachment;
    this.#services = { ...attachment.services, interrupts: this.interrupts };
    for (const capability of this.capabilities) capability.attached?.();
    this.#options.onAttach?.(this.#services);
  }

  /** Header type bit 7, strapped by how many functions share the device. */
  set multiFunction(on: boolean) {
    const value = (this.config.get8(14) & ~HEADER_MULTI_FUNCTION) | (on ? HEADER_MULTI_FUNCTION : 0);
    this.config.set8(14, value);
    this.config.setInitial8(14, value);
  }

  // ---- state others derive from ----

  get command(): number {
    return this.config.get16(COMMAND);
  }

  /** D0, and the PF too. */
  get powered(): boolean {
    for (const capability of this.capabilities) if ((capability.powerState ?? 0) !== 0) return false;
    return this.#physical?.powered ?? true;
  }

  get decodesMemory(): boolean {
    return (this.command & COMMAND_MEMORY) !== 0 && this.powered;
  }

  get decodesIo(): boolean {
    return (this.command & COMMAND_IO) !== 0 && this.powered;
  }

  /** Bus Master Enable and D0: what the function itself contributes to `mayMaster`; for a bridge, whether it forwards requests upstream. */
  get masterEnabled(): boolean {
    return (this.command & COMMAND_MASTER) !== 0 && this.powered;
  }

  get mayMaster(): boolean {
    return this.mastering;
  }

  /** A bridge: requests reach its secondary side at all (D0, link up, slot powered, not in secondary reset). */
  get forwards(): boolean {
    if (this.bridge?.inReset || !this.powered) return false;
    for (const capability of this.capabilities) if (capability.linkUp === false) return false;
    return true;
  }

  /** A port with ARI Forwarding Enable set. */
  get ariForwarding(): boolean {
    for (const capability of this.capabilities) if (capability.ariForwarding === true) return true;
    return false;
  }

  /** Configuration offset of the `n`-th capability of `capabilities`. */
  offsetOf(capability: Capability): number {
    return this.#offsets[this.capabilities.indexOf(capability)] ?? 0;
  }

  /** The first capability of an id, or undefined. */
  capability(id: number, list: 'standard' | 'extended' = 'standard'): Capability | undefined {
    return this.capabilities.find((c) => c.id === id && (c.extended ?? false) === (list === 'extended'));
  }

  // ---- configuration accesses ----

  /** A guest's read. Beyond the function's configuration space, all ones. */
  configRead(offset: number, size: 1 | 2 | 4): number {
    if (!(offset >= 0 && offset + size <= this.config.size)) return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
    const first = offset >>> 2;
    const last = (offset + size - 1) >>> 2;
    if (this.#live[first] !== 0) this.#refresh(first);
    if (last !== first && this.#live[last] !== 0) this.#refresh(last);
    return this.config.read(offset, size);
  }

  #refresh(dword: number): void {
    const owner = (this.#owners[dword] as number) - 1;
    this.capabilities[owner]?.beforeRead?.(dword * 4 - (this.#offsets[owner] as number));
  }

  /** A guest's write: stores under the masks and returns the effects, which the caller must have acted on. */
  configWrite(offset: number, size: 1 | 2 | 4, value: number): number {
    if (!(offset >= 0 && offset + size <= this.config.size)) return EFFECT_NONE;
    if ((offset & 3) + size > 4) {
      let effects = EFFECT_NONE;
      for (let i = 0; i < size; i++) effects |= this.configWrite(offset + i, 1, (value >>> (8 * i)) & 0xff);
      return effects;
    }
    const register = offset & ~3;
    const shift = 8 * (offset & 3);
    const old = this.config.get32(register);
    this.config.write(offset, size, value);
    const owner = this.#owners[register >>> 2] as number;
    if (owner === 0) return this.#headerWritten(register, old);
    const capability = this.capabilities[owner - 1] as Capability;
    const mask = size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
    const relative = register - (this.#offsets[owner - 1] as number);
    return capability.afterWrite?.(relative, old, ((value & mask) << shift) >>> 0, (mask << shift) >>> 0) ?? EFFECT_NONE;
  }

  #headerWritten(register: number, old: number): number {
    if (register === COMMAND) return commandEffects(this.command ^ (old & 0xffff));
    if (register < 0x10) return EFFECT_NONE;
    if (this.bars.covers(register)) return this.config.get32(register) !== old ? EFFECT_DECODE : EFFECT_NONE;
    return this.bridge?.afterWrite(register, old) ?? EFFECT_NONE;
  }

  // ---- FunctionHost ----

  sendMessage(message: MsiMessage): boolean {
    if (!this.mastering || this.#attachment === undefined) return false;
    this.#attachment.fabric.sendMessage(this, message);
    return true;
  }

  setIntxSource(source: object, asserted: boolean): void {
    this.interrupts.setSource(source, asserted);
  }

  report(effects: number): void {
    this.#attachment?.fabric.act(this, effects);
  }

  // ---- resets ----

  /** Resets this function alone (and the VFs of a PF). Called by the fabric, which then derives everything anew; others report EFFECT_FUNCTION_RESET. */
  reset(kind: ResetKind): void {
    this.#reset(kind, () => this.config.reset(kind));
  }

  /** A conventional reset that sticky bits do not survive either. */
  powerOn(): void {
    for (const vf of this.virtualFunctions?.functions ?? []) vf.config.powerOn();
    this.#reset('conventional', () => this.config.powerOn());
  }

  #reset(kind: ResetKind, resetConfig: () => void): void {
    // First, so that no thread still moves data for a device that believes itself reset.
    this.setMastering(false);
    for (const vf of this.virtualFunctions?.functions ?? []) vf.reset(kind);
    this.interrupts.clear();
    resetConfig();
    for (const capability of this.capabilities) capability.reset?.(kind);
    this.#options.onReset?.(kind);
  }

  /** Called by the fabric when the derived right to master changed. */
  setMastering(granted: boolean): void {
    const dma = this.#services?.dma;
    if (dma) dma.busMaster = granted;
    if (this.mastering === granted) return;
    this.mastering = granted;
    this.#options.onMastering?.(granted);
    if (granted) this.interrupts.masteringRestored();
    this.interrupts.onRouteChange?.();
  }
}

function secondaryKind(type: PcieType): Bus['kind'] | undefined {
  if (type === 'root-port' || type === 'downstream-port') return 'link';
  if (type === 'upstream-port') return 'internal';
  return type === 'pcie-to-pci-bridge' ? 'conventional' : undefined;
}
