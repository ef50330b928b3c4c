// Frames on their way between a container and the bridge of its guest: equal slots of guest memory used in turn, a long frame in several that follow each other, taken out in the order they were put in.

import type { GuestArena } from './arena.ts';
import type { TransmitOffload } from './net-transmit.ts';

/** A plain frame of Ethernet takes one slot. */
export const SLOT_BYTES = 2048;

// What is known of a frame, by its turn.
const OFFSET = 0;
const LENGTH = 1;
/** Slots that come free with it: its own, and those skipped before it. */
const SLOTS = 2;
const FLAGS = 3;
const GSO_TYPE = 4;
const HEADER_LENGTH = 5;
const GSO_SIZE = 6;
const CSUM_START = 7;
const CSUM_OFFSET = 8;
const FIELDS = 9;

export class FrameRing {
  readonly slots: number;
  readonly #start: number;
  readonly #fields: Int32Array;
  /** Slots given out and taken back so far, and frames; both wrap. */
  #slotHead = 0;
  #slotTail = 0;
  #head = 0;
  #tail = 0;
  /** The first slot that `reserve` found, and how many were left out before it. */
  #reserved = 0;
  #skipped = 0;

  /** @param slots a power of two */
  constructor(arena: GuestArena, slots: number) {
    this.slots = slots;
    this.#start = arena.allocate(slots * SLOT_BYTES);
    this.#fields = new Int32Array(slots * FIELDS);
  }

  get frames(): number {
    return (this.#head - this.#tail) | 0;
  }

  /** Where to write a frame of `length` bytes, or -1. `add` takes it from there. */
  reserve(length: number): number {
    const count = (length + SLOT_BYTES - 1) >>> 11;
    let at = this.#slotHead & (this.slots - 1);
    if (at + count > this.slots && this.#slotHead === this.#slotTail) {
      // Empty: so a frame fits here that would not behind what is left to the end.
      this.#slotHead = 0;
      this.#slotTail = 0;
      at = 0;
    }
    // It lies in one piece: too little before the end is skipped.
    const skipped = at + count > this.slots ? this.slots - at : 0;
    if (((this.#slotHead - this.#slotTail) | 0) + skipped + count > this.slots) return -1;
    this.#skipped = skipped;
    this.#reserved = (at + skipped) & (this.slots - 1);
    return this.#start + this.#reserved * SLOT_BYTES;
  }

  /** Number of the slot that `reserve` points at. */
  get reserved(): number {
    return this.#reserved;
  }

  /** Puts the frame in that was just written at `reserve(length)`. */
  add(length: number, offload: TransmitOffload | undefined): void {
    const count = this.#skipped + ((length + SLOT_BYTES - 1) >>> 11);
    this.#slotHead = (this.#slotHead + count) | 0;
    const fields = this.#fields;
    const at = (this.#head++ & (this.slots - 1)) * FIELDS;
    this.#head |= 0;
    fields[at + OFFSET] = this.#start + this.#reserved * SLOT_BYTES;
    fields[at + LENGTH] = length;
    fields[at + SLOTS] = count;
    fields[at + FLAGS] = offload === undefined ? 0 : offload.flags;
    fields[at + GSO_TYPE] = offload === undefined ? 0 : offload.gsoType;
    fields[at + HEADER_LENGTH] = offload === undefined ? 0 : offload.headerLength;
    fields[at + GSO_SIZE] = offload === undefined ? 0 : offload.gsoSize;
    fields[at + CSUM_START] = offload === undefined ? 0 : offload.csumStart;
    fields[at + CSUM_OFFSET] = offload === undefined ? 0 : offload.csumOffset;
  }

  /** Of the oldest frame, while there is one: where it lies, how long it is, and into `offload` what is still to be done to it. */
  get firstOffset(): number {
    return this.#fields[(this.#tail & (this.slots - 1)) * FIELDS + OFFSET] as number;
  }

  get firstLength(): number {
    return this.#fields[(this.#tail & (this.slots - 1)) * FIELDS + LENGTH] as number;
  }

  firstOffload(offload: TransmitOffload): void {
    const fields = this.#fields;
    const at = (this.#tail & (this.slots - 1)) * FIELDS;
    offload.flags = fields[at + FLAGS] as number;
    offload.gsoType = fields[at + GSO_TYPE] as number;
    offload.headerLength = fields[at + HEADER_LENGTH] as number;
    offload.gsoSize = fields[at + GSO_SIZE] as number;
    offload.csumStart = fields[at + CSUM_START] as number;
    offload.csumOffset = fields[at + CSUM_OFFSET] as number;
  }

  /** Takes the oldest frame out. */
  drop(): void {
    const at = (this.#tail++ & (this.slots - 1)) * FIELDS;
    this.#tail |= 0;
    this.#slotTail = (this.#slotTail + (this.#fields[at + SLOTS] as number)) | 0;
  }
}
