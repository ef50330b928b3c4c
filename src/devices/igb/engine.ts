// The rings of one 82576 port as a port of a segment (82576 7.1, 7.2): receive and transmit, loopback, flow control. Runs on the machine's thread; what it has to say to the driver it says last in a turn.

import type { Clock, Timer } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import { PauseFrames } from '#devices/intel/pause-frames';
import { count } from '#devices/intel/statistics';
import { DROP_LINK_DOWN, DROP_NOT_READY, type PortCounters } from '#net/counters';
import type { FrameBatch, NetPort } from '#net/port';
import type { PoolSwitch } from './pools.ts';
import {
  FLAG_ASLEEP,
  FLAG_HOLDS_PEER,
  FLAG_LINK,
  FLAG_LOOPBACK,
  FLAG_PAUSED,
  FLAG_SEND_XOFF,
  FLAG_SEND_XON,
  FLAG_STILL,
  type PortState,
} from './port-state.ts';
import { Receive } from './receive.ts';
import { ReceiveQueue } from './receive-queue.ts';
import { AT, CTRL_GIO_MASTER_DISABLE, CTRL_TFCE, POOLS, QUEUES } from './registers.ts';
import type { Sleep } from './sleep.ts';
import { COUNT } from './statistics.ts';
import type { TimeSync } from './time-sync.ts';
import { Transmit } from './transmit.ts';
import { commandBytes, TransmitQueue } from './transmit-queue.ts';

const { CTRL, FCRTH, FCRTL, FCTTV } = AT;

const FLAG_SEND = FLAG_SEND_XOFF | FLAG_SEND_XON;
const XON_ENABLED = 0x8000_0000;

export interface EngineOptions {
  readonly name: string;
  readonly clock: Clock;
  readonly state: PortState;
  /** The physical function's memory. */
  readonly dma: DmaSpace;
  readonly counters: PortCounters;
  readonly time: TimeSync;
  readonly pools: PoolSwitch | undefined;
  /** VFTE. */
  readonly mayTransmit: (queue: number) => boolean;
  readonly sleep: Sleep;
  readonly isQuiet: (queue: number) => boolean;
  /** Queues got frames, queues reported, receiving queues that may not wait, causes of ICR. */
  readonly signal: (received: number, sent: number, urgent: number, causes: number) => void;
  readonly paused: () => void;
  readonly wake: () => void;
}

export class Engine implements NetPort {
  readonly name: string;
  readonly accepts = 0;
  readonly counters: PortCounters;
  readonly receiveQueues: readonly ReceiveQueue[];
  readonly transmitQueues: readonly TransmitQueue[];
  readonly transmit: Transmit;
  readonly receive: Receive;
  readonly #options: EngineOptions;
  readonly #state: PortState;
  readonly #pauses: PauseFrames;
  readonly #later: Timer;
  #generation = -1;
  #tables = -1;
  /** Frames of our own at the front of the batch in hand. */
  #own = 0;

  constructor(options: EngineOptions) {
    const { state, dma, counters, clock } = options;
    this.name = options.name;
    this.counters = counters;
    this.#options = options;
    this.#state = state;
    const commands = commandBytes();
    this.receiveQueues = Array.from({ length: QUEUES }, (_, index) => new ReceiveQueue(index, state.registers, dma));
    this.transmitQueues = Array.from({ length: QUEUES }, (_, index) => new TransmitQueue(index, state.registers, dma, commands));
    this.receive = new Receive({ state, queues: this.receiveQueues, counters, pools: options.pools, time: options.time, paused: options.paused });
    this.#later = clock.timer(() => options.wake());
    this.transmit = new Transmit({
      state,
      queues: this.transmitQueues,
      counters,
      receive: this.receive,
      time: options.time,
      pools: options.pools,
      mayTransmit: options.mayTransmit,
      isQuiet: options.isQuiet,
      now: () => clock.now(),
      awaitTime: (when) => {
        // The earliest of all queues that wait.
        if (when < (this.#later.deadline ?? Number.POSITIVE_INFINITY)) this.#later.arm(when);
      },
    });
    this.#pauses = new PauseFrames(state.registers, AT);
  }

  /** Takes up what the control plane changed. True: memory may be touched. */
  #look(): boolean {
    this.receive.distribution.begin();
    const { generation, tables, registers } = this.#state;
    if (generation !== this.#generation) {
      this.#generation = generation;
      this.transmit.queuesChanged();
    }
    if (tables !== this.#tables) {
      this.#tables = tables;
      this.transmit.configure();
      this.receive.configure();
    }
    if ((this.#state.flags & FLAG_ASLEEP) !== 0) return false;
    return ((registers[CTRL] as number) & CTRL_GIO_MASTER_DISABLE) === 0 && (this.#options.dma.busMaster || this.#virtualMaster);
  }

  /** Some VF may use its memory, where the physical function may not. */
  get #virtualMaster(): boolean {
    for (let pool = 0; pool < POOLS; pool++) if ((this.receiveQueues[pool] as ReceiveQueue).dma.busMaster) return true;
    return false;
  }

  reset(): void {
    this.transmit.reset();
    this.receive.distribution.reset();
    for (const queue of this.receiveQueues) queue.reset();
    this.#state.setFlag(FLAG_HOLDS_PEER, false);
    this.#later.cancel();
    this.#own = 0;
  }

  /** Queue `index` is as after a reset, both ways. */
  resetQueue(index: number): void {
    (this.transmitQueues[index] as TransmitQueue).reset();
    (this.receiveQueues[index] as ReceiveQueue).reset();
    this.#state.queuesChanged();
  }

  /** Queue `index` is in this memory from now on. */
  attachQueue(index: number, dma: DmaSpace | undefined): void {
    (this.transmitQueues[index] as TransmitQueue).dma = dma ?? this.#options.dma;
    (this.receiveQueues[index] as ReceiveQueue).dma = dma ?? this.#options.dma;
    this.resetQueue(index);
  }

  /** The counter of these queues' vector ended: what waits is written back. */
  quiet(queues: number): void {
    if (!this.#look()) return;
    this.transmit.quiet(queues);
    this.#tell();
  }

  stop(): void {
    this.#later.cancel();
    this.receive.distribution.close();
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
    // A MAC without a link keeps what it has.
    if ((flags & (FLAG_LINK | FLAG_LOOPBACK)) === 0) return 0;
    this.#own = (flags & FLAG_SEND) !== 0 && (flags & FLAG_LOOPBACK) === 0 ? this.#pause(batch, flags) : 0;
    const collected = this.transmit.collect(batch, frames - this.#own, bytes);
    if (collected + this.#own === 0) this.#tell();
    return collected + this.#own;
  }

  #pause(batch: FrameBatch, flags: number): number {
    const stop = (flags & FLAG_SEND_XOFF) !== 0;
    this.#pauses.append(batch, stop ? (this.#state.registers[FCTTV] as number) : 0);
    return 1;
  }

  complete(batch: FrameBatch, done: number): void {
    const own = this.#own;
    if (own > 0 && done > 0) this.#pauseSent();
    this.#own = 0;
    this.transmit.complete(batch, own, Math.max(0, done - own));
    this.#tell();
  }

  /** The last thing in a turn: an interrupt may run the guest. */
  #tell(): void {
    const { transmit } = this;
    const { distribution } = this.receive;
    const { received, urgent } = distribution;
    const { sent } = transmit;
    const { pools } = this.#options;
    const causes = distribution.causes | (pools?.causes ?? 0);
    if (pools !== undefined) pools.causes = 0;
    distribution.received = 0;
    distribution.urgent = 0;
    distribution.causes = 0;
    transmit.sent = 0;
    if ((received | sent | causes) !== 0) this.#options.signal(received, sent, urgent, causes);
    this.#options.sleep.tell();
  }

  /** 8.18: flow control frames are no good packets; they have counters of their own. */
  #pauseSent(): void {
    const { statistics, flags } = this.#state;
    const stop = (flags & FLAG_SEND_XOFF) !== 0;
    count(statistics, stop ? COUNT.XOFFTXC : COUNT.XONTXC);
    count(statistics, COUNT.TPT);
    count(statistics, COUNT.TOT, 64);
    this.counters.transmitted(1, 60);
    this.#state.setFlag(stop ? FLAG_SEND_XOFF : FLAG_SEND_XON, false);
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const frames = to - from;
    if ((this.#state.flags & FLAG_STILL) !== 0) return 0;
    if (!this.#look()) {
      // Hardware would lose it, unless it sleeps and waits for just this one.
      if ((this.#state.flags & FLAG_ASLEEP) !== 0) this.#options.sleep.examine(batch, from, to);
      else this.counters.receiveDropped(DROP_NOT_READY, frames);
      return frames;
    }
    if (!this.linkUp) {
      this.counters.receiveDropped(DROP_LINK_DOWN, frames);
      return frames;
    }
    const dealt = this.receive.deliver(batch, from, to);
    if (dealt < frames) this.#holdPeer();
    else if ((this.#state.flags & FLAG_HOLDS_PEER) !== 0) this.#releasePeer();
    return dealt;
  }

  /** 7.6.3: what waits for buffers has passed the high water mark. */
  #holdPeer(): void {
    const words = this.#state.registers;
    if ((this.#state.flags & FLAG_HOLDS_PEER) !== 0 || ((words[CTRL] as number) & CTRL_TFCE) === 0 || words[FCRTH] === 0) return;
    this.#state.setFlag(FLAG_HOLDS_PEER, true);
    this.#state.setFlag(FLAG_SEND_XON, false);
    this.#state.setFlag(FLAG_SEND_XOFF, true);
    this.#options.wake();
  }

  #releasePeer(): void {
    this.#state.setFlag(FLAG_HOLDS_PEER, false);
    if (((this.#state.registers[FCRTL] as number) & XON_ENABLED) === 0) return;
    this.#state.setFlag(FLAG_SEND_XON, true);
    this.#options.wake();
  }

  flush(): void {
    this.#tell();
  }

  get hasRoom(): boolean {
    if ((this.#state.flags & FLAG_STILL) !== 0) return false;
    return !this.#look() || this.receive.hasRoom;
  }

  awaitFrames(): boolean {
    const { flags } = this.#state;
    if ((flags & FLAG_STILL) !== 0 || !this.#look()) return false;
    if ((flags & (FLAG_LINK | FLAG_LOOPBACK)) === 0) return false;
    // In loopback nothing leaves: what is due to the peer waits for the wire.
    if ((flags & FLAG_SEND) !== 0 && (flags & FLAG_LOOPBACK) === 0) return true;
    return this.transmit.ready;
  }

  awaitRoom(): boolean {
    return this.hasRoom;
  }
}
