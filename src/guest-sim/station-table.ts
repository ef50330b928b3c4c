// Where stations are, as a bridge in a guest learns it: a fixed table of sets, so that a sender of many addresses costs others a flood and nothing more. An entry moves with its station.

const SETS = 256;
const WAYS = 4;

export class StationTable {
  readonly #low = new Int32Array(SETS * WAYS);
  readonly #high = new Int32Array(SETS * WAYS);
  /** Port plus 1; 0: free. */
  readonly #port = new Int32Array(SETS * WAYS);
  readonly #next = new Uint8Array(SETS);

  /** The port of the station whose address is at `at`, or -1. */
  find(u8: Uint8Array, at: number): number {
    const entry = this.#entry(low(u8, at), high(u8, at));
    return entry < 0 ? -1 : (this.#port[entry] as number) - 1;
  }

  learn(u8: Uint8Array, at: number, port: number): void {
    const l = low(u8, at);
    const h = high(u8, at);
    // No station sends from a group address.
    if ((h & 0x100) !== 0) return;
    let entry = this.#entry(l, h);
    if (entry < 0) {
      const set = setOf(l, h);
      const way = this.#next[set] as number;
      this.#next[set] = (way + 1) & (WAYS - 1);
      entry = set * WAYS + way;
      this.#low[entry] = l;
      this.#high[entry] = h;
    }
    this.#port[entry] = port + 1;
  }

  #entry(l: number, h: number): number {
    const first = setOf(l, h) * WAYS;
    for (let i = first; i < first + WAYS; i++) if (this.#low[i] === l && this.#high[i] === h && this.#port[i] !== 0) return i;
    return -1;
  }
}

function low(u8: Uint8Array, at: number): number {
  return ((u8[at + 2] as number) << 24) | ((u8[at + 3] as number) << 16) | ((u8[at + 4] as number) << 8) | (u8[at + 5] as number);
}

function high(u8: Uint8Array, at: number): number {
  return ((u8[at] as number) << 8) | (u8[at + 1] as number);
}

function setOf(l: number, h: number): number {
  return Math.imul(l ^ (h << 13), 0x9e3779b1) >>> 24;
}
