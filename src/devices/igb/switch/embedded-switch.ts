// The switch inside the port (82576 7.10.3): which pools get a frame from the network, where a frame that a pool sends goes, and on what terms. A pure function of the registers' words, but for the
// clocks of storm control and the rate limiter. Nothing is allocated for a frame.

import type { Nanos } from '#core/clock';
import { DROP_FILTERED, DROP_NOT_READY, DROP_TOO_LONG } from '#net/counters';
import { type PoolSwitch, SPOOFED, TO_WIRE, WIRE } from '../pools.ts';
import { AT, ICR_DOUTSYNC, ICR_SCE, MRQC_VMDQ, MRQC_VMDQ_RSS, POOLS, RCTL_RXEN, RCTL_SECRC } from '../registers.ts';
import { FrameHeader } from './frame-header.ts';
import { Mirroring } from './mirroring.ts';
import { LVMMC_DESCRIPTOR, Misbehaviour } from './misbehaviour.ts';
import { PoolSelection } from './pool-selection.ts';
import { RateLimiter } from './rate-limiter.ts';
import { StormControl } from './storm-control.ts';

const { DTXSWC, MRQC, QDE, RCTL, RPLOLR, VMOLR, VMVIR } = AT;

const LOOPBACK_EN = 0x8000_0000;
const VMOLR_LPE = 1 << 16;
const VMOLR_RSSE = 1 << 17;
const STRVLAN = 1 << 30;
const STRCRC = 0x8000_0000;
const FCS = 4;
/** A frame without tags, with its FCS. */
const LONGEST = 1518;

export interface EmbeddedSwitchOptions {
  readonly words: Uint32Array;
  readonly now: () => Nanos;
  /** STATUS.SPEED: 0 10, 1 100, 2 and 3 1000 Mb/s. */
  readonly speed: () => number;
  /**
   * switch (default): frames between pools stay inside, where DTXSWC lets them. reflective-relay: the neighbour is a bridge that sends them back (802.1Qbg VEPA): everything goes to the network, and
   * what comes back does not reach the pool it came from.
   */
  readonly between?: 'switch' | 'reflective-relay';
}

export class EmbeddedSwitch implements PoolSwitch {
  readonly limiter: RateLimiter;
  readonly storms: StormControl;
  readonly #words: Uint32Array;
  readonly #now: () => Nanos;
  readonly #relayed: boolean;
  readonly #header = new FrameHeader();
  readonly #selection: PoolSelection;
  readonly #mirroring: Mirroring;
  readonly #misbehaviour: Misbehaviour;
  /** VMOLR.RLPML of a pool with LPE, or -1. */
  readonly #longest = new Int32Array(POOLS);
  /** Up to here nobody's limit matters. */
  #unlimited = LONGEST;
  #on = false;
  #loops = false;
  #rssAllowed = false;
  #replicated = false;
  // What the last frame of a pool's for one address came to, until a table or VFRE changes: most are followed by more of their stream. The pool it is of; -1: there is none.
  #streamPool = -1;
  #streamLow = 0;
  #streamHigh = 0;
  #streamSourceLow = 0;
  #streamSourceHigh = 0;
  #streamEnabled = 0;
  #streamTo = 0;
  #spends: Nanos = 0;
  /** Why the last frame went to nobody: DROP_*. */
  reason = DROP_FILTERED;
  causes = 0;

  constructor(options: EmbeddedSwitchOptions) {
    const { words } = options;
    this.#words = words;
    this.#now = options.now;
    this.#relayed = options.between === 'reflective-relay';
    this.#selection = new PoolSelection(words);
    this.#mirroring = new Mirroring(words);
    this.#misbehaviour = new Misbehaviour(words, this.#selection.addresses, this.#selection.vlans);
    this.limiter = new RateLimiter(words, options.speed);
    this.storms = new StormControl(words);
    this.rebuild();
  }

  get on(): boolean {
    return this.#on;
  }

  rebuild(): void {
    const words = this.#words;
    this.#streamPool = -1;
    const queues = (words[MRQC] as number) & 7;
    this.#on = queues === MRQC_VMDQ || queues === MRQC_VMDQ_RSS;
    this.#rssAllowed = queues === MRQC_VMDQ_RSS;
    // 7.10.3.4: nothing is received, so nothing turns around either.
    this.#loops = ((words[DTXSWC] as number) & LOOPBACK_EN) !== 0 && !this.#relayed && ((words[RCTL] as number) & RCTL_RXEN) !== 0;
    this.#header.configure(words);
    this.#selection.rebuild();
    this.#mirroring.rebuild();
    this.storms.rebuild(this.#now());
    this.#unlimited = LONGEST;
    for (let pool = 0; pool < POOLS; pool++) {
      const offload = words[VMOLR + pool] as number;
      this.#longest[pool] = (offload & VMOLR_LPE) !== 0 ? offload & 0x3fff : -1;
      if ((offload & VMOLR_LPE) !== 0) this.#unlimited = Math.min(this.#unlimited, offload & 0x3fff);
    }
  }

  // ---- where frames go ----

  receive(bytes: Uint8Array, at: number, length: number, source: number): number {
    const header = this.#header;
    header.parse(bytes, at);
    this.reason = DROP_FILTERED;
    if (source === WIRE && header.group && this.storms.on && !this.#calm(header.broadcast, length)) return 0;
    let pools = this.#selection.select(header, source);
    if (this.#relayed && source === WIRE) pools &= ~this.#selection.addresses.ownersOfSource(header);
    if (pools === 0 && this.#selection.disabled !== 0) this.reason = DROP_NOT_READY;
    return this.#copies(pools, length, true, false);
  }

  #calm(broadcast: boolean, length: number): boolean {
    const before = this.storms.active;
    const admitted = this.storms.admits(broadcast, length, this.#now());
    if (this.storms.active !== before) this.causes |= ICR_SCE;
    return admitted;
  }

  judges(pool: number): boolean {
    return this.#loops || this.#misbehaviour.guards(pool);
  }

  transmit(bytes: Uint8Array, at: number, length: number, queue: number): number {
    const header = this.#header;
    header.parse(bytes, at);
    const pool = queue & (POOLS - 1);
    const streams = !header.tagged && length + FCS <= this.#unlimited;
    if (streams && this.#continues(pool)) return this.#streamTo;
    const wrong = this.#misbehaviour.judge(header, pool);
    if (wrong !== 0) {
      if (this.#misbehaviour.record(queue, wrong)) this.causes |= ICR_DOUTSYNC;
      return SPOOFED;
    }
    if (!this.#loops) return TO_WIRE;
    this.reason = DROP_FILTERED;
    const pools = this.#selection.select(header, pool);
    const leaves = (header.group || this.#selection.exact === 0) && !this.#selection.vlans.staysInside(header);
    const to = this.#copies(pools, length, false, leaves) | (leaves ? TO_WIRE : 0);
    // One copy or none: what `receive` has found out since then of copies means nothing for the next one.
    if (streams && (to & (to - 1) & ~TO_WIRE) === 0 && !header.group) this.#remember(pool, to);
    return to;
  }

  /** The frame in hand is one more of the stream, which nobody is the wiser for judging anew. */
  #continues(pool: number): boolean {
    const header = this.#header;
    if (
      pool !== this.#streamPool ||
      header.low !== this.#streamLow ||
      header.high !== this.#streamHigh ||
      header.sourceLow !== this.#streamSourceLow ||
      header.sourceHigh !== this.#streamSourceHigh ||
      this.#selection.enabled !== this.#streamEnabled
    )
      return false;
    this.#replicated = false;
    return true;
  }

  #remember(pool: number, to: number): void {
    const header = this.#header;
    this.#streamPool = pool;
    this.#streamLow = header.low;
    this.#streamHigh = header.high;
    this.#streamSourceLow = header.sourceLow;
    this.#streamSourceHigh = header.sourceHigh;
    this.#streamEnabled = this.#selection.enabled;
    this.#streamTo = to;
  }

  /** Those who look on, and what is too long for some. */
  #copies(chosen: number, length: number, uplink: boolean, downlink: boolean): number {
    const header = this.#header;
    let pools = chosen;
    if (this.#selection.replicates) {
      const entries = header.tagged ? this.#selection.vlans.entries(header.vlan) : 0;
      pools |= this.#mirroring.observers(pools, entries, uplink, downlink) & this.#selection.enabled;
    }
    this.#replicated = this.#selection.replicates && (header.group || (pools & (pools - 1)) !== 0);
    const size = length + FCS;
    if (pools === 0 || size <= this.#unlimited) return pools;
    let fitting = 0;
    for (let pool = 0; pool < POOLS; pool++) {
      const longest = this.#longest[pool] as number;
      if (size <= (longest >= 0 ? longest : LONGEST + header.tagBytes)) fitting |= 1 << pool;
    }
    if ((pools & fitting) === 0) this.reason = DROP_TOO_LONG;
    return pools & fitting;
  }

  // ---- on what terms ----

  stripsVlan(pool: number): boolean {
    return ((this.#words[this.#replicated ? RPLOLR : VMOLR + pool] as number) & STRVLAN) !== 0;
  }

  stripsCrc(pool: number): boolean {
    return ((this.#words[RCTL] as number) & RCTL_SECRC) !== 0 || ((this.#words[this.#replicated ? RPLOLR : VMOLR + pool] as number) & STRCRC) !== 0;
  }

  rssIn(pool: number): boolean {
    return this.#rssAllowed && ((this.#words[VMOLR + pool] as number) & VMOLR_RSSE) !== 0;
  }

  dropsWhenFull(queue: number): boolean {
    return (((this.#words[QDE] as number) >>> queue) & 1) !== 0;
  }

  tagFor(pool: number, vle: boolean, tci: number): number {
    const policy = this.#words[VMVIR + pool] as number;
    switch (policy >>> 30) {
      case 1:
        return policy & 0xffff;
      case 2:
        return -1;
      default:
        return vle ? tci : -1;
    }
  }

  /** A queue's descriptors make no sense: as DTXCTL.MDP_EN says. */
  misbehaved(queue: number): void {
    if (this.#misbehaviour.record(queue, LVMMC_DESCRIPTOR)) this.causes |= ICR_DOUTSYNC;
  }

  limits(queue: number): boolean {
    return this.limiter.limits(queue);
  }

  allowance(queue: number, now: Nanos): boolean {
    this.#spends = now;
    return this.limiter.allowance(queue, now);
  }

  spent(queue: number, bytes: number): void {
    this.limiter.spent(queue, bytes, this.#spends);
  }

  get nextAllowed(): Nanos {
    return this.limiter.nextAllowed;
  }
}
