// Base address registers: sizing by masks, I/O, 32-bit and 64-bit memory, and the expansion ROM. PCIe 4.0 7.5.1.2.1, 7.5.1.2.4.
// Addresses that nothing decodes at: 0 (unassigned, unless the fabric is told otherwise), the all-ones pattern that sizing leaves behind, and what lies
// above 2^52. Everything else decodes wherever the guest put it, also while it is being moved.

import { ADDRESS_LIMIT } from '#core/guest-memory';
import type { Region } from '#core/region';
import type { ConfigSpace } from './config-space.ts';

type BarKind = 'io' | 'memory32' | 'memory64';

export interface BarOptions {
  /** 0..5 (bridges 0..1); a memory64 BAR takes the next one too. */
  readonly index: number;
  readonly kind: BarKind;
  /** Reads have no side effects, writes may merge: lets it live in a bridge's prefetchable window. */
  readonly prefetchable?: boolean;
  readonly region: Region;
  /** Decoded size, a power of two; by default the region's size rounded up (at least 16 bytes of memory, 4 of I/O). The rest reads all ones. */
  readonly size?: number;
}

/** The number the expansion ROM goes by in decode lists. */
const ROM_BAR = 6;

export interface Bar {
  readonly index: number;
  readonly kind: BarKind;
  readonly prefetchable: boolean;
  readonly region: Region;
  readonly size: number;
  /** Configuration offset of the (low) register. */
  readonly register: number;
}

const UNPLACED = -1;

export class Bars {
  readonly list: readonly Bar[];
  readonly rom: Bar | undefined;
  readonly hasMemory: boolean;
  readonly hasIo: boolean;
  readonly #config: ConfigSpace;
  readonly #byIndex: (Bar | undefined)[] = new Array(ROM_BAR + 1).fill(undefined);

  /** @throws RangeError on BARs that no register can describe. */
  constructor(config: ConfigSpace, options: readonly BarOptions[], rom: Region | undefined, shape: { count: number; romRegister: number; registers: boolean }) {
    this.#config = config;
    const taken = new Set<number>();
    this.list = options.map((option) => describe(option, shape.count, taken));
    this.rom = rom && {
      index: ROM_BAR,
      kind: 'memory32',
      prefetchable: false,
      region: rom,
      size: Math.max(2048, roundUp(rom.size)),
      register: shape.romRegister,
    };
    for (const bar of this.list) this.#byIndex[bar.index] = bar;
    this.#byIndex[ROM_BAR] = this.rom;
    this.hasMemory = this.rom !== undefined || this.list.some((bar) => bar.kind !== 'io');
    this.hasIo = this.list.some((bar) => bar.kind === 'io');
    // A VF has regions but no registers: the PF's VF BARs place them (PCIe 4.0 9.3.4.1.11).
    if (!shape.registers) return;
    for (const bar of this.list) install(config, bar);
    if (this.rom) config.permitWrite(this.rom.register, 4, (0xffff_f801 & ~(this.rom.size - 1)) | 1);
  }

  /** Where `bar` is placed, whether or not it is enabled; -1 when nowhere. `zeroDecodes`: address 0 is an address like any other. */
  address(bar: Bar, zeroDecodes: boolean): number {
    const low = this.#config.get32(bar.register);
    if (bar === this.rom && (low & 1) === 0) return UNPLACED;
    const flagBits = bar === this.rom ? 0x7ff : bar.kind === 'io' ? 3 : 15;
    const base = (low & ~flagBits) >>> 0;
    if (bar.kind !== 'memory64') {
      if (base + bar.size === 2 ** 32) return UNPLACED;
      return base === 0 && !zeroDecodes ? UNPLACED : base;
    }
    const high = this.#config.get32(bar.register + 4);
    const address = high * 2 ** 32 + base;
    if (high === 0 && base + bar.size === 2 ** 32) return UNPLACED;
    if (address + bar.size > ADDRESS_LIMIT) return UNPLACED;
    return address === 0 && !zeroDecodes ? UNPLACED : address;
  }

  /** The BAR (or ROM) of an index, in constant time. */
  at(index: number): Bar | undefined {
    return this.#byIndex[index];
  }

  /** True when the dword at `register` is one of the BARs' (or the ROM's). */
  covers(register: number): boolean {
    if (this.rom?.register === register) return true;
    return this.list.some((bar) => bar.register === register || (bar.kind === 'memory64' && bar.register + 4 === register));
  }
}

function describe(option: BarOptions, count: number, taken: Set<number>): Bar {
  const { index, kind, region } = option;
  const size = option.size ?? Math.max(kind === 'io' ? 4 : 16, roundUp(region.size));
  const slots = kind === 'memory64' ? [index, index + 1] : [index];
  for (const slot of slots) {
    if (!Number.isInteger(slot) || slot < 0 || slot >= count) throw new RangeError(`BAR ${slot} does not exist: this header has BARs 0..${count - 1}`);
    if (taken.has(slot)) throw new RangeError(`BAR ${slot} is described twice (a memory64 BAR takes two)`);
    taken.add(slot);
  }
  if (roundUp(size) !== size || size < region.size)
    throw new RangeError(`BAR ${index}: size ${size} must be a power of two that holds the region's ${region.size}`);
  if (kind === 'io' ? size < 4 || size > 256 : size < 16) throw new RangeError(`BAR ${index}: ${size} bytes; I/O BARs are 4..256, memory BARs at least 16`);
  if (kind === 'memory32' && size > 2 ** 31) throw new RangeError(`BAR ${index}: ${size} bytes need a memory64 BAR`);
  if (kind === 'memory64' && size > 2 ** 48) throw new RangeError(`BAR ${index}: ${size} bytes are more than this machine can address`);
  return { index, kind, prefetchable: option.prefetchable ?? false, region, size, register: 0x10 + 4 * index };
}

function install(config: ConfigSpace, bar: Bar): void {
  if (bar.kind === 'io') {
    config.set32(bar.register, 1);
    // All upper bits writable, also 31:16: firmware sizes with 32-bit ones and takes a hole there for a broken BAR.
    config.permitWrite(bar.register, 4, ~(bar.size - 1) & ~3);
    return;
  }
  config.set32(bar.register, (bar.kind === 'memory64' ? 4 : 0) | (bar.prefetchable ? 8 : 0));
  config.permitWrite(bar.register, 4, bar.size >= 2 ** 32 ? 0 : ~(bar.size - 1) & ~15);
  if (bar.kind === 'memory64') config.permitWrite(bar.register + 4, 4, bar.size > 2 ** 32 ? ~(bar.size / 2 ** 32 - 1) : 0xffff_ffff);
}

function roundUp(size: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, size)));
}
