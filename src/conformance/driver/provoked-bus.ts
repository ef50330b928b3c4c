// The device's side of a scenario: a bus below the watched one that lets a device answer otherwise than it would, and changes what it wrote, so as to bring a driver into a situation.

import type { GuestBus } from '#core/guest-bus';
import { BusBetween } from './bus-between.ts';
import type { AccessSize, Place } from './pci-places.ts';

/** What a scenario changes. Absent: nothing. */
export interface Provocation {
  /** Bytes of configuration space. */
  readonly config: Map<number, number>;
  /** What a load from one of the device's structures returns. */
  read: ((place: Place, size: AccessSize, value: number) => number) | undefined;
  /** What a store becomes; undefined: it is lost. */
  write: ((place: Place, size: AccessSize, value: number) => number | undefined) | undefined;
  /** What a load from the I/O BAR returns. */
  readPort: ((port: number, size: AccessSize, value: number) => number) | undefined;
  /** The device was at work: what it wrote to memory can be changed. */
  served: (() => void) | undefined;
}

export class ProvokedBus extends BusBetween {
  readonly provocation: Provocation = { config: new Map(), read: undefined, write: undefined, readPort: undefined, served: undefined };
  readonly #config: number;
  placeAt: (address: number) => Place | undefined = () => undefined;

  constructor(bus: GuestBus, configSpace: number) {
    super(bus);
    this.#config = configSpace;
  }

  ioRead(port: number, size: AccessSize): number {
    const value = this.below.ioRead(port, size);
    return this.provocation.readPort?.(port, size, value) ?? value;
  }
  ioWrite(port: number, size: AccessSize, value: number): void {
    this.below.ioWrite(port, size, value);
    this.provocation.served?.();
  }

  /** The device as it is but for its configuration space: a look that provokes nothing. */
  peek(address: number, size: AccessSize): number {
    const offset = address - this.#config;
    const value = this.below.mmioRead(address, size);
    return offset >= 0 && offset < 4096 ? this.#overlay(offset, size, value) : value;
  }

  mmioRead(address: number, size: AccessSize): number {
    const value = this.peek(address, size);
    const { read } = this.provocation;
    if (read === undefined) return value;
    const place = this.placeAt(address);
    return place ? read(place, size, value) >>> 0 : value;
  }

  mmioWrite(address: number, size: AccessSize, value: number): void {
    const { write, served } = this.provocation;
    const place = write && this.placeAt(address);
    const changed = write && place ? write(place, size, value) : value;
    if (changed !== undefined) this.below.mmioWrite(address, size, changed);
    served?.();
  }

  #overlay(offset: number, size: AccessSize, value: number): number {
    const { config } = this.provocation;
    if (config.size === 0) return value;
    let out = 0;
    for (let i = size - 1; i >= 0; i--) out = out * 256 + (config.get(offset + i) ?? (value >>> (8 * i)) & 0xff);
    return out;
  }
}
