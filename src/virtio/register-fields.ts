// A register block as a table of fields. A driver uses each field's own width; a host that splits accesses (a 16-bit write as two bytes) is served too: bytes of a field are
// held back until its last one, so that no half-written value takes effect.

import type { AccessSize, Region } from '#core/region';

export interface Field {
  readonly offset: number;
  readonly size: AccessSize;
  read(): number;
  /** Absent: read-only. */
  readonly write?: (value: number) => void;
}

export class RegisterFields implements Region {
  readonly size: number;
  /** The field each byte belongs to. */
  readonly #fieldAt: Field[] = [];
  readonly #held: Uint8Array;
  readonly #isHeld: Uint8Array;

  constructor(size: number, fields: readonly Field[]) {
    this.size = size;
    this.#held = new Uint8Array(size);
    this.#isHeld = new Uint8Array(size);
    for (const field of fields) for (let i = 0; i < field.size; i++) this.#fieldAt[field.offset + i] = field;
  }

  read(offset: number, size: AccessSize): number {
    const field = this.#fieldAt[offset];
    if (field === undefined) return 0;
    if (field.offset === offset && field.size === size) return field.read() >>> 0;
    let value = 0;
    for (let i = 0; i < size; ) {
      const at = this.#fieldAt[offset + i];
      if (at === undefined) break;
      const skip = offset + i - at.offset;
      const run = Math.min(size - i, at.size - skip);
      const bytes = at.read() >>> (8 * skip);
      value |= (run >= 4 ? bytes : bytes & ((1 << (8 * run)) - 1)) << (8 * i);
      i += run;
    }
    return value >>> 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    const field = this.#fieldAt[offset];
    if (field === undefined) return;
    if (field.offset === offset && field.size === size) {
      this.#isHeld.fill(0, offset, offset + size);
      field.write?.(value >>> 0);
      return;
    }
    for (let i = 0; i < size; i++) this.#writeByte(offset + i, (value >>> (8 * i)) & 0xff);
  }

  #writeByte(at: number, byte: number): void {
    const field = this.#fieldAt[at];
    if (field?.write === undefined) return;
    this.#held[at] = byte;
    this.#isHeld[at] = 1;
    if (at !== field.offset + field.size - 1) return;
    const present = field.read();
    let value = 0;
    for (let i = 0; i < field.size; i++)
      value |= (this.#isHeld[field.offset + i] ? (this.#held[field.offset + i] as number) : (present >>> (8 * i)) & 0xff) << (8 * i);
    this.#isHeld.fill(0, field.offset, field.offset + field.size);
    field.write(value >>> 0);
  }

  /** Forgets bytes that wait for the rest of their field. */
  clear(): void {
    this.#isHeld.fill(0);
  }
}
