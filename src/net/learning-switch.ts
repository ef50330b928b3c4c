// A learning switch (IEEE 802.1Q in its transparent part): learns stations by source address and VLAN, sends known unicast to one port and the rest to all others,
// never back where it came from. VLAN tags pass as they are: every port carries every VLAN. Leaves out: spanning tree, multicast snooping, port VLANs.

import type { Station } from './mac-table.ts';
import type { FrameBatch } from './port.ts';
import type { Forwarding, Member, Segment } from './segment.ts';
import { NOWHERE, StationLookup, type StationLookupOptions } from './station-lookup.ts';

export type LearningSwitchOptions = StationLookupOptions;

export class LearningSwitch implements Forwarding {
  readonly maximumPorts = 1024;
  readonly #lookup: StationLookup;
  #source = -1;

  constructor(options: LearningSwitchOptions = {}) {
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
    this.#source = source;
    this.#lookup.begin(source, segment.ports.length);
    const { count } = batch;
    // Frames are dealt with in runs of one destination, in order: a refusal then leaves exactly the frames after it, whatever they are for.
    let from = 0;
    let target = this.#lookup.decide(batch, needs, 0);
    for (let i = 1; i <= count; i++) {
      const next = i < count ? this.#lookup.decide(batch, needs, i) : target;
      if (i < count && next === target) continue;
      const dealt = this.#settle(batch, needs, from, i, target, segment);
      if (dealt < i - from) return from + dealt;
      from = i;
      target = next;
    }
    return count;
  }

  #settle(batch: FrameBatch, needs: number, from: number, to: number, target: number, segment: Segment): number {
    const source = this.#source;
    if (target >= 0) return segment.offer(batch, needs, from, to, source, target);
    if (target <= NOWHERE) {
      segment.dropSent(batch, from, to, source, NOWHERE - target);
      return to - from;
    }
    const { ports } = segment;
    // With one other port a flood is a unicast, and can hold its source back in place of dropping.
    if (ports.length === 2)
      return segment.offer(batch, needs, from, to, source, ((ports[0]?.index === source ? ports[1] : ports[0]) as { index: number }).index);
    for (let i = 0; i < ports.length; i++) {
      const { index } = ports[i] as Member;
      if (index !== source) segment.copy(batch, needs, from, to, source, index);
    }
    return to - from;
  }
}
