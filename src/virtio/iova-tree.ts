// Which device addresses stand for which memory, where the host chooses them itself: the shadow virtqueues' side of a vDPA device's IOTLB. Ranges do not overlap on
// either side; both directions are found by bisection.

import { ADDRESS_LIMIT } from '#core/guest-memory';

export interface IovaRange {
  readonly iova: number;
  readonly address: number;
  readonly size: number;
}

const PAGE = 4096;

export class IovaTree {
  readonly #first: number;
  readonly #end: number;
  /** The same ranges, by ascending iova and by ascending address. */
  #byIova: IovaRange[] = [];
  #byAddress: IovaRange[] = [];
  /** The range found last: one guest's buffers mostly lie in one. */
  #last: IovaRange = { iova: 0, address: 0, size: 0 };

  constructor(range: { readonly first: number; readonly last: number } = { first: 0, last: ADDRESS_LIMIT - 1 }) {
    this.#first = Math.ceil(range.first / PAGE) * PAGE;
    this.#end = Math.floor((range.last + 1) / PAGE) * PAGE;
  }

  get ranges(): readonly IovaRange[] {
    return this.#byIova;
  }

  /** Gives [address, address + size) the lowest device addresses that are free. @throws RangeError when it is not of whole pages, has some already, or does not fit. */
  allocate(address: number, size: number): IovaRange {
    for (const n of [address, size]) if (!(Number.isSafeInteger(n) && n >= 0 && n % PAGE === 0)) throw new RangeError(`${n} is not a multiple of ${PAGE}`);
    const at = firstEndingAfter(this.#byAddress, 'address', address);
    const next = this.#byAddress[at];
    if (size === 0 || (next !== undefined && next.address < address + size))
      throw new RangeError(`memory at 0x${address.toString(16)} has device addresses already`);
    let iova = this.#first;
    let place = 0;
    for (; place < this.#byIova.length; place++) {
      const range = this.#byIova[place] as IovaRange;
      if (range.iova - iova >= size) break;
      iova = range.iova + range.size;
    }
    if (iova + size > this.#end) throw new RangeError(`no ${size} bytes of device addresses are left`);
    const range = { iova, address, size };
    this.#byIova.splice(place, 0, range);
    this.#byAddress.splice(at, 0, range);
    return range;
  }

  /** Takes a range back. */
  free(range: IovaRange): void {
    this.#byIova = this.#byIova.filter((r) => r !== range);
    this.#byAddress = this.#byAddress.filter((r) => r !== range);
    this.#last = { iova: 0, address: 0, size: 0 };
  }

  /** The device address of memory at `address`, or -1. `length` bytes from there on have one each, in a row. */
  iovaOf(address: number, length: number): number {
    let range = this.#last;
    if (!(address >= range.address && address + length <= range.address + range.size)) {
      const found = this.#byAddress[firstEndingAfter(this.#byAddress, 'address', address)];
      if (found === undefined || address < found.address || address + length > found.address + found.size) return -1;
      this.#last = found;
      range = found;
    }
    return address - range.address + range.iova;
  }

  /** What is there at device address `iova`, or -1. */
  addressOf(iova: number, length: number): number {
    const range = this.#byIova[firstEndingAfter(this.#byIova, 'iova', iova)];
    if (range === undefined || iova < range.iova || iova + length > range.iova + range.size) return -1;
    return iova - range.iova + range.address;
  }
}

function firstEndingAfter(ranges: readonly IovaRange[], key: 'iova' | 'address', at: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const range = ranges[middle] as IovaRange;
    if (range[key] + range.size > at) high = middle;
    else low = middle + 1;
  }
  return low;
}
