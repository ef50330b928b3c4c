// The precision time protocol's clock and stamps (82576 7.9, 8.16): SYSTIM counts INCVALUE every INCPERIOD ticks of 16 ns, and can be set and stepped; the time a marked frame is sent, and that of a frame of the protocol that is received, over
// Ethernet or UDP, versions 1 and 2, is kept until it is read. What happens by itself at a time is in time-events.ts.

import type { Clock, Nanos } from '#core/clock';
import { PROTOCOL_UDP } from '#net/headers';
import type { PacketInfo } from './packet-info.ts';
import { AT } from './registers.ts';
import type { Steering } from './steering.ts';

const { RXSATRH, RXSATRL, RXSTMPH, RXSTMPL, TIMADJH, TIMADJL, TIMINCA, TSYNCRXCFG, TSYNCRXCTL, TSYNCTXCTL, TXSTMPH, TXSTMPL } = AT;

const TICK: Nanos = 16;
const VALID = 1;
const ENABLE = 1 << 4;
/** TSYNCRXCTL.TYPE (8.16.1). */
const L2_V2 = 0;
const L4_V1 = 1;
const L2_L4_V2 = 2;
const ALL = 4;
const EVENT_V2 = 5;
const EVENT_PORT = 319;
const ETHERTYPE_PTP = 0x88f7;
/** Of a message: the control field of version 1; identity and sequence of either version. */
const V1_CONTROL = 32;
const V1_UUID = 22;
const V1_SEQUENCE = 30;
const V2_IDENTITY = 20;
const V2_SEQUENCE = 30;
const MESSAGE = 34;
const WORD = 2n ** 32n;
const ALL_64 = 2n ** 64n - 1n;
/** Looks into the future go no further: a Number of nanoseconds is exact for 104 days. */
const FARTHEST: Nanos = 1e15;

export class TimeSync {
  readonly #words: Uint32Array;
  readonly #clock: Clock;
  /** SYSTIM as it stood at `#since`; between them it runs. */
  #value = 0n;
  #since: Nanos = 0;
  /** What a read of SYSTIML keeps for SYSTIMH. */
  #latched = 0;

  constructor(words: Uint32Array, clock: Clock) {
    this.#words = words;
    this.#clock = clock;
    this.#since = clock.now();
  }

  /** SYSTIM now. */
  get now(): bigint {
    const control = this.#words[TIMINCA] as number;
    const period = control >>> 24;
    if (period === 0) return this.#value;
    const steps = BigInt(Math.floor((this.#clock.now() - this.#since) / (period * TICK)));
    return (this.#value + steps * BigInt(control & 0xff_ffff)) & ALL_64;
  }

  /** Sets SYSTIM: it runs on from here. */
  #setTo(value: bigint): void {
    this.#value = value & ALL_64;
    this.#since = this.#clock.now();
  }

  /** When SYSTIM will have come to `target`, or a time before that at which to ask again; Infinity while it stands still. */
  whenReaches(target: bigint): Nanos {
    const control = this.#words[TIMINCA] as number;
    const period = control >>> 24;
    const increment = BigInt(control & 0xff_ffff);
    const now = this.#clock.now();
    if (target <= this.now) return now;
    if (period === 0 || increment === 0n) return Infinity;
    const steps = (target - this.#value + increment - 1n) / increment;
    return Math.min(this.#since + Number(steps) * period * TICK, now + FARTHEST);
  }

  // ---- registers ----

  /** The low half; the high one is what belongs to it (8.16.8). */
  readLow(): number {
    const { now } = this;
    this.#latched = Number(now / WORD);
    return Number(now % WORD);
  }

  readHigh(): number {
    return this.#latched;
  }

  writeLow(value: number): void {
    this.#setTo((this.now / WORD) * WORD + BigInt(value >>> 0));
  }

  writeHigh(value: number): void {
    this.#setTo(BigInt(value >>> 0) * WORD + (this.now % WORD));
  }

  /** TIMINCA changes the pace, not the time. */
  beforePace(): void {
    this.#setTo(this.now);
  }

  /** TIMADJH was written: the time is stepped by TIMADJ, whose highest bit says backwards (8.16.12). */
  adjust(): void {
    const high = this.#words[TIMADJH] as number;
    const by = BigInt(high & 0x7fff_ffff) * WORD + BigInt(this.#words[TIMADJL] as number);
    this.#setTo(high >>> 31 === 0 ? this.now + by : this.now - by + ALL_64 + 1n);
  }

  /** TXSTMPH or RXSTMPH was read: the next stamp may come. */
  release(which: 'transmit' | 'receive'): void {
    const at = which === 'transmit' ? TSYNCTXCTL : TSYNCRXCTL;
    this.#words[at] = (this.#words[at] as number) & ~VALID;
  }

  // ---- stamps ----

  /** A frame that asked for it was sent. */
  sent(): void {
    const words = this.#words;
    const control = words[TSYNCTXCTL] as number;
    if ((control & ENABLE) === 0 || (control & VALID) !== 0) return;
    this.#stamp(TXSTMPL, TXSTMPH);
    words[TSYNCTXCTL] = control | VALID;
  }

  #stamp(low: number, high: number): void {
    const { now } = this;
    this.#words[low] = Number(now % WORD);
    this.#words[high] = Number(now / WORD);
  }

  /** A frame that comes may be the one to be stamped. */
  get awaitsReceived(): boolean {
    return ((this.#words[TSYNCRXCTL] as number) & (ENABLE | VALID)) === ENABLE;
  }

  /** A frame came, whose headers were read. True: it is the one the stamp is of. */
  received(info: PacketInfo, steering: Steering): boolean {
    const words = this.#words;
    const control = words[TSYNCRXCTL] as number;
    if ((control & (ENABLE | VALID)) !== ENABLE) return false;
    const at = this.#message(control, info, steering);
    if (at < 0) return false;
    this.#stamp(RXSTMPL, RXSTMPH);
    this.#keepIdentity((control >>> 1) & 7, info, at);
    words[TSYNCRXCTL] = control | VALID;
    return true;
  }

  /** Where the protocol's message starts in the frame, if it is one to stamp: 0 where every frame is, -1: it is not. */
  #message(control: number, info: PacketInfo, steering: Steering): number {
    const type = (control >>> 1) & 7;
    const wanted = this.#words[TSYNCRXCFG] as number;
    if (type === ALL) return 0;
    const { headers, copied, held } = info;
    const overEthernet = type !== L4_V1 && steering.timeL2 && headers.etherType === ETHERTYPE_PTP;
    const overUdp = type !== L2_V2 && headers.protocol === PROTOCOL_UDP && headers.payload > 0 && (steering.timeL4 || info.destinationPort === EVENT_PORT);
    if (!overEthernet && !overUdp) return -1;
    const at = overEthernet ? headers.network : headers.payload;
    if (held < at + MESSAGE) return -1;
    if (type === L4_V1) return copied.u8[at + V1_CONTROL] === (wanted & 0xff) ? at : -1;
    const id = (copied.u8[at] as number) & 15;
    if (type === EVENT_V2) return id < 4 ? at : -1;
    return (type === L2_V2 || type === L2_L4_V2) && id === ((wanted >>> 8) & 15) ? at : -1;
  }

  /** RXSATR: six bytes of who sent it, and its sequence number, as they came (8.16.4). */
  #keepIdentity(type: number, info: PacketInfo, at: number): void {
    const { u8 } = info.copied;
    const words = this.#words;
    const identity = at + (type === L4_V1 ? V1_UUID : V2_IDENTITY);
    const sequence = at + (type === L4_V1 ? V1_SEQUENCE : V2_SEQUENCE);
    if (type === ALL || info.held < at + MESSAGE) {
      words[RXSATRL] = 0;
      words[RXSATRH] = 0;
      return;
    }
    const byte = (i: number): number => u8[i] as number;
    words[RXSATRL] = byte(identity) | (byte(identity + 1) << 8) | (byte(identity + 2) << 16) | (byte(identity + 3) << 24);
    words[RXSATRH] = byte(identity + 4) | (byte(identity + 5) << 8) | (byte(sequence) << 16) | (byte(sequence + 1) << 24);
  }

  // ---- life ----

  reset(): void {
    this.#value = 0n;
    this.#since = this.#clock.now();
    this.#latched = 0;
  }

  save(): readonly [value: bigint, since: Nanos, latched: number] {
    return [this.#value, this.#since, this.#latched];
  }

  restore([value, since, latched]: ReturnType<TimeSync['save']>): void {
    this.#value = value;
    // A time that has not been yet is now: the record is from another clock.
    this.#since = Math.min(since, this.#clock.now());
    this.#latched = latched;
  }
}
