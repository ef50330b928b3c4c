// Watches a driver on a guest's bus: between it and a device, with a `PciJudge` that is told each access to the device, and a `DriverJudge` that reads the rings in guest memory.

import type { GuestBus } from '#core/guest-bus';
import type { GuestMemory } from '#core/guest-memory';
import { BusBetween } from './driver/bus-between.ts';
import { Findings } from './driver/findings.ts';
import { DriverJudge } from './driver/judge.ts';
import { LEGACY_BLOCK, LegacyJudge } from './driver/legacy-judge.ts';
import { PciJudge } from './driver/pci-judge.ts';
import { type AccessSize, PciPlaces, type Peek } from './driver/pci-places.ts';
import type { DriverView } from './driver/view.ts';
import { type CommonField, PCI } from './layout.ts';

/** Guest memory as a judge looks into it. */
export function viewOf(memory: GuestMemory): DriverView {
  return {
    bytes(address, length) {
      const slab = memory.slabAt(address);
      if (slab === undefined || address + length > slab.base + slab.size) return undefined;
      return slab.views.u8.subarray(address - slab.base, address - slab.base + length);
    },
  };
}

export class WatchedBus extends BusBetween {
  readonly findings = new Findings();
  readonly judge: PciJudge;
  readonly rings: DriverJudge;
  readonly legacy: LegacyJudge;
  readonly #peek: (address: number, size: AccessSize) => number;
  readonly #through: Peek;
  /** Configuration space of the function, in the memory-mapped window. */
  readonly #config: number;
  /** Addresses of the BARs; undefined: to be read again. */
  #bars: readonly number[] | undefined;

  /**
   * @param rid the device's bus, device and function number
   * @param peek how the device is looked at behind the driver's back. Default: as the driver does
   */
  constructor(bus: GuestBus, rid: number, peek = (address: number, size: AccessSize): number => bus.mmioRead(address, size)) {
    super(bus);
    this.#peek = peek;
    const { base, firstBus } = bus.platform.ecam;
    this.#config = base + (rid - (firstBus << 8)) * 4096;
    this.#through = {
      config: (offset, size) => peek(this.#config + offset, size),
      bar: (bar, offset, size) => peek((this.#places[bar] ?? 0) + offset, size),
    };
    this.rings = new DriverJudge(viewOf(bus.memory), this.findings, true);
    this.judge = new PciJudge(this.#through, this.rings);
    const watched = this;
    this.legacy = new LegacyJudge(this.rings, {
      get msixOn() {
        const { msix } = watched.judge.places;
        return msix >= 0 && (peek(watched.#config + msix + 2, 2) & 0x8000) !== 0;
      },
      port: (offset) => bus.ioRead(watched.#port + offset, 1),
    });
  }

  /** Status as the driver last wrote it. */
  get status(): number {
    return this.legacy.used ? this.legacy.status : this.judge.status;
  }

  /** First port of BAR 0; 0 where that is no I/O BAR. */
  get #port(): number {
    const low = this.#peek(this.#config + PCI.BAR0, 4);
    return (low & 1) === 0 ? 0 : low & 0xfffc;
  }

  /** Of a port of the device's I/O BAR; -1: of no such. */
  portOffset(port: number): number {
    const base = this.#port;
    return base !== 0 && port >= base && port < base + LEGACY_BLOCK ? port - base : -1;
  }

  ioRead(port: number, size: AccessSize): number {
    const value = this.below.ioRead(port, size);
    const offset = this.portOffset(port);
    if (offset >= 0) this.legacy.read(offset, size, value);
    return value;
  }
  ioWrite(port: number, size: AccessSize, value: number): void {
    const offset = this.portOffset(port);
    if (offset >= 0) this.legacy.write(offset, size, value);
    this.below.ioWrite(port, size, value);
    if (offset >= 0) this.rings.served();
  }

  mmioRead(address: number, size: AccessSize): number {
    const value = this.below.mmioRead(address, size);
    const config = address - this.#config;
    if (config >= 0 && config < 4096) this.judge.configRead(config, size);
    else {
      const place = this.#find(address);
      if (place) this.judge.barRead(place.bar, place.offset, size, value);
    }
    return value;
  }

  mmioWrite(address: number, size: AccessSize, value: number): void {
    const config = address - this.#config;
    if (config >= 0 && config < 4096) {
      this.#bars = undefined;
      this.judge.configWrite(config, size, value);
    } else {
      const place = this.#find(address);
      if (place) this.judge.barWrite(place.bar, place.offset, size, value);
    }
    this.below.mmioWrite(address, size, value);
    // What a store set going in the device is done when it returns.
    this.rings.served();
  }

  /** The driver has done what it had to do for now; the device is at work next. */
  quiet(): void {
    this.rings.quiet();
  }

  /** The field of the common configuration at an address. */
  fieldAt(address: number): CommonField | undefined {
    return this.placeAt(address)?.field;
  }

  /** What of the device's structures lies at an address. */
  placeAt(address: number): ReturnType<PciJudge['places']['at']> {
    const place = this.#find(address);
    return place && this.judge.places.at(place.bar, place.offset);
  }

  /** Where the structure of this type lies, and its capability in configuration space; both as addresses. */
  addressOf(type: number): { readonly structure: number; readonly capability: number } {
    const found = this.judge.places.of(type);
    if (found === undefined) throw new RangeError(`the device has no structure of type ${type}`);
    return { structure: (this.#places[found.bar] ?? 0) + found.offset, capability: this.#config + found.at };
  }

  /** The device's capabilities as they read now; the judge keeps to those it found first. */
  inspect(): PciPlaces {
    return new PciPlaces(this.#through);
  }

  /** Address of the function's configuration space, and a byte of it. */
  get configSpace(): number {
    return this.#config;
  }

  configByte(offset: number): number {
    return this.#peek(this.#config + offset, 1);
  }

  get #places(): readonly number[] {
    if (this.#bars === undefined) {
      const bars: number[] = [];
      for (let bar = 0; bar < 6; bar++) {
        const low = this.#peek(this.#config + PCI.BAR0 + 4 * bar, 4);
        const wide = (low & 7) === 4;
        const high = wide && bar < 5 ? this.#peek(this.#config + PCI.BAR0 + 4 * bar + 4, 4) : 0;
        bars[bar] = (low & 1) !== 0 ? 0 : ((low & ~15) >>> 0) + high * 2 ** 32;
        if (wide) bars[++bar] = 0;
      }
      this.#bars = bars;
    }
    return this.#bars;
  }

  #find(address: number): { readonly bar: number; readonly offset: number } | undefined {
    const { ecam, memory32, memory64 } = this.platform;
    const inside = ({ base, size }: { base: number; size: number }): boolean => address >= base && address < base + size;
    if (!(inside(memory32) || inside(memory64)) || (address >= ecam.base && address < ecam.base + 2 ** 28)) return undefined;
    let best: { bar: number; offset: number } | undefined;
    for (const [bar, base] of this.#places.entries()) {
      if (base === 0 || address < base) continue;
      // The nearest one below: BARs do not overlap.
      if (best === undefined || address - base < best.offset) best = { bar, offset: address - base };
    }
    return best;
  }
}
