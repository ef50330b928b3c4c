// Message signalled interrupts (PCIe 4.0 7.7.1, 6.1.4): 1 to 32 vectors behind one address, told apart in the low bits of the data; optionally with 32 bits of
// data (Extended Message Data).

import { type Capability, type CapabilityArea, EFFECT_INTERRUPTS, EFFECT_NONE, type MessageInterrupts } from './capability.ts';
import type { MsiMessage } from './ports.ts';

export interface MsiOptions {
  /** Vectors asked for (Multiple Message Capable); default 1. */
  readonly vectors?: 1 | 2 | 4 | 8 | 16 | 32;
  /** 64-bit message address; default true (PCIe 4.0 7.7.1: required of endpoints that are not legacy). */
  readonly address64?: boolean;
  /** Per-vector masking with pending bits; default true. */
  readonly maskable?: boolean;
  /** 32 bits of message data when software enables them (PCIe 4.0 7.7.1.2, bits 9 and 10); default false. */
  readonly extendedData?: boolean;
}

const CONTROL = 2;
const ENABLE = 1;
const MULTIPLE_ENABLE = 0x70;
const WIDE = 0x80;
const MASKABLE = 0x100;
const EXTENDED_CAPABLE = 0x200;
const EXTENDED_ENABLE = 0x400;
const ADDRESS = 4;
const ADDRESS_HIGH = 8;

export class Msi implements Capability, MessageInterrupts {
  readonly id = 0x05;
  readonly mode = 'msi';
  readonly size: number;
  readonly messages: MessageInterrupts = this;
  readonly vectors: number;
  readonly #wide: boolean;
  readonly #maskable: boolean;
  readonly #extended: boolean;
  readonly #data: number;
  readonly #mask: number;
  readonly #pending: number;
  #area!: CapabilityArea;

  /** @throws RangeError unless `vectors` is a power of two up to 32. */
  constructor(options: MsiOptions = {}) {
    this.vectors = options.vectors ?? 1;
    if (![1, 2, 4, 8, 16, 32].includes(this.vectors)) throw new RangeError(`MSI has 1, 2, 4, 8, 16 or 32 vectors, not ${this.vectors}`);
    this.#wide = options.address64 ?? true;
    this.#maskable = options.maskable ?? true;
    this.#extended = options.extendedData ?? false;
    this.#data = this.#wide ? 12 : 8;
    this.#mask = this.#data + 4;
    this.#pending = this.#mask + 4;
    this.size = this.#maskable ? this.#pending + 4 : this.#data + 4;
  }

  install(area: CapabilityArea): void {
    this.#area = area;
    const capable = Math.log2(this.vectors) << 1;
    area.set16(CONTROL, capable | (this.#wide ? WIDE : 0) | (this.#maskable ? MASKABLE : 0) | (this.#extended ? EXTENDED_CAPABLE : 0));
    area.permitWrite(CONTROL, 2, ENABLE | MULTIPLE_ENABLE | (this.#extended ? EXTENDED_ENABLE : 0));
    area.permitWrite(ADDRESS, 4, 0xffff_fffc);
    if (this.#wide) area.permitWrite(ADDRESS_HIGH, 4, 0xffff_ffff);
    area.permitWrite(this.#data, 4, this.#extended ? 0xffff_ffff : 0xffff);
    if (this.#maskable) area.permitWrite(this.#mask, 4, 2 ** this.vectors - 1);
  }

  get enabled(): boolean {
    return (this.#area.get16(CONTROL) & ENABLE) !== 0;
  }

  /** Vectors software granted: never more than were asked for, whatever was written (reserved encodings included). */
  get allocated(): number {
    return Math.min(this.vectors, 1 << ((this.#area.get16(CONTROL) & MULTIPLE_ENABLE) >>> 4));
  }

  #has(vector: number): boolean {
    return Number.isInteger(vector) && vector >= 0 && vector < this.vectors;
  }

  raise(vector: number): void {
    if (!this.#has(vector)) {
      this.#area.host.services?.log.guestError(`no MSI vector ${vector}: interrupt dropped`);
      return;
    }
    if (!this.enabled) return;
    // Granted fewer than asked for, the function shares them out (PCIe 4.0 6.1.4.2): the low bits decide.
    const granted = vector & (this.allocated - 1);
    if (this.#masked(granted) || !this.#area.host.sendMessage(this.#messageOf(granted))) this.#setPending(granted, true);
  }

  message(vector: number): MsiMessage | null {
    if (!this.enabled || !this.#has(vector) || !this.#area.host.mayMaster) return null;
    const granted = vector & (this.allocated - 1);
    return this.#masked(granted) ? null : this.#messageOf(granted);
  }

  masteringRestored(): void {
    this.#flush();
  }

  afterWrite(register: number, old: number, _written: number, _lanes: number): number {
    if (this.#area.get32(register) === old) return EFFECT_NONE;
    // PCIe 4.0 6.1.4.3: pending messages go when unmasked (or enabled).
    if (register === 0 || register === this.#mask) this.#flush();
    return EFFECT_INTERRUPTS;
  }

  #flush(): void {
    if (!this.enabled) return;
    let waiting = this.#waiting;
    for (let vector = 0; waiting !== 0; vector++, waiting >>>= 1) {
      if ((waiting & 1) === 0 || this.#masked(vector)) continue;
      const granted = vector & (this.allocated - 1);
      if (!this.#masked(granted) && this.#area.host.sendMessage(this.#messageOf(granted))) this.#setPending(vector, false);
    }
  }

  /** Without mask and pending registers a message that could not go (bus mastering off) waits here. */
  #hidden = 0;

  get #waiting(): number {
    return this.#maskable ? this.#area.get32(this.#pending) : this.#hidden >>> 0;
  }

  #setPending(vector: number, pending: boolean): void {
    const bit = 1 << vector;
    const next = (pending ? this.#waiting | bit : this.#waiting & ~bit) >>> 0;
    if (this.#maskable) this.#area.set32(this.#pending, next);
    else this.#hidden = next;
  }

  #masked(vector: number): boolean {
    return this.#maskable && ((this.#area.get32(this.#mask) >>> vector) & 1) !== 0;
  }

  #messageOf(vector: number): MsiMessage {
    const low = this.allocated - 1;
    const wide = (this.#area.get16(CONTROL) & EXTENDED_ENABLE) !== 0;
    const data = wide ? this.#area.get32(this.#data) : this.#area.get16(this.#data);
    return {
      addressLow: this.#area.get32(ADDRESS),
      addressHigh: this.#wide ? this.#area.get32(ADDRESS_HIGH) : 0,
      data: ((data & ~low) | vector) >>> 0,
    };
  }

  reset(): void {
    this.#hidden = 0;
  }

  save(): number {
    return this.#hidden;
  }

  restore(state: unknown): void {
    this.#hidden = typeof state === 'number' ? (state & (2 ** this.vectors - 1)) >>> 0 : 0;
  }
}
