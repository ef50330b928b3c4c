// One run of one case against one target: its accesses with a trace of the latest, what it found out clause by clause, and memory to lay things out in.

import type { AccessBytes, Target, WireOffload } from './target.ts';

/** A comparison that a clause demands. */
export interface Check {
  readonly clause: string;
  /** What was looked at. */
  readonly what: string;
  readonly expected: string;
  readonly seen: string;
  readonly holds: boolean;
}

/** The target cannot show this, and why. */
export class Skip extends Error {}

/** The device did not come as far as the clauses of the case: says what stood in the way. */
export class SetupFailure extends Error {}

const TRACE_LENGTH = 48;
const hex = (value: number): string => `0x${value.toString(16)}`;

/** Values as reports show them. */
export function show(value: unknown): string {
  if (typeof value === 'number') return Number.isInteger(value) && Math.abs(value) > 9 ? `${value} (${hex(value)})` : String(value);
  if (value instanceof Uint8Array) {
    const bytes = Array.from(value.subarray(0, 64), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    return `${value.length} bytes: ${bytes}${value.length > 64 ? ' ...' : ''}`;
  }
  if (Array.isArray(value))
    return value.every((item) => typeof item === 'number') && value.length > 24
      ? `[${value.slice(0, 24).join(', ')}, ... ${value.length}]`
      : `[${value.map((item) => (typeof item === 'number' ? item : show(item))).join(', ')}]`;
  if (value instanceof Set) return `{${[...value].join(', ')}}`;
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .map(([name, item]) => `${name}: ${show(item)}`)
      .join(', ')}}`;
  return String(value);
}

export function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (a instanceof Uint8Array && b instanceof Uint8Array) return a.length === b.length && a.every((byte, i) => byte === b[i]);
  if (a instanceof Set && b instanceof Set) return a.size === b.size && [...a].every((item) => b.has(item));
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => same(item, b[i]));
  if (typeof a === 'object' && typeof b === 'object' && a !== null && b !== null && !Array.isArray(a) && !Array.isArray(b)) {
    const [left, right] = [Object.entries(a), b as Record<string, unknown>];
    return left.length === Object.keys(b).length && left.every(([name, item]) => name in right && same(item, right[name]));
  }
  return false;
}

export class Session {
  readonly target: Target;
  readonly checks: Check[];
  /** Names a BAR offset, once the layout is known. */
  name: (bar: number, offset: number) => string = (bar, offset) => `BAR${bar}+${hex(offset)}`;
  readonly #trace: string[];
  /** Where free memory begins: one for all sessions of a case. */
  readonly #memory: { free: number };

  /** @param owner whose memory, checks and trace it shares */
  constructor(target: Target, owner?: Session) {
    this.target = target;
    this.checks = owner?.checks ?? [];
    this.#trace = owner === undefined ? [] : owner.#trace;
    this.#memory = owner === undefined ? { free: target.ram.base } : owner.#memory;
  }

  /** The latest accesses, oldest first. */
  get trace(): readonly string[] {
    return this.#trace;
  }

  note(text: string): void {
    if (this.#trace.length === TRACE_LENGTH) this.#trace.shift();
    this.#trace.push(text);
  }

  // ---- what was found out ----

  /** Holds or not, for the clause with this key. The case goes on either way. */
  check(clause: string, what: string, seen: unknown, expected: unknown): boolean {
    return this.#add(clause, what, show(expected), show(seen), same(seen, expected));
  }

  /** The same where what is expected is a condition, in words. */
  checkThat(clause: string, what: string, holds: boolean, expected: string, seen: unknown): boolean {
    return this.#add(clause, what, expected, show(seen), holds);
  }

  #add(clause: string, what: string, expected: string, seen: string, holds: boolean): boolean {
    this.checks.push({ clause, what, expected, seen, holds });
    if (!holds) this.note(`-- ${clause}: ${what}: expected ${expected}, saw ${seen}`);
    return holds;
  }

  /** What the case needs to go on and no clause of it is about. @throws SetupFailure */
  ensure(holds: boolean, what: string, seen?: unknown): void {
    if (!holds) throw new SetupFailure(seen === undefined ? what : `${what}: saw ${show(seen)}`);
  }

  /** What has to be there for the case to go on. @throws SetupFailure */
  found<T>(value: T | undefined, missing: string): T {
    if (value === undefined) throw new SetupFailure(missing);
    return value;
  }

  /** @throws Skip */
  skip(reason: string): never {
    throw new Skip(reason);
  }

  // ---- accesses ----

  async configRead(offset: number, size: AccessBytes): Promise<number> {
    const value = await this.target.configRead(offset, size);
    this.note(`config ${hex(offset)} -> ${hex(value)}`);
    return value;
  }

  async configWrite(offset: number, size: AccessBytes, value: number): Promise<void> {
    this.note(`config ${hex(offset)} <- ${hex(value)}`);
    await this.target.configWrite(offset, size, value >>> 0);
  }

  async barRead(bar: number, offset: number, size: AccessBytes): Promise<number> {
    const value = await this.target.barRead(bar, offset, size);
    this.note(`${this.name(bar, offset)} -> ${hex(value)} (${size})`);
    return value;
  }

  async barWrite(bar: number, offset: number, size: AccessBytes, value: number): Promise<void> {
    this.note(`${this.name(bar, offset)} <- ${hex(value)} (${size})`);
    await this.target.barWrite(bar, offset, size, value >>> 0);
  }

  async read(address: number, length: number): Promise<Uint8Array> {
    return this.target.memoryRead(address, length);
  }

  async read16(address: number): Promise<number> {
    const bytes = await this.target.memoryRead(address, 2);
    return (bytes[0] as number) | ((bytes[1] as number) << 8);
  }

  async write(address: number, bytes: Uint8Array): Promise<void> {
    this.note(`memory ${hex(address)} <- ${show(bytes.subarray(0, 16))}`);
    await this.target.memoryWrite(address, bytes);
  }

  async write16(address: number, value: number): Promise<void> {
    await this.write(address, Uint8Array.of(value & 0xff, (value >>> 8) & 0xff));
  }

  async send(frame: Uint8Array, offload?: WireOffload): Promise<void> {
    this.note(`wire: a frame of ${frame.length} bytes to the device`);
    await this.target.send(frame, offload);
  }

  async sent(): Promise<Uint8Array[]> {
    await this.target.settle();
    const frames = await this.target.sent();
    for (const frame of frames) this.note(`wire: a frame of ${frame.length} bytes from the device`);
    return frames;
  }

  // ---- memory ----

  /** Memory of the case's own; never given back. */
  allocate(size: number, alignment = 16): number {
    const at = Math.ceil(this.#memory.free / alignment) * alignment;
    this.#memory.free = at + size;
    if (this.#memory.free > this.target.ram.base + this.target.ram.size)
      throw new Skip(`needs more than the ${this.target.ram.size} bytes of memory the target has for it`);
    return at;
  }
}
