// Root control and status (PCIe 4.0 7.5.3.12-7.5.3.14, 6.1.6): PME messages from below, one shown at a time, the others waiting; and which error messages
// become system errors. Left out: CRS software visibility (nothing here answers CRS).

import type { CapabilityArea } from './capability.ts';

const CONTROL = 28;
const STATUS = 32;
const PME_INTERRUPT = 8;
const PME_STATUS = 0x1_0000;
const PME_PENDING = 0x2_0000;
const SYSTEM_ERRORS = 7;

export class RootControl {
  readonly #area: CapabilityArea;
  /** Requesters whose PME waits behind the one shown; each at most once, so at most one per function. */
  readonly #waiting = new Set<number>();

  constructor(area: CapabilityArea) {
    this.#area = area;
    area.permitWrite(CONTROL, 2, SYSTEM_ERRORS | PME_INTERRUPT);
    area.permitClear(STATUS, 4, PME_STATUS);
  }

  /** Bits: 1 correctable, 2 non-fatal, 4 fatal messages are to raise a system error. */
  get systemErrors(): number {
    return this.#area.get16(CONTROL) & SYSTEM_ERRORS;
  }

  get interrupting(): boolean {
    return (this.#area.get16(CONTROL) & PME_INTERRUPT) !== 0 && (this.#area.get32(STATUS) & PME_STATUS) !== 0;
  }

  receive(requester: number): void {
    const status = this.#area.get32(STATUS);
    if ((status & PME_STATUS) === 0) {
      this.#area.set32(STATUS, PME_STATUS | requester);
      return;
    }
    if ((status & 0xffff) === requester) return;
    this.#waiting.add(requester);
    this.#area.set32(STATUS, status | PME_PENDING);
  }

  /** Software cleared PME Status: the next one takes its place (7.5.3.14). */
  statusWritten(old: number): void {
    if ((old & PME_STATUS) === 0 || (this.#area.get32(STATUS) & PME_STATUS) !== 0) return;
    const [next] = this.#waiting;
    if (next === undefined) return;
    this.#waiting.delete(next);
    this.#area.set32(STATUS, PME_STATUS | next | (this.#waiting.size > 0 ? PME_PENDING : 0));
  }

  reset(): void {
    this.#waiting.clear();
  }

  save(): number[] {
    return [...this.#waiting];
  }

  restore(waiting: readonly number[]): void {
    this.#waiting.clear();
    for (const requester of waiting) this.#waiting.add(requester & 0xffff);
  }
}
