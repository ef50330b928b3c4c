// What passed a port and what did not, by reason. The words may lie in shared memory: the thread that serves the segment writes them, any thread reads
// (each word is a whole 64-bit float; a reader sees every word as of some recent moment, not all of the same one).

/** Why frames were dropped; each port counts them apart. */
const DROP_REASONS = ['link-down', 'not-ready', 'filtered', 'too-long', 'malformed', 'ring-full', 'broken'] as const;
type DropReason = (typeof DROP_REASONS)[number];

/** Numbers of DROP_REASONS, for the data path. */
export const DROP_LINK_DOWN = 0;
export const DROP_NOT_READY = 1;
export const DROP_FILTERED = 2;
export const DROP_TOO_LONG = 3;
export const DROP_MALFORMED = 4;
export const DROP_RING_FULL = 5;
export const DROP_BROKEN = 6;

/** Transmit is what came from the port, receive what went to it: the guest's view. */
export interface PortStatistics {
  readonly transmitFrames: number;
  readonly transmitBytes: number;
  readonly receiveFrames: number;
  readonly receiveBytes: number;
  /** Frames that came from this port and went nowhere; reasons that never occurred are left out. */
  readonly transmitDrops: Readonly<Partial<Record<DropReason, number>>>;
  /** Frames meant for this port that it did not get. */
  readonly receiveDrops: Readonly<Partial<Record<DropReason, number>>>;
}

const TRANSMIT_FRAMES = 0;
const TRANSMIT_BYTES = 1;
const RECEIVE_FRAMES = 2;
const RECEIVE_BYTES = 3;
const TRANSMIT_DROPS = 8;
const RECEIVE_DROPS = 16;
const WORDS = 24;

/** Counters of one port; one writer. */
export class PortCounters {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Float64Array;

  /** @param buffer the `buffer` of another thread's PortCounters, to read it or to go on from there. */
  constructor(buffer = new SharedArrayBuffer(WORDS * 8)) {
    this.buffer = buffer;
    this.#words = new Float64Array(buffer);
  }

  /** Frames taken from the port. Call once a batch. */
  transmitted(frames: number, bytes: number): void {
    this.#add(TRANSMIT_FRAMES, frames);
    this.#add(TRANSMIT_BYTES, bytes);
  }

  /** Frames given to the port. Call once a batch. */
  received(frames: number, bytes: number): void {
    this.#add(RECEIVE_FRAMES, frames);
    this.#add(RECEIVE_BYTES, bytes);
  }

  /** @param reason a DROP_* number */
  transmitDropped(reason: number, frames: number): void {
    this.#add(TRANSMIT_DROPS + reason, frames);
  }

  receiveDropped(reason: number, frames: number): void {
    this.#add(RECEIVE_DROPS + reason, frames);
  }

  snapshot(): PortStatistics {
    const words = this.#words;
    const drops = (base: number): Partial<Record<DropReason, number>> => {
      const found: Partial<Record<DropReason, number>> = {};
      DROP_REASONS.forEach((reason, i) => {
        const count = words[base + i] as number;
        if (count > 0) found[reason] = count;
      });
      return found;
    };
    return {
      transmitFrames: words[TRANSMIT_FRAMES] as number,
      transmitBytes: words[TRANSMIT_BYTES] as number,
      receiveFrames: words[RECEIVE_FRAMES] as number,
      receiveBytes: words[RECEIVE_BYTES] as number,
      transmitDrops: drops(TRANSMIT_DROPS),
      receiveDrops: drops(RECEIVE_DROPS),
    };
  }

  #add(word: number, amount: number): void {
    this.#words[word] = (this.#words[word] as number) + amount;
  }
}
