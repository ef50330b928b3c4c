// The other end of the cable of a device in this process: a port whose frames the suite writes and reads. It carries every offload, both ways of saying a frame.

import { viewsOf } from '#core/guest-memory';
import { PortCounters } from '#net/counters';
import type { FrameBatch, NetPort } from '#net/port';
import type { WireOffload } from '../target.ts';

interface Waiting {
  readonly bytes: Uint8Array;
  readonly offload: WireOffload;
}

export class Cable implements NetPort {
  readonly name = 'cable';
  readonly linkUp = true;
  /** Nothing: whatever the device's driver asked for has to be done before a frame comes out here. */
  readonly accepts = 0;
  readonly counters = new PortCounters();
  readonly hasRoom = true;
  readonly #waiting: Waiting[] = [];
  #sent: Uint8Array[] = [];

  put(bytes: Uint8Array, offload: WireOffload = {}): void {
    this.#waiting.push({ bytes, offload });
  }

  take(): Uint8Array[] {
    const sent = this.#sent;
    this.#sent = [];
    return sent;
  }

  collect(batch: FrameBatch, frames: number, _bytes: number): number {
    const count = Math.min(frames, this.#waiting.length, batch.capacity - batch.count);
    for (const { bytes, offload } of this.#waiting.slice(0, count)) {
      const memory = new Uint8Array(Math.ceil(bytes.length / 8) * 8);
      memory.set(bytes);
      const i = batch.count++;
      batch.firstSegment[i] = batch.segments.count;
      batch.segments.addHost(viewsOf(memory.buffer), 0, bytes.length);
      batch.segmentCount[i] = 1;
      batch.length[i] = bytes.length;
      batch.flags[i] = offload.flags ?? 0;
      batch.gsoType[i] = offload.gsoType ?? 0;
      batch.headerLength[i] = offload.headerLength ?? 0;
      batch.gsoSize[i] = offload.gsoSize ?? 0;
      batch.csumStart[i] = offload.csumStart ?? 0;
      batch.csumOffset[i] = offload.csumOffset ?? 0;
      batch.outerTransport[i] = offload.outerTransport ?? 0;
      batch.innerNetwork[i] = offload.innerNetwork ?? 0;
    }
    return count;
  }

  complete(_batch: FrameBatch, done: number): void {
    this.#waiting.splice(0, done);
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    for (let i = from; i < to; i++) {
      const bytes = new Uint8Array(batch.length[i] as number);
      let at = 0;
      for (let s = 0; s < (batch.segmentCount[i] as number); s++) {
        const segment = (batch.firstSegment[i] as number) + s;
        const offset = batch.segments.offset[segment] as number;
        const length = batch.segments.length[segment] as number;
        bytes.set((batch.segments.views[segment] as { readonly u8: Uint8Array }).u8.subarray(offset, offset + length), at);
        at += length;
      }
      this.#sent.push(bytes);
    }
    return to - from;
  }

  flush(): void {}

  awaitFrames(): boolean {
    return this.#waiting.length > 0;
  }

  awaitRoom(): boolean {
    return true;
  }
}
