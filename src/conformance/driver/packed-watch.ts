// Follows a packed virtqueue (virtio 1.4 2.8) in the driver's memory and judges the driver's part of it: lists of descriptors, indirect tables, what is left alone, notifications.

import { FEATURE } from '../features.ts';
import { judgeShape, type RingContext, type RingWatch } from './ring-watch.ts';
import { type Chain, chainOf, type Piece, type QueueSetup } from './view.ts';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 1 << 7;
const USED = 1 << 15;
const NOTHING = new Uint8Array(16);

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, i) => byte === b[i]);

export class PackedWatch implements RingWatch {
  readonly setup: QueueSetup;
  exposed = 0;
  readonly #context: RingContext;
  readonly #inOrder: boolean;
  /** Where the driver and the device go on, and their wrap counters. */
  #next: number;
  #nextWrap: boolean;
  #used: number;
  #usedWrap: boolean;
  /** By buffer id, in the order they were made available. */
  readonly #held = new Map<number, Chain>();
  #slots = 0;
  /** The ring as it was made available; compared where the device has not written since. */
  readonly #shadow: Uint8Array;
  #compare = 0;
  /** Buffers of more than one descriptor were seen. */
  #lists = false;

  constructor(context: RingContext, setup: QueueSetup) {
    this.#context = context;
    this.setup = setup;
    this.#inOrder = context.features.has(FEATURE.IN_ORDER);
    const from = setup.from ?? 0x8000;
    this.#next = from & 0x7fff;
    this.#nextWrap = (from & 0x8000) !== 0;
    const used = setup.usedFrom ?? from;
    this.#used = used & 0x7fff;
    this.#usedWrap = (used & 0x8000) !== 0;
    this.#shadow = new Uint8Array(16 * setup.size);
    context.findings.check(
      'packed.1',
      `queue ${context.queue}: alignment of its three parts`,
      [setup.desc % 16, setup.driver % 4, setup.device % 4],
      [0, 0, 0],
    );
  }

  get next(): number {
    return this.#next;
  }

  get inFlight(): number {
    return this.#held.size;
  }

  #flags(slot: number): number {
    return this.#context.memory.u16(this.setup.desc + 16 * slot + 14);
  }

  #available(flags: number, wrap: boolean): boolean {
    return ((flags & AVAIL) !== 0) === wrap && ((flags & USED) !== 0) !== wrap;
  }

  look(): void {
    if (!this.#context.exact) {
      this.#glance();
      return;
    }
    this.#compareSome();
    // Bounded: no more than the ring holds.
    for (let n = 0; n <= this.setup.size; n++) if (!this.#available(this.#flags(this.#next), this.#nextWrap) || !this.#takeList()) return;
  }

  /**
   * A packed ring keeps no index: who has not seen every turn of it cannot follow it. But a descriptor whose two bits differ is with the device, if every buffer is one descriptor and each
   * is marked when it comes back: neither holds once there is a list (whose tail nobody marks), which a driver
   * without INDIRECT_DESC will have, or with IN_ORDER.
   */
  #glance(): void {
    const { desc, size } = this.setup;
    const { memory, features } = this.#context;
    const ring = memory.copy(desc, 16 * size);
    if (this.#inOrder || this.#lists || !features.has(FEATURE.INDIRECT_DESC) || ring.length < 16 * size) return;
    for (let slot = 0; slot < size; slot++) if (((ring[16 * slot + 14] as number) & NEXT) !== 0) this.#lists = true;
    for (let slot = 0; slot < size && !this.#lists; slot++) {
      const bytes = ring.subarray(16 * slot, 16 * slot + 16);
      const shadow = this.#shadow.subarray(16 * slot, 16 * slot + 16);
      const flags = (bytes[14] as number) | ((bytes[15] as number) << 8);
      const withDevice = ((flags & AVAIL) !== 0) !== ((flags & USED) !== 0);
      if (withDevice && !same(bytes, shadow)) this.#takeIfStill(slot, bytes);
      shadow.set(withDevice ? bytes : NOTHING);
    }
  }

  /** What was read counts if the device still has the buffer afterwards. */
  #takeIfStill(slot: number, bytes: Uint8Array): void {
    const { memory, findings } = this.#context;
    const at = this.setup.desc + 16 * slot;
    const flags = (bytes[14] as number) | ((bytes[15] as number) << 8);
    const pieces: Piece[] = [];
    findings.hold();
    this.#descriptor(at, flags, pieces);
    this.#judge(chainOf(pieces, 1));
    findings.settle(same(memory.copy(at, 16), bytes));
  }

  /** False: it cannot be followed. */
  #takeList(): boolean {
    const { memory, findings, queue } = this.#context;
    const { desc, size } = this.setup;
    const pieces: Piece[] = [];
    let slot = this.#next;
    let wrap = this.#nextWrap;
    let slots = 0;
    for (;;) {
      const at = desc + 16 * slot;
      const flags = this.#flags(slot);
      const fits = this.#slots + slots < size;
      findings.check('packed.14', `queue ${queue}: a list of ${slots + 1} descriptors in a queue of ${size}`, slots < size, true);
      for (const clause of ['packed.9', 'packed.17'] as const)
        findings.check(clause, `queue ${queue}: slot ${slot}, made available, had been given back`, fits, true);
      if (!fits || slots >= size) return false;
      const whole = this.#available(flags, wrap);
      for (const clause of ['packed.16', 'packed.18'] as const)
        findings.check(clause, `queue ${queue}: descriptor ${slots} of a list whose head can be seen is there`, whole, true);
      if (!whole) return false;
      slots++;
      const next = (flags & NEXT) !== 0;
      if ((flags & INDIRECT) !== 0) findings.check('packed.24', `queue ${queue}: INDIRECT in a list of descriptors`, slots > 1 || next, false);
      this.#descriptor(at, flags, pieces);
      this.#shadow.set(memory.copy(at, 16), 16 * slot);
      if (++slot === size) {
        slot = 0;
        wrap = !wrap;
      }
      if (!next) break;
      if (slots === 1) findings.check('packed.24', `queue ${queue}: INDIRECT in a list of descriptors`, false, (flags & INDIRECT) !== 0);
    }
    // 2.8.6: the buffer's id is its last descriptor's.
    const last = (slot + size - 1) % size;
    const id = memory.u16(desc + 16 * last + 12);
    const chain = chainOf(pieces, slots);
    this.#held.delete(id);
    this.#held.set(id, chain);
    this.#slots += slots;
    this.#next = slot;
    this.#nextWrap = wrap;
    this.#judge(chain);
    return true;
  }

  /** The buffer, or its part, that a descriptor is: itself, or what its table lists. */
  #descriptor(at: number, flags: number, pieces: Piece[]): void {
    const { memory, findings, features, queue } = this.#context;
    const length = memory.u32(at + 8);
    if ((flags & INDIRECT) !== 0) {
      findings.check('packed.21', `queue ${queue}: INDIRECT in a descriptor, negotiated`, features.has(FEATURE.INDIRECT_DESC), true);
      this.#table(memory.u64(at), length, pieces);
    } else pieces.push({ address: memory.u64(at), length, writable: (flags & WRITE) !== 0 });
  }

  #judge(chain: Chain): void {
    this.exposed++;
    judgeShape(this.#context, chain, ['vq.5', 'packed.15']);
    this.#context.chain(chain);
  }

  #table(table: number, length: number, pieces: Piece[]): void {
    const { memory, findings, queue } = this.#context;
    const entries = Math.min(Math.floor(length / 16), 0x8000);
    for (let i = 0; i < entries; i++) {
      const at = table + 16 * i;
      const flags = memory.u16(at + 14);
      findings.check('packed.22', `queue ${queue}: flags beside WRITE in an indirect table`, flags & (NEXT | INDIRECT), 0);
      pieces.push({ address: memory.u64(at), length: memory.u32(at + 8), writable: (flags & WRITE) !== 0 });
    }
  }

  notified(position: number | undefined): void {
    if (position === undefined || !this.#context.exact) return;
    const { findings, queue } = this.#context;
    const expected = this.#next | (this.#nextWrap ? 0x8000 : 0);
    for (const clause of ['packed.11', 'notify.D2'] as const)
      findings.check(clause, `queue ${queue}: next slot and wrap counter told by a notification`, position, expected);
  }

  quiet(): void {}

  served(): void {
    const { memory } = this.#context;
    const { desc, size } = this.setup;
    for (let n = 0; n <= size && this.#held.size > 0; n++) {
      const flags = this.#flags(this.#used);
      if (((flags & AVAIL) !== 0) !== this.#usedWrap || ((flags & USED) !== 0) !== this.#usedWrap) return;
      const id = memory.u16(desc + 16 * this.#used + 12);
      if (!this.#held.has(id)) return;
      // 2.8.7: one used descriptor may stand for a run of buffers, which the order tells.
      let skip = 0;
      for (const [held, chain] of this.#held) {
        if (held !== id && !this.#inOrder) continue;
        skip += chain.slots;
        this.#held.delete(held);
        if (held !== id) continue;
        this.#context.used(chain, desc + 16 * this.#used + 8);
        break;
      }
      this.#slots -= skip;
      this.#used += skip;
      if (this.#used >= size) {
        this.#used -= size;
        this.#usedWrap = !this.#usedWrap;
      }
    }
  }

  #compareSome(): void {
    for (let n = 0; n < Math.min(64, this.#slots); n++) this.#compareOne(this.#compare++ % this.#slots, ['packed.10', 'init.15'], 'while the device had it');
  }

  intact(why: string): void {
    for (let i = 0; i < this.#slots; i++) this.#compareOne(i, ['init.16'], why);
  }

  /** The `i`th slot from the one the device uses next: those it has not written. */
  #compareOne(i: number, clauses: readonly string[], why: string): void {
    const { memory, findings, queue } = this.#context;
    const { desc, size } = this.setup;
    const slot = (this.#used + i) % size;
    const now = memory.copy(desc + 16 * slot, 16);
    // The device may have used this one, and one before it not shown yet.
    const flags = this.#flags(slot);
    if (((flags & AVAIL) !== 0) === ((flags & USED) !== 0)) return;
    for (const clause of clauses) findings.check(clause, `queue ${queue}: slot ${slot} ${why}`, now, this.#shadow.subarray(16 * slot, 16 * slot + 16));
  }
}
