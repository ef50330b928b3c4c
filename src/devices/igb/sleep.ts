// What an 82576 does with frames while it is not in D0 (82576 5.6): it looks whether one wakes the system. No frame moves otherwise, of virtual functions neither: they sleep with their physical function (PCIe 4.0 9.6.1).

import { AddressFilter } from '#devices/intel/address-filter';
import { type WakeUp, WakeUpFilter } from '#devices/intel/wake-up';
import type { FrameBatch } from '#net/port';
import { flexibleFilters } from './flexible-filters.ts';
import { AT } from './registers.ts';

export class Sleep {
  readonly #wakeUp: WakeUp;
  readonly #filter: AddressFilter;
  readonly #judge: WakeUpFilter;
  // Since the last `tell`.
  #status = 0;
  #magic = false;

  constructor(words: Uint32Array, wakeUp: WakeUp) {
    this.#wakeUp = wakeUp;
    this.#filter = new AddressFilter(words, AT);
    this.#judge = new WakeUpFilter(words, AT, this.#filter, (bytes, length) => flexibleFilters(words, bytes, length));
  }

  /** batch[from] .. batch[to - 1] came. */
  examine(batch: FrameBatch, from: number, to: number): void {
    this.#filter.rebuild();
    for (let frame = from; frame < to; frame++) {
      const { status, magic } = this.#judge.examine(batch, frame);
      this.#status |= status;
      this.#magic ||= magic;
    }
  }

  /** The end of a turn: PME may run the guest. */
  tell(): void {
    if (this.#status === 0 && !this.#magic) return;
    const wakening = { status: this.#status, magic: this.#magic };
    this.#status = 0;
    this.#magic = false;
    this.#wakeUp.woken(wakening);
  }
}
