// What QEMU's stream and dgram netdevs have in common as ports of a segment: their frames come from the event loop, so somebody has to be told.
// On a segment of the same thread that is one wake; on a worker's segment the port stands at this thread's end of a frame ring, as any port of this thread may.

import { InlineSegment } from '#backends/inline-backend';
import type { VhostSegment } from '#backends/vhost-worker';
import type { BellLoop } from '#core/bell-loop';
import { DirectLink } from '#net/direct-link';
import type { NetPort } from '#net/port';
import { Segment } from '#net/segment';

/** A port that is served by an event loop's thread. */
export interface NetdevPort extends NetPort {
  /** Called when it has frames to send, has room again, or its link changed: wake its segment. Set by whoever attaches the port. */
  onReady: (() => void) | undefined;
}

/** Rounds without work after which the small segment between port and ring goes to sleep: it is woken by an event either way. */
const IDLE_ROUNDS = 1;

/** Attaches a netdev to a segment of this thread. Returns a function that takes it off. */
export function attachNetdev(segment: InlineSegment, port: NetdevPort): () => void {
  segment.addPort(port);
  port.onReady = () => segment.wake(port);
  segment.wake(port);
  return () => {
    port.onReady = undefined;
    segment.removePort(port);
  };
}

/** A place of this thread for one port on a worker's segment, at this end of a frame ring. `loop` is what this thread sleeps in. */
export class WorkerPlace {
  readonly host = new InlineSegment(new Segment(new DirectLink(), { idleRounds: IDLE_ROUNDS }));
  readonly close: () => void;

  /** @param accepts ACCEPTS_* bits of what the port takes unconverted; default everything */
  constructor(segment: VhostSegment, name: string, loop: BellLoop, accepts?: number) {
    const ring = segment.link(name, loop.bell, accepts === undefined ? {} : { accepts });
    this.host.addPort(ring);
    this.close = loop.add(() => {
      let rung = false;
      for (const doorbell of ring.doorbells) if (doorbell.take() !== 0) rung = true;
      if (rung) this.host.wake(ring);
      return rung;
    });
  }
}

/** Attaches a netdev of this thread to a worker's segment. `loop` is what this thread sleeps in. Returns a function that takes it off. */
export function attachNetdevToWorker(segment: VhostSegment, port: NetdevPort, loop: BellLoop): () => void {
  const place = new WorkerPlace(segment, port.name, loop, port.accepts);
  const detach = attachNetdev(place.host, port);
  return () => {
    place.close();
    detach();
  };
}
