// What is counted of transmitted frames beside what every Intel part does (82576 8.18): the host's statistics, and what each pool sent, inside and outside.

import { SentCounts } from '#devices/intel/sent-counts';
import { count } from '#devices/intel/statistics';
import type { FrameBatch } from '#net/port';
import type { PortState } from './port-state.ts';
import { AT, POOLS } from './registers.ts';
import { COUNT } from './statistics.ts';

export class TransmitCounts {
  readonly #words: Uint32Array;
  readonly #statistics: Float64Array;
  readonly #sent: SentCounts;

  constructor(state: PortState) {
    this.#words = state.registers;
    this.#statistics = state.statistics;
    this.#sent = new SentCounts(state.statistics);
  }

  /** Frames `first` to `end` - 1 went out. Returns their bytes, as the batch has them. */
  sent(batch: FrameBatch, first: number, end: number): number {
    const sent = this.#sent;
    sent.sent(batch, first, end);
    count(this.#statistics, COUNT.HGPTC, sent.packets);
    count(this.#statistics, COUNT.HGOTC, sent.octets);
    return sent.bytes;
  }

  cut(): void {
    this.#sent.cut();
  }

  /** The same frames, by the pool the queue is in. */
  sentBy(queue: number): void {
    this.pool(queue, this.#sent.packets, this.#sent.octets, true);
  }

  spoofed(): void {
    count(this.#statistics, COUNT.SSVPC);
  }

  /** Counters of the pool the queue is in; not cleared by reading. @param octets FCS included. @param wire they left the port */
  pool(queue: number, packets: number, octets: number, wire: boolean): void {
    const words = this.#words;
    const pool = queue % POOLS;
    const number = (wire ? AT.PVFGPTC : AT.PVFGPTLBC) + pool;
    const sum = (wire ? AT.PVFGOTC : AT.PVFGOTLBC) + pool;
    words[number] = (words[number] as number) + packets;
    words[sum] = (words[sum] as number) + octets;
  }
}
