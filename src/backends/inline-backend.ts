// The data plane on the caller's thread: a kick serves the segment there and then, within a bound; what is left goes on in a deferred turn, so that no register
// write is held up by a peer that keeps sending. The same ring loop as the worker's.

import { type Clock, hasTimers, type Timer, WallClock } from '#core/clock';
import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import type { PortCounters } from '#net/counters';
import type { NetPort } from '#net/port';
import { rarpAnnouncement } from '#net/rarp';
import type { Segment, ServiceBudget } from '#net/segment';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { BACKEND_FEATURES, MAX_QUEUE_PAIRS } from './carried-features.ts';
import { PortBlock, RING_BROKEN, type RingStatistics } from './port-block.ts';
import { RingPort } from './ring-port.ts';
import { SegmentServer } from './segment-server.ts';

export interface InlineOptions {
  /** Runs `work` later on this thread, outside of any access. Default: a zero timeout. */
  readonly defer?: (work: () => void) => void;
  /** Rounds served inside one call before the rest is deferred. */
  readonly rounds?: number;
  readonly budget?: ServiceBudget;
  /** Serve nothing before `resume`: for a hand-over, in which every port of a segment moves before any frame does. */
  readonly paused?: boolean;
}

const DEFAULT_ROUNDS = 8;

/** A segment served on the thread that kicks it. */
export class InlineSegment {
  readonly server: SegmentServer;
  readonly #defer: (work: () => void) => void;
  readonly #rounds: number;
  readonly #resume = (): void => {
    this.#deferred = false;
    this.service();
  };
  #running = false;
  #paused: boolean;
  #again = false;
  #deferred = false;
  /** For ports that may send again later. */
  readonly #timer: Timer | undefined;

  constructor(segment: Segment, options: InlineOptions = {}) {
    this.server = new SegmentServer(segment, options.budget);
    const { clock } = segment;
    this.#timer = hasTimers(clock) ? clock.timer(() => this.service()) : undefined;
    this.#defer = options.defer ?? ((work) => void setTimeout(work, 0));
    this.#rounds = options.rounds ?? DEFAULT_ROUNDS;
    this.#paused = options.paused ?? false;
    if (!(this.#rounds >= 1)) throw new RangeError(`rounds ${this.#rounds}: at least 1`);
  }

  /** The backend for one device, attached to this segment. */
  port(name: string, pairs = 1): InlineBackend {
    return new InlineBackend(this, name, pairs);
  }

  /** Attaches a port of this thread. Call `wake` when it has frames or room. */
  addPort(port: NetPort): void {
    this.server.add(port);
  }

  removePort(port: NetPort): void {
    this.server.remove(port);
  }

  wake(port: NetPort): void {
    this.server.wake(port);
    this.service();
  }

  /** Lets frames move. */
  resume(): void {
    this.#paused = false;
    this.server.wakeAll();
    this.service();
  }

  /** Inside a round: a caller must not change what is being served. */
  get running(): boolean {
    return this.#running;
  }

  /** Serves until nothing is left or the bound is met. A call made from inside (an interrupt that leads to a kick) is noted, not nested. */
  service(): void {
    if (this.#running) {
      this.#again = true;
      return;
    }
    if (this.#paused) return;
    this.#running = true;
    let left = true;
    try {
      for (let round = 0; left && round < this.#rounds; round++) {
        this.#again = false;
        left = this.server.turn() || this.server.rest() || this.#again;
        this.server.stopUnwanted();
      }
    } finally {
      // What the embedder hands in (an interrupt sink, a log) may throw: the data plane must not count as busy for ever after, nor sleep unasked.
      this.#running = false;
      if (left && !this.#deferred) {
        this.#deferred = true;
        this.#defer(this.#resume);
      }
    }
    const resume = this.server.segment.nextResume;
    if (resume !== undefined) this.#timer?.arm(resume);
  }
}

/** One device's rings on an inline segment. */
export class InlineBackend implements VhostBackend {
  readonly name: string;
  readonly features = BACKEND_FEATURES;
  readonly maxQueuePairs: number;
  readonly flowFilter = true;
  onEvent: ((event: VhostEvent) => void) | undefined;
  readonly #segment: InlineSegment;
  readonly #block: PortBlock;
  readonly #port: RingPort;
  #starts = 0;
  #clock: Clock | undefined;
  /** For notifications that were put off; one for all rings. */
  #timer: Timer | undefined;

  constructor(segment: InlineSegment, name: string, pairs: number) {
    if (!(Number.isInteger(pairs) && pairs >= 1 && pairs <= MAX_QUEUE_PAIRS)) throw new RangeError(`queue pairs ${pairs}: 1 to ${MAX_QUEUE_PAIRS}`);
    this.name = `inline ${name}`;
    this.maxQueuePairs = pairs;
    this.#segment = segment;
    this.#block = new PortBlock(2 * pairs);
    this.#port = new RingPort({
      name,
      block: this.#block,
      onBroken: (index, reason) => this.onEvent?.({ kind: 'broken', index, reason }),
      onDeadline: (deadline) => {
        if (deadline === Infinity) this.#timer?.cancel();
        else this.#timer?.arm(deadline);
      },
    });
    segment.server.addRings(this.#port);
  }

  open(session: VhostSession): void {
    const clock = session.clock ?? new WallClock();
    if (clock !== this.#clock) {
      this.#timer?.cancel();
      this.#clock = clock;
      // From inside a turn (an interrupt sink that moves time on) the turn's own end sends what is due.
      this.#timer = clock.timer(() => {
        if (!this.#segment.running) this.#port.expire();
      });
    }
    this.#port.open({ ...session, clock });
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    const record = this.#block.records[index];
    if (record === undefined) throw new RangeError(`${this.name} has ${this.#block.rings} data rings: no ring ${index}`);
    const start = ++this.#starts;
    record.wanted = start;
    this.#port.start({ index, start, setup, position, call });
    this.#look();
  }

  stopVring(index: number): void {
    const record = this.#block.records[index];
    if (record === undefined) return;
    record.wanted = 0;
    // From inside a round the ring stops at its end.
    if (!this.#segment.running) this.#port.stop(index);
  }

  vringState(index: number): VringState {
    const record = this.#block.records[index];
    if (record === undefined) return 'stopped';
    if (record.state === RING_BROKEN) return 'broken';
    if (this.#port.ring(index) === undefined) return 'stopped';
    return record.wanted === 0 ? 'stopping' : 'running';
  }

  vringPosition(index: number): VringPosition {
    return this.#block.records[index]?.position ?? { available: 0, used: 0 };
  }

  kick(index: number): void {
    this.#port.ring(index)?.kicked();
    this.#look();
  }

  kickDoorbell(_index: number): Doorbell | undefined {
    return undefined;
  }

  policyChanged(): void {
    this.#look();
  }

  announceStation(mac: Uint8Array): boolean {
    // From inside a round: what is being served must not change.
    if (this.#segment.running) return false;
    this.#port.sendOwn(rarpAnnouncement(mac));
    this.#look();
    return true;
  }

  get counters(): PortCounters {
    return this.#port.counters;
  }

  ringStatistics(index: number): RingStatistics | undefined {
    return this.#block.records[index]?.statistics;
  }

  /** Takes the device off the segment. */
  detach(): void {
    this.#segment.removePort(this.#port);
  }

  #look(): void {
    this.#segment.wake(this.#port);
  }
}
