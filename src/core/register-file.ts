// Hardware registers as a table of data and sparse hooks: offset, width, reset value, which bits a guest can write, clear by writing ones, or clear by reading. Serves blocks
// of 32-bit registers (Intel) and mixed 8/16/32-bit ones (virtio's common configuration) alike. All state is one Uint32Array, one word a register.

import { type AccessSize, allOnes } from './region.ts';
import { RestoreError } from './saved.ts';

/** One register, or an array of them, as a datasheet's table lists it. */
export interface RegisterSpec {
  readonly offset: number;
  /** Bytes: 1, 2 or 4 (the default). Wider fields are two registers. */
  readonly size?: AccessSize;
  /** Elements of an array, `stride` bytes apart (default: `size`). */
  readonly count?: number;
  readonly stride?: number;
  /** Value after reset, for each element. */
  readonly reset?: number;
  /** Bits a guest's write sets or clears. Default: none (read-only). */
  readonly writable?: number;
  /** Bits a guest's 1 clears. */
  readonly writeOneToClear?: number;
  /** Bits that a full-width read clears, after giving their value. */
  readonly clearOnRead?: number;
  /** Bits that outlive a warm reset. */
  readonly sticky?: number;
  /** Another name's elements under this offset too: same state, same hooks. */
  readonly aliasOf?: string;
  /** Bit fields: [lowest bit, width]. */
  readonly fields?: Readonly<Record<string, readonly [bit: number, width: number]>>;
}

/** What an access does beyond the table. `element` is the index in the register's array. Hooks must not throw. */
export interface RegisterHooks {
  /** The value to give, in place of the stored one (which it may also update). Side effects belong to `afterRead`. */
  readonly read?: (element: number) => number;
  /** After a read of the full width: what reading does. A host may split a read, so a narrower one has no side effects. */
  readonly afterRead?: (element: number) => void;
  /**
   * A write, in place of storing what the table allows. `value` has the written bytes in place and the stored ones elsewhere; `lanes` are the bits that were
   * written. `store()` on the file does what the table says.
   */
  readonly write?: (value: number, element: number, lanes: number) => void;
  /** After a write was stored as the table says; not called for what `write` took over. */
  readonly afterWrite?: (element: number) => void;
}

export type RegisterTable = Readonly<Record<string, RegisterSpec>>;

export interface RegisterFileOptions<T extends RegisterTable> {
  readonly hooks?: { readonly [K in keyof T]?: RegisterHooks };
  /** Bytes of the block; by default up to the last register. */
  readonly size?: number;
  /** What bytes of no register read as. Default 0. */
  readonly unmapped?: number;
  /** Words to keep the state in (`registerWords(table)` of them), for state that other threads look at. Default: its own. */
  readonly state?: Uint32Array;
  /** Told of accesses some of whose bytes belong to no register. */
  readonly onUnmapped?: (offset: number, size: AccessSize, kind: 'read' | 'write') => void;
}

const NONE = -1;

/** How many words of state a table has: an alias has none of its own. */
export function registerWords(table: RegisterTable): number {
  return Object.values(table).reduce((words, spec) => words + (spec.aliasOf === undefined ? (spec.count ?? 1) : 0), 0);
}

/** Where in the state each register's first element is, by name: what `RegisterFile.index` says, for code that has the words alone. */
export function registerLayout<T extends RegisterTable>(table: T): Readonly<Record<keyof T & string, number>> {
  const layout: Record<string, number> = {};
  let word = 0;
  for (const [name, spec] of Object.entries(table)) {
    if (spec.aliasOf !== undefined) continue;
    layout[name] = word;
    word += spec.count ?? 1;
  }
  for (const [name, spec] of Object.entries(table)) if (spec.aliasOf !== undefined) layout[name] = layout[spec.aliasOf] as number;
  return layout as Record<keyof T & string, number>;
}

/** A block of registers. It is a Region: accesses outside it read all ones and are dropped, none throws. */
export class RegisterFile<T extends RegisterTable = RegisterTable> {
  readonly size: number;
  readonly table: T;
  /** The stored values; `index(name, element)` says where. */
  readonly state: Uint32Array;
  readonly #first = new Map<string, number>();
  /** Register that holds each byte, or NONE. */
  readonly #at: Int32Array;
  // By register:
  readonly #offset: number[] = [];
  readonly #width: AccessSize[] = [];
  readonly #element: number[] = [];
  readonly #name: string[] = [];
  readonly #writable: number[] = [];
  readonly #clearOnWrite: number[] = [];
  readonly #clearOnRead: number[] = [];
  readonly #sticky: number[] = [];
  readonly #reset: number[] = [];
  readonly #readHook: (((element: number) => number) | undefined)[] = [];
  readonly #afterRead: (((element: number) => void) | undefined)[] = [];
  readonly #writeHook: (((value: number, element: number, lanes: number) => void) | undefined)[] = [];
  readonly #afterWrite: (((element: number) => void) | undefined)[] = [];
  readonly #unmapped: number;
  readonly #onUnmapped: RegisterFileOptions<T>['onUnmapped'];

  /** @throws RangeError when registers overlap, are not aligned to their size or an alias has no target. */
  constructor(table: T, options: RegisterFileOptions<T> = {}) {
    this.table = table;
    let end = 0;
    for (const [name, spec] of Object.entries(table)) {
      const last = spec.offset + ((spec.count ?? 1) - 1) * (spec.stride ?? spec.size ?? 4) + (spec.size ?? 4);
      if (!(Number.isSafeInteger(spec.offset) && spec.offset >= 0 && last <= 2 ** 28)) throw new RangeError(`register ${name}: offset ${spec.offset}`);
      end = Math.max(end, last);
    }
    this.size = options.size ?? (end + 3) & ~3;
    if (this.size < end) throw new RangeError(`a block of ${this.size} bytes does not hold registers up to ${end}`);
    this.#at = new Int32Array(this.size + 4).fill(NONE);
    this.#unmapped = options.unmapped ?? 0;
    this.#onUnmapped = options.onUnmapped;
    const entries = Object.entries(table);
    for (const [name, spec] of entries) if (spec.aliasOf === undefined) this.#define(name, spec, options.hooks?.[name]);
    for (const [name, spec] of entries) if (spec.aliasOf !== undefined) this.#alias(name, spec, spec.aliasOf);
    this.state = options.state ?? new Uint32Array(this.#offset.length);
    if (this.state.length !== this.#offset.length) throw new RangeError(`state of ${this.state.length} words for ${this.#offset.length} registers`);
    this.reset();
  }

  #define(name: string, spec: RegisterSpec, hooks: RegisterHooks = {}): void {
    this.#first.set(name, this.#offset.length);
    const width = spec.size ?? 4;
    const mask = allOnes(width);
    for (let element = 0; element < (spec.count ?? 1); element++) {
      const id = this.#offset.length;
      const offset = spec.offset + element * (spec.stride ?? width);
      this.#place(name, offset, width, id);
      this.#offset.push(offset);
      this.#width.push(width);
      this.#element.push(element);
      this.#name.push(name);
      this.#writable.push((spec.writable ?? 0) & mask);
      this.#clearOnWrite.push((spec.writeOneToClear ?? 0) & mask);
      this.#clearOnRead.push((spec.clearOnRead ?? 0) & mask);
      this.#sticky.push((spec.sticky ?? 0) & mask);
      this.#reset.push(((spec.reset ?? 0) & mask) >>> 0);
      this.#readHook.push(hooks.read);
      this.#afterRead.push(hooks.afterRead);
      this.#writeHook.push(hooks.write);
      this.#afterWrite.push(hooks.afterWrite);
    }
  }

  #alias(name: string, spec: RegisterSpec, target: string): void {
    const original = this.table[target];
    const first = this.#first.get(target);
    if (original === undefined || first === undefined || original.aliasOf !== undefined)
      throw new RangeError(`register ${name}: no register ${target} to be an alias of`);
    const width = original.size ?? 4;
    const count = spec.count ?? original.count ?? 1;
    if (count > (original.count ?? 1)) throw new RangeError(`register ${name}: ${target} has fewer elements`);
    for (let element = 0; element < count; element++)
      this.#place(name, spec.offset + element * (spec.stride ?? original.stride ?? width), width, first + element);
  }

  #place(name: string, offset: number, width: AccessSize, id: number): void {
    if (offset % width !== 0) throw new RangeError(`register ${name} at ${offset} is not aligned to its ${width} bytes`);
    if (offset + width > this.size) throw new RangeError(`register ${name} at ${offset} is outside a block of ${this.size} bytes`);
    for (let byte = offset; byte < offset + width; byte++) {
      const other = this.#at[byte] as number;
      if (other !== NONE) throw new RangeError(`register ${name} overlaps ${this.#name[other]} at offset ${byte}`);
      this.#at[byte] = id;
    }
  }

  // ---- the guest's side ----

  /** A load of `size` bytes. Several registers under one load are read one after the other, lowest offset first. */
  read(offset: number, size: AccessSize): number {
    const id = this.#at[offset];
    if (size === 4 && id !== undefined && id !== NONE && this.#width[id] === 4 && (offset & 3) === 0) return this.#load(id, true);
    if (!(Number.isInteger(offset) && offset >= 0 && offset + size <= this.size)) return allOnes(size);
    return this.#readPieces(offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    const id = this.#at[offset];
    if (size === 4 && id !== undefined && id !== NONE && this.#width[id] === 4 && (offset & 3) === 0) {
      this.#put(id, value >>> 0, 0xffffffff);
      return;
    }
    if (!(Number.isInteger(offset) && offset >= 0 && offset + size <= this.size)) return;
    this.#writePieces(offset, size, value);
  }

  #load(id: number, whole: boolean): number {
    const hook = this.#readHook[id];
    const value = hook === undefined ? (this.state[id] as number) : hook(this.#element[id] as number);
    if (whole) {
      const clear = this.#clearOnRead[id] as number;
      if (clear !== 0) this.state[id] = (this.state[id] as number) & ~clear;
      this.#afterRead[id]?.(this.#element[id] as number);
    }
    return value >>> 0;
  }

  #put(id: number, value: number, lanes: number): void {
    const hook = this.#writeHook[id];
    if (hook !== undefined) {
      hook(value, this.#element[id] as number, lanes);
      return;
    }
    this.#apply(id, value, lanes);
    this.#afterWrite[id]?.(this.#element[id] as number);
  }

  #apply(id: number, value: number, lanes: number): void {
    const old = this.state[id] as number;
    const writable = (this.#writable[id] as number) & lanes;
    this.state[id] = ((old & ~writable) | (value & writable)) & ~(value & (this.#clearOnWrite[id] as number) & lanes);
  }

  #readPieces(offset: number, size: AccessSize): number {
    let value = 0;
    let missed = false;
    for (let done = 0; done < size; ) {
      const id = this.#at[offset + done] as number;
      if (id === NONE) {
        missed = true;
        value |= (this.#unmapped & 0xff) << (8 * done);
        done++;
        continue;
      }
      const width = this.#width[id] as number;
      const skip = (offset + done) & (width - 1);
      const bytes = Math.min(width - skip, size - done);
      const part = (this.#load(id, bytes === width) >>> (8 * skip)) & allOnes(bytes);
      value |= part << (8 * done);
      done += bytes;
    }
    if (missed) this.#onUnmapped?.(offset, size, 'read');
    return value >>> 0;
  }

  #writePieces(offset: number, size: AccessSize, value: number): void {
    let missed = false;
    for (let done = 0; done < size; ) {
      const id = this.#at[offset + done] as number;
      if (id === NONE) {
        missed = true;
        done++;
        continue;
      }
      const width = this.#width[id] as number;
      const skip = (offset + done) & (width - 1);
      const bytes = Math.min(width - skip, size - done);
      const lanes = (allOnes(bytes) << (8 * skip)) >>> 0;
      const part = ((value >>> (8 * done)) << (8 * skip)) & lanes;
      this.#put(id, (part | ((this.state[id] as number) & ~lanes & allOnes(width))) >>> 0, lanes);
      done += bytes;
    }
    if (missed) this.#onUnmapped?.(offset, size, 'write');
  }

  // ---- the device's side ----

  /** Where `state` holds an element: look it up once, not per access. @throws RangeError for a name or element that is not there. */
  index(name: keyof T & string, element = 0): number {
    const target = this.table[name]?.aliasOf ?? name;
    const first = this.#first.get(target);
    const count = this.table[target]?.count ?? 1;
    if (first === undefined || !(element >= 0 && element < count)) throw new RangeError(`no register ${name}[${element}]`);
    return first + element;
  }

  get(name: keyof T & string, element = 0): number {
    return this.state[this.index(name, element)] as number;
  }

  /** Sets all bits, whatever a guest may do. */
  set(name: keyof T & string, value: number, element = 0): void {
    this.state[this.index(name, element)] = value;
  }

  /** Does with a guest's write what the table says: for `write` hooks. */
  store(name: keyof T & string, value: number, element = 0, lanes = 0xffffffff): void {
    this.#apply(this.index(name, element), value, lanes);
  }

  /** A bit field's value. */
  field(name: keyof T & string, field: string, element = 0): number {
    const at = this.table[name]?.fields?.[field];
    if (at === undefined) throw new RangeError(`register ${name} has no field ${field}`);
    return (this.get(name, element) >>> at[0]) & allOnes32(at[1]);
  }

  /** Every field of a register, for dumps. */
  fields(name: keyof T & string, element = 0): Record<string, number> {
    const names = Object.keys(this.table[name]?.fields ?? {});
    return Object.fromEntries(names.map((field) => [field, this.field(name, field, element) >>> 0]));
  }

  /** cold: every bit to its reset value. warm: all but the sticky ones. */
  reset(kind: 'cold' | 'warm' = 'cold'): void {
    for (let id = 0; id < this.state.length; id++) {
      const keep = kind === 'warm' ? (this.#sticky[id] as number) : 0;
      this.state[id] = ((this.state[id] as number) & keep) | ((this.#reset[id] as number) & ~keep);
    }
  }

  /** Values by register name, an element each. */
  save(): Record<string, number[]> {
    const saved: Record<string, number[]> = {};
    for (const [name, first] of this.#first) saved[name] = Array.from(this.state.subarray(first, first + (this.table[name]?.count ?? 1)));
    return saved;
  }

  /** @throws RestoreError, having changed nothing, when a register is missing, unknown, or has a value it cannot hold. */
  restore(saved: Readonly<Record<string, readonly number[]>>): void {
    const names = Object.keys(saved ?? {});
    for (const name of names) if (!this.#first.has(name)) throw new RestoreError(`saved registers name "${name}", which is not one of this block`);
    const values = new Uint32Array(this.state.length);
    for (const [name, first] of this.#first) {
      const elements = saved[name];
      const count = this.table[name]?.count ?? 1;
      if (!Array.isArray(elements) || elements.length !== count) throw new RestoreError(`saved register ${name} needs ${count} values`);
      const limit = allOnes(this.table[name]?.size ?? 4);
      elements.forEach((value: unknown, element) => {
        if (!(Number.isInteger(value) && (value as number) >= 0 && (value as number) <= limit)) throw new RestoreError(`saved register ${name} holds ${value}`);
        values[first + element] = value as number;
      });
    }
    this.state.set(values);
  }
}

function allOnes32(width: number): number {
  return width >= 32 ? 0xffffffff : 2 ** width - 1;
}
