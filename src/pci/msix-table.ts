// The MSI-X table and pending bit array (PCIe 4.0 7.7.2): what lies in a BAR. Enable and function mask are in the capability (msix.ts), which owns
// one of these. The specification allows aligned 4 and 8 byte accesses only; narrower ones are merged into their dword here, since hosts that split
// accesses (and careless guests) make them. Left out: steering tags (TPH) in vector control.

import type { AccessSize, Region } from '#core/region';
import type { MsiMessage } from './ports.ts';

const MSIX_MAXIMUM_VECTORS = 2048;
export const MSIX_ENTRY_BYTES = 16;
const ENTRY_WORDS = 4;
const ADDRESS_LOW = 0;
const ADDRESS_HIGH = 1;
const DATA = 2;
const CONTROL = 3;
const MASKED = 1;

export interface MsixTableHooks {
  /** A pending message may go now (its vector was unmasked). Returns whether it was taken; if not it stays pending. */
  send(vector: number): boolean;
  /** A guest changed an entry. */
  changed(vector: number): void;
}

export interface MsixTableState {
  readonly table: Uint32Array;
  readonly pending: Uint32Array;
}

export class MsixTable {
  readonly vectors: number;
  readonly table: Region;
  readonly pendingBits: Region;
  readonly #words: Uint32Array;
  readonly #pending: Uint32Array;
  readonly #hooks: MsixTableHooks;
  /** Number of pending bits set, so that the usual case of none costs nothing. */
  #pendingCount = 0;

  /** @throws RangeError unless 1 <= vectors <= 2048. */
  constructor(vectors: number, hooks: MsixTableHooks) {
    if (!Number.isInteger(vectors) || vectors < 1 || vectors > MSIX_MAXIMUM_VECTORS) throw new RangeError(`MSI-X has 1 to 2048 vectors, not ${vectors}`);
    this.vectors = vectors;
    this.#hooks = hooks;
    this.#words = new Uint32Array(vectors * ENTRY_WORDS);
    // Whole quadwords (PCIe 4.0 7.7.2.7): pairs of dwords.
    this.#pending = new Uint32Array(Math.ceil(vectors / 64) * 2);
    this.table = {
      size: this.#words.byteLength,
      read: (offset, size) => narrow(this.#words[offset >>> 2] ?? 0, offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
    };
    this.pendingBits = {
      size: this.#pending.byteLength,
      read: (offset, size) => narrow(this.#pending[offset >>> 2] ?? 0, offset, size),
      // PCIe 4.0 7.7.2.7: software only reads pending bits.
      write: () => undefined,
    };
    this.reset();
  }

  /** Every vector masked and nothing pending (PCIe 4.0 7.7.2.6: the mask bit's default is 1). */
  reset(): void {
    this.#words.fill(0);
    for (let v = 0; v < this.vectors; v++) this.#words[v * ENTRY_WORDS + CONTROL] = MASKED;
    this.#pending.fill(0);
    this.#pendingCount = 0;
  }

  masked(vector: number): boolean {
    return ((this.#words[vector * ENTRY_WORDS + CONTROL] as number) & MASKED) !== 0;
  }

  pending(vector: number): boolean {
    return ((this.#pending[vector >>> 5] as number) & (1 << (vector & 31))) !== 0;
  }

  message(vector: number): MsiMessage {
    const at = vector * ENTRY_WORDS;
    return {
      addressLow: this.#words[at + ADDRESS_LOW] as number,
      addressHigh: this.#words[at + ADDRESS_HIGH] as number,
      data: this.#words[at + DATA] as number,
    };
  }

  setPending(vector: number, pending: boolean): void {
    if (this.pending(vector) === pending) return;
    const bit = 1 << (vector & 31);
    this.#pending[vector >>> 5] = (this.#pending[vector >>> 5] as number) ^ bit;
    this.#pendingCount += pending ? 1 : -1;
  }

  /** Offers every pending message whose vector is not masked; the capability calls it when enable or the function mask lets messages through. */
  flush(): void {
    if (this.#pendingCount === 0) return;
    for (let word = 0; word < this.#pending.length; word++) {
      if (this.#pending[word] === 0) continue;
      for (let vector = word * 32; vector < Math.min(this.vectors, word * 32 + 32); vector++) this.#offer(vector);
    }
  }

  #offer(vector: number): void {
    if (!this.pending(vector) || this.masked(vector)) return;
    if (this.#hooks.send(vector)) this.setPending(vector, false);
  }

  #write(offset: number, size: AccessSize, value: number): void {
    const index = offset >>> 2;
    const old = this.#words[index];
    if (old === undefined) return;
    const wide = merge(old, offset, size, value);
    const field = index % ENTRY_WORDS;
    // PCIe 4.0 7.7.2.3: address bits 1:0 are zero. 7.7.2.6: bits 31:1 of vector control are reserved.
    this.#words[index] = field === ADDRESS_LOW ? wide & ~3 : field === CONTROL ? wide & MASKED : wide;
    const vector = Math.floor(index / ENTRY_WORDS);
    this.#hooks.changed(vector);
    // PCIe 4.0 6.1.4.3: a pending message is sent when its vector is unmasked.
    if (field === CONTROL) this.#offer(vector);
  }

  save(): MsixTableState {
    return { table: this.#words.slice(), pending: this.#pending.slice() };
  }

  /** Whether `restore` would take this record: sizes right, reserved bits clear, no pending bit past the last vector. */
  accepts(state: unknown): state is MsixTableState {
    const s = state as Partial<MsixTableState> | null;
    if (!(s?.table instanceof Uint32Array) || !(s.pending instanceof Uint32Array)) return false;
    if (s.table.length !== this.#words.length || s.pending.length !== this.#pending.length) return false;
    for (let v = 0; v < this.vectors; v++) {
      if (((s.table[v * ENTRY_WORDS] as number) & 3) !== 0 || ((s.table[v * ENTRY_WORDS + CONTROL] as number) & ~MASKED) !== 0) return false;
    }
    for (let v = this.vectors; v < s.pending.length * 32; v++) if (((s.pending[v >>> 5] as number) & (1 << (v & 31))) !== 0) return false;
    return true;
  }

  restore(state: MsixTableState): void {
    this.#words.set(state.table);
    this.#pending.set(state.pending);
    this.#pendingCount = 0;
    for (let v = 0; v < this.vectors; v++) if (this.pending(v)) this.#pendingCount++;
  }
}

function narrow(word: number, offset: number, size: AccessSize): number {
  if (size === 4) return word;
  return (word >>> ((offset & 3) * 8)) & (size === 1 ? 0xff : 0xffff);
}

function merge(old: number, offset: number, size: AccessSize, value: number): number {
  if (size === 4) return value >>> 0;
  const shift = (offset & 3) * 8;
  const mask = (size === 1 ? 0xff : 0xffff) << shift;
  return ((old & ~mask) | ((value << shift) & mask)) >>> 0;
}
