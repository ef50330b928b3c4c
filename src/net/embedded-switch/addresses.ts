// The address table of legacy mode: which ports have an address, single ones and multicast ones alike, as an open-addressed hash table in shared words. The control side makes it anew whenever an address
// changes; the data side goes through the places of one address, of which there may be several.

import type { SwitchTables } from './layout.ts';

const PLACE = 3;
const PORT = 2;

export interface PortAddress {
  readonly low: number;
  readonly high: number;
  readonly port: number;
}

function placeOf(low: number, high: number, mask: number): number {
  let hash = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
  hash ^= hash >>> 15;
  return (Math.imul(hash, 0x2c1b3c6d) >>> 7) & mask;
}

/** Inside a change. At most a quarter of the places are taken. */
export function writeAddresses({ addresses }: SwitchTables, entries: readonly PortAddress[]): void {
  const mask = addresses.length / PLACE - 1;
  addresses.fill(0);
  for (const { low, high, port } of entries) {
    let place = placeOf(low, high, mask);
    while (addresses[place * PLACE + PORT] !== 0) place = (place + 1) & mask;
    addresses[place * PLACE] = low;
    addresses[place * PLACE + 1] = high;
    addresses[place * PLACE + PORT] = port + 1;
  }
}

/** Goes through the ports that have one address. */
export class AddressSearch {
  readonly #addresses: Int32Array;
  readonly #mask: number;
  #low = 0;
  #high = 0;
  #place = 0;
  #left = 0;

  constructor({ addresses }: SwitchTables) {
    this.#addresses = addresses;
    this.#mask = addresses.length / PLACE - 1;
  }

  begin(low: number, high: number): void {
    this.#low = low;
    this.#high = high;
    this.#place = placeOf(low, high, this.#mask);
    this.#left = this.#mask;
  }

  /** The next port, or -1. */
  next(): number {
    const addresses = this.#addresses;
    for (; this.#left > 0; this.#left--) {
      const at = this.#place * PLACE;
      const port = addresses[at + PORT] as number;
      if (port === 0) return -1;
      this.#place = (this.#place + 1) & this.#mask;
      if (addresses[at] === this.#low && addresses[at + 1] === this.#high) {
        this.#left--;
        return port - 1;
      }
    }
    return -1;
  }
}
