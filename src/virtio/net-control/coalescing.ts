// Notification coalescing as the control queue sets it (virtio 1.4 5.1.9.5.10): for all queues of a direction, or for one; and its way into the policy words.

import type { NetPolicy } from '../net-policy.ts';

export interface CoalescingParameters {
  readonly maxPackets: number;
  readonly maxUsecs: number;
}

export interface CoalescingSnapshot {
  /** What RX_SET and TX_SET said last. */
  readonly receive: CoalescingParameters;
  readonly transmit: CoalescingParameters;
  /** By data queue. */
  readonly queues: readonly CoalescingParameters[];
}

const NONE: CoalescingParameters = { maxPackets: 0, maxUsecs: 0 };

export class CoalescingState {
  #receive = NONE;
  #transmit = NONE;
  #queues: CoalescingParameters[];
  /** Something was set that the policy words do not say yet. */
  #fresh = false;

  constructor(dataQueues: number) {
    this.#queues = new Array<CoalescingParameters>(dataQueues).fill(NONE);
  }

  /** virtio 1.4 5.1.9.5.10.6 (device MUST): 0 after reset. */
  clear(): void {
    this.#receive = NONE;
    this.#transmit = NONE;
    for (let index = 0; index < this.#queues.length; index++) this.setQueue(index, NONE);
  }

  /** All queues of a direction, also those that were set one by one. */
  setAll(direction: 'receive' | 'transmit', parameters: CoalescingParameters): void {
    if (direction === 'receive') this.#receive = parameters;
    else this.#transmit = parameters;
    for (let index = direction === 'receive' ? 0 : 1; index < this.#queues.length; index += 2) this.setQueue(index, parameters);
  }

  setQueue(index: number, parameters: CoalescingParameters): void {
    if (index >= this.#queues.length || this.#queues[index] === parameters) return;
    this.#queues[index] = parameters;
    this.#fresh = true;
  }

  /** virtio 1.4 5.1.9.5.10.6 (device MUST): a queue that is enabled again goes by what was said for its direction. */
  restartQueue(index: number): void {
    this.setQueue(index, index % 2 === 0 ? this.#receive : this.#transmit);
  }

  queue(index: number): CoalescingParameters {
    return this.#queues[index] ?? NONE;
  }

  /** Call between turns. */
  publish(policy: NetPolicy): void {
    if (!this.#fresh) return;
    this.#fresh = false;
    policy.update((p) => {
      for (let index = 0; index < this.#queues.length; index++) {
        const { maxPackets, maxUsecs } = this.queue(index);
        p.setCoalescing(index, maxPackets, maxUsecs);
      }
    });
  }

  save(): CoalescingSnapshot {
    return { receive: this.#receive, transmit: this.#transmit, queues: [...this.#queues] };
  }

  /** `snapshot` has been checked. */
  load(snapshot: CoalescingSnapshot): void {
    this.#receive = snapshot.receive;
    this.#transmit = snapshot.transmit;
    this.#queues = [...snapshot.queues];
    this.#fresh = true;
  }
}
