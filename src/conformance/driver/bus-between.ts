// A bus between a guest and the one it would have otherwise. Subclasses say what becomes of accesses; everything else is the other bus's.

import type { BusCounts, GuestBus, PlatformDescription } from '#core/guest-bus';
import type { GuestMemory } from '#core/guest-memory';
import type { IntxLines, PendingVectors } from '#core/interrupts';
import type { AccessSize } from './pci-places.ts';

export abstract class BusBetween implements GuestBus {
  protected readonly below: GuestBus;

  constructor(below: GuestBus) {
    this.below = below;
  }

  abstract mmioRead(address: number, size: AccessSize): number;
  abstract mmioWrite(address: number, size: AccessSize, value: number): void;
  abstract ioRead(port: number, size: AccessSize): number;
  abstract ioWrite(port: number, size: AccessSize, value: number): void;

  get platform(): PlatformDescription {
    return this.below.platform;
  }

  get memory(): GuestMemory {
    return this.below.memory;
  }

  get vectors(): PendingVectors {
    return this.below.vectors;
  }

  get lines(): IntxLines {
    return this.below.lines;
  }

  get counts(): BusCounts {
    return this.below.counts;
  }

  now(): number {
    return this.below.now();
  }

  waitForInterrupt(timeout: number): boolean {
    return this.below.waitForInterrupt(timeout);
  }

  waitForInterruptAsync(timeout: number): Promise<boolean> {
    return this.below.waitForInterruptAsync(timeout);
  }
}
