// What a judge of drivers needs, whatever the driver and however its device is reached: a look into the driver's memory, and to be told what was agreed and when something happened.
// A transport (PCI accesses, vhost-user messages) turns what it sees into calls of `DriverEvents`; `DriverJudge` takes them.

import type { FeatureBits } from '../features.ts';

/** The driver's memory, in the addresses it gives to the device. */
export interface DriverView {
  /** These bytes as they lie there, not a copy; undefined where there is no RAM for all of them. */
  bytes(address: number, length: number): Uint8Array | undefined;
}

export interface QueueSetup {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  /** Where a queue goes on that was used before (vhost-user): next index, or slot with the wrap counter as bit 15. Default: at the start. */
  readonly from?: number;
  /** The same of used buffers. Default: as `from`, nothing in flight. */
  readonly usedFrom?: number;
}

/** What happened between driver and device, in order. */
export interface DriverEvents {
  /** The device was reset, or the connection is new: nothing holds any more. */
  reset(): void;
  /** `offered` undefined: not known, as where somebody else answers the driver. */
  negotiated(offered: FeatureBits | undefined, accepted: FeatureBits): void;
  /** The device configuration as the driver can read it; what is not there reads as zeros. */
  configured(bytes: Uint8Array): void;
  queueEnabled(queue: number, setup: QueueSetup): void;
  /** One queue was reset or taken away. */
  queueStopped(queue: number): void;
  /** DRIVER_OK, or what stands for it. */
  started(): void;
  suspended(on: boolean): void;
  /** Before the device acts on it. `width` in bytes, 0 for an eventfd, which carries nothing; then `value` is the queue. */
  notified(queue: number, value: number, width: number): void;
  /** Before and after the device was at work: rings are looked at. */
  look(): void;
  served(): void;
}

/** Little-endian numbers out of the driver's memory; where there is no RAM they are 0. */
export class DriverMemory {
  readonly view: DriverView;

  constructor(view: DriverView) {
    this.view = view;
  }

  u8(address: number): number {
    return this.view.bytes(address, 1)?.[0] ?? 0;
  }

  u16(address: number): number {
    const b = this.view.bytes(address, 2);
    return b === undefined ? 0 : (b[0] as number) | ((b[1] as number) << 8);
  }

  u32(address: number): number {
    const b = this.view.bytes(address, 4);
    return b === undefined ? 0 : ((b[0] as number) | ((b[1] as number) << 8) | ((b[2] as number) << 16) | ((b[3] as number) << 24)) >>> 0;
  }

  u64(address: number): number {
    return this.u32(address) + this.u32(address + 4) * 2 ** 32;
  }

  /** A copy; short where RAM ends. */
  copy(address: number, length: number): Uint8Array {
    return this.view.bytes(address, length)?.slice() ?? new Uint8Array(0);
  }
}

/** A piece of a buffer. */
export interface Piece {
  readonly address: number;
  readonly length: number;
  readonly writable: boolean;
}

/** A buffer that was made available. */
export interface Chain {
  readonly pieces: readonly Piece[];
  /** Descriptors of the ring it takes: its number of pieces, or 1 with an indirect table. */
  readonly slots: number;
  readonly readable: number;
  readonly writable: number;
}

export function chainOf(pieces: readonly Piece[], slots: number): Chain {
  let readable = 0;
  let writable = 0;
  for (const piece of pieces) {
    if (piece.writable) writable += piece.length;
    else readable += piece.length;
  }
  return { pieces, slots, readable, writable };
}

/** Up to `most` bytes of the pieces of one kind, in order. */
export function gather(memory: DriverMemory, chain: Chain, writable: boolean, most: number): Uint8Array {
  const parts: Uint8Array[] = [];
  let left = most;
  for (const piece of chain.pieces) {
    if (piece.writable !== writable || left === 0) continue;
    const part = memory.copy(piece.address, Math.min(left, piece.length));
    parts.push(part);
    left -= part.length;
    if (part.length === 0) break;
  }
  const out = new Uint8Array(most - left);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
