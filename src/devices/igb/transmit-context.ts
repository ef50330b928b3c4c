// Transmit contexts of the 82576 (7.2.2.2): four words of a descriptor, two contexts for each queue, which later data descriptors name by IDX. Those read ahead of the head are noted until the head has passed them, as frames behind them may be
// given back and read again.

import type { ChecksumContext } from '#devices/intel/checksum-context';
import { CONTEXT_WORDS, CONTEXTS, type TransmitQueue } from './transmit-queue.ts';

/** Context descriptors read ahead in one turn. */
const MOST = 128;
const L4T_TCP = 1;
const L4T_SCTP = 2;
const IPV4_CHECKSUM = 10;
const TCP_CHECKSUM = 16;
const UDP_CHECKSUM = 6;

export class ContextLog {
  /** As data descriptors read now see them. */
  readonly words = new Uint32Array(CONTEXTS * CONTEXT_WORDS);
  readonly #noted = new Uint32Array(MOST * CONTEXT_WORDS);
  readonly #at = new Int32Array(MOST);
  #count = 0;

  /** A turn starts at the head, where these are in force. */
  begin(contexts: Uint32Array): void {
    this.words.set(contexts);
    this.#count = 0;
  }

  /** The descriptor just fetched, `at` after the head, is a context. False: too many in one turn. */
  keep(at: number, { word0, word1, word2, word3 }: TransmitQueue): boolean {
    if (this.#count === MOST) return false;
    const to = this.#count * CONTEXT_WORDS;
    this.#at[this.#count++] = at;
    this.#noted[to] = word0;
    this.#noted[to + 1] = word1;
    this.#noted[to + 2] = word2;
    this.#noted[to + 3] = word3;
    this.#put(this.words, to);
    return true;
  }

  /** The head moves on by `descriptors`: what it passes is in force. */
  apply(contexts: Uint32Array, descriptors: number): void {
    for (let i = 0; i < this.#count && (this.#at[i] as number) < descriptors; i++) this.#put(contexts, i * CONTEXT_WORDS);
  }

  #put(contexts: Uint32Array, from: number): void {
    const index = ((this.#noted[from + 3] as number) >>> 4) & (CONTEXTS - 1);
    for (let i = 0; i < CONTEXT_WORDS; i++) contexts[index * CONTEXT_WORDS + i] = this.#noted[from + i] as number;
  }
}

/** Unpacks the context whose words start at `at`: places of headers from their lengths. */
export function loadContext(context: ChecksumContext, words: Uint32Array, at: number): void {
  const lengths = words[at] as number;
  const kind = words[at + 2] as number;
  const sizes = words[at + 3] as number;
  const mac = (lengths >>> 9) & 0x7f;
  const ip = lengths & 0x1ff;
  const l4 = (kind >>> 11) & 3;
  context.ipv4 = ((kind >>> 10) & 1) !== 0;
  context.tcp = l4 === L4T_TCP;
  context.sctp = l4 === L4T_SCTP;
  context.ipStart = mac;
  context.ipOffset = mac + IPV4_CHECKSUM;
  context.ipEnd = mac + ip - 1;
  context.start = mac + ip;
  context.offset = mac + ip + (context.tcp ? TCP_CHECKSUM : UDP_CHECKSUM);
  context.end = 0;
  context.headerLength = mac + ip + ((sizes >>> 8) & 0xff);
  context.segmentSize = sizes >>> 16;
}
