// A segment with ring ports on it, virtio's or a device's own, served by one thread: opens and closes the turn of every one of them around the segment's rounds. Inline and worker
// backends both serve through this; they differ in what makes them look again (a call, a doorbell).

import type { Nanos } from '#core/clock';
import type { NetPort, TurnPort } from '#net/port';
import type { Segment, ServiceBudget } from '#net/segment';
import { RingPort } from './ring-port.ts';

export class SegmentServer {
  readonly segment: Segment;
  readonly #budget: ServiceBudget | undefined;
  readonly #rings: TurnPort[] = [];
  readonly #members = new Map<NetPort, number>();

  constructor(segment: Segment, budget?: ServiceBudget) {
    this.segment = segment;
    this.#budget = budget;
  }

  /** Adds a device's rings to the segment. */
  addRings(port: TurnPort): void {
    this.#rings.push(port);
    this.add(port);
  }

  /** Adds any other port of this thread: a capture, an end of a frame ring. */
  add(port: NetPort): void {
    this.#members.set(port, this.segment.addPort(port));
  }

  /** Takes a port off the segment; a ring port is closed. Between turns. */
  remove(port: NetPort): void {
    const member = this.#members.get(port);
    if (member === undefined) return;
    this.segment.removePort(member);
    this.#members.delete(port);
    const at = this.#rings.indexOf(port as TurnPort);
    if (at < 0) return;
    this.#rings.splice(at, 1);
    (port as TurnPort).close();
  }

  /** `port` may have something to send, or room. */
  wake(port: NetPort): void {
    const member = this.#members.get(port);
    if (member !== undefined) this.segment.wake(member);
  }

  wakeAll(): void {
    for (const member of this.#members.values()) this.segment.wake(member);
  }

  /** One round. Returns whether any frame was dealt with. */
  turn(): boolean {
    this.#enter();
    try {
      return this.segment.service(this.#budget);
    } finally {
      this.#leave();
    }
  }

  /** Asks every idle port to say when there is work. True when there is some: go on. */
  rest(): boolean {
    this.#enter();
    const work = this.segment.rest();
    this.#leave();
    return work;
  }

  /** When a `turn` is due although nobody asked for one: a hold ends, or notifications that were put off go out. Infinity: never. */
  get nextDeadline(): Nanos {
    let deadline = this.segment.nextDeadline ?? Infinity;
    for (const port of this.#rings) deadline = Math.min(deadline, port.deadline);
    return deadline;
  }

  /** Stops rings the host no longer wants. Between turns. */
  stopUnwanted(): void {
    const rings = this.#rings;
    for (let i = 0; i < rings.length; i++) {
      const port = rings[i];
      if (port instanceof RingPort) port.stopUnwanted();
    }
  }

  #enter(): void {
    const rings = this.#rings;
    for (let i = 0; i < rings.length; i++) (rings[i] as TurnPort).enter();
  }

  #leave(): void {
    const rings = this.#rings;
    for (let i = 0; i < rings.length; i++) (rings[i] as TurnPort).leave();
  }
}
