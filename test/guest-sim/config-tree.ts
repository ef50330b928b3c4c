// A PCI hierarchy in a few lines, for enumeration tests: functions are 4 KiB of bytes with a mask of writable bits, a configuration access goes where
// the bridges' bus numbers send it. Nothing but configuration space exists.

import type { BusCounts, GuestBus, PlatformDescription } from '#core/guest-bus';
import { GuestMemory } from '#core/guest-memory';
import { IntxLines, PendingVectors } from '#core/interrupts';

export const PLATFORM: PlatformDescription = {
  ecam: { base: 0xb000_0000, firstBus: 0, lastBus: 255 },
  memory32: { base: 0xc000_0000, size: 0x3e00_0000 },
  memory64: { base: 2 ** 40, size: 2 ** 40 },
  io: { base: 0x1000, size: 0xf000 },
  msiAddress: 0xfee0_0000,
  intxVectors: [0x20, 0x21, 0x22, 0x23],
};

export class TreeFunction {
  readonly bytes = new Uint8Array(4096);
  readonly mask = new Uint8Array(4096);
  /** For a bridge: what lies behind it, by device and function number. */
  readonly behind: Map<number, TreeFunction> | undefined;
  readonly #view = new DataView(this.bytes.buffer);
  readonly #masks = new DataView(this.mask.buffer);

  constructor(kind: 'device' | 'bridge', id = 0x1234_8086) {
    this.set(0, 4, id);
    this.set(0x0e, 1, kind === 'bridge' ? 1 : 0);
    this.allow(4, 2, 0x0407);
    if (kind === 'bridge') {
      this.behind = new Map();
      this.allow(0x18, 4, 0x00ffffff);
      this.allow(0x1c, 2, 0xf0f0);
      this.allow(0x20, 4, 0xfff0fff0);
      this.set(0x24, 4, 0x00010001);
      this.allow(0x24, 4, 0xfff0fff0);
      for (const at of [0x28, 0x2c, 0x30]) this.allow(at, 4, 0xffffffff);
    }
  }

  set(at: number, size: number, value: number): this {
    for (let i = 0; i < size; i++) this.bytes[at + i] = Math.floor(value / 256 ** i) & 0xff;
    return this;
  }

  allow(at: number, size: number, mask: number): this {
    for (let i = 0; i < size; i++) this.mask[at + i] = Math.floor(mask / 256 ** i) & 0xff;
    return this;
  }

  get(at: number, size: number): number {
    return size === 4 ? this.#view.getUint32(at, true) : size === 2 ? this.#view.getUint16(at, true) : (this.bytes[at] as number);
  }

  bar(at: number, size: number, flags: 0 | 1 | 4 | 12): this {
    this.set(at, 4, flags);
    this.#masks.setUint32(at, flags === 1 ? (0xffff_fffc & -size) >>> 0 : size >= 2 ** 32 ? 0 : -size >>> 0, true);
    if (flags >= 4) this.#masks.setUint32(at + 4, size >= 2 ** 32 ? -(size / 2 ** 32) >>> 0 : 0xffffffff, true);
    return this;
  }

  /** Chains a capability of `size` bytes at `at`. */
  capability(id: number, at: number, next = 0): this {
    this.bytes[6] = (this.bytes[6] as number) | 0x10;
    if (this.bytes[0x34] === 0) this.bytes[0x34] = at;
    return this.set(at, 2, id | (next << 8));
  }

  extended(id: number, at: number, next = 0): this {
    return this.set(at, 4, id | 0x10000 | (next * 2 ** 20));
  }
}

export class TreeBus implements GuestBus {
  readonly platform = PLATFORM;
  readonly memory: GuestMemory;
  readonly vectors = new PendingVectors();
  readonly lines = new IntxLines();
  readonly counts: BusCounts = { exits: 0, fastKicks: 0, fastKickWakes: 0, halts: 0 };
  readonly root: Map<number, TreeFunction>;
  accesses = 0;
  time = 0;
  /** Overrides every read, for fabrics that lie. */
  lie: ((address: number, size: number) => number) | undefined;
  #port = 0;

  constructor(root: Map<number, TreeFunction>, ram = 4096) {
    this.root = root;
    this.memory = new GuestMemory([{ base: 0, size: ram }]);
  }

  #find(rid: number): TreeFunction | undefined {
    let level = this.root;
    let number = 0;
    const bus = rid >> 8;
    for (;;) {
      if (bus === number) return level.get(rid & 0xff);
      let found: TreeFunction | undefined;
      for (const fn of level.values()) if (fn.behind && bus >= fn.get(0x19, 1) && bus <= fn.get(0x1a, 1) && fn.get(0x19, 1) > number) found = fn;
      if (!found?.behind) return undefined;
      number = found.get(0x19, 1);
      // A bus within the range that is nobody's secondary: virtual functions there belong to the bridge's own bus.
      if (bus !== number && [...found.behind.values()].every((f) => !f.behind)) return found.behind.get((bus - number) * 256 + (rid & 0xff));
      level = found.behind;
    }
  }

  #read(rid: number, offset: number, size: number): number {
    this.accesses++;
    if (offset % size !== 0) throw new Error(`unaligned configuration read of ${size} at ${offset}`);
    return this.#find(rid)?.get(offset, size) ?? 2 ** (8 * size) - 1;
  }

  #write(rid: number, offset: number, size: number, value: number): void {
    this.accesses++;
    if (offset % size !== 0) throw new Error(`unaligned configuration write of ${size} at ${offset}`);
    const fn = this.#find(rid);
    for (let i = 0; fn && i < size; i++) {
      const mask = fn.mask[offset + i] as number;
      fn.bytes[offset + i] = ((fn.bytes[offset + i] as number) & ~mask) | (Math.floor(value / 256 ** i) & mask);
    }
  }

  mmioRead(address: number, size: 1 | 2 | 4): number {
    if (this.lie) return this.lie(address, size);
    const at = address - PLATFORM.ecam.base;
    return at >= 0 && at < 2 ** 28 ? this.#read(at >>> 12, at & 0xfff, size) : 2 ** (8 * size) - 1;
  }

  mmioWrite(address: number, size: 1 | 2 | 4, value: number): void {
    const at = address - PLATFORM.ecam.base;
    if (at >= 0 && at < 2 ** 28) this.#write(at >>> 12, at & 0xfff, size, value);
  }

  ioRead(port: number, size: 1 | 2 | 4): number {
    return port >= 0xcfc && port < 0xd00 && this.#port >= 2 ** 31
      ? this.#read((this.#port >>> 8) & 0xffff, (this.#port & 0xfc) + (port & 3), size)
      : 2 ** (8 * size) - 1;
  }

  ioWrite(port: number, size: 1 | 2 | 4, value: number): void {
    if (port === 0xcf8 && size === 4) this.#port = value;
    else if (port >= 0xcfc && port < 0xd00) this.#write((this.#port >>> 8) & 0xffff, (this.#port & 0xfc) + (port & 3), size, value);
  }

  now(): number {
    return this.time;
  }

  waitForInterrupt(): boolean {
    return false;
  }

  async waitForInterruptAsync(): Promise<boolean> {
    return false;
  }
}
