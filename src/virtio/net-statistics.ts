// What a network device counts for each data queue (virtio 1.4 5.1.9.5.11): shared words that the device owns, the thread that serves the queues writes, and the machine's
// thread reads. They outlive backends and workers, so that a hand-over goes on counting. Each word is a whole 64-bit float; one writer at a time.
//
// Counted raw, where it costs least; what the specification names is derived in virtio/net-control/statistics.ts.

/** Words of a queue. */
export const COUNT_NOTIFICATIONS = 0;
export const COUNT_INTERRUPTS = 1;
/** Receive: frames the driver got. Transmit: frames of the driver's that were not dropped, GSO frames as one. */
export const COUNT_FRAMES = 2;
export const COUNT_BYTES = 3;
export const COUNT_DROPS = 4;
/** Receive: dropped for want of buffers. Transmit: malformed. Counted in COUNT_DROPS as well. */
export const COUNT_SPECIAL_DROPS = 5;
export const COUNT_NEEDS_CSUM = 6;
export const COUNT_DATA_VALID = 7;
export const COUNT_GSO_FRAMES = 8;
export const COUNT_GSO_BYTES = 9;
/** GSO frames made (receive: coalesced from segments) or cut (transmit) here, and their bytes. */
export const COUNT_CHANGED_FRAMES = 10;
export const COUNT_CHANGED_BYTES = 11;
/** Transmit: what the cut ones became. */
export const COUNT_SEGMENTS = 12;
export const COUNT_SEGMENT_BYTES = 13;
/** Times the device itself had the data plane look, which arrive there as notifications. The machine's thread writes it. */
export const COUNT_OWN_LOOKS = 14;

export const COUNTERS_PER_QUEUE = 16;

/** One queue's counters as the thread that serves it holds them. */
export class QueueCounters {
  readonly #words: Float64Array;

  constructor(words: Float64Array) {
    this.#words = words;
  }

  /** @param counter a COUNT_* number */
  add(counter: number, amount: number): void {
    this.#words[counter] = (this.#words[counter] as number) + amount;
  }
}

export class NetStatistics {
  readonly buffer: SharedArrayBuffer;
  readonly queues: number;
  readonly #words: Float64Array;

  constructor(queues: number, buffer = new SharedArrayBuffer(queues * COUNTERS_PER_QUEUE * 8)) {
    this.buffer = buffer;
    this.queues = queues;
    this.#words = new Float64Array(buffer);
  }

  static open(buffer: SharedArrayBuffer): NetStatistics {
    return new NetStatistics(buffer.byteLength / (COUNTERS_PER_QUEUE * 8), buffer);
  }

  queue(index: number): QueueCounters {
    return new QueueCounters(this.#words.subarray(index * COUNTERS_PER_QUEUE, (index + 1) * COUNTERS_PER_QUEUE));
  }

  get(index: number, counter: number): number {
    return this.#words[index * COUNTERS_PER_QUEUE + counter] as number;
  }

  add(index: number, counter: number, amount: number): void {
    const at = index * COUNTERS_PER_QUEUE + counter;
    this.#words[at] = (this.#words[at] as number) + amount;
  }

  /** While nothing serves the queues. */
  clear(): void {
    this.#words.fill(0);
  }

  /** What the driver rang: the data plane counts what rings there, which the device itself does when it starts a queue. */
  notifications(index: number): number {
    return Math.max(0, this.get(index, COUNT_NOTIFICATIONS) - this.get(index, COUNT_OWN_LOOKS));
  }

  save(): Float64Array {
    const words = this.#words.slice();
    for (let index = 0; index < this.queues; index++) {
      words[index * COUNTERS_PER_QUEUE + COUNT_NOTIFICATIONS] = this.notifications(index);
      words[index * COUNTERS_PER_QUEUE + COUNT_OWN_LOOKS] = 0;
    }
    return words;
  }

  /** `words` has been checked; of a device with as many queues. */
  load(words: Float64Array): void {
    this.#words.set(words);
  }
}
