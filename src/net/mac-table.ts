// Which port a station was last heard on: a set-associative table in typed arrays. Bounded in size and in work: a lookup reads at most eight entries; a new station
// in a full set takes the place of the one heard longest ago. Independent learning: a station is an address in a VLAN (IEEE 802.1Q 8.8).

import type { Nanos } from '#core/clock';

const WAYS = 8;
const STATION_BYTES = 18;
/** As the port of a station: none, so that zeroed memory is an empty table. Ports are kept with 1 added. */
const FREE = 0;
/** As the answer of `find`. */
const NOT_KNOWN = -1;

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

  /**
   * @param capacity stations; rounded up to a power of two of at least 8. @param ageing how long a silent station is remembered.
   * @param place `bytes(capacity)` of memory for it, at a multiple of 8: what another thread has made of them stays.
   */
  constructor(capacity: number, ageing: Nanos, place?: { readonly buffer: ArrayBufferLike; readonly offset: number }) {
    if (!(ageing > 0)) throw new RangeError(`MAC table ageing ${ageing}: nanoseconds above 0`);
    const bytes = MacTable.bytes(capacity);
    const { buffer, offset } = place ?? { buffer: new ArrayBuffer(bytes), offset: 0 };
    this.capacity = bytes / STATION_BYTES;
    this.#ageing = ageing;
    this.#setMask = this.capacity / WAYS - 1;
    this.#heard = new Float64Array(buffer, offset, this.capacity);
    this.#low = new Int32Array(buffer, offset + 8 * this.capacity, this.capacity);
    this.#high = new Int32Array(buffer, offset + 12 * this.capacity, this.capacity);
    this.#port = new Int16Array(buffer, offset + 16 * this.capacity, this.capacity);
  }

  /** What a table of so many stations takes. */
  static bytes(capacity: number): number {
    if (!(Number.isSafeInteger(capacity) && capacity >= 1 && capacity <= 2 ** 20))
      throw new RangeError(`MAC table capacity ${capacity}: 1 to 1048576 stations`);
    return Math.max(WAYS, 2 ** Math.ceil(Math.log2(capacity))) * STATION_BYTES;
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
    this.#port[place] = port + 1;
    this.#heard[place] = now;
  }

  /** The port of a station, or -1 when it is not known (any more). */
  find(low: number, high: number, now: Nanos): number {
    const from = this.#set(low, high) * WAYS;
    for (let i = from; i < from + WAYS; i++) {
      if (this.#low[i] !== low || this.#high[i] !== high || this.#port[i] === FREE) continue;
      if (now - (this.#heard[i] as number) <= this.#ageing) return (this.#port[i] as number) - 1;
      this.#port[i] = FREE;
      return NOT_KNOWN;
    }
    return NOT_KNOWN;
  }

  /** Forgets every station. */
  clear(): void {
    this.#port.fill(FREE);
  }

  /** Forgets every station of a port. */
  forgetPort(port: number): void {
    for (let i = 0; i < this.capacity; i++) if (this.#port[i] === port + 1) this.#port[i] = FREE;
  }

  /** Stations known at `now`, for people to look at. */
  stations(now: Nanos): Station[] {
    const found: Station[] = [];
    for (let i = 0; i < this.capacity; i++) {
      const port = (this.#port[i] as number) - 1;
      const lastHeard = this.#heard[i] as number;
      if (this.#port[i] === FREE || now - lastHeard > this.#ageing) continue;
      const low = this.#low[i] as number;
      const high = this.#high[i] as number;
      const bytes = [low, low >>> 8, low >>> 16, low >>> 24, high, high >>> 8];
      found.push({ mac: bytes.map((b) => (b & 0xff).toString(16).padStart(2, '0')).join(':'), vlan: high >>> 16, port, lastHeard });
    }
    return found;
  }
}
