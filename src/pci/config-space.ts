// A function's configuration registers as bytes with masks: which bits a guest may write, which it clears by writing one, which survive which reset.
// PCIe 4.0 7.5.1 (header), 7.4 (attributes: RO, RW, RW1C, sticky). What a write means is the business of the header and of the capabilities: they are
// told of it and answer with effects (capability.ts).

import type { ResetKind } from './ports.ts';

export type ConfigSize = 256 | 4096;

export class ConfigSpace {
  readonly size: ConfigSize;
  readonly bytes: Uint8Array;
  /** Bits a guest may write. */
  readonly writable: Uint8Array;
  /** Bits a guest clears by writing one (RW1C). */
  readonly clearable: Uint8Array;
  /** Bits that no reset but power-on changes (ROS, RWS, RW1CS). */
  readonly sticky: Uint8Array;
  /** Bits a function-level reset leaves alone on top of the sticky ones (PCIe 4.0 6.6.2 lists them, Max_Payload_Size for one). */
  readonly keptByFunctionReset: Uint8Array;
  readonly #initial: Uint8Array;

  constructor(size: ConfigSize) {
    this.size = size;
    this.bytes = new Uint8Array(size);
    this.writable = new Uint8Array(size);
    this.clearable = new Uint8Array(size);
    this.sticky = new Uint8Array(size);
    this.keptByFunctionReset = new Uint8Array(size);
    this.#initial = new Uint8Array(size);
  }

  // ---- the device's side: no masks ----

  get8(offset: number): number {
    return this.bytes[offset] as number;
  }

  get16(offset: number): number {
    return (this.bytes[offset] as number) | ((this.bytes[offset + 1] as number) << 8);
  }

  get32(offset: number): number {
    return (this.get16(offset) | (this.get16(offset + 2) << 16)) >>> 0;
  }

  set8(offset: number, value: number): void {
    this.bytes[offset] = value;
  }

  set16(offset: number, value: number): void {
    this.bytes[offset] = value;
    this.bytes[offset + 1] = value >>> 8;
  }

  set32(offset: number, value: number): void {
    this.set16(offset, value);
    this.set16(offset + 2, value >>> 16);
  }

  /** Replaces the writable bits of `size` bytes. */
  permitWrite(offset: number, size: 1 | 2 | 4, mask: number): void {
    setMask(this.writable, offset, size, mask);
  }

  /** Replaces the write-one-to-clear bits of `size` bytes. */
  permitClear(offset: number, size: 1 | 2 | 4, mask: number): void {
    setMask(this.clearable, offset, size, mask);
  }

  keepSticky(offset: number, size: 1 | 2 | 4, mask: number): void {
    setMask(this.sticky, offset, size, mask);
  }

  keepOverFunctionReset(offset: number, size: 1 | 2 | 4, mask: number): void {
    setMask(this.keptByFunctionReset, offset, size, mask);
  }

  // ---- the guest's side ----

  /** `size` bytes from `offset`, all inside. Unsigned. */
  read(offset: number, size: 1 | 2 | 4): number {
    const b = this.bytes;
    if (size === 4)
      return ((b[offset] as number) | ((b[offset + 1] as number) << 8) | ((b[offset + 2] as number) << 16) | ((b[offset + 3] as number) << 24)) >>> 0;
    return size === 2 ? (b[offset] as number) | ((b[offset + 1] as number) << 8) : (b[offset] as number);
  }

  /** Stores under the masks. */
  write(offset: number, size: 1 | 2 | 4, value: number): void {
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const byte = (value >>> (8 * i)) & 0xff;
      const writable = this.writable[at] as number;
      this.bytes[at] = (((this.bytes[at] as number) & ~writable) | (byte & writable)) & ~(byte & (this.clearable[at] as number));
    }
  }

  // ---- resets ----

  /** Takes the present bytes as what a reset brings back. */
  captureInitial(): void {
    this.#initial.set(this.bytes);
  }

  initial8(offset: number): number {
    return this.#initial[offset] as number;
  }

  /** Changes what resets bring back (and nothing now), for values that hardware strapped late: a multi-function bit, a slot number. */
  setInitial8(offset: number, value: number): void {
    this.#initial[offset] = value;
  }

  /** Back to the initial bytes except for what `kind` leaves alone. */
  reset(kind: ResetKind): void {
    const keepMore = kind === 'function';
    for (let i = 0; i < this.size; i++) {
      const kept = (this.sticky[i] as number) | (keepMore ? (this.keptByFunctionReset[i] as number) : 0);
      this.bytes[i] = ((this.bytes[i] as number) & kept) | ((this.#initial[i] as number) & ~kept);
    }
  }

  /** Power-on: sticky bits too. */
  powerOn(): void {
    this.bytes.set(this.#initial);
  }
}

function setMask(masks: Uint8Array, offset: number, size: number, mask: number): void {
  for (let i = 0; i < size; i++) masks[offset + i] = mask >>> (8 * i);
}
