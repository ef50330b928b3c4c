// A learning switch (IEEE 802.1Q in its transparent part): learns stations by source address and VLAN, sends known unicast to one port and the rest to all others,
// never back where it came from. VLAN tags pass as they are: every port carries every VLAN. Leaves out: spanning tree, multicast snooping, port VLANs.

import { type Clock, type Nanos, WallClock } from '#core/clock';
import type { ByteViews } from '#core/guest-memory';
import { DROP_FILTERED, DROP_MALFORMED } from './counters.ts';
import { ETHERTYPE_QINQ, ETHERTYPE_VLAN, gatherHeader } from './headers.ts';
import { MacTable, type Station } from './mac-table.ts';
import { FRAME_MALFORMED, type FrameBatch } from './port.ts';
import type { Forwarding, Member, Segment } from './segment.ts';

export interface LearningSwitchOptions {
  readonly clock?: Clock;
  /** Stations remembered. Default 8192. */
  readonly stations?: number;
  /** How long a silent station is remembered. Default 300 s (IEEE 802.1Q table 8-6). */
  readonly ageing?: Nanos;
}

/** Where frames go besides a port's index: to all others, or nowhere (minus the reason). */
const FLOOD = -1;
const NOWHERE = -2;
const DEFAULT_STATIONS = 8192;
const DEFAULT_AGEING: Nanos = 300e9;
/** Address, address, type, VLAN tag. */
const LOOKED_AT = 16;
const SHORTEST = 14;
/** The EtherTypes as a little-endian 16-bit load sees them. */
const VLAN_LOADED = ((ETHERTYPE_VLAN & 0xff) << 8) | (ETHERTYPE_VLAN >>> 8);
const QINQ_LOADED = ((ETHERTYPE_QINQ & 0xff) << 8) | (ETHERTYPE_QINQ >>> 8);

export class LearningSwitch implements Forwarding {
  readonly maximumPorts = 1024;
  readonly #clock: Clock;
  readonly #table: MacTable;
  readonly #header = new Uint8Array(LOOKED_AT);
  readonly #headerWords = new Uint16Array(this.#header.buffer);
  // The batch's last lookups: frames to one station come in runs.
  #now: Nanos = 0;
  #source = -1;
  #ports = 0;
  #sourceLow = 0;
  #sourceHigh = -1;
  #targetLow = 0;
  #targetHigh = -1;
  #target = FLOOD;

  constructor(options: LearningSwitchOptions = {}) {
    this.#clock = options.clock ?? new WallClock();
    this.#table = new MacTable(options.stations ?? DEFAULT_STATIONS, options.ageing ?? DEFAULT_AGEING);
  }

  detach(index: number): void {
    this.#table.forgetPort(index);
  }

  /** What has been learnt and not aged out. */
  stations(): Station[] {
    return this.#table.stations(this.#clock.now());
  }

  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number {
    this.#now = this.#clock.now();
    this.#source = source;
    this.#ports = segment.ports.length;
    this.#sourceHigh = -1;
    this.#targetHigh = -1;
    const { count } = batch;
    // Frames are dealt with in runs of one destination, in order: a refusal then leaves exactly the frames after it, whatever they are for.
    let from = 0;
    let target = this.#decide(batch, needs, 0);
    for (let i = 1; i <= count; i++) {
      const next = i < count ? this.#decide(batch, needs, i) : target;
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

  /** Learns from a frame and says where it goes: a port's index, FLOOD, or NOWHERE minus a DROP_* reason. */
  #decide(batch: FrameBatch, needs: number, frame: number): number {
    const length = batch.length[frame] as number;
    if (length < SHORTEST || ((needs & FRAME_MALFORMED) !== 0 && ((batch.needs[frame] as number) & FRAME_MALFORMED) !== 0)) return NOWHERE - DROP_MALFORMED;
    const first = batch.firstSegment[frame] as number;
    const offset = batch.segments.offset[first] as number;
    let words = (batch.segments.views[first] as ByteViews).u16;
    let at = offset >>> 1;
    if ((offset & 1) !== 0 || (batch.segments.length[first] as number) < LOOKED_AT) {
      this.#header.fill(0);
      gatherHeader(batch, frame, this.#header, 0, LOOKED_AT);
      words = this.#headerWords;
      at = 0;
    }
    const targetLow = (words[at] as number) | ((words[at + 1] as number) << 16);
    const sourceLow = (words[at + 3] as number) | ((words[at + 4] as number) << 16);
    const type = words[at + 6] as number;
    let vlan = 0;
    if (type === VLAN_LOADED || type === QINQ_LOADED) {
      const tag = words[at + 7] as number;
      vlan = (((tag & 0x0f) << 8) | (tag >>> 8)) << 16;
    }
    const sourceHigh = (words[at + 5] as number) | vlan;
    if (sourceLow !== this.#sourceLow || sourceHigh !== this.#sourceHigh) {
      this.#sourceLow = sourceLow;
      this.#sourceHigh = sourceHigh;
      // A group address or none at all is no station.
      if ((sourceLow & 1) === 0 && (sourceLow !== 0 || (sourceHigh & 0xffff) !== 0)) this.#table.learn(sourceLow, sourceHigh, this.#source, this.#now);
    }
    const targetHigh = (words[at + 2] as number) | vlan;
    if (targetLow !== this.#targetLow || targetHigh !== this.#targetHigh) {
      this.#targetLow = targetLow;
      this.#targetHigh = targetHigh;
      this.#target = this.#lookUp(targetLow, targetHigh);
    }
    return this.#target;
  }

  #lookUp(low: number, high: number): number {
    if (this.#ports < 2) return NOWHERE - DROP_FILTERED;
    if ((low & 1) !== 0) {
      // IEEE 802.1Q 8.6.3: 01-80-C2-00-00-0X are for the link, not for who is beyond a bridge.
      return low === 0x00c28001 && (high & 0xf0ff) === 0 ? NOWHERE - DROP_FILTERED : FLOOD;
    }
    const port = this.#table.find(low, high, this.#now);
    return port === this.#source ? NOWHERE - DROP_FILTERED : port;
  }
}
