// The turn journal in a file beside the sockets: should this process be killed between a turn's commit and the last of its publishes, the next one, with the same sockets, finds
// what is left to do. Only one that was killed leaves the file behind. Rings of front ends that keep an in-flight area are brought there when they come back.
//
// In words behind the journal: magic, two of a key (which sockets, how many rings), count of entries that wait, area tags of two words a port; then those entries.

import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { JOURNAL_BYTES, JOURNAL_ENTRIES, type JournalEntry, TurnJournal } from '#backends/turn-journal';
import type { AreaTag } from './inflight-area.ts';
import { errorName } from './interop-error.ts';
import { MappedRegion } from './mapped-memory.ts';
import type { Native } from './native.ts';

/** "nbt1" */
const MAGIC = 0x3174_626e;
const MAGIC_AT = 0;
const KEY_AT = 1;
const WAITING_AT = 3;
const TAGS_AT = 16;
const MOST_PORTS = 1024;
const ENTRIES_AT = TAGS_AT + 2 * MOST_PORTS;
const ENTRY_WORDS = 4;
const BYTES = Math.ceil((JOURNAL_BYTES + 4 * (ENTRIES_AT + ENTRY_WORDS * JOURNAL_ENTRIES)) / 4096) * 4096;

/** A port's part of the file. */
export interface PortTurns {
  /** A front end was here when the last process died, and had given an area. */
  readonly left: boolean;
  /** The front end of this area is here: what of the rings' last turn was committed and may not have been carried out, by ring. Asked for once. */
  take(tag: AreaTag): Map<number, JournalEntry>;
}

export class TurnFile {
  readonly journal: SharedArrayBuffer;
  readonly #path: string;
  readonly #fd: number;
  readonly #mapped: MappedRegion;
  readonly #words: Int32Array;
  #waiting: JournalEntry[] = [];

  /** Opens or makes the file; returns why it cannot be had otherwise. @param key what the numbers in it depend on */
  static open(native: Native, path: string, key: string): TurnFile | string {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    } catch (error) {
      return (error as Error).message;
    }
    // Another process that lives has the same sockets; that, its sockets will say.
    const locked = native.files.lockFile(fd);
    try {
      if (locked < 0) throw new Error(`${path} is in use: ${errorName(locked)}`);
      if (fstatSync(fd).size !== BYTES) {
        ftruncateSync(fd, 0);
        ftruncateSync(fd, BYTES);
      }
      const mapped = new MappedRegion(native, fd, 0, BYTES);
      if (mapped.parts[0]?.byteOffset === 0) return new TurnFile(path, fd, mapped, key);
      mapped.unmap();
      throw new Error(`${path} is in a file system of huge pages`);
    } catch (error) {
      closeSync(fd);
      return (error as Error).message;
    }
  }

  private constructor(path: string, fd: number, mapped: MappedRegion, key: string) {
    this.#path = path;
    this.#fd = fd;
    this.#mapped = mapped;
    this.journal = (mapped.parts[0] as { buffer: SharedArrayBuffer }).buffer;
    this.#words = new Int32Array(this.journal, JOURNAL_BYTES, (BYTES - JOURNAL_BYTES) >>> 2);
    const digest = createHash('sha256').update(key).digest();
    const [low, high] = [digest.readInt32LE(0), digest.readInt32LE(4)];
    const words = this.#words;
    if (words[MAGIC_AT] !== MAGIC || words[KEY_AT] !== low || words[KEY_AT + 1] !== high) {
      new Int32Array(this.journal, 0, BYTES >>> 2).fill(0);
      words[KEY_AT] = low;
      words[KEY_AT + 1] = high;
      words[MAGIC_AT] = MAGIC;
    }
    // What waited before, of front ends that have not come back since, and what the last process left.
    const count = Math.min(words[WAITING_AT] as number, JOURNAL_ENTRIES);
    for (let i = 0; i < count; i++) {
      const [slot = 0, available = 0, usedFrom = 0, used = 0] = words.subarray(ENTRIES_AT + ENTRY_WORDS * i);
      this.#waiting.push({ slot, available, usedFrom, used });
    }
    const committed = new TurnJournal(this.journal).takeCommitted();
    this.#waiting = [...this.#waiting.filter(({ slot }) => !committed.some((entry) => entry.slot === slot)), ...committed].slice(-JOURNAL_ENTRIES);
    this.#keep();
  }

  #keep(): void {
    const words = this.#words;
    this.#waiting.forEach(({ slot, available, usedFrom, used }, i) => {
      words.set([slot, available, usedFrom, used], ENTRIES_AT + ENTRY_WORDS * i);
    });
    Atomics.store(words, WAITING_AT, this.#waiting.length);
  }

  /** @param port its number, below 1024. @param first its first slot in the journal, of `rings` */
  port(port: number, first: number, rings: number): PortTurns {
    const words = this.#words;
    const at = TAGS_AT + 2 * port;
    return {
      left: words[at] !== 0 || words[at + 1] !== 0,
      take: ([low, high]) => {
        const same = words[at] === low && words[at + 1] === high;
        words[at] = low;
        words[at + 1] = high;
        const mine = this.#waiting.filter(({ slot }) => slot >= first && slot < first + rings);
        this.#waiting = this.#waiting.filter((entry) => !mine.includes(entry));
        if (mine.length > 0) this.#keep();
        // Another front end, or the same one with a new area: what its rings did then is over.
        return new Map(same ? mine.map((entry) => [entry.slot - first, entry]) : []);
      },
    };
  }

  /** A clean end: nothing is left to do. Nobody writes the journal any more. */
  close(): void {
    this.#mapped.unmap();
    try {
      unlinkSync(this.#path);
    } catch {
      // Somebody else has removed it.
    }
    closeSync(this.#fd);
  }
}

export const MOST_TURN_PORTS = MOST_PORTS;
