// What is counted of transmitted frames (82576 8.18), by the frames they are on the wire: the port's and the host's statistics a batch at a time, and what each pool sent, inside and outside.

import type { ByteViews } from '#core/guest-memory';
import { countSize } from '#devices/intel/statistics';
import type { FrameBatch } from '#net/port';
import type { PortState } from './port-state.ts';
import { isBroadcast } from './receive-counts.ts';
import { AT, POOLS } from './registers.ts';
import { COUNT, count } from './statistics.ts';

const FCS = 4;

export class TransmitCounts {
  /** Of the frames counted last: as many on the wire, their octets there with FCS. */
  packets = 0;
  octets = 0;
  readonly #words: Uint32Array;
  readonly #statistics: Float64Array;

  constructor(state: PortState) {
    this.#words = state.registers;
    this.#statistics = state.statistics;
  }

  /** Frames `first` to `end` - 1 went out. Returns their bytes, as the batch has them. */
  sent(batch: FrameBatch, first: number, end: number): number {
    const statistics = this.#statistics;
    const { segments } = batch;
    let packets = 0;
    let octets = 0;
    let bytes = 0;
    // Frames of one size in a row.
    let size = 0;
    let sized = 0;
    for (let f = first; f < end; f++) {
      const length = batch.length[f] as number;
      let frames = 1;
      let onWire = length + FCS;
      if ((batch.gsoType[f] as number) !== 0) {
        const header = batch.headerLength[f] as number;
        const payload = batch.gsoSize[f] as number;
        frames = Math.ceil((length - header) / payload);
        onWire = length + (frames - 1) * header + frames * FCS;
        countSize(statistics, COUNT.PTC64, header + payload + FCS, frames - 1);
        countSize(statistics, COUNT.PTC64, length - (frames - 1) * payload + FCS);
        count(statistics, COUNT.TSCTC);
      } else {
        if (onWire !== size) {
          if (sized > 0) countSize(statistics, COUNT.PTC64, size, sized);
          size = onWire;
          sized = 0;
        }
        sized++;
      }
      bytes += length;
      packets += frames;
      octets += onWire;
      const segment = batch.firstSegment[f] as number;
      const { u8 } = segments.views[segment] as ByteViews;
      const at = segments.offset[segment] as number;
      if (((u8[at] as number) & 1) !== 0 && (segments.length[segment] as number) >= 6) count(statistics, isBroadcast(u8, at) ? COUNT.BPTC : COUNT.MPTC, frames);
    }
    if (sized > 0) countSize(statistics, COUNT.PTC64, size, sized);
    count(statistics, COUNT.GPTC, packets);
    count(statistics, COUNT.TPT, packets);
    count(statistics, COUNT.HGPTC, packets);
    count(statistics, COUNT.GOTC, octets);
    count(statistics, COUNT.TOT, octets);
    count(statistics, COUNT.HGOTC, octets);
    this.packets = packets;
    this.octets = octets;
    return bytes;
  }

  /** The last piece of what was cut here stands for all of it. */
  cut(): void {
    count(this.#statistics, COUNT.TSCTC);
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
