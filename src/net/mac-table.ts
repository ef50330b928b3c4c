// Which port a station was last heard on: a set-associative table in typed arrays. Bounded in size and in work: a lookup reads at most eight entries; a new station
// in a full set takes the place of the one heard longest ago. Independent learning: a station is an address in a VLAN (IEEE 802.1Q 8.8).

import type { Nanos } from '#core/clock';

const WAYS = 8;
const FREE = -1;

export interface Station {
  readonly mac: string;
  readonly vlan: number;
  readonly port: number;
  readonly lastHeard: Nanos;
}

export class MacTable {
  readonly capacity: number;
  readonly #ageing: Nanos;
  readonly #setMask: number;
  /** Address bytes 0-3, little-endian. */
  readonly #low: Int32Array;
  /** Address bytes 4-5, little-endian, and the VLAN id above them. */
  readonly #high: Int32Array;
  readonly #port: Int16Array;
  readonly #heard: Float64Array;

  /** @param capacity stations; rounded up to a power of two of at least 8. @param ageing how long a silent station is remembered. */
  constructor(capacity: number, ageing: Nanos) {
    if (!(Number.isSafeInteger(capacity) && capacity >= 1 && capacity <= 2 ** 20))
      throw new RangeError(`MAC table capacity ${capacity}: 1 to 1048576 stations`);
    if (!(ageing > 0)) throw new RangeError(`MAC table ageing ${ageing}: nanoseconds above 0`);
    this.capacity = Math.max(WAYS, 2 ** Math.ceil(Math.log2(capacity)));
    this.#ageing = ageing;
    this.#setMask = this.capacity / WAYS - 1;
    this.#low = new Int32Array(this.capacity);
    this.#high = new Int32Array(this.capacity);
    this.#port = new Int16Array(this.capacity).fill(FREE);
    this.#heard = new Float64Array(this.capacity);
  }

  #set(low: number, high: number): number {
    let hash = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
    hash ^= hash >>> 15;
    return (Math.imul(hash, 0x2c1b3c6d) >>> 7) & this.#setMask;
  }

  /** The station was heard on `port` now. A station that moved is known at its new port only. */
  learn(low: number, high: number, port: number, now: Nanos): void {
    const from = this.#set(low, high) * WAYS;
    let place = from;
    let oldest = Infinity;
    for (let i = from; i < from + WAYS; i++) {
      const used = this.#port[i] !== FREE;
      if (used && this.#low[i] === low && this.#high[i] === high) {
        place = i;
        break;
      }
      const heard = used ? (this.#heard[i] as number) : -Infinity;
      if (heard < oldest) {
        oldest = heard;
        place = i;
      }
    }
    this.#low[place] = low;
    this.#high[place] = high;
    this.#port[place] = port;
    this.#heard[place] = now;
  }

  /** The port of a station, or -1 when it is not known (any more). */
  find(low: number, high: number, now: Nanos): number {
    const from = this.#set(low, high) * WAYS;
    for (let i = from; i < from + WAYS; i++) {
      if (this.#low[i] !== low || this.#high[i] !== high || this.#port[i] === FREE) continue;
      if (now - (this.#heard[i] as number) <= this.#ageing) return this.#port[i] as number;
      this.#port[i] = FREE;
      return FREE;
    }
    return FREE;
  }

  /** Forgets every station of a port. */
  forgetPort(port: number): void {
    for (let i = 0; i < this.capacity; i++) if (this.#port[i] === port) this.#port[i] = FREE;
  }

  /** Stations known at `now`, for people to look at. */
  stations(now: Nanos): Station[] {
    const found: Station[] = [];
    for (let i = 0; i < this.capacity; i++) {
      const port = this.#port[i] as number;
      const lastHeard = this.#heard[i] as number;
      if (port === FREE || now - lastHeard > this.#ageing) continue;
      const low = this.#low[i] as number;
      const high = this.#high[i] as number;
      const bytes = [low, low >>> 8, low >>> 16, low >>> 24, high, high >>> 8];
      found.push({ mac: bytes.map((b) => (b & 0xff).toString(16).padStart(2, '0')).join(':'), vlan: high >>> 16, port, lastHeard });
    }
    return found;
  }
}
