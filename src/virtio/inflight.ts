// Where a ring's device stands, kept in memory that outlives the device's process (vhost-user's in-flight region of one queue, version 1, split and packed layout). A device that
// returns chains in the order it took them, and nothing between turns, has no chain to note: taken chains are still in the ring. What the region adds is the position of
// a packed ring, which its memory does not show; and which publish was under way when the process died.
//
// Split, 16-byte header: u64 features, u16 version, u16 descriptors, u16 head of the last batch, u16 used index; then 16 bytes a descriptor, the first of them "in flight".
// Packed, 32-byte header: u64 features, u16 version, u16 descriptors, u16 free head, u16 old free head, u16 used, u16 old used, u8 used wrap, u8 old used wrap, 7 bytes
// of nothing; then 32 bytes a descriptor: u8 in flight, u8, u16 next, ... "Old" is the position before the publish that may be under way.

const VERSION = 1;
const SPLIT_HEADER = 16;
const SPLIT_ENTRY = 16;
const PACKED_HEADER = 32;
const PACKED_ENTRY = 32;
const ALIGNMENT = 64;
// In halves of the header.
const VERSION_AT = 4;
const DESCRIPTORS_AT = 5;
const SPLIT_USED_AT = 7;
const PACKED_USED_AT = 8;
const PACKED_OLD_USED_AT = 9;
/** Both wrap counters, a byte each: the present one in the low byte. */
const PACKED_WRAPS_AT = 10;
/** In halves of a packed entry. */
const PACKED_NEXT_AT = 1;
const WRAP = 0x8000;

/** Bytes of a queue's region. */
export function inflightBytes(size: number, packed: boolean): number {
  const bytes = packed ? PACKED_HEADER + PACKED_ENTRY * size : SPLIT_HEADER + SPLIT_ENTRY * size;
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** One queue's region. The memory is shared with a process that is not trusted: what is read from it is checked by whoever uses it. */
export class InflightRegion {
  /** The bytes; also what another thread opens it with. */
  readonly bytes: Uint8Array;
  readonly packed: boolean;
  readonly #halves: Uint16Array;

  /** @param bytes of `inflightBytes`, from an even offset on */
  constructor(bytes: Uint8Array, packed: boolean) {
    this.bytes = bytes;
    this.packed = packed;
    this.#halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 1);
  }

  /** A region of a ring of `size` that nobody has served yet. */
  format(size: number): void {
    const halves = this.#halves;
    halves.fill(0);
    halves[VERSION_AT] = VERSION;
    halves[DESCRIPTORS_AT] = size;
    if (!this.packed) return;
    halves[PACKED_WRAPS_AT] = 0x101;
    for (let i = 0; i + 1 < size; i++) halves[(PACKED_HEADER + PACKED_ENTRY * i) / 2 + PACKED_NEXT_AT] = i + 1;
  }

  /** Descriptors there is room for; 0: this is no region of version 1. */
  get size(): number {
    return this.#halves[VERSION_AT] === VERSION ? (this.#halves[DESCRIPTORS_AT] as number) : 0;
  }

  /** Descriptors that some device noted as taken. */
  inFlight(): number[] {
    const noted: number[] = [];
    const { size, packed, bytes } = this;
    for (let i = 0; i < size; i++) {
      const at = packed ? PACKED_HEADER + PACKED_ENTRY * i : SPLIT_HEADER + SPLIT_ENTRY * i;
      if (bytes[at] !== undefined && bytes[at] !== 0) noted.push(i);
    }
    return noted;
  }

  /** They have been taken over. */
  clearInFlight(): void {
    for (const i of this.inFlight()) this.bytes[this.packed ? PACKED_HEADER + PACKED_ENTRY * i : SPLIT_HEADER + SPLIT_ENTRY * i] = 0;
  }

  /** Used position, with a packed ring's wrap counter in bit 15. */
  get used(): number {
    if (!this.packed) return Atomics.load(this.#halves, SPLIT_USED_AT);
    return (Atomics.load(this.#halves, PACKED_USED_AT) & 0x7fff) | ((Atomics.load(this.#halves, PACKED_WRAPS_AT) & 0xff) !== 0 ? WRAP : 0);
  }

  /** Of a packed ring: the position before the publish that was under way; that of `used` when none was. */
  get oldUsed(): number {
    return (Atomics.load(this.#halves, PACKED_OLD_USED_AT) & 0x7fff) | (Atomics.load(this.#halves, PACKED_WRAPS_AT) >>> 8 !== 0 ? WRAP : 0);
  }

  /** A device takes over at this position. */
  start(used: number): void {
    this.publishing(used);
    this.published(used);
  }

  /** The used position is about to be moved to `used`. */
  publishing(used: number): void {
    if (!this.packed) return;
    const wraps = Atomics.load(this.#halves, PACKED_WRAPS_AT);
    Atomics.store(this.#halves, PACKED_WRAPS_AT, (wraps & 0xff00) | (used >>> 15));
    Atomics.store(this.#halves, PACKED_USED_AT, used & 0x7fff);
  }

  /** It was. */
  published(used: number): void {
    if (!this.packed) Atomics.store(this.#halves, SPLIT_USED_AT, used);
    else {
      Atomics.store(this.#halves, PACKED_OLD_USED_AT, used & 0x7fff);
      Atomics.store(this.#halves, PACKED_WRAPS_AT, (used >>> 15) * 0x101);
    }
  }
}
