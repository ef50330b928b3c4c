// The ring engine: one e1000 as one port of a segment. It knows memory, the shared state (engine-state.ts) and nothing of the control plane, so the thread that serves the segment may be any. What it has
// to say goes out as events once a turn, after everything it did is in memory.

import type { Nanos } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import { viewsOf } from '#core/guest-memory';
import { PauseFrames } from '#devices/intel/pause-frames';
import { COUNT } from '#devices/intel/statistics';
import { WakeUpFilter } from '#devices/intel/wake-up';
import { DROP_LINK_DOWN, DROP_NOT_READY, PortCounters } from '#net/counters';
import { FrameBatch, type TurnPort } from '#net/port';
import {
  type EngineState,
  EVENT_MAGIC,
  EVENT_RECEIVED,
  EVENT_SENT_DELAYED,
  EVENT_WOKEN,
  FLAG_ASLEEP,
  FLAG_HOLDS_PEER,
  FLAG_LINK,
  FLAG_LOOPBACK,
  FLAG_PAUSED,
  FLAG_SEND_XOFF,
  FLAG_SEND_XON,
  FLAG_STILL,
} from './engine-state.ts';
import { flexibleFilters } from './flexible-filters.ts';
import { Receive } from './receive.ts';
import { AT, CTRL_TFCE, ICR_RXDMT0, ICR_RXT0, ICR_SRPD, ICR_TXD_LOW, ICR_TXDW, ICR_TXQE } from './registers.ts';
import { SharedBlock } from './shared-block.ts';
import { Transmit } from './transmit.ts';

const { CTRL, FCRTH, FCRTL, FCTTV, RDT, TDT } = AT;

/** What a driver with a shared block hears of when it asks to, and not otherwise. */
const TRANSMIT_EVENTS = ICR_TXDW | ICR_TXQE | ICR_TXD_LOW | EVENT_SENT_DELAYED;
const RECEIVE_EVENTS = EVENT_RECEIVED | ICR_RXDMT0 | ICR_SRPD;
const FLAG_SEND = FLAG_SEND_XOFF | FLAG_SEND_XON;
/** Of a turn in loopback. */
const LOOPBACK_FRAMES = 64;
const LOOPBACK_BYTES = 256 * 1024;

export interface EngineOptions {
  readonly name: string;
  readonly state: EngineState;
  readonly dma: DmaSpace;
  readonly counters?: PortCounters;
  /** The part has the TXD_LOW cause. */
  readonly hasLow: boolean;
  /** Tells the control plane; called when nothing is half done. */
  readonly signal: (events: number) => void;
  /** The engine has something to send of its own accord. */
  readonly wake: () => void;
  /** Makes the turn happen, where others on the segment wait for that. */
  readonly commit?: () => void;
  /** What is told later than it was signalled. */
  readonly late?: LateEvents;
}

/** Told at `deadline`, by `look`; at the end at once. */
export interface LateEvents {
  readonly deadline: Nanos;
  look(): void;
  end(): void;
}

export class Engine implements TurnPort {
  readonly name: string;
  readonly accepts = 0;
  readonly counters: PortCounters;
  readonly transmit: Transmit;
  readonly receive: Receive;
  readonly block: SharedBlock;
  readonly #state: EngineState;
  readonly #dma: DmaSpace;
  readonly #signal: (events: number) => void;
  readonly #wake: () => void;
  readonly #commit: () => void;
  readonly #late: LateEvents | undefined;
  readonly #wakeUp: WakeUpFilter;
  readonly #pauses: PauseFrames;
  readonly #loop = new FrameBatch(viewsOf(new ArrayBuffer(8)), LOOPBACK_FRAMES);
  #generation = -1;
  /** Frames of our own at the front of the batch in hand. */
  #own = 0;
  /** Loopback found its receive ring full. */
  #loopFull = false;

  constructor(options: EngineOptions) {
    const { state, dma } = options;
    this.name = options.name;
    this.counters = options.counters ?? new PortCounters();
    this.#state = state;
    this.#dma = dma;
    this.#signal = options.signal;
    this.#wake = options.wake;
    this.#commit = options.commit ?? (() => {});
    this.#late = options.late;
    this.transmit = new Transmit(state, dma, this.counters, { hasLow: options.hasLow });
    this.receive = new Receive(state, dma, this.counters);
    this.#wakeUp = new WakeUpFilter(state.registers, AT, this.receive.filter, (bytes, length) => flexibleFilters(state.registers, bytes, length));
    this.#pauses = new PauseFrames(state.registers, AT);
    const block = new SharedBlock(state.registers, dma);
    this.block = block;
    this.transmit.tail = () => (block.on ? block.transmitTail : Atomics.load(state.registers, TDT));
    this.receive.tail = () => (block.on ? block.receiveTail : Atomics.load(state.registers, RDT));
  }

  /** Takes up what the control plane changed. True: memory may be touched. */
  #look(): boolean {
    this.#dma.sync();
    const { generation } = this.#state;
    if (generation !== this.#generation) {
      this.#generation = generation;
      this.transmit.configure();
      this.receive.configure();
      this.#loopFull = false;
    }
    const may = this.#dma.busMaster;
    if (may) this.block.look();
    else this.block.on = false;
    return may;
  }

  /** What is kept between turns, here and in the shared state. */
  reset(): void {
    this.transmit.reset();
    this.receive.starved = false;
    this.receive.events = 0;
    this.#state.setFlag(FLAG_HOLDS_PEER, false);
    this.#loopFull = false;
  }

  /** The thread that served the ports died: makes memory agree with the registers. Nobody serves them now. */
  recover(): void {
    if (!this.#look()) return;
    const { transmit, receive, block } = this;
    transmit.ring.look(transmit.tail());
    transmit.ring.recover();
    receive.ring.look(receive.tail());
    if (block.on) block.recover(transmit.ring.head, receive.ring.head);
  }

  // ---- turns of a thread of its own ----

  enter(): void {
    this.#dma.enter();
    this.#late?.look();
    const { reader } = this.#dma;
    if (this.#state.reader !== reader) this.#state.reader = reader;
  }

  leave(): void {
    this.#dma.leave();
  }

  get deadline(): Nanos {
    return this.#late?.deadline ?? Infinity;
  }

  close(): void {
    this.#late?.end();
    this.#dma.close();
    this.#state.reader = -1;
  }

  /** The driver's shared block is in force at this moment. */
  get blockOn(): boolean {
    return this.#look() && this.block.on;
  }

  /** Writes back descriptors that wait for their threshold. */
  flushTransmit(): void {
    if (!this.#look()) return;
    this.transmit.ring.look(this.transmit.tail());
    this.transmit.ring.flush();
  }

  // ---- NetPort ----

  get paused(): boolean {
    return (this.#state.flags & FLAG_PAUSED) !== 0;
  }

  get linkUp(): boolean {
    return (this.#state.flags & (FLAG_LINK | FLAG_LOOPBACK)) === FLAG_LINK;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    const { flags } = this.#state;
    if ((flags & FLAG_STILL) !== 0 || !this.#look()) return 0;
    if ((flags & FLAG_LOOPBACK) !== 0) {
      this.#turnAround();
      return 0;
    }
    // A MAC without a link keeps what it has.
    if ((flags & FLAG_LINK) === 0) return 0;
    this.#own = (flags & FLAG_SEND) !== 0 ? this.#pause(batch, flags) : 0;
    const collected = this.transmit.collect(batch, frames - this.#own, bytes, false);
    if (this.block.on && this.transmit.ring.available > 0) this.block.wantsTransmitKick = false;
    if (collected === 0) this.#tell(this.#transmitEvents(this.transmit.events));
    return collected + this.#own;
  }

  #pause(batch: FrameBatch, flags: number): number {
    const stop = (flags & FLAG_SEND_XOFF) !== 0;
    this.#pauses.append(batch, stop ? (this.#state.registers[FCTTV] as number) : 0);
    return 1;
  }

  complete(batch: FrameBatch, done: number): void {
    // What was sent is at its receivers before it leaves the ring: should this thread die in between it is sent twice, and not never.
    this.#commit();
    if (done === 0) return;
    const own = this.#own;
    if (own > 0) this.#pauseSent();
    this.#tell(this.#transmitEvents(this.transmit.complete(batch, own, done - own)));
  }

  /** What of it the driver hears: with a shared block it says itself when it wants to. */
  #transmitEvents(events: number): number {
    const { block } = this;
    const { ring } = this.transmit;
    const from = ring.retiredFrom;
    ring.retiredFrom = -1;
    if (!block.on || from < 0) return events;
    const wanted = block.transmitted(from, ring.head, ring.size);
    return (events & ~TRANSMIT_EVENTS) | (wanted ? ICR_TXDW : 0);
  }

  #receiveEvents(events: number): number {
    const { block } = this;
    if (!block.on || (events & EVENT_RECEIVED) === 0) return events;
    return block.received(this.receive.ring.head) ? events : events & ~RECEIVE_EVENTS;
  }

  /** The last thing in a turn: an interrupt may run the guest. */
  #tell(events: number): void {
    if (events === 0) return;
    if (this.block.on) this.block.cause((events & 0xff_ffff) | ((events & EVENT_RECEIVED) !== 0 ? ICR_RXT0 : 0));
    this.#signal(events);
  }

  /** 8254x 13.7.30: flow control frames are no good packets; they have counters of their own. */
  #pauseSent(): void {
    const { statistics, flags } = this.#state;
    const stop = (flags & FLAG_SEND_XOFF) !== 0;
    const count = stop ? COUNT.XOFFTXC : COUNT.XONTXC;
    statistics[count] = (statistics[count] as number) + 1;
    statistics[COUNT.TPT] = (statistics[COUNT.TPT] as number) + 1;
    statistics[COUNT.TOT] = (statistics[COUNT.TOT] as number) + 64;
    this.counters.transmitted(1, 60);
    this.#state.setFlag(stop ? FLAG_SEND_XOFF : FLAG_SEND_XON, false);
    this.#own = 0;
  }

  /** Loopback: what is transmitted is received here. Frames that find no buffer stay in the transmit ring until there is one. */
  #turnAround(): void {
    const loop = this.#loop;
    loop.clear();
    const collected = this.transmit.collect(loop, LOOPBACK_FRAMES, LOOPBACK_BYTES, true);
    let { events } = this.transmit;
    if (collected > 0) {
      const done = this.receive.deliver(loop, 0, collected);
      this.#loopFull = done < collected;
      events = this.transmit.complete(loop, 0, done);
    }
    const received = this.#receiveEvents(this.receive.flush());
    this.#tell(this.#transmitEvents(events) | received);
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const frames = to - from;
    if ((this.#state.flags & FLAG_STILL) !== 0) return 0;
    if (!this.#look()) {
      // Hardware would lose it, unless it sleeps and waits for just this one.
      if ((this.#state.flags & FLAG_ASLEEP) !== 0) this.#examine(batch, from, to);
      else this.counters.receiveDropped(DROP_NOT_READY, frames);
      return frames;
    }
    if (!this.linkUp) {
      this.counters.receiveDropped(DROP_LINK_DOWN, frames);
      return frames;
    }
    const dealt = this.receive.deliver(batch, from, to);
    if (this.block.on && dealt > 0) this.block.receiveServed();
    if (dealt < frames) this.#holdPeer();
    else if ((this.#state.flags & FLAG_HOLDS_PEER) !== 0) this.#releasePeer();
    return dealt;
  }

  #examine(batch: FrameBatch, from: number, to: number): void {
    for (let f = from; f < to; f++) {
      const { status, magic } = this.#wakeUp.examine(batch, f);
      if (status !== 0) {
        this.#state.addWoken(status);
        this.receive.events |= EVENT_WOKEN;
      }
      if (magic) this.receive.events |= EVENT_MAGIC;
    }
  }

  /** 8254x 8.7.2: what waits for buffers has passed the high water mark. */
  #holdPeer(): void {
    const words = this.#state.registers;
    if ((this.#state.flags & FLAG_HOLDS_PEER) !== 0 || ((words[CTRL] as number) & CTRL_TFCE) === 0 || words[FCRTH] === 0) return;
    this.#state.setFlag(FLAG_HOLDS_PEER, true);
    this.#state.setFlag(FLAG_SEND_XON, false);
    this.#state.setFlag(FLAG_SEND_XOFF, true);
    this.#wake();
  }

  #releasePeer(): void {
    this.#state.setFlag(FLAG_HOLDS_PEER, false);
    if (((this.#state.registers[FCRTL] as number) & 0x8000_0000) === 0) return;
    this.#state.setFlag(FLAG_SEND_XON, true);
    this.#wake();
  }

  flush(): void {
    this.#tell(this.#receiveEvents(this.receive.flush()));
  }

  get hasRoom(): boolean {
    if ((this.#state.flags & FLAG_STILL) !== 0) return false;
    return !this.#look() || this.receive.hasRoom;
  }

  awaitFrames(): boolean {
    const { flags } = this.#state;
    if ((flags & FLAG_STILL) !== 0 || !this.#look()) return false;
    if ((flags & FLAG_LINK) === 0 && (flags & FLAG_LOOPBACK) === 0) return false;
    // In loopback nothing leaves: what is due to the peer waits for the wire.
    if ((flags & FLAG_SEND) !== 0 && (flags & FLAG_LOOPBACK) === 0) return true;
    const { block } = this;
    if (!block.on) return this.#mayGoOn(flags);
    // Ask for the kick first, then look once more: what was added before the driver could see that it should kick is seen here.
    block.wantsTransmitKick = true;
    const work = this.#mayGoOn(flags);
    if (work) block.wantsTransmitKick = false;
    return work;
  }

  #mayGoOn(flags: number): boolean {
    if (!this.transmit.ready) return false;
    return (flags & FLAG_LOOPBACK) === 0 || !this.#loopFull || this.receive.hasRoom;
  }

  awaitRoom(): boolean {
    if (this.hasRoom) return true;
    const { block } = this;
    if (!block.on) return false;
    // Any buffer behind those there are will do.
    block.wantReceiveKick(this.receive.ring.tail);
    if (!this.hasRoom) return false;
    block.receiveServed();
    return true;
  }
}
