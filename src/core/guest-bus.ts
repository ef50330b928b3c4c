// What a guest's CPU can do: load and store, port I/O, take interrupts, halt. A guest program is written to this and runs unchanged on the machine's
// own thread (`LocalGuestBus`) or on a thread of its own (`openGuestBus` in exit-channel.ts).

import type { Clock, Nanos } from './clock.ts';
import type { GuestMemory } from './guest-memory.ts';
import type { IntxLines, PendingVectors } from './interrupts.ts';
import type { AccessSize } from './region.ts';

/** `size` bytes of an address space from `base`. */
export interface AddressRange {
  readonly base: number;
  readonly size: number;
}

/** What firmware tables would tell an operating system. Plain cloneable data. */
export interface PlatformDescription {
  /** Memory-mapped configuration space: 1 MiB a bus from `base`, which is where `firstBus` starts. */
  readonly ecam: { readonly base: number; readonly firstBus: number; readonly lastBus: number };
  /** Where BARs may be placed: 32-bit memory, 64-bit prefetchable memory, I/O. */
  readonly memory32: AddressRange;
  readonly memory64: AddressRange;
  readonly io: AddressRange;
  /** A 32-bit write of vector v (low 8 bits of the data) in this range makes v pending. */
  readonly msiAddress: number;
  /** The vector that each of the root's INTA..INTD becomes pending as, when the line rises. Level: look at `lines` before going back to sleep. */
  readonly intxVectors: readonly [number, number, number, number];
}

/** What a guest's accesses cost so far. An exit is an access that the machine's thread served; a fast kick rang a doorbell with no exit. */
export interface BusCounts {
  exits: number;
  fastKicks: number;
  /** Fast kicks that found the data plane asleep. */
  fastKickWakes: number;
  /** Times the CPU went to sleep for want of interrupts. */
  halts: number;
}

export interface GuestBus {
  readonly platform: PlatformDescription;
  readonly memory: GuestMemory;
  /** Pending interrupt vectors; the guest takes them. */
  readonly vectors: PendingVectors;
  /** Levels of INTA..INTD. */
  readonly lines: IntxLines;
  readonly counts: BusCounts;
  /** Loads of unclaimed addresses are all ones, stores to them are dropped. 8 bytes: two accesses of 4, low half first. */
  mmioRead(address: number, size: AccessSize): number;
  mmioWrite(address: number, size: AccessSize, value: number): void;
  ioRead(port: number, size: AccessSize): number;
  ioWrite(port: number, size: AccessSize, value: number): void;
  /** Nanoseconds; moves with the machine's clock, or with real time on a thread of its own. */
  now(): Nanos;
  /**
   * Halts until a vector is pending or `timeout` milliseconds have passed; says whether one is. On the machine's own thread it cannot halt, as nothing else would run: it
   * answers at once.
   */
  waitForInterrupt(timeout: number): boolean;
  /** The same without blocking the thread. */
  waitForInterruptAsync(timeout: number): Promise<boolean>;
}

/** What a bus access reaches: the machine. Never throws, whatever is asked. */
export interface BusTarget {
  mmioRead(address: number, size: AccessSize): number;
  mmioWrite(address: number, size: AccessSize, value: number): void;
  ioRead(port: number, size: AccessSize): number;
  ioWrite(port: number, size: AccessSize, value: number): void;
}

/** A guest on the machine's own thread. */
export class LocalGuestBus implements GuestBus {
  readonly platform: PlatformDescription;
  readonly memory: GuestMemory;
  readonly vectors: PendingVectors;
  readonly lines: IntxLines;
  readonly counts: BusCounts = { exits: 0, fastKicks: 0, fastKickWakes: 0, halts: 0 };
  readonly #target: BusTarget;
  readonly #clock: Clock;

  constructor(parts: {
    readonly platform: PlatformDescription;
    readonly memory: GuestMemory;
    readonly vectors: PendingVectors;
    readonly lines: IntxLines;
    readonly target: BusTarget;
    readonly clock: Clock;
  }) {
    this.platform = parts.platform;
    this.memory = parts.memory;
    this.vectors = parts.vectors;
    this.lines = parts.lines;
    this.#target = parts.target;
    this.#clock = parts.clock;
  }

  mmioRead(address: number, size: AccessSize): number {
    this.counts.exits++;
    return this.#target.mmioRead(address, size);
  }

  mmioWrite(address: number, size: AccessSize, value: number): void {
    this.counts.exits++;
    this.#target.mmioWrite(address, size, value);
  }

  ioRead(port: number, size: AccessSize): number {
    this.counts.exits++;
    return this.#target.ioRead(port, size);
  }

  ioWrite(port: number, size: AccessSize, value: number): void {
    this.counts.exits++;
    this.#target.ioWrite(port, size, value);
  }

  now(): Nanos {
    return this.#clock.now();
  }

  waitForInterrupt(_timeout: number): boolean {
    return this.vectors.any;
  }

  async waitForInterruptAsync(timeout: number): Promise<boolean> {
    const ticket = this.vectors.bell.ticket;
    if (this.vectors.any) return true;
    this.counts.halts++;
    await this.vectors.bell.waitAsync(ticket, timeout);
    return this.vectors.any;
  }
}
