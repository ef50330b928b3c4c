// A plain split-ring driver written from virtio 1.4 2.7, knowing nothing of the device's code: it lays rings out and reads them with a DataView.

export interface Buffer {
  readonly address: number;
  readonly length: number;
  readonly write?: boolean;
}

export interface Completion {
  readonly cookie: number;
  readonly length: number;
}

export interface SplitLayout {
  readonly size: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
}

export interface DriverOptions {
  readonly eventIdx?: boolean;
  readonly inOrder?: boolean;
}

/** Access to memory as the driver addresses it: tests with an IOMMU translate here. */
export type At = (address: number) => number;

export class SplitDriver {
  readonly layout: SplitLayout;
  readonly #view: DataView;
  readonly #at: At;
  readonly #halves: Uint16Array;
  readonly #eventIdx: boolean;
  readonly #inOrder: boolean;
  readonly #free: number[] = [];
  readonly #chains = new Map<number, { cookie: number; descriptors: number[]; writable: number }>();
  readonly #order: number[] = [];
  availIdx = 0;
  usedIdx = 0;
  #kickedAt = 0;
  #nextDesc = 0;

  constructor(memory: SharedArrayBuffer, layout: SplitLayout, options: DriverOptions = {}, at: At = (a) => a) {
    this.layout = layout;
    this.#view = new DataView(memory);
    this.#halves = new Uint16Array(memory);
    this.#at = at;
    this.#eventIdx = options.eventIdx ?? false;
    this.#inOrder = options.inOrder ?? false;
    for (let i = 0; i < layout.size; i++) this.#free.push(i);
  }

  /** Goes on from a free-running index, as after migration. */
  startAt(index: number): void {
    this.availIdx = index;
    this.usedIdx = index;
    this.#kickedAt = index;
    this.#store16(this.layout.avail + 2, index);
    this.#store16(this.layout.used + 2, index);
    this.#nextDesc = 0;
  }

  get room(): number {
    return this.#free.length;
  }

  get outstanding(): number {
    return this.#chains.size;
  }

  writeDescriptor(table: number, index: number, buffer: Buffer, flags: number, next: number): void {
    const at = table + 16 * index;
    this.#view.setUint32(this.#at(at), buffer.address % 2 ** 32, true);
    this.#view.setUint32(this.#at(at + 4), Math.floor(buffer.address / 2 ** 32), true);
    this.#view.setUint32(this.#at(at + 8), buffer.length, true);
    this.#view.setUint16(this.#at(at + 12), flags | (buffer.write ? 2 : 0), true);
    this.#view.setUint16(this.#at(at + 14), next, true);
  }

  /** Puts a chain in the available ring without showing it. With `table`, buffers from `direct` on go to an indirect table there. False when there is no room. */
  add(cookie: number, buffers: readonly Buffer[], table?: number, direct = 0): boolean {
    const needed = table === undefined ? buffers.length : direct + 1;
    if (this.#free.length < needed) return false;
    const descriptors: number[] = [];
    for (let i = 0; i < needed; i++) {
      if (this.#inOrder) {
        // Descriptors are taken in ring order and come back in ring order.
        descriptors.push(this.#nextDesc);
        this.#free.splice(this.#free.indexOf(this.#nextDesc), 1);
        this.#nextDesc = (this.#nextDesc + 1) % this.layout.size;
      } else descriptors.push(this.#free.shift() as number);
    }
    descriptors.forEach((d, i) => {
      const more = i + 1 < descriptors.length;
      if (table !== undefined && i === direct) {
        const rest = buffers.slice(direct);
        rest.forEach((b, k) => {
          this.writeDescriptor(table, k, b, k + 1 < rest.length ? 1 : 0, k + 1 < rest.length ? k + 1 : 0);
        });
        this.writeDescriptor(this.layout.desc, d, { address: table, length: 16 * rest.length }, 4, 0);
      } else this.writeDescriptor(this.layout.desc, d, buffers[i] as Buffer, more ? 1 : 0, more ? (descriptors[i + 1] as number) : 0);
    });
    const head = descriptors[0] as number;
    this.#chains.set(head, { cookie, descriptors, writable: buffers.reduce((sum, b) => sum + (b.write ? b.length : 0), 0) });
    this.#order.push(head);
    this.#view.setUint16(this.#at(this.layout.avail + 4 + 2 * (this.availIdx % this.layout.size)), head, true);
    this.availIdx = (this.availIdx + 1) & 0xffff;
    return true;
  }

  /** Shows what was added; true when the device wants a kick for it. */
  expose(): boolean {
    this.#store16(this.layout.avail + 2, this.availIdx);
    const before = this.#kickedAt;
    this.#kickedAt = this.availIdx;
    if (before === this.availIdx) return false;
    if (!this.#eventIdx) return (this.#load16(this.layout.used) & 1) === 0;
    const event = this.#load16(this.layout.used + 4 + 8 * this.layout.size);
    // Kick when the slot numbered avail_event was among those just filled.
    for (let i = before; i !== this.availIdx; i = (i + 1) & 0xffff) if (i === event) return true;
    return false;
  }

  /** Everything the device has shown as used since the last call. @throws when the device broke a rule. */
  reap(): Completion[] {
    const done: Completion[] = [];
    const index = this.#load16(this.layout.used + 2);
    while (this.usedIdx !== index) {
      const at = this.layout.used + 4 + 8 * (this.usedIdx % this.layout.size);
      const id = this.#view.getUint32(this.#at(at), true);
      const length = this.#view.getUint32(this.#at(at + 4), true);
      if (!this.#chains.has(id)) throw new Error(`used entry ${this.usedIdx} names chain ${id}, which is not out`);
      // In order, an entry may stand for all chains up to the one it names; those skipped count as fully written.
      for (;;) {
        const head = this.#order[0] as number;
        if (!this.#inOrder || head === id) break;
        const skipped = this.#chains.get(head) as { cookie: number; descriptors: number[]; writable: number };
        this.#finish(head);
        done.push({ cookie: skipped.cookie, length: skipped.writable });
        this.usedIdx = (this.usedIdx + 1) & 0xffff;
      }
      if (this.usedIdx === index) throw new Error('a used entry names a chain past the used index');
      const chain = this.#chains.get(id) as { cookie: number };
      this.#finish(id);
      done.push({ cookie: chain.cookie, length });
      this.usedIdx = (this.usedIdx + 1) & 0xffff;
    }
    return done;
  }

  #finish(head: number): void {
    const chain = this.#chains.get(head) as { descriptors: number[] };
    this.#chains.delete(head);
    this.#order.splice(this.#order.indexOf(head), 1);
    this.#free.push(...chain.descriptors);
  }

  setInterruptFlag(off: boolean): void {
    this.#store16(this.layout.avail, off ? 1 : 0);
  }

  setUsedEvent(index: number): void {
    this.#store16(this.layout.avail + 4 + 2 * this.layout.size, index);
  }

  get usedFlags(): number {
    return this.#load16(this.layout.used);
  }

  #load16(address: number): number {
    return Atomics.load(this.#halves, this.#at(address) / 2);
  }

  #store16(address: number, value: number): void {
    Atomics.store(this.#halves, this.#at(address) / 2, value);
  }
}
