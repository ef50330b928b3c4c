// Small shared words - bells, doorbells, pending vectors - out of one SharedArrayBuffer, a cache line each. One buffer, so that a thread that has opened
// it can be told of a doorbell by two small integers while it waits for the reply to a bus access, with no message; a line each, so that
// ringing one does not slow a thread that polls its neighbour.

export const LINE_WORDS = 16;
const ARENA_LINES = 16384;

/** Where allocated words are: `index` counts 32-bit words. */
export interface SharedWords {
  readonly buffer: SharedArrayBuffer;
  readonly index: number;
}

/** Hands out lines of 16 zeroed words. Lines are never taken back: another thread may still ring them; the buffer goes as a whole when nobody holds it. */
class WordArena {
  readonly buffer: SharedArrayBuffer;
  readonly #lines: number;
  #next = 0;

  constructor(lines = ARENA_LINES) {
    this.#lines = lines;
    this.buffer = new SharedArrayBuffer(lines * LINE_WORDS * 4);
  }

  /** The next line, or undefined when the arena is full. */
  allocate(): SharedWords | undefined {
    if (this.#next === this.#lines) return undefined;
    return { buffer: this.buffer, index: this.#next++ * LINE_WORDS };
  }
}

let common: WordArena | undefined;

/** Words that are read all the time and hardly ever written: sixteen to a line. */
let quiet: SharedWords | undefined;
let quietUsed = 0;

/** One zeroed word that is hardly ever written. One that is must have a line of its own: `allocateWords`. */
export function allocateQuietWord(): SharedWords {
  // In the buffer of whatever is allocated now: a doorbell is named to other threads only if all its words lie in one.
  if (quiet === undefined || quietUsed === LINE_WORDS || quiet.buffer !== common?.buffer) {
    quiet = allocateWords();
    quietUsed = 0;
  }
  return { buffer: quiet.buffer, index: quiet.index + quietUsed++ };
}

/** A line from the arena this thread is filling: the same buffer for thousands of calls on end. */
export function allocateWords(): SharedWords {
  const words = common?.allocate();
  if (words !== undefined) return words;
  common = new WordArena();
  return common.allocate() as SharedWords;
}
