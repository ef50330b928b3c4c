// What the parts of an 82576 port share besides its registers: flags of the link and the flow control, generations that move when registers change, counts.

import { COUNTS } from './statistics.ts';

/** The link is there: frames pass. */
export const FLAG_LINK = 1 << 0;
/** What is transmitted is received (RCTL.LBM, or the PHY's loopback). */
export const FLAG_LOOPBACK = 1 << 1;
/** The peer asked for a pause. */
export const FLAG_PAUSED = 1 << 2;
/** PAUSE frames are due. */
export const FLAG_SEND_XOFF = 1 << 3;
export const FLAG_SEND_XON = 1 << 4;
/** The peer was told to stop. */
export const FLAG_HOLDS_PEER = 1 << 5;
/** Frames stand still: the machine is being saved. */
export const FLAG_STILL = 1 << 6;
/** A frame that finds no buffer is lost, as on a wire. */
export const FLAG_LOSSY = 1 << 7;
/** Not in D0: frames are looked at for whether they wake. */
export const FLAG_ASLEEP = 1 << 8;

export class PortState {
  flags = 0;
  /** Moves when queues are to be looked at again. */
  generation = 0;
  /** Moves when what tables are derived from changed: only by the physical function's registers, as making them anew costs everyone. */
  tables = 0;
  /** Of the PAUSE frame that came last. */
  pauseQuanta = 0;
  /** Running counts, by COUNT. */
  readonly statistics = new Float64Array(COUNTS);
  readonly registers: Uint32Array;

  constructor(registers: Uint32Array) {
    this.registers = registers;
  }

  setFlag(flag: number, on: boolean): void {
    this.flags = on ? this.flags | flag : this.flags & ~flag;
  }

  changed(): void {
    this.generation++;
    this.tables++;
  }

  /** Something of a queue's own, which a VF may do at will. */
  queuesChanged(): void {
    this.generation++;
  }
}
