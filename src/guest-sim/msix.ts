// MSI-X as a driver sets it up (PCI 3.0 6.8.2): find the table in its BAR, fill entries with the platform's message address and a vector, unmask,
// enable. Vectors come from the guest CPU's own space and are handed back on disable.

import type { GuestBus } from '#core/guest-bus';
import type { ConfigAccess } from './pci-config.ts';
import { CAP_MSIX, CFG, COMMAND_INTX_DISABLE, MSIX_CONTROL, MSIX_ENABLE, MSIX_ENTRY_SIZE, MSIX_FUNCTION_MASK, MSIX_TABLE } from './pci-constants.ts';
import type { PciDevice } from './pci-enumerate.ts';

/** The interrupt vectors a guest may hand out: those above the CPU's exceptions and below the ones a PC keeps for itself. */
const FIRST_VECTOR = 0x30;
const LAST_VECTOR = 0xef;

/** Who is called for which vector. */
export class VectorSpace {
  readonly handlers: ((() => void) | undefined)[] = new Array(256).fill(undefined);
  readonly #reserved: ReadonlySet<number>;
  readonly #shares: boolean;
  readonly #users: (() => void)[][] = Array.from({ length: 256 }, () => []);

  /**
   * @param reserved vectors the platform uses itself (its INTx vectors)
   * @param use 'shared': when no vector is free, one of the least used is given to one more, as handlers only look whether there is something to do
   */
  constructor(reserved: readonly number[] = [], use: 'exclusive' | 'shared' = 'exclusive') {
    this.#reserved = new Set(reserved);
    this.#shares = use === 'shared';
  }

  /** A vector, or -1 when all are taken. */
  allocate(handler: () => void): number {
    let best = -1;
    for (let v = FIRST_VECTOR; v <= LAST_VECTOR; v++) {
      if (this.#reserved.has(v)) continue;
      if (best < 0 || this.#usersOf(v).length < this.#usersOf(best).length) best = v;
    }
    if (this.#usersOf(best).length > 0 && !this.#shares) return -1;
    this.#usersOf(best).push(handler);
    this.#bind(best);
    return best;
  }

  release(vector: number, handler: () => void): void {
    const users = this.#usersOf(vector);
    const at = users.indexOf(handler);
    if (at >= 0) users.splice(at, 1);
    this.#bind(vector);
  }

  #usersOf(vector: number): (() => void)[] {
    return this.#users[vector] as (() => void)[];
  }

  #bind(vector: number): void {
    const users = this.#usersOf(vector);
    const all = (): void => {
      for (const user of users) user();
    };
    this.handlers[vector] = users.length < 2 ? users[0] : all;
  }
}

export class Msix {
  readonly entries: number;
  readonly #bus: GuestBus;
  readonly #config: ConfigAccess;
  readonly #rid: number;
  readonly #at: number;
  readonly #table: number;
  readonly #vectors: VectorSpace;
  readonly #programmed = new Map<number, { readonly vector: number; readonly handler: () => void }>();

  private constructor(bus: GuestBus, config: ConfigAccess, rid: number, at: number, entries: number, table: number, vectors: VectorSpace) {
    this.#bus = bus;
    this.#config = config;
    this.#rid = rid;
    this.#at = at;
    this.entries = entries;
    this.#table = table;
    this.#vectors = vectors;
  }

  /** The function's MSI-X, or undefined when it has none or its table's BAR has no address. */
  static find(bus: GuestBus, config: ConfigAccess, device: PciDevice, vectors: VectorSpace): Msix | undefined {
    const at = device.capabilities.find((c) => c.id === CAP_MSIX)?.offset;
    if (at === undefined) return undefined;
    const entries = (config.read(device.rid, at + MSIX_CONTROL, 2) & 0x7ff) + 1;
    const where = config.read(device.rid, at + MSIX_TABLE, 4);
    const bar = device.bars.find((b) => b.index === (where & 7) && !b.io);
    const offset = (where & ~7) >>> 0;
    if (bar?.address === undefined || offset + entries * MSIX_ENTRY_SIZE > bar.size) return undefined;
    return new Msix(bus, config, device.rid, at, entries, bar.address + offset, vectors);
  }

  /** Enabled with every vector of the function held back, so that entries can be written; INTx off (PCI 3.0 6.8.3.3 would silence it anyway). */
  begin(): void {
    this.#control(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    const command = this.#config.read(this.#rid, CFG.COMMAND, 2);
    this.#config.write(this.#rid, CFG.COMMAND, 2, command | COMMAND_INTX_DISABLE);
  }

  /** Routes table entry `entry` to `handler`. False when the CPU is out of vectors. */
  route(entry: number, handler: () => void): boolean {
    if (entry >= this.entries) return false;
    const vector = this.#vectors.allocate(handler);
    if (vector < 0) return false;
    const at = this.#table + entry * MSIX_ENTRY_SIZE;
    const address = this.#bus.platform.msiAddress;
    this.#bus.mmioWrite(at, 4, address % 2 ** 32);
    this.#bus.mmioWrite(at + 4, 4, Math.floor(address / 2 ** 32));
    this.#bus.mmioWrite(at + 8, 4, vector);
    this.#bus.mmioWrite(at + 12, 4, 0);
    this.#programmed.set(entry, { vector, handler });
    return true;
  }

  mask(entry: number): void {
    this.#bus.mmioWrite(this.#table + entry * MSIX_ENTRY_SIZE + 12, 4, 1);
  }

  unmask(entry: number): void {
    this.#bus.mmioWrite(this.#table + entry * MSIX_ENTRY_SIZE + 12, 4, 0);
  }

  /** Lets the messages flow. */
  finish(): void {
    this.#control(MSIX_ENABLE);
  }

  /** Back to INTx; vectors go back to the CPU. */
  disable(): void {
    for (const [entry, { vector, handler }] of this.#programmed) {
      this.mask(entry);
      this.#vectors.release(vector, handler);
    }
    this.#programmed.clear();
    this.#control(0);
    const command = this.#config.read(this.#rid, CFG.COMMAND, 2);
    this.#config.write(this.#rid, CFG.COMMAND, 2, command & ~COMMAND_INTX_DISABLE);
  }

  #control(bits: number): void {
    const kept = this.#config.read(this.#rid, this.#at + MSIX_CONTROL, 2) & ~(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    this.#config.write(this.#rid, this.#at + MSIX_CONTROL, 2, kept | bits);
  }
}
