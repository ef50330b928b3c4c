// What QEMU's stream and dgram netdevs have in common as ports of a segment: their frames come from the event loop, so somebody has to be told.
// On a segment of the same thread that is one wake; on a worker's segment the port stands at this thread's end of a frame ring.

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

/** Attaches a netdev of this thread to a worker's segment. `loop` is what this thread sleeps in. Returns a function that takes it off. */
export function attachNetdevToWorker(segment: VhostSegment, port: NetdevPort, loop: BellLoop): () => void {
  const ring = segment.link(port.name, loop.bell, { accepts: port.accepts });
  const pump = new InlineSegment(new Segment(new DirectLink(), { idleRounds: IDLE_ROUNDS }));
  pump.addPort(ring);
  const detach = attachNetdev(pump, port);
  const remove = loop.add(() => {
    let rung = false;
    for (const doorbell of ring.doorbells) if (doorbell.take() !== 0) rung = true;
    if (rung) pump.wake(ring);
    return rung;
  });
  return () => {
    remove();
    detach();
  };
}
