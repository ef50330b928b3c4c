// Where a switch sends a frame: learns stations by source address and VLAN, and finds the port of a destination. What learning-switch.ts and vale-switch.ts share.

import { type Nanos, type TimeSource, WallClock } from '#core/clock';
import type { ByteViews } from '#core/guest-memory';
import { DROP_FILTERED, DROP_MALFORMED } from './counters.ts';
import { ETHERTYPE_QINQ, ETHERTYPE_VLAN, gatherHeader } from './headers.ts';
import { MacTable, type Station } from './mac-table.ts';
import { FRAME_MALFORMED, type FrameBatch } from './port.ts';

export interface StationLookupOptions {
  readonly clock?: TimeSource;
  /** Stations remembered. Default 8192. */
  readonly stations?: number;
  /** How long a silent station is remembered. Default 300 s (IEEE 802.1Q table 8-6). */
  readonly ageing?: Nanos;
}

/** Where frames go besides a port's index: to all others, or nowhere (minus the reason). */
export const FLOOD = -1;
export const NOWHERE = -2;
const DEFAULT_STATIONS = 8192;
const DEFAULT_AGEING: Nanos = 300e9;
/** Address, address, type, VLAN tag. */
const LOOKED_AT = 16;
const SHORTEST = 14;
/** The EtherTypes as a little-endian 16-bit load sees them. */
const VLAN_LOADED = ((ETHERTYPE_VLAN & 0xff) << 8) | (ETHERTYPE_VLAN >>> 8);
const QINQ_LOADED = ((ETHERTYPE_QINQ & 0xff) << 8) | (ETHERTYPE_QINQ >>> 8);

export class StationLookup {
  readonly #clock: TimeSource;
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

  constructor(options: StationLookupOptions = {}) {
    this.#clock = options.clock ?? new WallClock();
    this.#table = new MacTable(options.stations ?? DEFAULT_STATIONS, options.ageing ?? DEFAULT_AGEING);
  }

  /** A batch of port `source` comes, of a segment of so many ports. */
  begin(source: number, ports: number): void {
    this.#now = this.#clock.now();
    this.#source = source;
    this.#ports = ports;
    this.#sourceHigh = -1;
    this.#targetHigh = -1;
  }

  forgetPort(index: number): void {
    this.#table.forgetPort(index);
  }

  /** What has been learnt and not aged out. */
  stations(): Station[] {
    return this.#table.stations(this.#clock.now());
  }

  /** Learns from a frame and says where it goes: a port's index, FLOOD, or NOWHERE minus a DROP_* reason. */
  decide(batch: FrameBatch, needs: number, frame: number): number {
    const length = batch.length[frame] as number;
    if (length < SHORTEST || ((needs & FRAME_MALFORMED) !== 0 && ((batch.needs[frame] as number) & FRAME_MALFORMED) !== 0)) return NOWHERE - DROP_MALFORMED;
    // Nobody to send it to, and nothing learnt now would change that: its bytes stay on the sender's processor.
    if (this.#ports < 2) return NOWHERE - DROP_FILTERED;
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
    if ((low & 1) !== 0) {
      // IEEE 802.1Q 8.6.3: 01-80-C2-00-00-0X are for the link, not for who is beyond a bridge.
      return low === 0x00c28001 && (high & 0xf0ff) === 0 ? NOWHERE - DROP_FILTERED : FLOOD;
    }
    const port = this.#table.find(low, high, this.#now);
    return port === this.#source ? NOWHERE - DROP_FILTERED : port;
  }
}
