// The device's side of both ring formats, written for these tests from virtio 1.4 2.7 and 2.8 alone: slow, plain, one DataView. It trusts the driver,
// and throws when the driver breaks a rule, which fails the test.

import type { GuestArena } from '#guest-sim/arena';
import type { DriverRing, RingOptions } from '#guest-sim/ring';

/** The driver broke a rule, or (in hostile tests) the model's own ring was scribbled over. */
export class ModelError extends Error {}

interface ModelSegment {
  readonly offset: number;
  readonly length: number;
  readonly writable: boolean;
}

export interface ModelChain {
  readonly id: number;
  readonly segments: readonly ModelSegment[];
  /** Ring slots it took. */
  readonly slots: number;
}

export interface ModelRing {
  take(): ModelChain | undefined;
  use(chain: ModelChain, length: number): void;
  /** In-order devices only: one used entry for a run of chains. */
  useBatch(chains: readonly ModelChain[], length: number): void;
  /** Asks to be told of the `ahead`th buffer (0: the next) made available after what was taken; undefined: of nothing; 'all': of everything. */
  await(ahead: number | 'all' | undefined): void;
  /** Used entries written since the last call deserve an interrupt. */
  callDue(): boolean;
}

function view(arena: GuestArena): DataView {
  return new DataView(arena.u8.buffer, arena.u8.byteOffset, arena.u8.byteLength);
}

function readTable(v: DataView, offset: number, length: number, walk: (at: number) => { flags: number; next: number }): ModelSegment[] {
  if (length % 16 !== 0 || length === 0) throw new ModelError(`indirect table of ${length} bytes`);
  const segments: ModelSegment[] = [];
  let index = 0;
  for (let steps = 0; ; steps++) {
    if (steps > length / 16) throw new ModelError('indirect table loops');
    const at = offset + index * 16;
    const { flags, next } = walk(at);
    if ((flags & 4) !== 0) throw new ModelError('nested indirect table');
    segments.push({ offset: Number(v.getBigUint64(at, true)), length: v.getUint32(at + 8, true), writable: (flags & 2) !== 0 });
    if (next < 0) return segments;
    index = next;
  }
}

function checkOrder(segments: readonly ModelSegment[]): void {
  const first = segments.findIndex((s) => s.writable);
  if (first >= 0 && segments.slice(first).some((s) => !s.writable)) throw new ModelError('a readable segment behind a writable one');
}

export class SplitModel implements ModelRing {
  readonly #v: DataView;
  readonly #o: RingOptions;
  readonly #desc: number;
  readonly #avail: number;
  readonly #used: number;
  #taken = 0;
  #usedIdx = 0;
  #called = 0;

  constructor(ring: Pick<DriverRing, 'addresses'>, options: RingOptions) {
    const base = options.arena.base;
    this.#v = view(options.arena);
    this.#o = options;
    this.#desc = ring.addresses.desc - base;
    this.#avail = ring.addresses.driver - base;
    this.#used = ring.addresses.device - base;
    if (ring.addresses.desc % 16 || ring.addresses.driver % 2 || ring.addresses.device % 4) throw new ModelError('ring alignment');
  }

  take(): ModelChain | undefined {
    const v = this.#v;
    const { size, arena, inOrder } = this.#o;
    if (v.getUint16(this.#avail + 2, true) === this.#taken) return undefined;
    if (this.#o.eventIdx && v.getUint16(this.#avail, true) !== 0) throw new ModelError('avail.flags must be 0 with EVENT_IDX');
    const head = v.getUint16(this.#avail + 4 + 2 * (this.#taken % size), true);
    this.#taken = (this.#taken + 1) & 0xffff;
    let segments: ModelSegment[] = [];
    let slots = 1;
    for (let i = head; ; slots++) {
      const at = this.#desc + 16 * i;
      const flags = v.getUint16(at + 12, true);
      const next = v.getUint16(at + 14, true);
      const address = Number(v.getBigUint64(at, true)) - arena.base;
      const length = v.getUint32(at + 8, true);
      if ((flags & 4) !== 0) {
        if (!this.#o.indirect) throw new ModelError('INDIRECT without the feature');
        if ((flags & 1) !== 0) throw new ModelError('INDIRECT with NEXT');
        segments = readTable(v, address, length, (entry) => {
          const f = v.getUint16(entry + 12, true);
          return { flags: f, next: (f & 1) !== 0 ? v.getUint16(entry + 14, true) : -1 };
        }).map((s) => ({ ...s, offset: s.offset - arena.base }));
        break;
      }
      segments.push({ offset: address, length, writable: (flags & 2) !== 0 });
      if ((flags & 1) === 0) break;
      if (inOrder && next !== (i + 1) % size) throw new ModelError(`in order: descriptor ${i} is followed by ${next}`);
      if (slots >= size) throw new ModelError('chain loops');
      i = next;
    }
    checkOrder(segments);
    return { id: head, segments, slots };
  }

  use(chain: ModelChain, length: number): void {
    this.useBatch([chain], length);
  }

  useBatch(chains: readonly ModelChain[], length: number): void {
    const at = this.#used + 4 + 8 * (this.#usedIdx % this.#o.size);
    this.#v.setUint32(at, (chains.at(-1) as ModelChain).id, true);
    this.#v.setUint32(at + 4, length, true);
    this.#usedIdx = (this.#usedIdx + chains.length) & 0xffff;
    this.#v.setUint16(this.#used + 2, this.#usedIdx, true);
  }

  await(ahead: number | 'all' | undefined): void {
    if (this.#o.eventIdx) {
      // 'all' cannot be said with an index: the test only asks for it without EVENT_IDX.
      const event = ahead === undefined ? this.#taken - 1 : this.#taken + (ahead as number);
      this.#v.setUint16(this.#used + 4 + 8 * this.#o.size, event & 0xffff, true);
    } else this.#v.setUint16(this.#used, ahead === undefined ? 1 : 0, true);
  }

  callDue(): boolean {
    const before = this.#called;
    const now = this.#usedIdx;
    this.#called = now;
    if (before === now) return false;
    if (!this.#o.eventIdx) return (this.#v.getUint16(this.#avail, true) & 1) === 0;
    const event = this.#v.getUint16(this.#avail + 4 + 2 * this.#o.size, true);
    for (let i = before; i !== now; i = (i + 1) & 0xffff) if (i === event) return true;
    return false;
  }
}

export class PackedModel implements ModelRing {
  readonly #v: DataView;
  readonly #o: RingOptions;
  readonly #desc: number;
  readonly #driver: number;
  readonly #device: number;
  #slot = 0;
  #wrap = true;
  #usedSlot = 0;
  #usedWrap = true;
  /** Slots written as used since the last call decision. */
  #usedSlots: { slot: number; wrap: boolean }[] = [];

  constructor(ring: Pick<DriverRing, 'addresses'>, options: RingOptions) {
    const base = options.arena.base;
    this.#v = view(options.arena);
    this.#o = options;
    this.#desc = ring.addresses.desc - base;
    this.#driver = ring.addresses.driver - base;
    this.#device = ring.addresses.device - base;
    if (ring.addresses.desc % 16 || ring.addresses.driver % 4 || ring.addresses.device % 4) throw new ModelError('ring alignment');
  }

  #advance(): void {
    if (++this.#slot < this.#o.size) return;
    this.#slot = 0;
    this.#wrap = !this.#wrap;
  }

  #available(): boolean {
    const flags = this.#v.getUint16(this.#desc + 16 * this.#slot + 14, true);
    return ((flags & 0x80) !== 0) === this.#wrap && ((flags & 0x8000) !== 0) !== this.#wrap;
  }

  take(): ModelChain | undefined {
    const v = this.#v;
    const { arena } = this.#o;
    if (!this.#available()) return undefined;
    const segments: ModelSegment[] = [];
    for (let slots = 1; ; slots++) {
      if (slots > 1 && !this.#available()) throw new ModelError('a list whose head was exposed before its rest');
      const at = this.#desc + 16 * this.#slot;
      const flags = v.getUint16(at + 14, true);
      const id = v.getUint16(at + 12, true);
      const offset = Number(v.getBigUint64(at, true)) - arena.base;
      const length = v.getUint32(at + 8, true);
      this.#advance();
      if ((flags & 4) !== 0) {
        if (!this.#o.indirect) throw new ModelError('INDIRECT without the feature');
        if (slots > 1 || (flags & 1) !== 0) throw new ModelError('an indirect descriptor in a list');
        const last = length / 16 - 1;
        const table = readTable(v, offset, length, (entry) => {
          const f = v.getUint16(entry + 14, true);
          if ((f & ~2) !== 0) throw new ModelError(`indirect entry with flags ${f}`);
          const index = (entry - offset) / 16;
          return { flags: f, next: index === last ? -1 : index + 1 };
        }).map((s) => ({ ...s, offset: s.offset - arena.base }));
        checkOrder(table);
        return { id, segments: table, slots: 1 };
      }
      segments.push({ offset, length, writable: (flags & 2) !== 0 });
      if ((flags & 1) === 0) {
        checkOrder(segments);
        return { id, segments, slots };
      }
    }
  }

  use(chain: ModelChain, length: number): void {
    this.useBatch([chain], length);
  }

  useBatch(chains: readonly ModelChain[], length: number): void {
    const at = this.#desc + 16 * this.#usedSlot;
    this.#v.setUint32(at + 8, length, true);
    this.#v.setUint16(at + 12, (chains.at(-1) as ModelChain).id, true);
    this.#v.setUint16(at + 14, (this.#usedWrap ? 0x8080 : 0) | (length > 0 ? 2 : 0), true);
    for (const chain of chains)
      for (let i = 0; i < chain.slots; i++) {
        this.#usedSlots.push({ slot: this.#usedSlot, wrap: this.#usedWrap });
        if (++this.#usedSlot === this.#o.size) {
          this.#usedSlot = 0;
          this.#usedWrap = !this.#usedWrap;
        }
      }
  }

  await(ahead: number | 'all' | undefined): void {
    const v = this.#v;
    if (ahead === undefined) v.setUint32(this.#device, 1 << 16, true);
    else if (ahead === 'all' || !this.#o.eventIdx) v.setUint32(this.#device, 0, true);
    else {
      let slot = this.#slot + ahead;
      let wrap = this.#wrap;
      if (slot >= this.#o.size) {
        slot -= this.#o.size;
        wrap = !wrap;
      }
      v.setUint32(this.#device, (2 << 16) | (wrap ? 0x8000 : 0) | slot, true);
    }
  }

  callDue(): boolean {
    const used = this.#usedSlots;
    this.#usedSlots = [];
    if (used.length === 0) return false;
    const event = this.#v.getUint32(this.#driver, true);
    const mode = (event >>> 16) & 3;
    if (mode === 1) return false;
    if (mode === 0) return true;
    if (!this.#o.eventIdx) throw new ModelError('event mode DESC without EVENT_IDX');
    return used.some((u) => u.slot === (event & 0x7fff) && u.wrap === ((event & 0x8000) !== 0));
  }
}
