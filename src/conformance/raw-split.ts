// The split virtqueue (virtio 1.4 2.7) by hand.

import {
  type AddOptions,
  DESC_BYTES,
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_WRITE,
  type Descriptor,
  descriptorBytes,
  type InterruptWish,
  type Part,
  type RawRing,
  type RingParts,
  type RingPlace,
  type Used,
} from './raw-ring.ts';
import { type Session, SetupFailure } from './session.ts';

const NO_INTERRUPT = 1;
const NO_NOTIFY = 1;
const USED_ELEMENT = 8;

export class RawSplit implements RawRing {
  readonly place: RingPlace;
  readonly #session: Session;
  readonly #eventIndex: boolean;
  readonly #inOrder: boolean;
  /** Descriptors each outstanding head occupies. */
  readonly #chains = new Map<number, number[]>();
  /** Heads in the order they were made available, for IN_ORDER. */
  readonly #order: number[] = [];
  readonly #free: number[];
  readonly #pending: number[] = [];
  /** Both without wrapping. */
  #available = 0;
  #taken = 0;

  constructor({ session, place, eventIndex, inOrder }: RingParts) {
    this.#session = session;
    this.place = place;
    this.#eventIndex = eventIndex;
    this.#inOrder = inOrder;
    this.#free = Array.from({ length: place.size }, (_, i) => i);
  }

  async add(parts: readonly Part[], options: AddOptions = {}): Promise<number> {
    const direct = options.indirect === 'all' ? [] : options.indirect === 'tail' ? parts.slice(0, 1) : parts;
    const table = parts.slice(direct.length);
    const count = direct.length + (table.length > 0 ? 1 : 0);
    // virtio 1.4 2.7.13.1 (driver, IN_ORDER): descriptors are used in ring order, which a queue of free ones gives as buffers come back in order.
    const chain = this.#free.splice(0, count);
    if (chain.length < count) throw new SetupFailure(`the case ran out of descriptors: ${this.place.size} are not enough`);
    const list: Descriptor[] = direct.map((part, i) => this.#descriptor(part, chain[i + 1]));
    if (table.length > 0) {
      const at = this.#session.allocate(DESC_BYTES * table.length);
      const entries = table.map((part, i) => this.#descriptor(part, i + 1 < table.length ? i + 1 : undefined));
      await this.#session.write(at, descriptorBytes(entries));
      list.push({ address: at, length: DESC_BYTES * table.length, third: DESC_INDIRECT | (options.tableFlags ?? 0), fourth: 0 });
    }
    for (const [i, descriptor] of list.entries())
      await this.#session.write(this.place.descriptors + DESC_BYTES * (chain[i] as number), descriptorBytes([descriptor]));
    const [head] = chain as [number];
    this.#chains.set(head, chain);
    this.#pending.push(head);
    return head;
  }

  #descriptor(part: Part, next: number | undefined): Descriptor {
    const flags = (part.writable ? DESC_WRITE : 0) | (next === undefined ? 0 : DESC_NEXT);
    return { address: part.address, length: part.length, third: flags, fourth: next ?? 0 };
  }

  /** The same head again, without descriptors of its own: whatever the table holds. */
  offer(head: number): void {
    this.#pending.push(head);
  }

  async expose(): Promise<void> {
    for (const head of this.#pending) {
      await this.#session.write16(this.place.driver + 4 + 2 * (this.#available % this.place.size), head);
      this.#order.push(head);
      this.#available++;
    }
    this.#pending.length = 0;
    // virtio 1.4 2.7.13.3: the index after the entries.
    await this.#session.write16(this.place.driver + 2, this.#available & 0xffff);
  }

  /** The device's used index. */
  usedIndex(): Promise<number> {
    return this.#session.read16(this.place.device + 2);
  }

  usedFlags(): Promise<number> {
    return this.#session.read16(this.place.device);
  }

  availEvent(): Promise<number> {
    return this.#session.read16(this.place.device + 4 + USED_ELEMENT * this.place.size);
  }

  /** Any value, whether or not the feature that gives it a meaning is there. */
  setUsedEvent(value: number): Promise<void> {
    return this.#session.write16(this.place.driver + 4 + 2 * this.place.size, value & 0xffff);
  }

  setAvailFlags(flags: number): Promise<void> {
    return this.#session.write16(this.place.driver, flags);
  }

  async used(): Promise<Used[]> {
    const index = await this.usedIndex();
    const count = (index - this.#taken) & 0xffff;
    if (count > this.place.size)
      throw new SetupFailure(`the used index moved from ${this.#taken & 0xffff} to ${index}: more than the ring's ${this.place.size}`);
    const out: Used[] = [];
    for (let i = 0; i < count; ) {
      const slot = this.#taken % this.place.size;
      const element = await this.#session.read(this.place.device + 4 + USED_ELEMENT * slot, USED_ELEMENT);
      const view = new DataView(element.buffer, element.byteOffset, USED_ELEMENT);
      const token = view.getUint32(0, true);
      const length = view.getUint32(4, true);
      // virtio 1.4 2.7.9: with IN_ORDER one element may stand for all buffers up to it; those before it count as written in full.
      const batch = this.#inOrder ? this.#order.indexOf(token) + 1 : 1;
      for (let n = 1; n < batch; n++) this.#give(this.#order.shift() as number);
      this.#give(token);
      if (this.#inOrder) this.#order.shift();
      out.push({ token, length, slot, flags: 0 });
      const step = Math.max(batch, 1);
      this.#taken += step;
      i += step;
      this.#session.note(`used ring slot ${slot}: id ${token}, length ${length}`);
    }
    return out;
  }

  #give(head: number): void {
    const chain = this.#chains.get(head);
    if (chain === undefined) return;
    this.#chains.delete(head);
    this.#free.push(...chain);
  }

  async setInterrupts(wish: InterruptWish): Promise<void> {
    // With EVENT_IDX the flag has no influence and the index decides; never: an index that was passed long ago.
    if (this.#eventIndex) await this.setUsedEvent(wish === 'always' ? this.#taken : wish === 'never' ? this.#taken - 1 - this.place.size : wish.at);
    else await this.setAvailFlags(wish === 'never' ? NO_INTERRUPT : 0);
  }

  async wantsKick(): Promise<boolean> {
    if (!this.#eventIndex) return ((await this.usedFlags()) & NO_NOTIFY) === 0;
    return (await this.availEvent()) === ((this.#available - 1) & 0xffff);
  }

  /** Buffers made available so far, without wrapping. */
  get available(): number {
    return this.#available;
  }

  position(): { offset: number; wrap: number } {
    return { offset: this.#available & 0x7fff, wrap: (this.#available >>> 15) & 1 };
  }
}
