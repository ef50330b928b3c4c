// The seam between the physical function's engines and what makes eight pools of its queues (82576 7.10). The engines know descriptors, offloads and queues; which pools a frame is for is decided
// behind `PoolSwitch`, what virtual functions have of the physical one is in `virtual-functions.ts`. Pool p has the queues p and p + 8. All of it runs on the machine's thread, inside a register write or a segment's turn.

import type { Nanos } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import type { RegisterFile } from '#core/register-file';
import type { IGB_REGISTERS } from './registers.ts';

/** `source` of a frame that came from the network. */
export const WIRE = -1;
/** In a mask of destinations, beside the pools' bits 0 to 7: the network. */
export const TO_WIRE = 0x100;
/** In place of a mask: the frame is not sent; whose fault it was is in the registers already. */
export const SPOOFED = -1;

export interface PoolSwitch {
  /** Registers it keeps copies of have changed. */
  rebuild(): void;
  /** MRQC makes pools of the queues. Otherwise nothing else here is asked. */
  readonly on: boolean;
  /** Pools that get a copy of a frame from the network (WIRE) or from pool `source`; `length` without FCS, the first 18 octets of it are at `at` (22 with CTRL_EXT.EXT_VLAN). 0: none, `reason` says why. */
  receive(bytes: Uint8Array, at: number, length: number, source: number): number;
  readonly reason: number;
  /** What the last `receive` or `transmit` means for a copy: RPLOLR or VMOLR, RSS in the pool. */
  stripsVlan(pool: number): boolean;
  stripsCrc(pool: number): boolean;
  rssIn(pool: number): boolean;
  /** QDE: a full ring loses frames. */
  dropsWhenFull(queue: number): boolean;
  /** The tag (TCI) to insert by VMVIR or the descriptor, or -1. */
  tagFor(pool: number, vle: boolean, tci: number): number;
  /** What a pool sends is looked at. Otherwise all of it goes to the network. */
  judges(pool: number): boolean;
  /** Where a frame that `queue` sends goes, its header as it will be: pools and TO_WIRE, or SPOOFED. */
  transmit(bytes: Uint8Array, at: number, length: number, queue: number): number;
  /** The rate limiter: is the queue limited at all; may the queue send now; it has sent so many octets, FCS included; when it may next. */
  limits(queue: number): boolean;
  allowance(queue: number, now: Nanos): boolean;
  spent(queue: number, bytes: number): void;
  readonly nextAllowed: Nanos;
  /** Causes of ICR that came of frames (DOUTSYNC, SCE): raised, and cleared here, at the end of a turn, because an interrupt may run the guest. */
  causes: number;
  /** A queue's descriptors are none a driver would write (DTXCTL.MDP_EN, LVMMC). */
  misbehaved(queue: number): void;
}

/** The extended interrupt registers of which a VF has three bits. */
export type ExtendedName = 'EICS' | 'EIMS' | 'EIMC' | 'EIAC' | 'EIAM' | 'EICR';

/** What the virtual functions need of the physical one. */
export interface VfHost {
  readonly registers: RegisterFile<typeof IGB_REGISTERS>;
  /** Causes of ICR arise. */
  raise(causes: number): void;
  /** Bits of EICR arise, as a queue's do. */
  raiseExtended(vectors: number): void;
  readExtended(name: ExtendedName): number;
  /** A write of these bits only. */
  writeExtended(name: ExtendedName, mask: number, value: number): void;
  /** The queue is as after a reset, both ways. */
  resetQueue(queue: number): void;
  /** Queues pool and pool + 8 use this memory from now on; undefined: the physical function's. */
  attachQueues(pool: number, dma: DmaSpace | undefined): void;
  /** Registers that tables are derived from were changed. */
  changed(): void;
  /** Queues may do otherwise than before: they are looked at again. */
  queuesChanged(): void;
}
