// A serial EEPROM on an SPI bus (the 25 series' commands, mode 0; 82576 3.3.1, 6.1) that software drives pin by pin: read, page write, write enable, status with its block protection. Data is taken with the rising clock and
// changes with the falling one. Left out: the time a write takes (its busy bit never shows), the identification page.

import { RestoreError } from '#core/saved';

const WRITE_STATUS = 0x01;
const WRITE = 0x02;
const READ = 0x03;
const WRITE_DISABLE = 0x04;
const READ_STATUS = 0x05;
const WRITE_ENABLE = 0x06;

const STATUS_ENABLED = 0x02;
const STATUS_PROTECTION = 0x0c;
const PROTECTION_SHIFT = 2;

const PAGE_OCTETS = 32;
const ADDRESS_OCTETS = 2;

const COMMAND = 0;
const ADDRESS = 1;
const DATA = 2;

export interface SavedSpiEeprom {
  readonly words: Uint16Array;
  /** Selected, clock level, DO, octet being shifted, its bits, what it is, octets of it so far, command, address, status; the page being written and which of its octets are. */
  readonly wire: readonly number[];
  readonly page: Uint8Array;
  readonly filled: number;
}

export class SpiEeprom {
  /** The contents; the low octet of word n is at address 2n. */
  readonly words: Uint16Array;
  readonly #octets: number;
  readonly #page = new Uint8Array(PAGE_OCTETS);
  /** Octets of the page that the command under way has brought. */
  #filled = 0;
  #selected = 0;
  #clock = 0;
  #output = 1;
  #shift = 0;
  #bits = 0;
  #phase = COMMAND;
  #count = 0;
  #command = 0;
  #address = 0;
  #status = 0;

  /** @param words a power of two of them, up to 32768: what 16 address bits reach */
  constructor(words: Uint16Array) {
    const { length } = words;
    if (length < PAGE_OCTETS || length > 0x8000 || (length & (length - 1)) !== 0) throw new RangeError(`an EEPROM of ${length} words`);
    this.words = words;
    this.#octets = 2 * length;
  }

  /** Level of DO; pulled up while the part does not drive it. */
  get output(): boolean {
    return this.#selected === 0 || this.#output !== 0;
  }

  /** The three pins as software left them; `select` is the part's, whatever level that is. */
  drive(select: boolean, clock: boolean, data: boolean): void {
    const before = this.#clock;
    this.#clock = clock ? 1 : 0;
    if (!select) {
      if (this.#selected !== 0) this.#deselected();
      this.#selected = 0;
      return;
    }
    if (this.#selected === 0) this.#begin();
    this.#selected = 1;
    if (before === this.#clock) return;
    if (this.#clock === 1) this.#take(data ? 1 : 0);
    else this.#give();
  }

  #begin(): void {
    this.#shift = 0;
    this.#bits = 0;
    this.#phase = COMMAND;
    this.#count = 0;
    this.#command = 0;
    this.#filled = 0;
    this.#output = 1;
  }

  #take(bit: number): void {
    this.#shift = ((this.#shift << 1) | bit) & 0xff;
    this.#bits++;
    if (this.#bits < 8) return;
    this.#bits = 0;
    this.#octet(this.#shift);
  }

  #octet(octet: number): void {
    if (this.#phase === COMMAND) {
      this.#command = octet;
      this.#address = 0;
      this.#phase = octet === READ || octet === WRITE ? ADDRESS : DATA;
      return;
    }
    if (this.#phase === ADDRESS) {
      this.#address = ((this.#address << 8) | octet) & (this.#octets - 1);
      if (++this.#count < ADDRESS_OCTETS) return;
      this.#count = 0;
      this.#phase = DATA;
      return;
    }
    if (this.#command === WRITE) this.#fill(octet);
    else if (this.#command === READ) this.#address = (this.#address + 1) % this.#octets;
    else if (this.#command === WRITE_STATUS && this.#count === 0) this.#page[0] = octet;
    this.#count = Math.min(this.#count + 1, PAGE_OCTETS);
  }

  /** Writes stay in the page they begin in: behind its last octet comes its first. */
  #fill(octet: number): void {
    const at = this.#address % PAGE_OCTETS;
    this.#page[at] = octet;
    this.#filled = (this.#filled | (1 << at)) >>> 0;
    this.#address = this.#address - at + ((at + 1) % PAGE_OCTETS);
  }

  /** The clock fell: the next bit of what is read shows. */
  #give(): void {
    if (this.#phase !== DATA || (this.#command !== READ && this.#command !== READ_STATUS)) return;
    const octet = this.#command === READ ? this.#at(this.#address) : this.#status;
    this.#output = (octet >>> (7 - this.#bits)) & 1;
  }

  #at(address: number): number {
    return ((this.words[address >>> 1] as number) >>> (8 * (address & 1))) & 0xff;
  }

  /** Commands that change something do so here, if they came whole. */
  #deselected(): void {
    if (this.#phase !== DATA || this.#bits !== 0) return;
    const enabled = (this.#status & STATUS_ENABLED) !== 0;
    switch (this.#command) {
      case WRITE_ENABLE:
        this.#status |= STATUS_ENABLED;
        return;
      case WRITE_DISABLE:
        this.#status &= ~STATUS_ENABLED;
        return;
      case WRITE_STATUS:
        if (!enabled || this.#count === 0) return;
        this.#status = (this.#page[0] as number) & STATUS_PROTECTION;
        return;
      case WRITE:
        if (!enabled || this.#filled === 0) return;
        this.#status &= ~STATUS_ENABLED;
        this.#program(this.#address - (this.#address % PAGE_OCTETS));
    }
  }

  #program(page: number): void {
    // A quarter, a half, all of it, from the end.
    const parts = [0, 1, 2, 4][(this.#status & STATUS_PROTECTION) >>> PROTECTION_SHIFT] as number;
    if (page >= this.#octets - (this.#octets / 4) * parts) return;
    for (let i = 0; i < PAGE_OCTETS; i++) {
      if (((this.#filled >>> i) & 1) === 0) continue;
      const word = (page + i) >>> 1;
      const shift = 8 * (i & 1);
      this.words[word] = ((this.words[word] as number) & ~(0xff << shift)) | ((this.#page[i] as number) << shift);
    }
  }

  save(): SavedSpiEeprom {
    const wire = [
      ...[this.#selected, this.#clock, this.#output, this.#shift, this.#bits, this.#phase],
      ...[this.#count, this.#command, this.#address, this.#status],
    ];
    return { words: this.words.slice(), wire, page: this.#page.slice(), filled: this.#filled };
  }

  /** @throws RestoreError, having changed nothing */
  check(saved: Partial<SavedSpiEeprom> | undefined): asserts saved is SavedSpiEeprom {
    const { words, wire, page, filled } = saved ?? {};
    if (!(words instanceof Uint16Array) || words.length !== this.words.length) throw new RestoreError(`saved EEPROM needs ${this.words.length} words`);
    const limits = [1, 1, 1, 0xff, 7, DATA, PAGE_OCTETS, 0xff, this.#octets - 1, STATUS_ENABLED | STATUS_PROTECTION];
    const fits =
      Array.isArray(wire) && wire.length === limits.length && limits.every((limit, i) => Number.isInteger(wire[i]) && wire[i] >= 0 && wire[i] <= limit);
    const pageFits =
      page instanceof Uint8Array && page.length === PAGE_OCTETS && Number.isInteger(filled) && (filled as number) >= 0 && (filled as number) < 2 ** 32;
    if (!fits || !pageFits) throw new RestoreError('saved EEPROM pins are malformed');
  }

  restore(saved: SavedSpiEeprom): void {
    this.words.set(saved.words);
    this.#page.set(saved.page);
    this.#filled = saved.filled;
    const [selected, clock, output, shift, bits, phase, count, command, address, status] = saved.wire as number[] & { length: 10 };
    this.#selected = selected as number;
    this.#clock = clock as number;
    this.#output = output as number;
    this.#shift = shift as number;
    this.#bits = bits as number;
    this.#phase = phase as number;
    this.#count = count as number;
    this.#command = command as number;
    this.#address = address as number;
    this.#status = status as number;
  }
}
