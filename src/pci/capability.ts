// What a capability is to its function: a run of configuration bytes it installs, with hooks for what masks cannot say. Writes reach it as whole dwords and
// come back as *effects*: bits telling the fabric what to derive anew. A capability that carries interrupts, virtual functions, a power state or a link
// says so with one of the optional members; the function and the fabric look for those, never for capability ids.

import type { Bus } from './bus.ts';
import type { ConfigSpace } from './config-space.ts';
import type { PcieType, PciFunction } from './function.ts';
import type { FunctionServices, MsiMessage, ResetKind } from './ports.ts';

/** What happened that others must act on. A config write's effects are or-ed and acted on once, when the write is done. */
export const EFFECT_NONE = 0;
/** What the function (or its VFs, or what lies below it) decodes may have changed. */
export const EFFECT_DECODE = 1;
/** Interrupt mode, masks or messages changed: the INTx pin is re-derived and `onRouteChange` called. */
export const EFFECT_INTERRUPTS = 2;
/** Whether the function (or what lies below it) may master the bus changed: command, D-state, link, ACS. */
export const EFFECT_MASTERING = 4;
/** Who answers to which bus, device and function number changed: bus numbers, ARI forwarding, VF Enable, link. Includes requester ids. */
export const EFFECT_ROUTING = 8;
/** Function-level reset of this function (PCIe 4.0 6.6.2). */
export const EFFECT_FUNCTION_RESET = 16;
/** The internal reset of D3hot -> D0 without No_Soft_Reset (PCI PM 1.2 5.4). */
export const EFFECT_SOFT_RESET = 32;
/** Hot reset of everything below this bridge: secondary bus reset, link disable, slot power off. */
export const EFFECT_SECONDARY_RESET = 64;

/** A function as its capabilities see it. `PciFunction` is one. */
export interface FunctionHost {
  readonly config: ConfigSpace;
  readonly pcieType: PcieType;
  /** A VF. */
  readonly virtual: boolean;
  /** What the device was attached with; undefined before it is attached to a fabric and after it is detached. */
  readonly services: FunctionServices | undefined;
  /** Present bus, device and function number (ARI: 8-bit function); 0 while detached. */
  readonly routingId: number;
  /** True while the function may send requests upstream: its own Bus Master Enable, D0, and every bridge above. */
  readonly mayMaster: boolean;
  /** The bridge above (the root port, downstream port or PCI bridge), or undefined on the root bus. */
  readonly upstream: PciFunction | undefined;
  /** The bus it is on, while attached. */
  readonly bus: Bus | undefined;
  /** The PF of a VF. */
  readonly physical: PciFunction | undefined;
  readonly capabilities: readonly Capability[];
  /** Sends an MSI or MSI-X message write; false (and nothing sent) while `mayMaster` is false. */
  sendMessage(message: MsiMessage): boolean;
  /** INTx level of one source inside the function; the pin is the wired-or of all sources. For capabilities (hot plug, AER, PME): the device has its InterruptPort. */
  setIntxSource(source: object, asserted: boolean): void;
  /** Reports effects that did not come from a config write (a timer, the host's doing). Acted on before it returns. */
  report(effects: number): void;
}

/** MSI or MSI-X as the function's InterruptPort uses it. The one that is `enabled` is the mode; MSI-X is asked first. */
export interface MessageInterrupts {
  readonly mode: 'msi' | 'msix';
  readonly enabled: boolean;
  raise(vector: number): void;
  message(vector: number): MsiMessage | null;
  /** Bus mastering came (back) on: send what became pending while it was off. */
  masteringRestored(): void;
}

/** One VF BAR as the PF's registers place it now: VF i answers at `base + i * stride`. */
export interface VirtualBar {
  /** BAR number in the VF whose region answers. */
  readonly index: number;
  readonly base: number;
  /** Distance between one VF and the next: the BAR size rounded up to the system page size. */
  readonly stride: number;
}

/** What SR-IOV tells the fabric. All values are read anew after EFFECT_ROUTING or EFFECT_DECODE; VF i's routing id is PF's + firstOffset + i * stride. */
export interface VirtualFunctions {
  /** Every VF there can be, in order. They are attached (dma, interrupts) and detached together with the PF. */
  readonly functions: readonly PciFunction[];
  /** How many answer now: NumVFs while VF Enable is set, otherwise 0. Never above functions.length. */
  readonly enabled: number;
  readonly firstOffset: number;
  readonly stride: number;
  /** VF Memory Space Enable: gates the VF BARs of all VFs. */
  readonly memoryEnabled: boolean;
  /** The VF BARs that hold an address. */
  readonly bars: readonly VirtualBar[];
}

export interface Capability {
  readonly id: number;
  /** In the extended list (from 0x100) rather than the 256-byte one. */
  readonly extended?: boolean;
  /** Extended capabilities: the version in the header. */
  readonly version?: number;
  /** Bytes including the header; rounded up to a dword. */
  readonly size: number;
  /** Writes bytes and masks. The header (id, next, version) is already there. Called once, before the function is attached. */
  install(area: CapabilityArea): void;
  /** A guest is about to read from the dword at `register`: bring live bits up to date. Only for capabilities that have any. */
  beforeRead?(register: number): void;
  /**
   * A guest wrote to the dword at `register` (relative, a multiple of 4); the masks are already applied. `old` is the dword before; `written` is what was
   * written, in place, zero in bytes not written; `lanes` has ones in the bytes that were written. Returns effects. Narrow and unaligned writes arrive as
   * several of these, lowest byte first.
   */
  afterWrite?(register: number, old: number, written: number, lanes: number): number;
  /** The function was reset; the config bytes are back already (sticky ones kept). Drops other state. */
  reset?(kind: ResetKind): void;
  /** The function was attached to, or taken off, a fabric. */
  attached?(): void;
  detached?(): void;
  /** State that is not in the config bytes, as plain cloneable data. */
  save?(): unknown;
  /** Throws RestoreError on a record that does not fit. Called after the config bytes are back. */
  restore?(state: unknown): void;

  /** MSI, MSI-X. */
  readonly messages?: MessageInterrupts;
  /** SR-IOV. */
  readonly virtualFunctions?: VirtualFunctions;
  /** Power management: 0 is D0; anything else stops decoding and mastering. */
  readonly powerState?: number;
  /** A port's ARI Forwarding Enable. */
  readonly ariForwarding?: boolean;
  /** A port's link: false while disabled or the slot is off; what lies below is then unreachable. */
  readonly linkUp?: boolean;
  /** ACS of a port: true when it blocks a request from below with this requester id (source validation). Reports EFFECT_MASTERING when its answer may change. */
  blocksRequester?(requester: number): boolean;
  /** A port: something was plugged in below (true) or the last function taken away (false). */
  presenceChanged?(present: boolean): void;
}

/** A capability's own bytes, by offsets relative to its header. */
export class CapabilityArea {
  readonly host: FunctionHost;
  /** Where in configuration space the header is. */
  readonly offset: number;
  readonly size: number;

  constructor(host: FunctionHost, offset: number, size: number) {
    this.host = host;
    this.offset = offset;
    this.size = size;
  }

  get8(at: number): number {
    return this.host.config.get8(this.offset + at);
  }

  get16(at: number): number {
    return this.host.config.get16(this.offset + at);
  }

  get32(at: number): number {
    return this.host.config.get32(this.offset + at);
  }

  set8(at: number, value: number): void {
    this.host.config.set8(this.offset + at, value);
  }

  set16(at: number, value: number): void {
    this.host.config.set16(this.offset + at, value);
  }

  set32(at: number, value: number): void {
    this.host.config.set32(this.offset + at, value);
  }

  /** Replaces the writable bits; may be called again later (a field that locks). */
  permitWrite(at: number, size: 1 | 2 | 4, mask: number): void {
    this.host.config.permitWrite(this.offset + at, size, mask);
  }

  permitClear(at: number, size: 1 | 2 | 4, mask: number): void {
    this.host.config.permitClear(this.offset + at, size, mask);
  }

  keepSticky(at: number, size: 1 | 2 | 4, mask: number): void {
    this.host.config.keepSticky(this.offset + at, size, mask);
  }

  keepOverFunctionReset(at: number, size: 1 | 2 | 4, mask: number): void {
    this.host.config.keepOverFunctionReset(this.offset + at, size, mask);
  }
}
