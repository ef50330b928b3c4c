// Captures what passes on a worker's segments into one pcapng stream: a monitor of each segment rings over to this thread, where frames are finished as a wire would carry
// them (checksums filled in, large ones cut) and written.

import { InlineSegment } from '#backends/inline-backend';
import type { RingLink } from '#backends/ring-link';
import type { VhostSegment } from '#backends/vhost-worker';
import type { BellLoop } from '#core/bell-loop';
import { CaptureSink } from '#net/capture-ports';
import type { PortCounters } from '#net/counters';
import { DirectLink } from '#net/direct-link';
import { PcapngWriter } from '#net/pcapng';
import { Segment } from '#net/segment';

const RING_BYTES = 2 ** 22;

interface Source {
  readonly ring: RingLink;
  readonly counters: PortCounters;
  readonly pump: InlineSegment;
  readonly sink: CaptureSink;
}

export class SegmentCapture {
  readonly #writer: PcapngWriter;
  readonly #sources: readonly Source[];
  readonly #remove: () => void;

  /** @param loop what this thread sleeps in */
  constructor(segments: readonly VhostSegment[], loop: BellLoop, write: (chunk: Uint8Array) => void) {
    this.#writer = new PcapngWriter(write, { interfaces: segments.map((_, i) => `segment ${i}`) });
    this.#sources = segments.map((segment, i) => {
      const { ring, counters } = segment.monitor(`capture ${i}`, loop.bell, { bytes: RING_BYTES });
      const pump = new InlineSegment(new Segment(new DirectLink(), { idleRounds: 1 }));
      // The sink's clock counts from now.
      const sink = new CaptureSink(`capture ${i}`, { epoch: Math.floor(Date.now() / 1000) });
      pump.addPort(ring);
      pump.addPort(sink);
      return { ring, counters, pump, sink };
    });
    this.#remove = loop.add(() => this.#drain(false));
  }

  /** Frames the rings had no room for. */
  get missed(): number {
    return this.#sources.reduce((sum, { counters }) => sum + (counters.snapshot().receiveDrops['ring-full'] ?? 0), 0);
  }

  /** Takes what the rings hold. @param all also those that nobody rang for */
  #drain(all: boolean): boolean {
    let worked = false;
    this.#sources.forEach(({ ring, pump, sink }, index) => {
      let rung = all;
      for (const doorbell of ring.doorbells) if (doorbell.take() !== 0) rung = true;
      if (!rung) return;
      worked = true;
      do pump.wake(ring);
      while (sink.drain((bytes, seconds, nanoseconds) => this.#writer.packet(bytes, seconds, nanoseconds, index)) > 0);
    });
    if (worked) this.#writer.flush();
    return worked;
  }

  /** Writes what is left, after the worker has stopped. */
  close(): void {
    this.#remove();
    this.#drain(true);
  }
}
