// A plain packed-ring driver written from virtio 1.4 2.8, knowing nothing of the device's code.

import type { At, Buffer, Completion, DriverOptions } from './driver-split.ts';

export interface PackedLayout {
  readonly size: number;
  readonly ring: number;
  readonly driver: number;
  readonly device: number;
}

interface Out {
  readonly cookie: number;
  readonly count: number;
  readonly writable: number;
}

const AVAIL = 1 << 7;
const USED = 1 << 15;

export class PackedDriver {
  readonly layout: PackedLayout;
  readonly #view: DataView;
  readonly #at: At;
  readonly #words: Int32Array;
  readonly #eventIdx: boolean;
  readonly #inOrder: boolean;
  readonly #ids: number[] = [];
  readonly #out = new Map<number, Out>();
  readonly #order: number[] = [];
  next = 0;
  wrap = 1;
  used = 0;
  usedWrap = 1;
  #free: number;
  /** Heads written since the last expose: their last word is stored then. */
  #hidden: { slot: number; word: number }[] = [];
  #exposedFrom = { slot: 0, wrap: 1 };

  constructor(memory: SharedArrayBuffer, layout: PackedLayout, options: DriverOptions = {}, at: At = (a) => a) {
    this.layout = layout;
    this.#view = new DataView(memory);
    this.#words = new Int32Array(memory);
    this.#at = at;
    this.#eventIdx = options.eventIdx ?? false;
    this.#inOrder = options.inOrder ?? false;
    this.#free = layout.size;
    for (let i = 0; i < layout.size; i++) this.#ids.push(i);
  }

  get room(): number {
    return this.#free;
  }

  get outstanding(): number {
    return this.#out.size;
  }

  add(cookie: number, buffers: readonly Buffer[], table?: number): boolean {
    const count = table === undefined ? buffers.length : 1;
    if (count > this.#free) return false;
    const id = this.#ids.shift() as number;
    if (table !== undefined)
      buffers.forEach((b, i) => {
        this.writeDescriptor(table + 16 * i, b, 0xdead, b.write ? 2 : 0);
      });
    for (let i = 0; i < count; i++) {
      const buffer = table === undefined ? (buffers[i] as Buffer) : { address: table, length: 16 * buffers.length };
      const more = i + 1 < count ? 1 : 0;
      const flags = more | (buffer.write ? 2 : 0) | (table === undefined ? 0 : 4) | (this.wrap ? AVAIL : USED);
      // The id counts in the last descriptor only: elsewhere it is rubbish on purpose.
      const word = (flags << 16) | (more ? 0xbad : id) | 0;
      const at = this.layout.ring + 16 * this.next;
      this.#writeBody(at, buffer);
      if (i === 0) this.#hidden.push({ slot: this.next, word });
      else this.#store(at + 12, word);
      this.next++;
      if (this.next === this.layout.size) {
        this.next = 0;
        this.wrap ^= 1;
      }
    }
    this.#free -= count;
    this.#out.set(id, { cookie, count, writable: buffers.reduce((sum, b) => sum + (b.write ? b.length : 0), 0) });
    this.#order.push(id);
    return true;
  }

  /** Shows what was added, oldest head last; true when the device wants a kick. */
  expose(): boolean {
    if (this.#hidden.length === 0) return false;
    for (const { slot, word } of this.#hidden.reverse()) this.#store(this.layout.ring + 16 * slot + 12, word);
    this.#hidden = [];
    const from = this.#exposedFrom;
    this.#exposedFrom = { slot: this.next, wrap: this.wrap };
    const event = Atomics.load(this.#words, this.#at(this.layout.device) / 4);
    const mode = (event >>> 16) & 3;
    if (mode === 1) return false;
    if (mode === 0) return true;
    if (mode === 3 || !this.#eventIdx) throw new Error(`device event mode ${mode}`);
    // Kick when the slot (offset and lap) asked for was among those just made available.
    let { slot, wrap } = from;
    do {
      if (slot === (event & 0x7fff) && wrap === ((event >>> 15) & 1)) return true;
      slot++;
      if (slot === this.layout.size) {
        slot = 0;
        wrap ^= 1;
      }
    } while (slot !== this.next || wrap !== this.wrap);
    return false;
  }

  reap(): Completion[] {
    const done: Completion[] = [];
    for (;;) {
      const at = this.layout.ring + 16 * this.used;
      const word = Atomics.load(this.#words, this.#at(at + 12) / 4);
      const flags = word >>> 16;
      const avail = (flags & AVAIL) !== 0 ? 1 : 0;
      const used = (flags & USED) !== 0 ? 1 : 0;
      if (avail !== used || used !== this.usedWrap || this.#out.size === 0) return done;
      const id = word & 0xffff;
      const length = this.#view.getUint32(this.#at(at + 8), true);
      if (!this.#out.has(id)) throw new Error(`used slot ${this.used} names buffer ${id}, which is not out`);
      if ((flags & 2) === 0 && length !== 0) throw new Error(`used slot ${this.used}: length ${length} without WRITE`);
      while (this.#inOrder && this.#order[0] !== id) {
        const skipped = this.#finish(this.#order[0] as number);
        done.push({ cookie: skipped.cookie, length: skipped.writable });
      }
      done.push({ cookie: this.#finish(id).cookie, length: (flags & 2) !== 0 ? length : 0 });
    }
  }

  #finish(id: number): Out {
    const out = this.#out.get(id) as Out;
    this.#out.delete(id);
    this.#order.splice(this.#order.indexOf(id), 1);
    this.#ids.push(id);
    this.#free += out.count;
    this.used += out.count;
    if (this.used >= this.layout.size) {
      this.used -= this.layout.size;
      this.usedWrap ^= 1;
    }
    return out;
  }

  writeDescriptor(at: number, buffer: Buffer, id: number, flags: number): void {
    this.#writeBody(at, buffer);
    this.#view.setUint16(this.#at(at + 12), id, true);
    this.#view.setUint16(this.#at(at + 14), flags, true);
  }

  /** mode 0 enable, 1 disable, 2 the entry at (offset, wrap). */
  setEvent(mode: number, offset = 0, wrap = 0): void {
    this.#store(this.layout.driver, (mode << 16) | (wrap << 15) | offset);
  }

  get deviceEvent(): number {
    return this.#view.getUint32(this.#at(this.layout.device), true);
  }

  #writeBody(at: number, buffer: Buffer): void {
    this.#view.setUint32(this.#at(at), buffer.address % 2 ** 32, true);
    this.#view.setUint32(this.#at(at + 4), Math.floor(buffer.address / 2 ** 32), true);
    this.#view.setUint32(this.#at(at + 8), buffer.length, true);
  }

  #store(address: number, word: number): void {
    Atomics.store(this.#words, this.#at(address) / 4, word);
  }
}
