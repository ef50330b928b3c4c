// The packed virtqueue (virtio 1.4 2.8) by hand.

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

export const PACKED_AVAIL = 0x80;
export const PACKED_USED = 0x8000;
const EVENT_ENABLE = 0;
const EVENT_DISABLE = 1;
const EVENT_DESC = 2;

export class RawPacked implements RawRing {
  readonly place: RingPlace;
  readonly #session: Session;
  readonly #inOrder: boolean;
  /** Slots each outstanding buffer id occupies. */
  readonly #lists = new Map<number, number>();
  readonly #order: number[] = [];
  readonly #ids: number[];
  /** Heads that were written without their flags. */
  readonly #pending: { readonly slot: number; readonly flags: number }[] = [];
  #next = 0;
  #wrap = 1;
  #left: number;
  #usedNext = 0;
  #usedWrap = 1;

  constructor({ session, place, inOrder }: RingParts) {
    this.#session = session;
    this.place = place;
    this.#inOrder = inOrder;
    this.#left = place.size;
    // Ids that are no slot numbers, so that a device that takes one for the other shows; IN_ORDER asks for ids in ring order.
    this.#ids = Array.from({ length: place.size }, (_, i) => (inOrder ? i : 2 * place.size - 1 - i));
  }

  async add(parts: readonly Part[], options: AddOptions = {}): Promise<number> {
    const count = options.indirect ? 1 : parts.length;
    const id = this.#ids.shift();
    if (count > this.#left || id === undefined) throw new SetupFailure(`the case ran out of descriptors: ${this.place.size} are not enough`);
    let list: Omit<Descriptor, 'third'>[];
    if (options.indirect) {
      const at = this.#session.allocate(DESC_BYTES * parts.length);
      const junk = options.entryJunk ? DESC_NEXT | PACKED_AVAIL : 0;
      const entries = parts.map((part) => ({
        address: part.address,
        length: part.length,
        third: options.entryJunk ? 0xbeef : 0,
        fourth: (part.writable ? DESC_WRITE : 0) | junk,
      }));
      await this.#session.write(at, descriptorBytes(entries));
      list = [{ address: at, length: DESC_BYTES * parts.length, fourth: DESC_INDIRECT | (options.tableFlags ?? 0) }];
    } else
      list = parts.map((part, i) => ({
        address: part.address,
        length: part.length,
        fourth: (part.writable ? DESC_WRITE : 0) | (i + 1 < parts.length ? DESC_NEXT : 0),
      }));
    for (const [i, entry] of list.entries()) {
      const flags = entry.fourth | (this.#wrap ? PACKED_AVAIL : PACKED_USED);
      const slot = this.#next;
      // virtio 1.4 2.8.6: the id counts in the last descriptor of a list; what the others hold is for nobody.
      const third = options.strayIds && i + 1 < list.length ? 0xdead : id;
      if (i === 0) {
        // The head's flags wait for `expose`: until then it looks as it did.
        const before = await this.#session.read16(this.place.descriptors + DESC_BYTES * slot + 14);
        await this.#session.write(this.place.descriptors + DESC_BYTES * slot, descriptorBytes([{ ...entry, third, fourth: before }]));
        this.#pending.push({ slot, flags });
      } else await this.#session.write(this.place.descriptors + DESC_BYTES * slot, descriptorBytes([{ ...entry, third, fourth: flags }]));
      this.#next++;
      this.#left--;
      if (this.#next === this.place.size) {
        this.#next = 0;
        this.#wrap ^= 1;
      }
    }
    this.#lists.set(id, list.length);
    this.#order.push(id);
    return id;
  }

  async expose(): Promise<void> {
    // The last one first: a device that follows the ring sees all of them or none.
    for (const { slot, flags } of this.#pending.splice(0).reverse()) await this.#session.write16(this.place.descriptors + DESC_BYTES * slot + 14, flags);
  }

  async used(): Promise<Used[]> {
    const out: Used[] = [];
    for (let n = 0; n < this.place.size; n++) {
      const slot = this.#usedNext;
      const bytes = await this.#session.read(this.place.descriptors + DESC_BYTES * slot, DESC_BYTES);
      const view = new DataView(bytes.buffer, bytes.byteOffset, DESC_BYTES);
      const flags = view.getUint16(14, true);
      // virtio 1.4 2.8.1: used when both bits are as the device's wrap counter.
      const both = ((flags & PACKED_AVAIL) !== 0) === ((flags & PACKED_USED) !== 0);
      if (!both || ((flags & PACKED_USED) !== 0) !== (this.#usedWrap === 1) || this.#lists.size === 0) break;
      const token = view.getUint16(12, true);
      const batch = this.#inOrder ? this.#order.indexOf(token) + 1 : 1;
      let slots = 0;
      for (let i = 1; i < batch; i++) slots += this.#give(this.#order.shift() as number);
      slots += this.#give(token);
      const at = this.#order.indexOf(token);
      if (at >= 0) this.#order.splice(at, 1);
      // An id nobody gave it: told as it is, and the case that looks at it fails.
      this.#usedNext += Math.max(slots, 1);
      if (this.#usedNext >= this.place.size) {
        this.#usedNext -= this.place.size;
        this.#usedWrap ^= 1;
      }
      out.push({ token, length: view.getUint32(8, true), slot, flags });
      this.#session.note(`descriptor ${slot} used: id ${token}, length ${view.getUint32(8, true)}, flags 0x${flags.toString(16)}`);
    }
    return out;
  }

  #give(id: number): number {
    const slots = this.#lists.get(id);
    if (slots === undefined) return 0;
    this.#lists.delete(id);
    this.#left += slots;
    this.#ids.push(id);
    return slots;
  }

  async setInterrupts(wish: InterruptWish): Promise<void> {
    if (wish === 'always' || wish === 'never') {
      await this.setEvent(0, wish === 'always' ? EVENT_ENABLE : EVENT_DISABLE);
      return;
    }
    const lap = Math.floor(wish.at / this.place.size);
    await this.setEvent((wish.at % this.place.size) | (lap % 2 === 0 ? 0x8000 : 0), EVENT_DESC);
  }

  /** The driver event area as it is: offset with wrap bit, and flags. */
  async setEvent(offset: number, flags: number): Promise<void> {
    // Flags last: they say what the offset means.
    await this.#session.write16(this.place.driver, offset);
    await this.#session.write16(this.place.driver + 2, flags);
  }

  async deviceEvent(): Promise<{ readonly offset: number; readonly flags: number }> {
    return { offset: await this.#session.read16(this.place.device), flags: await this.#session.read16(this.place.device + 2) };
  }

  async wantsKick(): Promise<boolean> {
    return ((await this.deviceEvent()).flags & 3) !== EVENT_DISABLE;
  }

  /** The slot and wrap counter the next buffer begins with. */
  position(): { offset: number; wrap: number } {
    return { offset: this.#next, wrap: this.#wrap };
  }

  get usedPosition(): { offset: number; wrap: number } {
    return { offset: this.#usedNext, wrap: this.#usedWrap };
  }
}
