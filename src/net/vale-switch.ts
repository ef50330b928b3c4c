// A switch in the manner of VALE (Rizzo and Lettieri, CoNEXT 2012): looks up all of a batch before it moves any of it, then hands each destination its frames as one batch, whatever
// order they came in, with one delivery and one flush. Frames are copied once, into the receiver's memory; a broadcast once for each. Addresses are learnt as learning-switch.ts does.
//
// A full destination: a batch that is all for one port is held at its source, as on any segment, since nobody else waits behind it. Of a batch for several ports what one does
// not take is dropped and counted, as VALE does: what is dealt with is the front of a batch, and one full port must not hold up the others.

import type { ByteViews } from '#core/guest-memory';
import type { Station } from './mac-table.ts';
import { FrameBatch } from './port.ts';
import type { Forwarding, Member, Segment } from './segment.ts';
import { FLOOD, NOWHERE, StationLookup, type StationLookupOptions } from './station-lookup.ts';

const MAXIMUM_PORTS = 1024;

export class ValeSwitch implements Forwarding {
  readonly maximumPorts = MAXIMUM_PORTS;
  readonly #lookup: StationLookup;
  /** Of each frame of the batch. */
  #targets = new Int32Array(0);
  /** Frame chains by destination: first and last frame, next frame; -1 ends. Broadcasts are in nobody's chain. */
  readonly #first = new Int32Array(MAXIMUM_PORTS).fill(-1);
  readonly #last = new Int32Array(MAXIMUM_PORTS);
  #next = new Int32Array(0);
  /** Frame numbers of `#gathered`'s frames. */
  #origin = new Int32Array(0);
  #gathered: FrameBatch | undefined;

  constructor(options: StationLookupOptions = {}) {
    this.#lookup = new StationLookup(options);
  }

  detach(index: number): void {
    this.#lookup.forgetPort(index);
  }

  /** What has been learnt and not aged out. */
  stations(): Station[] {
    return this.#lookup.stations();
  }

  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number {
    const { count } = batch;
    const { ports } = segment;
    if (this.#targets.length < batch.capacity) this.#grow(batch.capacity);
    const targets = this.#targets;
    this.#lookup.begin(source, ports.length);
    // With one other port a flood is a unicast.
    const other = ports.length === 2 ? ((ports[0]?.index === source ? ports[1] : ports[0]) as Member).index : FLOOD;
    let uniform = true;
    for (let i = 0; i < count; i++) {
      const target = this.#lookup.decide(batch, needs, i);
      targets[i] = target === FLOOD ? other : target;
      if (targets[i] !== targets[0]) uniform = false;
    }
    const only = targets[0] as number;
    if (uniform && only >= 0) return segment.offer(batch, needs, 0, count, source, only);
    this.#chain(batch, source, segment);
    for (let i = 0; i < ports.length; i++) {
      const { index } = ports[i] as Member;
      if (index !== source) this.#deal(batch, needs, source, index, segment);
    }
    return count;
  }

  #grow(capacity: number): void {
    this.#targets = new Int32Array(capacity);
    this.#next = new Int32Array(capacity);
    this.#origin = new Int32Array(capacity);
  }

  /** Puts frames in the chain of where they go; drops those that go nowhere. */
  #chain(batch: FrameBatch, source: number, segment: Segment): void {
    const targets = this.#targets;
    for (let i = 0; i < batch.count; i++) {
      const target = targets[i] as number;
      if (target === FLOOD) continue;
      if (target <= NOWHERE) {
        segment.dropSent(batch, i, i + 1, source, NOWHERE - target);
        continue;
      }
      this.#next[i] = -1;
      if (this.#first[target] === -1) this.#first[target] = i;
      else this.#next[this.#last[target] as number] = i;
      this.#last[target] = i;
    }
  }

  /** One destination's frames, its own and broadcasts, in the order they were sent. */
  #deal(batch: FrameBatch, needs: number, source: number, destination: number, segment: Segment): void {
    const gathered = this.#emptied(batch);
    const targets = this.#targets;
    const origin = this.#origin;
    let own = this.#first[destination] as number;
    this.#first[destination] = -1;
    let flood = this.#nextFlood(targets, 0, batch.count);
    while (own >= 0 || flood < batch.count) {
      const takesOwn = own >= 0 && own < flood;
      const frame = takesOwn ? own : flood;
      origin[gathered.count] = frame;
      append(gathered, batch, frame);
      if (takesOwn) own = this.#next[own] as number;
      else flood = this.#nextFlood(targets, flood + 1, batch.count);
    }
    if (gathered.count === 0) return;
    segment.copy(gathered, needs, 0, gathered.count, source, destination);
    if (!gathered.judged) return;
    // As how much it was sent is the source's to count, and its batch is the other one.
    for (let i = 0; i < gathered.count; i++)
      if (gathered.sentAs[i] !== 0) batch.judge(origin[i] as number, gathered.sentAs[i] as number, gathered.sentBytes[i] as number);
  }

  #nextFlood(targets: Int32Array, from: number, count: number): number {
    let at = from;
    while (at < count && targets[at] !== FLOOD) at++;
    return at;
  }

  #emptied(batch: FrameBatch): FrameBatch {
    const kept = this.#gathered;
    if (kept === undefined || kept.capacity < batch.capacity || kept.segments.capacity < batch.segments.capacity) {
      const made = new FrameBatch(batch.segments.views[0] as ByteViews, batch.capacity, batch.segments.capacity);
      this.#gathered = made;
      return made;
    }
    kept.clear();
    return kept;
  }
}

/** Adds a frame of another batch: what describes it; its bytes stay where they are. */
function append(to: FrameBatch, from: FrameBatch, frame: number): void {
  const at = to.count++;
  const first = from.firstSegment[frame] as number;
  const pieces = from.segmentCount[frame] as number;
  to.firstSegment[at] = to.segments.count;
  to.segmentCount[at] = pieces;
  for (let s = first; s < first + pieces; s++) to.segments.addFrom(from.segments, s);
  to.length[at] = from.length[frame] as number;
  to.flags[at] = from.flags[frame] as number;
  to.gsoType[at] = from.gsoType[frame] as number;
  to.headerLength[at] = from.headerLength[frame] as number;
  to.gsoSize[at] = from.gsoSize[frame] as number;
  to.csumStart[at] = from.csumStart[frame] as number;
  to.csumOffset[at] = from.csumOffset[frame] as number;
  to.outerTransport[at] = from.outerTransport[frame] as number;
  to.innerNetwork[at] = from.innerNetwork[frame] as number;
  to.hash[at] = from.hash[frame] as number;
  to.hashReport[at] = from.hashReport[frame] as number;
  to.hashedBy[at] = from.hashedBy[frame] as number;
  to.token[at] = from.token[frame] as number;
  to.needs[at] = from.needs[frame] as number;
}
