// A device that does one thing wrong: a target around another one, with a fault between the suite and the device. The fault alters what the suite sees of the device (a register, a
// used element, a message, a frame), or what the device sees of the suite, which then does right by something it was not asked.

import { CFG_TYPE, COMMON, COMMON_FIELDS, type CommonField } from '#conformance/layout';
import type { AccessBytes, Hands, Model, Target, TargetSource, WireOffload } from '#conformance/target';

/** Where a BAR access goes. */
export interface Place {
  readonly structure: 'common' | 'notify' | 'isr' | 'device' | 'other';
  readonly field: CommonField | undefined;
  /** In the structure; of none, in the BAR. */
  readonly offset: number;
  readonly bar: number;
  /** Bytes. */
  readonly size: number;
}

/** Part of a virtqueue that an address lies in. */
export interface RingSpot {
  readonly queue: number;
  readonly area: 'descriptors' | 'driver' | 'device';
  readonly offset: number;
  readonly packed: boolean;
  readonly size: number;
}

interface Known {
  /** Of the capability, in configuration space. */
  readonly at: number;
  readonly type: number;
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
}

interface QueueAreas {
  size: number;
  readonly words: number[];
}

/** Hooks of a fault; each returns what takes the place of what went by. `undefined` for a write or a frame: it is lost. */
export interface Fault {
  configRead?(m: Mutant, offset: number, size: number, value: number): number;
  configWrite?(m: Mutant, offset: number, size: number, value: number): number | undefined;
  barRead?(m: Mutant, place: Place, value: number): number;
  barWrite?(m: Mutant, place: Place, value: number): number | undefined;
  memoryRead?(m: Mutant, address: number, bytes: Uint8Array): Uint8Array;
  memoryWrite?(m: Mutant, address: number, bytes: Uint8Array): Uint8Array | undefined;
  /** After the device has settled. */
  settled?(m: Mutant): void | Promise<void>;
  messages?(m: Mutant, numbers: number[]): number[];
  intx?(m: Mutant, level: boolean): boolean;
  send?(m: Mutant, frame: Uint8Array, offload: WireOffload | undefined): [Uint8Array, WireOffload | undefined] | undefined;
  sent?(m: Mutant, frames: Uint8Array[]): Uint8Array[];
  advance?(m: Mutant, nanos: number): number;
}

export class Mutant implements Target {
  readonly inner: Target;
  readonly fault: Fault;
  readonly queues = new Map<number, QueueAreas>();
  /** For a fault that remembers something. */
  memo: Record<string, number> = {};
  frames: Uint8Array[] = [];
  #queue = 0;
  /** Where the structures are, read behind the fault's back. */
  known: readonly Known[] = [];

  constructor(inner: Target, fault: Fault) {
    this.inner = inner;
    this.fault = fault;
  }

  get ram(): Target['ram'] {
    return this.inner.ram;
  }

  get wireOffloads(): boolean {
    return this.inner.wireOffloads === true;
  }

  get countsMessages(): boolean {
    return this.inner.countsMessages;
  }

  get extendedConfig(): boolean {
    return this.inner.extendedConfig === true;
  }

  /** With the same fault. */
  get virtualFunction(): ((n: number) => Target) | undefined {
    const { inner } = this;
    return inner.virtualFunction && ((n) => new Mutant(inner.virtualFunction?.(n) as Target, this.fault));
  }

  get hands(): Hands {
    return this.inner.hands ?? {};
  }

  async look(): Promise<void> {
    const found: Known[] = [];
    const { inner } = this;
    let at = (await inner.configRead(0x34, 1)) & 0xfc;
    while (at >= 0x40) {
      if ((await inner.configRead(at, 1)) === 9)
        found.push({
          at,
          type: await inner.configRead(at + 3, 1),
          bar: await inner.configRead(at + 4, 1),
          offset: await inner.configRead(at + 8, 4),
          length: await inner.configRead(at + 12, 4),
        });
      at = (await inner.configRead(at + 1, 1)) & 0xfc;
    }
    this.known = found;
  }

  #place(bar: number, offset: number, size: number): Place {
    const names = { [CFG_TYPE.COMMON]: 'common', [CFG_TYPE.NOTIFY]: 'notify', [CFG_TYPE.ISR]: 'isr', [CFG_TYPE.DEVICE]: 'device' } as const;
    for (const found of this.known) {
      const structure = names[found.type as 1];
      if (structure === undefined || found.bar !== bar || offset < found.offset || offset >= found.offset + found.length) continue;
      const within = offset - found.offset;
      return { structure, offset: within, bar, size, field: structure === 'common' ? COMMON_FIELDS.find((name) => COMMON[name][0] === within) : undefined };
    }
    return { structure: 'other', field: undefined, offset, bar, size };
  }

  /** A register of the common configuration, past the fault. */
  async peek(field: CommonField): Promise<number> {
    const { bar, offset } = this.known.find(({ type }) => type === CFG_TYPE.COMMON) as Known;
    return this.inner.barRead(bar, offset + COMMON[field][0], COMMON[field][1] as AccessBytes);
  }

  async poke(field: CommonField, value: number): Promise<void> {
    const { bar, offset } = this.known.find(({ type }) => type === CFG_TYPE.COMMON) as Known;
    await this.inner.barWrite(bar, offset + COMMON[field][0], COMMON[field][1] as AccessBytes, value);
  }

  async configRead(offset: number, size: AccessBytes): Promise<number> {
    const value = await this.inner.configRead(offset, size);
    return (this.fault.configRead?.(this, offset, size, value) ?? value) >>> 0;
  }

  async configWrite(offset: number, size: AccessBytes, value: number): Promise<void> {
    const changed = this.fault.configWrite ? this.fault.configWrite(this, offset, size, value) : value;
    if (changed !== undefined) await this.inner.configWrite(offset, size, changed);
  }

  async barRead(bar: number, offset: number, size: AccessBytes): Promise<number> {
    if (this.known.length === 0) await this.look();
    const value = await this.inner.barRead(bar, offset, size);
    return this.fault.barRead ? this.fault.barRead(this, this.#place(bar, offset, size), value) >>> 0 : value;
  }

  async barWrite(bar: number, offset: number, size: AccessBytes, value: number): Promise<void> {
    if (this.known.length === 0) await this.look();
    const place = this.#place(bar, offset, size);
    this.#spy(place, value);
    const changed = this.fault.barWrite ? this.fault.barWrite(this, place, value) : value;
    if (changed !== undefined) await this.inner.barWrite(bar, offset, size, changed);
  }

  #spy({ field }: Place, value: number): void {
    if (field === 'queue_select') this.#queue = value;
    const areas = this.queues.get(this.#queue) ?? { size: 0, words: [0, 0, 0, 0, 0, 0] };
    this.queues.set(this.#queue, areas);
    if (field === 'queue_size') areas.size = value;
    if (field?.startsWith('queue_d')) areas.words[(COMMON[field][0] - 32) / 4] = value;
    if (field === 'driver_feature' && this.memo.window === 1) this.memo.features1 = value;
    if (field === 'driver_feature_select') this.memo.window = value;
  }

  get selected(): number {
    return this.#queue;
  }

  get packed(): boolean {
    return ((this.memo.features1 ?? 0) & 4) !== 0;
  }

  /** The ring that `address` lies in. */
  spot(address: number): RingSpot | undefined {
    const { packed } = this;
    for (const [queue, { size, words }] of this.queues) {
      const bytes = packed ? [16 * size, 4, 4] : [16 * size, 6 + 2 * size, 6 + 8 * size];
      for (const [i, area] of (['descriptors', 'driver', 'device'] as const).entries()) {
        const start = (words[2 * i] as number) + 2 ** 32 * (words[2 * i + 1] as number);
        if (address >= start && address < start + (bytes[i] as number)) return { queue, area, offset: address - start, packed, size };
      }
    }
    return undefined;
  }

  /** Start of an area of a queue. */
  area(queue: number, area: 'descriptors' | 'driver' | 'device'): number {
    const i = ['descriptors', 'driver', 'device'].indexOf(area);
    const { words } = this.queues.get(queue) as QueueAreas;
    return (words[2 * i] as number) + 2 ** 32 * (words[2 * i + 1] as number);
  }

  async memoryRead(address: number, length: number): Promise<Uint8Array> {
    const bytes = await this.inner.memoryRead(address, length);
    return this.fault.memoryRead?.(this, address, bytes.slice()) ?? bytes;
  }

  async memoryWrite(address: number, bytes: Uint8Array): Promise<void> {
    const changed = this.fault.memoryWrite ? this.fault.memoryWrite(this, address, bytes.slice()) : bytes;
    if (changed !== undefined) await this.inner.memoryWrite(address, changed);
  }

  message(n: number): { readonly address: number; readonly data: number } {
    return this.inner.message(n);
  }

  async messages(): Promise<number[]> {
    const numbers = await this.inner.messages();
    return this.fault.messages?.(this, [...numbers]) ?? numbers;
  }

  async intx(): Promise<boolean> {
    const level = await this.inner.intx();
    return this.fault.intx?.(this, level) ?? level;
  }

  async send(frame: Uint8Array, offload?: WireOffload): Promise<void> {
    const changed = this.fault.send ? this.fault.send(this, frame.slice(), offload) : ([frame, offload] as const);
    if (changed !== undefined) await this.inner.send(...changed);
  }

  async sent(): Promise<Uint8Array[]> {
    const frames = await this.inner.sent();
    return this.fault.sent?.(this, [...frames]) ?? frames;
  }

  async advance(nanos: number): Promise<void> {
    await this.inner.advance(this.fault.advance?.(this, nanos) ?? nanos);
  }

  async settle(): Promise<void> {
    await this.inner.settle();
    await this.fault.settled?.(this);
  }

  close(): void | Promise<void> {
    return this.inner.close();
  }
}

export function mutantSource(source: TargetSource, name: string, fault: () => Fault): TargetSource {
  return {
    name: `${source.name}: ${name}`,
    async open(model?: Model) {
      const mutant = new Mutant(await source.open(model), fault());
      await mutant.look();
      return mutant;
    },
  };
}

/** A fault and the clauses it breaks. */
export interface Mutation {
  readonly name: string;
  readonly breaks: readonly string[];
  readonly fault: () => Fault;
}

export function mutation(name: string, breaks: readonly string[], fault: Fault | (() => Fault)): Mutation {
  return { name, breaks, fault: typeof fault === 'function' ? fault : () => fault };
}
