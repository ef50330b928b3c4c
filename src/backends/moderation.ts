// Notification coalescing of one ring (virtio 1.4 5.1.9.5.10): an interrupt the driver wants is put off until `max_packets` packets were counted since the last one, or
// `max_usecs` have passed since the first of them. Either 0: at once. Whether the driver still wants it is looked at again when it is due: suppression wins.
//
// Nothing is kept that a thread's death could lose: who recovers its rings repeats the call of each.

import type { Nanos, TimeSource } from '#core/clock';
import type { VirtQueue } from '#virtio/virtqueue';

/** What the moderated rings of a port share: the clock, and when to look at them next (never too late, perhaps too early). */
export interface ModerationTime {
  readonly clock: TimeSource;
  next: Nanos;
}

export class Moderation {
  /** When what is put off is due; Infinity: nothing is. */
  deadline: Nanos = Infinity;
  readonly #queue: VirtQueue;
  readonly #time: ModerationTime;
  readonly #call: () => void;
  /** 0: every notification goes out at once. */
  #limit = 0;
  #delay: Nanos = 0;
  /** Packets since the last notification, the time of the first, and how much had been shown to the driver before it. */
  #packets = 0;
  #since: Nanos = 0;
  #shownBefore = 0;
  /** Since then the driver wanted to be notified of something. */
  #wanted = false;

  /** @param call interrupts the driver */
  constructor(queue: VirtQueue, time: ModerationTime, call: () => void) {
    this.#queue = queue;
    this.#time = time;
    this.#call = call;
  }

  /** virtio 1.4 5.1.9.5.10.4: new parameters are judged at once by what has been counted. Between publishes. */
  set(maxPackets: number, maxUsecs: number): void {
    // A driver that waits for more packets than its ring holds would wait for the time instead, with a full ring.
    this.#limit = maxPackets === 0 || maxUsecs === 0 ? 0 : Math.min(maxPackets, this.#queue.size);
    this.#delay = 1000 * maxUsecs;
    if (this.#packets === 0) return;
    if (this.#packets >= this.#limit) this.fire();
    else this.#arm();
  }

  /** `packets` were shown to the driver, `places` places of the ring; `wanted`: it wants to be notified of that. */
  count(packets: number, places: number, wanted: boolean): void {
    if (this.#limit === 0) {
      if (wanted) this.#call();
      return;
    }
    if (this.#packets === 0) {
      this.#since = this.#time.clock.now();
      this.#shownBefore = (this.#queue.shown - places) | 0;
    }
    // Chains that were no packets: the driver waits for them as for any.
    this.#packets += Math.max(1, packets);
    if (wanted) this.#wanted = true;
    if (this.#packets >= this.#limit) this.fire();
    else if (this.deadline === Infinity) this.#arm();
  }

  #arm(): void {
    this.deadline = this.#since + this.#delay;
    if (this.deadline < this.#time.next) this.#time.next = this.deadline;
  }

  /** Sends what was put off, if the driver still wants it. */
  fire(): void {
    const wanted = this.#wanted && this.#queue.stillWanted(this.#shownBefore);
    this.#packets = 0;
    this.#wanted = false;
    this.deadline = Infinity;
    if (wanted) this.#call();
  }

  /** The ring stops: nobody will be here when it is due. Memory may be out of reach, so the driver is not asked again. */
  stop(): void {
    const wanted = this.#wanted;
    this.#packets = 0;
    this.#wanted = false;
    this.deadline = Infinity;
    if (wanted) this.#call();
  }
}
