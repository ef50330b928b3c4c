// What is counted of received frames (82576 8.18): by the port, by the host, by pools. Of usual frames a run at a time.

import { count, countSize, isBroadcast } from '#devices/intel/statistics';
import type { PortCounters } from '#net/counters';
import type { PortState } from './port-state.ts';
import type { ReceiveQueue } from './receive-queue.ts';
import { AT, POOLS } from './registers.ts';
import { COUNT } from './statistics.ts';

const FCS = 4;

export class ReceiveCounts {
  readonly #words: Uint32Array;
  readonly #statistics: Float64Array;
  readonly #counters: PortCounters;
  // Not counted yet: frames that queues got; of those from the network the good ones that were usual, and in a row of one size; copies.
  #frames = 0;
  #bytes = 0;
  #good = 0;
  #octets = 0;
  #size = 0;
  #sized = 0;
  #copies = 0;
  #copied = 0;

  constructor(state: PortState, counters: PortCounters) {
    this.#words = state.registers;
    this.#statistics = state.statistics;
    this.#counters = counters;
  }

  /** A frame came from the network. */
  arrived(onWire: number): void {
    count(this.#statistics, COUNT.TPR);
    count(this.#statistics, COUNT.TOR, onWire);
  }

  bad(bad: boolean, short: boolean, long: boolean): void {
    const statistics = this.#statistics;
    if (short || long) count(statistics, COUNT.RLEC);
    if (short) count(statistics, bad ? COUNT.RFC : COUNT.RUC);
    else if (long) count(statistics, bad ? COUNT.RJC : COUNT.ROC);
    if (bad) count(statistics, COUNT.CRCERRS);
  }

  /** It did, and is a good one. @param bytes its first ones, at `at` */
  good(onWire: number, bytes: Uint8Array, at: number): void {
    this.arrived(onWire);
    const statistics = this.#statistics;
    countSize(statistics, COUNT.PRC64, onWire);
    count(statistics, COUNT.GPRC);
    count(statistics, COUNT.GORC, onWire);
    this.#countGroup(bytes, at);
  }

  #countGroup(bytes: Uint8Array, at: number): void {
    if (((bytes[at] as number) & 1) !== 0) count(this.#statistics, isBroadcast(bytes, at) ? COUNT.BPRC : COUNT.MPRC);
  }

  /** The same of a usual frame, later. */
  usual(length: number, bytes: Uint8Array, at: number): void {
    const onWire = length + FCS;
    if (onWire !== this.#size) {
      this.#countSizes();
      this.#size = onWire;
    }
    this.#sized++;
    this.#good++;
    this.#octets += onWire;
    if (((bytes[at] as number) & 1) !== 0) this.#countGroup(bytes, at);
  }

  /** Queues got it. */
  stored(length: number, copies: number): void {
    this.#frames++;
    this.#bytes += length;
    this.#copies += copies;
    this.#copied += copies * (length + FCS);
  }

  /** What pool a queue is in got: counted for good. @param wire from the network */
  pool(queue: number, frames: number, octets: number, group: number, wire: boolean): void {
    const words = this.#words;
    const pool = queue % POOLS;
    const packets = (wire ? AT.PVFGPRC : AT.PVFGPRLBC) + pool;
    const sum = (wire ? AT.PVFGORC : AT.PVFGORLBC) + pool;
    words[packets] = (words[packets] as number) + frames;
    words[sum] = (words[sum] as number) + octets;
    if (wire && group > 0) words[AT.PVFMPRC + pool] = (words[AT.PVFMPRC + pool] as number) + group;
  }

  /** The same of the frames it got by `put`. */
  settle(queue: ReceiveQueue, wire: boolean): void {
    this.pool(queue.index, queue.shown, queue.octets, queue.group, wire);
  }

  #countSizes(): void {
    if (this.#sized > 0) countSize(this.#statistics, COUNT.PRC64, this.#size, this.#sized);
    this.#sized = 0;
  }

  /** A run ends. */
  flush(): void {
    if (this.#frames === 0) return;
    const statistics = this.#statistics;
    this.#counters.received(this.#frames, this.#bytes);
    count(statistics, COUNT.RPTHC, this.#copies);
    count(statistics, COUNT.HGORC, this.#copied);
    this.#frames = 0;
    this.#bytes = 0;
    this.#copies = 0;
    this.#copied = 0;
    if (this.#good === 0) return;
    this.#countSizes();
    count(statistics, COUNT.TPR, this.#good);
    count(statistics, COUNT.TOR, this.#octets);
    count(statistics, COUNT.GPRC, this.#good);
    count(statistics, COUNT.GORC, this.#octets);
    this.#good = 0;
    this.#octets = 0;
  }
}
