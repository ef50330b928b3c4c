// One data ring as the thread that serves it holds it: the open queue, its interrupt and its shared record, and its part in the turn's commit.

import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import type { InflightRegion } from '#virtio/inflight';
import { COUNT_INTERRUPTS, COUNT_NOTIFICATIONS, type QueueCounters } from '#virtio/net-statistics';
import type { VirtQueue } from '#virtio/virtqueue';
import { Moderation, type ModerationTime } from './moderation.ts';
import { RING_BROKEN, RING_RUNNING, type RingRecord } from './port-block.ts';
import type { TurnJournal, TurnParticipant } from './turn-journal.ts';

export class Vring implements TurnParticipant {
  readonly index: number;
  readonly slot: number;
  readonly queue: VirtQueue;
  readonly record: RingRecord;
  /** Rung by the driver, or by the machine's thread for it; undefined where kicks arrive as calls. */
  readonly kick: Doorbell | undefined;
  /** Kicks were asked for. */
  armed = false;
  /** What of this queue the driver may ask for. */
  readonly counters: QueueCounters;
  readonly moderation: Moderation;
  readonly #call: Call;
  readonly #journal: TurnJournal | undefined;
  readonly #inflight: InflightRegion | undefined;
  #staged = false;
  #chains = 0;
  #packets = 0;

  constructor(parts: {
    index: number;
    slot: number;
    queue: VirtQueue;
    record: RingRecord;
    kick: Doorbell | undefined;
    call: Call;
    journal: TurnJournal | undefined;
    counters: QueueCounters;
    time: ModerationTime;
    inflight?: InflightRegion | undefined;
  }) {
    this.index = parts.index;
    this.slot = parts.slot;
    this.queue = parts.queue;
    this.record = parts.record;
    this.kick = parts.kick;
    this.#call = parts.call;
    this.#journal = parts.journal;
    this.counters = parts.counters;
    this.moderation = new Moderation(parts.queue, parts.time, () => this.#signal());
    this.#inflight = parts.inflight;
    this.queue.suppressKicks();
    this.record.setPosition(this.queue.available, this.queue.used);
    this.record.state = RING_RUNNING;
  }

  get nextAvailable(): number {
    return this.queue.available;
  }

  get usedFrom(): number {
    return this.queue.published;
  }

  get nextUsed(): number {
    return this.queue.used;
  }

  /** Chains were pushed, so many frames among them: they become visible when the turn commits, or now where there is no journal. */
  stage(chains: number, packets: number): void {
    this.#chains += chains;
    this.#packets += packets;
    if (this.#journal === undefined) {
      this.apply();
      return;
    }
    // Every time, not only the first in a turn: what recovery would carry out is what is staged, so nothing pushed may be left as an open IN_ORDER run.
    this.queue.seal();
    if (this.#staged) return;
    this.#staged = true;
    this.#journal.stage(this);
  }

  apply(): void {
    this.#staged = false;
    const { queue, record } = this;
    const before = queue.shown;
    this.#inflight?.publishing(queue.used);
    const wanted = queue.publish();
    this.#inflight?.published(queue.published);
    record.setPosition(queue.available, queue.published);
    record.addChains(this.#chains);
    const packets = this.#packets;
    this.#chains = 0;
    this.#packets = 0;
    const places = (queue.shown - before) | 0;
    if (places !== 0) this.moderation.count(packets, places, wanted);
  }

  #signal(): void {
    this.record.addCall();
    this.counters.add(COUNT_INTERRUPTS, 1);
    this.#call.signal();
  }

  /** The driver's notification arrived. */
  kicked(): void {
    this.record.addKick();
    this.counters.add(COUNT_NOTIFICATIONS, 1);
  }

  /** Takes a kick that was rung. */
  takeKick(): boolean {
    if (this.kick === undefined || this.kick.take() === 0) return false;
    this.kicked();
    return true;
  }

  /** Asks for kicks. True when work slipped in. */
  arm(): boolean {
    if (!this.armed) {
      this.armed = true;
      this.record.addArm();
    }
    this.takeKick();
    return this.queue.awaitKick();
  }

  disarm(): void {
    this.armed = false;
    this.takeKick();
    this.queue.suppressKicks();
  }

  /** The driver broke a rule: the record says so to the host, and the position is where the driver was last told. */
  markBroken(): void {
    this.record.state = RING_BROKEN;
  }
}
