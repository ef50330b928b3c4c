// The Toeplitz hash of receive-side scaling (published by Microsoft as part of NDIS): each set bit of the input adds (exclusive or) the 32 bits of the key
// that begin at the same place. Here as one table look-up for each input byte, built once for a key.

/** Addresses of two IPv6 hosts and two ports: the longest input. */
const LONGEST_INPUT = 36;

/** The shortest key that covers the longest input. */
export const RSS_KEY_LENGTH = LONGEST_INPUT + 4;

/** What the driver uses unless told otherwise: 40 bytes without a period, so that the two directions of a flow hash apart. */
export const DEFAULT_RSS_KEY: Uint8Array = Uint8Array.from({ length: RSS_KEY_LENGTH }, (_, i) => ((i + 3) * (i + 11) * 97 + i * 29 + 0x5b) & 0xff);

export class Toeplitz {
  readonly #table = new Uint32Array(LONGEST_INPUT * 256);

  /** A key shorter than the input needs counts as continued with zeros. */
  constructor(key: Uint8Array) {
    const bit = (n: number): number => ((key[n >>> 3] ?? 0) >>> (7 - (n & 7))) & 1;
    const windows = new Uint32Array(8);
    for (let at = 0; at < LONGEST_INPUT; at++) {
      for (let b = 0; b < 8; b++) {
        let window = 0;
        for (let i = 0; i < 32; i++) window = (window << 1) | bit(8 * at + b + i);
        windows[b] = window;
      }
      for (let value = 0; value < 256; value++) {
        let hash = 0;
        for (let b = 0; b < 8; b++) if (((value >>> (7 - b)) & 1) === 1) hash ^= windows[b] as number;
        this.#table[at * 256 + value] = hash;
      }
    }
  }

  /** Adds `length` bytes at `from` to a hash whose input so far was `done` bytes long. Start with 0 and 0. Signed: `>>> 0` at the end. */
  add(hash: number, done: number, u8: Uint8Array, from: number, length: number): number {
    const table = this.#table;
    for (let i = 0; i < length; i++) hash ^= table[(done + i) * 256 + (u8[from + i] as number)] as number;
    return hash;
  }
}
