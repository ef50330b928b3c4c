// What a guest thread has learned of doorbells: which one a write stands for, by address, or by address and value. Looked at on every register write of the guest, so an open hash
// table of its own: a Map of Maps with addresses that are no small integers took a third of a kick.

import type { Doorbell } from './doorbell.ts';
import type { AccessSize } from './region.ts';

/** In place of a value: whatever is written there. */
export const ANY_VALUE = -1;

/** More than any machine has queues. */
const MOST = 65536;

export interface FastKick {
  readonly address: number;
  readonly value: number;
  readonly size: AccessSize;
  readonly doorbell: Doorbell;
  /** Of the doorbell, when it was learned: moved since, and the write has to go to the register. */
  readonly revocations: number;
}

export class FastKicks {
  #slots: (FastKick | undefined)[] = new Array(64).fill(undefined);
  #count = 0;

  find(address: number, value: number): FastKick | undefined {
    return this.#slots[this.#slot(address, ANY_VALUE)] ?? this.#slots[this.#slot(address, value)];
  }

  /** Takes the place of what was known of the same write. */
  add(kick: FastKick): void {
    const at = this.#slot(kick.address, kick.value);
    if (this.#slots[at] === undefined) {
      if (this.#count === MOST) return;
      this.#count++;
    }
    this.#slots[at] = kick;
    if (2 * this.#count > this.#slots.length) this.#grow();
  }

  clear(): void {
    if (this.#count === 0) return;
    this.#slots.fill(undefined);
    this.#count = 0;
  }

  /** Where it is, or would go. */
  #slot(address: number, value: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    // Queues of a device are a few bytes apart.
    let at = Math.imul((address | 0) ^ Math.imul(value, 0x85ebca6b), 0x9e3779b1) >>> 16;
    for (;;) {
      at &= mask;
      const kick = slots[at];
      if (kick === undefined || (kick.address === address && kick.value === value)) return at;
      at++;
    }
  }

  #grow(): void {
    const former = this.#slots;
    this.#slots = new Array(2 * former.length).fill(undefined);
    for (const kick of former) if (kick !== undefined) this.#slots[this.#slot(kick.address, kick.value)] = kick;
  }
}
