// The serial EEPROM of Intel's Gigabit parts: 64 or 256 words of 16 bits on a Microwire (93C46 / 93C66) bus that software drives pin by pin, 8254x 5.3. Knows read, write, erase, the
// whole-device forms and the write-enable latch. Left out: the time a write takes (it is done at once, so DO always says ready), SPI parts.

import { RestoreError } from '#core/saved';

/** Sum of words 0x00 to 0x3f (8254x 5.6.35). */
const EEPROM_SUM = 0xbaba;
const CHECKSUM_WORD = 0x3f;

/** Sets the checksum word so that the first 64 words add up. */
export function sealEeprom(words: Uint16Array): void {
  let sum = 0;
  for (let i = 0; i < CHECKSUM_WORD; i++) sum += words[i] as number;
  words[CHECKSUM_WORD] = EEPROM_SUM - sum;
}

/** Opcode bits after the start bit; the two topmost address bits tell the forms of `EXTENDED` apart. */
const EXTENDED = 0;
const WRITE = 1;
const READ = 2;
const ERASE = 3;
const WRITE_DISABLE = 0;
const WRITE_ALL = 1;
const ERASE_ALL = 2;

const IDLE = 0;
const OPCODE = 1;
const ADDRESS = 2;
const SHIFT_OUT = 3;
const SHIFT_IN = 4;
const DONE = 5;

const ALL_ONES = 0xffff;

export interface SavedEeprom {
  readonly words: Uint16Array;
  /** Selected, clock level, write enable, phase, bits in the phase, shift register, opcode, address, DO. */
  readonly wire: readonly number[];
}

export class MicrowireEeprom {
  readonly words: Uint16Array;
  readonly #addressBits: number;
  #selected = 0;
  #clock = 0;
  #mayWrite = 0;
  #phase = IDLE;
  #bits = 0;
  #shift = 0;
  #opcode = 0;
  #address = 0;
  #output = 1;

  /** @param words the contents: 64 or 256, changed by writes */
  constructor(words: Uint16Array) {
    if (words.length !== 64 && words.length !== 256) throw new RangeError(`an EEPROM of ${words.length} words: 64 or 256`);
    this.words = words;
    this.#addressBits = words.length === 64 ? 6 : 8;
  }

  /** Level of DO, the part's output. */
  get output(): boolean {
    return this.#output !== 0;
  }

  /** The three pins as software left them. A rising clock with chip select high is one bit. */
  drive(select: boolean, clock: boolean, data: boolean): void {
    const rises = clock && this.#clock === 0;
    this.#clock = clock ? 1 : 0;
    if (!select) {
      this.#selected = 0;
      this.#phase = IDLE;
      this.#output = 1;
      return;
    }
    this.#selected = 1;
    if (rises) this.#step(data ? 1 : 0);
  }

  #step(bit: number): void {
    switch (this.#phase) {
      case IDLE:
        // Zeros before the start bit are ignored.
        if (bit === 1) this.#enter(OPCODE);
        return;
      case OPCODE:
        if (!this.#take(bit, 2)) return;
        this.#opcode = this.#shift;
        this.#enter(ADDRESS);
        return;
      case ADDRESS:
        if (!this.#take(bit, this.#addressBits)) return;
        this.#address = this.#shift;
        this.#command();
        return;
      case SHIFT_OUT: {
        const word = this.words[this.#address] as number;
        this.#output = (word >>> (15 - this.#bits)) & 1;
        if (++this.#bits < 16) return;
        // A clock that goes on reads on.
        this.#bits = 0;
        this.#address = (this.#address + 1) % this.words.length;
        return;
      }
      case SHIFT_IN:
        if (!this.#take(bit, 16)) return;
        if (this.#mayWrite !== 0) {
          if (this.#opcode === WRITE) this.words[this.#address] = this.#shift;
          else this.words.fill(this.#shift);
        }
        this.#finish();
    }
  }

  /** Shifts a bit in; true when the phase has all of its bits. */
  #take(bit: number, length: number): boolean {
    this.#shift = ((this.#shift << 1) | bit) & ALL_ONES;
    return ++this.#bits === length;
  }

  #enter(phase: number): void {
    this.#phase = phase;
    this.#bits = 0;
    this.#shift = 0;
  }

  #finish(): void {
    this.#phase = DONE;
    this.#output = 1;
  }

  #command(): void {
    if (this.#opcode === READ) {
      this.#enter(SHIFT_OUT);
      // The dummy zero in front of the data.
      this.#output = 0;
    } else if (this.#opcode === WRITE) this.#enter(SHIFT_IN);
    else if (this.#opcode === ERASE) {
      if (this.#mayWrite !== 0) this.words[this.#address] = ALL_ONES;
      this.#finish();
    } else this.#extended(this.#address >>> (this.#addressBits - 2));
  }

  #extended(form: number): void {
    if (form === WRITE_ALL) {
      this.#opcode = EXTENDED;
      this.#enter(SHIFT_IN);
      return;
    }
    if (form === ERASE_ALL) {
      if (this.#mayWrite !== 0) this.words.fill(ALL_ONES);
    } else this.#mayWrite = form === WRITE_DISABLE ? 0 : 1;
    this.#finish();
  }

  save(): SavedEeprom {
    const wire = [this.#selected, this.#clock, this.#mayWrite, this.#phase, this.#bits, this.#shift, this.#opcode, this.#address, this.#output];
    return { words: this.words.slice(), wire };
  }

  /** @throws RestoreError, having changed nothing */
  check(saved: Partial<SavedEeprom> | undefined): asserts saved is SavedEeprom {
    const { words, wire } = saved ?? {};
    if (!(words instanceof Uint16Array) || words.length !== this.words.length) throw new RestoreError(`saved EEPROM needs ${this.words.length} words`);
    const limits = [1, 1, 1, DONE, 15, ALL_ONES, 3, this.words.length - 1, 1];
    const fits =
      Array.isArray(wire) && wire.length === limits.length && limits.every((limit, i) => Number.isInteger(wire[i]) && wire[i] >= 0 && wire[i] <= limit);
    if (!fits) throw new RestoreError('saved EEPROM pins are malformed');
  }

  restore(saved: SavedEeprom): void {
    this.words.set(saved.words);
    [this.#selected, this.#clock, this.#mayWrite, this.#phase, this.#bits, this.#shift, this.#opcode, this.#address, this.#output] = saved.wire as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
  }
}
