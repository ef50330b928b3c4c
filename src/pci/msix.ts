// MSI-X (PCIe 4.0 7.7.2, 6.1.4): the capability's enable and function mask over a table in a BAR (msix-table.ts), and the BAR that holds nothing else.

import type { AccessSize, Region } from '#core/region';
import { RestoreError } from '#core/saved';
import { type Capability, type CapabilityArea, EFFECT_INTERRUPTS, EFFECT_NONE, type MessageInterrupts } from './capability.ts';
import { MSIX_ENTRY_BYTES, MsixTable } from './msix-table.ts';
import type { MsiMessage } from './ports.ts';

/** Where a structure is: BAR number and a multiple of 8 in it. */
interface MsixPlace {
  readonly bar: number;
  readonly offset: number;
}

export interface MsixOptions {
  /** 1 to 2048. */
  readonly vectors: number;
  readonly table: MsixPlace;
  readonly pendingBits: MsixPlace;
}

const CONTROL = 2;
const ENABLE = 0x8000;
const FUNCTION_MASK = 0x4000;
const TABLE = 4;
const PENDING = 8;

export class Msix implements Capability, MessageInterrupts {
  readonly id = 0x11;
  readonly size = 12;
  readonly mode = 'msix';
  readonly messages: MessageInterrupts = this;
  readonly options: MsixOptions;
  readonly #table: MsixTable;
  #area!: CapabilityArea;

  /** @throws RangeError for vectors outside 1..2048, BARs outside 0..5, offsets that are no multiple of 8, or structures that overlap. */
  constructor(options: MsixOptions) {
    this.options = options;
    const { table, pendingBits } = options;
    for (const place of [table, pendingBits]) {
      if (!Number.isInteger(place.bar) || place.bar < 0 || place.bar > 5) throw new RangeError(`MSI-X: no BAR ${place.bar}`);
      if (!(place.offset >= 0 && place.offset < 2 ** 32) || place.offset % 8 !== 0) throw new RangeError(`MSI-X: offset ${place.offset} is no multiple of 8`);
    }
    this.#table = new MsixTable(options.vectors, {
      send: (vector) => this.#passes && this.#area.host.sendMessage(this.#table.message(vector)),
      changed: () => {
        if (this.enabled) this.#area.host.report(EFFECT_INTERRUPTS);
      },
    });
    const apart = table.bar !== pendingBits.bar;
    const tableEnd = table.offset + this.table.size;
    const pendingEnd = pendingBits.offset + this.pendingBits.size;
    if (!apart && table.offset < pendingEnd && pendingBits.offset < tableEnd) throw new RangeError('MSI-X: table and pending bits overlap');
  }

  get vectors(): number {
    return this.#table.vectors;
  }

  /** The table as a region, to be shown at `options.table`. */
  get table(): Region {
    return this.#table.table;
  }

  /** The pending bit array as a region, to be shown at `options.pendingBits`. */
  get pendingBits(): Region {
    return this.#table.pendingBits;
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    const { vectors, table, pendingBits } = this.options;
    area.set16(CONTROL, vectors - 1);
    area.permitWrite(CONTROL, 2, ENABLE | FUNCTION_MASK);
    area.set32(TABLE, table.offset | table.bar);
    area.set32(PENDING, pendingBits.offset | pendingBits.bar);
  }

  get enabled(): boolean {
    return (this.#area.get16(CONTROL) & ENABLE) !== 0;
  }

  /** Enabled and not masked as a whole. */
  get #passes(): boolean {
    return (this.#area.get16(CONTROL) & (ENABLE | FUNCTION_MASK)) === ENABLE;
  }

  #has(vector: number): boolean {
    return Number.isInteger(vector) && vector >= 0 && vector < this.vectors;
  }

  raise(vector: number): void {
    if (!this.#has(vector)) {
      this.#area.host.services?.log.guestError(`no MSI-X vector ${vector}: interrupt dropped`);
      return;
    }
    if (!this.enabled) return;
    const open = this.#passes && !this.#table.masked(vector);
    if (!open || !this.#area.host.sendMessage(this.#table.message(vector))) this.#table.setPending(vector, true);
  }

  message(vector: number): MsiMessage | null {
    if (!this.#passes || !this.#has(vector) || !this.#area.host.mayMaster) return null;
    return this.#table.masked(vector) ? null : this.#table.message(vector);
  }

  /** The cause of a masked vector went away before it was unmasked: its pending bit is cleared (PCIe 4.0 6.1.4.3). */
  retract(vector: number): void {
    if (this.#has(vector)) this.#table.setPending(vector, false);
  }

  masteringRestored(): void {
    if (this.#passes) this.#table.flush();
  }

  afterWrite(register: number, old: number, _written: number, _lanes: number): number {
    if (register !== 0 || this.#area.get32(0) === old) return EFFECT_NONE;
    if (this.#passes) this.#table.flush();
    return EFFECT_INTERRUPTS;
  }

  reset(): void {
    this.#table.reset();
  }

  save(): unknown {
    return this.#table.save();
  }

  restore(state: unknown): void {
    if (!this.#table.accepts(state)) throw new RestoreError('saved MSI-X table does not fit this function');
    this.#table.restore(state);
  }
}

/**
 * The region of BAR `bar` with the MSI-X structures that lie in it, over `rest` (or over nothing: reads 0). `size` is the BAR's size; by default just
 * large enough.
 */
export function msixBar(msix: Msix, bar: number, rest?: Region, size?: number): Region {
  const { table, pendingBits } = msix.options;
  const parts: { offset: number; region: Region }[] = [];
  if (table.bar === bar) parts.push({ offset: table.offset, region: msix.table });
  if (pendingBits.bar === bar) parts.push({ offset: pendingBits.offset, region: msix.pendingBits });
  const end = Math.max(rest?.size ?? 0, ...parts.map((p) => p.offset + p.region.size));
  const at = (offset: number): { offset: number; region: Region } | undefined => {
    for (const part of parts) if (offset >= part.offset && offset < part.offset + part.region.size) return part;
    return rest !== undefined && offset < rest.size ? { offset: 0, region: rest } : undefined;
  };
  return {
    size: size ?? end,
    read(offset: number, width: AccessSize): number {
      const part = at(offset);
      return part === undefined ? 0 : part.region.read(offset - part.offset, width);
    },
    write(offset: number, width: AccessSize, value: number): void {
      const part = at(offset);
      part?.region.write(offset - part.offset, width, value);
    },
  };
}

/** Options for an MSI-X BAR of its own: the table from 0, the pending bits after it in a page of their own (so that they can be mapped apart). */
export function msixOwnBar(bar: number, vectors: number): MsixOptions {
  const offset = Math.max(0x800, Math.ceil((vectors * MSIX_ENTRY_BYTES) / 0x800) * 0x800);
  return { vectors, table: { bar, offset: 0 }, pendingBits: { bar, offset } };
}
