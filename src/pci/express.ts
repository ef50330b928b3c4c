// The PCI Express capability, version 2 (PCIe 4.0 7.5.3): device registers of every function type, FLR, and - where the type has them - link, slot and root
// registers, which are in express-link.ts, express-slot.ts and express-root.ts. Left out: LTR, OBFF, emergency power reduction, AtomicOps, 10-bit tags.

import { RestoreError } from '#core/saved';
import { type Capability, type CapabilityArea, EFFECT_FUNCTION_RESET, EFFECT_NONE, EFFECT_ROUTING, type FunctionHost } from './capability.ts';
import { collectorOf } from './event-collector.ts';
import { EventInterrupt } from './event-interrupt.ts';
import { Link, type LinkOptions, type LinkState } from './express-link.ts';
import { RootControl } from './express-root.ts';
import { SlotEvent, type SlotOptions, SlotRegisters } from './express-slot.ts';
import type { PcieType } from './function.ts';
import type { ResetKind } from './ports.ts';

export interface ExpressOptions extends LinkOptions {
  /** Largest payload the function can carry; default 512. */
  readonly maxPayload?: 128 | 256 | 512 | 1024 | 2048 | 4096;
  /** Endpoints: function-level reset; default true. */
  readonly functionReset?: boolean;
  /** Root and downstream ports: a hot-pluggable slot. */
  readonly slot?: SlotOptions;
  /** Root ports: an error message that root control turns into a system error. */
  readonly onSystemError?: (severity: 'correctable' | 'non-fatal' | 'fatal') => void;
}

interface ExpressState {
  readonly link: LinkState;
  readonly present: boolean;
  readonly pme: readonly number[];
}

const TYPE_CODES: Readonly<Record<Exclude<PcieType, 'conventional'>, number>> = {
  endpoint: 0,
  'legacy-endpoint': 1,
  'root-port': 4,
  'upstream-port': 5,
  'downstream-port': 6,
  'pcie-to-pci-bridge': 7,
  'root-complex-endpoint': 9,
  'root-complex-event-collector': 10,
};

const FLAGS = 2;
const DEVICE_CAPABILITIES = 4;
const DEVICE_CONTROL = 8;
const DEVICE_STATUS = 10;
const LINK_CONTROL = 16;
const SLOT_CONTROL = 24;
const ROOT_STATUS = 32;
const DEVICE_CAPABILITIES_2 = 36;
const DEVICE_CONTROL_2 = 40;
const SLOT_IMPLEMENTED = 0x100;
const ROLE_BASED = 0x8000;
const EXTENDED_TAG = 0x20;
const FUNCTION_RESET_CAPABLE = 0x1000_0000;
const INITIATE_RESET = 0x8000;
const ARI_FORWARDING = 0x20;
const TIMEOUT_DISABLE = 0x10;
const DEFAULT_CONTROL = 0x2810;

export class Express implements Capability {
  readonly id = 0x10;
  readonly size = 60;
  readonly options: ExpressOptions;
  #area!: CapabilityArea;
  #link: Link | undefined;
  #slot: SlotRegisters | undefined;
  #root: RootControl | undefined;
  #interrupt: EventInterrupt | undefined;
  #functionReset = false;
  #forwards = false;
  /** A hot insertion is under way (hotplug.ts): events, and a link that has to train. */
  #hot = false;

  constructor(options: ExpressOptions = {}) {
    this.options = options;
  }

  /** @throws TypeError for a conventional function, or a slot on a function that has none. */
  install(area: CapabilityArea): void {
    this.#area = area;
    const { host } = area;
    const { options } = this;
    if (host.pcieType === 'conventional') throw new TypeError('a conventional function has no PCI Express capability');
    const type = TYPE_CODES[host.pcieType];
    const endpoint = type < 2 || type === 9;
    const downstream = type === 4 || type === 6;
    const payload = Math.log2((options.maxPayload ?? 512) / 128);
    if (options.slot && !downstream) throw new TypeError(`a ${host.pcieType} has no slot: leave \`slot\` out`);
    this.#functionReset = endpoint && (options.functionReset ?? true);
    this.#forwards = downstream;
    area.set16(FLAGS, 2 | (type << 4) | (options.slot ? SLOT_IMPLEMENTED : 0));
    area.set32(DEVICE_CAPABILITIES, payload | EXTENDED_TAG | ROLE_BASED | (this.#functionReset ? FUNCTION_RESET_CAPABLE : 0));
    area.permitClear(DEVICE_STATUS, 2, 0x000f);
    // No completion ever times out here; disabling the timeout is required of requesters (7.5.3.15).
    area.set32(DEVICE_CAPABILITIES_2, TIMEOUT_DISABLE | (downstream ? ARI_FORWARDING : 0));
    // PCIe 4.0 9.3.5.4, 9.3.5.8: a VF follows its PF in all of these; only FLR is its own.
    if (!host.virtual) {
      if (endpoint) area.set16(DEVICE_CONTROL, DEFAULT_CONTROL);
      const shared = 0x000f | (payload > 0 ? 0x00e0 : 0) | 0x0100;
      area.permitWrite(DEVICE_CONTROL, 2, endpoint ? shared | 0x7810 : type === 7 ? shared | INITIATE_RESET : shared);
      // 6.6.2: Max_Payload_Size outlives a function-level reset.
      area.keepOverFunctionReset(DEVICE_CONTROL, 2, 0x00e0);
      area.permitWrite(DEVICE_CONTROL_2, 2, TIMEOUT_DISABLE | (downstream ? ARI_FORWARDING : 0));
    }
    if (type !== 9 && type !== 10) this.#link = this.#makeLink(downstream);
    if (options.slot) this.#slot = new SlotRegisters(area, options.slot);
    if (type === 4 || type === 10) this.#root = new RootControl(area);
    if (downstream || type === 10) this.#interrupt = new EventInterrupt(host, 0);
  }

  #makeLink(downstream: boolean): Link {
    const powered = (): boolean => this.#slot?.powered ?? true;
    return new Link(this.#area, this.options, downstream, {
      get powered() {
        return powered();
      },
      layerChanged: () => {
        // At power-on nobody was there to see the link change.
        if (this.#hot || this.#running) this.#slot?.event(SlotEvent.linkStateChanged);
        this.#update();
      },
      update: () => this.#update(),
    });
  }

  /** Set while a change comes from the guest, the clock or the hot plug API rather than from building the machine. */
  #running = false;

  get link(): Link | undefined {
    return this.#link;
  }

  get slot(): SlotRegisters | undefined {
    return this.#slot;
  }

  get root(): RootControl | undefined {
    return this.#root;
  }

  get linkUp(): boolean {
    return this.#link?.up ?? true;
  }

  get ariForwarding(): boolean {
    return this.#forwards && (this.#area.get16(DEVICE_CONTROL_2) & ARI_FORWARDING) !== 0;
  }

  /** Device Control: bits 3:0 enable reporting of correctable, non-fatal, fatal errors and unsupported requests. */
  get deviceControl(): number {
    return this.#area.get16(DEVICE_CONTROL);
  }

  /** Sets Device Status bits (3:0: correctable, non-fatal, fatal error, unsupported request detected). */
  setDeviceStatus(bits: number): void {
    this.#area.set16(DEVICE_STATUS, this.#area.get16(DEVICE_STATUS) | bits);
  }

  /** A PME message reached this root port. */
  receivePme(requester: number): void {
    this.#root?.receive(requester);
    this.#update();
  }

  /** Runs `change` as something that happens to a running machine: events are raised and the link has to train. */
  hot(change: () => void): void {
    this.#hot = true;
    try {
      change();
    } finally {
      this.#hot = false;
    }
    this.#update();
  }

  presenceChanged(present: boolean): void {
    if (!this.#link?.downstream) return;
    // Nothing can be taken out of a machine that is still being built.
    const hot = this.#hot || !present;
    this.#running = hot;
    this.#slot?.setPresent(present, hot && this.#slot !== undefined);
    this.#link.setPresent(present, hot);
    this.#update();
    this.#running = true;
  }

  attached(): void {
    const { host } = this.#area;
    if (host.virtual || !this.#link || this.#link.downstream) return;
    const port = host.upstream && expressOf(host.upstream)?.link;
    if (port?.downstream) this.#link.pair(port);
  }

  detached(): void {
    if (!this.#link?.downstream) this.#link?.pair(undefined);
    this.#link?.detached();
  }

  #update(): void {
    this.#interrupt?.set((this.#slot?.interrupting ?? false) || (this.#root?.interrupting ?? false) || (this.#link?.interrupting ?? false));
  }

  afterWrite(register: number, old: number, written: number, lanes: number): number {
    let effects = EFFECT_NONE;
    this.#running = true;
    if (register === DEVICE_CONTROL) return this.#functionReset && (written & INITIATE_RESET) !== 0 ? EFFECT_FUNCTION_RESET : EFFECT_NONE;
    if (register === LINK_CONTROL) effects = this.#link?.written(old, written) ?? EFFECT_NONE;
    else if (register === SLOT_CONTROL && this.#slot && (lanes & 0xffff) !== 0) {
      if (this.#slot.command(old)) effects = this.#link?.settle(true) ?? EFFECT_NONE;
      this.#slot.onCommand?.();
    } else if (register === ROOT_STATUS) this.#root?.statusWritten(old);
    else if (register === DEVICE_CONTROL_2 && ((old ^ this.#area.get16(DEVICE_CONTROL_2)) & ARI_FORWARDING) !== 0) effects = EFFECT_ROUTING;
    if (register >= LINK_CONTROL && register <= ROOT_STATUS) this.#update();
    return effects;
  }

  reset(kind: ResetKind): void {
    this.#root?.reset();
    this.#interrupt?.adopt(false);
    this.#running = false;
    if (kind !== 'function') this.#slot?.settle();
    this.#link?.reset();
    this.#running = true;
  }

  save(): ExpressState {
    return {
      link: this.#link?.save() ?? { up: false, training: -1 },
      present: this.#slot?.save() ?? false,
      pme: this.#root?.save() ?? [],
    };
  }

  restore(state: unknown): void {
    const s = state as Partial<ExpressState> | null;
    const link = s?.link;
    if (typeof link?.up !== 'boolean' || !Number.isFinite(link.training) || typeof s?.present !== 'boolean' || !Array.isArray(s.pme))
      throw new RestoreError('saved PCI Express capability does not fit');
    this.#link?.restore(link);
    this.#slot?.restore(s.present);
    this.#root?.restore(s.pme);
    this.#interrupt?.adopt((this.#slot?.interrupting ?? false) || (this.#root?.interrupting ?? false) || (this.#link?.interrupting ?? false));
  }
}

/** The PCI Express capability of a function, if it has one. */
export function expressOf(host: Pick<FunctionHost, 'capabilities'>): Express | undefined {
  return host.capabilities.find((c): c is Express => c instanceof Express);
}

/** The root port a function's PME messages end at, or for what sits on the root bus the event collector; undefined where there is none. */
export function rootPortAbove(host: FunctionHost): Express | undefined {
  let port: FunctionHost | undefined = host.upstream;
  while (port?.upstream) port = port.upstream;
  port ??= collectorOf(host);
  const express = port && expressOf(port);
  return express?.root ? express : undefined;
}
