// Configuration accesses as a guest makes them: through the memory-mapped window (ECAM, PCIe 4.0 7.2.2) or through ports CF8/CFC (PCI 3.0
// 3.2.2.3.2), plus the two capability walks. A function is named by its routing id: bus << 8 | device << 3 | function.

import type { GuestBus } from '#core/guest-bus';
import type { AccessSize } from '#core/region';
import { CFG, STATUS_CAPABILITIES } from './pci-constants.ts';

export interface ConfigAccess {
  read(rid: number, offset: number, size: AccessSize): number;
  write(rid: number, offset: number, size: AccessSize, value: number): void;
  /** Offsets from 256 on (extended capabilities) can be reached. */
  readonly extended: boolean;
  readonly firstBus: number;
  readonly lastBus: number;
}

export class EcamAccess implements ConfigAccess {
  readonly extended = true;
  readonly firstBus: number;
  readonly lastBus: number;
  readonly #bus: GuestBus;
  readonly #base: number;

  constructor(bus: GuestBus) {
    const { base, firstBus, lastBus } = bus.platform.ecam;
    this.#bus = bus;
    this.#base = base - firstBus * 2 ** 20;
    this.firstBus = firstBus;
    this.lastBus = lastBus;
  }

  read(rid: number, offset: number, size: AccessSize): number {
    return this.#bus.mmioRead(this.#base + rid * 4096 + offset, size);
  }

  write(rid: number, offset: number, size: AccessSize, value: number): void {
    this.#bus.mmioWrite(this.#base + rid * 4096 + offset, size, value);
  }
}

const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;

/** Ports CF8/CFC: the first 256 bytes of each function, so no ARI and no SR-IOV. */
export class PortAccess implements ConfigAccess {
  readonly extended = false;
  readonly firstBus: number;
  readonly lastBus: number;
  readonly #bus: GuestBus;

  constructor(bus: GuestBus) {
    this.#bus = bus;
    this.firstBus = bus.platform.ecam.firstBus;
    this.lastBus = bus.platform.ecam.lastBus;
  }

  read(rid: number, offset: number, size: AccessSize): number {
    this.#bus.ioWrite(CONFIG_ADDRESS, 4, (0x80000000 | (rid << 8) | (offset & 0xfc)) >>> 0);
    return this.#bus.ioRead(CONFIG_DATA + (offset & 3), size);
  }

  write(rid: number, offset: number, size: AccessSize, value: number): void {
    this.#bus.ioWrite(CONFIG_ADDRESS, 4, (0x80000000 | (rid << 8) | (offset & 0xfc)) >>> 0);
    this.#bus.ioWrite(CONFIG_DATA + (offset & 3), size, value);
  }
}

export interface Capability {
  readonly id: number;
  readonly offset: number;
}

/** Capabilities in list order. Bounded: a list holds at most 48 entries of 4 bytes above the header, and none twice. */
export function capabilities(config: ConfigAccess, rid: number): Capability[] {
  const found: Capability[] = [];
  if ((config.read(rid, CFG.STATUS, 2) & STATUS_CAPABILITIES) === 0) return found;
  let at = config.read(rid, CFG.CAPABILITIES, 1) & 0xfc;
  const seen = new Set<number>();
  while (at >= 0x40 && !seen.has(at)) {
    seen.add(at);
    const header = config.read(rid, at, 2);
    if (header === 0xffff) break;
    found.push({ id: header & 0xff, offset: at });
    at = (header >>> 8) & 0xfc;
  }
  return found;
}

/** Extended capabilities in list order, bounded likewise. */
export function extendedCapabilities(config: ConfigAccess, rid: number): Capability[] {
  const found: Capability[] = [];
  if (!config.extended) return found;
  let at = 0x100;
  const seen = new Set<number>();
  while (at >= 0x100 && !seen.has(at)) {
    seen.add(at);
    const header = config.read(rid, at, 4);
    if (header === 0 || header === 0xffffffff) break;
    found.push({ id: header & 0xffff, offset: at });
    at = (header >>> 20) & 0xffc;
  }
  return found;
}

/** Offset of the first capability `id`, or 0. */
export function findCapability(config: ConfigAccess, rid: number, id: number): number {
  return capabilities(config, rid).find((c) => c.id === id)?.offset ?? 0;
}

/** Offset of the first extended capability `id`, or 0. */
export function findExtendedCapability(config: ConfigAccess, rid: number, id: number): number {
  return extendedCapabilities(config, rid).find((c) => c.id === id)?.offset ?? 0;
}

export function formatRid(rid: number): string {
  return `${(rid >> 8).toString(16).padStart(2, '0')}:${((rid >> 3) & 31).toString(16).padStart(2, '0')}.${(rid & 7).toString(16)}`;
}
