// What looking at a frame does beside sending it: counts, and what meters are charged. A frame that its destination refuses stays at its source and is looked at again, so effects are in force once a frame is dealt
// with, and meters get back what a refused one had taken.

import { HIT_FLOATS, METER_COMMITTED, METER_EXCESS, METER_FLOATS, type SwitchTables } from './layout.ts';

const COUNT_RULE = 0;
const COUNT_COUNTER = 1;
/** A frame by its colour: index is the word. */
const COUNT_METER = 2;
/** A word of the accounts. */
const COUNT_ACCOUNT = 3;
const CHARGE_COMMITTED = 4;
const CHARGE_EXCESS = 5;
const FIRST_ROOM = 4096;

export class Effects {
  readonly #tables: SwitchTables;
  #kind = new Uint8Array(FIRST_ROOM);
  #index = new Int32Array(FIRST_ROOM);
  #frame = new Int32Array(FIRST_ROOM);
  #amount = new Float64Array(FIRST_ROOM);
  #count = 0;
  /** What the next effects belong to. */
  frame = 0;

  constructor(tables: SwitchTables) {
    this.#tables = tables;
  }

  hit(rule: number, bytes: number): void {
    this.#add(COUNT_RULE, rule, bytes);
  }

  count(counter: number, bytes: number): void {
    this.#add(COUNT_COUNTER, counter, bytes);
  }

  colour(word: number): void {
    this.#add(COUNT_METER, word, 1);
  }

  account(word: number): void {
    this.#add(COUNT_ACCOUNT, word, 1);
  }

  /** The meter has been charged already. */
  charged(meter: number, amount: number, excess: boolean): void {
    this.#add(excess ? CHARGE_EXCESS : CHARGE_COMMITTED, meter, amount);
  }

  #add(kind: number, index: number, amount: number): void {
    if (this.#count === this.#kind.length) this.#grow();
    const at = this.#count++;
    this.#kind[at] = kind;
    this.#index[at] = index;
    this.#frame[at] = this.frame;
    this.#amount[at] = amount;
  }

  /** Once: the most that a batch has ever had stays. */
  #grow(): void {
    const room = 2 * this.#kind.length;
    const kind = new Uint8Array(room);
    const index = new Int32Array(room);
    const frame = new Int32Array(room);
    const amount = new Float64Array(room);
    kind.set(this.#kind);
    index.set(this.#index);
    frame.set(this.#frame);
    amount.set(this.#amount);
    this.#kind = kind;
    this.#index = index;
    this.#frame = frame;
    this.#amount = amount;
  }

  /** How many there are that are not settled. */
  get pending(): number {
    return this.#count;
  }

  /** The rules that were met since `pending` was `first`, in their order. Returns how many; -1 when there was any other effect, or more than there is room for. */
  metSince(first: number, rules: Int32Array): number {
    const met = this.#count - first;
    if (met > rules.length) return -1;
    for (let i = 0; i < met; i++) {
      if (this.#kind[first + i] !== COUNT_RULE) return -1;
      rules[i] = this.#index[first + i] as number;
    }
    return met;
  }

  /** Frames below `frame` have been dealt with; what later ones did is kept. */
  settle(frame: number): void {
    const { hits, counters, meters, accounts } = this.#tables;
    let at = 0;
    for (; at < this.#count && (this.#frame[at] as number) < frame; at++) {
      const index = this.#index[at] as number;
      const amount = this.#amount[at] as number;
      if (this.#kind[at] === COUNT_RULE) {
        hits[HIT_FLOATS * index] = (hits[HIT_FLOATS * index] as number) + 1;
        hits[HIT_FLOATS * index + 1] = (hits[HIT_FLOATS * index + 1] as number) + amount;
      } else if (this.#kind[at] === COUNT_COUNTER) {
        counters[HIT_FLOATS * index] = (counters[HIT_FLOATS * index] as number) + 1;
        counters[HIT_FLOATS * index + 1] = (counters[HIT_FLOATS * index + 1] as number) + amount;
      } else if (this.#kind[at] === COUNT_METER) meters[index] = (meters[index] as number) + amount;
      else if (this.#kind[at] === COUNT_ACCOUNT) accounts[index] = (accounts[index] as number) + amount;
    }
    if (at === 0) return;
    const left = this.#count - at;
    for (let i = 0; i < left; i++) {
      this.#kind[i] = this.#kind[at + i] as number;
      this.#index[i] = this.#index[at + i] as number;
      this.#frame[i] = this.#frame[at + i] as number;
      this.#amount[i] = this.#amount[at + i] as number;
    }
    this.#count = left;
  }

  /** What effects of `frame` and later ones there are is undone. */
  revoke(frame: number): void {
    const { meters } = this.#tables;
    while (this.#count > 0 && (this.#frame[this.#count - 1] as number) >= frame) {
      const at = --this.#count;
      const kind = this.#kind[at] as number;
      if (kind < CHARGE_COMMITTED) continue;
      const word = (this.#index[at] as number) * METER_FLOATS + (kind === CHARGE_EXCESS ? METER_EXCESS : METER_COMMITTED);
      meters[word] = (meters[word] as number) + (this.#amount[at] as number);
    }
  }
}
