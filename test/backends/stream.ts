// Sequence-numbered frames from one guest to another, whatever serves them: every frame must arrive once and in order.

import { frameOf, sequenceOf, type TestGuest } from './guest.ts';

export class Stream {
  sent = 0;
  received = 0;
  completed = 0;
  readonly #from: TestGuest;
  readonly #to: TestGuest;

  constructor(from: TestGuest, to: TestGuest) {
    this.#from = from;
    this.#to = to;
  }

  /** One step of both drivers: completions, new frames up to `limit` in all, what arrived, fresh buffers. @throws when a frame is lost, repeated or changed. */
  step(limit: number, burst = 16): void {
    this.completed += this.#from.reap();
    let queued = 0;
    while (queued < burst && this.sent < limit && this.#from.queue(frameOf(18 + ((this.sent * 37) % 1400), this.sent))) {
      this.sent++;
      queued++;
    }
    if (queued > 0) this.#from.show();
    this.take();
    this.#to.post();
  }

  take(): void {
    for (const { frame } of this.#to.receive()) {
      const sequence = sequenceOf(frame);
      if (sequence !== this.received)
        throw new Error(`frame ${sequence} came where ${this.received} was due (${sequence < this.received ? 'repeated' : 'lost'})`);
      const expected = frameOf(18 + ((sequence * 37) % 1400), sequence);
      if (frame.length !== expected.length || Buffer.compare(frame, expected) !== 0) throw new Error(`frame ${sequence} came changed`);
      this.received++;
    }
  }
}
