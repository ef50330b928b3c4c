// All data queues of one virtio-net device as one port of a segment. It turns transmit chains into frames that point at guest memory, and frames into receive chains,
// copying each byte once. The driver is not trusted: the virtio_net_hdr is read once, whatever its layout, and judged by what was negotiated.
//
// One turn: `enter`, then the segment's collect / deliver / flush / complete, then `leave`. Nothing is in flight between turns. Queue numbering as in virtio 1.4
// 5.1.2: receiveqN = 2(N-1), transmitqN = 2N-1.

import { type Nanos, type TimeSource, WallClock } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import { DROP_LINK_DOWN, DROP_NOT_READY, PortCounters } from '#net/counters';
import { ACCEPTS_RSC, type FrameBatch, type NetPort } from '#net/port';
import { ReceiveCoalescer } from '#net/receive-coalescing';
import type { FeatureSet } from '#virtio/features';
import type { InflightRegion } from '#virtio/inflight';
import { VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_VQ_NOTF_COAL } from '#virtio/net-features';
import { type NetPolicy, POLICY_ACTIVE, POLICY_LINK_UP } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import { openQueue } from '#virtio/open-queue';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { ModerationTime } from './moderation.ts';
import { OwnFrames } from './own-frames.ts';
import { type PortBlock, RING_BROKEN, RING_STOPPED } from './port-block.ts';
import { readSteering } from './receive-steering.ts';
import { Receiver } from './receiver.ts';
import { FlowTable } from './steering.ts';
import { Transmitter } from './transmitter.ts';
import type { TurnJournal } from './turn-journal.ts';
import { Vring } from './vring.ts';

/** What a driver negotiated, as the serving thread sees it. */
export interface PortSession {
  readonly features: FeatureSet;
  readonly memory: DmaSpace;
  readonly policy: NetPolicy;
  /** What notifications are put off by. Default: wall time. */
  readonly clock?: TimeSource | undefined;
  readonly statistics?: NetStatistics | undefined;
}

/** A ring to serve. */
export interface RingStart {
  readonly index: number;
  /** Number of this start (port-block.ts). */
  readonly start: number;
  readonly setup: QueueSetup;
  readonly position: VringPosition;
  readonly call: Call;
  readonly kick?: Doorbell | undefined;
  readonly staging?: Int32Array | undefined;
  /** Where its position is kept for a process that takes over. */
  readonly inflight?: InflightRegion | undefined;
}

export interface RingPortOptions {
  readonly name: string;
  readonly block: PortBlock;
  readonly counters?: PortCounters;
  /** Turns commit through it; without one, each ring publishes by itself. */
  readonly journal?: TurnJournal | undefined;
  /** The first of this port's slots in the journal: one a ring. */
  readonly firstSlot?: number;
  /**
   * The control plane has said something that this thread has not looked at yet. What is not ready may be so by then, and a sender may rely on it: frames are held, not
   * dropped. Absent on the control plane's own thread.
   */
  readonly controlPending?: () => boolean;
  /** A driver broke a rule. */
  readonly onBroken?: (index: number, reason: string) => void;
  /** At the end of a turn: notifications are put off until then at the latest. Who serves the port calls `expire` then, or just makes another turn. */
  readonly onDeadline?: (deadline: Nanos) => void;
  /** A ring waits for a translation. */
  readonly onMiss?: () => void;
}

export class RingPort implements NetPort {
  readonly name: string;
  readonly block: PortBlock;
  readonly counters: PortCounters;
  readonly #journal: TurnJournal | undefined;
  readonly #firstSlot: number;
  readonly #onBroken: (index: number, reason: string) => void;
  readonly #onMiss: (() => void) | undefined;
  readonly #controlPending: () => boolean;
  readonly #onDeadline: ((deadline: Nanos) => void) | undefined;
  readonly #rings: (Vring | undefined)[];
  readonly #flows = new FlowTable();
  readonly #transmitter: Transmitter;
  readonly #receiver: Receiver;
  /** Made for the first driver that wants segments coalesced. */
  #coalescer: ReceiveCoalescer | undefined;
  #session: PortSession | undefined;
  #time: ModerationTime = { clock: new WallClock(), next: Infinity };
  #statistics: NetStatistics;
  /** What onDeadline was told last. */
  #told: Nanos = Infinity;
  #policyGeneration = -1;
  #dmaGeneration = -1;
  #flags = 0;
  #accepts = 0;
  #activePairs = 1;
  /** Between enter and leave, with bus mastering on. */
  #open = false;
  /** RAM is shared memory, whose views never change. */
  #stable = false;
  #reader = -1;
  /** Rings that run, whether their pair is active or not. */
  #running = 0;
  readonly #own: OwnFrames;
  /** The batch in hand is of `#own`. */
  #sendingOwn = false;

  constructor(options: RingPortOptions) {
    this.name = options.name;
    this.block = options.block;
    this.counters = options.counters ?? new PortCounters();
    this.#own = new OwnFrames(this.counters);
    this.#journal = options.journal;
    this.#firstSlot = options.firstSlot ?? 0;
    this.#onBroken = options.onBroken ?? (() => {});
    this.#onMiss = options.onMiss;
    this.#controlPending = options.controlPending ?? (() => false);
    this.#onDeadline = options.onDeadline;
    this.#statistics = new NetStatistics(options.block.rings);
    this.#rings = new Array<Vring | undefined>(options.block.rings).fill(undefined);
    const broke = (ring: Vring): void => this.#break(ring);
    this.#transmitter = new Transmitter(this.counters, this.#flows, broke);
    this.#receiver = new Receiver(this.counters, this.#flows, broke);
  }

  // ---- control ----

  /** A driver has negotiated; every ring is stopped. */
  open(session: PortSession): void {
    this.close();
    this.#session = session;
    this.#time = { clock: session.clock ?? this.#time.clock, next: Infinity };
    this.#statistics = session.statistics ?? new NetStatistics(this.block.rings);
    if (this.#onMiss !== undefined) session.memory.onMiss = this.#onMiss;
    this.#stable = session.memory.memory.shared;
    this.#policyGeneration = -1;
    this.#dmaGeneration = -1;
    this.#flows.clear();
    this.#transmitter.open(session);
    this.#receiver.open(session);
  }

  /** Lets go of the session: rings are stopped where they stand, the DMA reader slot is given back. */
  close(): void {
    for (const ring of this.#rings) if (ring !== undefined) this.stop(ring.index);
    if (this.#session !== undefined) {
      this.#letGo(this.#session);
      this.#own.clear();
    }
    this.#session = undefined;
    this.#receiver.steering.close();
  }

  /** Starts a ring; one that cannot be served is broken. Between turns. */
  start(start: RingStart): void {
    const { index } = start;
    const record = this.block.records[index];
    const session = this.#session;
    if (record === undefined || session === undefined) return;
    this.stop(index);
    this.#enter(session);
    const queue = openQueue(start.setup, start.position, session.features, session.memory, start.staging);
    if (typeof queue === 'string') {
      record.setPosition(start.position.available, start.position.used);
      record.state = RING_BROKEN;
      this.#onBroken(index, queue);
    } else {
      const slot = this.#firstSlot + index;
      const counters = this.#statistics.queue(index);
      const ring = new Vring({
        index,
        slot,
        queue,
        record,
        kick: start.kick,
        call: start.call,
        journal: this.#journal,
        counters,
        time: this.#time,
        inflight: start.inflight,
      });
      this.#rings[index] = ring;
      this.#moderate(session.policy, session.features);
    }
    session.memory.leave();
    record.taken = start.start;
    this.#dmaGeneration = -1;
    this.#arrange();
  }

  /** Stops a ring; its record holds the final position. Between turns. */
  stop(index: number): void {
    const ring = this.#rings[index];
    if (ring === undefined) return;
    this.#rings[index] = undefined;
    this.#arrange();
    ring.record.setPosition(ring.queue.available, ring.queue.published);
    // Before it counts as stopped: then it may be another's, or the driver may have been told that no notification comes any more.
    ring.moderation.stop();
    if (ring.queue.broken === undefined) ring.record.state = RING_STOPPED;
  }

  /** Sends a frame in the driver's place, as soon as the driver is there. Between turns. */
  sendOwn(frame: Uint8Array): void {
    this.#own.add(frame);
  }

  ring(index: number): Vring | undefined {
    return this.#rings[index];
  }

  /** Takes the kicks that were rung. True when there were any. */
  takeKicks(): boolean {
    const rings = this.#rings;
    let any = false;
    for (let i = 0; i < rings.length; i++) if (rings[i]?.takeKick() === true) any = true;
    return any;
  }

  /** Stops what the host no longer wants. Between turns. */
  stopUnwanted(): void {
    const rings = this.#rings;
    for (let i = 0; i < rings.length; i++) {
      const ring = rings[i];
      if (ring !== undefined && ring.record.wanted === 0) this.stop(i);
    }
  }

  // ---- turns ----

  /** Opens a turn: from here to `leave` guest memory may be touched. */
  enter(): void {
    const session = this.#session;
    if (session === undefined) return;
    // With no ring there is no memory to touch, and others may need the place of a reader: a device that was handed to another backend stays attached here.
    if (this.#running > 0) this.#open = this.#enter(session);
    else {
      if (session.memory.reader >= 0) this.#letGo(session);
      this.#open = session.memory.busMaster;
    }
    this.#look(session);
  }

  leave(): void {
    const session = this.#session;
    if (session === undefined) return;
    if (this.#time.next !== Infinity) this.#sendDue();
    this.#open = false;
    session.memory.leave();
    if (this.#time.next === this.#told) return;
    this.#told = this.#time.next;
    this.#onDeadline?.(this.#told);
  }

  /** When notifications that were put off are due; Infinity: none are. */
  get deadline(): Nanos {
    return this.#time.next;
  }

  /** A turn for nothing but what is due. Not from inside one. */
  expire(): void {
    this.#told = Infinity;
    this.enter();
    this.leave();
  }

  #sendDue(): void {
    const time = this.#time;
    const now = time.clock.now();
    if (now < time.next) return;
    let next = Infinity;
    const rings = this.#rings;
    for (let i = 0; i < rings.length; i++) {
      const moderation = rings[i]?.moderation;
      if (moderation === undefined) continue;
      if (moderation.deadline <= now) moderation.fire();
      else if (moderation.deadline < next) next = moderation.deadline;
    }
    time.next = next;
  }

  #moderate(policy: NetPolicy, features: FeatureSet): void {
    const rings = this.#rings;
    const coalesces = features.has(VIRTIO_NET_F_NOTF_COAL) || features.has(VIRTIO_NET_F_VQ_NOTF_COAL);
    for (let i = 0; i < rings.length; i++) rings[i]?.moderation.set(coalesces ? policy.maxPackets(i) : 0, policy.maxUsecs(i));
  }

  /** Begins a turn over the device's memory; the host must know the reader, to expel it should this thread die. */
  #enter(session: PortSession): boolean {
    const { memory } = session;
    const may = memory.enter();
    if (memory.reader !== this.#reader) {
      this.#reader = memory.reader;
      this.block.reader = memory.reader;
    }
    return may;
  }

  #letGo(session: PortSession): void {
    session.memory.close();
    this.block.reader = -1;
    this.#reader = -1;
  }

  #look(session: PortSession): void {
    const { policy, memory } = session;
    const generation = policy.generation;
    // Odd: the machine's thread is in the middle of a change. What was read before serves until it is done.
    if (generation !== this.#policyGeneration && (generation & 1) === 0) {
      const { flags, accepts, activePairs } = policy;
      const headerLength = policy.headerLength;
      const maximumFrame = policy.maximumFrame;
      const steering = readSteering(policy.rss);
      if (policy.generation === generation) {
        this.#policyGeneration = generation;
        this.#flags = flags;
        this.#accepts = accepts;
        this.#activePairs = Math.max(1, Math.min(activePairs, this.block.rings >>> 1));
        this.#transmitter.configure(headerLength);
        this.#receiver.configure(flags, accepts, headerLength, maximumFrame, steering);
        this.#arrange();
        this.#moderate(policy, session.features);
      }
    }
    // Windows moved, or the embedder may have replaced RAM that is not shared memory.
    if (memory.generation !== this.#dmaGeneration || !this.#stable) {
      this.#dmaGeneration = memory.generation;
      for (const ring of this.#rings) if (ring !== undefined && !ring.queue.resync() && ring.queue.broken !== undefined) this.#break(ring);
    }
  }

  /**
   * Which rings are in use: those that run, of the pairs the driver has made active; for frames that are spread by a table, all that it may name. All transmit rings then, too: Linux 6.1 goes on
   * telling the max_tx_vq it started with after it has taken more queues into use, and its frames would wait for ever.
   */
  #arrange(): void {
    this.#running = 0;
    for (const ring of this.#rings) if (ring !== undefined) this.#running++;
    const pairs = this.#activePairs;
    const transmit: Vring[] = [];
    const receive: (Vring | undefined)[] = [];
    const { steering } = this.#receiver;
    const served = steering.spreads ? this.block.rings >>> 1 : pairs;
    for (let pair = 0; pair < served; pair++) {
      receive.push(this.#rings[2 * pair]);
      const ring = this.#rings[2 * pair + 1];
      if (ring !== undefined) transmit.push(ring);
    }
    this.#transmitter.rings = transmit;
    this.#transmitter.steering = pairs > 1 && !steering.spreads;
    this.#receiver.rings = receive;
  }

  #break(ring: Vring): void {
    const { index } = ring;
    if (this.#rings[index] !== ring) return;
    this.#rings[index] = undefined;
    ring.record.setPosition(ring.queue.available, ring.queue.published);
    ring.moderation.stop();
    ring.markBroken();
    this.#receiver.broken = true;
    this.#arrange();
    this.#onBroken(index, ring.queue.broken ?? 'broken');
  }

  // ---- NetPort ----

  get linkUp(): boolean {
    return (this.#flags & POLICY_LINK_UP) !== 0 || this.#controlPending();
  }

  get accepts(): number {
    return this.#accepts;
  }

  /** Bus mastering on and DRIVER_OK set: the rings may be served. */
  get #serving(): boolean {
    return this.#open && (this.#flags & POLICY_ACTIVE) !== 0;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    if (!this.#serving) return 0;
    this.#sendingOwn = this.#own.waiting;
    if (this.#sendingOwn) return this.#own.collect(batch, frames);
    const collected = this.#transmitter.collect(batch, frames, bytes);
    // No complete follows, but malformed chains may have gone back.
    if (collected === 0) this.#journal?.commit();
    return collected;
  }

  complete(batch: FrameBatch, done: number): void {
    if (this.#sendingOwn) this.#own.complete(batch, done);
    else this.#transmitter.complete(batch, done);
    this.#journal?.commit();
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    if (this.#serving && (this.#flags & POLICY_LINK_UP) !== 0)
      return (this.#accepts & ACCEPTS_RSC) === 0 ? this.#receiver.deliver(batch, from, to) : this.#deliverCoalesced(batch, from, to);
    if (this.#controlPending()) return 0;
    // Memory is not reachable, the driver is not there yet, or the cable is out: hardware would drop it, and so does this.
    return this.#drop(this.#serving ? DROP_LINK_DOWN : DROP_NOT_READY, to - from);
  }

  /** Frames that do not become one go as they are, in runs. */
  #deliverCoalesced(batch: FrameBatch, from: number, to: number): number {
    this.#coalescer ??= new ReceiveCoalescer();
    const coalescer = this.#coalescer;
    const receiver = this.#receiver;
    let run = from;
    for (let f = from; f < to; ) {
      const frames = coalescer.gather(batch, f, to, this.#accepts);
      if (frames < 2) {
        f++;
        continue;
      }
      run += run < f ? receiver.deliver(batch, run, f) : 0;
      if (run < f || receiver.deliver(coalescer.output, 0, 1) === 0) return run - from;
      f += frames;
      run = f;
    }
    return run - from + (run < to ? receiver.deliver(batch, run, to) : 0);
  }

  #drop(reason: number, frames: number): number {
    this.counters.receiveDropped(reason, frames);
    return frames;
  }

  overrun(batch: FrameBatch, from: number, to: number): void {
    if (this.#serving) this.#receiver.overrun(batch, from, to);
  }

  flush(): void {
    this.#receiver.flush();
  }

  get hasRoom(): boolean {
    return !this.#serving || this.#receiver.hasRoom;
  }

  awaitFrames(): boolean {
    return this.#serving && (this.#own.waiting || this.#transmitter.arm());
  }

  awaitRoom(): boolean {
    return !this.#serving || this.#receiver.arm();
  }
}
