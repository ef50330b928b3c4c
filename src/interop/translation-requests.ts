// Translations that rings wait for, asked of the front end page by page (vhost-user's IOTLB miss). Each is asked for once, until it is answered: with an update, or with a
// refusal, which the front end is told of as an access failure while the ring goes on waiting.

import type { DmaMapping } from '#core/dma-space';
import type { Log } from '#core/log';
import type { BackendChannel } from './backend-channel.ts';
import type { FrontMemory } from './front-memory.ts';
import { IOTLB_ACCESS_FAIL, IOTLB_MISS, makeIotlbMessage } from './vhost-user-protocol.ts';

const PAGE = 4096;
/** Pages asked for at once for one ring area or buffer. */
const MOST_PAGES = 256;
const MOST_PENDING = 4096;

export class TranslationRequests {
  readonly #memory: FrontMemory;
  readonly #log: Log;
  /** Pages asked for, and the access. */
  readonly #pending = new Map<number, number>();
  /** Pages refused, and how often since they were last told. */
  readonly #refusals = new Map<number, number>();
  /** Pages to be asked for with no more access than is needed now. */
  readonly #alone = new Set<number>();
  #channel: BackendChannel | undefined;
  #scheduled = false;
  #closed = false;
  /** Something that was missed could not be noted: everybody is to look again. */
  readonly #lookAgain: () => void;

  constructor(memory: FrontMemory, log: Log, lookAgain: () => void) {
    this.#memory = memory;
    this.#log = log;
    this.#lookAgain = lookAgain;
  }

  /** Where to ask from now on. */
  set channel(channel: BackendChannel | undefined) {
    this.#channel = channel;
    this.#pending.clear();
    if (channel !== undefined) this.#lookAgain();
  }

  /** Asks soon: the miss may be inside a change that is under way. */
  schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (!this.#closed) this.#ask();
    });
  }

  /** The front end has told a translation. */
  answered({ iova, size, permissions }: DmaMapping): void {
    for (const page of this.#alone) if (page >= iova && page < iova + size) this.#alone.delete(page);
    for (const page of this.#refusals.keys()) if (page >= iova && page < iova + size) this.#refusals.delete(page);
    for (const [page, asked] of this.#pending) {
      if (page < iova || page >= iova + size) continue;
      if ((asked & ~permissions) === 0) this.#pending.delete(page);
    }
  }

  close(): void {
    this.#closed = true;
    this.#channel = undefined;
  }

  #ask(): void {
    const { space, iotlb } = this.#memory;
    const channel = this.#channel;
    if (space === undefined || channel === undefined) return;
    const { count, records } = space.takeFaults();
    for (const { address, length, access } of records) {
      const first = Math.floor(address / PAGE) * PAGE;
      const end = Math.min(address + length, first + MOST_PAGES * PAGE);
      for (let page = first; page < end; page += PAGE) {
        const asked = this.#pending.get(page) ?? 0;
        const known = iotlb.permissions(page);
        if ((asked & access) === access || (known & access) === access || this.#pending.size >= MOST_PENDING) continue;
        // With what others need of that page: an answer to this alone would take it from them, and they would take it back.
        const wanted = this.#alone.has(page) ? access : asked | known | access;
        this.#pending.set(page, wanted);
        channel.send(makeIotlbMessage(page, IOTLB_MISS, wanted, true), (failed) => {
          if (failed && channel === this.#channel) this.#refused(page, wanted, access);
        });
      }
    }
    if (count > records.length) this.#lookAgain();
  }

  #refused(page: number, access: number, needed: number): void {
    this.#pending.delete(page);
    if (access !== needed) {
      // The page may be another buffer's by now, with less to be done to it.
      if (this.#alone.size >= MOST_PENDING) this.#alone.clear();
      this.#alone.add(page);
      this.#lookAgain();
      return;
    }
    // Whoever missed it may have had it since, have used it and be done: only one that misses it again waits for something that there is not.
    if (this.#refusals.size >= MOST_PENDING) this.#refusals.clear();
    const times = (this.#refusals.get(page) ?? 0) + 1;
    this.#refusals.set(page, times);
    if (times === 1) this.#lookAgain();
    if (times !== 2) return;
    this.#log.guestError(`no translation of 0x${page.toString(16)} for access ${access}: who needs it waits`);
    this.#channel?.send(makeIotlbMessage(page, IOTLB_ACCESS_FAIL, access, false));
  }
}
