// The commit point of a turn. A batch touches several rings: the transmit ring it came from, the receive rings it went to. Nothing of it is visible to any driver
// until the journal says, in one store, where each of those rings will stand; then each is brought there. A thread that dies before that store has done nothing,
// one that dies after it leaves a record that is carried out again by whoever finds it (the steps are idempotent). So every frame is delivered exactly once.
// That holds for floods too: all copies of a batch and its completion at the source are one commit (a copy that did not fit was dropped and counted, so nothing of
// a flood waits). Two exceptions, counters apart: a GSO frame cut up in software for a receiver that then fills up half way is remembered by the segment alone, so
// its first pieces come twice; and a turn of more than 4096 rings commits in parts.
//
// Layout in 32-bit words: 0 entries committed (0: none), then from word 16 four words an entry: slot, available, used from, used to.

/** Something that moves to a new position when a turn commits: a virtqueue, an end of a frame ring. */
export interface TurnParticipant {
  /** Number by which recovery knows it. */
  readonly slot: number;
  /** Where it will stand. */
  readonly nextAvailable: number;
  readonly usedFrom: number;
  readonly nextUsed: number;
  /** Goes there: visible to the other side from here on. */
  apply(): void;
}

export interface JournalEntry {
  readonly slot: number;
  readonly available: number;
  readonly usedFrom: number;
  readonly used: number;
}

const ENTRIES = 0;
const FIRST = 16;
const ENTRY_WORDS = 4;
/** More than 64 queue pairs on each of many ports can touch in one turn; a turn that exceeds it commits in parts. */
const CAPACITY = 4096;
/** What a journal's memory takes, and how many entries it may leave. */
export const JOURNAL_BYTES = (FIRST + CAPACITY * ENTRY_WORDS) * 4;
export const JOURNAL_ENTRIES = CAPACITY;

export class TurnJournal {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #staged: TurnParticipant[] = [];
  #count = 0;

  constructor(buffer = new SharedArrayBuffer(JOURNAL_BYTES)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
  }

  /** Adds a participant to the turn; each at most once a turn (it keeps its own mark). */
  stage(participant: TurnParticipant): void {
    if (this.#count === CAPACITY) this.commit();
    this.#staged[this.#count++] = participant;
  }

  /** The turn happens: all of it or, if the thread dies before the second line, none of it. */
  commit(): void {
    const count = this.#count;
    if (count === 0) return;
    const words = this.#words;
    for (let i = 0, at = FIRST; i < count; i++, at += ENTRY_WORDS) {
      const participant = this.#staged[i] as TurnParticipant;
      words[at] = participant.slot;
      words[at + 1] = participant.nextAvailable;
      words[at + 2] = participant.usedFrom;
      words[at + 3] = participant.nextUsed;
    }
    Atomics.store(words, ENTRIES, count);
    this.#count = 0;
    // The ring the frames came from is staged last and shown first: who gets them and sends on at once finds room there.
    for (let i = count - 1; i >= 0; i--) (this.#staged[i] as TurnParticipant).apply();
    Atomics.store(words, ENTRIES, 0);
  }

  /** For recovery, when the thread that wrote it is gone: the committed turn that may not have been carried out in full, and forgets it. */
  takeCommitted(): JournalEntry[] {
    const count = Math.min(Atomics.exchange(this.#words, ENTRIES, 0), CAPACITY);
    const entries: JournalEntry[] = [];
    for (let i = 0, at = FIRST; i < count; i++, at += ENTRY_WORDS) {
      const w = this.#words;
      entries.push({ slot: w[at] as number, available: w[at + 1] as number, usedFrom: w[at + 2] as number, used: w[at + 3] as number });
    }
    return entries;
  }
}
