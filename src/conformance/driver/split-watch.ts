// Follows a split virtqueue (virtio 1.4 2.7) in the driver's memory and judges the driver's part of it: descriptor chains, indirect tables, the available ring, notifications.

import { FEATURE } from '../features.ts';
import { judgeShape, type RingContext, type RingWatch } from './ring-watch.ts';
import { type Chain, chainOf, type Piece, type QueueSetup } from './view.ts';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
/** Chains in flight that a look compares with what they were. */
const COMPARED = 64;

interface Held {
  readonly head: number;
  readonly chain: Chain | undefined;
  /** Descriptors of the ring, as they were. */
  readonly slots: readonly { readonly slot: number; readonly bytes: Uint8Array }[];
}

export class SplitWatch implements RingWatch {
  readonly setup: QueueSetup;
  exposed = 0;
  readonly #context: RingContext;
  readonly #inOrder: boolean;
  readonly #eventIdx: boolean;
  #avail: number;
  #used: number;
  /** By head, in the order they were made available. */
  readonly #held = new Map<number, Held>();
  #compare = 0;
  #owed = false;
  #fresh = 0;

  constructor(context: RingContext, setup: QueueSetup) {
    this.#context = context;
    this.setup = setup;
    this.#avail = setup.from ?? 0;
    this.#used = setup.usedFrom ?? this.#avail;
    this.#inOrder = context.features.has(FEATURE.IN_ORDER);
    this.#eventIdx = context.features.has(FEATURE.EVENT_IDX);
    const { findings, queue, memory } = context;
    findings.check('split.1', `queue ${queue}: alignment of its three parts`, [setup.desc % 16, setup.driver % 2, setup.device % 4], [0, 0, 0]);
    if (setup.from === undefined) findings.check('split.32', `queue ${queue}: used.flags when it was enabled`, memory.u16(setup.device), 0);
  }

  get next(): number {
    return this.#avail;
  }

  get inFlight(): number {
    return this.#held.size;
  }

  look(): void {
    const { memory, findings, queue } = this.#context;
    const { driver, size } = this.setup;
    const flags = memory.u16(driver);
    if (this.#eventIdx) findings.check('split.18', `queue ${queue}: avail.flags with EVENT_IDX`, flags, 0);
    else findings.that('split.16', `queue ${queue}: avail.flags`, flags <= 1, '0 or 1', flags);
    this.#compareSome();
    const index = memory.u16(driver + 2);
    const added = (index - this.#avail) & 0xffff;
    if (added === 0) return;
    // Where it is looked at only now and then, the ring may have gone round meanwhile: then what the device has not given back has to fit.
    const fits = (this.#context.exact ? added : (index - memory.u16(this.setup.device + 2)) & 0xffff) <= size;
    findings.that(
      'split.15',
      `queue ${queue}: avail.idx moved on from ${this.#avail}`,
      fits,
      `by no more than ${size}`,
      added <= 0x7fff ? added : added - 0x10000,
    );
    if (!fits) {
      this.#avail = index;
      return;
    }
    this.#owe(this.#avail, added);
    // Buffers that were taken and given back since the last look are the driver's again: what they were cannot be seen.
    const gone = this.#context.exact ? 0 : this.#gone(added);
    for (let i = gone; i < added; i++) {
      const position = (this.#avail + i) & 0xffff;
      if (this.#context.exact) this.#take(memory.u16(driver + 4 + 2 * (position % size)));
      else this.#takeIfStill(position);
    }
    this.#avail = index;
    this.exposed += added;
    this.#fresh += added;
  }

  #gone(added: number): number {
    const { memory } = this.#context;
    const ahead = (memory.u16(this.setup.device + 2) - this.#avail) & 0xffff;
    this.served();
    return ahead <= added ? ahead : 0;
  }

  /** What was read counts if the device still has the buffer afterwards: until then the driver leaves it alone. */
  #takeIfStill(position: number): void {
    const { memory, findings } = this.#context;
    const { driver, device, size } = this.setup;
    findings.hold();
    const head = memory.u16(driver + 4 + 2 * (position % size));
    this.#take(head);
    // Used in order, as far as it matters here: our device does.
    const ahead = (memory.u16(device + 2) - position) & 0xffff;
    const still = ahead === 0 || ahead > 0x8000;
    findings.settle(still);
    if (!still) this.#held.delete(head);
  }

  #take(head: number): void {
    const { findings, queue } = this.#context;
    const again = this.#held.has(head);
    findings.check('init.15', `queue ${queue}: descriptor ${head} was made available while the device had it`, again, false);
    const slots: { slot: number; bytes: Uint8Array }[] = [];
    const chain = this.#walk(head, slots);
    this.#held.delete(head);
    this.#held.set(head, { head, chain, slots });
    if (chain === undefined) return;
    judgeShape(this.#context, chain, ['vq.5']);
    this.#context.chain(chain);
  }

  /** undefined: it has no end, or lies nowhere. */
  #walk(head: number, slots: { slot: number; bytes: Uint8Array }[]): Chain | undefined {
    const { memory, findings, features, queue } = this.#context;
    const { desc, size } = this.setup;
    const pieces: Piece[] = [];
    let total = 0;
    let slot = head;
    for (let count = 0; ; count++) {
      if (count >= size || slot >= size) {
        // A chain that comes back to itself has no end, and so more than 2^32 bytes.
        findings.check('split.6', `queue ${queue}: the chain at ${head} ends`, false, true);
        findings.check('split.10', `queue ${queue}: descriptors of the chain at ${head}`, count + 1, size);
        return undefined;
      }
      const at = desc + 16 * slot;
      const bytes = memory.copy(at, 16);
      if (bytes.length < 16) return undefined;
      slots.push({ slot, bytes });
      const length = memory.u32(at + 8);
      const flags = memory.u16(at + 12);
      const next = memory.u16(at + 14);
      if ((flags & INDIRECT) !== 0) {
        findings.check('split.8', `queue ${queue}: INDIRECT in a descriptor, negotiated`, features.has(FEATURE.INDIRECT_DESC), true);
        findings.check('split.11', `queue ${queue}: NEXT beside INDIRECT`, flags & NEXT, 0);
        if (!this.#table(memory.u64(at), length, pieces)) return undefined;
        break;
      }
      pieces.push({ address: memory.u64(at), length, writable: (flags & WRITE) !== 0 });
      total += length;
      if ((flags & NEXT) === 0) break;
      if (this.#inOrder) findings.check('split.7', `queue ${queue}: next of descriptor ${slot}`, next, (slot + 1) % size);
      slot = next;
    }
    findings.that('split.6', `queue ${queue}: bytes of a chain`, total <= 2 ** 32, 'at most 2^32', total);
    findings.that('split.10', `queue ${queue}: descriptors of a chain, in a queue of ${size}`, pieces.length <= size, 'no more', pieces.length);
    return chainOf(pieces, slots.length);
  }

  #table(table: number, length: number, pieces: Piece[]): boolean {
    const { memory, findings, queue } = this.#context;
    const { size } = this.setup;
    const entries = Math.floor(length / 16);
    let entry = 0;
    for (let count = 0; ; count++) {
      if (count > size || entry >= entries) {
        findings.check('split.10', `queue ${queue}: an indirect table of ${entries} entries, in a queue of ${size}: its chain ends in it`, false, true);
        return false;
      }
      const at = table + 16 * entry;
      const flags = memory.u16(at + 12);
      const next = memory.u16(at + 14);
      findings.check('split.9', `queue ${queue}: INDIRECT in an indirect table`, flags & INDIRECT, 0);
      pieces.push({ address: memory.u64(at), length: memory.u32(at + 8), writable: (flags & WRITE) !== 0 });
      if ((flags & NEXT) === 0) return true;
      if (this.#inOrder) findings.check('split.12', `queue ${queue}: next of entry ${entry} of an indirect table`, next, count + 1);
      entry = next;
    }
  }

  /** Whether what was added has to be announced, by what the device says at this moment. */
  #owe(from: number, added: number): void {
    if (!this.#context.exact) return;
    const { memory } = this.#context;
    const { device, size } = this.setup;
    if (this.#eventIdx) {
      const event = memory.u16(device + 4 + 8 * size);
      if (((event - from) & 0xffff) < added) this.#owed = true;
    } else if ((memory.u16(device) & 1) === 0) this.#owed = true;
  }

  notified(position: number | undefined): void {
    const { findings, queue, exact } = this.#context;
    if (position !== undefined) findings.check('notify.D1', `queue ${queue}: avail.idx told by a notification`, position, this.#avail);
    if (!exact) return;
    const [needed, needless] = this.#eventIdx ? (['split.37', 'split.38'] as const) : (['split.35', 'split.34'] as const);
    if (this.#owed) findings.check(needed, `queue ${queue}: notified when the device wants it`, true, true);
    findings.that(needless, `queue ${queue}: a notification after ${this.#fresh} buffers`, this.#owed, 'none, as the device does not want it', 'one');
    this.#owed = false;
    this.#fresh = 0;
  }

  quiet(): void {
    const { findings, queue } = this.#context;
    if (this.#owed) findings.check(this.#eventIdx ? 'split.37' : 'split.35', `queue ${queue}: notified when the device wants it`, false, true);
    else if (this.#fresh > 0)
      findings.check(this.#eventIdx ? 'split.38' : 'split.34', `queue ${queue}: notified when the device does not want it`, false, false);
    this.#owed = false;
    this.#fresh = 0;
  }

  served(): void {
    const { memory } = this.#context;
    const { device, size } = this.setup;
    const index = memory.u16(device + 2);
    const added = (index - this.#used) & 0xffff;
    if (added > size) {
      // Not looked at for longer than the ring remembers.
      this.#held.clear();
      this.#used = index;
      return;
    }
    for (let i = 0; i < added; i++) {
      // 2.7.9: one entry may stand for a run of buffers, which the order tells.
      const at = device + 4 + 8 * ((this.#used + i) % size);
      const head = this.#inOrder ? this.#held.keys().next().value : memory.u32(at);
      if (head === undefined) continue;
      const chain = this.#held.get(head)?.chain;
      this.#held.delete(head);
      if (chain) this.#context.used(chain, at + 4);
    }
    this.#used = index;
  }

  #compareSome(): void {
    const held = [...this.#held.values()];
    for (let n = 0; n < Math.min(COMPARED, held.length); n++) this.#compareOne(held[this.#compare++ % held.length] as Held, 'while the device had it', false);
  }

  intact(why: string): void {
    for (const held of this.#held.values()) this.#compareOne(held, why, true);
  }

  #compareOne({ head, slots }: Held, why: string, withdrawn: boolean): void {
    const { memory, findings, queue } = this.#context;
    for (const { slot, bytes } of slots) {
      const now = memory.copy(this.setup.desc + 16 * slot, 16);
      // Another thread's device may have given it back by now.
      if (!this.#context.exact && !this.#stillHeld(head)) return;
      findings.check(withdrawn ? 'init.16' : 'init.15', `queue ${queue}: descriptor ${slot} ${why}`, now, bytes);
    }
  }

  #stillHeld(head: number): boolean {
    this.served();
    return this.#held.has(head);
  }
}
