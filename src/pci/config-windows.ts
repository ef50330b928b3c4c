// The two ways software reaches configuration space, both thin fronts of the same configRead and configWrite: the memory-mapped one (ECAM, PCIe 4.0 7.2.2: 4 KiB a
// function, 1 MiB a bus) and the pair of I/O ports CF8 and CFC (PCI 3.0 3.2.2.3.2: 256 bytes a function).

import { type AccessSize, allOnes, type Region } from '#core/region';

/** Where configuration accesses go. Never throws; absent reads as all ones. */
export interface ConfigTarget {
  configRead(bdf: number, offset: number, size: AccessSize): number;
  configWrite(bdf: number, offset: number, size: AccessSize, value: number): void;
}

export class EcamWindow implements Region {
  readonly size: number;
  readonly #target: ConfigTarget;
  readonly #firstFunction: number;

  constructor(target: ConfigTarget, firstBus: number, buses: number) {
    this.#target = target;
    this.#firstFunction = firstBus << 8;
    this.size = buses * 2 ** 20;
  }

  read(offset: number, size: AccessSize): number {
    return this.#target.configRead(this.#firstFunction + (offset >>> 12), offset & 0xfff, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#target.configWrite(this.#firstFunction + (offset >>> 12), offset & 0xfff, size, value);
  }
}

export const CONFIG_ADDRESS_PORT = 0xcf8;
const DATA = 4;
const ENABLE = 0x8000_0000;

export class ConfigPorts implements Region {
  readonly size = 8;
  /** The latched CONFIG_ADDRESS. */
  address = 0;
  readonly #target: ConfigTarget;

  constructor(target: ConfigTarget) {
    this.#target = target;
  }

  read(offset: number, size: AccessSize): number {
    if (offset >= DATA)
      return this.address >= ENABLE ? this.#target.configRead((this.address >>> 8) & 0xffff, (this.address & 0xfc) + offset - DATA, size) : allOnes(size);
    // Only dwords reach the latch: bytes there are other hardware's (the reset register at CF9).
    return size === 4 ? this.address : allOnes(size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset >= DATA) {
      if (this.address >= ENABLE) this.#target.configWrite((this.address >>> 8) & 0xffff, (this.address & 0xfc) + offset - DATA, size, value);
    } else if (size === 4) this.address = (value & 0x80ff_fffc) >>> 0;
  }
}
