// What is counted of transmitted frames (8254x 13.7, 82576 8.18), by the frames they are on the wire, a batch at a time.

import type { ByteViews } from '#core/guest-memory';
import type { FrameBatch } from '#net/port';
import { COUNT, count, countSize, isBroadcast } from './statistics.ts';

const FCS = 4;

export class SentCounts {
  /** Of the frames counted last: as many on the wire, their octets there with FCS, their bytes as the batch has them. */
  packets = 0;
  octets = 0;
  bytes = 0;
  readonly #statistics: Float64Array;

  constructor(statistics: Float64Array) {
    this.#statistics = statistics;
  }

  /** Frames `first` to `end` - 1 went out. */
  sent(batch: FrameBatch, first: number, end: number): void {
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
    count(statistics, COUNT.GOTC, octets);
    count(statistics, COUNT.TOT, octets);
    this.packets = packets;
    this.octets = octets;
    this.bytes = bytes;
  }

  /** The last piece of what was cut here stands for all of it. */
  cut(): void {
    count(this.#statistics, COUNT.TSCTC);
  }
}
